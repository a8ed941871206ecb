//! Open watches, and what each has still to send.
//!
//! A change is put into the queue of every watch that it concerns, in the same critical section in
//! which it is stored; the task of the connection takes it out. So a bookmark put there never
//! overtakes a change.
//!
//! Tests disturb watches here: changes of a kind can be held back and then delivered in another
//! order, twice, or not at all ([`Release`]); any line can be put in; a watch can end as it does at
//! its timeout, break, or break within a line ([`Cut`]).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::Notify;

use crate::kind::Kind;
use crate::object::Object;
use crate::select::Selector;
use crate::store::{Change, Verb};

/// How held changes are delivered in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Release {
    /// As they came.
    InOrder,
    /// The newest first.
    Reversed,
    /// As they came, each twice.
    Doubled,
    /// Not at all.
    Dropped,
}

/// How a watch ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// Properly, as at its timeout.
    End,
    /// The connection is gone between two lines.
    Broken,
    /// The connection is gone within the next line; one is made up if none is waiting.
    MidLine,
    /// With an event of type ERROR that says 410, and then properly.
    Expired,
}

/// What a watch has to send.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// An event.
    Event(Verb, Object),
    /// A bookmark of this version.
    Bookmark(u64),
    /// A line as it is.
    Line(String),
    /// The first half of what comes next, and nothing more.
    Half,
    /// The stream ends.
    End,
    /// The connection breaks.
    Broken,
}

/// A watch that is open.
#[derive(Debug)]
pub struct Watcher {
    kind: Kind,
    namespace: Option<String>,
    selector: Selector,
    /// What it began after: what it has had from the history does not come to it again.
    begun: u64,
    /// Whether the client can read bookmarks.
    bookmarks: bool,
    queue: VecDeque<Item>,
    wake: Arc<Notify>,
}

/// All watches, and which kinds are held.
#[derive(Debug, Default)]
pub struct Hub {
    watchers: BTreeMap<u64, Watcher>,
    held: BTreeMap<Kind, Vec<Change>>,
    next: u64,
}

impl Hub {
    /// Takes a watch that begins after `begun` with these items; its number.
    #[allow(clippy::too_many_arguments)]
    pub fn open(
        &mut self,
        kind: Kind,
        namespace: Option<&str>,
        selector: Selector,
        begun: u64,
        bookmarks: bool,
        past: &[Change],
        wake: &Arc<Notify>,
    ) -> u64 {
        let mut watcher = Watcher {
            kind,
            namespace: namespace.map(str::to_owned),
            selector,
            begun,
            bookmarks,
            queue: VecDeque::new(),
            wake: Arc::clone(wake),
        };
        for change in past {
            watcher.deliver(change);
        }
        self.next += 1;
        self.watchers.insert(self.next, watcher);
        self.next
    }

    /// The watch is over.
    pub fn close(&mut self, id: u64) {
        self.watchers.remove(&id);
    }

