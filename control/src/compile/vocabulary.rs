//! What policies can tell apart, and the classes that follow.
//!
//! Policies see of a pod: its namespace, the labels that some selector mentions, the ports whose
//! names some rule mentions, and its address through ipBlocks. Pods that agree in all of this are
//! one *identity* with respect to policy; an identity is a class of the table. A label value that
//! no selector mentions only counts as "some other value", so that a hash or a revision in the
//! labels of a Deployment's pods does not make a class of its own.

use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::blocks::{Blocks, count};
use crate::index::{Index, NamespaceLabels, Owner};
use crate::model::{
    Direction, LabelSelector, Labels, NetworkPolicy, Operator, Peer, Pod, PortMatch, Protocol,
    namespace::NAME_LABEL,
};

/// The value number of an absent label.
pub(super) const ABSENT: u32 = 0;
/// The value number of a label whose value no selector mentions.
const OTHER: u32 = 1;
/// The value number of a label of which nobody knows whether it is there.
const UNKNOWN: u32 = 2;
/// The first number of a value that selectors mention.
const FIRST: usize = 3;

/// Label keys and values that selectors mention, numbered.
#[derive(Debug, Clone, Default)]
pub(super) struct Words {
    keys: FxHashMap<String, u32>,
    /// (key, value) → value number, from [`FIRST`].
    values: FxHashMap<(u32, String), u32>,
}

impl Words {
    fn add(&mut self, selector: &LabelSelector) {
        for requirement in &selector.requirements {
            let next = count(self.keys.len());
            let key = *self.keys.entry(requirement.key.clone()).or_insert(next);
            for value in &requirement.values {
                let next = count(self.values.len() + FIRST);
                self.values.entry((key, value.clone())).or_insert(next);
            }
        }
    }

    /// The labels' values, one a key.
    pub(super) fn encode(&self, labels: &Labels) -> Box<[u32]> {
        self.encode_over(ABSENT, labels)
    }

    /// The labels' values, and the same for every key that they lack.
    fn encode_over(&self, lacking: u32, labels: &Labels) -> Box<[u32]> {
        let mut values = vec![lacking; self.keys.len()].into_boxed_slice();
        for (key, value) in labels {
            if let Some(&key) = self.keys.get(key) {
                let number = self.values.get(&(key, value.clone())).copied().unwrap_or(OTHER);
                values[key as usize] = number;
            }
        }
        values
    }

    /// A selector over encoded labels.
    pub(super) fn matcher(&self, selector: &LabelSelector) -> Matcher {
        let requirements = selector.requirements.iter().map(|requirement| {
            // Every selector was added, so key and values are known; a value that were not would
            // match nothing, which is what `In` of an unknown value means.
            let key = self.keys.get(&requirement.key).copied().unwrap_or(u32::MAX);
            let values = requirement.values.iter();
            let values = values.filter_map(|value| self.values.get(&(key, value.clone())).copied());
            (key, requirement.operator, values.collect())
        });
        Matcher { requirements: requirements.collect() }
    }
}

/// A compiled label selector.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Matcher {
    requirements: Vec<(u32, Operator, Vec<u32>)>,
}

impl Matcher {
    /// Whether encoded labels satisfy every requirement.
    pub(super) fn matches(&self, labels: &[u32]) -> bool {
        self.requirements.iter().all(|(key, operator, values)| {
            let value = labels.get(*key as usize).copied().unwrap_or(ABSENT);
            match operator {
                _ if value == UNKNOWN => false,
                Operator::In => value != ABSENT && values.contains(&value),
                Operator::NotIn => value == ABSENT || !values.contains(&value),
                Operator::Exists => value != ABSENT,
                Operator::DoesNotExist => value == ABSENT,
            }
        })
    }
}

/// A named port of a pod, as far as rules mention the name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NamedPort {
    pub(super) name: u32,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
}

/// What policies can see of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PodIdentity {
    pub(super) namespace: u32,
    pub(super) labels: Box<[u32]>,
    pub(super) ports: Box<[NamedPort]>,
}

/// Where a pod's namespace, labels and ports are.
type Place = [*const (); 3];

