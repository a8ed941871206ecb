//! The server's end: answers handshakes, and judges the frames that are counted.

use std::io;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::answer;
use super::idle::Idle;
use super::label::{Label, Step};
use super::shared::{Phase, Shared};
use super::size::FCS;
use super::view::{Segment, View};
use crate::latency::{Latency, Recorder};
use crate::rings::{BATCH, MAX_FRAME, Rings};
use crate::sequence::Sequence;
use crate::{cpu, monotonic_ns};

/// How long the sink sleeps when there is nothing: its ring holds more than arrives meanwhile.
const NAP: Duration = Duration::from_micros(200);
/// When all frames are sent: how long after the last arrival a frame is given up, and how long a
/// second copy of one is waited for when all have arrived.
const QUIET: Duration = Duration::from_millis(500);
const AFTERMATH: Duration = Duration::from_millis(50);

/// Frames of a batch that are to be answered.
pub type Answers = Vec<([u8; 256], usize)>;

/// How the sink works.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Number of the run in the labels.
    pub run: u16,
    /// Whether handshakes are answered; those of a capture are not.
    pub answers: bool,
    /// Whether answers are waited for while frames are counted, so that the sink must not sleep.
    pub awake: bool,
}

/// What came of the frames.
#[derive(Clone, Debug)]
pub struct Findings {
    /// Arrivals of counted frames.
    pub sequence: Sequence,
    /// Frames of nobody's, since counting began.
    pub foreign: u64,
    /// Bytes of the counted frames that arrived, FCS included.
    pub bytes: u64,
    /// From the intended time of sending to arrival.
    pub latency: Latency,
    /// First to last arrival, nanoseconds.
    pub arrivals_ns: u64,
    /// Frames for which the sink's queue had no room, since counting began.
    pub dropped: u64,
    /// Processor time of the sink since counting began, nanoseconds, waiting left out.
    pub cpu_ns: u64,
}

/// Judges one frame after the other: pure.
#[derive(Debug)]
pub struct Judge {
    manner: Manner,
    sequence: Sequence,
    foreign: u64,
    bytes: u64,
    latency: Recorder,
    first_ns: Option<u64>,
    last_ns: u64,
}

impl Judge {
    /// One that has seen nothing.
    ///
    /// # Errors
    /// Never in practice.
    pub fn new(manner: Manner) -> Result<Self> {
        Ok(Self {
            manner,
            sequence: Sequence::default(),
            foreign: 0,
            bytes: 0,
            latency: Recorder::new()?,
            first_ns: None,
            last_ns: 0,
        })
    }

    /// Judges a frame that arrived at `at_ns`; gives what it is to be answered with.
    pub fn note(&mut self, frame: &[u8], at_ns: u64) -> Option<(View, Segment, Label)> {
        let view = View::of(frame)?;
        let Some(label) = view.label(frame).filter(|label| label.run == self.manner.run) else {
            // Ends of flows carry none, or come when a run is over.
            let ends = matches!(view.segment, Some(Segment::Abort | Segment::Reset));
            self.foreign += u64::from(!ends);
            return None;
        };
        let counted = !self.manner.answers
            || matches!(view.segment, Some(Segment::Data | Segment::Syn | Segment::Init));
        if label.step == Step::Count && counted && self.sequence.note(label.number) {
            self.bytes += (frame.len() + FCS) as u64;
            self.latency.record(label.latency(at_ns));
            self.first_ns.get_or_insert(at_ns);
            self.last_ns = self.last_ns.max(at_ns);
        }
        let answer = answer::of_server(&view, &label).filter(|_| self.manner.answers)?;
        Some((view, answer, label))
    }

    /// Counted frames that arrived at least once.
    pub fn distinct(&self) -> u64 {
        self.sequence.distinct()
    }
}

