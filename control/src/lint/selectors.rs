//! Whom selectors select at present: no one, too many, or pods on which no policy acts.

use super::select::{Nothing, contradiction, nearest, nothing, selects};
use super::world::{PodSet, PolicyView, World, counted, some_of};
use super::{Finding, Notes, Severity};
use crate::index::NamespaceLabels;
use crate::model::{Direction, LabelSelector, Labels, Peer, namespace::NAME_LABEL};

/// From how many pods on an empty podSelector is worth a word.
const MANY_PODS: usize = 50;

pub(super) fn check(world: &World<'_>, findings: &mut Vec<Finding>) {
    for view in &world.policies {
        let mut notes = Notes { view, findings };
        target(world, view, &mut notes);
        for direction in [Direction::Ingress, Direction::Egress] {
            for (rule, sets) in view.rules(direction) {
                for (i, peer) in rule.peers.iter().enumerate() {
                    let place = (rule.path(direction, Some(i)), peer.line);
                    if sets[i].is_empty() {
                        empty_peer(world, view, &peer.peer, place, &mut notes);
                    }
                }
            }
        }
    }
}

/// The pods that the policy itself selects.
fn target(world: &World<'_>, view: &PolicyView<'_>, notes: &mut Notes<'_, '_>) {
    let policy = view.policy;
    let place = ("spec.podSelector", 0);
    let namespace = &policy.key.namespace;
    let (all, governed) = (view.selected.len(), view.governed.len());
    if all == 0 {
        if contradiction(&policy.pod_selector).is_none() {
            selects_nothing(world, view, notes);
        }
    } else if governed == 0 && view.selected.iter().any(|pod| isolated(world, pod)) {
        // It is said of those pods why no policy acts on them.
    } else if governed == 0 {
        let host = view.selected.iter().filter(|pod| world.pods[*pod].host_network).count();
        let names = world.names(view.selected.iter());
        if host == 0 {
            notes.add(
                Severity::Warning,
                "selects-nothing",
                place,
                format!("selects only pods that have finished: {names}"),
                "the labels of pods that run, or remove the policy",
            );
        } else {
            notes.add(
                Severity::Warning,
                "host-network",
                place,
                format!("has no effect: it selects only pods on their node's network ({names}), which no policy governs"),
                "run the pods without hostNetwork, or filter on the node",
            );
        }
    } else {
        let host = view.selected.iter().filter(|pod| {
            let pod = world.pods[*pod];
            pod.host_network && pod.phase == crate::model::Phase::Live
        });
        let host: Vec<usize> = host.collect();
        // The empty selector means the namespace and not these pods in particular.
        if !host.is_empty() && !policy.pod_selector.is_empty() {
            notes.add(
                Severity::Info,
                "host-network",
                place,
                format!(
                    "does not act on {} of the {} that it selects, which {} on the node's network: {}",
                    host.len(),
                    counted(all, "pod"),
                    if host.len() == 1 { "is" } else { "are" },
                    world.names(host.iter().copied()),
                ),
                "run these pods without hostNetwork, or filter on the node",
            );
        }
    }
    if policy.pod_selector.is_empty() && governed >= MANY_PODS {
        notes.add(
            Severity::Info,
            "broad-selector",
            place,
            format!("the empty podSelector selects all {governed} pods of namespace {namespace}"),
            "labels, if only some of them are meant",
        );
    }
}

/// Whether a pod is isolated whatever policies say: refused, or its addresses are claimed by others.
fn isolated(world: &World<'_>, pod: usize) -> bool {
    let pod = world.pods[pod];
    pod.is_policed() && (pod.refused || !pod.addresses.is_empty())
}

fn selects_nothing(world: &World<'_>, view: &PolicyView<'_>, notes: &mut Notes<'_, '_>) {
    let policy = view.policy;
    let namespace = &policy.key.namespace;
    let own = world.in_namespace(namespace);
    if own.is_empty() {
        let known: Vec<&str> = world
            .inhabited()
            .chain(world.index.namespaces().map(|namespace| namespace.name.as_str()))
            .filter(|known| **known != **namespace)
            .collect();
        let declared = world.index.namespace(namespace).is_some();
        let near = nearest(namespace, known).filter(|_| !declared);
        notes.add(
            // A namespace that is there and empty may be filled tomorrow.
            if declared { Severity::Info } else { Severity::Warning },
            "selects-nothing",
            ("metadata.namespace", 0),
            format!("selects no pod: namespace {namespace} has none at present"),
            match near {
                Some(near) => format!("`namespace: {near}`, if that is meant"),
                None => "nothing, if its pods are yet to come; otherwise the namespace of the pods that are meant".to_owned(),
            },
        );
        return;
    }
    let labels: Vec<&Labels> = own.map(|pod| &*world.pods[pod].labels).collect();
    let found = nothing(&policy.pod_selector, &labels, &format!("pod of namespace {namespace}"));
    let elsewhere = elsewhere(world, namespace, &policy.pod_selector);
    notes.add(
        Severity::Warning,
        "selects-nothing",
        ("spec.podSelector", 0),
        format!("selects no pod: {}{}", found.why, elsewhere.sentence()),
        match (&found.nearest, &elsewhere.first) {
            (Some(nearest), _) => format!("`{nearest}`, which exists"),
            (None, Some(other)) => {
                format!("`namespace: {other}`: a policy selects pods of its own namespace only")
            }
            (None, None) => {
                "labels that the pods have (`kubectl get pods --show-labels`)".to_owned()
            }
        },
    );
}

