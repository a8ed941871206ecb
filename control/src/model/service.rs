//! `v1` Service: under which address and ports pods are offered.
//!
//! Policies act on the pods behind a Service; so a connection to its address is judged on them
//! where it leaves its source, before a backend is chosen for it. And people think in Services, so
//! that what is wrong with one can be said.
//!
//! Source of the rules: `pkg/apis/core/validation` (ValidateService) and `pkg/apis/core/v1/defaults`
//! of Kubernetes. A Service that fails any of them is left out.

use std::net::IpAddr;

use super::common::{complain, decode_ip, decode_metadata, decode_protocol};
use super::decode::{Place, Problems};
use super::document::Value;
use super::label::{Labels, decode_labels};
use super::policy::Protocol;
use super::policy_rule::{decode_port_number, port_name};
use super::{Complaint, ObjectKey, Origin};

/// `spec.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServiceType {
    /// Reachable inside the cluster; the default.
    ClusterIp,
    /// Also through a port of every node.
    NodePort,
    /// Also through a load balancer outside.
    LoadBalancer,
    /// A name for something elsewhere: no address, no backends.
    ExternalName,
}

/// `spec.externalTrafficPolicy` and `spec.internalTrafficPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrafficPolicy {
    /// Any backend; a client's address from outside may be lost. The default.
    Cluster,
    /// Only backends of the node that the packet came to, or leaves; a client's address stays.
    Local,
}

/// `targetPort`: the port of the backend.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TargetPort {
    /// The same number in every backend.
    Number(u16),
    /// The number that each backend gives to this name.
    Name(String),
}

/// One item of `spec.ports`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// Its name; required in the API if there are several.
    pub name: Option<String>,
    /// Protocol; TCP where the manifest names none.
    pub protocol: Protocol,
    /// The Service's own port, 1 to 65535.
    pub port: u16,
    /// The backends' port; the Service's where the manifest names none.
    pub target: TargetPort,
    /// The port of every node, 1 to 65535, if there is one.
    pub node_port: Option<u16>,
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Its type.
    pub kind: ServiceType,
    /// `spec.clusterIPs` and `spec.clusterIP`, without repetition; empty if headless or not yet
    /// given.
    pub cluster_ips: Vec<IpAddr>,
    /// `clusterIP: None`: clients are given the backends' own addresses.
    pub headless: bool,
    /// Labels of the backends; empty if EndpointSlices are written by hand.
    pub selector: Labels,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// `spec.externalIPs` and the addresses of `status.loadBalancer.ingress` that nodes take for
    /// the Service's (`ipMode` is not Proxy), without repetition.
    pub outer_ips: Vec<IpAddr>,
    /// What becomes of traffic from outside.
    pub external_traffic: TrafficPolicy,
    /// What becomes of traffic to the Service's own address, from pods and nodes.
    pub internal_traffic: TrafficPolicy,
    /// Where it was read.
    pub origin: Origin,
}

/// Reads a Service. `None` if it does not pass validation.
pub(super) fn decode(
    root: &Place<'_>,
    origin: &Origin,
    complaints: &mut Vec<Complaint>,
) -> Option<Service> {
    let mut problems = Problems::default();
    let key = decode_metadata(root, origin, &mut problems).key;
    let mut service = Service {
        key,
        kind: ServiceType::ClusterIp,
        cluster_ips: Vec::new(),
        headless: false,
        selector: Labels::new(),
        ports: Vec::new(),
        outer_ips: Vec::new(),
        external_traffic: TrafficPolicy::Cluster,
        internal_traffic: TrafficPolicy::Cluster,
        origin: origin.clone(),
    };
    match root.field("spec").filter(|spec| spec.is_map(&mut problems)) {
        Some(spec) if spec.is_map(&mut problems) => {
            decode_spec(&spec, &mut service, &mut problems);
        }
        Some(_) => {}
        None => problems.at(root, "`spec` is required"),
    }
    decode_status(root, &mut service, &mut problems);
    let object = format!("Service {}", service.key);
    let refused = complain(problems, &object, origin, "the Service is left out", complaints);
    (!refused).then_some(service)
}

