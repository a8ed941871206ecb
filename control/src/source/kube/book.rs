//! What is known of the objects of one kind: who they are and which version of each was handed on.
//!
//! The index has the objects; the book has what tells a new version from an old one. So a list of
//! objects that are known already costs a comparison of numbers each, and neither decoding nor a
//! message.
//!
//! Invariants:
//! * a list is believed whatever it says;
//! * that versions run backwards (etcd was restored from a backup) is told by the server, and then
//!   an equal version is no equal object, until a list is complete;
//! * a watch is believed if it says something newer: an event that is repeated, or that comes after
//!   a later one, changes nothing;
//! * an object whose end was seen does not come back by a late event, only by a list.

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::kinds::Meta;
use super::pool::Pool;

/// How many ends are remembered against late events.
const BURIED: usize = 256;

/// What an object's appearance means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it is known, or older than what is known.
    Nothing,
    /// It is new, or another version of what is known.
    Apply,
    /// Another object of the same name: the one before is gone.
    Replace,
    /// It is gone.
    Delete,
}

/// Namespace (empty for a cluster-wide kind) and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Box<str>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    uid: u128,
    version: u64,
    /// The list that it was seen in last, or the one before the watch that brought it.
    mark: u32,
}

/// The book of one kind.
#[derive(Debug, Default)]
pub struct Book {
    namespaces: Pool<str>,
    entries: FxHashMap<Name, Entry>,
    buried: VecDeque<u128>,
    mark: u32,
    /// The version of the last list; 0 if it is no number.
    listed: u64,
    /// Versions may have run backwards since the last complete list.
    restored: bool,
}

impl Book {
    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A list begins, from its first page.
    pub fn begin_list(&mut self) {
        self.mark = self.mark.wrapping_add(1);
    }

    /// Versions run backwards.
    pub fn restored(&mut self) {
        self.restored = true;
    }

    /// An item of the list.
    pub fn listed(&mut self, meta: &Meta) -> Step {
        let (name, new) = (self.name(meta), self.entry(meta));
        match self.entries.insert(name, new) {
            None => Step::Apply,
            Some(old) if old.uid != new.uid => Step::Replace,
            // 0 is no version.
            Some(old) if old.version == new.version && new.version != 0 && !self.restored => {
                Step::Nothing
            }
            Some(_) => Step::Apply,
        }
    }

    /// The list, of that version, was complete: names of the objects that were not in it.
    pub fn end_list(&mut self, version: u64) -> Vec<Name> {
        let mark = self.mark;
        self.listed = version;
        self.restored = false;
        let gone: Vec<Name> =
            self.entries.extract_if(|_, entry| entry.mark != mark).map(|(name, _)| name).collect();
        self.entries.shrink_to_fit();
        self.namespaces.sweep();
        gone
    }

    /// An event says that an object is there.
    pub fn seen(&mut self, meta: &Meta) -> Step {
        let (name, new) = (self.name(meta), self.entry(meta));
        match self.entries.get_mut(&name) {
            Some(old) if is_known(*old, new) => Step::Nothing,
            Some(old) => {
                let step = if old.uid == new.uid { Step::Apply } else { Step::Replace };
                *old = new;
                step
            }
            // What is no newer than the list and was not in it had ended by then.
            None if new.version != 0 && new.version <= self.listed => Step::Nothing,
            None if new.uid != 0 && self.buried.contains(&new.uid) => Step::Nothing,
            None => {
                self.entries.insert(name, new);
                Step::Apply
            }
        }
    }

    /// An event says that an object is gone.
    pub fn gone(&mut self, meta: &Meta) -> Step {
        let (name, last) = (self.name(meta), self.entry(meta));
        if last.uid != 0 && !self.buried.contains(&last.uid) {
            self.buried.truncate(BURIED - 1);
            self.buried.push_front(last.uid);
        }
        match self.entries.get(&name) {
            // Of an object that another has replaced already.
            Some(old) if old.uid != last.uid && is_known(*old, last) => Step::Nothing,
            Some(_) => {
                self.entries.remove(&name);
                Step::Delete
            }
            None => Step::Nothing,
        }
    }

