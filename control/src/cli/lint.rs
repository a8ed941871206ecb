//! `weir lint`: what is written and does not do what it looks like.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use anyhow::Result;

use super::{FINDING, OK, Output, read_objects};
use crate::eval::Offline;
use crate::index::Index;
use crate::lint::{CHECKS, Severity, lint, print_json, print_table};

#[derive(Debug, clap::Args)]
#[command(after_help = after_help())]
pub(super) struct Args {
    /// Manifests: a file, a folder, or - for standard input; may be repeated
    #[arg(short = 'f', long = "file", required = true, value_name = "PATH")]
    files: Vec<PathBuf>,
    /// Report findings of this weight and above
    #[arg(long, value_enum, default_value = "warning", value_name = "LEVEL")]
    severity: Severity,
    /// Output format
    #[arg(short = 'o', long, value_enum, default_value = "table")]
    output: Output,
}

fn after_help() -> String {
    let mut text = "Checks, with the weight of their findings:\n".to_owned();
    for check in CHECKS {
        text.push_str(&format!(
            "  {:<25}{:<9}{}\n",
            check.code,
            check.severity.as_str(),
            check.finds
        ));
    }
    text.push_str(
        "The more the input holds of a cluster (namespaces, pods, services, endpointslices, nodes), the \
         more is checked.\n\
         Exit code: 0 nothing found, 1 findings of the weight asked for, 2 wrong usage.",
    );
    text
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let mut loaded = read_objects(&args.files)?;
    let index = Index::of(std::mem::take(&mut loaded.objects));
    let offline = Offline::of(index)?;
    let (findings, below): (Vec<_>, Vec<_>) =
        lint(&loaded, &offline).into_iter().partition(|finding| finding.severity >= args.severity);
    let mut out = BufWriter::new(io::stdout().lock());
    match args.output {
        Output::Table => print_table(&findings, &mut out)?,
        Output::Json => print_json(&findings, &mut out)?,
    }
    out.flush()?;
    if !below.is_empty() {
        let severity = args.severity.as_str();
        eprintln!("weir: {} below {severity} not shown; see --severity", below.len());
    }
    Ok(if findings.is_empty() { OK } else { FINDING })
}
