//! Judges a stream from the messages that arrived.
//!
//! Pure: the caller gives each message with the time it came. Invariant: after
//! every call `received = distinct + duplicated`.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::message::Message;

/// Numbers up to this are believed; a larger one is a broken message, and
/// believing it would cost memory (a bit a message).
const MAX_NUMBER: u64 = 1 << 32;

/// Latencies above this are recorded as this.
const MAX_LATENCY_NS: u64 = 60_000_000_000;

/// Counts one stream.
#[derive(Debug)]
pub struct Tally {
    stream: Option<u64>,
    seen: Vec<u64>,
    received: u64,
    duplicated: u64,
    reordered: u64,
    foreign: u64,
    highest: Option<u64>,
    total: Option<u64>,
    first_ns: u64,
    last_ns: u64,
    max_gap_ns: u64,
    latency: Histogram<u64>,
}

/// What came of a stream.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Messages that arrived, repeated ones included.
    pub received: u64,
    /// Messages sent; without an end mark, what the highest number suggests.
    pub expected: u64,
    /// Messages of `expected` that never came.
    pub lost: u64,
    /// Arrivals of a message that had come before.
    pub duplicated: u64,
    /// Arrivals after a message with a higher number.
    pub reordered: u64,
    /// Datagrams that belong to no stream or to another one.
    pub foreign: u64,
    /// Whether the end mark arrived, so that `expected` is certain.
    pub complete: bool,
    /// The longest run of numbers that never came.
    pub longest_loss: u64,
    /// The longest time between two arrivals, in microseconds.
    pub max_gap_us: u64,
    /// First to last arrival, in seconds.
    pub seconds: f64,
    /// Send to arrival.
    pub latency_ns: Latency,
}

/// Percentiles in nanoseconds, of all arrivals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// Smallest.
    pub min: u64,
    /// Median.
    pub p50: u64,
    /// 90th.
    pub p90: u64,
    /// 99th.
    pub p99: u64,
    /// 99.9th.
    pub p999: u64,
    /// Largest.
    pub max: u64,
}

