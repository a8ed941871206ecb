//! From parser events to value trees.
//!
//! The parser gives events and checks the syntax; here they become trees, with what YAML leaves to
//! the reader: the types of plain scalars (core schema of YAML 1.2), aliases, merge keys, duplicate
//! keys. Open lists and mappings are kept on a stack of our own, so that depth is a number to
//! compare and not the process's stack.
//!
//! Bounds: depth [`MAX_DEPTH`], and [`MAX_COPIED`] for what aliases and merge keys copy. Everything
//! else is proportional to the text.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Tag};

use super::{Node, SyntaxError, Value};

/// How deep lists and mappings may nest. Kubernetes objects stay below 64.
pub(super) const MAX_DEPTH: usize = 200;
/// How much aliases and merge keys may copy altogether: values plus bytes of text.
pub(super) const MAX_COPIED: usize = 4 << 20;
/// Up to this many keys are compared with one another; more are hashed.
const FEW: usize = 16;

/// A list or mapping that has begun.
struct Open {
    line: u32,
    anchor: usize,
    kind: Kind,
}

enum Kind {
    List(Vec<Node>),
    Map {
        entries: Vec<(String, Node)>,
        /// The key whose value comes next.
        key: Option<Key>,
        /// Values of `<<`.
        merged: Vec<Node>,
    },
}

enum Key {
    Text(String),
    Merge,
}

/// Builds the trees of all documents.
pub(super) fn documents(text: &str) -> Result<Vec<Node>, SyntaxError> {
    let options = granit_parser::options! { emit_comments: false };
    let mut builder = Builder::default();
    for next in Parser::new_from_str_with_options(text, options) {
        let (event, span) = next.map_err(|error| syntax(&error))?;
        builder.event(event, u32::try_from(span.start.line()).unwrap_or(0))?;
    }
    Ok(builder.documents)
}

fn syntax(error: &ScanError) -> SyntaxError {
    let line = u32::try_from(error.marker().line()).unwrap_or(0);
    SyntaxError::Parse { line, message: format!("{} (line {line})", error.info()) }
}

fn fault<T>(line: u32, message: impl Into<String>) -> Result<T, SyntaxError> {
    Err(SyntaxError::Parse { line, message: format!("{} (line {line})", message.into()) })
}

#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    open: Vec<Open>,
    /// Anchored values that are complete, each with its size and depth.
    anchors: HashMap<usize, (Node, Size)>,
    copied: usize,
}

