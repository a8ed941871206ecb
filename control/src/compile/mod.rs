//! From the index to the table's image and the address list.
//!
//! ```text
//!   policies ──► Vocabulary (what can be told apart) ──► classes
//!   selectors × classes ──► sets of classes            (peers; bits)
//!   policies that select a class ──► terms ──► Program (spans → rows)
//!   endpoints ──► address → class
//!   Services, EndpointSlices ──► classes of their backends
//! ```
//!
//! The result depends on the index and on which node it is for alone; equal indexes give equal images. The meaning of every
//! field is the API reference's; `oracle` says it again, naively, and the tests hold the two
//! against each other.

mod blocks;
mod program;
mod services;
mod set;
mod vocabulary;

use std::net::IpAddr;
use std::rc::Rc;

use rustc_hash::FxHashMap;
use weir_table::Address;
use weir_table::policy::{
    ClassInfo, PolicyImage, PolicyInfo, PolicyKind, Program, ProgramId, RuleId, RuleInfo, Span,
    Verdict,
};

use crate::index::Index;
use crate::model::{Direction, LabelSelector, NetworkPolicy, Peer, PortMatch, Protocol, Rule};
use blocks::count;
use program::{Names, Rows, Sets, Term, TermPort};
use services::Services;
use set::ClassSet;
use vocabulary::{ClassKey, Matcher, NamedPort, Vocabulary, Who};

/// A compiled index.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The table before encoding; generation 0 until the publisher numbers it.
    pub image: PolicyImage,
    /// Every pod address and its class, in the order of the addresses.
    pub addresses: Vec<(Address, u32)>,
    /// What classifies addresses of pods that change later.
    pub classes: Classes,
}

/// The classes of an image, to classify addresses while policies and namespaces stay as they are.
#[derive(Debug, Clone)]
pub struct Classes {
    vocabulary: Vocabulary,
    services: Services,
}

impl Classes {
    /// The address list of an index whose policies and namespaces have not changed since; `None`
    /// if a new image is needed: a pod needs a class that this one lacks, or a Service has other
    /// kinds of backends.
    pub fn reclassify(&mut self, index: &Index) -> Option<Vec<(Address, u32)>> {
        let addresses = to_addresses(self.vocabulary.classify(index)?);
        self.follow_services(index).then_some(addresses)
    }

    /// The same for some addresses alone: the class of each, `None` where no pod owns it. What
    /// Services and slices changed is not looked at, see [`Classes::follow_services`].
    pub fn reclassify_these(
        &mut self,
        index: &Index,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Option<Vec<(Address, Option<u32>)>> {
        let mut concerns_services = false;
        let classify = |address| {
            concerns_services |= self.services.depend_on(&address);
            Some((Address::from(address), self.vocabulary.classify_one(index, address)?))
        };
        let classes = addresses.into_iter().map(classify).collect::<Option<Vec<_>>>()?;
        (!concerns_services || self.follow_services(index)).then_some(classes)
    }

    /// Whether a verdict can depend on Services and EndpointSlices. If not, what becomes of them
    /// changes nothing until a policy does.
    pub fn heed_services(&self) -> bool {
        self.services.are_heeded()
    }

    /// Whether the image says of Services what an index does whose policies and namespaces have
    /// not changed since.
    pub fn follow_services(&mut self, index: &Index) -> bool {
        self.services.follow(index, self.vocabulary.class_of(index))
    }
}

fn to_addresses(addresses: Vec<(IpAddr, u32)>) -> Vec<(Address, u32)> {
    addresses.into_iter().map(|(address, class)| (Address::from(address), class)).collect()
}

/// Compiles an index for whatever node: every backend of a Service may be on another.
pub fn compile(index: &Index) -> Compiled {
    compile_for(index, None)
}

/// Compiles an index for the node of this name.
pub fn compile_for(index: &Index, node: Option<&str>) -> Compiled {
    let (vocabulary, addresses) = Vocabulary::of(index);
    let mut compiler = Compiler::new(&vocabulary);
    for policy in index.policies() {
        compiler.add_policy(policy);
    }
    let mut image = compiler.finish();
    let services = Services::of(index, node, vocabulary.class_of(index));
    image.services = services.offers().to_vec();
    let classes = Classes { vocabulary, services };
    Compiled { image, addresses: to_addresses(addresses), classes }
}

/// One policy, ready to be joined with others.
struct Prepared {
    namespace: Option<u32>,
    selector: Matcher,
    /// Ingress, egress; `None` where it does not isolate.
    terms: [Option<Vec<Term>>; 2],
}

/// What makes two endpoints share a program.
#[derive(PartialEq, Eq, Hash)]
struct ProgramKey {
    direction: Direction,
    isolating: Vec<u32>,
    /// The endpoint's named ports, as far as an ingress rule mentions one.
    own: Vec<NamedPort>,
}

struct Compiler<'a> {
    vocabulary: &'a Vocabulary,
    bound: usize,
    sets: Sets,
    /// Sets of peers already resolved: (namespace or selector over namespaces, pod selector).
    pods: FxHashMap<(Scope, Matcher), u32>,
    blocks: FxHashMap<u32, u32>,
    /// The classes of each CIDR class.
    by_cidr_class: Vec<Vec<usize>>,
    everyone: u32,
    named: FxHashMap<(u32, Protocol), Vec<(u16, u32)>>,
    policies: Vec<PolicyInfo>,
    rules: Vec<RuleInfo>,
    prepared: Vec<Prepared>,
}

