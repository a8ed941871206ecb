//! The two regions as one table, in terms of flows.
#![forbid(unsafe_code)]

use super::entry::{
    Flow, FlowRef, Inserted, NewFlow, NoRoom, flow, from_v4, from_v6, gladness, most_aged,
};
use super::key::{FlowHash, FlowKey, HashKey, Side};
use super::layout::{BUCKET, V4_ENTRY_WORDS, V4_KEY_WORDS, V6_ENTRY_WORDS, V6_KEY_WORDS};
use super::quota::{Pod, Quota};
use super::region::Region;
use super::state::{Seen, Tick};
use super::words::{Counts, InChange, Record, Seeing, Snapshot};
use crate::mem::Words;
use crate::stamps::Stamps;

pub(super) type V4<W> = Region<W, V4_KEY_WORDS, V4_ENTRY_WORDS>;
pub(super) type V6<W> = Region<W, V6_KEY_WORDS, V6_ENTRY_WORDS>;

/// Why memory cannot serve as a flow table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlowTableError {
    /// Not a power-of-two number of buckets.
    #[error(
        "the {family} flow region has {words} words; it needs a power of two times \
         {bucket_words} (one bucket)"
    )]
    Size {
        /// "IPv4" or "IPv6".
        family: &'static str,
        /// Words given.
        words: usize,
        /// Words of a bucket.
        bucket_words: usize,
    },
    /// Mapped read-only, so only [`FlowView`] can use it.
    #[error("the {family} flow region is mapped read-only; map it writable or use a view")]
    ReadOnly {
        /// "IPv4" or "IPv6".
        family: &'static str,
    },
}

/// Slots that are looked at for a flow that its own pod can do without, at least and at most.
/// They are neighbours, so the memory brings them in a row.
const OWN_SAMPLE: (usize, usize) = (64, 1024);
/// Own flows that such a look should meet.
const OWN_WANTED: usize = 8;

/// Where a walk of expiry stands. Several workers share the walk: each has a cursor of
/// its own and takes its part of the slots.
#[derive(Debug, Clone)]
pub struct ExpiryCursor {
    worker: usize,
    workers: usize,
    next: usize,
}

impl ExpiryCursor {
    /// The cursor of one of `workers` (at least 1) workers.
    pub fn new(worker: usize, workers: usize) -> Self {
        let workers = workers.max(1);
        let worker = worker % workers;
        Self { worker, workers, next: worker }
    }

    /// Slots of its part, rounded up.
    pub fn slots<W: Words>(&self, table: &FlowTable<W>) -> usize {
        let (v4, v6) = table.capacity();
        (v4 + v6).div_ceil(self.workers)
    }
}

/// The flow table, to be shared by all workers of a process.
#[derive(Debug)]
pub struct FlowTable<W> {
    v4: V4<W>,
    v6: V6<W>,
    key: HashKey,
    quota: Option<Quota<W>>,
}

pub(super) fn regions<W: Words>(v4: W, v6: W) -> Result<(V4<W>, V6<W>), FlowTableError> {
    let [n4, n6] = [v4.words().len(), v6.words().len()];
    let size = |family, words, entry: usize| FlowTableError::Size {
        family,
        words,
        bucket_words: entry * BUCKET,
    };
    Ok((
        Region::new(v4).ok_or_else(|| size("IPv4", n4, V4_ENTRY_WORDS))?,
        Region::new(v6).ok_or_else(|| size("IPv6", n6, V6_ENTRY_WORDS))?,
    ))
}

impl<W: Words> FlowTable<W> {
    /// A table over two regions of memory (all zero, or written by an earlier run with
    /// the same key) with [`super::layout::v4_words`] and [`super::layout::v6_words`] of
    /// power-of-two numbers of entries, at least 2.
    ///
    /// # Errors
    /// [`FlowTableError`] names the region that does not fit.
    pub fn new(v4: W, v6: W, key: HashKey) -> Result<Self, FlowTableError> {
        for (family, words) in [("IPv4", &v4), ("IPv6", &v6)] {
            if !words.writable() {
                return Err(FlowTableError::ReadOnly { family });
            }
        }
        let (v4, v6) = regions(v4, v6)?;
        Ok(Self { v4, v6, key, quota: None })
    }

