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
//! Here is the reading; `writing.rs` has the writing. The loom models of `loom_model.rs` explore
//! both.
#![forbid(unsafe_code)]

use super::key::FlowHash;
use super::layout::{
    AUX_AFTER_KEY, BUCKET, COUNTS_AFTER_KEY, CTL, IFINDEX_AFTER_KEY, KEY, STAMPS_AFTER_KEY,
};
use super::quota::Pod;
use super::state::FlowState;
use super::words::{Aux, Counts, Ctl, Handle, InChange, Record, Seeing, Snapshot};
use crate::mem::{Words, prefetch};
use crate::sync::{AtomicU64, Ordering, fence};

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
    pub(super) fn slot(&self, index: usize) -> Option<&[AtomicU64; E]> {
        self.words.words().as_chunks::<E>().0.get(index)
    }

    /// The slots of one bucket, neighbours in memory.
    #[inline]
    fn bucket(&self, bucket: usize) -> Option<&[[AtomicU64; E]; BUCKET]> {
        self.words.words().as_chunks::<E>().0.as_chunks::<BUCKET>().0.get(bucket)
    }

    /// The slots in which a key of this hash can stand.
    #[inline]
    pub(super) fn candidates(
        &self,
        hash: FlowHash,
    ) -> impl Iterator<Item = usize> + Clone + use<W, K, E> {
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
    pub(super) fn buckets(&self, FlowHash(hash): FlowHash) -> (usize, usize) {
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
        for slot in self.bucket(bucket).into_iter().flatten() {
            prefetch(&slot[CTL]);
        }
    }

    /// The second step, when what [`Region::warm`] began has come: begins to load the rest of
    /// an entry, or the second bucket if the key is not in the first. Gives the stamps of the
    /// entry that seems to be the key's, as a hint what to load next: nothing here is read
    /// together, so nothing may be decided by it.
    #[inline]
    pub fn approach(&self, hash: FlowHash, key: &[u64; K]) -> Option<[u64; 2]> {
        let (first, second) = self.buckets(hash);
        for slot in self.bucket(first).into_iter().flatten() {
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
            let Some(slots) = self.bucket(bucket) else { continue };
            for (nth, slot) in slots.iter().enumerate() {
                let ctl = Ctl(slot[CTL].load(Ordering::Acquire));
                if !ctl.is_live() {
                    in_change |= ctl.is_busy();
                    continue;
                }
                // Most slots hold another key: one comparison, before the rest is read.
                if slot[KEY].load(Ordering::Relaxed) != key[0] {
                    continue;
                }
                match Self::read(slot, bucket * BUCKET + nth, ctl) {
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
            let Some(slots) = self.bucket(bucket) else { continue };
            for (nth, slot) in slots.iter().enumerate() {
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
                let handle = Handle { slot: bucket * BUCKET + nth, version: ctl.version() };
                if aux.noted(packet.side, packet.tcp_flags, packet.now) != aux
                    && !self.touch(handle, packet.side, packet.tcp_flags, packet.now)
                {
                    return None;
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
        let handle = Handle { slot: index, version: ctl.version() };
        Some(Snapshot { handle, key, record: Record::of(ctl, aux, ifindex, stamps, counts) })
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
}
