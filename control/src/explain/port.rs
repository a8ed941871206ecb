//! Which conditions on the destination port fail.

use super::near::{Edit, Fix, Miss, Question};
use super::words::{one_of, traffic_words};
use crate::model::{Direction, Pod, PortMatch, PortRule, Protocol, Rule};
use crate::oracle::Traffic;

/// Which of a rule's ports matches, by position; `None` if none does or the rule has none.
pub(super) fn matching_port(question: &Question<'_>, rule: &Rule) -> Option<usize> {
    let destination = destination(question);
    rule.ports.iter().position(|port| match question.traffic {
        Traffic::Port(protocol, number) => {
            port.protocol == protocol
                && numbers(port, destination).iter().any(|&(a, b)| (a..=b).contains(&number))
        }
        Traffic::Icmp => !numbers(port, destination).is_empty(),
        Traffic::Other => false,
    })
}

/// What keeps a rule's ports from matching; none if they do, or if the rule has none.
pub(super) fn port_misses(question: &Question<'_>, rule: &Rule) -> Vec<Miss> {
    if rule.ports.is_empty() || matching_port(question, rule).is_some() {
        return Vec::new();
    }
    let asked = traffic_words(question.traffic);
    if question.traffic == Traffic::Other {
        let text = format!("the rule names ports, and {asked} has none; leave `ports` out");
        return vec![Miss::new(text, Fix::Edit(Edit::DropPorts))];
    }
    let destination = destination(question);
    if let Traffic::Port(protocol, number) = question.traffic {
        let near: Vec<Alternative> =
            rule.ports.iter().flat_map(|port| alternatives(port, destination, number)).collect();
        if !near.is_empty() {
            return vec![other_port(&near, protocol, number)];
        }
    }
    // Every port of the rule is a name that the destination does not have: the nearest of them,
    // of equals the first.
    let unnamed = rule.ports.iter().map(|port| unnamed(question, port, destination));
    unnamed.min_by_key(Vec::len).unwrap_or_default()
}

/// The pod whose ports names mean: the destination of the connection.
fn destination<'a>(question: &Question<'a>) -> Option<&'a Pod> {
    match question.direction {
        Direction::Ingress => Some(question.this),
        Direction::Egress => question.peer,
    }
}

/// The port numbers that a rule's port means at a destination.
fn numbers(port: &PortRule, destination: Option<&Pod>) -> Vec<(u16, u16)> {
    match &port.port {
        PortMatch::All => vec![(0, u16::MAX)],
        PortMatch::Range(first, last) => vec![(*first, *last)],
        PortMatch::Named(name) => {
            let ports = destination.map(|pod| &*pod.ports).unwrap_or_default();
            let named = ports.iter().filter(|declared| {
                declared.name.as_deref() == Some(name) && declared.protocol == port.protocol
            });
            named.map(|declared| (declared.port, declared.port)).collect()
        }
    }
}

/// A port that would do.
struct Alternative {
    protocol: Protocol,
    /// To try: the nearest numbers.
    numbers: Vec<u16>,
    /// `TCP/8080`, `TCP/8000 to 8100`, `TCP/8080 (the named port http of pod ns/web)`.
    words: String,
}

fn alternatives(port: &PortRule, destination: Option<&Pod>, asked: u16) -> Vec<Alternative> {
    let protocol = port.protocol;
    let of = |(first, last): (u16, u16)| {
        let words = match (&port.port, destination) {
            (PortMatch::All, _) => format!("{protocol}/{asked}"),
            (PortMatch::Named(name), Some(pod)) => {
                format!("{protocol}/{first} (the named port {name} of pod {})", pod.key)
            }
            _ if first == last => format!("{protocol}/{first}"),
            _ => format!("{protocol}/{first} to {last}"),
        };
        let mut numbers =
            if (first..=last).contains(&asked) { vec![asked] } else { vec![first, last] };
        numbers.dedup();
        Alternative { protocol, numbers, words }
    };
    numbers(port, destination).into_iter().map(of).collect()
}

fn other_port(near: &[Alternative], protocol: Protocol, asked: u16) -> Miss {
    let mut words: Vec<String> = Vec::new();
    for alternative in near {
        if !words.contains(&alternative.words) {
            words.push(alternative.words.clone());
        }
    }
    let words = one_of(&words);
    let tries = near.iter().flat_map(|alternative| {
        alternative.numbers.iter().map(move |number| (alternative.protocol, *number))
    });
    let fix = Fix::Traffic(tries.collect());
    if near.iter().all(|alternative| alternative.protocol != protocol) {
        let mut others: Vec<String> = near.iter().map(|a| a.protocol.to_string()).collect();
        others.sort_unstable();
        others.dedup();
        let text = format!("the rule is for {}, this is {protocol}", one_of(&others));
        let alone = Some(format!("{text}: would pass on {words}"));
        let text = format!("the rule is for {words}, this is {protocol}/{asked}");
        return Miss { text, alone, fix };
    }
    Miss {
        text: format!("the rule is for {words}, this is {protocol}/{asked}"),
        alone: Some(format!("would pass on {words}")),
        fix,
    }
}

fn unnamed(question: &Question<'_>, port: &PortRule, destination: Option<&Pod>) -> Vec<Miss> {
    let PortMatch::Named(name) = &port.port else { return Vec::new() };
    let Some(pod) = destination else {
        let text = format!(
            "the rule is for the named port {name}, and {} is no pod that could have one",
            question.peer_address
        );
        return vec![Miss::new(text, Fix::Nothing)];
    };
    let protocol = port.protocol;
    let number = match question.traffic {
        Traffic::Port(_, number) => number.max(1),
        // Any will do.
        _ => 1,
    };
    let text = format!("pod {} has no {protocol} port named {name}", pod.key);
    let fix = Fix::PortName { pod: pod.key.clone(), name: name.clone(), protocol, port: number };
    let mut misses = vec![Miss::new(text, fix)];
    if let Traffic::Port(asked, _) = question.traffic
        && asked != protocol
    {
        let text = format!("the rule is for {protocol}, this is {asked}");
        misses.push(Miss::new(text, Fix::Traffic(vec![(protocol, number)])));
    }
    misses
}
