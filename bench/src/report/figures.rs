//! The figures that Weir is to reach, and whether it does: ratios, within one run.

use serde::Serialize;

use super::inprocess::{InProcess, Measured};
use super::sample::Requested;
use super::values::{Rounds, Values, pair};
use crate::run::contender::Contender::{self, NftLinear, NftSets, Plain, Weir, WeirOff, WeirTap};
use crate::run::loads::Kind;
use crate::run::scenario::{Family, Flows, Load, Scenario, Size};
use crate::stats::Summary;

/// Rounds whose range holds the median with the wanted confidence.
const ROUNDS: usize = 5;

/// What is wanted of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// A cost.
    AtMost(f64),
    /// A rate.
    AtLeast(f64),
    /// Quoted beside another figure; nothing is wanted of it.
    Quoted,
}

impl Bound {
    fn holds(self, value: f64) -> Option<bool> {
        match self {
            Self::AtMost(bound) => Some(value <= bound),
            Self::AtLeast(bound) => Some(value >= bound),
            Self::Quoted => None,
        }
    }

    fn is_within(self, found: Summary) -> bool {
        match self {
            Self::AtMost(bound) | Self::AtLeast(bound) => found.holds(bound),
            Self::Quoted => false,
        }
    }

    fn words(self) -> String {
        match self {
            Self::AtMost(bound) => format!("≤ {bound}"),
            Self::AtLeast(bound) => format!("≥ {bound}"),
            Self::Quoted => "for comparison,".to_owned(),
        }
    }
}

/// One line of the list.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What it is.
    pub title: String,
    /// Under which load.
    pub load: String,
    /// What is wanted, in words.
    pub wanted: String,
    /// What was found; `None`: not measured.
    pub found: Option<Summary>,
    /// Absent if it was not measured, or nothing is wanted.
    pub reached: Option<bool>,
    /// Whether the run was asked for it.
    pub requested: bool,
    /// The rounds from which it was found; `None`: not measured in rounds.
    pub rounds: Option<usize>,
    /// Whether the bound lies within the confidence interval, so that another run may
    /// well come to another answer.
    pub uncertain: bool,
}

impl Figure {
    fn new(title: &str, load: &str, bound: Bound, unit: &str, found: Option<Summary>) -> Self {
        Self {
            title: title.to_owned(),
            load: load.to_owned(),
            wanted: format!("{}{unit}", bound.words()),
            found,
            requested: false,
            reached: found.and_then(|found| bound.holds(found.median)),
            uncertain: found.is_some_and(|found| bound.is_within(found)),
            rounds: None,
        }
    }

    /// The same, measured in rounds: fewer than a median with an interval needs are uncertain
    /// wherever there is a bound.
    fn in_rounds(self) -> Self {
        let rounds = self.found.map(|found| found.count);
        let few = rounds.is_some_and(|rounds| rounds < ROUNDS);
        Self { uncertain: self.uncertain || few, rounds, ..self }
    }

    /// The same, of a run that was asked for it or not.
    fn requested(self, requested: bool) -> Self {
        Self { requested, ..self }
    }

    /// Not missed, and not missing.
    pub fn is_as_wanted(&self) -> bool {
        self.reached.unwrap_or(self.found.is_some() || !self.requested)
    }
}

/// A ratio of two contenders that is wanted wherever both were measured.
struct Wanted {
    title: &'static str,
    measure: &'static str,
    of: (Contender, Contender),
    bound: Bound,
    applies: fn(Scenario) -> bool,
    /// Named when it was not measured.
    example: &'static str,
}

