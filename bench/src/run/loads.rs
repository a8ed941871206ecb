//! The loads, each a program of its own with one end in either pod, and what they found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::effort::Effort;
use super::lab::{Lab, Where, output};
use super::scenario::{Family, Flows, Load, Scenario, Size};
use super::search::{self, Found, Rate, Trial};
use crate::flood::most_first_packets;
use crate::place::processors;

/// How long a load may take beyond what it was told to.
const GRACE: Duration = Duration::from_secs(90);
/// A segment that the kernel moves as one holds at most 64 KiB.
const SEGMENT: f64 = 65_536.0;
/// How often a trial is made in which the sink, not the path, lost frames.
const SINK_ATTEMPTS: u32 = 3;
/// The parts of the rate without loss at which latency is measured, in percent.
pub const LATENCY_AT: [u32; 3] = [10, 50, 90];

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Processor time for a packet
    Cpu,
    /// Rates at no loss and at little loss, latency below them
    Rate,
    /// iperf3, one stream and eight
    Tcp,
    /// UDP request and response
    Rr,
    /// TCP connections a second
    Connect,
}

impl Kind {
    /// What belongs to a scenario.
    pub fn of(scenario: Scenario) -> &'static [Self] {
        match scenario.load {
            Load::Packets { flows: Flows::New | Flows::First, .. } => &[Self::Cpu],
            Load::Packets { .. } => &[Self::Cpu, Self::Rate],
            Load::Apps => &[Self::Tcp, Self::Rr, Self::Connect],
        }
    }

    /// The load that gives a measure.
    pub fn of_measure(id: &str) -> Option<Self> {
        Some(match id.split('-').next()? {
            "cpu" if id == "cpu" => Self::Cpu,
            "cpu" | "ndr" | "pdr" | "latency" => Self::Rate,
            "tcp" => Self::Tcp,
            "rr" => Self::Rr,
            "connect" => Self::Connect,
            _ => return None,
        })
    }

    /// As the command line names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Rate => "rate",
            Self::Tcp => "tcp",
            Self::Rr => "rr",
            Self::Connect => "connect",
        }
    }
}

/// What a load found.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// By the measure's name.
    pub values: BTreeMap<String, f64>,
    /// Packets that passed at least, first packets of flows excepted.
    pub packets: f64,
    /// Flows that were certainly new to the contender.
    pub flows: f64,
    /// For those who look for the reason of a value.
    pub detail: Value,
    /// Measures that belong to the load and have no value, with the reason.
    pub missing: Vec<(String, String)>,
}

/// Where and what to load.
#[derive(Debug)]
pub struct Loads<'a> {
    /// The node.
    pub lab: &'a Lab,
    /// This program.
    pub program: &'a Path,
    /// How much.
    pub effort: &'a Effort,
    /// What.
    pub scenario: Scenario,
    /// Processes whose time counts.
    pub charged: Vec<u32>,
    /// How the generator reaches the devices, found out once for the whole run.
    pub io: &'a str,
}

