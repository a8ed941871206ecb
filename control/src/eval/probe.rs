//! Probes: questions and answers, one JSON object a line.
//!
//! ```text
//! {"from":"ns/pod|IP","to":"ns/pod|IP","protocol":"TCP","port":80}
//! {"verdict":"allow","egress":{"verdict":"allow"},"ingress":{"verdict":"allow","policy":"ns/p","rule":"spec.ingress[0]"}}
//! ```
//!
//! `to` may be a Service's own address. The answer then is that of its backends, and `backends` says
//! of how many kinds of them: `"backends":{"reached":1,"kinds":2}`.
//!
//! A question that cannot be answered gets `{"error":"..."}` in its place, so that answers keep the
//! order of the questions.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufRead, Write};
use std::net::IpAddr;

use rustc_hash::FxHashMap;
use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use weir_table::Address;
use weir_table::classify::{Connection, Outlook};
use weir_table::policy::{ClassId, ProgramId, Verdict};

use super::line;
use super::{Backends, Offline, SideAnswer, side_answer, word};
use crate::index::Index;
use crate::model::{ObjectKey, Pod};

/// IP protocol numbers by the names that probes use.
const NAMES: [(&str, u8); 5] =
    [("TCP", 6), ("UDP", 17), ("SCTP", 132), ("ICMP", 1), ("ICMPv6", 58)];

/// A question.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe<'a> {
    /// `namespace/pod` or an address.
    #[serde(borrow)]
    pub from: Cow<'a, str>,
    /// `namespace/pod` or an address.
    #[serde(borrow)]
    pub to: Cow<'a, str>,
    /// TCP, UDP, SCTP, ICMP, ICMPv6 or an IP protocol number, as text or number; TCP if absent.
    #[serde(borrow, default)]
    pub protocol: Option<Word<'a>>,
    /// Destination port, for TCP, UDP and SCTP.
    #[serde(default)]
    pub port: Option<u32>,
}

/// A text that stays where it was read, unless it holds escapes. (serde would copy the text of an
/// `Option<Cow<str>>` in any case.)
///
/// A protocol may also be written as a JSON number, `47` as well as `"47"`.
#[derive(Debug, Clone)]
pub struct Word<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Word<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrNumber;
        impl<'de> Visitor<'de> for TextOrNumber {
            type Value = Word<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a protocol, or its IP protocol number from 0 to 255")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Word(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Word(Cow::Owned(text.to_owned())))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
                match u8::try_from(number) {
                    Ok(number) => Ok(Word(Cow::Owned(number.to_string()))),
                    Err(_) => Err(E::invalid_value(Unexpected::Unsigned(number), &self)),
                }
            }
        }
        deserializer.deserialize_any(TextOrNumber)
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// `allow` if both ends allow.
    pub verdict: &'static str,
    /// The source's policies.
    pub egress: SideAnswer,
    /// The destination's policies.
    pub ingress: SideAnswer,
    /// Set if the destination is a Service of which policies have to know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backends: Option<Backends>,
}

/// The answer to a question that has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Why, in words.
    pub error: String,
}

/// An end of a probe: the address of each family that it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct End {
    v4: Option<Address>,
    v6: Option<Address>,
    /// The IPv6 address was named first.
    prefers_v6: bool,
}

impl End {
    /// The first address of each family.
    pub fn of(addresses: &[IpAddr]) -> Self {
        let first = |v4| {
            let mut of_family = addresses.iter().filter(|address| address.is_ipv4() == v4);
            of_family.next().copied().map(Address::from)
        };
        Self {
            v4: first(true),
            v6: first(false),
            prefers_v6: addresses.first().is_some_and(IpAddr::is_ipv6),
        }
    }
}

/// Resolves `namespace/pod` or an address.
///
/// # Errors
/// A sentence that says why there is no such end.
pub fn resolve(index: &Index, text: &str) -> Result<End, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(End::of(&[address.to_canonical()]));
    }
    let Some((namespace, name)) = text.split_once('/') else {
        return Err(format!("`{text}` is neither an address nor namespace/pod"));
    };
    let key = ObjectKey::new(namespace, name);
    let pod = index.pod(&key).ok_or_else(|| format!("there is no pod {key}"))?;
    usable(pod)?;
    Ok(End::of(&pod.addresses))
}

