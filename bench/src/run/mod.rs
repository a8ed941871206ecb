//! `weir-bench run`: contenders, one after the other, round for round, on a node of its
//! own.
//!
//! | Module | Job |
//! |---|---|
//! | [`scenario`] | what is measured, by name |
//! | [`effort`] | how long |
//! | [`lab`] | the throw-away node, commands in it |
//! | [`contender`] | what is put between the pods |
//! | [`loads`] | what is sent, and the values |
//! | [`search`] | rates at no loss and at little loss |
//! | [`environment`] | machine, versions, command |
//!
//! Order: rounds outermost, then scenarios, then contenders, each round in another order
//! ([`order`]). So the values of a round lie close together, a slow minute hits all alike, and
//! what one leaves behind (a warm cache, a hot processor) is not always the same one's to find;
//! ratios are taken within a round. Before and after every load the node's counters are read
//! ([`contender::Evidence`]); [`crate::report::proof`] refuses a value that they do not
//! account for. Samples are written as they come and outlive an interruption.

pub mod contender;
pub mod effort;
pub mod environment;
pub mod lab;
pub mod loads;
pub mod scenario;
pub mod search;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rustix::process::geteuid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::report::sample::{Failure, Line, Requested, Sample, Unable};
use contender::{Contender, Evidence};
use effort::Effort;
use lab::{INTERRUPTED, Lab, Where};
use loads::{Kind, Loads, programs};
use scenario::{Family, Scenario};
use search::Found;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The scenarios, in this order in every round.
    pub scenarios: Vec<Scenario>,
    /// Who is compared.
    pub contenders: Vec<Contender>,
    /// What is measured; empty: all that belongs to a scenario.
    pub only: Vec<Kind>,
    /// The scenarios in which rates are searched for, which takes longer than all else; empty:
    /// all that have one.
    pub rates: Vec<Scenario>,
    /// How long.
    pub effort: Effort,
    /// `scripts/lab`.
    pub lab: PathBuf,
    /// Weir's programs; `None`: next to this one.
    pub bin: Option<PathBuf>,
    /// Where samples are written, a JSON object a line.
    pub samples: PathBuf,
    /// As it was written on the command line.
    pub command: String,
}

impl Plan {
    fn requested(&self) -> Requested {
        Requested {
            scenarios: self.scenarios.clone(),
            contenders: self.contenders.clone(),
            only: self.only.clone(),
            rounds: self.effort.rounds,
        }
    }
}

/// Measures everything and writes the samples.
///
/// # Errors
/// When the node cannot be made, samples cannot be written, or a contender cannot be
/// taken away again: what follows would be measured with it in the way.
pub fn run(plan: &Plan) -> Result<()> {
    ensure!(geteuid().is_root(), "needs root (namespaces, veth, bpf)");
    let (program, folder) = programs()?;
    let bin = match &plan.bin {
        Some(bin) => bin.canonicalize().with_context(|| format!("no {}", bin.display()))?,
        None => folder,
    };
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            INTERRUPTED.store(true, Ordering::Relaxed);
        }
    });
    let ipv6 = plan.scenarios.iter().any(|scenario| scenario.family == Family::V6);
    let lab = Lab::up(&plan.lab, ipv6)?;
    let io = loads::probe(&lab, &program)?;
    // Only now: a run that cannot begin leaves the samples of the one before alone.
    let mut log = Log::new(&plan.samples)?;
    let mut environment = environment::collect(&plan.effort, &bin, &plan.command);
    environment.push(("generator's frames".to_owned(), format!("by {io}")));
    log.line(&Line::Environment(environment))?;
    log.line(&Line::Plan(plan.requested()))?;
    let mut iperf3 = lab.command(Where::Pod(&lab.server), "iperf3");
    iperf3.arg("--server");
    let _server = lab.spawn("iperf3", iperf3); // without it, the load says so
    let mut session = Session { plan, bin, program, lab: &lab, log, io, unable: BTreeSet::new() };
    let done = session.rounds();
    ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted; samples so far are kept");
    done
}

/// A run that is under way.
struct Session<'a> {
    plan: &'a Plan,
    bin: PathBuf,
    program: PathBuf,
    lab: &'a Lab,
    log: Log,
    /// The generator's way to the devices.
    io: String,
    /// Who cannot run here, under which load: what cannot hold ten thousand rules may hold
    /// one.
    unable: BTreeSet<(Scenario, Contender)>,
}

