//! The verdict pipeline: a burst of punted frames and a time in, accepted frames out.
//!
//! ```text
//!  frames ──> admit ───────────────> decide ───────────────────────> answer
//!             whose hook is this?    flow known, current: its verdict  rewrite the head
//!             parse                  stale: judge again, its way round of what passes,
//!             may it be here?        unknown: judge, sender opens it   count what drops
//!             hash, warm the table   remember
//! ```
//!
//! The stages run one after the other over the whole burst, so that the cache misses of
//! the flow table, begun in the first stage for every packet, overlap. Within the second
//! stage packets keep their order, since one may open the flow of the next.
//!
//! Pure code: no I/O, no clock, no log, no allocation, no lock. Time is a parameter; the
//! world is a [`View`] of immutable snapshots and shared atomics; what happened shows in
//! the counters.
//!
//! | file | concept |
//! |---|---|
//! | `admit.rs` | the packet at its hook: endpoint, spoofing, quarantine |
//! | `conntrack.rs` | the flow: hit, stale, new, cut; ICMP errors |
//! | `judge.rs` | which halves of the policy this node has to ask |
//! | `offload.rs` | what the steering program is told: new flows, verdicts |
//! | `expiry.rs` | how fast flows whose time is over are looked for |
//! | `fragments/` | fragments follow their first, whichever comes first |
//!
//! Invariants: a frame is accepted only by a verdict that covers its hook; whatever is
//! not understood drops; a policy change takes effect at the next packet of every flow.
#![forbid(unsafe_code)]

mod admit;
mod conntrack;
mod expiry;
mod fragments;
pub(crate) mod judge;
mod offload;

use std::sync::Arc;

use weir_table::classify::Classifier;
use weir_table::counters::{self, Counter, CounterBlock, Reason};
use weir_table::flow::{ExpiryCursor, FlowTable, Tick, VerdictCache};
use weir_table::mem::{Mapping, SharedWords, Words};
use weir_table::stamps::Stamps;

use crate::drops::{self, DropQueue, DropSampler};
use crate::endpoints::Endpoints;
use crate::frame::Frame;
use crate::io::BURST;
use crate::shim::{Direction, HEAD_LEN, Shim, ShimFlags};

use admit::{Crossing, Refusal};
use conntrack::Conntrack;
use fragments::Fragments;

/// What the node looks like during one burst.
#[derive(Debug)]
pub struct View<'a, B = Mapping, W = SharedWords> {
    /// The policy; `None` until the first generation arrives, and then nothing passes.
    pub classifier: Option<&'a Classifier<B, W>>,
    /// The endpoints of this node.
    pub endpoints: &'a Endpoints,
    /// The flow table, shared with the other workers and the steering program.
    pub flows: &'a FlowTable<W>,
    /// Which verdicts are out of date.
    pub stamps: &'a Stamps<W>,
    /// Verdicts for the steering program; `None` if every packet comes to the workers.
    pub verdicts: Option<&'a VerdictCache<W>>,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Pass {
        /// The verdict holds for the second hook of this node as well.
        covers_both: bool,
    },
    Drop(Reason),
    /// It waits for its first fragment.
    Hold,
}

/// The largest frame that waits for its first fragment unless
/// [`Pipeline::holding_frames_of`] says otherwise: a packet for an MTU of 1500 and its head.
const HELD_FRAME: usize = HEAD_LEN + 1500;

/// A packet on its way through the stages.
#[derive(Debug)]
struct Job {
    /// Which frame of the burst.
    frame: usize,
    shim: Shim,
    crossing: Crossing,
    outcome: Outcome,
}

/// One worker's pipeline: what it remembers between bursts.
#[derive(Debug)]
pub struct Pipeline {
    worker: u32,
    jobs: Vec<Job>,
    fragments: Fragments,
    expiry: ExpiryCursor,
    pace: expiry::Pace,
    drops: DropSampler,
}

