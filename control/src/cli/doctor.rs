//! `weir doctor`.

use std::io::{BufWriter, Write};

use anyhow::Result;

use super::{FINDING, OK, Output};
use crate::doctor::{self, Level, Where};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A line each: ok, note (it works, and could be better), FAIL (something is not enforced or cannot\n\
be), then what to do. Run it as root where the dataplane runs; nothing is changed.\n\
Exit code: 0 nothing fails, 1 something does.")]
pub(super) struct Args {
    #[command(flatten)]
    place: Where,
    /// Output format
    #[arg(short = 'o', long, value_enum, default_value = "table")]
    output: Output,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let findings = doctor::check(&doctor::gather(&args.place));
    let mut out = BufWriter::new(std::io::stdout().lock());
    for finding in &findings {
        match args.output {
            Output::Table => finding.print(&mut out)?,
            Output::Json => {
                serde_json::to_writer(&mut out, finding)?;
                out.write_all(b"\n")?;
            }
        }
    }
    out.flush()?;
    let fails = findings.iter().any(|finding| finding.level == Level::Fail);
    Ok(if fails { FINDING } else { OK })
}
