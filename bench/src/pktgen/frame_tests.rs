use super::*;
use crate::pktgen::label::Step;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};

const PROTOCOLS: [Protocol; 3] = [Protocol::Udp, Protocol::Tcp, Protocol::Sctp];

const HANDSHAKES: [(Protocol, Segment); 9] = [
    (Protocol::Tcp, Segment::Syn),
    (Protocol::Tcp, Segment::SynAck),
    (Protocol::Tcp, Segment::Ack),
    (Protocol::Tcp, Segment::Reset),
    (Protocol::Sctp, Segment::Init),
    (Protocol::Sctp, Segment::InitAck),
    (Protocol::Sctp, Segment::CookieEcho),
    (Protocol::Sctp, Segment::CookieAck),
    (Protocol::Sctp, Segment::Abort),
];

fn ends(ipv6: bool) -> Ends {
    let (from, to) = if ipv6 {
        ("fd00::1".parse().unwrap(), "fd00::ffff:2".parse().unwrap())
    } else {
        ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap())
    };
    Ends { from_mac: [2, 0, 0, 0, 0, 1], to_mac: [2, 0, 0, 0, 0, 2], from, to }
}

fn label(number: u64) -> Label {
    Label::new(0xbeef, Step::Count, number, 12_345)
}

fn written(template: &Template, ports: (u16, u16), label: &Label) -> Vec<u8> {
    let mut out = [0xaa; 1600];
    let length = template.write(&mut out, ports, label);
    out[..length].to_vec()
}

/// Checks lengths and checksums with etherparse, which knows nothing of ours.
fn is_valid(frame: &[u8]) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let view = View::of(frame).unwrap();
    let transport = &frame[view.transport..view.packet.end];
    match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            match sliced.transport {
                Some(TransportSlice::Udp(udp)) => assert_eq!(udp.checksum(), 0),
                Some(TransportSlice::Tcp(tcp)) => assert_eq!(
                    tcp.checksum(),
                    tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).unwrap()
                ),
                _ => is_valid_sctp(transport),
            }
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            match sliced.transport {
                Some(TransportSlice::Udp(udp)) => assert_eq!(
                    udp.checksum(),
                    udp.to_header().calc_checksum_ipv6(&header, udp.payload()).unwrap()
                ),
                Some(TransportSlice::Tcp(tcp)) => assert_eq!(
                    tcp.checksum(),
                    tcp.to_header().calc_checksum_ipv6(&header, tcp.payload()).unwrap()
                ),
                _ => is_valid_sctp(transport),
            }
        }
        NetSlice::Arp(_) => panic!("{frame:?}"),
    }
}

