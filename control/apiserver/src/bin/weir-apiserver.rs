//! The API server stand-in as a process, for tests in network namespaces.
//!
//! It prints its URL in the first line and is then told what to do on its standard input
//! ([`weir_apiserver::command`]); it ends when that ends, or at SIGTERM or SIGINT. It fails if a
//! client asked what no correct one asks and nobody took the complaint.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use weir_apiserver::{ApiServer, Holder, Manners, Settings, command, rules_of};

#[derive(Parser)]
#[command(
    version,
    about = "A Kubernetes API server for tests; commands are read from standard input"
)]
struct Args {
    /// Where to listen; port 0 lets the kernel choose
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Serve HTTPS with certificates made at start
    #[arg(long)]
    tls: bool,
    /// Further names and addresses of the certificate
    #[arg(long, value_name = "NAME")]
    tls_name: Vec<String>,
    /// Manifests to begin with, YAML or JSON; may be given several times
    #[arg(long, short = 'f', value_name = "FILE")]
    file: Vec<PathBuf>,
    /// A token that may do everything
    #[arg(long)]
    admin_token: Option<String>,
    /// A token that may do what --cluster-role allows
    #[arg(long, requires = "cluster_role")]
    token: Option<String>,
    /// Manifest with the ClusterRole of --token
    #[arg(long, value_name = "FILE")]
    cluster_role: Option<PathBuf>,
    /// Folder to write token, ca.crt and namespace to, as a kubelet does
    #[arg(long, value_name = "DIR", requires = "token")]
    service_account: Option<PathBuf>,
    /// File to write a kubeconfig to
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Seconds between bookmarks
    #[arg(long, default_value_t = 60)]
    bookmarks: u64,
    /// Stay when standard input ends
    #[arg(long)]
    stay: bool,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("weir-apiserver: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until told to end; whether no client did what no correct one does.
fn run(args: Args) -> Result<bool> {
    let (mut ended, end) = std::os::unix::net::UnixStream::pair()?;
    pipe::register(SIGTERM, end.try_clone()?)?;
    pipe::register(SIGINT, end.try_clone()?)?;
    let manners = Manners {
        bookmark_interval: Duration::from_secs(args.bookmarks.max(1)),
        ..Manners::default()
    };
    let tls = args.tls.then(|| args.tls_name.clone());
    let settings = Settings { listen: args.listen, tls, manners, ..Settings::default() };
    let server = ApiServer::start(settings)
        .with_context(|| format!("--listen {}: cannot be served", args.listen))?;
    for file in &args.file {
        let text = read(file)?;
        server
            .apply_yaml(&text)
            .map_err(|refusal| anyhow!("{}: {}", file.display(), refusal.message))?;
    }
    if let Some(token) = &args.admin_token {
        server.add_token(token, Holder::admin("admin"));
    }
    if let (Some(token), Some(file)) = (&args.token, &args.cluster_role) {
        let rules = rules_of(&read(file)?).map_err(|why| anyhow!("{}: {why}", file.display()))?;
        server.add_token(token, Holder::with_rules("system:serviceaccount:weir:weir", rules));
        if let Some(dir) = &args.service_account {
            server.write_service_account(dir, token).with_context(|| dir.display().to_string())?;
        }
    }
    if let Some(file) = &args.kubeconfig {
        let token = args.token.as_deref().or(args.admin_token.as_deref());
        fs::write(file, server.kubeconfig(token)).with_context(|| file.display().to_string())?;
    }
    println!("{}", server.url());
    let server = Arc::new(server);
    let told = Arc::clone(&server);
    thread::spawn(move || obey(&told, args.stay, end));
    io::Read::read(&mut ended, &mut [0])?;
    let complaints = server.take_complaints();
    for complaint in &complaints {
        eprintln!("weir-apiserver: a client asked what no correct one asks: {complaint}");
    }
    Ok(complaints.is_empty())
}

fn read(file: &PathBuf) -> Result<String> {
    fs::read_to_string(file).with_context(|| file.display().to_string())
}

/// Does what standard input says until it ends, and then says so at `end`.
fn obey(server: &ApiServer, stays: bool, mut end: impl Write) {
    let mut out = io::stdout();
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let answer = command::execute(server, &line);
        if writeln!(out, "{answer}").and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    if stays {
        loop {
            thread::park();
        }
    }
    let _ = end.write_all(&[0]);
}
