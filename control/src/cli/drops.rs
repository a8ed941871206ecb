//! `weir drops`.

use std::collections::VecDeque;
use std::io::{self, BufWriter, Write};
use std::time::Duration;

use anyhow::Result;

use super::interrupt::Interrupt;
use super::{OK, Output};
use crate::live::Places;
use crate::live::drops::{DropRow, Filter, Reader};

/// How often new records are looked for: as often as the dataplane writes.
const PERIOD: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A sample: of each reason some 200 packets a second. `+N` are those of the same reason that were \
left out since the last that is shown; `weir status` counts all.\n\
For a policy's denial POLICY names those that isolate the pod and do not allow the packet.\n\
Exit code: 0 listed (Ctrl-C ends --follow), 2 no dataplane has run here.")]
pub(super) struct Args {
    /// Go on with new ones as they come
    #[arg(long)]
    follow: bool,
    /// How many of the last ones to begin with
    #[arg(long, value_name = "N", default_value_t = 100)]
    last: usize,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    places: Places,
    /// Output format
    #[arg(short = 'o', long, value_enum, default_value = "table")]
    output: Output,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let interrupt = Interrupt::new()?;
    let mut reader = Reader::new(&args.places.run_dir, u64::MAX)?;
    let mut out = BufWriter::new(io::stdout().lock());
    if args.output == Output::Table {
        header(&mut out)?;
    }
    let mut last = VecDeque::new();
    // Only what is there now: others go on writing meanwhile.
    let (end, _) = reader.totals();
    while let Some((n, record)) = reader.read()? {
        if args.filter.wants(&record) {
            last.push_back(DropRow::of(n, &record));
            if last.len() > args.last {
                last.pop_front();
            }
        }
        if n + 1 >= end || interrupt.came() {
            break;
        }
    }
    reader.missed();
    for row in &last {
        if interrupt.came() {
            break;
        }
        print(row, args.output, &mut out)?;
    }
    out.flush()?;
    if args.follow {
        follow(args, &mut reader, &interrupt, &mut out)?;
    } else if args.output == Output::Table {
        let (told, left_out) = reader.totals();
        writeln!(
            out,
            "{told} recorded, {left_out} left out of the sample; `weir status` counts all"
        )?;
    }
    out.flush()?;
    Ok(OK)
}

fn follow(
    args: &Args,
    reader: &mut Reader,
    interrupt: &Interrupt,
    out: &mut impl Write,
) -> Result<()> {
    while !interrupt.within(PERIOD) {
        // Asked for each record: under a lasting flood there is always one more.
        while !interrupt.came()
            && let Some((n, record)) = reader.read()?
        {
            if args.filter.wants(&record) {
                print(&DropRow::of(n, &record), args.output, out)?;
            }
        }
        out.flush()?;
        match reader.missed() {
            0 => {}
            missed => eprintln!("weir: {missed} records were overwritten before they were read"),
        }
    }
    Ok(())
}

fn print(row: &DropRow, output: Output, out: &mut impl Write) -> io::Result<()> {
    match output {
        Output::Json => {
            serde_json::to_writer(&mut *out, row)?;
            out.write_all(b"\n")
        }
        Output::Table => line(row, out),
    }
}

fn header(out: &mut impl Write) -> io::Result<()> {
    columns(["TIME", "REASON", "DIR", "PROTO", "SOURCE", "DESTINATION", "POLICY"], out)
}

fn line(row: &DropRow, out: &mut impl Write) -> io::Result<()> {
    let source = end(&row.src_pod, &row.src, &row.src_mac, row.sport);
    let destination = end(&row.dst_pod, &row.dst, &row.dst_mac, row.dport);
    let mut policy = row.policy.clone().unwrap_or_else(|| "-".to_owned());
    if let Some(rule) = &row.rule {
        policy = format!("{policy} {rule}");
    }
    if row.left_out > 0 {
        policy = format!("{policy}  +{}", row.left_out);
    }
    let direction = if row.direction == "ingress" { "in" } else { "out" };
    columns([&row.time, &row.reason, direction, &row.protocol, &source, &destination, &policy], out)
}

/// Widths that nearly all rows keep to: with --follow the rows to come are not known.
fn columns(cells: [&str; 7], out: &mut impl Write) -> io::Result<()> {
    let [time, reason, direction, protocol, source, destination, policy] = cells;
    writeln!(
        out,
        "{time:<27}  {reason:<15}  {direction:<3}  {protocol:<6}  {source:<34}  {destination:<34}  {policy}"
    )
}

/// One end of a packet: its pod, its address and port; without addresses the hardware's.
fn end(
    pod: &Option<String>,
    address: &Option<String>,
    mac: &Option<String>,
    port: Option<u16>,
) -> String {
    let place = match (address, port) {
        (Some(address), Some(port)) if address.contains(':') => format!("[{address}]:{port}"),
        (Some(address), Some(port)) => format!("{address}:{port}"),
        (Some(address), None) => address.clone(),
        (None, _) => mac.clone().unwrap_or_else(|| "-".to_owned()),
    };
    match pod {
        Some(pod) => format!("{pod} {place}"),
        None => place,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::drops::tests::denied;

    #[test]
    fn a_drop_on_a_line() {
        let mut out = Vec::new();
        line(&DropRow::of(0, &denied()), &mut out).unwrap();
        let line = String::from_utf8(out).unwrap();
        let cells: Vec<&str> =
            line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(
            cells,
            [
                "2023-11-14T22:13:20.123456Z",
                "policy_ingress",
                "in",
                "TCP",
                "shop/curl 10.0.0.3:40000",
                "shop/web 10.0.0.1:80",
                "shop/deny,shop/web",
                "+3"
            ]
        );
    }

    #[test]
    fn ends_without_port_pod_or_address() {
        let some = |text: &str| Some(text.to_owned());
        for (pod, address, mac, port, expected) in [
            (None, some("fd00::1"), None, Some(80), "[fd00::1]:80"),
            (some("a/b"), some("10.0.0.1"), None, None, "a/b 10.0.0.1"),
            (None, None, some("02:00:00:00:00:01"), None, "02:00:00:00:00:01"),
            (None, None, None, None, "-"),
        ] {
            assert_eq!(end(&pod, &address, &mac, port), expected);
        }
    }
}
