//! Medians and spreads of a few noisy values.
//!
//! The machine's noise is one-sided and has outliers, so nothing here is a mean.

use serde::Serialize;

/// The median and what lies around it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// How many values.
    pub count: usize,
    /// Half of the values are not above, half not below.
    pub median: f64,
    /// Lower quartile.
    pub q1: f64,
    /// Upper quartile.
    pub q3: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

impl Summary {
    /// Of finite values, in any order; `None` if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        Some(Self {
            count: values.len(),
            median: quantile(&values, 0.5)?,
            q1: quantile(&values, 0.25)?,
            q3: quantile(&values, 0.75)?,
            min: *values.first()?,
            max: *values.last()?,
        })
    }
}

/// The median of finite values, in any order; `None` if there are none.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    Summary::of(values).map(|summary| summary.median)
}

/// The value below which a part `q` (0 to 1) of `sorted` lies, linear between neighbours.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index into a slice, and q is in 0..=1"
)]
fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = q * last as f64;
    let below = at.floor() as usize;
    let low = *sorted.get(below)?;
    let high = *sorted.get((below + 1).min(last))?;
    Some(low + (high - low) * at.fract())
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
    fn one_outlier_moves_the_median_little_and_the_maximum_much() {
        let summary = Summary::of([1.0, 1.1, 0.9, 1.05, 40.0]).unwrap();
        assert_eq!((summary.median, summary.max, summary.min), (1.05, 40.0, 0.9));
        assert_eq!((summary.q1, summary.q3, summary.count), (1.0, 1.1, 5));
    }

    #[test]
    fn quartiles_lie_between_neighbours() {
        let summary = Summary::of([0.0, 10.0]).unwrap();
        assert_eq!((summary.q1, summary.median, summary.q3), (2.5, 5.0, 7.5));
    }

    #[test]
    fn nothing_has_no_median() {
        assert_eq!(Summary::of([]), None);
        assert_eq!(median([f64::NAN, f64::INFINITY]), None, "a division by zero is no value");
    }
}
