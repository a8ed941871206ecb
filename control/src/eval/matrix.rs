//! The matrix that people draw: rows are sources, columns destinations.
//!
//! ```text
//!       x/a x/b y/a
//!   x/a  .   .   X
//!   x/b  .   .   *
//!   y/a  X   .   .
//! ```
//!
//! Without a port a pair has not one verdict but a set of them: all, none or some of the traffic
//! passes, and JSON lists what does. The set is exact: verdicts change only where a span of the
//! source's egress program or of the destination's ingress program begins, so those ports, ICMP and
//! one protocol without ports stand for all traffic.
//!
//! A row is computed when it is printed. So `n` pods take memory in the order of `n` and time in
//! the order of `n²`.
//!
//! Two pods with addresses of both families are judged over both. If these say different things the
//! cell is `*`, and JSON lists each family by itself: blocks of one family only are easily written.

use std::io::{self, Write};

use serde::Serialize;
use weir_table::Address;
use weir_table::classify::Connection;
use weir_table::policy::{Program, Span};

use super::probe::{End, pairs};
use super::{Offline, word};

/// An IP protocol number without ports that no rule can name (RFC 3692 experimentation).
const PORTLESS: u8 = 253;
/// Names of more characters than this do not head columns; numbers do.
const NARROW: usize = 12;
/// Lines wider than this are not printed with names on the columns.
const WIDE: usize = 160;

/// What passes between a pair of pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cell<'m> {
    /// Source pod.
    pub from: &'m str,
    /// Destination pod.
    pub to: &'m str,
    /// `all`, `some`, `none`; with a port given, `allow` or `deny`, and `some` if the families
    /// differ; `-` if they share no family.
    pub verdict: &'static str,
    /// What passes if only some does: `TCP/80`, `UDP/1000-2000`, `ICMP`, `other`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<String>,
    /// IPv4 and IPv6 each by itself, if they differ; `allowed` is then empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub families: Vec<FamilyCell>,
}

/// What passes between a pair of pods over one address family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FamilyCell {
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// As in [`Cell`].
    pub verdict: &'static str,
    /// As in [`Cell`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<String>,
}

impl Cell<'_> {
    fn symbol(&self) -> char {
        match self.verdict {
            "all" | "allow" => '.',
            "none" | "deny" => 'X',
            "some" => '*',
            _ => '-',
        }
    }
}

/// A matrix over every pod that is policed and has an address.
#[derive(Debug, Clone)]
pub struct Matrix<'a> {
    offline: &'a Offline,
    /// One port of one protocol, or all traffic.
    traffic: Option<(u8, u16)>,
    /// The pods, in the order of rows and columns: by namespace, then name.
    pods: Vec<(String, End)>,
}

impl<'a> Matrix<'a> {
    /// The matrix for one protocol and port, or for all traffic. Nothing is computed yet.
    pub fn new(offline: &'a Offline, traffic: Option<(u8, u16)>) -> Self {
        let pods = offline
            .index
            .pods()
            .filter(|pod| pod.is_policed() && !pod.addresses.is_empty())
            .map(|pod| (pod.key.to_string(), End::of(&pod.addresses)))
            .collect();
        Self { offline, traffic, pods }
    }

    /// The names of rows and columns.
    pub fn pods(&self) -> impl ExactSizeIterator<Item = &str> {
        self.pods.iter().map(|(name, _)| name.as_str())
    }

