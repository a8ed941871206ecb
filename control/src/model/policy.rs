//! `networking.k8s.io/v1` NetworkPolicy, every field.
//!
//! The words are the API's (NetworkPolicySpec, NetworkPolicyPeer, NetworkPolicyPort); what the API
//! leaves implicit is made explicit where it is read: an absent protocol is TCP, an absent port is
//! [`PortMatch::All`], an absent `endPort` a range of one.

use std::collections::BTreeSet;
use std::fmt;

use ipnet::IpNet;

use super::label::LabelSelector;
use super::{ObjectKey, Origin};

/// Direction of traffic, seen from the pods that a policy selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Towards the selected pods.
    Ingress,
    /// From the selected pods.
    Egress,
}

impl Direction {
    /// The field's name in the API, `ingress` or `egress`.
    pub fn field(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// The name of the list of peers, `from` or `to`.
    pub fn peers_field(self) -> &'static str {
        match self {
            Self::Ingress => "from",
            Self::Egress => "to",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.field())
    }
}

/// A transport protocol that a policy port can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, IP protocol 6.
    Tcp,
    /// UDP, IP protocol 17.
    Udp,
    /// SCTP, IP protocol 132.
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// From the API's spelling, which is upper case only.
    pub fn from_api(text: &str) -> Option<Self> {
        match text {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// Which destination ports a [`PortRule`] means.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// All ports of the protocol.
    All,
    /// First to last, both included, 1 to 65535.
    Range(u16, u16),
    /// The number that the destination pod gives to this name under this protocol.
    Named(String),
}

/// One item of a rule's `ports`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRule {
    /// Protocol.
    pub protocol: Protocol,
    /// Ports.
    pub port: PortMatch,
    /// Its line in the file, 0 if unknown.
    pub line: u32,
}

/// What a peer matches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Pods by selectors; at least one of the two is present, and both present means both hold.
    Pods {
        /// Absent: the policy's own namespace.
        namespaces: Option<LabelSelector>,
        /// Absent: every pod of those namespaces.
        pods: Option<LabelSelector>,
    },
    /// Any address, a pod's included, within `cidr` and none of `except`.
    IpBlock {
        /// The block.
        cidr: IpNet,
        /// What is taken out of it.
        except: Vec<IpNet>,
    },
}

/// One item of `from` or `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRule {
    /// What it matches.
    pub peer: Peer,
    /// Its line in the file, 0 if unknown.
    pub line: u32,
}

/// One item of `ingress` or `egress`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Empty means every peer, and every address.
    pub peers: Vec<PeerRule>,
    /// Empty means all traffic, protocols without ports included.
    pub ports: Vec<PortRule>,
    /// Its place in the list as written, from 0; refused rules beside it count.
    pub position: usize,
    /// Its line in the file, 0 if unknown.
    pub line: u32,
}

impl Rule {
    /// The API path of this rule or of one of its peers.
    pub fn path(&self, direction: Direction, peer: Option<usize>) -> String {
        Self::path_at(direction, self.position, peer)
    }

    /// The API path of the rule at a position or of one of its peers: `spec.egress[0].to[1]`,
    /// `spec.ingress[0]`.
    pub fn path_at(direction: Direction, rule: usize, peer: Option<usize>) -> String {
        match peer {
            Some(peer) => {
                format!("spec.{}[{rule}].{}[{peer}]", direction.field(), direction.peers_field())
            }
            None => format!("spec.{}[{rule}]", direction.field()),
        }
    }
}

/// What keeps a policy, or one rule of it, from being honoured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The rule that is refused, by direction and position; `None`: the policy as a whole.
    pub rule: Option<(Direction, usize)>,
    /// Path of the field.
    pub field: String,
    /// Its line in the file, 0 if unknown.
    pub line: u32,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// A NetworkPolicy.
///
/// What cannot be honoured is not among the rules, so that nobody can take it for one that allows:
/// a rule can only allow, and leaving it out can only close.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Which pods of its namespace it selects.
    pub pod_selector: LabelSelector,
    /// The directions in which it isolates; the API's default is already applied.
    pub directions: Vec<Direction>,
    /// Ingress rules, empty if none; without effect unless ingress is isolated.
    pub ingress: Vec<Rule>,
    /// Egress rules, empty if none; without effect unless egress is isolated.
    pub egress: Vec<Rule>,
    /// The object as a whole could not be honoured: it isolates and allows nothing.
    pub refused: bool,
    /// Why it, or rules of it, are refused; empty if everything is honoured.
    pub faults: Vec<Fault>,
    /// Where it was read.
    pub origin: Origin,
}

impl NetworkPolicy {
    /// Whether pods it selects are isolated in a direction.
    pub fn isolates(&self, direction: Direction) -> bool {
        self.directions.contains(&direction)
    }

    /// Positions of the rules of a direction that are refused each by itself, in their order.
    pub fn refused_rules(&self, direction: Direction) -> BTreeSet<usize> {
        let of_direction = |fault: &Fault| fault.rule.filter(|(of, _)| *of == direction);
        self.faults.iter().filter_map(of_direction).map(|(_, position)| position).collect()
    }

    /// The rules that have effect in a direction.
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            _ if !self.isolates(direction) => &[],
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}
