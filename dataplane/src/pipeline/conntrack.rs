//! The flow of a packet: known and current, stale, cut, or new.
//!
//! ```text
//!                        ┌ current, allowed ─────────────> pass
//!            known ──────┼ current, cut ─────────────────> drop (flow_cut)
//!          ┌─            └ stale: judge again, ─ allowed ─> restamp, pass
//!  packet ─┤                the way it was opened ─ denied > cut, drop (flow_cut)
//!          └─ new: judge with its sender ─ allowed ───────> enter, pass
//!               as the initiator         ─ denied ────────> drop (policy), no entry
//! ```
//!
//! Rules that are easy to get wrong:
//! - A flow was judged for certain devices. If its key shows up at a device that the
//!   verdict did not cover, the verdict is stale; if at *another* device than the one
//!   recorded for that side (an address that was given to a new pod), it is another flow.
//! - A SYN asks for a new connection of its sender. It may pass as a repetition only on a
//!   flow of the same initiator that has seen neither FIN nor RST; otherwise it is judged
//!   as new, and if denied it leaves the old flow as it is.
//! - A cut flow keeps its entry and its orientation, refreshed by what both ends still
//!   send: else the far end's next segment would be judged as a connection of its own.
//! - A flow whose time is over is no flow, whether or not expiry has come by.
//! - A flow that comes from an address of the node is judged by who opened it, now and again, and
//!   bears that one's stamp. The hooks are told nothing about others like it.
#![forbid(unsafe_code)]

use std::cell::Cell;

use weir_table::classify::{Classifier, Connection};
use weir_table::counters::{Counter, CounterBlock, Reason};
use weir_table::flow::layout::{SEEN_FIN, SEEN_RST};
use weir_table::flow::{
    Flow, FlowKey, FlowRef, FlowTable, InChange, NewFlow, NoRoom, Seeing, Side, Tick,
};
use weir_table::mem::Words;
use weir_table::stamps::Stamps;

use super::admit::{FlowPacket, GroupPacket, RelatedError};
use super::judge::{self, Halves, Question};
use super::offload::Offload;
use super::{Outcome, View};
use crate::endpoints::Endpoints;
use crate::origins::Origins;
use crate::shim::Direction;

/// Conntrack during one burst.
pub(super) struct Conntrack<'a, B, W, C> {
    classifier: &'a Classifier<B, W>,
    endpoints: &'a Endpoints,
    origins: Option<&'a dyn Origins>,
    flows: &'a FlowTable<W>,
    stamps: &'a Stamps<W>,
    offload: Offload<'a, W>,
    counters: &'a CounterBlock<C>,
    /// Packets of known flows so far.
    hits: Cell<u64>,
    now: Tick,
}

/// How an entry of the packet's key relates to the packet.
enum Standing {
    /// Judged for these devices under the present policies.
    Current,
    /// The same flow, to be judged again.
    Stale,
    /// Not this packet's flow: over, or another pod's.
    Foreign,
}

impl<'a, B: AsRef<[u8]>, W: Words, C: Words> Conntrack<'a, B, W, C> {
    pub fn new(
        classifier: &'a Classifier<B, W>,
        view: &View<'a, B, W>,
        counters: &'a CounterBlock<C>,
        now: Tick,
    ) -> Self {
        let &View { endpoints, origins, flows, stamps, verdicts, .. } = view;
        let offload = Offload::new(flows, stamps, verdicts);
        Self {
            classifier,
            endpoints,
            origins,
            flows,
            stamps,
            offload,
            counters,
            hits: Cell::new(0),
            now,
        }
    }

    /// Packets of known flows so far, to be counted as [`Counter::FlowHits`] once a burst.
    pub const fn hits(&self) -> u64 {
        self.hits.get()
    }

    /// True if what was stamped so still holds.
    #[inline]
    pub fn holds(&self, stamps: [u64; 2]) -> bool {
        self.stamps.hold(stamps)
    }

    /// The stamps of both sides. To be loaded before the verdict that they are to stamp is
    /// asked for: then a change in between leaves the stamps stale, never the verdict.
    #[inline]
    pub fn stamps_of(&self, key: &FlowKey) -> [u64; 2] {
        [Side::Lo, Side::Hi].map(|side| self.stamps.of(key.end(side).0))
    }

    /// Decides a packet by its flow.
    #[inline(always)]
    pub fn follow(&self, packet: &FlowPacket) -> Outcome {
        let &FlowPacket { ref key, hash, sender: side, tcp_flags, ifindex, .. } = packet;
        let seeing = Seeing { side, tcp_flags: tcp_flags.0, ifindex, now: self.now };
        if !packet.opens()
            && let Some((entry, cut)) = self.flows.hit(key, hash, &seeing, self.stamps)
        {
            self.offload.keep_order(entry, packet);
            self.hits.set(self.hits.get() + 1);
            return if cut { Outcome::Drop(Reason::FlowCut) } else { pass(packet) };
        }
        self.follow_otherwise(packet)
    }

