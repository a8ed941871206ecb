//! `--metrics ADDR`: `/metrics`, `/healthz` and `/readyz` of the dataplane.
//!
//! | Name (with prefix `weir_`) | |
//! |---|---|
//! | `packets_total{direction,verdict,reason}` | packets at the pods' hooks: let pass, or dropped and why. `direction` is `both` where a hook does not count it apart |
//! | `punts_total` | packets that a hook sent to a worker |
//! | `punt_device_drops_total` | of these, the ones that found no room on the way |
//! | `decisions_total{verdict}` | decisions by the policy table (not packets) |
//! | `flows{state}` | live flows |
//! | `flow_table_capacity` | flows for which the table is made (`--flows`) |
//! | `flow_evictions_total{cause}` | flows that left the table: `displaced` by a newer one, `cut` by a change of policy, `expired` |
//! | `flows_refused_total{cause}` | flows that were judged packet by packet: `table_full`, `pod_limit` |
//! | `endpoints{state}` | pods' interfaces: `enforced`, `not_enforced` (a hook is missing), `quarantined` |
//! | `table_generation` | the generation that all workers enforce, 0 = none yet |
//! | `table_age_seconds` | time since that came in force |
//! | `publisher_connected` | 1 while weir-control is connected |
//! | `publisher_gone_seconds` | time since it was last, 0 while it is |
//! | `worker_heartbeat_age_seconds{worker}` | time since a worker's last sign of life |
//! | `worker_generation{worker}` | the generation by which it decides |
//! | `worker_busy_ratio{worker}` | part of the time that it spent on packets, over the last 10 s or more |
//! | `worker_events_total{event}` | everything that workers count, by the names of `weir status` |
//! | `hook_events_total{event}` | the same of the hooks |
//!
//! Workers' counters begin at 0 with each start; those of the hooks outlive the daemon.
//!
//! Healthy (`/healthz`): every worker has given a sign of life within
//! [`HEARTBEAT_TIMEOUT`](crate::daemon::HEARTBEAT_TIMEOUT). Ready (`/readyz`): that, and a policy
//! table is enforced by all workers and on every pod's interface.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | what is looked at, and what health and readiness are |
//! | `collect.rs` | what was seen, as metrics |
//! | `request.rs`, `server.rs` | the little of HTTP that is needed |
#![forbid(unsafe_code)]

mod collect;
mod request;
mod server;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use aya::maps::{Map, MapData, PerCpuArray};
use weir_table::counters::{Counter, Enforced};
use weir_table::flow::{FlowTable, Tick};
use weir_table::mem::SharedWords;

use crate::clock;
use crate::node::Node;
use crate::pods::{Pods, Tally};
use crate::steer::abi::{Config, STEERING_COUNTERS};

pub use server::{Answer, bind};

/// What the text encoder writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Least time over which a worker's load is told.
const LOAD_OVER_NS: u64 = 10_000_000_000;
/// Least time between two passes over the flow table, which may be gigabytes.
const FLOWS_APART: Duration = Duration::from_secs(5);
/// And how much longer than the pass itself that is: so much of a core does it cost at most.
const FLOWS_SHARE: u32 = 100;

/// What the answers are made of.
pub struct Books {
    /// What is enforced, and by whom.
    pub node: Arc<Node>,
    /// Where the workers give their signs of life.
    pub config: Arc<Config>,
    /// The flow table.
    pub flows: Arc<FlowTable<SharedWords>>,
    /// Flows for which it is made.
    pub capacity: u32,
    /// The pods' interfaces.
    pub pods: Arc<Mutex<Pods>>,
    /// The hooks' counters; `None` if they are not to be had.
    pub hooks: Option<HookCounters>,
    /// Name of weir0.
    pub punt_device: String,
}

/// A worker at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct WorkerSeen {
    /// Since its last sign of life.
    silent_ns: u64,
    generation: u64,
    /// What it spent on packets since the start.
    busy_ns: u64,
}

/// Everything at a moment.
#[derive(Debug, Default)]
struct Seen {
    now_ns: u64,
    workers: Vec<WorkerSeen>,
    /// The part of the time that each spent on packets, lately.
    busy: Vec<f64>,
    enforced: Enforced,
    /// Since when control is away, by the clock of `now_ns`; `None` while it is connected.
    alone_since_ns: Option<u64>,
    endpoints: Tally,
    flows: BTreeMap<&'static str, u64>,
    capacity: u64,
    /// The hooks' counters, in the order of [`STEERING_COUNTERS`].
    hooks: Vec<u64>,
    punt_device_drops: Option<u64>,
}

