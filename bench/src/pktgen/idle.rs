//! Waiting, told apart from work.
//!
//! A generator that must hit the microsecond cannot sleep; it looks at the clock again and
//! again, and the processor time of that is nobody's cost. Two looks in a row with nothing to do
//! between are waiting if they are close together. If they are not, something else ran on the
//! processor: softirqs, which are the path's work and are charged to this thread, or another
//! thread, which is not. Either way the gap is not waiting.

/// Two looks at the clock, and nothing else, take less than this.
const LOOK_NS: u64 = 1_000;

/// Adds up the time spent waiting.
#[derive(Clone, Copy, Debug, Default)]
pub struct Idle {
    last: Option<u64>,
    total_ns: u64,
}

impl Idle {
    /// Nothing was to be done at `now` (nanoseconds of any clock).
    pub fn nothing(&mut self, now: u64) {
        if let Some(last) = self.last {
            let gap = now.saturating_sub(last);
            if gap < LOOK_NS {
                self.total_ns += gap;
            }
        }
        self.last = Some(now);
    }

    /// Something was done, or the thread slept: the time until the next look is not waiting.
    pub fn something(&mut self) {
        self.last = None;
    }

    /// Nanoseconds spent waiting so far.
    pub fn total_ns(&self) -> u64 {
        self.total_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_short_gaps_between_two_looks_are_waiting() {
        let mut idle = Idle::default();
        idle.nothing(1000);
        idle.nothing(1100);
        idle.nothing(1150);
        assert_eq!(idle.total_ns(), 150);
        idle.nothing(9000); // an interrupt
        assert_eq!(idle.total_ns(), 150);
        idle.something();
        idle.nothing(9100);
        idle.nothing(9150);
        assert_eq!(idle.total_ns(), 200);
    }
}