impl Loads<'_> {
    /// Runs one; `known` are the rates that an earlier round found, and those of this
    /// round afterwards.
    ///
    /// # Errors
    /// The load's last words.
    pub fn run(&self, kind: Kind, known: &mut Option<Found>) -> Result<Vec<Outcome>> {
        Ok(match kind {
            Kind::Cpu => vec![self.cpu()?],
            Kind::Rate => vec![self.rate(known)?],
            Kind::Tcp => vec![self.tcp(1)?, self.tcp(8)?],
            Kind::Rr => vec![self.rr("block")?, self.rr("spin")?],
            Kind::Connect => vec![self.connect()?],
        })
    }

    fn cpu(&self) -> Result<Outcome> {
        let Load::Packets { size, flows } = self.scenario.load else {
            anyhow::bail!("{} has no packets", self.scenario);
        };
        let effort = self.effort;
        let (flows, packets, slices) = match flows {
            Flows::Established(flows) => {
                (format!("--flows={flows}"), effort.packets, effort.slices)
            }
            Flows::New => ("--new".to_owned(), effort.new_packets, effort.new_slices),
            Flows::First => {
                let packets = effort.new_packets.min(most_first_packets(effort.new_slices));
                ("--first".to_owned(), packets, effort.new_slices)
            }
        };
        let mut words =
            vec![flows, format!("--size={}", bytes(size)), format!("--packets={packets}")];
        words.push(format!("--slices={slices}"));
        words.extend(self.charge());
        let report = self.own("flood", &words, GRACE)?;
        let slices = report["slices"].as_array().context("flood reports no slices")?;
        let sum = |name: &str| slices.iter().filter_map(|slice| slice[name].as_f64()).sum::<f64>();
        let delivered = sum("delivered");
        let share = |name: &str| (sum(name) / delivered).round();
        let new = report["opened"].as_f64().unwrap_or(0.0);
        let is_new = !words[0].starts_with("--flows");
        Ok(Outcome {
            values: [("cpu".to_owned(), number(&report, "ns_per_packet")?)].into(),
            packets: if is_new { 0.0 } else { delivered },
            flows: new,
            missing: Vec::new(),
            detail: json!({"own_ns": share("own_ns"), "ksoftirqd_ns": share("ksoftirqd_ns"),
                "charged_ns": share("charged_ns"), "delivered": delivered}),
        })
    }

    fn rate(&self, known: &mut Option<Found>) -> Result<Outcome> {
        let effort = self.effort;
        let mut packets = 0.0;
        let mut trials = Vec::new();
        let mut trial = |rate: Rate| {
            let mut attempt = 1;
            loop {
                let report = self.pktgen(rate, effort.trial, effort.warm_up)?;
                packets += number(&report, "received")?;
                let trial = Sent::read(&report)?;
                trials.push(trial.detail());
                // What the sink had no room for says nothing about the path. If that stays
                // so, the trial counts as failed: its rate was not seen to pass.
                if trial.sink_dropped > 0.0 && attempt < SINK_ATTEMPTS {
                    attempt += 1;
                    continue;
                }
                return Ok(Trial { sent_pps: trial.sent_pps, loss: trial.loss() });
            }
        };
        let found = search::round(*known, (effort.search, effort.confirm), &mut trial)?;
        // What fails once is searched for again in the next round, from where it was.
        *known = Some(Found {
            ndr_pps: found.ndr_pps.or(known.and_then(|known| known.ndr_pps)),
            pdr_pps: found.pdr_pps.or(known.and_then(|known| known.pdr_pps)),
            ..found
        });
        let (mut values, mut missing) = (BTreeMap::new(), Vec::new());
        for (name, loss, rate) in [("ndr", "0", found.ndr_pps), ("pdr", "0.1 %", found.pdr_pps)] {
            match rate {
                Some(rate) => drop(values.insert(name.to_owned(), rate / 1e3)),
                None => missing.push((
                    name.to_owned(),
                    format!("no rate at a loss of at most {loss} within {} trials", found.trials),
                )),
            }
        }
        let (base, rate) = match (found.ndr_pps, found.pdr_pps) {
            (Some(rate), _) => ("ndr", rate),
            (None, Some(rate)) => ("pdr", rate),
            (None, None) => {
                anyhow::bail!("no rate at a loss of at most 0.1 % within {} trials", found.trials)
            }
        };
        let (mut at_parts, mut too_few) = (Vec::new(), Vec::new());
        for part in LATENCY_AT {
            let offered = rate * f64::from(part) / 100.0;
            let report =
                self.pktgen(Rate::Pps(offered), effort.latency_at(offered), effort.warm_up)?;
            packets += number(&report, "received")?;
            let sent = Sent::read(&report)?;
            at_parts.push(sent.detail());
            if let Err(why) = sent.check(offered) {
                missing.push((format!("latency-{part}"), why));
                continue;
            }
            let found = percentiles(&report["latency_ns"], part)?;
            if !found.contains_key(&format!("latency-{part}-p9999")) {
                too_few.push(part);
            }
            values.extend(found);
            values.insert(format!("cpu-at-{part}"), number(&report["cpu"], "ns_per_packet")?);
        }
        let detail = json!({"trials": trials, "latency_base": base, "latency": at_parts,
            "too_few_for_p9999": too_few, "io": self.io});
        Ok(Outcome { values, packets, flows: 0.0, detail, missing })
    }

    /// One trial of the generator.
    fn pktgen(&self, rate: Rate, seconds: f64, warm_up: f64) -> Result<Value> {
        let Load::Packets { size, flows: Flows::Established(flows) } = self.scenario.load else {
            anyhow::bail!("{} has no established packets", self.scenario);
        };
        let rate = match rate {
            Rate::FlatOut => "max".to_owned(),
            Rate::Pps(pps) => format!("{pps:.0}"),
        };
        let mut words = vec![format!("--size={}", bytes(size)), format!("--flows={flows}")];
        words.extend([format!("--rate={rate}"), format!("--duration={seconds}")]);
        words.extend([format!("--warm-up={warm_up}"), "-o".to_owned(), "json".to_owned()]);
        words.extend([format!("--pin={},0", processors() - 1), format!("--io={}", self.io)]);
        words.extend(self.charge());
        self.own("pktgen", &words, GRACE)
    }

    fn tcp(&self, streams: u32) -> Result<Outcome> {
        let server = self.lab.server.ip(self.scenario.family).to_string();
        let mut command = self.lab.command(Where::Pod(&self.lab.client), "iperf3");
        command.args(["--client", &server, "--json", "--interval", "0"]);
        command.args(["--time", &self.effort.stream.to_string()]);
        command.args(["--parallel", &streams.to_string()]);
        command.args(["--affinity", &format!("{},0", processors() - 1)]);
        let text = output(&mut command, GRACE)?;
        let report: Value = serde_json::from_str(&text).context("iperf3 printed no JSON")?;
        if let Some(error) = report["error"].as_str() {
            anyhow::bail!("iperf3: {error}");
        }
        let sum = &report["end"]["sum_received"];
        let rate = number(sum, "bits_per_second")? / 1e9;
        Ok(Outcome {
            values: [(format!("tcp-{streams}"), rate)].into(),
            packets: number(sum, "bytes")? / SEGMENT,
            flows: f64::from(streams) + 1.0, // and one to control the test
            missing: Vec::new(),
            detail: json!({"retransmits": report["end"]["sum_sent"]["retransmits"]}),
        })
    }

    fn rr(&self, receive: &str) -> Result<Outcome> {
        let words = [
            format!("--receive={receive}"),
            format!("--transactions={}", self.effort.transactions),
        ];
        let report = self.own("rr", &words, GRACE)?;
        let values = ["p50", "p99"].map(|percentile| {
            let ns = number(&report, &format!("{percentile}_ns"))?;
            Ok((format!("rr-{receive}-{percentile}"), ns / 1e3))
        });
        Ok(Outcome {
            values: values.into_iter().collect::<Result<_>>()?,
            packets: number(&report, "packets")?,
            flows: 1.0,
            missing: Vec::new(),
            detail: json!({"lost": report["lost"]}),
        })
    }

    fn connect(&self) -> Result<Outcome> {
        let words = [format!("--duration={}", self.effort.connect)];
        let report = self.own("connect", &words, GRACE)?;
        let (done, failed) = (number(&report, "connections")?, number(&report, "failed")?);
        ensure!(failed <= done / 1000.0, "{failed} of {} connections failed", done + failed);
        Ok(Outcome {
            values: [("connect".to_owned(), number(&report, "rate")?)].into(),
            // SYN-ACK, ACK, byte, byte, reset: five at least after the first.
            packets: 5.0 * done,
            flows: done,
            missing: Vec::new(),
            detail: Value::Null,
        })
    }

    fn charge(&self) -> Option<String> {
        let pids: Vec<String> = self.charged.iter().map(u32::to_string).collect();
        (!pids.is_empty()).then(|| format!("--charge={}", pids.join(",")))
    }

    fn own(&self, load: &str, words: &[String], patience: Duration) -> Result<Value> {
        own(self.lab, self.scenario.family, self.program, load, words, patience)
    }
}

