//! `weir uninstall`.

use anyhow::Result;

use super::{OK, Output};
use crate::live::Places;
use crate::live::uninstall::uninstall;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Run it after weir-dataplane has stopped: a stopped daemon leaves its hooks on purpose, so that\n\
enforcement outlives it. Afterwards every pod is unrestricted.\n\
Exit code: 0 removed (or nothing was there), 2 weir-dataplane runs or something is in the way.")]
pub(super) struct Args {
    #[command(flatten)]
    places: Places,
    /// Output format
    #[arg(short = 'o', long, value_enum, default_value = "table")]
    output: Output,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let removed = uninstall(&args.places)?;
    match args.output {
        Output::Json => println!("{}", serde_json::to_string(&removed)?),
        Output::Table => println!(
            "removed {} links, {} filters, {} maps, {} files; pods are unrestricted",
            removed.links, removed.filters, removed.maps, removed.files
        ),
    }
    Ok(OK)
}