fn place(pod: &Pod) -> Place {
    [
        Arc::as_ptr(&pod.key.namespace).cast(),
        Arc::as_ptr(&pod.labels).cast(),
        Arc::as_ptr(&pod.ports).cast(),
    ]
}

/// What a class stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Who {
    /// An address that no pod owns.
    Outside,
    /// A pod; by the number of its identity.
    Pod(u32),
    /// An address whose owner is not known for sure.
    Isolated,
}

/// A class: who, and which ipBlocks match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ClassKey {
    pub(super) who: Who,
    pub(super) cidr_class: u32,
}

/// Everything that policies mention, and the classes of one generation.
#[derive(Debug, Clone)]
pub(super) struct Vocabulary {
    pub(super) pod_words: Words,
    pub(super) namespace_words: Words,
    pub(super) port_names: FxHashMap<String, u32>,
    pub(super) blocks: Blocks,
    pub(super) namespaces: FxHashMap<String, u32>,
    /// Encoded labels of each namespace; `None`: no selector selects it.
    pub(super) namespace_labels: Vec<Option<Box<[u32]>>>,
    /// Identities of pods by their numbers.
    pub(super) identities: Vec<PodIdentity>,
    identity_numbers: FxHashMap<PodIdentity, u32>,
    classes: FxHashMap<ClassKey, u32>,
    /// The classes in their order: those of addresses outside first, one a CIDR class.
    pub(super) keys: Vec<ClassKey>,
}

impl Vocabulary {
    /// Collects what the index's policies mention and classifies every address.
    pub(super) fn of(index: &Index) -> (Self, Vec<(IpAddr, u32)>) {
        let mut words = Self {
            pod_words: Words::default(),
            namespace_words: Words::default(),
            port_names: FxHashMap::default(),
            blocks: Blocks::of(index.policies()),
            namespaces: FxHashMap::default(),
            namespace_labels: Vec::new(),
            identities: Vec::new(),
            identity_numbers: FxHashMap::default(),
            classes: FxHashMap::default(),
            keys: Vec::new(),
        };
        for policy in index.policies() {
            words.mention(policy);
        }
        for cidr_class in 0..count(words.blocks.len()) {
            words.number(ClassKey { who: Who::Outside, cidr_class });
        }
        let mut addresses = Vec::with_capacity(index.owned_at_most());
        // Pods of one owner share labels and ports (see `index`), so most are known by where these
        // are. The index is borrowed: nothing of it moves meanwhile.
        let mut known: FxHashMap<Place, u32> = FxHashMap::default();
        for (address, owner) in index.owned() {
            let who = match owner {
                Owner::Isolated(_) => Who::Isolated,
                Owner::Pod(pod) => {
                    let identity = known.entry(place(pod));
                    Who::Pod(*identity.or_insert_with(|| words.add_identity(index, pod)))
                }
            };
            let key = ClassKey { who, cidr_class: words.blocks.class_of(address) };
            addresses.push((address, words.number(key)));
        }
        (words, addresses)
    }

    fn add_identity(&mut self, index: &Index, pod: &Pod) -> u32 {
        let namespace = self.add_namespace(index, &pod.key.namespace);
        let identity = self.identity(namespace, pod);
        let identities = &mut self.identities;
        *self.identity_numbers.entry(identity).or_insert_with_key(|identity| {
            identities.push(identity.clone());
            count(identities.len() - 1)
        })
    }

    /// Classifies every address of an index whose policies and namespaces are those this
    /// vocabulary was made of. `None` if some pod needs a class that does not exist.
    pub(super) fn classify(&self, index: &Index) -> Option<Vec<(IpAddr, u32)>> {
        let classes = index.owned().map(|(address, owner)| {
            let class = self.classes.get(&self.key(address, owner)?)?;
            Some((address, *class))
        });
        classes.collect()
    }

    /// Classifies one address of such an index: `Some(None)` if no pod owns it, `None` if its pod
    /// needs a class that does not exist.
    pub(super) fn classify_one(&self, index: &Index, address: IpAddr) -> Option<Option<u32>> {
        let Some(owner) = index.owner(&address) else { return Some(None) };
        self.classes.get(&self.key(address, owner)?).map(|class| Some(*class))
    }

