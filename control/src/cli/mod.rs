//! The command line `weir`: one module a command.
//!
//! Exit codes, the same everywhere: 0 ok; 1 a finding (something denied, refused or failed);
//! 2 wrong usage or nothing to work with.

mod capture;
mod doctor;
mod drops;
mod eval;
mod explain;
mod flows;
mod interrupt;
mod lint;
mod status;
mod uninstall;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};

use crate::index::Index;
use crate::model::{Effect, Loaded, Severity, load};
use crate::source::Folder;
use crate::source::dir::unique;

/// All is well.
const OK: u8 = 0;
/// Denied, refused or failed.
const FINDING: u8 = 1;
/// Wrong usage.
const USAGE: u8 = 2;

/// Kubernetes NetworkPolicy verdicts: evaluate, explain, watch.
#[derive(Debug, Parser)]
#[command(
    name = "weir",
    version,
    about = "Kubernetes NetworkPolicy verdicts: evaluate, explain, watch"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Verdicts from manifests, offline, without privileges
    Eval(eval::Args),
    /// Why a connection passes or not, both sides, with policy and rule
    Explain(explain::Args),
    /// What cannot be honoured, has no effect, or does something else than it looks like
    Lint(lint::Args),
    /// The running node: generation, workers, endpoints, flows, counters
    Status(status::Args),
    /// The running node's flow table
    Flows(flows::Args),
    /// Dropped packets as they come: reason, policy, both pods
    Drops(drops::Args),
    /// Dropped packets to a file for wireshark, the reason as comment
    Capture(capture::Args),
    /// Whether this node can run Weir and does, and what to do if not
    Doctor(doctor::Args),
    /// Take hooks, pins and state off this node, after weir-dataplane has stopped
    Uninstall(uninstall::Args),
}

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// One JSON object a line
    Json,
}

/// Runs a command; errors are printed as one sentence.
pub fn run(cli: &Cli) -> ExitCode {
    let result = match &cli.command {
        Command::Eval(args) => eval::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Lint(args) => lint::run(args),
        Command::Status(args) => status::run(args),
        Command::Flows(args) => flows::run(args),
        Command::Drops(args) => drops::run(args),
        Command::Capture(args) => capture::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Uninstall(args) => uninstall::run(args),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) if is_broken_pipe(&error) => ExitCode::from(OK),
        Err(error) => {
            eprintln!("weir: {error:#}");
            ExitCode::from(USAGE)
        }
    }
}

/// Whether the reader of our output has had enough (`weir eval | head`).
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

/// What was read, and whether some of it is refused or not enforced.
struct Input {
    index: Index,
    refused: bool,
}

/// Reads files and folders, `-` for standard input; of one object written twice the first counts.
fn read_objects(paths: &[PathBuf]) -> Result<Loaded> {
    let mut all = Loaded::default();
    for path in paths {
        if path == Path::new("-") {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes)
                .context("standard input cannot be read")?;
            all.merge(load("-", &bytes).context("standard input")?);
        } else {
            let state = Folder::new(path)
                .refresh()
                .with_context(|| format!("{} cannot be read", path.display()))?;
            if state.files == 0 {
                anyhow::bail!("{} holds no manifests (*.yaml, *.yml, *.json)", path.display());
            }
            all.merge(state.loaded);
        }
    }
    Ok(unique(all))
}

/// Reads files and folders; complaints go to standard error.
fn read_manifests(paths: &[PathBuf]) -> Result<Input> {
    let all = read_objects(paths)?;
    let skipped = all.skipped_in_words();
    let index = Index::of(all.objects);
    let conflicts = index.conflicts();
    let mut refused = false;
    for complaint in all.complaints.iter().chain(&conflicts) {
        refused |= complaint.severity == Severity::Refused;
        refused |= complaint.effect == Effect::NotEnforced;
        let word = match complaint.effect {
            Effect::NotEnforced => "NOT ENFORCED",
            _ => severity_word(complaint.severity),
        };
        eprintln!("weir: {word}: {complaint}");
    }
    if let Some(words) = skipped {
        eprintln!("weir: {words}");
    }
    Ok(Input { index, refused })
}

fn severity_word(severity: Severity) -> &'static str {
    match severity {
        Severity::Warning => "warning",
        Severity::Skipped => "left out",
        Severity::Refused => "refused",
    }
}
