//! Rules that allow nothing beyond another rule: of the same policy, or of one that selects at
//! least the same pods.
//!
//! A rule is covered if another one has all of its pods, all of its peers and all of its ports.
//! Where the texts alone show it, it holds whatever the cluster; otherwise for the pods of today.
//! A covered rule can be removed without a change of any verdict; a property test holds this
//! against the compiled table.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::input::content;
use super::select::{implies, selector_words};
use super::world::{PodSet, PolicyView, World};
use super::{Finding, Notes, Severity};
use crate::model::{Direction, LabelSelector, Peer, PortMatch, PortRule, Rule};

/// One rule in force.
struct Entry<'a, 'w> {
    view: &'a PolicyView<'w>,
    rule: &'a Rule,
    /// Governed pods that the selectors of its peers match.
    selected: PodSet,
    /// Governed pods of which every address is in one of its blocks.
    in_blocks: PodSet,
}

pub(super) fn check(world: &World<'_>, findings: &mut Vec<Finding>) {
    let mut by_namespace: BTreeMap<&str, Vec<&PolicyView<'_>>> = BTreeMap::new();
    let mut contents = std::collections::BTreeSet::new();
    for view in &world.policies {
        // A policy that repeats another one as a whole is reported as that.
        if contents.insert(content(view.policy)) {
            by_namespace.entry(&view.policy.key.namespace).or_default().push(view);
        }
    }
    for views in by_namespace.values() {
        for direction in [Direction::Ingress, Direction::Egress] {
            let entries: Vec<Entry<'_, '_>> = views
                .iter()
                .flat_map(|view| view.rules(direction).map(|(rule, sets)| (*view, rule, sets)))
                .map(|(view, rule, sets)| Entry::new(world, view, rule, sets))
                .collect();
            for (i, entry) in entries.iter().enumerate() {
                let covering = (0..entries.len()).find_map(|j| {
                    let other = &entries[j];
                    let how = (j != i).then(|| covers(world, direction, other, entry)).flatten()?;
                    // Of two that cover each other the first stays.
                    let mutual = j > i && covers(world, direction, entry, other).is_some();
                    (!mutual).then_some((other, how))
                });
                if let Some((other, how)) = covering {
                    report(entry, other, direction, how, findings);
                }
            }
        }
    }
}

/// On what a rule's being covered rests.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ground {
    /// The texts.
    Always,
    /// The pods of today.
    Present,
}

fn report(
    entry: &Entry<'_, '_>,
    other: &Entry<'_, '_>,
    direction: Direction,
    ground: Ground,
    findings: &mut Vec<Finding>,
) {
    let path = other.rule.path(direction, None);
    let other_policy = match std::ptr::eq(entry.view, other.view) {
        true => "the same policy".to_owned(),
        false => {
            let selector = &other.view.policy.pod_selector;
            let pods = match selector.is_empty() {
                true => "every pod".to_owned(),
                false => format!("`{}`", selector_words(selector)),
            };
            format!("NetworkPolicy {}, which selects {pods}", other.view.policy.key)
        }
    };
    let origin = other.view.at(other.rule.line);
    let mut notes = Notes { view: entry.view, findings };
    let place = (entry.rule.path(direction, None), entry.rule.line);
    match ground {
        Ground::Always => notes.add(
            Severity::Warning,
            "covered-rule",
            place,
            format!("allows nothing that {path} of {other_policy}, does not allow already ({origin})")
                .replace("the same policy,", "the same policy"),
            "remove this rule; if it was to restrict the other one, narrow that: rules only ever add",
        ),
        Ground::Present => notes.add(
            Severity::Info,
            "covered-rule",
            place,
            format!("with the pods of today allows nothing that {path} of {other_policy}, does not allow already ({origin})")
                .replace("the same policy,", "the same policy"),
            "nothing, if other pods are to come; otherwise remove this rule or narrow the other",
        ),
    }
}