const WANTED: &[Wanted] = &[
    Wanted {
        title: "steering hit: CPU, weir / nft-sets",
        measure: "cpu",
        of: (Weir, NftSets),
        bound: Bound::AtMost(0.9),
        applies: is_established_64,
        example: "64b-1000r-10kf",
    },
    Wanted {
        title: "new flows to known ports: CPU, weir / nft-linear with 100 rules",
        measure: "cpu",
        of: (Weir, NftLinear),
        bound: Bound::AtMost(0.5),
        applies: |scenario| is_new(scenario) && scenario.rules == 100,
        example: "64b-100r-new",
    },
    Wanted {
        title: "first packets to their ports: CPU, weir / nft-linear",
        measure: "cpu",
        of: (Weir, NftLinear),
        bound: Bound::Quoted,
        applies: is_first,
        example: "64b-100r-first",
    },
    Wanted {
        title: "bulk TCP, 1 stream: weir / plain",
        measure: "tcp-1",
        of: (Weir, Plain),
        bound: Bound::AtLeast(0.97),
        applies: is_apps,
        example: "apps-1000r",
    },
    Wanted {
        title: "bulk TCP, 8 streams: weir / plain",
        measure: "tcp-8",
        of: (Weir, Plain),
        bound: Bound::AtLeast(0.97),
        applies: is_apps,
        example: "apps-1000r",
    },
    Wanted {
        title: "UDP request/response, p50: weir / plain",
        measure: "rr-block-p50",
        of: (Weir, Plain),
        bound: Bound::AtMost(1.05),
        applies: is_apps,
        example: "apps-1000r",
    },
    Wanted {
        title: "connections a second: weir / nft-sets",
        measure: "connect",
        of: (Weir, NftSets),
        bound: Bound::AtLeast(1.0),
        applies: is_apps,
        example: "apps-1000r",
    },
    Wanted {
        title: "every packet in user space: CPU, weir-off / plain",
        measure: "cpu",
        of: (WeirOff, Plain),
        bound: Bound::AtMost(2.0),
        applies: is_established_64,
        example: "64b-1000r-10kf",
    },
    Wanted {
        title: "bulk TCP, every packet in user space: weir-tap / plain",
        measure: "tcp-1",
        of: (WeirTap, Plain),
        bound: Bound::AtLeast(0.6),
        applies: is_apps,
        example: "apps-1000r",
    },
];

/// All figures; those that were not measured say so.
pub fn all(values: &Values, inprocess: Option<&InProcess>, plan: &Requested) -> Vec<Figure> {
    let mut scenarios = values.scenarios();
    scenarios.extend(&plan.scenarios);
    let mut figures = Vec::new();
    for wanted in WANTED {
        let Wanted { title, measure, of, bound, applies, example } = wanted;
        let before = figures.len();
        for scenario in scenarios.iter().filter(|scenario| applies(**scenario)) {
            let found = Summary::of(values.ratio(*scenario, measure, *of).into_values());
            let requested = Kind::of_measure(measure).is_some_and(|kind| {
                plan.has(*scenario, kind, of.0) && plan.has(*scenario, kind, of.1)
            });
            if found.is_some() || requested {
                let figure = Figure::new(title, &scenario.to_string(), *bound, " ×", found);
                figures.push(figure.requested(requested).in_rounds());
            }
        }
        if figures.len() == before {
            figures.push(Figure::new(title, example, *bound, " ×", None));
        }
    }
    let at = figures.iter().position(|figure| figure.title.starts_with("bulk")).unwrap_or(0);
    figures.insert(at, flatness(values, plan));
    figures.extend(large_table(values, plan));
    figures.extend(in_process(inprocess));
    figures
}

fn is_apps(scenario: Scenario) -> bool {
    scenario.load == Load::Apps
}

fn is_new(scenario: Scenario) -> bool {
    matches!(scenario.load, Load::Packets { flows: Flows::New, .. })
        && scenario.family == Family::V4
}

fn is_first(scenario: Scenario) -> bool {
    matches!(scenario.load, Load::Packets { flows: Flows::First, .. })
        && scenario.family == Family::V4
}

fn is_established_64(scenario: Scenario) -> bool {
    matches!(scenario.load, Load::Packets { size: Size::Bytes(64), flows: Flows::Established(_) })
}

/// New flows under the most policies against new flows under one, both as ratios to
/// plain of the same turn, so that the machine's mood cancels out.
fn flatness(values: &Values, plan: &Requested) -> Figure {
    let requested = |scenario: Scenario| has_cpu(plan, scenario);
    let mut new = values.scenarios();
    new.extend(&plan.scenarios);
    new.retain(|scenario| {
        let measured = !values.get(*scenario, "cpu", Weir).is_empty();
        is_new(*scenario) && (measured || requested(*scenario))
    });
    let few = new.iter().find(|scenario| scenario.rules == 1);
    let many = new.iter().filter(|scenario| scenario.rules >= 10_000).max();
    let (load, found, requested) = match (few, many) {
        (Some(few), Some(many)) => {
            let by_plain = |scenario: &Scenario| values.ratio(*scenario, "cpu", (Weir, Plain));
            let ratios: Rounds = pair(&by_plain(many), &by_plain(few), |many, few| many / few);
            let requested = requested(*few) && requested(*many);
            (format!("{many} by {few}"), Summary::of(ratios.into_values()), requested)
        }
        _ => ("64b-10kr-new by 64b-1r-new".to_owned(), None, false),
    };
    let title = "new flows are flat from 1 to 10,000 policies: CPU";
    Figure::new(title, &load, Bound::AtMost(1.1), " ×", found).requested(requested).in_rounds()
}

/// Whether the run was asked for Weir's and plain's processor time.
fn has_cpu(plan: &Requested, scenario: Scenario) -> bool {
    [Weir, Plain].into_iter().all(|who| plan.has(scenario, Kind::Cpu, who))
}

