//! `weir flows`.

use std::io::{BufWriter, Write};

use anyhow::Result;

use super::{OK, Output};
use crate::live::flows::{FlowRow, rows};
use crate::live::{self, Places};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Policy and rule are those of the present table; for ICMP the ports are the echo identifier.\n\
BY says who decides the flow's packets at present; GEN 0: the flow is to be judged again.\n\
Exit code: 0 listed, 2 no dataplane has run here.")]
pub(super) struct Args {
    #[command(flatten)]
    places: Places,
    /// Output format
    #[arg(short = 'o', long, value_enum, default_value = "table")]
    output: Output,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let view = live::flow_view(&args.places)?;
    let classifier = live::generation(&args.places)?;
    let now = live::flow_time(&args.places)?;
    let rows = rows(&view, &live::validity(&args.places)?, classifier.as_ref(), now);
    let mut out = BufWriter::new(std::io::stdout().lock());
    match args.output {
        Output::Json => {
            for row in &rows {
                serde_json::to_writer(&mut out, row)?;
                out.write_all(b"\n")?;
            }
        }
        Output::Table => table(&rows, &mut out)?,
    }
    out.flush()?;
    Ok(OK)
}

fn table(rows: &[FlowRow], out: &mut impl Write) -> std::io::Result<()> {
    let header =
        ["PROTO", "SOURCE", "DESTINATION", "STATE", "VERDICT", "BY", "GEN", "IDLE", "RULE"]
            .map(str::to_owned);
    let mut lines = vec![header];
    for row in rows {
        let rule = match (&row.policy, &row.rule) {
            (Some(policy), Some(rule)) => format!("{policy} {rule}"),
            (Some(policy), None) => policy.clone(),
            _ => "-".to_owned(),
        };
        lines.push([
            row.protocol.clone(),
            end(&row.src, row.sport),
            end(&row.dst, row.dport),
            row.state.to_owned(),
            row.verdict.to_owned(),
            if row.offloaded { "kernel" } else { "worker" }.to_owned(),
            row.generation.to_string(),
            format!("{}s", row.idle_seconds),
            rule,
        ]);
    }
    let widths: [usize; 9] =
        std::array::from_fn(|i| lines.iter().map(|line| line[i].len()).max().unwrap_or(0));
    for line in &lines {
        let cells: Vec<String> =
            line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

fn end(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}
