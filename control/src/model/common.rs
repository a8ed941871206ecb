//! What the decoders of several kinds share: metadata, protocols, addresses, complaints.

use std::net::IpAddr;
use std::sync::Arc;

use super::decode::{Place, Problems};
use super::document::Value;
use super::label::{Labels, decode_labels, is_dns_label};
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
pub(super) fn decode_metadata(
    root: &Place<'_>,
    origin: &Origin,
    problems: &mut Problems,
) -> Metadata {
    let mut metadata =
        Metadata { key: ObjectKey::new("default", unnamed(origin)), labels: Labels::new() };
    let Some(place) = root.field("metadata") else {
        problems.at(root, "metadata.name is required");
        return metadata;
    };
    if !place.is_map(problems) {
        return metadata;
    }
    // No namespace has this name, so nobody's namesake is hidden.
    let namespace = decode_namespace(&place, problems);
    metadata.key.namespace = namespace.map_or_else(|| "(unreadable)".into(), Arc::from);
    if let Some(name) = decode_name(&place, problems) {
        metadata.key.name = Arc::from(name);
    }
    if let Some(field) = place.field("labels") {
        metadata.labels = decode_labels(&field, problems);
    }
    metadata
}

/// `metadata.name`; `None`, and noted, if there is none.
pub(super) fn decode_name(metadata: &Place<'_>, problems: &mut Problems) -> Option<String> {
    match metadata.field("name") {
        Some(field) => match field.string(problems)? {
            "" => {
                problems.at(&field, "must not be empty");
                None
            }
            name => Some(name.to_owned()),
        },
        None => {
            problems.at(metadata, "`name` is required");
            None
        }
    }
}

/// `metadata.namespace`, `default` if it is absent or empty. What is no namespace name refuses the
/// object, as it does at the API server (RFC 1123 label); if only case, surrounding space or quotes
/// are wrong, the namespace that was meant is known all the same, and is given.
pub(super) fn decode_namespace(metadata: &Place<'_>, problems: &mut Problems) -> Option<String> {
    let Some(field) = metadata.field("namespace") else { return Some("default".to_owned()) };
    let number;
    let text = match &field.node.value {
        Value::Integer(value) => {
            number = value.to_string();
            &number
        }
        Value::String(text) => text,
        _ => return field.string(problems).map(str::to_owned),
    };
    if text.is_empty() {
        return Some("default".to_owned());
    }
    if is_dns_label(text) && matches!(field.node.value, Value::String(_)) {
        return Some(text.clone());
    }
    let meant = text.trim().to_ascii_lowercase();
    let meant = Some(meant).filter(|meant| is_dns_label(meant));
    let read = meant.as_ref().map_or(String::new(), |meant| format!("; it is read as \"{meant}\""));
    problems.at(&field, format!("`{text}` is no namespace name (RFC 1123 label, a string){read}"));
    meant
}

/// Stands for a name that is missing; another one for every object of a file that keeps lines.
pub(super) fn unnamed(origin: &Origin) -> String {
    format!("{UNNAMED}, {origin})")
}

/// How a placeholder for a missing name begins; no name can.
pub(super) const UNNAMED: &str = "(unnamed";

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
