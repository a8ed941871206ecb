//! Metrics of a source that is followed over the network, by kind (`pods`, `namespaces`, …).
//!
//! | Name | |
//! |---|---|
//! | `weir_control_source_connected{kind}` | 1 while the kind is followed, 0 while requests for it fail |
//! | `weir_control_source_listed{kind}` | 1 once it has been listed completely since the start |
//! | `weir_control_source_stale_seconds{kind}` | for how long what is known of it has been out of date; 0 if it is not |
//! | `weir_control_source_events_total{kind}` | objects that watches brought |
//! | `weir_control_source_relists_total{kind}` | lists after the first |
//! | `weir_control_source_failures_total{kind}` | requests that failed |
//! | `weir_control_events_total{result}` | Events about what cannot be honoured: `posted`, `known` (another node was first), `failed` |
//! | `weir_control_other_engines{name}` | 1 if the API shows that another policy engine is installed |
//!
//! A folder has none of these.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResult {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfName {
    name: &'static str,
}

/// What is counted of a kind, since the process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindCounts {
    /// Its resource, in the plural.
    pub kind: &'static str,
    /// Whether the last request for it was answered.
    pub connected: bool,
    /// Whether it has been listed completely.
    pub listed: bool,
    /// For how long it has been stale.
    pub stale: Duration,
    /// Objects that watches brought.
    pub events: u64,
    /// Lists after the first.
    pub relists: u64,
    /// Requests that failed.
    pub failures: u64,
}

/// Them.
#[derive(Debug)]
pub struct SourceMetrics {
    connected: Family<OfKind, Gauge>,
    listed: Family<OfKind, Gauge>,
    stale: Family<OfKind, Gauge<f64, AtomicU64>>,
    events: Family<OfKind, Counter>,
    relists: Family<OfKind, Counter>,
    failures: Family<OfKind, Counter>,
    said: Family<OfResult, Counter>,
    engines: Family<OfName, Gauge>,
    /// In words, if any is stale.
    words: Mutex<Option<String>>,
}

impl SourceMetrics {
    /// Has them shown once there is such a source: a family without samples is left out.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            connected: Family::default(),
            listed: Family::default(),
            stale: Family::default(),
            events: Family::default(),
            relists: Family::default(),
            failures: Family::default(),
            said: Family::default(),
            engines: Family::default(),
            words: Mutex::new(None),
        };
        let help = "Events about what cannot be honoured";
        registry.register("control_events", help, metrics.said.clone());
        let help = "Whether the API shows that another policy engine is installed";
        registry.register("control_other_engines", help, metrics.engines.clone());
        let registry = registry.sub_registry_with_prefix("control_source");
        registry.register(
            "connected",
            "Whether requests for the kind are answered",
            metrics.connected.clone(),
        );
        registry.register(
            "listed",
            "Whether the kind has been listed completely since the start",
            metrics.listed.clone(),
        );
        registry.register(
            "stale_seconds",
            "For how long what is known of the kind has been out of date, 0 if it is not",
            metrics.stale.clone(),
        );
        registry.register("events", "Objects that watches brought", metrics.events.clone());
        registry.register("relists", "Lists after the first", metrics.relists.clone());
        registry.register("failures", "Requests that failed", metrics.failures.clone());
        metrics
    }

    /// The state now, and in words if it is stale.
    pub fn set(&self, kinds: &[KindCounts], stale: Option<String>) {
        for counts in kinds {
            let labels = OfKind { kind: counts.kind };
            let gauge = |gauge: &Family<OfKind, Gauge>, is: bool| {
                gauge.get_or_create(&labels).set(i64::from(is));
            };
            gauge(&self.connected, counts.connected);
            gauge(&self.listed, counts.listed);
            self.stale.get_or_create(&labels).set(counts.stale.as_secs_f64());
            let counter = |counter: &Family<OfKind, Counter>, count: u64| {
                counter.get_or_create(&labels).inner().store(count, Ordering::Relaxed);
            };
            counter(&self.events, counts.events);
            counter(&self.relists, counts.relists);
            counter(&self.failures, counts.failures);
        }
        *self.words.lock().unwrap_or_else(PoisonError::into_inner) = stale;
    }

    /// Events that were made, that were there already, and that could not be made.
    pub fn set_events(&self, posted: u64, known: u64, failed: u64) {
        for (result, count) in [("posted", posted), ("known", known), ("failed", failed)] {
            self.said.get_or_create(&OfResult { result }).inner().store(count, Ordering::Relaxed);
        }
    }

    /// Other engines, and whether each is there.
    pub fn set_engines(&self, engines: &[(&'static str, bool)]) {
        for &(name, is_there) in engines {
            self.engines.get_or_create(&OfName { name }).set(i64::from(is_there));
        }
    }

    /// That it is stale, in words; `None` if it is not.
    pub fn stale(&self) -> Option<String> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn a_source_is_counted_by_kind() {
        let metrics = Metrics::new();
        assert!(!metrics.text().unwrap().contains("kind=\"pods\""));
        let counts = KindCounts {
            kind: "pods",
            connected: false,
            listed: true,
            stale: Duration::from_millis(7500),
            events: 3,
            relists: 1,
            failures: 2,
        };
        metrics.source().set(&[counts], Some("STALE".to_owned()));
        // Counts are those of the source, and do not add up here.
        metrics.source().set(&[counts], Some("STALE".to_owned()));
        metrics.source().set_events(1, 2, 3);
        metrics.source().set_engines(&[("Calico", true)]);
        let text = metrics.text().unwrap();
        for line in [
            "weir_control_source_connected{kind=\"pods\"} 0",
            "weir_control_source_listed{kind=\"pods\"} 1",
            "weir_control_source_stale_seconds{kind=\"pods\"} 7.5",
            "weir_control_source_events_total{kind=\"pods\"} 3",
            "weir_control_source_relists_total{kind=\"pods\"} 1",
            "weir_control_source_failures_total{kind=\"pods\"} 2",
            "weir_control_events_total{result=\"known\"} 2",
            "weir_control_other_engines{name=\"Calico\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}:\n{text}");
        }
        assert_eq!(metrics.source().stale().as_deref(), Some("STALE"));
        metrics.source().set(&[], None);
        assert_eq!(metrics.source().stale(), None);
    }
}
