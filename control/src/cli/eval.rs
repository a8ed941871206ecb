//! `weir eval`: verdicts from manifests.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{FINDING, OK, Output, read_manifests};
use crate::eval::matrix::Matrix;
use crate::eval::probe::{Answer, Probe, Prober, traffic};
use crate::eval::{Backends, Offline};
use crate::explain::traffic_text;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --probes the matrix of all pods is printed: whether all (.), none (X) or some (*) of the \
traffic from the row's pod to the column's passes; with --port TCP/80 only that traffic counts. The \
matrix of n pods takes time in the order of n², memory in the order of n.\n\
A probe is one JSON object a line: {\"from\":\"ns/pod|IP\",\"to\":\"ns/pod|IP\",\"protocol\":\"TCP\",\"port\":80}\n\
Exit code: 0 all answered, 1 an object was refused or a probe has no answer, 2 wrong usage.")]
pub(super) struct Args {
    /// Manifests: a file, a folder, or - for standard input; may be repeated
    #[arg(short = 'f', long = "file", required = true, value_name = "PATH")]
    files: Vec<PathBuf>,
    /// Questions, one JSON object a line; - for standard input
    #[arg(long, value_name = "FILE")]
    probes: Option<PathBuf>,
    /// Only this traffic in the matrix, as TCP/80 or ICMP
    #[arg(long, value_name = "PROTO/PORT", conflicts_with = "probes")]
    port: Option<String>,
    /// Output format
    #[arg(short = 'o', long, value_enum, default_value = "table")]
    output: Output,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let dash = Path::new("-");
    if args.probes.as_deref() == Some(dash) && args.files.iter().any(|file| file == dash) {
        bail!("-f - and --probes - both want standard input; write one of them to a file");
    }
    let traffic = args.port.as_deref().map(parse_traffic).transpose()?;
    let input = read_manifests(&args.files)?;
    let offline = Offline::of(input.index)?;
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let failed = match &args.probes {
        None => {
            let matrix = Matrix::new(&offline, traffic);
            match args.output {
                Output::Table => matrix.print(&mut out)?,
                Output::Json => matrix.print_json(&mut out)?,
            }
            0
        }
        Some(path) => {
            let source: Box<dyn BufRead> = if path == dash {
                Box::new(BufReader::with_capacity(1 << 16, io::stdin()))
            } else {
                let file = File::open(path)
                    .with_context(|| format!("{} cannot be read", path.display()))?;
                Box::new(BufReader::with_capacity(1 << 16, file))
            };
            match args.output {
                Output::Json => Prober::new(&offline).run(source, &mut out)?.1,
                Output::Table => table(&offline, source, &mut out)?,
            }
        }
    };
    out.flush()?;
    Ok(if failed > 0 || input.refused { FINDING } else { OK })
}

/// `TCP/80`, `ICMP`, `TCP` alone is refused in words.
pub(super) fn parse_traffic(text: &str) -> Result<(u8, u16)> {
    let (protocol, port) = match text.split_once('/') {
        Some((protocol, port)) => {
            let port = port.parse().with_context(|| format!("`{port}` is no port number"))?;
            (protocol, Some(port))
        }
        None => (text, None),
    };
    traffic(Some(protocol), port, true).map_err(anyhow::Error::msg)
}

/// One line a probe, for people. Returns how many had no answer.
fn table(offline: &Offline, mut source: impl BufRead, out: &mut impl Write) -> Result<usize> {
    let mut prober = Prober::new(offline);
    let mut failed = 0;
    let mut line = String::new();
    loop {
        line.clear();
        if source.read_line(&mut line)? == 0 {
            return Ok(failed);
        }
        if line.trim().is_empty() {
            continue;
        }
        let result = serde_json::from_str::<Probe<'_>>(&line)
            .map_err(|error| format!("not a probe: {error}"))
            .and_then(|probe| {
                let (connection, _) = prober.judge(&probe)?;
                let answer = prober.answer(&probe)?;
                let traffic = traffic_text(connection.protocol, connection.dport);
                Ok(format!(
                    "{:<5} {} → {} {traffic}{}{}",
                    answer.verdict,
                    probe.from,
                    probe.to,
                    by(&answer),
                    of(&answer)
                ))
            });
        match result {
            Ok(text) => writeln!(out, "{text}")?,
            Err(error) => {
                failed += 1;
                writeln!(out, "error {}: {error}", line.trim())?;
            }
        }
    }
}

fn by(answer: &Answer) -> String {
    let mut text = String::new();
    for (name, side) in [("egress", &answer.egress), ("ingress", &answer.ingress)] {
        if let Some(policy) = &side.policy {
            let rule = side.rule.as_deref().unwrap_or("no rule matches");
            text.push_str(&format!("  {name}: {} {policy} {rule}", side.verdict));
        }
    }
    text
}

fn of(answer: &Answer) -> String {
    answer.backends.map_or_else(String::new, |backends| {
        let Backends { reached, kinds } = backends;
        format!("  backends: {reached} of {kinds} kinds")
    })
}
