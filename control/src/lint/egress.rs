//! Egress isolation that goes further than meant: no DNS, no API server.
//!
//! Judged for each class of pods through the compiled table, against the pods behind the DNS
//! Services and the API server's endpoints. Where the input does not say where DNS is, the rules'
//! ports alone are looked at.

use std::collections::{BTreeMap, BTreeSet};

use weir_table::policy::{ClassId, ProgramId};

use super::meant::SYSTEM_NAMESPACE;
use super::select::implies;
use super::services::{Backend, backends};
use super::world::{PodSet, World, counted};
use super::{Finding, Notes, Severity};
use crate::model::{
    Direction, NetworkPolicy, ObjectKey, Origin, PortMatch, Protocol, Rule, Service,
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const DNS_PORT: u16 = 53;
/// Where kubeadm and most others let the API server listen.
const API_PORT: u16 = 6443;
/// The label of the cluster's DNS pods, whatever the implementation.
const DNS_LABEL: (&str, &str) = ("k8s-app", "kube-dns");
const DNS_REMEDY: &str = "an egress rule to pods `k8s-app: kube-dns` of namespaces `kubernetes.io/metadata.name: kube-system` (one item), with ports 53 of UDP and TCP";

pub(super) fn check(world: &World<'_>, findings: &mut Vec<Finding>) {
    if world.pods.is_empty() {
        by_text(world, findings);
        return;
    }
    let servers = dns_servers(world);
    let api = api_servers(world);
    let mut groups: BTreeMap<Case, PodSet> = BTreeMap::new();
    let allows = rows_that_allow(world);
    for (family, classes) in world.members.iter().enumerate() {
        for (class, members) in classes.iter().enumerate().filter(|(_, m)| !m.is_empty()) {
            let class = ClassId(u32::try_from(class).unwrap_or(u32::MAX));
            let Some((_, program)) = world.table().programs(class) else { continue };
            let client = Client { class, program, members, v4: family == 0 };
            let silent =
                program != ProgramId::UNRESTRICTED && !program_allows(world, program, &allows);
            dns(world, &client, &servers, silent, &mut groups);
            // What may send nothing at all has been said already.
            if program != ProgramId::UNRESTRICTED && !silent {
                api_server(world, &client, &api, &mut groups);
            }
        }
    }
    for (case, pods) in groups {
        report(world, &case, &pods, findings);
    }
}

/// Pods of one class and one family.
struct Client<'a> {
    class: ClassId,
    program: ProgramId,
    members: &'a [usize],
    v4: bool,
}

/// What is wrong, and the policy that it is said about.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Case {
    /// Egress policies, all names joined.
    NoDns {
        policies: Vec<String>,
        silent: bool,
        listens: Option<u16>,
    },
    /// The DNS pods' own ingress policies.
    DnsClosed {
        policies: Vec<String>,
    },
    /// Names, but no long answers.
    NoDnsOverTcp {
        policies: Vec<String>,
    },
    NoApi {
        policies: Vec<String>,
    },
}

/// A DNS server.
struct Server {
    backend: Backend,
    udp: u16,
    tcp: u16,
}