    /// The same, with a limit to the flows of each pod. Where the memory was written before,
    /// [`FlowTable::recount`] comes next.
    #[must_use]
    pub fn with_quota(self, quota: Quota<W>) -> Self {
        Self { quota: Some(quota), ..self }
    }

    /// The pods' accounts, if flows are counted.
    pub const fn quota(&self) -> Option<&Quota<W>> {
        self.quota.as_ref()
    }

    /// Finds the pods' limit anew: [`Quota::share_out`].
    pub fn share_out(&self) {
        if let Some(quota) = &self.quota {
            quota.share_out();
        }
    }

    /// Counts every pod's flows anew. Only while nobody enters flows: at start, after
    /// [`FlowTable::sweep`].
    pub fn recount(&self) {
        if let Some(quota) = &self.quota {
            quota.recount(self.v4.pods().chain(self.v6.pods()));
        }
    }

    fn reserve(&self, pod: Pod) -> bool {
        self.quota.as_ref().is_none_or(|quota| quota.reserve(pod))
    }

    fn release(&self, pod: Pod) {
        if let Some(quota) = &self.quota {
            quota.release(pod);
        }
    }

    /// Entries that the IPv4 and the IPv6 region can hold.
    pub fn capacity(&self) -> (usize, usize) {
        (self.v4.slots(), self.v6.slots())
    }

    /// The hash of a key; all other methods want it beside the key, since the caller has
    /// computed it once for the packet.
    #[inline]
    pub fn hash(&self, key: &FlowKey) -> FlowHash {
        self.key.hash(key)
    }

    /// Begins to bring the slots of a key into the cache, ahead of [`FlowTable::approach`] and
    /// [`FlowTable::lookup`]. What several keys in a row wait for overlaps, which is what makes
    /// a burst cheaper than its packets.
    #[inline]
    pub fn warm(&self, key: &FlowKey, hash: FlowHash) {
        if key.is_v4() { self.v4.warm(hash) } else { self.v6.warm(hash) }
    }

    /// The second step of [`FlowTable::warm`], some packets later: looks where the first has
    /// led and begins to load what a lookup will want next. Gives the stamps that the flow
    /// seems to have, for [`crate::stamps::Stamps::warm`]; only a lookup tells the truth.
    #[inline]
    pub fn approach(&self, key: &FlowKey, hash: FlowHash) -> Option<[u64; 2]> {
        if key.is_v4() {
            self.v4.approach(hash, &key.to_v4_words())
        } else {
            self.v6.approach(hash, &key.to_v6_words())
        }
    }

    /// One more packet of a flow that was judged for these devices, is not silent for long, and
    /// whose stamps hold: what most packets are. Notes it; gives the flow's name, and true if
    /// the flow is cut. `None` says nothing: then [`FlowTable::lookup`].
    #[inline(always)]
    pub fn hit(
        &self,
        key: &FlowKey,
        hash: FlowHash,
        packet: &Seeing,
        stamps: &Stamps<W>,
    ) -> Option<(FlowRef, bool)> {
        let holds = |both| stamps.hold(both);
        let v6 = !key.is_v4();
        let (handle, cut) = if v6 {
            self.v6.hit(hash, &key.to_v6_words(), packet, holds)?
        } else {
            self.v4.hit(hash, &key.to_v4_words(), packet, holds)?
        };
        Some((FlowRef { v6, handle }, cut))
    }

    /// The flow of a key, allowed or cut, current or stale.
    ///
    /// # Errors
    /// [`InChange`]: another writer (the admin side that judges flows again, a hook, another
    /// worker) is at the flow's place and was interrupted there. Whether there is a flow is
    /// not known; to take it for a new one could turn it round.
    #[inline]
    pub fn lookup(
        &self,
        key: &FlowKey,
        hash: FlowHash,
    ) -> Result<Option<(FlowRef, Flow)>, InChange> {
        // What was found has this key: no need to take it apart and put it together.
        Ok(if key.is_v4() {
            let found = self.v4.find(hash, &key.to_v4_words())?;
            found.map(|s| (FlowRef { v6: false, handle: s.handle }, flow(*key, &s.record)))
        } else {
            let found = self.v6.find(hash, &key.to_v6_words())?;
            found.map(|s| (FlowRef { v6: true, handle: s.handle }, flow(*key, &s.record)))
        })
    }

