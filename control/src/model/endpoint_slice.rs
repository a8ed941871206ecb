//! `discovery.k8s.io/v1` EndpointSlice: which backends a Service has at present.
//!
//! Source of the rules: `pkg/apis/discovery/validation` of Kubernetes and the API reference. A slice
//! that fails any of them is left out, and decides no verdict otherwise.

use std::net::IpAddr;
use std::sync::Arc;

use super::common::{complain, decode_ip, decode_metadata, decode_protocol};
use super::decode::{Place, Problems};
use super::policy::Protocol;
use super::policy_rule::decode_port_number;
use super::{Complaint, ObjectKey, Origin};

/// The one version of the API that serves EndpointSlice.
const API_VERSION: &str = "discovery.k8s.io/v1";

/// The label that names a slice's Service.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// `addressType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressType {
    /// IPv4 addresses.
    V4,
    /// IPv6 addresses.
    V6,
    /// Names; nothing that a policy can see.
    Fqdn,
}

/// One item of `endpoints`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses, which all stand for one backend; none if they are names.
    pub addresses: Vec<IpAddr>,
    /// `conditions.ready`; true where it is not stated ("should interpret this unknown state as
    /// ready").
    pub ready: bool,
    /// `conditions.serving`; as `ready` where it is not stated.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// The pod of `targetRef`, if it is one.
    pub pod: Option<ObjectKey>,
    /// `nodeName`.
    pub node: Option<String>,
}

/// One item of `ports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    /// The name of the Service's port; none if that has none.
    pub name: Option<String>,
    /// Protocol; TCP where none is stated.
    pub protocol: Protocol,
    /// The backends' port; `None` means any.
    pub port: Option<u16>,
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The Service it belongs to, of the same namespace, by [`SERVICE_LABEL`].
    pub service: Option<String>,
    /// What its addresses are.
    pub address_type: AddressType,
    /// Backends.
    pub endpoints: Vec<Endpoint>,
    /// Ports that every one of them has.
    pub ports: Vec<SlicePort>,
    /// Where it was read.
    pub origin: Origin,
}

/// Reads an EndpointSlice. `None` if it does not pass validation.
pub(super) fn decode(
    root: &Place<'_>,
    origin: &Origin,
    complaints: &mut Vec<Complaint>,
) -> Option<EndpointSlice> {
    let mut problems = Problems::default();
    if root.node.get_str("apiVersion") != Some(API_VERSION) {
        let place = root.field("apiVersion").unwrap_or_else(|| root.clone());
        problems.at(&place, format!("write `apiVersion: {API_VERSION}`"));
    }
    let metadata = decode_metadata(root, origin, &mut problems);
    let address_type = match root.field("addressType") {
        Some(field) => match field.string(&mut problems) {
            Some("IPv4") => Some(AddressType::V4),
            Some("IPv6") => Some(AddressType::V6),
            Some("FQDN") => Some(AddressType::Fqdn),
            Some(other) => {
                problems.at(&field, format!("`{other}` is none of IPv4, IPv6 and FQDN"));
                None
            }
            None => None,
        },
        None => {
            problems.at(root, "`addressType` is required: IPv4, IPv6 or FQDN");
            None
        }
    };
    let mut endpoints = Vec::new();
    if let Some(field) = root.field("endpoints") {
        for item in field.items(&mut problems) {
            endpoints.extend(decode_endpoint(&item, address_type, &metadata.key, &mut problems));
        }
    }
    let mut ports = Vec::new();
    if let Some(field) = root.field("ports") {
        for item in field.items(&mut problems) {
            ports.extend(decode_port(&item, &mut problems));
        }
    }
    let object = format!("EndpointSlice {}", metadata.key);
    if complain(problems, &object, origin, "the EndpointSlice is left out", complaints) {
        return None;
    }
    let service = metadata.labels.get(SERVICE_LABEL).filter(|name| !name.is_empty()).cloned();
    Some(EndpointSlice {
        key: metadata.key,
        service,
        address_type: address_type?,
        endpoints,
        ports,
        origin: origin.clone(),
    })
}

fn decode_endpoint(
    place: &Place<'_>,
    address_type: Option<AddressType>,
    slice: &ObjectKey,
    problems: &mut Problems,
) -> Option<Endpoint> {
    if !place.is_map(problems) {
        return None;
    }
    let mut endpoint = Endpoint {
        addresses: Vec::new(),
        ready: true,
        serving: true,
        terminating: false,
        pod: None,
        node: None,
    };
    let items = place.field("addresses").map(|field| field.items(problems)).unwrap_or_default();
    if items.is_empty() {
        problems.at(place, "`addresses` must hold at least one address");
    }
    for item in items {
        let wanted = match address_type {
            Some(AddressType::V4) => "IPv4",
            Some(AddressType::V6) => "IPv6",
            Some(AddressType::Fqdn) | None => continue,
        };
        let Some(address) = decode_ip(&item, problems) else { continue };
        if address.is_ipv4() != (wanted == "IPv4") {
            problems.at(&item, format!("{address} does not fit `addressType: {wanted}`"));
        }
        endpoint.addresses.push(address);
    }
    if let Some(conditions) = place.field("conditions") {
        let mut flag = |name: &str, default: bool| match conditions.field(name) {
            Some(field) => field.boolean(problems).unwrap_or(default),
            None => default,
        };
        endpoint.ready = flag("ready", true);
        endpoint.serving = flag("serving", endpoint.ready);
        endpoint.terminating = flag("terminating", false);
    }
    if let Some(target) = place.field("targetRef")
        && target.node.get_str("kind") == Some("Pod")
        && let Some(name) = target.field("name").and_then(|name| name.string(problems))
    {
        let namespace = target.field("namespace").and_then(|field| field.string(problems));
        let namespace = namespace.map_or_else(|| Arc::clone(&slice.namespace), Arc::from);
        endpoint.pod = Some(ObjectKey::new(namespace, name));
    }
    if let Some(field) = place.field("nodeName") {
        endpoint.node = field.string(problems).map(str::to_owned);
    }
    Some(endpoint)
}

fn decode_port(place: &Place<'_>, problems: &mut Problems) -> Option<SlicePort> {
    if !place.is_map(problems) {
        return None;
    }
    let name = match place.field("name") {
        Some(field) => field.string(problems).filter(|name| !name.is_empty()).map(str::to_owned),
        None => None,
    };
    let protocol = decode_protocol(place, problems)?;
    let port = match place.field("port") {
        Some(field) => Some(decode_port_number(&field, problems)?),
        None => None,
    };
    Some(SlicePort { name, protocol, port })
}
