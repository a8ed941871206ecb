//! How many flows are to the account of each pod, so that none takes the table from the
//! others.
//!
//! A flow is to the account of the pod that opens it, or, if that is none of this node, of the
//! one to which it is opened. The account stands in the flow's control word, so whoever frees
//! the slot, by the compare-exchange that frees it, knows whose it was, and tells it once.
//!
//! How many it may have depends on how many all have: half of what is left of the flows for
//! which the table is made, but never more than a fixed number and always a few
//! ([`Quota::share_out`]). One pod alone comes to the fixed number. Pods that fill their
//! accounts together get less each, the more they are, and leave some: `n` of them hold
//! `n / (n + 2)` of the flows, and the next one still gets half of the rest. (Switches share
//! their buffers among ports so: Choudhury and Hahne, Dynamic Queue Length Thresholds, 1998.)
//!
//! Workers, the admin side and the hooks (`bpf/flow.h`) count in the same words, a word a pod,
//! and behind them one that holds the present limit:
//!
//! ```text
//! reserve    fetch_add 1; if it was at the limit: fetch_sub 1, no flow
//! enter      claim a slot, publish      or, if there is none: release
//! free       compare-exchange ctl to free or busy, then release: fetch_sub 1
//! ```
//!
//! Invariants: a count is never below the number of the pod's flows, since it goes up before
//! the slot is taken and down after it is free; so it is never negative, and no pod gets a
//! flow beyond the limit of that moment, whoever races. (It keeps those that it had when the
//! limit became less.) At rest both are equal. A writer that dies in between leaves a count
//! too high; [`super::FlowTable::recount`] puts that right at the next start.
//!
//! Two devices whose numbers agree in the lower 16 bits share an account.
#![forbid(unsafe_code)]

use super::key::Side;
use crate::abi;
use crate::mem::Words;
use crate::sync::{AtomicU64, Ordering};

/// Words that a daemon gives the accounts: one for each [`Pod`], and one for the limit.
pub const QUOTA_WORDS: usize = abi::QUOTA_WORDS as usize;

/// Whose account a flow is to: the low bits of a pod's device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Pod(pub u16);

impl Pod {
    /// Nobody's: not counted, not limited.
    pub const NONE: Self = Self(0);

    /// Of a flow between these devices ([`Side::index`]; 0: not on this node).
    pub const fn of(initiator: Side, ifindex: [u32; 2]) -> Self {
        let (own, other) = (ifindex[initiator.index()], ifindex[initiator.other().index()]);
        Self::of_device(if own != 0 { own } else { other })
    }

    /// The account of the pod behind a device; 0 is no device.
    #[allow(clippy::cast_possible_truncation)] // the low bits are what is wanted
    pub const fn of_device(ifindex: u32) -> Self {
        match ifindex as u16 {
            0 if ifindex != 0 => Self(u16::MAX),
            low => Self(low),
        }
    }
}

/// Of the flows for which a table is made, the part that every pod may have whatever the
/// others do, as a shift: a 256th. A node has fewer pods (110 by Kubernetes' own limit, 250
/// where that is raised), so all of them together fit.
pub const LEAST_SHARE_SHIFT: u32 = 8;

/// The accounts of all pods, and the limit.
#[derive(Debug)]
pub struct Quota<W> {
    words: W,
    most: u64,
    /// All flows for which the table is made; `None`: the limit does not depend on the others.
    flows: Option<u64>,
}

impl<W: Words> Quota<W> {
    /// Accounts in `words`, of which there must be a power of two and one more
    /// ([`QUOTA_WORDS`] where the steering program counts as well); at most `limit` flows
    /// each, at least 1, whatever the others have.
    pub fn new(words: W, limit: u64) -> Self {
        Self::made(words, limit, None)
    }

    /// The same, by what is left of `flows`, all for which the table is made: the limit is
    /// as [`Quota::share_out`] last found it, never more than `most`.
    pub fn shared(words: W, most: u64, flows: u64) -> Self {
        Self::made(words, most, Some(flows))
    }

    fn made(words: W, most: u64, flows: Option<u64>) -> Self {
        debug_assert!(words.words().len().saturating_sub(1).is_power_of_two());
        let quota = Self { words, most: most.max(1), flows };
        if let Some((limit, _)) = quota.parts() {
            limit.store(quota.most, Ordering::Relaxed);
        }
        quota
    }

    /// The limit and the accounts.
    fn parts(&self) -> Option<(&AtomicU64, &[AtomicU64])> {
        self.words.words().split_last()
    }

