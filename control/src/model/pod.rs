//! `v1` Pod: what identifies it on the wire and to selectors.

use std::net::IpAddr;
use std::sync::Arc;

use super::common::decode_metadata;
use super::decode::{Place, Problems};
use super::label::Labels;
use super::policy::Protocol;
use super::policy_rule::{decode_port_number, port_name};
use super::{Complaint, Effect, ObjectKey, Origin, Severity};

/// Phase of a pod's life, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Pending, Running, Unknown, or not stated.
    Live,
    /// Succeeded.
    Succeeded,
    /// Failed.
    Failed,
}

/// A port that a container declares.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerPort {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Protocol; TCP where the manifest names none.
    pub protocol: Protocol,
    /// Number, 1 to 65535.
    pub port: u16,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The UID by which the pod's node knows it, if it is stated: `metadata.uid`, or, of the mirror
    /// of a static pod, the static pod's own. Decides no verdict: it tells a pod from another that
    /// had its name before.
    pub uid: Option<Box<str>>,
    /// Labels; those of pods of one owner are one in the [`Index`](crate::index::Index).
    pub labels: Arc<Labels>,
    /// `status.podIP` and `status.podIPs`, without repetition, in that order.
    pub addresses: Vec<IpAddr>,
    /// Phase.
    pub phase: Phase,
    /// `spec.hostNetwork`: the pod has its node's addresses and is not policed.
    pub host_network: bool,
    /// `spec.nodeName`.
    pub node: Option<Arc<str>>,
    /// Ports of containers and of sidecars (init containers with `restartPolicy: Always`); shared
    /// as labels are.
    pub ports: Arc<[ContainerPort]>,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// Part of the object could not be read: isolated in both directions.
    pub refused: bool,
    /// Where it was read.
    pub origin: Origin,
}

impl Pod {
    /// A live pod on the pod network without addresses, labels or ports.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            key: ObjectKey::new(namespace, name),
            uid: None,
            labels: Arc::default(),
            addresses: Vec::new(),
            phase: Phase::Live,
            host_network: false,
            node: None,
            ports: Arc::default(),
            terminating: false,
            refused: false,
            origin: Origin::memory(),
        }
    }

    /// Whether policies apply to this pod's addresses: on the pod network and not finished.
    pub fn is_policed(&self) -> bool {
        !self.host_network && self.phase == Phase::Live
    }
}

/// Reads a Pod. `None` if it cannot even be named, or has no readable address to isolate.
pub(super) fn decode(
    root: &Place<'_>,
    origin: &Origin,
    complaints: &mut Vec<Complaint>,
) -> Option<Pod> {
    let mut problems = Problems::default();
    let metadata = decode_metadata(root, origin, &mut problems);
    let mut pod = Pod {
        uid: decode_uid(root),
        labels: Arc::new(metadata.labels),
        terminating: root
            .field("metadata")
            .is_some_and(|metadata| metadata.field("deletionTimestamp").is_some()),
        origin: origin.clone(),
        ..Pod::new(metadata.key.namespace, metadata.key.name)
    };
    if let Some(spec) = root.field("spec").filter(|spec| spec.is_map(&mut problems)) {
        decode_spec(&spec, &mut pod, &mut problems);
    }
    if let Some(status) = root.field("status").filter(|status| status.is_map(&mut problems)) {
        decode_status(&status, &mut pod, &mut problems);
    }
    pod.refused = problems.refusals() > 0;
    let (effect, consequence) = match pod.addresses.is_empty() {
        true => (Effect::NotEnforced, "the pod is left out: no policy acts on it"),
        false => (Effect::Closed, "the pod is isolated in both directions"),
    };
    for problem in problems.list {
        complaints.push(Complaint {
            severity: Severity::Refused,
            effect,
            origin: Origin { line: problem.line, ..origin.clone() },
            object: format!("Pod {}", pod.key),
            field: problem.path,
            message: problem.message,
            consequence: consequence.to_owned(),
        });
    }
    (!pod.refused || !pod.addresses.is_empty()).then_some(pod)
}

/// What a kubelet writes into the mirror that it makes of a static pod: the static pod's UID, which
/// is what it tells the runtime and the CNI plugins. Nobody but the API knows the mirror's own.
/// A kubelet runs no pod of the API that carries it, so nobody takes another pod's place by it.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

fn decode_uid(root: &Place<'_>) -> Option<Box<str>> {
    let metadata = root.node.get("metadata")?;
    let mirror = metadata.get("annotations").and_then(|annotations| annotations.get_str(MIRROR));
    let stated = |uid: Option<&str>| uid.filter(|uid| !uid.is_empty()).map(Box::from);
    stated(mirror).or_else(|| stated(metadata.get_str("uid")))
}

