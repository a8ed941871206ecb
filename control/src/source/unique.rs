//! One object of each identity.

use std::collections::{BTreeMap, btree_map::Entry};

use crate::model::{Complaint, Effect, Loaded, Object, ObjectId, Origin, Severity};

/// How the complaint about a second object of one identity begins.
pub const ALREADY_WRITTEN: &str = "is already written in";

/// Keeps the first object of each identity and complains about the others.
pub fn unique(mut loaded: Loaded) -> Loaded {
    let mut first: BTreeMap<ObjectId, Origin> = BTreeMap::new();
    let mut kept: Vec<Object> = Vec::with_capacity(loaded.objects.len());
    for object in loaded.objects {
        match first.entry(object.id()) {
            Entry::Vacant(entry) => {
                entry.insert(object.origin().clone());
                kept.push(object);
            }
            Entry::Occupied(entry) => loaded.complaints.push(Complaint {
                severity: Severity::Refused,
                effect: match &object {
                    Object::Namespace(_) | Object::Pod(_) | Object::NetworkPolicy(_) => {
                        Effect::NotEnforced
                    }
                    _ => Effect::Nothing,
                },
                origin: object.origin().clone(),
                object: entry.key().to_string(),
                field: String::new(),
                message: format!("{ALREADY_WRITTEN} {}", entry.get()),
                consequence: "that one counts, this one does not".to_owned(),
            }),
        }
    }
    loaded.objects = kept;
    loaded
}
