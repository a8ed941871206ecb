//! What could not be honoured, was left out, or counts twice.

use std::collections::BTreeMap;

use super::world::{World, at};
use super::{Finding, Severity};
use crate::model::{self, Complaint, Effect, NetworkPolicy, Origin, Peer, namespace::NAME_LABEL};
use crate::source::dir::ALREADY_WRITTEN;

pub(super) fn check(world: &World<'_>, findings: &mut Vec<Finding>) {
    findings.extend(world.loaded.complaints.iter().map(complaint));
    findings.extend(world.index.conflicts().iter().map(|conflict| Finding {
        code: "address-conflict",
        remedy: "remove the pod that is gone, or list the cluster's pods at one moment".to_owned(),
        ..complaint(conflict)
    }));
    duplicates(world, findings);
    whole_input(world, findings);
}

fn complaint(complaint: &Complaint) -> Finding {
    let Complaint { severity, effect, origin, object, field, message, consequence } = complaint;
    let (severity, code, remedy) = match severity {
        model::Severity::Refused if message.starts_with(ALREADY_WRITTEN) => (
            Severity::Error,
            "duplicate-object",
            "give one of the two another name, or remove it".to_owned(),
        ),
        model::Severity::Refused => (
            Severity::Error,
            "refused",
            "correct this field as said; the API server would not take the object either"
                .to_owned(),
        ),
        model::Severity::Skipped if *effect == Effect::NotEnforced => (
            Severity::Error,
            "not-enforced",
            "write it as a NetworkPolicy of networking.k8s.io/v1".to_owned(),
        ),
        model::Severity::Skipped => (
            Severity::Info,
            "unknown-kind",
            "nothing, if it is no network policy; otherwise write a NetworkPolicy of networking.k8s.io/v1"
                .to_owned(),
        ),
        model::Severity::Warning => (
            Severity::Warning,
            "read-otherwise",
            "write what is read, so that everyone reads the same".to_owned(),
        ),
    };
    let message = match consequence.is_empty() {
        true => message.clone(),
        false => format!("{message}; {consequence}"),
    };
    Finding {
        severity,
        code,
        object: object.clone(),
        field: field.clone(),
        origin: origin.clone(),
        message,
        remedy,
    }
}

/// Policies of one namespace with the same selector, directions and rules.
fn duplicates(world: &World<'_>, findings: &mut Vec<Finding>) {
    let mut first: BTreeMap<String, &NetworkPolicy> = BTreeMap::new();
    for view in &world.policies {
        let policy = view.policy;
        let content = content(policy);
        let Some(other) = first.get(&content) else {
            first.insert(content, policy);
            continue;
        };
        findings.push(Finding {
            severity: Severity::Warning,
            code: "duplicate-policy",
            object: format!("NetworkPolicy {}", policy.key),
            field: "spec".to_owned(),
            origin: at(policy, 0),
            message: format!("says the same as NetworkPolicy {} ({})", other.key, other.origin),
            remedy: "keep one of the two".to_owned(),
        });
    }
}

/// Everything that a policy says, its name and its lines aside.
pub(super) fn content(policy: &NetworkPolicy) -> String {
    use crate::model::{Direction, Rule};
    let rules = |direction| {
        let rules = policy.rules(direction).iter().map(|rule: &Rule| {
            let peers: Vec<&Peer> = rule.peers.iter().map(|peer| &peer.peer).collect();
            let ports: Vec<_> = rule.ports.iter().map(|p| (p.protocol, &p.port)).collect();
            format!("{peers:?} {ports:?}")
        });
        rules.collect::<Vec<String>>()
    };
    let mut selector = policy.pod_selector.requirements.clone();
    selector.sort();
    format!(
        "{} {selector:?} {:?} {:?} {:?} {:?}",
        policy.key.namespace,
        policy.directions,
        rules(Direction::Ingress),
        rules(Direction::Egress),
        // A refused rule allows nothing, but was not written for nothing.
        policy.faults.iter().map(|fault| (&fault.field, &fault.message)).collect::<Vec<_>>(),
    )
}

/// What is missing as a whole.
fn whole_input(world: &World<'_>, findings: &mut Vec<Finding>) {
    if world.policies.is_empty() {
        return;
    }
    let mut add = |severity, code, message: &str, remedy: &str| {
        findings.push(Finding {
            severity,
            code,
            object: String::new(),
            field: String::new(),
            origin: Origin { file: world.policies[0].policy.origin.file.clone(), line: 0 },
            message: message.to_owned(),
            remedy: remedy.to_owned(),
        });
    };
    if world.pods.is_empty() {
        add(
            Severity::Info,
            "no-pods",
            "there are policies and no pods: checks that need pods are left out",
            "add what `kubectl get -A -o yaml namespaces,pods,services,endpointslices,nodes` prints",
        );
    } else if world.index.namespaces().len() == 0 && asks_for_namespace_labels(world) {
        add(
            Severity::Warning,
            "no-namespaces",
            "there are no Namespace objects: of each namespace only the name is known, and a namespaceSelector that asks for another label, or for its absence, selects none",
            "add what `kubectl get namespaces -o yaml` prints",
        );
    }
}

fn asks_for_namespace_labels(world: &World<'_>) -> bool {
    use crate::model::Direction::{Egress, Ingress};
    let rules = world.policies.iter().flat_map(|view| {
        [Ingress, Egress].into_iter().flat_map(|direction| view.policy.rules(direction))
    });
    let mut peers = rules.flat_map(|rule| &rule.peers);
    peers.any(|peer| match &peer.peer {
        Peer::Pods { namespaces: Some(selector), .. } => {
            selector.requirements.iter().any(|requirement| requirement.key != NAME_LABEL)
        }
        _ => false,
    })
}
