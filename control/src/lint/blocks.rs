//! ipBlocks: over addresses of pods, and of one family only where pods have two.

use std::net::IpAddr;

use ipnet::IpNet;

use super::world::{PolicyView, World, counted};
use super::{Finding, Notes, Severity};
use crate::model::{Direction, Peer, PeerRule};

pub(super) fn check(world: &World<'_>, findings: &mut Vec<Finding>) {
    let dual = dual_stack(world);
    let pod_blocks: Vec<IpNet> = {
        let mut blocks: Vec<IpNet> =
            world.index.nodes().flat_map(|node| node.pod_cidrs.iter().copied()).collect();
        blocks.sort_unstable();
        blocks.dedup();
        blocks
    };
    for view in &world.policies {
        let mut notes = Notes { view, findings };
        for direction in [Direction::Ingress, Direction::Egress] {
            for (rule, sets) in view.rules(direction) {
                for (i, (peer, set)) in rule.peers.iter().zip(sets).enumerate() {
                    let Peer::IpBlock { cidr, except } = &peer.peer else { continue };
                    let place = (format!("{}.ipBlock", rule.path(direction, Some(i))), peer.line);
                    let node = pod_blocks.iter().find(|block| {
                        overlaps(block, cidr) && !except.iter().any(|hole| hole.contains(*block))
                    });
                    if !set.is_empty() || node.is_some() {
                        over_pods(world, (cidr, set, node), place, &mut notes);
                    }
                }
            }
            if dual {
                one_family(view, direction, &mut notes);
            }
        }
    }
}

fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Whether pods here have both families.
fn dual_stack(world: &World<'_>) -> bool {
    let both = |addresses: &[IpAddr]| {
        addresses.iter().any(IpAddr::is_ipv4) && addresses.iter().any(IpAddr::is_ipv6)
    };
    let blocks =
        |blocks: &[IpNet]| both(&blocks.iter().map(|block| block.addr()).collect::<Vec<IpAddr>>());
    world.pods.iter().any(|pod| pod.is_policed() && both(&pod.addresses))
        || world.index.nodes().any(|node| blocks(&node.pod_cidrs))
        || world.index.services().any(|service| both(&service.cluster_ips))
}

fn over_pods(
    world: &World<'_>,
    (cidr, set, node): (&IpNet, &super::world::PodSet, Option<&IpNet>),
    place: (String, u32),
    notes: &mut Notes<'_, '_>,
) {
    let what = match (set.len(), node) {
        (0, Some(node)) => format!("overlaps the pods' block {node}"),
        (count, _) => format!(
            "holds the address{} of {}: {}",
            if count == 1 { "" } else { "es" },
            counted(count, "pod"),
            world.names(set.iter())
        ),
    };
    let everywhere = cidr.prefix_len() == 0;
    notes.add(
        // "Everything" holds the pods too; that is known, and often meant.
        if everywhere { Severity::Info } else { Severity::Warning },
        "block-over-pods",
        place,
        format!(
            "{cidr} {what}; Weir lets a block match pods, other implementations do not, and pods' addresses change"
        ),
        match everywhere {
            true => "the pods' blocks under `except` if only what is outside the cluster is meant; beside it a peer with selectors if pods are meant too",
            false => "podSelector and namespaceSelector for pods; ipBlock for what is outside the cluster",
        },
    );
}

/// The blocks of a policy's direction name one family, while its pods have two.
fn one_family(view: &PolicyView<'_>, direction: Direction, notes: &mut Notes<'_, '_>) {
    let blocks: Vec<(String, &PeerRule, IpNet)> = view
        .policy
        .rules(direction)
        .iter()
        .flat_map(|rule| {
            let peers = rule.peers.iter().enumerate();
            peers.filter_map(move |(i, peer)| match &peer.peer {
                Peer::IpBlock { cidr, .. } => Some((rule.path(direction, Some(i)), peer, *cidr)),
                Peer::Pods { .. } => None,
            })
        })
        .collect();
    let families = |v4: bool| blocks.iter().any(|(_, _, cidr)| cidr.addr().is_ipv4() == v4);
    let everyone = view.policy.rules(direction).iter().any(|rule| rule.peers.is_empty());
    if blocks.is_empty() || families(true) == families(false) || everyone {
        return;
    }
    // One finding: at the widest block, which is the most likely to want a twin.
    let Some((path, peer, cidr)) = blocks.iter().min_by_key(|(_, _, cidr)| cidr.prefix_len())
    else {
        return;
    };
    let (has, lacks, twin) = match cidr.addr().is_ipv4() {
        true => ("IPv4", "IPv6", "::/0"),
        false => ("IPv6", "IPv4", "0.0.0.0/0"),
    };
    let everything = cidr.prefix_len() == 0;
    notes.add(
        if everything { Severity::Warning } else { Severity::Info },
        "one-family",
        (format!("{path}.ipBlock.cidr"), peer.line),
        format!(
            "the cluster has both families, and the {direction} rules have {has} blocks only: over {lacks} none of them matches"
        ),
        match everything {
            true => format!("a second item with `cidr: {twin}`"),
            false => format!("the same peer's {lacks} block as a second item, if it has one"),
        },
    );
}
