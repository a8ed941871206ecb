//! The writing side of a [`Region`]: claims, publications, touches, deletions. The protocol and
//! its invariants stand in `region.rs`.
#![forbid(unsafe_code)]

use super::key::{FlowHash, Side};
use super::layout::{
    AUX_AFTER_KEY, BUCKET, COUNTS_AFTER_KEY, CTL, IFINDEX_AFTER_KEY, KEY, STAMPS_AFTER_KEY,
    STATE_BUSY, STATE_FREE,
};
use super::quota::Pod;
use super::region::Region;
use super::state::Tick;
use super::words::{Aux, Counts, Ctl, Handle, Placed, Record, Snapshot};
use crate::mem::Words;
use crate::sync::{AtomicU64, Ordering, fence};

/// How often a touch is tried against others that touch the same entry. It needs more
/// than one try only when the steering program and a worker see packets of one flow in
/// the same nanoseconds; giving up costs a last-seen that is one packet old.
const TOUCH_TRIES: usize = 4;

/// How often an insertion looks for a slot, should another writer snatch the one that it
/// had found.
const CLAIM_TRIES: usize = 2;

impl<W: Words, const K: usize, const E: usize> Region<W, K, E> {
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
        let stamps = [word(after + STAMPS_AFTER_KEY), word(after + STAMPS_AFTER_KEY + 1)];
        let counts = Counts(word(after + COUNTS_AFTER_KEY));
        let mut record = Record::of(ctl, aux, word(after + IFINDEX_AFTER_KEY), stamps, counts);
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

    /// Notes a packet. Writes nothing if nothing would change. False, and nothing noted, if the
    /// entry is gone or has a new verdict, or others were faster all the time: look again.
    #[inline(never)]
    pub fn touch(&self, handle: Handle, side: Side, tcp_flags: u8, now: Tick) -> bool {
        let Some(slot) = self.slot(handle.slot) else { return false };
        let word = &slot[KEY + K + AUX_AFTER_KEY];
        let mut before = Aux(word.load(Ordering::Relaxed));
        for _ in 0..TOUCH_TRIES {
            if !before.is_of(handle.version) {
                return false;
            }
            let after = before.noted(side, tcp_flags, now);
            if after == before {
                return true;
            }
            match word.compare_exchange(before.0, after.0, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(found) => before = Aux(found),
            }
        }
        false
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