fn dns_servers(world: &World<'_>) -> Vec<Server> {
    let mut servers = Vec::new();
    for service in world.index.services() {
        if !is_cluster_dns(service) {
            continue;
        }
        let all = backends(world, service);
        let of = |protocol| {
            all.iter()
                .find(|(port, _)| port.protocol == protocol && port.port == DNS_PORT)
                .map(|(_, backends)| backends.clone())
                .unwrap_or_default()
        };
        let tcp = of(Protocol::Tcp);
        for backend in of(Protocol::Udp) {
            let tcp = tcp.iter().find(|tcp| tcp.address == backend.address);
            let (udp, tcp) = (backend.port, tcp.map_or(backend.port, |tcp| tcp.port));
            servers.push(Server { backend, udp, tcp });
        }
    }
    // DNS pods that no Service in the input leads to, on the port that they are known by.
    let behind: BTreeSet<usize> = servers.iter().filter_map(|s| s.backend.pod).collect();
    let system = world.in_namespace(SYSTEM_NAMESPACE).filter(|number| !behind.contains(number));
    for number in system {
        let pod = world.pods[number];
        let labelled = pod.labels.get(DNS_LABEL.0).is_some_and(|value| value == DNS_LABEL.1);
        if !labelled || !pod.is_policed() || pod.terminating {
            continue;
        }
        servers.extend(pod.addresses.iter().map(|address| Server {
            backend: Backend { address: (*address).into(), port: DNS_PORT, pod: Some(number) },
            udp: DNS_PORT,
            tcp: DNS_PORT,
        }));
    }
    servers
}

/// Whether pods are told to resolve names here: the Service `kube-dns` of kube-system, or one there
/// of another name over the same pods. (Specification "Kubernetes DNS-Based Service Discovery";
/// that a Service has DNS in its name, or offers port 53, does not make it the cluster's.)
fn is_cluster_dns(service: &Service) -> bool {
    let labelled = service.selector.get(DNS_LABEL.0).is_some_and(|value| value == DNS_LABEL.1);
    *service.key.namespace == *SYSTEM_NAMESPACE
        && (labelled || *service.key.name == *DNS_LABEL.1)
        && service.ports.iter().any(|p| p.protocol == Protocol::Udp && p.port == DNS_PORT)
}

fn dns(
    world: &World<'_>,
    client: &Client<'_>,
    servers: &[Server],
    silent: bool,
    groups: &mut BTreeMap<Case, PodSet>,
) {
    let restricted = client.program != ProgramId::UNRESTRICTED;
    let isolating = || names(world, client.program);
    let is_server = |pod: &usize| servers.iter().any(|server| server.backend.pod == Some(*pod));
    let pods: PodSet = client.members.iter().copied().filter(|pod| !is_server(pod)).collect();
    if pods.is_empty() {
        return;
    }
    let mut note = |case: Case| groups.entry(case).or_default().add(&pods);
    let servers: Vec<&Server> =
        servers.iter().filter(|server| server.backend.address.is_v4() == client.v4).collect();
    if servers.is_empty() {
        if restricted && !rules_of(world, client.program).any(may_resolve) {
            note(Case::NoDns { policies: isolating(), silent, listens: None });
        }
        return;
    }
    let ask = |protocol: u8| {
        let verdicts = servers.iter().map(|server| {
            let port = if protocol == UDP { server.udp } else { server.tcp };
            let to = world.class_of(server.backend.address);
            (*server, world.judge(client.class, to, protocol, port))
        });
        verdicts.collect::<Vec<_>>()
    };
    let udp = ask(UDP);
    if udp.iter().any(|(_, verdict)| verdict.is_allowed()) {
        let tcp = ask(TCP);
        if restricted && !tcp.iter().any(|(_, verdict)| verdict.egress.is_allow()) {
            note(Case::NoDnsOverTcp { policies: isolating() });
        }
        return;
    }
    if let Some((server, _)) = udp.iter().find(|(_, verdict)| verdict.egress.is_allow()) {
        let to = world.class_of(server.backend.address);
        let ingress = world.table().programs(to).map(|(ingress, _)| ingress);
        let policies = ingress.map(|program| names(world, program)).unwrap_or_default();
        note(Case::DnsClosed { policies });
        return;
    }
    // A resolver outside of the cluster, or on the node, will do.
    let prefixes = &world.offline.compiled.image.prefixes;
    let outside = prefixes.iter().any(|(_, class)| {
        world.table().judge(client.program, ClassId(*class), UDP, DNS_PORT).is_allow()
    });
    if !outside {
        let listens = servers.iter().find(|server| {
            let to = world.class_of(server.backend.address);
            server.udp != DNS_PORT
                && world.table().judge(client.program, to, UDP, DNS_PORT).is_allow()
        });
        let listens = listens.map(|server| server.udp);
        note(Case::NoDns { policies: isolating(), silent, listens });
    }
}

