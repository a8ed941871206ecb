//! The verdict cache: what user space has said about (source, destination, protocol,
//! destination port), for the steering program to use on packets that have no flow yet.
//!
//! An allowed verdict lets the hook enter the flow itself, so that only the first
//! connection of its kind goes through user space. A denial makes the hook drop, so that
//! a flood of denied packets does not reach the workers. It holds for any source port.
//!
//! Entries are laid out and written as flows are (`region.rs`). Side lo is the source and
//! side hi the destination; the flag that names a flow's initiator names the end whose
//! policies deny. The key takes the place of a flow's: source port 0, addresses not put in
//! canonical order. The last-seen time is that of the last use: the hook that opens a flow by a
//! verdict notes it.
//!
//! Invariants: an entry holds only while both its stamps do, so whatever ends a flow's
//! verdict ends a cached one; only a denial or an outdated entry gives way to a denial, so
//! that denied traffic cannot push out what serves the allowed; and the source device that has
//! most of the places in question gives way, so that no pod's scan empties the cache.
#![forbid(unsafe_code)]

use super::key::{FlowHash, HashKey, Side};
use super::layout::{
    PORT_HI_SHIFT, PROTOCOL_SHIFT, V4_ENTRY_WORDS, V4_KEY_WORDS, V6_ENTRY_WORDS, V6_KEY_WORDS,
};
use super::quota::Pod;
use super::region::{MAX_CANDIDATES, Region};
use super::state::{Seen, Tick};
use super::table::FlowTableError;
use super::words::{Counts, Record, Snapshot};
use crate::addr::Address;
use crate::mem::Words;
use crate::stamps::Stamps;

/// Who asks whom for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VerdictKey {
    /// Who opens the connection.
    pub src: Address,
    /// To whom.
    pub dst: Address,
    /// IANA protocol number.
    pub protocol: u8,
    /// Destination port; 0 for protocols without.
    pub dport: u16,
}

impl VerdictKey {
    const fn ports_word(&self) -> u64 {
        (self.dport as u64) << PORT_HI_SHIFT | (self.protocol as u64) << PROTOCOL_SHIFT
    }

    fn to_v4_words(self) -> Option<[u64; V4_KEY_WORDS]> {
        let (src, dst) = (self.src.v4_bits()?, self.dst.v4_bits()?);
        Some([u64::from(src) | u64::from(dst) << 32, self.ports_word()])
    }

    fn to_v6_words(self) -> [u64; V6_KEY_WORDS] {
        let ((a, b), (c, d)) = (self.src.to_words(), self.dst.to_words());
        [a, b, c, d, self.ports_word()]
    }
}

/// What is remembered about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CachedVerdict {
    /// `None`: it may pass. Else whose policies deny: [`Side::Lo`] the source's egress,
    /// [`Side::Hi`] the destination's ingress.
    pub denied_by: Option<Side>,
    /// The host-side devices of source and destination; 0 if not on this node.
    pub ifindex: [u32; 2],
    /// Stamps of source and destination from before the verdict was asked for.
    pub stamps: [u64; 2],
}

/// The cache, shared with the steering program; workers write it.
#[derive(Debug)]
pub struct VerdictCache<W> {
    v4: Region<W, V4_KEY_WORDS, V4_ENTRY_WORDS>,
    v6: Region<W, V6_KEY_WORDS, V6_ENTRY_WORDS>,
    key: HashKey,
}

impl<W: Words> VerdictCache<W> {
    /// A cache over two regions of memory, as [`super::FlowTable::new`] takes them.
    ///
    /// # Errors
    /// [`FlowTableError`] names the region that does not fit.
    pub fn new(v4: W, v6: W, key: HashKey) -> Result<Self, FlowTableError> {
        let (v4, v6) = super::table::regions(v4, v6)?;
        Ok(Self { v4, v6, key })
    }

    /// Remembers a verdict. False if there is no room for it, which costs speed alone.
    pub fn insert<S: Words>(
        &self,
        key: VerdictKey,
        verdict: &CachedVerdict,
        stamps: &Stamps<S>,
        now: Tick,
    ) -> bool {
        let record = Record {
            initiator: verdict.denied_by.unwrap_or(Side::Lo),
            denied: verdict.denied_by.is_some(),
            seen: Seen::default(),
            last_seen: now,
            ifindex: verdict.ifindex,
            stamps: verdict.stamps,
            counts: Counts::default(),
            pod: Pod::NONE,
        };
        match key.to_v4_words() {
            Some(words) => insert(&self.v4, self.key.hash_words(words), &words, &record, stamps),
            None => {
                let words = key.to_v6_words();
                insert(&self.v6, self.key.hash_words(words), &words, &record, stamps)
            }
        }
    }

