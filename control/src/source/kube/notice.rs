//! What is wrong with an object, as an Event on it.
//!
//! Every node reads the same policy and has the same to say. So an Event's name is made of what it
//! says, and whoever comes second is told that it exists. And of all nodes only [`SPEAKERS`] speak,
//! which ones depends on the Event's name: the first at once, the next after [`STEP`] and so on, in
//! case the first does not run.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::kinds::Kind;
use crate::model::{Complaint, Effect, ObjectId, ObjectKey};

/// So many nodes say a thing.
pub const SPEAKERS: usize = 3;
/// Between one of them and the next.
pub const STEP: Duration = Duration::from_secs(20);
/// The API's bound for a note, in bytes.
const NOTE: usize = 1024;
/// Of an object's name so much becomes part of the Event's.
const NAME: usize = 200;

/// Something to be said of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub(super) kind: Kind,
    pub(super) key: ObjectKey,
    pub(super) uid: Box<str>,
    pub(super) reason: &'static str,
    pub(super) note: String,
}

impl Notice {
    /// What a complaint about a policy or a pod is to its author; `None` if it changes nothing for
    /// what is enforced, or is about something else.
    pub fn of(id: &ObjectId, uid: &str, complaint: &Complaint) -> Option<Self> {
        let Complaint { effect, field, message, consequence, .. } = complaint;
        let is_rule = field.starts_with("spec.ingress[") || field.starts_with("spec.egress[");
        let (kind, key, reason) = match (id, effect) {
            (ObjectId::NetworkPolicy(key), Effect::Closed) => {
                let reason = if is_rule { "RuleNotHonoured" } else { "PolicyRefused" };
                (Kind::NetworkPolicies, key, reason)
            }
            (ObjectId::NetworkPolicy(key), Effect::NotEnforced) => {
                (Kind::NetworkPolicies, key, "NotEnforced")
            }
            (ObjectId::Pod(key), Effect::Closed) => (Kind::Pods, key, "Isolated"),
            (ObjectId::Pod(key), Effect::NotEnforced) => (Kind::Pods, key, "NotEnforced"),
            _ => return None,
        };
        let parts = [(field, ": "), (message, "; "), (consequence, "")];
        let mut note = String::new();
        for (part, end) in parts.into_iter().filter(|(part, _)| !part.is_empty()) {
            note.push_str(part);
            note.push_str(end);
        }
        let note = note.trim_end_matches("; ");
        let end = (0..=NOTE.min(note.len())).rev().find(|end| note.is_char_boundary(*end));
        let note = note[..end.unwrap_or(0)].to_owned();
        Some(Self { kind, key: key.clone(), uid: uid.into(), reason, note })
    }

    /// The Event's name: the same on every node.
    pub fn event_name(&self) -> String {
        let parts = [&*self.uid, self.reason, &self.note];
        let hash = fnv(parts.into_iter().flat_map(|part| part.bytes().chain([0])));
        // Names are ASCII; nothing that is none becomes an object's.
        let name = self.key.name.get(..NAME).unwrap_or(&self.key.name);
        let name = name.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        format!("{name}.{hash:016x}")
    }

    /// The Event, said by `instance` at a time.
    pub(super) fn body(&self, instance: &str, at: SystemTime) -> Value {
        let (api_version, kind) = self.kind.type_meta();
        json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"namespace": &*self.key.namespace, "name": self.event_name()},
            "eventTime": humantime::format_rfc3339_micros(at).to_string(),
            "reportingController": "weir-control",
            "reportingInstance": instance,
            "action": "Enforce",
            "reason": self.reason,
            "type": "Warning",
            "note": self.note,
            "regarding": {
                "apiVersion": api_version,
                "kind": kind,
                "namespace": &*self.key.namespace,
                "name": &*self.key.name,
                "uid": self.uid,
            },
        })
    }
}