    fn name(&mut self, meta: &Meta) -> Name {
        Name {
            namespace: self.namespaces.get(meta.namespace.as_str()),
            name: meta.name.as_str().into(),
        }
    }

    fn entry(&self, meta: &Meta) -> Entry {
        Entry { uid: meta.uid, version: meta.version, mark: self.mark }
    }
}

/// Whether what is said now is no newer than what is known; where versions are no numbers, nobody
/// can tell, and it counts as newer.
fn is_known(known: Entry, said: Entry) -> bool {
    said.version != 0 && said.version <= known.version
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(name: &str, uid: u128, version: u64) -> Meta {
        Meta { namespace: "ns".to_owned(), name: name.to_owned(), uid, version }
    }

    #[test]
    fn a_watch_is_believed_if_it_is_newer() {
        let mut book = Book::default();
        for (say, name, uid, version, step) in [
            ("seen", "a", 1, 5, Step::Apply),
            ("seen", "a", 1, 5, Step::Nothing),
            ("seen", "a", 1, 4, Step::Nothing),
            ("seen", "a", 1, 7, Step::Apply),
            ("seen", "a", 2, 9, Step::Replace),
            ("gone", "a", 1, 8, Step::Nothing),
            ("seen", "a", 1, 7, Step::Nothing),
            ("gone", "a", 2, 10, Step::Delete),
            ("gone", "a", 2, 10, Step::Nothing),
            ("seen", "a", 2, 9, Step::Nothing),
            ("seen", "a", 3, 11, Step::Apply),
            // Its end was lost; the end of the one after it tells as much.
            ("gone", "a", 4, 15, Step::Delete),
            // Versions that are no numbers.
            ("seen", "b", 5, 0, Step::Apply),
            ("seen", "b", 5, 0, Step::Apply),
            ("gone", "b", 5, 0, Step::Delete),
        ] {
            let meta = meta(name, uid, version);
            let found = if say == "seen" { book.seen(&meta) } else { book.gone(&meta) };
            assert_eq!(found, step, "{say} {name} {uid} {version}");
        }
        assert!(book.is_empty());
    }

    #[test]
    fn a_list_is_believed_and_sweeps() {
        let mut book = Book::default();
        book.begin_list();
        for (name, uid) in [("a", 1), ("b", 2), ("c", 3)] {
            assert_eq!(book.listed(&meta(name, uid, 9)), Step::Apply);
        }
        assert!(book.end_list(9).is_empty());
        assert_eq!(book.gone(&meta("c", 3, 10)), Step::Delete);
        // A list that is given up half-way, and one that is not; versions run backwards.
        book.begin_list();
        assert_eq!(book.listed(&meta("a", 1, 4)), Step::Apply);
        book.begin_list();
        assert_eq!(book.listed(&meta("a", 1, 4)), Step::Nothing);
        assert_eq!(book.listed(&meta("c", 3, 3)), Step::Apply);
        let gone: Vec<_> = book.end_list(4).into_iter().map(|name| name.name).collect();
        assert_eq!(gone, ["b".into()]);
        assert_eq!(book.len(), 2);
    }

    #[test]
    fn after_a_restore_equal_versions_are_no_equal_objects() {
        let mut book = Book::default();
        for (restored, expect) in [
            (false, Step::Apply),
            (false, Step::Nothing),
            (true, Step::Apply),
            (false, Step::Nothing),
        ] {
            if restored {
                book.restored();
                // A list that is given up does not settle it.
                book.begin_list();
                assert_eq!(book.listed(&meta("a", 1, 9)), Step::Apply);
            }
            book.begin_list();
            assert_eq!(book.listed(&meta("a", 1, 9)), expect);
            assert!(book.end_list(9).is_empty());
        }
    }

    #[test]
    fn ends_are_remembered_within_bounds() {
        let mut book = Book::default();
        for uid in 1..=1000 {
            book.gone(&meta("a", uid, 0));
        }
        assert_eq!(book.buried.len(), BURIED);
        assert_eq!(book.seen(&meta("a", 1000, 0)), Step::Nothing);
        assert_eq!(book.seen(&meta("a", 1, 0)), Step::Apply);
    }
}