/// Other namespaces in which a selector would find pods.
struct Elsewhere<'a> {
    first: Option<&'a str>,
    all: String,
}

impl Elsewhere<'_> {
    fn sentence(&self) -> String {
        match self.first {
            Some(_) => format!("; there are such pods in {}", self.all),
            None => String::new(),
        }
    }
}

fn elsewhere<'a>(world: &World<'a>, namespace: &str, selector: &LabelSelector) -> Elsewhere<'a> {
    let found: Vec<&str> = world
        .inhabited()
        .filter(|other| {
            *other != namespace
                && world.in_namespace(other).any(|p| selects(selector, &world.pods[p].labels))
        })
        .collect();
    Elsewhere { first: found.first().copied(), all: some_of(&found) }
}

fn empty_peer(
    world: &World<'_>,
    view: &PolicyView<'_>,
    peer: &Peer,
    (path, line): (String, u32),
    notes: &mut Notes<'_, '_>,
) {
    let Peer::Pods { namespaces, pods } = peer else { return };
    let never = |selector: &Option<LabelSelector>| {
        selector.as_ref().is_some_and(|selector| contradiction(selector).is_some())
    };
    if never(namespaces) || never(pods) {
        return;
    }
    let all = world.peers_all(view.policy, peer);
    if !all.is_empty() {
        unpoliced_peer(world, &all, (path, line), notes);
        return;
    }
    let own = &view.policy.key.namespace;
    let everything = LabelSelector::everything();
    let selector = pods.as_ref().unwrap_or(&everything);
    let chosen: Vec<&str> = match namespaces {
        None => vec![own],
        Some(selector) => {
            let chosen = known_namespaces(world);
            let chosen: Vec<&str> = chosen
                .into_iter()
                .filter(|name| world.index.selects_namespace(selector, name))
                .collect();
            if chosen.is_empty() {
                no_namespace(world, selector, (path, line), notes);
                return;
            }
            chosen
        }
    };
    let labels: Vec<&Labels> = chosen
        .iter()
        .flat_map(|namespace| world.in_namespace(namespace))
        .map(|pod| &*world.pods[pod].labels)
        .collect();
    let Nothing { why, nearest } =
        nothing(selector, &labels, &format!("pod of namespace {}", some_of(&chosen)));
    let elsewhere = match namespaces {
        None => elsewhere(world, own, selector),
        Some(_) => Elsewhere { first: None, all: String::new() },
    };
    notes.add(
        Severity::Warning,
        "peer-selects-nothing",
        (path, line),
        format!("matches no pod: {why}{}", elsewhere.sentence()),
        match (nearest, elsewhere.first) {
            (Some(nearest), _) => format!("`{nearest}`, which exists"),
            (None, Some(other)) => format!(
                "a namespaceSelector in the same item (`{NAME_LABEL}: {other}`): a podSelector alone means the policy's own namespace"
            ),
            (None, None) => "labels that the pods have; remove the item if its pods are gone".to_owned(),
        },
    );
}

/// A peer all of whose pods have no part in policy.
fn unpoliced_peer(
    world: &World<'_>,
    all: &PodSet,
    place: (String, u32),
    notes: &mut Notes<'_, '_>,
) {
    let names = world.names(all.iter());
    if all.iter().any(|pod| world.pods[pod].host_network) {
        notes.add(
            Severity::Warning,
            "host-network",
            place,
            format!("matches nothing: its pods are on their node's network ({names}), and selectors match pods of the pod network only"),
            "an ipBlock with the nodes' addresses",
        );
    } else {
        notes.add(
            Severity::Warning,
            "peer-selects-nothing",
            place,
            format!("matches no pod: those that it selects have finished ({names})"),
            "the labels of pods that run",
        );
    }
}

fn known_namespaces<'a>(world: &World<'a>) -> Vec<&'a str> {
    let mut names: Vec<&str> = world.inhabited().collect();
    names.extend(world.index.namespaces().map(|namespace| namespace.name.as_str()));
    names.sort_unstable();
    names.dedup();
    names
}

fn no_namespace(
    world: &World<'_>,
    selector: &LabelSelector,
    place: (String, u32),
    notes: &mut Notes<'_, '_>,
) {
    let only_names = selector.requirements.iter().all(|r| r.key == NAME_LABEL);
    if world.index.namespaces().len() == 0 && !only_names {
        // Said once for the whole input.
        return;
    }
    let names = known_namespaces(world);
    // Those of undeclared namespaces are no choice: only their names are known.
    let labels: Vec<&Labels> = names
        .iter()
        .filter_map(|name| match world.index.namespace_labels(name) {
            NamespaceLabels::Known(labels) => Some(labels),
            _ => None,
        })
        .collect();
    let Nothing { why, nearest } = nothing(selector, &labels, "namespace");
    notes.add(
        Severity::Warning,
        "peer-selects-nothing",
        (format!("{}.namespaceSelector", place.0), place.1),
        format!("matches no namespace: {why}"),
        match nearest {
            Some(nearest) => format!("`{nearest}`, which exists"),
            None => format!(
                "labels that the namespaces have (`kubectl get namespaces --show-labels`); every namespace has `{NAME_LABEL}`"
            ),
        },
    );
}
