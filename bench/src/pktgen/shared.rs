//! What the threads of a run know of each other.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Flows are established.
    Open,
    /// Frames are counted.
    Count,
    /// All frames are sent; the last ones are on their way.
    Drain,
    /// It is over, or failed.
    Over,
}

/// Phase and counts.
#[derive(Debug, Default)]
pub struct Shared {
    phase: AtomicU8,
    /// Frames sent and counted.
    pub sent: AtomicU64,
    /// Frames received.
    pub received: AtomicU64,
}

impl Shared {
    /// The present phase.
    pub fn phase(&self) -> Phase {
        // Acquire: who sees Drain sees the final count of frames sent.
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Open,
            1 => Phase::Count,
            2 => Phase::Drain,
            _ => Phase::Over,
        }
    }

    /// Goes on to a later phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::Release);
    }

    /// Ends the run when it is dropped, so that no thread waits for one that has failed.
    pub fn guard(&self) -> Guard<'_> {
        Guard(self)
    }
}

/// See [`Shared::guard`].
#[derive(Debug)]
pub struct Guard<'a>(&'a Shared);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.enter(Phase::Over);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_only_go_forward_and_a_dropped_guard_ends_the_run() {
        let shared = Shared::default();
        assert_eq!(shared.phase(), Phase::Open);
        shared.enter(Phase::Drain);
        shared.enter(Phase::Count);
        assert_eq!(shared.phase(), Phase::Drain);
        drop(shared.guard());
        assert_eq!(shared.phase(), Phase::Over);
    }
}