/// As the loads' `--size` wants it.
fn bytes(size: Size) -> String {
    match size {
        Size::Bytes(bytes) => bytes.to_string(),
        Size::Imix => "IMIX".to_owned(),
    }
}

/// A load of this program's own, between the pods; its JSON.
fn own(
    lab: &Lab,
    family: Family,
    program: &Path,
    load: &str,
    words: &[String],
    patience: Duration,
) -> Result<Value> {
    let (client, server) = (&lab.client, &lab.server);
    let mut command = lab.command(Where::Node, program);
    command.args([load, "--client", "/run/netns/client", "--server", "/run/netns/server"]);
    command.args(["--from", &client.ip(family).to_string()]);
    command.args(["--to", &server.ip(family).to_string()]);
    let text = output(command.args(words), patience)?;
    serde_json::from_str(&text).with_context(|| format!("{load} printed no JSON: {text}"))
}

/// How the generator reaches the devices here: one way for all rates and all contenders,
/// because figures of two ways are not comparable.
///
/// # Errors
/// When nothing arrives between the pods with nobody in the way.
pub fn probe(lab: &Lab, program: &Path) -> Result<String> {
    let words = ["--rate=1000", "--count=100", "--io=auto", "-o", "json"].map(str::to_owned);
    let report =
        own(lab, Family::V4, program, "pktgen", &words, GRACE).context("the generator's probe")?;
    ensure!(number(&report, "received")? > 0.0, "the generator's probe: nothing arrived");
    Ok(report["io"].as_str().context("pktgen does not say how it reached the device")?.to_owned())
}

