//! Why a connection passes or not: both sides, in sentences.
//!
//! ```text
//!   classifier ──► verdict, policy, rule          the function and the table of the workers
//!   objects    ──► near ──► peer, port            what keeps each rule from matching
//!              └─► ends, node                     who has the addresses
//!                     side ──► SideWhy            one end's sentences
//! ```
//!
//! The verdict comes from the classifier alone; the sentences add which policies select each end,
//! where the rule that decided is written, and for a denial which rule came nearest. With the
//! objects at hand (`-f`) they also say why an end is outside of policy; from a running node's
//! table alone they say what the table knows. One verdict is not the table's: a node and its own
//! pods reach each other whatever policies say, and the explanation says so. And one is more than
//! its first hook says: a connection to a Service is explained with what its backends' policies say.

mod ends;
pub mod near;
mod node;
mod peer;
mod port;
mod service;
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
use ends::{Ends, Holder};
use node::OwnNode;

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
    /// `allow` or `deny`; what happens to the connection, policies or not.
    pub verdict: &'static str,
    /// The source's side.
    pub egress: SideWhy,
    /// The destination's side.
    pub ingress: SideWhy,
    /// The addresses are of IPv6.
    #[serde(skip)]
    over_v6: bool,
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
    let outlook = classifier.outlook(connection);
    let judgement = outlook.judgement;
    let (from, to) = (end_text(from, connection.src), end_text(to, connection.dst));
    let (src, dst) = (connection.src.to_ip(), connection.dst.to_ip());
    let ends = index.map(|index| Ends::of(index, src, dst));
    let side = |direction, name: &str, peer: &str, verdict| {
        let view = side::View { classifier, ends, direction, connection, name, peer };
        view.explain(verdict)
    };
    let mut egress = side(Direction::Egress, &from, &to, judgement.egress);
    let ingress = match &outlook.reach {
        Some(reach) => {
            service::explain_egress(&mut egress, &from, reach);
            service::ingress(classifier.table(), &outlook, reach, &to)
        }
        None => side(Direction::Ingress, &to, &from, judgement.ingress),
    };
    let mut explanation = Explanation {
        traffic: traffic_text(connection.protocol, connection.dport),
        verdict: word(judgement.is_allowed()),
        from,
        to,
        egress,
        ingress,
        over_v6: !connection.src.is_v4(),
        notes: Vec::new(),
    };
    if src == dst {
        return explanation;
    }
    match ends {
        Some(ends) => explanation.note_ends(&ends, outlook.reach.is_some()),
        None if !judgement.is_allowed() => {
            let (source, destination) =
                (classifier.is_pod(connection.src), classifier.is_pod(connection.dst));
            if source != destination {
                let outside = if source { dst } else { src };
                explanation.notes.push(node::without_objects(outside));
            }
        }
        None => {}
    }
    explanation
}

impl Explanation {
    /// What passes before any policy is asked, and addresses that are not where a connection ends.
    fn note_ends(&mut self, ends: &Ends<'_>, by_backends: bool) {
        match node::own_node(ends) {
            OwnNode::Yes { node, pod } => {
                let denied = self.verdict == "deny";
                self.verdict = "allow";
                for side in [&mut self.egress, &mut self.ingress] {
                    *side = SideWhy {
                        verdict: "allow",
                        policy: None,
                        rule: None,
                        source: None,
                        selected_by: std::mem::take(&mut side.selected_by),
                        why: format!(
                            "allowed: node {node} and its own pod {pod} always reach each other"
                        ),
                        nearest: Vec::new(),
                        without_effect: Vec::new(),
                    };
                }
                if denied {
                    self.notes.push(
                        "policies alone would deny it, and do so to whatever the node only forwards"
                            .to_owned(),
                    );
                }
            }
            OwnNode::Perhaps(note) if self.verdict == "deny" => self.notes.push(note),
            OwnNode::Perhaps(_) | OwnNode::No => {}
        }
        match ends.destination {
            (destination, Holder::Service(key)) if by_backends => self.notes.push(format!(
                "{destination} is the address of Service {key}: policies are asked about its \
                 backends, of which those that no policy tells apart are one kind; ask for a \
                 backend to see which rules come near"
            )),
            (destination, Holder::Service(key)) => self.notes.push(format!(
                "{destination} is the address of Service {key}, which does not offer {} or which no \
                 policy has to know; ingress policies act on the backends: ask for one to see them",
                self.traffic
            )),
            _ => {}
        }
    }

    /// Adds what the same question gives over the ends' other address family.
    #[must_use]
    pub fn beside(mut self, other: &Self) -> Self {
        if other.from == other.to {
            // An address reaches itself, of whatever family.
            return self;
        }
        let family = if other.over_v6 { "IPv6" } else { "IPv4" };
        let (from, to) = (&other.from, &other.to);
        self.notes.push(match (self.verdict == other.verdict, other.verdict) {
            (true, "allow") => format!("over {family} ({from} → {to}) it is allowed too"),
            (true, _) => format!("over {family} ({from} → {to}) it is denied too"),
            (false, "allow") => format!(
                "over {family} it is allowed: {from} → {to}; ask for these addresses to see why"
            ),
            (false, _) => format!(
                "over {family} it is DENIED: {from} → {to}; ask for these addresses to see why"
            ),
        });
        self
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
