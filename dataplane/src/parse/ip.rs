//! IPv4 and IPv6 headers, down to the transport protocol.
//!
//! The same walk serves two purposes: whole packets, where every length must hold, and
//! the head of a packet quoted in an ICMP error, where the packet's own length says
//! nothing about how much of it is there ([`quoted_v4`], [`quoted_v6`]).
#![forbid(unsafe_code)]

use weir_table::addr::Address;

use super::{Extent, Fragment, FragmentId, Layer, MAX_EXTENSIONS, ParseError, protocol};

/// An IP packet cut down to what the transport layer needs.
pub(super) struct Datagram<'a> {
    pub src: Address,
    pub dst: Address,
    pub protocol: u8,
    pub fragment: Fragment,
    /// Bytes after all IP headers; padding of the frame is already cut off.
    pub payload: &'a [u8],
}

/// IPv6 extension headers (RFC 8200 section 4.1, RFC 7045, IANA "IPv6 Extension Header
/// Types") without ESP, behind which nothing can be read, and the experimental ones.
mod extension {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION: u8 = 60;
    pub(super) const MOBILITY: u8 = 135;
    pub(super) const HIP: u8 = 139;
    pub(super) const SHIM6: u8 = 140;
    /// No Next Header: the only one that may come with an empty payload.
    pub(super) const NONE: u8 = 59;
}

const V4_MIN: usize = 20;
const V6_LEN: usize = 40;
/// Option types Loose and Strict Source and Record Route, RFC 791 section 3.1.
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;
/// Jumbo Payload option, RFC 2675 section 2.
const JUMBO_PAYLOAD: u8 = 0xc2;
/// A TCP header without options: what a later fragment must not reach into.
const TCP_MIN: usize = 20;

/// Parses a whole IPv4 packet; `l3` may have padding behind it.
#[inline]
pub(super) fn parse_v4(l3: &[u8]) -> Result<Datagram<'_>, ParseError> {
    let head = V4Head::read(l3)?;
    let total = usize::from(head.total_length);
    if total < head.length || total > l3.len() {
        return Err(ParseError::TotalLength { claimed: total, present: l3.len() });
    }
    refuse_source_route(l3.get(V4_MIN..head.length).unwrap_or_default())?;
    let payload = l3.get(head.length..total).ok_or(ParseError::Truncated(Layer::Ipv4))?;
    let fragment = fragment(head.fragment_id(), head.offset, head.more, payload.len())?;
    Ok(Datagram { src: head.src, dst: head.dst, protocol: head.protocol, fragment, payload })
}

/// The head of an IPv4 packet quoted in an ICMP error (RFC 792: header and at least 8
/// bytes). `None` if it is not the start of a packet.
pub(super) fn quoted_v4(l3: &[u8]) -> Option<Datagram<'_>> {
    let head = V4Head::read(l3).ok()?;
    if head.offset != 0 {
        return None;
    }
    Some(Datagram {
        src: head.src,
        dst: head.dst,
        protocol: head.protocol,
        fragment: Fragment::No,
        payload: l3.get(head.length..)?,
    })
}

struct V4Head {
    length: usize,
    total_length: u16,
    id: u16,
    /// In bytes.
    offset: usize,
    more: bool,
    protocol: u8,
    src: Address,
    dst: Address,
}

impl V4Head {
    #[inline]
    fn read(l3: &[u8]) -> Result<Self, ParseError> {
        let b = l3.first_chunk::<V4_MIN>().ok_or(ParseError::Truncated(Layer::Ipv4))?;
        if b[0] >> 4 != 4 {
            return Err(ParseError::Version(b[0] >> 4));
        }
        let words = b[0] & 0x0f;
        if words < 5 {
            return Err(ParseError::HeaderLength(words));
        }
        let length = usize::from(words) * 4;
        if l3.len() < length {
            return Err(ParseError::Truncated(Layer::Ipv4));
        }
        let fragment = u16::from_be_bytes([b[6], b[7]]);
        Ok(Self {
            length,
            total_length: u16::from_be_bytes([b[2], b[3]]),
            id: u16::from_be_bytes([b[4], b[5]]),
            offset: usize::from(fragment & 0x1fff) * 8,
            more: fragment & 0x2000 != 0,
            protocol: b[9],
            src: Address::v4([b[12], b[13], b[14], b[15]]),
            dst: Address::v4([b[16], b[17], b[18], b[19]]),
        })
    }

