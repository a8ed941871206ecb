//! The command line of `weir-bench`.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::pktgen::size::Sizes;
use crate::report::{Report, inprocess};
use crate::run::contender::Contender;
use crate::run::effort::Effort;
use crate::run::loads::Kind;
use crate::run::scenario::Scenario;
use crate::run::{self, Plan};
use crate::{connect, flood, message, pktgen, place, rr, sink, stream};

/// Exit code: all is well.
pub const OK: u8 = 0;
/// Exit code: a figure is not as wanted, or could not be had.
pub const FINDING: u8 = 1;

/// Packet generator and measurements for Weir.
#[derive(Debug, Parser)]
#[command(name = "weir-bench", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send frames past the kernel's sockets and judge what arrives: loss, order, latency, cost
    Pktgen(Box<pktgen::Arguments>),
    /// Send numbered, time-stamped UDP messages by an ordinary socket; prints JSON
    Stream {
        /// Receiver, e.g. 10.244.0.2:9000 or [fd00::2]:9000
        #[arg(long, value_name = "ADDR:PORT")]
        to: SocketAddr,
        /// Own address and port [default: chosen by the kernel]
        #[arg(long, value_name = "ADDR:PORT")]
        from: Option<SocketAddr>,
        /// Messages a second; 0: as many as the socket takes
        #[arg(long, default_value_t = 1000.0)]
        rate: f64,
        /// Stop after so many messages
        #[arg(long)]
        count: Option<u64>,
        /// Stop after so many seconds [default: 10 unless --count is given]
        #[arg(long, value_name = "SECONDS", value_parser = seconds)]
        duration: Option<Duration>,
        /// Bytes of UDP payload
        #[arg(long, default_value_t = 64, value_parser = size)]
        size: usize,
    },
    /// Receive one such stream; prints JSON: loss, order, gaps, latency
    Sink {
        /// Where to listen, e.g. 0.0.0.0:9000 or [::]:9000
        #[arg(long, value_name = "ADDR:PORT")]
        listen: SocketAddr,
        /// Give up if nothing has come after so many seconds
        #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
        wait: Duration,
        /// The stream is over when nothing has come for so many seconds
        #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
        idle: Duration,
    },
    /// Processor time for each packet of established, or of new, UDP flows; prints JSON
    Flood {
        #[command(flatten)]
        ends: Ends,
        /// Flows, used in turn
        #[arg(long, default_value_t = 1)]
        flows: u32,
        /// Every packet is the first of a flow
        #[arg(long, conflicts_with = "flows")]
        new: bool,
        /// Every packet is the first of a flow, and the first to its port
        #[arg(long, conflicts_with_all = ["flows", "new"])]
        first: bool,
        /// Bytes of a frame with its checksum, 64 to 1518, or IMIX; over IPv6 from 78 on
        #[arg(long, default_value = "64", value_name = "BYTES")]
        size: Sizes,
        /// Packets of one slice
        #[arg(long, default_value_t = 200_000)]
        packets: u32,
        /// Slices; the result is their median
        #[arg(long, default_value_t = 5)]
        slices: u32,
        /// Processor of the sender [default: the last]
        #[arg(long)]
        cpu: Option<usize>,
        /// Processes whose time counts, e.g. a policy engine's
        #[arg(long, value_name = "PID", value_delimiter = ',')]
        charge: Vec<u32>,
        /// The server's device
        #[arg(long, default_value = "eth0")]
        device: String,
        /// The part of the packets, 0 to 1, that may be lost
        #[arg(long, default_value_t = 0.001)]
        loss: f64,
    },
    /// Time of a UDP request and its response; prints JSON
    Rr {
        #[command(flatten)]
        ends: Ends,
        /// Transactions
        #[arg(long, default_value_t = 20_000)]
        transactions: u32,
        /// Give up after so many seconds
        #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
        timeout: Duration,
        /// How both ends wait for a packet
        #[arg(long, value_enum, default_value = "block")]
        receive: Receive,
        /// Processors of client and server [default: the last and the first]
        #[arg(long, value_name = "CPU,CPU", value_delimiter = ',', num_args = 2)]
        cpus: Option<Vec<usize>>,
    },
    /// New TCP connections a second; prints JSON
    Connect {
        #[command(flatten)]
        ends: Ends,
        /// Threads of the client, and as many of the server
        #[arg(long, default_value_t = 4)]
        threads: usize,
        /// How long
        #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
        duration: Duration,
        /// Processors of client and server [default: the last and the first]
        #[arg(long, value_name = "CPU,CPU", value_delimiter = ',', num_args = 2)]
        cpus: Option<Vec<usize>>,
        /// How the client closes
        #[arg(long, value_enum, default_value = "reset")]
        close: Close,
    },
    /// Compare contenders on a throw-away node; prints the report. Needs root
    Run(Box<Run>),
    /// Judge the samples of a run; exit code 1: a figure is not as wanted
    Report {
        /// Samples, a JSON object a line; - is standard input
        samples: PathBuf,
        #[command(flatten)]
        report: Reporting,
    },
}

