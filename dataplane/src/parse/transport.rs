//! Transport headers: ports, TCP flags, ICMP messages and the packets quoted in them.
#![forbid(unsafe_code)]

use weir_table::addr::Address;

use super::ip::{self, Datagram};
use super::{FiveTuple, Fragment, Layer, Packet, ParseError, TcpFlags, Transport, protocol};

const TRUNCATED: ParseError = ParseError::Truncated(Layer::Transport);

/// Length of the fixed part of an ICMP message, before what it quotes.
const ICMP_HEAD: usize = 8;

/// Parses what follows the IP headers.
#[inline]
pub(super) fn parse(datagram: &Datagram<'_>) -> Result<Packet, ParseError> {
    let &Datagram { src, dst, protocol, fragment, payload } = datagram;
    if protocol == other_familys_icmp(src) {
        return Err(ParseError::IcmpFamily);
    }
    let (transport, sport, dport) = if let Fragment::Later(..) = fragment {
        (Transport::Unseen, 0, 0)
    } else {
        match protocol {
            protocol::TCP => tcp(payload)?,
            protocol::UDP | protocol::UDP_LITE => udp(payload, protocol, fragment)?,
            protocol::SCTP => sctp(payload, fragment)?,
            protocol::ICMP => icmp(payload)?,
            protocol::ICMPV6 => icmpv6(payload)?,
            _ => (Transport::Portless, 0, 0),
        }
    };
    Ok(Packet { tuple: FiveTuple { src, dst, protocol, sport, dport }, transport, fragment })
}

/// The ICMP that cannot stand in a packet of this address's family.
#[inline]
const fn other_familys_icmp(address: Address) -> u8 {
    if address.is_v4() { protocol::ICMPV6 } else { protocol::ICMP }
}

type Parsed = Result<(Transport, u16, u16), ParseError>;

#[inline]
fn ports(b: &[u8]) -> Option<(u16, u16)> {
    let b = b.first_chunk::<4>()?;
    Some((u16::from_be_bytes([b[0], b[1]]), u16::from_be_bytes([b[2], b[3]])))
}

/// RFC 9293 section 3.1.
#[inline]
fn tcp(b: &[u8]) -> Parsed {
    let head = b.first_chunk::<20>().ok_or(TRUNCATED)?;
    let words = head[12] >> 4;
    if words < 5 || usize::from(words) * 4 > b.len() {
        return Err(ParseError::TcpOffset(words));
    }
    let flags = head[13];
    if flags & TcpFlags::SYN != 0 && flags & (TcpFlags::FIN | TcpFlags::RST) != 0 {
        return Err(ParseError::TcpFlags(flags));
    }
    let (sport, dport) = ports(head).ok_or(TRUNCATED)?;
    Ok((Transport::Tcp(TcpFlags(flags)), sport, dport))
}

/// RFC 768; RFC 3828, whose length field is a checksum coverage where 0 means all.
#[inline]
fn udp(b: &[u8], protocol: u8, fragment: Fragment) -> Parsed {
    let head = b.first_chunk::<8>().ok_or(TRUNCATED)?;
    let field = u16::from_be_bytes([head[4], head[5]]);
    let length = usize::from(field);
    let whole = protocol == protocol::UDP_LITE && field == 0;
    // The length of a fragmented datagram spans packets that we have not seen.
    let beyond = fragment == Fragment::No && length > b.len();
    if !whole && (length < 8 || beyond) {
        return Err(ParseError::UdpLength(field));
    }
    let (sport, dport) = ports(head).ok_or(TRUNCATED)?;
    Ok((Transport::Ports, sport, dport))
}

/// Length of SCTP's common header (RFC 9260 section 3.1).
const SCTP_HEAD: usize = 12;

