//! Judging the flows that were open before Weir, and entering them.
#![forbid(unsafe_code)]

use weir_table::classify::Classifier;
use weir_table::counters::Reason;
use weir_table::flow::{FlowTable, NewFlow, Tick};
use weir_table::mem::Words;
use weir_table::stamps::Stamps;

use super::Seed;
use crate::endpoints::Endpoints;
use crate::origins::Origins;
use crate::pipeline::judge::{self, Question};

/// What became of the seeds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entered {
    /// Flows that may go on.
    pub allowed: usize,
    /// Flows that the policies end here. They are entered as cut, so that a late packet of
    /// the other end is not taken for the beginning of a connection of its own.
    pub cut: usize,
    /// Flows for which the table, or their pod's account, had no room, or that gave way to
    /// others of these: their next packets are judged as those of new connections, by the end
    /// that sends first.
    pub no_room: usize,
}

/// Judges each seed the way it was opened and enters it. What nobody answered yet and may
/// not be is left out: its next packet is judged like any first one. Conntrack believed
/// whatever a pod forged before, so that a flow was open says nothing in its favour.
pub fn enter<B: AsRef<[u8]>, W: Words>(
    seeds: &[Seed],
    classifier: &Classifier<B, W>,
    (endpoints, origins): (&Endpoints, Option<&dyn Origins>),
    (flows, stamps): (&FlowTable<W>, &Stamps<W>),
    now: Tick,
) -> Entered {
    let mut entered = Entered::default();
    for seed in seeds {
        let Seed { key, initiator, ifindex, .. } = *seed;
        let known = (endpoints, origins);
        let Ok(question) = Question::of(&key, initiator, ifindex, stamps, known) else { continue };
        let answered = seed.seen.any_from(initiator.other());
        let new = NewFlow {
            initiator,
            tcp_flags: seed.tcp_flags(initiator),
            ifindex,
            stamps: question.stamps,
            hold: false,
        };
        let Question { connection, halves, .. } = question;
        let verdict = judge::judge(classifier, endpoints, &connection, halves);
        let denied = verdict.is_err();
        // Left to its next packet, and so is what met an address in change.
        if (denied && !answered) || verdict == Err(Reason::BadClass) {
            continue;
        }
        let Ok(inserted) = flows.insert(&key, flows.hash(&key), &new, now) else {
            entered.no_room += 1;
            continue;
        };
        entered.no_room += usize::from(inserted.evicted);
        if answered {
            let other = initiator.other();
            flows.touch(inserted.flow, other, seed.tcp_flags(other), now);
        }
        if denied {
            flows.rejudge(inserted.flow, true, new.stamps, ifindex);
            entered.cut += 1;
        } else {
            entered.allowed += 1;
        }
    }
    entered
}