fn decode_spec(spec: &Place<'_>, service: &mut Service, problems: &mut Problems) {
    if let Some(field) = spec.field("type") {
        service.kind = match field.string(problems) {
            Some("ClusterIP") => ServiceType::ClusterIp,
            Some("NodePort") => ServiceType::NodePort,
            Some("LoadBalancer") => ServiceType::LoadBalancer,
            Some("ExternalName") => ServiceType::ExternalName,
            Some(other) => {
                problems.at(
                    &field,
                    format!(
                        "`{other}` is no type; write ClusterIP, NodePort, LoadBalancer or ExternalName"
                    ),
                );
                ServiceType::ClusterIp
            }
            None => ServiceType::ClusterIp,
        };
    }
    let mut addresses: Vec<Place<'_>> = Vec::new();
    if let Some(field) = spec.field("clusterIPs") {
        addresses.extend(field.items(problems));
    }
    addresses.extend(spec.field("clusterIP"));
    for place in addresses {
        match &place.node.value {
            Value::String(text) if text == "None" => service.headless = true,
            // How the API prints "none yet".
            Value::String(text) if text.is_empty() => {}
            _ => {
                let address = decode_ip(&place, problems);
                let new = address.filter(|address| !service.cluster_ips.contains(address));
                service.cluster_ips.extend(new);
            }
        }
    }
    if service.headless && !service.cluster_ips.is_empty() {
        problems.at(spec, "clusterIP cannot be None and an address at once");
    }
    if let Some(field) = spec.field("selector") {
        service.selector = decode_labels(&field, problems);
    }
    service.external_traffic = decode_traffic_policy(spec, "externalTrafficPolicy", problems);
    service.internal_traffic = decode_traffic_policy(spec, "internalTrafficPolicy", problems);
    if let Some(field) = spec.field("externalIPs") {
        for place in field.items(problems) {
            let address = decode_ip(&place, problems);
            let new = address.filter(|address| !service.outer_ips.contains(address));
            service.outer_ips.extend(new);
        }
    }
    let items = spec.field("ports").map(|field| field.items(problems)).unwrap_or_default();
    for item in &items {
        service.ports.extend(decode_port(item, items.len() > 1, problems));
    }
    if items.is_empty() && !service.headless && service.kind != ServiceType::ExternalName {
        problems.at(spec, "`ports` is required, unless the Service is headless");
    }
}

fn decode_traffic_policy(spec: &Place<'_>, name: &str, problems: &mut Problems) -> TrafficPolicy {
    let Some(field) = spec.field(name) else { return TrafficPolicy::Cluster };
    match field.string(problems) {
        Some("Local") => TrafficPolicy::Local,
        Some("Cluster" | "") | None => TrafficPolicy::Cluster,
        Some(other) => {
            problems.at(&field, format!("`{other}` is neither Cluster nor Local"));
            TrafficPolicy::Cluster
        }
    }
}

/// The load balancer's addresses, if packets to them keep them up to the node (`ipMode: VIP`, the
/// default). A load balancer that is known by name alone has none.
fn decode_status(root: &Place<'_>, service: &mut Service, problems: &mut Problems) {
    let balancer = root.field("status").and_then(|status| status.field("loadBalancer"));
    let Some(ingress) = balancer.and_then(|balancer| balancer.field("ingress")) else { return };
    for item in ingress.items(problems) {
        let proxied = item.field("ipMode").and_then(|mode| mode.string(problems)) == Some("Proxy");
        let Some(place) = item.field("ip").filter(|_| !proxied) else { continue };
        if place.node.value == Value::String(String::new()) {
            continue;
        }
        let address = decode_ip(&place, problems);
        let new = address.filter(|address| !service.outer_ips.contains(address));
        service.outer_ips.extend(new);
    }
}

fn decode_port(place: &Place<'_>, named: bool, problems: &mut Problems) -> Option<ServicePort> {
    if !place.is_map(problems) {
        return None;
    }
    let name = match place.field("name") {
        Some(field) => field.string(problems).filter(|name| !name.is_empty()).map(str::to_owned),
        None => None,
    };
    if named && name.is_none() {
        problems.at(place, "`name` is required where there are several ports");
    }
    let protocol = decode_protocol(place, problems);
    let port = match place.field("port") {
        Some(field) => decode_port_number(&field, problems),
        None => {
            problems.at(place, "`port` is required");
            None
        }
    };
    let target = match place.field("targetPort") {
        None => port.map(TargetPort::Number),
        Some(field) => match &field.node.value {
            // The zero values of both types mean the Service's own port.
            Value::Integer(0) => port.map(TargetPort::Number),
            Value::String(name) if name.is_empty() => port.map(TargetPort::Number),
            Value::Integer(_) => decode_port_number(&field, problems).map(TargetPort::Number),
            Value::String(name) => {
                if let Err(why) = port_name(name) {
                    problems.at(&field, why);
                }
                Some(TargetPort::Name(name.clone()))
            }
            _ => {
                field.expected("a port number or a port name", problems);
                None
            }
        },
    };
    let node_port = match place.field("nodePort") {
        Some(field) if field.node.value != Value::Integer(0) => {
            decode_port_number(&field, problems)
        }
        _ => None,
    };
    Some(ServicePort { name, protocol: protocol?, port: port?, target: target?, node_port })
}
