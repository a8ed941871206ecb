//! Metrics of the control process, in Prometheus' words.
//!
//! | Name | |
//! |---|---|
//! | `weir_policies` | NetworkPolicies in force, those included of which a part is refused |
//! | `weir_unsupported_rules` | rules, and policies as a whole, that cannot be honoured: they isolate and allow nothing |
//! | `weir_not_enforced` | objects and files that are not in force at all |
//! | `weir_complaints{severity}` | what is wrong with the input: `refused`, `skipped`, `warning` |
//! | `weir_endpoints{state}` | pods: `policed`, `host_network`, `finished`, `no_address`, `isolated` (contested address or refused object) |
//! | `weir_table_generation` | the last generation that all workers acknowledged to this process, 0 = none since it began |
//! | `weir_policy_programming_seconds` | from the event in the source to its enforcement by all workers |
//! | `weir_dataplane_connected` | 1 if the dataplane takes what is published |
//!
//! Those of a source that is followed over the network are in [`source`].
//!
//! Ready (`/readyz`) means: a table was published since the start, and something is in force of
//! every file. Whoever is ready stays so when the source or the dataplane goes away: what is known
//! is still enforced, and nothing would get better by taking this process out of service.

mod server;
pub mod source;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::index::{Index, Owner};
use crate::model::{Complaint, Phase, Severity};
use crate::record::{Unsupported, severity_name};

pub use server::{bind, serve};
pub use source::KindCounts;
use source::SourceMetrics;

