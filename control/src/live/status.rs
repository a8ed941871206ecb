//! `weir status`: generation, workers, endpoints, flows and counters of the running node.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;
use weir_table::classify::Classifier;
use weir_table::counters::{Counter, Counters, Direction, Reason};
use weir_table::flow::{FlowView, Tick};
use weir_table::mem::Words;

use super::EndpointRecord;
use super::control::ControlStatus;

/// A worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkerStatus {
    /// The generation that it enforces; 0 = none yet.
    pub generation: u64,
    /// Milliseconds since its last sign of life.
    pub heartbeat_ms: u64,
    /// Whether that is recent enough.
    pub alive: bool,
}

/// What the table of the last saved generation holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableStatus {
    /// The generation of the saved table.
    pub generation: u64,
    /// Policies.
    pub policies: usize,
    /// Rules, one a peer.
    pub rules: usize,
    /// Classes of addresses.
    pub classes: usize,
    /// Programs.
    pub programs: usize,
    /// Pod addresses of the moment of saving.
    pub addresses: usize,
    /// Size of the table in bytes.
    pub bytes: usize,
}

/// Drops of one direction for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drops {
    /// `egress` or `ingress`.
    pub direction: &'static str,
    /// Why.
    pub reason: &'static str,
    /// How many packets.
    pub packets: u64,
}

/// Everything that `weir status` shows.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The last generation that all workers enforce; 0 = none yet.
    pub generation: u64,
    /// Whether every worker gives signs of life.
    pub running: bool,
    /// By number.
    pub workers: Vec<WorkerStatus>,
    /// Who follows the source, and what of it cannot be honoured.
    pub control: ControlStatus,
    /// Absent if no generation was ever saved.
    pub table: Option<TableStatus>,
    /// The pods' interfaces.
    pub endpoints: Vec<EndpointRecord>,
    /// Live flows by state.
    pub flows: BTreeMap<&'static str, u64>,
    /// Entries for IPv4 and IPv6 flows.
    pub flow_capacity: (usize, usize),
    /// The workers' counters, summed.
    pub counters: BTreeMap<&'static str, u64>,
    /// Drops that happened.
    pub drops: Vec<Drops>,
    /// The steering program's counters.
    pub steering: BTreeMap<&'static str, u64>,
}

/// What [`Status::of`] puts together.
#[derive(Debug)]
pub struct Sources<'a, W, V> {
    /// The workers' counters.
    pub counters: &'a Counters<W>,
    /// Age of each worker's heartbeat and the age that counts as dead, in nanoseconds.
    pub heartbeats: (Vec<u64>, u64),
    /// The flow table.
    pub flows: &'a FlowView<V>,
    /// The steering counters.
    pub steering: Vec<(&'static str, u64)>,
    /// The pods' interfaces.
    pub endpoints: Vec<EndpointRecord>,
    /// weir-control's record.
    pub control: ControlStatus,
}

impl Status {
    /// Reads everything once. `now` decides which flows' time is over.
    pub fn of<W: Words, V: Words, B: AsRef<[u8]>, A: Words>(
        sources: Sources<'_, W, V>,
        classifier: Option<&Classifier<B, A>>,
        now: Tick,
    ) -> Self {
        let counters = sources.counters;
        let (ages, dead) = sources.heartbeats;
        let workers: Vec<WorkerStatus> = (0..counters.workers())
            .map(|worker| {
                let age = ages.get(worker).copied().unwrap_or(u64::MAX);
                WorkerStatus {
                    generation: counters.worker(worker).map_or(0, |block| block.generation()),
                    heartbeat_ms: age / 1_000_000,
                    alive: age <= dead,
                }
            })
            .collect();
        let mut flows = BTreeMap::new();
        for flow in sources.flows.iter().filter(|flow| !flow.is_expired(now)) {
            *flows.entry(flow.state().as_str()).or_insert(0) += 1;
        }
        let drops = Direction::ALL
            .iter()
            .flat_map(|direction| Reason::ALL.iter().map(move |reason| (*direction, *reason)))
            .map(|(direction, reason)| Drops {
                direction: direction.as_str(),
                reason: reason.as_str(),
                packets: counters.total_drops(direction, reason)
                    + dropped_by_hooks(&sources.steering, direction, reason),
            })
            .filter(|drops| drops.packets > 0)
            .collect();
        let table = classifier.map(|classifier| {
            let counts = classifier.table().counts();
            TableStatus {
                generation: classifier.generation(),
                policies: counts.policies,
                rules: counts.rules,
                classes: counts.classes,
                programs: counts.programs,
                addresses: classifier.addresses().len(),
                bytes: counts.bytes,
            }
        });
        Self {
            generation: counters.enforced().map_or(0, |enforced| enforced.generation),
            running: !workers.is_empty() && workers.iter().all(|worker| worker.alive),
            workers,
            control: sources.control,
            table,
            endpoints: sources.endpoints,
            flows,
            flow_capacity: sources.flows.capacity(),
            counters: Counter::ALL
                .iter()
                .map(|counter| (counter.as_str(), counters.total(*counter)))
                .collect(),
            drops,
            steering: sources.steering.into_iter().collect(),
        }
    }

