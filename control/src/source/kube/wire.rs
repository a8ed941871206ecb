//! The API's answers: pages of a list, events of a watch.
//!
//! Pure: bytes in, values out. Objects are trimmed while they are parsed, one at a time, so that a
//! page never exists as a tree.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::model::document::Node;

use super::kinds::Kind;
use super::refusal::Status;
use super::trim::Keep;

/// A page may be so large, in bytes; beyond that fewer objects are asked for.
pub const MAX_PAGE: usize = 32 << 20;

/// What a page says beside its items.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// `metadata.resourceVersion`.
    pub version: String,
    /// `metadata.continue`; `None` for the last page.
    pub token: Option<String>,
}

/// Reads a page; each item goes to `item`, in order, with `apiVersion` and `kind`.
///
/// # Errors
/// It is no list as JSON, or has no version; some items may have been given by then.
pub fn page(kind: Kind, text: &[u8], mut item: impl FnMut(Node)) -> Result<Page, String> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let list = List { kind, item: &mut item };
    let page = list.deserialize(&mut json).map_err(|error| format!("no list: {error}"))?;
    json.end().map_err(|error| format!("no list: {error}"))?;
    match page.version.is_empty() {
        true => Err("no list: it has no metadata.resourceVersion".to_owned()),
        false => Ok(page),
    }
}

struct List<'a, F> {
    kind: Kind,
    item: &'a mut F,
}

impl<'de, F: FnMut(Node)> DeserializeSeed<'de> for List<'_, F> {
    type Value = Page;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Page, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F: FnMut(Node)> Visitor<'de> for List<'_, F> {
    type Value = Page;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of {}", self.kind.resource())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Page, A::Error> {
        let Self { kind, item } = self;
        let mut page = Page::default();
        while let Some(key) = entries.next_key::<String>()? {
            match key.as_str() {
                "metadata" => {
                    const META: Keep =
                        Keep::Only(&[("resourceVersion", Keep::Whole), ("continue", Keep::Whole)]);
                    let metadata = entries.next_value_seed(META)?;
                    let text = |key| metadata.get_str(key).filter(|text| !text.is_empty());
                    page.version = text("resourceVersion").unwrap_or_default().to_owned();
                    page.token = text("continue").map(str::to_owned);
                }
                "items" => entries.next_value_seed(Items { kind, item: &mut *item })?,
                _ => {
                    entries.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(page)
    }
}

struct Items<'a, F> {
    kind: Kind,
    item: &'a mut F,
}

impl<'de, F: FnMut(Node)> DeserializeSeed<'de> for Items<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F: FnMut(Node)> Visitor<'de> for Items<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the items of a list")
    }

    /// Go prints an empty list that nobody made like this.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(mut object) = items.next_element_seed(self.kind.keep())? {
            self.kind.complete(&mut object);
            (self.item)(object);
        }
        Ok(())
    }
}

/// A line of a watch.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// ADDED or MODIFIED.
    Present(Node),
    /// DELETED, with the object's last state.
    Gone(Node),
    /// BOOKMARK: everything up to a version has been said.
    Bookmark(String),
    /// ERROR: the watch is over.
    Error(Status),
}

/// Reads a line.
///
/// # Errors
/// It is no event.
pub fn event(kind: Kind, line: &[u8]) -> Result<Event, String> {
    let mut json = serde_json::Deserializer::from_slice(line);
    let (word, object) =
        Line(kind).deserialize(&mut json).map_err(|error| format!("no event: {error}"))?;
    json.end().map_err(|error| format!("no event: {error}"))?;
    let Some(mut object) = object else { return Err("no event: it has no object".to_owned()) };
    match word.as_str() {
        "ADDED" | "MODIFIED" => {
            kind.complete(&mut object);
            Ok(Event::Present(object))
        }
        "DELETED" => Ok(Event::Gone(object)),
        "BOOKMARK" => Ok(Event::Bookmark(version(&object).to_owned())),
        "ERROR" => Ok(Event::Error(Status::of(&object))),
        other => Err(format!("no event: its type is {other:?}")),
    }
}

/// `metadata.resourceVersion` as it is written; empty if it is not.
pub fn version(object: &Node) -> &str {
    metadata(object, "resourceVersion")
}

/// `metadata.uid` as it is written; empty if it is not.
pub fn uid(object: &Node) -> &str {
    metadata(object, "uid")
}

