//! What the checks look at: the objects, the compiled table, and who is selected by what.
//!
//! Selectors are resolved once, to sets of pods; verdicts come from the compiled table alone.

use std::collections::BTreeMap;
use std::ops::Range;

use rustc_hash::FxHashMap;
use weir_table::Address;
use weir_table::classify::Judgement;
use weir_table::policy::{ClassId, PolicyTable, ProgramId};

use super::select::selects;
use crate::eval::Offline;
use crate::index::{Index, Owner};
use crate::model::{
    Direction, LabelSelector, Loaded, NetworkPolicy, ObjectKey, Origin, Peer, Pod, Rule,
};

/// A set of pods, by their number in [`World::pods`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct PodSet {
    words: Vec<u64>,
}

impl PodSet {
    pub(super) fn insert(&mut self, pod: usize) {
        if self.words.len() <= pod / 64 {
            self.words.resize(pod / 64 + 1, 0);
        }
        self.words[pod / 64] |= 1 << (pod % 64);
    }

    pub(super) fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    pub(super) fn is_subset(&self, of: &Self) -> bool {
        let other = |i: usize| of.words.get(i).copied().unwrap_or(0);
        self.words.iter().enumerate().all(|(i, word)| word & !other(i) == 0)
    }

    pub(super) fn add(&mut self, other: &Self) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// What is in both.
    pub(super) fn and(&self, other: &Self) -> Self {
        let both = self.words.iter().zip(&other.words);
        let mut words: Vec<u64> = both.map(|(word, other)| word & other).collect();
        // One content, one form: equal sets compare equal.
        while words.last() == Some(&0) {
            words.pop();
        }
        Self { words }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(i, word)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| i * 64 + bit)
        })
    }
}

impl FromIterator<usize> for PodSet {
    fn from_iter<T: IntoIterator<Item = usize>>(pods: T) -> Self {
        let mut set = Self::default();
        pods.into_iter().for_each(|pod| set.insert(pod));
        set
    }
}

/// A policy and the pods that it selects.
#[derive(Debug)]
pub(super) struct PolicyView<'a> {
    pub(super) policy: &'a NetworkPolicy,
    /// Every pod that the selector selects.
    pub(super) selected: PodSet,
    /// Those of them on which it acts: see [`World::governed`].
    pub(super) governed: PodSet,
    /// Ingress, egress: for each rule in force and each of its peers the governed pods it matches.
    pub(super) peers: [Vec<Vec<PodSet>>; 2],
}

impl<'a> PolicyView<'a> {
    /// The rules in force of a direction with the pods that each of their peers matches.
    pub(super) fn rules(
        &self,
        direction: Direction,
    ) -> impl Iterator<Item = (&'a Rule, &Vec<PodSet>)> {
        self.policy.rules(direction).iter().zip(&self.peers[direction as usize])
    }

    /// A place in the policy's file.
    pub(super) fn at(&self, line: u32) -> Origin {
        at(self.policy, line)
    }
}

/// A line of a policy's file; the policy's first one where the line is not known.
pub(super) fn at(policy: &NetworkPolicy, line: u32) -> Origin {
    let line = if line == 0 { policy.origin.line } else { line };
    Origin { line, ..policy.origin.clone() }
}

/// The state of a cluster, ready to be checked.
#[derive(Debug)]
pub(super) struct World<'a> {
    pub(super) index: &'a Index,
    pub(super) offline: &'a Offline,
    pub(super) loaded: &'a Loaded,
    /// By namespace and name.
    pub(super) pods: Vec<&'a Pod>,
    namespaces: BTreeMap<&'a str, Range<usize>>,
    /// In the order of their names; refused ones are not among them.
    pub(super) policies: Vec<PolicyView<'a>>,
    /// Those that were refused as a whole: they isolate, and allow nothing.
    pub(super) refused: Vec<PolicyView<'a>>,
    /// Pods on which policies act.
    acted_on: PodSet,
    /// For IPv4 and IPv6: the pods whose address of that family is in each class of the table.
    pub(super) members: [Vec<Vec<usize>>; 2],
}

impl<'a> World<'a> {
    pub(super) fn new(loaded: &'a Loaded, offline: &'a Offline) -> Self {
        let index = &offline.index;
        let pods: Vec<&Pod> = index.pods().collect();
        let mut namespaces: BTreeMap<&str, Range<usize>> = BTreeMap::new();
        for (i, pod) in pods.iter().enumerate() {
            namespaces.entry(&pod.key.namespace).or_insert(i..i).end = i + 1;
        }
        let mut world = Self {
            index,
            offline,
            loaded,
            pods,
            namespaces,
            policies: Vec::new(),
            refused: Vec::new(),
            acted_on: PodSet::default(),
            members: [(); 2].map(|()| vec![Vec::new(); offline.compiled.image.classes.len()]),
        };
        world.sort_endpoints();
        (world.refused, world.policies) =
            world.views().into_iter().partition(|view| view.policy.refused);
        world
    }

