//! Label and field selectors, as the server reads them from queries.
//!
//! An object's text is looked into only where a selector asks for more than its name.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::kind::Kind;
use crate::object::{Key, Object};
use crate::status::Refusal;

/// What a label has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    /// Also true where there is no such label.
    NotIn(Vec<String>),
    Above(i64),
    Below(i64),
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        let number = value.and_then(|value| value.parse::<i64>().ok());
        match self {
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::In(values) => value.is_some_and(|value| values.iter().any(|v| v == value)),
            Test::NotIn(values) => value.is_none_or(|value| values.iter().all(|v| v != value)),
            Test::Above(bound) => number.is_some_and(|number| number > *bound),
            Test::Below(bound) => number.is_some_and(|number| number < *bound),
        }
    }
}

/// What a field has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    path: String,
    value: String,
    equal: bool,
}

/// What a list or watch is to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    labels: Vec<(String, Test)>,
    fields: Vec<Field>,
}

/// The part of an object that label selectors look at.
#[derive(Deserialize)]
struct Labelled<'a> {
    #[serde(borrow)]
    metadata: Labels<'a>,
}

#[derive(Deserialize)]
struct Labels<'a> {
    #[serde(borrow, default)]
    labels: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
}

impl Selector {
    /// Reads the parameters `labelSelector` and `fieldSelector`; empty ones select everything.
    ///
    /// # Errors
    /// 400: the syntax is wrong, or the kind has no such field to select by.
    pub fn parse(kind: Kind, labels: &str, fields: &str) -> Result<Selector, Refusal> {
        let mut selector = Selector::default();
        for part in split(labels) {
            selector.labels.push(requirement(part).ok_or_else(|| {
                Refusal::bad_request(format!(
                    "unable to parse requirement: {part:?} of labelSelector {labels:?}"
                ))
            })?);
        }
        for part in fields.split(',').filter(|part| !part.is_empty()) {
            selector.fields.push(field(kind, part)?);
        }
        Ok(selector)
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether it selects this state of the object.
    #[must_use]
    pub fn matches(&self, kind: Kind, key: &Key, object: &Object) -> bool {
        if self.is_empty() {
            return true;
        }
        self.labels_match(kind, object) && self.fields_match(kind, key, object)
    }

    fn labels_match(&self, kind: Kind, object: &Object) -> bool {
        if self.labels.is_empty() {
            return true;
        }
        let text = object.text(kind);
        let labels = serde_json::from_str::<Labelled<'_>>(&text)
            .ok()
            .and_then(|object| object.metadata.labels)
            .unwrap_or_default();
        self.labels
            .iter()
            .all(|(key, test)| test.holds(labels.get(key.as_str()).map(AsRef::as_ref)))
    }

    fn fields_match(&self, kind: Kind, key: &Key, object: &Object) -> bool {
        let mut value = None;
        self.fields.iter().all(|field| {
            let is = match field.path.as_str() {
                "metadata.name" => key.name.to_string(),
                "metadata.namespace" => key.namespace.to_string(),
                path => field_text(value.get_or_insert_with(|| object.value(kind)), path),
            };
            (is == field.value) == field.equal
        })
    }
}

/// The field as a selector sees it: what is not there is the type's zero.
fn field_text(value: &Value, path: &str) -> String {
    match value.pointer(&format!("/{}", path.replace('.', "/"))) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => match path {
            "spec.hostNetwork" | "spec.unschedulable" => "false".to_owned(),
            _ => String::new(),
        },
        Some(other) => other.to_string(),
    }
}

/// At commas that are not within brackets.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0_usize, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text.trim().is_empty() {
        parts.push(text[start..].trim());
    }
    parts
}

