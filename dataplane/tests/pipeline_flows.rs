//! Flows, one named case for each rule of conntrack; counters are asserted exactly.
//!
//! Two pods live on this node: ONE behind device 11, TWO behind device 12.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod support;

use support::frames::{self, ACK, FIN, RST, SYN};
use support::node::Did::{Drop, Pass, PassBoth};
use support::node::{NO_WAY_BACK, Node, ip, request, response};
use support::{Matrix, ONE, REMOTE, Service, TWO, Tables};
use weir_dataplane::endpoints::EndpointsBuilder;
use weir_dataplane::shim::Direction::{FromPod, ToPod};
use weir_table::counters::{Counter, Reason};
use weir_table::flow::{FlowState, Side};

#[test]
fn a_connection_between_two_pods_of_the_node_needs_one_verdict() {
    let mut node = Node::new(NO_WAY_BACK);
    assert_eq!(node.punt(11, FromPod, &request(SYN)), PassBoth);
    assert_eq!(node.punt(12, FromPod, &response(SYN | ACK)), PassBoth);
    assert_eq!(node.punt(11, FromPod, &request(ACK)), PassBoth);
    assert_eq!(node.tally.get(Counter::DecisionsAllowed), 1);
    assert_eq!(node.tally.get(Counter::FlowHits), 2);
    assert_eq!(node.tally.get(Counter::FlowMisses), 1);
    assert_eq!(node.tally.get(Counter::FlowsInserted), 1);
    assert_eq!(node.tally.get(Counter::PassedEgress), 3);
    assert_eq!(node.tally.drops(), []);

    let [flow] = node.tables.flows.iter().collect::<Vec<_>>()[..] else { panic!() };
    assert_eq!(flow.state(), FlowState::Established);
    assert_eq!((flow.source(), flow.destination()), ((ip(ONE), 4000), (ip(TWO), 80)));
    assert_eq!(flow.ifindex[flow.initiator.index()], 11);
    assert_eq!(flow.ifindex[flow.initiator.other().index()], 12);
}

#[test]
fn replies_pass_though_nothing_may_be_opened_that_way() {
    let mut node = Node::new(NO_WAY_BACK);
    assert_eq!(node.punt(12, FromPod, &response(SYN)), Drop(Reason::PolicyIngress));
    assert_eq!(node.punt(12, FromPod, &response(ACK)), Drop(Reason::PolicyIngress));
    assert_eq!(node.tables.flows.iter().count(), 0, "a denied flow leaves no entry");
    assert_eq!(node.punt(11, FromPod, &request(SYN)), PassBoth);
    assert_eq!(node.punt(12, FromPod, &response(SYN | ACK)), PassBoth);

    let ask = frames::udp((ip(ONE), 4000), (ip(REMOTE), 53));
    let answer = frames::udp((ip(REMOTE), 53), (ip(ONE), 4000));
    assert_eq!(node.punt(11, ToPod, &answer), Drop(Reason::PolicyIngress));
    assert_eq!(node.punt(11, FromPod, &ask), Pass);
    assert_eq!(node.punt(11, ToPod, &answer), Pass);
    node.seconds += 121;
    assert_eq!(node.punt(11, ToPod, &answer), Drop(Reason::PolicyIngress), "its time was over");
}

#[test]
fn each_end_has_a_say_on_the_node_where_it_lives() {
    let web = Service::Web;
    for (matrix, from_one, verdict) in [
        (Matrix::OPEN.deny_egress(ONE, TWO, web), TWO, Drop(Reason::PolicyEgress)),
        (Matrix::OPEN.deny_ingress(TWO, ONE, web), TWO, Drop(Reason::PolicyIngress)),
        (Matrix::OPEN.deny_egress(ONE, REMOTE, web), REMOTE, Drop(Reason::PolicyEgress)),
        // The remote node asks that half.
        (Matrix::OPEN.deny_ingress(REMOTE, ONE, web), REMOTE, Pass),
    ] {
        let mut node = Node::new(matrix);
        let syn = frames::tcp((ip(ONE), 4000), (ip(from_one), 80), SYN);
        assert_eq!(node.punt(11, FromPod, &syn), verdict);
    }
}

