//! `weir-dataplane`: see the library's documentation and `dataplane/README.md`.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use weir_dataplane::daemon::{Daemon, Settings};
use weir_dataplane::punt::IoMode;
use weir_dataplane::steer::abi::{MAX_WORKERS, Mark};
use weir_dataplane::steer::attach::AttachMode;

/// Enforces NetworkPolicies on the pods of this node, in the wire of every pod.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// Socket on which weir-control publishes [default: RUN_DIR/dataplane.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// How packets reach user space
    #[arg(long, value_enum, default_value = "auto")]
    io: IoMode,
    /// Packet workers, one pinned core each
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_WORKERS)))]
    workers: u32,
    /// Whether decided flows stay in the kernel, or every packet passes user space
    #[arg(long, value_enum, default_value = "on")]
    offload: Switch,
    /// What happens to undecided packets while no worker serves
    #[arg(long, value_enum, default_value = "closed")]
    on_failure: FailureMode,
    /// Flows that the flow table holds
    #[arg(long, value_name = "N", default_value_t = 262_144,
          value_parser = clap::value_parser!(u32).range(1024..=16_777_216))]
    flows: u32,
    /// Flows that one pod may have in it at most, a 256th of --flows or more; fewer while the
    /// table fills up [default: a quarter of --flows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    flows_per_pod: Option<u32>,
    /// How the hooks are attached to pods' devices
    #[arg(long, value_enum, default_value = "auto")]
    attach: AttachMode,
    /// Bits of the packet mark that Weir may use
    #[arg(long, value_name = "VALUE/MASK", default_value_t = Mark::DEFAULT)]
    mark: Mark,
    /// Serves /metrics, /healthz and /readyz there, for example 127.0.0.1:9465
    #[arg(long, value_name = "ADDR")]
    metrics: Option<String>,
    /// How what happens is written to standard error; WEIR_LOG (or RUST_LOG) says what, for
    /// example WEIR_LOG=warn
    #[arg(long, value_enum, default_value = "text")]
    log: LogFormat,
    /// Sockets and tmpfs state
    #[arg(long, value_name = "DIR", default_value = weir_table::DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
    /// Pinned maps and links, on a BPF filesystem
    #[arg(long, value_name = "DIR", default_value = weir_table::DEFAULT_PIN_DIR)]
    pin_dir: PathBuf,
    /// Where the container runtime keeps network namespaces
    #[arg(long, value_name = "DIR", default_value = "/run/netns")]
    netns_dir: PathBuf,
    /// Whether a pod's interface that comes counts for nothing until weir-cni has spoken of it
    #[arg(long, value_enum, default_value = "auto")]
    cni: CniMode,
    /// Name of the punt pair: PREFIX0 and PREFIX1
    #[arg(long, value_name = "PREFIX", default_value = "weir")]
    device_prefix: String,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    /// Decided flows stay in the kernel
    On,
    /// Every packet passes user space
    Off,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FailureMode {
    /// They are dropped
    Closed,
    /// They pass unjudged
    Open,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CniMode {
    /// weir-cni is heard; interfaces of which it says nothing are judged by their looks
    Auto,
    /// Every interface needs its word, but for those that were there before the first daemon
    Required,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

impl Arguments {
    fn settings(self) -> Settings {
        Settings {
            socket: self.socket.unwrap_or_else(|| self.run_dir.join(weir_table::SOCKET_FILE)),
            run_dir: self.run_dir,
            pin_dir: self.pin_dir,
            netns_dir: self.netns_dir,
            device_prefix: self.device_prefix,
            workers: self.workers,
            flows: self.flows,
            flows_per_pod: self.flows_per_pod,
            attach: self.attach,
            mark: self.mark,
            fail_open: self.on_failure == FailureMode::Open,
            offload: self.offload == Switch::On,
            io: self.io,
            cni_required: self.cni == CniMode::Required,
            metrics: self.metrics,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log_to_stderr(arguments.log);
    match run(arguments.settings()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("weir-dataplane: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn log_to_stderr(format: LogFormat) {
    let asked_for =
        ["WEIR_LOG", "RUST_LOG"].iter().find_map(|name| EnvFilter::try_from_env(name).ok());
    let log = tracing_subscriber::fmt()
        .with_env_filter(asked_for.unwrap_or_else(|| EnvFilter::new("info")))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).init(),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(settings: Settings) -> anyhow::Result<ExitCode> {
    let daemon = match Daemon::start(settings).await {
        Ok(daemon) => daemon,
        // The machine or the command line does not allow it: the same as a usage error.
        Err(error) => {
            eprintln!("weir-dataplane: {error:#}");
            return Ok(ExitCode::from(2));
        }
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    daemon
        .serve(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await?;
    Ok(ExitCode::SUCCESS)
}
