//! Empty lists as they are written in a NetworkPolicy.
//!
//! To the API an empty list and an absent field are one, and so they are in the typed policy. To
//! whoever reads the manifest they are not: `from: []` looks like "no one" and means everyone,
//! `egress: []` looks like "nothing may leave" and isolates only if `policyTypes` says so. No
//! verdict depends on this; `weir lint` says it. A field whose value is left blank (`from:`, null)
//! is an absent field too, and looks like an empty list.

use super::decode::{Place, Problems};
use super::document::Value;
use super::{ObjectKey, Origin};

/// A list that is written and holds nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmptyList {
    /// The policy.
    pub policy: ObjectKey,
    /// File and first line of the policy's document.
    pub document: Origin,
    /// File and line of the field.
    pub origin: Origin,
    /// The field's path, `spec.ingress[0].from`.
    pub field: String,
    /// Nothing is written after the colon, or null.
    pub blank: bool,
}

/// Every empty list of rules, peers, ports or exceptions of a policy, in the order of the text.
pub(super) fn empty_lists(root: &Place<'_>, policy: &ObjectKey, origin: &Origin) -> Vec<EmptyList> {
    let mut found = Vec::new();
    if let Some(spec) = root.field("spec") {
        for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
            for rule in list(&spec, rules, &mut found) {
                list(&rule, "ports", &mut found);
                for peer in list(&rule, peers, &mut found) {
                    if let Some(block) = peer.field("ipBlock") {
                        list(&block, "except", &mut found);
                    }
                }
            }
        }
    }
    let lists = found.into_iter().map(|(field, line, blank)| EmptyList {
        policy: policy.clone(),
        document: origin.clone(),
        origin: Origin { line, ..origin.clone() },
        field,
        blank,
    });
    lists.collect()
}

/// The items of a list; notes it if it is one without items, or blank.
fn list<'n>(place: &Place<'n>, key: &str, found: &mut Vec<(String, u32, bool)>) -> Vec<Place<'n>> {
    let Some(field) = place.field(key) else {
        if let Some(blank) = place.node.get(key) {
            let path = match place.path.is_empty() {
                true => key.to_owned(),
                false => format!("{}.{key}", place.path),
            };
            found.push((path, blank.line, true));
        }
        return Vec::new();
    };
    match &field.node.value {
        Value::List(items) if items.is_empty() => {
            found.push((field.path.clone(), field.line(), false));
            Vec::new()
        }
        // What is no list has been complained about by the policy's decoder.
        Value::List(_) => field.items(&mut Problems::default()),
        _ => Vec::new(),
    }
}
