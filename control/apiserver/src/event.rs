//! Validation of Events of `events.k8s.io/v1`, as `pkg/apis/core/validation/events.go` has it.
//!
//! The real server validates its internal form, so the fields in its words are those of core/v1
//! Events: `involvedObject` for `regarding`, `message` for `note`.

use serde_json::Value;

use crate::status::Cause;

/// Bytes that `reason`, `action` and `reportingInstance` may have.
const NAME_LIMIT: usize = 128;
/// Bytes that `note` may have.
const NOTE_LIMIT: usize = 1024;
/// Namespaces of Events about objects that are in none.
const CLUSTER_WIDE: [&str; 2] = ["default", "kube-system"];
/// What may not change once it is said, with its internal name.
const IMMUTABLE: [(&str, &str); 14] = [
    ("regarding", "involvedObject"),
    ("reason", "reason"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("type", "type"),
    ("eventTime", "eventTime"),
    ("action", "action"),
    ("related", "related"),
    ("reportingController", "reportingController"),
    ("reportingInstance", "reportingInstance"),
    ("metadata/name", "metadata.name"),
];

fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
        Value::Object(map) => map.values().all(is_unset),
        Value::Bool(_) | Value::Array(_) => false,
    }
}

/// Whether it is a time with microseconds, as `MicroTime` is written: `2024-05-06T07:08:09.000000Z`.
fn is_micro_time(text: &str) -> bool {
    let shape = "dddd-dd-ddTdd:dd:dd";
    let Some((head, tail)) = text.split_at_checked(shape.len()) else { return false };
    let fits = head.chars().zip(shape.chars()).all(|(c, s)| match s {
        'd' => c.is_ascii_digit(),
        s => c == s,
    });
    let zone = tail.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let fraction = &tail[..tail.len() - zone.len()];
    let is_fraction = fraction.is_empty()
        || fraction.strip_prefix('.').is_some_and(|d| !d.is_empty() && !d.contains('.'));
    let is_zone = zone == "Z"
        || (zone.len() == 6 && zone.starts_with(['+', '-']) && zone.as_bytes()[3] == b':');
    fits && is_fraction && is_zone
}

