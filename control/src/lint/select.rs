//! Label selectors in words: what they ask for, why nothing fits, and what does nearly.

use std::collections::BTreeSet;

use crate::model::{LabelSelector, Labels, Operator, Requirement};

/// Whether labels satisfy a selector: all requirements hold.
pub(super) fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    selector.requirements.iter().all(|requirement| holds(requirement, labels))
}

/// Whether labels satisfy one requirement.
pub(super) fn holds(requirement: &Requirement, labels: &Labels) -> bool {
    let value = labels.get(&requirement.key);
    let among = || value.is_some_and(|value| requirement.values.contains(value));
    match requirement.operator {
        Operator::In => among(),
        Operator::NotIn => !among(),
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
    }
}

/// Whether every object that `narrow` selects is selected by `wide`, whatever its labels.
pub(super) fn implies(narrow: &LabelSelector, wide: &LabelSelector) -> bool {
    wide.requirements.iter().all(|wide| narrow.requirements.iter().any(|n| stricter(n, wide)))
}

fn stricter(narrow: &Requirement, wide: &Requirement) -> bool {
    use Operator::{DoesNotExist, Exists, In, NotIn};
    let subset = |a: &Requirement, b: &Requirement| a.values.iter().all(|v| b.values.contains(v));
    narrow.key == wide.key
        && match (narrow.operator, wide.operator) {
            (In, In) => subset(narrow, wide),
            (In, NotIn) => !narrow.values.iter().any(|value| wide.values.contains(value)),
            (NotIn, NotIn) => subset(wide, narrow),
            (In | Exists, Exists) | (DoesNotExist, DoesNotExist | NotIn) => true,
            _ => false,
        }
}

/// Two requirements of a selector that cannot both hold.
pub(super) fn contradiction(selector: &LabelSelector) -> Option<String> {
    use Operator::{DoesNotExist, Exists, In, NotIn};
    let all = &selector.requirements;
    for (i, a) in all.iter().enumerate() {
        for b in all[i + 1..].iter().filter(|b| b.key == a.key) {
            let disjoint = |b: &Requirement| !a.values.iter().any(|v| b.values.contains(v));
            let within = |a: &Requirement, b: &Requirement| {
                a.values.iter().all(|value| b.values.contains(value))
            };
            let never = match (a.operator, b.operator) {
                (In, In) => disjoint(b),
                (In, NotIn) => within(a, b),
                (NotIn, In) => within(b, a),
                (In | Exists, DoesNotExist) | (DoesNotExist, In | Exists) => true,
                _ => false,
            };
            if never {
                return Some(format!("`{}` and `{}`", words(a), words(b)));
            }
        }
    }
    None
}

/// A requirement as `kubectl -l` writes it.
pub(super) fn words(requirement: &Requirement) -> String {
    let Requirement { key, operator, values } = requirement;
    match (operator, &values[..]) {
        (Operator::In, [value]) => format!("{key}={value}"),
        (Operator::In, values) => format!("{key} in ({})", values.join(", ")),
        (Operator::NotIn, [value]) => format!("{key}!={value}"),
        (Operator::NotIn, values) => format!("{key} notin ({})", values.join(", ")),
        (Operator::Exists, _) => key.clone(),
        (Operator::DoesNotExist, _) => format!("!{key}"),
    }
}

/// A selector as `kubectl -l` writes it.
pub(super) fn selector_words(selector: &LabelSelector) -> String {
    let words: Vec<String> = selector.requirements.iter().map(words).collect();
    words.join(",")
}

/// Why a selector finds nothing among some objects, and what to write instead.
pub(super) struct Nothing {
    /// `no pod of namespace shop has the label ap`.
    pub(super) why: String,
    /// `app=web`, if something that exists is near to what is written.
    pub(super) nearest: Option<String>,
}

