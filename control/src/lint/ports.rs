//! Named ports: the number is the destination pod's, so a name that it does not have opens nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::select::nearest;
use super::world::{PodSet, PolicyView, World, counted, some_of};
use super::{Finding, Notes, Severity};
use crate::model::{Direction, Peer, PortMatch, Protocol, Rule};

pub(super) fn check(world: &World<'_>, findings: &mut Vec<Finding>) {
    for view in &world.policies {
        let mut notes = Notes { view, findings };
        for direction in [Direction::Ingress, Direction::Egress] {
            for (rule, sets) in view.rules(direction) {
                let named = rule.ports.iter().any(|p| matches!(p.port, PortMatch::Named(_)));
                if !named {
                    continue;
                }
                let destinations = destinations(world, view, direction, rule, sets);
                if !destinations.is_empty() {
                    rule_ports(world, &destinations, (direction, rule), &mut notes);
                }
            }
        }
    }
}

/// The pods whose ports the names of a rule mean.
fn destinations(
    world: &World<'_>,
    view: &PolicyView<'_>,
    direction: Direction,
    rule: &Rule,
    sets: &[PodSet],
) -> PodSet {
    match direction {
        Direction::Ingress => view.governed.clone(),
        Direction::Egress if rule.peers.is_empty() => {
            world.governed(&(0..world.pods.len()).collect())
        }
        Direction::Egress => {
            let mut all = PodSet::default();
            sets.iter().for_each(|set| all.add(set));
            all
        }
    }
}

fn rule_ports(
    world: &World<'_>,
    destinations: &PodSet,
    (direction, rule): (Direction, &Rule),
    notes: &mut Notes<'_, '_>,
) {
    // Without peers, or with a block, a name is looked for wherever it may be; that most pods do
    // not have it is as it should be.
    let particular = direction == Direction::Ingress
        || (!rule.peers.is_empty()
            && rule.peers.iter().all(|peer| matches!(peer.peer, Peer::Pods { .. })));
    for (i, port) in rule.ports.iter().enumerate() {
        let PortMatch::Named(name) = &port.port else { continue };
        let place = (format!("{}.ports[{i}].port", rule.path(direction, None)), port.line);
        let mut numbers: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        let mut without: Vec<usize> = Vec::new();
        for pod in destinations.iter() {
            let declared = world.pods[pod].ports.iter().filter(|declared| {
                declared.protocol == port.protocol && declared.name.as_deref() == Some(name)
            });
            let mut any = false;
            for declared in declared {
                any = true;
                numbers.entry(declared.port).or_default().push(pod);
            }
            if !any {
                without.push(pod);
            }
        }
        if numbers.is_empty() {
            missing(world, destinations, (name, port.protocol), place, notes);
            continue;
        }
        if !without.is_empty() && particular {
            notes.add(
                Severity::Info,
                "named-port-missing",
                place.clone(),
                format!(
                    "{} of {} have no port named `{name}` ({}), and the rule opens none there: {}",
                    without.len(),
                    counted(destinations.len(), "pod"),
                    port.protocol,
                    world.names(without.iter().copied()),
                ),
                "the number, or the name in these pods' containers too",
            );
        }
        if numbers.len() > 1 {
            let groups = numbers
                .iter()
                .map(|(number, pods)| format!("{number} in {}", world.names(pods.iter().copied())));
            notes.add(
                Severity::Info,
                "named-port-differs",
                place,
                format!("`{name}` is {}", some_of(groups)),
                "nothing, if each pod's own number is meant; otherwise the number",
            );
        }
    }
}

/// No destination has the name under this protocol.
fn missing(
    world: &World<'_>,
    destinations: &PodSet,
    (name, protocol): (&str, Protocol),
    place: (String, u32),
    notes: &mut Notes<'_, '_>,
) {
    let declared = || destinations.iter().flat_map(|pod| world.pods[pod].ports.iter());
    let named = |port: &&crate::model::ContainerPort| port.name.as_deref() == Some(name);
    let other_protocol = declared().find(named).map(|port| port.protocol);
    let names: BTreeSet<&str> = declared().filter_map(|port| port.name.as_deref()).collect();
    let pods = world.names(destinations.iter());
    let remedy = match (other_protocol, nearest(name, names.iter().copied())) {
        (Some(other), _) => {
            format!("`protocol: {other}` beside it: the pods name it under {other}")
        }
        (None, Some(near)) => format!("`port: {near}`, which they have, or the number"),
        (None, None) if names.is_empty() => {
            "the number, or a name in the containers' `ports`".to_owned()
        }
        (None, None) => {
            format!("the number, or a name that they have: {}", some_of(names.iter()))
        }
    };
    notes.add(
        Severity::Warning,
        "named-port-missing",
        place,
        format!("opens nothing: no destination pod has a port named `{name}` ({protocol}): {pods}"),
        remedy,
    );
}
