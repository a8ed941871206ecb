//! Properties over arbitrary, mutated and generated frames, the last two held against
//! etherparse as the reference.
//!
//! What this cannot see: rules that etherparse does not have (source routes, fragments
//! made to deceive); those are in the named cases.

use etherparse::{LaxSlicedPacket, PacketBuilder};
use proptest::prelude::*;

use super::*;
use reference::reference;

#[path = "../../tests/support/reference.rs"]
mod reference;

const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 1];
const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 2];
const B4: [u8; 4] = [10, 0, 0, 2];
const A6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const B6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// A well-formed frame built by etherparse.
fn built_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = proptest::collection::vec(any::<u8>(), 0..64);
    (any::<bool>(), 0..4u8, any::<[u8; 4]>(), any::<(u16, u16)>(), any::<u8>(), payload).prop_map(
        |(six, kind, tail, (sport, dport), flags, payload)| {
            let step = PacketBuilder::ethernet2(MAC_A, MAC_B);
            let step = if six {
                let mut src = A6;
                src[12..].copy_from_slice(&tail);
                step.ipv6(src, B6, 64)
            } else {
                step.ipv4([10, tail[1], tail[2], tail[3]], B4, 64)
            };
            let mut out = Vec::new();
            match kind {
                0 => {
                    let mut step = step.tcp(sport, dport, 1, 1000);
                    if flags & 1 != 0 {
                        step = step.syn();
                    } else if flags & 2 != 0 {
                        step = step.fin();
                    } else if flags & 4 != 0 {
                        step = step.rst();
                    }
                    if flags & 8 != 0 {
                        step = step.ack(7);
                    }
                    step.write(&mut out, &payload).unwrap();
                }
                1 => step.udp(sport, dport).write(&mut out, &payload).unwrap(),
                2 if six => step.icmpv6_echo_request(sport, 1).write(&mut out, &payload).unwrap(),
                2 => step.icmpv4_echo_request(sport, 1).write(&mut out, &payload).unwrap(),
                _ if six => step.icmpv6_echo_reply(sport, 1).write(&mut out, &payload).unwrap(),
                _ => step.icmpv4_echo_reply(sport, 1).write(&mut out, &payload).unwrap(),
            }
            out
        },
    )
}

/// The short way says what the long one says, or nothing.
fn short_way_agrees(frame: &[u8]) -> bool {
    let Some(short) = plain(frame) else { return false };
    let Plain { src, dst, protocol, sport, dport, flags } = short;
    let transport = match protocol {
        protocol::TCP => Transport::Tcp(flags),
        _ => Transport::Ports,
    };
    let tuple = FiveTuple { src, dst, protocol, sport, dport };
    assert_eq!(parse(frame), Ok(Packet { tuple, transport, fragment: Fragment::No }), "{short:?}");
    true
}

fn agrees_with_reference(frame: &[u8]) {
    short_way_agrees(frame);
    let Ok(packet) = parse(frame) else { return };
    // Where the strict slicing of etherparse refuses (it checks less and more than we
    // do in places), its lax one must at least see the same addresses.
    let Some((src, dst, transport)) = reference(frame) else {
        let lax = LaxSlicedPacket::from_ethernet(frame).expect("we accepted it");
        assert!(lax.net.is_some(), "{packet:?}");
        return;
    };
    assert_eq!((packet.tuple.src.to_ip(), packet.tuple.dst.to_ip()), (src, dst));
    if let Some(transport) = transport
        && packet.transport != Transport::Unseen
    {
        let ours = (packet.tuple.protocol, packet.tuple.sport, packet.tuple.dport);
        assert_eq!(ours, transport, "{packet:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn arbitrary_ip_never_panics(
        six in any::<bool>(),
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut frame = vec![0; 12];
        frame.extend_from_slice(if six { &[0x86, 0xdd] } else { &[0x08, 0x00] });
        frame.extend_from_slice(&bytes);
        if let Some(version) = frame.get_mut(14) {
            *version = if six { 0x60 } else { 0x40 | (*version & 0x0f) };
        }
        agrees_with_reference(&frame);
    }

    #[test]
    fn well_formed_frames_are_read_as_etherparse_reads_them(
        frame in built_frame(),
        padding in 0..30usize,
    ) {
        let mut padded = frame.clone();
        padded.resize(frame.len() + padding, 0xaa);
        let packet = parse(&padded);
        prop_assert!(packet.is_ok(), "{packet:?}");
        prop_assert_eq!(packet, parse(&frame));
        let is_plain = matches!(packet.unwrap().transport, Transport::Tcp(_) | Transport::Ports);
        prop_assert_eq!(short_way_agrees(&padded), is_plain, "most packets go the short way");
        let (src, dst, transport) = reference(&frame).unwrap();
        let tuple = packet.unwrap().tuple;
        prop_assert_eq!((tuple.src.to_ip(), tuple.dst.to_ip()), (src, dst));
        prop_assert_eq!(Some((tuple.protocol, tuple.sport, tuple.dport)), transport);
    }

    #[test]
    fn mutated_frames_never_panic_and_never_disagree(
        frame in built_frame(),
        edits in proptest::collection::vec((14..80usize, any::<u8>()), 1..4),
        cut in proptest::option::of(0..120usize),
    ) {
        let mut frame = frame;
        for (at, value) in edits {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        if let Some(cut) = cut {
            frame.truncate(cut);
        }
        agrees_with_reference(&frame);
    }
}