    /// How many watches of the kind are open.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.watchers.values().filter(|watcher| watcher.kind == kind).count()
    }

    /// Takes what the watch has to send next.
    pub fn take(&mut self, id: u64) -> Option<Item> {
        self.watchers.get_mut(&id)?.queue.pop_front()
    }

    /// Puts a bookmark into a watch's queue, if now is `version`.
    pub fn mark(&mut self, id: u64, version: u64) {
        let Some(kind) = self.watchers.get(&id).map(|watcher| watcher.kind) else { return };
        let told = self.told(kind, version);
        if let Some(watcher) = self.watchers.get_mut(&id) {
            watcher.mark(told);
        }
    }

    /// Hands a change to every watch of the kind, or keeps it if the kind is held.
    pub fn publish(&mut self, kind: Kind, change: &Change) {
        if let Some(held) = self.held.get_mut(&kind) {
            held.push(change.clone());
            return;
        }
        for watcher in self.of(kind) {
            watcher.deliver(change);
        }
    }

    fn of(&mut self, kind: Kind) -> impl Iterator<Item = &mut Watcher> {
        self.watchers.values_mut().filter(move |watcher| watcher.kind == kind)
    }

    /// The version up to which watches of the kind have everything, if now is `version`.
    #[must_use]
    pub fn told(&self, kind: Kind, version: u64) -> u64 {
        let first = self.held.get(&kind).and_then(|held| held.first());
        first.map_or(version, |change| change.version() - 1)
    }

    /// From now on changes of the kind wait.
    pub fn hold(&mut self, kind: Kind) {
        self.held.entry(kind).or_default();
    }

    /// Delivers what was held. Watches that began later have had it from the history.
    pub fn release(&mut self, kind: Kind, how: Release) {
        let mut held = self.held.remove(&kind).unwrap_or_default();
        match how {
            Release::InOrder => {}
            Release::Reversed => held.reverse(),
            Release::Doubled => held = held.into_iter().flat_map(|c| [c.clone(), c]).collect(),
            Release::Dropped => held.clear(),
        }
        for watcher in self.of(kind) {
            let begun = watcher.begun;
            for change in held.iter().filter(|change| change.version() > begun) {
                watcher.deliver(change);
            }
        }
    }

    /// Sends old changes once more to every watch of the kind.
    pub fn repeat(&mut self, kind: Kind, changes: &[Change]) {
        for watcher in self.of(kind) {
            for change in changes {
                watcher.deliver(change);
            }
        }
    }

    /// Puts a line into every watch of the kind.
    pub fn say(&mut self, kind: Kind, line: &str) {
        for watcher in self.of(kind) {
            watcher.push(Item::Line(line.to_owned()));
        }
    }

    /// Puts a bookmark into every watch of the kind whose client reads them; how many.
    pub fn bookmark(&mut self, kind: Kind, version: u64) -> usize {
        let told = self.told(kind, version);
        let mut count = 0;
        for watcher in self.of(kind).filter(|watcher| watcher.bookmarks) {
            watcher.mark(told);
            count += 1;
        }
        count
    }

    /// Ends every watch of the kind; how many. `expired` is the line that says 410.
    pub fn cut(&mut self, kind: Kind, how: Cut, expired: &str) -> usize {
        let mut count = 0;
        for watcher in self.of(kind) {
            match how {
                Cut::End => watcher.push(Item::End),
                Cut::Broken => watcher.push(Item::Broken),
                Cut::MidLine => {
                    watcher.queue.push_front(Item::Half);
                    watcher.wake.notify_one();
                }
                Cut::Expired => {
                    watcher.push(Item::Line(expired.to_owned()));
                    watcher.push(Item::End);
                }
            }
            count += 1;
        }
        count
    }
}

impl Watcher {
    /// Queues a bookmark; no watch is told of a version before its own.
    fn mark(&mut self, told: u64) {
        self.push(Item::Bookmark(told.max(self.begun)));
    }

    fn push(&mut self, item: Item) {
        self.queue.push_back(item);
        self.wake.notify_one();
    }

