//! Which of all that is told is recorded: one budget a reason over all workers and CPUs.
//!
//! Each of them has a budget of its own, which bounds what it hands over. Their number is the
//! node's: 64 CPUs may tell 64 times as much. A record costs names, a question to the policy
//! table and a place in a ring that all reasons share, so there is one account more, here.

use std::collections::HashMap;

use weir_table::drops::Budget;
use weir_table::flow::Tick;

use super::DropEvent;

/// The account of what is recorded.
#[derive(Debug, Default)]
pub(super) struct Sample {
    /// As many as there are reasons.
    budgets: HashMap<&'static str, Budget>,
}

impl Sample {
    /// Sorts what one look has found by time and keeps of each reason what its budget allows
    /// at `now_ns`. What is not kept counts as left out before the next of its reason that
    /// is, with all that was left out before it where it was dropped.
    pub(super) fn select<T>(&mut self, events: &mut Vec<(T, DropEvent)>, now_ns: u64) {
        // One time for the whole look: the clocks of the sources are not in step, and a
        // budget whose time goes back would fill up.
        let now = Tick::from_nanos(now_ns);
        events.sort_by_key(|(_, event)| event.at_ns);
        events.retain_mut(|(_, event)| {
            let budget = self.budgets.entry(event.reason).or_default();
            match budget.spend(now) {
                Some(before) => {
                    event.left_out = event.left_out.saturating_add(before);
                    true
                }
                None => {
                    budget.leave_out(event.left_out);
                    false
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weir_table::abi::{DROPS_A_TICK, DROPS_BURST};
    use weir_table::counters::{CounterBlock, Counters, Direction, Reason, words_for};
    use weir_table::drops::{DropRing, Follower, RECORDS, RingWriter};
    use weir_table::mem::SharedWords;

    use super::super::{DropSampler, queue};
    use super::*;

    /// A node of 64 workers whose every packet is dropped, for as many seconds, 20 looks each.
    /// Gives what is recorded of each reason meanwhile, and checks that a follower that looks
    /// as often misses nothing, and that every packet is recorded or left out of a record.
    fn flood(reasons: &[Reason], seconds: u64) -> HashMap<&'static str, u64> {
        const LOOK_NS: u64 = 50_000_000;
        let words = Arc::new(SharedWords::heap(words_for(1)));
        Counters::init(Arc::clone(&words), 1).unwrap();
        let counters = CounterBlock::new(words, 0).unwrap();
        let queues: Vec<_> = (0..64).map(|_| queue()).collect();
        let mut samplers: Vec<_> =
            queues.iter().map(|queue| DropSampler::new(Arc::clone(queue))).collect();
        let words = Arc::new(SharedWords::heap(weir_table::drops::words_for(RECORDS, 1)));
        let mut ring = RingWriter::create(Arc::clone(&words), RECORDS, 1).unwrap();
        let mut follower = Follower::new(DropRing::open(words, 1).unwrap(), 0);
        let (mut sample, mut known) = (Sample::default(), 0);
        let mut look = |now_ns: u64, drops: u64, recorded: &mut HashMap<&'static str, u64>| {
            for sampler in &mut samplers {
                sampler.begin(now_ns);
                for _ in 0..drops {
                    for reason in reasons {
                        sampler.dropped(&[0; 60], Direction::Egress, *reason, &counters);
                    }
                }
            }
            let told = queues.iter().flat_map(|queue| std::iter::from_fn(|| queue.pop()));
            let mut events: Vec<((), DropEvent)> = told.map(|event| ((), event)).collect();
            sample.select(&mut events, now_ns);
            assert!(events.is_sorted_by_key(|(_, event)| event.at_ns));
            for (_, event) in events {
                *recorded.entry(event.reason).or_insert(0) += 1;
                known += 1 + u64::from(event.left_out);
                ring.push(&[0], u64::from(event.left_out));
            }
            while follower.next(&mut [0]).is_some() {}
            assert_eq!(follower.missed(), 0, "a follower came too late");
        };
        let (looks, mut recorded) = (seconds * 20, HashMap::new());
        (1..=looks).for_each(|n| look(n * LOOK_NS, 100, &mut recorded));
        // The flood is over; what the accounts still hold comes with the next that is told.
        let later = (looks + 1000) * LOOK_NS;
        look(later, 1, &mut HashMap::new());
        look(later * 2, 1, &mut HashMap::new());
        let dropped: u64 = reasons.iter().map(|r| counters.drops(Direction::Egress, *r)).sum();
        // Of the last 64 of a reason a reserve's worth is recorded, the rest not yet told of.
        let open = u64::from(64 - DROPS_BURST) * reasons.len() as u64;
        assert_eq!(known + open, dropped);
        recorded
    }

    #[test]
    fn what_64_workers_tell_of_a_reason_is_recorded_as_if_one_did() {
        let recorded = flood(&[Reason::PolicyIngress], 10);
        let ticks = u32::try_from(10_000_000_000u64 >> 26).unwrap();
        let most = DROPS_BURST + DROPS_A_TICK * (ticks + 1);
        let told = recorded["policy_ingress"];
        assert!(told <= u64::from(most), "{told} recorded");
        // One reason alone leaves the ring ten seconds of history.
        assert!((1900..=RECORDS).contains(&told), "{told} recorded");
    }

    #[test]
    fn floods_of_every_reason_at_once_leave_a_follower_nothing_to_miss() {
        let recorded = flood(Reason::ALL, 2);
        assert_eq!(recorded.len(), Reason::ALL.len());
        assert!(recorded.values().all(|told| *told >= u64::from(DROPS_BURST)));
    }
}