impl Pipeline {
    /// The pipeline of worker number `worker` of `workers`. All memory that it will ever
    /// need is allocated here.
    pub fn new(worker: usize, workers: usize) -> Self {
        Self {
            worker: u32::try_from(worker).unwrap_or(u32::MAX),
            jobs: Vec::with_capacity(BURST),
            fragments: Fragments::new(HELD_FRAME),
            expiry: ExpiryCursor::new(worker, workers),
            pace: expiry::Pace::default(),
            drops: DropSampler::new(drops::queue()),
        }
    }

    /// Tells of dropped packets into this queue; nobody reads that of [`Pipeline::new`].
    #[must_use]
    pub fn telling_drops_to(mut self, queue: Arc<DropQueue>) -> Self {
        self.drops = DropSampler::new(queue);
        self
    }

    /// Holds later fragments of up to `mtu` bytes until their first comes; larger ones that
    /// overtake it are dropped.
    #[must_use]
    pub fn holding_frames_of(mut self, mtu: usize) -> Self {
        self.fragments = Fragments::new(HEAD_LEN + mtu);
        self
    }

    /// Judges frames: those that may pass are rewritten and get `accept == true`, all
    /// others are counted under their reason, or wait for their first fragment.
    /// [`Pipeline::released`] must be sent next. `now_ns` is `CLOCK_MONOTONIC`, however
    /// coarse.
    pub fn process<B: AsRef<[u8]>, W: Words, C: Words>(
        &mut self,
        frames: &mut [Frame<'_>],
        view: &View<'_, B, W>,
        now_ns: u64,
        counters: &CounterBlock<C>,
    ) {
        let now = Tick::from_nanos(now_ns);
        self.drops.begin(now_ns);
        for burst in frames.chunks_mut(BURST) {
            self.admit(burst, view, counters);
            self.decide(burst, view, now, counters);
            self.answer(burst, counters);
        }
    }

    /// Frames of earlier bursts that may pass now, rewritten like accepted ones: to be sent
    /// after the burst, in this order.
    pub fn released(&self) -> impl Iterator<Item = &[u8]> {
        self.fragments.released()
    }

    /// Makes room again after [`Pipeline::released`].
    pub fn forget_released(&mut self) {
        self.fragments.forget_released();
    }

    /// Forgets some of the flows whose time is over, as many as time has passed, and drops the
    /// fragments that have waited too long; to be called a hundred times a second or so, also
    /// when there is no traffic.
    pub fn expire<B, W: Words, C: Words>(
        &mut self,
        view: &View<'_, B, W>,
        now_ns: u64,
        counters: &CounterBlock<C>,
    ) {
        let step = self.pace.step(self.expiry.slots(view.flows), now_ns);
        let expired = view.flows.expire(&mut self.expiry, Tick::from_nanos(now_ns), step);
        if expired > 0 {
            counters.add(Counter::FlowsExpired, expired as u64);
        }
        self.drops.begin(now_ns);
        let drops = &mut self.drops;
        self.fragments.expire(Tick::from_nanos(now_ns), &mut |frame, reason| {
            drops.dropped(frame, hook_of(frame), reason, counters);
        });
    }

    /// True if [`Pipeline::expire`] could not do all that was due: to be called again while
    /// there is nothing else to do.
    pub fn expiry_is_behind(&self) -> bool {
        self.pace.is_behind()
    }

    /// First stage: what needs no flow and no policy.
    fn admit<B, W: Words, C: Words>(
        &mut self,
        burst: &mut [Frame<'_>],
        view: &View<'_, B, W>,
        counters: &CounterBlock<C>,
    ) {
        self.jobs.clear();
        for (frame, data) in burst.iter().map(|frame| &*frame.data).enumerate() {
            match admit::admit(data, view) {
                Ok((shim, crossing)) => {
                    if shim.worker != self.worker {
                        counters.add(Counter::Misdirected, 1);
                    }
                    crossing.warm(view.flows);
                    let outcome = Outcome::Drop(Reason::NoTable);
                    self.jobs.push(Job { frame, shim, crossing, outcome });
                }
                Err(Refusal { direction, reason }) => {
                    self.drops.dropped(data, policy_direction(direction), reason, counters);
                }
            }
        }
    }

    /// Second stage: verdicts, in the order of the packets.
    fn decide<B: AsRef<[u8]>, W: Words, C: Words>(
        &mut self,
        burst: &[Frame<'_>],
        view: &View<'_, B, W>,
        now: Tick,
        counters: &CounterBlock<C>,
    ) {
        let Some(classifier) = view.classifier else { return };
        let conntrack = Conntrack::new(classifier, view, counters, now);
        let drops = &mut self.drops;
        let mut last_word = |frame: &[u8], reason| {
            drops.dropped(frame, hook_of(frame), reason, counters);
        };
        for job in &mut self.jobs {
            let hook = (job.shim.ifindex, job.shim.direction);
            // The stamps before the verdict: see Conntrack::stamps_of().
            let first = job.crossing.first_fragment();
            let first = first.map(|fragment| (fragment, conntrack.stamps_of(&fragment.key)));
            job.outcome = match &job.crossing {
                Crossing::Flow(packet) => conntrack.follow(packet),
                Crossing::Related(error) => conntrack.relate(error),
                Crossing::Group(packet) => conntrack.deliver_to_group(packet),
                Crossing::LaterFragment(fragment) => {
                    let frame = burst.get(job.frame).map_or(&[][..], |frame| &*frame.data);
                    let holds = |stamps| conntrack.holds(stamps);
                    self.fragments.later((hook, now), fragment, frame, holds, &mut last_word)
                }
            };
            if let Some((fragment, stamps)) = first {
                let said = (job.outcome, stamps);
                let rewrite = |frame: &mut [u8]| {
                    if let Ok(shim) = Shim::of_punted(frame) {
                        accept(&shim, said.0, frame, counters);
                        counters.add(Counter::FragmentsReleased, 1);
                    }
                };
                let fragments = &mut self.fragments;
                job.outcome =
                    fragments.first((hook, now), &fragment, said, rewrite, &mut last_word);
            }
        }
    }

    /// Third stage: the head of what passes is rewritten for the way back.
    fn answer<C: Words>(&mut self, burst: &mut [Frame<'_>], counters: &CounterBlock<C>) {
        for job in &self.jobs {
            // A job is made of a frame of this burst.
            let Some(frame) = burst.get_mut(job.frame) else { continue };
            match job.outcome {
                Outcome::Pass { .. } => {
                    frame.accept = accept(&job.shim, job.outcome, frame.data, counters);
                }
                Outcome::Drop(reason) => {
                    let direction = policy_direction(job.shim.direction);
                    self.drops.dropped(frame.data, direction, reason, counters);
                }
                Outcome::Hold => counters.add(Counter::FragmentsHeld, 1),
            }
        }
    }
}

/// Rewrites the head of a frame that passes and counts it. False: it cannot be one.
fn accept<C: Words>(
    shim: &Shim,
    outcome: Outcome,
    frame: &mut [u8],
    counters: &CounterBlock<C>,
) -> bool {
    let covers_both = outcome == Outcome::Pass { covers_both: true };
    let flags = shim.flags.with(ShimFlags::COVERS_BOTH, covers_both);
    counters.add(
        match policy_direction(shim.direction) {
            counters::Direction::Egress => Counter::PassedEgress,
            counters::Direction::Ingress => Counter::PassedIngress,
        },
        1,
    );
    Shim { flags, ..*shim }.accept_in_place(frame).is_ok()
}

/// Which way a punted frame was going.
fn hook_of(punted: &[u8]) -> counters::Direction {
    Shim::of_punted(punted)
        .map_or(counters::Direction::Egress, |shim| policy_direction(shim.direction))
}

/// A hook's direction in the words of a policy.
const fn policy_direction(direction: Direction) -> counters::Direction {
    match direction {
        Direction::FromPod => counters::Direction::Egress,
        Direction::ToPod => counters::Direction::Ingress,
    }
}
