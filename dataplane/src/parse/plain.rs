//! The short way through the parser, for what most packets are: TCP or UDP in IPv4 without
//! options or in IPv6 without extension headers, not fragmented, between two that are no
//! groups.
//!
//! [`plain`] answers for frames of exactly this form and says nothing about any other; those
//! go to [`super::parse`], which alone knows what is malformed. Invariant: where `plain`
//! answers, `parse` says the same (`properties.rs` holds the two against each other).
#![forbid(unsafe_code)]

use weir_table::addr::Address;

use super::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, TcpFlags, protocol};
use crate::shim::ETHERNET_LEN;

const V4_HEAD: usize = 20;
const V6_HEAD: usize = 40;
const UDP_HEAD: usize = 8;
const TCP_HEAD: usize = 20;

/// A packet of which no more has to be known than this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plain {
    /// Source address.
    pub src: Address,
    /// Destination address.
    pub dst: Address,
    /// TCP or UDP.
    pub protocol: u8,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// TCP's flags; UDP has none.
    pub flags: TcpFlags,
}

/// Parses an Ethernet frame, shim already removed, if it is of the plain form.
#[inline]
pub fn plain(ethernet: &[u8]) -> Option<Plain> {
    match Plainly::of(ethernet)? {
        Plainly::V4(l3) => plain_v4(l3),
        Plainly::V6(l3) => plain_v6(l3),
    }
}

/// A frame by its EtherType: what follows it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Plainly<'a> {
    V4(&'a [u8]),
    V6(&'a [u8]),
}

impl<'a> Plainly<'a> {
    /// `None` for any other.
    #[inline(always)]
    pub fn of(ethernet: &'a [u8]) -> Option<Self> {
        let (ethernet, l3) = ethernet.split_first_chunk::<ETHERNET_LEN>()?;
        match u16::from_be_bytes([ethernet[12], ethernet[13]]) {
            ETHERTYPE_IPV4 => Some(Self::V4(l3)),
            ETHERTYPE_IPV6 => Some(Self::V6(l3)),
            _ => None,
        }
    }
}

/// [`plain`] for what follows an EtherType of IPv4. By itself, so that whoever goes on with it
/// knows in the code of which family the addresses are.
#[inline(always)]
pub(crate) fn plain_v4(l3: &[u8]) -> Option<Plain> {
    let (b, rest) = l3.split_first_chunk::<V4_HEAD>()?;
    let total = usize::from(u16::from_be_bytes([b[2], b[3]]));
    // More fragments, and the offset of this one.
    let fragment = u16::from_be_bytes([b[6], b[7]]) & 0x3fff;
    if b[0] != 0x45 || fragment != 0 {
        return None;
    }
    let payload = rest.get(..total.checked_sub(V4_HEAD)?)?;
    let src = Address::v4([b[12], b[13], b[14], b[15]]);
    let dst = Address::v4([b[16], b[17], b[18], b[19]]);
    transport(src, dst, b[9], payload)
}

/// The same for IPv6.
#[inline(always)]
pub(crate) fn plain_v6(l3: &[u8]) -> Option<Plain> {
    let (b, rest) = l3.split_first_chunk::<V6_HEAD>()?;
    if b[0] >> 4 != 6 {
        return None;
    }
    let payload = rest.get(..usize::from(u16::from_be_bytes([b[4], b[5]])))?;
    let src = Address::v6(*b[8..].first_chunk()?);
    let dst = Address::v6(*b[24..].first_chunk()?);
    if src.is_v4() || dst.is_v4() {
        return None;
    }
    transport(src, dst, b[6], payload)
}

#[inline(always)]
fn transport(src: Address, dst: Address, protocol: u8, payload: &[u8]) -> Option<Plain> {
    let is_group = |address: Address| address.is_multicast() || address.is_broadcast();
    if is_group(src) || is_group(dst) {
        return None;
    }
    let head = payload.first_chunk::<UDP_HEAD>()?;
    let flags = match protocol {
        protocol::TCP => tcp(payload)?,
        protocol::UDP => {
            let length = usize::from(u16::from_be_bytes([head[4], head[5]]));
            if length < UDP_HEAD || length > payload.len() {
                return None;
            }
            TcpFlags(0)
        }
        _ => return None,
    };
    let (sport, dport) =
        (u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[2], head[3]]));
    Some(Plain { src, dst, protocol, sport, dport, flags })
}

#[inline(always)]
fn tcp(segment: &[u8]) -> Option<TcpFlags> {
    let head = segment.first_chunk::<TCP_HEAD>()?;
    let length = usize::from(head[12] >> 4) * 4;
    let flags = head[13];
    let contradicts = flags & TcpFlags::SYN != 0 && flags & (TcpFlags::FIN | TcpFlags::RST) != 0;
    (length >= TCP_HEAD && length <= segment.len() && !contradicts).then_some(TcpFlags(flags))
}
