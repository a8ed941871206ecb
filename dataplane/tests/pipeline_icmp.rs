//! ICMP errors: they pass for a flow that they quote, and for nothing else.
//!
//! ONE (device 11) talks to REMOTE and to TWO (device 12); neither may open anything to ONE.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod support;

use proptest::prelude::*;
use support::frames::{self, ACK, SYN};
use support::node::Did::{Drop, Pass, PassBoth};
use support::node::{Did, NO_WAY_BACK, Node};
use support::{Matrix, ONE, OUTSIDE, REMOTE, Service, TWO, address};
use weir_dataplane::shim::Direction::{FromPod, ToPod};
use weir_table::addr::Address;
use weir_table::counters::Reason;

const UNRELATED: Did = Drop(Reason::IcmpUnrelated);

/// An ICMP error of a type and code about an Ethernet frame, of which it quotes so much.
fn error(src: Address, dst: Address, kind: (u8, u8), about: &[u8], quoted: usize) -> Vec<u8> {
    let mut message = vec![kind.0, kind.1, 0, 0, 0, 0, 5, 20];
    message.extend_from_slice(&about[14..about.len().min(14 + quoted)]);
    frames::ip(src, dst, frames::icmp_of(src), 0, &message)
}

/// The errors that hosts act on: RFC 792 and 1191; RFC 4443.
fn kinds(six: bool) -> &'static [(u8, u8)] {
    if six {
        &[(1, 0), (1, 4), (2, 0), (3, 0), (4, 1)] // unreachable, too big, time, parameter
    } else {
        &[(3, 1), (3, 3), (3, 4), (11, 0), (12, 0)]
    }
}

const ALL: usize = 2000;

#[test]
fn every_error_about_an_open_flow_reaches_its_sender_from_any_router() {
    for six in [false, true] {
        let (one, remote, router) =
            (address(ONE, six), address(REMOTE, six), address(OUTSIDE, six));
        for packet in [
            frames::tcp((one, 4000), (remote, 80), SYN),
            frames::udp((one, 4000), (remote, 53)),
            frames::echo(one, remote, 7, false),
            frames::sctp((one, 4000), (remote, 3868), frames::SCTP_INIT),
        ] {
            for &kind in kinds(six) {
                let mut node = Node::new(NO_WAY_BACK);
                let told = error(router, one, kind, &packet, ALL);
                assert_eq!(node.punt(11, ToPod, &told), UNRELATED, "before the flow");
                assert_eq!(node.punt(11, FromPod, &packet), Pass);
                assert_eq!(node.punt(11, ToPod, &told), Pass, "{kind:?}\n{packet:02x?}");
                assert_eq!(node.tables.flows.iter().count(), 1, "it opens nothing");
            }
        }
    }
}

#[test]
fn path_mtu_discovery_works_through_isolation_in_both_directions() {
    // As with `policyTypes: [Ingress]` and no rules: only what ONE asks for comes in.
    for six in [false, true] {
        let (one, remote, router) =
            (address(ONE, six), address(REMOTE, six), address(OUTSIDE, six));
        let too_big = if six { (2, 0) } else { (3, 4) };
        let mut node = Node::new(NO_WAY_BACK);
        node.punt(11, FromPod, &frames::tcp((one, 4000), (remote, 80), SYN));
        node.punt(11, ToPod, &frames::tcp((remote, 80), (one, 4000), SYN | ACK));
        let bulk = frames::tcp((one, 4000), (remote, 80), ACK);
        assert_eq!(node.punt(11, FromPod, &bulk), Pass);
        assert_eq!(node.punt(11, ToPod, &error(router, one, too_big, &bulk, ALL)), Pass);
        // What REMOTE sends may be too big for ONE's own link as well; then ONE says so.
        let answer = frames::tcp((remote, 80), (one, 4000), ACK);
        assert_eq!(node.punt(11, FromPod, &error(one, remote, too_big, &answer, ALL)), Pass);
    }
}

#[test]
fn eight_bytes_of_the_quoted_transport_are_enough_and_fewer_are_not() {
    // RFC 792: header and 64 bits. Without ports there is no flow to be found.
    for six in [false, true] {
        let (one, remote, router) =
            (address(ONE, six), address(REMOTE, six), address(OUTSIDE, six));
        let (head, kind) = if six { (40, (2, 0)) } else { (20, (3, 4)) };
        let ask = frames::tcp((one, 4000), (remote, 80), SYN);
        let mut node = Node::new(NO_WAY_BACK);
        node.punt(11, FromPod, &ask);
        for quoted in 0..head + 20 {
            let told = error(router, one, kind, &ask, quoted);
            let did = node.punt(11, ToPod, &told);
            assert_eq!(did == Pass, quoted >= head + 4, "{quoted} bytes quoted: {did:?}");
            assert!(did == Pass || did == UNRELATED, "{did:?}");
        }
    }
}