impl<'a, 'w> Entry<'a, 'w> {
    fn new(world: &World<'w>, view: &'a PolicyView<'w>, rule: &'a Rule, sets: &[PodSet]) -> Self {
        let (mut selected, mut in_blocks) = (PodSet::default(), PodSet::default());
        for (peer, set) in rule.peers.iter().zip(sets) {
            match &peer.peer {
                Peer::Pods { .. } => selected.add(set),
                Peer::IpBlock { .. } => in_blocks.add(set),
            }
        }
        let whole = |pod: &usize| {
            let inside = |address: &std::net::IpAddr| {
                rule.peers.iter().any(|peer| match &peer.peer {
                    Peer::IpBlock { cidr, except } => {
                        cidr.contains(address) && !except.iter().any(|hole| hole.contains(address))
                    }
                    Peer::Pods { .. } => false,
                })
            };
            world.pods[*pod].addresses.iter().all(inside)
        };
        let in_blocks = in_blocks.iter().filter(whole).collect();
        Self { view, rule, selected, in_blocks }
    }
}

/// Whether everything that `narrow` allows is allowed by `wide`, and on what ground.
fn covers(
    world: &World<'_>,
    direction: Direction,
    wide: &Entry<'_, '_>,
    narrow: &Entry<'_, '_>,
) -> Option<Ground> {
    let (a, b) = (narrow, wide);
    let by_text = implies(&a.view.policy.pod_selector, &b.view.policy.pod_selector)
        && peers_cover(b.rule, a.rule)
        && ports_cover(&b.rule.ports, &a.rule.ports, |_, _| false);
    if by_text {
        return Some(Ground::Always);
    }
    // What allows nothing now is reported as that; "covered" would say nothing.
    let idle = a.view.governed.is_empty()
        || (!a.rule.peers.is_empty()
            && a.selected.is_empty()
            && a.rule.peers.iter().all(|peer| matches!(peer.peer, Peer::Pods { .. })));
    if idle || !a.view.governed.is_subset(&b.view.governed) {
        return None;
    }
    let destinations: Vec<usize> = match direction {
        Direction::Ingress => a.view.governed.iter().collect(),
        Direction::Egress if a.rule.peers.is_empty() => (0..world.pods.len()).collect(),
        Direction::Egress => {
            let mut set = a.selected.clone();
            for (peer, peers) in a.rule.peers.iter().zip(&a.view_sets(direction)) {
                if matches!(peer.peer, Peer::IpBlock { .. }) {
                    set.add(peers);
                }
            }
            set.iter().collect()
        }
    };
    // A name is covered if every number that it stands for is.
    let resolved = |port: &PortRule, wide: &[PortRule]| {
        let PortMatch::Named(name) = &port.port else { return false };
        let mut numbers = destinations
            .iter()
            .flat_map(|pod| &world.pods[*pod].ports)
            .filter(|declared| {
                declared.protocol == port.protocol && declared.name.as_deref() == Some(name)
            })
            .map(|declared| declared.port)
            .peekable();
        numbers.peek().is_some()
            && numbers.all(|number| range_covered(wide, port.protocol, number, number))
    };
    let covered = peers_cover_now(b, a) && ports_cover(&b.rule.ports, &a.rule.ports, resolved);
    covered.then_some(Ground::Present)
}

impl Entry<'_, '_> {
    fn view_sets(&self, direction: Direction) -> Vec<PodSet> {
        let mut rules = self.view.rules(direction);
        let found = rules.find(|(rule, _)| std::ptr::eq(*rule, self.rule));
        found.map(|(_, sets)| sets.clone()).unwrap_or_default()
    }
}

/// By text: each peer of the narrow rule is covered by one of the wide rule.
fn peers_cover(wide: &Rule, narrow: &Rule) -> bool {
    if wide.peers.is_empty() {
        return true;
    }
    !narrow.peers.is_empty()
        && narrow
            .peers
            .iter()
            .all(|narrow| wide.peers.iter().any(|wide| peer_covers(&wide.peer, &narrow.peer)))
}

