//! Why a connection passes or not: both sides, in sentences.
//!
//! The verdict comes from the classifier that the workers use; the sentences add which policies
//! select each end and where the rule that decided is written. With the objects at hand (`-f`) they
//! also say why an end is outside of policy and in which file and line a rule stands; from a running
//! node's table alone they say what the table knows.

use std::fmt;

use serde::Serialize;
use weir_table::Address;
use weir_table::classify::{Classifier, Connection};
use weir_table::mem::Words;
use weir_table::policy::Verdict;

use crate::eval::{side_answer, word};
use crate::index::{Index, Owner};
use crate::model::{Direction, NetworkPolicy, ObjectKey, Origin};

/// One end's part of the explanation.
#[derive(Debug, Clone, Serialize)]
pub struct SideWhy {
    /// `allow` or `deny`.
    pub verdict: &'static str,
    /// The policy that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The rule that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// File and line of the rule, or of the policy if none matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// All policies that select this end in this direction.
    pub selected_by: Vec<String>,
    /// The same as a sentence.
    pub why: String,
}

/// An explained connection.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// Source, as asked, with its address.
    pub from: String,
    /// Destination, as asked, with its address.
    pub to: String,
    /// `TCP/80`, `ICMP`.
    pub traffic: String,
    /// `allow` or `deny`.
    pub verdict: &'static str,
    /// The source's side.
    pub egress: SideWhy,
    /// The destination's side.
    pub ingress: SideWhy,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.verdict == "allow" { "allowed" } else { "denied" };
        writeln!(f, "{} → {}, {}: {verdict}", self.from, self.to, self.traffic)?;
        writeln!(f, "  egress:  {}", self.egress.why)?;
        write!(f, "  ingress: {}", self.ingress.why)
    }
}

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

/// Explains a connection. `from` and `to` are the ends' names; `index` the objects, if there are.
pub fn explain<B: AsRef<[u8]>, W: Words>(
    classifier: &Classifier<B, W>,
    index: Option<&Index>,
    (from, to): (&str, &str),
    connection: &Connection,
) -> Explanation {
    let judgement = classifier.evaluate(connection);
    let side = |direction, name: &str, address, peer: &str, verdict| {
        let own = connection.src == connection.dst;
        explain_side(classifier, index, direction, (name, address, peer), verdict, own)
    };
    let (from, to) = (end_text(from, connection.src), end_text(to, connection.dst));
    let egress = side(Direction::Egress, &from, connection.src, &to, judgement.egress);
    let ingress = side(Direction::Ingress, &to, connection.dst, &from, judgement.ingress);
    Explanation {
        traffic: traffic_text(connection.protocol, connection.dport),
        verdict: word(judgement.is_allowed()),
        from,
        to,
        egress,
        ingress,
    }
}

fn end_text(name: &str, address: Address) -> String {
    let address = address.to_ip().to_string();
    if name == address { address } else { format!("{name} ({address})") }
}