/// The percentiles of a latency in µs, by the measure's name; none of those for which there were
/// too few frames, which the generator leaves empty.
fn percentiles(latency: &Value, part: u32) -> Result<BTreeMap<String, f64>> {
    let mut found = BTreeMap::new();
    for percentile in ["p50", "p90", "p99", "p999", "p9999"] {
        if latency[percentile] != Value::Null {
            let ns = number(latency, percentile)?;
            found.insert(format!("latency-{part}-{percentile}"), ns / 1e3);
        }
    }
    ensure!(found.len() >= 2, "no percentiles in {latency}");
    Ok(found)
}

/// What became of the frames of one trial.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    offered_pps: f64,
    sent_pps: f64,
    sent: f64,
    lost: f64,
    sink_dropped: f64,
    lag_max_ns: f64,
}

impl Sent {
    fn read(report: &Value) -> Result<Self> {
        let of = |name| number(report, name);
        Ok(Self {
            offered_pps: of("offered_pps")?,
            sent_pps: of("sent_pps")?,
            sent: of("sent")?,
            lost: of("lost")?,
            sink_dropped: of("sink_dropped")?,
            lag_max_ns: of("send_lag_max_ns")?,
        })
    }

    fn loss(self) -> f64 {
        if self.sent > 0.0 { self.lost / self.sent } else { 1.0 }
    }

    fn detail(self) -> Value {
        json!({"offered_pps": self.offered_pps, "sent_pps": self.sent_pps.round(),
            "sent": self.sent, "lost": self.lost, "sink_dropped": self.sink_dropped,
            "send_lag_max_ns": self.lag_max_ns})
    }

    /// `Err` says why its latency is not that of the rate that was offered.
    fn check(self, offered_pps: f64) -> Result<(), String> {
        if self.sent_pps < search::SENT * offered_pps {
            return Err(format!("{:.0} of {offered_pps:.0} packets/s sent", self.sent_pps));
        }
        if self.loss() > search::PDR_LOSS {
            let Self { lost, sent, sink_dropped, .. } = self;
            return Err(format!("{lost} of {sent} packets lost, {sink_dropped} by the sink"));
        }
        Ok(())
    }
}

fn number(value: &Value, name: &str) -> Result<f64> {
    value[name].as_f64().with_context(|| format!("no number {name} in {value}"))
}

/// The programs next to this one.
///
/// # Errors
/// When the system does not tell where this program is.
pub fn programs() -> Result<(PathBuf, PathBuf)> {
    let own = std::env::current_exe().context("where is this program?")?;
    let folder = own.parent().context("where is this program?")?.to_owned();
    Ok((own, folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_counts_only_at_the_rate_that_was_asked_for() {
        let sent = Sent { sent_pps: 990.0, sent: 10_000.0, lost: 10.0, ..Sent::default() };
        assert_eq!(sent.check(1000.0), Ok(()));
        assert!(sent.check(1011.0).unwrap_err().contains("990 of 1011"));
        let lossy = Sent { lost: 11.0, sink_dropped: 3.0, ..sent };
        let why = lossy.check(1000.0).unwrap_err();
        assert!(why.contains("11 of 10000 packets lost, 3 by the sink"), "{why}");
        assert!(Sent { sent: 0.0, ..sent }.check(1000.0).is_err());
    }

    #[test]
    fn a_percentile_for_which_there_were_too_few_frames_is_left_out() {
        let mut latency =
            json!({"p50": 1000, "p90": 2000, "p99": 3000, "p999": 4500, "p9999": null});
        let found = percentiles(&latency, 10).unwrap();
        assert_eq!((found.len(), found["latency-10-p999"]), (4, 4.5));
        latency["p9999"] = 5000.into();
        assert_eq!(percentiles(&latency, 10).unwrap()["latency-10-p9999"], 5.0);
        assert!(percentiles(&json!({}), 10).is_err());
    }

    #[test]
    fn every_measure_comes_from_a_load() {
        let all = crate::report::measures::all();
        assert!(all.iter().all(|measure| Kind::of_measure(&measure.id).is_some()));
        assert_eq!(Kind::of_measure("cpu"), Some(Kind::Cpu));
        assert_eq!(Kind::of_measure("cpu-at-90"), Some(Kind::Rate));
    }

    #[test]
    fn a_trial_without_its_sinks_word_is_none() {
        let mut report = json!({"offered_pps": 1.0, "sent_pps": 1.0, "sent": 1, "lost": 0,
            "sink_dropped": 0, "send_lag_max_ns": 5});
        assert!(Sent::read(&report).is_ok());
        assert_eq!(Sent::read(&report).unwrap().detail()["send_lag_max_ns"], 5.0);
        report.as_object_mut().unwrap().remove("sink_dropped");
        assert!(Sent::read(&report).unwrap_err().to_string().contains("sink_dropped"));
    }
}
