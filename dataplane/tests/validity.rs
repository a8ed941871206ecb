//! What a change makes stale, what it judges again before it is acknowledged, and what the
//! workers tell the hooks, on the pipeline without a kernel.
//!
//! What this cannot see: the hooks (end-to-end tests) and the order of the admin side's steps
//! against the workers' (the models of weir-table).
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod support;

use support::frames::{self, ACK, SYN};
use support::node::Did::{Drop, Pass, PassBoth};
use support::node::{Node, ip, request, response};
use support::{Matrix, ONE, OUTSIDE, REMOTE, Service, TWO};
use weir_dataplane::rejudge::{Rejudged, rejudge};
use weir_dataplane::seed::{Seed, enter};
use weir_dataplane::shim::Direction::{FromPod, ToPod};
use weir_table::addr::Address;
use weir_table::counters::Reason;
use weir_table::flow::{Flow, FlowKey, FlowState, Seen, Side, Tick, VerdictKey};
use weir_table::stamps::SlotSet;

const UDP_PORT: u16 = 9999;

/// A node with three flows: ONE to TWO's web server, OUTSIDE to TWO, ONE to REMOTE by UDP.
fn three_flows() -> Node {
    let mut node = Node::new(Matrix::OPEN);
    assert_eq!(node.punt(11, FromPod, &request(SYN)), PassBoth);
    assert_eq!(node.punt(12, FromPod, &response(SYN | ACK)), PassBoth);
    let from_outside = frames::tcp((ip(OUTSIDE), 5000), (ip(TWO), 80), SYN);
    assert_eq!(node.punt(12, ToPod, &from_outside), Pass);
    let to_remote = frames::udp((ip(ONE), 6000), (ip(REMOTE), UDP_PORT));
    assert_eq!(node.punt(11, FromPod, &to_remote), Pass);
    node
}

/// The TCP flow that an actor opened.
fn flow(node: &Node, from: usize) -> Flow {
    let mut flows = node.tables.flows.iter().filter(|f| f.key.protocol() == 6);
    flows.find(|f| f.source().0 == ip(from)).unwrap()
}

/// What the admin side does once the workers decide by a new table.
fn change(node: &Node, slots: &SlotSet) -> Rejudged {
    let now = Tick::from_nanos(node.seconds * 1_000_000_000);
    let classifier = node.classifier.as_ref().unwrap();
    let (flows, stamps) = (&node.tables.flows, &node.tables.stamps);
    stamps.announce(slots);
    let done = rejudge((flows, stamps, slots), classifier, (&node.endpoints, None), now);
    stamps.settle(slots);
    done
}

#[test]
fn exactly_the_flows_of_a_changed_address_are_judged_again() {
    let mut node = three_flows();
    let before: Vec<Flow> = node.tables.flows.iter().collect();
    assert!(before.iter().all(|f| node.tables.stamps.hold(f.stamps)));
    // TWO takes nothing from OUTSIDE any longer; the table says so already.
    let matrix = Matrix::OPEN.deny_ingress(TWO, OUTSIDE, Service::Web);
    node.classifier = Some(matrix.classifier(2));
    let slots = node.tables.stamps.slots_of(&[ip(TWO)]);
    assert_eq!(change(&node, &slots), Rejudged { judged: 2, cut: 1 });

    let after: Vec<Flow> = node.tables.flows.iter().collect();
    assert!(after.iter().all(|f| node.tables.stamps.hold(f.stamps)), "nothing is left stale");
    let untouched: Vec<&Flow> = after.iter().filter(|f| before.contains(f)).collect();
    assert_eq!(untouched.len(), 1, "only the flow to REMOTE is as it was");
    assert_eq!(untouched[0].destination().0, ip(REMOTE));
    assert_eq!(flow(&node, OUTSIDE).state(), FlowState::Denied);
    let late = frames::tcp((ip(OUTSIDE), 5000), (ip(TWO), 80), ACK);
    assert_eq!(node.punt(12, ToPod, &late), Drop(Reason::FlowCut));
    assert_eq!(node.punt(11, FromPod, &request(ACK)), PassBoth, "and what may go on does");

    // Allowed again, it passes again, still with OUTSIDE as the one who opened it.
    node.classifier = Some(Matrix::OPEN.classifier(3));
    assert_eq!(change(&node, &slots), Rejudged { judged: 2, cut: 0 });
    assert_eq!(node.punt(12, ToPod, &late), Pass);
    assert_eq!(flow(&node, OUTSIDE).source().0, ip(OUTSIDE));
}