/// What a million flows cost more than a thousand or ten thousand, less what they cost
/// plain routing more: a table that no cache holds.
fn large_table(values: &Values, plan: &Requested) -> Option<Figure> {
    let mut scenarios = values.scenarios();
    scenarios.extend(&plan.scenarios);
    let with = |wanted: &dyn Fn(u32) -> bool| {
        scenarios.iter().copied().find(|scenario| match scenario.load {
            Load::Packets { size: Size::Bytes(64), flows: Flows::Established(flows) } => {
                let measured = !values.get(*scenario, "cpu", Weir).is_empty();
                wanted(flows) && (measured || has_cpu(plan, *scenario))
            }
            _ => false,
        })
    };
    let (large, small) = (with(&|flows| flows >= 1_000_000)?, with(&|flows| flows == 10_000)?);
    let extra = |who| {
        let of = |scenario| values.get(scenario, "cpu", who);
        pair(&of(large), &of(small), |large, small| large - small)
    };
    let own = pair(&extra(Weir), &extra(Plain), |weir, plain| weir - plain);
    let found = Summary::of(own.into_values());
    let title = "a million flows: CPU beyond ten thousand, less plain's own, ns/packet";
    let load = format!("{large} less {small}");
    let figure = Figure::new(title, &load, Bound::AtMost(300.0), "", found);
    Some(figure.requested(has_cpu(plan, large) && has_cpu(plan, small)).in_rounds())
}

