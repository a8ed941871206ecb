//! Judges a stream from the messages that arrived.
//!
//! Pure: the caller gives each message with the time it came.

use serde::Serialize;

use crate::latency::{Latency, Recorder};
use crate::message::Message;
use crate::sequence::{MAX_NUMBER, Sequence};

/// Counts one stream.
#[derive(Debug)]
pub struct Tally {
    stream: Option<u64>,
    sequence: Sequence,
    foreign: u64,
    total: Option<u64>,
    first_ns: u64,
    last_ns: u64,
    max_gap_ns: u64,
    latency: Recorder,
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

impl Tally {
    /// An empty tally. It counts the first stream that it meets.
    ///
    /// # Errors
    /// Never in practice: the bounds of the histogram are constants.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            stream: None,
            sequence: Sequence::default(),
            foreign: 0,
            total: None,
            first_ns: 0,
            last_ns: 0,
            max_gap_ns: 0,
            latency: Recorder::new()?,
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
        if !self.has_begun() {
            self.first_ns = now_ns;
        } else {
            self.max_gap_ns = self.max_gap_ns.max(now_ns.saturating_sub(self.last_ns));
        }
        self.last_ns = now_ns;
        self.latency.record(now_ns.saturating_sub(message.sent_ns));
        self.sequence.note(message.number);
    }

    /// Whether every message that was sent has come.
    pub fn is_whole(&self) -> bool {
        self.total.is_some_and(|total| self.sequence.distinct() >= total)
    }

    /// Whether any message has come.
    pub fn has_begun(&self) -> bool {
        self.sequence.received() > 0
    }

    /// The findings so far.
    #[expect(clippy::cast_precision_loss, reason = "seconds for people")]
    pub fn report(&self) -> Report {
        let expected =
            self.total.unwrap_or_else(|| self.sequence.highest().map_or(0, |highest| highest + 1));
        Report {
            received: self.sequence.received(),
            expected,
            lost: self.sequence.lost(expected),
            duplicated: self.sequence.duplicated(),
            reordered: self.sequence.reordered(),
            foreign: self.foreign,
            complete: self.total.is_some(),
            longest_loss: self.sequence.longest_loss(expected),
            max_gap_us: self.max_gap_ns / 1000,
            seconds: self.last_ns.saturating_sub(self.first_ns) as f64 / 1e9,
            latency_ns: self.latency.percentiles(),
        }
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
