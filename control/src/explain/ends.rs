//! What the objects know of an address: whose it is, and why policies concern it or not.

use std::net::IpAddr;

use crate::index::{Index, Owner};
use crate::model::{Complaint, Phase, Pod};

/// Whose an address is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Whose<'a> {
    /// A pod's that policies concern.
    Pod(&'a Pod),
    /// Several pods claim it, or the pod's object was refused.
    Contested(&'a Pod),
    /// A pod's on its node's network.
    Host(&'a Pod),
    /// A node's.
    Node(&'a str),
    /// It was a pod's that has finished.
    Finished(&'a Pod),
    /// A Service's, by namespace and name.
    Service(&'a crate::model::ObjectKey),
    /// Nobody's that is known.
    Unknown,
}

pub(super) fn whose(index: &Index, address: IpAddr) -> Whose<'_> {
    match index.endpoints().get(&address) {
        Some(Owner::Pod(pod)) => return Whose::Pod(pod),
        Some(Owner::Isolated(pod)) => return Whose::Contested(pod),
        None => {}
    }
    let pods = || index.pods().filter(|pod| pod.addresses.contains(&address));
    if let Some(node) = index.nodes().find(|node| node.addresses.contains(&address)) {
        return Whose::Node(&node.name);
    }
    if let Some(pod) = pods().find(|pod| pod.host_network && pod.phase == Phase::Live) {
        return Whose::Host(pod);
    }
    if let Some(service) = index.services().find(|service| service.cluster_ips.contains(&address)) {
        return Whose::Service(&service.key);
    }
    match pods().next() {
        Some(pod) => Whose::Finished(pod),
        None => Whose::Unknown,
    }
}

/// Why selectors do not match an address, as a clause: `192.0.2.1 is no pod's address`.
pub(super) fn stranger(index: &Index, address: IpAddr) -> String {
    match whose(index, address) {
        Whose::Pod(pod) => format!("{address} is pod {}", pod.key),
        Whose::Contested(pod) if pod.refused => {
            format!("the object of pod {}, which has {address}, was refused", pod.key)
        }
        Whose::Contested(_) => format!("{address} is claimed by several pods"),
        Whose::Host(pod) => {
            format!("{address} is a node's: pod {} is on its node's network", pod.key)
        }
        Whose::Node(node) => format!("{address} is node {node}'s"),
        Whose::Finished(pod) => format!("pod {}, which had {address}, has finished", pod.key),
        Whose::Service(key) => format!("{address} is Service {key}'s"),
        Whose::Unknown => format!("{address} is no pod's address"),
    }
}

/// Why no policy governs an end, to follow its name.
pub(super) fn unrestricted(index: Option<&Index>, address: IpAddr) -> String {
    match index.map(|index| whose(index, address)) {
        Some(Whose::Host(_)) => "is on its node's network, which policies do not govern".to_owned(),
        Some(Whose::Node(node)) => {
            format!("is an address of node {node}, and only pods have policies")
        }
        Some(Whose::Finished(pod)) => {
            let how = if pod.phase == Phase::Failed { "Failed" } else { "Succeeded" };
            format!("was the address of pod {}, which has finished ({how})", pod.key)
        }
        Some(Whose::Service(key)) => {
            format!("is the address of Service {key}, and only pods have policies")
        }
        _ => "is no pod's address, and only pods have policies".to_owned(),
    }
}

/// Why an end is isolated in both directions whatever policies say.
pub(super) fn contested(index: Option<&Index>, address: IpAddr) -> String {
    match index.map(|index| (index, whose(index, address))) {
        Some((_, Whose::Contested(pod))) if pod.refused => {
            format!("the object of pod {} was refused ({})", pod.key, pod.origin)
        }
        Some((index, Whose::Contested(_))) => {
            let text = address.to_string();
            let conflict = index
                .conflicts()
                .into_iter()
                .find(|conflict| conflict.message.split_whitespace().any(|word| word == text));
            conflict.as_ref().map_or_else(unknown_owner, Complaint::to_string)
        }
        _ => unknown_owner(),
    }
}

fn unknown_owner() -> String {
    "its address has no single owner, or its object was refused".to_owned()
}

/// What to know beside the verdict: traffic that Weir lets pass before any policy is asked, and
/// addresses that are not where a connection ends.
pub(super) fn notes(index: &Index, source: IpAddr, destination: IpAddr) -> Vec<String> {
    let mut notes = Vec::new();
    for (address, other) in [(source, destination), (destination, source)] {
        let (node, other) = match (node_of(index, address), whose(index, other)) {
            (Some(node), Whose::Pod(pod)) => (node, pod),
            _ => continue,
        };
        notes.push(match &other.node {
            Some(of) if *of == node => format!(
                "{address} is an address of node {node}, on which pod {} runs: what node and pod \
                 say to each other passes in any case",
                other.key
            ),
            Some(_) => continue,
            None => format!(
                "{address} is an address of node {node}; if pod {} runs there, what the two say to \
                 each other passes in any case",
                other.key
            ),
        });
    }
    if let Whose::Service(key) = whose(index, destination) {
        notes.push(format!(
            "{destination} is the address of Service {key}: the source's egress policies see that \
             address, ingress policies act on the backend; ask for the backend to see them"
        ));
    }
    notes
}

/// The name of the node whose address this is.
fn node_of(index: &Index, address: IpAddr) -> Option<String> {
    match whose(index, address) {
        Whose::Node(node) => Some(node.to_owned()),
        Whose::Host(pod) => pod.node.clone(),
        _ => None,
    }
}
