//! The client's end: sends frames on schedule.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::answer;
use super::establish::Client;
use super::flows::Tuple;
use super::frame::Template;
use super::idle::Idle;
use super::label::{Label, Step};
use super::plan::{Pace, Protocol, Stop};
use super::schedule::Schedule;
use super::shared::Shared;
use super::sink::{Answers, send_all};
use super::size::Sizes;
use super::view::View;
use crate::latency::{Latency, Recorder};
use crate::monotonic_ns;
use crate::rings::BATCH;

/// A wait longer than this is slept, up to as much before its end: long enough for the scheduler
/// to be late in.
const SLEEP_NS: u64 = 200_000;
/// The part of its time by which a generator that is behind may go on.
const GRACE: u64 = 20;
/// How long the last handshakes are waited for.
const LAST_ANSWERS: Duration = Duration::from_millis(100);

/// What frames there are to send.
#[derive(Debug)]
pub enum Frames {
    /// Made ones.
    Made {
        /// Data frames of established flows, in turn, one for each size.
        data: Vec<Template>,
        /// The frame that begins a flow.
        first: Box<Template>,
        /// The frame that ends one.
        last: Option<Box<Template>>,
    },
    /// Those of a capture, in turn.
    Captured(Vec<Template>),
}

impl Frames {
    /// Made frames of these sizes between the client's ends.
    pub fn made(client: &Client<'_>, sizes: &Sizes) -> Self {
        let (ends, protocol) = (client.ends, client.protocol);
        let made = |segment, size| Template::made(ends, protocol, segment, size);
        Self::Made {
            data: sizes.all().iter().map(|&size| made(super::view::Segment::Data, size)).collect(),
            first: Box::new(made(answer::first(protocol), sizes.least())),
            last: answer::last(protocol).map(|segment| Box::new(made(segment, 64))),
        }
    }
}

/// How to send.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// What the frames are for.
    pub step: Step,
    /// How fast.
    pub pace: Pace,
    /// Of the frames, so many a second begin a flow.
    pub new_flows: f64,
    /// When it is over.
    pub stop: Stop,
    /// New flows that were begun before.
    pub begun: u64,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Frames.
    pub frames: u64,
    /// Of these, so many began a flow.
    pub new_flows: u64,
    /// Handshakes that were completed.
    pub handshakes: u64,
    /// How long these took, from the intended time of their first frame.
    pub handshake: Latency,
    /// The longest that a frame was sent behind its time, nanoseconds.
    pub lag_max_ns: u64,
    /// From the first frame until the one after the last was due or sent, nanoseconds.
    pub duration_ns: u64,
    /// Of the processor time, so much was waiting; nanoseconds.
    pub idle_ns: u64,
}

