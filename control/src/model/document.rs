//! Text to value trees: YAML or JSON, one or several documents, each value with its line.
//!
//! Objects are decoded from this tree and not from the text directly because the kind decides the
//! type, because `kubectl` prints `kind` after `items`, and because a complaint should give the
//! line. JSON is read by the YAML parser as well: YAML 1.2 contains it, and the lines come along.
//!
//! Scalars follow YAML 1.2: `yes` and `on` are strings, `true` is a boolean. A duplicate key is an
//! error, as under the API server's strict field validation.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

/// Largest text accepted from one file, in bytes.
pub const MAX_TEXT: usize = 256 << 20;

/// A value and the line where it begins (counted from 1, 0 if unknown).
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The line of the value, from 1.
    pub line: u32,
    /// The value.
    pub value: Value,
}

/// What a [`Node`] holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number that is not whole, or too large.
    Float(f64),
    /// Text.
    String(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping in the order of the text.
    Map(Vec<(String, Node)>),
}

impl Value {
    /// The value's type in a reader's words.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::String(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

impl Node {
    /// The entry of a mapping, absent if there is none or this is no mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| k == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The text of a string entry.
    pub fn get_str(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }
}

/// Why a text is no sequence of documents.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    /// The parser's own words, with the line where it gave up.
    #[error("not valid YAML or JSON: {message}")]
    Parse {
        /// Line, from 1; 0 if unknown.
        line: u32,
        /// What the parser says.
        message: String,
    },
    /// Nothing at all; a file that is being written looks like this for a moment.
    #[error("the file is empty (remove it if its objects are to be withdrawn)")]
    Empty,
    /// Not text.
    #[error("the file is not UTF-8 text")]
    NotText,
    /// Beyond [`MAX_TEXT`].
    #[error("the file is larger than 256 MiB; split it")]
    TooLarge,
}

/// Parses every document of a text; documents without content are left out.
///
/// # Errors
/// [`SyntaxError`] if any document is malformed: a file counts as a whole, because the rest of a
/// half-written file cannot be trusted.
pub fn parse(bytes: &[u8]) -> Result<Vec<Node>, SyntaxError> {
    if bytes.is_empty() {
        return Err(SyntaxError::Empty);
    }
    if bytes.len() > MAX_TEXT {
        return Err(SyntaxError::TooLarge);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| SyntaxError::NotText)?;
    // The size is bounded above and aliases by their own limits; the parser's remaining budgets
    // are set for configuration files and too small for the listing of a large cluster.
    let options = serde_saphyr::options! {
        budget: None,
        strict_booleans: true,
        with_snippet: false,
    };
    let documents: Vec<Node> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
            let line = error.location().map_or(0, |l| u32::try_from(l.line()).unwrap_or(0));
            SyntaxError::Parse { line, message: error.to_string() }
        })?;
    Ok(documents.into_iter().filter(|node| node.value != Value::Null).collect())
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = serde_saphyr::Spanned::<Value>::deserialize(deserializer)?;
        let line = u32::try_from(spanned.referenced.line()).unwrap_or(0);
        Ok(Self { line, value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        // Beyond i64 no field that we read has a meaning; the float keeps it a number.
        Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Integer))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Node>()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            entries.push((key, map.next_value::<Node>()?));
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_types_survive() {
        let text = "a: 1\nb:\n  - x\n  - true\n  - \"80\"\n  -\n---\n# nothing\n---\nc: 1.5\n";
        let documents = parse(text.as_bytes()).unwrap();
        assert_eq!(documents.len(), 2);
        let list = documents[0].get("b").unwrap();
        let Value::List(items) = &list.value else { panic!("{list:?}") };
        let lines: Vec<u32> = items.iter().map(|item| item.line).collect();
        assert_eq!(lines[..3], [3, 4, 5]);
        assert_eq!(items[1].value, Value::Bool(true));
        assert_eq!(items[2].value, Value::String("80".into()));
        assert_eq!(items[3].value, Value::Null);
        assert_eq!(documents[1].get("c").unwrap().value, Value::Float(1.5));
    }

    #[test]
    fn json_is_read_with_its_lines() {
        let text = "{\n\t\"kind\": \"Pod\",\n\t\"items\": [\n\t\t{\"p\": 80, \"q\": \"a\\/b\\u0041\"}\n\t]\n}\n";
        let documents = parse(text.as_bytes()).unwrap();
        let Value::List(items) = &documents[0].get("items").unwrap().value else { panic!() };
        assert_eq!(items[0].line, 4);
        assert_eq!(items[0].get("p").unwrap().value, Value::Integer(80));
        assert_eq!(items[0].get_str("q"), Some("a/bA"));
    }

    #[test]
    fn what_is_no_document_is_an_error() {
        for (name, text) in [
            ("empty", &b""[..]),
            ("half a flow mapping", b"kind: Pod\nmetadata: {name: a"),
            ("half a quoted string", b"kind: \"Po"),
            ("duplicate key", b"kind: Pod\nkind: Pod\n"),
            ("not text", b"kind: \xff\xfe"),
            ("json lines", b"{\"a\":1}\n{\"a\":2}\n{"),
        ] {
            assert!(parse(text).is_err(), "{name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..256)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn arbitrary_text_never_panics(text in "[-a-z:{}\\[\\]&*!|>\"' \n\t#,?%@0-9]{0,120}") {
            let _ = parse(text.as_bytes());
        }
    }
}
