//! How many drops are told: so many a tick for each reason, with a reserve.
//!
//! The account is kept twice: where packets are dropped (each worker, each CPU), so that
//! handing over costs a flood next to nothing, and once more by the recorder over all of
//! them, so that the ring's time does not depend on how many they are.
//!
//! The hooks keep the same account (`bpf/drops.h`), with the same numbers. Time is the
//! flows' coarse tick, which both have at hand: reading a clock for every packet of a
//! flood would cost more than dropping it. It stands still while no worker runs, and then
//! nobody would read what is told either.

use crate::abi::{DROPS_A_TICK, DROPS_BURST};
use crate::flow::Tick;

/// The account of one reason, at one place or over all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    tick: Tick,
    credit: u32,
    left_out: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new()
    }
}

impl Budget {
    /// A full reserve.
    pub const fn new() -> Self {
        Self { tick: Tick(0), credit: DROPS_BURST, left_out: 0 }
    }

    /// Whether the drop at `now` is to be told. `Some`: it is, and so many before it were
    /// not, since the last one that was.
    #[inline]
    pub fn spend(&mut self, now: Tick) -> Option<u32> {
        if now != self.tick {
            let earned = now.0.wrapping_sub(self.tick.0).min(DROPS_BURST) * DROPS_A_TICK;
            self.credit = (self.credit + earned).min(DROPS_BURST);
            self.tick = now;
        }
        if self.credit == 0 {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        self.credit -= 1;
        Some(std::mem::take(&mut self.left_out))
    }

    /// One that was to be told could not be: it counts as left out, with the `before` it.
    #[inline]
    pub fn take_back(&mut self, before: u32) {
        self.leave_out(before.saturating_add(1));
    }

    /// So many more were left out, elsewhere or here.
    #[inline]
    pub fn leave_out(&mut self, packets: u32) {
        self.left_out = self.left_out.saturating_add(packets);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_at_a_steady_rate_and_nothing_is_lost_from_the_count() {
        let mut budget = Budget::new();
        let (mut told, mut left_out, ticks, a_tick) = (0u32, 0u32, 100, 10_000);
        for tick in 1000..1000 + ticks {
            for _ in 0..a_tick {
                if let Some(before) = budget.spend(Tick(tick)) {
                    told += 1;
                    left_out += before;
                }
            }
        }
        assert_eq!(told, DROPS_BURST + DROPS_A_TICK * (ticks - 1));
        // What followed the last that was told is told by the next.
        left_out += budget.spend(Tick(5000)).unwrap();
        assert_eq!(told + left_out, ticks * a_tick);
    }

    #[test]
    fn the_reserve_comes_back_and_no_more() {
        let mut budget = Budget::new();
        let spend_all = |budget: &mut Budget, now| {
            (0..1000).filter(|_| budget.spend(Tick(now)).is_some()).count()
        };
        assert_eq!(spend_all(&mut budget, 7), DROPS_BURST as usize);
        assert_eq!(spend_all(&mut budget, 8), DROPS_A_TICK as usize);
        assert_eq!(spend_all(&mut budget, 100_000), DROPS_BURST as usize);
        // A tick that another worker had written earlier: at most another reserve.
        assert_eq!(spend_all(&mut budget, 99_999), DROPS_BURST as usize);
    }

    #[test]
    fn what_could_not_be_told_is_left_out() {
        let mut budget = Budget::new();
        assert_eq!(budget.spend(Tick(1)), Some(0));
        budget.take_back(0);
        assert_eq!(budget.spend(Tick(1)), Some(1));
        budget.take_back(1);
        assert_eq!(budget.spend(Tick(1)), Some(2));
        assert_eq!(budget.spend(Tick(1)), Some(0));
    }
}
