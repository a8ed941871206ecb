//! `weir-control`: follows a source of Kubernetes objects and publishes what they mean.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;
use weir_control::agent::{FolderAgent, KubeAgent};
use weir_control::ledger::Ledger;
use weir_control::metrics;
use weir_control::names::NamesWriter;
use weir_control::publisher::{Courier, Inbox, Mailbox};
use weir_control::source::kube::{Access, KubeSource, Place};

/// Compiles NetworkPolicies and publishes them to weir-dataplane.
#[derive(Debug, Parser)]
#[command(
    name = "weir-control",
    version,
    about,
    after_help = "\
Exit code: 0 on SIGTERM or SIGINT (the dataplane goes on enforcing), 2 if it cannot start.\n\
WEIR_LOG (or RUST_LOG) sets what is logged, for example WEIR_LOG=warn; one line an event."
)]
struct Args {
    /// Where objects come from: kube, the cluster's API server; or dir:PATH, a folder of manifests
    /// that is watched
    #[arg(long, value_name = "kube|dir:PATH")]
    source: String,
    /// With --source kube: how to reach the API server [default: as kubectl finds it, or the pod's
    /// service account]
    #[arg(long, value_name = "PATH")]
    kubeconfig: Option<PathBuf>,
    /// With --source kube: a context of the kubeconfig other than the current one
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
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
    /// The form of the log on standard error
    #[arg(long, value_name = "text|json", value_enum, default_value_t = Log::Text, hide_possible_values = true)]
    log: Log,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Log {
    /// For people.
    Text,
    /// An object a line, its fields beside `timestamp`, `level`, `target` and `message`.
    Json,
}

fn default_socket() -> PathBuf {
    Path::new(weir_table::DEFAULT_RUN_DIR).join(weir_table::SOCKET_FILE)
}

fn main() -> ExitCode {
    let args = Args::parse();
    log(args.log);
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match args.log {
                Log::Text => eprintln!("weir-control: {error:#}"),
                Log::Json => error!("weir-control ends: {error:#}"),
            }
            ExitCode::from(2)
        }
    }
}

/// Begins to log.
fn log(form: Log) {
    let asked_for =
        ["WEIR_LOG", "RUST_LOG"].iter().find_map(|name| EnvFilter::try_from_env(name).ok());
    let filter = asked_for.unwrap_or_else(|| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match form {
        Log::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        Log::Json => {
            log.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
        }
    }
}

/// What follows the source until it is stopped, and what stops it.
type Run = Box<dyn FnOnce() + Send>;
type Stop = Box<dyn Fn()>;

/// Where objects come from.
enum Source {
    Folder(PathBuf),
    Cluster(Place),
}

fn source(args: &Args) -> Result<Source> {
    let Args { kubeconfig, context, .. } = args;
    match args.source.split_once(':') {
        Some(("dir", path)) if !path.is_empty() => {
            if kubeconfig.is_some() || context.is_some() {
                bail!("--kubeconfig and --context belong to --source kube");
            }
            Ok(Source::Folder(PathBuf::from(path)))
        }
        None if args.source == "kube" => {
            let (kubeconfig, context) = (kubeconfig.clone(), context.clone());
            Ok(Source::Cluster(Place { kubeconfig, context }))
        }
        _ => bail!("--source {} is neither kube nor dir:PATH", args.source),
    }
}

fn run(args: &Args) -> Result<()> {
    let source = source(args)?;
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
        let (mail, books) = (Arc::clone(&mailbox), Arc::clone(&ledger));
        let (agent, stop): (Run, Stop) = match source {
            Source::Folder(folder) => {
                let agent = FolderAgent::new(&folder, args.node.clone(), mail, books)?
                    .naming(names)
                    .keeping(&run_dir)
                    .hearing(Arc::clone(&inbox));
                let watch = agent.handle();
                (Box::new(|| agent.run()), Box::new(move || watch.stop()))
            }
            Source::Cluster(place) => {
                let access = Access::open(place).await?;
                info!(server = access.server(), "API server");
                let runtime = tokio::runtime::Handle::current();
                let source = KubeSource::start(&runtime, access, args.node.as_deref());
                let agent = KubeAgent::new(source, args.node.clone(), mail, books)
                    .naming(names)
                    .hearing(Arc::clone(&inbox));
                let wait = agent.handle();
                (Box::new(|| agent.run()), Box::new(move || wait.stop()))
            }
        };
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
        let mut agent = tokio::task::spawn_blocking(agent);
        let mut courier = tokio::task::spawn_blocking(move || courier.run());
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM: stopping; the dataplane goes on enforcing"),
            _ = interrupt.recv() => info!("SIGINT: stopping; the dataplane goes on enforcing"),
            end = &mut agent => bail!("the watching thread ended: {end:?}"),
            end = &mut courier => bail!("the publishing thread ended: {end:?}"),
        }
        stop();
        mailbox.stop();
        Ok(())
    });
    // A courier that waits for the dataplane's answer need not be waited for.
    runtime.shutdown_background();
    result
}
