//! Connections to Services, one named case for each rule.
//!
//! Two pods live on this node: ONE behind device 11, TWO behind device 12; REMOTE is a pod
//! elsewhere. The Service has an address of nobody, port 80, and what translates it is not there:
//! a packet that the translation would make is punted at the hook where it would show up.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod support;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use support::frames::{self, ACK, FIN, SYN};
use support::node::Did::{self, Drop, Pass, PassBoth};
use support::node::{Node, ip, request, response};
use support::{HeapClassifier, Matrix, ONE, OUTSIDE, REMOTE, Service as Traffic, TWO};
use weir_dataplane::endpoints::{Endpoints, EndpointsBuilder};
use weir_dataplane::origins::{Original, Origins};
use weir_dataplane::parse::FiveTuple;
use weir_dataplane::shim::Direction::{FromPod, ToPod};
use weir_table::addr::Address;
use weir_table::classify::Ruling;
use weir_table::counters::{Counter, Reason};
use weir_table::flow::VerdictKey;
use weir_table::policy::{Backend, ClassId, ServiceInfo};

const DENIED: Did = Drop(Reason::PolicyEgress);
/// A kind of backends: who, at which port, on another node or perhaps so.
type Kind = (usize, u16, bool);

fn vip() -> Address {
    Address::v4([10, 96, 0, 1])
}

fn of_the_node() -> Address {
    Address::v4([172, 16, 0, 1])
}

fn service(address: Address, port: u16, kinds: &[Kind]) -> ServiceInfo {
    let mut kinds = kinds.to_vec();
    kinds.sort_unstable();
    let kind = |(actor, port, elsewhere): Kind| Backend {
        class: ClassId(u32::try_from(actor).unwrap()),
        port,
        elsewhere,
    };
    let backends = kinds.into_iter().map(kind).collect();
    ServiceInfo { address, protocol: 6, port, backends }
}

fn serving(matrix: Matrix, generation: u64, kinds: &[Kind]) -> HeapClassifier {
    let any = Address::v4([0; 4]);
    matrix.serving(generation, vec![service(vip(), 80, kinds), service(any, 30_080, kinds)])
}

/// The pods, and an address of the node's own.
fn endpoints() -> Endpoints {
    let mut builder = EndpointsBuilder::new();
    builder.add(support::endpoint(ONE, 11, false));
    builder.add(support::endpoint(TWO, 12, false));
    builder.set_node_addresses([of_the_node()]);
    builder.build().0
}

fn node(matrix: Matrix, kinds: &[Kind]) -> Node {
    let mut node = Node::new(matrix);
    node.classifier = Some(serving(matrix, 1, kinds));
    node.endpoints = endpoints();
    node
}

fn to(dst: Address, port: u16, flags: u8) -> Vec<u8> {
    frames::tcp((ip(ONE), 4000), (dst, port), flags)
}

fn from(src: Address, port: u16, flags: u8) -> Vec<u8> {
    frames::tcp((src, port), (ip(ONE), 4000), flags)
}

/// ONE may send to TWO's port 80 and REMOTE's, to nothing else of anybody.
fn restricted() -> Matrix {
    let mut matrix = Matrix::OPEN;
    matrix.egress[ONE] = [0; 4];
    let web = 1 << Traffic::Web as u8;
    matrix.egress[ONE][TWO] = web;
    matrix.egress[ONE][REMOTE] = web;
    matrix
}

const HERE: bool = false;
const ELSEWHERE: bool = true;