    /// A change as this watch sees it: to be selected no more is to be deleted.
    fn deliver(&mut self, change: &Change) {
        if self.namespace.as_ref().is_some_and(|namespace| **namespace != *change.key.namespace) {
            return;
        }
        let selects = |object: &Object| self.selector.matches(self.kind, &change.key, object);
        let verb = if self.selector.is_empty() {
            change.verb
        } else {
            let was = change.before.as_ref().is_some_and(selects);
            let is = change.verb != Verb::Deleted && selects(&change.now);
            match (was, is) {
                (false, false) => return,
                (false, true) => Verb::Added,
                (true, true) => Verb::Modified,
                (true, false) => Verb::Deleted,
            }
        };
        let object = match (verb, &change.before) {
            (Verb::Deleted, Some(before)) => before.at(change.version()),
            _ => change.now.clone(),
        };
        self.push(Item::Event(verb, object));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::Key;
    use crate::store::Store;

    fn pod(label: &str) -> Object {
        let value = json!({"metadata": {"name": "web", "labels": {"app": label}}});
        Object::new(0, value).unwrap()
    }

    fn drain(hub: &mut Hub, id: u64) -> Vec<(Verb, u64)> {
        let mut seen = Vec::new();
        while let Some(item) = hub.take(id) {
            match item {
                Item::Event(verb, object) => seen.push((verb, object.version)),
                other => panic!("{other:?}"),
            }
        }
        seen
    }

    fn open(hub: &mut Hub, labels: &str, begun: u64, past: &[Change]) -> u64 {
        let selector = Selector::parse(Kind::Pod, labels, "").unwrap();
        hub.open(Kind::Pod, Some("shop"), selector, begun, true, past, &Arc::new(Notify::new()))
    }

    /// An object that a selector does not select any more is gone for that watch.
    #[test]
    fn selected_and_not() {
        let (mut store, mut hub) = (Store::new(100), Hub::default());
        let key = Key::new("shop", "web");
        let all = open(&mut hub, "", 1, &[]);
        let web = open(&mut hub, "app=web", 1, &[]);
        for state in [Some("db"), Some("web"), Some("db"), Some("web"), None] {
            let state = state.map(pod);
            let change = store.put(Kind::Pod, &key, state.as_ref()).unwrap();
            hub.publish(Kind::Pod, &change);
        }
        let elsewhere = store.put(Kind::Pod, &Key::new("other", "web"), Some(&pod("web"))).unwrap();
        hub.publish(Kind::Pod, &elsewhere);
        use Verb::{Added, Deleted, Modified};
        assert_eq!(
            drain(&mut hub, all),
            [(Added, 2), (Modified, 3), (Modified, 4), (Modified, 5), (Deleted, 6)]
        );
        assert_eq!(drain(&mut hub, web), [(Added, 3), (Deleted, 4), (Added, 5), (Deleted, 6)]);
    }

    #[test]
    fn held_and_released() {
        for (how, expected) in [
            (Release::InOrder, vec![2, 3]),
            (Release::Reversed, vec![3, 2]),
            (Release::Doubled, vec![2, 2, 3, 3]),
            (Release::Dropped, vec![]),
        ] {
            let (mut store, mut hub) = (Store::new(100), Hub::default());
            let early = open(&mut hub, "", 1, &[]);
            hub.hold(Kind::Pod);
            for label in ["a", "b"] {
                let change = store.put(Kind::Pod, &Key::new("shop", "web"), Some(&pod(label)));
                hub.publish(Kind::Pod, &change.unwrap());
            }
            assert_eq!((hub.told(Kind::Pod, 3), drain(&mut hub, early)), (1, vec![]));
            let past: Vec<Change> = store.since(Kind::Pod, 1).unwrap().cloned().collect();
            let late = open(&mut hub, "", 3, &past);
            let mark = open(&mut hub, "", 3, &[]);
            assert_eq!(hub.bookmark(Kind::Pod, 3), 3);
            let marks = [early, mark].map(|id| hub.take(id));
            assert_eq!(marks, [Some(Item::Bookmark(1)), Some(Item::Bookmark(3))]);
            assert_eq!((hub.take(late).is_some(), hub.take(late).is_some()), (true, true));
            assert_eq!(hub.take(late), Some(Item::Bookmark(3)));
            hub.release(Kind::Pod, how);
            let seen: Vec<u64> = drain(&mut hub, early).into_iter().map(|(_, v)| v).collect();
            assert_eq!(seen, expected, "{how:?}");
            // It has had them from the history.
            assert_eq!(drain(&mut hub, late), []);
            assert_eq!(hub.told(Kind::Pod, 3), 3);
        }
    }
}
