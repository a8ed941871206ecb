//! Rules that allow nothing beyond another rule: of the same policy, or of one that selects at
//! least the same pods.
//!
//! A rule is covered if another one has all of its pods, all of its peers and all of its ports.
//! Where the texts alone show it, it holds whatever the cluster; otherwise for the pods of today.
//! A covered rule can be removed without a change of any verdict; a property test holds this
//! against the compiled table.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use ipnet::IpNet;
use rustc_hash::FxHashMap;

use super::input::content;
use super::select::{implies, selector_words};
use super::world::{PodSet, PolicyView, World};
use super::{Finding, Notes, Severity};
use crate::model::{Direction, LabelSelector, Peer, PeerRule, PortMatch, PortRule, Protocol, Rule};

/// One rule in force, with all that pairs of rules are compared by; found out once for each rule,
/// as pairs are as many as the square of them.
struct Entry<'a, 'w> {
    view: &'a PolicyView<'w>,
    rule: &'a Rule,
    direction: Direction,
    /// The governed pods of its policy, by number in [`Sets`].
    governed: usize,
    /// Governed pods that the selectors of its peers match.
    selected: usize,
    /// Those, and governed pods of which every address is in one of its blocks.
    matched: usize,
    /// Selects no pod, or no peer: what allows nothing now is reported as that.
    idle: bool,
    ports: Ports<'a>,
    /// The numbers that its named ports stand for; found out when first asked for.
    named: OnceCell<Vec<Vec<u16>>>,
}

/// A rule's ports, ready to be asked.
struct Ports<'a> {
    /// No list: every port, and protocols without ports.
    any: bool,
    /// For each of [`Protocol::ALL`] the numeric ports, joined and in order.
    ranges: [Vec<(u16, u16)>; 3],
    names: Vec<(Protocol, &'a str)>,
}

/// Sets of pods, each content once: rules are many, sets of pods few.
#[derive(Default)]
struct Sets {
    numbers: FxHashMap<PodSet, usize>,
    list: Vec<PodSet>,
    /// What has been asked: (part, whole) → whether it is one.
    subsets: FxHashMap<(usize, usize), bool>,
}

impl Sets {
    fn number(&mut self, set: &PodSet) -> usize {
        if let Some(number) = self.numbers.get(set) {
            return *number;
        }
        let number = self.list.len();
        self.numbers.insert(set.clone(), number);
        self.list.push(set.clone());
        number
    }