fn requirement(part: &str) -> Option<(String, Test)> {
    if let Some(key) = part.strip_prefix('!') {
        return Some((label_key(key)?, Test::Absent));
    }
    if let Some((head, values)) = part.strip_suffix(')').and_then(|part| part.split_once('(')) {
        let (key, operator) = head.trim().rsplit_once(char::is_whitespace)?;
        let values: Option<Vec<String>> = values.split(',').map(label_value).collect();
        let test = match operator {
            "in" => Test::In(values?),
            "notin" => Test::NotIn(values?),
            _ => return None,
        };
        return Some((label_key(key)?, test));
    }
    for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
        if let Some((key, value)) = part.split_once(operator) {
            let values = vec![label_value(value)?];
            let test = if equal { Test::In(values) } else { Test::NotIn(values) };
            return Some((label_key(key)?, test));
        }
    }
    if let Some((key, bound)) = part.split_once('>') {
        return Some((label_key(key)?, Test::Above(bound.trim().parse().ok()?)));
    }
    if let Some((key, bound)) = part.split_once('<') {
        return Some((label_key(key)?, Test::Below(bound.trim().parse().ok()?)));
    }
    Some((label_key(part)?, Test::Exists))
}

fn is_word(text: &str, extra: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c) || extra.contains(c))
}

fn label_key(text: &str) -> Option<String> {
    let text = text.trim();
    let fits = !text.is_empty() && is_word(text, "/") && text.matches('/').count() <= 1;
    fits.then(|| text.to_owned())
}

fn label_value(text: &str) -> Option<String> {
    let text = text.trim();
    (text.len() <= 63 && is_word(text, "")).then(|| text.to_owned())
}

fn field(kind: Kind, part: &str) -> Result<Field, Refusal> {
    for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
        if let Some((path, value)) = part.split_once(operator) {
            let is_known = path == "metadata.name"
                || (path == "metadata.namespace" && kind.is_namespaced())
                || kind.fields().contains(&path);
            if !is_known {
                return Err(Refusal::bad_request(format!(
                    "field label not supported: {path} (of {})",
                    kind.qualified()
                )));
            }
            return Ok(Field { path: path.to_owned(), value: value.to_owned(), equal });
        }
    }
    Err(Refusal::bad_request(format!("invalid selector: {part:?}; can't understand it")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> (Key, Object) {
        let value = json!({
            "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web", "rank": "7"}},
            "spec": {"nodeName": "a"}, "status": {"phase": "Running"},
        });
        (Key::new("shop", "web"), Object::new(1, value).unwrap())
    }

    #[test]
    fn labels() {
        let (key, pod) = pod();
        for (text, expected) in [
            ("", true),
            ("app", true),
            ("!app", false),
            ("tier", false),
            ("!tier", true),
            ("app=web", true),
            ("app==web,rank=7", true),
            ("app=web,rank=8", false),
            ("app!=web", false),
            ("tier!=web", true),
            ("app in (db, web)", true),
            ("app in (db),rank", false),
            ("app notin (db,web)", false),
            ("tier notin (db)", true),
            ("rank>6", true),
            ("rank<7", false),
            ("app>1", false),
        ] {
            let selector = Selector::parse(Kind::Pod, text, "").unwrap();
            assert_eq!(selector.matches(Kind::Pod, &key, &pod), expected, "{text}");
        }
        for text in ["app=a b", "=a", "app in web", "app on (a)", "a/b/c", "app>x", "a,,b"] {
            assert_eq!(Selector::parse(Kind::Pod, text, "").unwrap_err().code, 400, "{text}");
        }
    }

    #[test]
    fn fields() {
        let (key, pod) = pod();
        for (text, expected) in [
            ("metadata.name=web", true),
            ("metadata.name=web,metadata.namespace!=shop", false),
            ("spec.nodeName=a", true),
            ("spec.nodeName!=a", false),
            ("spec.nodeName==b", false),
            ("status.podIP=", true),
            ("spec.hostNetwork=false", true),
            ("status.phase!=Running,spec.nodeName=a", false),
        ] {
            let selector = Selector::parse(Kind::Pod, "", text).unwrap();
            assert_eq!(selector.matches(Kind::Pod, &key, &pod), expected, "{text}");
        }
        for (kind, text) in [
            (Kind::Pod, "spec.foo=a"),
            (Kind::Node, "metadata.namespace=a"),
            (Kind::NetworkPolicy, "spec.podSelector=a"),
            (Kind::Pod, "spec.nodeName"),
        ] {
            assert_eq!(Selector::parse(kind, "", text).unwrap_err().code, 400, "{text}");
        }
    }
}
