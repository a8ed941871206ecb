//! `weir-bench`: the command line of the generator and the receiver.
#![forbid(unsafe_code)]

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use serde::Serialize;
use weir_bench::{message, pktgen, sink};

/// Packet generator and measurements for Weir.
#[derive(Parser)]
#[command(name = "weir-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send numbered, time-stamped UDP messages at a steady rate; prints JSON
    Pktgen {
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

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Pktgen { to, from, rate, count, duration, size } => {
            let duration = duration.or(count.is_none().then_some(Duration::from_secs(10)));
            let plan = pktgen::Plan { to, from, rate, count, duration, size };
            pktgen::run(&plan).and_then(|sent| print(&sent))
        }
        Command::Sink { listen, wait, idle } => {
            let wait = sink::Wait { listen, first: wait, idle };
            sink::run(&wait).and_then(|report| print(&report))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One JSON object on one line.
fn print(value: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}
