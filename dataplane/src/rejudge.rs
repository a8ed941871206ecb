//! Judging open flows again after a change, before it is acknowledged.
//!
//! A change makes the stamps of some addresses out of date (`weir_table::stamps`). Without
//! this walk every flow of these addresses would come back to the workers with its next
//! packet: correct, but a storm after a wide change. The walk gives each of them a verdict
//! under what is in force now and the stamps that are about to count, while its packets go
//! on under the old ones.
//!
//! Invariants: the workers decide by the new state already; whoever changes a flow at the
//! same time wins, and the flow is then judged again at its next packet.
#![forbid(unsafe_code)]

use rustc_hash::FxHashSet;
use weir_table::addr::Address;
use weir_table::classify::Classifier;
use weir_table::counters::Reason;
use weir_table::flow::{Flow, FlowTable, Side, Tick};
use weir_table::mem::Words;
use weir_table::stamps::{SlotSet, Stamps};

use crate::endpoints::Endpoints;
use crate::origins::Origins;
use crate::pipeline::judge::{self, Question};

/// What a walk has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rejudged {
    /// Flows judged again.
    pub judged: u64,
    /// Of those, flows that passed until now and do not any longer.
    pub cut: u64,
}

/// Judges every flow with a side in `slots` again and stamps it anew. To be called between
/// [`Stamps::announce`] and [`Stamps::settle`].
pub fn rejudge<B: AsRef<[u8]>, W: Words>(
    (flows, stamps, slots): (&FlowTable<W>, &Stamps<W>, &SlotSet),
    classifier: &Classifier<B, W>,
    (endpoints, origins): (&Endpoints, Option<&dyn Origins>),
    now: Tick,
) -> Rejudged {
    let mut done = Rejudged::default();
    let concerned = |flow: &Flow| flow.stamps.iter().any(|stamp| slots.contains(*stamp));
    for (entry, flow) in flows.entries() {
        // A side that moved to another device: see purge_moved(), or a worker sorts it out.
        if !concerned(&flow) || flow.is_expired(now) || flow.ifindex != devices(&flow, endpoints) {
            continue;
        }
        let known = (endpoints, origins);
        let asked = Question::of(&flow.key, flow.initiator, flow.ifindex, stamps, known);
        let Ok(Question { connection, halves, stamps: new, .. }) = asked else {
            continue; // for a worker, at the next packet
        };
        let verdict = judge::judge(classifier, endpoints, &connection, halves);
        if verdict == Err(Reason::BadClass) {
            continue; // perhaps a lookup that met an address in change
        }
        let denied = verdict.is_err();
        if flows.rejudge(entry, denied, new, flow.ifindex).is_some() {
            done.judged += 1;
            done.cut += u64::from(denied && !flow.denied);
        }
    }
    done
}

/// Forgets every flow of addresses that have lost their owner: whoever has one next did not
/// open, nor accept, what its predecessor did. Returns how many.
pub fn purge<W: Words>(flows: &FlowTable<W>, gone: &[Address]) -> u64 {
    if gone.is_empty() {
        return 0;
    }
    let gone: FxHashSet<Address> = gone.iter().copied().collect();
    let is_concerned =
        |flow: &Flow| [Side::Lo, Side::Hi].iter().any(|side| gone.contains(&flow.key.end(*side).0));
    let concerned = flows.entries().filter(|(_, flow)| is_concerned(flow));
    concerned.map(|(entry, _)| u64::from(flows.delete(entry))).sum()
}

/// Forgets the flows of addresses that have left their device: no packet of another device is
/// theirs, and they would keep their place and their pod's account until their time is over.
/// Those of a quarantined pod stay. Returns how many.
pub fn purge_moved<W: Words>(flows: &FlowTable<W>, left: &[Address], endpoints: &Endpoints) -> u64 {
    if left.is_empty() {
        return 0;
    }
    let left: FxHashSet<Address> = left.iter().copied().collect();
    let is_over = |flow: &Flow| {
        [Side::Lo, Side::Hi].iter().any(|side| {
            let (address, _) = flow.key.end(*side);
            let was = flow.ifindex[side.index()];
            let is = endpoints.by_address(address).map_or(0, |e| e.ifindex);
            was != 0 && was != is && left.contains(&address)
        })
    };
    let over = flows.entries().filter(|(_, flow)| is_over(flow));
    over.map(|(entry, _)| u64::from(flows.delete(entry))).sum()
}

/// The devices of both sides as they are today; 0 if not on this node.
fn devices(flow: &Flow, endpoints: &Endpoints) -> [u32; 2] {
    [Side::Lo, Side::Hi].map(|side| {
        let endpoint = endpoints.by_address(flow.key.end(side).0).filter(|e| !e.quarantined);
        endpoint.map_or(0, |e| e.ifindex)
    })
}