/// Where a peer's pods live.
#[derive(PartialEq, Eq, Hash, Clone)]
enum Scope {
    /// In one namespace; `None` if no pod lives there.
    Own(Option<u32>),
    /// Where the selector holds.
    Selected(Matcher),
}

impl<'a> Compiler<'a> {
    fn new(vocabulary: &'a Vocabulary) -> Self {
        let bound = vocabulary.keys.len();
        let mut sets = Sets::new(bound);
        let everyone = sets.add(sets.everyone().clone());
        let mut named: FxHashMap<(u32, Protocol), FxHashMap<u16, ClassSet>> = FxHashMap::default();
        let mut by_cidr_class = vec![Vec::new(); vocabulary.blocks.len()];
        for (class, key) in vocabulary.keys.iter().enumerate() {
            by_cidr_class[key.cidr_class as usize].push(class);
            let Who::Pod(pod) = key.who else { continue };
            for port in &vocabulary.identities[pod as usize].ports {
                named
                    .entry((port.name, port.protocol))
                    .or_default()
                    .entry(port.port)
                    .or_insert_with(|| ClassSet::empty(bound))
                    .insert(class);
            }
        }
        let number = |(name, ports): (_, FxHashMap<u16, ClassSet>)| {
            let mut ports: Vec<(u16, u32)> =
                ports.into_iter().map(|(port, set)| (port, sets.add(set))).collect();
            ports.sort_unstable();
            (name, ports)
        };
        let named = named.into_iter().map(number).collect();
        Self {
            vocabulary,
            bound,
            sets,
            pods: FxHashMap::default(),
            blocks: FxHashMap::default(),
            by_cidr_class,
            everyone,
            named,
            policies: Vec::new(),
            rules: Vec::new(),
            prepared: Vec::new(),
        }
    }

    fn add_policy(&mut self, policy: &NetworkPolicy) {
        let number = count(self.policies.len());
        self.policies
            .push(PolicyInfo { kind: PolicyKind::NetworkPolicy, name: policy.key.to_string() });
        let namespace = self.vocabulary.namespaces.get(&*policy.key.namespace).copied();
        let terms = [Direction::Ingress, Direction::Egress].map(|direction| {
            policy.isolates(direction).then(|| {
                let rules = policy.rules(direction).iter();
                rules.flat_map(|rule| self.add_rule(number, namespace, direction, rule)).collect()
            })
        });
        let selector = self.vocabulary.pod_words.matcher(&policy.pod_selector);
        self.prepared.push(Prepared { namespace, selector, terms });
    }

