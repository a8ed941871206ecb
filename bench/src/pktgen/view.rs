//! What a frame is, for the generator and its sink.
//!
//! Total: any bytes give a view or `None`, and every range in a view lies within the frame and
//! within what the IP header says of its length (a frame may be padded).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::label::Label;
use super::plan::Protocol;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;

/// The two ends of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Hardware address of the sender.
    pub from_mac: [u8; 6],
    /// Hardware address of the receiver.
    pub to_mac: [u8; 6],
    /// Address of the sender.
    pub from: IpAddr,
    /// Address of the receiver, of the same family.
    pub to: IpAddr,
}

impl Ends {
    /// The ends of an answer.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { from_mac: self.to_mac, to_mac: self.from_mac, from: self.to, to: self.from }
    }
}

/// What a frame does for its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Carries data: any UDP datagram, a TCP segment with PSH, an SCTP packet with DATA first.
    Data,
    /// TCP's three of the handshake.
    Syn,
    /// The second.
    SynAck,
    /// The third.
    Ack,
    /// TCP with RST.
    Reset,
    /// SCTP's four of the handshake.
    Init,
    /// The second.
    InitAck,
    /// The third.
    CookieEcho,
    /// The fourth.
    CookieAck,
    /// SCTP's end without a handshake.
    Abort,
}

/// A frame of UDP, TCP or SCTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its ends.
    pub ends: Ends,
    /// Its transport protocol.
    pub protocol: Protocol,
    /// Source and destination port.
    pub ports: (u16, u16),
    /// What it does; `None` for what the generator does not make.
    pub segment: Option<Segment>,
    /// Where the IP header begins and its packet ends.
    pub packet: Range<usize>,
    /// Where the transport header begins.
    pub transport: usize,
    /// The part in which a label would be; may be empty.
    pub payload: Range<usize>,
}

impl View {
    /// The view of a frame; `None` for other protocols, fragments, IPv6 extension headers and
    /// headers that are cut off.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let ethernet = frame.first_chunk::<ETHERNET>()?;
        let packet = &frame[ETHERNET..];
        let (protocol, header, length, from, to) = match &ethernet[12..] {
            [0x08, 0x00] => ipv4(packet)?,
            [0x86, 0xdd] => ipv6(packet)?,
            _ => return None,
        };
        let segment = packet.get(header..length)?;
        let ports = segment.first_chunk::<4>()?;
        let protocol = Protocol::of(protocol)?;
        let (what, payload) = match protocol {
            Protocol::Udp => {
                let datagram = usize::from(u16_at(segment, 4)?);
                (Some(Segment::Data), range(8, datagram.min(segment.len()))?)
            }
            Protocol::Tcp => tcp(segment)?,
            Protocol::Sctp => sctp(segment)?,
        };
        let transport = ETHERNET + header;
        let mut macs = [[0; 6]; 2];
        macs[0].copy_from_slice(&ethernet[..6]);
        macs[1].copy_from_slice(&ethernet[6..12]);
        Some(Self {
            ends: Ends { from_mac: macs[1], to_mac: macs[0], from, to },
            protocol,
            ports: (
                u16::from_be_bytes([ports[0], ports[1]]),
                u16::from_be_bytes([ports[2], ports[3]]),
            ),
            segment: what,
            packet: ETHERNET..ETHERNET + length,
            transport,
            payload: transport + payload.start..transport + payload.end,
        })
    }

    /// The label of this frame.
    pub fn label(&self, frame: &[u8]) -> Option<Label> {
        Label::read(frame.get(self.payload.clone())?)
    }
}

/// Protocol, length of the header, length of the packet, addresses.
type Ip = (u8, usize, usize, IpAddr, IpAddr);

fn ipv4(packet: &[u8]) -> Option<Ip> {
    let header = packet.first_chunk::<IPV4>()?;
    let header_length = usize::from(header[0] & 15) * 4;
    let fragment = u16_at(header, 6)? & 0x3fff;
    if header[0] >> 4 != 4 || header_length < IPV4 || fragment != 0 {
        return None;
    }
    let length = usize::from(u16_at(header, 2)?);
    let address = |at: usize| Some(Ipv4Addr::from(*header[at..].first_chunk::<4>()?).into());
    Some((header[9], header_length, length, address(12)?, address(16)?))
}

fn ipv6(packet: &[u8]) -> Option<Ip> {
    let header = packet.first_chunk::<IPV6>()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let length = IPV6 + usize::from(u16_at(header, 4)?);
    let address = |at: usize| Some(Ipv6Addr::from(*header[at..].first_chunk::<16>()?).into());
    Some((header[6], IPV6, length, address(8)?, address(24)?))
}