/// Receives until the run is over.
///
/// # Errors
/// When the device is gone.
pub fn run(rings: &mut dyn Rings, manner: Manner, shared: &Shared) -> Result<Findings> {
    let mut judge = Judge::new(manner)?;
    let mut answers: Answers = Vec::with_capacity(BATCH);
    let mut idle = Idle::default();
    let mut counting = None;
    let mut last = Instant::now();
    loop {
        let phase = shared.phase();
        if phase >= Phase::Count && counting.is_none() {
            judge.foreign = 0;
            counting = Some((rings.dropped()?, cpu::own_ns(), idle.total_ns()));
        }
        let n = rings.receive(&mut |frame, at| {
            if let Some((view, segment, label)) = judge.note(frame, at) {
                let mut out = [0; 256];
                let length = answer::write(&view, segment, &label, &mut out);
                answers.push((out, length));
            }
        })?;
        send_all(rings, &mut answers)?;
        if n > 0 {
            shared.received.store(judge.sequence.received(), Ordering::Relaxed);
            last = Instant::now();
            idle.something();
            continue;
        }
        let whole = judge.distinct() >= shared.sent.load(Ordering::Relaxed);
        let patience = if whole { AFTERMATH } else { QUIET };
        if phase == Phase::Over || phase == Phase::Drain && last.elapsed() > patience {
            break;
        }
        if manner.awake || phase == Phase::Open {
            idle.nothing(monotonic_ns());
        } else {
            thread::sleep(NAP);
            idle.something();
        }
    }
    let (dropped, cpu_ns, idle_ns) = counting.unwrap_or((rings.dropped()?, cpu::own_ns(), 0));
    Ok(Findings {
        foreign: judge.foreign,
        bytes: judge.bytes,
        latency: judge.latency.percentiles(),
        arrivals_ns: judge.last_ns.saturating_sub(judge.first_ns.unwrap_or(judge.last_ns)),
        sequence: judge.sequence,
        dropped: rings.dropped()? - dropped,
        cpu_ns: (cpu::own_ns() - cpu_ns).saturating_sub(idle.total_ns() - idle_ns),
    })
}

/// Sends answers, and forgets them.
///
/// # Errors
/// When the device is gone.
pub fn send_all(rings: &mut dyn Rings, answers: &mut Answers) -> io::Result<()> {
    for batch in answers.chunks(BATCH) {
        rings.send(batch.len(), &mut |place, out| {
            let (frame, length) = &batch[place];
            let length = (*length).min(MAX_FRAME);
            out[..length].copy_from_slice(&frame[..length]);
            length
        })?;
    }
    answers.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::frame::Template;
    use crate::pktgen::plan::Protocol;
    use crate::pktgen::view::Ends;
    use proptest::prelude::*;

    const MANNER: Manner = Manner { run: 7, answers: true, awake: false };

    fn frame(protocol: Protocol, segment: Segment, run: u16, step: Step, number: u64) -> Vec<u8> {
        let ends = Ends {
            from_mac: [1; 6],
            to_mac: [2; 6],
            from: [10, 0, 0, 1].into(),
            to: [10, 0, 0, 2].into(),
        };
        let mut out = [0; 256];
        let label = Label::new(run, step, number, number * 100);
        let length = Template::made(ends, protocol, segment, 100).write(&mut out, (1, 2), &label);
        out[..length].to_vec()
    }

    #[test]
    fn counted_frames_are_judged_and_handshakes_answered() {
        use Protocol::{Tcp, Udp};
        let mut judge = Judge::new(MANNER).unwrap();
        let mut answered = Vec::new();
        for (protocol, segment, run, step, number) in [
            (Udp, Segment::Data, 7, Step::Open, 99),
            (Udp, Segment::Data, 7, Step::Warm, 55),
            (Udp, Segment::Data, 7, Step::Count, 1),
            (Udp, Segment::Data, 7, Step::Count, 0),
            (Udp, Segment::Data, 7, Step::Count, 0),
            (Udp, Segment::Data, 8, Step::Count, 2), // another run
            (Tcp, Segment::Syn, 7, Step::Count, 3),
            (Tcp, Segment::Ack, 7, Step::Count, 3), // the third of that handshake
            (Tcp, Segment::Reset, 7, Step::Count, 3),
        ] {
            let frame = frame(protocol, segment, run, step, number);
            let answer = judge.note(&frame, number * 100 + 40);
            answered.extend(answer.map(|(_, segment, label)| (segment, label.number)));
        }
        assert_eq!(answered, [(Segment::Data, 99), (Segment::SynAck, 3)]);
        let found = &judge.sequence;
        assert_eq!((found.received(), found.duplicated(), found.reordered()), (4, 1, 1));
        assert_eq!((found.lost(4), judge.foreign), (1, 1));
        assert_eq!(judge.latency.percentiles().max, 40);
    }

    #[test]
    fn frames_of_a_capture_are_counted_whatever_they_are_and_never_answered() {
        let mut judge = Judge::new(Manner { answers: false, ..MANNER }).unwrap();
        let frame = frame(Protocol::Tcp, Segment::Syn, 7, Step::Count, 0);
        assert_eq!(judge.note(&frame, 0), None);
        assert_eq!(judge.distinct(), 1);
    }

    proptest! {
        #[test]
        fn arbitrary_frames_change_no_count(bytes in prop::collection::vec(any::<u8>(), 0..120), cut in 0..96_usize) {
            let mut judge = Judge::new(MANNER).unwrap();
            let whole = frame(Protocol::Tcp, Segment::Data, 7, Step::Count, 0);
            let _ = judge.note(&bytes, 0);
            let _ = judge.note(&whole[..cut], 0);
            prop_assert_eq!(judge.distinct(), 0);
        }
    }
}