fn metadata<'n>(object: &'n Node, field: &str) -> &'n str {
    object.get("metadata").and_then(|metadata| metadata.get_str(field)).unwrap_or_default()
}

struct Line(Kind);

impl<'de> DeserializeSeed<'de> for Line {
    type Value = (String, Option<Node>);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Line {
    type Value = (String, Option<Node>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let (mut word, mut object) = (String::new(), None);
        while let Some(key) = entries.next_key::<String>()? {
            match key.as_str() {
                "type" => word = entries.next_value()?,
                "object" => {
                    // The API writes the type first. Where it does not, nothing is left out: the
                    // decoders read no more than what is kept anyway.
                    let keep = match word.as_str() {
                        "ERROR" | "" => Keep::Whole,
                        _ => self.0.keep(),
                    };
                    object = Some(entries.next_value_seed(keep)?);
                }
                _ => {
                    entries.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok((word, object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::document::Value;
    use crate::source::kube::kinds::Meta;
    use crate::source::kube::trim::node;

    #[test]
    fn a_page_gives_its_items_one_by_one() {
        let text = r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"9","continue":"t","remainingItemCount":7},
            "items":[{"metadata":{"name":"a","uid":"x"},"spec":{"volumes":[1]}},{},7]}"#;
        let mut items = Vec::new();
        let page = page(Kind::Pods, text.as_bytes(), |item| items.push(item)).unwrap();
        assert_eq!(page, Page { version: "9".to_owned(), token: Some("t".to_owned()) });
        assert_eq!(items.len(), 3);
        assert_eq!(Meta::of(&items[0]).unwrap().name, "a");
        assert_eq!(
            (items[0].get_str("kind"), items[0].get_str("apiVersion")),
            (Some("Pod"), Some("v1"))
        );
        assert!(items[0].get("spec").unwrap().get("volumes").is_none());
        assert_eq!(Meta::of(&items[1]), None);
        assert_eq!(Meta::of(&items[2]), None);
    }

    #[test]
    fn what_is_no_page_is_an_error() {
        let read = |text: &str| page(Kind::Nodes, text.as_bytes(), |_| {});
        let last = Page { version: "1".to_owned(), token: None };
        assert_eq!(
            read(r#"{"metadata":{"resourceVersion":"1","continue":""},"items":null}"#),
            Ok(last)
        );
        for text in [
            "",
            "[]",
            "{}",
            "<html>",
            r#"{"items":[]}"#,
            r#"{"metadata":{"resourceVersion":"1"},"items":[{]}"#,
            r#"{"metadata":{"resourceVersion":"1"},"items":[{"metadata":{"name":"a""#,
            r#"{"metadata":{"resourceVersion":"1"},"items":{}}"#,
            r#"{"metadata":{"resourceVersion":"1"},"items":[]}{"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn events_of_every_type() {
        let read = |text: &str| event(Kind::Namespaces, text.as_bytes());
        let is = |text: &str, name: &str| match read(text) {
            Ok(Event::Present(object) | Event::Gone(object)) => {
                Meta::of(&object).unwrap().name == name
            }
            _ => false,
        };
        assert!(is(r#"{"type":"ADDED","object":{"metadata":{"name":"a"}}}"#, "a"));
        assert!(is(r#"{"type":"MODIFIED","object":{"metadata":{"name":"b"}}}"#, "b"));
        assert!(is(r#"{"object":{"metadata":{"name":"c"}},"type":"DELETED"}"#, "c"));
        let bookmark = r#"{"type":"BOOKMARK","object":{"kind":"Namespace","metadata":{"resourceVersion":"12"}}}"#;
        assert_eq!(read(bookmark), Ok(Event::Bookmark("12".to_owned())));
        let gone = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#;
        let Ok(Event::Error(status)) = read(gone) else { panic!() };
        assert!(status.is_gone());
        assert_eq!(status.to_string(), "HTTP 410: too old");
        for text in [
            "",
            "{}",
            r#"{"type":"ADDED"}"#,
            r#"{"type":"WHAT","object":{}}"#,
            r#"{"type":"ADDED","object":{"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        assert_eq!(
            event(Kind::Nodes, br#"{"type":"DELETED","object":{}}"#),
            Ok(Event::Gone(node(Value::Map(vec![]))))
        );
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..128)) {
            let _ = event(Kind::Pods, &bytes);
            let _ = page(Kind::Pods, &bytes, |_| {});
            let _ = Status::of_response(500, &bytes);
        }
    }
}
