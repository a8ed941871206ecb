//! One region of entries, and the protocol by which they are written and read.
//!
//! Several workers, the steering program and the CLI share these words without a lock:
//!
//! ```text
//! write   claim    compare-exchange ctl: (v, free or live) -> (v+1, busy)
//!                  release fence
//!         fill     key, aux, ifindexes, stamps, counts  (relaxed stores)
//!         publish  ctl = (v+2, allowed or denied)       (release store)
//! delete           compare-exchange ctl: (v, live) -> (v+1, free)
//! read             ctl (acquire); words (relaxed); acquire fence; ctl unchanged?
//! touch            compare-exchange aux, whose upper 16 bits are the version's
//! count            compare-exchange counts
//! ```
//!
//! Invariants:
//! - Words other than ctl, aux and counts change only while the slot is busy, so a reader
//!   that finds the same live ctl before and after has seen words that belong together.
//! - Every claim and every deletion raises the version, so a [`Handle`] from before
//!   can neither touch nor change nor delete what took the slot since.
//! - aux is one word and names its version: touching needs no claim.
//! - counts only say whether packets of the flow are out in user space. A change that
//!   lands on the slot's next flow sends packets of that flow the long way, no more.
//!
//! The loom models of `loom_model.rs` explore this code.
#![forbid(unsafe_code)]

use super::key::{FlowHash, Side};
use super::layout::{
    AUX_AFTER_KEY, AUX_SEEN_HI_SHIFT, AUX_SEEN_LO_SHIFT, AUX_VERSION_SHIFT, BUCKET,
    COUNTS_AFTER_KEY, CTL, FLAG_HI, IFINDEX_AFTER_KEY, KEY, POD_SHIFT, STAMPS_AFTER_KEY,
    STATE_ALLOWED, STATE_BUSY, STATE_DENIED, STATE_FREE, STATE_MASK, VERSION_SHIFT,
};
use super::quota::Pod;
use super::state::{FlowState, Seen, Tick};
use crate::mem::{Words, prefetch};
use crate::sync::{AtomicU64, Ordering, fence};

/// How often a touch is tried against others that touch the same entry. It needs more
/// than one try only when the steering program and a worker see packets of one flow in
/// the same nanoseconds; giving up costs a last-seen that is one packet old.
const TOUCH_TRIES: usize = 4;

/// How often an insertion looks for a slot, should another writer snatch the one that it
/// had found.
const CLAIM_TRIES: usize = 2;

/// How often a reader that walks the table looks again at an entry in change.
const READ_TRIES: usize = 16;

/// How often a key is looked for while one of its slots is in change: some microseconds,
/// a hundred times what a writer needs that is not interrupted.
#[cfg(not(loom))]
const FIND_TRIES: usize = 256;
/// A model has to end.
#[cfg(loom)]
const FIND_TRIES: usize = 1;

/// 64-bit words of a cache line.
const WORDS_OF_LINE: usize = 8;

/// Most slots in which a key can stand.
pub(super) const MAX_CANDIDATES: usize = 2 * BUCKET;

/// A control word.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ctl(u64);

impl Ctl {
    const fn new(version: u32, denied: bool, initiator: Side, pod: Pod) -> Self {
        let state = if denied { STATE_DENIED } else { STATE_ALLOWED };
        let flags = match initiator {
            Side::Lo => 0,
            Side::Hi => FLAG_HI,
        };
        Self((version as u64) << VERSION_SHIFT | (pod.0 as u64) << POD_SHIFT | flags | state)
    }

    const fn marked(version: u32, state: u64) -> Self {
        Self((version as u64) << VERSION_SHIFT | state)
    }

    #[allow(clippy::cast_possible_truncation)] // the shift leaves 32 bits
    #[inline]
    const fn version(self) -> u32 {
        (self.0 >> VERSION_SHIFT) as u32
    }

    #[allow(clippy::cast_possible_truncation)] // 16 bits of the word
    #[inline]
    const fn pod(self) -> Pod {
        Pod((self.0 >> POD_SHIFT) as u16)
    }

    #[inline]
    const fn is_live(self) -> bool {
        matches!(self.0 & STATE_MASK, STATE_ALLOWED | STATE_DENIED)
    }

