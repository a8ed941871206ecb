//! Text to value trees: YAML or JSON, one or several documents, each value with its line.
//!
//! Objects are decoded from this tree and not from the text directly because the kind decides the
//! type, because `kubectl` prints `kind` after `items`, and because a complaint should give the
//! line. JSON is read by the YAML parser as well: YAML 1.2 contains it, and the lines come along.
//!
//! Scalars follow YAML 1.2: `yes` and `on` are strings, `true` is a boolean. A duplicate key is an
//! error, as under the API server's strict field validation. Anchors, aliases and merge keys are
//! followed within limits; tags that change a value's type are refused.

mod build;

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
    let documents = build::documents(text)?;
    Ok(documents.into_iter().filter(|node| node.value != Value::Null).collect())
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

    fn scalar(text: &str) -> Value {
        parse(format!("a: {text}\n").as_bytes()).unwrap()[0].get("a").unwrap().value.clone()
    }

    /// YAML 1.2.2, section 10.3.2, and the deviation for leading zeros.
    #[test]
    fn scalars_have_the_types_of_the_core_schema() {
        use Value::{Bool, Float, Integer, Null};
        for (text, value) in [
            ("", Null),
            ("~", Null),
            ("null", Null),
            ("Null", Null),
            ("true", Bool(true)),
            ("FALSE", Bool(false)),
            ("80", Integer(80)),
            ("-1", Integer(-1)),
            ("+7", Integer(7)),
            ("0", Integer(0)),
            ("0o17", Integer(15)),
            ("0xff", Integer(255)),
            ("9223372036854775807", Integer(i64::MAX)),
            ("9223372036854775808", Float(9_223_372_036_854_775_808.0)),
            ("1.5", Float(1.5)),
            (".5", Float(0.5)),
            ("1.", Float(1.0)),
            ("1e3", Float(1000.0)),
            ("-2.5E-1", Float(-0.25)),
            ("0123", Float(123.0)),
            ("0080", Float(80.0)),
            (".inf", Float(f64::INFINITY)),
            ("-.inf", Float(f64::NEG_INFINITY)),
            ("!!int 80", Integer(80)),
        ] {
            assert_eq!(scalar(text), value, "{text}");
        }
        for (text, value) in [
            ("yes", "yes"),
            ("nUll", "nUll"),
            ("1_000", "1_000"),
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("fd00::1", "fd00::1"),
            ("1e", "1e"),
            ("0x", "0x"),
            ("0o9", "0o9"),
            (".", "."),
            ("e3", "e3"),
            ("\"80\"", "80"),
            ("'true'", "true"),
            ("!!str 80", "80"),
            ("! 80", "80"),
            ("|-\n  null", "null"),
        ] {
            assert_eq!(scalar(text), Value::String(value.to_owned()), "{text}");
        }
        assert!(matches!(scalar(".nan"), Float(number) if number.is_nan()));
    }

    #[test]
    fn anchors_and_merge_keys_are_followed() {
        let text = "base: &b {x: 1, y: 2}\nname: &n web\na: *b\nb:\n  <<: *b\n  y: 3\nc: {<<: [{z: 9}, *b], x: 4}\n*n : w\n\"<<\": text\n";
        let root = &parse(text.as_bytes()).unwrap()[0];
        let number =
            |map: &str, key: &str| root.get(map).unwrap().get(key).map(|n| n.value.clone());
        assert_eq!(number("a", "x"), Some(Value::Integer(1)));
        assert_eq!(root.get("a").unwrap().line, 3);
        assert_eq!(number("b", "x"), Some(Value::Integer(1)));
        assert_eq!(number("b", "y"), Some(Value::Integer(3)));
        assert_eq!(number("c", "x"), Some(Value::Integer(4)));
        assert_eq!(number("c", "z"), Some(Value::Integer(9)));
        assert_eq!(root.get_str("web"), Some("w"));
        assert_eq!(root.get_str("<<"), Some("text"));
    }

    /// Texts that would take a multiple of their size in memory, or the whole stack.
    #[test]
    fn bombs_are_refused() {
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let copies = vec![format!("*a{}", i - 1); 10].join(", ");
            laughs.push_str(&format!("a{i}: &a{i} [{copies}]\n"));
        }
        let mut chain = "a0: &a0 [x]\n".to_owned();
        for i in 1..500 {
            chain.push_str(&format!("a{i}: &a{i} [*a{}]\n", i - 1));
        }
        for (name, text, part) in [
            ("laughs", laughs, "copy too much"),
            ("chain", chain, "nest deeper"),
            ("flow lists", "[".repeat(100_000), ""),
            ("flow mappings", "{a: ".repeat(100_000), ""),
            ("block lists", "- ".repeat(100_000), ""),
            ("a value in itself", "&a [*a]".to_owned(), "alias"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(part), "{name}: {error}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, line, part) in [
            ("a: 1\nb: 2\na: 3\n", 3, "`a` stands twice"),
            ("a:\n  [x]: 1\n", 2, "key must be a text"),
            ("a:\n  ? {x: 1}\n  : 1\n", 2, "key must be a text"),
            ("a: !!int x\n", 1, "the tag"),
            ("a: !custom x\n", 1, "the tag"),
            ("a: !!map [x]\n", 1, "the tag"),
            ("a:\n  <<: 7\n", 2, "`<<` takes"),
            ("a: *nobody\n", 1, "unknown anchor"),
            ("a: [1\nb: 2\n", 2, ""),
        ] {
            match parse(text.as_bytes()).unwrap_err() {
                SyntaxError::Parse { line: found, message } => {
                    assert_eq!(found, line, "{text}: {message}");
                    assert!(message.contains(part), "{text}: {message}");
                }
                other => panic!("{text}: {other}"),
            }
        }
        let mut many: String = (0..100).map(|i| format!("k{i}: x\n")).collect();
        assert!(parse(many.as_bytes()).is_ok());
        many.push_str("k7: y\n");
        assert!(parse(many.as_bytes()).unwrap_err().to_string().contains("`k7` stands twice"));
    }

    /// A tree without its lines.
    fn json(node: &Node) -> serde_json::Value {
        match &node.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Integer(value) => (*value).into(),
            Value::Float(value) => (*value).into(),
            Value::String(value) => value.as_str().into(),
            Value::List(items) => items.iter().map(json).collect(),
            Value::Map(entries) => {
                entries.iter().map(|(key, node)| (key.clone(), json(node))).collect()
            }
        }
    }

    fn any_json() -> impl proptest::strategy::Strategy<Value = serde_json::Value> {
        use proptest::prelude::*;
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            (-1000i32..1000).prop_map(|n| (f64::from(n) + 0.5).into()),
            "[ -~\n\tä]{0,12}".prop_map(Into::into),
            proptest::sample::select(vec!["", "~", "80", "true", "- a", "a: b", "#", "<<", "0x1"])
                .prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            let entries = prop::collection::btree_map("[ -~]{0,6}", inner.clone(), 0..6);
            prop_oneof![
                prop::collection::vec(inner, 0..6).prop_map(Into::into),
                entries.prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest::proptest! {
        /// What a writer of JSON or of YAML wrote is what is read.
        #[test]
        fn what_was_written_is_read(value in any_json()) {
            let wrapped = serde_json::json!({"v": value});
            for text in [
                wrapped.to_string(),
                serde_json::to_string_pretty(&wrapped).unwrap(),
                serde_saphyr::to_string(&wrapped).unwrap(),
            ] {
                let documents = parse(text.as_bytes()).unwrap();
                proptest::prop_assert_eq!(json(&documents[0]), wrapped.clone(), "{}", text);
            }
        }

        /// Another reader of YAML sees the same in whatever both take for YAML.
        #[test]
        fn another_reader_agrees(text in "[-a-c:{}\\[\\]&*|>\"' \n#,?1-9]{0,60}") {
            let ours = parse(text.as_bytes());
            let theirs = serde_saphyr::from_multiple::<serde_json::Value>(&text);
            if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
                let ours: Vec<_> = ours.iter().map(json).collect();
                proptest::prop_assert_eq!(ours, theirs);
            }
        }

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
