//! A naive evaluator, straight from the text of the API reference.
//!
//! Slow and obvious on purpose: it walks all policies, rules and peers for every question and
//! shares no code with `compile` beyond the objects themselves. Tests hold the compiled table
//! against it; nothing else uses it.
//!
//! Quotations are from the API reference of `networking.k8s.io/v1` NetworkPolicy.

use std::net::IpAddr;

use crate::index::{Index, Owner};
use crate::model::{
    Direction, LabelSelector, Labels, NetworkPolicy, ObjectKey, Operator, Peer, Phase, Pod,
    PortMatch, PortRule, Protocol, Rule, Service, ServicePort, ServiceType, TargetPort,
    TrafficPolicy,
};

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// To a destination port.
    Port(Protocol, u16),
    /// ICMP or ICMPv6.
    Icmp,
    /// A protocol that has no ports that policies know.
    Other,
}

/// What one end's policies say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side {
    /// No policy selects this end in this direction.
    Unrestricted,
    /// The first rule that matches, in the order of namespaces, names and rules.
    Allowed(ObjectKey, String),
    /// Isolated, and no rule matches.
    Denied,
}

impl Side {
    /// Whether the connection may pass on this side.
    pub fn is_allowed(&self) -> bool {
        *self != Self::Denied
    }
}

/// Judges a connection: (what the source's egress says, what the destination's ingress says).
pub fn judge(index: &Index, source: IpAddr, destination: IpAddr, traffic: Traffic) -> (Side, Side) {
    // "... traffic to and from the pod itself is always allowed": a pod reaches itself.
    if source == destination {
        return (Side::Unrestricted, Side::Unrestricted);
    }
    let endpoints = index.endpoints();
    let (from, to) = (endpoints.get(&source).copied(), endpoints.get(&destination).copied());
    let egress = side(index, Direction::Egress, from, (destination, to), to, traffic);
    let ingress = side(index, Direction::Ingress, to, (source, from), to, traffic);
    (egress, ingress)
}

fn pod_of(owner: Option<Owner<'_>>) -> Option<&Pod> {
    match owner {
        Some(Owner::Pod(pod)) => Some(pod),
        _ => None,
    }
}

