//! What the objects know of the two addresses: who has them, and why policies concern them or not.
//!
//! Found out once for a connection: to say who has an address takes all pods, and a denial may ask
//! for each of thousands of rules.

use std::net::IpAddr;

use crate::index::{Index, Owner};
use crate::model::{Complaint, ObjectKey, Phase, Pod};

/// Who has an address.
#[derive(Debug, Clone, Copy)]
pub(super) enum Holder<'a> {
    /// A pod that policies concern.
    Pod(&'a Pod),
    /// Several pods claim it, or the pod's object was refused.
    Contested(&'a Pod),
    /// A pod on its node's network, finished or not: the address is the node's.
    Host(&'a Pod),
    /// A node.
    Node(&'a str),
    /// A pod had it that has finished.
    Finished(&'a Pod),
    /// A Service, by namespace and name.
    Service(&'a ObjectKey),
    /// Nobody that is known.
    Unknown,
}

/// Both ends of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends<'a> {
    /// The objects.
    pub(super) index: &'a Index,
    /// The source's address and who has it.
    pub(super) source: (IpAddr, Holder<'a>),
    /// The destination's.
    pub(super) destination: (IpAddr, Holder<'a>),
}

impl<'a> Ends<'a> {
    pub(super) fn of(index: &'a Index, source: IpAddr, destination: IpAddr) -> Self {
        let end = |address| (address, holder(index, address));
        Self { index, source: end(source), destination: end(destination) }
    }
}

/// Who has one address.
pub(super) fn holder(index: &Index, address: IpAddr) -> Holder<'_> {
    among(index, index.owner(&address), address)
}

fn among<'a>(index: &'a Index, owner: Option<Owner<'a>>, address: IpAddr) -> Holder<'a> {
    match owner {
        Some(Owner::Pod(pod)) => return Holder::Pod(pod),
        Some(Owner::Isolated(pod)) => return Holder::Contested(pod),
        None => {}
    }
    if let Some(node) = index.nodes().find(|node| node.addresses.contains(&address)) {
        return Holder::Node(&node.name);
    }
    let pods: Vec<&Pod> = index.pods().filter(|pod| pod.addresses.contains(&address)).collect();
    // A pod on its node's network that has finished leaves no address behind: it never had one.
    let host = pods.iter().filter(|pod| pod.host_network);
    if let Some(pod) = host.min_by_key(|pod| pod.phase != Phase::Live) {
        return Holder::Host(pod);
    }
    if let Some(service) = index.services().find(|service| service.cluster_ips.contains(&address)) {
        return Holder::Service(&service.key);
    }
    match pods.first() {
        Some(pod) => Holder::Finished(pod),
        None => Holder::Unknown,
    }
}

/// Why selectors do not match an address, as a clause: `192.0.2.1 is no pod's address`.
pub(super) fn no_selector_matches(address: IpAddr, holder: Holder<'_>) -> String {
    match holder {
        Holder::Pod(pod) => format!("{address} is pod {}", pod.key),
        Holder::Contested(pod) if pod.refused => {
            format!("the object of pod {}, which has {address}, was refused", pod.key)
        }
        Holder::Contested(_) => format!("{address} is claimed by several pods"),
        Holder::Host(pod) if pod.phase != Phase::Live => {
            format!(
                "{address} is a node's: pod {}, which has finished, was on its network",
                pod.key
            )
        }
        Holder::Host(pod) => {
            format!("{address} is a node's: pod {} is on its node's network", pod.key)
        }
        Holder::Node(node) => format!("{address} is node {node}'s"),
        Holder::Finished(pod) => format!("pod {}, which had {address}, has finished", pod.key),
        Holder::Service(key) => format!("{address} is Service {key}'s"),
        Holder::Unknown => format!("{address} is no pod's address"),
    }
}

/// Why no policy governs an end, to follow its name.
pub(super) fn unrestricted(holder: Option<Holder<'_>>) -> String {
    match holder {
        Some(Holder::Host(pod)) if pod.phase != Phase::Live => format!(
            "is a node's address (pod {}, which has finished, was on its network), and only pods \
             have policies",
            pod.key
        ),
        Some(Holder::Host(_)) => {
            "is on its node's network, which policies do not govern".to_owned()
        }
        Some(Holder::Node(node)) => {
            format!("is an address of node {node}, and only pods have policies")
        }
        Some(Holder::Finished(pod)) => {
            let how = if pod.phase == Phase::Failed { "Failed" } else { "Succeeded" };
            format!("was the address of pod {}, which has finished ({how})", pod.key)
        }
        Some(Holder::Service(key)) => {
            format!("is the address of Service {key}, and only pods have policies")
        }
        _ => "is no pod's address, and only pods have policies".to_owned(),
    }
}

/// Why an end is isolated in both directions whatever policies say.
pub(super) fn contested(ends: Option<Ends<'_>>, (address, holder): (IpAddr, Holder<'_>)) -> String {
    match (ends, holder) {
        (_, Holder::Contested(pod)) if pod.refused => {
            format!("the object of pod {} was refused ({})", pod.key, pod.origin)
        }
        (Some(ends), Holder::Contested(_)) => {
            let text = address.to_string();
            let conflict = ends
                .index
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