    fn views(&self) -> Vec<PolicyView<'a>> {
        let mut known: FxHashMap<(Option<&str>, &Peer), PodSet> = FxHashMap::default();
        let mut views = Vec::new();
        for policy in self.index.policies() {
            let own = self.in_namespace(&policy.key.namespace);
            let selected = self.matching(own.clone(), &policy.pod_selector);
            let governed = self.governed(&selected);
            let peers = [Direction::Ingress, Direction::Egress].map(|direction| {
                let rules = policy.rules(direction).iter().map(|rule| {
                    let peers = rule.peers.iter().map(|peer| {
                        let own = matches!(&peer.peer, Peer::Pods { namespaces: None, .. });
                        let scope = own.then_some(&*policy.key.namespace);
                        let set = known
                            .entry((scope, &peer.peer))
                            .or_insert_with(|| self.peers(policy, &peer.peer));
                        set.clone()
                    });
                    peers.collect()
                });
                rules.collect()
            });
            views.push(PolicyView { policy, selected, governed, peers });
        }
        views
    }

    /// Who is in which class, and on whom policies act.
    fn sort_endpoints(&mut self) {
        for (address, owner) in self.index.owned() {
            let Owner::Pod(pod) = owner else { continue };
            let class = self.class_of(address.into()).0 as usize;
            let Some(number) = self.number(&pod.key) else { continue };
            self.acted_on.insert(number);
            if let Some(members) = self.members[usize::from(address.is_ipv6())].get_mut(class) {
                members.push(number);
            }
        }
        for members in self.members.iter_mut().flatten() {
            members.sort_unstable();
            members.dedup();
        }
        // Those that are still to get an address.
        for (number, pod) in self.pods.iter().enumerate() {
            if pod.is_policed() && !pod.refused && pod.addresses.is_empty() {
                self.acted_on.insert(number);
            }
        }
    }

    /// The number of a pod.
    pub(super) fn number(&self, key: &ObjectKey) -> Option<usize> {
        self.pods.binary_search_by(|pod| pod.key.cmp(key)).ok()
    }

    /// Both ends' verdicts for a connection between two classes.
    pub(super) fn judge(&self, from: ClassId, to: ClassId, protocol: u8, port: u16) -> Judgement {
        let table = self.table();
        match (table.programs(from), table.programs(to)) {
            (Some((_, egress)), Some((ingress, _))) => Judgement {
                egress: table.judge(egress, to, protocol, port),
                ingress: table.judge(ingress, from, protocol, port),
            },
            _ => Judgement::BAD_CLASS,
        }
    }

    /// Whether the empty namespaceSelector selects a namespace; it does not if its object was refused.
    pub(super) fn is_selectable(&self, namespace: &str) -> bool {
        self.index.selects_namespace(&LabelSelector::everything(), namespace)
    }

    /// The numbers of a namespace's pods.
    pub(super) fn in_namespace(&self, namespace: &str) -> Range<usize> {
        self.namespaces.get(namespace).cloned().unwrap_or(0..0)
    }

    /// Namespaces that have pods.
    pub(super) fn inhabited(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.namespaces.keys().copied()
    }

    /// Those of some pods that a selector selects.
    pub(super) fn matching(&self, pods: Range<usize>, selector: &LabelSelector) -> PodSet {
        pods.filter(|pod| selects(selector, &self.pods[*pod].labels)).collect()
    }

    /// Those on which policies act: on the pod network, not finished, and with an address of their
    /// own if they have one. A refused pod, and one whose addresses others claim too, is isolated
    /// whatever policies say.
    pub(super) fn governed(&self, pods: &PodSet) -> PodSet {
        pods.and(&self.acted_on)
    }

    /// Every pod that a peer's selectors select, those without a part in policy too; of an ipBlock
    /// the governed pods that have an address in it.
    pub(super) fn peers_all(&self, policy: &NetworkPolicy, peer: &Peer) -> PodSet {
        match peer {
            Peer::IpBlock { .. } => self.peers(policy, peer),
            Peer::Pods { namespaces, pods } => {
                let everything = LabelSelector::everything();
                let pods = pods.as_ref().unwrap_or(&everything);
                match namespaces {
                    None => self.matching(self.in_namespace(&policy.key.namespace), pods),
                    Some(selector) => {
                        let mut all = PodSet::default();
                        for (namespace, range) in &self.namespaces {
                            if self.index.selects_namespace(selector, namespace) {
                                all.add(&self.matching(range.clone(), pods));
                            }
                        }
                        all
                    }
                }
            }
        }
    }

    fn peers(&self, policy: &NetworkPolicy, peer: &Peer) -> PodSet {
        match peer {
            Peer::Pods { .. } => self.governed(&self.peers_all(policy, peer)),
            Peer::IpBlock { cidr, except } => {
                let within = |pod: &&Pod| {
                    pod.addresses.iter().any(|address| {
                        cidr.contains(address) && !except.iter().any(|hole| hole.contains(address))
                    })
                };
                let pods = self.pods.iter().enumerate();
                let within = pods.filter(|(_, pod)| pod.is_policed() && within(pod));
                self.governed(&within.map(|(i, _)| i).collect())
            }
        }
    }

    /// The table that workers would have.
    pub(super) fn table(&self) -> &'a PolicyTable<Vec<u8>> {
        self.offline.classifier.table()
    }

    /// The class of an address.
    pub(super) fn class_of(&self, address: Address) -> ClassId {
        self.offline.classifier.class_of(address)
    }

    /// The policies that isolate the members of a program.
    pub(super) fn isolating(&self, program: ProgramId) -> Vec<&'a str> {
        self.table().isolating(program).collect()
    }

    /// Names of some pods, see [`some_of`].
    pub(super) fn names(&self, pods: impl IntoIterator<Item = usize>) -> String {
        some_of(pods.into_iter().map(|pod| self.pods[pod].key.to_string()))
    }
}

/// `a, b, c and 12 more`.
pub(super) fn some_of<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    const SHOWN: usize = 3;
    let mut items = items.into_iter();
    let shown: Vec<String> = items.by_ref().take(SHOWN).map(|item| item.to_string()).collect();
    match items.count() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// `1 pod`, `3 pods`.
pub(super) fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
