//! Why a connection passes or not: both sides, in sentences.
//!
//! ```text
//!   classifier ──► verdict, policy, rule          the function and the table of the workers
//!   objects    ──► near ──► peer, port            what keeps each rule from matching
//!              └─► ends                           whose the addresses are
//!                     side ──► SideWhy            one end's sentences
//! ```
//!
//! The verdict comes from the classifier alone; the sentences add which policies select each end,
//! where the rule that decided is written, and for a denial which rule came nearest. With the
//! objects at hand (`-f`) they also say why an end is outside of policy; from a running node's
//! table alone they say what the table knows.

mod ends;
pub mod near;
mod peer;
mod port;
mod side;
mod words;

use std::fmt;

use serde::Serialize;
use weir_table::Address;
use weir_table::classify::{Classifier, Connection};
use weir_table::mem::Words;

use crate::eval::word;
use crate::index::Index;
use crate::model::{Direction, Protocol};
use crate::oracle::Traffic;

pub use words::{protocol_name, traffic_text};

/// A rule that would have let the connection pass but for what is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Nearest {
    /// Its policy.
    pub policy: String,
    /// The path of the rule or of its peer.
    pub rule: String,
    /// File and line.
    pub source: String,
    /// What it lacks.
    pub lacks: String,
}

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
    /// For a denial: the rules that came nearest, at most two.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nearest: Vec<Nearest>,
    /// For a denial: policies and rules that allow nothing, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub without_effect: Vec<String>,
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
    /// What to know beside the verdict.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.verdict == "allow" { "allowed" } else { "denied" };
        write!(f, "{} → {}, {}: {verdict}", self.from, self.to, self.traffic)?;
        for (title, side) in [("egress: ", &self.egress), ("ingress:", &self.ingress)] {
            write!(f, "\n  {title} {}", side.why)?;
            for near in &side.nearest {
                let Nearest { policy, rule, source, lacks } = near;
                write!(f, "\n    nearest: {rule} of NetworkPolicy {policy} ({source}): {lacks}")?;
            }
            for text in &side.without_effect {
                write!(f, "\n    {text}")?;
            }
        }
        match (self.egress.verdict, self.ingress.verdict) {
            ("allow", "deny") => write!(f, "\n  only the ingress side fails: egress lets it pass")?,
            ("deny", "allow") => write!(f, "\n  only the egress side fails: ingress lets it pass")?,
            ("deny", "deny") => write!(f, "\n  both sides fail: each has to allow it")?,
            _ => {}
        }
        for note in &self.notes {
            write!(f, "\n  note: {note}")?;
        }
        Ok(())
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
    let (from, to) = (end_text(from, connection.src), end_text(to, connection.dst));
    let side = |direction, name: &str, peer: &str, verdict| {
        let view = side::View { classifier, index, direction, connection, name, peer };
        view.explain(verdict)
    };
    let egress = side(Direction::Egress, &from, &to, judgement.egress);
    let ingress = side(Direction::Ingress, &to, &from, judgement.ingress);
    let (src, dst) = (connection.src.to_ip(), connection.dst.to_ip());
    let notes = index.filter(|_| src != dst).map(|index| ends::notes(index, src, dst));
    Explanation {
        traffic: traffic_text(connection.protocol, connection.dport),
        verdict: word(judgement.is_allowed()),
        from,
        to,
        egress,
        ingress,
        notes: notes.unwrap_or_default(),
    }
}

/// What the objects distinguish of a connection's traffic.
pub fn traffic_of(connection: &Connection) -> Traffic {
    let protocol = Protocol::ALL.into_iter().find(|p| p.number() == connection.protocol);
    match (protocol, connection.protocol) {
        (Some(protocol), _) => Traffic::Port(protocol, connection.dport),
        (None, 1 | 58) => Traffic::Icmp,
        (None, _) => Traffic::Other,
    }
}

fn end_text(name: &str, address: Address) -> String {
    let address = address.to_ip().to_string();
    if name == address { address } else { format!("{name} ({address})") }
}
