//! The packet at its hook: is the device an endpoint's, and may a packet with these
//! addresses be there at all?
//!
//! What is settled here depends on nothing but the frame and the endpoints: no flow and
//! no policy has been asked yet.
#![forbid(unsafe_code)]

use weir_table::addr::Address;
use weir_table::counters::Reason;
use weir_table::flow::{FlowHash, FlowKey, FlowTable, Side};
use weir_table::mem::Words;
use weir_table::stamps::Stamps;

use super::View;
use crate::endpoints::{Endpoint, Endpoints, Owner};
use crate::parse::{
    self, Extent, FiveTuple, Fragment, FragmentId, Packet, ParseError, Plain, Plainly, TcpFlags,
    Transport,
};
use crate::shim::{Direction, SHIM_LEN, Shim, ShimFlags};

/// A fragment, and its datagram by what is the same in all of its fragments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FragmentOf {
    pub key: FlowKey,
    pub hash: FlowHash,
    pub extent: Extent,
}

/// A packet that belongs to a flow, known or new.
#[derive(Debug)]
pub(super) struct FlowPacket {
    pub key: FlowKey,
    pub hash: FlowHash,
    /// The side that sent it.
    pub sender: Side,
    pub direction: Direction,
    /// The device of each side that is an endpoint of this node, else 0.
    pub ifindex: [u32; 2],
    /// TCP's flags, or what SCTP's first chunk would be in TCP; else none.
    pub tcp_flags: TcpFlags,
    /// The steering program counted it in the entry of its flow.
    pub counted: bool,
}

impl FlowPacket {
    /// A SYN without ACK, an INIT: asks for a connection of its sender, whatever was before.
    #[inline]
    pub const fn opens(&self) -> bool {
        self.tcp_flags.opens()
    }

    /// A reset, an ABORT: ends connections, never begins one.
    #[inline]
    pub const fn resets(&self) -> bool {
        self.tcp_flags.resets()
    }

    /// Begins to load what [`FlowPacket::approach`] looks at.
    #[inline]
    pub fn warm<W: Words>(&self, flows: &FlowTable<W>) {
        flows.warm(&self.key, self.hash);
    }

    /// Begins to load what the decision will want.
    #[inline]
    pub fn approach<W: Words>(&self, flows: &FlowTable<W>, stamps: &Stamps<W>) {
        if let Some([lo, hi]) = flows.approach(&self.key, self.hash) {
            stamps.warm(lo);
            stamps.warm(hi);
        }
    }
}

/// An ICMP error, filed as a packet of the flow that it quotes, sent against the
/// direction of the quoted packet.
#[derive(Debug)]
pub(super) struct RelatedError {
    /// `None`: it quotes nothing that could have a flow at this hook.
    pub about: Option<FlowPacket>,
    first_fragment: Option<FragmentOf>,
}

/// A packet to a multicast or broadcast address: judged at every hook by itself.
#[derive(Debug)]
pub(super) struct GroupPacket {
    pub src: Address,
    /// Leaving the pod: the group. Entering it: the receiver's own address.
    pub dst: Address,
    pub protocol: u8,
    pub dport: u16,
    pub direction: Direction,
    first_fragment: Option<FragmentOf>,
}

/// What kind of decision the packet needs.
#[derive(Debug)]
pub(super) enum Crossing {
    /// The fragment, if it is a first one: what [`FragmentOf`] adds follows from the key.
    Flow(FlowPacket, Option<(FragmentId, Extent)>),
    Related(RelatedError),
    Group(GroupPacket),
    LaterFragment(FragmentOf),
}

impl Crossing {
    /// The flow that the packet belongs to, or is about.
    fn flow(&self) -> Option<&FlowPacket> {
        match self {
            Self::Flow(packet, _) | Self::Related(RelatedError { about: Some(packet), .. }) => {
                Some(packet)
            }
            Self::Related(_) | Self::Group(_) | Self::LaterFragment(_) => None,
        }
    }

    /// See [`FlowPacket::warm`].
    pub fn warm<W: Words>(&self, flows: &FlowTable<W>) {
        if let Some(packet) = self.flow() {
            packet.warm(flows);
        }
    }

    /// See [`FlowPacket::approach`].
    pub fn approach<W: Words>(&self, flows: &FlowTable<W>, stamps: &Stamps<W>) {
        if let Some(packet) = self.flow() {
            packet.approach(flows, stamps);
        }
    }

    /// Set if later fragments will ask for this packet's outcome.
    pub fn first_fragment<W: Words>(&self, flows: &FlowTable<W>) -> Option<FragmentOf> {
        match self {
            Self::Flow(packet, fragment) => {
                let (id, extent) = (*fragment)?;
                let [src, dst] =
                    [packet.sender, packet.sender.other()].map(|s| packet.key.end(s).0);
                Some(FragmentOf::new(flows, (src, dst), id, extent))
            }
            Self::Group(packet) => packet.first_fragment,
            Self::Related(error) => error.first_fragment,
            Self::LaterFragment(_) => None,
        }
    }
}