/// Starts the thread that answers.
///
/// # Errors
/// The system gives no thread.
pub fn spawn(
    listener: TcpListener,
    books: Books,
    stop: &Arc<AtomicBool>,
) -> Result<thread::JoinHandle<Result<()>>> {
    let address = listener.local_addr()?;
    tracing::info!(%address, "metrics");
    if !address.ip().is_loopback() {
        tracing::warn!(
            "anybody who reaches {address} can read the metrics: there is no authentication; \
             127.0.0.1 is for this node alone"
        );
    }
    let stop = Arc::clone(stop);
    let mut desk = Desk::new(books);
    Ok(thread::Builder::new().name("weir-metrics".into()).spawn(move || {
        server::serve(&listener, &stop, |path| desk.answer(path));
        Ok(())
    })?)
}

/// The books, and what is remembered from one answer to the next.
struct Desk {
    books: Books,
    /// What was seen of the pods while they were not being changed.
    endpoints: Tally,
    flows: FlowCount,
    load: Load,
}

impl Desk {
    fn new(books: Books) -> Self {
        Self {
            books,
            endpoints: Tally::default(),
            flows: FlowCount::default(),
            load: Load::default(),
        }
    }

    fn answer(&mut self, path: &str) -> Answer {
        match path {
            "/metrics" => {
                let seen = self.look();
                match collect::text(&seen, self.books.node.counters()) {
                    Ok(body) => Answer { status: 200, media_type: OPEN_METRICS, body },
                    Err(error) => Answer::plain(503, format!("{error}\n")),
                }
            }
            "/healthz" => told(self.workers().sick(), "ok\n"),
            "/readyz" => {
                let mut seen = self.workers();
                seen.endpoints = self.endpoints();
                told(seen.unready(), "ready\n")
            }
            _ => Answer::plain(404, "there are /metrics, /healthz and /readyz\n"),
        }
    }

    /// What health and readiness are made of, which costs next to nothing.
    fn workers(&self) -> Seen {
        let Books { node, config, .. } = &self.books;
        let counters = node.counters();
        let now_ns = clock::monotonic_ns();
        let worker = |(id, number): (usize, u32)| {
            let block = counters.worker(id);
            WorkerSeen {
                silent_ns: now_ns.saturating_sub(config.last_heartbeat(number)),
                generation: block.as_ref().map_or(0, |block| block.generation()),
                busy_ns: block.as_ref().map_or(0, |block| block.get(Counter::BusyNs)),
            }
        };
        Seen {
            now_ns,
            workers: (0..counters.workers()).zip(0..).map(worker).collect(),
            enforced: counters.enforced().unwrap_or_default(),
            alone_since_ns: node.alone_since_ns(),
            ..Seen::default()
        }
    }

    fn look(&mut self) -> Seen {
        let mut seen = self.workers();
        seen.busy = self.load.of(seen.now_ns, &seen.workers);
        seen.endpoints = self.endpoints();
        seen.flows = self.flows.of(&self.books.flows);
        seen.capacity = self.books.capacity.into();
        seen.hooks = self.books.hooks.as_ref().map(HookCounters::read).unwrap_or_default();
        seen.punt_device_drops = transmit_drops(&self.books.punt_device);
        seen
    }

    /// Does not wait: whoever changes the pods may wait for a worker that hangs.
    fn endpoints(&mut self) -> Tally {
        match self.books.pods.try_lock() {
            Ok(pods) => self.endpoints = pods.tally(),
            Err(TryLockError::Poisoned(pods)) => self.endpoints = pods.into_inner().tally(),
            Err(TryLockError::WouldBlock) => {}
        }
        self.endpoints
    }
}

fn told(wrong: Option<String>, well: &str) -> Answer {
    match wrong {
        None => Answer::plain(200, well),
        Some(why) => Answer::plain(503, why + "\n"),
    }
}

impl Seen {
    /// Which workers are dead or hang; `None` if none is.
    fn sick(&self) -> Option<String> {
        let timeout = crate::daemon::HEARTBEAT_TIMEOUT.as_nanos();
        let silent: Vec<String> = (0..)
            .zip(&self.workers)
            .filter(|(_, worker)| u128::from(worker.silent_ns) >= timeout)
            .map(|(id, worker): (usize, _)| {
                format!(
                    "worker {id} has given no sign of life for {} s",
                    worker.silent_ns / 1_000_000_000
                )
            })
            .collect();
        (!silent.is_empty()).then(|| silent.join("; "))
    }

