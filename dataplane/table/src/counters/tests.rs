//! The layout, the sums and the refusals.

use std::collections::HashSet;

use super::*;
use crate::mem::{SharedWords, heap_words};

#[test]
fn names_are_unique_and_in_order() {
    assert_eq!(Reason::NAMES.len(), Reason::ALL.len());
    assert_eq!(Reason::NAMES.iter().collect::<HashSet<_>>().len(), Reason::NAMES.len());
    assert_eq!(Counter::NAMES.iter().collect::<HashSet<_>>().len(), Counter::NAMES.len());
    for (i, &reason) in Reason::ALL.iter().enumerate() {
        assert_eq!(reason as usize, i);
        assert_eq!(reason.as_str(), Reason::NAMES[i]);
    }
}

#[test]
fn a_reader_sums_the_workers() {
    let words = SharedWords::heap(words_for(3));
    let counters = Counters::init(&words, 3).unwrap();
    for worker in 0..3 {
        let block = CounterBlock::new(&words, worker).unwrap();
        block.add(Counter::RxFrames, 10 + worker as u64);
        block.add(Counter::RxFrames, 1);
        block.add_drops(Direction::Ingress, Reason::PolicyIngress, 2);
        block.set(Counter::XskRxRingFull, 5);
    }
    let reader = Counters::open(&words).unwrap();
    assert_eq!(reader.workers(), 3);
    assert_eq!(reader.total(Counter::RxFrames), 10 + 11 + 12 + 3);
    assert_eq!(reader.total(Counter::XskRxRingFull), 15);
    assert_eq!(reader.total(Counter::RxBytes), 0);
    assert_eq!(reader.total_drops(Direction::Ingress, Reason::PolicyIngress), 6);
    assert_eq!(reader.total_drops(Direction::Egress, Reason::PolicyIngress), 0);
    assert_eq!(reader.worker(1).unwrap().get(Counter::RxFrames), 12);
    assert!(counters.worker(3).is_none());
}

#[test]
fn no_two_values_share_a_word() {
    let words = heap_words(words_for(1));
    let counters = Counters::init(&words, 1).unwrap();
    let block = CounterBlock::new(&words, 0).unwrap();
    let mut expected = 0;
    block.set_generation(1 << 40);
    block.set_heartbeat(1 << 41);
    for &counter in Counter::ALL {
        expected += 1;
        block.add(counter, expected);
    }
    for direction in Direction::ALL {
        for &reason in Reason::ALL {
            expected += 1;
            block.add_drops(direction, reason, expected);
        }
    }
    let mut found = 0;
    for &counter in Counter::ALL {
        found += 1;
        assert_eq!(counters.total(counter), found);
    }
    for direction in Direction::ALL {
        for &reason in Reason::ALL {
            found += 1;
            assert_eq!(counters.total_drops(direction, reason), found);
        }
    }
    assert_eq!((block.generation(), block.heartbeat()), (1 << 40, 1 << 41));
}

#[test]
fn the_receipt_needs_every_worker() {
    let words = heap_words(words_for(2));
    let counters = Counters::init(&words, 2).unwrap();
    assert_eq!(counters.enforced(), Some(Enforced::default()));
    CounterBlock::new(&words, 0).unwrap().set_generation(4);
    assert_eq!(counters.lowest_generation(), 0);
    CounterBlock::new(&words, 1).unwrap().set_generation(3);
    assert_eq!(counters.lowest_generation(), 3);
    let enforced = Enforced { generation: 3, at_ns: 99 };
    counters.record_enforced(enforced);
    assert_eq!(Counters::open(&words).unwrap().enforced(), Some(enforced));
    counters.record_enforced(Enforced { generation: 4, at_ns: 100 });
    assert_eq!(counters.enforced().unwrap().generation, 4);
}

#[test]
fn a_dead_writer_does_not_hang_the_reader() {
    let words = heap_words(words_for(1));
    let counters = Counters::init(&words, 1).unwrap();
    words[H_SEQUENCE].store(1, Ordering::Relaxed);
    assert_eq!(counters.enforced(), None);
    counters.record_enforced(Enforced { generation: 1, at_ns: 1 });
    assert_eq!(counters.enforced().unwrap().generation, 1);
}

#[test]
fn foreign_memory_is_refused() {
    let short = heap_words(10);
    assert!(matches!(Counters::open(&short), Err(CountersError::TooShort { .. })));
    let words = heap_words(words_for(2));
    assert_eq!(Counters::open(&words).unwrap_err(), CountersError::Magic);
    assert_eq!(Counters::init(&words, 0).unwrap_err(), CountersError::Workers(0));
    assert!(matches!(Counters::init(&words, 3), Err(CountersError::TooShort { .. })));
    Counters::init(&words, 2).unwrap();
    words[H_WORKERS].store(3, Ordering::Relaxed);
    assert!(matches!(Counters::open(&words), Err(CountersError::TooShort { .. })));
    words[H_VERSION].store(9, Ordering::Relaxed);
    assert_eq!(Counters::open(&words).unwrap_err(), CountersError::Version { found: 9 });
}