/// The Fragment header's own number, which no datagram in IPv4 has (IANA, protocol numbers).
const FRAGMENT_HEADER: u8 = 44;

impl FragmentOf {
    /// The identification takes the place of the ports, so that the flow table's keyed
    /// hash serves here as well. The two ends keep their order only up to direction,
    /// which the hook adds.
    fn new<W: Words>(
        flows: &FlowTable<W>,
        (src, dst): (Address, Address),
        FragmentId { id, next }: FragmentId,
        extent: Extent,
    ) -> Self {
        // IPv4 tells fragments apart by their protocol as well (RFC 791 3.2); IPv6 does not, and
        // what later ones name may differ (RFC 8200 4.5).
        let next = if src.is_v4() { next } else { FRAGMENT_HEADER };
        let [a, b, c, d] = id.to_be_bytes();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let (key, _) = FlowKey::new((src, high), (dst, low), next);
        Self { key, hash: flows.hash(&key), extent }
    }
}

/// The short way: hands on a plain packet ([`parse::plain`]) between two ends of which neither
/// is quarantined, at the hook of the one whose it is. `None`: whatever else it is,
/// [`admit`] says what.
#[inline(always)]
pub(super) fn admit_plain<B, W: Words>(
    shim: &Shim,
    frame: &[u8],
    view: &View<'_, B, W>,
    then: impl FnOnce(FlowPacket),
) -> Option<()> {
    // All of the rest once for each family: which it is shows in a third of the steps.
    let packet = match Plainly::of(frame.get(SHIM_LEN..)?)? {
        Plainly::V4(l3) => of_plain(&parse::plain_v4(l3)?, shim, view),
        Plainly::V6(l3) => of_plain(&parse::plain_v6(l3)?, shim, view),
    };
    then(packet?);
    Some(())
}

/// A plain packet at its hook.
#[inline(always)]
fn of_plain<B, W: Words>(
    &Plain { src, dst, protocol, sport, dport, flags }: &Plain,
    shim: &Shim,
    view: &View<'_, B, W>,
) -> Option<FlowPacket> {
    let [from, to] = [src, dst].map(|address| view.endpoints.owner(address));
    let own = match shim.direction {
        Direction::FromPod => from?,
        Direction::ToPod => to?,
    };
    let quarantined = |owner: &Owner| owner.quarantined;
    if own.ifindex != shim.ifindex || from.is_some_and(quarantined) || to.is_some_and(quarantined) {
        return None;
    }
    let [from, to] = [from, to].map(|owner| owner.map_or(0, |owner| owner.ifindex));
    let (key, sender) = FlowKey::new((src, sport), (dst, dport), protocol);
    Some(FlowPacket {
        key,
        hash: view.flows.hash(&key),
        sender,
        direction: shim.direction,
        ifindex: if sender == Side::Lo { [from, to] } else { [to, from] },
        tcp_flags: flags,
        counted: shim.flags.contains(ShimFlags::COUNTED),
    })
}

/// Reads the packet and checks it against the endpoints.
pub(super) fn admit<B, W: Words>(
    shim: &Shim,
    frame: &[u8],
    view: &View<'_, B, W>,
) -> Result<Crossing, Reason> {
    let ethernet = frame.get(SHIM_LEN..).unwrap_or_default();
    at_hook(shim, ethernet, view)
}

fn at_hook<B, W: Words>(
    shim: &Shim,
    ethernet: &[u8],
    view: &View<'_, B, W>,
) -> Result<Crossing, Reason> {
    let endpoint = view.endpoints.by_ifindex(shim.ifindex).ok_or(Reason::UnknownInterface)?;
    if endpoint.quarantined {
        return Err(Reason::Quarantined);
    }
    let packet = parse::parse(ethernet).map_err(|error| match error {
        ParseError::UnsupportedEtherType(_) => Reason::UnsupportedL3,
        _ => Reason::Malformed,
    })?;
    let counted = shim.flags.contains(ShimFlags::COUNTED);
    let hook = Hook { endpoint, direction: shim.direction, counted, view };
    hook.check_addresses(&packet.tuple)?;
    hook.classify(&packet)
}

/// One hook of one endpoint, with the world around it.
struct Hook<'a, 'v, B, W> {
    endpoint: &'a Endpoint,
    direction: Direction,
    counted: bool,
    view: &'a View<'v, B, W>,
}

impl<B, W: Words> Hook<'_, '_, B, W> {
    /// The endpoint's end of the packet must be the endpoint's own.
    fn check_addresses(&self, tuple: &FiveTuple) -> Result<(), Reason> {
        let (own, otherwise) = match self.direction {
            Direction::FromPod => (tuple.src, Reason::SpoofedSource),
            Direction::ToPod if is_group(tuple.dst) => return Ok(()),
            Direction::ToPod => (tuple.dst, Reason::NotEndpoint),
        };
        if self.endpoint.owns(own) {
            Ok(())
        } else if self.endpoint.claims(own) {
            // Its own, but no pod's to others: no policy speaks of it (yet).
            Err(Reason::Quarantined)
        } else {
            Err(otherwise)
        }
    }