/// What to compare.
#[derive(Debug, Args)]
struct Run {
    /// SIZE-RULES-FLOWS, e.g. 64b-1000r-10kf or 64b-100r-new, or apps-RULES; ethip6- in front of
    /// it: over IPv6
    #[arg(required = true, value_name = "SCENARIO")]
    scenarios: Vec<Scenario>,
    /// Who is compared [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    contenders: Vec<Contender>,
    /// What is measured [default: all that belongs to a scenario]
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Kind>,
    /// Search for rates in these scenarios alone, since that takes longer than all else
    /// [default: in all of established flows]
    #[arg(long, value_name = "SCENARIO", value_delimiter = ',')]
    rates: Vec<Scenario>,
    /// Rounds [default: 5, with --quick 2]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Short loads: whether it works, not how fast
    #[arg(long)]
    quick: bool,
    /// The script that makes the node
    #[arg(long, value_name = "FILE", default_value = "scripts/lab")]
    lab: PathBuf,
    /// Weir's programs [default: next to this one]
    #[arg(long, value_name = "DIR")]
    bin: Option<PathBuf>,
    /// Where samples are written as they come
    #[arg(long, value_name = "FILE", default_value = "weir-bench.jsonl")]
    samples: PathBuf,
    #[command(flatten)]
    report: Reporting,
}

/// What becomes of the report.
#[derive(Debug, Args)]
struct Reporting {
    /// Write RESULTS.md and its pictures into this folder
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// What bench/in-process measured at the same commit [default: not in the report]
    #[arg(long, value_name = "FILE")]
    in_process: Option<PathBuf>,
    /// Output format
    #[arg(short = 'o', long, value_enum, default_value = "table")]
    output: Output,
}

impl Run {
    /// # Errors
    /// In words for whoever wrote the command line, when something is named twice.
    fn plan(&self) -> Result<Plan, String> {
        let effort = if self.quick { Effort::QUICK } else { Effort::DEFAULT };
        let contenders =
            if self.contenders.is_empty() { &Contender::ALL[..] } else { &self.contenders };
        once("scenario", &self.scenarios)?;
        once("contender", contenders.iter().map(|contender| contender.name()))?;
        once("measurement (--only)", self.only.iter().map(|kind| kind.name()))?;
        once("scenario (--rates)", &self.rates)?;
        let has_none = |scenario: &&Scenario| {
            !self.scenarios.contains(scenario) || !Kind::of(**scenario).contains(&Kind::Rate)
        };
        if let Some(scenario) = self.rates.iter().find(has_none) {
            return Err(format!(
                "--rates {scenario}: not among the scenarios, or not of established flows"
            ));
        }
        let mut command = vec!["weir-bench".to_owned()];
        command.extend(std::env::args().skip(1));
        Ok(Plan {
            scenarios: self.scenarios.clone(),
            contenders: contenders.to_vec(),
            only: self.only.clone(),
            rates: self.rates.clone(),
            effort: Effort { rounds: self.rounds.unwrap_or(effort.rounds), ..effort },
            lab: self.lab.clone(),
            bin: self.bin.clone(),
            samples: self.samples.clone(),
            command: command.join(" "),
        })
    }
}