    fn fragment_id(&self) -> FragmentId {
        FragmentId { id: u32::from(self.id), next: self.protocol }
    }
}

/// Walks IPv4 options (RFC 791 section 3.1) in search of a source route.
fn refuse_source_route(mut options: &[u8]) -> Result<(), ParseError> {
    const END: u8 = 0;
    const NOP: u8 = 1;
    while let Some((&kind, rest)) = options.split_first() {
        match kind {
            END => return Ok(()),
            NOP => options = rest,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return Err(ParseError::SourceRoute),
            _ => {
                let length = rest.first().map_or(0, |&l| usize::from(l));
                if length < 2 {
                    return Err(ParseError::Truncated(Layer::Ipv4));
                }
                options = options.get(length..).ok_or(ParseError::Truncated(Layer::Ipv4))?;
            }
        }
    }
    Ok(())
}

/// What kind of fragment it is; refuses those that no honest sender makes and reassembly
/// might misread. `offset` and `length` are in bytes.
#[inline]
fn fragment(
    id: FragmentId,
    offset: usize,
    more: bool,
    length: usize,
) -> Result<Fragment, ParseError> {
    if offset == 0 && !more {
        return Ok(Fragment::No);
    }
    let ragged = more && !length.is_multiple_of(8);
    let into_tcp_header = id.next == protocol::TCP && offset != 0 && offset < TCP_MIN;
    let (Ok(start), Ok(end)) = (u16::try_from(offset), u16::try_from(offset + length)) else {
        return Err(ParseError::FragmentExtent);
    };
    if length == 0 || ragged || into_tcp_header {
        return Err(ParseError::FragmentExtent);
    }
    let extent = Extent { start, end, last: !more };
    Ok(if offset == 0 { Fragment::First(id, extent) } else { Fragment::Later(id, extent) })
}

/// Parses a whole IPv6 packet; `l3` may have padding behind it.
#[inline]
pub(super) fn parse_v6(l3: &[u8]) -> Result<Datagram<'_>, ParseError> {
    let (head, rest) = V6Head::read(l3)?;
    let length = usize::from(head.payload_length);
    if length == 0 && head.next != extension::NONE {
        return Err(ParseError::Jumbogram);
    }
    let payload = rest
        .get(..length)
        .ok_or(ParseError::TotalLength { claimed: V6_LEN + length, present: l3.len() })?;
    let chain = Chain::walk(head.next, payload, Quoting::No)?;
    Ok(Datagram {
        src: head.src,
        dst: head.dst,
        protocol: chain.protocol,
        fragment: chain.fragment,
        payload: chain.payload,
    })
}

/// The head of an IPv6 packet quoted in an ICMPv6 error (RFC 4443: as much of it as
/// fits). `None` if it is not the start of a packet.
pub(super) fn quoted_v6(l3: &[u8]) -> Option<Datagram<'_>> {
    let (head, rest) = V6Head::read(l3).ok()?;
    let chain = Chain::walk(head.next, rest, Quoting::Yes).ok()?;
    if matches!(chain.fragment, Fragment::Later(..)) {
        return None;
    }
    Some(Datagram {
        src: head.src,
        dst: head.dst,
        protocol: chain.protocol,
        fragment: Fragment::No,
        payload: chain.payload,
    })
}

struct V6Head {
    payload_length: u16,
    next: u8,
    src: Address,
    dst: Address,
}

impl V6Head {
    #[inline]
    fn read(l3: &[u8]) -> Result<(Self, &[u8]), ParseError> {
        let (b, rest) =
            l3.split_first_chunk::<V6_LEN>().ok_or(ParseError::Truncated(Layer::Ipv6))?;
        if b[0] >> 4 != 6 {
            return Err(ParseError::Version(b[0] >> 4));
        }
        let (Some(src), Some(dst)) = (b[8..].first_chunk::<16>(), b[24..].first_chunk::<16>())
        else {
            return Err(ParseError::Truncated(Layer::Ipv6));
        };
        let (src, dst) = (Address::v6(*src), Address::v6(*dst));
        if src.is_v4() || dst.is_v4() {
            return Err(ParseError::MappedAddress);
        }
        let payload_length = u16::from_be_bytes([b[4], b[5]]);
        Ok((Self { payload_length, next: b[6], src, dst }, rest))
    }
}

