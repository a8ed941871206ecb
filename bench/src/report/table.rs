//! From samples to rows: medians, ratios within a round, and whether they are as wanted.

use std::collections::BTreeMap;

use serde::Serialize;

use super::measures::{Better, MEASURES, Measure, Wanted};
use super::proof;
use super::sample::{Contender, Failure, Sample};
use crate::stats::Summary;

/// One measure.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The measure's name in the samples.
    pub id: &'static str,
    /// For people.
    pub title: &'static str,
    /// Of the values.
    pub unit: &'static str,
    /// Each contender's values.
    pub values: BTreeMap<Contender, Summary>,
    /// Each contender against plain, round by round: ratios, or for a measure that is
    /// wanted to exceed another by little, the excess in the measure's unit.
    pub against_plain: BTreeMap<Contender, Summary>,
    /// Weir's value divided by nft's, round by round.
    pub weir_by_nft: Option<Summary>,
    /// In words; empty if nothing is wanted.
    pub wanted: String,
    /// Absent if nothing is wanted or nothing was measured.
    pub reached: Option<bool>,
    /// Whether the quartiles lie on both sides of a bound, so that another run may well
    /// come to another answer.
    pub uncertain: bool,
}

/// The whole outcome.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// One for each measure that has values.
    pub rows: Vec<Row>,
    /// How many values entered.
    pub samples: usize,
    /// Values that did not, with the reason, and measurements that failed.
    pub refused: Vec<Failure>,
}

impl Table {
    /// Judges samples. Those whose proof fails are refused.
    pub fn of(samples: &[Sample], failures: &[Failure]) -> Self {
        let mut refused = failures.to_vec();
        let mut values = Values::default();
        for sample in samples {
            match proof::check(sample) {
                Ok(()) => values.add(sample),
                Err(error) => refused.push(Failure {
                    round: sample.round,
                    measure: sample.measure.clone(),
                    contender: sample.contender,
                    error,
                }),
            }
        }
        let rows = MEASURES.iter().filter_map(|measure| values.row(measure)).collect();
        Self { rows, samples: samples.len() + failures.len() - refused.len(), refused }
    }

    /// Whether everything that was measured is as wanted, and nothing was refused.
    pub fn is_as_wanted(&self) -> bool {
        self.refused.is_empty() && self.rows.iter().all(|row| row.reached != Some(false))
    }
}

/// Values by measure, contender and round.
#[derive(Default)]
struct Values(BTreeMap<(String, Contender), BTreeMap<u32, f64>>);

impl Values {
    fn add(&mut self, sample: &Sample) {
        self.0
            .entry((sample.measure.clone(), sample.contender))
            .or_default()
            .insert(sample.round, sample.value);
    }

    fn of(&self, id: &str, contender: Contender) -> BTreeMap<u32, f64> {
        self.0.get(&(id.to_owned(), contender)).cloned().unwrap_or_default()
    }

    /// Combines two contenders' values of the same rounds.
    fn pair(
        left: &BTreeMap<u32, f64>,
        right: &BTreeMap<u32, f64>,
        with: impl Fn(f64, f64) -> f64,
    ) -> BTreeMap<u32, f64> {
        left.iter()
            .filter_map(|(round, left)| Some((*round, with(*left, *right.get(round)?))))
            .collect()
    }

    fn row(&self, measure: &Measure) -> Option<Row> {
        let each = |of: &dyn Fn(Contender) -> BTreeMap<u32, f64>| -> BTreeMap<_, _> {
            Contender::ALL
                .iter()
                .filter_map(|who| Some((*who, Summary::of(of(*who).into_values())?)))
                .collect()
        };
        let value = |who| self.of(measure.id, who);
        let values = each(&value);
        if values.is_empty() {
            return None;
        }
        let against_plain = each(&|who| match measure.wanted {
            _ if who == Contender::Plain => BTreeMap::new(),
            Wanted::Extra { over, .. } => {
                let extra = |who| {
                    Self::pair(&value(who), &self.of(over, who), |large, small| large - small)
                };
                Self::pair(&extra(who), &extra(Contender::Plain), |own, plain| own - plain)
            }
            _ => Self::pair(&value(who), &value(Contender::Plain), |own, plain| own / plain),
        });
        let by_nft =
            Self::pair(&value(Contender::Weir), &value(Contender::Nft), |weir, nft| weir / nft);
        let weir_by_nft = Summary::of(by_nft.into_values());
        let weir = against_plain.get(&Contender::Weir);
        let (wanted, reached) = judge(measure, weir, weir_by_nft);
        let uncertain = reached.is_some() && is_uncertain(measure, weir, weir_by_nft);
        let Measure { id, title, unit, .. } = *measure;
        Some(Row {
            id,
            title,
            unit,
            values,
            against_plain,
            weir_by_nft,
            wanted,
            reached,
            uncertain,
        })
    }
}

