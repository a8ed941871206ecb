//! Random clusters, policies with every field, and questions about them. Names, labels and addresses
//! are few, so that they meet.

#![allow(dead_code)] // every test uses a part

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use weir_control::index::Index;
use weir_control::model::{
    ContainerPort, Direction, LabelSelector, Labels, Namespace, NetworkPolicy, Object, ObjectKey,
    Operator, Origin, Peer, PeerRule, Phase, Pod, PortMatch, PortRule, Protocol, Requirement, Rule,
};
use weir_control::oracle::Traffic;
use weir_table::Address;
use weir_table::classify::Connection;

pub const NAMESPACES: [&str; 3] = ["x", "y", "undeclared"];
pub const PORT_NAMES: [&str; 3] = ["web", "dns", "absent"];
pub const PORTS: [u16; 4] = [1, 53, 80, 65535];

pub fn labels() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map(
        select(vec!["app", "tier", "rev"]).prop_map(str::to_owned),
        select(vec!["a", "b", "c", ""]).prop_map(str::to_owned),
        0..3,
    )
}

pub fn protocol() -> impl Strategy<Value = Protocol> {
    select(Protocol::ALL.to_vec())
}

pub fn requirement(
    keys: Vec<&'static str>,
    values: Vec<&'static str>,
) -> impl Strategy<Value = Requirement> {
    let operators = vec![Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist];
    (select(keys), select(operators), subsequence(values.clone(), 1..=values.len().min(3)))
        .prop_map(|(key, operator, values)| {
            let values = match operator {
                Operator::In | Operator::NotIn => values.into_iter().map(str::to_owned).collect(),
                _ => Vec::new(),
            };
            Requirement { key: key.to_owned(), operator, values }
        })
}

pub fn selector(
    keys: Vec<&'static str>,
    values: Vec<&'static str>,
) -> impl Strategy<Value = LabelSelector> {
    prop_oneof![
        2 => Just(LabelSelector::everything()),
        3 => prop::collection::vec(requirement(keys, values), 1..3)
            .prop_map(|requirements| LabelSelector { requirements }),
    ]
}

pub fn pod_selector() -> impl Strategy<Value = LabelSelector> {
    selector(vec!["app", "tier", "never"], vec!["a", "b", "", "nowhere"])
}

pub fn namespace_selector() -> impl Strategy<Value = LabelSelector> {
    selector(
        vec!["app", "tier", "kubernetes.io/metadata.name"],
        vec!["a", "b", "x", "y", "undeclared"],
    )
}

/// Addresses are few, so that policies, pods and probes meet.
pub fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u8..4, 0u8..8).prop_map(|(a, b)| IpAddr::from([10, 0, a, b])),
        (0u16..4, 0u16..8).prop_map(|(a, b)| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, a, b])),
    ]
}

/// Addresses that no pod of the pod network has: of nodes, which pods on the host network share,
/// and of the world outside.
pub fn foreign() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u8..4).prop_map(|node| IpAddr::from([192, 168, 0, node])),
        (0u8..4).prop_map(|host| IpAddr::from([203, 0, 113, host])),
        (0u16..4).prop_map(|host| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, host])),
    ]
}

pub fn cidr() -> impl Strategy<Value = IpNet> {
    let address = prop_oneof![4 => address(), 1 => foreign()];
    (address, select(vec![0u8, 8, 22, 24, 28, 30, 31, 32])).prop_map(|(address, length)| {
        let length = match address {
            IpAddr::V4(_) => length,
            // The same shapes at the tail of an IPv6 address.
            IpAddr::V6(_) if length == 0 => 0,
            IpAddr::V6(_) => match length {
                8 => 64,
                22 => 110,
                24 => 112,
                other => other + 96,
            },
        };
        IpNet::new(address, length).unwrap().trunc()
    })
}

