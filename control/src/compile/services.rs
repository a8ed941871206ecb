//! Services: which kinds of backends stand behind which address and port.
//!
//! A connection to a Service is judged on its backends where it leaves its source. Backends of one
//! class at one port are one *kind*; only kinds go into the table, so that pods which come and go
//! behind a Service make no new generation. Nobody asks unless a policy restricts egress: without
//! one there is nothing here, and Services are of no consequence.
//!
//! Which backends there are is kube-proxy's choice, of which this is a superset: all that are
//! there, ready or not. A connection stays with its backend when that is no longer ready, and must
//! not be cut for it. A kind too many makes "some may be reached" of "all may be" at times, never
//! the other way. A backend is there while the pod that its slice names has that address: slices
//! name pods that are gone, and pods of which nothing else is known yet, for moments in which their
//! addresses would be an outsider's.
//!
//! Source of the rules: `pkg/proxy/topology.go` (CategorizeEndpoints) and `servicechangetracker.go`
//! of Kubernetes.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustc_hash::{FxHashMap, FxHashSet};
use weir_table::Address;
use weir_table::policy::{Backend, ClassId, ServiceInfo};

use crate::index::{Index, Owner};
use crate::model::{
    Direction, Endpoint, EndpointSlice, Phase, Pod, Service, ServicePort, ServiceType, TargetPort,
    TrafficPolicy,
};

/// What an image says of Services, and what it depends on.
#[derive(Debug, Clone, Default)]
pub(super) struct Services {
    node: Option<Box<str>>,
    heeded: bool,
    offers: Vec<ServiceInfo>,
    /// The addresses of all backends, there or not.
    backends: FxHashSet<IpAddr>,
    /// Some Service's backends are those pods that its selector selects.
    by_selector: bool,
}

impl Services {
    /// Those of an index, for the node of this name; nothing if no policy restricts egress.
    /// `class_of` gives any address's class; where it cannot, the backend is left out.
    pub(super) fn of(
        index: &Index,
        node: Option<&str>,
        class_of: impl FnMut(IpAddr) -> Option<u32>,
    ) -> Self {
        let heeded = index.policies().any(|policy| policy.isolates(Direction::Egress));
        let node = node.map(Box::from);
        if !heeded {
            return Self { node, ..Self::default() };
        }
        let Found { offers, backends, by_selector, .. } = find(index, node.as_deref(), class_of);
        Self { node, heeded, offers, backends, by_selector }
    }

    /// What they offer, ascending.
    pub(super) fn offers(&self) -> &[ServiceInfo] {
        &self.offers
    }

    /// Whether any verdict depends on Services.
    pub(super) fn are_heeded(&self) -> bool {
        self.heeded
    }

    /// Whether what they offer can change with the owner of an address.
    pub(super) fn depend_on(&self, address: &IpAddr) -> bool {
        self.by_selector || self.backends.contains(address)
    }

    /// Whether an index with the same policies offers the same; not if a backend needs a class that
    /// `class_of` does not have. If so, depends from now on on the index's backends.
    pub(super) fn follow(
        &mut self,
        index: &Index,
        class_of: impl FnMut(IpAddr) -> Option<u32>,
    ) -> bool {
        if !self.heeded {
            return true;
        }
        let found = find(index, self.node.as_deref(), class_of);
        let are_those = found.complete && found.offers == self.offers;
        if are_those {
            (self.backends, self.by_selector) = (found.backends, found.by_selector);
        }
        are_those
    }
}

/// What was found in an index.
struct Found {
    offers: Vec<ServiceInfo>,
    backends: FxHashSet<IpAddr>,
    by_selector: bool,
    /// Every backend has a class.
    complete: bool,
}

/// Where a backend is, seen from the node that the table is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Here,
    Elsewhere,
    Unknown,
}

/// One backend.
struct Member {
    address: IpAddr,
    port: u16,
    place: Place,
    /// If not, it is none at present.
    is_there: bool,
}

/// Class and port → whether one such backend is, or may be, on another node.
type Kinds = BTreeMap<(ClassId, u16), bool>;

fn find(
    index: &Index,
    node: Option<&str>,
    mut class_of: impl FnMut(IpAddr) -> Option<u32>,
) -> Found {
    let behind = Behind::of(index, node);
    let (mut backends, mut complete) = (FxHashSet::default(), true);
    // Two Services may claim one address: which of them a node honours is not known here.
    let mut offers: BTreeMap<(Address, u8, u16), Kinds> = BTreeMap::new();
    for service in index.services() {
        if service.headless || service.kind == ServiceType::ExternalName {
            continue;
        }
        for port in &service.ports {
            for v4 in [true, false] {
                let members = behind.members(service, port, v4);
                let mut classed: Vec<(ClassId, Member)> = Vec::with_capacity(members.len());
                for member in members {
                    backends.insert(member.address);
                    if !member.is_there {
                        continue;
                    }
                    match class_of(member.address) {
                        Some(class) => classed.push((ClassId(class), member)),
                        None => complete = false,
                    }
                }
                for (address, number, policy) in places(service, port, v4) {
                    let kinds =
                        offers.entry((address.into(), port.protocol.number(), number)).or_default();
                    for (class, member) in &classed {
                        if policy == TrafficPolicy::Local && member.place == Place::Elsewhere {
                            continue;
                        }
                        *kinds.entry((*class, member.port)).or_default() |=
                            member.place != Place::Here;
                    }
                }
            }
        }
    }
    let kind = |((class, port), elsewhere)| Backend { class, port, elsewhere };
    let service = |((address, protocol, port), kinds): (_, Kinds)| ServiceInfo {
        address,
        protocol,
        port,
        backends: kinds.into_iter().map(kind).collect(),
    };
    let offers = offers.into_iter().map(service).collect();
    Found { offers, backends, by_selector: behind.pods.get().is_some(), complete }
}

