//! What the text alone shows: fields without effect, and empty lists that mean the opposite of
//! what they look like.

use std::collections::BTreeMap;

use super::cover::{peer_covers, port_covers};
use super::select::contradiction;
use super::world::{PolicyView, World};
use super::{Finding, Notes, Severity};
use crate::model::{Direction, EmptyList, LabelSelector, ObjectKey, Peer};

pub(super) fn check(world: &World<'_>, findings: &mut Vec<Finding>) {
    let mut empty: BTreeMap<(&ObjectKey, &str, u32), Vec<&EmptyList>> = BTreeMap::new();
    for list in &world.loaded.empty_lists {
        let document = (&list.policy, &*list.document.file, list.document.line);
        empty.entry(document).or_default().push(list);
    }
    for view in &world.policies {
        let mut notes = Notes { view, findings };
        // Of two objects of one name only the one in force is looked at.
        let origin = &view.policy.origin;
        for list in empty.get(&(&view.policy.key, &*origin.file, origin.line)).into_iter().flatten()
        {
            empty_list(&mut notes, view, list);
        }
        without_effect(&mut notes, view);
        let own_known = world.is_selectable(&view.policy.key.namespace);
        redundant(&mut notes, view, own_known);
        contradictions(&mut notes, view);
    }
}

fn empty_list(notes: &mut Notes<'_, '_>, view: &PolicyView<'_>, list: &EmptyList) {
    let place = (list.field.clone(), list.origin.line);
    let (_, name) = list.field.rsplit_once('.').unwrap_or(("", &list.field));
    // As it is written: `from: []`, or `from:` with nothing behind it.
    let written = format!("`{name}:{}`", if list.blank { "" } else { " []" });
    match name {
        "from" | "to" => notes.add(
            Severity::Warning,
            "empty-peers",
            place,
            format!("{written} puts no condition on the peer: the rule is for everyone, pods and addresses outside of the cluster"),
            match name {
                "from" => "`ingress: []` if no one is meant; leave `from` out (`- {}`, or only `ports`) if everyone is",
                _ => "`egress: []` with policyTypes Egress if no one is meant; leave `to` out if everyone is",
            },
        ),
        "ports" => notes.add(
            Severity::Warning,
            "empty-ports",
            place,
            format!("{written} puts no condition on the port: the rule is for every port and protocol"),
            "leave `ports` out if every port is meant; remove the rule if none is",
        ),
        "except" => notes.add(
            Severity::Info,
            "empty-except",
            place,
            format!("{written} excepts nothing"),
            "leave `except` out, or list what is to be excepted",
        ),
        "ingress" | "egress" => {
            let (direction, policy_type) = match name {
                "ingress" => (Direction::Ingress, "Ingress"),
                _ => (Direction::Egress, "Egress"),
            };
            if !view.policy.isolates(direction) {
                notes.add(
                    Severity::Warning,
                    "empty-rules",
                    place,
                    format!(
                        "{written} denies nothing here: the policy's types do not include {policy_type}, so {name} is not isolated"
                    ),
                    format!("`policyTypes: [{policy_type}]` (beside what is there) to allow no {name}, or leave `{name}` out"),
                );
            }
        }
        _ => {}
    }
}

/// "policyTypes": rules of a direction that it does not name are kept by the API and never used.
fn without_effect(notes: &mut Notes<'_, '_>, view: &PolicyView<'_>) {
    let policy = view.policy;
    for (direction, rules, policy_type) in [
        (Direction::Ingress, &policy.ingress, "Ingress"),
        (Direction::Egress, &policy.egress, "Egress"),
    ] {
        if let (Some(first), false) = (rules.first(), policy.isolates(direction)) {
            notes.add(
                Severity::Warning,
                "rules-without-effect",
                (format!("spec.{direction}"), first.line),
                format!(
                    "the {direction} rules have no effect: policyTypes does not name {policy_type}, so {direction} is not isolated by this policy"
                ),
                format!("add {policy_type} to policyTypes, or remove the rules"),
            );
        }
    }
}

/// Items of one list of which one covers the other, whatever the cluster.
fn redundant(notes: &mut Notes<'_, '_>, view: &PolicyView<'_>, own_known: bool) {
    for direction in [Direction::Ingress, Direction::Egress] {
        for rule in view.policy.rules(direction) {
            let ports = &rule.ports;
            for (i, j) in covered(ports.len(), |a, b| port_covers(&ports[a], &ports[b])) {
                let path = rule.path(direction, None);
                notes.add(
                    Severity::Info,
                    "redundant-entry",
                    (format!("{path}.ports[{i}]"), ports[i].line),
                    format!("ports[{j}] of the same list allows it already"),
                    "remove it",
                );
            }
            let peers = &rule.peers;
            for (i, j) in
                covered(peers.len(), |a, b| peer_covers(&peers[a].peer, &peers[b].peer, own_known))
            {
                notes.add(
                    Severity::Info,
                    "redundant-entry",
                    (rule.path(direction, Some(i)), peers[i].line),
                    format!("{}[{j}] of the same list matches it already", direction.peers_field()),
                    "remove it; if both conditions were to hold, write them as one item",
                );
            }
        }
    }
}

/// Pairs (covered, covering) of a list; of two that are equal the later one is covered.
fn covered(length: usize, covers: impl Fn(usize, usize) -> bool) -> Vec<(usize, usize)> {
    let covering = |i: usize| {
        (0..length).find(|&j| j != i && covers(j, i) && (j < i || !covers(i, j))).map(|j| (i, j))
    };
    (0..length).filter_map(covering).collect()
}

fn contradictions(notes: &mut Notes<'_, '_>, view: &PolicyView<'_>) {
    let mut look = |selector: &LabelSelector, place: (String, u32)| {
        if let Some(both) = contradiction(selector) {
            notes.add(
                Severity::Warning,
                "contradictory-selector",
                place,
                format!("the selector can never select anything: {both} cannot both hold"),
                "one requirement with all values (`operator: In`) if either is meant; all requirements of a selector must hold",
            );
        }
    };
    look(&view.policy.pod_selector, ("spec.podSelector".to_owned(), 0));
    for direction in [Direction::Ingress, Direction::Egress] {
        for rule in view.policy.rules(direction) {
            for (i, peer) in rule.peers.iter().enumerate() {
                let Peer::Pods { namespaces, pods } = &peer.peer else { continue };
                for (name, selector) in [("namespaceSelector", namespaces), ("podSelector", pods)] {
                    let path = format!("{}.{name}", rule.path(direction, Some(i)));
                    if let Some(selector) = selector {
                        look(selector, (path, peer.line));
                    }
                }
            }
        }
    }
}
