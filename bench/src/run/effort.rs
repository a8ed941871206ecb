//! How long everything is measured.

use std::fmt;

use crate::latency::ENOUGH;

/// Sizes of the loads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    /// Rounds; every round takes a value of everything.
    pub rounds: u32,
    /// Packets of one slice of established flows.
    pub packets: u32,
    /// Slices, whose median is the value.
    pub slices: u32,
    /// Packets of one slice of new flows.
    pub new_packets: u32,
    /// Slices.
    pub new_slices: u32,
    /// Seconds of one trial in the search for a rate.
    pub trial: f64,
    /// Seconds of sending before each trial and latency measurement.
    pub warm_up: f64,
    /// Trials of the search in the first round, both goals together.
    pub search: u32,
    /// Trials a goal in later rounds.
    pub confirm: u32,
    /// Seconds of a latency measurement at one rate, at least.
    pub latency: f64,
    /// And at most, where the 99.99th percentile needs more frames.
    pub latency_most: f64,
    /// Seconds of a TCP stream.
    pub stream: u32,
    /// Request/response transactions.
    pub transactions: u32,
    /// Seconds of opening connections.
    pub connect: f64,
}

impl Effort {
    /// What figures are taken with: as many rounds as a median with an interval needs.
    pub const DEFAULT: Self = Self {
        rounds: 5,
        packets: 30_000,
        slices: 7,
        new_packets: 5_000,
        new_slices: 5,
        trial: 0.4,
        warm_up: 0.05,
        search: 8,
        confirm: 3,
        latency: 0.3,
        latency_most: 1.0,
        stream: 2,
        transactions: 10_000,
        connect: 1.0,
    };

    /// Whether it works, not how fast.
    pub const QUICK: Self = Self {
        rounds: 2,
        packets: 20_000,
        slices: 3,
        new_packets: 2_000,
        new_slices: 3,
        trial: 0.3,
        warm_up: 0.05,
        search: 5,
        confirm: 2,
        latency: 0.2,
        latency_most: 0.2,
        stream: 1,
        transactions: 3_000,
        connect: 0.7,
    };

    /// Seconds of a latency measurement at `pps`: as long as the 99.99th percentile needs, within
    /// the limits.
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    pub fn latency_at(&self, pps: f64) -> f64 {
        // A little more: some may be lost, or sent late.
        (1.02 * ENOUGH as f64 / pps).clamp(self.latency, self.latency_most)
    }
}

impl fmt::Display for Effort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cpu: {} slices of {} packets, {} of {} where every packet is a new flow; \
             rates: trials of {} s after {} s of warm-up, at most {} in the first round and {} a \
             goal later; latency {} to {} s a rate; TCP {} s; {} transactions; connections \
             {} s",
            self.slices,
            self.packets,
            self.new_slices,
            self.new_packets,
            self.trial,
            self.warm_up,
            self.search,
            self.confirm,
            self.latency,
            self.latency_most,
            self.stream,
            self.transactions,
            self.connect
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_is_measured_long_enough_for_its_rarest_percentile_within_limits() {
        let seconds = |pps| Effort::DEFAULT.latency_at(pps);
        assert_eq!((seconds(1e6), seconds(100.0)), (0.3, 1.0));
        assert!((seconds(20_000.0) * 20_000.0 - 10_200.0).abs() < 1.0);
        assert_eq!(Effort::QUICK.latency_at(100.0), Effort::QUICK.latency);
    }
}