#[derive(Clone, Copy)]
struct Size {
    cost: usize,
    depth: usize,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, line: u32) -> Result<(), SyntaxError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => self.scalar(text, style, anchor, tag, line),
            Event::SequenceStart(_, anchor, tag) => {
                is_core(tag.as_deref(), "seq", line)?;
                self.begin(Open { line, anchor, kind: Kind::List(Vec::new()) })
            }
            Event::MappingStart(_, anchor, tag) => {
                is_core(tag.as_deref(), "map", line)?;
                let kind = Kind::Map { entries: Vec::new(), key: None, merged: Vec::new() };
                self.begin(Open { line, anchor, kind })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor) else {
                    return fault(line, "an alias within the value that it stands for");
                };
                let (node, size) = (Node { line, value: node.value.clone() }, *size);
                if self.open.len() + size.depth > MAX_DEPTH {
                    return too_deep(line);
                }
                self.copy(size.cost, line)?;
                self.value(node)
            }
            Event::DocumentEnd => {
                self.anchors.clear();
                Ok(())
            }
            // Aliases without an anchor are errors of the parser.
            _ => Ok(()),
        }
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<Cow<'_, Tag>>,
        line: u32,
    ) -> Result<(), SyntaxError> {
        if let Some(Open { kind: Kind::Map { key: key @ None, .. }, .. }) = self.open.last_mut() {
            // Keys are text, whatever they look like: as JSON they could be nothing else.
            is_core(tag.as_deref(), "str", line)?;
            *key = Some(match style {
                ScalarStyle::Plain if text == "<<" => Key::Merge,
                _ => Key::Text(text.clone().into_owned()),
            });
            if anchor > 0 {
                let value = Value::String(text.into_owned());
                self.anchor(anchor, &Node { line, value })?;
            }
            return Ok(());
        }
        let node = Node { line, value: typed(text, style, tag.as_deref(), line)? };
        if anchor > 0 {
            self.anchor(anchor, &node)?;
        }
        self.value(node)
    }

    fn begin(&mut self, open: Open) -> Result<(), SyntaxError> {
        if self.open.len() >= MAX_DEPTH {
            return too_deep(open.line);
        }
        if let Some(Open { kind: Kind::Map { key: None, .. }, .. }) = self.open.last() {
            return fault(open.line, "a key must be a text, not a list or mapping");
        }
        self.open.push(open);
        Ok(())
    }

    fn end(&mut self) -> Result<(), SyntaxError> {
        let Some(Open { line, anchor, kind }) = self.open.pop() else { return Ok(()) };
        let value = match kind {
            Kind::List(items) => Value::List(items),
            Kind::Map { mut entries, merged, .. } => {
                distinct(&entries)?;
                if !merged.is_empty() {
                    merge(&mut entries, merged)?;
                }
                Value::Map(entries)
            }
        };
        let node = Node { line, value };
        if anchor > 0 {
            self.anchor(anchor, &node)?;
        }
        self.value(node)
    }

    /// A complete value: where it belongs.
    fn value(&mut self, node: Node) -> Result<(), SyntaxError> {
        match self.open.last_mut().map(|open| &mut open.kind) {
            None => self.documents.push(node),
            Some(Kind::List(items)) => items.push(node),
            Some(Kind::Map { entries, key, merged }) => match key.take() {
                Some(Key::Text(text)) => entries.push((text, node)),
                Some(Key::Merge) => merged.push(node),
                // An alias in the place of a key.
                None => match node.value {
                    Value::String(text) => *key = Some(Key::Text(text)),
                    _ => return fault(node.line, "a key must be a text, not a list or mapping"),
                },
            },
        }
        Ok(())
    }

    fn anchor(&mut self, anchor: usize, node: &Node) -> Result<(), SyntaxError> {
        let size = size(node);
        self.copy(size.cost, node.line)?;
        self.anchors.insert(anchor, (node.clone(), size));
        Ok(())
    }

    fn copy(&mut self, cost: usize, line: u32) -> Result<(), SyntaxError> {
        self.copied = self.copied.saturating_add(cost);
        if self.copied > MAX_COPIED {
            return fault(line, "anchors and aliases copy too much; write the values out");
        }
        Ok(())
    }
}

fn too_deep<T>(line: u32) -> Result<T, SyntaxError> {
    fault(line, format!("lists and mappings nest deeper than {MAX_DEPTH}"))
}

fn size(node: &Node) -> Size {
    let (children, text) = match &node.value {
        Value::List(items) => (items.iter().map(size).collect::<Vec<_>>(), 0),
        Value::Map(entries) => (
            entries.iter().map(|(_, node)| size(node)).collect(),
            entries.iter().map(|(key, _)| key.len()).sum(),
        ),
        Value::String(text) => (Vec::new(), text.len()),
        _ => (Vec::new(), 0),
    };
    Size {
        cost: 1 + text + children.iter().map(|child| child.cost).sum::<usize>(),
        depth: 1 + children.iter().map(|child| child.depth).max().unwrap_or(0),
    }
}

/// Refuses a key that stands twice, as the API server's strict decoding does.
fn distinct(entries: &[(String, Node)]) -> Result<(), SyntaxError> {
    let twice = if entries.len() <= FEW {
        let before = |i: usize| entries[..i].iter().map(|(key, _)| key);
        (1..entries.len()).find(|&i| before(i).any(|key| *key == entries[i].0))
    } else {
        let mut seen = HashSet::with_capacity(entries.len());
        entries.iter().position(|(key, _)| !seen.insert(key))
    };
    match twice {
        Some(i) => fault(entries[i].1.line, format!("the key `{}` stands twice", entries[i].0)),
        None => Ok(()),
    }
}

/// `<<`: entries of other mappings, for keys that are not written here. Earlier ones win.
fn merge(entries: &mut Vec<(String, Node)>, merged: Vec<Node>) -> Result<(), SyntaxError> {
    let mut known: HashSet<String> = entries.iter().map(|(key, _)| key.clone()).collect();
    for node in merged {
        let sources = match node.value {
            Value::List(items) => items,
            _ => vec![node],
        };
        for source in sources {
            let Value::Map(more) = source.value else {
                return fault(source.line, "`<<` takes a mapping or a list of mappings");
            };
            entries.extend(more.into_iter().filter(|(key, _)| known.insert(key.clone())));
        }
    }
    Ok(())
}

