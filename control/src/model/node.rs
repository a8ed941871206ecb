//! `v1` Node: its labels and addresses, and the blocks that its pods get addresses from.

use std::net::IpAddr;

use ipnet::IpNet;

use super::common::{complain, decode_ip, decode_metadata};
use super::decode::{Place, Problems};
use super::label::Labels;
use super::{Complaint, Origin};

/// The label of nodes that run the control plane; its value does not matter.
pub const CONTROL_PLANE_LABEL: &str = "node-role.kubernetes.io/control-plane";

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// `status.addresses` of types InternalIP and ExternalIP, without repetition, in that order.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs` and `spec.podCIDR`, without repetition.
    pub pod_cidrs: Vec<IpNet>,
    /// Where it was read.
    pub origin: Origin,
}

impl Node {
    /// Whether the control plane runs here.
    pub fn is_control_plane(&self) -> bool {
        self.labels.contains_key(CONTROL_PLANE_LABEL)
    }
}

/// Reads a Node. `None` if it cannot be honoured as written.
pub(super) fn decode(
    root: &Place<'_>,
    origin: &Origin,
    complaints: &mut Vec<Complaint>,
) -> Option<Node> {
    let mut problems = Problems::default();
    let metadata = decode_metadata(root, origin, &mut problems);
    let mut node = Node {
        name: metadata.key.name.to_string(),
        labels: metadata.labels,
        addresses: Vec::new(),
        pod_cidrs: Vec::new(),
        origin: origin.clone(),
    };
    if let Some(spec) = root.field("spec").filter(|spec| spec.is_map(&mut problems)) {
        let mut blocks: Vec<Place<'_>> = Vec::new();
        if let Some(field) = spec.field("podCIDRs") {
            blocks.extend(field.items(&mut problems));
        }
        blocks.extend(spec.field("podCIDR"));
        for place in blocks {
            let Some(text) = place.string(&mut problems) else { continue };
            match text.parse::<IpNet>() {
                Ok(block) if node.pod_cidrs.contains(&block.trunc()) => {}
                Ok(block) => node.pod_cidrs.push(block.trunc()),
                // How the API prints "none".
                Err(_) if text.is_empty() => {}
                Err(_) => problems.at(&place, format!("`{text}` is no CIDR; write 10.244.1.0/24")),
            }
        }
    }
    let status = root.field("status").filter(|status| status.is_map(&mut problems));
    if let Some(field) = status.and_then(|status| status.field("addresses")) {
        for item in field.items(&mut problems) {
            decode_address(&item, &mut node, &mut problems);
        }
    }
    let object = format!("Node {}", node.name);
    let refused = complain(problems, &object, origin, "the Node is left out", complaints);
    (!refused).then_some(node)
}

fn decode_address(place: &Place<'_>, node: &mut Node, problems: &mut Problems) {
    if !place.is_map(problems) {
        return;
    }
    let kind = match place.field("type") {
        Some(field) => field.string(problems),
        None => {
            problems.at(place, "`type` is required");
            None
        }
    };
    // Host names are no addresses.
    if !matches!(kind, Some("InternalIP" | "ExternalIP")) {
        return;
    }
    let Some(field) = place.field("address") else {
        problems.at(place, "`address` is required");
        return;
    };
    if let Some(address) = decode_ip(&field, problems)
        && !node.addresses.contains(&address)
    {
        node.addresses.push(address);
    }
}
