//! Programs: for one endpoint and direction, which row of verdicts a destination port selects.
//!
//! The rules of all policies that select the endpoint become *terms* in the order in which they are
//! named: policies by namespace and name, then rules, then peers. Each port rule makes a term
//! active on an interval of ports; sweeping over the interval ends gives the spans, and in each span
//! every class gets the verdict of the first active term that holds it.

use std::collections::BTreeSet;
use std::hash::Hasher;
use std::rc::Rc;

use rustc_hash::FxHashMap;
use weir_table::policy::{Program, RuleId, Span, Verdict};

use super::blocks::count;
use super::set::ClassSet;
use super::vocabulary::NamedPort;
use crate::model::{Direction, Protocol};

/// A rule's port, with names as numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TermPort {
    /// An interval of one protocol's ports.
    Range(Protocol, u16, u16),
    /// A name under a protocol.
    Named(Protocol, u32),
}

/// One rule and peer.
#[derive(Debug, Clone)]
pub(super) struct Term {
    pub(super) rule: RuleId,
    /// The peers' classes, by number in [`Sets`].
    pub(super) peers: u32,
    /// Empty: all traffic.
    pub(super) ports: Rc<[TermPort]>,
}

/// Distinct class sets, numbered.
#[derive(Debug)]
pub(super) struct Sets {
    bound: usize,
    everyone: ClassSet,
    numbers: FxHashMap<ClassSet, u32>,
    sets: Vec<ClassSet>,
}

impl Sets {
    pub(super) fn new(bound: usize) -> Self {
        let everyone = ClassSet::full(bound);
        Self { bound, everyone, numbers: FxHashMap::default(), sets: Vec::new() }
    }

    /// The set of every class.
    pub(super) fn everyone(&self) -> &ClassSet {
        &self.everyone
    }

    pub(super) fn add(&mut self, set: ClassSet) -> u32 {
        let sets = &mut self.sets;
        *self.numbers.entry(set).or_insert_with_key(|set| {
            sets.push(set.clone());
            count(sets.len() - 1)
        })
    }

    pub(super) fn get(&self, number: u32) -> &ClassSet {
        &self.sets[number as usize]
    }
}

/// Distinct rows, numbered.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) rows: Vec<Vec<Verdict>>,
    /// Hash of a row → the rows that have it. A row of ten thousand classes is too large to be
    /// kept a second time as a key.
    numbers: FxHashMap<u64, Vec<u32>>,
    by_terms: FxHashMap<Box<[ActiveTerm]>, u32>,
}

/// A term that applies in a span: its rule, its peers, and to which of them it is restricted.
type ActiveTerm = (RuleId, u32, Option<u32>);

impl Rows {
    pub(super) fn new() -> Self {
        Self { rows: Vec::new(), numbers: FxHashMap::default(), by_terms: FxHashMap::default() }
    }

    /// The row that gives one verdict to every class.
    pub(super) fn uniform(&mut self, verdict: Verdict, bound: usize) -> u32 {
        self.add(vec![verdict; bound])
    }

    fn add(&mut self, row: Vec<Verdict>) -> u32 {
        let same_hash = self.numbers.entry(hash(&row)).or_default();
        if let Some(&number) = same_hash.iter().find(|number| self.rows[**number as usize] == row) {
            return number;
        }
        let number = count(self.rows.len());
        same_hash.push(number);
        self.rows.push(row);
        number
    }

    fn of_terms(&mut self, terms: Vec<ActiveTerm>, sets: &Sets) -> u32 {
        if let Some(&number) = self.by_terms.get(terms.as_slice()) {
            return number;
        }
        let mut row = vec![Verdict::DENY_ISOLATED; sets.bound];
        let mut left = sets.everyone().clone();
        for &(rule, peers, only) in &terms {
            let only = only.map(|only| sets.get(only));
            left.take(sets.get(peers), only, |class| row[class] = Verdict::allow(rule));
            if left.is_empty() {
                break;
            }
        }
        let number = self.add(row);
        self.by_terms.insert(terms.into_boxed_slice(), number);
        number
    }
}

/// A row's hash; two verdicts at a time, since rows are long.
fn hash(row: &[Verdict]) -> u64 {
    let mut hasher = rustc_hash::FxHasher::default();
    for pair in row.chunks(2) {
        let low = pair.first().map_or(0, |verdict| u64::from(verdict.to_bits()));
        let high = pair.get(1).map_or(0, |verdict| u64::from(verdict.to_bits()));
        hasher.write_u64(high << 32 | low);
    }
    hasher.finish()
}

