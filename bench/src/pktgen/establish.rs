//! Flows are established before anything is measured: each is begun, answered and, where its
//! protocol has it, acknowledged.
//!
//! The first flow to each port several times, with pauses: a policy engine's verdict may need a
//! while until it is in force everywhere, and may then serve for the others. All in batches, of
//! which only a few wait for their answers, so that no queue on the way overflows.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::answer;
use super::flows::Flows;
use super::frame::Template;
use super::label::{Label, Step};
use super::plan::Protocol;
use super::sink::{Answers, send_all};
use super::view::{Ends, View};
use crate::monotonic_ns;
use crate::rings::{BATCH, Rings};

/// Exchanges of the first flow to a port, and the pause after each.
const FIRST: u32 = 8;
const PAUSE: Duration = Duration::from_millis(2);
/// Flows that may wait for their answers at a time.
const WINDOW: u64 = 4 * BATCH as u64;
/// How long answers are waited for, and how often a flow is tried again.
const PATIENCE: Duration = Duration::from_millis(20);
const ATTEMPTS: u32 = 25;

/// What a client needs to begin flows.
pub struct Client<'a> {
    /// Its device.
    pub rings: &'a mut dyn Rings,
    /// Both ends.
    pub ends: Ends,
    /// Protocol of the flows.
    pub protocol: Protocol,
    /// The flows.
    pub flows: Flows,
    /// Number of the run.
    pub run: u16,
}

impl Client<'_> {
    /// Establishes all flows.
    ///
    /// # Errors
    /// When flows are not answered, again and again: they are blocked, or the device is gone.
    pub fn establish(&mut self) -> Result<()> {
        let count = self.flows.established();
        let mut open = Open::new(count);
        let firsts: Vec<u32> = self.flows.first_of_ports().collect();
        for _ in 0..FIRST {
            firsts.iter().for_each(|first| open.forget(*first));
            self.try_all(&mut open, &firsts)?;
            thread::sleep(PAUSE);
        }
        let mut missing: Vec<u32> = (0..count).filter(|&flow| !open.has(flow)).collect();
        self.try_all(&mut open, &missing)?;
        // Once more, now that both directions have been seen: an engine that hands over flows
        // does it by now. What is lost here does no harm.
        if self.protocol == Protocol::Udp {
            missing = (0..count).collect();
            self.exchange(&mut open, &missing)?;
        }
        Ok(())
    }

    /// Ends all flows, where the protocol knows an end.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn close(&mut self) -> Result<()> {
        let Some(last) = answer::last(self.protocol) else { return Ok(()) };
        let template = Template::made(self.ends, self.protocol, last, 64);
        let flows: Vec<u32> = (0..self.flows.established()).collect();
        for batch in flows.chunks(BATCH) {
            self.rings.send(batch.len(), &mut |place, out| {
                let label = Label::new(self.run, Step::Open, u64::from(batch[place]), 0);
                template.write(out, self.flows.tuple(batch[place]), &label)
            })?;
        }
        Ok(())
    }

    /// Begins `flows` until all are answered.
    fn try_all(&mut self, open: &mut Open, flows: &[u32]) -> Result<()> {
        let mut missing = flows.to_vec();
        for attempt in 0..ATTEMPTS {
            self.exchange(open, &missing)?;
            missing.retain(|&flow| !open.has(flow));
            if missing.is_empty() {
                return Ok(());
            }
            thread::sleep(PAUSE * attempt);
        }
        let first = self.flows.tuple(missing[0]);
        ensure!(
            missing.is_empty(),
            "{} of {} flows are not answered, the first {first}: are they allowed, both ways, and \
             do both addresses lead to the pods?",
            missing.len(),
            flows.len()
        );
        Ok(())
    }

    /// Begins `flows`, each once, and takes what answers come.
    fn exchange(&mut self, open: &mut Open, flows: &[u32]) -> Result<()> {
        let template = Template::made(self.ends, self.protocol, answer::first(self.protocol), 64);
        let mut answers: Answers = Vec::with_capacity(BATCH);
        // Answers so far, if every flow sent by now had got one or was given up.
        let mut expected = open.answers;
        for batch in flows.chunks(BATCH) {
            self.rings.send(batch.len(), &mut |place, out| {
                let label =
                    Label::new(self.run, Step::Open, u64::from(batch[place]), monotonic_ns());
                template.write(out, self.flows.tuple(batch[place]), &label)
            })?;
            expected += batch.len() as u64;
            self.wait(open, &mut answers, &mut expected, WINDOW)?;
        }
        self.wait(open, &mut answers, &mut expected, 0)
    }

    /// Takes answers until at most `window` are missing, or gives up those that are.
    fn wait(
        &mut self,
        open: &mut Open,
        answers: &mut Answers,
        expected: &mut u64,
        window: u64,
    ) -> Result<()> {
        let run = self.run;
        let start = Instant::now();
        loop {
            self.rings.receive(&mut |frame, _| {
                let Some(view) = View::of(frame) else { return };
                let Some(label) = view.label(frame).filter(|label| label.run == run) else {
                    return;
                };
                if answer::establishes(&view) && label.step == Step::Open {
                    open.mark(label.number);
                }
                if let Some(segment) = answer::of_client(&view) {
                    let mut out = [0; 256];
                    let length = answer::write(&view, segment, &label, &mut out);
                    answers.push((out, length));
                }
            })?;
            send_all(self.rings, answers)?;
            if open.answers + window >= *expected {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                *expected = open.answers;
                return Ok(());
            }
        }
    }
}

/// Which flows have been answered.
#[derive(Debug)]
struct Open {
    seen: Vec<bool>,
    answers: u64,
}

impl Open {
    fn new(count: u32) -> Self {
        Self { seen: vec![false; usize::try_from(count).unwrap_or(0)], answers: 0 }
    }

    fn has(&self, flow: u32) -> bool {
        self.slot(u64::from(flow)).is_some_and(|slot| self.seen[slot])
    }

    fn mark(&mut self, flow: u64) {
        if let Some(slot) = self.slot(flow) {
            self.seen[slot] = true;
            self.answers += 1;
        }
    }

    fn forget(&mut self, flow: u32) {
        if let Some(slot) = self.slot(u64::from(flow)) {
            self.seen[slot] = false;
        }
    }

    fn slot(&self, flow: u64) -> Option<usize> {
        usize::try_from(flow).ok().filter(|&slot| slot < self.seen.len())
    }
}