/// With the pods of today.
fn peers_cover_now(wide: &Entry<'_, '_>, narrow: &Entry<'_, '_>) -> bool {
    if wide.rule.peers.is_empty() {
        return true;
    }
    if narrow.rule.peers.is_empty() {
        return false;
    }
    let mut matched = wide.selected.clone();
    matched.add(&wide.in_blocks);
    let blocks = narrow.rule.peers.iter().filter(|p| matches!(p.peer, Peer::IpBlock { .. }));
    narrow.selected.is_subset(&matched)
        && blocks
            .into_iter()
            .all(|narrow| wide.rule.peers.iter().any(|wide| peer_covers(&wide.peer, &narrow.peer)))
}

/// Whether `wide` matches everything that `narrow` matches, whatever the cluster. Both belong to
/// policies of one namespace.
pub(super) fn peer_covers(wide: &Peer, narrow: &Peer) -> bool {
    let everything = LabelSelector::everything();
    match (wide, narrow) {
        (
            Peer::Pods { namespaces: wide_in, pods: wide_pods },
            Peer::Pods { namespaces: narrow_in, pods: narrow_pods },
        ) => {
            let inside = match (wide_in, narrow_in) {
                (None, None) => true,
                // The own namespace is one of all; of others its labels would decide.
                (Some(wide), None) => wide.is_empty(),
                (Some(wide), Some(narrow)) => implies(narrow, wide),
                (None, Some(_)) => false,
            };
            let or_all = |pods: &Option<LabelSelector>| pods.clone().unwrap_or(everything.clone());
            inside && implies(&or_all(narrow_pods), &or_all(wide_pods))
        }
        (
            Peer::IpBlock { cidr: wide, except: holes },
            Peer::IpBlock { cidr: narrow, except: own },
        ) => {
            let harmless = |hole: &IpNet| {
                let apart = !hole.contains(narrow) && !narrow.contains(hole);
                apart || own.iter().any(|own| own.contains(hole))
            };
            wide.contains(narrow) && holes.iter().all(harmless)
        }
        _ => false,
    }
}

/// Whether `wide` allows every port that `narrow` allows, whatever the cluster.
pub(super) fn port_covers(wide: &PortRule, narrow: &PortRule) -> bool {
    if wide.protocol != narrow.protocol {
        return false;
    }
    match (&wide.port, &narrow.port) {
        (PortMatch::All, _) => true,
        (PortMatch::Named(wide), PortMatch::Named(narrow)) => wide == narrow,
        (PortMatch::Range(first, last), PortMatch::Range(from, to)) => first <= from && to <= last,
        _ => false,
    }
}

/// Whether the ports of the wide rule hold those of the narrow one; `named` decides about a name
/// that the wide rule does not have.
fn ports_cover(
    wide: &[PortRule],
    narrow: &[PortRule],
    named: impl Fn(&PortRule, &[PortRule]) -> bool,
) -> bool {
    if wide.is_empty() {
        return true;
    }
    // No ports means protocols without ports too, which no list of ports allows.
    !narrow.is_empty()
        && narrow.iter().all(|port| match port.port {
            PortMatch::Range(first, last) => range_covered(wide, port.protocol, first, last),
            _ => wide.iter().any(|wide| port_covers(wide, port)) || named(port, wide),
        })
}

/// Whether numeric ports cover an interval together.
fn range_covered(
    wide: &[PortRule],
    protocol: crate::model::Protocol,
    first: u16,
    last: u16,
) -> bool {
    let mut ranges: Vec<(u16, u16)> = wide
        .iter()
        .filter(|port| port.protocol == protocol)
        .filter_map(|port| match port.port {
            PortMatch::All => Some((0, u16::MAX)),
            PortMatch::Range(first, last) => Some((first, last)),
            PortMatch::Named(_) => None,
        })
        .collect();
    ranges.sort_unstable();
    let mut next = first;
    for (from, to) in ranges {
        if from <= next && next <= to {
            match to.checked_add(1) {
                Some(after) if to < last => next = after,
                _ => return true,
            }
        }
    }
    false
}
