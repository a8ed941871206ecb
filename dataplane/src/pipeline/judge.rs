//! Which halves of the policy this node has to ask.
//!
//! A connection is allowed if its source may send it and its destination may receive it.
//! Each half is enforced on the node where that end lives: a hook asks the egress half
//! if the initiator is an endpoint of this node, and the ingress half if the other end
//! is. Where both are, one verdict serves both hooks.
//!
//! A connection to a Service has an egress half only, which is what the source's policies say of
//! the backends (`weir_table::classify::Reach`). Where these leave it to the backends' hooks the
//! answer here is that it may pass: nothing that is remembered of it, a flow or a cached verdict,
//! bears the address that it will have there, nor does its mark travel on.
//!
//! What comes to a pod under an address of the node's, and comes to a worker, was not sent by the
//! node ([`crate::origins`]): [`Question`] puts the address of whoever opened it in place of the
//! source, and an outsider's that nobody has where that is not known.
#![forbid(unsafe_code)]

use weir_table::addr::Address;
use weir_table::classify::{Classifier, Connection};
use weir_table::counters::Reason;
use weir_table::flow::{FlowKey, Side};
use weir_table::mem::Words;
use weir_table::policy::Verdict;
use weir_table::stamps::Stamps;

use crate::endpoints::Endpoints;
use crate::origins::{Original, Origins};
use crate::parse::{FiveTuple, protocol};

/// The halves to be asked. At a hook at least one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Halves {
    pub egress: bool,
    pub ingress: bool,
}

impl Halves {
    /// The halves for a connection opened by `initiator`, given each side's device on
    /// this node (0: not here).
    pub const fn of(initiator: Side, ifindex: [u32; 2]) -> Self {
        Self {
            egress: ifindex[initiator.index()] != 0,
            ingress: ifindex[initiator.other().index()] != 0,
        }
    }
}

/// What is to be asked of the policy about a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Question {
    pub connection: Connection,
    pub halves: Halves,
    /// The stamps of both sides, lo first. Loaded before the verdict that they are to stamp is
    /// asked for: then a change in between leaves the stamps stale, never the verdict.
    pub stamps: [u64; 2],
    /// The source is not the one that packets show: what is said of it holds for this flow alone.
    pub is_recovered: bool,
}

impl Question {
    /// About a flow opened by `initiator`, given each side's device on this node (0: not here).
    ///
    /// # Errors
    /// Why it has to be dropped unasked.
    #[inline]
    pub fn of<W: Words>(
        key: &FlowKey,
        initiator: Side,
        ifindex: [u32; 2],
        stamps: &Stamps<W>,
        (endpoints, origins): (&Endpoints, Option<&dyn Origins>),
    ) -> Result<Self, Reason> {
        let connection = connection(key, initiator);
        let halves = Halves::of(initiator, ifindex);
        if !halves.egress
            && halves.ingress
            && endpoints.is_nodes(connection.src)
            && let Some(origins) = origins
        {
            return Self::recovered(key, initiator, stamps, (endpoints, origins));
        }
        let stamps = [Side::Lo, Side::Hi].map(|side| stamps.of(key.end(side).0));
        Ok(Self { connection, halves, stamps, is_recovered: false })
    }

    /// The same, from an address of the node.
    #[cold]
    #[inline(never)]
    fn recovered<W: Words>(
        key: &FlowKey,
        initiator: Side,
        stamps: &Stamps<W>,
        (endpoints, origins): (&Endpoints, &dyn Origins),
    ) -> Result<Self, Reason> {
        let ((src, sport), (dst, dport)) = (key.end(initiator), key.end(initiator.other()));
        let tuple = FiveTuple { src, dst, protocol: key.protocol(), sport, dport };
        let origin = match origins.original(&tuple) {
            Original::Busy => return Err(Reason::OriginRate),
            Original::Is(address) if !endpoints.is_nodes(address) => Some(address),
            // From outside, or from nobody knows where, under the node's address: not the node.
            Original::Is(_) | Original::Unknown => None,
        };
        let mut halves = Halves { egress: false, ingress: true };
        if let Some(owner) = origin.and_then(|address| endpoints.owner(address)) {
            if owner.quarantined {
                return Err(Reason::Quarantined);
            }
            halves.egress = true;
        }
        let stamp = |side| stamps.of(if side == initiator { origin.unwrap_or(src) } else { dst });
        let nobody = if src.is_v4() { Address::v4([0; 4]) } else { Address::v6([0; 16]) };
        let source = origin.unwrap_or(nobody);
        Ok(Self {
            connection: describe(source, dst, key.protocol(), dport),
            halves,
            stamps: [Side::Lo, Side::Hi].map(stamp),
            is_recovered: true,
        })
    }
}

/// The connection of a flow as its initiator sees it.
pub(crate) fn connection(key: &FlowKey, initiator: Side) -> Connection {
    let (src, _) = key.end(initiator);
    let (dst, dport) = key.end(initiator.other());
    describe(src, dst, key.protocol(), dport)
}

/// A connection; what stands in the place of ports for ICMP echo is none.
pub(super) fn describe(src: Address, dst: Address, protocol: u8, dport: u16) -> Connection {
    let has_ports = !matches!(protocol, protocol::ICMP | protocol::ICMPV6);
    Connection { src, dst, protocol, dport: if has_ports { dport } else { 0 } }
}

/// Asks the policy. `Err` says which half denied, or that an end of this node has no
/// policy yet.
#[inline]
pub(crate) fn judge<B: AsRef<[u8]>, W: Words>(
    classifier: &Classifier<B, W>,
    endpoints: &Endpoints,
    connection: &Connection,
    halves: Halves,
) -> Result<(), Reason> {
    // An endpoint that the address map does not name has no policy yet: quarantine. An
    // address of no pod would be judged as the outside is, and pass unrestricted.
    let unknown = |asked: bool, own: Address| asked && !classifier.is_pod(own);
    if unknown(halves.egress, connection.src) || unknown(halves.ingress, connection.dst) {
        return Err(Reason::Quarantined);
    }
    // To the node's own addresses, of which only those ports come here behind which a Service
    // may be (`is_for_node_port` of steer.bpf.c).
    if classifier.table().has_services() && halves.egress && endpoints.is_nodes(connection.dst) {
        return judge_to_node(classifier, connection);
    }
    let judgement = classifier.evaluate(connection);
    let denied = |asked: bool, verdict: Verdict| asked && !verdict.is_allow();
    if denied(halves.egress, judgement.egress) {
        Err(reason(judgement.egress, Reason::PolicyEgress))
    } else if denied(halves.ingress, judgement.ingress) {
        Err(reason(judgement.ingress, Reason::PolicyIngress))
    } else {
        Ok(())
    }
}

/// A pod of this node may always reach the node; a Service behind one of the node's ports is not
/// the node.
#[cold]
#[inline(never)]
fn judge_to_node<B: AsRef<[u8]>, W: Words>(
    classifier: &Classifier<B, W>,
    connection: &Connection,
) -> Result<(), Reason> {
    match classifier.evaluate_to_node(connection) {
        Some(judgement) if !judgement.egress.is_allow() => {
            Err(reason(judgement.egress, Reason::PolicyEgress))
        }
        Some(_) | None => Ok(()),
    }
}

fn reason(verdict: Verdict, policy: Reason) -> Reason {
    if verdict == Verdict::DENY_BAD_CLASS { Reason::BadClass } else { policy }
}
