//! Labels and label selectors, with the API server's validation.
//!
//! Sources: `metav1.LabelSelector` (API reference), `apimachinery/pkg/util/validation` for names
//! and values, `apimachinery/pkg/labels` for the meaning of the operators.

use std::collections::BTreeMap;

use super::decode::{Place, Problems};
use super::document::Value;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Operator of a label selector requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// The label exists and its value is among the values.
    In,
    /// The label is absent, or its value is not among the values.
    NotIn,
    /// The label exists.
    Exists,
    /// The label does not exist.
    DoesNotExist,
}

/// One requirement of a selector.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// Operator.
    pub operator: Operator,
    /// Values; empty for `Exists` and `DoesNotExist`, sorted otherwise.
    pub values: Vec<String>,
}

/// A label selector: all requirements must hold; none at all selects everything.
///
/// `matchLabels` entries are kept as `In` requirements with one value, which is what the API
/// defines them to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelSelector {
    /// Every requirement.
    pub requirements: Vec<Requirement>,
}

impl LabelSelector {
    /// The empty selector, which selects everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Whether the selector has no requirement.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether labels, all of which are known, satisfy every requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            let is_listed = value.is_some_and(|value| requirement.values.contains(value));
            match requirement.operator {
                Operator::In => is_listed,
                Operator::NotIn => !is_listed,
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }

    /// A selector of `matchLabels`.
    pub fn labels<K: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let requirements = pairs
            .into_iter()
            .map(|(key, value)| Requirement {
                key: key.into(),
                operator: Operator::In,
                values: vec![value.into()],
            })
            .collect();
        Self { requirements }
    }

    /// Reads a selector; `None` if any part of it cannot be read.
    pub fn decode(place: &Place<'_>, problems: &mut Problems) -> Option<Self> {
        let before = problems.refusals();
        if !place.is_map(problems) {
            return None;
        }
        place.only(&["matchLabels", "matchExpressions"], problems);
        let mut requirements = Vec::new();
        if let Some(labels) = place.field("matchLabels") {
            for (key, value) in decode_labels(&labels, problems) {
                requirements.push(Requirement { key, operator: Operator::In, values: vec![value] });
            }
        }
        if let Some(expressions) = place.field("matchExpressions") {
            for item in expressions.items(problems) {
                requirements.extend(decode_requirement(&item, problems));
            }
        }
        (problems.refusals() == before).then_some(Self { requirements })
    }
}

fn decode_requirement(place: &Place<'_>, problems: &mut Problems) -> Option<Requirement> {
    if !place.is_map(problems) {
        return None;
    }
    place.only(&["key", "operator", "values"], problems);
    let key = match place.field("key") {
        Some(field) => {
            let key = field.string(problems)?.to_owned();
            if let Err(why) = label_key(&key) {
                problems.at(&field, why);
            }
            key
        }
        None => {
            problems.at(place, "`key` is required");
            return None;
        }
    };
    let mut values = Vec::new();
    let values_place = place.field("values");
    if let Some(field) = &values_place {
        for item in field.items(problems) {
            let Some(value) = item.string(problems) else { continue };
            if let Err(why) = label_value(value) {
                problems.at(&item, why);
            }
            values.push(value.to_owned());
        }
    }
    let Some(field) = place.field("operator") else {
        problems.at(place, "`operator` is required: In, NotIn, Exists or DoesNotExist");
        return None;
    };
    let operator = match field.string(problems)? {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => {
            problems.at(
                &field,
                format!("`{other}` is no operator; write In, NotIn, Exists or DoesNotExist"),
            );
            return None;
        }
    };
    let needs_values = matches!(operator, Operator::In | Operator::NotIn);
    match (needs_values, values.is_empty(), &values_place) {
        (true, true, _) => problems.at(place, "`values` must not be empty with In and NotIn"),
        (false, false, Some(field)) => {
            problems.at(field, "must be absent with Exists and DoesNotExist");
        }
        _ => {}
    }
    values.sort_unstable();
    values.dedup();
    Some(Requirement { key, operator, values })
}

/// Reads a mapping of labels; entries that are not valid are left out and noted.
pub fn decode_labels(place: &Place<'_>, problems: &mut Problems) -> Labels {
    let mut labels = Labels::new();
    for (key, entry) in place.entries(problems) {
        if let Err(why) = label_key(key) {
            problems.at(&entry, why);
            continue;
        }
        // Kubernetes decodes a null in a map of strings as the empty string.
        let value = if entry.node.value == Value::Null { Some("") } else { entry.string(problems) };
        let Some(value) = value else { continue };
        match label_value(value) {
            Ok(()) => {
                labels.insert(key.to_owned(), value.to_owned());
            }
            Err(why) => problems.at(&entry, why),
        }
    }
    labels
}

/// A qualified name: an optional DNS subdomain and `/`, then at most 63 of `[A-Za-z0-9_.-]`.
///
/// # Errors
/// A sentence saying what a key looks like.
pub fn label_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if prefix.is_some_and(|prefix| !is_dns_subdomain(prefix)) {
        return Err(format!("the prefix of label key `{key}` is no DNS subdomain"));
    }
    if name.is_empty() || !is_label_text(name) {
        return Err(format!(
            "`{key}` is no label key: at most 63 letters, digits, `-`, `_` or `.`, beginning and ending with a letter or digit"
        ));
    }
    Ok(())
}

/// A label value: empty, or at most 63 of `[A-Za-z0-9_.-]` between letters or digits.
///
/// # Errors
/// A sentence saying what a value looks like.
pub fn label_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_label_text(value) {
        return Ok(());
    }
    Err(format!(
        "`{value}` is no label value: at most 63 letters, digits, `-`, `_` or `.`, beginning and ending with a letter or digit"
    ))
}

fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// RFC 1123 subdomain of at most 253 characters, as object names are.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label_text)
}

/// RFC 1123 label of at most 63 characters, as namespace names are.
pub fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && is_dns_label_text(text)
}

fn is_dns_label_text(label: &str) -> bool {
    let bytes = label.as_bytes();
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
        && bytes.iter().all(|b| edge(b) || *b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `apimachinery/pkg/util/validation`: IsQualifiedName, IsValidLabelValue, IsDNS1123*.
    #[test]
    fn names() {
        for key in ["app", "kubernetes.io/metadata.name", "a", "A_b.c-1", "x.y/z"] {
            assert_eq!(label_key(key), Ok(()), "{key}");
        }
        for key in ["", "-a", "a-", "a/b/c", "/a", "a/", "A.b/c", "ä", &"a".repeat(64)] {
            assert!(label_key(key).is_err(), "{key}");
        }
        for value in ["", "x", "v1.2_3-4", &"a".repeat(63)] {
            assert_eq!(label_value(value), Ok(()), "{value}");
        }
        for value in ["a b", ".a", "a/", &"a".repeat(64)] {
            assert!(label_value(value).is_err(), "{value}");
        }
        assert!(is_dns_subdomain("a.b-c.d") && !is_dns_subdomain("a..b") && !is_dns_subdomain("A"));
        assert!(is_dns_label("kube-system") && !is_dns_label("a.b") && !is_dns_label(""));
    }
}