#[test]
fn a_quote_behind_extension_headers_is_found() {
    let (one, remote, router) = (address(ONE, true), address(REMOTE, true), address(OUTSIDE, true));
    let mut node = Node::new(NO_WAY_BACK);
    let plain = frames::udp((one, 4000), (remote, 53));
    node.punt(11, FromPod, &plain);
    // Destination options, then the datagram, as the sender's stack may have put them.
    let datagram = &plain[54..];
    let with_options =
        frames::ip(one, remote, 60, 0, &[&[17, 0, 1, 4, 0, 0, 0, 0], datagram].concat());
    let fragment = frames::ip(one, remote, 44, 0, &[&[17, 0, 0, 1, 0, 0, 0, 9], datagram].concat());
    for about in [&with_options, &fragment] {
        for &kind in kinds(true) {
            assert_eq!(node.punt(11, ToPod, &error(router, one, kind, about, ALL)), Pass);
        }
    }
    // A later fragment has no ports: it belongs to nothing that could be named.
    let later = frames::ip(one, remote, 44, 0, &[&[17, 0, 0, 9, 0, 0, 0, 9], datagram].concat());
    assert_eq!(node.punt(11, ToPod, &error(router, one, (2, 0), &later, ALL)), UNRELATED);
    // The error itself may have extension headers too.
    let told = error(router, one, (2, 0), &plain, ALL);
    let behind = [&[58, 0, 1, 4, 0, 0, 0, 0], &told[54..]].concat();
    assert_eq!(node.punt(11, ToPod, &frames::ip(router, one, 60, 0, &behind)), Pass);
}

#[test]
fn an_error_about_an_error_is_about_nothing() {
    // RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e).
    for six in [false, true] {
        let (one, remote, router) =
            (address(ONE, six), address(REMOTE, six), address(OUTSIDE, six));
        let mut node = Node::new(NO_WAY_BACK);
        let ask = frames::udp((one, 4000), (remote, 53));
        node.punt(11, FromPod, &ask);
        let complaint = frames::unreachable(one, remote, &ask);
        assert_eq!(node.punt(11, ToPod, &frames::unreachable(router, one, &complaint)), UNRELATED);
    }
}

#[test]
fn a_denied_flow_is_none_and_neither_is_a_cut_or_forgotten_one() {
    let (one, two) = (address(ONE, false), address(TWO, false));
    let closed = Matrix::OPEN.deny_ingress(TWO, ONE, Service::Web);
    let ask = frames::tcp((one, 4000), (two, 80), SYN);
    let refusal = frames::unreachable(two, one, &ask);
    let mut node = Node::new(closed);
    assert_eq!(node.punt(11, FromPod, &ask), Drop(Reason::PolicyIngress));
    assert_eq!(node.punt(12, FromPod, &refusal), UNRELATED, "of a denied packet");
    node.publish(Matrix::OPEN);
    node.punt(11, FromPod, &ask);
    assert_eq!(node.punt(12, FromPod, &refusal), PassBoth);
    node.publish(closed);
    assert_eq!(node.punt(12, FromPod, &refusal), UNRELATED, "of a cut one");
    node.publish(Matrix::OPEN);
    assert_eq!(node.punt(12, FromPod, &refusal), PassBoth, "of one that is restored");
    node.seconds += 21;
    assert_eq!(node.punt(12, FromPod, &refusal), UNRELATED, "of one that is forgotten");
}

#[test]
fn nothing_is_said_about_packets_that_were_never_sent() {
    // REMOTE has not answered yet, so nobody can have had trouble with its answer.
    let (one, remote) = (address(ONE, false), address(REMOTE, false));
    let mut node = Node::new(Matrix::OPEN);
    node.punt(11, FromPod, &frames::udp((one, 4000), (remote, 53)));
    let answer = frames::udp((remote, 53), (one, 4000));
    let told = frames::unreachable(one, remote, &answer);
    assert_eq!(node.punt(11, FromPod, &told), UNRELATED);
    assert_eq!(node.punt(11, ToPod, &answer), Pass);
    assert_eq!(node.punt(11, FromPod, &told), Pass);
}

