//! Values by scenario, measure, contender and round; ratios within a round.

use std::collections::{BTreeMap, BTreeSet};

use super::proof;
use super::sample::{Failure, Sample};
use crate::run::contender::Contender;
use crate::run::scenario::Scenario;
use crate::stats::Summary;

/// One value for each round.
pub type Rounds = BTreeMap<u32, f64>;

/// All values whose proof holds.
#[derive(Clone, Debug, Default)]
pub struct Values(BTreeMap<(Scenario, String, Contender), Rounds>);

impl Values {
    /// Sorts samples; those without proof are refused, with the reason.
    pub fn of(samples: &[Sample]) -> (Self, Vec<Failure>) {
        let (mut values, mut refused) = (Self::default(), Vec::new());
        for sample in samples {
            let Sample { round, scenario, contender, .. } = *sample;
            let measure = sample.measure.clone();
            match proof::check(sample) {
                Ok(()) => {
                    let rounds = values.0.entry((scenario, measure, contender)).or_default();
                    rounds.insert(round, sample.value);
                }
                Err(error) => refused.push(Failure { round, scenario, measure, contender, error }),
            }
        }
        (values, refused)
    }

    /// The scenarios that have values.
    pub fn scenarios(&self) -> BTreeSet<Scenario> {
        self.0.keys().map(|(scenario, ..)| *scenario).collect()
    }

    /// The values of one cell; none if it was not measured.
    pub fn get(&self, scenario: Scenario, measure: &str, contender: Contender) -> Rounds {
        self.0.get(&(scenario, measure.to_owned(), contender)).cloned().unwrap_or_default()
    }

    /// Its median; `None` if it was not measured.
    pub fn summary(
        &self,
        scenario: Scenario,
        measure: &str,
        contender: Contender,
    ) -> Option<Summary> {
        Summary::of(self.get(scenario, measure, contender).into_values())
    }

    /// One contender's values by another's, round by round; a round that lacks one gives
    /// none.
    pub fn ratio(
        &self,
        scenario: Scenario,
        measure: &str,
        (over, under): (Contender, Contender),
    ) -> Rounds {
        let of = |who| self.get(scenario, measure, who);
        pair(&of(over), &of(under), |over, under| over / under)
    }
}

/// Combines two contenders' values of the same rounds.
pub fn pair(left: &Rounds, right: &Rounds, with: impl Fn(f64, f64) -> f64) -> Rounds {
    left.iter()
        .filter_map(|(round, left)| Some((*round, with(*left, *right.get(round)?))))
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::run::contender::{Counters, Evidence, Filter};

    /// A sample whose proof holds.
    pub fn proven(
        round: u32,
        scenario: &str,
        measure: &str,
        contender: Contender,
        value: f64,
    ) -> Sample {
        let (mut before, mut after) = (Evidence::default(), Evidence::default());
        match contender {
            Contender::Plain => {}
            Contender::NftLinear | Contender::NftSets | Contender::IptablesIpset => {
                before.counters.filter = Some(Filter::default());
                after.counters.filter = Some(Filter { accepted: 1.0, dropped: 0.0 });
                after.conntrack = 1.0;
            }
            Contender::Ovs | Contender::Testpmd => {
                let counters =
                    |n| Counters { redirected: Some(n), tracked: Some(1.0), ..Counters::default() };
                (before.counters, after.counters) = (counters(0.0), counters(200.0));
            }
            Contender::Weir | Contender::WeirOff | Contender::WeirTap => {
                let name = if contender == Contender::Weir { "hit" } else { "punted" };
                let weir = |n: f64| {
                    Some([(name, n), ("opened", n / 200.0)].map(|(k, v)| (k.into(), v)).into())
                };
                (before.passed, after.passed) = (Some(0.0), Some(200.0));
                (before.counters.weir, after.counters.weir) = (weir(0.0), weir(200.0));
            }
        }
        Sample {
            round,
            scenario: scenario.parse().unwrap(),
            measure: measure.to_owned(),
            contender,
            value,
            packets: 100.0,
            flows: 1.0,
            before,
            after,
            detail: serde_json::Value::Null,
        }
    }

    use Contender::{Plain, Weir};

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine was three times as slow in round 2; no ratio shows it.
        let samples = [(1, Plain, 100.0), (1, Weir, 105.0), (2, Plain, 300.0), (2, Weir, 315.0)]
            .map(|(round, who, value)| proven(round, "64b-1r-1f", "cpu", who, value));
        let (values, refused) = Values::of(&samples);
        assert!(refused.is_empty(), "{refused:?}");
        let scenario = samples[0].scenario;
        let ratios = values.ratio(scenario, "cpu", (Weir, Plain));
        assert_eq!(ratios, [(1, 1.05), (2, 1.05)].into());
        assert_eq!(values.summary(scenario, "cpu", Plain).unwrap().median, 200.0);
    }

    #[test]
    fn a_round_without_plain_gives_a_value_and_no_ratio() {
        let samples = [(1, Plain, 10.0), (1, Weir, 9.8), (2, Weir, 1.0)]
            .map(|(round, who, value)| proven(round, "apps-1r", "tcp-1", who, value));
        let (values, _) = Values::of(&samples);
        let scenario = samples[0].scenario;
        assert_eq!(values.ratio(scenario, "tcp-1", (Weir, Plain)).len(), 1);
        assert_eq!(values.get(scenario, "tcp-1", Weir).len(), 2);
    }

    #[test]
    fn a_value_without_proof_is_refused_and_named() {
        let mut unproven = proven(3, "apps-1r", "connect", Weir, 1e9);
        unproven.after = unproven.before.clone();
        let (values, refused) =
            Values::of(&[proven(3, "apps-1r", "connect", Plain, 1.0), unproven]);
        assert_eq!(refused.len(), 1);
        assert!(refused[0].error.contains("steering"), "{refused:?}");
        assert!(values.get(refused[0].scenario, "connect", Weir).is_empty());
    }
}
