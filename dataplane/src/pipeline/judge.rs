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
#![forbid(unsafe_code)]

use weir_table::addr::Address;
use weir_table::classify::{Classifier, Connection};
use weir_table::counters::Reason;
use weir_table::flow::{FlowKey, Side};
use weir_table::mem::Words;
use weir_table::policy::Verdict;

use crate::endpoints::Endpoints;
use crate::parse::protocol;

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
