//! The report: samples in, Markdown, JSON and plots out.
//!
//! | Module | Job |
//! |---|---|
//! | [`sample`] | the format of the samples |
//! | [`measures`] | what is measured |
//! | [`proof`] | whether a contender was at work while it was measured |
//! | [`values`] | values and ratios, round by round |
//! | [`figures`] | what is wanted, and whether it is reached |
//! | [`inprocess`] | what was measured without a network |
//! | [`markdown`] | the report for people |
//! | [`plots`] | its pictures |

pub mod figures;
pub mod inprocess;
pub mod markdown;
pub mod measures;
pub mod plots;
pub mod proof;
pub mod sample;
pub mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::BufRead;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::latency::ENOUGH;
use crate::run::contender::Contender;
use crate::run::scenario::Scenario;
use crate::stats::Summary;
use figures::Figure;
use inprocess::InProcess;
use sample::{Environment, Failure, Line, Requested, Sample, Unable};
use values::Values;

/// A whole report.
#[derive(Debug)]
pub struct Report {
    /// Where and how it was measured.
    pub environment: Environment,
    /// What came out.
    pub values: Values,
    /// How many values entered.
    pub samples: usize,
    /// Values that did not, with the reason, and measurements that failed.
    pub refused: Vec<Failure>,
    /// Contenders that cannot run on the machine.
    pub unable: Vec<Unable>,
    /// What the run was asked for.
    pub plan: Requested,
    /// What is to be known about single values.
    pub notes: Vec<String>,
    /// What is wanted.
    pub figures: Vec<Figure>,
    /// What was measured without a network, if it was.
    pub inprocess: Option<InProcess>,
}

impl Report {
    /// Reads samples, a JSON object a line.
    ///
    /// # Errors
    /// Names the line that is none; and when the in-process figures are another commit's.
    pub fn read(input: impl BufRead, inprocess: Option<InProcess>) -> Result<Self> {
        let mut environment = Environment::new();
        let (mut samples, mut failures, mut unable) = (Vec::new(), Vec::new(), Vec::new());
        let mut plan = None;
        for (number, line) in input.lines().enumerate() {
            let line = line?;
            let line = serde_json::from_str(&line)
                .with_context(|| format!("line {} is no sample: {line}", number + 1))?;
            match line {
                Line::Environment(values) => environment = values,
                Line::Plan(requested) => plan = Some(requested),
                Line::Sample(sample) => samples.push(*sample),
                Line::Failure(failure) => failures.push(failure),
                Line::Unable(contender) => unable.push(contender),
            }
        }
        let (values, unproven) = Values::of(&samples);
        let count = samples.len() - unproven.len();
        if let Some(inprocess) = &inprocess {
            let commit = environment.iter().find(|(name, _)| name == "commit");
            inprocess.check(commit.map_or("unknown", |(_, commit)| commit))?;
        }
        let plan = plan.context("the samples do not say what the run was asked for")?;
        let figures = figures::all(&values, inprocess.as_ref(), &plan);
        let refused = [failures, unproven].concat();
        let notes = notes(&samples);
        Ok(Self {
            environment,
            plan,
            values,
            samples: count,
            refused,
            unable,
            figures,
            notes,
            inprocess,
        })
    }

    /// Whether everything that was asked for was measured and is as wanted, and nothing was
    /// refused.
    pub fn is_as_wanted(&self) -> bool {
        self.refused.is_empty()
            && !self.unable.iter().any(|unable| unable.contender.is_essential())
            && self.figures.iter().all(Figure::is_as_wanted)
    }

    /// Medians and ratios with their intervals, for programs.
    pub fn json(&self) -> Value {
        let mut cells = Vec::new();
        for scenario in self.values.scenarios() {
            for measure in measures::all() {
                for contender in Contender::ALL {
                    let Some(value) = self.values.summary(scenario, &measure.id, contender) else {
                        continue;
                    };
                    cells.push(json!({"scenario": scenario, "measure": measure.id,
                        "unit": measure.unit, "contender": contender, "value": value,
                        "by_plain": self.by_plain(scenario, &measure.id, contender)}));
                }
            }
        }
        let environment: BTreeMap<_, _> = self.environment.iter().cloned().collect();
        json!({"environment": environment, "figures": self.figures, "values": cells,
            "in_process": self.inprocess.as_ref().map(|it| &it.figures),
            "in_process_not_run": self.inprocess.as_ref().map(|it| &it.not_run),
            "notes": self.notes, "plan": self.plan, "unable": self.unable, "refused": self.refused,
            "as_wanted": self.is_as_wanted()})
    }

