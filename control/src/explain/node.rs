//! A node and its own pods: what they say to each other passes before any policy is asked.
//!
//! Sources of the rule: the API reference, NetworkPolicySpec.ingress ("OR if the traffic source is
//! the pod's local node"), and the concept page "Network Policies" ("traffic to and from the node
//! where a Pod is running is always allowed"). The table knows pods only; that one end is the
//! other's node is known from `spec.nodeName` and the Nodes' addresses. Where these are missing a
//! note says what the verdict depends on.

use std::net::IpAddr;

use super::ends::{Ends, Holder};
use crate::model::Pod;

/// What the objects know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OwnNode {
    /// One end is the node of the other.
    Yes {
        /// The node.
        node: String,
        /// `namespace/name` of the pod.
        pod: String,
    },
    /// It may be, as said in this note.
    Perhaps(String),
    /// It is not.
    No,
}

/// Whether one end of a connection is the node on which the other runs.
pub(super) fn own_node(ends: &Ends<'_>) -> OwnNode {
    for (end, other) in [(ends.source, ends.destination), (ends.destination, ends.source)] {
        let ((address, holder), (_, Holder::Pod(pod))) = (end, other) else { continue };
        match (node_of(holder), &pod.node) {
            (Some(node), Some(of)) if *node == **of => {
                return OwnNode::Yes { node: node.to_owned(), pod: pod.key.to_string() };
            }
            (Some(_), Some(_)) => {}
            (Some(node), None) => {
                let address = format!("{address} is an address of node {node}");
                return OwnNode::Perhaps(format!(
                    "{address}; if pod {} runs there (its spec.nodeName is not given), {PASSES}",
                    pod.key
                ));
            }
            (None, _) => {
                if let Some(note) = unknown(ends, (address, holder), pod) {
                    return OwnNode::Perhaps(note);
                }
            }
        }
    }
    OwnNode::No
}

const PASSES: &str = "what the two say to each other passes whatever policies say";

/// Without the nodes' addresses any address outside of the pod network may be a node's.
fn unknown(ends: &Ends<'_>, (address, holder): (IpAddr, Holder<'_>), pod: &Pod) -> Option<String> {
    let may_be = match holder {
        Holder::Host(_) => true,
        Holder::Unknown => ends.index.nodes().all(|node| node.addresses.is_empty()),
        _ => false,
    };
    may_be.then(|| {
        format!("if {address} is the address of the node on which pod {} runs, {PASSES}", pod.key)
    })
}

/// As [`OwnNode::Perhaps`], where a table is all that there is.
pub(super) fn without_objects(address: IpAddr) -> String {
    format!("if {address} is this node's own address and the pod runs here, {PASSES}")
}

/// The name of the node that has an address.
fn node_of(holder: Holder<'_>) -> Option<&str> {
    match holder {
        Holder::Node(node) => Some(node),
        Holder::Host(pod) => pod.node.as_deref(),
        _ => None,
    }
}
