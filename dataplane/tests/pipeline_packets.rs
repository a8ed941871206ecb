//! Packets that are no ordinary part of a flow: broken frames, foreign addresses, groups,
//! ICMP errors; and bursts of anything. Fragments are in pipeline_fragments.rs.
//!
//! Two pods live on this node: ONE behind device 11, TWO behind device 12.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod support;

use proptest::prelude::*;
use support::frames::{self, ACK, SYN};
use support::node::Did::{Drop, Pass, PassBoth};
use support::node::{NO_WAY_BACK, Node, ip, request, response};
use support::{Matrix, ONE, OUTSIDE, REMOTE, Service, TWO};
use weir_dataplane::endpoints::EndpointsBuilder;
use weir_dataplane::frame::Frame;
use weir_dataplane::io::BURST;
use weir_dataplane::shim::Direction::{FromPod, ToPod};
use weir_dataplane::shim::Shim;
use weir_table::addr::Address;
use weir_table::addrmap::AddressMapWriter;
use weir_table::classify::Classifier;
use weir_table::counters::{Counter, Reason};
use weir_table::policy::{ClassId, PolicyTable};

#[test]
fn what_is_wrong_with_a_frame_is_counted_under_its_name() {
    let mut node = Node::new(Matrix::OPEN);
    let good = request(SYN);
    let from_two = frames::tcp((ip(TWO), 1), (ip(ONE), 80), SYN);
    let mut vlan = good.clone();
    vlan[12..14].copy_from_slice(&[0x81, 0x00]);
    for (device, direction, ethernet, reason) in [
        (99, FromPod, &good[..], Reason::UnknownInterface),
        (0, ToPod, &good[..], Reason::UnknownInterface),
        (11, FromPod, &from_two[..], Reason::SpoofedSource),
        (11, ToPod, &good[..], Reason::NotEndpoint),
        (11, FromPod, &good[..40], Reason::Malformed),
        (11, FromPod, &vlan[..], Reason::UnsupportedL3),
    ] {
        assert_eq!(node.punt(device, direction, ethernet), Drop(reason));
    }
    assert_eq!(node.raw(&mut []), Drop(Reason::BadShim));
    assert_eq!(node.raw(&mut good.clone()), Drop(Reason::BadShim));
    assert_eq!(node.tables.flows.iter().count(), 0);

    node.classifier = None;
    assert_eq!(node.punt(11, FromPod, &good), Drop(Reason::NoTable));
}

#[test]
fn nothing_passes_a_quarantined_endpoint_in_either_direction() {
    let mut node = Node::new(Matrix::OPEN);
    node.punt(11, FromPod, &request(SYN));
    node.endpoints = EndpointsBuilder::new()
        .with(support::endpoint(ONE, 11, false))
        .with(support::endpoint(TWO, 12, true))
        .build()
        .0;
    assert_eq!(node.punt(12, FromPod, &response(SYN | ACK)), Drop(Reason::Quarantined));
    assert_eq!(node.punt(12, ToPod, &request(ACK)), Drop(Reason::Quarantined));
    assert_eq!(node.punt(11, FromPod, &request(ACK)), Drop(Reason::Quarantined));
    let elsewhere = frames::tcp((ip(ONE), 1), (ip(REMOTE), 80), SYN);
    assert_eq!(node.punt(11, FromPod, &elsewhere), Pass);
}

#[test]
fn a_pod_reaches_itself_whatever_the_policies() {
    let nothing = Matrix { egress: [[0; 4]; 4], ingress: [[0; 4]; 4] };
    let mut node = Node::new(nothing);
    let own = frames::tcp((ip(ONE), 4000), (ip(ONE), 80), SYN);
    assert_eq!(node.punt(11, FromPod, &own), PassBoth);
    assert_eq!(node.punt(11, ToPod, &own), Pass);
    assert_eq!(node.punt(11, FromPod, &request(SYN)), Drop(Reason::PolicyEgress));
}

#[test]
fn a_class_that_the_table_does_not_know_denies() {
    let mut node = Node::new(Matrix::OPEN);
    let mut writer = AddressMapWriter::private(1, 16).unwrap();
    writer.insert(ip(ONE), ClassId(ONE as u32)).unwrap();
    writer.insert(ip(TWO), ClassId(99)).unwrap();
    let bytes = Matrix::OPEN.classifier(1).table().as_bytes().to_vec();
    let table = PolicyTable::from_bytes(bytes).unwrap();
    node.classifier = Some(Classifier::new(table, writer.into_reader().unwrap()).unwrap());
    assert_eq!(node.punt(11, FromPod, &request(SYN)), Drop(Reason::BadClass));
    assert_eq!(node.tally.get(Counter::BadClass), 1);
}

#[test]
fn groups_are_judged_at_every_hook_by_itself() {
    let group: Address = "239.0.0.9".parse().unwrap();
    let packet = frames::udp((ip(ONE), 5353), (group, 5353));
    let mut node = Node::new(Matrix::OPEN.deny_ingress(TWO, ONE, Service::OtherUdp));
    assert_eq!(node.punt(11, FromPod, &packet), Pass, "never for both hooks");
    assert_eq!(node.punt(12, ToPod, &packet), Drop(Reason::PolicyIngress));
    let broadcast = frames::udp((ip(REMOTE), 5353), ("255.255.255.255".parse().unwrap(), 5353));
    assert_eq!(node.punt(11, ToPod, &broadcast), Pass);
    assert_eq!(node.tables.flows.iter().count(), 0, "and never remembered");
    let mut node = Node::new(Matrix::OPEN.deny_egress(ONE, OUTSIDE, Service::OtherUdp));
    assert_eq!(node.punt(11, FromPod, &packet), Drop(Reason::PolicyEgress));
}

