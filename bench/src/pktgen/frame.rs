//! Frames made once and sent many times: a template whose ports, label and, where there are many,
//! addresses are written anew each time, with its checksums.
//!
//! Invariant: what [`Template::write`] writes is a whole, valid frame: lengths and checksums are
//! right, bytes behind the label are zero or those of the capture.
//!
//! UDP over IPv4 carries no checksum (RFC 768 allows it): the kernel's conntrack then does not
//! compute one in software. A network card would have done that for it; a veth does not. TCP,
//! SCTP and UDP over IPv6 must carry one.

use std::net::IpAddr;
use std::ops::Range;

use super::checksum::Sum;
use super::flows::Tuple;
use super::label::{LABEL, Label};
use super::plan::Protocol;
use super::size::FCS;
use super::view::{ETHERNET, Ends, Segment, View};
use crate::rings::MAX_FRAME;

/// Sequence numbers of the two ends of every TCP connection. A data segment always repeats the
/// first bytes behind them: a retransmission, which is within any window for ever.
const CLIENT_SEQUENCE: u32 = 1_000_000;
const SERVER_SEQUENCE: u32 = 2_000_000;
/// Verification tags of the two ends of every SCTP association (RFC 9260, section 8.5).
const CLIENT_TAG: u32 = 0x1357_9bdf;
const SERVER_TAG: u32 = 0x0246_8ace;
/// A parameter that a receiver skips without a word (RFC 9260, section 3.2.1: high bits 10).
const UNKNOWN_PARAMETER: u16 = 0xbffe;
const STATE_COOKIE: u16 = 7;

/// Bytes of the common header of SCTP, and of the header of its DATA chunk.
const SCTP: usize = 12;
const DATA: usize = 16;

/// Where things are in a data frame of one family and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    transport: usize,
    payload: usize,
}

impl Layout {
    /// The layout without options and extension headers.
    pub const fn new(ipv6: bool, protocol: Protocol) -> Self {
        let transport = ETHERNET + if ipv6 { 40 } else { 20 };
        let header = match protocol {
            Protocol::Udp => 8,
            Protocol::Tcp => 20,
            Protocol::Sctp => SCTP + DATA,
        };
        Self { transport, payload: transport + header }
    }

    /// The least size of a frame, FCS included, that has room for a label: 64 bytes for UDP over
    /// IPv4 (Ethernet's own minimum), 78 for UDP over IPv6, and more for the others.
    pub const fn least_frame(self) -> usize {
        let needed = self.payload + LABEL + FCS;
        if needed < 64 { 64 } else { needed }
    }
}

/// How the transport checksum comes about.
#[derive(Clone, Copy, Debug)]
enum Checksum {
    None,
    /// Over the pseudo header and the packet; the sum of what stays, without the addresses.
    Internet {
        at: usize,
        sum: Sum,
        zero_is_ones: bool,
    },
    /// Over the packet (RFC 9260, appendix A).
    Crc32c {
        at: usize,
    },
}

/// A frame to be sent many times.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    /// `None`: the frame keeps its ports.
    ports_at: Option<usize>,
    /// `None`: the frame carries no label.
    label_at: Option<usize>,
    packet_end: usize,
    transport: usize,
    checksum: Checksum,
    addresses: Range<usize>,
    /// The sum of the template's own addresses.
    own: Sum,
    /// Of an IPv4 header, the sum without addresses.
    header: Option<Sum>,
}

/// Where the checksum of an IPv4 header is.
const HEADER_CHECKSUM: Range<usize> = ETHERNET + 10..ETHERNET + 12;

