//! How much of the flow table is to be looked at, by the time that has passed.
//!
//! A worker under load calls a hundred times a second, one that sleeps ten times. What a call
//! may not do at once, so that no burst waits long, is owed, and paid by calls that are made
//! while there is nothing else to do ([`Pace::is_behind`]).
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;

/// In this time the whole flow table is passed over, whatever its size. Nothing waits for it: a
/// flow whose time is over is no flow, whether or not it is in the table still, and makes room
/// for others first.
pub(super) const PASS_NS: u64 = 30_000_000_000;

/// Slots that are looked at in one call: the fewest, and, so that no burst waits longer than
/// some 100 µs, the most.
const STEP: RangeInclusive<usize> = 256..=16_384;

/// What is owed.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When it was asked last.
    asked_ns: u64,
    /// Slots; never more than there are.
    owed: usize,
    /// What is left of a slot, in parts of [`PASS_NS`].
    rest: u64,
}

impl Pace {
    /// How many of `slots` to look at now.
    pub fn step(&mut self, slots: usize, now_ns: u64) -> usize {
        let elapsed = now_ns.saturating_sub(self.asked_ns).min(PASS_NS);
        self.asked_ns = now_ns;
        let grown = slots as u128 * u128::from(elapsed) + u128::from(self.rest);
        self.rest = u64::try_from(grown % u128::from(PASS_NS)).unwrap_or(0);
        let grown = usize::try_from(grown / u128::from(PASS_NS)).unwrap_or(usize::MAX);
        self.owed = self.owed.saturating_add(grown).min(slots);
        let step = self.owed.clamp(*STEP.start(), *STEP.end());
        self.owed = self.owed.saturating_sub(step);
        step
    }

    /// True if another call is due as soon as there is nothing else to do.
    pub fn is_behind(&self) -> bool {
        self.owed > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Slots looked at in `seconds` by a worker that calls every `interval_ms`, and whether it
    /// is idle then.
    fn looked_at(slots: usize, interval_ms: u64, idle: bool, seconds: u64) -> usize {
        let mut pace = Pace { asked_ns: 0, ..Pace::default() };
        let mut sum = 0;
        for n in 1..=seconds * 1000 / interval_ms {
            let now = n * interval_ms * 1_000_000;
            let mut step = pace.step(slots, now);
            assert!(step <= *STEP.end());
            sum += step;
            while idle && pace.is_behind() {
                step = pace.step(slots, now);
                assert!(step <= *STEP.end());
                sum += step;
            }
        }
        sum
    }

    #[test]
    fn a_pass_takes_its_time_whatever_the_size_and_whether_workers_sleep() {
        for slots in [64, 4096, 131_072, 3 << 20, 3 << 24] {
            for (interval, idle) in [(100, true), (10, true), (10, false), (33, true)] {
                // As much again for what was owed at the end.
                let sum = looked_at(slots, interval, idle, 31);
                assert!(sum >= slots, "{sum} of {slots}, every {interval} ms, idle {idle}");
                let small = slots < 1 << 20;
                assert!(small || sum <= slots * 11 / 10, "{sum} of {slots}: too much work");
            }
        }
    }

    proptest! {
        #[test]
        fn no_time_is_lost_between_calls(
            slots in 1_usize..1 << 26,
            gaps in proptest::collection::vec(0_u64..300_000_000, 1..100),
        ) {
            let mut pace = Pace::default();
            let (mut now, mut sum) = (0, 0);
            for gap in gaps {
                now += gap;
                sum += pace.step(slots, now);
                while pace.is_behind() {
                    sum += pace.step(slots, now);
                }
            }
            let due = slots as u128 * u128::from(now.min(PASS_NS)) / u128::from(PASS_NS);
            prop_assert!(sum as u128 >= due, "{} of {}", sum, due);
        }
    }
}