#[test]
fn a_service_is_decided_at_the_source_where_its_backends_agree() {
    for (kinds, ruling, did, why) in [
        (&[(TWO, 80, HERE)][..], Ruling::Allow, Pass, "one backend, allowed"),
        (&[(TWO, 80, HERE), (REMOTE, 80, ELSEWHERE)], Ruling::Allow, Pass, "all are"),
        (&[(TWO, 81, HERE)], Ruling::Deny, DENIED, "the backend's port counts, not the Service's"),
        (&[(TWO, 81, HERE), (REMOTE, 81, ELSEWHERE)], Ruling::Deny, DENIED, "none is"),
        (&[], Ruling::Deny, DENIED, "there is none"),
        (&[(TWO, 80, HERE), (TWO, 81, HERE)], Ruling::Later, Pass, "its own hook decides"),
        (&[(TWO, 81, HERE), (REMOTE, 80, ELSEWHERE)], Ruling::Later, Pass, "its hook decides"),
        (&[(TWO, 80, HERE), (REMOTE, 81, ELSEWHERE)], Ruling::Deny, DENIED, "nobody would see"),
        (&[(ONE, 80, HERE)], Ruling::Later, Pass, "it may be itself"),
        (&[(OUTSIDE, 80, ELSEWHERE)], Ruling::Deny, DENIED, "a backend that is no pod"),
    ] {
        let mut node = node(restricted(), kinds);
        let connection =
            weir_table::classify::Connection { src: ip(ONE), dst: vip(), protocol: 6, dport: 80 };
        let reach = node.classifier.as_ref().unwrap().reach(&connection).unwrap();
        assert_eq!(reach.ruling, ruling, "{why}");
        assert_eq!(node.punt(11, FromPod, &to(vip(), 80, SYN)), did, "{why}");
        // The same behind a port of the node, and not behind another's.
        assert_eq!(node.punt(11, FromPod, &to(of_the_node(), 30_080, SYN)), did, "{why}");
        let other = Address::v4([172, 16, 0, 2]);
        assert_eq!(node.punt(11, FromPod, &to(other, 30_080, SYN)), DENIED, "{why}");
        // What is no Service is an address like others.
        assert_eq!(node.punt(11, FromPod, &to(vip(), 81, SYN)), DENIED, "{why}");
        let flows = node.tables.flows.iter().count();
        assert_eq!(flows, if did == Pass { 2 } else { 0 }, "a denied flow leaves no entry: {why}");
        // What the hooks are told: the same.
        let key = VerdictKey { src: ip(ONE), dst: vip(), protocol: 6, dport: 80 };
        let verdict = node.tables.verdicts.lookup(key).unwrap();
        assert_eq!(verdict.denied_by.is_none(), did == Pass, "{why}");
        // TWO may send to every backend, if there is one.
        let free = frames::tcp((ip(TWO), 4000), (vip(), 80), SYN);
        let expected = if kinds.is_empty() { DENIED } else { Pass };
        assert_eq!(node.punt(12, FromPod, &free), expected, "{why}");
    }
}

/// Before the translation and after it: two flows, two verdicts.
#[test]
fn a_local_backend_is_judged_at_its_own_hook() {
    for (port, at_backend) in [(80, Pass), (81, DENIED)] {
        let mut node = node(restricted(), &[(TWO, 80, HERE), (TWO, 81, HERE)]);
        assert_eq!(node.punt(11, FromPod, &to(vip(), 80, SYN)), Pass, "and not the second hook");
        let translated = frames::tcp((ip(ONE), 4000), (ip(TWO), port), SYN);
        assert_eq!(node.punt(12, ToPod, &translated), at_backend);
        if at_backend != Pass {
            continue;
        }
        assert_eq!(node.punt(12, FromPod, &response(SYN | ACK)), PassBoth);
        assert_eq!(node.punt(11, ToPod, &from(vip(), 80, SYN | ACK)), Pass);
        assert_eq!(node.punt(11, FromPod, &to(vip(), 80, ACK)), Pass);
        assert_eq!(node.punt(12, ToPod, &request(ACK)), Pass);
        assert_eq!(node.tally.get(Counter::DecisionsAllowed), 2);
        assert_eq!(node.tally.get(Counter::FlowMisses), 2);
        assert_eq!(node.punt(11, FromPod, &to(vip(), 80, FIN | ACK)), Pass);
        assert_eq!(node.tally.drops(), []);
    }
    // The backend's own policy is asked where it lives, the source's as well.
    let closed = Matrix::OPEN.deny_ingress(TWO, ONE, Traffic::Web);
    let mut node = node(closed, &[(TWO, 80, HERE)]);
    assert_eq!(node.punt(11, FromPod, &to(vip(), 80, SYN)), Pass);
    assert_eq!(node.punt(12, ToPod, &request(SYN)), Drop(Reason::PolicyIngress));
}

