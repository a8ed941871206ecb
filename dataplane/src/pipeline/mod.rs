//! The verdict pipeline: a burst of punted frames and a time in, accepted frames out.
//!
//! ```text
//!  frames ──> admit ───────────> probe ──────> decide ────────────────────────> answer
//!             whose hook is this? is the flow  flow known, current: its verdict  rewrite the
//!             parse               there?       stale: judge again, its way round head of what
//!             may it be here?     fetch its    unknown: judge, sender opens it   passes, count
//!             hash, fetch bucket  stamps       remember                          what drops
//! ```
//!
//! The stages run one after the other over the whole burst, so that the cache misses that
//! every packet has overlap with those of the others: each stage asks for what the next will
//! read, and goes on. Nothing is decided before the third, in which packets keep their order,
//! since one may open the flow of the next.
//!
//! Pure code: no I/O, no clock, no log, no allocation, no lock. Time is a parameter; the
//! world is a [`View`] of immutable snapshots and shared atomics, and of whom to ask for the
//! origin of what the host has translated; what happened shows in the counters.
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
use crate::origins::Origins;
use crate::shim::{Direction, HEAD_LEN, Shim};

use admit::{Crossing, FlowPacket};
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
    /// Who knows what the host has translated; `None`: the node's addresses are judged as such.
    pub origins: Option<&'a dyn Origins>,
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
    task: Task,
    outcome: Outcome,
    /// Which way the frame was going.
    direction: Direction,
    /// Which frame of the burst.
    frame: u8,
}

impl Job {
    fn new(task: Task, direction: Direction, frame: u8) -> Self {
        Self { task, outcome: Outcome::Drop(Reason::NoTable), direction, frame }
    }
}

const _: () = assert!(BURST < 1 << u8::BITS);

/// What is to be decided. What is most of the traffic stands here, all else elsewhere, so
/// that a burst of jobs is small.
#[derive(Debug)]
enum Task {
    /// A whole packet of a flow.
    Flow(FlowPacket),
    /// Anything else: its number in [`Pipeline::others`].
    Other(u8),
}

