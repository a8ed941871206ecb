//! What was seen, as metrics: one family a name, every label there from the start.
#![forbid(unsafe_code)]

use std::fmt::{Error, Write};

use weir_table::counters::{Counter, Counters, Direction, Reason};
use weir_table::drops::reason_of_hook;
use weir_table::mem::Words;

use super::Seen;
use crate::steer::abi::STEERING_COUNTERS;

/// The text of `/metrics` (OpenMetrics 1.0, which Prometheus reads).
///
/// # Errors
/// None that is known: a `String` takes everything.
pub(super) fn text<W: Words>(seen: &Seen, counters: &Counters<W>) -> Result<String, Error> {
    let mut page = Page::default();
    packets(&mut page, seen, counters)?;
    flows(&mut page, seen, counters)?;
    state(&mut page, seen)?;
    workers(&mut page, seen)?;
    page.counter(
        "worker_events",
        "Everything that the workers count, by the names of weir status",
    )?;
    for counter in Counter::ALL {
        page.sample(&[("event", counter.as_str())], counters.total(*counter))?;
    }
    page.counter("hook_events", "Everything that the hooks count, by the names of weir status")?;
    for (event, count) in STEERING_COUNTERS.iter().zip(&seen.hooks) {
        page.sample(&[("event", *event)], count)?;
    }
    page.end()
}

fn packets<W: Words>(page: &mut Page, seen: &Seen, counters: &Counters<W>) -> Result<(), Error> {
    page.counter("packets", "Packets at the pods' hooks: let pass, or dropped and why")?;
    for (direction, passed) in
        [(Direction::Egress, Counter::PassedEgress), (Direction::Ingress, Counter::PassedIngress)]
    {
        let labels =
            [("direction", direction.as_str()), ("verdict", "allow"), ("reason", "worker")];
        page.sample(&labels, counters.total(passed))?;
        for reason in Reason::ALL {
            let by_hooks = hooks(seen)
                .filter(|(_, of, why, _)| *of == direction.as_str() && *why == reason.as_str());
            let packets = counters.total_drops(direction, *reason)
                + by_hooks.map(|(.., count)| count).sum::<u64>();
            let reason = reason.as_str();
            let labels =
                [("direction", direction.as_str()), ("verdict", "deny"), ("reason", reason)];
            page.sample(&labels, packets)?;
        }
    }
    for (verdict, direction, reason, count) in hooks(seen) {
        if direction == BOTH {
            let labels = [("direction", BOTH), ("verdict", verdict), ("reason", reason)];
            page.sample(&labels, count)?;
        }
    }
    let punted = STEERING_COUNTERS.iter().position(|name| *name == "punted");
    let punts = punted.and_then(|index| seen.hooks.get(index));
    page.counter("punts", "Packets that a hook sent to a worker")?;
    page.sample(&[], punts.unwrap_or(&0))?;
    page.counter("punt_device_drops", "Packets that found no room on their way to a worker")?;
    page.sample(&[], seen.punt_device_drops.unwrap_or(0))?;
    page.counter("decisions", "Decisions by the policy table, not packets")?;
    page.sample(&[("verdict", "allow")], counters.total(Counter::DecisionsAllowed))?;
    page.sample(&[("verdict", "deny")], counters.total(Counter::DecisionsDenied))
}

/// Where a hook does not count by direction.
const BOTH: &str = "both";

/// What the hooks decided by themselves: verdict, direction, reason, packets. Those that they sent
/// to a worker, or gave back after, are the worker's.
fn hooks(seen: &Seen) -> impl Iterator<Item = (&'static str, &'static str, &'static str, u64)> {
    (0u8..).zip(STEERING_COUNTERS).zip(&seen.hooks).filter_map(|((number, name), count)| {
        let passed = match name {
            "hit" => Some("flow"),
            "opened" => Some("cached_verdict"),
            "decided" => Some("mark"),
            "node" | "neighbour" => Some(name),
            "pass_no_worker" => Some("no_worker"),
            _ => None,
        };
        let direction = match name {
            "drop_egress" | "drop_cut_egress" => Direction::Egress.as_str(),
            "drop_ingress" | "drop_cut_ingress" => Direction::Ingress.as_str(),
            _ => BOTH,
        };
        match passed {
            Some(reason) => Some(("allow", direction, reason, *count)),
            None if name.starts_with("drop_") => {
                Some(("deny", direction, reason_of_hook(number), *count))
            }
            None => None,
        }
    })
}

