//! `weir-control`: follows a source of Kubernetes objects and publishes what they mean.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Parser;
use tracing::{error, info, warn};
use weir_control::agent::FolderAgent;
use weir_control::ledger::Ledger;
use weir_control::metrics;
use weir_control::names::NamesWriter;
use weir_control::publisher::{Courier, Inbox, Mailbox};

/// Compiles NetworkPolicies and publishes them to weir-dataplane.
#[derive(Debug, Parser)]
#[command(
    name = "weir-control",
    version,
    about,
    after_help = "\
Exit code: 0 on SIGTERM or SIGINT (the dataplane goes on enforcing), 2 if it cannot start.\n\
RUST_LOG sets what is logged, for example RUST_LOG=warn."
)]
struct Args {
    /// Where objects come from: dir:PATH, a folder of manifests that is watched
    #[arg(long, value_name = "kube|dir:PATH")]
    source: String,
    /// This node's name, as in spec.nodeName
    #[arg(long)]
    node: Option<String>,
    /// The dataplane's socket
    #[arg(long, value_name = "PATH", default_value_os_t = default_socket())]
    socket: PathBuf,
    /// Where `weir status` finds what is refused [default: the socket's folder]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Serves /metrics, /healthz and /readyz there, for example 127.0.0.1:9101
    #[arg(long, value_name = "ADDR")]
    metrics: Option<String>,
}

fn default_socket() -> PathBuf {
    Path::new(weir_table::DEFAULT_RUN_DIR).join(weir_table::SOCKET_FILE)
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-control: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let folder = match args.source.split_once(':') {
        Some(("dir", path)) if !path.is_empty() => PathBuf::from(path),
        None if args.source == "kube" => {
            bail!("--source kube is not in this version; use --source dir:PATH")
        }
        _ => bail!("--source {} is neither kube nor dir:PATH", args.source),
    };
    let listener = args.metrics.as_deref().map(metrics::bind).transpose()?;
    let run_dir = args.run_dir.clone().or_else(|| args.socket.parent().map(Path::to_owned));
    let run_dir = run_dir.unwrap_or_default();
    let ledger = Arc::new(Ledger::new(&run_dir, &args.source));
    let names = NamesWriter::start(&run_dir).context("no thread for names")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        // Before the threads, so that no signal finds the process without a handler.
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
        let mailbox = Arc::new(Mailbox::new().context("no eventfd")?);
        let inbox = Arc::new(Inbox::default());
        let agent =
            FolderAgent::new(&folder, args.node.clone(), Arc::clone(&mailbox), Arc::clone(&ledger))?
                .naming(names)
                .keeping(&run_dir)
                .hearing(Arc::clone(&inbox));
        let courier = Courier::new(
            (Arc::clone(&mailbox), inbox),
            Arc::clone(&ledger),
            args.socket.clone(),
            args.source.clone(),
        );
        if let Some(listener) = listener {
            let address = listener.local_addr()?;
            info!(%address, "metrics");
            if !address.ip().is_loopback() {
                warn!("anybody who reaches {address} can read the metrics: there is no authentication; 127.0.0.1 is for this node alone");
            }
            // On this thread's runtime, so that it ends with it.
            tokio::spawn(async move {
                if let Err(error) = metrics::serve(listener, ledger).await {
                    error!("metrics are not served any more: {error:#}");
                }
            });
        }
        info!(source = args.source, socket = %args.socket.display(), "weir-control started");
        let watch = agent.handle();
        let mut agent = tokio::task::spawn_blocking(move || agent.run());
        let mut courier = tokio::task::spawn_blocking(move || courier.run());
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM: stopping; the dataplane goes on enforcing"),
            _ = interrupt.recv() => info!("SIGINT: stopping; the dataplane goes on enforcing"),
            end = &mut agent => bail!("the watching thread ended: {end:?}"),
            end = &mut courier => bail!("the publishing thread ended: {end:?}"),
        }
        watch.stop();
        mailbox.stop();
        Ok(())
    });
    // A courier that waits for the dataplane's answer need not be waited for.
    runtime.shutdown_background();
    result
}
