//! The address map against a `HashMap`, against a concurrent writer, and as it
//! crosses the process boundary.

use std::{
    collections::HashMap,
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use proptest::prelude::*;

use super::*;
use crate::mem::{SharedWords, Words, heap_words};

fn pod(n: u32) -> Address {
    std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into()
}

#[test]
fn insert_change_remove() {
    let mut writer = AddressMapWriter::private(3, 10).unwrap();
    assert!(writer.insert(pod(1), ClassId(5)).unwrap());
    assert!(!writer.insert(pod(1), ClassId(5)).unwrap(), "nothing changed");
    assert_eq!(writer.epoch(), 1);
    assert!(writer.insert(pod(1), ClassId(6)).unwrap());
    let v6: Address = "fd00::1".parse().unwrap();
    writer.insert(v6, ClassId(7)).unwrap();
    assert_eq!(writer.epoch(), 3);
    {
        let reader = writer.reader().unwrap();
        assert_eq!(reader.generation(), 3);
        assert_eq!(reader.lookup(pod(1)), Some(ClassId(6)));
        assert_eq!(reader.lookup(v6), Some(ClassId(7)));
        assert_eq!(reader.lookup(pod(2)), None);
        assert_eq!((reader.epoch(), reader.len()), (3, 2));
    }
    assert!(writer.remove(pod(1)));
    assert!(!writer.remove(pod(1)));
    assert_eq!(writer.epoch(), 4);
    let reader = writer.into_reader().unwrap();
    assert_eq!(reader.lookup(pod(1)), None);
    assert_eq!(reader.iter().collect::<Vec<_>>(), [(v6, ClassId(7))]);
}

#[test]
fn growth_is_refused_in_words_and_changes_nothing() {
    let mut writer = AddressMapWriter::private(1, 32).unwrap();
    assert_eq!(writer.capacity(), 32);
    for n in 0..32 {
        writer.insert(pod(n), ClassId(n)).unwrap();
    }
    let epoch = writer.epoch();
    let error = writer.insert(pod(32), ClassId(0)).unwrap_err();
    assert!(error.to_string().contains("publish a new generation"), "{error}");
    assert_eq!(writer.epoch(), epoch);
    // What is there can still be changed, and room that was freed be used.
    writer.insert(pod(0), ClassId(99)).unwrap();
    assert!(writer.remove(pod(1)));
    writer.insert(pod(32), ClassId(0)).unwrap();
    let reader = writer.reader().unwrap();
    assert_eq!(reader.lookup(pod(0)), Some(ClassId(99)));
    assert_eq!(reader.lookup(pod(32)), Some(ClassId(0)));
    assert_eq!(reader.lookup(pod(1)), None);
}

#[test]
fn the_reserved_class_cannot_be_given() {
    let mut writer = AddressMapWriter::private(1, 1).unwrap();
    assert!(matches!(writer.insert(pod(1), UNSETTLED), Err(AddressMapError::ReservedClass { .. })));
    assert!(matches!(slots_for(usize::MAX), Err(AddressMapError::TooLarge(_))));
    assert!(matches!(slots_for(MAX_SLOTS), Err(AddressMapError::TooLarge(_))));
}

fn writer_state(writer: &AddressMapWriter<SharedWords>, slot: usize) -> u64 {
    writer.words().words()[HEADER_WORDS + slot * SLOT_WORDS].load(Relaxed) & STATE_MASK
}

/// Pods come and go for a long time in a full map: it neither wears out nor loses
/// anything, and keeps no trace of those that went.
#[test]
fn churn_does_not_wear_the_map_out() {
    let mut writer = AddressMapWriter::private(1, 512).unwrap();
    for n in 0..512 {
        writer.insert(pod(n), ClassId(n)).unwrap();
    }
    for n in 512..100_000 {
        assert!(writer.remove(pod(n - 512)));
        writer.insert(pod(n), ClassId(n)).unwrap();
    }
    {
        let reader = writer.reader().unwrap();
        for n in 100_000 - 512..100_000 {
            assert_eq!(reader.lookup(pod(n)), Some(ClassId(n)));
        }
        assert_eq!(reader.len(), 512);
    }
    (100_000 - 512..100_000).for_each(|n| _ = writer.remove(pod(n)));
    assert!((0..1024).all(|slot| writer_state(&writer, slot) == FREE));
}

#[test]
fn a_slot_whose_writer_died_denies_instead_of_forgetting() {
    let words = heap_words(HEADER_WORDS + 4 * SLOT_WORDS);
    let mut writer = AddressMapWriter::in_words(&words, 1).unwrap();
    writer.insert(pod(1), ClassId(1)).unwrap();
    let slot = (0..4)
        .map(|slot| HEADER_WORDS + slot * SLOT_WORDS)
        .find(|&at| words[at].load(Relaxed) & STATE_MASK == LIVE)
        .unwrap();
    words[slot].store(words[slot].load(Relaxed) & !STATE_MASK | BUSY, Relaxed);
    let reader = AddressMap::open(&words).unwrap();
    assert_eq!(reader.lookup(pod(1)), Some(UNSETTLED));
}

#[test]
fn a_map_crosses_as_a_sealed_descriptor() {
    let mut writer = AddressMapWriter::create(9, 100).unwrap();
    writer.insert(pod(1), ClassId(1)).unwrap();
    let reader = AddressMap::from_fd(writer.fd().unwrap()).unwrap();
    assert_eq!(reader.generation(), 9);
    assert_eq!(reader.lookup(pod(1)), Some(ClassId(1)));
    // The writer goes on through the mapping that it had before the seal …
    writer.insert(pod(2), ClassId(2)).unwrap();
    assert_eq!(reader.lookup(pod(2)), Some(ClassId(2)));
    // … but nobody gets another one.
    let words = HEADER_WORDS + SLOT_WORDS;
    let access = crate::mem::Access::ReadWrite;
    let again = SharedWords::map(writer.fd().unwrap(), words, access, "address map");
    assert!(again.is_err(), "a second writable mapping was given out");
}

#[test]
fn an_unsealed_or_foreign_map_is_refused() {
    let fd = crate::seal::create("weir-test").unwrap();
    rustix::fs::ftruncate(&fd, 8192).unwrap();
    let error = AddressMap::from_fd(fd.as_fd()).unwrap_err();
    assert!(error.to_string().contains("F_SEAL_FUTURE_WRITE"), "{error}");
    crate::seal::seal(fd.as_fd(), "test", crate::seal::Guarantee::FixedSize).unwrap();
    assert!(matches!(AddressMap::from_fd(fd.as_fd()), Err(AddressMapError::Magic)));

    let words = heap_words(HEADER_WORDS + 4 * SLOT_WORDS);
    AddressMapWriter::in_words(&words, 1).unwrap();
    for (slots, ok) in
        [(4u64, true), (2, true), (8, false), (3, false), (0, false), (1 << 40, false)]
    {
        words[H_SLOTS].store(slots, Relaxed);
        assert_eq!(AddressMap::open(&words).is_ok(), ok, "{slots} slots");
    }
    words[H_VERSION].store(2, Relaxed);
    let error = AddressMap::open(&words).unwrap_err();
    assert!(error.to_string().contains("same release"), "{error}");
}

/// One writer churns addresses whose class is a function of the address; the
/// reader must never see a class of another address.
#[test]
fn a_concurrent_reader_never_sees_a_mixed_entry() {
    let words = SharedWords::heap(HEADER_WORDS + 64 * SLOT_WORDS);
    let mut writer = AddressMapWriter::in_words(&words, 1).unwrap();
    let reader = AddressMap::open(&words).unwrap();
    let stop = AtomicBool::new(false);
    let class = |n: u32, round: u32| ClassId(n << 16 | round & 0xffff);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..60_000u32 {
                let n = round.wrapping_mul(7) % 40;
                writer.insert(pod(n), class(n, round)).unwrap();
                writer.remove(pod(round.wrapping_mul(13) % 40));
                if writer.len() > 24 {
                    (0..40).for_each(|n| _ = writer.remove(pod(n)));
                }
            }
            stop.store(true, Relaxed);
        });
        let (mut hits, mut misses) = (0u64, 0u64);
        // The second condition keeps the test from passing before it began.
        while !stop.load(Relaxed) || hits == 0 && misses == 0 {
            for n in 0..40 {
                match reader.lookup(pod(n)) {
                    None | Some(UNSETTLED) => misses += 1,
                    Some(found) => {
                        assert_eq!(found.0 >> 16, n, "class of another address");
                        hits += 1;
                    }
                }
            }
        }
    });
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u32, u32),
    Remove(u32),
}

