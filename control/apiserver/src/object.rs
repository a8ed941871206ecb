//! An object as it is kept: its JSON text, once.
//!
//! The text starts within `metadata`, and holds neither `kind`, `apiVersion` nor the
//! resourceVersion; those are put in front when it is sent:
//!
//! ```text
//! {"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"7",   "name":"web",…},"spec":…}
//!  └── not in items of lists ───┘             └── of the event ────┘   └── the text kept ──────┘
//! ```
//!
//! So the history, every list and every watch share one text, also where an event has the object as
//! it was before with the resourceVersion of its removal. 150,000 pods take their JSON and some
//! 100 bytes each.

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::kind::Kind;

/// Name of an object within its kind, in the order in which lists have them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Empty for kinds that are not in namespaces.
    pub namespace: Arc<str>,
    /// `metadata.name`
    pub name: Arc<str>,
}

impl Key {
    /// The key of `namespace/name`; an empty namespace for cluster-wide kinds.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Key {
        Key { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// A state of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its resourceVersion.
    pub version: u64,
    rest: Arc<str>,
}

impl Object {
    /// The state with this value, whose `kind`, `apiVersion` and resourceVersion are left out.
    ///
    /// # Errors
    /// It is no object, or has no `metadata` with something in it.
    pub fn new(version: u64, value: Value) -> Result<Object, String> {
        let Value::Object(mut map) = value else {
            return Err("an object has to be a JSON object".to_owned());
        };
        map.remove("kind");
        map.remove("apiVersion");
        let Some(Value::Object(mut metadata)) = map.remove("metadata") else {
            return Err("metadata has to be there and an object".to_owned());
        };
        metadata.remove("resourceVersion");
        if metadata.is_empty() {
            return Err("metadata.name has to be there".to_owned());
        }
        let mut rest = text(&metadata).split_off(1);
        if map.is_empty() {
            rest.push('}');
        } else {
            rest.push(',');
            rest.push_str(&text(&map)[1..]);
        }
        Ok(Object { version, rest: rest.into() })
    }

    /// The state with this text, which starts within `metadata` as the module says.
    #[must_use]
    pub fn of_rest(version: u64, rest: &str) -> Object {
        Object { version, rest: rest.into() }
    }

    /// The same under another resourceVersion.
    #[must_use]
    pub fn at(&self, version: u64) -> Object {
        Object { version, rest: Arc::clone(&self.rest) }
    }

    /// Whether both say the same, whatever their resourceVersions.
    #[must_use]
    pub fn says_as(&self, other: &Object) -> bool {
        self.rest == other.rest
    }

    /// Appends the object as an item of a list.
    pub fn write_item(&self, kind: Kind, out: &mut String) {
        if kind.is_custom() {
            self.write(kind, out);
        } else {
            out.push('{');
            self.write_rest(out);
        }
    }

    /// Appends the object as an answer or event has it.
    pub fn write(&self, kind: Kind, out: &mut String) {
        let _ = write!(
            out,
            "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",",
            kind.name(),
            kind.api_version()
        );
        self.write_rest(out);
    }

    fn write_rest(&self, out: &mut String) {
        let _ = write!(out, "\"metadata\":{{\"resourceVersion\":\"{}\",", self.version);
        out.push_str(&self.rest);
    }

    /// The text as an answer or event has it.
    #[must_use]
    pub fn text(&self, kind: Kind) -> String {
        let mut out = String::with_capacity(self.rest.len() + 120);
        self.write(kind, &mut out);
        out
    }

    /// The value as an answer has it.
    #[must_use]
    pub fn value(&self, kind: Kind) -> Value {
        serde_json::from_str(&self.text(kind)).unwrap_or_default()
    }

    /// Bytes of the text kept.
    #[must_use]
    pub fn size(&self) -> usize {
        self.rest.len()
    }
}

/// Strings and numbers only: cannot fail.
fn text(map: &Map<String, Value>) -> String {
    serde_json::to_string(map).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_is_as_the_server_sends_it() {
        let value = json!({
            "apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": "a"},
            "metadata": {"name": "web", "namespace": "shop", "resourceVersion": "3"},
        });
        let pod = Object::new(7, value).unwrap();
        assert_eq!(
            pod.text(Kind::Pod),
            "{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"metadata\":{\"resourceVersion\":\"7\",\
             \"name\":\"web\",\"namespace\":\"shop\"},\"spec\":{\"nodeName\":\"a\"}}"
        );
        let mut item = String::new();
        pod.at(9).write_item(Kind::Pod, &mut item);
        assert_eq!(
            item,
            "{\"metadata\":{\"resourceVersion\":\"9\",\"name\":\"web\",\"namespace\":\"shop\"},\
             \"spec\":{\"nodeName\":\"a\"}}"
        );
        let bare = Object::new(1, json!({"metadata": {"name": "a"}})).unwrap();
        assert_eq!(bare.value(Kind::Namespace)["metadata"]["name"], "a");
        assert!(pod.says_as(&pod.at(12)));
    }

    #[test]
    fn no_object_without_metadata() {
        for value in [json!([]), json!({}), json!({"metadata": {}}), json!({"metadata": 1})] {
            assert!(Object::new(1, value.clone()).is_err(), "{value}");
        }
    }
}