    /// What is missing until everything here is enforced; `None` if nothing is.
    fn unready(&self) -> Option<String> {
        let mut reasons = Vec::from_iter(self.sick());
        let Tally { enforcing, not_enforced, .. } = self.endpoints;
        if self.enforced.generation == 0 || !enforcing {
            reasons.push(
                "no policy table is enforced yet: weir-control has published none".to_owned(),
            );
        } else if not_enforced > 0 {
            reasons
                .push(format!("{not_enforced} pod interfaces are not enforced; the log says why"));
        }
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }
}

/// The flows by state, counted seldom.
#[derive(Debug, Default)]
struct FlowCount {
    next: Option<Instant>,
    flows: BTreeMap<&'static str, u64>,
}

impl FlowCount {
    fn of(&mut self, table: &FlowTable<SharedWords>) -> BTreeMap<&'static str, u64> {
        let begin = Instant::now();
        if self.next.is_none_or(|next| begin >= next) {
            let now = Tick::from_nanos(clock::flow_ns());
            self.flows = FLOW_STATES.map(|state| (state, 0)).into();
            for flow in table.iter().filter(|flow| !flow.is_expired(now)) {
                *self.flows.entry(flow.state().as_str()).or_insert(0) += 1;
            }
            let end = Instant::now();
            self.next = Some(end + FLOWS_APART.max((end - begin) * FLOWS_SHARE));
        }
        self.flows.clone()
    }
}

/// Every name that [`weir_table::flow::FlowState::as_str`] gives, so that each is there from the
/// start.
const FLOW_STATES: [&str; 8] =
    ["opening", "established", "closing", "reset", "unanswered", "answered", "icmp", "denied"];

/// What workers had done at two earlier moments.
#[derive(Debug, Default)]
struct Load {
    older: Option<(u64, Vec<u64>)>,
    newer: Option<(u64, Vec<u64>)>,
}

impl Load {
    /// The part of the time that each worker was busy, over [`LOAD_OVER_NS`] or more if there was
    /// so much between earlier looks, however many ask.
    fn of(&mut self, now_ns: u64, workers: &[WorkerSeen]) -> Vec<f64> {
        let busy: Vec<u64> = workers.iter().map(|worker| worker.busy_ns).collect();
        if self.newer.as_ref().is_none_or(|(at, _)| now_ns.saturating_sub(*at) >= LOAD_OVER_NS) {
            self.older = self.newer.replace((now_ns, busy.clone()));
        }
        // At first there is only the start of the counters, of which the time is not known.
        let Some((then_ns, before)) = self.older.as_ref().or(self.newer.as_ref()) else {
            return vec![0.0; busy.len()];
        };
        let passed = now_ns.saturating_sub(*then_ns).max(1);
        let ratio = |(now, before): (&u64, &u64)| {
            #[allow(clippy::cast_precision_loss)] // a ratio to a few digits
            let ratio = now.saturating_sub(*before) as f64 / passed as f64;
            ratio.min(1.0)
        };
        busy.iter().zip(before).map(ratio).collect()
    }
}

/// The hooks' counters, by a descriptor of the pinned map.
pub struct HookCounters(PerCpuArray<MapData, u64>);

impl HookCounters {
    /// Opens the pinned counters.
    ///
    /// # Errors
    /// They are not there, or are no counters.
    pub fn open(pin_dir: &Path) -> Result<Self> {
        let data = MapData::from_pin(pin_dir.join("weir_steering"))?;
        Ok(Self(PerCpuArray::try_from(Map::PerCpuArray(data))?))
    }

    /// Summed over CPUs, in the order of [`STEERING_COUNTERS`].
    fn read(&self) -> Vec<u64> {
        let sum = |index| self.0.get(&index, 0).map_or(0, |values| values.iter().sum());
        (0..).take(STEERING_COUNTERS.len()).map(sum).collect()
    }
}

/// Packets that a device had no room for; `None` if there is no such device.
fn transmit_drops(device: &str) -> Option<u64> {
    drops_in(&std::fs::read_to_string("/proc/net/dev").ok()?, device)
}

/// The twelfth number of a line of `/proc/net/dev` (proc(5)).
fn drops_in(table: &str, device: &str) -> Option<u64> {
    let line =
        table.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'))?;
    line.split_whitespace().nth(11)?.parse().ok()
}

#[cfg(test)]
mod tests;
