//! What etherparse reads in a frame: the reference for the parser.
//!
//! Used by the parser's own properties as well (`src/parse/properties.rs`).

use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice, icmpv4, icmpv6};

/// Protocol and ports.
pub type Ports = (u8, u16, u16);

/// What etherparse makes of a frame, where it makes anything of it.
pub fn reference(frame: &[u8]) -> Option<(IpAddr, IpAddr, Option<Ports>)> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let (src, dst) = match sliced.net? {
        NetSlice::Ipv4(ip) => (ip.header().source().into(), ip.header().destination().into()),
        NetSlice::Ipv6(ip) => (ip.header().source().into(), ip.header().destination().into()),
        NetSlice::Arp(_) => return None,
    };
    let transport = match sliced.transport {
        Some(TransportSlice::Tcp(t)) => Some((6, t.source_port(), t.destination_port())),
        Some(TransportSlice::Udp(u)) => Some((17, u.source_port(), u.destination_port())),
        Some(TransportSlice::Icmpv4(i)) => match i.icmp_type() {
            etherparse::Icmpv4Type::EchoRequest(h) | etherparse::Icmpv4Type::EchoReply(h) => {
                Some((1, h.id, h.id))
            }
            // A code other than 0 makes it "unknown" to etherparse.
            etherparse::Icmpv4Type::Unknown {
                type_u8: icmpv4::TYPE_ECHO_REQUEST | icmpv4::TYPE_ECHO_REPLY,
                bytes5to8: [a, b, ..],
                ..
            } => {
                let id = u16::from_be_bytes([a, b]);
                Some((1, id, id))
            }
            _ => Some((1, 0, 0)),
        },
        Some(TransportSlice::Icmpv6(i)) => match i.icmp_type() {
            etherparse::Icmpv6Type::EchoRequest(h) | etherparse::Icmpv6Type::EchoReply(h) => {
                Some((58, h.id, h.id))
            }
            etherparse::Icmpv6Type::Unknown {
                type_u8: icmpv6::TYPE_ECHO_REQUEST | icmpv6::TYPE_ECHO_REPLY,
                bytes5to8: [a, b, ..],
                ..
            } => {
                let id = u16::from_be_bytes([a, b]);
                Some((58, id, id))
            }
            _ => Some((58, 0, 0)),
        },
        Some(TransportSlice::Igmp(_)) | None => None,
    };
    Some((src, dst, transport))
}
