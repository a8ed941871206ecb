//! Services of which a client reaches only some backends: its connections pass or fail at random.
//!
//! For each Service port, backends that no policy tells apart (same class, same port) are one kind,
//! and clients of one class are one client, so that the work is classes times kinds and not pods
//! times pods. A Service with one kind of backends cannot be partly reachable.

use std::collections::{BTreeMap, BTreeSet};

use weir_table::Address;
use weir_table::policy::ClassId;

use super::address::Addresses;
use super::world::{PodSet, World, counted, some_of};
use super::{Finding, Severity};
use crate::model::{EndpointSlice, Protocol};
use crate::model::{
    LabelSelector, Origin, Service, ServicePort, ServiceType, TargetPort, TrafficPolicy,
};

/// One backend of a Service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Backend {
    pub(super) address: Address,
    pub(super) port: u16,
    /// The pod, if it is one.
    pub(super) pod: Option<usize>,
}

/// The ready backends of each port of a Service: by its EndpointSlices, or, if the input has none,
/// by its selector.
pub(super) fn backends<'s>(
    world: &World<'_>,
    service: &'s Service,
) -> Vec<(&'s ServicePort, Vec<Backend>)> {
    let slices: Vec<&EndpointSlice> = world
        .index
        .endpoint_slices()
        .filter(|slice| {
            slice.key.namespace == service.key.namespace
                && slice.service.as_deref() == Some(&service.key.name)
        })
        .collect();
    of_slices(world, service, &slices)
}

fn of_slices<'s>(
    world: &World<'_>,
    service: &'s Service,
    slices: &[&EndpointSlice],
) -> Vec<(&'s ServicePort, Vec<Backend>)> {
    let of_port = |port: &ServicePort| match slices.is_empty() {
        true => by_selector(world, service, port),
        false => slices.iter().flat_map(|slice| by_slice(world, slice, port)).collect(),
    };
    service.ports.iter().map(|port| (port, of_port(port))).collect()
}

fn by_slice(world: &World<'_>, slice: &EndpointSlice, port: &ServicePort) -> Vec<Backend> {
    let fits = slice.ports.iter().find(|p| p.name == port.name && p.protocol == port.protocol);
    let Some(fits) = fits else { return Vec::new() };
    let number = fits.port.unwrap_or(port.port);
    let ready = slice.endpoints.iter().filter(|endpoint| endpoint.ready && !endpoint.terminating);
    ready
        .filter_map(|endpoint| {
            Some(Backend {
                address: (*endpoint.addresses.first()?).into(),
                port: number,
                pod: endpoint.pod.as_ref().and_then(|key| world.number(key)),
            })
        })
        .collect()
}

fn by_selector(world: &World<'_>, service: &Service, port: &ServicePort) -> Vec<Backend> {
    if service.selector.is_empty() || service.kind == ServiceType::ExternalName {
        return Vec::new();
    }
    let selector = LabelSelector::labels(service.selector.clone());
    let chosen = world.matching(world.in_namespace(&service.key.namespace), &selector);
    let mut all = Vec::new();
    for number in chosen.iter() {
        let pod = world.pods[number];
        if pod.phase != crate::model::Phase::Live || pod.terminating {
            continue;
        }
        let target = match &port.target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => pod
                .ports
                .iter()
                .find(|p| p.protocol == port.protocol && p.name.as_deref() == Some(name))
                .map(|declared| declared.port),
        };
        let Some(target) = target else { continue };
        for v4 in [true, false] {
            let first = pod.addresses.iter().find(|address| address.is_ipv4() == v4);
            all.extend(first.map(|address| Backend {
                address: (*address).into(),
                port: target,
                pod: Some(number),
            }));
        }
    }
    all
}

/// Who reaches which backends: (those reached, those not) → clients.
type Parts = BTreeMap<(Vec<String>, Vec<String>), Clients>;

#[derive(Debug, Default, PartialEq, Eq)]
struct Clients {
    pods: PodSet,
    outside: BTreeSet<String>,
    /// Why the others are not reached, for one of the clients.
    cause: String,
}

