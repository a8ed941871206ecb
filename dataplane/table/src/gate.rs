//! Knowing when every worker has taken a change over, without stopping any of them.
//!
//! The admin thread replaces what workers read (a pointer, elsewhere) and then wants to
//! say "enforced": from now on no worker decides by the old state. A worker that runs
//! says so by itself, once a burst ([`Gate::entered`]). A worker that sleeps in poll(2)
//! cannot; but it need not, because it looks at the pointer before its next burst. So it
//! says that it sleeps, and that counts as well.
//!
//! ```text
//!  worker                          admin
//!  parked = true                   pointer = new
//!  poll(2)                         fence
//!  parked = false                  parked?  -> true: acknowledged
//!  fence
//!  read pointer                    -> sees new
//! ```
//!
//! Invariant: when [`Gate::acknowledged`] has returned true for a version, every burst
//! that the worker begins afterwards reads a pointer at least as new as that version.
//! The two fences make it so: if the admin still reads `parked == true`, its fence comes
//! before the worker's in the total order of fences, so the worker's later read of the
//! pointer cannot miss the admin's earlier write. The loom test below explores it.

use crate::sync::{AtomicU64, Ordering, fence};

const PARKED: u64 = 1 << 63;

/// One worker's acknowledgement. One word, so that "asleep" and "seen" change together.
#[derive(Debug)]
pub struct Gate(AtomicU64);

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// A worker that has not started: it counts as asleep.
    pub fn new() -> Self {
        Self(AtomicU64::new(PARKED))
    }

    /// The worker works by `version` from here on.
    #[inline]
    pub fn entered(&self, version: u64) {
        self.0.store(version & !PARKED, Ordering::Release);
    }

    /// The worker is about to sleep, between two bursts.
    pub fn park(&self) {
        self.0.fetch_or(PARKED, Ordering::SeqCst);
    }

    /// The worker is awake; it must read the pointer before its next burst.
    pub fn unpark(&self) {
        self.0.fetch_and(!PARKED, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// True once the worker cannot begin a burst by anything older than `version`. The
    /// caller has published that version before it asks.
    pub fn acknowledged(&self, version: u64) -> bool {
        fence(Ordering::SeqCst);
        let word = self.0.load(Ordering::SeqCst);
        word & PARKED != 0 || word >= version
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn asleep_or_up_to_date_counts() {
        let gate = Gate::new();
        assert!(gate.acknowledged(1), "a worker that has not started decides nothing");
        gate.unpark();
        gate.entered(1);
        assert!(gate.acknowledged(1));
        assert!(!gate.acknowledged(2));
        gate.park();
        assert!(gate.acknowledged(2));
        gate.unpark();
        assert!(!gate.acknowledged(2), "awake again, and not known to have looked");
        gate.entered(2);
        assert!(gate.acknowledged(2));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// After an acknowledgement no burst runs by the old pointer, whether the worker
    /// slept or ran when the admin asked.
    #[test]
    fn loom_no_old_burst_after_acknowledgement() {
        loom::model(|| {
            let gate = Arc::new(Gate::new());
            let pointer = Arc::new(AtomicU64::new(1));
            let enforced = Arc::new(AtomicU64::new(0));
            let worker = {
                let (gate, pointer, enforced) = (gate.clone(), pointer.clone(), enforced.clone());
                thread::spawn(move || {
                    for _ in 0..2 {
                        gate.unpark();
                        // What was promised before this burst began.
                        let promised = enforced.load(Ordering::SeqCst);
                        let version = pointer.load(Ordering::Relaxed);
                        assert!(version >= promised, "a burst by {version} after {promised}");
                        gate.entered(version);
                        gate.park();
                    }
                })
            };
            pointer.store(2, Ordering::SeqCst);
            if gate.acknowledged(2) {
                enforced.store(2, Ordering::SeqCst);
            }
            worker.join().unwrap();
        });
    }
}
