//! In-process benchmarks: the file that `bench/in-process` leaves, if it was run along.
//!
//! Figures of another commit are no figures of this one: the file names its own, and is refused
//! if it is not that of the run.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::stats::Summary;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct InProcess {
    /// Where it was measured.
    machine: Machine,
    /// What was measured.
    pub figures: Vec<Measured>,
    /// What could not run.
    #[serde(default)]
    pub not_run: Vec<NotRun>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
struct Machine {
    commit: String,
}

/// One benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// What was measured, and for how many, e.g. `pipeline-established/10k`.
    pub name: String,
    /// Under what.
    pub contender: String,
    /// Of the value.
    pub unit: String,
    /// Median.
    pub value: f64,
    /// Lower end of its interval; instruction counts have none.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
}

/// A benchmark without a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NotRun {
    /// What was to be measured.
    pub name: String,
    /// Under what; absent: all of them.
    pub contender: Option<String>,
    /// Why there is no value.
    pub reason: String,
}

impl Measured {
    /// As a median with its interval, whose confidence the file does not tell.
    pub fn summary(&self) -> Summary {
        let low = self.low.unwrap_or(self.value);
        let high = self.high.unwrap_or(self.value);
        Summary { count: 1, median: self.value, low, high, confidence: 0.0 }
    }
}

impl InProcess {
    /// What was measured of one contender.
    pub fn find(&self, name: &str, contender: &str) -> Option<&Measured> {
        self.figures.iter().find(|it| it.name == name && it.contender == contender)
    }

    /// # Errors
    /// When it was not measured at `commit`, of which one may be the other's abbreviation.
    pub fn check(&self, commit: &str) -> Result<()> {
        let own = self.machine.commit.as_str();
        let known = |commit: &str| commit.len() >= 7 && commit != "unknown";
        ensure!(
            known(own) && known(commit) && (own.starts_with(commit) || commit.starts_with(own)),
            "the in-process figures are of commit {own}, the samples of commit {commit}: run \
             bench/in-process again"
        );
        Ok(())
    }
}

/// Reads the file.
///
/// # Errors
/// When there is none, or it is not what `bench/in-process` writes.
pub fn read(path: &Path) -> Result<InProcess> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("no {}: run bench/in-process", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// As `bench/in-process` writes it.
    pub fn file(value: f64) -> InProcess {
        let text = format!(
            r#"{{"machine":{{"cpu":"x","kernel":"6.1","rustc":"1.9","commit":"0123abc"}},
            "figures":[
              {{"name":"pipeline-established/1","contender":"weir","unit":"ns/packet","value":20.0,"low":19.0,"high":21.0}},
              {{"name":"pipeline-established/10k","contender":"weir","unit":"ns/packet","value":{value},"low":19.0,"high":21.0}},
              {{"name":"pipeline-established/1","contender":"ovs-conntrack","unit":"ns/packet","value":70.0,"low":65.0,"high":75.0,"note":"n"}},
              {{"name":"instructions/parse/udp","contender":"weir","unit":"instructions","value":900}}],
            "not_run":[{{"name":"hash","reason":"failed: see the messages"}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_figure_has_a_name_and_a_contender() {
        let file = file(24.0);
        let ovs = file.find("pipeline-established/1", "ovs-conntrack").unwrap().summary();
        assert_eq!((ovs.median, ovs.low, ovs.high), (70.0, 65.0, 75.0));
        let count = file.find("instructions/parse/udp", "weir").unwrap().summary();
        assert_eq!((count.low, count.high), (900.0, 900.0));
        assert!(file.find("pipeline-established/10k", "ovs-conntrack").is_none());
        assert_eq!(file.not_run.len(), 1);
    }

    #[test]
    fn figures_of_another_commit_are_refused() {
        let file = file(24.0);
        assert!(file.check("0123abc").is_ok() && file.check("0123abc9f").is_ok());
        for other in ["0123abd", "unknown", "", "0"] {
            assert!(file.check(other).is_err(), "{other:?}");
        }
    }

    #[test]
    fn a_file_that_is_missing_or_broken_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in-process.json");
        assert!(read(&path).unwrap_err().to_string().contains("run bench/in-process"));
        fs::write(&path, "{}").unwrap();
        assert!(read(&path).is_err());
    }
}
