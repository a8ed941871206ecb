//! Flows that were open before Weir arrived on the node.
//!
//! When Weir arrives, pods hold connections that it has not seen begin. Without help the
//! next packet of either end would count as a new connection of whoever speaks first, and
//! an answer would be judged as a request. The host's conntrack, which tracks wherever
//! kube-proxy translates, knows who opened them. [`seeds`] reads it once and turns each
//! entry into what the flow table would hold had Weir been there: key, initiator, what
//! was seen from either side, devices. The verdict is not part of a seed; the caller
//! judges it under the policy in force.
//!
//! ```text
//!  client ──(client → VIP)── hook ─┐                    original tuple = (client → VIP)
//!                            host: DNAT, masquerade
//!  backend ─(client' → B)── hook ──┘          reversed reply tuple = (client' → B)
//! ```
//!
//! Rules:
//! - A translated connection has two flows: the original tuple at the opener's hook, the
//!   reversed reply tuple at the other end's. A flow is seeded if the end whose hook
//!   shows it is an endpoint of this node. Untranslated, the two are one flow, seeded if
//!   either end is.
//! - No flow to a group, with a loopback or unspecified address (no hook sees it), or
//!   with a quarantined endpoint: the pipeline keeps none either.
//! - No entry that is dying or a template, and none outside zone 0. Zones exist so that
//!   equal addresses can mean different hosts; which zone means this node's pods only
//!   the CNI knows. Under a CNI that tracks pods in zones of its own (Open vSwitch, for
//!   one) nothing is seeded. If it put only one direction into a zone, zone 0 would hold
//!   the other as a connection of the end that answers, and that is what is seeded.
//! - Every entry is in the state that conntrack says. Where conntrack itself picked up a
//!   TCP connection in its middle (`nf_conntrack_tcp_loose`), its opener is whoever
//!   conntrack heard first.
//!
//! What conntrack does not see cannot be seeded: pods on one bridge without br_netfilter,
//! rules with NOTRACK, hosts without a rule that needs conntrack. And what a pod forged
//! before Weir arrived, conntrack believed; so the verdict has to be asked of every seed.
#![forbid(unsafe_code)]

mod ctnetlink;
mod enter;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod reading;
#[cfg(all(test, target_endian = "little"))]
mod recorded;
#[cfg(test)]
mod tests;

pub use enter::{Entered, enter};

/// The kernel's table, entry by entry.
pub(crate) mod conntrack {
    pub(crate) use super::ctnetlink::{DumpError, Entries};
}

use std::collections::HashSet;
use std::ops::ControlFlow;

use arrayvec::ArrayVec;
use netlink_packet_netfilter::conntrack::Status;
use weir_table::addr::Address;
use weir_table::flow::layout::{
    SEEN_ACK, SEEN_ANY, SEEN_FIN, SEEN_MORE, SEEN_RST, SEEN_SYN, SEEN_TCP_MASK,
};
use weir_table::flow::{FlowKey, Seen, Side};

use crate::endpoints::Endpoints;
use crate::parse::{FiveTuple, protocol};
use ctnetlink::{DumpError, Entry, Tcp, TcpState};

/// A flow that is open, as the flow table would hold it; not yet judged.
///
/// It is entered by an insertion with the initiator's [`Seed::tcp_flags`], and, if
/// anything was seen from the other side, a touch from there with that side's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed {
    /// Both ends.
    pub key: FlowKey,
    /// Which of them opened the connection.
    pub initiator: Side,
    /// What was seen from each side; from the initiator always something.
    pub seen: Seen,
    /// The device of each side that is an endpoint of this node, else 0; lo, hi. At
    /// least one is not 0.
    pub ifindex: [u32; 2],
}

impl Seed {
    /// The flags of TCP (or SCTP, as if it were) seen from a side; 0 for other protocols.
    pub const fn tcp_flags(&self, side: Side) -> u8 {
        self.seen.from(side) & SEEN_TCP_MASK
    }
}

/// The flows of `endpoints` that are open, at most `limit`, from the conntrack table of
/// the calling thread's network namespace, which must be the host's. No key occurs twice.
///
/// Needs CAP_NET_ADMIN. Never fails: what was found, and what stood in the way, is
/// logged; without a conntrack table there are no seeds. Takes time in proportion to the
/// whole table, so it is for the admin thread.
pub fn seeds(endpoints: &Endpoints, limit: usize) -> Vec<Seed> {
    if endpoints.is_empty() {
        tracing::debug!("conntrack not asked for open connections: no endpoints on this node");
        return Vec::new();
    }
    let mut harvest = Harvest::new(endpoints, limit);
    let outcome = ctnetlink::dump(|entry| harvest.take(entry));
    harvest.report(outcome.as_ref().err());
    harvest.seeds
}

/// Collects seeds from entries. Its memory is bounded by the limit.
struct Harvest<'a> {
    endpoints: &'a Endpoints,
    limit: usize,
    seeds: Vec<Seed>,
    /// The keys of `seeds`. Pods choose them: hashed with a secret.
    known: HashSet<FlowKey>,
    entries: usize,
    unreadable: usize,
    other_zones: usize,
    cut: bool,
}

impl<'a> Harvest<'a> {
    fn new(endpoints: &'a Endpoints, limit: usize) -> Self {
        Self {
            endpoints,
            limit,
            seeds: Vec::new(),
            known: HashSet::new(),
            entries: 0,
            unreadable: 0,
            other_zones: 0,
            cut: false,
        }
    }