    /// The verdict about a key, whether or not its stamps still hold.
    pub fn lookup(&self, key: VerdictKey) -> Option<CachedVerdict> {
        let record = match key.to_v4_words() {
            Some(words) => self.v4.find(self.key.hash_words(words), &words).ok()??.record,
            None => {
                let words = key.to_v6_words();
                self.v6.find(self.key.hash_words(words), &words).ok()??.record
            }
        };
        let Record { initiator, denied, ifindex, stamps, .. } = record;
        Some(CachedVerdict { denied_by: denied.then_some(initiator), ifindex, stamps })
    }

    /// Frees slots that a dead writer left half written. Only at start.
    pub fn sweep(&self) -> usize {
        self.v4.sweep() + self.v6.sweep()
    }
}

/// A verdict that was not used for so long, in ticks, goes whoever has it: its loss costs one
/// detour.
const IDLE: u32 = Tick::in_seconds(60);

/// The device of a verdict's source, plus one: 0 is no verdict. All that is not on this node
/// counts as one source.
const fn source_of(record: &Record) -> u64 {
    record.ifindex[0] as u64 + 1
}

fn insert<W: Words, S: Words, const K: usize, const E: usize>(
    region: &Region<W, K, E>,
    hash: FlowHash,
    key: &[u64; K],
    record: &Record,
    stamps: &Stamps<S>,
) -> bool {
    region.remove(hash, key);
    // A source that has most of the places has no claim to more of them.
    let mut sources = [0; MAX_CANDIDATES];
    for (source, old) in sources.iter_mut().zip(region.entries_at(hash)) {
        *source = source_of(&old.record);
    }
    // Outdated ones go first, then denials, then what nobody uses, then those of the source
    // device that has most of these places, and of these the one not used for longest.
    let victim = |old: &Snapshot<K>| {
        let age = record.last_seen.since(old.record.last_seen).min(u32::MAX / 16);
        let own = source_of(&old.record);
        let share = sources.iter().filter(|source| **source == own).count();
        if !stamps.hold(old.record.stamps) {
            Some(u32::MAX)
        } else if old.record.denied {
            Some(u32::MAX / 2 + age)
        } else {
            #[allow(clippy::cast_possible_truncation)] // at most MAX_CANDIDATES
            let share = share as u32;
            let gladness = if age > IDLE { u32::MAX / 4 + age } else { share * (IDLE + 1) + age };
            (!record.denied).then_some(gladness)
        }
    };
    region.insert(hash, key, record, victim, |_| {}).is_some()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::layout;
    use super::*;
    use crate::mem::heap_words;
    use crate::stamps::SlotSet;
    use crate::sync::AtomicU64;

    struct World {
        cache: VerdictCache<Vec<AtomicU64>>,
        stamps: Stamps<Vec<AtomicU64>>,
    }

    fn world(entries: usize) -> World {
        let key = HashKey::from_bytes(&std::array::from_fn(|i| (i as u8).wrapping_mul(31) ^ 9));
        let v4 = heap_words(layout::v4_words(entries));
        let v6 = heap_words(layout::v6_words(entries));
        let cache = VerdictCache::new(v4, v6, key.clone()).unwrap();
        World { cache, stamps: Stamps::new(heap_words(1 << 16), key).unwrap() }
    }

    fn key(src: &str, dst: &str, dport: u16) -> VerdictKey {
        VerdictKey { src: src.parse().unwrap(), dst: dst.parse().unwrap(), protocol: 6, dport }
    }

    impl World {
        fn insert(&self, key: VerdictKey, denied_by: Option<Side>, now: u32) -> bool {
            let stamps = [self.stamps.of(key.src), self.stamps.of(key.dst)];
            let verdict = CachedVerdict { denied_by, ifindex: [3, 0], stamps };
            self.cache.insert(key, &verdict, &self.stamps, Tick(now))
        }

        fn holding(&self, key: VerdictKey) -> Option<Option<Side>> {
            let found = self.cache.lookup(key)?;
            self.stamps.hold(found.stamps).then_some(found.denied_by)
        }

        fn change(&self, address: &str) {
            let slots = self.stamps.slots_of(&[address.parse().unwrap()]);
            self.stamps.announce(&slots);
            self.stamps.settle(&slots);
        }
    }

    #[test]
    fn a_verdict_is_found_by_its_direction_port_and_protocol() {
        let world = world(64);
        for (src, dst) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            assert!(world.insert(key(src, dst, 80), None, 1));
            assert!(world.insert(key(src, dst, 81), Some(Side::Hi), 1));
            assert_eq!(world.holding(key(src, dst, 80)), Some(None));
            assert_eq!(world.holding(key(src, dst, 81)), Some(Some(Side::Hi)));
            assert_eq!(world.holding(key(dst, src, 80)), None);
            assert_eq!(world.holding(key(src, dst, 82)), None);
            let udp = VerdictKey { protocol: 17, ..key(src, dst, 80) };
            assert_eq!(world.holding(udp), None);
            // A verdict replaces the one before it.
            assert!(world.insert(key(src, dst, 80), Some(Side::Lo), 2));
            assert_eq!(world.holding(key(src, dst, 80)), Some(Some(Side::Lo)));
        }
    }

    #[test]
    fn a_change_of_an_end_empties_exactly_its_verdicts() {
        let world = world(256);
        let pairs = [("10.0.0.1", "10.0.0.2"), ("10.0.0.3", "10.0.0.2"), ("10.0.0.3", "10.0.0.4")];
        for (src, dst) in pairs {
            assert!(world.insert(key(src, dst, 80), None, 1));
        }
        let held = || pairs.map(|(src, dst)| world.holding(key(src, dst, 80)).is_some());
        assert_eq!(held(), [true; 3]);
        world.change("10.0.0.9");
        assert_eq!(held(), [true; 3], "a stranger");
        world.change("10.0.0.1");
        assert_eq!(held(), [false, true, true], "a relabelled or reused source");
        world.change("10.0.0.2");
        assert_eq!(held(), [false, false, true], "a policy on the destination");
        world.stamps.announce(&SlotSet::All);
        world.stamps.settle(&SlotSet::All);
        assert_eq!(held(), [false; 3], "everything");
    }

    #[test]
    fn denials_never_push_out_what_is_allowed() {
        // One bucket: every key has the same two slots.
        let world = world(layout::BUCKET);
        assert!(world.insert(key("10.0.0.1", "10.0.0.2", 80), None, 1));
        assert!(world.insert(key("10.0.0.1", "10.0.0.2", 81), None, 1));
        assert!(!world.insert(key("10.0.0.1", "10.0.0.2", 82), Some(Side::Hi), 9));
        assert_eq!(world.holding(key("10.0.0.1", "10.0.0.2", 80)), Some(None));
        // An allowed one takes the place of the oldest; a denial that of an outdated one.
        assert!(world.insert(key("10.0.0.3", "10.0.0.2", 83), None, 5));
        world.change("10.0.0.3");
        assert!(world.insert(key("10.0.0.1", "10.0.0.2", 84), Some(Side::Hi), 6));
        assert!(world.insert(key("10.0.0.1", "10.0.0.2", 85), Some(Side::Hi), 7));
        assert_eq!(world.holding(key("10.0.0.1", "10.0.0.2", 84)), None);
        assert!(world.insert(key("10.0.0.1", "10.0.0.2", 86), None, 8));
        assert_eq!(world.holding(key("10.0.0.1", "10.0.0.2", 85)), None, "the denial gives way");
    }

    /// A pod that is allowed to go anywhere and does, faster than the cache is large.
    #[test]
    fn a_scan_by_one_source_leaves_the_others_theirs() {
        let world = world(1024);
        let insert = |device: u32, key: VerdictKey, now: u32| {
            let stamps = [world.stamps.of(key.src), world.stamps.of(key.dst)];
            let verdict = CachedVerdict { denied_by: None, ifindex: [device, 0], stamps };
            world.cache.insert(key, &verdict, &world.stamps, Tick(now))
        };
        let honest = |n: u8| key(&format!("10.0.1.{n}"), "10.0.0.2", 443);
        for n in 0..100 {
            assert!(insert(100 + u32::from(n), honest(n), 10));
        }
        for n in 0..20_000_u32 {
            let dst = std::net::Ipv4Addr::from(0x0b00_0000 + n);
            insert(7, key("10.0.0.7", &dst.to_string(), 80), 11 + n / 1340);
        }
        let kept = (0..100).filter(|n| world.holding(honest(*n)).is_some()).count();
        assert!(kept >= 90, "{kept} of 100 left");
        // What nobody has used for a minute gives way to anybody.
        for n in 0..20_000_u32 {
            let dst = std::net::Ipv4Addr::from(0x0b00_0000 + n);
            insert(7, key("10.0.0.7", &dst.to_string(), 81), 10 + IDLE + 30);
        }
        let kept = (0..100).filter(|n| world.holding(honest(*n)).is_some()).count();
        assert!(kept < 10, "{kept} of 100 left");
    }
}
