//! Which drops of a worker are told, and handing them over.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use weir_table::counters::{Counter, CounterBlock, Direction, Reason};
use weir_table::drops::Budget;
use weir_table::flow::Tick;
use weir_table::mem::Words;

use super::{DropEvent, FRAME_BYTES};
use crate::shim::{SHIM_LEN, Shim};

/// Drops on their way from one worker to the recorder. Bounded: room for what several
/// reasons at once may tell between two looks of the recorder.
pub type DropQueue = ArrayQueue<DropEvent>;

/// Drops that a queue holds, some 60 KB.
const QUEUE: usize = 256;

/// What a worker tells of the packets that it drops.
#[derive(Debug)]
pub struct DropSampler {
    budgets: [Budget; Reason::ALL.len()],
    queue: Arc<DropQueue>,
    now_ns: u64,
}

/// A queue between a worker and the recorder; all its memory is allocated here.
pub fn queue() -> Arc<DropQueue> {
    Arc::new(ArrayQueue::new(QUEUE))
}

impl DropSampler {
    /// A sampler that tells into `queue`.
    pub const fn new(queue: Arc<DropQueue>) -> Self {
        Self { budgets: [Budget::new(); Reason::ALL.len()], queue, now_ns: 0 }
    }

    /// A burst begins, at this time of the clock of flows.
    pub fn begin(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// A punted frame was dropped, and is as it came.
    #[inline]
    pub fn dropped<C: Words>(
        &mut self,
        punted: &[u8],
        direction: Direction,
        reason: Reason,
        counters: &CounterBlock<C>,
    ) {
        counters.add_drops(direction, reason, 1);
        let Some(budget) = self.budgets.get_mut(reason as usize) else { return };
        match budget.spend(Tick::from_nanos(self.now_ns)) {
            None => counters.add(Counter::DropsLeftOut, 1),
            Some(left_out) => self.tell(punted, (direction, reason), left_out, counters),
        }
    }

    #[cold]
    fn tell<C: Words>(
        &mut self,
        punted: &[u8],
        (direction, reason): (Direction, Reason),
        left_out: u32,
        counters: &CounterBlock<C>,
    ) {
        // Without a shim it is not known what the frame is: told as it is.
        let shim = Shim::of_punted(punted).ok();
        let frame = if shim.is_some() { punted.get(SHIM_LEN..) } else { Some(punted) };
        let frame = frame.unwrap_or_default();
        let captured = frame.len().min(FRAME_BYTES);
        let mut head = [0; FRAME_BYTES];
        head[..captured].copy_from_slice(&frame[..captured]);
        let event = DropEvent {
            at_ns: self.now_ns,
            reason: reason.as_str(),
            ifindex: shim.map_or(0, |shim| shim.ifindex),
            direction,
            left_out,
            frame_len: u32::try_from(frame.len()).unwrap_or(u32::MAX),
            captured,
            frame: head,
        };
        if self.queue.push(event).is_ok() {
            counters.add(Counter::DropsTold, 1);
        } else {
            counters.add(Counter::DropsLeftOut, 1);
            if let Some(budget) = self.budgets.get_mut(reason as usize) {
                budget.take_back(left_out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_table::counters::{Counters, words_for};
    use weir_table::mem::SharedWords;

    use super::*;
    use crate::shim::Direction as HookDirection;

    fn block() -> CounterBlock<Arc<SharedWords>> {
        let words = Arc::new(SharedWords::heap(words_for(1)));
        Counters::init(Arc::clone(&words), 1).unwrap();
        CounterBlock::new(words, 0).unwrap()
    }

    fn punted(bytes: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        Shim::new(7, HookDirection::ToPod).push_punted(bytes, &mut frame);
        frame
    }

    #[test]
    fn every_drop_is_counted_and_a_sample_is_told() {
        let (mut sampler, counters) = (DropSampler::new(queue()), block());
        let frame = punted(&[0xab; 1500]);
        for _ in 0..1000 {
            sampler.dropped(&frame, Direction::Ingress, Reason::PolicyIngress, &counters);
        }
        // Another reason has a budget of its own.
        sampler.dropped(&frame, Direction::Egress, Reason::SpoofedSource, &counters);
        sampler.begin(1 << 40);
        sampler.dropped(&frame, Direction::Ingress, Reason::PolicyIngress, &counters);
        assert_eq!(counters.drops(Direction::Ingress, Reason::PolicyIngress), 1001);
        let told: Vec<DropEvent> = std::iter::from_fn(|| sampler.queue.pop()).collect();
        assert_eq!(counters.get(Counter::DropsTold), told.len() as u64);
        assert_eq!(counters.get(Counter::DropsLeftOut) + told.len() as u64, 1002);
        let [.., spoofed, last] = &told[..] else { panic!("{}", told.len()) };
        assert_eq!(spoofed.reason, "spoofed_source");
        assert_eq!((last.ifindex, last.frame_len, last.captured), (7, 1500, FRAME_BYTES));
        assert_eq!(u64::from(last.left_out), counters.get(Counter::DropsLeftOut));
        assert_eq!(last.head(), [0xab; FRAME_BYTES]);
    }

    #[test]
    fn a_queue_that_nobody_empties_costs_records_only() {
        let (mut sampler, counters) = (DropSampler::new(queue()), block());
        let frame = punted(&[1; 60]);
        for second in 0..100 {
            sampler.begin(second * 1_000_000_000);
            for _ in 0..50 {
                sampler.dropped(&frame, Direction::Egress, Reason::PolicyEgress, &counters);
            }
        }
        assert_eq!(counters.drops(Direction::Egress, Reason::PolicyEgress), 5000);
        assert_eq!(counters.get(Counter::DropsTold), QUEUE as u64);
        while sampler.queue.pop().is_some() {}
        sampler.dropped(&frame, Direction::Egress, Reason::PolicyEgress, &counters);
        sampler.begin(1 << 50);
        sampler.dropped(&frame, Direction::Egress, Reason::PolicyEgress, &counters);
        let told = std::iter::from_fn(|| sampler.queue.pop());
        let left_out: u32 = told.map(|event| event.left_out).sum();
        assert_eq!(u64::from(left_out), counters.get(Counter::DropsLeftOut));
    }

    #[test]
    fn what_has_no_shim_is_told_as_it_is() {
        let (mut sampler, counters) = (DropSampler::new(queue()), block());
        sampler.dropped(&[5; 20], Direction::Egress, Reason::BadShim, &counters);
        let event = sampler.queue.pop().unwrap();
        assert_eq!((event.ifindex, event.head()), (0, &[5; 20][..]));
    }
}