    /// A contender's ratio to plain; `None` if one of both was not measured.
    pub fn by_plain(
        &self,
        scenario: Scenario,
        measure: &str,
        contender: Contender,
    ) -> Option<Summary> {
        let of = (contender, Contender::Plain);
        Summary::of(self.values.ratio(scenario, measure, of).into_values())
    }

    /// Writes `RESULTS.md` and its pictures into a folder.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let pictures = folder.join("plots");
        fs::create_dir_all(&pictures)
            .with_context(|| format!("cannot make {}", pictures.display()))?;
        // Pictures of an earlier run would look like this one's.
        for entry in fs::read_dir(&pictures)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "svg") {
                fs::remove_file(path)?;
            }
        }
        let mut links = Vec::new();
        for picture in plots::all(self)? {
            let path = pictures.join(&picture.name);
            fs::write(&path, picture.svg)
                .with_context(|| format!("cannot write {}", path.display()))?;
            links.push((picture.title, format!("plots/{}", picture.name)));
        }
        let path = folder.join("RESULTS.md");
        fs::write(&path, self.markdown(&links))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Where latencies are not at parts of the rate without loss, where there were too few frames
/// for a percentile, and where the sink, not the path, bounds a rate.
fn notes(samples: &[Sample]) -> Vec<String> {
    let mut notes = BTreeSet::new();
    let mut too_few: BTreeMap<(Scenario, u64), BTreeSet<Contender>> = BTreeMap::new();
    for sample in samples {
        let parts = sample.detail["too_few_for_p9999"].as_array().into_iter().flatten();
        for part in parts.filter_map(Value::as_u64) {
            too_few.entry((sample.scenario, part)).or_default().insert(sample.contender);
        }
        let (scenario, who) = (sample.scenario, sample.contender.name());
        if sample.detail["latency_base"] == "pdr" {
            let round = sample.round;
            notes.insert(format!(
                "{scenario}, {who}, round {round}: latency at parts of the PDR, as no rate was \
                 without loss"
            ));
        }
        let trials = sample.detail["trials"].as_array().into_iter().flatten();
        let dropped =
            trials.filter(|trial| trial["sink_dropped"].as_f64().is_some_and(|n| n > 0.0)).count();
        if dropped > 0 {
            let round = sample.round;
            notes.insert(format!(
                "{scenario}, {who}, round {round}: the sink had no room in {dropped} trials; they \
                 were repeated, or count as failed"
            ));
        }
    }
    notes.extend(too_few.into_iter().map(|((scenario, part), contenders)| {
        let names: Vec<&str> = contenders.into_iter().map(Contender::name).collect();
        format!(
            "{scenario}, latency at {part} %: fewer than {ENOUGH} frames in a round tell no p99.99 \
             ({})",
            names.join(", ")
        )
    }));
    notes.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::values::tests::proven;
    use super::*;
    use crate::run::loads::Kind;

    fn plan() -> Requested {
        Requested {
            scenarios: vec!["apps-1000r".parse().unwrap()],
            contenders: vec![Contender::Plain, Contender::Weir],
            only: vec![Kind::Tcp],
            rounds: 2,
        }
    }

    fn read(lines: &[Line]) -> Report {
        let lines = lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n");
        Report::read(lines.collect::<String>().as_bytes(), None).unwrap()
    }

    /// Both TCP figures, reached.
    fn good() -> Vec<Line> {
        let mut lines = vec![Line::Plan(plan())];
        for measure in ["tcp-1", "tcp-8"] {
            for who in [Contender::Plain, Contender::Weir] {
                let sample = proven(1, "apps-1000r", measure, who, 20.0);
                lines.push(Line::Sample(Box::new(sample)));
            }
        }
        lines
    }

    #[test]
    fn a_figure_that_was_asked_for_and_has_no_value_is_not_as_wanted() {
        let mut lines = good();
        assert!(read(&lines).is_as_wanted());
        lines.pop();
        let report = read(&lines);
        assert!(report.refused.is_empty() && !report.is_as_wanted());
        assert!(report.markdown(&[]).contains("**missing**"));
        assert!(Report::read("".as_bytes(), None).is_err(), "asked for nothing?");
    }

    #[test]
    fn a_report_without_weir_or_its_rivals_is_not_as_wanted() {
        for (contender, essential) in
            [(Contender::Ovs, false), (Contender::NftSets, true), (Contender::WeirTap, true)]
        {
            let mut lines = good();
            lines.push(Line::Unable(Unable {
                scenario: "apps-1000r".parse().unwrap(),
                contender,
                reason: "not installed".to_owned(),
            }));
            assert_eq!(read(&lines).is_as_wanted(), !essential, "{contender:?}");
        }
    }

    #[test]
    fn in_process_figures_must_be_of_the_same_commit() {
        let file = inprocess::tests::file(24.0);
        let with = |commit: &str| {
            let environment = vec![("commit".to_owned(), commit.to_owned())];
            let lines = [Line::Environment(environment), Line::Plan(plan())];
            let lines = lines.map(|line| serde_json::to_string(&line).unwrap() + "\n").concat();
            Report::read(lines.as_bytes(), Some(file.clone()))
        };
        let text = with("0123abcdef").unwrap().markdown(&[]);
        assert!(
            text.contains("| pipeline-established/10k | weir | 24.0 (19.0–21.0) | ns/packet |")
        );
        assert!(text.contains("not run: hash: failed"), "{text}");
        assert!(with("fedcba987").is_err());
    }

    #[test]
    fn what_bounds_a_value_is_noted() {
        let mut lines = good();
        let mut sample = proven(3, "64b-1r-1f", "pdr", Contender::Weir, 1.0);
        sample.detail = json!({"latency_base": "pdr", "trials": [{"sink_dropped": 5}],
            "too_few_for_p9999": [10]});
        lines.push(Line::Sample(Box::new(sample)));
        let notes = read(&lines).notes;
        assert_eq!(notes.len(), 3, "{notes:?}");
        assert!(notes[1..].iter().all(|note| note.starts_with("64b-1r-1f, weir, round 3: ")));
        assert!(notes[0].starts_with("64b-1r-1f, latency at 10 %: fewer than 10000 frames"));
        assert!(notes[0].ends_with("(weir)"), "{notes:?}");
    }

    fn lines() -> String {
        let environment = vec![("kernel".to_owned(), "6.18".to_owned())];
        let mut lines = vec![Line::Environment(environment), Line::Plan(plan())];
        for round in 1..=2 {
            for (who, value) in [(Contender::Plain, 20.5), (Contender::Weir, 18.45)] {
                let sample = proven(round, "apps-1000r", "tcp-1", who, value);
                lines.push(Line::Sample(Box::new(sample)));
            }
        }
        let scenario = "apps-1000r".parse().unwrap();
        lines.push(Line::Unable(Unable {
            scenario,
            contender: Contender::Ovs,
            reason: "ovs-vswitchd is not installed".to_owned(),
        }));
        lines.push(Line::Failure(Failure {
            round: 1,
            scenario,
            measure: "connect".to_owned(),
            contender: Contender::WeirOff,
            error: "a connection hangs".to_owned(),
        }));
        let lines = lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n");
        lines.collect()
    }

    #[test]
    fn samples_become_a_report() {
        let report = Report::read(lines().as_bytes(), None).unwrap();
        let text = report.markdown(&[]);
        for part in [
            "- kernel: 6.18\n",
            "| bulk TCP, 1 stream: weir / plain | apps-1000r | ≥ 0.97 × | 0.900",
            "**no**",
            "ovs: ovs-vswitchd is not installed",
            "round 1, apps-1000r, connect, weir-off: a connection hangs",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        assert!(!report.is_as_wanted());
        assert_eq!(report.json()["as_wanted"], false);
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let error = Report::read("{}\n".as_bytes(), None).unwrap_err();
        assert!(error.to_string().starts_with("line 1 is no sample"), "{error}");
    }

    #[test]
    fn a_saved_report_has_its_pictures_and_no_older_ones() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("plots")).unwrap();
        let old = folder.path().join("plots/old.svg");
        fs::write(&old, "<svg/>").unwrap();
        let report = Report::read(lines().as_bytes(), None).unwrap();
        report.save(folder.path()).unwrap();
        assert!(!old.exists());
        let text = fs::read_to_string(folder.path().join("RESULTS.md")).unwrap();
        let pictures: Vec<&str> =
            text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
        assert!(pictures.iter().any(|picture| picture.ends_with(".svg")), "{text}");
        for picture in pictures.iter().filter(|picture| picture.ends_with(".svg")) {
            let svg = fs::read_to_string(folder.path().join(picture)).unwrap();
            assert!(svg.starts_with("<svg"), "{picture}");
        }
    }
}
