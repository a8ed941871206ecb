//! When the next message is due.
//!
//! Message `n` is due at `start + n / rate`, computed from the start each time:
//! a late one does not delay those after it, and rounding does not add up.

use std::thread;
use std::time::{Duration, Instant};

/// Below this the scheduler's own delay is larger than the wait: spin instead.
const SPIN: Duration = Duration::from_micros(60);

/// Paces a stream of messages.
#[derive(Debug)]
pub struct Pacer {
    start: Instant,
    rate: f64,
}

impl Pacer {
    /// Starts now. `rate` is in messages a second; 0 means without a pause.
    pub fn new(rate: f64) -> Self {
        Self { start: Instant::now(), rate }
    }

    /// Time from the start at which message `number` is due.
    #[expect(clippy::cast_precision_loss, reason = "2^53 messages are out of reach")]
    pub fn due(&self, number: u64) -> Duration {
        if self.rate > 0.0 {
            Duration::from_secs_f64(number as f64 / self.rate)
        } else {
            Duration::ZERO
        }
    }

    /// Waits until message `number` is due; at once if that time has passed.
    pub fn wait(&self, number: u64) {
        let due = self.start + self.due(number);
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            if left > SPIN {
                thread::sleep(left - SPIN);
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_do_not_drift() {
        let pacer = Pacer::new(3.0);
        assert_eq!(pacer.due(0), Duration::ZERO);
        assert_eq!(pacer.due(3_000_000), Duration::from_secs(1_000_000));
        assert_eq!(Pacer::new(0.0).due(u64::MAX), Duration::ZERO);
    }

    #[test]
    fn waits_for_its_turn() {
        let pacer = Pacer::new(1000.0);
        pacer.wait(20);
        assert!(pacer.elapsed() >= Duration::from_millis(20));
    }
}