#[test]
fn old_verdicts_hold_until_the_change_settles_and_not_after() {
    let mut node = three_flows();
    let slots = node.tables.stamps.slots_of(&[ip(TWO)]);
    node.tables.stamps.announce(&slots);
    let held = |node: &Node, from| node.tables.stamps.hold(flow(node, from).stamps);
    assert!(held(&node, OUTSIDE), "its packets go on meanwhile");
    // Whoever is judged from here on is stamped for what comes.
    let other = frames::tcp((ip(OUTSIDE), 4000), (ip(TWO), 80), SYN);
    assert_eq!(node.punt(12, ToPod, &other), Pass);
    node.tables.stamps.settle(&slots);
    let stale = node.tables.flows.iter().filter(|f| !node.tables.stamps.hold(f.stamps)).count();
    assert_eq!(stale, 2, "what nobody judged again is stale, the new one is not");
    assert_eq!(node.punt(11, FromPod, &request(ACK)), PassBoth, "judged again by its next packet");
    assert!(held(&node, ONE));
}

#[test]
fn a_flow_whose_side_has_moved_is_left_to_the_workers() {
    let mut node = three_flows();
    node.endpoints = support::endpoints([(ONE, 11, false), (TWO, 13, false)]);
    let slots = node.tables.stamps.slots_of(&[ip(TWO)]);
    assert_eq!(change(&node, &slots), Rejudged::default());
    let stale = node.tables.flows.iter().filter(|f| !node.tables.stamps.hold(f.stamps)).count();
    assert_eq!(stale, 2);
}

/// The verdict about ONE asking TWO, if the hooks could use it now.
fn cached(node: &Node, protocol: u8, dport: u16) -> Option<Option<Side>> {
    let key = VerdictKey { src: ip(ONE), dst: ip(TWO), protocol, dport };
    let found = node.tables.verdicts.lookup(key)?;
    assert_eq!(found.ifindex, [11, 12], "source's and destination's device");
    node.tables.stamps.hold(found.stamps).then_some(found.denied_by)
}

#[test]
fn the_hooks_are_told_what_policies_say_and_nothing_else() {
    let matrix = Matrix::OPEN.deny_ingress(TWO, ONE, Service::OtherUdp);
    let mut node = Node::new(matrix);
    // A segment in mid-stream passes, but does not say how connections begin.
    assert_eq!(node.punt(11, FromPod, &request(ACK)), PassBoth);
    assert_eq!(cached(&node, 6, 80), None);
    let syn = frames::tcp((ip(ONE), 4001), (ip(TWO), 80), SYN);
    assert_eq!(node.punt(11, FromPod, &syn), PassBoth);
    assert_eq!(cached(&node, 6, 80), Some(None));
    let denied = frames::udp((ip(ONE), 4000), (ip(TWO), UDP_PORT));
    assert_eq!(node.punt(11, FromPod, &denied), Drop(Reason::PolicyIngress));
    assert_eq!(cached(&node, 17, UDP_PORT), Some(Some(Side::Hi)), "the receiver's policies");
    // A spoofed packet leaves no word behind.
    let spoofed = frames::udp((ip(ONE), 4000), (ip(TWO), 53));
    assert_eq!(node.punt(12, FromPod, &spoofed), Drop(Reason::SpoofedSource));
    assert_eq!(cached(&node, 17, 53), None);
    node.publish(Matrix::OPEN);
    assert_eq!(cached(&node, 6, 80), None, "a change of policy empties it");
    assert_eq!(cached(&node, 17, UDP_PORT), None);
}

