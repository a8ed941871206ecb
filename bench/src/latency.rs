//! Distributions of latencies.

use std::fmt;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies above this, a minute, are recorded as this.
const MAX_NS: u64 = 60_000_000_000;

/// Of fewer latencies than this there is no 99.99th percentile: it would be the largest.
pub const ENOUGH: u64 = 10_000;

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
        // Of so many, at least one lies above the percentile; of fewer, the largest would
        // pass for it.
        let if_enough =
            |quantile, enough| (self.0.len() >= enough).then(|| self.0.value_at_quantile(quantile));
        Latency {
            count: self.0.len(),
            min: self.0.min(),
            p50: at(0.5),
            p90: at(0.9),
            p99: if_enough(0.99, 100),
            p999: if_enough(0.999, 1_000),
            p9999: if_enough(0.9999, ENOUGH),
            max: self.0.max(),
        }
    }
}

/// Percentiles in nanoseconds; all 0 when nothing was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// Latencies that were recorded.
    pub count: u64,
    /// Smallest.
    pub min: u64,
    /// Median.
    pub p50: u64,
    /// 90th.
    pub p90: u64,
    /// 99th; `None` of fewer than a hundred.
    pub p99: Option<u64>,
    /// 99.9th; `None` of fewer than a thousand.
    pub p999: Option<u64>,
    /// 99.99th; `None` of fewer than [`ENOUGH`].
    pub p9999: Option<u64>,
    /// Largest.
    pub max: u64,
}

impl fmt::Display for Latency {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |ns: u64| ns as f64 / 1e3;
        write!(f, "min {:.1} p50 {:.1} p90 {:.1}", us(self.min), us(self.p50), us(self.p90))?;
        let rare = [("p99", self.p99), ("p99.9", self.p999), ("p99.99", self.p9999)];
        for (name, value) in rare {
            if let Some(ns) = value {
                write!(f, " {name} {:.1}", us(ns))?;
            }
        }
        write!(f, " max {:.1} µs", us(self.max))?;
        match rare.iter().find(|(_, value)| value.is_none()) {
            Some((name, _)) => write!(f, " ({} are too few for {name})", self.count),
            None => Ok(()),
        }
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
            (found.p99.unwrap(), 9_900_000),
            (found.p999.unwrap(), 9_990_000),
            (found.p9999.unwrap(), 9_999_000),
            (found.max, 10_000_000),
        ] {
            assert!(value.abs_diff(wanted) <= wanted / 500, "{value} {wanted}");
        }
    }

    #[test]
    fn the_largest_of_too_few_does_not_pass_for_a_percentile() {
        let mut recorder = Recorder::new().unwrap();
        let mut known = Vec::new();
        for n in 1..=ENOUGH {
            // The first is an outlier, all others are alike.
            recorder.record(if n == 1 { 1_000_000 } else { 1000 });
            if [99, 100, 999, 1_000, ENOUGH - 1, ENOUGH].contains(&n) {
                let found = recorder.percentiles();
                let rare = [found.p99, found.p999, found.p9999];
                assert!(rare.iter().flatten().all(|ns| *ns < 2000), "{found:?}");
                known.push((found.count, rare.iter().flatten().count()));
            }
        }
        assert_eq!(known, [(99, 0), (100, 1), (999, 1), (1_000, 2), (9_999, 2), (10_000, 3)]);
        let words = recorder.percentiles().to_string();
        assert!(words.contains("p99.99 ") && !words.contains("too few"), "{words}");
        let mut few = Recorder::new().unwrap();
        few.record(5000);
        let words = few.percentiles().to_string();
        assert!(words.ends_with("max 5.0 µs (1 are too few for p99)"), "{words}");
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
