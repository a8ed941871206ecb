//! What was most likely not meant, pods or not: an OR where an AND was meant, and the isolation of
//! what the cluster itself runs on.
//!
//! Sources: the concept page "Network Policies" ("Behavior of `to` and `from` selectors") on the two
//! ways of writing selectors; policies of kube-system are in force like any others.

use super::select::selector_words;
use super::world::{PolicyView, World, counted};
use super::{Finding, Notes, Severity};
use crate::model::{Direction, Peer, PeerRule};

/// Where cluster services live.
pub(super) const SYSTEM_NAMESPACE: &str = "kube-system";

pub(super) fn check(world: &World<'_>, findings: &mut Vec<Finding>) {
    for view in world.policies.iter().chain(&world.refused) {
        let mut notes = Notes { view, findings };
        system(world, view, &mut notes);
        for direction in [Direction::Ingress, Direction::Egress] {
            for (rule, _) in view.rules(direction) {
                // A block between the two makes them no less alike.
                let peers = rule.peers.iter().enumerate();
                let selectors: Vec<(usize, &PeerRule)> =
                    peers.filter(|(_, p)| !matches!(p.peer, Peer::IpBlock { .. })).collect();
                for pair in selectors.windows(2) {
                    let [(i, first), (_, second)] = pair else { continue };
                    let place = (rule.path(direction, Some(*i)), first.line);
                    and_or(world, view, (&first.peer, &second.peer), place, &mut notes);
                }
            }
        }
    }
}

/// Policies over the pods that the cluster itself runs on.
fn system(world: &World<'_>, view: &PolicyView<'_>, notes: &mut Notes<'_, '_>) {
    let policy = view.policy;
    let place = ("spec.podSelector", 0);
    let governed = view.governed.len();
    if *policy.key.namespace != *SYSTEM_NAMESPACE {
        return;
    }
    let pods = match (world.pods.is_empty(), governed) {
        (false, 0) => return,
        // What there is to be isolated is not in the input; only the whole namespace is sure.
        (true, _) if !policy.pod_selector.is_empty() => return,
        (true, _) => "every pod of kube-system".to_owned(),
        (false, _) => format!("{} of kube-system", counted(governed, "pod")),
    };
    let directions: Vec<&str> = policy.directions.iter().map(|d| d.field()).collect();
    let whole = policy.pod_selector.is_empty();
    notes.add(
            if whole || policy.refused { Severity::Warning } else { Severity::Info },
            "isolates-kube-system",
            place,
            format!(
                "isolates {pods} for {}{}; what the cluster itself runs on, DNS among it, then works only as far as rules allow{}",
                directions.join(" and "),
                match governed {
                    0 => String::new(),
                    _ => format!(": {}", world.names(view.governed.iter())),
                },
                match policy.refused {
                    true => ", and this policy is refused: it allows nothing",
                    false => "",
                },
            ),
            "a podSelector for the pods that are meant, with rules for everyone who uses them",
        );
}

/// `- namespaceSelector` and `- podSelector` one after the other: OR. If pods exist that meet both,
/// the author most likely meant those, and wrote one hyphen too many.
fn and_or(
    world: &World<'_>,
    view: &PolicyView<'_>,
    (first, second): (&Peer, &Peer),
    place: (String, u32),
    notes: &mut Notes<'_, '_>,
) {
    let (namespaces, pods) = match (first, second) {
        (
            Peer::Pods { namespaces: Some(namespaces), pods: None },
            Peer::Pods { namespaces: None, pods: Some(pods) },
        )
        | (
            Peer::Pods { namespaces: None, pods: Some(pods) },
            Peer::Pods { namespaces: Some(namespaces), pods: None },
        ) => (namespaces, pods),
        _ => return,
    };
    let (namespaces, pods) = (namespaces.clone(), pods.clone());
    // Without a condition on one side there is nothing to join.
    if namespaces.is_empty() || pods.is_empty() {
        return;
    }
    let remedy = "one item with both selectors (no `-` before the second) if both must hold";
    if world.pods.is_empty() {
        notes.add(
            Severity::Warning,
            "and-or",
            place,
            format!(
                "two items mean OR: every pod of namespaces with `{}`, and every pod of {} with `{}`",
                selector_words(&namespaces),
                view.policy.key.namespace,
                selector_words(&pods),
            ),
            format!("{remedy}; nothing, if either will do"),
        );
        return;
    }
    let both = Peer::Pods { namespaces: Some(namespaces.clone()), pods: Some(pods.clone()) };
    let both = world.governed(&world.peers_all(view.policy, &both));
    let mut either = world.governed(&world.peers_all(view.policy, first));
    either.add(&world.governed(&world.peers_all(view.policy, second)));
    if both.is_empty() || both.len() == either.len() {
        return;
    }
    notes.add(
        Severity::Warning,
        "and-or",
        place,
        format!(
            "two items mean OR: every pod of namespaces with `{}`, and every pod of {} with `{}`: {}; as one item (AND) it would be {}: {}",
            selector_words(&namespaces),
            view.policy.key.namespace,
            selector_words(&pods),
            counted(either.len(), "pod"),
            both.len(),
            world.names(both.iter()),
        ),
        remedy,
    );
}