/// Where named ports lead: at each peer's own pod for egress, at the endpoint itself for ingress.
pub(super) struct Names<'a> {
    pub(super) direction: Direction,
    /// The endpoint's named ports.
    pub(super) own: &'a [NamedPort],
    /// (name, protocol) → for each number the set of classes that give it to that name.
    pub(super) peers: &'a FxHashMap<(u32, Protocol), Vec<(u16, u32)>>,
}

impl Names<'_> {
    /// The numbers of a name, each with the classes to which it is restricted.
    fn resolve(&self, name: u32, protocol: Protocol) -> Vec<(u16, Option<u32>)> {
        match self.direction {
            Direction::Ingress => {
                let own = self.own.iter();
                let own = own.filter(|port| port.name == name && port.protocol == protocol);
                own.map(|port| (port.port, None)).collect()
            }
            Direction::Egress => {
                let peers = self.peers.get(&(name, protocol)).into_iter().flatten();
                peers.map(|(port, set)| (*port, Some(*set))).collect()
            }
        }
    }
}

/// A term's interval of ports.
struct Activation {
    first: u16,
    last: u16,
    term: ActiveTerm,
}

/// Builds the program of an endpoint from the terms of the policies that isolate it.
pub(super) fn build(
    isolating: Vec<u32>,
    terms: &[Term],
    names: &Names<'_>,
    sets: &Sets,
    rows: &mut Rows,
) -> Program {
    let [tcp, udp, sctp] = Protocol::ALL.map(|protocol| {
        let activations = activations(terms, protocol, names);
        spans(&activations, sets, rows)
    });
    // "ICMP allowed X→Y if any traffic X→Y is allowed": a term counts with every peer to which
    // at least one of its ports can lead; a name that leads nowhere opens nothing.
    let any: Vec<ActiveTerm> = terms
        .iter()
        .flat_map(|term| {
            let whole = (term.rule, term.peers, None);
            if term.ports.is_empty() {
                return vec![whole];
            }
            let active = term.ports.iter().flat_map(|port| match *port {
                TermPort::Range(..) => vec![whole],
                TermPort::Named(protocol, name) => names
                    .resolve(name, protocol)
                    .into_iter()
                    .map(|(_, only)| (term.rule, term.peers, only))
                    .collect(),
            });
            active.collect()
        })
        .collect();
    let portless = terms.iter().filter(|term| term.ports.is_empty());
    let portless = portless.map(|term| (term.rule, term.peers, None)).collect();
    Program {
        isolating,
        tcp,
        udp,
        sctp,
        icmp: rows.of_terms(any, sets),
        other: rows.of_terms(portless, sets),
    }
}

fn activations(terms: &[Term], protocol: Protocol, names: &Names<'_>) -> Vec<Activation> {
    let mut out = Vec::new();
    for term in terms {
        let mut add = |first, last, only| {
            out.push(Activation { first, last, term: (term.rule, term.peers, only) });
        };
        if term.ports.is_empty() {
            add(0, u16::MAX, None);
        }
        for port in term.ports.iter() {
            match *port {
                TermPort::Range(of, first, last) if of == protocol => add(first, last, None),
                TermPort::Named(of, name) if of == protocol => {
                    for (port, only) in names.resolve(name, protocol) {
                        add(port, port, only);
                    }
                }
                _ => {}
            }
        }
    }
    out
}

/// Cuts 0..=65535 at the ends of all intervals. Activations are in the order of their terms, so
/// the set of the active ones, by number, is too.
fn spans(activations: &[Activation], sets: &Sets, rows: &mut Rows) -> Vec<Span> {
    // (port, begins, number); an interval that ends at 65535 has no end event.
    let mut events: Vec<(u16, bool, usize)> = Vec::with_capacity(activations.len() * 2);
    for (number, activation) in activations.iter().enumerate() {
        events.push((activation.first, true, number));
        if let Some(after) = activation.last.checked_add(1) {
            events.push((after, false, number));
        }
    }
    events.sort_unstable();
    let mut spans: Vec<Span> = Vec::new();
    let mut active = BTreeSet::new();
    let mut events = events.into_iter().peekable();
    let mut first = 0;
    loop {
        while let Some((_, begins, number)) = events.next_if(|event| event.0 == first) {
            if begins {
                active.insert(number);
            } else {
                active.remove(&number);
            }
        }
        let terms = active.iter().map(|number| activations[*number].term).collect();
        let row = rows.of_terms(terms, sets);
        if spans.last().is_none_or(|span| span.row != row) {
            spans.push(Span { first, row });
        }
        match events.peek() {
            Some(event) => first = event.0,
            None => return spans,
        }
    }
}
