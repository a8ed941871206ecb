//! Test support: small clusters, compiled in the way that control does it.
//!
//! Pods with labels, policies that select by them, classes numbered in whatever
//! order `World::order` says. So a test states what changed in the cluster, and
//! classes, rows and programs are renumbered as they are in a real generation.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{Changes, changes};
use crate::{
    addr::Address,
    addrmap::AddressMapWriter,
    classify::{Classifier, Connection},
    mem::{SharedWords, Words},
    policy::{
        Backend, ClassId, ClassInfo, PolicyImage, PolicyInfo, PolicyKind, PolicyTable, Program,
        ProgramId, RuleId, RuleInfo, ServiceInfo, Span, Verdict, encode,
    },
};

/// A set of labels, one a bit.
pub(super) type Labels = u32;
pub(super) type Heap = Classifier<Vec<u8>, SharedWords>;

#[derive(Clone, Debug)]
pub(super) enum Peer {
    /// Pods that carry all of these labels.
    Pods(Labels),
    Block(IpNet),
}

/// Isolates the pods that carry `selects` and admits `peers`.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) egress: bool,
    pub(super) selects: Labels,
    pub(super) peers: Vec<Peer>,
    /// TCP ports, inclusive; `None` is all traffic.
    pub(super) ports: Option<(u16, u16)>,
}

/// Address and TCP port of a Service, and its backends: address, port, and whether it is on
/// another node.
pub(super) type Services = BTreeMap<(Address, u16), Vec<(Address, u16, bool)>>;

#[derive(Clone, Debug, Default)]
pub(super) struct World {
    pub(super) pods: BTreeMap<Address, Labels>,
    pub(super) policies: Vec<Policy>,
    pub(super) services: Services,
    /// Decides how classes and policies are numbered.
    pub(super) order: u64,
}

/// What a class stands for: a pod's labels (none: no pod) and the blocks.
type Key = (Option<Labels>, Vec<IpNet>);

pub(super) fn ip(text: &str) -> Address {
    text.parse().unwrap()
}

impl World {
    pub(super) fn classifier(&self, generation: u64) -> Heap {
        let (image, addresses) = self.compile(generation);
        build(&image, &addresses)
    }

    fn compile(&self, generation: u64) -> (PolicyImage, Vec<(Address, u32)>) {
        let mut policies: Vec<(usize, &Policy)> = self.policies.iter().enumerate().collect();
        policies.sort_by_key(|(i, _)| scramble(self.order, *i as u64));
        let mut nets: Vec<IpNet> = policies.iter().flat_map(|(_, p)| blocks(p)).collect();
        nets.extend(["0.0.0.0/0", "::/0"].map(|net| net.parse::<IpNet>().unwrap()));
        nets.sort_unstable();
        nets.dedup();
        let around = |inner: IpNet| -> Vec<IpNet> {
            nets.iter()
                .copied()
                .filter(|net| net.prefix_len() > 0 && net.contains(&inner))
                .collect()
        };
        let key = |(address, labels): (&Address, &Labels)| -> Key {
            (Some(*labels), around(IpNet::from(address.to_ip())))
        };
        let mut keys: Vec<Key> = nets.iter().map(|net| (None, around(*net))).collect();
        keys.extend(self.pods.iter().map(key));
        keys.sort_unstable();
        keys.dedup();
        keys.sort_by_cached_key(|key| {
            let text = format!("{key:?}");
            text.bytes().fold(self.order, |hash, byte| scramble(hash, u64::from(byte)))
        });
        let class = |key: &Key| keys.iter().position(|k| k == key).unwrap() as u32;

        let mut rows = vec![vec![Verdict::ALLOW_UNRESTRICTED; keys.len()]];
        let mut programs = vec![spread(0)];
        let mut known = BTreeMap::new();
        let mut classes = Vec::new();
        for (labels, _) in &keys {
            let [ingress, egress] = [false, true].map(|egress| {
                let selecting: Vec<usize> = (0..policies.len())
                    .filter(|&i| {
                        let policy = policies[i].1;
                        let selects = labels.is_some_and(|l| l & policy.selects == policy.selects);
                        policy.egress == egress && selects
                    })
                    .collect();
                if selecting.is_empty() {
                    return ProgramId::UNRESTRICTED;
                }
                *known.entry(selecting.clone()).or_insert_with(|| {
                    let of = |i: &usize| (RuleId(*i as u32), policies[*i].1);
                    let selecting: Vec<(RuleId, &Policy)> = selecting.iter().map(of).collect();
                    programs.push(program(&selecting, &keys, &mut rows));
                    ProgramId(programs.len() as u32 - 1)
                })
            });
            classes.push(ClassInfo { ingress, egress });
        }
        let named = |(i, _): &(usize, &Policy)| PolicyInfo {
            kind: PolicyKind::NetworkPolicy,
            name: format!("test/{i}"),
        };
        let class_of = |address: &Address| match self.pods.get_key_value(address) {
            Some(pod) => class(&key(pod)),
            None => class(&(None, around(IpNet::from(address.to_ip())))),
        };
        let services = self.services.iter().map(|(&(address, port), backends)| {
            let mut kinds: BTreeMap<(ClassId, u16), bool> = BTreeMap::new();
            for (backend, port, elsewhere) in backends {
                *kinds.entry((ClassId(class_of(backend)), *port)).or_default() |= elsewhere;
            }
            let kind = |((class, port), elsewhere)| Backend { class, port, elsewhere };
            let backends = kinds.into_iter().map(kind).collect();
            ServiceInfo { address, protocol: 6, port, backends }
        });
        let services = services.collect();
        let image = PolicyImage {
            generation,
            services,
            rules: (0..policies.len() as u32)
                .map(|policy| RuleInfo { policy, path: "spec.ingress[0]".into() })
                .collect(),
            policies: policies.iter().map(named).collect(),
            classes,
            prefixes: nets.iter().map(|net| (*net, class(&(None, around(*net))))).collect(),
            programs,
            rows,
        };
        let addresses = self.pods.iter().map(|pod| (*pod.0, class(&key(pod))));
        (image, addresses.collect())
    }
}