pub(super) fn check(world: &World<'_>, verdicts: usize, findings: &mut Vec<Finding>) {
    let mut slices: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in world.index.endpoint_slices() {
        if let Some(service) = &slice.service {
            slices.entry((&slice.key.namespace, service)).or_default().push(slice);
        }
    }
    let mut left = verdicts;
    let mut addresses = Addresses::new(world);
    let mut unchecked: Vec<&Service> = Vec::new();
    for service in world.index.services() {
        let key = (&*service.key.namespace, &*service.key.name);
        let own = slices.get(&key).map(Vec::as_slice).unwrap_or_default();
        for (port, backends) in of_slices(world, service, own) {
            let told = addresses.look(world, service, port, &backends, &mut left);
            let families = [true, false].map(|v4| {
                let of_family = backends.iter().filter(|b| b.address.is_v4() == v4);
                parts(world, service, port, &of_family.collect::<Vec<_>>(), v4, &mut left)
            });
            let (Some(()), [Some(v4), Some(v6)]) = (told, families) else {
                unchecked.push(service);
                break;
            };
            let single = !backends.iter().any(|b| b.address.is_v4() != backends[0].address.is_v4());
            if single || v4 == v6 {
                let parts = if v4.is_empty() { &v6 } else { &v4 };
                report(world, service, port, parts, "", findings);
            } else {
                report(world, service, port, &v4, " over IPv4", findings);
                report(world, service, port, &v6, " over IPv6", findings);
            }
        }
    }
    addresses.report(world, findings);
    if let Some(first) = unchecked.first() {
        findings.push(Finding {
            severity: Severity::Info,
            code: "services-not-checked",
            object: String::new(),
            field: String::new(),
            origin: Origin { line: 0, ..first.origin.clone() },
            message: format!(
                "{} not checked for partly reachable backends, as that takes more than {verdicts} verdicts: {}",
                counted(unchecked.len(), "Service"),
                some_of(unchecked.iter().map(|service| &service.key)),
            ),
            remedy: "lint some of the namespaces at a time".to_owned(),
        });
    }
}

/// The clients that reach some backends and not others; `None` if there are verdicts left for it no
/// more.
fn parts(
    world: &World<'_>,
    service: &Service,
    port: &ServicePort,
    backends: &[&Backend],
    v4: bool,
    left: &mut usize,
) -> Option<Parts> {
    let mut kinds: BTreeMap<(ClassId, u16), Vec<&Backend>> = BTreeMap::new();
    for backend in backends {
        let class = world.class_of(backend.address);
        kinds.entry((class, backend.port)).or_default().push(backend);
    }
    let mut parts = Parts::new();
    if kinds.len() < 2 {
        return Some(parts);
    }
    let clients = clients(world, service, v4);
    *left = left.checked_sub(clients.len() * kinds.len())?;
    let protocol = port.protocol.number();
    for (class, outside) in clients {
        let members = &world.members[usize::from(!v4)][class.0 as usize];
        // A pod always reaches itself; for the question whether it reaches the others that is
        // neither here nor there.
        let is_itself = |backends: &[&Backend]| {
            outside.is_none()
                && members.len() == 1
                && backends.iter().all(|backend| backend.pod == Some(members[0]))
        };
        let (mut reached, mut missed, mut first_missed) = (Vec::new(), Vec::new(), None);
        for (kind, backends) in kinds.iter().filter(|(_, backends)| !is_itself(backends)) {
            let names = backends.iter().map(|backend| match backend.pod {
                Some(pod) => world.pods[pod].key.to_string(),
                None => backend.address.to_ip().to_string(),
            });
            if world.judge(class, kind.0, protocol, kind.1).is_allowed() {
                reached.extend(names);
            } else {
                first_missed.get_or_insert(*kind);
                missed.extend(names);
            }
        }
        let (false, Some((to, number))) = (reached.is_empty(), first_missed) else { continue };
        reached.sort_unstable();
        missed.sort_unstable();
        let group = parts.entry((reached, missed)).or_default();
        if group.cause.is_empty() {
            group.cause = cause(world, class, to, port.protocol, number);
        }
        match outside {
            Some(prefix) => {
                group.outside.insert(prefix);
            }
            None => members.iter().for_each(|pod| group.pods.insert(*pod)),
        }
    }
    Some(parts)
}