#[test]
fn only_what_may_be_followed_by_more_is_held() {
    let mut node = three_flows();
    let held = |node: &Node, from: usize| {
        let flow = flow(node, from);
        [flow.initiator, flow.initiator.other()].map(|side| flow.counts.is_held(side))
    };
    assert_eq!(held(&node, OUTSIDE), [false, false], "a SYN travels alone");
    assert_eq!(held(&node, ONE), [false, true], "its answer came the long way, uncounted");
    let udp = node.tables.flows.iter().find(|f| f.key.protocol() == 17).unwrap();
    assert!(udp.counts.is_held(udp.initiator) && !udp.counts.is_held(udp.initiator.other()));
    // Not if every packet comes to the workers anyway.
    node.tables = support::Tables::new();
    node.offload = false;
    let datagram = frames::udp((ip(ONE), 6000), (ip(REMOTE), UDP_PORT));
    assert_eq!(node.punt(11, FromPod, &datagram), Pass);
    assert_eq!(node.punt(11, FromPod, &datagram), Pass);
    let key = VerdictKey { src: ip(ONE), dst: ip(REMOTE), protocol: 17, dport: UDP_PORT };
    assert_eq!(node.tables.verdicts.lookup(key), None);
}

fn seed(src: (Address, u16), dst: (Address, u16), ifindex: [u32; 2], answered: bool) -> Seed {
    let (key, initiator) = FlowKey::new(src, dst, 6);
    let seen = Seen::default().with(initiator, SYN | ACK);
    let seen = if answered { seen.with(initiator.other(), SYN | ACK) } else { seen };
    let [from, to] = ifindex;
    let ifindex = if initiator == Side::Lo { [from, to] } else { [to, from] };
    Seed { key, initiator, seen, ifindex }
}

/// What finds no room is not passed over in silence.
#[test]
fn connections_for_which_an_account_has_no_room_are_counted() {
    let tables = support::Tables::limited(4096, 8);
    let node = Node::with_tables(Matrix::OPEN, tables);
    let seeds: Vec<Seed> =
        (0..20).map(|n| seed((ip(ONE), 4000 + n), (ip(REMOTE), 80), [11, 0], true)).collect();
    let now = Tick::from_nanos(node.seconds * 1_000_000_000);
    let classifier = node.classifier.as_ref().unwrap();
    let known = (&node.tables.flows, &node.tables.stamps);
    let entered = enter(&seeds, classifier, (&node.endpoints, None), known, now);
    let kept = node.tables.flows.iter().count();
    assert!(kept <= 8, "{kept}");
    assert_eq!(kept + entered.no_room, 20);
}

/// TWO may not open anything, ONE may not receive anything: without seeding TWO's next
/// segment would be taken for a connection of its own.
#[test]
fn open_connections_are_entered_the_way_they_were_opened() {
    let mut node = Node::new(support::node::NO_WAY_BACK.deny_ingress(TWO, OUTSIDE, Service::Web));
    let seeds = [
        seed((ip(ONE), 4000), (ip(TWO), 80), [11, 12], true),
        seed((ip(OUTSIDE), 5000), (ip(TWO), 80), [0, 12], true),
        seed((ip(OUTSIDE), 5001), (ip(TWO), 80), [0, 12], false),
    ];
    let now = Tick::from_nanos(node.seconds * 1_000_000_000);
    let classifier = node.classifier.as_ref().unwrap();
    let known = (&node.tables.flows, &node.tables.stamps);
    let entered = enter(&seeds, classifier, (&node.endpoints, None), known, now);
    assert_eq!((entered.allowed, entered.cut), (1, 1), "what nobody answered is left out");
    assert_eq!(node.tables.flows.iter().count(), 2);
    assert_eq!(flow(&node, ONE).state(), FlowState::Established);
    assert_eq!(node.punt(12, FromPod, &response(ACK)), PassBoth, "the server speaks first");
    let late = frames::tcp((ip(TWO), 80), (ip(OUTSIDE), 5000), ACK);
    assert_eq!(node.punt(12, FromPod, &late), Drop(Reason::FlowCut));
}