pub fn block() -> impl Strategy<Value = Peer> {
    (cidr(), prop::collection::vec(cidr(), 0..3)).prop_map(|(cidr, except)| {
        let inside = |hole: &IpNet| cidr.contains(hole) && hole.prefix_len() > cidr.prefix_len();
        Peer::IpBlock { cidr, except: except.into_iter().filter(inside).collect() }
    })
}

pub fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        2 => pod_selector().prop_map(|s| Peer::Pods { namespaces: None, pods: Some(s) }),
        2 => namespace_selector().prop_map(|s| Peer::Pods { namespaces: Some(s), pods: None }),
        2 => (namespace_selector(), pod_selector())
            .prop_map(|(n, p)| Peer::Pods { namespaces: Some(n), pods: Some(p) }),
        3 => block(),
    ]
}

pub fn port_rule() -> impl Strategy<Value = PortRule> {
    let port = prop_oneof![
        1 => Just(PortMatch::All),
        3 => (select(PORTS.to_vec()), select(PORTS.to_vec()))
            .prop_map(|(a, b)| PortMatch::Range(a.min(b), a.max(b))),
        3 => select(PORTS.to_vec()).prop_map(|port| PortMatch::Range(port, port)),
        3 => select(PORT_NAMES.to_vec()).prop_map(|name| PortMatch::Named(name.to_owned())),
    ];
    (protocol(), port).prop_map(|(protocol, port)| PortRule { protocol, port, line: 0 })
}

pub fn rule() -> impl Strategy<Value = Rule> {
    let peers = prop::collection::vec(peer().prop_map(|peer| PeerRule { peer, line: 0 }), 0..3);
    (peers, prop::collection::vec(port_rule(), 0..3)).prop_map(|(peers, ports)| Rule {
        peers,
        ports,
        position: 0,
        line: 0,
    })
}

/// Such an object is always refused.
pub fn is_unnamed(name: &str) -> bool {
    name.starts_with("(unnamed")
}

/// A name, now and then the placeholder of an object that has none.
pub fn name(named: &'static str) -> impl Strategy<Value = String> {
    prop_oneof![12 => named, 1 => "\\(unnamed, a/b\\.yaml:[1-9]\\)"]
}

pub fn policy() -> impl Strategy<Value = NetworkPolicy> {
    (
        select(NAMESPACES.to_vec()),
        name("[a-f]"),
        pod_selector(),
        subsequence(vec![Direction::Ingress, Direction::Egress], 1..=2),
        prop::collection::vec(rule(), 0..4),
        prop::collection::vec(rule(), 0..4),
        prop::bool::weighted(0.05),
    )
        .prop_map(|(namespace, name, pod_selector, directions, ingress, egress, refused)| {
            let refused = refused || is_unnamed(&name);
            let (mut ingress, mut egress) =
                if refused { (vec![], vec![]) } else { (ingress, egress) };
            // Every other place is that of a refused rule, which is left out.
            for rules in [&mut ingress, &mut egress] {
                (1..).step_by(2).zip(rules).for_each(|(position, rule)| rule.position = position);
            }
            NetworkPolicy {
                key: ObjectKey::new(namespace, name),
                pod_selector,
                directions,
                ingress,
                egress,
                refused,
                faults: Vec::new(),
                origin: Origin::memory(),
            }
        })
}

pub fn container_port() -> impl Strategy<Value = ContainerPort> {
    (prop::option::of(select(vec!["web", "dns"])), protocol(), select(PORTS.to_vec())).prop_map(
        |(name, protocol, port)| ContainerPort { name: name.map(str::to_owned), protocol, port },
    )
}