/// A table and its address map, in memory of their own.
pub(super) fn build(image: &PolicyImage, addresses: &[(Address, u32)]) -> Heap {
    let mut writer = AddressMapWriter::private(image.generation, addresses.len() + 8).unwrap();
    for &(address, class) in addresses {
        writer.insert(address, ClassId(class)).unwrap();
    }
    let table = PolicyTable::from_bytes(encode(image).unwrap()).unwrap();
    Classifier::new(table, writer.into_reader().unwrap()).unwrap()
}

fn blocks(policy: &Policy) -> impl Iterator<Item = IpNet> + '_ {
    policy.peers.iter().filter_map(|peer| match peer {
        Peer::Block(net) => Some(*net),
        Peer::Pods(_) => None,
    })
}

/// The same row for everything.
fn spread(row: u32) -> Program {
    let spans = vec![Span { first: 0, row }];
    let (tcp, udp) = (spans.clone(), spans.clone());
    Program { isolating: vec![], tcp, udp, sctp: spans, icmp: row, other: row }
}

fn program(selecting: &[(RuleId, &Policy)], keys: &[Key], rows: &mut Vec<Vec<Verdict>>) -> Program {
    let mut row = |counts: &dyn Fn(&Policy) -> bool| {
        let verdict = |(labels, nets): &Key| {
            let admits = |peer: &Peer| match peer {
                Peer::Pods(wanted) => labels.is_some_and(|l| l & wanted == *wanted),
                Peer::Block(net) => nets.contains(net) || net.prefix_len() == 0,
            };
            let rule = selecting.iter().find(|(_, p)| counts(p) && p.peers.iter().any(admits));
            rule.map_or(Verdict::DENY_ISOLATED, |(rule, _)| Verdict::allow(*rule))
        };
        let row: Vec<Verdict> = keys.iter().map(verdict).collect();
        let place = rows.iter().position(|known| *known == row).unwrap_or(rows.len());
        if place == rows.len() {
            rows.push(row);
        }
        place as u32
    };
    let mut cuts = vec![0];
    for (first, last) in selecting.iter().filter_map(|(_, policy)| policy.ports) {
        cuts.extend([Some(first), last.checked_add(1)].into_iter().flatten());
    }
    cuts.sort_unstable();
    cuts.dedup();
    let other = row(&|policy| policy.ports.is_none());
    let span = |&first: &u16| {
        let covers = |policy: &Policy| policy.ports.is_none_or(|(a, b)| a <= first && first <= b);
        Span { first, row: row(&covers) }
    };
    let tcp = cuts.iter().map(span).collect();
    let isolating = selecting.iter().map(|(rule, _)| rule.0).collect();
    Program { isolating, tcp, icmp: row(&|_| true), ..spread(other) }
}

fn scramble(order: u64, value: u64) -> u64 {
    (order ^ value.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .rotate_left(25)
        .wrapping_mul(0xff51_afd7_ed55_8ccd)
}

/// What changes from one world to another, on a node with these endpoints.
pub(super) fn between(old: &World, new: &World, local: &[Address]) -> Changes {
    changes(&old.classifier(4), &new.classifier(5), local)
}

/// The verdict of a node with these endpoints, as the dataplane's pipeline asks
/// for it: each half at the end that lives here, and quarantine for an endpoint
/// that is no known pod.
pub(super) fn allowed<B: AsRef<[u8]>, W: Words>(
    classifier: &Classifier<B, W>,
    local: &[Address],
    connection: &Connection,
) -> bool {
    halves(classifier, local, connection).iter().all(|half| half.unwrap_or(true))
}

/// Each half's answer: egress, ingress; `None` where it is not asked.
pub(super) fn halves<B: AsRef<[u8]>, W: Words>(
    classifier: &Classifier<B, W>,
    local: &[Address],
    connection: &Connection,
) -> [Option<bool>; 2] {
    let judgement = classifier.evaluate(connection);
    let half =
        |end: Address, allows: bool| local.contains(&end).then(|| classifier.is_pod(end) && allows);
    [
        half(connection.src, judgement.egress.is_allow()),
        half(connection.dst, judgement.ingress.is_allow()),
    ]
}
