//! All objects, and what became of them: the part that etcd has in a cluster.
//!
//! One counter gives every change its resourceVersion, whatever the kind. Each kind keeps its changes
//! since the horizon, so that
//!
//! - a watch can begin at any version from the horizon on ([`Store::since`]);
//! - a list is of one version, also if its pages are asked for one by one while objects change
//!   ([`Store::page`]): the state then is today's with the changes since undone;
//! - the state of before can be had back, as after a restored backup ([`Store::restore`]).
//!
//! [`Store::compact`] moves the horizon; whatever needs older versions is answered with 410.

mod page;

use std::collections::{BTreeMap, VecDeque};

use crate::kind::Kind;
use crate::object::{Key, Object};

pub use page::Page;

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// It is new.
    Added,
    /// It was there and says something else now.
    Modified,
    /// It is gone.
    Deleted,
}

impl Verb {
    /// `ADDED`, as watch events have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Verb::Added => "ADDED",
            Verb::Modified => "MODIFIED",
            Verb::Deleted => "DELETED",
        }
    }
}

/// A change of one object.
#[derive(Debug, Clone)]
pub struct Change {
    /// What it is.
    pub verb: Verb,
    /// Of which object.
    pub key: Key,
    /// As it is now; if deleted, as it was with the version of its removal.
    pub now: Object,
    /// As it was.
    pub before: Option<Object>,
}

impl Change {
    /// The change's resourceVersion.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.now.version
    }
}

/// The version that was asked for is compacted away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    /// The oldest version from which changes are known.
    pub horizon: u64,
}

#[derive(Debug, Default)]
struct Shelf {
    objects: BTreeMap<Key, Object>,
    log: VecDeque<Change>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Store {
    shelves: BTreeMap<Kind, Shelf>,
    version: u64,
    horizon: u64,
    history: usize,
}

impl Store {
    /// An empty store that keeps up to so many changes of each kind.
    #[must_use]
    pub fn new(history: usize) -> Store {
        let shelves = Kind::ALL.into_iter().map(|kind| (kind, Shelf::default())).collect();
        Store { shelves, version: 1, horizon: 1, history }
    }

    /// The version of the last change.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The oldest version from which on a watch can begin.
    #[must_use]
    pub const fn horizon(&self) -> u64 {
        self.horizon
    }

    /// The object as it is now.
    #[must_use]
    pub fn get(&self, kind: Kind, key: &Key) -> Option<&Object> {
        self.shelves[&kind].objects.get(key)
    }

    /// How many objects of the kind there are.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.shelves[&kind].objects.len()
    }

    /// The names of a kind's objects.
    pub fn keys(&self, kind: Kind) -> impl Iterator<Item = &Key> {
        self.shelves[&kind].objects.keys()
    }

    /// Takes the object under the next version, or removes it. `None`: that changes nothing.
    pub fn put(&mut self, kind: Kind, key: &Key, object: Option<&Object>) -> Option<Change> {
        let version = self.version + 1;
        let shelf = self.shelves.entry(kind).or_default();
        let before = shelf.objects.get(key).cloned();
        let (verb, now) = match (object, &before) {
            (None, None) => return None,
            (Some(object), Some(before)) if object.says_as(before) => return None,
            (None, Some(before)) => (Verb::Deleted, before.at(version)),
            (Some(object), None) => (Verb::Added, object.at(version)),
            (Some(object), Some(_)) => (Verb::Modified, object.at(version)),
        };
        if verb == Verb::Deleted {
            shelf.objects.remove(key);
        } else {
            shelf.objects.insert(key.clone(), now.clone());
        }
        let change = Change { verb, key: key.clone(), now, before };
        shelf.log.push_back(change.clone());
        if shelf.log.len() > self.history
            && let Some(lost) = shelf.log.pop_front()
        {
            self.horizon = self.horizon.max(lost.version());
        }
        self.version = version;
        Some(change)
    }

    /// The changes of the kind after this version.
    ///
    /// # Errors
    /// They are not all known any more.
    pub fn since(&self, kind: Kind, version: u64) -> Result<impl Iterator<Item = &Change>, Gone> {
        self.check(version)?;
        let log = &self.shelves[&kind].log;
        let first = log.partition_point(|change| change.version() <= version);
        Ok(log.range(first..))
    }

    /// The last changes of the kind, the newest last.
    #[must_use]
    pub fn last(&self, kind: Kind, count: usize) -> Vec<Change> {
        let log = &self.shelves[&kind].log;
        log.range(log.len().saturating_sub(count)..).cloned().collect()
    }