    #[inline]
    const fn is_free(self) -> bool {
        self.0 & STATE_MASK == STATE_FREE
    }

    #[inline]
    const fn is_busy(self) -> bool {
        self.0 & STATE_MASK == STATE_BUSY
    }

    #[inline]
    const fn is_denied(self) -> bool {
        self.0 & STATE_MASK == STATE_DENIED
    }

    #[inline]
    const fn initiator(self) -> Side {
        if self.0 & FLAG_HI != 0 { Side::Hi } else { Side::Lo }
    }
}

/// An aux word.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Aux(u64);

impl Aux {
    const fn new(version: u32, seen: Seen, last_seen: Tick) -> Self {
        Self(
            (version as u64 & 0xffff) << AUX_VERSION_SHIFT
                | (seen.lo as u64) << AUX_SEEN_LO_SHIFT
                | (seen.hi as u64) << AUX_SEEN_HI_SHIFT
                | last_seen.0 as u64,
        )
    }

    #[inline]
    const fn is_of(self, version: u32) -> bool {
        self.0 >> AUX_VERSION_SHIFT == version as u64 & 0xffff
    }

    #[inline]
    const fn seen(self) -> Seen {
        let [_, _, lo, hi, ..] = self.0.to_be_bytes();
        Seen { lo, hi }
    }

    #[inline]
    const fn last_seen(self) -> Tick {
        let [_, _, _, _, a, b, c, d] = self.0.to_be_bytes();
        Tick(u32::from_be_bytes([a, b, c, d]))
    }
}

/// Packets of each side that were punted to user space, and that came back, modulo 2^16.
///
/// The steering program counts them for flows that it finds in the table. As long as the
/// two differ for a side, packets of that side are out, and the next one must not overtake
/// them through the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Counts(pub(super) u64);

impl Counts {
    const fn field(self, side: Side, shift: u32) -> u16 {
        let side = match side {
            Side::Lo => 0,
            Side::Hi => 32,
        };
        (self.0 >> (side + shift) & 0xffff) as u16
    }

    /// Packets of a side that went to user space.
    pub const fn punted(self, side: Side) -> u16 {
        self.field(side, 0)
    }

    /// Packets of a side that came back.
    pub const fn returned(self, side: Side) -> u16 {
        self.field(side, 16)
    }

    /// True while packets of a side are out.
    pub const fn is_held(self, side: Side) -> bool {
        self.punted(side) != self.returned(side)
    }

    /// These, after one more packet of `side` went out.
    #[must_use]
    pub const fn punt(self, side: Side) -> Self {
        let shift = match side {
            Side::Lo => 0,
            Side::Hi => 32,
        };
        let punted = self.punted(side).wrapping_add(1) as u64;
        Self(self.0 & !(0xffff << shift) | punted << shift)
    }
}

/// Another writer is at work where the key could stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the flow is just being changed by another thread")]
pub struct InChange;

/// Names one entry in one incarnation of its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Handle {
    pub slot: usize,
    pub version: u32,
}

/// The words of an entry that a writer decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub initiator: Side,
    pub denied: bool,
    pub seen: Seen,
    pub last_seen: Tick,
    pub ifindex: [u32; 2],
    pub stamps: [u64; 2],
    pub counts: Counts,
    /// To whose account it is.
    pub pod: Pod,
}

/// A packet, as far as its flow's entry has to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seeing {
    /// Who sent it.
    pub side: Side,
    /// TCP's flag byte; 0 for other protocols.
    pub tcp_flags: u8,
    /// The device of each side ([`Side::index`]); 0 if that is not on this node.
    pub ifindex: [u32; 2],
    /// When.
    pub now: Tick,
}

/// Words that were read together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Snapshot<const K: usize> {
    pub handle: Handle,
    pub key: [u64; K],
    pub record: Record,
}

/// What an insertion found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    pub handle: Handle,
    /// True if a flow that yields had to go.
    pub evicted: bool,
}

/// Entries of `E` words with keys of `K` words.
#[derive(Debug)]
pub(super) struct Region<W, const K: usize, const E: usize> {
    words: W,
    /// Buckets minus one; their number is a power of two.
    mask: usize,
}