/// Whether a tag says no more than the value's kind does. `!` alone is YAML's "as written".
fn is_core(tag: Option<&Tag>, suffix: &str, line: u32) -> Result<(), SyntaxError> {
    match tag {
        None => Ok(()),
        Some(tag) if tag.is_yaml_core_schema_tag(suffix) || is_bare(tag) => Ok(()),
        Some(tag) => fault(line, format!("the tag {tag} does not belong here; leave it out")),
    }
}

fn is_bare(tag: &Tag) -> bool {
    tag.handle().is_empty() && tag.suffix() == "!" || tag.handle() == "!" && tag.suffix().is_empty()
}

/// A scalar by its style, tag and text.
fn typed(
    text: Cow<'_, str>,
    style: ScalarStyle,
    tag: Option<&Tag>,
    line: u32,
) -> Result<Value, SyntaxError> {
    let Some(tag) = tag else {
        return Ok(match style {
            ScalarStyle::Plain => plain(&text).unwrap_or_else(|| Value::String(text.into_owned())),
            _ => Value::String(text.into_owned()),
        });
    };
    if tag.is_yaml_core_schema_tag("str") || is_bare(tag) {
        return Ok(Value::String(text.into_owned()));
    }
    let value = plain(&text);
    let said = match &value {
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "bool",
        Some(Value::Integer(_)) => "int",
        Some(Value::Float(_)) => "float",
        _ => "str",
    };
    is_core(Some(tag), said, line)?;
    Ok(value.unwrap_or_else(|| Value::String(text.into_owned())))
}

/// What a plain scalar is if not text (YAML 1.2.2, section 10.3.2).
///
/// One deviation: a number with a leading zero is a number, but no whole one. YAML 1.1, which the
/// API server's tools read, takes `0123` for octal; as nobody can tell which was meant, no field
/// accepts it.
fn plain(text: &str) -> Option<Value> {
    let first = *text.as_bytes().first().unwrap_or(&b'~');
    match first {
        b'~' | b'n' | b'N' => {
            matches!(text, "" | "~" | "null" | "Null" | "NULL").then_some(Value::Null)
        }
        b't' | b'T' => matches!(text, "true" | "True" | "TRUE").then_some(Value::Bool(true)),
        b'f' | b'F' => matches!(text, "false" | "False" | "FALSE").then_some(Value::Bool(false)),
        b'0'..=b'9' | b'+' | b'-' | b'.' => number(text),
        _ => None,
    }
}

fn number(text: &str) -> Option<Value> {
    for (prefix, radix) in [("0o", 8), ("0x", 16)] {
        if let Some(digits) = text.strip_prefix(prefix) {
            let valid = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
            let number = valid.then(|| i64::from_str_radix(digits, radix).ok())?;
            return Some(number.map_or(Value::Float(f64::INFINITY), Value::Integer));
        }
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        let infinity = if text.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY };
        return Some(Value::Float(infinity));
    }
    if matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Some(Value::Float(f64::NAN));
    }
    if !is_decimal(unsigned.as_bytes()) {
        return None;
    }
    let whole = unsigned.bytes().all(|b| b.is_ascii_digit());
    let padded = whole && unsigned.len() > 1 && unsigned.starts_with('0');
    if whole
        && !padded
        && let Ok(number) = text.parse()
    {
        return Some(Value::Integer(number));
    }
    text.parse().ok().map(Value::Float)
}

/// `digits [. digits] [e [sign] digits]`, with a digit on at least one side of the point.
fn is_decimal(text: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().take_while(|b| b.is_ascii_digit()).count();
    let whole = digits(text);
    let mut rest = &text[whole..];
    let mut fraction = 0;
    if let [b'.', after @ ..] = rest {
        fraction = digits(after);
        rest = &after[fraction..];
    }
    if whole + fraction == 0 {
        return false;
    }
    match rest {
        [] => true,
        [b'e' | b'E', b'+' | b'-', exponent @ ..] | [b'e' | b'E', exponent @ ..] => {
            !exponent.is_empty() && digits(exponent) == exponent.len()
        }
        _ => false,
    }
}
