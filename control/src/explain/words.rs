//! Small words that several sentences share.

use crate::oracle::Traffic;

/// `TCP`, `ICMP`, or the number of a protocol without a name here.
pub fn protocol_name(protocol: u8) -> String {
    match protocol {
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        58 => "ICMPv6".to_owned(),
        132 => "SCTP".to_owned(),
        other => other.to_string(),
    }
}

/// `TCP/80`, `ICMP`, `protocol 50`.
pub fn traffic_text(protocol: u8, dport: u16) -> String {
    match protocol {
        6 | 17 | 132 => format!("{}/{dport}", protocol_name(protocol)),
        1 | 58 => protocol_name(protocol),
        other => format!("protocol {other}"),
    }
}

/// As [`traffic_text`], of what the objects distinguish.
pub(super) fn traffic_words(traffic: Traffic) -> String {
    match traffic {
        Traffic::Port(protocol, port) => format!("{protocol}/{port}"),
        Traffic::Icmp => "ICMP".to_owned(),
        Traffic::Other => "this protocol".to_owned(),
    }
}

/// `a`, `a or b`, `a, b or c`.
pub(super) fn one_of(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}