    /// Enters a flow whose first packet was seen `now`. Replaces an entry of the same
    /// key. In a full table an expired flow makes room, else the most aged of those
    /// that yield ([`Flow::yields`]). A pod that has as many flows as it may gets a slot only
    /// for one of its own that yields, if one is found in a few looks.
    ///
    /// # Errors
    /// [`NoRoom`]: the packet must be judged without an entry.
    pub fn insert(
        &self,
        key: &FlowKey,
        hash: FlowHash,
        new: &NewFlow,
        now: Tick,
    ) -> Result<Inserted, NoRoom> {
        let pod = Pod::of(new.initiator, new.ifindex);
        let record = Record {
            initiator: new.initiator,
            denied: false,
            seen: Seen::default().with(new.initiator, new.tcp_flags),
            last_seen: now,
            ifindex: new.ifindex,
            stamps: new.stamps,
            counts: if new.hold {
                Counts::default().punt(new.initiator)
            } else {
                Counts::default()
            },
            pod,
        };
        let v6 = !key.is_v4();
        let replaced = if v6 {
            self.v6.remove(hash, &key.to_v6_words())
        } else {
            self.v4.remove(hash, &key.to_v4_words())
        };
        if let Some(pod) = replaced {
            self.release(pod);
        }
        let gave_way = !self.reserve(pod);
        if gave_way && !(self.give_up_own(pod, hash, v6, now) && self.reserve(pod)) {
            return Err(NoRoom::Pod);
        }
        // At its limit it takes nothing from others.
        let may_displace = |owner, flow: &Flow| match owner == pod {
            true => gladness(flow, now, gave_way),
            false if gave_way => None,
            false => gladness(flow, now, false),
        };
        let freed = |pod| self.release(pod);
        let placed = if v6 {
            let victim = |s: &Snapshot<V6_KEY_WORDS>| may_displace(s.record.pod, &from_v6(s).1);
            self.v6.insert(hash, &key.to_v6_words(), &record, victim, freed)
        } else {
            let victim = |s: &Snapshot<V4_KEY_WORDS>| may_displace(s.record.pod, &from_v4(s).1);
            self.v4.insert(hash, &key.to_v4_words(), &record, victim, freed)
        };
        let Some(placed) = placed else {
            self.release(pod);
            return Err(NoRoom::Table);
        };
        let evicted = placed.evicted || gave_way;
        Ok(Inserted { flow: FlowRef { v6, handle: placed.handle }, evicted })
    }

    /// Forgets one flow of the pod that is over or yields to it, the most aged of a few slots.
    /// Looks behind either bucket of the new flow's family, then of the other family. (One
    /// place alone would not do: where the pod has no flow it would never get one.)
    fn give_up_own(&self, pod: Pod, hash: FlowHash, v6: bool, now: Tick) -> bool {
        let in_v4 = |second| {
            let all = self.v4.sample(hash, second, self.own_sample(self.v4.slots()));
            most_aged(all.filter(|s| s.record.pod == pod).map(|s| from_v4(&s)), now)
        };
        let in_v6 = |second| {
            let all = self.v6.sample(hash, second, self.own_sample(self.v6.slots()));
            most_aged(all.filter(|s| s.record.pod == pod).map(|s| from_v6(&s)), now)
        };
        let places = [(v6, false), (v6, true), (!v6, false)];
        let found =
            places.into_iter().find_map(|(v6, nth)| if v6 { in_v6(nth) } else { in_v4(nth) });
        found.is_some_and(|flow| self.delete(flow))
    }

    /// How many of `slots` to look at to meet some flows of a pod that is at its limit.
    fn own_sample(&self, slots: usize) -> usize {
        let limit = self.quota.as_ref().map_or(u64::MAX, Quota::limit);
        let apart = slots / usize::try_from(limit).unwrap_or(usize::MAX).max(1);
        apart.saturating_mul(OWN_WANTED).clamp(OWN_SAMPLE.0, OWN_SAMPLE.1)
    }

    /// Notes a packet that `side` sent. Costs no store unless the tick or the flags seen
    /// change. False if the flow is gone.
    #[inline]
    pub fn touch(&self, flow: FlowRef, side: Side, tcp_flags: u8, now: Tick) -> bool {
        if flow.v6 {
            self.v6.touch(flow.handle, side, tcp_flags, now)
        } else {
            self.v4.touch(flow.handle, side, tcp_flags, now)
        }
    }

