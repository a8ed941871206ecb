//! What the decoders of several kinds share: metadata, protocols, addresses, complaints.

use std::net::IpAddr;

use super::decode::{Place, Problems};
use super::label::{Labels, decode_labels};
use super::policy::Protocol;
use super::{Complaint, Effect, ObjectKey, Origin, Severity};

/// Name, namespace and labels of an object.
#[derive(Debug)]
pub(super) struct Metadata {
    /// Namespace (`default` if absent; means nothing for a cluster-wide kind) and name.
    pub(super) key: ObjectKey,
    /// Labels; those that are not valid are left out and noted.
    pub(super) labels: Labels,
}

/// Reads `metadata`; what cannot be read is noted and gets a placeholder.
pub(super) fn decode_metadata(root: &Place<'_>, problems: &mut Problems) -> Metadata {
    let mut metadata =
        Metadata { key: ObjectKey::new("default", "(unnamed)"), labels: Labels::new() };
    let Some(place) = root.field("metadata") else {
        problems.at(root, "metadata.name is required");
        return metadata;
    };
    if !place.is_map(problems) {
        return metadata;
    }
    if let Some(field) = place.field("namespace")
        && let Some(namespace) = field.string(problems)
    {
        namespace.clone_into(&mut metadata.key.namespace);
    }
    match place.field("name") {
        Some(field) => {
            if let Some(name) = field.string(problems) {
                name.clone_into(&mut metadata.key.name);
            }
        }
        None => problems.at(&place, "`name` is required"),
    }
    if let Some(field) = place.field("labels") {
        metadata.labels = decode_labels(&field, problems);
    }
    metadata
}

/// A field `protocol`: TCP where there is none.
pub(super) fn decode_protocol(place: &Place<'_>, problems: &mut Problems) -> Option<Protocol> {
    let Some(field) = place.field("protocol") else { return Some(Protocol::Tcp) };
    let text = field.string(problems)?;
    let protocol = Protocol::from_api(text);
    if protocol.is_none() {
        problems.at(&field, format!("`{text}` is no protocol; write TCP, UDP or SCTP"));
    }
    protocol
}

/// The address of one host.
pub(super) fn decode_ip(place: &Place<'_>, problems: &mut Problems) -> Option<IpAddr> {
    let text = place.string(problems)?;
    let Ok(address) = text.parse::<IpAddr>() else {
        problems.at(place, format!("`{text}` is no IP address"));
        return None;
    };
    let mapped = matches!(address, IpAddr::V6(a) if a.to_ipv4_mapped().is_some());
    if mapped || address.is_unspecified() || address.is_multicast() {
        problems.at(place, format!("`{text}` cannot be the address of one host"));
        return None;
    }
    Some(address)
}

/// Turns problems into complaints about `object`; whether any of them refuses it.
pub(super) fn complain(
    problems: Problems,
    object: &str,
    origin: &Origin,
    consequence: &str,
    complaints: &mut Vec<Complaint>,
) -> bool {
    let refused = problems.refusals() > 0;
    complaints.extend(problems.list.into_iter().map(|problem| Complaint {
        severity: if problem.warning { Severity::Warning } else { Severity::Refused },
        // Kinds that decide no verdict; the others say their own.
        effect: Effect::Nothing,
        origin: Origin { line: problem.line, ..origin.clone() },
        object: object.to_owned(),
        field: problem.path,
        message: problem.message,
        consequence: if problem.warning { String::new() } else { consequence.to_owned() },
    }));
    refused
}
