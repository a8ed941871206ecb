//! Which bytes of a datagram have come.
#![forbid(unsafe_code)]

use crate::parse::Extent;

/// Gaps that a datagram may have at a time, and one more. Fragments in order or in reverse
/// make none; a sender that scatters them further loses the datagram.
const RANGES: usize = 16;

/// Why a fragment's bytes cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    /// Some of them have come already, or lie behind the datagram's end.
    Overlap,
    /// They leave more gaps than are kept.
    Scattered,
}

/// Disjoint ranges of bytes, sorted, none touching the next.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ranges {
    ranges: [(u16, u16); RANGES],
    count: usize,
    /// Where the datagram ends, once its last fragment has come.
    end: Option<u16>,
}

impl Ranges {
    /// Takes a fragment's bytes; nothing changes if they do not fit.
    pub fn add(&mut self, Extent { start, end, last }: Extent) -> Result<(), Unfit> {
        let known = self.ranges.get(..self.count).unwrap_or_default();
        let beyond = |limit: u16| known.last().is_some_and(|&(_, end)| end > limit);
        if self.end.is_some_and(|limit| last || end > limit) || (last && beyond(end)) {
            return Err(Unfit::Overlap);
        }
        let at = known.partition_point(|&(first, _)| first < start);
        let before = at.checked_sub(1).and_then(|i| known.get(i)).copied();
        let after = known.get(at).copied();
        if before.is_some_and(|(_, e)| e > start) || after.is_some_and(|(s, _)| s < end) {
            return Err(Unfit::Overlap);
        }
        let joins_before = before.is_some_and(|(_, e)| e == start);
        let joins_after = after.is_some_and(|(s, _)| s == end);
        match (joins_before, joins_after) {
            (true, true) => {
                let upto = after.map_or(end, |(_, e)| e);
                self.set(at - 1, |range| range.1 = upto);
                self.ranges.copy_within(at + 1..self.count, at);
                self.count -= 1;
            }
            (true, false) => self.set(at - 1, |range| range.1 = end),
            (false, true) => self.set(at, |range| range.0 = start),
            (false, false) if self.count == RANGES => return Err(Unfit::Scattered),
            (false, false) => {
                self.ranges.copy_within(at..self.count, at + 1);
                self.set(at, |range| *range = (start, end));
                self.count += 1;
            }
        }
        if last {
            self.end = Some(end);
        }
        Ok(())
    }

    /// True once every byte has come.
    pub fn complete(&self) -> bool {
        self.count == 1 && self.end.is_some_and(|end| self.ranges[0] == (0, end))
    }

    fn set(&mut self, at: usize, change: impl FnOnce(&mut (u16, u16))) {
        if let Some(range) = self.ranges.get_mut(at) {
            change(range);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extent(start: u16, end: u16, last: bool) -> Extent {
        Extent { start, end, last }
    }

    #[test]
    fn overlaps_and_contradictions_are_refused() {
        let mut ranges = Ranges::default();
        ranges.add(extent(16, 32, false)).unwrap();
        for (start, end, last) in [
            (16, 32, false), // again
            (24, 40, false),
            (8, 24, false),
            (0, 64, false),
            (20, 24, false),
            (0, 8, true), // ends before what has come
        ] {
            let refused = ranges.add(extent(start, end, last));
            assert_eq!(refused, Err(Unfit::Overlap), "{start}..{end} {last}");
        }
        ranges.add(extent(32, 40, true)).unwrap();
        assert_eq!(ranges.add(extent(40, 48, false)), Err(Unfit::Overlap), "behind the end");
        assert_eq!(ranges.add(extent(8, 16, true)), Err(Unfit::Overlap), "a second end");
        ranges.add(extent(0, 16, false)).unwrap();
        assert!(ranges.complete());
    }

    #[test]
    fn gaps_are_bounded() {
        let mut ranges = Ranges::default();
        for n in 0..RANGES as u16 {
            ranges.add(extent(n * 16, n * 16 + 8, false)).unwrap();
        }
        let next = RANGES as u16 * 16;
        assert_eq!(ranges.add(extent(next, next + 8, false)), Err(Unfit::Scattered));
        ranges.add(extent(8, 16, false)).unwrap();
        ranges.add(extent(next, next + 8, false)).unwrap();
    }

    proptest! {
        /// Against a set of bytes.
        #[test]
        fn ranges_are_the_bytes_that_came(
            parts in proptest::collection::vec((0..24u16, 1..6u16, any::<bool>()), 1..40),
        ) {
            let mut ranges = Ranges::default();
            let (mut bytes, mut end) = ([false; 64], None::<usize>);
            for (start, length, last) in parts {
                let last = last && start > 12;
                let (from, to) = (usize::from(start), usize::from(start + length));
                let highest = bytes.iter().rposition(|&b| b).map_or(0, |at| at + 1);
                let contradicts = match end {
                    Some(end) => last || to > end,
                    None => last && highest > to,
                };
                let fits = !contradicts && !bytes[from..to].contains(&true);
                let taken = ranges.add(extent(start, start + length, last));
                if taken == Err(Unfit::Scattered) {
                    continue; // (not with so few bytes)
                }
                prop_assert_eq!(taken.is_ok(), fits);
                if fits {
                    bytes[from..to].fill(true);
                    end = end.or(last.then_some(to));
                }
                let whole = end.is_some_and(|end| !bytes[..end].contains(&false));
                prop_assert_eq!(ranges.complete(), whole);
            }
        }
    }
}