    /// Gives the flow a new verdict: everything that depends on it changes at once.
    /// Returns the flow's new name, `None` if it is gone.
    pub fn rejudge(
        &self,
        flow: FlowRef,
        denied: bool,
        stamps: [u64; 2],
        ifindex: [u32; 2],
    ) -> Option<FlowRef> {
        let change = |record: &mut Record| {
            record.denied = denied;
            record.stamps = stamps;
            record.ifindex = ifindex;
        };
        let handle = if flow.v6 {
            self.v6.update(flow.handle, change)
        } else {
            self.v4.update(flow.handle, change)
        };
        handle.map(|handle| FlowRef { v6: flow.v6, handle })
    }

    /// Says that a packet of `side` is out in user space without having been counted by
    /// the steering program: the next ones of that side follow it, in order.
    #[inline]
    pub fn hold(&self, flow: FlowRef, side: Side) {
        if flow.v6 { self.v6.hold(flow.handle, side) } else { self.v4.hold(flow.handle, side) }
    }

    /// Forgets a flow. False if it was gone already.
    pub fn delete(&self, flow: FlowRef) -> bool {
        let freed = if flow.v6 { self.v6.delete(flow.handle) } else { self.v4.delete(flow.handle) };
        freed.map(|pod| self.release(pod)).is_some()
    }

    /// Looks at the next `budget` slots of the cursor's part and forgets flows whose time
    /// is over. Returns how many.
    pub fn expire(&self, cursor: &mut ExpiryCursor, now: Tick, budget: usize) -> usize {
        let slots = self.v4.slots() + self.v6.slots();
        let mut expired = 0;
        for _ in 0..budget {
            if cursor.next >= slots {
                cursor.next = cursor.worker;
            }
            if let Some((flow, state)) = read_slot(&self.v4, &self.v6, cursor.next)
                && state.is_expired(now)
                && self.delete(flow)
            {
                expired += 1;
            }
            cursor.next += cursor.workers;
        }
        expired
    }

    /// Frees slots that a dead writer left half written. Only while no worker runs: at
    /// start. Returns how many.
    pub fn sweep(&self) -> usize {
        self.v4.sweep() + self.v6.sweep()
    }

    /// Every flow, each as it stood when the walk came by.
    pub fn iter(&self) -> impl Iterator<Item = Flow> {
        walk(&self.v4, &self.v6).map(|(_, flow)| flow)
    }

    /// The same, with names by which the flows can be changed.
    pub fn entries(&self) -> impl Iterator<Item = (FlowRef, Flow)> {
        walk(&self.v4, &self.v6)
    }
}

/// The flow table for those who only look: the CLI.
#[derive(Debug)]
pub struct FlowView<W> {
    v4: V4<W>,
    v6: V6<W>,
}

impl<W: Words> FlowView<W> {
    /// A view of the regions of a [`FlowTable`]; the memory may be mapped read-only.
    ///
    /// # Errors
    /// [`FlowTableError::Size`].
    pub fn new(v4: W, v6: W) -> Result<Self, FlowTableError> {
        let (v4, v6) = regions(v4, v6)?;
        Ok(Self { v4, v6 })
    }

    /// Every flow, each as it stood when the walk came by.
    pub fn iter(&self) -> impl Iterator<Item = Flow> {
        walk(&self.v4, &self.v6).map(|(_, flow)| flow)
    }

    /// Entries that the IPv4 and the IPv6 region can hold.
    pub fn capacity(&self) -> (usize, usize) {
        (self.v4.slots(), self.v6.slots())
    }
}

fn walk<W: Words>(v4: &V4<W>, v6: &V6<W>) -> impl Iterator<Item = (FlowRef, Flow)> {
    (0..v4.slots() + v6.slots()).filter_map(|slot| read_slot(v4, v6, slot))
}

/// Slots are numbered through both regions, IPv4 first.
fn read_slot<W: Words>(v4: &V4<W>, v6: &V6<W>, slot: usize) -> Option<(FlowRef, Flow)> {
    match slot.checked_sub(v4.slots()) {
        None => v4.read_slot(slot).map(|s| from_v4(&s)),
        Some(slot) => v6.read_slot(slot).map(|s| from_v6(&s)),
    }
}