/// The two pods of a measurement.
#[derive(Debug, Args)]
struct Ends {
    /// Network namespace of the client's pod [default: this process's]
    #[arg(long, value_name = "PATH")]
    client: Option<PathBuf>,
    /// Network namespace of the server's pod [default: this process's]
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,
    /// The client's address, IPv4 or IPv6
    #[arg(long, value_name = "IP")]
    from: IpAddr,
    /// The server's address, of the same family
    #[arg(long, value_name = "IP")]
    to: IpAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Receive {
    /// In a system call that sleeps
    Block,
    /// By asking again and again
    Spin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Close {
    /// By a reset: no end stays in TIME-WAIT
    Reset,
    /// In order
    Fin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Markdown
    Table,
    /// One JSON object
    Json,
}

impl Cli {
    /// Does what was asked and gives the exit code.
    ///
    /// # Errors
    /// Those of the command.
    pub fn run(self) -> Result<u8> {
        match self.command {
            Command::Pktgen(arguments) => generate(&arguments),
            Command::Stream { to, from, rate, count, duration, size } => {
                let duration = duration.or(count.is_none().then_some(Duration::from_secs(10)));
                let plan = stream::Plan { to, from, rate, count, duration, size };
                print(&stream::run(&plan)?)
            }
            Command::Sink { listen, wait, idle } => {
                let wait = sink::Wait { listen, first: wait, idle };
                print(&sink::run(&wait)?)
            }
            Command::Flood {
                ends,
                flows,
                new,
                first,
                size,
                packets,
                slices,
                cpu,
                charge,
                device,
                loss,
            } => {
                let Ends { client, server, from, to } = ends;
                let cpu = cpu.unwrap_or(place::processors() - 1);
                print(&flood::run(&flood::Plan {
                    client,
                    server,
                    device,
                    from,
                    to,
                    flows,
                    new,
                    first,
                    sizes: size,
                    packets,
                    slices,
                    cpu,
                    charge,
                    loss,
                })?)
            }
            Command::Rr { ends, transactions, timeout, receive, cpus } => {
                let Ends { client, server, from, to } = ends;
                let spin = receive == Receive::Spin;
                let cpus = both(cpus.as_deref());
                let plan = rr::Plan { client, server, from, to, transactions, timeout, spin, cpus };
                print(&rr::run(&plan)?)
            }
            Command::Connect { ends, threads, duration, cpus, close } => {
                let Ends { client, server, to, .. } = ends;
                let (orderly, cpus) = (close == Close::Fin, both(cpus.as_deref()));
                let plan = connect::Plan { client, server, to, threads, duration, cpus, orderly };
                print(&connect::run(&plan)?)
            }
            Command::Run(wanted) => {
                let plan = asked(wanted.plan());
                // Before hours are spent.
                wanted.report.in_process.as_deref().map(inprocess::read).transpose()?;
                run::run(&plan)?;
                report(&wanted.samples, &wanted.report)
            }
            Command::Report { samples, report: wanted } => report(&samples, &wanted),
        }
    }
}

/// Refuses what is named twice: a second measurement of the same in one round would take the
/// place of the first.
fn once<T: ToString>(what: &str, all: impl IntoIterator<Item = T>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for one in all {
        let name = one.to_string();
        if let Some(name) = seen.replace(name) {
            return Err(format!("the {what} {name} is named twice; once is enough"));
        }
    }
    Ok(())
}

/// The processors of client and server.
fn both(cpus: Option<&[usize]>) -> (usize, usize) {
    match cpus {
        Some([client, server]) => (*client, *server),
        _ => (place::processors() - 1, 0),
    }
}

/// What was asked for, or exit code 2, as for any other mistake on the command line, when it
/// contradicts itself.
fn asked<T>(plan: Result<T, String>) -> T {
    plan.unwrap_or_else(|why| Cli::command().error(ErrorKind::ValueValidation, why).exit())
}

fn generate(arguments: &pktgen::Arguments) -> Result<u8> {
    let plan = asked(arguments.plan());
    let report = pktgen::run(&plan)?;
    match arguments.output {
        pktgen::Output::Table => std::io::stdout().lock().write_all(report.table().as_bytes())?,
        pktgen::Output::Json => {
            print(&report)?;
        }
    }
    Ok(OK)
}

fn report(samples: &Path, wanted: &Reporting) -> Result<u8> {
    let inprocess = wanted.in_process.as_deref().map(inprocess::read).transpose()?;
    let report = if samples.as_os_str() == "-" {
        Report::read(std::io::stdin().lock(), inprocess)?
    } else {
        let file = std::fs::File::open(samples)
            .with_context(|| format!("cannot read {}", samples.display()))?;
        Report::read(std::io::BufReader::new(file), inprocess)?
    };
    if let Some(folder) = &wanted.save {
        report.save(folder)?;
    }
    match wanted.output {
        Output::Table => std::io::stdout().lock().write_all(report.markdown(&[]).as_bytes())?,
        Output::Json => {
            print(&report.json())?;
        }
    }
    Ok(if report.is_as_wanted() { OK } else { FINDING })
}

/// Parses a duration in seconds, at least a millisecond, at most a day.
fn seconds(text: &str) -> Result<Duration, String> {
    let value: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    if (0.001..=86_400.0).contains(&value) {
        Ok(Duration::from_secs_f64(value))
    } else {
        Err("from 0.001 to 86400 seconds".to_owned())
    }
}

/// Parses a payload size: room for the message, at most what UDP carries.
fn size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size) if (message::MIN_SIZE..=65_487).contains(&size) => Ok(size),
        _ => Err(format!("from {} to 65487 bytes", message::MIN_SIZE)),
    }
}

