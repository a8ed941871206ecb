//! The policy table before it is packed: what the compiler hands over.
//!
//! ```text
//!  address ──prefixes / address map──▶ class ──▶ ClassInfo { ingress, egress }
//!                                                       │ program
//!  protocol, destination port ──────────────▶ Program ──┴─ spans ──▶ row
//!                                                                     │ peer's class
//!                                                                     ▼
//!                                                                  Verdict ──▶ rule ──▶ policy
//!  address, protocol, port ──▶ ServiceInfo ──▶ (class, port) of its backends, each judged so
//! ```
//!
//! Plain vectors and indices, easy to build and to compare; [`super::encode`]
//! checks and packs them.

use std::fmt;

use ipnet::IpNet;

use crate::addr::Address;

/// Index of a [`ClassInfo`]: a set of addresses that no policy tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(pub u32);

/// Index of a [`Program`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProgramId(pub u32);

impl ProgramId {
    /// The program of an endpoint that no policy selects: it allows everything.
    pub const UNRESTRICTED: ProgramId = ProgramId(0);
}

/// Index of a [`RuleInfo`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u32);

/// Which API object a policy came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
    ClusterNetworkPolicy,
}

impl PolicyKind {
    /// The kind as it is written in a manifest.
    pub const fn as_str(self) -> &'static str {
        match self {
            PolicyKind::NetworkPolicy => "NetworkPolicy",
            PolicyKind::ClusterNetworkPolicy => "ClusterNetworkPolicy",
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One policy, for the answer to "why".
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PolicyInfo {
    /// The kind of the object.
    pub kind: PolicyKind,
    /// `namespace/name`, or `name` alone for a cluster-wide object.
    pub name: String,
}

/// One rule, for the answer to "why".
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleInfo {
    /// Index into [`PolicyImage::policies`].
    pub policy: u32,
    /// Where it stands in the object: `spec.ingress[0].from[1]`, or
    /// `spec.ingress[0]` for a rule without peers.
    pub path: String,
}

/// What applies to the members of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClassInfo {
    /// Judges connections to a member.
    pub ingress: ProgramId,
    /// Judges connections from a member.
    pub egress: ProgramId,
}

impl ClassInfo {
    /// No policy in either direction.
    pub const UNRESTRICTED: ClassInfo =
        ClassInfo { ingress: ProgramId::UNRESTRICTED, egress: ProgramId::UNRESTRICTED };
}

/// A stretch of destination ports that share a row: from `first` up to the next
/// span's `first`, exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// The first port of the stretch.
    pub first: u16,
    /// Index into [`PolicyImage::rows`].
    pub row: u32,
}

/// One direction of one endpoint: the port decides the row, the peer's class
/// the verdict in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Program {
    /// The policies (indices) that select the endpoint in this direction.
    pub isolating: Vec<u32>,
    /// TCP: sorted by `first`, beginning at port 0.
    pub tcp: Vec<Span>,
    /// UDP: sorted by `first`, beginning at port 0.
    pub udp: Vec<Span>,
    /// SCTP: sorted by `first`, beginning at port 0.
    pub sctp: Vec<Span>,
    /// The row for ICMP and ICMPv6: X→Y is allowed if any traffic X→Y is
    /// (network-policy-api discussion 248).
    pub icmp: u32,
    /// The row for every other protocol: rules without ports only.
    pub other: u32,
}

/// One kind of backend of a Service: all those that no policy tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Their class.
    pub class: ClassId,
    /// The port at which they take what was sent to the Service's; not 0.
    pub port: u16,
    /// One of them is, or may be, on another node: no hook of this node sees what the Service's
    /// translation makes of a packet to it.
    pub elsewhere: bool,
}

/// An address and port that a translation replaces by those of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceInfo {
    /// The address; the unspecified one of a family stands for every address of this node, as
    /// a NodePort has them.
    pub address: Address,
    /// IANA protocol number: TCP, UDP or SCTP.
    pub protocol: u8,
    /// The port, in host order; not 0.
    pub port: u16,
    /// Kinds of backends, ascending by class, then port; none twice.
    pub backends: Vec<Backend>,
}

/// Everything that one generation decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyImage {
    /// Counts up with every publication, from 1.
    pub generation: u64,
    /// The policies that rules and programs name.
    pub policies: Vec<PolicyInfo>,
    /// The rules that verdicts name.
    pub rules: Vec<RuleInfo>,
    /// The classes; [`ClassId`] is the index.
    pub classes: Vec<ClassInfo>,
    /// Longest prefix → class, for addresses that the address map does not
    /// hold. Contains 0.0.0.0/0 and ::/0.
    pub prefixes: Vec<(IpNet, u32)>,
    /// The programs; [`ProgramId`] is the index, and index 0 allows everything.
    pub programs: Vec<Program>,
    /// The rows: one verdict a class.
    pub rows: Vec<Vec<Verdict>>,
    /// Services, in any order, none twice. Empty if no policy restricts egress: then nobody
    /// asks.
    pub services: Vec<ServiceInfo>,
}

/// What is to happen to a connection in one direction, and by which rule.
///
/// Two bits of kind and thirty of rule; the all-zero word denies.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Verdict(u32);