fn side(
    index: &Index,
    direction: Direction,
    this: Option<Owner<'_>>,
    (peer_address, peer): (IpAddr, Option<Owner<'_>>),
    destination: Option<Owner<'_>>,
    traffic: Traffic,
) -> Side {
    let this = match this {
        None => return Side::Unrestricted,
        Some(Owner::Isolated(_)) => return Side::Denied,
        Some(Owner::Pod(pod)) => pod,
    };
    let mut isolated = false;
    for policy in index.policies() {
        // "podSelector: Selects the pods to which this NetworkPolicy object applies."
        let applies = policy.key.namespace == this.key.namespace
            && selects(&policy.pod_selector, &this.labels)
            && policy.isolates(direction);
        if !applies {
            continue;
        }
        isolated = true;
        for rule in policy.rules(direction) {
            // "This field is combined ... traffic is allowed if it matches both ports and from."
            if !ports_match(rule, pod_of(destination), traffic) {
                continue;
            }
            if let Some(peer) = peers_match(index, policy, rule, peer_address, pod_of(peer)) {
                return Side::Allowed(policy.key.clone(), rule.path(direction, peer));
            }
        }
    }
    // "If no NetworkPolicies select a pod ... the traffic is allowed"; "if the traffic matches at
    // least one ingress rule across all of the NetworkPolicy objects" it is, too.
    if isolated { Side::Denied } else { Side::Unrestricted }
}

/// Which peer of the rule matches; `Some(None)` if the rule has none and so matches everything.
fn peers_match(
    index: &Index,
    policy: &NetworkPolicy,
    rule: &Rule,
    address: IpAddr,
    pod: Option<&Pod>,
) -> Option<Option<usize>> {
    // "If this field is empty or missing, this rule matches all sources (traffic not restricted by
    // source)."
    if rule.peers.is_empty() {
        return Some(None);
    }
    let matches = |peer: &Peer| match peer {
        // "cidr is a string representing the IPBlock"; "except is a slice of CIDRs that should not
        // be included within an IPBlock".
        Peer::IpBlock { cidr, except } => {
            cidr.contains(&address) && !except.iter().any(|hole| hole.contains(&address))
        }
        Peer::Pods { namespaces, pods } => pod.is_some_and(|pod| {
            let in_namespace = match namespaces {
                Some(selector) => match index.namespace(&pod.key.namespace) {
                    // A namespace that could not be read is selected by nobody.
                    Some(namespace) => !namespace.refused && selects(selector, &namespace.labels),
                    // Of one that is not there only the name is known.
                    None => selects_by_name(selector, &pod.key.namespace),
                },
                // "Otherwise it selects the pods matching podSelector in the policy's own
                // namespace."
                None => pod.key.namespace == policy.key.namespace,
            };
            in_namespace && pods.as_ref().is_none_or(|selector| selects(selector, &pod.labels))
        }),
    };
    rule.peers.iter().position(|peer| matches(&peer.peer)).map(Some)
}

fn ports_match(rule: &Rule, destination: Option<&Pod>, traffic: Traffic) -> bool {
    // "If this field is empty or missing, this rule matches all ports (traffic not restricted by
    // port)."
    if rule.ports.is_empty() {
        return true;
    }
    match traffic {
        Traffic::Port(protocol, port) => rule
            .ports
            .iter()
            .any(|rule| rule.protocol == protocol && port_matches(rule, destination, port)),
        // Allowed if any traffic to the peer is: if some port of the rule exists at all.
        Traffic::Icmp => rule
            .ports
            .iter()
            .any(|rule| (0..=u16::MAX).any(|port| port_matches(rule, destination, port))),
        Traffic::Other => false,
    }
}

fn port_matches(rule: &PortRule, destination: Option<&Pod>, port: u16) -> bool {
    match &rule.port {
        // "If this field is not provided, this matches all port names and numbers."
        PortMatch::All => true,
        // "If set, indicates that the range of ports from port to endPort, inclusive, should be
        // allowed by the policy."
        PortMatch::Range(first, last) => (*first..=*last).contains(&port),
        // "This can either be a numerical or named port on a pod."
        PortMatch::Named(name) => destination.is_some_and(|pod| {
            pod.ports.iter().any(|declared| {
                declared.name.as_deref() == Some(name)
                    && declared.protocol == rule.protocol
                    && declared.port == port
            })
        }),
    }
}

/// "kubernetes.io/metadata.name: The Kubernetes API server sets this label on all namespaces" (well-
/// known labels). Whether another label is there is not known, so no requirement on it holds.
fn selects_by_name(selector: &LabelSelector, name: &str) -> bool {
    selector.requirements.iter().all(|requirement| {
        requirement.key == "kubernetes.io/metadata.name"
            && match requirement.operator {
                Operator::In => requirement.values.iter().any(|value| value == name),
                Operator::NotIn => !requirement.values.iter().any(|value| value == name),
                Operator::Exists => true,
                Operator::DoesNotExist => false,
            }
    })
}

/// `metav1.LabelSelector`: "The result of matchLabels and matchExpressions are ANDed. An empty
/// label selector matches all objects."
fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    selector.requirements.iter().all(|requirement| {
        let value = labels.get(&requirement.key);
        match requirement.operator {
            Operator::In => value.is_some_and(|value| requirement.values.contains(value)),
            Operator::NotIn => !value.is_some_and(|value| requirement.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    })
}

/// One backend of a Service, seen from a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// The port at which it takes the connection.
    pub port: u16,
    /// Whether it is on that node for certain.
    pub is_here: bool,
    /// What the source's egress says of it.
    pub egress: Side,
}

/// The backends of whatever Service offers an address and port to pods of a node, each judged by a
/// source's egress; `None` if no Service does. The unspecified address stands for those of the
/// node.
///
/// "A Service ... [is] an abstract way to expose an application running on a set of Pods"; policies
/// act on these Pods.
pub fn backends(
    index: &Index,
    node: Option<&str>,
    source: IpAddr,
    (address, protocol, port): (IpAddr, Protocol, u16),
) -> Option<Vec<Backend>> {
    let endpoints = index.endpoints();
    let mut found: Option<Vec<Backend>> = None;
    for service in index.services() {
        if service.headless || service.kind == ServiceType::ExternalName {
            continue;
        }
        for offered in service.ports.iter().filter(|offered| offered.protocol == protocol) {
            let own = service.cluster_ips.contains(&address) && offered.port == port;
            let outer = service.outer_ips.contains(&address) && offered.port == port;
            let has_family = service.cluster_ips.iter().any(|ip| ip.is_ipv4() == address.is_ipv4());
            let of_nodes =
                address.is_unspecified() && has_family && offered.node_port == Some(port);
            if !own && !outer && !of_nodes {
                continue;
            }
            // "Local" means that "traffic is routed only to endpoints on the same node".
            let all = outer || of_nodes || service.internal_traffic == TrafficPolicy::Cluster;
            let found = found.get_or_insert_default();
            for (backend, number, on) in members(index, service, offered) {
                let is_elsewhere = node.is_some() && on.is_some() && node != on.as_deref();
                if backend.is_ipv4() != address.is_ipv4() || (is_elsewhere && !all) {
                    continue;
                }
                let owner = endpoints.get(&backend).copied();
                let from = endpoints.get(&source).copied();
                let traffic = Traffic::Port(protocol, number);
                let egress = side(index, Direction::Egress, from, (backend, owner), owner, traffic);
                let is_here = node.is_some() && node == on.as_deref();
                found.push(Backend { address: backend, port: number, is_here, egress });
            }
        }
    }
    found
}

/// Address, port and node of everything behind one port of a Service: of its slices, or, if it has
/// none, of the pods that it selects. Whether it is ready does not matter: what is connected to it
/// stays so. What a slice says of a pod counts if that pod has the address.
fn members(
    index: &Index,
    service: &Service,
    offered: &ServicePort,
) -> Vec<(IpAddr, u16, Option<String>)> {
    let mut slices = index.endpoint_slices().filter(|slice| {
        slice.key.namespace == service.key.namespace
            && slice.service.as_deref() == Some(&service.key.name)
    });
    let mut members = Vec::new();
    if let Some(first) = slices.next() {
        for slice in std::iter::once(first).chain(slices) {
            let named = |p: &&crate::model::SlicePort| {
                p.name == offered.name && p.protocol == offered.protocol
            };
            let Some(port) = slice.ports.iter().find(named) else { continue };
            for endpoint in &slice.endpoints {
                let Some(address) = endpoint.addresses.first() else { continue };
                let named = endpoint.pod.as_ref();
                let is_there = match index.endpoints().get(address) {
                    _ if named.is_none() => true,
                    Some(Owner::Pod(pod)) => named == Some(&pod.key),
                    Some(Owner::Isolated(_)) => true,
                    None => index.pods().any(|pod| {
                        pod.host_network
                            && pod.phase == Phase::Live
                            && named == Some(&pod.key)
                            && pod.addresses.contains(address)
                    }),
                };
                if is_there {
                    let number = port.port.unwrap_or(offered.port);
                    members.push((*address, number, endpoint.node.clone()));
                }
            }
        }
        return members;
    }
    let selects = |pod: &&Pod| {
        pod.key.namespace == service.key.namespace
            && !service.selector.is_empty()
            && service.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
            && pod.phase == Phase::Live
    };
    for pod in index.pods().filter(selects) {
        let declared = |name: &str| {
            let mut ports = pod.ports.iter().filter(|p| p.protocol == offered.protocol);
            ports.find(|p| p.name.as_deref() == Some(name)).map(|p| p.port)
        };
        let number = match &offered.target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => declared(name),
        };
        for v4 in [true, false] {
            let address = pod.addresses.iter().find(|address| address.is_ipv4() == v4);
            if let (Some(address), Some(number)) = (address, number) {
                members.push((*address, number, pod.node.as_deref().map(str::to_owned)));
            }
        }
    }
    members
}
