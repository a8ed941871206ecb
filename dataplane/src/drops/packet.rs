//! The 5-tuple of a frame's head, to be shown.
//!
//! The pipeline's parser refuses what is cut short, and rightly: it decides. Here nothing is
//! decided, so etherparse reads as much as there is, behind tags and extension headers.

use etherparse::{Ipv6ExtensionSlice, LaxNetSlice, LaxSlicedPacket};
use weir_table::addr::Address;
use weir_table::drops::Packet;

/// TCP, UDP, SCTP, UDP-Lite: ports in their first four bytes.
const WITH_PORTS: [u8; 4] = [6, 17, 132, 136];

/// What the frame is, as far as its head says.
pub(super) fn packet_of(frame: &[u8]) -> Packet {
    let mut packet = Packet::default();
    if let Some([a, b]) = frame.get(12..14) {
        packet.ether_type = u16::from_be_bytes([*a, *b]);
    }
    let Ok(sliced) = LaxSlicedPacket::from_ethernet(frame) else { return packet };
    let (later, payload) = match &sliced.net {
        Some(LaxNetSlice::Ipv4(v4)) => {
            let header = v4.header();
            packet.addresses =
                Some((Address::v4(header.source()), Address::v4(header.destination())));
            (header.fragments_offset().value() != 0, v4.payload())
        }
        Some(LaxNetSlice::Ipv6(v6)) => {
            let header = v6.header();
            let address = |octets: [u8; 16]| Address::from(std::net::IpAddr::from(octets));
            packet.addresses = Some((address(header.source()), address(header.destination())));
            let later = v6.extensions().clone().into_iter().any(|extension| match extension {
                Ipv6ExtensionSlice::Fragment(f) => f.fragment_offset().value() != 0,
                _ => false,
            });
            (later, v6.payload())
        }
        Some(LaxNetSlice::Arp(arp)) => {
            let address = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(Address::v4);
            packet.addresses =
                address(arp.sender_protocol_addr()).zip(address(arp.target_protocol_addr()));
            return packet;
        }
        None => return packet,
    };
    packet.protocol = payload.ip_number.0;
    if !later
        && WITH_PORTS.contains(&packet.protocol)
        && let Some([a, b, c, d]) = payload.payload.get(..4)
    {
        packet.ports = Some((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])));
    }
    packet
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_cut_short_still_has_a_5_tuple() {
        let builder = PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(40_000, 80, 0, 0);
        let mut frame = Vec::new();
        builder.write(&mut frame, &[0; 1400]).unwrap();
        let whole = packet_of(&frame);
        assert_eq!(whole.addresses, Some((ip("10.0.0.1"), ip("10.0.0.2"))));
        assert_eq!((whole.protocol, whole.ports), (6, Some((40_000, 80))));
        assert_eq!(packet_of(&frame[..192]), whole);
        assert_eq!(packet_of(&frame[..38]), whole);
        assert_eq!(packet_of(&frame[..37]).ports, None);
        assert_eq!(packet_of(&frame[..30]).addresses, None);
        assert_eq!(packet_of(&frame[..30]).ether_type, 0x0800);
    }

    #[test]
    fn tags_and_other_kinds_of_frames() {
        let builder = PacketBuilder::ethernet2([1; 6], [2; 6])
            .single_vlan(5.try_into().unwrap())
            .ipv6([0xfd; 16], [0xfe; 16], 64)
            .udp(53, 5353);
        let mut frame = Vec::new();
        builder.write(&mut frame, b"x").unwrap();
        let packet = packet_of(&frame);
        assert_eq!((packet.ether_type, packet.protocol), (0x8100, 17));
        assert_eq!(packet.ports, Some((53, 5353)));
        // A later fragment: what stands in the place of ports is data.
        let mut later = Vec::new();
        PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(1, 2)
            .write(&mut later, &[0; 64])
            .unwrap();
        later[21] = 9;
        assert_eq!((packet_of(&later).protocol, packet_of(&later).ports), (17, None));
        // ARP: who has 10.0.0.9, says 10.0.0.1.
        let mut arp = [[2; 6], [1; 6]].concat();
        arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        arp.extend([1, 1, 1, 1, 1, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 9]);
        assert_eq!(packet_of(&arp).addresses, Some((ip("10.0.0.1"), ip("10.0.0.9"))));
        assert_eq!(packet_of(&[0; 13]), Packet::default());
    }

    proptest! {
        #[test]
        fn any_bytes_are_something(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            packet_of(&bytes);
        }

        #[test]
        fn any_bytes_behind_an_ethertype_are_something(
            ether_type in prop_oneof![Just(0x0800u16), Just(0x86dd), Just(0x0806), Just(0x8100)],
            bytes in proptest::collection::vec(any::<u8>(), 0..180),
        ) {
            let mut frame = vec![0; 12];
            frame.extend(ether_type.to_be_bytes());
            frame.extend(bytes);
            prop_assert_eq!(packet_of(&frame).ether_type, ether_type);
        }
    }
}