const KIND_DENY: u32 = 0 << 30;
const KIND_DENY_RULE: u32 = 1 << 30;
const KIND_ALLOW: u32 = 2 << 30;
const KIND_ALLOW_RULE: u32 = 3 << 30;
const KIND_MASK: u32 = 3 << 30;
const ALLOW_BIT: u32 = 2 << 30;
const BY_RULE_BIT: u32 = 1 << 30;

impl Verdict {
    /// Allowed because no policy selects the endpoint in this direction.
    pub const ALLOW_UNRESTRICTED: Verdict = Verdict(KIND_ALLOW);
    /// Denied because some policy selects the endpoint and no rule matched.
    pub const DENY_ISOLATED: Verdict = Verdict(KIND_DENY);
    /// Denied because the address map named a class that this generation does
    /// not know. Never stands in a table; a lookup answers it.
    pub const DENY_BAD_CLASS: Verdict = Verdict(KIND_DENY | 1);
    /// How many rules a verdict can name.
    pub const MAX_RULES: u32 = 1 << 30;

    /// Allowed by a rule. `rule` is below [`Verdict::MAX_RULES`] (higher bits
    /// are dropped; the encoder refuses an image with so many rules).
    pub const fn allow(rule: RuleId) -> Verdict {
        Verdict(KIND_ALLOW_RULE | rule.0 & !KIND_MASK)
    }

    /// Denied by a rule (ClusterNetworkPolicy `Deny`). `rule` is below
    /// [`Verdict::MAX_RULES`].
    pub const fn deny(rule: RuleId) -> Verdict {
        Verdict(KIND_DENY_RULE | rule.0 & !KIND_MASK)
    }

    /// Denied because the endpoint is isolated and no rule matched.
    pub const fn deny_isolated() -> Verdict {
        Verdict::DENY_ISOLATED
    }

    /// Whether the connection may go on.
    #[inline]
    pub const fn is_allow(self) -> bool {
        self.0 & ALLOW_BIT != 0
    }

    /// The rule that decided; `None` if none did.
    #[inline]
    pub const fn rule(self) -> Option<RuleId> {
        if self.0 & BY_RULE_BIT != 0 { Some(RuleId(self.0 & !KIND_MASK)) } else { None }
    }

    /// The word as it stands in a table.
    #[inline]
    pub const fn to_bits(self) -> u32 {
        self.0
    }

    /// The verdict of a word of a table. Any word is a verdict; which rules
    /// exist is checked when a table is read.
    #[inline]
    pub const fn from_bits(bits: u32) -> Verdict {
        Verdict(bits)
    }

    /// Whether this verdict may stand in a table that has `rules` rules.
    pub(crate) fn is_valid(self, rules: u32) -> bool {
        match self.rule() {
            Some(rule) => rule.0 < rules,
            None => self == Verdict::ALLOW_UNRESTRICTED || self == Verdict::DENY_ISOLATED,
        }
    }
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (*self, self.rule()) {
            (Verdict::ALLOW_UNRESTRICTED, _) => f.write_str("allow(unrestricted)"),
            (Verdict::DENY_ISOLATED, _) => f.write_str("deny(isolated)"),
            (Verdict::DENY_BAD_CLASS, _) => f.write_str("deny(bad class)"),
            (v, Some(rule)) if v.is_allow() => write!(f, "allow(rule {})", rule.0),
            (_, Some(rule)) => write!(f, "deny(rule {})", rule.0),
            (v, None) => write!(f, "invalid({:#010x})", v.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_say_what_they_were_made_of() {
        let rule = RuleId(Verdict::MAX_RULES - 1);
        for (verdict, allow, by, text) in [
            (Verdict::ALLOW_UNRESTRICTED, true, None, "allow(unrestricted)"),
            (Verdict::deny_isolated(), false, None, "deny(isolated)"),
            (Verdict::DENY_BAD_CLASS, false, None, "deny(bad class)"),
            (Verdict::allow(RuleId(0)), true, Some(RuleId(0)), "allow(rule 0)"),
            (Verdict::deny(RuleId(7)), false, Some(RuleId(7)), "deny(rule 7)"),
            (Verdict::allow(rule), true, Some(rule), "allow(rule 1073741823)"),
            (Verdict::deny(rule), false, Some(rule), "deny(rule 1073741823)"),
        ] {
            assert_eq!(verdict.is_allow(), allow, "{text}");
            assert_eq!(verdict.rule(), by, "{text}");
            assert_eq!(format!("{verdict:?}"), text);
            assert_eq!(Verdict::from_bits(verdict.to_bits()), verdict);
        }
    }

    #[test]
    fn the_zero_word_denies() {
        assert!(!Verdict::from_bits(0).is_allow());
    }

    #[test]
    fn only_known_rules_may_stand_in_a_table() {
        assert!(Verdict::allow(RuleId(2)).is_valid(3));
        assert!(!Verdict::allow(RuleId(3)).is_valid(3));
        assert!(!Verdict::deny(RuleId(3)).is_valid(3));
        assert!(Verdict::ALLOW_UNRESTRICTED.is_valid(0));
        assert!(!Verdict::DENY_BAD_CLASS.is_valid(3));
        assert!(!Verdict::from_bits(KIND_ALLOW | 5).is_valid(9));
    }
}