fn usable(pod: &Pod) -> Result<(), String> {
    use crate::model::Phase;
    match pod.phase {
        Phase::Succeeded => Err(format!("pod {} has finished (Succeeded)", pod.key)),
        Phase::Failed => Err(format!("pod {} has finished (Failed)", pod.key)),
        Phase::Live if pod.addresses.is_empty() => {
            Err(format!("pod {} has no address (status.podIPs)", pod.key))
        }
        Phase::Live => Ok(()),
    }
}

/// An address of each end for each family that both have; first the one that the source names
/// first.
pub fn pairs(from: End, to: End) -> impl Iterator<Item = (Address, Address)> {
    let (v4, v6) = (from.v4.zip(to.v4), from.v6.zip(to.v6));
    let both = if from.prefers_v6 { [v6, v4] } else { [v4, v6] };
    both.into_iter().flatten()
}

/// The first of [`pairs`]: the addresses that a probe by names means.
///
/// # Errors
/// A sentence if the two have no family in common.
pub fn pair(from: End, to: End) -> Result<(Address, Address), String> {
    let first = pairs(from, to).next();
    first.ok_or_else(|| "the two ends have no address family in common".to_owned())
}

/// The protocol number and port of a probe.
///
/// # Errors
/// A sentence naming what is wrong.
pub fn traffic(protocol: Option<&str>, port: Option<u32>, v4: bool) -> Result<(u8, u16), String> {
    let name = protocol.unwrap_or("TCP");
    let number = NAMES
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, number)| *number)
        .or_else(|| name.parse().ok())
        .ok_or_else(|| {
            format!("`{name}` is no protocol; write TCP, UDP, SCTP, ICMP or an IP protocol number")
        })?;
    // ICMP is one protocol to the reader, two numbers on the wire.
    let number = match number {
        1 | 58 if v4 => 1,
        1 | 58 => 58,
        other => other,
    };
    match (matches!(number, 6 | 17 | 132), port) {
        (true, Some(port)) => match u16::try_from(port) {
            Ok(port) if port > 0 => Ok((number, port)),
            _ => Err(format!("{port} is no port; ports are 1 to 65535")),
        },
        (true, None) => Err(format!("{name} needs a port")),
        (false, None | Some(0)) => Ok((number, 0)),
        (false, Some(_)) => Err(format!("{name} has no ports; leave the port out")),
    }
}

fn parse(line: &[u8]) -> Result<Probe<'_>, String> {
    match std::str::from_utf8(line).ok().and_then(line::read) {
        Some(probe) => Ok(probe),
        None => serde_json::from_slice(line).map_err(|error| format!("not a probe: {error}")),
    }
}

/// Answers probes against one table; keeps names and parts of answers for the next probe.
#[derive(Debug)]
pub struct Prober<'a> {
    offline: &'a Offline,
    /// By name; only of pods that there are, so that it cannot outgrow the index.
    ends: FxHashMap<String, End>,
    /// (verdict, program where the verdict names no rule) → one side of an answer as JSON.
    sides: FxHashMap<(u32, u32), Box<[u8]>>,
}

impl<'a> Prober<'a> {
    /// A prober for a table.
    pub fn new(offline: &'a Offline) -> Self {
        Self { offline, ends: FxHashMap::default(), sides: FxHashMap::default() }
    }

    fn end(&mut self, text: &str) -> Result<End, String> {
        if !text.contains('/') {
            // Addresses are as many as they like and soon read; only names are kept.
            return resolve(&self.offline.index, text);
        }
        if let Some(end) = self.ends.get(text) {
            return Ok(*end);
        }
        let end = resolve(&self.offline.index, text)?;
        self.ends.insert(text.to_owned(), end);
        Ok(end)
    }

