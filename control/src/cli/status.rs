//! `weir status`.

use std::io::{BufWriter, Write};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{FINDING, OK, Output};
use crate::live::status::{Sources, Status};
use crate::live::{self, Places};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code: 0 the dataplane runs (and enforces the generation waited for), 1 it does not, \
2 none has run here.")]
pub(super) struct Args {
    /// Wait until all workers enforce generation N or a later one
    #[arg(long, value_name = "N")]
    wait_generation: Option<u64>,
    /// How long to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, requires = "wait_generation")]
    timeout: f64,
    #[command(flatten)]
    places: Places,
    /// Output format
    #[arg(short = 'o', long, value_enum, default_value = "table")]
    output: Output,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let reached = match args.wait_generation {
        Some(generation) => wait(args, generation)?,
        None => true,
    };
    let counters = live::counters(&args.places)?;
    let flows = live::flow_view(&args.places)?;
    let classifier = live::generation(&args.places)?;
    let sources = Sources {
        counters: &counters,
        heartbeats: live::heartbeats(&args.places, counters.workers())?,
        flows: &flows,
        steering: {
            let drops = live::punt_device_drops(&args.places)?;
            let mut counters = live::steering(&args.places)?;
            counters.extend(drops.map(|packets| ("drop_punt_device", packets)));
            counters
        },
        endpoints: live::endpoints(&args.places)?,
        control: live::control::control(&args.places)?,
    };
    let now = live::flow_time(&args.places)?;
    let status = Status::of(sources, classifier.as_ref(), now);
    let mut out = BufWriter::new(std::io::stdout().lock());
    match args.output {
        Output::Table => status.print(&mut out)?,
        Output::Json => {
            serde_json::to_writer(&mut out, &status)?;
            out.write_all(b"\n")?;
        }
    }
    out.flush()?;
    if let (false, Some(generation)) = (reached, args.wait_generation) {
        eprintln!("weir: generation {generation} was not enforced within {} s", args.timeout);
    }
    Ok(if status.running && reached { OK } else { FINDING })
}

/// Whether the generation came in time. A dataplane that is only starting is waited for, too.
fn wait(args: &Args, generation: u64) -> Result<bool> {
    let seconds = Duration::try_from_secs_f64(args.timeout)
        .map_err(|error| anyhow::anyhow!("--timeout {}: {error}", args.timeout))?;
    let deadline = Instant::now() + seconds;
    loop {
        let counters = live::counters(&args.places);
        if let Ok(counters) = &counters
            && counters.enforced().is_some_and(|enforced| enforced.generation >= generation)
        {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