#[test]
fn another_set_of_backends_changes_the_verdict_of_open_connections() {
    let mut node = node(restricted(), &[(TWO, 80, HERE)]);
    assert_eq!(node.punt(11, FromPod, &to(vip(), 80, SYN)), Pass);
    assert_eq!(node.punt(11, ToPod, &from(vip(), 80, SYN | ACK)), Pass);
    let publish = |node: &mut Node, generation, kinds: &[Kind]| {
        node.classifier = Some(serving(restricted(), generation, kinds));
        node.tables.outdate();
    };
    publish(&mut node, 2, &[(TWO, 81, HERE)]);
    assert_eq!(node.punt(11, FromPod, &to(vip(), 80, ACK)), Drop(Reason::FlowCut));
    assert_eq!(node.punt(11, ToPod, &from(vip(), 80, ACK)), Drop(Reason::FlowCut));
    publish(&mut node, 3, &[(TWO, 80, HERE), (REMOTE, 80, ELSEWHERE)]);
    assert_eq!(node.punt(11, FromPod, &to(vip(), 80, ACK)), Pass);
    publish(&mut node, 4, &[]);
    assert_eq!(node.punt(11, FromPod, &to(vip(), 80, ACK)), Drop(Reason::FlowCut));
}

/// Workers see of the traffic to the node what may be a Service's, and more when they cannot tell.
#[test]
fn the_node_itself_is_always_reached() {
    let mut node = node(restricted(), &[(TWO, 81, HERE)]);
    assert_eq!(node.punt(11, FromPod, &to(of_the_node(), 30_080, SYN)), DENIED);
    assert_eq!(node.punt(11, FromPod, &to(of_the_node(), 10_250, SYN)), Pass);
    let datagram = frames::udp((ip(ONE), 4000), (of_the_node(), 30_080));
    assert_eq!(node.punt(11, FromPod, &datagram), Pass, "another protocol");
    // Not so what only says that it comes from there.
    let mut closed = Matrix::OPEN;
    closed.ingress[ONE] = [0; 4];
    let mut node = self::node(closed, &[(TWO, 80, HERE)]);
    let forged = frames::tcp((of_the_node(), 4000), (ip(ONE), 80), SYN);
    assert_eq!(node.punt(11, ToPod, &forged), Drop(Reason::PolicyIngress));
}

/// What the host has translated: by port of the node, under which one is seen, who opened it.
#[derive(Debug, Clone, Default)]
struct Translated {
    by_port: Rc<RefCell<BTreeMap<u16, Original>>>,
    asked: Rc<Cell<usize>>,
}

impl Origins for Translated {
    fn original(&self, tuple: &FiveTuple) -> Original {
        assert_eq!((tuple.src, tuple.protocol), (of_the_node(), 6));
        self.asked.set(self.asked.get() + 1);
        self.by_port.borrow().get(&tuple.sport).copied().unwrap_or(Original::Unknown)
    }
}

fn masquerading(matrix: Matrix, origins: &[(u16, Original)]) -> (Node, Translated) {
    let mut node = node(matrix, &[]);
    let translated = Translated::default();
    translated.by_port.borrow_mut().extend(origins.iter().copied());
    node.origins = Some(Box::new(translated.clone()));
    (node, translated)
}

fn masqueraded(sport: u16, dst: usize, flags: u8) -> Vec<u8> {
    frames::tcp((of_the_node(), sport), (ip(dst), 80), flags)
}

