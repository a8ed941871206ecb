//! For which pairs of classes an endpoint's verdicts differ.
//!
//! A row of verdicts is turned into one bit a pair: whether it allows the pair's
//! class. Old rows by the old classes, new rows by the new ones, each row once.
//! Then two programs are compared stretch of ports by stretch of ports, 64 pairs
//! at a time.

use rustc_hash::FxHashMap;

use super::pairs::{Pair, overlay};
use crate::policy::{ClassId, PolicyTable, ProgramId};

/// A set of pairs: bit `i % 64` of word `i / 64` is pair `i`; bits behind the
/// last pair are 0.
pub(super) type PairSet = Vec<u64>;

/// Whether pair `pair` is in a set.
#[inline]
pub(super) fn contains(set: &[u64], pair: usize) -> bool {
    set.get(pair / 64).is_some_and(|word| word >> (pair % 64) & 1 != 0)
}

/// The pairs in a set, ascending.
pub(super) fn members(set: &[u64]) -> impl Iterator<Item = usize> + '_ {
    set.iter().enumerate().flat_map(|(i, &word)| {
        let mut left = word;
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let bit = left.trailing_zeros() as usize;
            left &= left - 1;
            Some(i * 64 + bit)
        })
    })
}

/// How much work may still be done, in comparisons of about a nanosecond.
#[derive(Debug)]
pub(super) struct Budget {
    left: u64,
    exceeded: bool,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Budget {
        Budget { left: limit, exceeded: false }
    }

    /// Asks to do `work` units; `false` if that is too much.
    pub(super) fn spend(&mut self, work: usize) -> bool {
        match self.left.checked_sub(work as u64) {
            Some(left) => self.left = left,
            None => self.exceeded = true,
        }
        !self.exceeded
    }

    /// Whether something was refused, so that no result is complete.
    pub(super) fn is_exceeded(&self) -> bool {
        self.exceeded
    }
}

/// One table's rows as sets of pairs, each made when it is first asked for.
struct Rows<'a, B> {
    table: &'a PolicyTable<B>,
    /// Words of a set.
    width: usize,
    /// The pairs of class `c` in this table: `members[starts[c] .. starts[c + 1]]`.
    members: Vec<usize>,
    starts: Vec<usize>,
    /// Row → where its set begins in `words`.
    places: FxHashMap<u32, usize>,
    words: Vec<u64>,
    /// One bit a class; kept for its memory.
    scratch: Vec<u64>,
}

impl<'a, B: AsRef<[u8]>> Rows<'a, B> {
    /// `classes` gives the class of each pair, in their order.
    fn new(table: &'a PolicyTable<B>, classes: impl Iterator<Item = ClassId>) -> Rows<'a, B> {
        let mut by_class: Vec<(usize, usize)> =
            classes.enumerate().map(|(pair, class)| (class.0 as usize, pair)).collect();
        by_class.sort_unstable();
        let mut starts = vec![0; table.classes() + 1];
        for &(class, _) in &by_class {
            starts[class + 1] += 1; // a pair's classes are known to their tables
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        let members: Vec<usize> = by_class.into_iter().map(|(_, pair)| pair).collect();
        Rows {
            table,
            width: members.len().div_ceil(64),
            members,
            starts,
            places: FxHashMap::default(),
            words: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Where the set of `row` begins; `None` once the budget is exceeded.
    fn place(&mut self, row: u32, budget: &mut Budget) -> Option<usize> {
        if let Some(&place) = self.places.get(&row) {
            return Some(place);
        }
        let read = self.table.allowed_classes(row, &mut self.scratch);
        let allowed: usize = self.scratch.iter().map(|word| word.count_ones() as usize).sum();
        // Most rows allow few classes, or all but few: only those are looked at.
        let mostly = if 2 * allowed > self.table.classes() { u64::MAX } else { 0 };
        let place = self.words.len();
        self.words.resize(place + self.width, mostly);
        let set = &mut self.words[place..];
        let mut looked_at = 0;
        self.scratch.iter_mut().for_each(|word| *word ^= mostly);
        for class in members(&self.scratch) {
            // The last word's bits behind the last class are no classes.
            let Some(&[first, end]) = self.starts.get(class..).and_then(|s| s.first_chunk()) else {
                break;
            };
            for &pair in &self.members[first..end] {
                set[pair / 64] ^= 1 << (pair % 64);
            }
            looked_at += 1 + end - first;
        }
        if let (Some(last), tail @ 1..) = (set.last_mut(), self.members.len() % 64) {
            *last &= !(u64::MAX << tail);
        }
        self.places.insert(row, place);
        budget.spend(read + looked_at + self.width).then_some(place)
    }
}

/// Compares programs of an old and a new table.
pub(super) struct Verdicts<'a, B, B2> {
    old: Rows<'a, B>,
    new: Rows<'a, B2>,
    /// Words of a set.
    width: usize,
    /// (old program, new program) → the pairs for which they differ.
    known: FxHashMap<(ProgramId, ProgramId), PairSet>,
}

impl<'a, B: AsRef<[u8]>, B2: AsRef<[u8]>> Verdicts<'a, B, B2> {
    pub(super) fn new(
        old: &'a PolicyTable<B>,
        new: &'a PolicyTable<B2>,
        pairs: &[Pair],
    ) -> Verdicts<'a, B, B2> {
        Verdicts {
            old: Rows::new(old, pairs.iter().map(|pair| pair.old)),
            new: Rows::new(new, pairs.iter().map(|pair| pair.new)),
            width: pairs.len().div_ceil(64),
            known: FxHashMap::default(),
        }
    }

    /// The peers, as pairs, for which endpoints whose programs were those of
    /// `before` and are those of `after` (ingress, egress) get another verdict
    /// at some protocol and port, in either direction. Incomplete once the
    /// budget is exceeded.
    pub(super) fn differing(
        &mut self,
        before: (ProgramId, ProgramId),
        after: (ProgramId, ProgramId),
        budget: &mut Budget,
    ) -> PairSet {
        let mut set = self.of_programs(before.0, after.0, budget);
        let egress = self.of_programs(before.1, after.1, budget);
        set.iter_mut().zip(egress).for_each(|(word, other)| *word |= other);
        set
    }

    fn of_programs(&mut self, old: ProgramId, new: ProgramId, budget: &mut Budget) -> PairSet {
        if let Some(set) = self.known.get(&(old, new)) {
            return set.clone();
        }
        let mut set = vec![0; self.width];
        let (before, after) = (self.old.table, self.new.table);
        for (old_row, new_row) in before.portless_rows(old).zip(after.portless_rows(new)) {
            self.add_rows(old_row, new_row, &mut set, budget);
        }
        for protocol in 0..PolicyTable::<B>::PORT_PROTOCOLS {
            overlay(before.spans(old, protocol), after.spans(new, protocol), |_, old, new| {
                self.add_rows(old, new, &mut set, budget);
            });
        }
        self.known.insert((old, new), set.clone());
        set
    }

    /// Adds the pairs for which two rows differ.
    fn add_rows(&mut self, old: u32, new: u32, set: &mut PairSet, budget: &mut Budget) {
        if !budget.spend(self.width) {
            return;
        }
        let (Some(old), Some(new)) = (self.old.place(old, budget), self.new.place(new, budget))
        else {
            return;
        };
        let words = self.old.words[old..].iter().zip(&self.new.words[new..]);
        set.iter_mut().zip(words).for_each(|(word, (old, new))| *word |= old ^ new);
    }
}