fn decode_spec(spec: &Place<'_>, pod: &mut Pod, problems: &mut Problems) {
    if let Some(field) = spec.field("hostNetwork") {
        pod.host_network = field.boolean(problems).unwrap_or(false);
    }
    if let Some(field) = spec.field("nodeName") {
        pod.node = field.string(problems).map(Arc::from);
    }
    let mut ports = Vec::new();
    if let Some(field) = spec.field("containers") {
        for container in field.items(problems) {
            decode_ports(&container, &mut ports, problems);
        }
    }
    if let Some(field) = spec.field("initContainers") {
        for container in field.items(problems) {
            if !container.is_map(problems) {
                continue;
            }
            // KEP-753: an init container that restarts always is a sidecar and serves as long as
            // the pod does.
            if container.node.get_str("restartPolicy") == Some("Always") {
                decode_ports(&container, &mut ports, problems);
            }
        }
    }
    pod.ports = Arc::from(ports);
}

fn decode_ports(container: &Place<'_>, ports: &mut Vec<ContainerPort>, problems: &mut Problems) {
    if !container.is_map(problems) {
        return;
    }
    let Some(field) = container.field("ports") else { return };
    for item in field.items(problems) {
        if !item.is_map(problems) {
            continue;
        }
        let Some(number) = item.field("containerPort") else {
            problems.at(&item, "`containerPort` is required");
            continue;
        };
        let Some(port) = decode_port_number(&number, problems) else { continue };
        let protocol = match item.field("protocol") {
            None => Some(Protocol::Tcp),
            Some(field) => field.string(problems).and_then(|text| {
                let protocol = Protocol::from_api(text);
                if protocol.is_none() {
                    problems.at(&field, format!("`{text}` is no protocol; write TCP, UDP or SCTP"));
                }
                protocol
            }),
        };
        let name = match item.field("name") {
            None => None,
            Some(field) => match field.string(problems) {
                Some("") => None,
                Some(name) => {
                    if let Err(why) = port_name(name) {
                        problems.at(&field, why);
                    }
                    Some(name.to_owned())
                }
                None => continue,
            },
        };
        if let Some(protocol) = protocol {
            ports.push(ContainerPort { name, protocol, port });
        }
    }
}

fn decode_status(status: &Place<'_>, pod: &mut Pod, problems: &mut Problems) {
    if let Some(field) = status.field("phase") {
        pod.phase = match field.string(problems) {
            Some("Succeeded") => Phase::Succeeded,
            Some("Failed") => Phase::Failed,
            _ => Phase::Live,
        };
    }
    let mut addresses = Vec::new();
    if let Some(field) = status.field("podIP") {
        addresses.extend(decode_address(&field, problems));
    }
    if let Some(field) = status.field("podIPs") {
        for item in field.items(problems) {
            if !item.is_map(problems) {
                continue;
            }
            match item.field("ip") {
                Some(field) => addresses.extend(decode_address(&field, problems)),
                None => problems.at(&item, "`ip` is required"),
            }
        }
    }
    for address in addresses {
        if !pod.addresses.contains(&address) {
            pod.addresses.push(address);
        }
    }
}

/// An address that one pod can own. The empty string is how the API prints "none yet".
fn decode_address(place: &Place<'_>, problems: &mut Problems) -> Option<IpAddr> {
    let text = place.string(problems)?;
    if text.is_empty() {
        return None;
    }
    let Ok(address) = text.parse::<IpAddr>() else {
        problems.at(place, format!("`{text}` is no IP address"));
        return None;
    };
    let mapped = matches!(address, IpAddr::V6(a) if a.to_ipv4_mapped().is_some());
    let broadcast = matches!(address, IpAddr::V4(a) if a.is_broadcast());
    if mapped || broadcast || address.is_unspecified() || address.is_multicast() {
        problems.at(place, format!("`{text}` cannot be a pod's address"));
        return None;
    }
    Some(address)
}

#[cfg(test)]
mod tests {
    use crate::model::{Object, load};

    #[test]
    fn the_uid_is_that_by_which_the_node_knows_the_pod() {
        for (metadata, expect) in [
            ("name: p", None),
            ("name: p, uid: \"\"", None),
            ("name: p, uid: 7", None),
            ("name: p, uid: 0a-b", Some("0a-b")),
            ("name: p, uid: 0a-b, annotations: {x: y}", Some("0a-b")),
            ("name: p, uid: 0a-b, annotations: {kubernetes.io/config.mirror: 7f9c}", Some("7f9c")),
            ("name: p, uid: 0a-b, annotations: {kubernetes.io/config.mirror: \"\"}", Some("0a-b")),
        ] {
            let text = format!("{{apiVersion: v1, kind: Pod, metadata: {{{metadata}}}}}");
            let loaded = load("t", text.as_bytes()).unwrap();
            assert_eq!(loaded.complaints, [], "{metadata}");
            let [Object::Pod(pod)] = &loaded.objects[..] else { panic!("{metadata}") };
            assert_eq!(pod.uid.as_deref(), expect, "{metadata}");
        }
    }
}
