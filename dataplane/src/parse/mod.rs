//! From bytes to a 5-tuple, without believing a single length on the way.
//!
//! [`parse`] takes a plain Ethernet frame (the shim already taken off) and gives a
//! [`Packet`], or a [`ParseError`] that names what contradicts what. A pod can send any
//! bytes it likes, so:
//! - every read is bounds-checked; nothing here can panic (property tests feed
//!   arbitrary and mutated frames);
//! - the frame may be longer than the packet (Ethernet padding), never shorter;
//! - what would make the addresses or ports that we judge differ from those that the
//!   receiver acts on is refused: source routes, IPv4-mapped addresses in IPv6 headers,
//!   jumbograms, header chains cut by fragmentation, fragments that overlap a TCP header.
//!
//! Checksums are not verified: only the receiver's opinion of them matters, and it drops
//! the packet by itself.
//!
//! Two halves: `ip.rs`, the headers down to the transport protocol, and `transport.rs`; and
//! [`plain`], a short way for most packets, which says the same or nothing.
#![forbid(unsafe_code)]

mod ip;
mod plain;
mod transport;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use thiserror::Error;
use weir_table::addr::Address;

pub use plain::{Plain, plain};
pub(crate) use plain::{Plainly, plain_v4, plain_v6};

use crate::shim::ETHERNET_LEN;

/// IANA protocol numbers that the parser and the pipeline know by name.
pub mod protocol {
    /// ICMP for IPv4, RFC 792.
    pub const ICMP: u8 = 1;
    /// TCP, RFC 9293.
    pub const TCP: u8 = 6;
    /// UDP, RFC 768.
    pub const UDP: u8 = 17;
    /// ICMPv6, RFC 4443.
    pub const ICMPV6: u8 = 58;
    /// SCTP, RFC 9260.
    pub const SCTP: u8 = 132;
    /// UDP-Lite, RFC 3828.
    pub const UDP_LITE: u8 = 136;
}

/// Source and destination of one packet, in the packet's own direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FiveTuple {
    /// Source address.
    pub src: Address,
    /// Destination address.
    pub dst: Address,
    /// IANA protocol number; for IPv6 the one after all extension headers.
    pub protocol: u8,
    /// Source port. ICMP echo: the identifier. 0 for protocols without ports.
    pub sport: u16,
    /// Destination port. ICMP echo: the identifier. 0 for protocols without ports.
    pub dport: u16,
}

impl FiveTuple {
    /// The 5-tuple of the packets that answer this one.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            protocol: self.protocol,
            sport: self.dport,
            dport: self.sport,
        }
    }
}

/// TCP's flag byte (offset 13 of its header), or what an SCTP chunk would be in TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// Sender has finished sending.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Acknowledgement number is valid.
    pub const ACK: u8 = 0x10;

    /// True for a segment that asks for a new connection: SYN without ACK. (SYN together
    /// with FIN or RST never gets this far, see [`ParseError::TcpFlags`].)
    #[inline]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK) == Self::SYN
    }

    /// True for a reset.
    #[inline]
    pub const fn resets(self) -> bool {
        self.0 & Self::RST != 0
    }
}

/// What follows the IP headers, as far as conntrack wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp(TcpFlags),
    /// SCTP: what its first chunk would be in TCP.
    Sctp(TcpFlags),
    /// UDP or UDP-Lite: ports, no state that we follow.
    Ports,
    /// ICMP or ICMPv6 echo request or reply; the identifier stands in both ports.
    IcmpEcho,
    /// An ICMP or ICMPv6 error (redirects included) about the packet quoted in it;
    /// `None` if the quotation does not tell which.
    IcmpError(Option<FiveTuple>),
    /// Any other ICMP or ICMPv6 message.
    Icmp,
    /// A protocol without ports that we know of.
    Portless,
    /// A fragment after the first: its transport header is in another packet.
    Unseen,
}

/// Whether the packet is a fragment, with what links it to its siblings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    /// Not fragmented (or an "atomic" IPv6 fragment, RFC 6946).
    No,
    /// The first fragment: has the transport header.
    First(FragmentId, Extent),
    /// A later one: has none.
    Later(FragmentId, Extent),
}

/// Which bytes of its datagram a fragment carries: never none. Counted from the end of the
/// IPv4 header or of the IPv6 Fragment header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Its first byte.
    pub start: u16,
    /// The byte after its last.
    pub end: u16,
    /// No more fragments: the datagram ends there.
    pub last: bool,
}

/// Identifies the fragments of one packet together with source and destination
/// (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FragmentId {
    /// Identification: 16 bits in IPv4, 32 in IPv6.
    pub id: u32,
    /// IPv4: the protocol. IPv6: the Fragment header's Next Header, which need not be the
    /// transport protocol, and of which only the first fragment's counts.
    pub next: u8,
}