    fn add_rule(
        &mut self,
        policy: u32,
        namespace: Option<u32>,
        direction: Direction,
        rule: &Rule,
    ) -> Vec<Term> {
        let ports: Rc<[TermPort]> = rule.ports.iter().map(|port| self.port(port)).collect();
        let sets: Vec<(Option<usize>, u32)> = if rule.peers.is_empty() {
            vec![(None, self.everyone)]
        } else {
            let peers = rule.peers.iter().enumerate();
            peers.map(|(i, peer)| (Some(i), self.peers(namespace, &peer.peer))).collect()
        };
        let mut term = |peer: Option<usize>, peers: u32| {
            self.rules.push(RuleInfo { policy, path: rule.path(direction, peer) });
            Term { rule: RuleId(count(self.rules.len() - 1)), peers, ports: Rc::clone(&ports) }
        };
        sets.into_iter().map(|(peer, set)| term(peer, set)).collect()
    }

    fn port(&self, port: &crate::model::PortRule) -> TermPort {
        match &port.port {
            PortMatch::All => TermPort::Range(port.protocol, 0, u16::MAX),
            PortMatch::Range(first, last) => TermPort::Range(port.protocol, *first, *last),
            PortMatch::Named(name) => {
                let name = self.vocabulary.port_names.get(name).copied().unwrap_or(u32::MAX);
                TermPort::Named(port.protocol, name)
            }
        }
    }

    /// The classes that a peer matches.
    fn peers(&mut self, namespace: Option<u32>, peer: &Peer) -> u32 {
        let words = self.vocabulary;
        match peer {
            Peer::IpBlock { cidr, except } => {
                let Some(block) = words.blocks.number(&(*cidr, except.clone())) else {
                    return self.sets.add(ClassSet::empty(self.bound));
                };
                if let Some(&set) = self.blocks.get(&block) {
                    return set;
                }
                let mut matched = ClassSet::empty(self.bound);
                for cidr_class in words.blocks.matched_by(block) {
                    for class in &self.by_cidr_class[*cidr_class as usize] {
                        matched.insert(*class);
                    }
                }
                let set = self.sets.add(matched);
                self.blocks.insert(block, set);
                set
            }
            Peer::Pods { namespaces, pods } => {
                let scope = match namespaces {
                    None => Scope::Own(namespace),
                    Some(selector) => Scope::Selected(words.namespace_words.matcher(selector)),
                };
                let everything = LabelSelector::everything();
                let pods = words.pod_words.matcher(pods.as_ref().unwrap_or(&everything));
                let key = (scope, pods);
                if let Some(&set) = self.pods.get(&key) {
                    return set;
                }
                let (scope, pods) = &key;
                let set = self.collect(|class| match class.who {
                    Who::Pod(pod) => {
                        let pod = &words.identities[pod as usize];
                        let inside = match scope {
                            Scope::Own(namespace) => *namespace == Some(pod.namespace),
                            Scope::Selected(selector) => words.namespace_labels
                                [pod.namespace as usize]
                                .as_deref()
                                .is_some_and(|labels| selector.matches(labels)),
                        };
                        inside && pods.matches(&pod.labels)
                    }
                    _ => false,
                });
                self.pods.insert(key, set);
                set
            }
        }
    }

    fn collect(&mut self, holds: impl Fn(&ClassKey) -> bool) -> u32 {
        let mut set = ClassSet::empty(self.bound);
        for (class, key) in self.vocabulary.keys.iter().enumerate() {
            if holds(key) {
                set.insert(class);
            }
        }
        self.sets.add(set)
    }

