//! Distributions of latencies.

use std::fmt;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies above this, a minute, are recorded as this.
const MAX_NS: u64 = 60_000_000_000;

/// Records latencies with three significant digits.
#[derive(Clone, Debug)]
pub struct Recorder(Histogram<u64>);

impl Recorder {
    /// An empty one.
    ///
    /// # Errors
    /// Never in practice: the bounds of the histogram are constants.
    pub fn new() -> Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, MAX_NS, 3)?))
    }

    /// Records a latency in nanoseconds.
    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns.clamp(1, MAX_NS));
    }

    /// The percentiles.
    pub fn percentiles(&self) -> Latency {
        let at = |quantile| self.0.value_at_quantile(quantile);
        Latency {
            min: self.0.min(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: self.0.max(),
        }
    }
}

/// Percentiles in nanoseconds; all 0 when nothing was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
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
    /// 99.99th.
    pub p9999: u64,
    /// Largest.
    pub max: u64,
}

impl fmt::Display for Latency {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |ns: u64| ns as f64 / 1e3;
        write!(
            f,
            "min {:.1} p50 {:.1} p90 {:.1} p99 {:.1} p99.9 {:.1} p99.99 {:.1} max {:.1} µs",
            us(self.min),
            us(self.p50),
            us(self.p90),
            us(self.p99),
            us(self.p999),
            us(self.p9999),
            us(self.max)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_recorded() {
        let mut recorder = Recorder::new().unwrap();
        assert_eq!(recorder.percentiles(), Latency::default());
        for ns in 1..=10_000 {
            recorder.record(ns * 1000);
        }
        let found = recorder.percentiles();
        for (value, wanted) in [
            (found.p50, 5_000_000_u64),
            (found.p90, 9_000_000),
            (found.p99, 9_900_000),
            (found.p9999, 9_999_000),
            (found.max, 10_000_000),
        ] {
            assert!(value.abs_diff(wanted) <= wanted / 500, "{value} {wanted}");
        }
    }

    #[test]
    fn what_is_out_of_range_is_recorded_at_its_end() {
        let mut recorder = Recorder::new().unwrap();
        recorder.record(0);
        recorder.record(u64::MAX);
        let found = recorder.percentiles();
        assert_eq!(found.min, 1);
        assert!(found.max >= MAX_NS, "{found:?}");
    }
}