/// One packet as the pipeline judges it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// The 5-tuple in the packet's direction. Ports are 0 if [`Transport::Unseen`].
    pub tuple: FiveTuple,
    /// The transport header.
    pub transport: Transport,
    /// Fragmentation.
    pub fragment: Fragment,
}

/// Which header ended too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Ethernet.
    Ethernet,
    /// The IPv4 header with its options.
    Ipv4,
    /// The fixed IPv6 header.
    Ipv6,
    /// An IPv6 extension header.
    Ipv6Extension,
    /// TCP, UDP, UDP-Lite, SCTP or ICMP.
    Transport,
}

/// Why a frame is refused. Each is one counter reason, `malformed`, except
/// [`ParseError::UnsupportedEtherType`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ParseError {
    /// A header reaches beyond the packet.
    #[error("{0:?} header reaches beyond the end of the packet")]
    Truncated(Layer),
    /// Neither IPv4 nor IPv6 (a VLAN tag and an LLC length count as neither).
    #[error("EtherType {0:#06x} is neither IPv4 nor IPv6")]
    UnsupportedEtherType(u16),
    /// The version field contradicts the EtherType.
    #[error("IP version {0} contradicts the EtherType")]
    Version(u8),
    /// IPv4 header length field below 5 (RFC 791).
    #[error("IPv4 header length of {0} words is below 5")]
    HeaderLength(u8),
    /// The packet's own length is shorter than its headers or longer than the frame.
    #[error("packet claims {claimed} bytes, the frame holds {present}")]
    TotalLength {
        /// Length according to the header.
        claimed: usize,
        /// Bytes after the Ethernet header.
        present: usize,
    },
    /// An IPv6 jumbogram (RFC 2675), or no payload length where there is a payload.
    #[error("IPv6 jumbograms are not supported")]
    Jumbogram,
    /// An IPv4 option or IPv6 Routing header that changes the destination on the way
    /// (RFC 7126, RFC 5095): the address judged would not be the one reached.
    #[error("source-routed packet")]
    SourceRoute,
    /// Hop-by-Hop Options anywhere but first (RFC 8200 section 4.1), or more headers than
    /// [`MAX_EXTENSIONS`].
    #[error("IPv6 extension headers out of order or too many")]
    ExtensionChain,
    /// An IPv4-mapped address in an IPv6 header (RFC 4038 section 4.2).
    #[error("IPv4-mapped address in an IPv6 header")]
    MappedAddress,
    /// A multicast or broadcast address as source (RFC 1122 section 3.2.1.3, RFC 4291
    /// section 2.7).
    #[error("group address as source")]
    GroupSource,
    /// A fragment that is empty or no multiple of 8 bytes before the last, reaches beyond
    /// 65,535 bytes, or overlaps a TCP header (RFC 1858 section 4.2).
    #[error("fragment of impossible extent")]
    FragmentExtent,
    /// TCP data offset below 5 or beyond the segment.
    #[error("TCP data offset of {0} words")]
    TcpOffset(u8),
    /// SYN together with FIN or RST: no TCP sends it, receivers disagree about it.
    #[error("TCP flags {0:#04x} contradict each other")]
    TcpFlags(u8),
    /// An SCTP INIT chunk that is not alone in its packet, or cut short (RFC 9260 sections
    /// 4.3 and 8.5.1): whoever bundles one wants it to be taken for something else.
    #[error("SCTP INIT of {0} bytes is not alone in its packet")]
    SctpInit(u16),
    /// UDP or UDP-Lite length below 8 or beyond the packet.
    #[error("UDP length {0} contradicts the packet's length")]
    UdpLength(u16),
    /// ICMP in IPv6 or ICMPv6 in IPv4.
    #[error("ICMP of the other address family")]
    IcmpFamily,
}

/// The most IPv6 extension headers that are walked. RFC 8200 gives each an order and at
/// most one or two occurrences: eight in all.
pub const MAX_EXTENSIONS: usize = 8;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// Parses an Ethernet frame, shim already removed.
///
/// # Errors
/// [`ParseError`]: the packet must be dropped.
#[inline]
pub fn parse(ethernet: &[u8]) -> Result<Packet, ParseError> {
    let Some((header, l3)) = ethernet.split_first_chunk::<ETHERNET_LEN>() else {
        return Err(ParseError::Truncated(Layer::Ethernet));
    };
    let datagram = match u16::from_be_bytes([header[12], header[13]]) {
        ETHERTYPE_IPV4 => ip::parse_v4(l3)?,
        ETHERTYPE_IPV6 => ip::parse_v6(l3)?,
        other => return Err(ParseError::UnsupportedEtherType(other)),
    };
    if datagram.src.is_multicast() || datagram.src.is_broadcast() {
        return Err(ParseError::GroupSource);
    }
    transport::parse(&datagram)
}
