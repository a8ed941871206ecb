//! A flow as callers see it: what an entry says, what a new one is made of, and which gives way
//! to others.
#![forbid(unsafe_code)]

use super::key::{FlowKey, Side};
use super::layout::{V4_KEY_WORDS, V6_KEY_WORDS};
use super::state::{FlowState, Seen, Tick};
use super::words::{Counts, Handle, Record, Snapshot};
use crate::addr::Address;

const SCTP: u8 = 132;

/// Names a flow as it was found. Stays harmless when the flow is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowRef {
    pub(super) v6: bool,
    pub(super) handle: Handle,
}

/// A flow as it stood at one moment; all fields belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Both ends and the protocol.
    pub key: FlowKey,
    /// Which end opened the connection.
    pub initiator: Side,
    /// True if a change of policy has cut it.
    pub denied: bool,
    /// What was seen from either side.
    pub seen: Seen,
    /// When the last packet was seen.
    pub last_seen: Tick,
    /// The host-side device of each side ([`Side::index`]) whose hook the verdict covers;
    /// 0 if that end is not on this node, or was not judged here yet.
    pub ifindex: [u32; 2],
    /// The stamps of both sides ([`Side::index`]) under which it was judged: see
    /// [`crate::stamps::Stamps`].
    pub stamps: [u64; 2],
    /// Packets out in user space.
    pub counts: Counts,
}

impl Flow {
    /// Where the flow stands in its life.
    #[inline]
    pub const fn state(&self) -> FlowState {
        FlowState::of(self.key.protocol(), self.initiator, self.seen, self.denied)
    }

    /// True once the flow was silent for longer than its state allows.
    #[inline]
    pub const fn is_expired(&self, now: Tick) -> bool {
        // Most were seen a moment ago, which is soon enough in every state.
        let silent = now.since(self.last_seen);
        silent > FlowState::SHORTEST_TIMEOUT && silent > self.state().timeout(self.key.protocol())
    }

    /// True if the flow may make room for a new one of any pod: nothing would be lost but a
    /// verdict that is easily had again. Never true for a connection in which both ends took
    /// part ([`Seen::both_went_on`]), which a flood of new ones must not push out, even if it
    /// is ending or was reset, which anybody may have forged; nor for a cut one, whose entry is
    /// what keeps it cut. A connection that one end has refused, or that one packet with a FIN
    /// makes up, yields.
    pub const fn yields(&self) -> bool {
        match self.state() {
            FlowState::Opening | FlowState::Unanswered | FlowState::Icmp => true,
            FlowState::Established | FlowState::Closing | FlowState::Reset => {
                !self.seen.both_went_on()
            }
            FlowState::Answered => self.key.protocol() == SCTP && !self.seen.both_went_on(),
            FlowState::Denied => false,
        }
    }

    /// True if the flow may make room for a new one *of its own pod* that has no more to
    /// give up: it is at an end, or an exchange of datagrams, of which the longest silent is
    /// most likely over. Else the questions of two minutes ago would keep a busy resolver
    /// from asking.
    pub const fn yields_to_its_own(&self) -> bool {
        self.yields()
            || match self.state() {
                FlowState::Closing | FlowState::Reset => true,
                FlowState::Answered => self.key.protocol() != SCTP,
                _ => false,
            }
    }

    /// Address and port of the end that opened the connection.
    pub const fn source(&self) -> (Address, u16) {
        self.key.end(self.initiator)
    }

    /// Address and port of the end to which it was opened.
    pub const fn destination(&self) -> (Address, u16) {
        self.key.end(self.initiator.other())
    }
}

/// What a caller decides about a flow that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewFlow {
    /// Which end opened it, and sent the packet that is being judged.
    pub initiator: Side,
    /// TCP's flag byte of that packet; 0 for other protocols.
    pub tcp_flags: u8,
    /// See [`Flow::ifindex`].
    pub ifindex: [u32; 2],
    /// See [`Flow::stamps`]; loaded *before* the verdict was asked for.
    pub stamps: [u64; 2],
    /// True if more packets of the initiator may be on their way to user space, which
    /// its next ones must not overtake. A TCP SYN travels alone; a datagram may not.
    pub hold: bool,
}

/// A flow was entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inserted {
    /// The new entry.
    pub flow: FlowRef,
    /// True if another flow had to go for it.
    pub evicted: bool,
}

/// Why a flow was not entered. Its packets must be judged one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// All slots of the key are taken by flows that do not yield.
    #[error("no room for the flow: raise --flows")]
    Table,
    /// Its pod has as many flows as it may, and none was found that yields.
    #[error("the pod has as many flows as it may: raise --flows-per-pod")]
    Pod,
}

/// How gladly a flow makes room, for one of its own pod or for any: the more, the more of its
/// time is over. The time of a connection that only one end has set up is that of a half-open
/// one.
pub(super) fn gladness(flow: &Flow, now: Tick, for_its_own: bool) -> Option<u32> {
    const WHOLE: u64 = 1 << 31;
    if flow.is_expired(now) {
        return Some(u32::MAX);
    }
    let time = match flow.state() {
        FlowState::Established => FlowState::Opening,
        state => state,
    };
    let time = u64::from(time.timeout(flow.key.protocol()).max(1));
    let over = u64::from(now.since(flow.last_seen)) * WHOLE / time;
    let willing = if for_its_own { flow.yields_to_its_own() } else { flow.yields() };
    willing.then(|| u32::try_from(over).unwrap_or(u32::MAX - 1))
}

/// The flow that makes room most gladly for one of its own pod, if any does.
pub(super) fn most_aged(
    flows: impl Iterator<Item = (FlowRef, Flow)>,
    now: Tick,
) -> Option<FlowRef> {
    let willing = flows.filter_map(|(name, flow)| Some((gladness(&flow, now, true)?, name)));
    willing.max_by_key(|&(gladness, _)| gladness).map(|(_, name)| name)
}

pub(super) fn from_v4(s: &Snapshot<V4_KEY_WORDS>) -> (FlowRef, Flow) {
    (FlowRef { v6: false, handle: s.handle }, flow(FlowKey::from_v4_words(&s.key), &s.record))
}

pub(super) fn from_v6(s: &Snapshot<V6_KEY_WORDS>) -> (FlowRef, Flow) {
    (FlowRef { v6: true, handle: s.handle }, flow(FlowKey::from_v6_words(&s.key), &s.record))
}

#[inline]
pub(super) fn flow(key: FlowKey, record: &Record) -> Flow {
    let &Record { initiator, denied, seen, last_seen, ifindex, stamps, counts, .. } = record;
    Flow { key, initiator, denied, seen, last_seen, ifindex, stamps, counts }
}