impl Template {
    /// A frame of a flow between `ends`; `size` is in bytes, FCS included, and taken as at least
    /// what the label needs. Frames of a handshake are as small as they can be.
    pub fn made(ends: Ends, protocol: Protocol, segment: Segment, size: usize) -> Self {
        let layout = Layout::new(ends.from.is_ipv6(), protocol);
        let body = match protocol {
            Protocol::Udp => udp(size.max(layout.least_frame()) - FCS - layout.transport),
            Protocol::Tcp if segment == Segment::Data => {
                tcp(segment, size.max(layout.least_frame()) - FCS - layout.payload)
            }
            Protocol::Tcp => tcp(segment, LABEL),
            Protocol::Sctp => sctp(segment, size.max(layout.least_frame()) - FCS - layout.payload),
        };
        let mut bytes = Vec::with_capacity(size);
        bytes.extend_from_slice(&ends.to_mac);
        bytes.extend_from_slice(&ends.from_mac);
        ip(&mut bytes, ends, protocol, body.bytes.len());
        bytes.extend_from_slice(&body.bytes);
        let packet_end = bytes.len();
        // A frame of SCTP must be a multiple of four; what is missing is padding behind it.
        let wanted = if segment == Segment::Data { size - FCS } else { 60 };
        bytes.resize(packet_end.max(wanted), 0);
        Self::new(
            bytes,
            protocol,
            Some(layout.transport),
            body.label_at.map(|at| layout.transport + at),
            layout.transport,
            packet_end,
        )
    }

    /// A captured frame between other ends: hardware and IP addresses are replaced, a label is
    /// put at the head of its payload. `None` for a frame of another family, a fragment, another
    /// protocol, one longer than [`MAX_FRAME`], or one without room for a label.
    pub fn captured(frame: &[u8], ends: Ends) -> Option<Self> {
        let view = View::of(frame)?;
        let room = view.payload.len() >= LABEL && (view.payload.start - view.transport) % 2 == 0;
        // A datagram shorter than its packet has a length of its own in the checksum.
        let whole = view.protocol != Protocol::Udp || view.payload.end == view.packet.end;
        if frame.len() > MAX_FRAME
            || !room
            || !whole
            || view.ends.from.is_ipv6() != ends.from.is_ipv6()
        {
            return None;
        }
        let mut bytes = frame.to_vec();
        bytes[..6].copy_from_slice(&ends.to_mac);
        bytes[6..12].copy_from_slice(&ends.from_mac);
        match (ends.from, ends.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                bytes[26..30].copy_from_slice(&from.octets());
                bytes[30..34].copy_from_slice(&to.octets());
                bytes[24..26].fill(0);
                let sum = Sum::default().with(&bytes[ETHERNET..view.transport]).finish();
                bytes[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                bytes[22..38].copy_from_slice(&from.octets());
                bytes[38..54].copy_from_slice(&to.octets());
            }
            _ => return None,
        }
        bytes[view.payload.start..view.payload.start + LABEL].fill(0);
        Some(Self::new(
            bytes,
            view.protocol,
            None,
            Some(view.payload.start),
            view.transport,
            view.packet.end,
        ))
    }

    /// Prepares the checksum of a frame whose label, and ports if they change, are zero.
    fn new(
        mut bytes: Vec<u8>,
        protocol: Protocol,
        ports_at: Option<usize>,
        label_at: Option<usize>,
        transport: usize,
        packet_end: usize,
    ) -> Self {
        let ipv6 = bytes[12..14] == [0x86, 0xdd];
        let addresses = if ipv6 { 22..54 } else { 26..34 };
        let own = Sum::default().with(&bytes[addresses.clone()]);
        let header = (!ipv6).then(|| {
            let (head, tail) =
                (&bytes[ETHERNET..HEADER_CHECKSUM.start], &bytes[addresses.end..transport]);
            Sum::default().with(head).with(tail)
        });
        let pseudo = Sum::default()
            .with_u16(length_u16(packet_end - transport))
            .with_u16(u16::from(protocol.number()));
        let mut internet = |offset: usize, zero_is_ones: bool| {
            let at = transport + offset;
            bytes[at..at + 2].fill(0);
            let sum = pseudo.with(&bytes[transport..packet_end]);
            Checksum::Internet { at, sum, zero_is_ones }
        };
        let checksum = match protocol {
            Protocol::Udp if !ipv6 => {
                bytes[transport + 6..transport + 8].fill(0);
                Checksum::None
            }
            Protocol::Udp => internet(6, true),
            Protocol::Tcp => internet(16, false),
            Protocol::Sctp => Checksum::Crc32c { at: transport + 8 },
        };
        Self { bytes, ports_at, label_at, packet_end, transport, checksum, addresses, own, header }
    }

