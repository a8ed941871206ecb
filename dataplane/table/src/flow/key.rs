//! The key of a flow: both ends in canonical order, so that the two directions of a
//! connection find the same entry; and its hash.
#![forbid(unsafe_code)]

use std::fmt;

use super::layout::{HASH_KEY_WORDS, PORT_HI_SHIFT, PROTOCOL_SHIFT, V4_KEY_WORDS, V6_KEY_WORDS};
use crate::addr::Address;

/// One of the two ends of a flow in canonical order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The end with the smaller (address, port).
    Lo,
    /// The other end. If both ends are equal (a pod talking to itself with equal ports)
    /// everything counts as sent by lo.
    Hi,
}

impl Side {
    /// The other side.
    #[must_use]
    #[inline]
    pub const fn other(self) -> Self {
        match self {
            Self::Lo => Self::Hi,
            Self::Hi => Self::Lo,
        }
    }

    /// 0 for lo, 1 for hi: for arrays with one element a side.
    #[inline]
    pub const fn index(self) -> usize {
        match self {
            Self::Lo => 0,
            Self::Hi => 1,
        }
    }
}

/// A 5-tuple without direction. Invariant: lo ≤ hi by (address, port).
///
/// It is held as the words that stand in an entry, so that looking it up compares and hashes
/// words; its ends are taken apart only for those who ask.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Of an IPv4 key the first [`V4_KEY_WORDS`]; the others are 0.
    words: [u64; V6_KEY_WORDS],
    is_v4: bool,
}

impl FlowKey {
    /// The key for a packet from `src` to `dst`, and the side that sent it.
    #[inline]
    pub fn new(src: (Address, u16), dst: (Address, u16), protocol: u8) -> (Self, Side) {
        if let (Some(from), Some(to)) = (src.0.v4_bits(), dst.0.v4_bits()) {
            // In one number an end compares as (address, port) does.
            let [from, to] = [(from, src.1), (to, dst.1)]
                .map(|(address, port)| u64::from(address) << 16 | u64::from(port));
            let (lo, hi, sender) =
                if from <= to { (from, to, Side::Lo) } else { (to, from, Side::Hi) };
            let addresses = lo >> 16 | (hi >> 16) << 32;
            let ports = lo & 0xffff | (hi & 0xffff) << PORT_HI_SHIFT;
            let ports = ports | u64::from(protocol) << PROTOCOL_SHIFT;
            return (Self { words: [addresses, ports, 0, 0, 0], is_v4: true }, sender);
        }
        let (lo, hi, sender) = if src <= dst { (src, dst, Side::Lo) } else { (dst, src, Side::Hi) };
        let ((a, b), (c, d)) = (lo.0.to_words(), hi.0.to_words());
        let ports = u64::from(lo.1)
            | u64::from(hi.1) << PORT_HI_SHIFT
            | u64::from(protocol) << PROTOCOL_SHIFT;
        (Self { words: [a, b, c, d, ports], is_v4: false }, sender)
    }

    /// Address and port of one side.
    #[inline]
    pub const fn end(&self, side: Side) -> (Address, u16) {
        let [a, b, c, d, _] = self.words;
        let address = match (self.is_v4, side) {
            (true, Side::Lo) => v4_address(a),
            (true, Side::Hi) => v4_address(a >> 32),
            (false, Side::Lo) => Address::from_words(a, b),
            (false, Side::Hi) => Address::from_words(c, d),
        };
        let [_, _, _, _, hi_a, hi_b, lo_a, lo_b] = self.ports_word().to_be_bytes();
        let port = match side {
            Side::Lo => u16::from_be_bytes([lo_a, lo_b]),
            Side::Hi => u16::from_be_bytes([hi_a, hi_b]),
        };
        (address, port)
    }

    /// IANA protocol number.
    #[inline]
    pub const fn protocol(&self) -> u8 {
        let [_, _, _, protocol, ..] = self.ports_word().to_be_bytes();
        protocol
    }

    /// True if the entry belongs into the IPv4 region.
    #[inline]
    pub const fn is_v4(&self) -> bool {
        self.is_v4
    }

    #[inline]
    const fn ports_word(&self) -> u64 {
        self.words[if self.is_v4 { V4_KEY_WORDS } else { V6_KEY_WORDS } - 1]
    }

    /// The key words of an IPv4 entry; meaningless unless [`FlowKey::is_v4`].
    #[inline]
    pub(super) const fn to_v4_words(self) -> [u64; V4_KEY_WORDS] {
        [self.words[0], self.words[1]]
    }

    /// The key words of an IPv6 entry; meaningless if [`FlowKey::is_v4`].
    #[inline]
    pub(super) const fn to_v6_words(self) -> [u64; V6_KEY_WORDS] {
        self.words
    }

    pub(super) fn from_v4_words(words: &[u64; V4_KEY_WORDS]) -> Self {
        let [addresses, ports] = *words;
        Self::from_parts(v4_address(addresses), v4_address(addresses >> 32), ports)
    }

    pub(super) fn from_v6_words(words: &[u64; V6_KEY_WORDS]) -> Self {
        let [a, b, c, d, ports] = *words;
        Self::from_parts(Address::from_words(a, b), Address::from_words(c, d), ports)
    }

    /// Shared memory is not trusted to hold the ends in order: whatever stands there,
    /// the invariant of the type holds.
    fn from_parts(lo: Address, hi: Address, ports: u64) -> Self {
        let [_, _, _, protocol, hi_a, hi_b, lo_a, lo_b] = ports.to_be_bytes();
        let lo = (lo, u16::from_be_bytes([lo_a, lo_b]));
        let hi = (hi, u16::from_be_bytes([hi_a, hi_b]));
        Self::new(lo, hi, protocol).0
    }
}