/// Upper bounds in seconds: a change in place takes milliseconds, an absent dataplane minutes.
const SECONDS: [f64; 14] =
    [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSeverity {
    severity: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    state: &'static str,
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    policies: Gauge,
    unsupported_rules: Gauge,
    not_enforced: Gauge,
    complaints: Family<OfSeverity, Gauge>,
    endpoints: Family<OfState, Gauge>,
    generation: Gauge,
    programming: Histogram,
    connected: Gauge,
    source: SourceMetrics,
    published: AtomicBool,
    unread: AtomicUsize,
    /// What keeps the first table back.
    waiting: Mutex<Option<String>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("weir");
        let policies = Gauge::default();
        let (unsupported_rules, not_enforced) = (Gauge::default(), Gauge::default());
        let (generation, connected) = (Gauge::default(), Gauge::default());
        let complaints = Family::<OfSeverity, Gauge>::default();
        let endpoints = Family::<OfState, Gauge>::default();
        let programming = Histogram::new(SECONDS);
        registry.register("policies", "NetworkPolicies in force", policies.clone());
        registry.register(
            "unsupported_rules",
            "Rules, and policies as a whole, that cannot be honoured: they isolate and allow nothing",
            unsupported_rules.clone(),
        );
        registry.register(
            "not_enforced",
            "Objects and files that are not in force at all",
            not_enforced.clone(),
        );
        registry.register(
            "complaints",
            "What is wrong with the objects that were read",
            complaints.clone(),
        );
        registry.register("endpoints", "Pods, by how policies concern them", endpoints.clone());
        registry.register(
            "table_generation",
            "Last generation that all workers acknowledged to this process, 0 = none since it began",
            generation.clone(),
        );
        registry.register(
            "policy_programming_seconds",
            "From an event in the source to its enforcement by all workers",
            programming.clone(),
        );
        registry.register(
            "dataplane_connected",
            "Whether the dataplane takes what is published",
            connected.clone(),
        );
        let source = SourceMetrics::register(&mut registry);
        let metrics = Self {
            registry,
            policies,
            unsupported_rules,
            not_enforced,
            complaints,
            endpoints,
            generation,
            programming,
            connected,
            source,
            published: AtomicBool::new(false),
            unread: AtomicUsize::new(0),
            waiting: Mutex::new(None),
        };
        // Every label is there from the start, at zero.
        metrics.set_input(&Index::default(), &[], Unsupported::default());
        metrics
    }

    /// The input as it was read last.
    pub fn set_input(&self, index: &Index, complaints: &[Complaint], unsupported: Unsupported) {
        self.policies.set(number(index.policies().len()));
        self.unsupported_rules.set(number(unsupported.rules));
        self.not_enforced.set(number(unsupported.not_enforced));
        for severity in [Severity::Warning, Severity::Skipped, Severity::Refused] {
            let count = complaints.iter().filter(|c| c.severity == severity).count();
            let labels = OfSeverity { severity: severity_name(severity) };
            self.complaints.get_or_create(&labels).set(number(count));
        }
        for (state, count) in endpoint_states(index) {
            self.endpoints.get_or_create(&OfState { state }).set(number(count));
        }
    }

    /// Of so many files nothing is in force.
    pub fn set_unread(&self, files: usize) {
        self.unread.store(files, Ordering::Release);
    }

    /// A generation, or a change of addresses in it, is enforced by all workers.
    pub fn set_enforced(&self, generation: u64, took: Option<Duration>) {
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.connected.set(1);
        if let Some(took) = took {
            self.programming.observe(took.as_secs_f64());
        }
        self.published.store(true, Ordering::Release);
    }

    /// What keeps the first table back; `None` if nothing does.
    pub fn set_waiting(&self, why: Option<String>) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Those of the source.
    pub fn source(&self) -> &SourceMetrics {
        &self.source
    }

    /// The dataplane cannot be reached.
    pub fn set_disconnected(&self) {
        self.connected.set(0);
    }

    /// Why this process is not ready; `None` if it is. It stays ready when the dataplane goes away:
    /// what it was told is still enforced.
    pub fn unready(&self) -> Option<String> {
        let mut reasons = Vec::new();
        if !self.published.load(Ordering::Acquire) {
            reasons.push("no policy table is enforced yet".to_owned());
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            reasons.extend(waiting.clone());
        }
        match self.unread.load(Ordering::Acquire) {
            0 => {}
            n => reasons.push(format!(
                "{n} file{} cannot be read, and nothing of {} is in force",
                if n == 1 { "" } else { "s" },
                if n == 1 { "it" } else { "them" }
            )),
        }
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// All metrics as text (OpenMetrics 1.0, which Prometheus reads).
    ///
    /// # Errors
    /// None that is known: a `String` takes everything.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// How policies concern the pods, each pod once.
fn endpoint_states(index: &Index) -> [(&'static str, usize); 5] {
    let mut counts =
        [("policed", 0), ("host_network", 0), ("finished", 0), ("no_address", 0), ("isolated", 0)];
    for pod in index.pods() {
        let contested = || {
            let mut owners = pod.addresses.iter().filter_map(|address| index.owner(address));
            owners.any(|owner| !matches!(owner, Owner::Pod(owner) if owner.key == pod.key))
        };
        let state = match pod.phase {
            Phase::Succeeded | Phase::Failed => 2,
            Phase::Live if pod.host_network => 1,
            Phase::Live if pod.addresses.is_empty() => 3,
            Phase::Live if contested() => 4,
            Phase::Live => 0,
        };
        counts[state].1 += 1;
    }
    counts
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::load;

    #[test]
    fn pods_are_counted_by_state_and_each_once() {
        let pod = |name: &str, rest: &str| {
            format!("---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, {rest}}}\n")
        };
        let text = [
            pod("a", "status: {podIP: 10.0.0.1}"),
            pod("b", "status: {podIPs: [{ip: 10.0.0.2}, {ip: \"fd00::2\"}]}"),
            pod("host", "spec: {hostNetwork: true}, status: {podIP: 10.1.0.1}"),
            pod("done", "status: {podIP: 10.0.0.1, phase: Succeeded}"),
            pod("pending", "status: {phase: Pending}"),
            pod("x", "status: {podIP: 10.0.0.9}"),
            pod("y", "status: {podIP: 10.0.0.9}"),
            pod("bad", "spec: {containers: 1}, status: {podIP: 10.0.0.8}"),
        ];
        let loaded = load("pods.yaml", text.concat().as_bytes()).unwrap();
        let index = Index::of(loaded.objects);
        let expect = [
            ("policed", 2),
            ("host_network", 1),
            ("finished", 1),
            ("no_address", 1),
            ("isolated", 3),
        ];
        assert_eq!(endpoint_states(&index), expect);
        let metrics = Metrics::new();
        metrics.set_input(&index, &loaded.complaints, Unsupported { rules: 4, not_enforced: 5 });
        let text = metrics.text().unwrap();
        for line in [
            "weir_endpoints{state=\"isolated\"} 3",
            "weir_unsupported_rules 4",
            "weir_not_enforced 5",
            "weir_complaints{severity=\"refused\"} 1",
            "weir_complaints{severity=\"warning\"} 0",
            "weir_policy_programming_seconds_count 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}:\n{text}");
        }
    }

    #[test]
    fn ready_once_a_table_is_enforced_and_only_events_are_timed() {
        let metrics = Metrics::new();
        assert_eq!(metrics.unready().unwrap(), "no policy table is enforced yet");
        metrics.set_waiting(Some("no list of pods".to_owned()));
        assert_eq!(metrics.unready().unwrap(), "no policy table is enforced yet; no list of pods");
        metrics.set_enforced(7, None);
        metrics.set_enforced(8, Some(Duration::from_millis(3)));
        metrics.set_disconnected();
        assert_eq!(metrics.unready(), None);
        metrics.set_unread(1);
        assert!(metrics.unready().unwrap().starts_with("1 file cannot be read"));
        metrics.set_unread(0);
        assert_eq!(metrics.unready(), None);
        let text = metrics.text().unwrap();
        for line in [
            "weir_table_generation 8",
            "weir_dataplane_connected 0",
            "weir_policy_programming_seconds_count 1",
            "weir_policy_programming_seconds_bucket{le=\"0.002\"} 0",
            "weir_policy_programming_seconds_bucket{le=\"0.005\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}:\n{text}");
        }
    }
}