    /// The connection that a probe means, and what both ends say.
    ///
    /// # Errors
    /// A sentence that says why the question cannot be answered.
    pub fn judge(&mut self, probe: &Probe<'_>) -> Result<(Connection, Outlook), String> {
        let from = self.end(&probe.from)?;
        let to = self.end(&probe.to)?;
        let (src, dst) = pair(from, to)?;
        let protocol = probe.protocol.as_ref().map(|word| &*word.0);
        let (protocol, dport) = traffic(protocol, probe.port, src.is_v4())?;
        let connection = Connection { src, dst, protocol, dport };
        Ok((connection, self.offline.classifier.outlook(&connection)))
    }

    /// The answer to a probe.
    ///
    /// # Errors
    /// As [`Self::judge`].
    pub fn answer(&mut self, probe: &Probe<'_>) -> Result<Answer, String> {
        let (connection, outlook) = self.judge(probe)?;
        let table = self.offline.classifier.table();
        let (sender, receiver) = self.programs(&connection, &outlook);
        let Outlook { judgement, .. } = outlook;
        Ok(Answer {
            verdict: word(judgement.is_allowed()),
            egress: side_answer(table, sender, judgement.egress),
            ingress: side_answer(table, receiver, judgement.ingress),
            backends: Backends::of(&outlook),
        })
    }

    /// The programs that a connection is judged by: the source's egress, the receiver's ingress. A
    /// pod's traffic to itself is judged by none.
    fn programs(
        &self,
        connection: &Connection,
        outlook: &Outlook,
    ) -> (Option<ProgramId>, Option<ProgramId>) {
        if connection.src == connection.dst {
            return (None, None);
        }
        let classifier = &self.offline.classifier;
        let of = |class: ClassId| classifier.table().programs(class);
        let sender = of(classifier.class_of(connection.src)).map(|(_, egress)| egress);
        (sender, of(outlook.receiver).map(|(ingress, _)| ingress))
    }

    /// Answers every line of `input` in order. Returns (questions, those without an answer).
    ///
    /// # Errors
    /// Reading or writing failed.
    pub fn run(
        &mut self,
        mut input: impl BufRead,
        mut output: impl Write,
    ) -> io::Result<(usize, usize)> {
        let (mut asked, mut failed) = (0, 0);
        let mut line = Vec::new();
        loop {
            line.clear();
            if input.read_until(b'\n', &mut line)? == 0 {
                return Ok((asked, failed));
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            asked += 1;
            match parse(&line).and_then(|probe| self.judge(&probe)) {
                Ok((connection, outlook)) => self.write(&connection, &outlook, &mut output)?,
                Err(error) => {
                    failed += 1;
                    serde_json::to_writer(&mut output, &Failure { error })?;
                    output.write_all(b"\n")?;
                }
            }
        }
    }

    /// Writes the answer's JSON line: what serde would write of [`Answer`], put together from
    /// sides that are written once.
    fn write(
        &mut self,
        connection: &Connection,
        outlook: &Outlook,
        output: &mut impl Write,
    ) -> io::Result<()> {
        let Outlook { judgement, .. } = outlook;
        // A verdict names its rule; only where none matched does the text depend on who isolates.
        let (sender, receiver) = match judgement.is_allowed() {
            true => (None, None),
            false => self.programs(connection, outlook),
        };
        output.write_all(match judgement.is_allowed() {
            true => b"{\"verdict\":\"allow\",\"egress\":",
            false => b"{\"verdict\":\"deny\",\"egress\":",
        })?;
        output.write_all(self.side(sender, judgement.egress)?)?;
        output.write_all(b",\"ingress\":")?;
        output.write_all(self.side(receiver, judgement.ingress)?)?;
        if let Some(backends) = Backends::of(outlook) {
            output.write_all(b",\"backends\":")?;
            serde_json::to_writer(&mut *output, &backends)?;
        }
        output.write_all(b"}\n")
    }

    fn side(&mut self, program: Option<ProgramId>, verdict: Verdict) -> io::Result<&[u8]> {
        use std::collections::hash_map::Entry;
        let program = program.filter(|_| verdict == Verdict::DENY_ISOLATED);
        let key = (verdict.to_bits(), program.map_or(u32::MAX, |program| program.0));
        match self.sides.entry(key) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let answer = side_answer(self.offline.classifier.table(), program, verdict);
                Ok(entry.insert(serde_json::to_vec(&answer)?.into_boxed_slice()))
            }
        }
    }
}