/// Where one port of a Service is offered over one address family: address, port, and which
/// backends a pod is given there. A pod that writes to an address for outsiders is given any,
/// whatever `externalTrafficPolicy` says.
fn places(
    service: &Service,
    port: &ServicePort,
    v4: bool,
) -> impl Iterator<Item = (IpAddr, u16, TrafficPolicy)> {
    let of_family = move |address: &&IpAddr| address.is_ipv4() == v4;
    let own = service.cluster_ips.iter().filter(of_family);
    let own = own.map(|address| (*address, port.port, service.internal_traffic));
    let outer = service.outer_ips.iter().filter(of_family);
    let outer = outer.map(|address| (*address, port.port, TrafficPolicy::Cluster));
    // A Service's families are those of its own addresses.
    let any: IpAddr = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let has_family = service.cluster_ips.iter().any(|address| address.is_ipv4() == v4);
    let of_nodes = port.node_port.filter(|_| has_family);
    let of_nodes = of_nodes.map(|number| (any, number, TrafficPolicy::Cluster));
    own.chain(outer).chain(of_nodes)
}

/// The index, arranged by what is asked of it.
struct Behind<'a> {
    index: &'a Index,
    node: Option<&'a str>,
    /// By namespace and Service.
    slices: FxHashMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>,
    /// Live pods by namespace; only for Services without a slice.
    pods: OnceCell<FxHashMap<&'a str, Vec<&'a Pod>>>,
}

impl<'a> Behind<'a> {
    fn of(index: &'a Index, node: Option<&'a str>) -> Self {
        let mut slices: FxHashMap<(&str, &str), Vec<&EndpointSlice>> = FxHashMap::default();
        for slice in index.endpoint_slices() {
            if let Some(service) = &slice.service {
                slices.entry((&slice.key.namespace, service)).or_default().push(slice);
            }
        }
        Self { index, node, slices, pods: OnceCell::new() }
    }

    fn place(&self, node: Option<&str>) -> Place {
        match (self.node, node) {
            (Some(here), Some(there)) if here == there => Place::Here,
            (Some(_), Some(_)) => Place::Elsewhere,
            _ => Place::Unknown,
        }
    }

    /// The backends of one port over one family: by the Service's slices, or, if it has none at
    /// all, by its selector.
    fn members(&self, service: &Service, port: &ServicePort, v4: bool) -> Vec<Member> {
        let key = (&*service.key.namespace, &*service.key.name);
        match self.slices.get(&key) {
            Some(slices) => {
                slices.iter().flat_map(|slice| self.of_slice(slice, port, v4)).collect()
            }
            None => self.by_selector(service, port, v4),
        }
    }

    fn of_slice(&self, slice: &EndpointSlice, port: &ServicePort, v4: bool) -> Vec<Member> {
        let fits = slice.ports.iter().find(|p| p.name == port.name && p.protocol == port.protocol);
        let Some(fits) = fits else { return Vec::new() };
        let number = fits.port.unwrap_or(port.port);
        let member = |endpoint: &Endpoint| {
            // All of its addresses stand for one backend; the first is used.
            let address = *endpoint.addresses.first().filter(|address| address.is_ipv4() == v4)?;
            let place = self.place(endpoint.node.as_deref());
            Some(Member {
                address,
                port: number,
                place,
                is_there: self.is_there(endpoint, &address),
            })
        };
        slice.endpoints.iter().filter_map(member).collect()
    }

    /// Whether the pod that an endpoint names has this address; true if it names none.
    fn is_there(&self, endpoint: &Endpoint, address: &IpAddr) -> bool {
        let Some(key) = &endpoint.pod else { return true };
        match self.index.owner(address) {
            Some(Owner::Pod(owner)) => owner.key == *key,
            Some(Owner::Isolated(_)) => true,
            // Pods in the node's network own no address.
            None => self.index.pod(key).is_some_and(|pod| {
                pod.host_network && pod.phase == Phase::Live && pod.addresses.contains(address)
            }),
        }
    }

    fn by_selector(&self, service: &Service, port: &ServicePort, v4: bool) -> Vec<Member> {
        if service.selector.is_empty() {
            return Vec::new();
        }
        let pods = self.pods.get_or_init(|| {
            let mut pods: FxHashMap<&str, Vec<&Pod>> = FxHashMap::default();
            for pod in self.index.pods().filter(|pod| pod.phase == Phase::Live) {
                pods.entry(&pod.key.namespace).or_default().push(pod);
            }
            pods
        });
        let there = pods.get(&*service.key.namespace).map(Vec::as_slice).unwrap_or_default();
        let is_selected = |pod: &&&Pod| {
            service.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
        };
        let member = |pod: &&Pod| {
            let address = *pod.addresses.iter().find(|address| address.is_ipv4() == v4)?;
            let number = match &port.target {
                TargetPort::Number(number) => *number,
                TargetPort::Name(name) => {
                    let named = |p: &&crate::model::ContainerPort| {
                        p.protocol == port.protocol && p.name.as_deref() == Some(name)
                    };
                    pod.ports.iter().find(named)?.port
                }
            };
            let place = self.place(pod.node.as_deref());
            Some(Member { address, port: number, place, is_there: true })
        };
        there.iter().filter(is_selected).filter_map(member).collect()
    }
}
