//! From JSON to a value tree that holds what is wanted and nothing else.
//!
//! An object of the API is mostly of no interest here: a Pod of 8 KiB decides verdicts by some
//! 300 bytes. What is kept is stated once for each kind ([`Keep`]); everything else is skipped by
//! the parser without being built. What remains is the same tree that a manifest becomes, so that
//! the same decoders give every field its meaning.
//!
//! Invariants:
//! * a field that is kept is kept as it was written, whatever its type;
//! * a list is transparent: what is kept of its items is what is stated for the list;
//! * numbers become what the reader of manifests makes of them, so that no field is a port number
//!   in one source and none in the other.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::model::document::{Node, Value};

/// What of a value is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// All of it.
    Whole,
    /// None of it.
    Nothing,
    /// Of a mapping these entries, each as stated; of anything else all.
    Only(&'static [(&'static str, Keep)]),
    /// Of a mapping everything, these entries as stated; of anything else all.
    Except(&'static [(&'static str, Keep)]),
}

impl Keep {
    /// What is wanted of an entry.
    fn entry(self, key: &str) -> Keep {
        let stated = |fields: &'static [(&str, Keep)]| {
            fields.iter().find(|(name, _)| *name == key).map(|(_, keep)| *keep)
        };
        match self {
            Self::Whole => Self::Whole,
            Self::Nothing => Self::Nothing,
            Self::Only(fields) => stated(fields).unwrap_or(Self::Nothing),
            Self::Except(fields) => stated(fields).unwrap_or(Self::Whole),
        }
    }
}

/// A value without a line: JSON of the API has one line only.
pub fn node(value: Value) -> Node {
    Node { line: 0, value }
}

impl<'de> DeserializeSeed<'de> for Keep {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(Trim(self)).map(node)
    }
}

struct Trim(Keep);

impl<'de> Visitor<'de> for Trim {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    #[allow(clippy::cast_precision_loss)] // too large for a whole number, so no field takes it
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.0)? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some((key, keep)) = entries.next_key_seed(Key(self.0))? {
            match key {
                Some(key) => map.push((key, entries.next_value_seed(keep)?)),
                None => {
                    entries.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Value::Map(map))
    }
}

/// A key if its entry is wanted, and what of it.
struct Key(Keep);

impl<'de> DeserializeSeed<'de> for Key {
    type Value = (Option<String>, Keep);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key {
    type Value = (Option<String>, Keep);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        let keep = self.0.entry(key);
        Ok(((keep != Keep::Nothing).then(|| key.to_owned()), keep))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::document::parse;

    fn trimmed(keep: Keep, text: &str) -> Node {
        let mut json = serde_json::Deserializer::from_str(text);
        let node = keep.deserialize(&mut json).unwrap();
        json.end().unwrap();
        node
    }

    /// A tree as text, to compare by.
    fn text(node: &Node) -> String {
        match &node.value {
            Value::Null => "null".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Integer(value) => value.to_string(),
            Value::Float(value) => format!("{value:?}"),
            Value::String(value) => format!("{value:?}"),
            Value::List(items) => {
                format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(","))
            }
            Value::Map(entries) => {
                let entry = |(key, node): &(String, Node)| format!("{key:?}:{}", text(node));
                format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(","))
            }
        }
    }

    #[test]
    fn what_is_stated_is_kept_and_the_rest_is_not() {
        const PORTS: Keep = Keep::Only(&[("ports", Keep::Whole)]);
        const ONLY: Keep = Keep::Only(&[("spec", Keep::Only(&[("containers", PORTS)]))]);
        const EXCEPT: Keep = Keep::Except(&[("meta", Keep::Except(&[("big", Keep::Nothing)]))]);
        for (keep, from, to) in [
            (
                ONLY,
                r#"{"spec":{"x":{"ports":1},"containers":[{"ports":[{"p":1}],"env":[]},{}]},"y":2}"#,
                r#"{"spec":{"containers":[{"ports":[{"p":1}]},{}]}}"#,
            ),
            (ONLY, r#"{"spec":[1,"a",null]}"#, r#"{"spec":[1,"a",null]}"#),
            (ONLY, "7", "7"),
            (EXCEPT, r#"{"meta":{"big":[1],"a":0},"b":{}}"#, r#"{"meta":{"a":0},"b":{}}"#),
            (Keep::Whole, r#"{"a":[true,{"b":-1}]}"#, r#"{"a":[true,{"b":-1}]}"#),
        ] {
            assert_eq!(text(&trimmed(keep, from)), to, "{from}");
        }
    }

    /// Whoever writes a manifest as JSON and whoever creates it through the API mean the same.
    #[test]
    fn values_are_those_of_a_manifest() {
        for scalar in [
            "null",
            "true",
            "0",
            "-0",
            "80",
            "-1",
            "9223372036854775807",
            "9223372036854775808",
            "-9223372036854775808",
            "1.5",
            "1e3",
            "80.0",
            r#""80""#,
            r#""a\u0041\n""#,
            r#""""#,
            "[]",
            "{}",
        ] {
            let document = format!("{{\"v\": {scalar}}}");
            let theirs = parse(document.as_bytes()).unwrap();
            let ours = trimmed(Keep::Whole, &document);
            // The sign of a zero is not kept there, and no field can tell.
            assert_eq!(text(&ours).replace("-0.0", "0"), text(&theirs[0]), "{scalar}");
        }
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        for text in ["", "{", r#"{"a":}"#, r#"{"a":1"#, "[1,]", r#"{"skip":[}"#] {
            let mut json = serde_json::Deserializer::from_str(text);
            assert!(Keep::Only(&[("a", Keep::Whole)]).deserialize(&mut json).is_err(), "{text}");
        }
    }
}