    fn word(&self, pod: Pod) -> Option<&AtomicU64> {
        let (_, accounts) = self.parts()?;
        (pod != Pod::NONE).then(|| accounts.get(usize::from(pod.0) % accounts.len().max(1)))?
    }

    /// Finds the limit anew, from what all pods have together. To be called every now and
    /// then by one thread; reads all accounts.
    pub fn share_out(&self) {
        let Some(((limit, accounts), flows)) = self.parts().zip(self.flows) else { return };
        let taken: u64 = accounts.iter().map(|account| account.load(Ordering::Relaxed)).sum();
        let share = (flows.saturating_sub(taken) / 2).max(flows >> LEAST_SHARE_SHIFT);
        limit.store(share.clamp(1, self.most), Ordering::Relaxed);
    }

    /// Takes a flow to the pod's account. False if it has as many as it may.
    pub(super) fn reserve(&self, pod: Pod) -> bool {
        let Some(word) = self.word(pod) else { return true };
        // Relaxed: nothing is read on the strength of the count. That it is not below the
        // truth follows from the order of all changes of this one word: a release follows
        // the claim that freed the slot, which follows the publication by whoever reserved.
        if word.fetch_add(1, Ordering::Relaxed) < self.limit() {
            return true;
        }
        word.fetch_sub(1, Ordering::Relaxed);
        false
    }

    /// Takes a flow off the pod's account.
    pub(super) fn release(&self, pod: Pod) {
        if let Some(word) = self.word(pod) {
            word.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Begins anew with one flow for each of `pods`. Only while nobody enters flows.
    pub(super) fn recount(&self, pods: impl Iterator<Item = Pod>) {
        let accounts = self.parts().map_or(&[][..], |(_, accounts)| accounts);
        accounts.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        for word in pods.filter_map(|pod| self.word(pod)) {
            word.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Flows to the account of the pod behind a device.
    pub fn flows_of(&self, ifindex: u32) -> u64 {
        self.word(Pod::of_device(ifindex)).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Most flows to one account at present.
    pub fn limit(&self) -> u64 {
        self.parts().map_or(self.most, |(limit, _)| limit.load(Ordering::Relaxed))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::mem::SharedWords;

    const FLOWS: u64 = 1 << 16;

    fn quota() -> Quota<SharedWords> {
        Quota::shared(SharedWords::heap(1024 + 1), FLOWS / 4, FLOWS)
    }

    /// `pods` take whatever they get, one flow after the other.
    fn filled_by(pods: u16) -> Quota<SharedWords> {
        let quota = quota();
        loop {
            quota.share_out();
            if (1..=pods).filter(|&pod| quota.reserve(Pod(pod))).count() == 0 {
                return quota;
            }
        }
    }

    #[test]
    fn one_pod_gets_its_most_and_many_leave_room_for_the_next() {
        for (pods, each) in [(1, FLOWS / 4), (2, FLOWS / 4), (4, FLOWS / 6), (30, FLOWS / 32)] {
            let quota = filled_by(pods);
            let has = quota.flows_of(1);
            assert!(has.abs_diff(each) <= u64::from(pods), "{pods}: {has}, not {each}");
            let left = FLOWS - u64::from(pods) * has;
            assert!(left >= FLOWS / (u64::from(pods) + 3), "{pods} leave {left}");
            assert!(quota.limit() >= left / 3, "{pods}: {} of {left}", quota.limit());
        }
    }

    #[test]
    fn a_full_node_of_pods_does_not_fill_the_table_and_each_has_its_least() {
        let quota = filled_by(250);
        let all: u64 = (1..=250).map(|pod| quota.flows_of(pod)).sum();
        assert!(all < FLOWS, "{all}");
        assert!(quota.limit() >= FLOWS >> LEAST_SHARE_SHIFT);
        assert!(quota.reserve(Pod(251)));
    }

    #[test]
    fn every_device_has_an_account() {
        assert_eq!(Pod::of_device(0), Pod::NONE);
        assert_eq!(Pod::of_device(7), Pod(7));
        assert_eq!(Pod::of_device(0x2_0000), Pod(u16::MAX));
        let quota = Quota::new(SharedWords::heap(QUOTA_WORDS), 2);
        let pod = Pod::of_device(0x1_0000);
        assert_eq!(
            [quota.reserve(pod), quota.reserve(pod), quota.reserve(pod)],
            [true, true, false]
        );
        assert_eq!(quota.flows_of(0x1_0000), 2);
        quota.release(pod);
        quota.recount([pod, pod].into_iter());
        assert_eq!((quota.flows_of(0x1_0000), quota.limit()), (2, 2));
    }
}
