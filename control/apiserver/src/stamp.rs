//! What the server itself puts into objects, and what it keeps of them when they are written anew.

use serde_json::{Map, Value, json};

use crate::kind::Kind;
use crate::object::Key;
use crate::state::timestamp;
use crate::write::Part;

/// A label that every namespace has.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// What the server adds to a new object.
pub fn begin(kind: Kind, key: &Key, uid: &str, value: &mut Value, part: Part) {
    let metadata = &mut value["metadata"];
    if kind.is_namespaced() {
        metadata["namespace"] = (*key.namespace).into();
    }
    if part != Part::All || metadata["uid"].is_null() {
        metadata["uid"] = uid.into();
    }
    if part != Part::All || metadata["creationTimestamp"].is_null() {
        metadata["creationTimestamp"] = timestamp().into();
    }
    if kind.has_generation() {
        metadata["generation"] = 1.into();
    }
    if kind == Kind::Namespace {
        metadata["labels"][NAME_LABEL] = (*key.name).into();
        for (field, own) in [
            ("spec", json!({"finalizers": ["kubernetes"]})),
            ("status", json!({"phase": "Active"})),
        ] {
            if part != Part::All || value[field].is_null() {
                value[field] = own;
            }
        }
    } else if kind == Kind::Pod && part != Part::All {
        value["status"] = json!({"phase": "Pending"});
    } else if kind.has_status() && part != Part::All && kind != Kind::Node {
        drop_key(value, "status");
    }
}

/// What the server keeps of the object as it was.
pub fn renew(kind: Kind, old: &Value, value: &mut Value, part: Part) {
    if part == Part::Status {
        let status = value["status"].take();
        *value = old.clone();
        value["status"] = status;
    } else if part == Part::Main && kind.has_status() {
        match old.get("status") {
            Some(status) => value["status"] = status.clone(),
            None => drop_key(value, "status"),
        }
    }
    for field in ["name", "namespace", "uid", "creationTimestamp", "generation"] {
        if !old["metadata"][field].is_null() {
            value["metadata"][field] = old["metadata"][field].clone();
        }
    }
    if kind == Kind::Namespace {
        value["metadata"]["labels"][NAME_LABEL] = old["metadata"]["name"].clone();
    }
    if part != Part::All {
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
            match old["metadata"].get(field) {
                Some(is) => value["metadata"][field] = is.clone(),
                None => drop_key(&mut value["metadata"], field),
            }
        }
    }
    if kind.has_generation() && desired(old) != desired(value) {
        let generation = old["metadata"]["generation"].as_u64().unwrap_or(1);
        value["metadata"]["generation"] = (generation + 1).into();
    }
}

/// What `generation` counts changes of.
fn desired(value: &Value) -> Map<String, Value> {
    let mut map = value.as_object().cloned().unwrap_or_default();
    map.retain(|key, _| key != "metadata" && key != "status");
    map
}

fn drop_key(value: &mut Value, key: &str) {
    if let Some(map) = value.as_object_mut() {
        map.remove(key);
    }
}

/// RFC 7386: null removes, objects merge, everything else replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            drop_key(target, key);
        } else {
            merge(&mut target[key.as_str()], value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges() {
        let mut target = json!({"a": {"b": 1, "c": [1]}, "d": 2});
        merge(&mut target, &json!({"a": {"b": null, "c": [2], "e": {"f": 3}}, "d": {"g": null}}));
        assert_eq!(target, json!({"a": {"c": [2], "e": {"f": 3}}, "d": {}}));
    }
}