/// One JSON object on one line.
fn print(value: &impl Serialize) -> Result<u8> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    Ok(OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(words: &str) -> Result<Plan, String> {
        let words = ["weir-bench", "run"].into_iter().chain(words.split(' '));
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        let Command::Run(run) = cli.command else { panic!("no run") };
        run.plan()
    }

    #[test]
    fn nothing_is_measured_twice_in_a_round() {
        for (words, twice) in [
            ("64b-1r-10kf apps-1r 64b-1r-10000f", "scenario 64b-1r-10kf is named twice"),
            ("apps-1r --contenders plain,weir,plain", "contender plain is named twice"),
            ("apps-1r --only tcp,rr,tcp", "(--only) tcp is named twice"),
            ("64b-1r-1f --rates 64b-1r-1f,64b-1r-1f", "(--rates) 64b-1r-1f is named twice"),
            ("64b-1r-1f --rates 64b-1r-10f", "--rates 64b-1r-10f: not among the scenarios"),
            ("64b-1r-new --rates 64b-1r-new", "or not of established flows"),
        ] {
            let error = plan(words).unwrap_err();
            assert!(error.contains(twice), "{words}: {error}");
        }
        let plan = plan("apps-1r apps-10r --contenders plain,weir").unwrap();
        assert_eq!((plan.scenarios.len(), plan.contenders.len()), (2, 2));
    }

    #[test]
    fn whoever_names_what_there_is_not_is_told_what_there_is() {
        let contenders = plan("apps-1r --contenders plain,cilium").unwrap_err();
        assert!(Contender::ALL.iter().all(|who| contenders.contains(who.name())), "{contenders}");
        let scenarios = plan("apps").unwrap_err();
        for part in ["imix", "new", "first", "apps-RULES", "64b-1000r-10kf"] {
            assert!(scenarios.contains(part), "{part}: {scenarios}");
        }
        let kinds = plan("apps-1r --only latency").unwrap_err();
        assert!(["cpu", "rate", "tcp", "rr", "connect"].iter().all(|kind| kinds.contains(kind)));
    }
}