#[test]
fn icmp_errors_belong_to_the_flow_quoted_in_them() {
    let mut node = Node::new(NO_WAY_BACK);
    let ask = frames::udp((ip(ONE), 4000), (ip(REMOTE), 53));
    let router = ip(OUTSIDE);
    let about_ask = frames::unreachable(router, ip(ONE), &ask);
    assert_eq!(node.punt(11, ToPod, &about_ask), Drop(Reason::IcmpUnrelated));
    node.punt(11, FromPod, &ask);
    assert_eq!(node.punt(11, ToPod, &about_ask), Pass, "from any router on the way");
    // Quoting the flow against its direction, or to someone else, is a lie.
    let answer = frames::udp((ip(REMOTE), 53), (ip(ONE), 4000));
    let lie = frames::unreachable(router, ip(ONE), &answer);
    assert_eq!(node.punt(11, ToPod, &lie), Drop(Reason::IcmpUnrelated));
    // A pod is no router: it may complain only of what was sent to itself.
    let meddling = frames::unreachable(ip(TWO), ip(ONE), &ask);
    assert_eq!(node.punt(12, FromPod, &meddling), Drop(Reason::IcmpUnrelated));
    // Errors do not keep a flow alive, and die with it.
    node.seconds += 31;
    assert_eq!(node.punt(11, ToPod, &about_ask), Drop(Reason::IcmpUnrelated));

    node.punt(11, FromPod, &request(SYN));
    let refused = frames::unreachable(ip(TWO), ip(ONE), &request(SYN));
    assert_eq!(node.punt(12, FromPod, &refused), PassBoth);
    node.publish(Matrix::OPEN.deny_ingress(TWO, ONE, Service::Web));
    assert_eq!(node.punt(12, FromPod, &refused), Drop(Reason::IcmpUnrelated));
}

#[test]
fn ping_is_tracked_by_its_identifier_in_both_families() {
    for six in [false, true] {
        let (one, two) = (support::address(ONE, six), support::address(TWO, six));
        let mut node = Node::new(NO_WAY_BACK);
        assert_eq!(node.punt(11, FromPod, &frames::echo(one, two, 7, false)), PassBoth);
        assert_eq!(node.punt(12, FromPod, &frames::echo(two, one, 7, true)), PassBoth);
        let other = frames::echo(two, one, 8, true);
        assert_eq!(node.punt(12, FromPod, &other), Drop(Reason::PolicyIngress));
        node.seconds += 11;
        let late = frames::echo(two, one, 7, true);
        assert_eq!(node.punt(12, FromPod, &late), Drop(Reason::PolicyIngress));
    }
}

/// Any frame that a hook could punt, sound or not.
fn any_punted() -> impl Strategy<Value = Vec<u8>> {
    let sound = (0..4usize, 0..4usize, any::<bool>(), 0..6u16, 0..4usize).prop_map(
        |(src, dst, six, port, kind)| {
            let src = (support::address(src, six), 4000 + port);
            let dst = (support::address(dst, six), 80);
            match kind {
                0 => frames::tcp(src, dst, SYN),
                1 => frames::tcp(dst, src, ACK),
                2 => frames::udp(src, dst),
                _ => frames::echo(src.0, dst.0, port, false),
            }
        },
    );
    let shim = (prop_oneof![Just(11u32), Just(12), any::<u32>()], any::<bool>());
    let ethernet = prop_oneof![4 => sound, 1 => proptest::collection::vec(any::<u8>(), 0..120)];
    (shim, ethernet, proptest::option::weighted(0.1, 0..100usize)).prop_map(
        |((device, to_pod), ethernet, cut)| {
            let mut frame = Vec::new();
            Shim::new(device, if to_pod { ToPod } else { FromPod })
                .push_punted(&ethernet, &mut frame);
            frame.truncate(cut.unwrap_or(frame.len()));
            frame
        },
    )
}

proptest! {
    #[test]
    fn a_burst_is_judged_as_its_packets_one_by_one(
        frames in proptest::collection::vec(any_punted(), 1..3 * BURST),
    ) {
        let matrix = Matrix::OPEN.deny_ingress(TWO, ONE, Service::Web);
        let (mut whole, mut single) = (Node::new(matrix), Node::new(matrix));
        let mut data = frames.clone();
        let mut burst: Vec<Frame<'_>> = data.iter_mut().map(|f| Frame::new(f)).collect();
        let together = whole.burst(&mut burst);
        let mut alone = vec![];
        for (frame, after) in frames.iter().zip(&data) {
            let mut frame = frame.clone();
            alone.push(single.burst(&mut [Frame::new(&mut frame)])[0]);
            prop_assert_eq!(&frame, after);
        }
        prop_assert_eq!(&together, &alone);
        prop_assert_eq!(whole.tally.drops(), single.tally.drops());
        let dropped: u64 = whole.tally.drops().iter().map(|(_, n)| n).sum();
        let accepted = together.iter().filter(|&&accept| accept).count() as u64;
        prop_assert_eq!(dropped + accepted, frames.len() as u64, "each counted once");
    }
}