/// Chunk types of SCTP (RFC 9260 section 3.2).
mod chunk {
    pub const INIT: u8 = 1;
    pub const INIT_ACK: u8 = 2;
    pub const ABORT: u8 = 6;
    pub const SHUTDOWN: u8 = 7;
    pub const SHUTDOWN_ACK: u8 = 8;
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// RFC 9260 section 3: the common header and one chunk at least. The first one says what the
/// packet does to its association; `sctp_flags()` of `bpf/tuple.h` reads it the same way.
///
/// Chunks behind it are not looked at. An INIT among them does nothing: receivers discard it
/// (section 8.5.1). An ABORT among them ends what conntrack then forgets by its timeout.
fn sctp(b: &[u8], fragment: Fragment) -> Parsed {
    let head = b.first_chunk::<{ SCTP_HEAD + 4 }>().ok_or(TRUNCATED)?;
    let kind = head[SCTP_HEAD];
    let field = u16::from_be_bytes([head[SCTP_HEAD + 2], head[SCTP_HEAD + 3]]);
    if kind == chunk::INIT {
        let (length, present) = (usize::from(field), b.len() - SCTP_HEAD);
        let is_cut = fragment == Fragment::No && length > present;
        if is_cut || length.next_multiple_of(4) < present {
            return Err(ParseError::SctpInit(field));
        }
    }
    let (sport, dport) = ports(head).ok_or(TRUNCATED)?;
    Ok((Transport::Sctp(sctp_flags(kind)), sport, dport))
}

/// What a chunk is in the words of TCP, so that one state machine serves both: INIT asks for
/// an association as SYN does for a connection, ABORT is its reset.
const fn sctp_flags(kind: u8) -> TcpFlags {
    TcpFlags(match kind {
        chunk::INIT => TcpFlags::SYN,
        chunk::INIT_ACK => TcpFlags::SYN | TcpFlags::ACK,
        chunk::ABORT => TcpFlags::RST,
        chunk::SHUTDOWN | chunk::SHUTDOWN_ACK | chunk::SHUTDOWN_COMPLETE => TcpFlags::FIN,
        _ => TcpFlags::ACK,
    })
}

/// What an ICMP message is to conntrack.
enum Kind {
    Echo,
    Error,
    Other,
}

/// RFC 792; redirects count as errors, since they quote a packet and act on its flow.
const fn icmp_kind(message: u8) -> Kind {
    match message {
        0 | 8 => Kind::Echo,
        3 | 4 | 5 | 11 | 12 => Kind::Error,
        _ => Kind::Other,
    }
}

/// RFC 4443 section 2.1: types below 128 are errors, known or not.
const fn icmpv6_kind(message: u8) -> Kind {
    match message {
        128 | 129 => Kind::Echo,
        0..=127 => Kind::Error,
        _ => Kind::Other,
    }
}

fn icmp(b: &[u8]) -> Parsed {
    let head = b.first_chunk::<ICMP_HEAD>().ok_or(TRUNCATED)?;
    Ok(match icmp_kind(head[0]) {
        Kind::Echo => echo(head),
        Kind::Error => (Transport::IcmpError(quoted(ip::quoted_v4, b)), 0, 0),
        Kind::Other => (Transport::Icmp, 0, 0),
    })
}

fn icmpv6(b: &[u8]) -> Parsed {
    // MLD and ND messages are longer; 4 bytes is what RFC 4443 section 2.1 asks of all.
    let head = b.first_chunk::<4>().ok_or(TRUNCATED)?;
    Ok(match icmpv6_kind(head[0]) {
        Kind::Echo => echo(b.first_chunk::<ICMP_HEAD>().ok_or(TRUNCATED)?),
        Kind::Error => (Transport::IcmpError(quoted(ip::quoted_v6, b)), 0, 0),
        Kind::Other => (Transport::Icmp, 0, 0),
    })
}

/// The identifier (bytes 4 and 5 in both families) stands in for both ports.
fn echo(head: &[u8; ICMP_HEAD]) -> (Transport, u16, u16) {
    let id = u16::from_be_bytes([head[4], head[5]]);
    (Transport::IcmpEcho, id, id)
}

/// The 5-tuple of the packet quoted in an ICMP error.
fn quoted<'a>(
    head: impl Fn(&'a [u8]) -> Option<Datagram<'a>>,
    icmp: &'a [u8],
) -> Option<FiveTuple> {
    let Datagram { src, dst, protocol, payload, .. } = head(icmp.get(ICMP_HEAD..)?)?;
    if protocol == other_familys_icmp(src) {
        return None;
    }
    let (sport, dport) = match protocol {
        protocol::TCP | protocol::UDP | protocol::UDP_LITE | protocol::SCTP => ports(payload)?,
        protocol::ICMP | protocol::ICMPV6 => quoted_icmp(protocol, payload)?,
        _ => (0, 0),
    };
    Some(FiveTuple { src, dst, protocol, sport, dport })
}

/// Ports of a quoted ICMP message. No error is sent about an error (RFC 1122 section
/// 3.2.2, RFC 4443 section 2.4), so a quoted one belongs to nothing.
fn quoted_icmp(protocol: u8, payload: &[u8]) -> Option<(u16, u16)> {
    let head = payload.first_chunk::<ICMP_HEAD>()?;
    let kind = match protocol {
        protocol::ICMP => icmp_kind(head[0]),
        _ => icmpv6_kind(head[0]),
    };
    match kind {
        Kind::Echo => {
            let (_, sport, dport) = echo(head);
            Some((sport, dport))
        }
        Kind::Error => None,
        Kind::Other => Some((0, 0)),
    }
}