impl Tally {
    /// An empty tally. It counts the first stream that it meets.
    ///
    /// # Errors
    /// Never in practice: the bounds of the histogram are constants.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            stream: None,
            seen: Vec::new(),
            received: 0,
            duplicated: 0,
            reordered: 0,
            foreign: 0,
            highest: None,
            total: None,
            first_ns: 0,
            last_ns: 0,
            max_gap_ns: 0,
            latency: Histogram::new_with_bounds(1, MAX_LATENCY_NS, 3)?,
        })
    }

    /// Notes a datagram that arrived at `now_ns` (`CLOCK_MONOTONIC`).
    pub fn note(&mut self, payload: &[u8], now_ns: u64) {
        let message = match Message::read(payload) {
            Some(message)
                if message.number <= MAX_NUMBER
                    && *self.stream.get_or_insert(message.stream) == message.stream =>
            {
                message
            }
            _ => {
                self.foreign += 1;
                return;
            }
        };
        if message.total > 0 {
            self.total = Some(message.total);
            return;
        }
        if self.received == 0 {
            self.first_ns = now_ns;
        } else {
            self.max_gap_ns = self.max_gap_ns.max(now_ns.saturating_sub(self.last_ns));
        }
        self.last_ns = now_ns;
        self.received += 1;
        self.latency.saturating_record(now_ns.saturating_sub(message.sent_ns));
        if !self.mark(message.number) {
            self.duplicated += 1;
        } else if self.highest.is_some_and(|highest| message.number < highest) {
            self.reordered += 1;
        }
        self.highest = self.highest.max(Some(message.number));
    }

    /// Whether every message that was sent has come.
    pub fn is_whole(&self) -> bool {
        self.total.is_some_and(|total| self.received - self.duplicated >= total)
    }

    /// Whether any message has come.
    pub fn has_begun(&self) -> bool {
        self.received > 0
    }

    /// The findings so far.
    #[expect(clippy::cast_precision_loss, reason = "seconds for people")]
    pub fn report(&self) -> Report {
        let expected = self.total.unwrap_or_else(|| self.highest.map_or(0, |highest| highest + 1));
        let distinct = self.received - self.duplicated;
        Report {
            received: self.received,
            expected,
            lost: expected.saturating_sub(distinct),
            duplicated: self.duplicated,
            reordered: self.reordered,
            foreign: self.foreign,
            complete: self.total.is_some(),
            longest_loss: self.longest_loss(expected),
            max_gap_us: self.max_gap_ns / 1000,
            seconds: self.last_ns.saturating_sub(self.first_ns) as f64 / 1e9,
            latency_ns: Latency {
                min: self.latency.min(),
                p50: self.latency.value_at_quantile(0.5),
                p90: self.latency.value_at_quantile(0.9),
                p99: self.latency.value_at_quantile(0.99),
                p999: self.latency.value_at_quantile(0.999),
                max: self.latency.max(),
            },
        }
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

    fn longest_loss(&self, expected: u64) -> u64 {
        let mut longest = 0;
        let mut run = 0;
        for number in 0..expected.min(MAX_NUMBER) {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays (number, arrival in µs); each was sent at its number in µs.
    fn play(arrivals: &[(u64, u64)], total: u64) -> Report {
        let mut tally = Tally::new().unwrap();
        for &(number, at_us) in arrivals {
            tally.note(&datagram(9, number, number * 1000, 0), at_us * 1000);
        }
        if total > 0 {
            tally.note(&datagram(9, total, 0, total), 0);
        }
        tally.report()
    }

    fn datagram(stream: u64, number: u64, sent_ns: u64, total: u64) -> [u8; 64] {
        let mut payload = [0; 64];
        Message { stream, number, sent_ns, total }.write(&mut payload).unwrap();
        payload
    }

    #[test]
    fn a_perfect_stream_has_no_findings() {
        let report = play(&[(0, 5), (1, 6), (2, 7)], 3);
        assert_eq!((report.received, report.expected, report.lost), (3, 3, 0));
        assert_eq!((report.duplicated, report.reordered, report.longest_loss), (0, 0, 0));
        assert_eq!((report.complete, report.max_gap_us), (true, 1));
        assert!((4990..=5010).contains(&report.latency_ns.p50), "{report:?}");
    }

    #[test]
    fn losses_are_counted_at_the_head_inside_and_at_the_end() {
        let report = play(&[(1, 1), (2, 2), (6, 6)], 9);
        assert_eq!((report.received, report.lost, report.longest_loss), (3, 6, 3));
        assert_eq!(report.max_gap_us, 4);
    }

    #[test]
    fn without_an_end_mark_only_known_gaps_count() {
        let report = play(&[(0, 0), (3, 3)], 0);
        assert_eq!((report.complete, report.expected, report.lost), (false, 4, 2));
    }

    #[test]
    fn duplicates_and_late_ones_are_told_apart() {
        let report = play(&[(0, 0), (2, 1), (1, 2), (1, 3), (3, 4)], 4);
        assert_eq!((report.lost, report.duplicated, report.reordered), (0, 1, 1));
    }

    #[test]
    fn other_streams_and_other_traffic_are_foreign() {
        let mut tally = Tally::new().unwrap();
        tally.note(b"hello", 0);
        tally.note(&datagram(1, 0, 0, 0), 0);
        tally.note(&datagram(2, 1, 0, 0), 0);
        tally.note(&datagram(1, u64::MAX, 0, 0), 0);
        tally.note(&datagram(1, 1, 0, 1), 0);
        let report = tally.report();
        assert_eq!((report.received, report.foreign, report.expected), (1, 3, 1));
        assert!(tally.is_whole());
    }
}
