//! What a run writes down: one JSON object a line.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::run::contender::{Contender, Evidence};
use crate::run::loads::Kind;
use crate::run::scenario::Scenario;

/// One value, and what proves that the contender was at work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// Counted from 1; all contenders of a round ran one after the other.
    pub round: u32,
    /// What was loaded.
    pub scenario: Scenario,
    /// What was measured: the `id` of a [`super::measures::Measure`].
    pub measure: String,
    /// Under what.
    pub contender: Contender,
    /// In the measure's unit.
    pub value: f64,
    /// Packets that passed at least, in both directions; without the first packet of
    /// each flow.
    pub packets: f64,
    /// Flows opened that were new to the contender, at least.
    #[serde(default)]
    pub flows: f64,
    /// The node's counters before the load.
    pub before: Evidence,
    /// And after it.
    pub after: Evidence,
    /// What else the load said.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

/// Where the run took place: name and value, shown in this order.
pub type Environment = Vec<(String, String)>;

/// What a run was asked for; what of it has no value is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requested {
    /// The scenarios.
    pub scenarios: Vec<Scenario>,
    /// Who was to be compared.
    pub contenders: Vec<Contender>,
    /// The loads; empty: all that belong to a scenario.
    pub only: Vec<Kind>,
    /// How often.
    pub rounds: u32,
}

impl Requested {
    /// Whether a value of this load was asked for.
    pub fn has(&self, scenario: Scenario, kind: Kind, contender: Contender) -> bool {
        self.scenarios.contains(&scenario)
            && self.contenders.contains(&contender)
            && (self.only.is_empty() || self.only.contains(&kind))
            && Kind::of(scenario).contains(&kind)
            && contender.takes_part(scenario)
    }
}

/// A line of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// At the head of the file.
    Environment(Environment),
    /// Behind it.
    Plan(Requested),
    /// A value.
    Sample(Box<Sample>),
    /// A measurement that failed; its words.
    Failure(Failure),
    /// A contender that cannot run on this machine.
    Unable(Unable),
}

/// A measurement without a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// In which round.
    pub round: u32,
    /// Under what load.
    pub scenario: Scenario,
    /// What was to be measured.
    pub measure: String,
    /// Under what.
    pub contender: Contender,
    /// What went wrong.
    pub error: String,
}

/// A contender that was tried and cannot run here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unable {
    /// When it was tried.
    pub scenario: Scenario,
    /// Who.
    pub contender: Contender,
    /// Its words.
    pub reason: String,
}