    /// Prints the status for people; counters that are 0 are left out.
    ///
    /// # Errors
    /// Writing failed.
    pub fn print(&self, mut out: impl Write) -> io::Result<()> {
        let alive = self.workers.iter().filter(|worker| worker.alive).count();
        let state = if self.running { "running" } else { "NOT RUNNING (hooks go on enforcing)" };
        writeln!(out, "dataplane   {state}, {alive} of {} workers alive", self.workers.len())?;
        for (i, worker) in self.workers.iter().enumerate() {
            writeln!(
                out,
                "  worker {i}  generation {}, last sign of life {} ms ago",
                worker.generation, worker.heartbeat_ms
            )?;
        }
        match self.generation {
            0 => writeln!(out, "generation  none yet: no policy table was published")?,
            n => writeln!(out, "generation  {n}, enforced by all workers")?,
        }
        if let Some(table) = &self.table {
            writeln!(
                out,
                "table       generation {}: {} policies, {} rules, {} classes, {} programs, {} addresses, {} bytes",
                table.generation,
                table.policies,
                table.rules,
                table.classes,
                table.programs,
                table.addresses,
                table.bytes
            )?;
        }
        self.control.print(&mut out)?;
        let quarantined = self.endpoints.iter().filter(|e| e.quarantined).count();
        let attached = self.endpoints.iter().filter(|e| e.attached).count();
        writeln!(
            out,
            "endpoints   {} ({attached} with hooks, {quarantined} quarantined)",
            self.endpoints.len()
        )?;
        for endpoint in &self.endpoints {
            let tell = |address| match endpoint.ignored.contains(address) {
                true => format!("{address} (IGNORED)"),
                false => address.to_string(),
            };
            let addresses: Vec<String> = endpoint.addresses.iter().map(tell).collect();
            let mark = match endpoint {
                EndpointRecord { quarantined: true, .. } => "  QUARANTINED",
                EndpointRecord { attached: false, .. } => "  no hooks yet",
                EndpointRecord { held: true, .. } => "  HELD",
                _ => "",
            };
            let pod = endpoint.pod.as_ref().map(|pod| format!("  {pod}")).unwrap_or_default();
            writeln!(
                out,
                "  {:<15} {:<20} {}{pod}{mark}",
                endpoint.device,
                endpoint.netns,
                addresses.join(", ")
            )?;
        }
        let (v4, v6) = self.flow_capacity;
        let total: u64 = self.flows.values().sum();
        writeln!(out, "flows       {total} (room for {v4} IPv4, {v6} IPv6)")?;
        print_counts(&mut out, &self.flows)?;
        writeln!(out, "counters")?;
        print_counts(&mut out, &self.counters)?;
        writeln!(out, "drops")?;
        for drops in &self.drops {
            let name = format!("{} {}", drops.direction, drops.reason);
            writeln!(out, "  {name:<28} {}", drops.packets)?;
        }
        writeln!(out, "steering")?;
        print_counts(&mut out, &self.steering)
    }
}

fn print_counts(out: &mut impl Write, counts: &BTreeMap<&'static str, u64>) -> io::Result<()> {
    for (name, count) in counts.iter().filter(|(_, count)| **count > 0) {
        writeln!(out, "  {name:<28} {count}")?;
    }
    Ok(())
}

/// Packets that the hooks dropped themselves, for the reason for which a worker would have.
fn dropped_by_hooks(steering: &[(&'static str, u64)], direction: Direction, reason: Reason) -> u64 {
    let name = match (direction, reason) {
        (Direction::Egress, Reason::PolicyEgress) => "drop_egress",
        (Direction::Ingress, Reason::PolicyIngress) => "drop_ingress",
        (Direction::Egress, Reason::FlowCut) => "drop_cut_egress",
        (Direction::Ingress, Reason::FlowCut) => "drop_cut_ingress",
        _ => return 0,
    };
    steering.iter().find(|(counter, _)| *counter == name).map_or(0, |(_, packets)| *packets)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weir_table::counters::{CounterBlock, Enforced, words_for};
    use weir_table::flow::layout::{v4_words, v6_words};
    use weir_table::mem::SharedWords;

    use super::*;
    use crate::live::control::State;

    #[test]
    fn a_status_says_what_the_memory_says() {
        let words = Arc::new(SharedWords::heap(words_for(2)));
        let counters = Counters::init(Arc::clone(&words), 2).unwrap();
        for (worker, generation) in [(0, 7), (1, 6)] {
            let block = CounterBlock::new(Arc::clone(&words), worker).unwrap();
            block.add(Counter::RxFrames, 10);
            block.add_drops(Direction::Ingress, Reason::PolicyIngress, 2);
            block.set_generation(generation);
        }
        counters.record_enforced(Enforced { generation: 6, at_ns: 1 });
        let flows =
            FlowView::new(SharedWords::heap(v4_words(4)), SharedWords::heap(v6_words(2))).unwrap();
        let sources = Sources {
            counters: &counters,
            heartbeats: (vec![1_000_000, 9_000_000_000], 1_000_000_000),
            flows: &flows,
            steering: vec![("punted", 20), ("drop_l2", 0)],
            endpoints: Vec::new(),
            control: ControlStatus { state: State::Absent, record: None },
        };
        let none: Option<&Classifier<Vec<u8>, SharedWords>> = None;
        let status = Status::of(sources, none, Tick(0));
        assert_eq!(status.generation, 6);
        assert!(!status.running && status.workers[0].alive && !status.workers[1].alive);
        assert_eq!(status.counters["rx_frames"], 20);
        assert_eq!(
            status.drops,
            [Drops { direction: "ingress", reason: "policy_ingress", packets: 4 }]
        );
        let mut text = Vec::new();
        status.print(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for part in [
            "NOT RUNNING",
            "1 of 2 workers",
            "generation  6",
            "rx_frames                    20",
            "ingress policy_ingress       4",
            "punted                       20",
            "room for 4 IPv4, 2 IPv6",
            "control     none has left a record here",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        assert!(!text.contains("drop_l2"));
    }
}