#[test]
fn a_policy_change_cuts_an_open_connection_at_both_ends_and_can_restore_it() {
    let closed = Matrix::OPEN.deny_ingress(TWO, ONE, Service::Web);
    let mut node = Node::new(Matrix::OPEN);
    node.punt(11, FromPod, &request(SYN));
    node.punt(12, FromPod, &response(SYN | ACK));
    node.publish(closed);
    assert_eq!(node.punt(11, FromPod, &request(ACK)), Drop(Reason::FlowCut));
    // TWO may open connections to ONE. That its next segment is none of its own is known
    // only from the entry, which therefore stays, however long TWO keeps trying.
    for _ in 0..10 {
        node.seconds += 600;
        assert_eq!(node.punt(12, FromPod, &response(ACK)), Drop(Reason::FlowCut));
    }
    assert_eq!(node.tally.get(Counter::FlowsCut), 1);
    assert_eq!(node.tally.get(Counter::DecisionsDenied), 1, "judged once, not per packet");
    assert_eq!(node.tables.flows.iter().next().unwrap().state(), FlowState::Denied);
    // But it may open one of its own on the same ports: a SYN leaves no doubt.
    let mut other = Node::new(Matrix::OPEN);
    other.punt(11, FromPod, &request(SYN));
    other.publish(closed);
    assert_eq!(other.punt(11, FromPod, &request(ACK)), Drop(Reason::FlowCut));
    assert_eq!(other.punt(12, FromPod, &response(SYN)), PassBoth);

    node.publish(Matrix::OPEN);
    assert_eq!(node.punt(12, FromPod, &response(ACK)), PassBoth);
    assert_eq!(node.punt(11, FromPod, &request(ACK)), PassBoth);
    let flow = node.tables.flows.iter().next().unwrap();
    assert_eq!(flow.source(), (ip(ONE), 4000), "the orientation is the first one");
    assert_eq!(flow.state(), FlowState::Established);
}

#[test]
fn the_far_end_may_be_the_first_to_notice_a_cut() {
    let mut node = Node::new(Matrix::OPEN);
    node.punt(11, FromPod, &request(SYN));
    node.punt(12, FromPod, &response(SYN | ACK));
    node.publish(Matrix::OPEN.deny_ingress(TWO, ONE, Service::Web));
    assert_eq!(node.punt(12, FromPod, &response(ACK)), Drop(Reason::FlowCut));
    assert_eq!(node.punt(11, FromPod, &request(ACK)), Drop(Reason::FlowCut));
}

#[test]
fn a_port_used_again_is_judged_again() {
    for end in [FIN | ACK, RST] {
        let mut node = Node::new(Matrix::OPEN);
        node.punt(11, FromPod, &request(SYN));
        node.punt(12, FromPod, &response(SYN | ACK));
        node.punt(11, FromPod, &request(end));
        assert_eq!(node.tally.get(Counter::FlowMisses), 1);
        assert_eq!(node.punt(11, FromPod, &request(SYN)), PassBoth);
        assert_eq!(node.tally.get(Counter::FlowMisses), 2, "after {end:#x}");
        assert_eq!(node.tables.flows.iter().next().unwrap().state(), FlowState::Opening);
    }
    // A repeated SYN is no new connection.
    let mut node = Node::new(Matrix::OPEN);
    node.punt(11, FromPod, &request(SYN));
    node.punt(11, FromPod, &request(SYN));
    assert_eq!(node.tally.get(Counter::FlowHits), 1);
}

#[test]
fn a_syn_against_an_open_connection_is_the_other_sides_own_and_leaves_it_alone() {
    let mut node = Node::new(NO_WAY_BACK);
    node.punt(11, FromPod, &request(SYN));
    node.punt(12, FromPod, &response(SYN | ACK));
    assert_eq!(node.punt(12, FromPod, &response(SYN)), Drop(Reason::PolicyIngress));
    assert_eq!(node.punt(12, FromPod, &response(ACK)), PassBoth);
    assert_eq!(node.punt(11, FromPod, &request(ACK)), PassBoth);
}

