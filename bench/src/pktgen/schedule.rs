//! When each frame is to be sent, and which of them begin a flow.
//!
//! Pure: times go in and out as nanoseconds from the start.
//!
//! Frame `n` is due at `n / rate`, computed from the start each time, so that a late frame does
//! not delay those after it and rounding does not add up. Latency counts from that time, not
//! from the time at which the frame was sent after all: otherwise a path that holds up the
//! generator would hide the wait of every frame behind (coordinated omission).

use super::plan::Pace;

/// The schedule of a run.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Nanoseconds from a frame to the next; `None`: flat out.
    interval: Option<f64>,
    /// New flows a nanosecond.
    new_flows: f64,
}

impl Schedule {
    /// A schedule of `pace`, of whose frames `new_flows` a second begin a flow.
    pub fn new(pace: Pace, new_flows: f64) -> Self {
        let interval = match pace {
            Pace::PerSecond(rate) => Some(1e9 / rate),
            Pace::Max => None,
        };
        Self { interval, new_flows: new_flows / 1e9 }
    }

    /// When frame `number` is due; flat out, now.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a product of numbers that are not negative; f64 is exact to a nanosecond for 100 days"
    )]
    pub fn due(&self, number: u64, now: u64) -> u64 {
        self.interval.map_or(now, |interval| (number as f64 * interval) as u64)
    }

    /// How many frames from `next` on are due at `now`, at most `most`.
    pub fn batch(&self, next: u64, now: u64, most: usize) -> usize {
        (0..most).take_while(|&n| self.due(next + n as u64, now) <= now).count()
    }

    /// Whether the frame due at `due` begins a flow, when `begun` have before.
    #[expect(clippy::cast_precision_loss, reason = "as above")]
    pub fn begins_flow(&self, due: u64, begun: u64) -> bool {
        self.new_flows > 0.0 && begun as f64 <= due as f64 * self.new_flows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn due_times_do_not_drift() {
        let schedule = Schedule::new(Pace::PerSecond(3.0), 0.0);
        assert_eq!([0, 3, 3_000_000].map(|n| schedule.due(n, 7)), [0, SECOND, 1_000_000 * SECOND]);
        assert_eq!(Schedule::new(Pace::Max, 0.0).due(5, 7), 7);
    }

    #[test]
    fn a_batch_is_what_is_due() {
        let schedule = Schedule::new(Pace::PerSecond(1e6), 0.0);
        assert_eq!(schedule.batch(0, 0, 32), 1, "the first at once");
        assert_eq!(schedule.batch(1, 999, 32), 0);
        assert_eq!(schedule.batch(1, 5000, 32), 5);
        assert_eq!(schedule.batch(1, SECOND, 32), 32);
        assert_eq!(Schedule::new(Pace::Max, 0.0).batch(9, 0, 32), 32);
    }

    proptest! {
        /// Sent whenever the clock is looked at, a second holds as many frames as the rate says,
        /// and new flows likewise.
        #[test]
        fn a_second_holds_what_the_rate_says(rate in 1_u32..20_000, new in 0_u32..20_000, look in 100_u64..5_000_000) {
            let new = new.min(rate);
            let schedule = Schedule::new(Pace::PerSecond(f64::from(rate)), f64::from(new));
            let (mut next, mut begun, mut now) = (0, 0, 0);
            while now < SECOND {
                let batch = schedule.batch(next, now, 32) as u64;
                for n in next..next + batch {
                    prop_assert!(schedule.due(n, now) <= now);
                    begun += u64::from(schedule.begins_flow(schedule.due(n, now), begun));
                }
                next += batch;
                if batch < 32 {
                    now += look;
                }
            }
            let missing = u64::from(rate).abs_diff(next) * SECOND / u64::from(rate);
            prop_assert!(missing <= look + SECOND / u64::from(rate), "{next} of {rate}");
            let wanted = u64::from(new) * next / u64::from(rate);
            prop_assert!(begun.abs_diff(wanted) <= 2, "{begun} new flows, {wanted} wanted");
        }
    }
}