    /// Decides a packet that may be more than one more of its flow.
    #[cold]
    #[inline(never)]
    fn follow_otherwise(&self, packet: &FlowPacket) -> Outcome {
        let (entry, flow) = match self.flows.lookup(&packet.key, packet.hash) {
            Ok(Some(found)) => found,
            Ok(None) => return self.open(packet),
            Err(InChange) => return self.judge_alone(packet),
        };
        let standing = self.standing(&flow, packet);
        if !matches!(standing, Standing::Foreign) {
            self.offload.keep_order(entry, packet);
        }
        match standing {
            Standing::Foreign => {
                self.flows.delete(entry);
                self.open(packet)
            }
            _ if packet.opens() && !is_repetition(&flow, packet.sender) => self.open(packet),
            Standing::Current => {
                self.hits.set(self.hits.get() + 1);
                self.note(entry, packet);
                if flow.denied { Outcome::Drop(Reason::FlowCut) } else { pass(packet) }
            }
            Standing::Stale => {
                let (entry, outcome) = self.judge_again(entry, &flow, packet);
                if let Some(entry) = entry {
                    self.note(entry, packet);
                }
                outcome
            }
        }
    }

    /// Notes a packet at its flow. If that was judged again just now, at what it is since: a
    /// FIN that has arrived is not sent twice.
    fn note(&self, entry: FlowRef, packet: &FlowPacket) {
        let touch = |entry| self.flows.touch(entry, packet.sender, packet.tcp_flags.0, self.now);
        if !touch(entry)
            && let Ok(Some((entry, _))) = self.flows.lookup(&packet.key, packet.hash)
        {
            touch(entry);
        }
    }

    /// Decides a packet whose flow cannot be read at this moment: somebody who writes it was
    /// interrupted. It passes if its sender might open a connection of its kind, so that a
    /// change elsewhere costs an allowed flow nothing. Nothing is entered or remembered: the
    /// flow may be the other way round.
    fn judge_alone(&self, packet: &FlowPacket) -> Outcome {
        match self.ask(&packet.key, packet.sender, packet.ifindex).1 {
            Ok(()) => pass(packet),
            Err(_) => Outcome::Drop(Reason::FlowInChange),
        }
    }

    /// Decides an ICMP error by the flow that it quotes. It neither opens nor refreshes.
    pub fn relate(&self, error: &RelatedError) -> Outcome {
        const UNRELATED: Outcome = Outcome::Drop(Reason::IcmpUnrelated);
        let Some(packet) = &error.about else { return UNRELATED };
        let Ok(Some((entry, flow))) = self.flows.lookup(&packet.key, packet.hash) else {
            return UNRELATED;
        };
        // What was never sent cannot have gone wrong on its way. (A socket that talks to itself
        // has one side only.)
        let [lo, hi] = [Side::Lo, Side::Hi].map(|side| packet.key.end(side));
        if lo != hi && !flow.seen.any_from(packet.sender.other()) {
            return UNRELATED;
        }
        match self.standing(&flow, packet) {
            Standing::Foreign => UNRELATED,
            Standing::Current if flow.denied => UNRELATED,
            Standing::Current => pass(packet),
            Standing::Stale => match self.judge_again(entry, &flow, packet) {
                (_, Outcome::Drop(_)) => UNRELATED,
                (_, passed) => passed,
            },
        }
    }

    /// Decides a packet to a group at this one hook: leaving, by the sender's policy;
    /// entering, by the receiver's. Never remembered, since the next receiver differs.
    pub fn deliver_to_group(&self, packet: &GroupPacket) -> Outcome {
        let &GroupPacket { src, dst, protocol, dport, direction, .. } = packet;
        let egress = direction == Direction::FromPod;
        let halves = Halves { egress, ingress: !egress };
        match self.judge(&judge::describe(src, dst, protocol, dport), halves) {
            Ok(()) => Outcome::Pass { covers_both: false },
            Err(reason) => Outcome::Drop(reason),
        }
    }

    fn standing(&self, flow: &Flow, packet: &FlowPacket) -> Standing {
        let [(lo, now_lo), (hi, now_hi)] =
            [(flow.ifindex[0], packet.ifindex[0]), (flow.ifindex[1], packet.ifindex[1])];
        // A side that has left this node altogether is another's as well by now.
        let moved = |was: u32, is: u32| was != 0 && was != is;
        if moved(lo, now_lo) || moved(hi, now_hi) || flow.is_expired(self.now) {
            Standing::Foreign
        } else if flow.ifindex == packet.ifindex && self.stamps.hold(flow.stamps) {
            Standing::Current
        } else {
            Standing::Stale
        }
    }