#[test]
fn a_verdict_for_one_hook_is_no_verdict_for_the_other() {
    // ONE talks to an address that is not known as a pod of this node yet.
    let (late, _) = EndpointsBuilder::new().with(support::endpoint(ONE, 11, false)).build();
    let mut node = Node::new(Matrix::OPEN.deny_ingress(TWO, ONE, Service::Web));
    node.endpoints = late;
    assert_eq!(node.punt(11, FromPod, &request(SYN)), Pass);
    node.endpoints = support::two_endpoints();
    assert_eq!(node.punt(12, ToPod, &request(SYN)), Drop(Reason::FlowCut));

    // As after translation of a Service's address: first seen at the receiver's hook.
    let mut node = Node::new(Matrix::OPEN.deny_egress(ONE, TWO, Service::Web));
    assert_eq!(node.punt(12, ToPod, &request(SYN)), Drop(Reason::PolicyEgress));
    let mut node = Node::new(Matrix::OPEN);
    assert_eq!(node.punt(12, ToPod, &request(SYN)), Pass);
    assert_eq!(node.punt(12, FromPod, &response(SYN | ACK)), PassBoth);
}

#[test]
fn an_address_given_to_a_new_pod_does_not_inherit_flows() {
    let mut node = Node::new(NO_WAY_BACK);
    node.punt(11, FromPod, &request(SYN));
    node.punt(12, FromPod, &response(SYN | ACK));
    let builder = EndpointsBuilder::new()
        .with(support::endpoint(ONE, 31, false))
        .with(support::endpoint(TWO, 12, false));
    node.endpoints = builder.build().0;
    assert_eq!(node.punt(12, FromPod, &response(ACK)), Drop(Reason::PolicyIngress));
}

#[test]
fn a_full_table_is_judged_packet_by_packet_and_never_open() {
    let mut node = Node::with_tables(NO_WAY_BACK, Tables::sized(4));
    for port in 0..4000 {
        let request = frames::udp((ip(ONE), port), (ip(TWO), 53));
        let answer = frames::udp((ip(TWO), 53), (ip(ONE), port));
        assert_eq!(node.punt(11, FromPod, &request), PassBoth);
        let full = node.tally.get(Counter::FlowTableFull);
        let expected = if full == 0 { PassBoth } else { Drop(Reason::PolicyIngress) };
        assert_eq!(node.punt(12, FromPod, &answer), expected, "{port}");
        if full > 100 {
            return;
        }
    }
    panic!("the table never filled");
}

#[test]
fn silent_flows_are_forgotten_and_counted() {
    let mut node = Node::new(Matrix::OPEN);
    for port in 0..50 {
        node.punt(11, FromPod, &frames::udp((ip(ONE), port), (ip(TWO), 53)));
    }
    node.seconds += 29;
    node.expire();
    assert_eq!(node.tables.flows.iter().count(), 50);
    node.seconds += 2;
    node.expire();
    assert_eq!(node.tables.flows.iter().count(), 0);
    assert_eq!(node.tally.get(Counter::FlowsExpired), 50);
}

#[test]
fn what_each_side_sent_is_kept_apart() {
    let mut node = Node::new(Matrix::OPEN);
    node.punt(11, FromPod, &request(SYN));
    node.punt(12, FromPod, &response(SYN | ACK));
    node.punt(11, FromPod, &request(FIN | ACK));
    let flow = node.tables.flows.iter().next().unwrap();
    let client = if flow.key.end(Side::Lo) == (ip(ONE), 4000) { Side::Lo } else { Side::Hi };
    assert_eq!(flow.initiator, client);
    assert_eq!(flow.seen.from(client) & (SYN | FIN | ACK), SYN | FIN | ACK);
    assert_eq!(flow.seen.from(client.other()) & (SYN | FIN | ACK), SYN | ACK);
}