/// Sends frames on schedule.
///
/// With a duration, it is over when all frames that were due within it are sent, or a twentieth
/// later: then the schedule could not be kept, fewer frames were sent than were wanted, and
/// `sent_pps` says so.
///
/// # Errors
/// When the device is gone.
pub fn run(
    client: &mut Client<'_>,
    frames: &Frames,
    manner: Manner,
    shared: &Shared,
) -> Result<Sent> {
    let schedule = Schedule::new(manner.pace, manner.new_flows);
    let flows = client.flows;
    let until =
        manner.stop.duration.map_or(u64::MAX, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
    let count = manner.stop.count.unwrap_or(u64::MAX);
    let handshakes = client.protocol != Protocol::Udp && manner.new_flows > 0.0;
    let mut hands =
        Hands { answers: Answers::with_capacity(BATCH), done: 0, times: Recorder::new()? };
    let mut sent = Sent::default();
    let mut idle = Idle::default();
    // Of the established flows, the next one in turn.
    let mut turn = 0_u64;
    let start = monotonic_ns();
    loop {
        let now = monotonic_ns() - start;
        // What was due in time is still sent, but not for ever.
        let over =
            schedule.due(sent.frames, now) >= until || now >= until.saturating_add(until / GRACE);
        if over || sent.frames >= count {
            break;
        }
        let most = usize::try_from(count - sent.frames).unwrap_or(BATCH).min(BATCH);
        let batch = schedule.batch(sent.frames, now.min(until - 1), most);
        if batch == 0 {
            if handshakes && hands.take(client, frames, manner.step)? > 0 {
                idle.something();
                continue;
            }
            let wait = schedule.due(sent.frames, now).min(until).saturating_sub(now);
            if wait > SLEEP_NS && !handshakes {
                thread::sleep(Duration::from_nanos(wait - SLEEP_NS / 2));
                idle.something();
            } else {
                idle.nothing(now);
            }
            continue;
        }
        idle.something();
        let first_due = schedule.due(sent.frames, now);
        sent.lag_max_ns = sent.lag_max_ns.max(now - first_due);
        let (number, mut begun) = (sent.frames, sent.new_flows);
        client.rings.send(batch, &mut |place, out| {
            let number = number + place as u64;
            let due = schedule.due(number, now);
            let label = Label::new(client.run, manner.step, number, start + due);
            match frames {
                Frames::Captured(frames) => pick(frames, number).write(out, (0, 0), &label),
                Frames::Made { first, .. } if schedule.begins_flow(due, begun) => {
                    begun += 1;
                    let flow = flows.tuple(flows.fresh(manner.begun + begun - 1));
                    first.write(out, flow, &label)
                }
                Frames::Made { data, .. } => {
                    #[expect(clippy::cast_possible_truncation, reason = "below a 32-bit count")]
                    let flow = (turn % u64::from(flows.established())) as u32;
                    turn += 1;
                    pick(data, number).write(out, flows.tuple(flow), &label)
                }
            }
        })?;
        sent.frames += batch as u64;
        sent.new_flows = begun;
        if manner.step == Step::Count {
            shared.sent.store(sent.frames, Ordering::Release);
        }
        if handshakes {
            hands.take(client, frames, manner.step)?;
        }
    }
    // The last frame stands for the time until the one that would have come next.
    let scheduled = schedule.due(sent.frames, 0).min(until);
    sent.duration_ns = (monotonic_ns() - start).max(scheduled).max(1);
    if handshakes {
        let end = monotonic_ns();
        while hands.done < sent.new_flows
            && Duration::from_nanos(monotonic_ns() - end) < LAST_ANSWERS
        {
            hands.take(client, frames, manner.step)?;
            idle.nothing(monotonic_ns());
        }
    }
    sent.handshakes = hands.done;
    sent.handshake = hands.times.percentiles();
    sent.idle_ns = idle.total_ns();
    Ok(sent)
}

/// The handshakes that are under way: their state is in the frames.
struct Hands {
    answers: Answers,
    done: u64,
    times: Recorder,
}

impl Hands {
    /// Takes what has arrived, answers it, and ends flows that are established. Gives how many
    /// frames came.
    fn take(&mut self, client: &mut Client<'_>, frames: &Frames, step: Step) -> Result<usize> {
        let Self { answers, done, times } = self;
        let run = client.run;
        let n = client.rings.receive(&mut |frame, at| {
            let Some(view) = View::of(frame) else { return };
            let Some(label) = view.label(frame).filter(|l| l.run == run && l.step == step) else {
                return;
            };
            if let Some(segment) = answer::of_client(&view) {
                let mut out = [0; 256];
                let length = answer::write(&view, segment, &label, &mut out);
                answers.push((out, length));
            }
            if answer::establishes(&view) {
                *done += 1;
                times.record(label.latency(at));
                if let Frames::Made { last: Some(last), .. } = frames {
                    let mut out = [0; 256];
                    let (source, destination) = view.ports;
                    let addresses = Some((view.ends.to, view.ends.from));
                    let flow = Tuple { addresses, ports: (destination, source) };
                    let length = last.write(&mut out, flow, &label);
                    answers.push((out, length));
                }
            }
        })?;
        send_all(client.rings, answers)?;
        Ok(n)
    }
}

/// The template whose turn it is.
fn pick(templates: &[Template], number: u64) -> &Template {
    #[expect(clippy::cast_possible_truncation, reason = "smaller than the length")]
    let place = (number % templates.len() as u64) as usize;
    &templates[place]
}
