//! Whose policy a drop was: the policy table is asked again, off the packet path.
//!
//! Workers and hooks know which end denied, not which policies: that would be one more load
//! for every packet. The table in force now is nearly always the one that decided, a few
//! milliseconds ago; if it is not and would allow, no policy is named.
//!
//! A pod's owner decides how many policies isolate it, and who sends to it how often this is
//! asked: no more of them are looked at than a record has room for.

use weir_table::classify::{Classifier, Connection};
use weir_table::counters::{Direction, Reason};
use weir_table::drops::{Packet, Text};
use weir_table::flow::{FlowKey, FlowTable};
use weir_table::mem::Words;
use weir_table::policy::Verdict;

use crate::endpoints::Endpoints;

/// What is asked.
pub(super) struct Question<'a> {
    pub reason: &'a str,
    pub packet: &'a Packet,
    /// The hook's.
    pub ifindex: u32,
    pub direction: Direction,
}

/// Sets policy and rule of `text` to those that denied a packet; they stay empty if it was
/// no policy. The other texts are set before.
pub(super) fn name_denier<B: AsRef<[u8]>, V: Words, W: Words>(
    question: &Question<'_>,
    classifier: &Classifier<B, V>,
    endpoints: &Endpoints,
    flows: &FlowTable<W>,
    text: &mut Text,
) {
    let packet = question.packet;
    let Some((src, mut dst)) = packet.addresses else { return };
    // What goes to a group is judged at the receiver, under the receiver's own address.
    if question.direction == Direction::Ingress && (dst.is_multicast() || dst.is_broadcast()) {
        let own = endpoints.by_ifindex(question.ifindex);
        let own = own.and_then(|e| e.addresses.iter().find(|a| a.is_v4() == dst.is_v4()));
        dst = own.copied().unwrap_or(dst);
    }
    let (sport, dport) = packet.ports.unwrap_or_default();
    let as_sent = Connection { src, dst, protocol: packet.protocol, dport };
    let reversed = Connection { src: dst, dst: src, protocol: packet.protocol, dport: sport };
    let here = |connection: &Connection| {
        [connection.src, connection.dst].map(|end| endpoints.by_address(end).is_some())
    };
    const HALVES: [(&str, [bool; 2]); 2] = [
        (Reason::PolicyEgress.as_str(), [true, false]),
        (Reason::PolicyIngress.as_str(), [false, true]),
    ];
    if let Some((_, ends)) = HALVES.iter().find(|(reason, _)| *reason == question.reason) {
        name_denier_of((classifier, endpoints), &as_sent, *ends, text);
        return;
    }
    if question.reason != Reason::FlowCut.as_str() {
        return;
    }
    // A flow that was cut: judged the way it was opened, which need not be this packet's.
    let (key, sender) = FlowKey::new((src, sport), (dst, dport), packet.protocol);
    let opened_by = match flows.lookup(&key, flows.hash(&key)) {
        Ok(Some((_, flow))) => Some(flow.initiator == sender),
        _ => None,
    };
    let order = match opened_by {
        Some(true) => vec![as_sent],
        Some(false) => vec![reversed],
        None => vec![as_sent, reversed],
    };
    // Until one of them is denied.
    let _ = order.iter().any(|c| name_denier_of((classifier, endpoints), c, here(c), text));
}

/// Names the policies of the first of the `asked` ends (source, destination) that denies;
/// false if neither does.
fn name_denier_of<B: AsRef<[u8]>, V: Words>(
    (classifier, endpoints): (&Classifier<B, V>, &Endpoints),
    connection: &Connection,
    asked: [bool; 2],
    text: &mut Text,
) -> bool {
    let table = classifier.table();
    // A port of the node at which something was denied is a Service's.
    let to_node = endpoints.is_nodes(connection.dst);
    let judgement = to_node.then(|| classifier.evaluate_to_node(connection)).flatten();
    let judgement = judgement.unwrap_or_else(|| classifier.evaluate(connection));
    let programs = |end| table.programs(classifier.class_of(end));
    let (verdict, program) = if asked[0] && !judgement.egress.is_allow() {
        (judgement.egress, programs(connection.src).map(|(_, egress)| egress))
    } else if asked[1] && !judgement.ingress.is_allow() {
        (judgement.ingress, programs(connection.dst).map(|(ingress, _)| ingress))
    } else {
        return false;
    };
    let Some(program) = program.filter(|_| verdict != Verdict::DENY_BAD_CLASS) else {
        return false;
    };
    match verdict.rule().and_then(|rule| table.rule(rule)) {
        Some(rule) => {
            rule.policy.clone_into(&mut text.policy);
            rule.path.clone_into(&mut text.rule);
        }
        None => text.set_policies(table.isolating(program)),
    }
    true
}