/// Classes of clients of one family: pods; for a Service that is offered outside, the prefixes that
/// policies tell apart, too.
fn clients(world: &World<'_>, service: &Service, v4: bool) -> Vec<(ClassId, Option<String>)> {
    let classes = world.members[usize::from(!v4)].iter().enumerate();
    let mut clients: Vec<(ClassId, Option<String>)> = classes
        .filter(|(_, members)| !members.is_empty())
        .map(|(class, _)| (ClassId(u32::try_from(class).unwrap_or(u32::MAX)), None))
        .collect();
    // With `externalTrafficPolicy: Cluster` the node that takes a connection may put its own address
    // in the client's place (API reference, ServiceSpec): which clients those are, nobody knows.
    if matches!(service.kind, ServiceType::NodePort | ServiceType::LoadBalancer)
        && service.external_traffic == TrafficPolicy::Local
    {
        let prefixes = world.offline.compiled.image.prefixes.iter();
        let prefixes = prefixes.filter(|(prefix, _)| prefix.addr().is_ipv4() == v4);
        clients.extend(prefixes.map(|(net, class)| (ClassId(*class), Some(net.to_string()))));
    }
    clients
}

/// Whose policies keep a client from a backend.
fn cause(world: &World<'_>, from: ClassId, to: ClassId, protocol: Protocol, port: u16) -> String {
    let judgement = world.judge(from, to, protocol.number(), port);
    let table = world.table();
    let (side, program) = match judgement.ingress.is_allow() {
        false => ("ingress", table.programs(to).map(|(ingress, _)| ingress)),
        true => ("egress", table.programs(from).map(|(_, egress)| egress)),
    };
    let policies = program.map(|program| some_of(world.isolating(program))).unwrap_or_default();
    match policies.is_empty() {
        true => "whose addresses are isolated".to_owned(),
        false => format!("as no {side} rule of NetworkPolicy {policies} allows it"),
    }
}

fn report(
    world: &World<'_>,
    service: &Service,
    port: &ServicePort,
    parts: &Parts,
    family: &str,
    findings: &mut Vec<Finding>,
) {
    /// Groups of clients that are told in full.
    const TOLD: usize = 3;
    if parts.is_empty() {
        return;
    }
    let position = service.ports.iter().position(|other| std::ptr::eq(other, port));
    let mut told: Vec<String> = parts
        .iter()
        .take(TOLD)
        .map(|((reached, missed), clients)| {
            let mut who: Vec<String> = Vec::new();
            if !clients.pods.is_empty() {
                let names = world.names(clients.pods.iter());
                who.push(format!("{} ({names})", counted(clients.pods.len(), "client pod")));
            }
            if !clients.outside.is_empty() {
                who.push(format!("clients outside ({})", some_of(&clients.outside)));
            }
            format!(
                "{} reach only {}, not {}, {}",
                who.join(" and "),
                some_of(reached),
                some_of(missed),
                clients.cause
            )
        })
        .collect();
    if parts.len() > TOLD {
        told.push(format!("and so on for {} more groups of clients", parts.len() - TOLD));
    }
    let selector: Vec<String> =
        service.selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    findings.push(Finding {
        // Clients of a headless Service choose a backend, and may know which.
        severity: if service.headless { Severity::Info } else { Severity::Warning },
        code: "service-partly-reachable",
        object: format!("Service {}", service.key),
        field: format!("spec.ports[{}]", position.unwrap_or_default()),
        origin: service.origin.clone(),
        message: format!(
            "connections to {}/{}{family} pass or fail by chance: {}",
            port.protocol,
            port.port,
            told.join("; ")
        ),
        remedy: match selector.is_empty() {
            true => "the same rules for all backends".to_owned(),
            false => format!(
                "the same rules for all backends: a podSelector that selects them as the Service does (`{}`), and the same ports",
                selector.join(",")
            ),
        },
    });
}