/// Addresses and ports of the API server: the endpoints of `default/kubernetes`, or the nodes of
/// the control plane.
fn api_servers(world: &World<'_>) -> Vec<Backend> {
    let service = world.index.service(&ObjectKey::new("default", "kubernetes"));
    let behind: Vec<Backend> = service
        .map(|service| backends(world, service).into_iter().flat_map(|(_, b)| b).collect())
        .unwrap_or_default();
    if !behind.is_empty() {
        return behind;
    }
    let nodes = world.index.nodes().filter(|node| node.is_control_plane());
    let addresses = nodes.flat_map(|node| &node.addresses);
    addresses
        .map(|address| Backend { address: (*address).into(), port: API_PORT, pod: None })
        .collect()
}

fn api_server(
    world: &World<'_>,
    client: &Client<'_>,
    servers: &[Backend],
    groups: &mut BTreeMap<Case, PodSet>,
) {
    let mut servers = servers.iter().filter(|s| s.address.is_v4() == client.v4).peekable();
    let reached = |server: &Backend| {
        let to = world.class_of(server.address);
        world.judge(client.class, to, TCP, server.port).is_allowed()
    };
    if servers.peek().is_none() || servers.any(reached) {
        return;
    }
    let policies = names(world, client.program);
    groups
        .entry(Case::NoApi { policies })
        .or_default()
        .add(&client.members.iter().copied().collect());
}

fn names(world: &World<'_>, program: ProgramId) -> Vec<String> {
    world.isolating(program).into_iter().map(str::to_owned).collect()
}

/// The egress rules of the policies that isolate the members of a program.
fn rules_of<'a>(world: &'a World<'_>, program: ProgramId) -> impl Iterator<Item = &'a Rule> {
    let policies = world.isolating(program).into_iter().filter_map(|name| policy(world, name));
    policies.flat_map(|policy| policy.rules(Direction::Egress))
}

fn policy<'a>(world: &'a World<'_>, name: &str) -> Option<&'a NetworkPolicy> {
    let (namespace, name) = name.split_once('/')?;
    world.index.policy(&ObjectKey::new(namespace, name))
}

/// Whether a rule's ports hold DNS, to whomever.
fn may_resolve(rule: &Rule) -> bool {
    rule.ports.is_empty()
        || rule.ports.iter().any(|port| {
            port.protocol == Protocol::Udp
                && match &port.port {
                    PortMatch::All | PortMatch::Named(_) => true,
                    PortMatch::Range(first, last) => (*first..=*last).contains(&DNS_PORT),
                }
        })
}

/// Which rows of the table allow anything.
fn rows_that_allow(world: &World<'_>) -> Vec<bool> {
    let rows = &world.offline.compiled.image.rows;
    rows.iter().map(|row| row.iter().any(|verdict| verdict.is_allow())).collect()
}

fn program_allows(world: &World<'_>, program: ProgramId, rows: &[bool]) -> bool {
    let programs = &world.offline.compiled.image.programs;
    let Some(program) = programs.get(program.0 as usize) else { return false };
    let spans = [&program.tcp, &program.udp, &program.sctp].into_iter().flatten();
    let mut used = spans.map(|span| span.row).chain([program.icmp, program.other]);
    used.any(|row| rows.get(row as usize).copied().unwrap_or(false))
}