/// Says why `selector` finds none of `labels`, which belong to objects called `noun`
/// (`pod of namespace shop`).
pub(super) fn nothing(selector: &LabelSelector, labels: &[&Labels], noun: &str) -> Nothing {
    for requirement in &selector.requirements {
        if labels.iter().any(|labels| holds(requirement, labels)) {
            continue;
        }
        let Requirement { key, operator, values } = requirement;
        let present: BTreeSet<&str> =
            labels.iter().filter_map(|labels| labels.get(key)).map(String::as_str).collect();
        if matches!(operator, Operator::NotIn | Operator::DoesNotExist) {
            return Nothing {
                why: format!("every {noun} fails `{}`", words(requirement)),
                nearest: None,
            };
        }
        if present.is_empty() {
            let keys: BTreeSet<&str> =
                labels.iter().flat_map(|labels| labels.keys()).map(String::as_str).collect();
            let nearest = nearest(key, keys).map(|key| match &values[..] {
                [value] => format!("{key}={value}"),
                _ => key.to_owned(),
            });
            return Nothing { why: format!("no {noun} has the label `{key}`"), nearest };
        }
        let wanted: Vec<&str> = values.iter().map(String::as_str).collect();
        let nearest = wanted.iter().find_map(|value| nearest(value, present.iter().copied()));
        let there = super::world::some_of(present.iter().map(|value| format!("`{value}`")));
        return Nothing {
            why: format!(
                "no {noun} has `{}`; values of `{key}` there: {there}",
                words(requirement)
            ),
            nearest: nearest.map(|value| format!("{key}={value}")),
        };
    }
    let why = match labels.is_empty() {
        true => format!("there is no {noun}"),
        false => format!("no {noun} has all of `{}`", selector_words(selector)),
    };
    Nothing { why, nearest: None }
}

/// The word that was most likely meant: another case, or few letters apart.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A word of three letters may differ in one, one of nine or more in three.
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    let distance = |other: &str| match other.eq_ignore_ascii_case(word) {
        true => 0,
        false => strsim::damerau_levenshtein(word, other),
    };
    let all = known.into_iter().map(|other| (distance(other), other));
    // One letter against another is no misspelling.
    let close = all.filter(|(distance, other)| {
        *distance <= allowed && (*distance == 0 || other.len().min(word.len()) > 2)
    });
    close.min().map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(text: &str) -> Requirement {
        let (key, operator, values) = match text.split(' ').collect::<Vec<_>>()[..] {
            [key, "in", values] => (key, Operator::In, values),
            [key, "notin", values] => (key, Operator::NotIn, values),
            [key, "exists"] => (key, Operator::Exists, ""),
            [key, "absent"] => (key, Operator::DoesNotExist, ""),
            _ => panic!("{text}"),
        };
        let values = values.split(',').filter(|v| !v.is_empty()).map(str::to_owned).collect();
        Requirement { key: key.to_owned(), operator, values }
    }

    fn selector(texts: &[&str]) -> LabelSelector {
        LabelSelector { requirements: texts.iter().map(|text| requirement(text)).collect() }
    }

    #[test]
    fn the_nearest_word() {
        let known = ["app", "role", "tier", "kubernetes.io/metadata.name", "x"];
        for (word, expect) in [
            ("ap", None),
            ("aap", Some("app")),
            ("App", Some("app")),
            ("rloe", Some("role")),
            ("kubernetes.io/metadata-name", Some("kubernetes.io/metadata.name")),
            ("y", None),
            ("zone", None),
            ("database", None),
        ] {
            assert_eq!(nearest(word, known), expect, "{word}");
        }
    }

    #[test]
    fn contradictions() {
        for (texts, never) in [
            (&["a in x", "a in y"][..], true),
            (&["a in x,y", "a in y"], false),
            (&["a in x", "a notin x,y"], true),
            (&["a notin x", "a in x,y"], false),
            (&["a exists", "a absent"], true),
            (&["a in x", "a absent"], true),
            (&["a notin x", "a absent"], false),
            (&["a in x", "b in y"], false),
        ] {
            assert_eq!(contradiction(&selector(texts)).is_some(), never, "{texts:?}");
        }
    }

    /// What [`implies`] claims holds for every set of labels over a small vocabulary.
    #[test]
    fn implications_hold_for_all_labels() {
        let values = [None, Some("x"), Some("y"), Some("z")];
        let all =
            ["a in x", "a in x,y", "a notin x", "a notin x,y", "a exists", "a absent", "b in x"];
        let mut claimed = 0;
        for narrow in all {
            for wide in all {
                if !implies(&selector(&[narrow]), &selector(&[wide])) {
                    continue;
                }
                claimed += 1;
                for a in values {
                    for b in values {
                        let pairs = [("a", a), ("b", b)];
                        let labels: Labels = pairs
                            .iter()
                            .filter_map(|(k, v)| Some(((*k).to_owned(), (*v)?.to_owned())))
                            .collect();
                        let (narrow_holds, wide_holds) = (
                            selects(&selector(&[narrow]), &labels),
                            selects(&selector(&[wide]), &labels),
                        );
                        assert!(!narrow_holds || wide_holds, "{narrow} / {wide}: {labels:?}");
                    }
                }
            }
        }
        assert!(claimed > all.len(), "more than each of itself");
    }
}