/// Whether the bytes are a quotation, which may end anywhere.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quoting {
    No,
    Yes,
}

/// The end of the extension header chain.
struct Chain<'a> {
    protocol: u8,
    fragment: Fragment,
    payload: &'a [u8],
}

impl<'a> Chain<'a> {
    #[inline]
    fn walk(first: u8, payload: &'a [u8], quoting: Quoting) -> Result<Self, ParseError> {
        let mut chain = Chain { protocol: first, fragment: Fragment::No, payload };
        for position in 0..=MAX_EXTENSIONS {
            let header = chain.protocol;
            match header {
                extension::HOP_BY_HOP if position != 0 => return Err(ParseError::ExtensionChain),
                extension::HOP_BY_HOP => {
                    let options = chain.skip(8)?;
                    refuse_jumbo(options)?;
                }
                extension::ROUTING => {
                    let header = chain.skip(8)?;
                    // Byte 3: segments left. At 0 the destination has been reached.
                    if header.get(3).is_none_or(|&left| left != 0) {
                        return Err(ParseError::SourceRoute);
                    }
                }
                extension::DESTINATION
                | extension::MOBILITY
                | extension::HIP
                | extension::SHIM6 => {
                    chain.skip(8)?;
                }
                // Its length counts words of 4 bytes, minus 2 (RFC 4302 section 2.2).
                extension::AUTHENTICATION => {
                    chain.skip(4)?;
                }
                extension::FRAGMENT => {
                    if chain.fragment != Fragment::No {
                        return Err(ParseError::ExtensionChain);
                    }
                    chain.enter_fragment(quoting)?;
                    if let Fragment::Later(..) = chain.fragment {
                        return Ok(chain);
                    }
                }
                _ => return Ok(chain),
            }
        }
        Err(ParseError::ExtensionChain)
    }

    /// Steps over one header of the common form (next header, length, ..) and returns
    /// its bytes. `unit` is what its length field counts in.
    fn skip(&mut self, unit: usize) -> Result<&'a [u8], ParseError> {
        let truncated = ParseError::Truncated(Layer::Ipv6Extension);
        let &[next, length, ..] = self.payload else { return Err(truncated) };
        let bytes = match unit {
            4 => (usize::from(length) + 2) * 4,
            _ => (usize::from(length) + 1) * 8,
        };
        let (header, rest) = self.payload.split_at_checked(bytes).ok_or(truncated)?;
        self.protocol = next;
        self.payload = rest;
        Ok(header)
    }

    /// Steps over a Fragment header (RFC 8200 section 4.5).
    fn enter_fragment(&mut self, quoting: Quoting) -> Result<(), ParseError> {
        let (b, rest) = self
            .payload
            .split_first_chunk::<8>()
            .ok_or(ParseError::Truncated(Layer::Ipv6Extension))?;
        let word = u16::from_be_bytes([b[2], b[3]]);
        let offset = usize::from(word & 0xfff8);
        let more = word & 1 != 0;
        let id = FragmentId { id: u32::from_be_bytes([b[4], b[5], b[6], b[7]]), next: b[0] };
        self.protocol = b[0];
        self.payload = rest;
        // Of a quotation only the beginning is there.
        let length = if quoting == Quoting::Yes { 8 } else { rest.len() };
        self.fragment = fragment(id, offset, more, length)?;
        Ok(())
    }
}

/// Looks for a Jumbo Payload option in a Hop-by-Hop header (options start at byte 2;
/// RFC 8200 section 4.2).
fn refuse_jumbo(header: &[u8]) -> Result<(), ParseError> {
    const PAD1: u8 = 0;
    let mut options = header.get(2..).unwrap_or_default();
    while let Some((&kind, rest)) = options.split_first() {
        match kind {
            PAD1 => options = rest,
            JUMBO_PAYLOAD => return Err(ParseError::Jumbogram),
            _ => {
                let length = rest.first().map_or(0, |&l| usize::from(l)) + 2;
                options =
                    options.get(length..).ok_or(ParseError::Truncated(Layer::Ipv6Extension))?;
            }
        }
    }
    Ok(())
}