    /// Judges a packet that belongs to no flow, with its sender as the initiator, and
    /// enters the flow if it may be. An entry of the same key is replaced.
    fn open(&self, packet: &FlowPacket) -> Outcome {
        self.counters.add(Counter::FlowMisses, 1);
        let (question, verdict) = self.ask(&packet.key, packet.sender, packet.ifindex);
        let Some(Question { connection, stamps, is_recovered, .. }) = question else {
            return verdict.map_or_else(Outcome::Drop, |()| pass(packet));
        };
        if verdict.is_ok() && !packet.resets() {
            self.enter(packet, stamps);
        }
        // After the flow: a hook that met the verdict and no flow would enter it by itself,
        // and let its next packets overtake those that are here.
        if !is_recovered {
            self.offload.remember(packet, &connection, verdict, stamps, self.now);
        }
        match verdict {
            Err(reason) => Outcome::Drop(reason),
            Ok(()) => pass(packet),
        }
    }

    /// Judges a flow, the way that it was opened, for these devices; also what was asked, if
    /// anything could be.
    fn ask(
        &self,
        key: &FlowKey,
        initiator: Side,
        ifindex: [u32; 2],
    ) -> (Option<Question>, Result<(), Reason>) {
        let known = (self.endpoints, self.origins);
        match Question::of(key, initiator, ifindex, self.stamps, known) {
            Ok(question) => {
                if question.is_recovered {
                    self.counters.add(Counter::SourcesRecovered, 1);
                }
                (Some(question), self.judge(&question.connection, question.halves))
            }
            Err(reason) => (None, Err(reason)),
        }
    }

    fn enter(&self, packet: &FlowPacket, stamps: [u64; 2]) {
        let new = NewFlow {
            initiator: packet.sender,
            tcp_flags: packet.tcp_flags.0,
            ifindex: packet.ifindex,
            stamps,
            hold: !packet.opens(),
        };
        match self.flows.insert(&packet.key, packet.hash, &new, self.now) {
            Ok(inserted) => {
                self.counters.add(Counter::FlowsInserted, 1);
                if inserted.evicted {
                    self.counters.add(Counter::FlowsEvicted, 1);
                }
            }
            // Judged packet by packet then; never open for want of room.
            Err(NoRoom::Table) => self.counters.add(Counter::FlowTableFull, 1),
            Err(NoRoom::Pod) => self.counters.add(Counter::FlowQuota, 1),
        }
    }

    /// Judges a known flow again, the way it was opened, for the devices of today.
    /// Returns its entry under its new name.
    fn judge_again(
        &self,
        entry: FlowRef,
        flow: &Flow,
        packet: &FlowPacket,
    ) -> (Option<FlowRef>, Outcome) {
        self.counters.add(Counter::FlowsRejudged, 1);
        let (question, verdict) = self.ask(&flow.key, flow.initiator, packet.ifindex);
        let stamps = match (question, verdict) {
            // Perhaps a lookup that met an address in change: nothing to remember.
            (_, Err(Reason::BadClass)) => return (None, Outcome::Drop(Reason::BadClass)),
            (None, Err(reason)) => return (None, Outcome::Drop(reason)),
            (None, Ok(())) => self.stamps_of(&flow.key), // never
            (Some(question), _) => question.stamps,
        };
        let denied = verdict.is_err();
        if denied && !flow.denied {
            self.counters.add(Counter::FlowsCut, 1);
        }
        let entry = self.flows.rejudge(entry, denied, stamps, packet.ifindex);
        let outcome = if denied { Outcome::Drop(Reason::FlowCut) } else { pass(packet) };
        (entry, outcome)
    }

    fn judge(&self, connection: &Connection, halves: Halves) -> Result<(), Reason> {
        let verdict = judge::judge(self.classifier, self.endpoints, connection, halves);
        self.counters.add(
            match verdict {
                Ok(()) => Counter::DecisionsAllowed,
                Err(Reason::BadClass) => Counter::BadClass,
                Err(_) => Counter::DecisionsDenied,
            },
            1,
        );
        verdict
    }
}

/// Whether a SYN from `sender` can be the repetition of the one that opened the flow.
fn is_repetition(flow: &Flow, sender: Side) -> bool {
    let ended = (flow.seen.lo | flow.seen.hi) & (SEEN_FIN | SEEN_RST) != 0;
    flow.initiator == sender && !ended
}

/// The packet may pass; past the second hook as well if that is the other side's on this
/// node, which the verdict then included.
#[inline]
fn pass(packet: &FlowPacket) -> Outcome {
    let [lo, hi] = packet.ifindex;
    let covers_both = packet.direction == Direction::FromPod && lo != 0 && hi != 0;
    Outcome::Pass { covers_both }
}
