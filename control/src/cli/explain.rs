//! `weir explain`: why, in words.

use std::path::PathBuf;

use anyhow::{Result, bail};
use weir_table::classify::Connection;

use super::{FINDING, OK, Output, read_manifests};
use crate::eval::Offline;
use crate::eval::probe::{pair, resolve, traffic};
use crate::explain::explain;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
FROM and TO are namespace/pod or an address.\n\
Exit code: 0 allowed, 1 denied or an object was refused, 2 wrong usage.")]
pub(super) struct Args {
    /// Who opens the connection
    from: String,
    /// To whom
    to: String,
    /// TCP/80, UDP/53, SCTP/9, ICMP
    #[arg(value_name = "PROTO/PORT")]
    traffic: String,
    /// Manifests: a file, a folder, or - for standard input; may be repeated
    #[arg(short = 'f', long = "file", value_name = "PATH")]
    files: Vec<PathBuf>,
    /// Output format
    #[arg(short = 'o', long, value_enum, default_value = "table")]
    output: Output,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    super::eval::parse_traffic(&args.traffic)?;
    if args.files.is_empty() {
        bail!("-f PATH is needed");
    }
    let input = read_manifests(&args.files)?;
    let offline = Offline::of(input.index)?;
    let from = resolve(&offline.index, &args.from).map_err(anyhow::Error::msg)?;
    let to = resolve(&offline.index, &args.to).map_err(anyhow::Error::msg)?;
    let (src, dst) = pair(&from, &to).map_err(anyhow::Error::msg)?;
    let (name, port) = match args.traffic.split_once('/') {
        Some((name, port)) => (name, port.parse().ok()),
        None => (args.traffic.as_str(), None),
    };
    let (protocol, dport) = traffic(Some(name), port, src.is_v4()).map_err(anyhow::Error::msg)?;
    let connection = Connection { src, dst, protocol, dport };
    let explanation =
        explain(&offline.classifier, Some(&offline.index), (&args.from, &args.to), &connection);
    match args.output {
        Output::Table => println!("{explanation}"),
        Output::Json => println!("{}", serde_json::to_string(&explanation)?),
    }
    Ok(if explanation.verdict == "allow" && !input.refused { OK } else { FINDING })
}