    /// Classifies any address of such an index, also one that no pod owns; `None` if its pod needs a
    /// class that does not exist. For many addresses: pods that are alike are looked at once.
    pub(super) fn class_of<'a>(
        &'a self,
        index: &'a Index,
    ) -> impl FnMut(IpAddr) -> Option<u32> + 'a {
        // As in `of`: the index is borrowed.
        let mut known: FxHashMap<Place, Option<u32>> = FxHashMap::default();
        move |address| {
            let who = match index.owner(&address) {
                None => Who::Outside,
                Some(Owner::Isolated(_)) => Who::Isolated,
                Some(Owner::Pod(pod)) => {
                    let number = known.entry(place(pod));
                    Who::Pod((*number.or_insert_with(|| self.identity_number(pod)))?)
                }
            };
            let key = ClassKey { who, cidr_class: self.blocks.class_of(address) };
            self.classes.get(&key).copied()
        }
    }

    fn mention(&mut self, policy: &NetworkPolicy) {
        self.pod_words.add(&policy.pod_selector);
        for direction in [Direction::Ingress, Direction::Egress] {
            for rule in policy.rules(direction) {
                for peer in &rule.peers {
                    if let Peer::Pods { namespaces, pods } = &peer.peer {
                        namespaces.iter().for_each(|s| self.namespace_words.add(s));
                        pods.iter().for_each(|s| self.pod_words.add(s));
                    }
                }
                for port in &rule.ports {
                    if let PortMatch::Named(name) = &port.port {
                        let next = count(self.port_names.len());
                        self.port_names.entry(name.clone()).or_insert(next);
                    }
                }
            }
        }
    }

    fn add_namespace(&mut self, index: &Index, name: &str) -> u32 {
        if let Some(number) = self.namespaces.get(name) {
            return *number;
        }
        let labels = match index.namespace_labels(name) {
            NamespaceLabels::Unknown => None,
            NamespaceLabels::Known(labels) => Some(self.namespace_words.encode(labels)),
            NamespaceLabels::NameOnly(name) => {
                let labels = Labels::from([(NAME_LABEL.to_owned(), name)]);
                Some(self.namespace_words.encode_over(UNKNOWN, &labels))
            }
        };
        let number = count(self.namespace_labels.len());
        self.namespaces.insert(name.to_owned(), number);
        self.namespace_labels.push(labels);
        number
    }

    fn number(&mut self, key: ClassKey) -> u32 {
        let next = count(self.keys.len());
        let keys = &mut self.keys;
        *self.classes.entry(key).or_insert_with_key(|key| {
            keys.push(*key);
            next
        })
    }

    /// The class key of an address; `None` if no pod of its kind was here before.
    fn key(&self, address: IpAddr, owner: Owner<'_>) -> Option<ClassKey> {
        let who = match owner {
            Owner::Isolated(_) => Who::Isolated,
            Owner::Pod(pod) => Who::Pod(self.identity_number(pod)?),
        };
        Some(ClassKey { who, cidr_class: self.blocks.class_of(address) })
    }

    fn identity_number(&self, pod: &Pod) -> Option<u32> {
        let namespace = *self.namespaces.get(&*pod.key.namespace)?;
        self.identity_numbers.get(&self.identity(namespace, pod)).copied()
    }

    fn identity(&self, namespace: u32, pod: &Pod) -> PodIdentity {
        let labels = self.pod_words.encode(&pod.labels);
        PodIdentity { namespace, labels, ports: self.ports(pod) }
    }

    fn ports(&self, pod: &Pod) -> Box<[NamedPort]> {
        let named = pod.ports.iter().filter_map(|port| {
            let name = *self.port_names.get(port.name.as_deref()?)?;
            Some(NamedPort { name, protocol: port.protocol, port: port.port })
        });
        let mut ports: Vec<NamedPort> =
            named.collect::<FxHashSet<NamedPort>>().into_iter().collect();
        ports.sort_unstable();
        ports.into_boxed_slice()
    }
}