fn explain_side<B: AsRef<[u8]>, W: Words>(
    classifier: &Classifier<B, W>,
    index: Option<&Index>,
    direction: Direction,
    (name, address, peer): (&str, Address, &str),
    verdict: Verdict,
    own: bool,
) -> SideWhy {
    let table = classifier.table();
    let class = classifier.class_of(address);
    let program = table.programs(class).map(|(ingress, egress)| match direction {
        Direction::Ingress => ingress,
        Direction::Egress => egress,
    });
    let answer = side_answer(table, program.filter(|_| !own), verdict);
    let selected_by: Vec<String> = program
        .map(|program| table.isolating(program).map(str::to_owned).collect())
        .unwrap_or_default();
    let source = answer.policy.as_deref().zip(index).and_then(|(policy, index)| {
        locate(index, direction, policy, answer.rule.as_deref()).map(|origin| origin.to_string())
    });
    let policies = selected_by.join(", ");
    let at = source.as_deref().map(|source| format!(" ({source})")).unwrap_or_default();
    let why = match (&answer.rule, &answer.policy) {
        _ if own => "allowed: a pod always reaches itself".to_owned(),
        (Some(rule), Some(policy)) => {
            let (verb, others) = (
                if verdict.is_allow() { "allowed" } else { "denied" },
                others(&selected_by, policy),
            );
            format!("{verb} by {rule} of NetworkPolicy {policy}{at}{others}")
        }
        _ if verdict == Verdict::DENY_BAD_CLASS => {
            format!("denied: the table does not know the class of {name}; a new generation is due")
        }
        _ if verdict.is_allow() => {
            let reason = unrestricted(classifier, index, address, direction);
            format!("allowed: {name} {reason}")
        }
        (None, Some(_)) => {
            let refused = refused(index, &selected_by);
            format!(
                "denied: {name} is isolated for {direction} by NetworkPolicy {policies}{at}, and none of its {direction} rules matches {peer}{refused}"
            )
        }
        _ => {
            let reason = index.and_then(|index| isolated(index, address)).unwrap_or_else(|| {
                "its address has no single owner, or its object was refused".to_owned()
            });
            format!("denied: {name} is isolated in both directions: {reason}")
        }
    };
    SideWhy {
        verdict: answer.verdict,
        policy: answer.policy,
        rule: answer.rule,
        source,
        selected_by,
        why,
    }
}

fn others(selected_by: &[String], policy: &str) -> String {
    let others: Vec<&str> =
        selected_by.iter().map(String::as_str).filter(|other| *other != policy).collect();
    if others.is_empty() {
        String::new()
    } else {
        format!("; also selected by {}", others.join(", "))
    }
}

fn refused(index: Option<&Index>, selected_by: &[String]) -> String {
    let Some(index) = index else { return String::new() };
    let refused: Vec<&str> = selected_by
        .iter()
        .map(String::as_str)
        .filter(|name| policy(index, name).is_some_and(|policy| !policy.faults.is_empty()))
        .collect();
    if refused.is_empty() {
        String::new()
    } else {
        format!("; refused as invalid and so without rules: {}", refused.join(", "))
    }
}

fn unrestricted<B: AsRef<[u8]>, W: Words>(
    classifier: &Classifier<B, W>,
    index: Option<&Index>,
    address: Address,
    direction: Direction,
) -> String {
    if classifier.is_pod(address) {
        return format!("is selected by no policy for {direction}");
    }
    let ip = address.to_ip();
    let host = index
        .and_then(|index| index.pods().find(|pod| pod.host_network && pod.addresses.contains(&ip)));
    match host {
        Some(_) => "is on its node's network, which policies do not govern".to_owned(),
        None => "is no pod's address, and only pods have policies".to_owned(),
    }
}

fn isolated(index: &Index, address: Address) -> Option<String> {
    match index.endpoints().get(&address.to_ip())? {
        Owner::Isolated(pod) if pod.refused => {
            Some(format!("the object of pod {} was refused ({})", pod.key, pod.origin))
        }
        Owner::Isolated(_) => {
            let ip = address.to_ip().to_string();
            let conflicts = index.conflicts();
            conflicts.iter().find(|c| c.message.contains(&ip)).map(ToString::to_string)
        }
        Owner::Pod(_) => None,
    }
}

fn policy<'a>(index: &'a Index, name: &str) -> Option<&'a NetworkPolicy> {
    let (namespace, name) = name.split_once('/')?;
    index.policy(&ObjectKey::new(namespace, name))
}

/// Where a rule is written; without one, where the policy is.
fn locate(
    index: &Index,
    direction: Direction,
    name: &str,
    rule_path: Option<&str>,
) -> Option<Origin> {
    let policy = policy(index, name)?;
    let Some(path) = rule_path else { return Some(policy.origin.clone()) };
    for rule in policy.rules(direction) {
        if rule.path(direction, None) == path {
            return Some(Origin { line: rule.line, ..policy.origin.clone() });
        }
        for (j, peer) in rule.peers.iter().enumerate() {
            if rule.path(direction, Some(j)) == path {
                return Some(Origin { line: peer.line, ..policy.origin.clone() });
            }
        }
    }
    None
}
