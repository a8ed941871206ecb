//! Every interleaving (within loom's bounds) of the writer with a reader, with weak memory.
//!
//! The ring has two records of two words, so that the writer comes round to the record that
//! is being read. What this cannot see: longer histories. The reader is the spawned thread:
//! see `flow/loom_model.rs`.

use loom::thread;

use super::ring::{DropRing, Follower, RingWriter, words_for};
use crate::mem::heap_words;
use crate::sync::Arc;

#[test]
fn loom_a_reader_sees_whole_records_in_order_or_is_told() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    let seen = std::sync::Arc::new(std::sync::Mutex::new(std::collections::BTreeSet::new()));
    let note = seen.clone();
    builder.check(move || {
        let words = Arc::new(heap_words(words_for(2, 2)));
        let mut writer = RingWriter::create(words.clone(), 2, 2).unwrap();
        writer.push(&[10, 20], 0);
        let note = note.clone();
        let reader = thread::spawn(move || {
            let mut follower = Follower::new(DropRing::open(words, 2).unwrap(), 9);
            let (mut out, mut read, mut last) = ([0; 2], 0, None);
            for _ in 0..2 {
                if let Some(n) = follower.next(&mut out) {
                    assert_eq!(out, [10 + n, 20 + n], "half a record");
                    assert!(last < Some(n));
                    (last, read) = (Some(n), read + 1);
                }
            }
            note.lock().unwrap().insert((read, follower.missed()));
        });
        for n in 1..3 {
            writer.push(&[10 + n, 20 + n], 0);
        }
        reader.join().unwrap();
    });
    let seen = seen.lock().unwrap();
    assert!(seen.contains(&(1, 0)), "never before the writer: {seen:?}");
    assert!(seen.iter().any(|(_, missed)| *missed > 0), "never overtaken: {seen:?}");
}