/// What `bench/in-process` measured; wanted if it was run along.
fn in_process(file: Option<&InProcess>) -> Vec<Figure> {
    let find = |name: &str, who: &str| file.and_then(|file| file.find(name, who));
    let mut figures = Vec::new();
    for (flows, bound) in [("10k", 25.0), ("1M", 40.0)] {
        let name = format!("pipeline-established/{flows}");
        let found = find(&name, "weir").map(Measured::summary);
        let title = format!("pipeline in process, established, {flows} flows, ns/packet");
        figures.push(Figure::new(&title, &name, Bound::AtMost(bound), "", found));
    }
    let load = "pipeline-established/1";
    let found = find(load, "weir").zip(find(load, "ovs-conntrack"));
    let found = found.and_then(|(weir, ovs)| Summary::of([ovs.value / weir.value]));
    let title = "pipeline in process: Open vSwitch's conntrack benchmark / weir";
    figures.push(Figure::new(title, load, Bound::AtLeast(3.0), " ×", found));
    figures.into_iter().map(|figure| figure.requested(file.is_some())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::values::tests::proven;
    use super::*;

    fn figures(samples: &[(u32, &str, &str, Contender, f64)]) -> Vec<Figure> {
        let samples: Vec<_> = samples
            .iter()
            .map(|(round, scenario, measure, who, value)| {
                proven(*round, scenario, measure, *who, *value)
            })
            .collect();
        all(&Values::of(&samples).0, None, &Requested::default())
    }

    fn find<'a>(figures: &'a [Figure], title: &str) -> &'a Figure {
        figures.iter().find(|figure| figure.title.contains(title)).unwrap()
    }

    #[test]
    fn what_was_not_measured_is_neither_reached_nor_missed() {
        let figures = figures(&[]);
        assert!(figures.len() >= 12, "{}", figures.len());
        assert!(figures.iter().all(|figure| figure.reached.is_none() && figure.found.is_none()));
    }

    #[test]
    fn in_process_figures_are_wanted_where_they_were_measured_along() {
        let with = |file: Option<&InProcess>| {
            all(&Values::default(), file, &Requested::default())
                .into_iter()
                .filter(|figure| figure.title.contains("in process"))
                .map(|figure| (figure.found.map(|found| found.median), figure.is_as_wanted()))
                .collect::<Vec<_>>()
        };
        assert_eq!(with(None), [(None, true), (None, true), (None, true)]);
        // A million flows are missing from this file.
        let file = super::super::inprocess::tests::file(24.0);
        assert_eq!(with(Some(&file)), [(Some(24.0), true), (None, false), (Some(3.5), true)]);
        let slow = super::super::inprocess::tests::file(26.0);
        assert_eq!(with(Some(&slow))[0], (Some(26.0), false));
    }

    #[test]
    fn every_figure_of_a_requested_scenario_is_listed_and_missing() {
        let plan = Requested {
            scenarios: ["64b-1r-new", "64b-10kr-new", "64b-1r-10kf", "64b-1r-1mf", "apps-1r"]
                .map(|name| name.parse().unwrap())
                .to_vec(),
            contenders: Contender::ALL.to_vec(),
            only: Vec::new(),
            rounds: 1,
        };
        let missing = |plan: &Requested| {
            let figures = all(&Values::default(), None, plan);
            figures.into_iter().filter(|figure| !figure.is_as_wanted()).collect::<Vec<_>>()
        };
        let figures = missing(&plan);
        for title in ["flat", "a million flows", "1 stream", "steering hit", "weir-tap / plain"] {
            assert!(figures.iter().any(|it| it.title.contains(title)), "{title}: {figures:?}");
        }
        let only = Requested { only: vec![Kind::Connect], ..plan.clone() };
        assert_eq!(missing(&only).len(), 1, "connections alone");
        let alone = Requested { contenders: vec![Weir], ..plan };
        assert!(missing(&alone).is_empty(), "no ratio of one");
    }

    #[test]
    fn a_cost_must_not_be_higher_and_a_rate_not_lower() {
        let reached = |measure, title, weir, other: Contender| {
            let load =
                [(1, "apps-1000r", measure, other, 100.0), (1, "apps-1000r", measure, Weir, weir)];
            find(&figures(&load), title).reached
        };
        assert_eq!(reached("tcp-1", "1 stream", 97.0, Plain), Some(true));
        assert_eq!(reached("tcp-1", "1 stream", 96.9, Plain), Some(false));
        assert_eq!(reached("rr-block-p50", "request", 105.0, Plain), Some(true));
        assert_eq!(reached("rr-block-p50", "request", 105.1, Plain), Some(false));
        assert_eq!(reached("connect", "connections", 100.0, NftSets), Some(true));
        assert_eq!(reached("connect", "connections", 99.0, NftSets), Some(false));
    }

    #[test]
    fn a_figure_is_listed_for_every_scenario_that_measured_it() {
        let mut samples = Vec::new();
        for (scenario, weir) in [("64b-1r-1f", 80.0), ("64b-1000r-10kf", 95.0)] {
            samples.push((1, scenario, "cpu", NftSets, 100.0));
            samples.push((1, scenario, "cpu", Weir, weir));
        }
        let figures = figures(&samples);
        let hits: Vec<_> =
            figures.iter().filter(|figure| figure.title.starts_with("steering")).collect();
        assert_eq!(hits.len(), 2);
        assert_eq!(hits.iter().filter(|hit| hit.reached == Some(true)).count(), 1);
    }

    #[test]
    fn flat_means_from_one_policy_to_ten_thousand() {
        let samples = |many| {
            [
                (1, "64b-1r-new", "cpu", Plain, 100.0),
                (1, "64b-1r-new", "cpu", Weir, 150.0),
                (1, "64b-10kr-new", "cpu", Plain, 200.0),
                (1, "64b-10kr-new", "cpu", Weir, many),
            ]
        };
        let flat = |many| find(&figures(&samples(many)), "flat").clone();
        assert_eq!(flat(300.0).reached, Some(true));
        assert_eq!(flat(340.0).reached, Some(false));
    }

    #[test]
    fn a_large_table_costs_weir_its_own_part_only() {
        let figures = figures(&[
            (1, "64b-1r-10kf", "cpu", Plain, 1000.0),
            (1, "64b-1r-1mf", "cpu", Plain, 1040.0),
            (1, "64b-1r-10kf", "cpu", Weir, 1100.0),
            (1, "64b-1r-1mf", "cpu", Weir, 1390.0),
        ]);
        let figure = find(&figures, "a million flows");
        assert_eq!((figure.found.unwrap().median, figure.reached), (250.0, Some(true)));
    }

    #[test]
    fn an_interval_across_the_bound_is_uncertain() {
        let uncertain = |weir: [f64; 5]| {
            let samples: Vec<_> = (1..)
                .zip(weir)
                .flat_map(|(round, weir)| {
                    [
                        (round, "apps-1r", "tcp-1", Plain, 1.0),
                        (round, "apps-1r", "tcp-1", Weir, weir),
                    ]
                })
                .collect();
            find(&figures(&samples), "1 stream").uncertain
        };
        let two = [(1, Plain), (1, Weir), (2, Plain), (2, Weir)]
            .map(|(round, who)| (round, "apps-1r", "tcp-1", who, 1.0));
        let two = figures(&two);
        let figure = find(&two, "1 stream");
        assert_eq!((figure.rounds, figure.uncertain), (Some(2), true), "two rounds say little");
        assert!(!uncertain([0.98, 0.99, 1.0, 1.0, 1.0]));
        assert!(uncertain([0.80, 0.98, 1.2, 1.0, 1.0]));
        assert!(!uncertain([0.80, 0.81, 0.82, 0.8, 0.8]));
    }
}