    /// The row of the source at a position below [`Self::pods`]' length.
    pub fn row(&self, source: usize) -> impl Iterator<Item = Cell<'_>> {
        let (from, from_end) = &self.pods[source];
        self.pods.iter().map(move |(to, to_end)| {
            let mut families = pairs(*from_end, *to_end).map(|(src, dst)| {
                let (verdict, allowed) = self.judge(src, dst);
                FamilyCell { family: if src.is_v4() { "IPv4" } else { "IPv6" }, verdict, allowed }
            });
            let cell = |verdict, allowed, families| Cell { from, to, verdict, allowed, families };
            match (families.next(), families.next()) {
                (None, _) => cell("-", Vec::new(), Vec::new()),
                (Some(a), Some(b)) if (a.verdict, &a.allowed) != (b.verdict, &b.allowed) => {
                    cell("some", Vec::new(), vec![a, b])
                }
                (Some(one), _) => cell(one.verdict, one.allowed, Vec::new()),
            }
        })
    }

    fn judge(&self, src: Address, dst: Address) -> (&'static str, Vec<String>) {
        match self.traffic {
            Some((protocol, dport)) => {
                let protocol = if protocol == 1 && !src.is_v4() { 58 } else { protocol };
                (word(self.passes(src, dst, protocol, dport)), Vec::new())
            }
            None => self.summary(src, dst),
        }
    }

    fn passes(&self, src: Address, dst: Address, protocol: u8, dport: u16) -> bool {
        let connection = Connection { src, dst, protocol, dport };
        self.offline.classifier.evaluate(&connection).is_allowed()
    }

    /// Everything that passes between two addresses.
    fn summary(&self, src: Address, dst: Address) -> (&'static str, Vec<String>) {
        let programs = self.programs(src, dst);
        let mut passes = Vec::new();
        let mut everything = true;
        type Spans = fn(&Program) -> &[Span];
        let protocols: [(u8, &str, Spans); 3] =
            [(6, "TCP", |p| &p.tcp), (17, "UDP", |p| &p.udp), (132, "SCTP", |p| &p.sctp)];
        for (number, name, spans) in protocols {
            let mut ports: Vec<u16> =
                programs.iter().flat_map(|p| spans(p).iter().map(|span| span.first)).collect();
            ports.sort_unstable();
            ports.dedup();
            let mut from: Option<u16> = None;
            for port in ports {
                match (from, self.passes(src, dst, number, port)) {
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
        let icmp = self.passes(src, dst, if src.is_v4() { 1 } else { 58 }, 0);
        let other = self.passes(src, dst, PORTLESS, 0);
        passes.extend(icmp.then(|| "ICMP".to_owned()));
        passes.extend(other.then(|| "other".to_owned()));
        everything &= icmp && other && passes.len() == 5;
        match (everything, passes.is_empty()) {
            (true, _) => ("all", Vec::new()),
            (_, true) => ("none", Vec::new()),
            _ => ("some", passes),
        }
    }

    /// The source's egress program and the destination's ingress program.
    fn programs(&self, src: Address, dst: Address) -> Vec<&Program> {
        let classifier = &self.offline.classifier;
        let of = |address| classifier.table().programs(classifier.class_of(address));
        let numbers = of(src).map(|p| p.1).into_iter().chain(of(dst).map(|p| p.0));
        let programs = &self.offline.compiled.image.programs;
        numbers.filter_map(|program| programs.get(program.0 as usize)).collect()
    }

    /// Prints one JSON object a cell, row by row.
    ///
    /// # Errors
    /// Writing failed.
    pub fn print_json(&self, mut out: impl Write) -> io::Result<()> {
        for source in 0..self.pods.len() {
            for cell in self.row(source) {
                serde_json::to_writer(&mut out, &cell)?;
                out.write_all(b"\n")?;
            }
        }
        Ok(())
    }

    /// Prints the table. Columns bear the pods' names while these are short and few; else numbers,
    /// read downwards, that stand before the rows' names too.
    ///
    /// # Errors
    /// Writing failed.
    pub fn print(&self, mut out: impl Write) -> io::Result<()> {
        if self.pods.is_empty() {
            return writeln!(out, "no pods with addresses");
        }
        let length = |name: &String| name.chars().count();
        let widest = self.pods.iter().map(|(name, _)| length(name)).max().unwrap_or(0);
        let named: usize = self.pods.iter().map(|(name, _)| length(name) + 1).sum();
        let symbols = if widest <= NARROW && widest + named <= WIDE {
            self.print_named(&mut out, widest)?
        } else {
            self.print_numbered(&mut out, widest)?
        };
        writeln!(out, "\nrows: sources, columns: destinations")?;
        let all = if self.traffic.is_some() { "allowed" } else { "all traffic is allowed" };
        let none = if self.traffic.is_some() { "denied" } else { "none is" };
        let some = match self.traffic {
            Some(_) => "allowed over one address family only (-o json says which)",
            None => "some is (-o json says what)",
        };
        for (symbol, meaning) in
            [('.', all), ('X', none), ('*', some), ('-', "no address family in common")]
        {
            if symbols.contains(symbol) {
                writeln!(out, "  {symbol} {meaning}")?;
            }
        }
        Ok(())
    }

    /// Gives the symbols that occurred.
    fn print_named(&self, out: &mut impl Write, widest: usize) -> io::Result<String> {
        let mut seen = String::new();
        write!(out, "{:widest$}", "")?;
        for name in self.pods() {
            write!(out, " {name}")?;
        }
        writeln!(out)?;
        for (source, name) in self.pods().enumerate() {
            let mut line = format!("{name:widest$}");
            for cell in self.row(source) {
                let width = cell.to.chars().count();
                line.push_str(&format!(" {:^width$}", note(&mut seen, cell.symbol())));
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(seen)
    }

    fn print_numbered(&self, out: &mut impl Write, widest: usize) -> io::Result<String> {
        let mut seen = String::new();
        let digits = self.pods.len().to_string().len();
        let margin = digits + 1 + widest;
        // A gap after every ten columns lets the eye count.
        let gap = |column: usize| if column.is_multiple_of(10) { " " } else { "" };
        for place in (0..digits).rev() {
            let mut line = format!("{:margin$}", "");
            for column in 0..self.pods.len() {
                let number = format!("{:>digits$}", column + 1);
                let digit = number.chars().nth(digits - 1 - place).unwrap_or(' ');
                line.push_str(gap(column));
                line.push(digit);
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        for (source, name) in self.pods().enumerate() {
            let mut line = format!("{:>digits$} {name:widest$}", source + 1);
            for (column, cell) in self.row(source).enumerate() {
                line.push_str(gap(column));
                line.push(note(&mut seen, cell.symbol()));
            }
            writeln!(out, "{line}")?;
        }
        Ok(seen)
    }
}

fn note(seen: &mut String, symbol: char) -> char {
    if !seen.contains(symbol) {
        seen.push(symbol);
    }
    symbol
}

fn interval(protocol: &str, first: u16, last: u16) -> String {
    match (first, last) {
        (0, u16::MAX) => protocol.to_owned(),
        _ if first == last => format!("{protocol}/{first}"),
        _ => format!("{protocol}/{first}-{last}"),
    }
}
