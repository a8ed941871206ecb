//! Every interleaving (and every stale load that the memory model allows) of a
//! writer and a reader, on a map of four slots.

use super::*;
use crate::{
    mem::SharedWords,
    sync::{Arc, thread},
};

const SLOTS: usize = 4;

fn map() -> (AddressMapWriter<Arc<SharedWords>>, AddressMap<Arc<SharedWords>>) {
    let words = Arc::new(SharedWords::heap(HEADER_WORDS + SLOTS * SLOT_WORDS));
    let writer = AddressMapWriter::in_words(words.clone(), 1).unwrap();
    let reader = AddressMap::open(words).unwrap();
    (writer, reader)
}

/// Two addresses that begin their probing at the same slot, so that the second
/// stands behind the first.
fn neighbours(reader: &AddressMap<Arc<SharedWords>>) -> (Address, Address) {
    let pod = |n: u32| Address::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n));
    let home = |n: u32| hash(reader.seed(), pod(n)) % SLOTS as u64;
    let other = (1..).find(|&n| home(n) == home(0)).unwrap();
    (pod(0), pod(other))
}

#[test]
fn loom_a_reused_slot_never_lends_its_class() {
    loom::model(|| {
        let (mut writer, reader) = map();
        let (a, b) = neighbours(&reader);
        writer.insert(a, ClassId(1)).unwrap();
        let writing = thread::spawn(move || {
            writer.remove(a);
            writer.insert(b, ClassId(2)).unwrap();
        });
        let found = reader.lookup(a);
        assert!(matches!(found, None | Some(ClassId(1)) | Some(UNSETTLED)), "{found:?}");
        writing.join().unwrap();
        assert_eq!(reader.lookup(a), None);
        assert_eq!(reader.lookup(b), Some(ClassId(2)));
    });
}

#[test]
fn loom_an_epoch_shows_everything_before_it() {
    loom::model(|| {
        let (mut writer, reader) = map();
        let (a, _) = neighbours(&reader);
        let writing = thread::spawn(move || {
            writer.insert(a, ClassId(1)).unwrap();
            writer.insert(a, ClassId(2)).unwrap();
        });
        let epoch = reader.epoch();
        let found = reader.lookup(a);
        match epoch {
            0 => assert!(
                matches!(found, None | Some(ClassId(1)) | Some(ClassId(2)) | Some(UNSETTLED)),
                "{found:?}"
            ),
            1 => assert!(matches!(found, Some(ClassId(1)) | Some(ClassId(2))), "{found:?}"),
            _ => assert_eq!(found, Some(ClassId(2))),
        }
        writing.join().unwrap();
    });
}

/// Removing the first of two makes the second move up: whoever looks for it
/// meanwhile must never find nothing.
#[test]
fn loom_an_entry_that_moves_is_never_missed() {
    loom::model(|| {
        let (mut writer, reader) = map();
        let (a, b) = neighbours(&reader);
        writer.insert(a, ClassId(1)).unwrap();
        writer.insert(b, ClassId(2)).unwrap();
        let writing = thread::spawn(move || {
            writer.remove(a);
        });
        let found = reader.lookup(b);
        assert!(matches!(found, Some(ClassId(2)) | Some(UNSETTLED)), "{found:?}");
        writing.join().unwrap();
        assert_eq!(reader.lookup(a), None);
        assert_eq!(reader.lookup(b), Some(ClassId(2)));
    });
}
