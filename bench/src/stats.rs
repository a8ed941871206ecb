//! Medians of a few noisy values, and how sure they are.
//!
//! The machine's noise is one-sided and has outliers, so nothing here is a mean and
//! nothing assumes a distribution. The confidence interval of a median is rank based
//! (the sign test turned round): of `n` sorted values, the `k`-th smallest and the
//! `k`-th largest enclose the true median with probability `1 - 2 P(X < k)`, X binomial
//! with `n` trials and probability one half, whatever the distribution. The interval is
//! the narrowest with at least [`CONFIDENCE`]; fewer than five values reach that only in
//! part and then their whole range is given. (A bootstrap of five values looks narrower
//! and covers less than it says.)

use serde::Serialize;

/// The wanted confidence of an interval.
pub const CONFIDENCE: f64 = 0.9;

/// The median and what lies around it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// How many values.
    pub count: usize,
    /// Half of the values are not above, half not below.
    pub median: f64,
    /// Lower end of the median's confidence interval.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// The probability with which the interval holds the true median, 0 to 1.
    pub confidence: f64,
}

impl Summary {
    /// Of finite values, in any order; `None` if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let count = values.len();
        let (rank, confidence) = interval(count)?;
        Some(Self {
            count,
            median: middle(&values)?,
            low: *values.get(rank)?,
            high: *values.get(count - 1 - rank)?,
            confidence,
        })
    }

    /// Whether `bound` lies within the interval: another run may well come out on its
    /// other side.
    pub fn holds(&self, bound: f64) -> bool {
        self.low <= bound && bound <= self.high
    }
}

/// The median of finite values, in any order; `None` if there are none.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    Summary::of(values).map(|summary| summary.median)
}

fn middle(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

/// How many values to leave out at each end, and the confidence of what is left.
fn interval(count: usize) -> Option<(usize, f64)> {
    let trials = i32::try_from(count).ok().filter(|trials| *trials > 0)?;
    // P(X = k) for k = 0, then step by step upwards.
    let mut probability = 0.5_f64.powi(trials);
    let mut below = 0.0; // P(X < k), k = rank + 1
    let mut best = None;
    for rank in 0..count.div_ceil(2) {
        below += probability;
        let confidence = 1.0 - 2.0 * below;
        if best.is_none() || confidence >= CONFIDENCE {
            best = Some((rank, confidence.max(0.0)));
        }
        #[expect(clippy::cast_precision_loss, reason = "a few values")]
        let step = (count - rank) as f64 / (rank + 1) as f64;
        probability *= step;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_odd_number_is_the_one_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([5.0]), Some(5.0));
    }

    #[test]
    fn the_median_of_an_even_number_is_between_two() {
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn the_interval_is_that_of_the_tables() {
        // Confidence levels of order statistics for the median (e.g. David & Nagaraja,
        // Order Statistics, section 7.1).
        for (count, rank, confidence) in
            [(5, 0, 0.9375), (6, 0, 0.968_75), (8, 1, 0.929_687_5), (11, 2, 0.934_570_312_5)]
        {
            let (found, level) = interval(count).unwrap();
            assert_eq!(found, rank, "{count}");
            assert!((level - confidence).abs() < 1e-9, "{count}: {level}");
        }
    }

    #[test]
    fn few_values_say_how_little_they_are_sure() {
        let summary = Summary::of([1.0, 3.0]).unwrap();
        assert_eq!((summary.low, summary.high, summary.confidence), (1.0, 3.0, 0.5));
        assert_eq!(Summary::of([1.0]).unwrap().confidence, 0.0);
    }

    #[test]
    fn one_outlier_moves_neither_median_nor_a_longer_interval() {
        let summary = Summary::of([1.0, 1.1, 0.9, 1.05, 1.0, 1.02, 1.03, 40.0]).unwrap();
        assert_eq!((summary.median, summary.low, summary.high), (1.025, 1.0, 1.1));
        assert!(summary.holds(1.05) && !summary.holds(1.2));
    }

    #[test]
    fn nothing_has_no_median() {
        assert_eq!(Summary::of([]), None);
        assert_eq!(median([f64::NAN, f64::INFINITY]), None, "a division by zero is no value");
    }
}