#[test]
fn a_masqueraded_source_is_judged_as_who_it_is() {
    let is = |actor| Original::Is(ip(actor));
    let not_from = |actor| Matrix::OPEN.deny_ingress(TWO, actor, Traffic::Web);
    let in_by = Drop(Reason::PolicyIngress);
    // Nobody's own address is what the default block matches, here that of the outside.
    let nobody = OUTSIDE;
    for (origin, matrix, did, why) in [
        (is(REMOTE), Matrix::OPEN, Pass, "allowed"),
        (is(REMOTE), not_from(REMOTE), in_by, "a pod elsewhere"),
        (is(REMOTE), not_from(OUTSIDE), Pass, "which is not outside, nor the node"),
        (is(OUTSIDE), not_from(OUTSIDE), in_by, "an outsider"),
        (is(ONE), not_from(ONE), in_by, "a pod of this node"),
        (is(ONE), Matrix::OPEN.deny_egress(ONE, TWO, Traffic::Web), DENIED, "its own policies"),
        (is(TWO), not_from(TWO), Pass, "a hairpin: a pod reaches itself"),
        (Original::Is(of_the_node()), not_from(nobody), in_by, "forged: an outsider"),
        (Original::Unknown, not_from(nobody), in_by, "unknown: an outsider"),
        (Original::Unknown, not_from(REMOTE), Pass, "and no pod"),
        (Original::Busy, Matrix::OPEN, Drop(Reason::OriginRate), "too many"),
    ] {
        let (mut node, translated) = masquerading(matrix, &[(5000, origin)]);
        assert_eq!(node.punt(12, ToPod, &masqueraded(5000, TWO, SYN)), did, "{why}");
        assert_eq!(translated.asked.get(), 1, "{why}");
        let recovered = u64::from(origin != Original::Busy);
        assert_eq!(node.tally.get(Counter::SourcesRecovered), recovered, "{why}");
        // What is said of one holds for no other: the hooks are told nothing.
        let key = VerdictKey { src: of_the_node(), dst: ip(TWO), protocol: 6, dport: 80 };
        assert!(node.tables.verdicts.lookup(key).is_none(), "{why}");
        let flows = node.tables.flows.iter().count();
        assert_eq!(flows, usize::from(did == Pass), "{why}");
        if did != Pass {
            continue;
        }
        // All that follows is the flow's.
        assert_eq!(node.punt(12, ToPod, &masqueraded(5000, TWO, ACK)), Pass, "{why}");
        let answer = frames::tcp((ip(TWO), 80), (of_the_node(), 5000), SYN | ACK);
        assert_eq!(node.punt(12, FromPod, &answer), Pass, "{why}");
        assert_eq!(translated.asked.get(), 1, "{why}");
    }
    // A source in quarantine stays there.
    let (mut node, _) = masquerading(Matrix::OPEN, &[(5000, is(ONE))]);
    node.endpoints = {
        let mut builder = EndpointsBuilder::new();
        builder.add(support::endpoint(ONE, 11, true));
        builder.add(support::endpoint(TWO, 12, false));
        builder.set_node_addresses([of_the_node()]);
        builder.build().0
    };
    let did = node.punt(12, ToPod, &masqueraded(5000, TWO, SYN));
    assert_eq!(did, Drop(Reason::Quarantined));
}

/// Two clients behind one address of the node, of which a change concerns one.
#[test]
fn masqueraded_flows_bear_the_stamps_of_who_opened_them() {
    let origins = [(5000, Original::Is(ip(REMOTE))), (5001, Original::Is(ip(OUTSIDE)))];
    let (mut node, translated) = masquerading(Matrix::OPEN, &origins);
    for (port, _) in origins {
        assert_eq!(node.punt(12, ToPod, &masqueraded(port, TWO, SYN)), Pass);
        assert_eq!(node.punt(12, ToPod, &masqueraded(port, TWO, ACK)), Pass);
    }
    assert_eq!(translated.asked.get(), 2);
    // REMOTE gets other labels: only its flow is judged again, by asking again.
    let closed = Matrix::OPEN.deny_ingress(TWO, REMOTE, Traffic::Web);
    node.classifier = Some(closed.serving(1, Vec::new()));
    let slots = node.tables.stamps.slots_of(&[ip(REMOTE)]);
    node.tables.stamps.announce(&slots);
    node.tables.stamps.settle(&slots);
    let cut = Drop(Reason::FlowCut);
    assert_eq!(node.punt(12, ToPod, &masqueraded(5000, TWO, ACK)), cut);
    assert_eq!(node.punt(12, ToPod, &masqueraded(5001, TWO, ACK)), Pass);
    assert_eq!(translated.asked.get(), 3);
    // Judged again by the admin side: it asks too.
    node.classifier = Some(Matrix::OPEN.serving(1, Vec::new()));
    node.tables.stamps.announce(&slots);
    let now = weir_table::flow::Tick::from_nanos(node.seconds * 1_000_000_000);
    let done = weir_dataplane::rejudge::rejudge(
        (&node.tables.flows, &node.tables.stamps, &slots),
        node.classifier.as_ref().unwrap(),
        (&node.endpoints, node.origins.as_deref()),
        now,
    );
    node.tables.stamps.settle(&slots);
    assert_eq!((done.judged, done.cut, translated.asked.get()), (1, 0, 4));
    assert_eq!(node.punt(12, ToPod, &masqueraded(5000, TWO, ACK)), Pass);
    assert_eq!(translated.asked.get(), 4);
}
