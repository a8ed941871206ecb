//! Who opened a connection that the host's translation has given another source.
//!
//! ```text
//!  client ──(client → Service)──▶ host: DNAT, masquerade ──(node → backend)──▶ hook of the backend
//!                                        │ conntrack                                  │
//!                                        └──── reply tuple: (backend → node) ◀── asked for
//! ```
//!
//! What comes to a pod through a NodePort, over a hairpin, or from a pod that the CNI masquerades,
//! bears an address of the node, and is not the node. Policies are about who opened it. The host's
//! conntrack knows: its entry is there before the packet reaches the pod's device, since it is
//! confirmed in POSTROUTING. So the first packet of such a flow, and whoever judges the flow again,
//! asks for the entry by the tuple of its answers.
//!
//! Invariants:
//! - the answer is never an address of the node: a packet from outside that only says to be the
//!   node's is an outsider's;
//! - no question blocks: the kernel answers within the call that asks, or not at all;
//! - a flood of first packets costs a bounded share of a worker's time: beyond its limit nothing
//!   is asked, and nothing passes.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::fmt;

use weir_table::addr::Address;

use crate::clock;
use crate::parse::FiveTuple;
use crate::seed::conntrack::{DumpError, Entries};

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Original {
    /// Whoever has this address.
    Is(Address),
    /// Nobody that the host knows.
    Unknown,
    /// Too much is asked for at present.
    Busy,
}

/// Whoever can be asked; the kernel, or a test.
pub trait Origins: fmt::Debug {
    /// Who opened the connection of which packets reach their receiver with this 5-tuple.
    fn original(&self, tuple: &FiveTuple) -> Original;
}

/// Questions a second that one worker asks, steadily, and after a pause at once. Each takes some
/// 10 µs, so that a flood takes a twentieth of the worker's time.
const RATE: u64 = 5_000;
const BURST: u64 = 1_000;
const INTERVAL_NS: u64 = 1_000_000_000 / RATE;

/// The conntrack table of the network namespace in which it was opened.
pub struct HostConntrack {
    state: RefCell<State>,
}

struct State {
    entries: Entries,
    /// When the credit of questions will be used up, `CLOCK_MONOTONIC` in ns; `None`: no limit.
    spent_until: Option<u64>,
    /// That it fails was told.
    told: bool,
}

impl HostConntrack {
    /// For a worker: with a limit.
    ///
    /// # Errors
    /// In words: the kernel has no such interface, or refuses it.
    pub fn open() -> Result<Self, String> {
        Self::with(Some(0))
    }

    /// For the admin thread, which asks about flows that passed a worker once.
    ///
    /// # Errors
    /// As [`HostConntrack::open`].
    pub fn open_unlimited() -> Result<Self, String> {
        Self::with(None)
    }

    fn with(spent_until: Option<u64>) -> Result<Self, String> {
        let entries = Entries::open().map_err(|error| error.to_string())?;
        Ok(Self { state: RefCell::new(State { entries, spent_until, told: false }) })
    }
}

impl fmt::Debug for HostConntrack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostConntrack").finish_non_exhaustive()
    }
}

impl Origins for HostConntrack {
    fn original(&self, tuple: &FiveTuple) -> Original {
        // One thread has it, which asks one question at a time.
        let Ok(mut state) = self.state.try_borrow_mut() else { return Original::Busy };
        if !state.may_ask(clock::monotonic_ns()) {
            return Original::Busy;
        }
        match state.entries.by_reply(&tuple.reversed()) {
            Ok(Some(entry)) if entry.zone == 0 => Original::Is(entry.original.src),
            Ok(_) => Original::Unknown,
            Err(error) => {
                state.tell(&error);
                Original::Unknown
            }
        }
    }
}

impl State {
    /// A virtual clock that each question moves on, as the hooks' punt limit.
    fn may_ask(&mut self, now: u64) -> bool {
        let Some(until) = &mut self.spent_until else { return true };
        let earliest = now.saturating_sub(BURST * INTERVAL_NS);
        let next = (*until).max(earliest) + INTERVAL_NS;
        let may = next <= now;
        if may {
            *until = next;
        }
        may
    }

    fn tell(&mut self, error: &DumpError) {
        if !self.told {
            self.told = true;
            tracing::warn!(
                %error,
                "connections that the host has given its own address are judged as those of \
                 outsiders: who opened them cannot be found out"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_have_a_limit() {
        let Ok(entries) = Entries::open() else { return };
        let mut state = State { entries, spent_until: Some(0), told: false };
        let start = 1_000_000_000_000;
        let asked = (0..BURST + 10).filter(|_| state.may_ask(start)).count();
        assert_eq!(asked as u64, BURST);
        assert!(!state.may_ask(start + INTERVAL_NS - 1));
        assert!(state.may_ask(start + INTERVAL_NS));
        assert!(!state.may_ask(start + INTERVAL_NS));
        let later = start + 1_000_000_000;
        let asked = (0..BURST + 10).filter(|_| state.may_ask(later)).count();
        assert_eq!(asked as u64, BURST, "a pause gives no more than the burst");
        state.spent_until = None;
        assert!((0..3 * BURST).all(|_| state.may_ask(later)));
    }
}
