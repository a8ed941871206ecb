//! From a value tree to a rule: its ports and its peers.
//!
//! Source of the rules: `ValidateNetworkPolicyPort`, `ValidateNetworkPolicyPeer` and `ValidateIPBlock`
//! in `pkg/apis/networking/validation` of Kubernetes. What is wrong is noted; the caller refuses the
//! rule as a whole.

use std::net::IpAddr;

use ipnet::IpNet;

use super::decode::{Place, Problems};
use super::document::Value;
use super::label::LabelSelector;
use super::policy::{Direction, Peer, PeerRule, PortMatch, PortRule, Protocol, Rule};

/// Reads a rule at its position in the list; `None` if nothing of it is left.
pub(super) fn decode_rule(
    place: &Place<'_>,
    direction: Direction,
    position: usize,
    problems: &mut Problems,
) -> Option<Rule> {
    if !place.is_map(problems) {
        return None;
    }
    place.only(&["ports", direction.peers_field()], problems);
    let mut rule = Rule { peers: Vec::new(), ports: Vec::new(), position, line: place.line() };
    if let Some(field) = place.field("ports") {
        for item in field.items(problems) {
            rule.ports.extend(decode_port(&item, problems));
        }
    }
    if let Some(field) = place.field(direction.peers_field()) {
        for item in field.items(problems) {
            if let Some(peer) = decode_peer(&item, problems) {
                rule.peers.push(PeerRule { peer, line: item.line() });
            }
        }
    }
    Some(rule)
}

fn decode_port(place: &Place<'_>, problems: &mut Problems) -> Option<PortRule> {
    if !place.is_map(problems) {
        return None;
    }
    place.only(&["protocol", "port", "endPort"], problems);
    let protocol = match place.field("protocol") {
        None => Protocol::Tcp,
        Some(field) => {
            let text = field.string(problems)?;
            Protocol::from_api(text).or_else(|| {
                problems
                    .at(&field, format!("`{text}` is no protocol here; write TCP, UDP or SCTP"));
                None
            })?
        }
    };
    let end = place.field("endPort");
    let port = match place.field("port") {
        None => {
            if let Some(end) = &end {
                problems.at(end, "needs a numeric `port` beside it");
            }
            PortMatch::All
        }
        Some(field) => match &field.node.value {
            Value::Integer(_) => {
                let first = decode_port_number(&field, problems)?;
                let last = match &end {
                    Some(end) => decode_port_number(end, problems)?,
                    None => first,
                };
                if let Some(end) = end.filter(|_| last < first) {
                    problems.at(&end, format!("{last} is below `port` {first}"));
                }
                PortMatch::Range(first, last)
            }
            Value::String(name) => {
                if let Err(why) = port_name(name) {
                    problems.at(&field, why);
                }
                if let Some(end) = &end {
                    problems.at(end, "can only stand beside a numeric `port`");
                }
                PortMatch::Named(name.clone())
            }
            _ => {
                field.expected("a port number or a port name", problems);
                return None;
            }
        },
    };
    Some(PortRule { protocol, port, line: place.line() })
}

/// A port number, 1 to 65535.
pub(super) fn decode_port_number(place: &Place<'_>, problems: &mut Problems) -> Option<u16> {
    let number = place.integer(problems)?;
    match u16::try_from(number) {
        Ok(port) if port > 0 => Some(port),
        _ => {
            problems.at(place, format!("{number} is no port; ports are 1 to 65535"));
            None
        }
    }
}

/// IANA_SVC_NAME (RFC 6335 section 5.1): 1 to 15 of `[a-z0-9-]`, at least one letter, no `-` at
/// either end and no two in a row.
pub(super) fn port_name(name: &str) -> Result<(), String> {
    let bytes = name.as_bytes();
    let valid = (1..=15).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && bytes.iter().any(u8::is_ascii_lowercase)
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--");
    if valid {
        return Ok(());
    }
    Err(format!(
        "`{name}` is no port name (at most 15 of a-z, 0-9 and single -, with at least one letter); a number is written without quotes"
    ))
}

fn decode_peer(place: &Place<'_>, problems: &mut Problems) -> Option<Peer> {
    if !place.is_map(problems) {
        return None;
    }
    place.only(&["podSelector", "namespaceSelector", "ipBlock"], problems);
    let pods = place.field("podSelector");
    let namespaces = place.field("namespaceSelector");
    if let Some(block) = place.field("ipBlock") {
        if pods.is_some() || namespaces.is_some() {
            problems.at(
                &block,
                "cannot stand in one item with podSelector or namespaceSelector; write two items",
            );
        }
        return decode_block(&block, problems);
    }
    if pods.is_none() && namespaces.is_none() {
        problems.at(
            place,
            "a peer needs podSelector, namespaceSelector or ipBlock; for every peer leave the list out",
        );
        return None;
    }
    let mut selector = |field: Option<Place<'_>>| match field {
        Some(field) => LabelSelector::decode(&field, problems).map(Some),
        None => Some(None),
    };
    let (namespaces, pods) = (selector(namespaces), selector(pods));
    Some(Peer::Pods { namespaces: namespaces?, pods: pods? })
}

fn decode_block(place: &Place<'_>, problems: &mut Problems) -> Option<Peer> {
    if !place.is_map(problems) {
        return None;
    }
    place.only(&["cidr", "except"], problems);
    let Some(field) = place.field("cidr") else {
        problems.at(place, "`cidr` is required");
        return None;
    };
    let cidr = decode_cidr(&field, problems);
    let mut except = Vec::new();
    if let Some(field) = place.field("except") {
        for item in field.items(problems) {
            let Some(inner) = decode_cidr(&item, problems) else { continue };
            if let Some(outer) = cidr
                && !(outer.contains(&inner) && inner.prefix_len() > outer.prefix_len())
            {
                problems
                    .at(&item, format!("{inner} must lie within {outer} and be smaller than it"));
            }
            except.push(inner);
        }
    }
    Some(Peer::IpBlock { cidr: cidr?, except })
}

/// `address/length`. Bits beyond the length are taken off, as Kubernetes does, with a warning.
fn decode_cidr(place: &Place<'_>, problems: &mut Problems) -> Option<IpNet> {
    let text = place.string(problems)?;
    let Ok(net) = text.parse::<IpNet>() else {
        problems.at(place, format!("`{text}` is no CIDR; write 10.0.0.0/8 or fd00::/64"));
        return None;
    };
    if let IpAddr::V6(address) = net.addr()
        && address.to_ipv4_mapped().is_some()
    {
        problems.at(place, format!("`{text}` is IPv4-mapped; write it as an IPv4 CIDR"));
        return None;
    }
    let trunc = net.trunc();
    if trunc.addr() != net.addr() {
        problems.warn(place, format!("`{text}` has bits beyond its length; it is read as {trunc}"));
    }
    Some(trunc)
}