/// The address in the lower half of a word.
const fn v4_address(word: u64) -> Address {
    let [_, _, _, _, a, b, c, d] = word.to_be_bytes();
    Address::v4([a, b, c, d])
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [(a, p), (b, q)] = [Side::Lo, Side::Hi].map(|side| self.end(side));
        write!(f, "proto {} {a}#{p} {b}#{q}", self.protocol())
    }
}

/// The hash of a key: its two halves pick the two buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowHash(pub(super) u64);

impl FlowHash {
    /// All 64 bits, for other tables that want a keyed hash of the same key.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

/// The secret of the hash: random words that only the node knows, so that nobody can
/// choose addresses and ports that all fall into one bucket.
///
/// The hash is multilinear over the key's 32-bit words, which is strongly universal for
/// a random secret (Carter and Wegman 1979; Lemire and Kaser 2014, "Strongly universal
/// string hashing is fast"), then mixed so that both halves depend on all bits. It is no
/// pseudo-random function: whoever could observe collisions precisely could learn about
/// the secret. It is made anew at every boot, and a full bucket costs only speed.
#[derive(Clone, PartialEq, Eq)]
pub struct HashKey([u64; HASH_KEY_WORDS]);

impl HashKey {
    /// Bytes of the secret.
    pub const BYTES: usize = HASH_KEY_WORDS * 8;

    /// A secret from random bytes, in native byte order as C reads them.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let mut key = [0; HASH_KEY_WORDS];
        for (word, bytes) in key.iter_mut().zip(words) {
            *word = u64::from_ne_bytes(*bytes);
        }
        Self(key)
    }

    /// A secret from words, as they stand in a map shared with C.
    pub const fn from_words(words: [u64; HASH_KEY_WORDS]) -> Self {
        Self(words)
    }

    /// Hashes a key.
    #[inline]
    pub fn hash(&self, key: &FlowKey) -> FlowHash {
        if key.is_v4() { self.mix(key.to_v4_words()) } else { self.mix(key.to_v6_words()) }
    }

    /// Hashes the key words of an entry that is no flow.
    #[inline]
    pub(super) fn hash_words<const N: usize>(&self, words: [u64; N]) -> FlowHash {
        self.mix(words)
    }

    /// Hashes one address; the low bits serve as well as the high ones.
    #[inline]
    pub fn hash_address(&self, address: Address) -> u64 {
        let (high, low) = address.to_words();
        self.mix([high, low]).0
    }

    #[inline]
    fn mix<const N: usize>(&self, words: [u64; N]) -> FlowHash {
        let [constant, multipliers @ ..] = &self.0;
        let mut h = *constant;
        let (pairs, _) = multipliers.as_chunks::<2>();
        for (word, [k, l]) in words.iter().zip(pairs) {
            h = h.wrapping_add(k.wrapping_mul(word & 0xffff_ffff));
            h = h.wrapping_add(l.wrapping_mul(word >> 32));
        }
        h ^= h >> 32;
        h = h.wrapping_mul(0xd6e8_feb8_6659_fd93);
        h ^= h >> 32;
        FlowHash(h)
    }
}

/// The secret is not for logs.
impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(..)")
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_end(six: bool) -> impl Strategy<Value = (Address, u16)> {
        (any::<u128>(), any::<u16>()).prop_map(move |(bits, port)| {
            let address = if six {
                Address::from_bits(bits | 1 << 127)
            } else {
                Address::v4((bits as u32).to_be_bytes())
            };
            (address, port)
        })
    }

    proptest! {
        #[test]
        fn both_directions_have_one_key(
            (src, dst) in any::<bool>().prop_flat_map(|six| (any_end(six), any_end(six))),
            protocol in any::<u8>(),
        ) {
            let (there, sender) = FlowKey::new(src, dst, protocol);
            let (back, other) = FlowKey::new(dst, src, protocol);
            prop_assert_eq!(there, back);
            prop_assert_eq!(there.end(sender), src);
            prop_assert_eq!(there.end(sender.other()), dst);
            prop_assert!(sender != other || src == dst);
            let again = if there.is_v4() {
                FlowKey::from_v4_words(&there.to_v4_words())
            } else {
                FlowKey::from_v6_words(&there.to_v6_words())
            };
            prop_assert_eq!(again, there);
        }

        #[test]
        fn words_that_nobody_vouches_for_give_a_valid_key(words in any::<[u64; 5]>()) {
            let [a, b, ..] = words;
            for key in [FlowKey::from_v4_words(&[a, b]), FlowKey::from_v6_words(&words)] {
                prop_assert!(key.end(Side::Lo) <= key.end(Side::Hi));
            }
        }
    }

    #[test]
    fn halves_of_the_hash_spread_sequential_keys() {
        let key = HashKey::from_bytes(&std::array::from_fn(|i| (i as u8).wrapping_mul(151) ^ 77));
        const BUCKETS: u64 = 64;
        let mut counts = [[0u32; BUCKETS as usize]; 2];
        for port in 0..6400u16 {
            let src = (Address::v4([10, 0, 0, 1]), 10_000 + port);
            let (k, _) = FlowKey::new(src, (Address::v4([10, 0, 0, 2]), 80), 6);
            let FlowHash(h) = key.hash(&k);
            counts[0][(h % BUCKETS) as usize] += 1;
            counts[1][((h >> 32) % BUCKETS) as usize] += 1;
        }
        // Mean 100, standard deviation 10; the key is fixed, so this cannot flake.
        for count in counts.iter().flatten() {
            assert!((50..=150).contains(count), "{counts:?}");
        }
    }
}