/// `[prefix/]name`, as `validation.IsQualifiedName`.
fn is_qualified_name(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    let ends = |text: &str| {
        let mut bytes = text.bytes();
        let first = bytes.next();
        let last = bytes.next_back().or(first);
        [first, last].into_iter().all(|b| b.is_some_and(|b| b.is_ascii_alphanumeric()))
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_prefix = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    prefix.is_none_or(|p| p.len() <= 253 && ends(p) && p.chars().all(is_prefix))
        && name.len() <= 63
        && ends(name)
        && name.chars().all(is_name)
}

/// What is wrong with a new Event in this namespace.
#[must_use]
pub fn validate(event: &Value, namespace: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let regarding = text("/regarding/namespace");
    if text("/eventTime").is_empty() {
        causes.push(Cause::required("eventTime"));
    } else if !is_micro_time(text("/eventTime")) {
        causes.push(Cause::invalid("eventTime", text("/eventTime"), "is no time"));
    }
    if regarding.is_empty() && !CLUSTER_WIDE.contains(&namespace) {
        let why = "does not match event.namespace";
        causes.push(Cause::invalid("involvedObject.namespace", regarding, why));
    }
    for field in ["reportingController", "reportingInstance", "action", "reason"] {
        let value = text(&format!("/{field}"));
        if value.is_empty() {
            causes.push(Cause::required(field));
        } else if field == "reportingController" {
            if !is_qualified_name(value) {
                let why = "a qualified name must consist of alphanumeric characters, '-', '_' or \
                           '.', with an optional DNS subdomain prefix and '/'";
                causes.push(Cause::invalid(field, value, why));
            }
        } else if value.len() > NAME_LIMIT {
            let why = format!("can have at most {NAME_LIMIT} characters");
            causes.push(Cause::invalid(field, "", &why));
        }
    }
    if text("/note").len() > NOTE_LIMIT {
        let why = format!("can have at most {NOTE_LIMIT} characters");
        causes.push(Cause::invalid("message", "", &why));
    }
    let kind = text("/type");
    if kind != "Normal" && kind != "Warning" {
        causes.push(Cause::invalid("type", "", &format!("has invalid value: {kind}")));
    }
    for (field, name) in IMMUTABLE.iter().filter(|(field, _)| field.starts_with("deprecated")) {
        if !is_unset(&event[*field]) {
            causes.push(Cause::invalid(name, "", "needs to be unset"));
        }
    }
    causes.extend(validate_series(event));
    causes
}

fn validate_series(event: &Value) -> Vec<Cause> {
    let series = &event["series"];
    let mut causes = Vec::new();
    if !series.is_null() {
        if series["count"].as_i64().unwrap_or(0) < 2 {
            causes.push(Cause::invalid("series.count", "", "should be at least 2"));
        }
        let last = series["lastObservedTime"].as_str().unwrap_or_default();
        if last.is_empty() {
            causes.push(Cause::required("series.lastObservedTime"));
        } else if !is_micro_time(last) {
            causes.push(Cause::invalid("series.lastObservedTime", last, "is no time"));
        }
    }
    causes
}

/// What is wrong with an Event that replaces another: only its series may change.
#[must_use]
pub fn validate_update(new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = if new["series"] == old["series"] { Vec::new() } else { validate_series(new) };
    for (field, name) in IMMUTABLE {
        let pointer = format!("/{field}");
        let (a, b) = (new.pointer(&pointer), old.pointer(&pointer));
        let unset = |value: Option<&Value>| value.is_none_or(is_unset);
        if a != b && !(unset(a) && unset(b)) {
            causes.push(Cause::immutable(name));
        }
    }
    causes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event() -> Value {
        json!({
            "metadata": {"name": "a", "namespace": "shop"},
            "eventTime": "2024-05-06T07:08:09.000000Z",
            "reportingController": "weir.example/control",
            "reportingInstance": "node-a",
            "action": "Enforce",
            "reason": "RuleNotHonoured",
            "type": "Warning",
            "note": "said",
            "regarding": {"kind": "NetworkPolicy", "namespace": "shop", "name": "web"},
        })
    }

    fn fields(causes: &[Cause]) -> Vec<&str> {
        causes.iter().map(|cause| cause.field.as_str()).collect()
    }

    #[test]
    fn what_is_refused() {
        assert_eq!(validate(&event(), "shop"), []);
        let long = "x".repeat(129);
        for (pointer, value, field) in [
            ("/eventTime", json!(null), "eventTime"),
            ("/eventTime", json!("yesterday"), "eventTime"),
            ("/reportingController", json!(""), "reportingController"),
            ("/reportingController", json!("a b"), "reportingController"),
            ("/reportingController", json!("A_/b"), "reportingController"),
            ("/reportingInstance", json!(null), "reportingInstance"),
            ("/reportingInstance", json!(long), "reportingInstance"),
            ("/action", json!(null), "action"),
            ("/reason", json!(long), "reason"),
            ("/note", json!("x".repeat(1025)), "message"),
            ("/type", json!("Error"), "type"),
            ("/regarding", json!({"kind": "Node", "name": "a"}), "involvedObject.namespace"),
        ] {
            let mut bad = event();
            *bad.pointer_mut(pointer).unwrap() = value;
            assert_eq!(fields(&validate(&bad, "shop")), [field]);
        }
        let mut bad = event();
        bad["deprecatedCount"] = json!(1);
        bad["deprecatedSource"] = json!({"component": "weir"});
        bad["series"] = json!({"count": 1});
        assert_eq!(
            fields(&validate(&bad, "shop")),
            ["source", "count", "series.count", "series.lastObservedTime"]
        );
    }

    #[test]
    fn about_what_is_in_no_namespace() {
        let mut of_node = event();
        of_node["regarding"] = json!({"kind": "Node", "name": "a"});
        assert_eq!(validate(&of_node, "default"), []);
    }

    #[test]
    fn only_the_series_changes() {
        let mut new = event();
        new["series"] = json!({"count": 2, "lastObservedTime": "2024-05-06T07:09:09.5+02:00"});
        assert_eq!(validate_update(&new, &event()), []);
        new["note"] = json!("said otherwise");
        assert_eq!(fields(&validate_update(&new, &event())), ["message"]);
    }
}