    fn finish(self) -> PolicyImage {
        let mut rows = Rows::new();
        let mut programs = vec![uniform(&mut rows, Verdict::ALLOW_UNRESTRICTED, self.bound)];
        let mut known: FxHashMap<ProgramKey, ProgramId> = FxHashMap::default();
        let mut by_namespace: FxHashMap<u32, Vec<u32>> = FxHashMap::default();
        for (number, policy) in self.prepared.iter().enumerate() {
            if let Some(namespace) = policy.namespace {
                by_namespace.entry(namespace).or_default().push(count(number));
            }
        }
        let mut deny_all = None;
        let mut classes = Vec::with_capacity(self.bound);
        for key in &self.vocabulary.keys {
            let pod = match key.who {
                Who::Outside => {
                    classes.push(ClassInfo::UNRESTRICTED);
                    continue;
                }
                Who::Isolated => {
                    let program = *deny_all.get_or_insert_with(|| {
                        programs.push(uniform(&mut rows, Verdict::DENY_ISOLATED, self.bound));
                        ProgramId(count(programs.len() - 1))
                    });
                    classes.push(ClassInfo { ingress: program, egress: program });
                    continue;
                }
                Who::Pod(pod) => &self.vocabulary.identities[pod as usize],
            };
            let selecting: Vec<u32> = by_namespace
                .get(&pod.namespace)
                .into_iter()
                .flatten()
                .copied()
                .filter(|policy| self.prepared[*policy as usize].selector.matches(&pod.labels))
                .collect();
            let [ingress, egress] = [Direction::Ingress, Direction::Egress].map(|direction| {
                let isolating: Vec<u32> = selecting
                    .iter()
                    .copied()
                    .filter(|policy| self.terms(*policy, direction).is_some())
                    .collect();
                if isolating.is_empty() {
                    return ProgramId::UNRESTRICTED;
                }
                let own = self.own_ports(direction, &isolating, &pod.ports);
                let key = ProgramKey { direction, isolating, own };
                if let Some(&program) = known.get(&key) {
                    return program;
                }
                let terms: Vec<Term> = key
                    .isolating
                    .iter()
                    .flat_map(|policy| self.terms(*policy, direction).into_iter().flatten())
                    .cloned()
                    .collect();
                let names = Names { direction, own: &key.own, peers: &self.named };
                programs.push(program::build(
                    key.isolating.clone(),
                    &terms,
                    &names,
                    &self.sets,
                    &mut rows,
                ));
                let program = ProgramId(count(programs.len() - 1));
                known.insert(key, program);
                program
            });
            classes.push(ClassInfo { ingress, egress });
        }
        PolicyImage {
            generation: 0,
            policies: self.policies,
            rules: self.rules,
            classes,
            // The classes of addresses outside come first, one a CIDR class.
            prefixes: self.vocabulary.blocks.prefixes(),
            programs,
            rows: rows.rows,
            services: Vec::new(),
        }
    }

    fn terms(&self, policy: u32, direction: Direction) -> Option<&Vec<Term>> {
        self.prepared[policy as usize].terms[direction as usize].as_ref()
    }

    /// The endpoint's named ports that the ingress rules of these policies mention.
    fn own_ports(
        &self,
        direction: Direction,
        isolating: &[u32],
        ports: &[NamedPort],
    ) -> Vec<NamedPort> {
        if direction == Direction::Egress || ports.is_empty() {
            return Vec::new();
        }
        let mentioned = |port: &NamedPort| {
            let terms = isolating.iter().filter_map(|policy| self.terms(*policy, direction));
            terms
                .flatten()
                .any(|term| term.ports.contains(&TermPort::Named(port.protocol, port.name)))
        };
        ports.iter().filter(|port| mentioned(port)).cloned().collect()
    }
}

/// The program that gives one verdict to everything.
fn uniform(rows: &mut Rows, verdict: Verdict, bound: usize) -> Program {
    let row = rows.uniform(verdict, bound);
    let spans = vec![Span { first: 0, row }];
    Program {
        isolating: Vec::new(),
        tcp: spans.clone(),
        udp: spans.clone(),
        sctp: spans,
        icmp: row,
        other: row,
    }
}
