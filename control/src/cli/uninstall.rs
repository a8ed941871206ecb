//! `weir uninstall`.

use anyhow::Result;

use super::{OK, Output};
use crate::doctor::Where;
use crate::live::uninstall::uninstall;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Run it after weir-dataplane and weir-cni install --watch have stopped: a stopped daemon leaves its\n\
hooks on purpose, so that enforcement outlives it. Afterwards every pod is unrestricted.\n\
Exit code: 0 removed (or nothing was there), 2 weir-dataplane runs or something is in the way.")]
pub(super) struct Args {
    #[command(flatten)]
    place: Where,
    /// Output format
    #[arg(short = 'o', long, value_enum, default_value = "table")]
    output: Output,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let removed = uninstall(&args.place)?;
    match args.output {
        Output::Json => println!("{}", serde_json::to_string(&removed)?),
        Output::Table => {
            for done in &removed.cni {
                println!("{done}");
            }
            println!(
                "removed {} links, {} filters, {} qdiscs, {} maps, {} files; pods are unrestricted",
                removed.links, removed.filters, removed.qdiscs, removed.maps, removed.files
            );
            for left in &removed.left {
                println!("left: {left}");
            }
        }
    }
    Ok(OK)
}
