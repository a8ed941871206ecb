//! How many flows are to the account of each pod, so that none takes the table from the
//! others.
//!
//! A flow is to the account of the pod that opens it, or, if that is none of this node, of the
//! one to which it is opened. The account stands in the flow's control word, so whoever frees
//! the slot, by the compare-exchange that frees it, knows whose it was, and tells it once.
//!
//! Workers, the admin side and the hooks (`bpf/flow.h`) count in the same words, a word a pod:
//!
//! ```text
//! reserve    fetch_add 1; if it was at the limit: fetch_sub 1, no flow
//! enter      claim a slot, publish      or, if there is none: release
//! free       compare-exchange ctl to free or busy, then release: fetch_sub 1
//! ```
//!
//! Invariants: a count is never below the number of the pod's flows, since it goes up before
//! the slot is taken and down after it is free; so it is never negative, and no pod has more
//! flows than the limit, whoever races. At rest both are equal. A writer that dies in between
//! leaves a count too high; [`super::FlowTable::recount`] puts that right at the next start.
//!
//! Two devices whose numbers agree in the lower 16 bits share an account.
#![forbid(unsafe_code)]

use super::key::Side;
use crate::abi;
use crate::mem::Words;
use crate::sync::{AtomicU64, Ordering};

/// Words that a daemon gives the accounts: one for each [`Pod`].
pub const QUOTA_WORDS: usize = abi::QUOTA_WORDS as usize;

/// Whose account a flow is to: the low bits of a pod's device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Pod(pub u16);

impl Pod {
    /// Nobody's: not counted, not limited.
    pub const NONE: Self = Self(0);

    /// Of a flow between these devices ([`Side::index`]; 0: not on this node).
    #[allow(clippy::cast_possible_truncation)] // the low bits are what is wanted
    pub const fn of(initiator: Side, ifindex: [u32; 2]) -> Self {
        let (own, other) = (ifindex[initiator.index()], ifindex[initiator.other().index()]);
        Self(if own != 0 { own as u16 } else { other as u16 })
    }
}

/// The accounts of all pods, and the limit.
#[derive(Debug)]
pub struct Quota<W> {
    words: W,
    limit: u64,
}

impl<W: Words> Quota<W> {
    /// Accounts in `words`, of which there must be a power of two ([`QUOTA_WORDS`] where the
    /// steering program counts as well); at most `limit` flows each, at least 1.
    pub fn new(words: W, limit: u64) -> Self {
        debug_assert!(words.words().len().is_power_of_two());
        Self { words, limit: limit.max(1) }
    }

    fn word(&self, pod: Pod) -> Option<&AtomicU64> {
        let words = self.words.words();
        (pod != Pod::NONE).then(|| words.get(usize::from(pod.0) % words.len().max(1)))?
    }

    /// Takes a flow to the pod's account. False if it has as many as it may.
    pub(super) fn reserve(&self, pod: Pod) -> bool {
        let Some(word) = self.word(pod) else { return true };
        // Relaxed: nothing is read on the strength of the count. That it is not below the
        // truth follows from the order of all changes of this one word: a release follows
        // the claim that freed the slot, which follows the publication by whoever reserved.
        if word.fetch_add(1, Ordering::Relaxed) < self.limit {
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
        self.words.words().iter().for_each(|word| word.store(0, Ordering::Relaxed));
        for word in pods.filter_map(|pod| self.word(pod)) {
            word.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Flows to the account of the pod behind a device.
    #[allow(clippy::cast_possible_truncation)] // as in `Pod::of`
    pub fn flows_of(&self, ifindex: u32) -> u64 {
        self.word(Pod(ifindex as u16)).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Most flows to one account.
    pub const fn limit(&self) -> u64 {
        self.limit
    }
}