pub fn pod() -> impl Strategy<Value = Pod> {
    (
        (select(NAMESPACES.to_vec()), name("[a-h]"), labels()),
        prop::collection::vec(address(), 0..3),
        prop::collection::vec(container_port(), 0..4),
        select(vec![
            Phase::Live,
            Phase::Live,
            Phase::Live,
            Phase::Live,
            Phase::Succeeded,
            Phase::Failed,
        ]),
        (prop::bool::weighted(0.1), prop::bool::weighted(0.1), prop::bool::weighted(0.05)),
        0u8..4,
    )
        .prop_map(
            |((namespace, name, labels), addresses, ports, phase, (host, going, refused), node)| {
                let mut pod = Pod::new(namespace, name);
                pod.labels = Arc::new(labels);
                pod.addresses = addresses;
                pod.addresses.dedup();
                pod.ports = Arc::from(ports);
                pod.phase = phase;
                pod.host_network = host;
                if host {
                    pod.addresses = vec![IpAddr::from([192, 168, 0, node])];
                }
                pod.terminating = going;
                pod.refused = refused || is_unnamed(&pod.key.name);
                pod
            },
        )
}

pub fn objects() -> impl Strategy<Value = Vec<Object>> {
    let namespace = || (labels(), prop::bool::weighted(0.1));
    let namespaces = (namespace(), namespace(), namespace()).prop_map(|(x, y, z)| {
        [("x", x), ("y", y), ("z", z)].map(|(name, (labels, refused))| {
            let namespace = Namespace::new(name, labels, Origin::memory());
            Object::Namespace(Namespace { refused, ..namespace })
        })
    });
    (namespaces, prop::collection::vec(pod(), 1..32), prop::collection::vec(policy(), 0..24))
        .prop_map(|(namespaces, pods, policies)| {
            let pods = pods.into_iter().map(Object::Pod);
            let policies = policies.into_iter().map(Object::NetworkPolicy);
            namespaces.into_iter().chain(pods).chain(policies).collect()
        })
}

pub fn traffic() -> impl Strategy<Value = Traffic> {
    prop_oneof![
        8 => (protocol(), prop_oneof![4 => select(PORTS.to_vec()), 1 => any::<u16>()])
            .prop_map(|(protocol, port)| Traffic::Port(protocol, port)),
        1 => Just(Traffic::Icmp),
        1 => Just(Traffic::Other),
    ]
}

pub fn connection(src: IpAddr, dst: IpAddr, traffic: Traffic) -> Connection {
    let (protocol, dport) = match traffic {
        Traffic::Port(protocol, port) => (protocol.number(), port),
        Traffic::Icmp => (if src.is_ipv4() { 1 } else { 58 }, 0),
        Traffic::Other => (136, 80),
    };
    Connection { src: Address::from(src), dst: Address::from(dst), protocol, dport }
}

/// A probe's ends: mostly addresses of pods, so that rules are met, sometimes any.
pub type Ends = (prop::sample::Index, prop::sample::Index, IpAddr, bool, bool);

pub fn ends() -> impl Strategy<Value = Ends> {
    let outside = || prop::bool::weighted(0.15);
    let any_address = prop_oneof![2 => address(), 1 => foreign()];
    (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any_address, outside(), outside())
}

/// The two addresses, of one family; `None` if the pool has nothing for that.
pub fn pick(pool: &[IpAddr], (a, b, any, a_outside, b_outside): &Ends) -> Option<(IpAddr, IpAddr)> {
    let choose = |index: &prop::sample::Index, outside: bool, pool: &[IpAddr]| {
        if outside || pool.is_empty() { *any } else { *index.get(pool) }
    };
    let src = choose(a, *a_outside, pool);
    let family: Vec<IpAddr> =
        pool.iter().copied().filter(|other| other.is_ipv4() == src.is_ipv4()).collect();
    let dst = choose(b, *b_outside, &family);
    (src.is_ipv4() == dst.is_ipv4()).then_some((src, dst))
}

/// The objects of an index, in its order.
pub fn objects_of(index: &Index) -> Vec<Object> {
    let mut all: Vec<Object> = index.namespaces().cloned().map(Object::Namespace).collect();
    all.extend(index.pods().cloned().map(Object::Pod));
    all.extend(index.policies().cloned().map(Object::NetworkPolicy));
    all
}
