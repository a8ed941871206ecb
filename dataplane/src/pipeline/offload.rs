//! What the steering program is told, so that it decides the next packets by itself.
//!
//! The flow that a worker enters is read by the hooks at once; nothing has to be told. Two
//! things are left: verdicts for connections that are yet to come, and the order of packets
//! on their way through user space.
//!
//! **Order.** The hooks count a flow's packets that they punt, and those that come back, and
//! let none overtake another of its side (`table/FLOW.md`). They cannot count what they
//! punted before the flow was entered. The worker knows those packets: they are not marked
//! as counted. For each it says that a packet of that side is out, and the side goes back
//! to the kernel once a counted one, which came after them, has returned.
#![forbid(unsafe_code)]

use weir_table::classify::Connection;
use weir_table::counters::Reason;
use weir_table::flow::{CachedVerdict, FlowRef, FlowTable, Side, Tick, VerdictCache, VerdictKey};
use weir_table::mem::Words;
use weir_table::stamps::Stamps;

use super::admit::FlowPacket;
use crate::parse::protocol;

/// The worker's side of offloading; does nothing if it is off.
#[derive(Debug)]
pub(super) struct Offload<'a, W> {
    flows: &'a FlowTable<W>,
    stamps: &'a Stamps<W>,
    verdicts: Option<&'a VerdictCache<W>>,
}

impl<'a, W: Words> Offload<'a, W> {
    pub fn new(
        flows: &'a FlowTable<W>,
        stamps: &'a Stamps<W>,
        verdicts: Option<&'a VerdictCache<W>>,
    ) -> Self {
        Self { flows, stamps, verdicts }
    }

    /// Notes a packet of a known flow that the hook could not count.
    #[inline(always)]
    pub fn keep_order(&self, entry: FlowRef, packet: &FlowPacket) {
        if self.verdicts.is_some() && !packet.counted {
            self.flows.hold(entry, packet.sender);
        }
    }

    /// Remembers what was said about a connection, for others like it. `stamps` are those
    /// of the packet's flow, side lo first.
    pub fn remember(
        &self,
        packet: &FlowPacket,
        connection: &Connection,
        verdict: Result<(), Reason>,
        stamps: [u64; 2],
        now: Tick,
    ) {
        let Some(cache) = self.verdicts else { return };
        let denied_by = match verdict {
            Ok(()) if !begins_by_itself(packet) => return,
            Ok(()) => None,
            Err(Reason::PolicyEgress) => Some(Side::Lo),
            Err(Reason::PolicyIngress) => Some(Side::Hi),
            // Not the policies' word, or not for long.
            Err(_) => return,
        };
        let &Connection { src, dst, protocol, dport } = connection;
        let (from, to) = (packet.sender.index(), packet.sender.other().index());
        let verdict = CachedVerdict {
            denied_by,
            ifindex: [packet.ifindex[from], packet.ifindex[to]],
            stamps: [stamps[from], stamps[to]],
        };
        cache.insert(VerdictKey { src, dst, protocol, dport }, &verdict, self.stamps, now);
    }
}

/// Whether a first packet like this one begins a flow of which nothing else has to be
/// known: the hook may then enter it by a cached verdict.
fn begins_by_itself(packet: &FlowPacket) -> bool {
    match packet.key.protocol() {
        protocol::TCP | protocol::SCTP => packet.opens(),
        protocol::UDP => true,
        _ => false,
    }
}