fn tcp(segment: &[u8]) -> Option<(Option<Segment>, Range<usize>)> {
    let header = segment.first_chunk::<20>()?;
    let payload = range(usize::from(header[12] >> 4) * 4, segment.len())?;
    // FIN 1, SYN 2, RST 4, PSH 8, ACK 16 (RFC 9293, section 3.1).
    let what = match header[13] & 0x1f {
        flags if flags & 4 != 0 => Some(Segment::Reset),
        2 => Some(Segment::Syn),
        18 => Some(Segment::SynAck),
        16 => Some(Segment::Ack),
        24 => Some(Segment::Data),
        _ => None,
    };
    (payload.start >= 20).then_some((what, payload))
}

/// Reads the first chunk, and a DATA chunk behind a COOKIE ACK (RFC 9260, section 3.3).
fn sctp(segment: &[u8]) -> Option<(Option<Segment>, Range<usize>)> {
    const COMMON: usize = 12;
    let kind = segment.get(COMMON)?;
    let end = COMMON + usize::from(u16_at(segment, COMMON + 2)?);
    let within = |offset| range(COMMON + offset, end.min(segment.len()));
    Some(match kind {
        0 => (Some(Segment::Data), within(16)?),
        // The first parameter behind the fixed part.
        1 => (Some(Segment::Init), within(24)?),
        2 => (Some(Segment::InitAck), within(24)?),
        6 => (Some(Segment::Abort), 0..0),
        10 => (Some(Segment::CookieEcho), within(4)?),
        11 => (Some(Segment::CookieAck), range(COMMON + 4 + 16, segment.len()).unwrap_or(0..0)),
        _ => (None, 0..0),
    })
}

fn range(start: usize, end: usize) -> Option<Range<usize>> {
    (start <= end).then_some(start..end)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk::<2>().map(|two| u16::from_be_bytes(*two))
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn udp(payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(5, 6)
            .write(&mut frame, payload)
            .unwrap();
        frame
    }

    #[test]
    fn a_datagram_is_seen_without_its_padding() {
        let mut frame = udp(&[7; 12]);
        frame.extend([9; 30]);
        let view = View::of(&frame).unwrap();
        assert_eq!(frame[view.payload.clone()], [7; 12]);
        assert_eq!((view.ports, view.protocol), ((5, 6), Protocol::Udp));
        assert_eq!(view.ends.from, IpAddr::from([10, 0, 0, 1]));
        assert_eq!((view.ends.from_mac, view.ends.to_mac), ([1; 6], [2; 6]));
    }

    #[test]
    fn fragments_and_lies_are_nothing() {
        let frame = udp(&[7; 12]);
        for (at, byte) in [(20, 0x20), (21, 1), (14, 0x44), (14, 0x55), (12, 0x81), (16, 9)] {
            let mut wrong = frame.clone();
            wrong[at] = byte;
            assert_eq!(View::of(&wrong), None, "byte {at}");
        }
        for length in 0..frame.len() {
            assert_eq!(View::of(&frame[..length]), None, "{length} bytes");
        }
    }

    proptest! {
        /// Arbitrary bytes behind the headers of each family and protocol, so that the parsers
        /// behind the first checks are reached.
        #[test]
        fn arbitrary_bytes_never_lead_outside(
            mut frame in prop::collection::vec(any::<u8>(), 0..160), family in 0..3, protocol in 0..4_usize, lengths: bool,
        ) {
            let number = [17, 6, 132, 1][protocol];
            let length = frame.len();
            if length > 54 && family > 0 {
                frame[12..14].copy_from_slice(if family == 1 { &[8, 0] } else { &[0x86, 0xdd] });
                frame[14] = if family == 1 { 0x45 } else { 0x60 };
                frame[if family == 1 { 23 } else { 20 }] = number;
                frame[20] = if family == 1 { 0 } else { number };
                frame[21] = 0;
                if lengths {
                    let (at, value) = if family == 1 { (16, length - 14) } else { (18, length - 54) };
                    frame[at..at + 2].copy_from_slice(&u16::try_from(value).unwrap().to_be_bytes());
                }
            }
            if let Some(view) = View::of(&frame) {
                prop_assert!(view.payload.start <= view.payload.end && view.payload.end <= frame.len());
                prop_assert!(view.packet.end <= frame.len() && view.transport < view.packet.end);
                let _ = view.label(&frame);
            }
        }
    }
}