proptest! {
    #[test]
    fn the_map_is_a_hash_map(steps in prop::collection::vec(prop_oneof![
        3 => (0u32..48, 0u32..9).prop_map(|(n, class)| Step::Insert(n, class)),
        2 => (0u32..48).prop_map(Step::Remove),
    ], 0..400)) {
        let mut writer = AddressMapWriter::private(1, 32).unwrap();
        let mut model: HashMap<Address, ClassId> = HashMap::new();
        for step in steps {
            let epoch = writer.epoch();
            let changed = match step {
                Step::Insert(n, class) => {
                    let class = ClassId(class);
                    match writer.insert(pod(n), class) {
                        Ok(changed) => {
                            prop_assert_eq!(model.insert(pod(n), class) != Some(class), changed);
                            changed
                        }
                        Err(AddressMapError::Full { live }) => {
                            prop_assert_eq!(live, 32);
                            prop_assert!(!model.contains_key(&pod(n)));
                            prop_assert_eq!(live, model.len());
                            false
                        }
                        Err(other) => return Err(TestCaseError::fail(other.to_string())),
                    }
                }
                Step::Remove(n) => {
                    let there = writer.remove(pod(n));
                    prop_assert_eq!(model.remove(&pod(n)).is_some(), there);
                    there
                }
            };
            prop_assert_eq!(writer.epoch() != epoch, changed);
        }
        let reader = writer.reader().unwrap();
        for n in 0..48 {
            prop_assert_eq!(reader.lookup(pod(n)), model.get(&pod(n)).copied());
        }
        prop_assert_eq!(reader.iter().collect::<HashMap<_, _>>(), model);
    }

    /// Whatever stands in the words, a reader neither panics nor loops.
    #[test]
    fn arbitrary_words_never_panic(
        content in prop::collection::vec(prop_oneof![any::<u64>(), 0u64..4], HEADER_WORDS..HEADER_WORDS + 70),
        slots in 0u32..6,
    ) {
        let words = heap_words(content.len());
        for (word, value) in words.iter().zip(content) {
            word.store(value, Relaxed);
        }
        words[H_MAGIC].store(MAGIC, Relaxed);
        words[H_VERSION].store(u64::from(FORMAT_VERSION), Relaxed);
        words[H_SLOTS].store(1 << slots, Relaxed);
        if let Ok(reader) = AddressMap::open(&words) {
            for n in 0..8 {
                reader.lookup(pod(n));
            }
            reader.iter().count();
            reader.len();
        }
    }
}