    const fn check(&self, version: u64) -> Result<(), Gone> {
        if version < self.horizon { Err(Gone { horizon: self.horizon }) } else { Ok(()) }
    }

    /// For each object that changed after the version, what it was then.
    fn undone(&self, kind: Kind, version: u64) -> BTreeMap<Key, Option<Object>> {
        let mut undone = BTreeMap::new();
        for change in self.shelves[&kind].log.iter().rev() {
            if change.version() <= version {
                break;
            }
            undone.insert(change.key.clone(), change.before.clone());
        }
        undone
    }

    /// Forgets what is older than the version; one of the future means all.
    pub fn compact(&mut self, version: u64) {
        self.horizon = self.horizon.max(version.min(self.version));
        for shelf in self.shelves.values_mut() {
            while shelf.log.front().is_some_and(|change| change.version() <= self.horizon) {
                shelf.log.pop_front();
            }
        }
    }

    /// Makes everything as it was at the version, which is the newest then: the counter goes back.
    ///
    /// # Errors
    /// What changed since is not all known any more.
    pub fn restore(&mut self, version: u64) -> Result<(), Gone> {
        self.check(version)?;
        for kind in Kind::ALL {
            let undone = self.undone(kind, version);
            let shelf = self.shelves.entry(kind).or_default();
            for (key, object) in undone {
                match object {
                    Some(object) => drop(shelf.objects.insert(key, object)),
                    None => drop(shelf.objects.remove(&key)),
                }
            }
            while shelf.log.back().is_some_and(|change| change.version() > version) {
                shelf.log.pop_back();
            }
        }
        self.version = self.version.min(version);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object(name: &str, value: u8) -> Object {
        Object::new(0, json!({"metadata": {"name": name}, "value": value})).unwrap()
    }

    #[test]
    fn equal_is_no_change() {
        let mut store = Store::new(100);
        let key = Key::new("ns", "a");
        assert_eq!(store.put(Kind::Pod, &key, Some(&object("a", 0))).unwrap().verb, Verb::Added);
        assert!(store.put(Kind::Pod, &key, Some(&object("a", 0))).is_none());
        assert!(store.put(Kind::Node, &key, None).is_none());
        let deleted = store.put(Kind::Pod, &key, None).unwrap();
        assert_eq!((deleted.verb, deleted.version()), (Verb::Deleted, store.version()));
    }

    #[test]
    fn history_is_bounded() {
        let mut store = Store::new(3);
        for value in 0..5 {
            store.put(Kind::Pod, &Key::new("ns", "a"), Some(&object("a", value)));
        }
        assert_eq!((store.version(), store.horizon()), (6, 3));
        assert!(store.since(Kind::Pod, 2).is_err());
        assert_eq!(store.since(Kind::Pod, 3).unwrap().count(), 3);
    }

    proptest! {
        /// Every version can be listed as it was, page by page, and had back.
        #[test]
        fn every_version_is_as_it_was(
            changes in prop::collection::vec((0_u8..6, prop::option::of(0_u8..3)), 1..40),
            limit in 0_usize..4,
        ) {
            let mut store = Store::new(1000);
            let mut past = vec![(store.version(), BTreeMap::new())];
            for (name, value) in changes {
                let key = Key::new(["x", "y"][usize::from(name) % 2], &format!("p{name}"));
                let state = value.map(|value| object(&key.name, value));
                store.put(Kind::Pod, &key, state.as_ref());
                let objects = store.shelves[&Kind::Pod].objects.clone();
                past.push((store.version(), objects));
            }
            for (version, objects) in past.iter().rev() {
                for namespace in [None, Some("y")] {
                    let mut seen = Vec::new();
                    let mut after = None;
                    loop {
                        let page = store
                            .page(Kind::Pod, namespace, after.as_ref(), *version, limit, |_, _| true)
                            .unwrap();
                        seen.extend(page.objects);
                        after = page.last;
                        if after.is_none() {
                            break;
                        }
                    }
                    let expected: Vec<Object> = objects
                        .iter()
                        .filter(|(key, _)| namespace.is_none_or(|n| *key.namespace == *n))
                        .map(|(_, object)| object.clone())
                        .collect();
                    prop_assert_eq!(&seen, &expected);
                }
                store.restore(*version).unwrap();
                prop_assert_eq!(&store.shelves[&Kind::Pod].objects, objects);
                prop_assert_eq!(store.version(), *version);
            }
        }
    }
}