/// Bit by bit, from the definition (RFC 9260, appendix A).
fn is_valid_sctp(packet: &[u8]) {
    assert_eq!(packet.len() % 4, 0);
    let mut crc = u32::MAX;
    for (at, &byte) in packet.iter().enumerate() {
        crc ^= u32::from(if (8..12).contains(&at) { 0 } else { byte });
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    assert_eq!(packet[8..12], (!crc).to_le_bytes());
    let mut at = 12;
    while at < packet.len() {
        let length = usize::from(u16::from_be_bytes([packet[at + 2], packet[at + 3]]));
        assert!(length >= 4);
        at += length.next_multiple_of(4);
    }
    assert_eq!(at, packet.len(), "chunks fill the packet");
}

#[test]
fn the_least_sizes_are_those_of_the_book() {
    let least = |ipv6, protocol| Layout::new(ipv6, protocol).least_frame();
    assert_eq!(PROTOCOLS.map(|protocol| least(false, protocol)), [64, 70, 78]);
    assert_eq!(PROTOCOLS.map(|protocol| least(true, protocol)), [78, 90, 98]);
}

#[test]
fn the_smallest_frame_is_sixty_bytes_and_its_checksum() {
    let template = Template::made(ends(false), Protocol::Udp, Segment::Data, 64);
    let frame = written(&template, (20_000, 9000), &label(1));
    assert_eq!(frame.len(), 60);
    assert_eq!(frame[16..18], [0, 46], "20 IPv4, 8 UDP, 18 payload");
    assert_eq!(frame[34..38], [0x4e, 0x20, 0x23, 0x28]);
}

#[test]
fn frames_of_handshakes_are_what_they_are_called() {
    for ipv6 in [false, true] {
        for (protocol, segment) in HANDSHAKES {
            let template = Template::made(ends(ipv6), protocol, segment, 64);
            let frame = written(&template, (20_000, 9000), &label(9));
            is_valid(&frame);
            let view = View::of(&frame).unwrap();
            assert_eq!(view.segment, Some(segment), "{protocol:?}");
            let carried = (segment != Segment::Abort).then(|| label(9));
            assert_eq!(view.label(&frame), carried, "{segment:?}");
        }
    }
}

#[test]
fn a_captured_frame_keeps_all_but_addresses_and_label() {
    let other = Ends { from_mac: [9; 6], to_mac: [8; 6], ..ends(false) };
    let made = Template::made(other, Protocol::Tcp, Segment::Data, 200);
    let frame = written(&made, (1, 2), &label(5));
    let to = Ends { from: "10.9.9.9".parse().unwrap(), ..ends(false) };
    let template = Template::captured(&frame, to).unwrap();
    let sent = written(&template, (77, 78), &label(6));
    is_valid(&sent);
    let view = View::of(&sent).unwrap();
    assert_eq!((view.ports, view.ends, sent.len()), ((1, 2), to, frame.len()));
    assert_eq!(view.label(&sent), Some(label(6)));
    assert!(Template::captured(&frame, ends(true)).is_none(), "another family");
    assert!(Template::captured(&frame[..60], to).is_none(), "cut off");
    let syn =
        written(&Template::made(other, Protocol::Sctp, Segment::Abort, 64), (1, 2), &label(0));
    assert!(Template::captured(&syn, to).is_none(), "no room");
}

#[test]
fn a_buffer_that_is_too_small_is_left_alone() {
    let template = Template::made(ends(false), Protocol::Udp, Segment::Data, 1518);
    assert_eq!(template.len(), 1514);
    assert_eq!(template.write(&mut [0; 1513], (1, 2), &label(0)), 0);
}

proptest! {
    #[test]
    fn every_frame_is_valid_and_reads_back(
        ipv6: bool, protocol in 0..3_usize, size in 64..1519_usize, sport: u16, dport: u16, number in 0..1_u64 << 36,
    ) {
        let protocol = PROTOCOLS[protocol];
        let size = size.max(Layout::new(ipv6, protocol).least_frame());
        let template = Template::made(ends(ipv6), protocol, Segment::Data, size);
        let frame = written(&template, (sport, dport), &label(number));
        prop_assert_eq!(frame.len(), size - FCS);
        is_valid(&frame);
        let view = View::of(&frame).unwrap();
        prop_assert_eq!((view.ports, view.protocol), ((sport, dport), protocol));
        prop_assert_eq!((view.ends, view.segment), (ends(ipv6), Some(Segment::Data)));
        prop_assert_eq!(view.label(&frame), Some(label(number)));
    }

    #[test]
    fn a_frame_between_other_addresses_is_as_if_made_for_them(
        ipv6: bool, protocol in 0..3_usize, from: u128, to: u128, ports: (u16, u16), number in 0..1_u64 << 36,
    ) {
        let protocol = PROTOCOLS[protocol];
        let address = |bits: u128| -> IpAddr {
            if ipv6 { Ipv6Addr::from_bits(bits).into() } else { Ipv4Addr::from_bits(bits as u32).into() }
        };
        let (from, to) = (address(from), address(to));
        let other = Template::made(ends(ipv6), protocol, Segment::Data, 128);
        let own = Template::made(Ends { from, to, ..ends(ipv6) }, protocol, Segment::Data, 128);
        let mut frame = [0; 128];
        let flow = Tuple { addresses: Some((from, to)), ports };
        prop_assert_eq!(other.write(&mut frame, flow, &label(number)), 124);
        prop_assert_eq!(&frame[..124], &written(&own, ports, &label(number))[..]);
        is_valid(&frame[..124]);
        let flow = Tuple { addresses: Some((ends(!ipv6).from, ends(!ipv6).to)), ports };
        prop_assert_eq!(other.write(&mut frame, flow, &label(number)), 0, "another family");
    }

    #[test]
    fn arbitrary_captures_are_sent_or_skipped(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut frame = bytes;
        if frame.len() > 14 {
            frame[12..14].copy_from_slice(&[8, 0]);
            frame[14] = 0x45;
        }
        if let Some(template) = Template::captured(&frame, ends(false)) {
            let sent = written(&template, (0, 0), &label(3));
            prop_assert_eq!(View::of(&sent).unwrap().label(&sent), Some(label(3)));
        }
    }
}