/// What is wanted in words, and whether it is reached.
fn judge(
    measure: &Measure,
    against_plain: Option<&Summary>,
    by_nft: Option<Summary>,
) -> (String, Option<bool>) {
    let good = |value: f64, bound: f64| match measure.better {
        Better::Lower => value <= bound,
        Better::Higher => value >= bound,
    };
    let (sign, side) = match measure.better {
        Better::Lower => ("≤", "below nft"),
        Better::Higher => ("≥", "above nft"),
    };
    match measure.wanted {
        Wanted::Nothing => (String::new(), None),
        Wanted::Extra { bound, .. } => {
            let reached = against_plain.map(|extra| extra.median <= bound);
            (format!("≤ +{bound} {}", measure.unit), reached)
        }
        Wanted::Ratio { bound, better_than_nft } => {
            let mut wanted = format!("{sign} {bound:.2} × plain");
            let mut reached = against_plain.map(|ratio| good(ratio.median, bound));
            if better_than_nft {
                wanted = format!("{wanted}, {side}");
                let beats = by_nft.map(|ratio| ratio.median != 1.0 && good(ratio.median, 1.0));
                reached = reached.and_then(|reached| Some(reached && beats?));
            }
            (wanted, reached)
        }
    }
}

/// Whether the spread reaches across a bound.
fn is_uncertain(measure: &Measure, weir: Option<&Summary>, by_nft: Option<Summary>) -> bool {
    let across = |summary: Option<Summary>, bound| {
        summary.is_some_and(|it| it.q1 <= bound && bound <= it.q3)
    };
    let weir = weir.copied();
    match measure.wanted {
        Wanted::Nothing => false,
        Wanted::Extra { bound, .. } => across(weir, bound),
        Wanted::Ratio { bound, better_than_nft } => {
            across(weir, bound) || (better_than_nft && across(by_nft, 1.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Evidence, NftCounters};
    use super::*;

    /// A sample whose proof holds.
    fn sample(round: u32, measure: &str, contender: Contender, value: f64) -> Sample {
        let mut before = Evidence::default();
        let mut after = Evidence::default();
        match contender {
            Contender::Plain => {}
            Contender::Nft => {
                before.nft = Some(NftCounters::default());
                after.nft = Some(NftCounters { accepted_by_set: 1.0, dropped: 0.0 });
            }
            Contender::Weir | Contender::WeirOff | Contender::WeirTap => {
                let counters =
                    |n| Some([("hit", n), ("punted", n)].map(|(k, v)| (k.into(), v)).into());
                before.weir = counters(0.0);
                after.weir = counters(200.0);
            }
        }
        let measure = measure.to_owned();
        Sample { round, measure, contender, value, packets: 100.0, flows: 1.0, before, after }
    }

    fn table(samples: &[(u32, &str, Contender, f64)]) -> Table {
        let samples: Vec<_> = samples
            .iter()
            .map(|(round, measure, contender, value)| sample(*round, measure, *contender, *value))
            .collect();
        Table::of(&samples, &[])
    }

    use Contender::{Nft, Plain, Weir};

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine was three times as slow in round 2; no ratio shows it.
        let table = table(&[
            (1, "established-1", Plain, 100.0),
            (1, "established-1", Weir, 105.0),
            (1, "established-1", Nft, 125.0),
            (2, "established-1", Plain, 300.0),
            (2, "established-1", Weir, 315.0),
            (2, "established-1", Nft, 375.0),
        ]);
        let row = &table.rows[0];
        assert_eq!(row.against_plain[&Weir].median, 1.05);
        assert_eq!((row.against_plain[&Nft].min, row.against_plain[&Nft].max), (1.25, 1.25));
        assert_eq!(row.values[&Plain].median, 200.0);
        assert_eq!(row.reached, Some(true));
        assert!(table.is_as_wanted());
    }

    #[test]
    fn a_round_without_plain_gives_a_value_and_no_ratio() {
        let table = table(&[
            (1, "tcp-stream", Plain, 10.0),
            (1, "tcp-stream", Weir, 9.8),
            (2, "tcp-stream", Weir, 1.0),
        ]);
        assert_eq!(table.rows[0].against_plain[&Weir].count, 1);
        assert_eq!(table.rows[0].values[&Weir].count, 2);
    }

    #[test]
    fn a_rate_must_not_be_lower_and_a_cost_not_higher() {
        let reached = |measure, weir| {
            table(&[(1, measure, Plain, 100.0), (1, measure, Nft, 80.0), (1, measure, Weir, weir)])
                .rows[0]
                .reached
        };
        assert_eq!(reached("connect", 90.0), Some(true));
        assert_eq!(reached("connect", 89.0), Some(false));
        assert_eq!(reached("rr-block-p50", 105.0), Some(true));
        assert_eq!(reached("rr-block-p50", 106.0), Some(false));
        assert_eq!(reached("rr-block-p99", 900.0), None, "for information");
    }

    #[test]
    fn where_nft_is_to_be_beaten_a_good_ratio_alone_does_not_do() {
        let reached = |nft: Option<f64>| {
            let mut samples = vec![(1, "connect", Plain, 100.0), (1, "connect", Weir, 95.0)];
            samples.extend(nft.map(|nft| (1, "connect", Nft, nft)));
            table(&samples).rows[0].reached
        };
        assert_eq!(reached(Some(94.0)), Some(true));
        assert_eq!(reached(Some(95.0)), Some(false));
        assert_eq!(reached(Some(97.0)), Some(false));
        assert_eq!(reached(None), None, "not known without nft");
    }

    #[test]
    fn the_extra_cost_of_a_large_table_is_weirs_own() {
        let table = table(&[
            (1, "table-1000", Plain, 1000.0),
            (1, "table-1000000", Plain, 1040.0),
            (1, "table-1000", Weir, 1100.0),
            (1, "table-1000000", Weir, 1390.0),
        ]);
        let row = table.rows.iter().find(|row| row.id == "table-1000000").unwrap();
        assert_eq!(row.against_plain[&Weir].median, 250.0);
        assert_eq!((row.wanted.as_str(), row.reached), ("≤ +300 ns/packet", Some(true)));
    }

    #[test]
    fn a_spread_across_the_bound_is_uncertain() {
        let uncertain = |weir: [f64; 3]| {
            let samples: Vec<_> = (1..)
                .zip(weir)
                .flat_map(|(round, weir)| {
                    [(round, "tcp-stream", Plain, 1.0), (round, "tcp-stream", Weir, weir)]
                })
                .collect();
            table(&samples).rows[0].uncertain
        };
        assert!(!uncertain([0.98, 0.99, 1.0]));
        assert!(uncertain([0.80, 0.98, 1.2]));
        assert!(!uncertain([0.80, 0.81, 0.82]));
    }

    #[test]
    fn a_value_without_proof_is_refused_and_named() {
        let mut unproven = sample(3, "connect", Weir, 1e9);
        unproven.after = unproven.before.clone();
        let failure = Failure {
            round: 4,
            measure: "connect".to_owned(),
            contender: Plain,
            error: "no answer".to_owned(),
        };
        let table = Table::of(&[sample(3, "connect", Plain, 1.0), unproven], &[failure]);
        assert_eq!((table.samples, table.refused.len()), (1, 2));
        assert!(!table.rows[0].values.contains_key(&Weir));
        assert!(!table.is_as_wanted());
    }
}