fn report(world: &World<'_>, case: &Case, pods: &PodSet, findings: &mut Vec<Finding>) {
    let who = format!("{} ({})", counted(pods.len(), "pod"), world.names(pods.iter()));
    let by = |policies: &[String]| match policies {
        [_] => "this policy".to_owned(),
        all => format!("NetworkPolicy {}", all.join(", ")),
    };
    let (severity, code, policies, message, remedy) = match case {
        Case::NoDns { policies, silent: true, .. } => (
            Severity::Info,
            "no-dns",
            policies,
            format!("{who} may send nothing at all, DNS included (isolated by {})", by(policies)),
            format!("nothing, if that is meant; for names {DNS_REMEDY}"),
        ),
        Case::NoDns { policies, listens: Some(port), .. } => (
            Severity::Warning,
            "no-dns",
            policies,
            format!("{who} cannot resolve names: port 53 is allowed, but the DNS pods listen on {port}, and policies see the pods' port"),
            format!("port {port} of UDP and TCP beside port 53"),
        ),
        Case::NoDns { policies, .. } => (
            Severity::Warning,
            "no-dns",
            policies,
            format!("{who} cannot resolve names: isolated for egress by {}, and no rule allows UDP/53 to a DNS server", by(policies)),
            DNS_REMEDY.to_owned(),
        ),
        Case::DnsClosed { policies } => (
            Severity::Warning,
            "no-dns",
            policies,
            format!("{who} cannot resolve names: the DNS pods are isolated for ingress by {}, and no rule admits them", by(policies)),
            "an ingress rule for the DNS pods with ports 53 of UDP and TCP, and no `from`".to_owned(),
        ),
        Case::NoDnsOverTcp { policies } => (
            Severity::Info,
            "no-dns",
            policies,
            format!("{who} may ask DNS over UDP and not over TCP: answers that are too long for UDP are lost"),
            "port 53 of TCP beside that of UDP".to_owned(),
        ),
        Case::NoApi { policies } => (
            Severity::Warning,
            "no-api-server",
            policies,
            format!("{who} cannot reach the API server: isolated for egress by {}", by(policies)),
            "an egress rule with an ipBlock for the API server's addresses and port, if these pods use it; nothing otherwise"
                .to_owned(),
        ),
    };
    let first = policies.first().map(String::as_str).unwrap_or_default();
    let origin = policy(world, first).map(|policy| policy.origin.clone());
    let direction = if matches!(case, Case::DnsClosed { .. }) { "ingress" } else { "egress" };
    findings.push(Finding {
        severity,
        code,
        object: format!("NetworkPolicy {first}"),
        field: format!("spec.{direction}"),
        origin: origin.unwrap_or_else(Origin::memory),
        message,
        remedy,
    });
}

/// Without pods: a policy that isolates for egress, and no rule of it, nor of another that selects
/// at least the same pods, names port 53.
fn by_text(world: &World<'_>, findings: &mut Vec<Finding>) {
    let isolating = |view: &&super::world::PolicyView<'_>| view.policy.isolates(Direction::Egress);
    let mut said: BTreeSet<&ObjectKey> = BTreeSet::new();
    for view in world.policies.iter().filter(isolating) {
        let policy = view.policy;
        let helping = world.policies.iter().filter(|other| {
            other.policy.key.namespace == policy.key.namespace
                && implies(&policy.pod_selector, &other.policy.pod_selector)
        });
        let rules: Vec<&Rule> =
            helping.flat_map(|other| other.policy.rules(Direction::Egress)).collect();
        if rules.iter().copied().any(may_resolve) || !said.insert(&policy.key) {
            continue;
        }
        let silent = rules.is_empty();
        let mut notes = Notes { view, findings };
        notes.add(
            if silent { Severity::Info } else { Severity::Warning },
            "no-dns",
            ("spec.egress", 0),
            match silent {
                true => "the pods it selects may send nothing at all, DNS included",
                false => "the pods it selects cannot resolve names: no rule allows UDP/53",
            },
            match silent {
                true => format!("nothing, if that is meant; for names {DNS_REMEDY}"),
                false => DNS_REMEDY.to_owned(),
            },
        );
    }
}
