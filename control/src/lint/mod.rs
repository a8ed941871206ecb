//! `weir lint`: what is written and cannot be honoured, has no effect, or does something else than
//! it looks like.
//!
//! ```text
//!   manifests ──load──► complaints, objects ──► World (who is selected; the compiled table)
//!                                                 │
//!   input   shape   meant   selectors   cover   ports   blocks   egress   services
//!                                                 │
//!                                              Findings, by object
//! ```
//!
//! One module a group of checks (`address` is part of `services`). A check that needs a verdict asks the compiled table, so that what
//! is said here is what is enforced. Checks that need pods are left out, and this is said, if the
//! input has none.
//!
//! Invariants:
//! * every finding names object, field, file and line, and what to write instead;
//! * codes are stable: scripts may rely on them;
//! * the same input gives the same findings in the same order.

mod address;
mod blocks;
mod cover;
mod egress;
mod input;
mod meant;
mod ports;
mod print;
mod select;
mod selectors;
mod services;
mod shape;
mod world;

use clap::ValueEnum;
use serde::{Serialize, Serializer};

use crate::eval::Offline;
use crate::model::{Loaded, Origin};
use world::World;

pub use print::{print_json, print_table};

/// Verdicts that the check of Services asks for at most; one takes well under a microsecond.
pub const MAX_VERDICTS: usize = 20_000_000;

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; may well be meant.
    Info,
    /// Most likely not what was meant.
    Warning,
    /// Not enforced as written.
    Error,
}

impl Severity {
    /// `error`, `warning`, `info`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it weighs.
    pub severity: Severity,
    /// The check, one of [`CHECKS`].
    pub code: &'static str,
    /// `Kind namespace/name`; empty if the input as a whole is meant.
    pub object: String,
    /// Path of the field, `spec.ingress[0].from[1]`; empty if the whole object is meant.
    pub field: String,
    /// File and line.
    #[serde(flatten, serialize_with = "file_and_line")]
    pub origin: Origin,
    /// What is the case.
    pub message: String,
    /// What to write instead.
    pub remedy: String,
}

fn file_and_line<S: Serializer>(origin: &Origin, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeMap;
    let mut map = serializer.serialize_map(Some(2))?;
    map.serialize_entry("file", &*origin.file)?;
    map.serialize_entry("line", &origin.line)?;
    map.end()
}

/// A check, as `--help` lists it.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// Its code, stable.
    pub code: &'static str,
    /// The weight of its findings; the highest if they differ.
    pub severity: Severity,
    /// What it finds.
    pub finds: &'static str,
}

const fn check(code: &'static str, severity: Severity, finds: &'static str) -> Check {
    Check { code, severity, finds }
}

/// Every check.
pub const CHECKS: [Check; 32] = [
    check("refused", Severity::Error, "an object or rule that cannot be honoured as written"),
    check("not-enforced", Severity::Error, "a network policy of a kind that is not enforced"),
    check("unknown-kind", Severity::Info, "an object of an unknown kind was left out"),
    check(
        "read-otherwise",
        Severity::Warning,
        "a field is read differently from how it is written",
    ),
    check("address-conflict", Severity::Error, "an address that several live pods claim"),
    check("duplicate-object", Severity::Error, "two objects of one name: the first counts"),
    check("duplicate-policy", Severity::Warning, "two policies that say the same"),
    check("no-pods", Severity::Info, "the input has no pods: most checks are left out"),
    check("no-namespaces", Severity::Warning, "no Namespaces in the input: labels are unknown"),
    check("rules-without-effect", Severity::Warning, "rules of a direction that policyTypes omits"),
    check("empty-rules", Severity::Warning, "`egress: []` or `ingress: []` that isolates nothing"),
    check("empty-peers", Severity::Warning, "`from: []`, or blank: means everyone, not no one"),
    check("empty-ports", Severity::Warning, "`ports: []`, or blank: means every port, not none"),
    check("empty-except", Severity::Info, "`except: []` excepts nothing"),
    check("redundant-entry", Severity::Info, "a port or peer that another of its list covers"),
    check("contradictory-selector", Severity::Warning, "a selector that can never select anything"),
    check("selects-nothing", Severity::Warning, "a policy that selects no pod at present"),
    check("peer-selects-nothing", Severity::Warning, "a peer that matches no pod at present"),
    check("host-network", Severity::Warning, "a policy or peer for pods on their node's network"),
    check("and-or", Severity::Warning, "two peers (OR) that look meant as one (AND)"),
    check("broad-selector", Severity::Info, "an empty podSelector over 50 pods or more"),
    check("isolates-kube-system", Severity::Warning, "a policy that isolates pods of kube-system"),
    check("covered-rule", Severity::Warning, "a rule that allows nothing beyond another"),
    check("named-port-missing", Severity::Warning, "a port name that some or all pods do not have"),
    check("named-port-differs", Severity::Info, "a port name that is several numbers"),
    check("block-over-pods", Severity::Warning, "an ipBlock that holds pods' addresses"),
    check("one-family", Severity::Warning, "blocks of one family only in a dual-stack cluster"),
    check("no-dns", Severity::Warning, "isolated for egress, and no way to a DNS server"),
    check("no-api-server", Severity::Warning, "isolated for egress, and no way to the API server"),
    check("service-partly-reachable", Severity::Warning, "a client reaches only some backends"),
    check("service-address", Severity::Warning, "a Service may be sent to, its backends may not"),
    check("services-not-checked", Severity::Info, "Services left out, as there are too many"),
];

/// Checks everything that was read. `loaded` holds what was complained about, `offline` the
/// compiled objects. Findings come by object, the heaviest first within one.
pub fn lint(loaded: &Loaded, offline: &Offline) -> Vec<Finding> {
    lint_within(loaded, offline, MAX_VERDICTS)
}

/// As [`lint`], with a bound on the verdicts that the check of Services asks for. What it leaves out
/// is a finding.
pub fn lint_within(loaded: &Loaded, offline: &Offline, verdicts: usize) -> Vec<Finding> {
    let world = World::new(loaded, offline);
    let mut findings = Vec::new();
    input::check(&world, &mut findings);
    shape::check(&world, &mut findings);
    meant::check(&world, &mut findings);
    if !world.pods.is_empty() {
        selectors::check(&world, &mut findings);
        ports::check(&world, &mut findings);
        services::check(&world, verdicts, &mut findings);
    }
    cover::check(&world, &mut findings);
    blocks::check(&world, &mut findings);
    egress::check(&world, &mut findings);
    // Stable: within one place the order of the checks above stays.
    findings.sort_by(|a, b| {
        let key = |f: &Finding| (f.object.clone(), std::cmp::Reverse(f.severity), f.origin.line);
        key(a).cmp(&key(b))
    });
    findings
}

/// Notes findings about one policy.
struct Notes<'a, 'w> {
    view: &'a world::PolicyView<'w>,
    findings: &'a mut Vec<Finding>,
}

impl Notes<'_, '_> {
    fn add(
        &mut self,
        severity: Severity,
        code: &'static str,
        (field, line): (impl Into<String>, u32),
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.findings.push(Finding {
            severity,
            code,
            object: format!("NetworkPolicy {}", self.view.policy.key),
            field: field.into(),
            origin: self.view.at(line),
            message: message.into(),
            remedy: remedy.into(),
        });
    }
}