/// One worker's pipeline: what it remembers between bursts.
#[derive(Debug)]
pub struct Pipeline {
    worker: u32,
    jobs: Vec<Job>,
    /// What jobs of this burst refer to.
    others: Vec<Crossing>,
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
            others: Vec::with_capacity(BURST),
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
            self.probe(view);
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
        self.others.clear();
        for (frame, data) in (0u8..).zip(burst.iter().map(|frame| &*frame.data)) {
            let Ok(shim) = Shim::of_punted(data) else {
                // It does not say which way it was going.
                let direction = counters::Direction::Egress;
                self.drops.dropped(data, direction, Reason::BadShim, counters);
                continue;
            };
            // Made where it stays: a job is large.
            let jobs = &mut self.jobs;
            let plain = admit::admit_plain(&shim, data, view, |packet| {
                packet.warm(view.flows);
                jobs.push(Job::new(Task::Flow(packet), shim.direction, frame));
            });
            if plain.is_none() {
                match self.admit_other(&shim, data, view) {
                    Ok(task) => self.jobs.push(Job::new(task, shim.direction, frame)),
                    Err(reason) => {
                        let direction = policy_direction(shim.direction);
                        self.drops.dropped(data, direction, reason, counters);
                        continue;
                    }
                }
            }
            if shim.worker != self.worker {
                counters.add(Counter::Misdirected, 1);
            }
        }
    }

    /// The long way of the first stage.
    #[cold]
    #[inline(never)]
    fn admit_other<B, W: Words>(
        &mut self,
        shim: &Shim,
        frame: &[u8],
        view: &View<'_, B, W>,
    ) -> Result<Task, Reason> {
        let crossing = admit::admit(shim, frame, view)?;
        crossing.warm(view.flows);
        let number = u8::try_from(self.others.len()).unwrap_or(u8::MAX);
        self.others.push(crossing);
        Ok(Task::Other(number))
    }

    /// Second stage: what the first began to load has come; from there to the rest.
    fn probe<B, W: Words>(&self, view: &View<'_, B, W>) {
        for job in &self.jobs {
            match &job.task {
                Task::Flow(packet) => packet.approach(view.flows, view.stamps),
                Task::Other(number) => {
                    if let Some(crossing) = self.others.get(usize::from(*number)) {
                        crossing.approach(view.flows, view.stamps);
                    }
                }
            }
        }
    }

    /// Third stage: verdicts, in the order of the packets.
    fn decide<B: AsRef<[u8]>, W: Words, C: Words>(
        &mut self,
        burst: &[Frame<'_>],
        view: &View<'_, B, W>,
        now: Tick,
        counters: &CounterBlock<C>,
    ) {
        let Some(classifier) = view.classifier else { return };
        let conntrack = Conntrack::new(classifier, view, counters, now);
        for job in &mut self.jobs {
            job.outcome = match &job.task {
                Task::Flow(packet) => conntrack.follow(packet),
                Task::Other(number) => {
                    let Some(crossing) = self.others.get(usize::from(*number)) else { continue };
                    let frame = burst.get(usize::from(job.frame)).map_or(&[][..], |f| &*f.data);
                    let held = (&mut self.fragments, &mut self.drops);
                    decide_other(&conntrack, crossing, frame, held, (view, now, counters))
                }
            };
        }
        counters.add(Counter::FlowHits, conntrack.hits());
    }

    /// Fourth stage: the head of what passes is rewritten for the way back.
    fn answer<C: Words>(&mut self, burst: &mut [Frame<'_>], counters: &CounterBlock<C>) {
        // Counted together: all packets of a burst take turns at the same two counters.
        let (mut from_pods, mut to_pods) = (0, 0);
        for job in &self.jobs {
            // A job is made of a frame of this burst.
            let Some(frame) = burst.get_mut(usize::from(job.frame)) else { continue };
            match job.outcome {
                Outcome::Pass { covers_both } => {
                    frame.accept = Shim::accept_as_it_is(frame.data, covers_both).is_ok();
                    let leaves = u64::from(job.direction == Direction::FromPod);
                    from_pods += leaves;
                    to_pods += 1 - leaves;
                }
                Outcome::Drop(reason) => {
                    let direction = policy_direction(job.direction);
                    self.drops.dropped(frame.data, direction, reason, counters);
                }
                Outcome::Hold => counters.add(Counter::FragmentsHeld, 1),
            }
        }
        counters.add(passed(Direction::FromPod), from_pods);
        counters.add(passed(Direction::ToPod), to_pods);
    }
}

/// Decides what is not simply a packet of a flow.
#[cold]
#[inline(never)]
fn decide_other<B: AsRef<[u8]>, W: Words, C: Words>(
    conntrack: &Conntrack<'_, B, W, C>,
    crossing: &Crossing,
    frame: &[u8],
    (fragments, drops): (&mut Fragments, &mut DropSampler),
    (view, now, counters): (&View<'_, B, W>, Tick, &CounterBlock<C>),
) -> Outcome {
    let mut last_word = |frame: &[u8], reason| {
        drops.dropped(frame, hook_of(frame), reason, counters);
    };
    // It has been read before.
    let Ok(shim) = Shim::of_punted(frame) else { return Outcome::Drop(Reason::BadShim) };
    let hook = (shim.ifindex, shim.direction);
    // The stamps before the verdict: see Conntrack::stamps_of().
    let first = crossing.first_fragment(view.flows);
    let first = first.map(|fragment| (fragment, conntrack.stamps_of(&fragment.key)));
    let outcome = match crossing {
        Crossing::Flow(packet, _) => conntrack.follow(packet),
        Crossing::Related(error) => conntrack.relate(error),
        Crossing::Group(packet) => conntrack.deliver_to_group(packet),
        Crossing::LaterFragment(fragment) => {
            let holds = |stamps| conntrack.holds(stamps);
            fragments.later((hook, now), fragment, frame, holds, &mut last_word)
        }
    };
    let Some((first, stamps)) = first else { return outcome };
    let rewrite = |frame: &mut [u8]| {
        let Ok(shim) = Shim::of_punted(frame) else { return };
        let covers_both = outcome == Outcome::Pass { covers_both: true };
        if Shim::accept_as_it_is(frame, covers_both).is_ok() {
            counters.add(passed(shim.direction), 1);
            counters.add(Counter::FragmentsReleased, 1);
        }
    };
    fragments.first((hook, now), &first, (outcome, stamps), rewrite, &mut last_word)
}

/// Where frames are counted that passed.
const fn passed(direction: Direction) -> Counter {
    match policy_direction(direction) {
        counters::Direction::Egress => Counter::PassedEgress,
        counters::Direction::Ingress => Counter::PassedIngress,
    }
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