impl<W: Words, const K: usize, const E: usize> Region<W, K, E> {
    /// A region over all of `words`; `None` unless they make a power-of-two number of
    /// buckets.
    pub fn new(words: W) -> Option<Self> {
        let entries = words.words().len() / E;
        let buckets = entries / BUCKET;
        let exact = buckets * BUCKET * E == words.words().len();
        (exact && buckets.is_power_of_two()).then(|| Self { words, mask: buckets - 1 })
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        (self.mask + 1) * BUCKET
    }

    #[inline]
    fn slot(&self, index: usize) -> Option<&[AtomicU64; E]> {
        self.words.words().as_chunks::<E>().0.get(index)
    }

    /// The slots in which a key of this hash can stand.
    #[inline]
    fn candidates(&self, hash: FlowHash) -> impl Iterator<Item = usize> + Clone + use<W, K, E> {
        let (first, second) = self.buckets(hash);
        let count = if first == second { BUCKET } else { MAX_CANDIDATES };
        let [a, b] = [first * BUCKET, second * BUCKET];
        [a, a + 1, b, b + 1].into_iter().take(count)
    }

    /// The entries that stand where a key of this hash can stand.
    pub fn entries_at(&self, hash: FlowHash) -> impl Iterator<Item = Snapshot<K>> + '_ {
        self.candidates(hash).filter_map(|index| self.read_slot(index))
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)] // masked; a region has fewer than 2^32 buckets
    fn buckets(&self, FlowHash(hash): FlowHash) -> (usize, usize) {
        let first = hash as usize & self.mask;
        let second = (hash >> 32) as usize & self.mask;
        // Two equal choices would halve the room of this key.
        (first, if first == second { second ^ (self.mask & 1) } else { second })
    }

    /// First of two steps that make [`Region::find`] quick: begins to load the slots of the
    /// hash's first bucket, where most keys are.
    #[inline]
    pub fn warm(&self, hash: FlowHash) {
        self.warm_bucket(self.buckets(hash).0);
    }

    #[inline]
    fn warm_bucket(&self, bucket: usize) {
        for index in bucket * BUCKET..(bucket + 1) * BUCKET {
            if let Some(slot) = self.slot(index) {
                prefetch(&slot[CTL]);
            }
        }
    }

    /// The second step, when what [`Region::warm`] began has come: begins to load the rest of
    /// an entry, or the second bucket if the key is not in the first. Gives the stamps of the
    /// entry that seems to be the key's, as a hint what to load next: nothing here is read
    /// together, so nothing may be decided by it.
    #[inline]
    pub fn approach(&self, hash: FlowHash, key: &[u64; K]) -> Option<[u64; 2]> {
        let (first, second) = self.buckets(hash);
        for index in first * BUCKET..(first + 1) * BUCKET {
            let Some(slot) = self.slot(index) else { continue };
            let word = |at: usize| slot[at].load(Ordering::Relaxed);
            // The last word of the key has the ports, in which flows differ most.
            if word(KEY + K - 1) == key[K - 1] && word(KEY) == key[0] {
                let stamps = KEY + K + STAMPS_AFTER_KEY;
                if stamps + 1 < WORDS_OF_LINE {
                    return Some([word(stamps), word(stamps + 1)]);
                }
                prefetch(&slot[stamps]);
                return None;
            }
        }
        self.warm_bucket(second);
        None
    }

    /// The live entry of a key, in one look at each of its slots. An entry that is just
    /// changing may be passed over; then `Err` says so.
    #[inline]
    fn look(&self, hash: FlowHash, key: &[u64; K]) -> Result<Option<Snapshot<K>>, InChange> {
        let mut in_change = false;
        let (first, second) = self.buckets(hash);
        // (A region of one bucket is looked through twice, to no harm.)
        for bucket in [first, second] {
            for index in bucket * BUCKET..(bucket + 1) * BUCKET {
                let Some(slot) = self.slot(index) else { continue };
                let ctl = Ctl(slot[CTL].load(Ordering::Acquire));
                if !ctl.is_live() {
                    in_change |= ctl.is_busy();
                    continue;
                }
                // Most slots hold another key: one comparison, before the rest is read.
                if slot[KEY].load(Ordering::Relaxed) != key[0] {
                    continue;
                }
                match Self::read(slot, index, ctl) {
                    Some(snapshot) if snapshot.key == *key => return Ok(Some(snapshot)),
                    Some(_) => {}
                    None => in_change = true,
                }
            }
        }
        if in_change { Err(InChange) } else { Ok(None) }
    }

    /// The live entry of a key.
    ///
    /// # Errors
    /// [`InChange`] if a writer does not come to an end with one of the key's slots: it may
    /// be this key's, so that it is not known whether there is an entry.
    #[inline]
    pub fn find(&self, hash: FlowHash, key: &[u64; K]) -> Result<Option<Snapshot<K>>, InChange> {
        match self.look(hash, key) {
            Err(InChange) => self.find_again(hash, key),
            found => found,
        }
    }

    #[cold]
    #[inline(never)]
    fn find_again(&self, hash: FlowHash, key: &[u64; K]) -> Result<Option<Snapshot<K>>, InChange> {
        for _ in 1..FIND_TRIES {
            crate::sync::hint::spin_loop();
            if let Ok(found) = self.look(hash, key) {
                return Ok(found);
            }
        }
        Err(InChange)
    }

    /// Finds the entry of a key for one more packet and notes it, in one look: if it was
    /// judged for the packet's devices, was seen not long ago, and its stamps hold. Says
    /// whether the flow is cut. `None`: anything else, which [`Region::find`] tells apart.
    ///
    /// The same reading as there, of fewer words, that are compared where they are.
    #[inline(always)]
    pub fn hit(
        &self,
        hash: FlowHash,
        key: &[u64; K],
        packet: &Seeing,
        holds: impl Fn([u64; 2]) -> bool,
    ) -> Option<(Handle, bool)> {
        let (first, second) = self.buckets(hash);
        for bucket in [first, second] {
            for index in bucket * BUCKET..(bucket + 1) * BUCKET {
                let Some(slot) = self.slot(index) else { continue };
                let ctl = Ctl(slot[CTL].load(Ordering::Acquire));
                let word = |at: usize| slot[at].load(Ordering::Relaxed);
                let differs = |(i, wanted): (usize, &u64)| word(KEY + i) != *wanted;
                if key.iter().enumerate().any(differs) || !ctl.is_live() {
                    continue;
                }
                let after = KEY + K;
                let aux = Aux(word(after + AUX_AFTER_KEY));
                let ifindex = word(after + IFINDEX_AFTER_KEY);
                let stamps = [word(after + STAMPS_AFTER_KEY), word(after + STAMPS_AFTER_KEY + 1)];
                fence(Ordering::Acquire);
                let [lo, hi] = packet.ifindex;
                if slot[CTL].load(Ordering::Relaxed) != ctl.0
                    || ifindex != u64::from(lo) | u64::from(hi) << 32
                    || packet.now.since(aux.last_seen()) > FlowState::SHORTEST_TIMEOUT
                    || !holds(stamps)
                {
                    return None;
                }
                let handle = Handle { slot: index, version: ctl.version() };
                let seen = aux.seen().with(packet.side, packet.tcp_flags);
                if Aux::new(handle.version, seen, packet.now) != aux {
                    self.touch(handle, packet.side, packet.tcp_flags, packet.now);
                }
                return Some((handle, ctl.is_denied()));
            }
        }
        None
    }

    /// Reads a live entry; `None` if it changed meanwhile.
    #[inline]
    fn read(slot: &[AtomicU64; E], index: usize, ctl: Ctl) -> Option<Snapshot<K>> {
        let word = |at: usize| slot[at].load(Ordering::Relaxed);
        let key = std::array::from_fn(|i| word(KEY + i));
        let after = KEY + K;
        let aux = Aux(word(after + AUX_AFTER_KEY));
        let ifindex = word(after + IFINDEX_AFTER_KEY);
        let stamps = [word(after + STAMPS_AFTER_KEY), word(after + STAMPS_AFTER_KEY + 1)];
        let counts = Counts(word(after + COUNTS_AFTER_KEY));
        fence(Ordering::Acquire);
        if slot[CTL].load(Ordering::Relaxed) != ctl.0 {
            return None;
        }
        let [a, b, c, d, e, f, g, h] = ifindex.to_be_bytes();
        Some(Snapshot {
            handle: Handle { slot: index, version: ctl.version() },
            key,
            record: Record {
                initiator: ctl.initiator(),
                denied: ctl.is_denied(),
                seen: aux.seen(),
                last_seen: aux.last_seen(),
                ifindex: [u32::from_be_bytes([e, f, g, h]), u32::from_be_bytes([a, b, c, d])],
                stamps,
                counts,
                pod: ctl.pod(),
            },
        })
    }

    /// Reads whatever lives in a slot, for walks over the whole table.
    pub fn read_slot(&self, index: usize) -> Option<Snapshot<K>> {
        let slot = self.slot(index)?;
        for _ in 0..READ_TRIES {
            let ctl = Ctl(slot[CTL].load(Ordering::Acquire));
            if ctl.is_free() {
                return None;
            }
            if ctl.is_live()
                && let Some(snapshot) = Self::read(slot, index, ctl)
            {
                return Some(snapshot);
            }
            crate::sync::hint::spin_loop();
        }
        None
    }

    /// Takes a slot whose control word is still `ctl`. Returns the version while busy.
    #[inline]
    fn claim(slot: &[AtomicU64; E], ctl: Ctl) -> Option<u32> {
        let version = ctl.version().wrapping_add(1);
        let busy = Ctl::marked(version, STATE_BUSY);
        slot[CTL].compare_exchange(ctl.0, busy.0, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        fence(Ordering::Release);
        Some(version)
    }

    /// Fills and publishes a slot that was claimed as `busy`; returns its new version.
    #[inline]
    fn publish(slot: &[AtomicU64; E], busy: u32, record: &Record) -> u32 {
        let aux = Aux::new(busy.wrapping_add(1), record.seen, record.last_seen);
        // A late touch may compare-exchange aux until the version changes, a late count
        // counts. Plain stores would do; the swaps make the order definite to loom as well,
        // which lets a store fall between the halves of another thread's compare-exchange.
        slot[KEY + K + AUX_AFTER_KEY].swap(aux.0, Ordering::Relaxed);
        slot[KEY + K + COUNTS_AFTER_KEY].swap(record.counts.0, Ordering::Relaxed);
        Self::publish_rest(slot, busy, record)
    }

    /// [`Region::publish`] but for aux, which carries the new version already, and for counts,
    /// which the steering program may be changing.
    #[inline]
    fn publish_rest(slot: &[AtomicU64; E], busy: u32, record: &Record) -> u32 {
        let version = busy.wrapping_add(1);
        let store = |at: usize, value: u64| slot[at].store(value, Ordering::Relaxed);
        let after = KEY + K;
        let [lo, hi] = record.ifindex;
        store(after + IFINDEX_AFTER_KEY, u64::from(lo) | u64::from(hi) << 32);
        let [stamp_lo, stamp_hi] = record.stamps;
        store(after + STAMPS_AFTER_KEY, stamp_lo);
        store(after + STAMPS_AFTER_KEY + 1, stamp_hi);
        let live = Ctl::new(version, record.denied, record.initiator, record.pod);
        slot[CTL].store(live.0, Ordering::Release);
        version
    }

    /// Enters a key, whose present entry is gone ([`Region::remove`]). `victim` says of an
    /// entry how gladly it is given up for the new one: `None` not at all, else the largest
    /// number goes. `freed` hears of every entry that goes, whose account it was to; if that
    /// is the new one itself, a double of it stays. `None` if there is no room.
    pub fn insert(
        &self,
        hash: FlowHash,
        key: &[u64; K],
        record: &Record,
        victim: impl Fn(&Snapshot<K>) -> Option<u32>,
        freed: impl Fn(Pod),
    ) -> Option<Placed> {
        let (index, busy, evicted) = (0..CLAIM_TRIES).find_map(|_| {
            let free = self.claim_free(hash).map(|(index, busy)| (index, busy, None));
            free.or_else(|| {
                let (index, busy, pod) = self.claim_victim(hash, &victim)?;
                Some((index, busy, Some(pod)))
            })
        })?;
        evicted.map(&freed);
        let slot = self.slot(index)?;
        for (i, word) in key.iter().enumerate() {
            slot[KEY + i].store(*word, Ordering::Relaxed);
        }
        let version = Self::publish(slot, busy, record);
        let handle = self.settle(hash, key, Handle { slot: index, version }, &freed);
        Some(Placed { handle, evicted: evicted.is_some() })
    }

    /// Claims a free slot, in the emptier bucket first: two choices then fill evenly.
    fn claim_free(&self, hash: FlowHash) -> Option<(usize, u32)> {
        let read = |index: usize| Some(Ctl(self.slot(index)?[CTL].load(Ordering::Relaxed)));
        let free = |bucket: usize| {
            let first = bucket * BUCKET;
            (first..first + BUCKET).filter(|&i| read(i).is_some_and(Ctl::is_free)).count()
        };
        let (first, second) = self.buckets(hash);
        let order = if free(second) > free(first) { [second, first] } else { [first, second] };
        order.into_iter().flat_map(|bucket| bucket * BUCKET..(bucket + 1) * BUCKET).find_map(
            |index| {
                let ctl = read(index).filter(|ctl| ctl.is_free())?;
                Some((index, Self::claim(self.slot(index)?, ctl)?))
            },
        )
    }

    /// Claims the slot of the entry that is given up most gladly.
    fn claim_victim(
        &self,
        hash: FlowHash,
        victim: &impl Fn(&Snapshot<K>) -> Option<u32>,
    ) -> Option<(usize, u32, Pod)> {
        let (_, chosen) = self
            .candidates(hash)
            .filter_map(|index| self.read_slot(index))
            .filter_map(|snapshot| Some((victim(&snapshot)?, snapshot)))
            .max_by_key(|&(gladness, _)| gladness)?;
        let slot = self.slot(chosen.handle.slot)?;
        let ctl = Self::live_ctl(slot, chosen.handle)?;
        Some((chosen.handle.slot, Self::claim(slot, ctl)?, ctl.pod()))
    }

    /// Removes the double that exists if another worker entered the same key at the same
    /// time: both look after both have published (the fence makes at least one of them
    /// see the other), and the lower slot stays.
    fn settle(&self, hash: FlowHash, key: &[u64; K], mine: Handle, freed: &impl Fn(Pod)) -> Handle {
        fence(Ordering::SeqCst);
        for index in self.candidates(hash).filter(|&index| index != mine.slot) {
            let Some(other) = self.read_slot(index).filter(|other| other.key == *key) else {
                continue;
            };
            if other.handle.slot < mine.slot {
                self.delete(mine).map(freed);
                return other.handle;
            }
            self.delete(other.handle).map(freed);
        }
        mine
    }

    /// The control word of an entry, if the handle still names it.
    #[inline]
    fn live_ctl(slot: &[AtomicU64; E], handle: Handle) -> Option<Ctl> {
        let ctl = Ctl(slot[CTL].load(Ordering::Acquire));
        (ctl.is_live() && ctl.version() == handle.version).then_some(ctl)
    }

    /// Changes verdict, devices and stamps of an entry in place; key, what was seen, and
    /// counts stay. The change sees the record as it stands. `None` if the entry is gone.
    pub fn update(&self, handle: Handle, change: impl FnOnce(&mut Record)) -> Option<Handle> {
        let slot = self.slot(handle.slot)?;
        let ctl = Self::live_ctl(slot, handle)?;
        let busy = Self::claim(slot, ctl)?;
        // Nobody else writes a busy slot, so what is read here belongs together.
        let word = |at: usize| slot[at].load(Ordering::Relaxed);
        let after = KEY + K;
        let aux = Aux(word(after + AUX_AFTER_KEY));
        let [a, b, c, d, e, f, g, h] = word(after + IFINDEX_AFTER_KEY).to_be_bytes();
        let mut record = Record {
            initiator: ctl.initiator(),
            denied: ctl.is_denied(),
            seen: aux.seen(),
            last_seen: aux.last_seen(),
            ifindex: [u32::from_be_bytes([e, f, g, h]), u32::from_be_bytes([a, b, c, d])],
            stamps: [word(after + STAMPS_AFTER_KEY), word(after + STAMPS_AFTER_KEY + 1)],
            counts: Counts(word(after + COUNTS_AFTER_KEY)),
            pod: ctl.pod(),
        };
        change(&mut record);
        // A touch that came in between would be lost, and with it perhaps a FIN.
        let version = busy.wrapping_add(1);
        let word = &slot[after + AUX_AFTER_KEY];
        let renamed = |aux: Aux| Aux::new(version, aux.seen(), aux.last_seen()).0;
        let mut aux = aux;
        for _ in 0..TOUCH_TRIES {
            match word.compare_exchange(aux.0, renamed(aux), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break,
                Err(found) => aux = Aux(found),
            }
        }
        if !Aux(word.load(Ordering::Relaxed)).is_of(version) {
            word.swap(renamed(aux), Ordering::Relaxed);
        }
        Some(Handle { slot: handle.slot, version: Self::publish_rest(slot, busy, &record) })
    }

    /// Counts a packet of `side` as out in user space, so that the side's next packets
    /// are sent after it and not past it.
    #[inline]
    pub fn hold(&self, handle: Handle, side: Side) {
        let Some(slot) = self.slot(handle.slot) else { return };
        let word = &slot[KEY + K + COUNTS_AFTER_KEY];
        let mut before = Counts(word.load(Ordering::Relaxed));
        for _ in 0..TOUCH_TRIES {
            if Self::live_ctl(slot, handle).is_none() {
                return;
            }
            let after = before.punt(side);
            match word.compare_exchange(before.0, after.0, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(found) => before = Counts(found),
            }
        }
    }

    /// Notes a packet. Writes nothing if nothing would change. False if the entry is gone.
    #[inline(never)]
    pub fn touch(&self, handle: Handle, side: Side, tcp_flags: u8, now: Tick) -> bool {
        let Some(slot) = self.slot(handle.slot) else { return false };
        let word = &slot[KEY + K + AUX_AFTER_KEY];
        let mut before = Aux(word.load(Ordering::Relaxed));
        for _ in 0..TOUCH_TRIES {
            if !before.is_of(handle.version) {
                return false;
            }
            let after = Aux::new(handle.version, before.seen().with(side, tcp_flags), now);
            if after == before {
                return true;
            }
            match word.compare_exchange(before.0, after.0, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(found) => before = Aux(found),
            }
        }
        true
    }

    /// Removes an entry; says whose account it was to, exactly once. `None` if it was gone
    /// already.
    pub fn delete(&self, handle: Handle) -> Option<Pod> {
        let slot = self.slot(handle.slot)?;
        let ctl = Self::live_ctl(slot, handle)?;
        let free = Ctl::marked(ctl.version().wrapping_add(1), STATE_FREE);
        slot[CTL].compare_exchange(ctl.0, free.0, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        Some(ctl.pod())
    }

    /// Removes the entry of a key, if it is there and can be read.
    pub fn remove(&self, hash: FlowHash, key: &[u64; K]) -> Option<Pod> {
        let old = self.find(hash, key).ok()??;
        self.delete(old.handle)
    }

    /// The live entries of `count` slots in a row, from the first or the second bucket of the
    /// hash on; each slot once.
    pub fn sample(
        &self,
        hash: FlowHash,
        second: bool,
        count: usize,
    ) -> impl Iterator<Item = Snapshot<K>> {
        let buckets = self.buckets(hash);
        let first = if second { buckets.1 } else { buckets.0 } * BUCKET;
        let slots = self.slots();
        (first..first + count.min(slots)).filter_map(move |index| self.read_slot(index % slots))
    }

    /// To whose accounts the live entries are. Only while no writer runs.
    pub fn pods(&self) -> impl Iterator<Item = Pod> {
        let ctl = |index| Some(Ctl(self.slot(index)?[CTL].load(Ordering::Acquire)));
        (0..self.slots()).filter_map(ctl).filter(|ctl| ctl.is_live()).map(Ctl::pod)
    }

    /// Frees slots that a writer claimed and never published. Only while no writer runs.
    pub fn sweep(&self) -> usize {
        let busy = (0..self.slots()).filter_map(|index| self.slot(index)).filter(|slot| {
            let ctl = Ctl(slot[CTL].load(Ordering::Acquire));
            let free = Ctl::marked(ctl.version().wrapping_add(1), STATE_FREE);
            ctl.is_busy()
                && slot[CTL]
                    .compare_exchange(ctl.0, free.0, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
        });
        busy.count()
    }
}