    /// Bytes of the frame, without FCS.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the frame is empty: never.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Writes the frame to the head of `out` and gives its length; 0, and nothing of use written,
    /// if it has no room there or the flow's addresses are of another family.
    pub fn write(&self, out: &mut [u8], flow: impl Into<Tuple>, label: &Label) -> usize {
        let Some(out) = out.get_mut(..self.bytes.len()) else { return 0 };
        let Tuple { addresses, ports } = flow.into();
        out.copy_from_slice(&self.bytes);
        let mut changed = self.own;
        if let Some(ends) = addresses {
            let Some(sum) = self.readdress(out, ends) else { return 0 };
            changed = sum;
        }
        if let Some(at) = self.ports_at {
            out[at..at + 2].copy_from_slice(&ports.0.to_be_bytes());
            out[at + 2..at + 4].copy_from_slice(&ports.1.to_be_bytes());
            changed = changed.with_u16(ports.0).with_u16(ports.1);
        }
        if let Some(at) = self.label_at {
            let label = label.bytes();
            out[at..at + LABEL].copy_from_slice(&label);
            changed = changed.with(&label);
        }
        match self.checksum {
            Checksum::None => {}
            Checksum::Internet { at, sum, zero_is_ones } => {
                let value = match sum.plus(changed).finish() {
                    0 if zero_is_ones => u16::MAX, // 0 means none (RFC 768)
                    value => value,
                };
                out[at..at + 2].copy_from_slice(&value.to_be_bytes());
            }
            Checksum::Crc32c { at } => {
                out[at..at + 4].fill(0);
                let value = crc32c::crc32c(&out[self.transport..self.packet_end]);
                out[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
        }
        out.len()
    }
}

impl Template {
    /// Writes other addresses into a frame, with the IPv4 header's checksum; gives their sum.
    fn readdress(&self, out: &mut [u8], ends: (IpAddr, IpAddr)) -> Option<Sum> {
        let field = &mut out[self.addresses.clone()];
        let (source, destination) = field.split_at_mut(field.len() / 2);
        match ends {
            (IpAddr::V4(from), IpAddr::V4(to)) if source.len() == 4 => {
                source.copy_from_slice(&from.octets());
                destination.copy_from_slice(&to.octets());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) if source.len() == 16 => {
                source.copy_from_slice(&from.octets());
                destination.copy_from_slice(&to.octets());
            }
            _ => return None,
        }
        let sum = Sum::default().with(field);
        if let Some(header) = self.header {
            out[HEADER_CHECKSUM].copy_from_slice(&header.plus(sum).finish().to_be_bytes());
        }
        Some(sum)
    }
}

/// Ethernet's type and the IP header of a packet with `length` bytes behind it.
fn ip(bytes: &mut Vec<u8>, ends: Ends, protocol: Protocol, length: usize) {
    match (ends.from, ends.to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            bytes.extend_from_slice(&[0x08, 0x00, 0x45, 0]);
            bytes.extend_from_slice(&length_u16(20 + length).to_be_bytes());
            // No identification, don't fragment, 64 hops.
            bytes.extend_from_slice(&[0, 0, 0x40, 0, 64, protocol.number(), 0, 0]);
            bytes.extend_from_slice(&from.octets());
            bytes.extend_from_slice(&to.octets());
            let sum = Sum::default().with(&bytes[ETHERNET..]).finish();
            bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        (from, to) => {
            let octets = |address: IpAddr| match address {
                IpAddr::V6(address) => address.octets(),
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            };
            bytes.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend_from_slice(&length_u16(length).to_be_bytes());
            bytes.extend_from_slice(&[protocol.number(), 64]);
            bytes.extend_from_slice(&octets(from));
            bytes.extend_from_slice(&octets(to));
        }
    }
}

/// A transport header and its payload.
struct Body {
    bytes: Vec<u8>,
    label_at: Option<usize>,
}

fn udp(length: usize) -> Body {
    let mut bytes = vec![0; length];
    bytes[4..6].copy_from_slice(&length_u16(length).to_be_bytes());
    Body { bytes, label_at: Some(8) }
}

fn tcp(segment: Segment, payload: usize) -> Body {
    let (flags, sequence, acknowledged) = match segment {
        Segment::Syn => (0x02, CLIENT_SEQUENCE, 0),
        Segment::SynAck => (0x12, SERVER_SEQUENCE, CLIENT_SEQUENCE + 1),
        Segment::Ack => (0x10, CLIENT_SEQUENCE + 1, SERVER_SEQUENCE + 1),
        Segment::Reset => (0x14, CLIENT_SEQUENCE + 1, SERVER_SEQUENCE + 1),
        _ => (0x18, CLIENT_SEQUENCE + 1, SERVER_SEQUENCE + 1),
    };
    let mut bytes = vec![0; 20 + payload];
    bytes[4..8].copy_from_slice(&sequence.to_be_bytes());
    bytes[8..12].copy_from_slice(&u32::to_be_bytes(acknowledged));
    bytes[12..16].copy_from_slice(&[5 << 4, flags, 0xff, 0xff]);
    Body { bytes, label_at: Some(20) }
}

fn sctp(segment: Segment, payload: usize) -> Body {
    let tag = match segment {
        Segment::Init => 0,
        Segment::InitAck | Segment::CookieAck => CLIENT_TAG,
        _ => SERVER_TAG,
    };
    let mut bytes = vec![0; SCTP];
    bytes[4..8].copy_from_slice(&tag.to_be_bytes());
    let mut chunk = |kind: u8, flags: u8, length: usize| {
        bytes.extend_from_slice(&[kind, flags]);
        bytes.extend_from_slice(&length_u16(length).to_be_bytes());
    };
    // TSN 1, stream 0; the unused flags but "whole message".
    const ONE_OF_DATA: [u8; 12] = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    let label_at = match segment {
        Segment::Init | Segment::InitAck => {
            let (kind, own, parameter) = if segment == Segment::Init {
                (1, CLIENT_TAG, UNKNOWN_PARAMETER)
            } else {
                (2, SERVER_TAG, STATE_COOKIE)
            };
            chunk(kind, 0, 20 + 4 + LABEL);
            bytes.extend_from_slice(&own.to_be_bytes());
            // Window, one stream each way, first TSN.
            bytes.extend_from_slice(&[0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
            bytes.extend_from_slice(&parameter.to_be_bytes());
            bytes.extend_from_slice(&length_u16(4 + LABEL).to_be_bytes());
            Some(bytes.len())
        }
        Segment::CookieEcho => {
            chunk(10, 0, 4 + LABEL);
            Some(bytes.len())
        }
        Segment::CookieAck => {
            // It has no room of its own; data may be bundled with it.
            chunk(11, 0, 4);
            bytes.extend_from_slice(&[0, 3]);
            bytes.extend_from_slice(&length_u16(DATA + LABEL).to_be_bytes());
            bytes.extend_from_slice(&ONE_OF_DATA);
            Some(bytes.len())
        }
        Segment::Abort => {
            chunk(6, 0, 4);
            None
        }
        _ => {
            let payload = payload & !3;
            chunk(0, 3, DATA + payload);
            bytes.extend_from_slice(&ONE_OF_DATA);
            let at = bytes.len();
            bytes.resize(at + payload, 0);
            Some(at)
        }
    };
    if let Some(at) = label_at {
        bytes.resize(bytes.len().max(at + LABEL), 0);
    }
    Body { bytes, label_at }
}

#[expect(clippy::cast_possible_truncation, reason = "frames are at most 1514 bytes")]
const fn length_u16(length: usize) -> u16 {
    length as u16
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