/// Who tells whom about which packet: all of it made up.
#[derive(Debug, Clone)]
struct Forgery {
    teller: usize,
    told: usize,
    about: (usize, u16, usize, u16, u8),
    kind: usize,
    quoted: usize,
    device: u32,
    to_pod: bool,
}

fn any_forgery() -> impl Strategy<Value = Forgery> {
    let port = || prop_oneof![Just(4000u16), Just(80), Just(53)];
    let about = (0..4usize, port(), 0..4usize, port(), prop_oneof![Just(6u8), Just(17)]);
    (
        0..4usize,
        0..4usize,
        about,
        0..5usize,
        0..60usize,
        prop_oneof![Just(11u32), Just(12)],
        any::<bool>(),
    )
        .prop_map(|(teller, told, about, kind, quoted, device, to_pod)| Forgery {
            teller,
            told,
            about,
            kind,
            quoted,
            device,
            to_pod,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// ONE has an open connection with TWO's web server and has asked REMOTE by UDP. Of all
    /// that can be made up, what passes is about one of these, and comes from where it may.
    #[test]
    fn no_forgery_passes(six in any::<bool>(), f in any_forgery()) {
        let of = |actor| address(actor, six);
        let mut node = Node::new(Matrix::OPEN);
        node.punt(11, FromPod, &frames::tcp((of(ONE), 4000), (of(TWO), 80), SYN));
        node.punt(12, FromPod, &frames::tcp((of(TWO), 80), (of(ONE), 4000), SYN | ACK));
        node.punt(11, FromPod, &frames::udp((of(ONE), 4000), (of(REMOTE), 53)));
        let (src, sport, dst, dport, protocol) = f.about;
        let (s, d) = ((of(src), sport), (of(dst), dport));
        let about = if protocol == 6 { frames::tcp(s, d, ACK) } else { frames::udp(s, d) };
        let told = error(of(f.teller), of(f.told), kinds(six)[f.kind], &about, f.quoted);
        let direction = if f.to_pod { ToPod } else { FromPod };
        let pod = if f.device == 11 { ONE } else { TWO };

        let sent = [(ONE, 4000, TWO, 80, 6), (TWO, 80, ONE, 4000, 6), (ONE, 4000, REMOTE, 53, 17)];
        let honest = sent.contains(&f.about)
            && f.quoted >= if six { 44 } else { 24 }
            && f.told == src
            // Told to a pod by anybody whose packets may be at that hook; by a pod, of what
            // it was sent itself.
            && if f.to_pod { pod == f.told } else { pod == f.teller && pod == dst };
        let before = node.tables.flows.iter().collect::<Vec<_>>();
        let did = node.punt(f.device, direction, &told);
        prop_assert_eq!(matches!(did, Pass | PassBoth), honest, "{:?}", did);
        prop_assert_eq!(node.tables.flows.iter().collect::<Vec<_>>(), before);
    }
}

/// An error may be fragmented on its way: what quotes is its first fragment, and the others
/// follow that.
#[test]
fn later_fragments_of_an_error_follow_its_first() {
    let [one, remote, router] = [ONE, REMOTE, OUTSIDE].map(|actor| address(actor, false));
    let packet = frames::udp((one, 4000), (remote, 53));
    let later = frames::ip(router, one, frames::icmp_of(router), 8, &[0; 24]);
    let first = |about: &[u8]| {
        let mut frame = error(router, one, (3, 4), about, ALL);
        // More fragments follow, from byte 64 on: 8 words.
        frame.resize(14 + 20 + 64, 0);
        frame[16..18].copy_from_slice(&84_u16.to_be_bytes());
        frame[20..22].copy_from_slice(&0x2000_u16.to_be_bytes());
        frame
    };
    for first_comes_first in [true, false] {
        let mut node = Node::new(NO_WAY_BACK);
        assert_eq!(node.punt(11, FromPod, &packet), Pass);
        if first_comes_first {
            assert_eq!(node.punt(11, ToPod, &first(&packet)), Pass);
            assert_eq!(node.punt(11, ToPod, &later), Pass);
        } else {
            assert_eq!(node.punt(11, ToPod, &later), Did::Held);
            assert_eq!(node.punt(11, ToPod, &first(&packet)), Pass);
            assert_eq!(node.released(), std::slice::from_ref(&later));
        }
        // Of an error that belongs to nothing, nothing passes.
        let mut node = Node::new(NO_WAY_BACK);
        assert_eq!(node.punt(11, ToPod, &first(&packet)), UNRELATED);
        assert_eq!(node.punt(11, ToPod, &later), UNRELATED);
    }
}
