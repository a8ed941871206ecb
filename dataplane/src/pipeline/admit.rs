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

use super::View;
use crate::endpoints::{Endpoint, Endpoints};
use crate::parse::{self, Extent, FiveTuple, Fragment, FragmentId, Packet, ParseError, Transport};
use crate::shim::{Direction, SHIM_LEN, Shim, ShimFlags};

/// A frame that goes no further.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Of the hook; if the frame does not say, counted as leaving a pod.
    pub direction: Direction,
    pub reason: Reason,
}

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
    /// TCP's flag byte, or what SCTP's first chunk would be in TCP; else 0.
    pub tcp_flags: u8,
    /// A SYN without ACK, an INIT: asks for a connection of its sender, whatever was before.
    pub opens: bool,
    /// A reset, an ABORT: ends connections, never begins one.
    pub resets: bool,
    /// The steering program counted it in the entry of its flow.
    pub counted: bool,
    first_fragment: Option<FragmentOf>,
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
    Flow(FlowPacket),
    Related(RelatedError),
    Group(GroupPacket),
    LaterFragment(FragmentOf),
}

impl Crossing {
    /// Begins to load what the next stage will want.
    #[inline]
    pub fn warm<W: Words>(&self, flows: &FlowTable<W>) {
        match self {
            Self::Flow(packet) | Self::Related(RelatedError { about: Some(packet), .. }) => {
                flows.warm(&packet.key, packet.hash);
            }
            Self::Related(_) | Self::Group(_) | Self::LaterFragment(_) => {}
        }
    }

    /// Set if later fragments will ask for this packet's outcome.
    pub fn first_fragment(&self) -> Option<FragmentOf> {
        match self {
            Self::Flow(packet) => packet.first_fragment,
            Self::Group(packet) => packet.first_fragment,
            Self::Related(error) => error.first_fragment,
            Self::LaterFragment(_) => None,
        }
    }
}

/// Reads shim and packet and checks them against the endpoints.
#[inline]
pub(super) fn admit<B, W: Words>(
    frame: &[u8],
    view: &View<'_, B, W>,
) -> Result<(Shim, Crossing), Refusal> {
    let shim = Shim::of_punted(frame)
        .map_err(|_| Refusal { direction: Direction::FromPod, reason: Reason::BadShim })?;
    let ethernet = frame.get(SHIM_LEN..).unwrap_or_default();
    match at_hook(&shim, ethernet, view) {
        Ok(crossing) => Ok((shim, crossing)),
        Err(reason) => Err(Refusal { direction: shim.direction, reason }),
    }
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
            return Ok(Crossing::LaterFragment(self.fragment_of(&packet.tuple, id, extent)));
        }
        if is_group(packet.tuple.dst) {
            return self.group_packet(packet).map(Crossing::Group);
        }
        if let Transport::IcmpError(quoted) = packet.transport {
            return self.related_error(packet, quoted).map(Crossing::Related);
        }
        let mut flow = self.flow_packet(&packet.tuple)?;
        if let Transport::Tcp(flags) | Transport::Sctp(flags) = packet.transport {
            flow.tcp_flags = flags.0;
            flow.opens = flags.opens();
            flow.resets = flags.resets();
        }
        flow.first_fragment = self.first_fragment_of(packet);
        Ok(Crossing::Flow(flow))
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
            tcp_flags: 0,
            opens: false,
            resets: false,
            counted: self.counted,
            first_fragment: None,
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
        Ok(RelatedError { about, first_fragment: self.first_fragment_of(packet) })
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
            first_fragment: self.first_fragment_of(packet),
        })
    }

    fn first_fragment_of(&self, packet: &Packet) -> Option<FragmentOf> {
        match packet.fragment {
            Fragment::First(id, extent) => Some(self.fragment_of(&packet.tuple, id, extent)),
            Fragment::No | Fragment::Later(..) => None,
        }
    }

    /// The identification takes the place of the ports, so that the flow table's keyed
    /// hash serves here as well. The two ends keep their order only up to direction,
    /// which the hook adds.
    fn fragment_of(
        &self,
        tuple: &FiveTuple,
        FragmentId { id, next }: FragmentId,
        extent: Extent,
    ) -> FragmentOf {
        let [a, b, c, d] = id.to_be_bytes();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let (key, _) = FlowKey::new((tuple.src, high), (tuple.dst, low), next);
        FragmentOf { key, hash: self.view.flows.hash(&key), extent }
    }
}

/// The device of an address if it is an endpoint's of this node, else 0.
fn local_ifindex(endpoints: &Endpoints, address: Address) -> Result<u32, Reason> {
    match endpoints.by_address(address) {
        None => Ok(0),
        Some(endpoint) if endpoint.quarantined => Err(Reason::Quarantined),
        Some(endpoint) => Ok(endpoint.ifindex),
    }
}

fn is_group(address: Address) -> bool {
    address.is_multicast() || address.is_broadcast()
}
