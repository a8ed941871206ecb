//! The matrix that people draw: rows are sources, columns destinations.
//!
//! Without a port a pair has not one verdict but a set of them. A cell says `all`, `none` or
//! `some`; JSON lists what passes. The set is exact: verdicts change only where some program's
//! spans begin, so those ports, one of each protocol, ICMP and one protocol without ports stand
//! for all traffic.

use std::collections::BTreeSet;
use std::io::{self, Write};

use serde::Serialize;
use weir_table::Address;
use weir_table::classify::Connection;

use super::probe::{End, pair};
use super::{Offline, word};

/// An IP protocol number without ports that no rule can name (RFC 3692 experimentation).
const PORTLESS: u8 = 253;

/// What passes between a pair of pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// Source pod.
    pub from: String,
    /// Destination pod.
    pub to: String,
    /// `all`, `some`, `none`; with a port given, `allow` or `deny`; `-` if they share no family.
    pub verdict: &'static str,
    /// What passes if only some does: `TCP/80`, `UDP/1000-2000`, `ICMP`, `other`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<String>,
}

/// A matrix over every pod that is policed and has an address.
#[derive(Debug, Clone)]
pub struct Matrix {
    /// The pods, in the order of rows and columns.
    pub pods: Vec<String>,
    /// Row by row.
    pub cells: Vec<Cell>,
}

/// Computes the matrix for one port, or for all traffic.
pub fn matrix(offline: &Offline, traffic: Option<(u8, u16)>) -> Matrix {
    let pods: Vec<(String, End)> = offline
        .index
        .pods()
        .filter(|pod| pod.is_policed() && !pod.addresses.is_empty())
        .map(|pod| (pod.key.to_string(), End::of(&pod.addresses)))
        .collect();
    let starts = Starts::of(offline);
    let mut cells = Vec::with_capacity(pods.len() * pods.len());
    for (from, from_end) in &pods {
        for (to, to_end) in &pods {
            let (verdict, allowed) = match pair(*from_end, *to_end) {
                Err(_) => ("-", Vec::new()),
                Ok((src, dst)) => match traffic {
                    Some((protocol, dport)) => {
                        let protocol = if protocol == 1 && !src.is_v4() { 58 } else { protocol };
                        let connection = Connection { src, dst, protocol, dport };
                        let judgement = offline.classifier.evaluate(&connection);
                        (word(judgement.is_allowed()), Vec::new())
                    }
                    None => starts.summary(offline, src, dst),
                },
            };
            cells.push(Cell { from: from.clone(), to: to.clone(), verdict, allowed });
        }
    }
    Matrix { pods: pods.into_iter().map(|(name, _)| name).collect(), cells }
}

/// For each protocol the ports at which some verdict may change.
struct Starts([(u8, &'static str, Vec<u16>); 3]);

impl Starts {
    fn of(offline: &Offline) -> Self {
        let programs = &offline.compiled.image.programs;
        let collect =
            |spans: fn(&weir_table::policy::Program) -> &Vec<weir_table::policy::Span>| {
                let ports: BTreeSet<u16> =
                    programs.iter().flat_map(|p| spans(p).iter().map(|span| span.first)).collect();
                ports.into_iter().collect()
            };
        Self([
            (6, "TCP", collect(|p| &p.tcp)),
            (17, "UDP", collect(|p| &p.udp)),
            (132, "SCTP", collect(|p| &p.sctp)),
        ])
    }

    fn summary(
        &self,
        offline: &Offline,
        src: Address,
        dst: Address,
    ) -> (&'static str, Vec<String>) {
        let allowed = |protocol, dport| {
            let connection = Connection { src, dst, protocol, dport };
            offline.classifier.evaluate(&connection).is_allowed()
        };
        let mut passes = Vec::new();
        let mut everything = true;
        for (number, name, ports) in &self.0 {
            let mut from: Option<u16> = None;
            for &port in ports {
                match (from, allowed(*number, port)) {
                    (None, true) => from = Some(port),
                    (Some(first), false) => {
                        passes.push(interval(name, first, port - 1));
                        from = None;
                    }
                    _ => {}
                }
            }
            if let Some(first) = from {
                passes.push(interval(name, first, u16::MAX));
            }
            everything &= from == Some(0);
        }
        let icmp = allowed(if src.is_v4() { 1 } else { 58 }, 0);
        let other = allowed(PORTLESS, 0);
        passes.extend(icmp.then(|| "ICMP".to_owned()));
        passes.extend(other.then(|| "other".to_owned()));
        everything &= icmp && other && passes.len() == 5;
        match (everything, passes.is_empty()) {
            (true, _) => ("all", Vec::new()),
            (_, true) => ("none", Vec::new()),
            _ => ("some", passes),
        }
    }
}

fn interval(protocol: &str, first: u16, last: u16) -> String {
    match (first, last) {
        (0, u16::MAX) => protocol.to_owned(),
        _ if first == last => format!("{protocol}/{first}"),
        _ => format!("{protocol}/{first}-{last}"),
    }
}

impl Matrix {
    /// Prints the table. Columns are numbered; the numbers stand before the rows' names.
    ///
    /// # Errors
    /// Writing failed.
    pub fn print(&self, mut out: impl Write) -> io::Result<()> {
        if self.pods.is_empty() {
            return writeln!(out, "no pods with addresses");
        }
        let names: Vec<String> =
            self.pods.iter().enumerate().map(|(i, pod)| format!("{:>3} {pod}", i + 1)).collect();
        let width = names.iter().map(String::len).max().unwrap_or(0);
        write!(out, "{:width$}", "")?;
        for column in 1..=self.pods.len() {
            write!(out, " {column:>5}")?;
        }
        writeln!(out)?;
        for (name, row) in names.iter().zip(self.cells.chunks(self.pods.len())) {
            write!(out, "{name:width$}")?;
            for cell in row {
                write!(out, " {:>5}", cell.verdict)?;
            }
            writeln!(out)?;
        }
        writeln!(out, "rows: sources, columns: destinations")
    }
}