impl Session<'_> {
    fn rounds(&mut self) -> Result<()> {
        let mut known: BTreeMap<(Scenario, Contender), Option<Found>> = BTreeMap::new();
        let rounds = self.plan.effort.rounds;
        let start = Instant::now();
        for round in 1..=rounds {
            for &scenario in &self.plan.scenarios {
                let elapsed = start.elapsed().as_secs();
                eprintln!("round {round} of {rounds}, {scenario}, after {elapsed} s");
                for turn in order(self.plan.contenders.len(), usize::try_from(round - 1)?) {
                    let contender = self.plan.contenders[turn];
                    let unable = self.unable.contains(&(scenario, contender));
                    if unable || !contender.takes_part(scenario) {
                        continue;
                    }
                    let known = known.entry((scenario, contender)).or_default();
                    self.turn(round, scenario, contender, known)?;
                }
            }
        }
        Ok(())
    }

    /// One contender: on, loads, off.
    fn turn(
        &mut self,
        round: u32,
        scenario: Scenario,
        contender: Contender,
        known: &mut Option<Found>,
    ) -> Result<()> {
        let mut switch = contender.switch(&self.bin);
        let on = switch.on(self.lab, scenario);
        let measured = match &on {
            Ok(()) => self.measure(round, scenario, contender, switch.as_ref(), known),
            Err(_) => Ok(()),
        };
        let off = switch.off(self.lab);
        ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
        off.with_context(|| format!("{} cannot be taken away", contender.name()))?;
        measured?;
        let Err(error) = on else { return Ok(()) };
        let reason = format!("{error:#}");
        eprintln!("  {}: {reason}", contender.name());
        if round == 1 {
            self.unable.insert((scenario, contender));
            return self.log.line(&Line::Unable(Unable { scenario, contender, reason }));
        }
        for kind in self.kinds(scenario) {
            let (measure, error) = (kind.name().to_owned(), reason.clone());
            self.log.line(&Line::Failure(Failure {
                round,
                scenario,
                measure,
                contender,
                error,
            }))?;
        }
        Ok(())
    }

    fn kinds(&self, scenario: Scenario) -> Vec<Kind> {
        let Plan { only, rates, .. } = self.plan;
        let wanted = |kind: &&Kind| {
            let asked_for = only.is_empty() || only.contains(kind);
            asked_for && (**kind != Kind::Rate || rates.is_empty() || rates.contains(&scenario))
        };
        Kind::of(scenario).iter().filter(wanted).copied().collect()
    }

    fn measure(
        &mut self,
        round: u32,
        scenario: Scenario,
        contender: Contender,
        switch: &dyn contender::Switch,
        known: &mut Option<Found>,
    ) -> Result<()> {
        let (program, effort) = (self.program.as_path(), &self.plan.effort);
        let charged = switch.charged();
        let io = self.io.as_str();
        let loads = Loads { lab: self.lab, program, effort, scenario, charged, io };
        for kind in self.kinds(scenario) {
            let evidence = || Evidence::take(self.lab, switch);
            let mut load = || {
                let before = evidence()?;
                let outcomes = loads.run(kind, known)?;
                Ok::<_, anyhow::Error>((before, outcomes, evidence()?))
            };
            match load() {
                Ok((before, outcomes, after)) => {
                    // One pair of looks serves all loads of a kind: their packets together.
                    let packets = outcomes.iter().map(|outcome| outcome.packets).sum();
                    let flows = outcomes.iter().map(|outcome| outcome.flows).sum();
                    let values = outcomes.iter().flat_map(|outcome| {
                        outcome.values.iter().map(|(name, value)| (name, *value, &outcome.detail))
                    });
                    let mut said = Vec::new();
                    for (measure, value, detail) in values {
                        said.push(format!("{measure} {value:.1}"));
                        self.log.line(&Line::Sample(Box::new(Sample {
                            round,
                            scenario,
                            measure: measure.clone(),
                            contender,
                            value,
                            packets,
                            flows,
                            before: before.clone(),
                            after: after.clone(),
                            detail: detail.clone(),
                        })))?;
                    }
                    eprintln!("  {}: {}", contender.name(), said.join(", "));
                    let missing = outcomes.into_iter().flat_map(|outcome| outcome.missing);
                    for (measure, error) in missing {
                        eprintln!("  {}: {measure} failed: {error}", contender.name());
                        let failure = Failure { round, scenario, measure, contender, error };
                        self.log.line(&Line::Failure(failure))?;
                    }
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    eprintln!("  {}: {} failed: {error}", contender.name(), kind.name());
                    let measure = kind.name().to_owned();
                    let failure = Failure { round, scenario, measure, contender, error };
                    self.log.line(&Line::Failure(failure))?;
                }
            }
        }
        Ok(())
    }
}

/// The order of so many contenders in a round: a row of a Williams square (E. J. Williams,
/// Experimental designs balanced for the estimation of residual effects of treatments, 1949).
/// Within as many rounds as there are contenders each comes first once, and none follows
/// another more than once, where their number is odd, twice.
fn order(count: usize, round: usize) -> impl Iterator<Item = usize> {
    // 0, 1, n-1, 2, n-2, ... : all distances between neighbours differ.
    let zigzag = move |at: usize| if at % 2 == 1 { at.div_ceil(2) } else { count - at / 2 };
    (0..count).map(move |at| (zigzag(at) + round) % count)
}

/// The file of samples.
struct Log {
    file: File,
}

impl Log {
    fn new(path: &Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { file })
    }

    fn line(&mut self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        Ok(self.file.write_all(text.as_bytes())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_has_another_before_it_in_each_round() {
        for count in 1..=12 {
            let mut followers: BTreeMap<(usize, usize), usize> = BTreeMap::new();
            let mut first = BTreeSet::new();
            for round in 0..count {
                let row: Vec<usize> = order(count, round).collect();
                assert_eq!(row.iter().collect::<BTreeSet<_>>().len(), count, "{row:?}");
                first.insert(row[0]);
                for pair in row.windows(2) {
                    *followers.entry((pair[0], pair[1])).or_default() += 1;
                }
            }
            assert_eq!(first.len(), count);
            let most = followers.values().max().copied().unwrap_or(0);
            assert!(most <= 1 + count % 2, "{count}: one follows another {most} times");
        }
    }
}