fn flows<W: Words>(page: &mut Page, seen: &Seen, counters: &Counters<W>) -> Result<(), Error> {
    page.gauge("flows", "Live flows by state")?;
    for (state, count) in &seen.flows {
        page.sample(&[("state", *state)], count)?;
    }
    page.gauge("flow_table_capacity", "Flows for which the table is made")?;
    page.sample(&[], seen.capacity)?;
    page.counter("flow_evictions", "Flows that left the table, by cause")?;
    for (cause, counter) in [
        ("displaced", Counter::FlowsEvicted),
        ("cut", Counter::FlowsCut),
        ("expired", Counter::FlowsExpired),
    ] {
        page.sample(&[("cause", cause)], counters.total(counter))?;
    }
    page.counter("flows_refused", "Flows that found no place and were judged packet by packet")?;
    for (cause, counter) in
        [("table_full", Counter::FlowTableFull), ("pod_limit", Counter::FlowQuota)]
    {
        page.sample(&[("cause", cause)], counters.total(counter))?;
    }
    Ok(())
}

fn state(page: &mut Page, seen: &Seen) -> Result<(), Error> {
    page.gauge("endpoints", "Pods' interfaces, by whether they are enforced")?;
    let tally = seen.endpoints;
    for (state, count) in [
        ("enforced", tally.enforced),
        ("not_enforced", tally.not_enforced),
        ("quarantined", tally.quarantined),
    ] {
        page.sample(&[("state", state)], count)?;
    }
    let enforced = seen.enforced;
    page.gauge("table_generation", "Generation that all workers enforce, 0 = none yet")?;
    page.sample(&[], enforced.generation)?;
    page.gauge("table_age_seconds", "Time since that generation came in force")?;
    let age = (enforced.generation != 0).then_some(enforced.at_ns);
    page.sample(&[], age.map_or(0.0, |at| seconds(seen.now_ns.saturating_sub(at))))?;
    page.gauge("publisher_connected", "Whether weir-control is connected")?;
    page.sample(&[], u8::from(seen.alone_since_ns.is_none()))?;
    page.gauge("publisher_gone_seconds", "Time since weir-control was last connected, 0 if it is")?;
    let gone = seen.alone_since_ns.map_or(0, |since| seen.now_ns.saturating_sub(since));
    page.sample(&[], seconds(gone))
}

fn workers(page: &mut Page, seen: &Seen) -> Result<(), Error> {
    let names: Vec<String> = (0..seen.workers.len()).map(|id| id.to_string()).collect();
    let workers = || names.iter().zip(&seen.workers);
    page.gauge("worker_heartbeat_age_seconds", "Time since a worker's last sign of life")?;
    for (name, worker) in workers() {
        page.sample(&[("worker", name.as_str())], seconds(worker.silent_ns))?;
    }
    page.gauge("worker_generation", "Generation by which a worker decides")?;
    for (name, worker) in workers() {
        page.sample(&[("worker", name.as_str())], worker.generation)?;
    }
    page.gauge("worker_busy_ratio", "Part of its time that a worker lately spent on packets")?;
    for (name, busy) in names.iter().zip(&seen.busy) {
        page.sample(&[("worker", name.as_str())], busy)?;
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss)] // nanoseconds of centuries do not matter here
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// The text so far. Labels and help are this program's own words: nothing in them needs escaping,
/// which is asserted.
#[derive(Debug, Default)]
struct Page {
    text: String,
    /// The family that is being written, with what its samples end in.
    family: (&'static str, &'static str),
}

impl Page {
    fn counter(&mut self, name: &'static str, help: &str) -> Result<(), Error> {
        self.family(name, help, "counter", "_total")
    }

    fn gauge(&mut self, name: &'static str, help: &str) -> Result<(), Error> {
        self.family(name, help, "gauge", "")
    }

    fn family(
        &mut self,
        name: &'static str,
        help: &str,
        kind: &str,
        suffix: &'static str,
    ) -> Result<(), Error> {
        debug_assert!(!help.contains(['\\', '"', '\n']));
        self.family = (name, suffix);
        writeln!(self.text, "# HELP weir_{name} {help}.\n# TYPE weir_{name} {kind}")
    }

    /// A sample of the family begun last.
    fn sample(
        &mut self,
        labels: &[(&str, &str)],
        value: impl std::fmt::Display,
    ) -> Result<(), Error> {
        let (name, suffix) = self.family;
        write!(self.text, "weir_{name}{suffix}")?;
        for (n, (label, said)) in labels.iter().enumerate() {
            debug_assert!(!said.contains(['\\', '"', '\n']));
            let before = if n == 0 { "{" } else { "," };
            write!(self.text, "{before}{label}=\"{said}\"")?;
        }
        let close = if labels.is_empty() { "" } else { "}" };
        writeln!(self.text, "{close} {value}")
    }

    fn end(mut self) -> Result<String, Error> {
        self.text.write_str("# EOF\n")?;
        Ok(self.text)
    }
}