/// FNV-1a with 64 bits: the same everywhere, which is all that is asked of it.
fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// After what time this node says a thing, if those that come before it have not; `None`: there are
/// enough that do. Who does not know its own name speaks.
pub fn turn<'a>(
    event: &str,
    me: Option<&str>,
    nodes: impl IntoIterator<Item = &'a str>,
) -> Option<Duration> {
    let Some(me) = me else { return Some(Duration::ZERO) };
    let weight = |node: &str| (fnv(event.bytes().chain([0]).chain(node.bytes())), node.to_owned());
    let mine = weight(me);
    let before = nodes.into_iter().filter(|node| *node != me && weight(node) < mine).count();
    (before < SPEAKERS).then(|| STEP * u32::try_from(before).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::load;

    fn notices(text: &str) -> Vec<Notice> {
        let loaded = load("kube", text.as_bytes()).unwrap();
        let id = loaded.objects[0].id();
        let of = |complaint| Notice::of(&id, "0a-b", complaint);
        loaded.complaints.iter().filter_map(of).collect()
    }

    #[test]
    fn what_a_complaint_becomes() {
        for (text, expect) in [
            (
                "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: w}, spec: {podSelector: {}, ingress: [{ports: [{port: 0}]}]}}",
                &[("RuleNotHonoured", "spec.ingress[0].ports[0].port: 0 is no port")][..],
            ),
            (
                "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: w}, spec: {podSelector: {}, tier: 1}}",
                &[("PolicyRefused", "spec.tier: unknown field `tier`")],
            ),
            (
                "{apiVersion: v1, kind: Pod, metadata: {name: w}, spec: {containers: 7}, status: {podIP: 10.0.0.1}}",
                &[("Isolated", "spec.containers: is a number")],
            ),
            // Worth a look, and honoured.
            (
                "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: w}, spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.1/8}}]}]}}",
                &[],
            ),
        ] {
            let notices = notices(text);
            let found: Vec<_> = notices.iter().map(|n| (n.reason, n.note.as_str())).collect();
            assert_eq!(found.len(), expect.len(), "{found:?}");
            for ((reason, note), (expected, begin)) in found.iter().zip(expect) {
                assert_eq!(reason, expected);
                assert!(note.starts_with(begin) && note.contains("; "), "{note}");
            }
        }
    }

    #[test]
    fn names_are_those_of_what_is_said_and_notes_are_cut() {
        let text = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: NAME}, spec: {podSelector: {}, tierX: 1}}";
        let one = |name: &str, field: &str| {
            let [notice] = &notices(&text.replace("NAME", name).replace("tierX", field))[..] else {
                panic!("{name} {field}")
            };
            notice.clone()
        };
        let name = one("web", "a").event_name();
        assert_eq!(name, one("web", "a").event_name());
        assert_ne!(name, one("web", "b").event_name());
        assert!(name.starts_with("web.") && name.len() == 20, "{name}");
        let long = format!("{}.{}", "a".repeat(NAME - 1), "b".repeat(40));
        let name = one(&long, "a").event_name();
        assert!(name.len() <= 253 && name.starts_with(&format!("{}.", "a".repeat(NAME - 1))));
        let text = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: w}, spec: {podSelector: {}, ingress: [{ports: [{protocol: ä}]}]}}";
        let [long] = &notices(&text.replace('ä', &"ä".repeat(2000)))[..] else { panic!() };
        let note = &long.note;
        assert!(note.len() <= NOTE && note.len() >= NOTE - 2, "{}", note.len());
    }

    #[test]
    fn of_many_nodes_few_speak_one_after_the_other() {
        let nodes: Vec<String> = (0..50).map(|i| format!("node-{i}")).collect();
        let names = || nodes.iter().map(String::as_str);
        for event in ["a", "b"] {
            let mut turns: Vec<Duration> =
                names().filter_map(|me| turn(event, Some(me), names())).collect();
            turns.sort_unstable();
            assert_eq!(turns, [Duration::ZERO, STEP, STEP * 2]);
        }
        let is_first = |event: &str, me| turn(event, Some(me), names()) == Some(Duration::ZERO);
        let first = |event: &str| names().position(|me| is_first(event, me));
        assert!((0..20).any(|i| first(&i.to_string()) != first("a")), "always the same one");
        assert_eq!(turn("a", None, names()), Some(Duration::ZERO));
        assert_eq!(turn("a", Some("alone"), []), Some(Duration::ZERO));
    }
}