    fn classify(&self, packet: &Packet) -> Result<Crossing, Reason> {
        if let Fragment::Later(id, extent) = packet.fragment {
            return Ok(Crossing::LaterFragment(self.fragment_of(&packet.tuple, (id, extent))));
        }
        if is_group(packet.tuple.dst) {
            return self.group_packet(packet).map(Crossing::Group);
        }
        if let Transport::IcmpError(quoted) = packet.transport {
            return self.related_error(packet, quoted).map(Crossing::Related);
        }
        let mut flow = self.flow_packet(&packet.tuple)?;
        if let Transport::Tcp(flags) | Transport::Sctp(flags) = packet.transport {
            flow.tcp_flags = flags;
        }
        Ok(Crossing::Flow(flow, first_fragment_of(packet)))
    }

    /// A packet of this 5-tuple at this hook.
    #[inline]
    fn flow_packet(&self, tuple: &FiveTuple) -> Result<FlowPacket, Reason> {
        let &FiveTuple { src, dst, protocol, sport, dport } = tuple;
        let (key, sender) = FlowKey::new((src, sport), (dst, dport), protocol);
        let own = self.endpoint.ifindex;
        let (src_ifindex, dst_ifindex) = match self.direction {
            Direction::FromPod => (own, local_ifindex(self.view.endpoints, dst)?),
            Direction::ToPod => (local_ifindex(self.view.endpoints, src)?, own),
        };
        let ifindex = match sender {
            Side::Lo => [src_ifindex, dst_ifindex],
            Side::Hi => [dst_ifindex, src_ifindex],
        };
        Ok(FlowPacket {
            key,
            hash: self.view.flows.hash(&key),
            sender,
            direction: self.direction,
            ifindex,
            tcp_flags: TcpFlags(0),
            counted: self.counted,
        })
    }

    /// An error goes back to the sender of the packet that it quotes. One that leaves a
    /// pod must come from the receiver of that packet: a pod is no router.
    fn related_error(
        &self,
        packet: &Packet,
        quoted: Option<FiveTuple>,
    ) -> Result<RelatedError, Reason> {
        let from_receiver = |quoted: &FiveTuple| match self.direction {
            Direction::FromPod => self.endpoint.owns(quoted.dst),
            Direction::ToPod => true,
        };
        let quoted = quoted
            .filter(|quoted| quoted.src == packet.tuple.dst)
            .filter(from_receiver)
            .filter(|quoted| !is_group(quoted.dst));
        let about = match quoted {
            Some(quoted) => Some(self.flow_packet(&quoted.reversed())?),
            None => None,
        };
        let first_fragment =
            first_fragment_of(packet).map(|fragment| self.fragment_of(&packet.tuple, fragment));
        Ok(RelatedError { about, first_fragment })
    }

    fn group_packet(&self, packet: &Packet) -> Result<GroupPacket, Reason> {
        let tuple = &packet.tuple;
        let dst = match self.direction {
            Direction::FromPod => tuple.dst,
            Direction::ToPod => {
                let same_family = |own: &&Address| own.is_v4() == tuple.dst.is_v4();
                let own = self.endpoint.addresses.iter().find(same_family);
                *own.ok_or(Reason::NotEndpoint)?
            }
        };
        let dport = match packet.transport {
            Transport::Tcp(_) | Transport::Sctp(_) | Transport::Ports => tuple.dport,
            _ => 0,
        };
        Ok(GroupPacket {
            src: tuple.src,
            dst,
            protocol: tuple.protocol,
            dport,
            direction: self.direction,
            first_fragment: first_fragment_of(packet)
                .map(|fragment| self.fragment_of(tuple, fragment)),
        })
    }

    fn fragment_of(&self, tuple: &FiveTuple, (id, extent): (FragmentId, Extent)) -> FragmentOf {
        FragmentOf::new(self.view.flows, (tuple.src, tuple.dst), id, extent)
    }
}

fn first_fragment_of(packet: &Packet) -> Option<(FragmentId, Extent)> {
    match packet.fragment {
        Fragment::First(id, extent) => Some((id, extent)),
        Fragment::No | Fragment::Later(..) => None,
    }
}

/// The device of an address if it is an endpoint's of this node, else 0.
#[inline]
fn local_ifindex(endpoints: &Endpoints, address: Address) -> Result<u32, Reason> {
    match endpoints.by_address(address) {
        None => Ok(0),
        Some(endpoint) if endpoint.quarantined => Err(Reason::Quarantined),
        Some(endpoint) => Ok(endpoint.ifindex),
    }
}

#[inline]
fn is_group(address: Address) -> bool {
    address.is_multicast() || address.is_broadcast()
}

#[cfg(test)]
#[path = "../../tests/support/frames.rs"]
#[allow(dead_code)]
mod frames;

#[cfg(test)]
mod tests;
