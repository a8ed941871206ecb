//! Reads the kernel's conntrack table: one dump request of ctnetlink for both address
//! families, or one request for one entry, in the network namespace of the calling thread.
//!
//! Attributes are decoded by `netlink-packet-netfilter`, of the same family of crates as
//! rtnetlink and built on the same `netlink-packet-core`. It has no name for the
//! identifier and type of ICMP nor for the zone; those come as raw attributes and are
//! read here. The loop over messages is this module's own, so that an entry that cannot
//! be read costs that entry, not the dump.
//!
//! Invariants:
//! - whatever bytes arrive, nothing panics, and the loop over a datagram ends;
//! - one datagram is held at a time; what is kept of an entry is up to the caller;
//! - an [`Entry`] has four addresses of one family, and none that is IPv4-mapped in IPv6.
#![forbid(unsafe_code)]

use std::io;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Status,
    TCPFlags, Tuple,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use rtnetlink::packet_core::{
    DefaultNla, NLA_TYPE_MASK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN,
    NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla, ParseableParametrized,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use weir_table::addr::Address;

use crate::parse::{FiveTuple, protocol};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW`: what a dump consists of.
const CT_NEW: u16 = 1 << 8;
/// Length of `struct nfgenmsg`, which precedes the attributes.
const NFGENMSG_LEN: usize = 4;

// Attributes that the crate hands over raw (linux/netfilter/nfnetlink_conntrack.h).

/// `CTA_ZONE`, of a whole entry.
const CTA_ZONE: u16 = 18;
/// `CTA_TUPLE_ZONE`, of one direction.
const CTA_TUPLE_ZONE: u16 = 3;
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMPV6_ID: u16 = 7;
const CTA_PROTO_ICMPV6_TYPE: u16 = 8;

/// `IP_CT_TCP_FLAG_CLOSE_INIT`: this side sent the first FIN.
const CLOSE_INIT: u8 = 0x04;

/// A datagram of a dump is at most 32 KiB (`max_recvmsg_len` in net/netlink/af_netlink.c).
const DATAGRAM: usize = 64 * 1024;
/// The kernel answers a dump from within the calls that read it; this only keeps a fault
/// from holding up the daemon.
const PATIENCE: Duration = Duration::from_secs(5);
const SEQUENCE: u32 = 1;

/// Where TCP stands, `enum tcp_conntrack`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TcpState {
    SynSent,
    SynRecv,
    Established,
    FinWait,
    CloseWait,
    LastAck,
    TimeWait,
    /// Ended by a reset.
    Close,
    /// Both ends have sent a SYN without ACK.
    SynSent2,
}

impl TcpState {
    const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::SynSent,
            2 => Self::SynRecv,
            3 => Self::Established,
            4 => Self::FinWait,
            5 => Self::CloseWait,
            6 => Self::LastAck,
            7 => Self::TimeWait,
            8 => Self::Close,
            9 => Self::SynSent2,
            _ => return None,
        })
    }
}

/// What conntrack knows of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tcp {
    pub state: TcpState,
    /// True for the end whose FIN began the close: `[opener, other end]`.
    pub closer: [bool; 2],
}

/// One connection as conntrack holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The packets of the end that opened it, before translation.
    pub original: FiveTuple,
    /// The packets of the other end, before they are translated back.
    pub reply: FiveTuple,
    /// `IPS_*` of linux/netfilter/nf_conntrack_common.h.
    pub status: Status,
    /// The zone of the entry or of either direction; 0 if it has none.
    pub zone: u16,
    /// `None`: not TCP, or a state without a name.
    pub tcp: Option<Tcp>,
}

/// Why the table could not be read, or not to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DumpError {
    /// No nf_conntrack here, or no netlink interface to it.
    #[error("this kernel shows no conntrack table ({0}); if it tracks, load nf_conntrack_netlink")]
    Absent(io::Error),
    /// The capability is missing.
    #[error("the kernel refuses to show its conntrack table ({0}); grant CAP_NET_ADMIN")]
    Refused(io::Error),
    /// Any other failure of a call, or of the dump itself.
    #[error("cannot {0}: {1}")]
    Failed(&'static str, io::Error),
    /// The answer is no netlink.
    #[error("the kernel's conntrack dump makes no sense: {0}; please report it")]
    Malformed(&'static str),
}

impl DumpError {
    fn of(what: &'static str, error: io::Error) -> Self {
        match error.raw_os_error() {
            // Without nfnetlink there is no such protocol; without nf_conntrack_netlink
            // nfnetlink knows no such message.
            Some(
                libc::EPROTONOSUPPORT
                | libc::EAFNOSUPPORT
                | libc::EINVAL
                | libc::ENOENT
                | libc::EOPNOTSUPP,
            ) => Self::Absent(error),
            Some(libc::EPERM | libc::EACCES) => Self::Refused(error),
            _ => Self::Failed(what, error),
        }
    }
}

/// Hands every entry of the table to `sink`, `None` for one that cannot be read, until
/// the table ends or `sink` breaks off.
///
/// While connections come and go the kernel may show one twice, and miss one.
///
/// # Errors
/// [`DumpError`]; `sink` may have been called before.
pub(super) fn dump(
    mut sink: impl FnMut(Option<Entry>) -> ControlFlow<()>,
) -> Result<(), DumpError> {
    const ASK: &str = "ask for the conntrack table";
    const READ: &str = "read the conntrack table";
    let socket = connect()?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))
        .map_err(|e| DumpError::of(OPEN, e.into()))?;
    socket.send(&request_for_all(), 0).map_err(|e| DumpError::of(ASK, e))?;

    let mut datagram = Vec::with_capacity(DATAGRAM);
    loop {
        datagram.clear();
        match socket.recv(&mut datagram, libc::MSG_TRUNC) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(DumpError::of(READ, e)),
            Ok(length) if length > datagram.len() => {
                return Err(DumpError::Malformed("a datagram above 64 KiB"));
            }
            Ok(_) => {}
        }
        if read(&datagram, &mut sink)?.is_break() {
            return Ok(());
        }
    }
}

const OPEN: &str = "open a netfilter socket";

/// A socket that takes nothing but what the kernel (port 0) sends.
fn connect() -> Result<Socket, DumpError> {
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(|e| DumpError::of(OPEN, e))?;
    socket.bind_auto().map_err(|e| DumpError::of(OPEN, e))?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(|e| DumpError::of(OPEN, e))?;
    Ok(socket)
}

/// Asks for entries one by one.
pub(crate) struct Entries {
    socket: Socket,
    sequence: u32,
    datagram: Vec<u8>,
}

impl Entries {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`DumpError`]: there is no such interface, or it is refused.
    pub(crate) fn open() -> Result<Self, DumpError> {
        let datagram = Vec::with_capacity(DATAGRAM);
        Ok(Self { socket: connect()?, sequence: 0, datagram })
    }

    /// The entry whose answers have this 5-tuple before they are translated back; `None` if there
    /// is none, or if the protocol has no ports. Does not block: the kernel has answered when the
    /// request has been sent.
    ///
    /// # Errors
    /// [`DumpError`]: a call failed, or the kernel refused or answered nonsense.
    pub(crate) fn by_reply(&mut self, reply: &FiveTuple) -> Result<Option<Entry>, DumpError> {
        const ASK: &str = "ask for a conntrack entry";
        const READ: &str = "read a conntrack entry";
        if !matches!(reply.protocol, protocol::TCP | protocol::UDP | protocol::SCTP) {
            return Ok(None);
        }
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let question = question(reply, self.sequence);
        self.socket.send(&question, 0).map_err(|e| DumpError::of(ASK, e))?;
        loop {
            self.datagram.clear();
            match self.socket.recv(&mut self.datagram, libc::MSG_TRUNC | libc::MSG_DONTWAIT) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(DumpError::of(READ, e)),
                Ok(length) if length > self.datagram.len() => {
                    return Err(DumpError::Malformed("a datagram above 64 KiB"));
                }
                Ok(_) => {}
            }
            let message = NetlinkBuffer::new_checked(&self.datagram[..])
                .map_err(|_| DumpError::Malformed("a message reaches beyond its datagram"))?;
            // An answer to an earlier question, which nobody waited for.
            if message.sequence_number() != self.sequence {
                continue;
            }
            let payload = message.payload();
            return match message.message_type() {
                // It may have been found by the tuple of its other direction.
                CT_NEW => Ok(decode(payload).filter(|entry| entry.reply == *reply)),
                NLMSG_ERROR => {
                    let errno = payload.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
                    match errno.saturating_neg() {
                        0 | libc::ENOENT => Ok(None),
                        errno => Err(DumpError::of(ASK, io::Error::from_raw_os_error(errno))),
                    }
                }
                _ => Err(DumpError::Malformed("an answer of another kind")),
            };
        }
    }
}

/// The request for the entry of a reply tuple.
fn question(reply: &FiveTuple, sequence: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    header.sequence_number = sequence;
    let family = match reply.src.is_v4() {
        true => NetfilterProtoFamily::IPv4,
        false => NetfilterProtoFamily::IPv6,
    };
    let attributes = vec![ConntrackAttribute::CtaTupleReply(in_attributes(reply))];
    request(header, family, attributes)
}

/// A tuple with ports as the value of an attribute.
pub(super) fn in_attributes(tuple: &FiveTuple) -> Vec<Tuple> {
    vec![
        Tuple::Ip(vec![
            IPTuple::SourceAddress(tuple.src.to_ip()),
            IPTuple::DestinationAddress(tuple.dst.to_ip()),
        ]),
        Tuple::Proto(vec![
            ProtoTuple::Protocol(tuple.protocol.into()),
            ProtoTuple::SourcePort(tuple.sport),
            ProtoTuple::DestinationPort(tuple.dport),
        ]),
    ]
}

/// The request for everything, of both families.
fn request_for_all() -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    header.sequence_number = SEQUENCE;
    request(header, NetfilterProtoFamily::Unspec, Vec::new())
}

fn request(
    header: NetlinkHeader,
    family: NetfilterProtoFamily,
    attributes: Vec<ConntrackAttribute>,
) -> Vec<u8> {
    let question = NetfilterMessage::new(
        NetfilterHeader::new(family, 0, 0),
        ConntrackMessage::Get(attributes),
    );
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(question));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Reads one datagram of the answer. Breaks when the dump has ended or `sink` has.
///
/// # Errors
/// [`DumpError`]: the kernel reports a failure, or the bytes are no netlink messages.
pub(super) fn read(
    mut datagram: &[u8],
    sink: &mut impl FnMut(Option<Entry>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, DumpError> {
    const DUMP: &str = "read the conntrack table to its end";
    while !datagram.is_empty() {
        let message = NetlinkBuffer::new_checked(datagram)
            .map_err(|_| DumpError::Malformed("a message reaches beyond its datagram"))?;
        let payload = message.payload();
        // At least a header's length, which `new_checked` made sure of: the loop ends.
        let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        if message.sequence_number() != SEQUENCE {
            continue;
        }
        let flow = match message.message_type() {
            kind @ (NLMSG_ERROR | NLMSG_DONE) => {
                // Both begin with 0 or a negative errno; DONE may be empty.
                let errno = payload.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
                if errno != 0 {
                    let error = io::Error::from_raw_os_error(errno.saturating_neg());
                    return Err(DumpError::of(DUMP, error));
                }
                if kind == NLMSG_DONE { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }
            NLMSG_OVERRUN => return Err(DumpError::Malformed("data was lost")),
            CT_NEW => sink(decode(payload)),
            _ => ControlFlow::Continue(()),
        };
        if flow.is_break() {
            return Ok(flow);
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// An entry from the payload of a message; `None` if it lacks what every entry has.
fn decode(payload: &[u8]) -> Option<Entry> {
    let v4 = match NetfilterHeader::parse(payload).ok()?.family {
        NetfilterProtoFamily::IPv4 => true,
        NetfilterProtoFamily::IPv6 => false,
        _ => return None,
    };
    let body = payload.get(NFGENMSG_LEN..)?;
    let Ok(ConntrackMessage::New(attributes)) = ConntrackMessage::parse_with_param(body, 0) else {
        return None;
    };
    let (mut original, mut reply) = (None, None);
    let (mut status, mut zone, mut tcp) = (None, 0, None);
    for attribute in &attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(parts) => original = Some(direction(parts, v4)?),
            ConntrackAttribute::CtaTupleReply(parts) => reply = Some(direction(parts, v4)?),
            ConntrackAttribute::CtaStatus(bits) => status = Some(*bits),
            ConntrackAttribute::CtaProtoInfo(infos) => tcp = tcp_of(infos),
            ConntrackAttribute::Other(raw) if kind(raw) == CTA_ZONE => {
                zone = u16::from_be_bytes(value(raw)?);
            }
            _ => {}
        }
    }
    let ((original, zone_there), (reply, zone_back)) = (original?, reply?);
    let zone = zone | zone_there | zone_back;
    Some(Entry { original, reply, status: status?, zone, tcp })
}

/// The packets of one direction as the parser would show them, and the direction's zone.
fn direction(parts: &[Tuple], v4: bool) -> Option<(FiveTuple, u16)> {
    let (mut src, mut dst) = (None, None);
    let (mut number, mut sport, mut dport, mut icmp, mut id) = (None, None, None, None, None);
    let mut zone = 0;
    for part in parts {
        match part {
            Tuple::Ip(ends) => {
                for end in ends {
                    match *end {
                        IPTuple::SourceAddress(ip) => src = Some(address(ip, v4)?),
                        IPTuple::DestinationAddress(ip) => dst = Some(address(ip, v4)?),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(fields) => {
                for field in fields {
                    match field {
                        ProtoTuple::Protocol(p) => number = Some(u8::from(*p)),
                        ProtoTuple::SourcePort(port) => sport = Some(*port),
                        ProtoTuple::DestinationPort(port) => dport = Some(*port),
                        ProtoTuple::Other(raw) => match kind(raw) {
                            CTA_PROTO_ICMP_ID | CTA_PROTO_ICMPV6_ID => {
                                id = Some(u16::from_be_bytes(value(raw)?));
                            }
                            CTA_PROTO_ICMP_TYPE | CTA_PROTO_ICMPV6_TYPE => {
                                icmp = Some(value::<1>(raw)?[0]);
                            }
                            _ => {}
                        },
                        _ => {}
                    }
                }
            }
            Tuple::Other(raw) if kind(raw) == CTA_TUPLE_ZONE => {
                zone = u16::from_be_bytes(value(raw)?);
            }
            _ => {}
        }
    }
    let protocol = number?;
    let (sport, dport) = match protocol {
        protocol::TCP | protocol::UDP | protocol::UDP_LITE | protocol::SCTP => (sport?, dport?),
        // Echo request and reply; conntrack follows a few more, which the parser leaves
        // without ports.
        protocol::ICMP if matches!(icmp?, 0 | 8) => (id?, id?),
        protocol::ICMPV6 if matches!(icmp?, 128 | 129) => (id?, id?),
        // GRE has keys, DCCP ports: nothing that the parser reads.
        _ => (0, 0),
    };
    Some((FiveTuple { src: src?, dst: dst?, protocol, sport, dport }, zone))
}

/// An address of the family that the entry claims.
fn address(ip: IpAddr, v4: bool) -> Option<Address> {
    let address = Address::from(ip);
    // A mapped address of an IPv6 packet would pass for that of an IPv4 one.
    (ip.is_ipv4() == v4 && address.is_v4() == v4).then_some(address)
}

fn tcp_of(infos: &[ProtoInfo]) -> Option<Tcp> {
    let (mut state, mut closer) = (None, [false; 2]);
    let closes = |flags: &TCPFlags| flags.flags & CLOSE_INIT != 0;
    for info in infos {
        let ProtoInfo::TCP(fields) = info else { continue };
        for field in fields {
            match field {
                ProtoInfoTCP::State(number) => state = TcpState::from_number(*number),
                ProtoInfoTCP::OriginalFlags(flags) => closer[0] = closes(flags),
                ProtoInfoTCP::ReplyFlags(flags) => closer[1] = closes(flags),
                _ => {}
            }
        }
    }
    Some(Tcp { state: state?, closer })
}

/// The type of a raw attribute, without its flags.
fn kind(raw: &DefaultNla) -> u16 {
    raw.kind() & NLA_TYPE_MASK
}

/// The value of a raw attribute, if it has exactly `N` bytes.
fn value<const N: usize>(raw: &DefaultNla) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // It copies into a slice of its own length or panics.
    (raw.value_len() == N).then(|| raw.emit_value(&mut bytes))?;
    Some(bytes)
}
