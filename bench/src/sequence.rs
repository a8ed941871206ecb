//! What became of numbered messages: which came, which came twice, which came late.
//!
//! Pure. Invariant: after every call `received = distinct + duplicated`, and a message is
//! counted either as duplicated or, at most, as reordered, never as both.

/// Numbers up to this are believed; a larger one is a broken message, and believing it would
/// cost memory (a bit a message).
pub const MAX_NUMBER: u64 = 1 << 32;

/// Counts the arrivals of one stream of messages, numbered from 0 without gaps.
#[derive(Clone, Debug, Default)]
pub struct Sequence {
    seen: Vec<u64>,
    received: u64,
    duplicated: u64,
    reordered: u64,
    highest: Option<u64>,
}

impl Sequence {
    /// Notes an arrival; false, and no count, for a number that cannot be true.
    pub fn note(&mut self, number: u64) -> bool {
        if number > MAX_NUMBER {
            return false;
        }
        self.received += 1;
        if !self.mark(number) {
            self.duplicated += 1;
        } else if self.highest.is_some_and(|highest| number < highest) {
            self.reordered += 1;
        }
        self.highest = self.highest.max(Some(number));
        true
    }

    /// Arrivals, repeated ones included.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Arrivals of a message that had come before.
    pub fn duplicated(&self) -> u64 {
        self.duplicated
    }

    /// First arrivals after a message with a higher number (RFC 4737, section 3).
    pub fn reordered(&self) -> u64 {
        self.reordered
    }

    /// Messages that came at least once.
    pub fn distinct(&self) -> u64 {
        self.received - self.duplicated
    }

    /// The highest number that came.
    pub fn highest(&self) -> Option<u64> {
        self.highest
    }

    /// Messages of the first `sent` that never came.
    pub fn lost(&self, sent: u64) -> u64 {
        sent.saturating_sub(self.distinct())
    }

    /// The longest run of the first `sent` numbers that never came.
    pub fn longest_loss(&self, sent: u64) -> u64 {
        let mut longest = 0;
        let mut run = 0;
        for number in 0..sent.min(MAX_NUMBER) {
            let word = usize::try_from(number / 64).ok().and_then(|word| self.seen.get(word));
            if word.is_some_and(|word| word & (1 << (number % 64)) != 0) {
                run = 0;
            } else {
                run += 1;
                longest = longest.max(run);
            }
        }
        longest
    }

    /// Marks a number as seen; false if it was before.
    fn mark(&mut self, number: u64) -> bool {
        let Ok(word) = usize::try_from(number / 64) else { return false };
        if word >= self.seen.len() {
            self.seen.resize(word + 1, 0);
        }
        let bit = 1 << (number % 64);
        let fresh = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn arrivals(numbers: &[u64]) -> Sequence {
        let mut sequence = Sequence::default();
        for &number in numbers {
            assert!(sequence.note(number));
        }
        sequence
    }

    #[test]
    fn late_ones_and_repeated_ones_are_told_apart() {
        let sequence = arrivals(&[0, 2, 1, 1, 3]);
        assert_eq!((sequence.received(), sequence.distinct()), (5, 4));
        assert_eq!((sequence.duplicated(), sequence.reordered()), (1, 1));
        assert_eq!((sequence.lost(4), sequence.lost(6)), (0, 2));
    }

    #[test]
    fn a_number_out_of_the_world_costs_nothing() {
        let mut sequence = Sequence::default();
        assert!(!sequence.note(u64::MAX));
        assert!(!sequence.note(MAX_NUMBER + 1));
        assert_eq!((sequence.received(), sequence.highest()), (0, None));
    }

    proptest! {
        /// Against a set and a running maximum, which are plainly right.
        #[test]
        fn counts_are_those_of_a_set(numbers in prop::collection::vec(0_u64..200, 0..300)) {
            let sequence = arrivals(&numbers);
            let mut set = BTreeSet::new();
            let (mut duplicated, mut reordered) = (0, 0);
            for &number in &numbers {
                let late = set.last().is_some_and(|&highest| number < highest);
                if !set.insert(number) {
                    duplicated += 1;
                } else if late {
                    reordered += 1;
                }
            }
            prop_assert_eq!(sequence.received(), numbers.len() as u64);
            prop_assert_eq!(sequence.duplicated(), duplicated);
            prop_assert_eq!(sequence.reordered(), reordered);
            prop_assert_eq!(sequence.distinct(), set.len() as u64);
            prop_assert_eq!(sequence.highest(), set.last().copied());
            prop_assert_eq!(sequence.lost(200), 200 - set.len() as u64);
            let longest = (0..=200_u64).scan(0, |run, n| {
                *run = if n == 200 || set.contains(&n) { 0 } else { *run + 1 };
                Some(*run)
            }).max();
            prop_assert_eq!(Some(sequence.longest_loss(200)), longest);
        }

        /// Taking away, repeating and swapping is found as exactly that.
        #[test]
        fn what_was_done_to_a_stream_is_what_is_found(
            sent in 3_u64..500, lose in any::<prop::sample::Index>(), repeat in any::<prop::sample::Index>(),
        ) {
            let mut numbers: Vec<u64> = (0..sent).collect();
            numbers.remove(lose.index(numbers.len()));
            let place = repeat.index(numbers.len());
            numbers.insert(place, numbers[place]);
            let sequence = arrivals(&numbers);
            prop_assert_eq!((sequence.lost(sent), sequence.duplicated(), sequence.reordered()), (1, 1, 0));
            let swapped: Vec<u64> = (0..sent).map(|n| match n { 0 => 1, 1 => 0, n => n }).collect();
            let sequence = arrivals(&swapped);
            prop_assert_eq!((sequence.lost(sent), sequence.duplicated(), sequence.reordered()), (0, 0, 1));
        }
    }
}