    fn is_subset(&mut self, part: usize, whole: usize) -> bool {
        let list = &self.list;
        part == whole
            || *self
                .subsets
                .entry((part, whole))
                .or_insert_with(|| list[part].is_subset(&list[whole]))
    }
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
    let mut sets = Sets::default();
    for views in by_namespace.values() {
        for direction in [Direction::Ingress, Direction::Egress] {
            let mut entries: Vec<Entry<'_, '_>> = Vec::new();
            for view in views {
                for (rule, peers) in view.rules(direction) {
                    entries.push(Entry::new(world, view, (direction, rule, peers), &mut sets));
                }
            }
            for (i, entry) in entries.iter().enumerate() {
                let covering = (0..entries.len()).find_map(|j| {
                    let other = &entries[j];
                    let how = (j != i).then(|| covers(world, &mut sets, other, entry)).flatten()?;
                    // Of two that cover each other the first stays.
                    let mutual = j > i && covers(world, &mut sets, entry, other).is_some();
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
    fn new(
        world: &World<'w>,
        view: &'a PolicyView<'w>,
        (direction, rule, peers): (Direction, &'a Rule, &[PodSet]),
        sets: &mut Sets,
    ) -> Self {
        let (mut selected, mut in_blocks) = (PodSet::default(), PodSet::default());
        for (peer, set) in rule.peers.iter().zip(peers) {
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
        let mut matched: PodSet = in_blocks.iter().filter(whole).collect();
        matched.add(&selected);
        let selectors_only = rule.peers.iter().all(|p| matches!(p.peer, Peer::Pods { .. }));
        let idle = view.governed.is_empty()
            || (!rule.peers.is_empty() && selectors_only && selected.is_empty());
        Self {
            view,
            rule,
            direction,
            governed: sets.number(&view.governed),
            selected: sets.number(&selected),
            matched: sets.number(&matched),
            idle,
            ports: Ports::of(&rule.ports),
            named: OnceCell::new(),
        }
    }

    /// For each of the names of its ports the numbers at the pods that the rule lets connections
    /// go to.
    fn named(&self, world: &World<'_>) -> &[Vec<u16>] {
        self.named.get_or_init(|| {
            let mut destinations = PodSet::default();
            match self.direction {
                Direction::Ingress => destinations.add(&self.view.governed),
                Direction::Egress if self.rule.peers.is_empty() => {
                    destinations = world.governed(&(0..world.pods.len()).collect());
                }
                Direction::Egress => {
                    let mut rules = self.view.rules(self.direction);
                    let own = rules.find(|(rule, _)| std::ptr::eq(*rule, self.rule));
                    own.into_iter().flat_map(|(_, sets)| sets).for_each(|s| destinations.add(s));
                }
            }
            let mut numbers = vec![Vec::new(); self.ports.names.len()];
            for declared in destinations.iter().flat_map(|pod| world.pods[pod].ports.iter()) {
                for (i, (protocol, name)) in self.ports.names.iter().enumerate() {
                    if declared.protocol == *protocol && declared.name.as_deref() == Some(*name) {
                        numbers[i].push(declared.port);
                    }
                }
            }
            for list in &mut numbers {
                list.sort_unstable();
                list.dedup();
            }
            numbers
        })
    }
}

impl<'a> Ports<'a> {
    fn of(rules: &'a [PortRule]) -> Self {
        let mut ports =
            Self { any: rules.is_empty(), ranges: Default::default(), names: Vec::new() };
        for port in rules {
            let ranges = &mut ports.ranges[port.protocol as usize];
            match &port.port {
                PortMatch::All => ranges.push((0, u16::MAX)),
                PortMatch::Range(first, last) => ranges.push((*first, *last)),
                PortMatch::Named(name) => ports.names.push((port.protocol, name)),
            }
        }
        for ranges in &mut ports.ranges {
            ranges.sort_unstable();
            ranges.dedup_by(|next, before| {
                // Joined where one goes on where the other ends.
                let joined = next.0 <= before.1.saturating_add(1);
                if joined {
                    before.1 = before.1.max(next.1);
                }
                joined
            });
        }
        ports
    }

    fn holds(&self, protocol: Protocol, first: u16, last: u16) -> bool {
        let mut ranges = self.ranges[protocol as usize].iter();
        ranges.any(|(from, to)| *from <= first && last <= *to)
    }

    /// Whether the ports of the narrow rule are among these. `resolved` gives the numbers of a
    /// name that is not; where it gives none, the name may be any.
    fn cover(&self, narrow: &Ports<'_>, resolved: impl Fn(usize) -> Vec<u16>) -> bool {
        if self.any {
            return true;
        }
        // No ports means protocols without ports too, which no list of ports allows.
        let numeric = |protocol: Protocol| {
            let mut ranges = narrow.ranges[protocol as usize].iter();
            ranges.all(|(first, last)| self.holds(protocol, *first, *last))
        };
        !narrow.any
            && Protocol::ALL.into_iter().all(numeric)
            && narrow.names.iter().enumerate().all(|(i, (protocol, name))| {
                if self.holds(*protocol, 0, u16::MAX) || self.names.contains(&(*protocol, *name)) {
                    return true;
                }
                let numbers = resolved(i);
                !numbers.is_empty() && numbers.iter().all(|n| self.holds(*protocol, *n, *n))
            })
    }
}

/// Whether everything that `narrow` allows is allowed by `wide`, and on what ground. What is cheap
/// and mostly says no is asked first.
fn covers(
    world: &World<'_>,
    sets: &mut Sets,
    wide: &Entry<'_, '_>,
    narrow: &Entry<'_, '_>,
) -> Option<Ground> {
    let (a, b) = (narrow, wide);
    let by_text = b.ports.cover(&a.ports, |_| Vec::new());
    if !by_text && (a.idle || a.ports.names.is_empty()) {
        return None;
    }
    let own_known = world.is_selectable(&a.view.policy.key.namespace);
    if by_text
        && implies(&a.view.policy.pod_selector, &b.view.policy.pod_selector)
        && peers_cover(b.rule, a.rule, own_known)
    {
        return Some(Ground::Always);
    }
    let now = !a.idle
        && sets.is_subset(a.governed, b.governed)
        && peers_cover_now(sets, b, a)
        // A name is covered if every number that it stands for is.
        && (by_text || b.ports.cover(&a.ports, |i| a.named(world)[i].clone()));
    now.then_some(Ground::Present)
}

/// By text: each peer of the narrow rule is covered by one of the wide rule.
fn peers_cover(wide: &Rule, narrow: &Rule, own_known: bool) -> bool {
    let covered = |narrow: &PeerRule| {
        wide.peers.iter().any(|wide| peer_covers(&wide.peer, &narrow.peer, own_known))
    };
    wide.peers.is_empty() || (!narrow.peers.is_empty() && narrow.peers.iter().all(covered))
}

/// With the pods of today.
fn peers_cover_now(sets: &mut Sets, wide: &Entry<'_, '_>, narrow: &Entry<'_, '_>) -> bool {
    if wide.rule.peers.is_empty() {
        return true;
    }
    let covered = |narrow: &PeerRule| match &narrow.peer {
        Peer::Pods { .. } => true,
        // A block holds more than pods; for one block no namespace matters.
        Peer::IpBlock { .. } => {
            wide.rule.peers.iter().any(|wide| peer_covers(&wide.peer, &narrow.peer, false))
        }
    };
    !narrow.rule.peers.is_empty()
        && sets.is_subset(narrow.selected, wide.matched)
        && narrow.rule.peers.iter().all(covered)
}

/// Whether `wide` matches everything that `narrow` matches, whatever the cluster. Both belong to
/// policies of one namespace; `own_known` says whether selectors can find it: if its object was
/// refused, not even the empty namespaceSelector does, and a podSelector alone does.
pub(super) fn peer_covers(wide: &Peer, narrow: &Peer, own_known: bool) -> bool {
    let everything = LabelSelector::everything();
    match (wide, narrow) {
        (
            Peer::Pods { namespaces: wide_in, pods: wide_pods },
            Peer::Pods { namespaces: narrow_in, pods: narrow_pods },
        ) => {
            let inside = match (wide_in, narrow_in) {
                (None, None) => true,
                // The own namespace is one of all; of others its labels would decide.
                (Some(wide), None) => wide.is_empty() && own_known,
                (Some(wide), Some(narrow)) => implies(narrow, wide),
                (None, Some(_)) => false,
            };
            let narrow_pods = narrow_pods.as_ref().unwrap_or(&everything);
            inside && implies(narrow_pods, wide_pods.as_ref().unwrap_or(&everything))
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
