//! Pages of lists, all of one version: today's state with the changes since undone.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::kind::Kind;
use crate::object::{Key, Object};
use crate::store::{Gone, Store};

/// A page of a list.
#[derive(Debug, Default)]
pub struct Page {
    /// In the order of their keys.
    pub objects: Vec<Object>,
    /// The last key looked at, if there are more behind it.
    pub last: Option<Key>,
    /// How many there are behind it, selected or not.
    pub remaining: usize,
}

impl Store {
    /// Up to `limit` objects that are `wanted`, as they were at the version: of one namespace or of
    /// all, those after a key. 0: no limit.
    ///
    /// # Errors
    /// What changed since is not all known any more.
    pub fn page(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        after: Option<&Key>,
        version: u64,
        limit: usize,
        wanted: impl Fn(&Key, &Object) -> bool,
    ) -> Result<Page, Gone> {
        // What is as it was needs no history: a list of now is answered by a server whose
        // history is all compacted.
        let undone = if version >= self.version {
            BTreeMap::new()
        } else {
            self.check(version)?;
            self.undone(kind, version)
        };
        let from = match (after, namespace) {
            (Some(key), _) => Bound::Excluded(key.clone()),
            (None, Some(namespace)) => Bound::Included(Key::new(namespace, "")),
            (None, None) => Bound::Unbounded,
        };
        let range = (from, Bound::Unbounded);
        let mut now = self.shelves[&kind].objects.range(range.clone()).peekable();
        let mut then = undone.range(range).peekable();
        let mut page = Page::default();
        let mut last = None;
        loop {
            let (key, object) = match (now.peek(), then.peek()) {
                (None, None) => break,
                (Some((a, _)), Some((b, _))) if a < b => {
                    let Some((key, object)) = now.next() else { break };
                    (key, Some(object))
                }
                (Some((key, object)), None) => {
                    let pair = (*key, Some(*object));
                    now.next();
                    pair
                }
                (a, Some((b, object))) => {
                    let same = a.is_some_and(|(a, _)| a == b);
                    let pair = (*b, object.as_ref());
                    then.next();
                    if same {
                        now.next();
                    }
                    pair
                }
            };
            if namespace.is_some_and(|namespace| *key.namespace != *namespace) {
                break;
            }
            let Some(object) = object else { continue };
            if limit > 0 && page.objects.len() == limit {
                page.remaining += 1;
            } else {
                if wanted(key, object) {
                    page.objects.push(object.clone());
                }
                last = Some(key);
            }
        }
        page.last = last.filter(|_| page.remaining > 0).cloned();
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(name: &str, value: u8) -> Object {
        Object::new(0, json!({"metadata": {"name": name}, "value": value})).unwrap()
    }

    fn names(page: &Page) -> Vec<String> {
        let name = |object: &Object| object.value(Kind::Pod)["metadata"]["name"].clone();
        page.objects.iter().map(|object| name(object).as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn pages_are_of_one_version() {
        let mut store = Store::new(100);
        for name in ["a", "b", "c", "d"] {
            store.put(Kind::Pod, &Key::new("ns", name), Some(&object(name, 0)));
        }
        let version = store.version();
        let list = |store: &Store, after: Option<&Key>| {
            store.page(Kind::Pod, None, after, version, 2, |_, _| true)
        };
        let first = list(&store, None).unwrap();
        assert_eq!((names(&first), first.remaining), (vec!["a".to_owned(), "b".to_owned()], 2));
        // One goes, one comes, one changes.
        store.put(Kind::Pod, &Key::new("ns", "c"), None);
        store.put(Kind::Pod, &Key::new("ns", "bb"), Some(&object("bb", 0)));
        store.put(Kind::Pod, &Key::new("ns", "d"), Some(&object("d", 1)));
        let second = list(&store, first.last.as_ref()).unwrap();
        assert_eq!(names(&second), ["c", "d"]);
        assert_eq!(second.objects[1].value(Kind::Pod)["value"], 0);
        assert_eq!((second.remaining, second.last), (0, None));
        store.compact(version + 1);
        assert_eq!(list(&store, None).unwrap_err(), Gone { horizon: version + 1 });
    }
}