    /// Takes an entry; breaks off when a seed had no room. Of two with one key (a dump
    /// can repeat itself; protocols without ports have one flow for all tunnels of two
    /// ends) the first stays.
    fn take(&mut self, entry: Option<Entry>) -> ControlFlow<()> {
        self.entries += 1;
        let Some(entry) = entry else {
            self.unreadable += 1;
            return ControlFlow::Continue(());
        };
        if entry.zone != 0 {
            self.other_zones += 1;
        }
        for seed in seeds_of(&entry, self.endpoints) {
            if self.known.contains(&seed.key) {
                continue;
            }
            if self.seeds.len() >= self.limit {
                self.cut = true;
                return ControlFlow::Break(());
            }
            self.known.insert(seed.key);
            self.seeds.push(seed);
        }
        ControlFlow::Continue(())
    }

    fn report(&self, error: Option<&DumpError>) {
        const LOST: &str = "a connection opened before now counts as opened by the end that \
                            speaks next";
        match error {
            None => {}
            Some(e @ DumpError::Absent(_)) => tracing::info!("{e}; {LOST}"),
            Some(e) => tracing::warn!("{e}; {LOST}"),
        }
        if self.cut {
            let limit = self.limit;
            tracing::warn!(
                "conntrack holds more than {limit} flows of pods: raise --flows; {LOST}"
            );
        }
        if self.unreadable > 0 {
            let count = self.unreadable;
            tracing::warn!("{count} conntrack entries cannot be read; please report it");
        }
        tracing::info!(
            entries = self.entries,
            seeds = self.seeds.len(),
            other_zones = self.other_zones,
            "connections opened before now, from conntrack"
        );
    }
}

/// The flows of one entry at this node's hooks: none, one, or two under translation.
fn seeds_of(entry: &Entry, endpoints: &Endpoints) -> ArrayVec<Seed, 2> {
    let mut seeds = ArrayVec::new();
    let gone = Status::Dying | Status::Template | Status::Untracked;
    if entry.zone != 0 || entry.status.intersects(gone) {
        return seeds;
    }
    let Some(seen) = seen(entry) else { return seeds };
    let opened = entry.original;
    let arrived = entry.reply.reversed();
    let is_here = |address| endpoints.by_address(address).is_some();
    if opened == arrived {
        if is_here(opened.src) || is_here(opened.dst) {
            seeds.extend(seed(&opened, seen, endpoints));
        }
        return seeds;
    }
    if is_here(opened.src) {
        seeds.extend(seed(&opened, seen, endpoints));
    }
    if is_here(arrived.dst) {
        seeds.extend(seed(&arrived, seen, endpoints));
    }
    seeds
}

/// What was seen, by who sent it: `[opener, other end]`. `None`: TCP in a state that no
/// connection is in.
fn seen(entry: &Entry) -> Option<[u8; 2]> {
    let mut seen = match (entry.original.protocol, entry.tcp) {
        (protocol::TCP, None) => return None,
        (protocol::TCP, Some(Tcp { state, closer })) => {
            // As a segment in the middle leaves it.
            const OPEN: u8 = SEEN_ANY | SEEN_ACK | SEEN_MORE;
            const ANSWER: u8 = SEEN_ANY | SEEN_SYN | SEEN_ACK;
            match state {
                TcpState::SynSent | TcpState::SynSent2 => [SEEN_ANY | SEEN_SYN; 2],
                TcpState::SynRecv => [SEEN_ANY | SEEN_SYN, ANSWER],
                TcpState::Established => [OPEN; 2],
                // The second FIN cannot be told from a repetition of the first, so only
                // the first is taken for certain. The state is the same.
                TcpState::FinWait
                | TcpState::CloseWait
                | TcpState::LastAck
                | TcpState::TimeWait => match closer {
                    [true, false] => [OPEN | SEEN_FIN, OPEN],
                    [false, true] => [OPEN, OPEN | SEEN_FIN],
                    _ => [OPEN | SEEN_FIN; 2],
                },
                // Conntrack does not tell whose reset it was.
                TcpState::Close => [SEEN_ANY | SEEN_ACK | SEEN_RST; 2],
            }
        }
        // Conntrack's SCTP states are not read: one that was answered counts as set up.
        (protocol::SCTP, _) if entry.status.contains(Status::SeenReply) => {
            [SEEN_ANY | SEEN_ACK | SEEN_MORE; 2]
        }
        _ => [SEEN_ANY | SEEN_MORE; 2],
    };
    if !entry.status.contains(Status::SeenReply) {
        seen[1] = 0;
    }
    Some(seen)
}

/// The seed of a flow whose opener sends packets of this 5-tuple.
fn seed(tuple: &FiveTuple, seen: [u8; 2], endpoints: &Endpoints) -> Option<Seed> {
    let &FiveTuple { src, dst, protocol, sport, dport } = tuple;
    if [src, dst].into_iter().any(is_no_end) {
        return None;
    }
    let (from, to) = (device(endpoints, src)?, device(endpoints, dst)?);
    let (key, initiator) = FlowKey::new((src, sport), (dst, dport), protocol);
    let [opener, other] = seen;
    let (seen, ifindex) = match initiator {
        Side::Lo => (Seen { lo: opener, hi: other }, [from, to]),
        Side::Hi => (Seen { lo: other, hi: opener }, [to, from]),
    };
    Some(Seed { key, initiator, seen, ifindex })
}

/// True for an address that no flow of a pod has at its hook.
fn is_no_end(address: Address) -> bool {
    address.is_multicast()
        || address.is_broadcast()
        || address.is_loopback()
        || address.is_unspecified()
}

/// The device of an address, 0 if it is not an endpoint's of this node; `None` if that is
/// quarantined.
fn device(endpoints: &Endpoints, address: Address) -> Option<u32> {
    match endpoints.by_address(address) {
        None => Some(0),
        Some(endpoint) if endpoint.quarantined => None,
        Some(endpoint) => Some(endpoint.ifindex),
    }
}
