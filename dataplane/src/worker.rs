//! A worker: one pinned thread, one AF_XDP socket, one loop.
//!
//! ```text
//!   look at the snapshot ─> burst: receive, judge, send ─> heartbeat, expiry
//!           ^                                                   │
//!           └── poll(2), if nothing came for a while <──────────┘
//! ```
//!
//! While there is traffic the worker polls its rings and never sleeps; after
//! [`SPINS`] empty polls it sleeps in poll(2), so that an idle node costs next to
//! nothing. Per burst, never per packet: one look at the snapshot, two clock readings,
//! the ring accesses, and the system call that makes the kernel send.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use weir_table::counters::{Counter, CounterBlock, Direction, Reason};
use weir_table::flow::{FlowTable, VerdictCache};
use weir_table::mem::SharedWords;
use weir_table::stamps::Stamps;

use crate::clock;
use crate::io::{IoStats, PacketIo};
use crate::node::Node;
use crate::origins::{HostConntrack, Origins};
use crate::pipeline::{Pipeline, View};
use crate::shim::SHIM_LEN;
use crate::steer::abi::Config;

/// Empty polls in a row after which the worker sleeps: some 50 µs of spinning, longer
/// than the pause between two packets of a busy flow.
const SPINS: u32 = 200;
/// Longest sleep; also how often an idle worker shows that it lives.
const SLEEP: Duration = Duration::from_millis(100);
/// A worker that was away for so long was stopped: a debugger, a frozen machine.
const STOPPED_NS: u64 = 3_000_000_000;
/// How often a busy worker does its housekeeping.
const HOUSEKEEPING_NS: u64 = 10_000_000;

/// What workers share with each other and with the hooks.
#[derive(Clone)]
pub struct Tables {
    /// The flow table.
    pub flows: Arc<FlowTable<SharedWords>>,
    /// Which verdicts are out of date.
    pub stamps: Arc<Stamps<SharedWords>>,
    /// Verdicts for the hooks; `None` if every packet comes to a worker.
    pub verdicts: Option<Arc<VerdictCache<SharedWords>>>,
}

/// What a worker works with.
pub struct Worker {
    /// Its number; also its queue.
    pub id: u32,
    /// The node's state.
    pub node: Arc<Node>,
    /// The hooks' record, for the heartbeat.
    pub config: Arc<Config>,
    /// The tables shared by all workers and the hooks.
    pub tables: Tables,
    /// Its own counters.
    pub counters: CounterBlock<Arc<SharedWords>>,
    /// The host's conntrack; `None` if it cannot be asked.
    pub origins: Option<HostConntrack>,
    /// Set when the daemon stops.
    pub stop: Arc<AtomicBool>,
}

impl Worker {
    /// Runs until stopped.
    ///
    /// # Errors
    /// When the socket fails for good.
    pub fn run(self, mut io: impl PacketIo, mut pipeline: Pipeline) -> io::Result<()> {
        let gate = self.node.gate(self.id as usize);
        let mut snapshot = arc_swap::Cache::new(self.node.current());
        let (mut empty, mut housekept) = (0, 0);
        let mut io_seen = IoStats::default();
        let mut slice_start = clock::monotonic_ns();
        let mut generation = 0;
        self.config.heartbeat(self.id, slice_start);
        gate.unpark();
        while !self.stop.load(Ordering::Relaxed) {
            let state = snapshot.load();
            gate.entered(state.version);
            if state.generation() != generation {
                generation = state.generation();
                self.counters.set_generation(generation);
                self.counters.add(Counter::TableSwaps, 1);
            }
            let view = View {
                classifier: state.classifier.as_deref(),
                endpoints: &state.endpoints,
                flows: &self.tables.flows,
                stamps: &self.tables.stamps,
                verdicts: self.tables.verdicts.as_deref(),
                origins: self.origins.as_ref().map(|origins| origins as &dyn Origins),
            };
            let now = clock::monotonic_ns();
            if now.wrapping_sub(housekept) > STOPPED_NS {
                // Time has stood still for this process, and perhaps for all: what is judged
                // now must not find flows over that nobody could touch.
                self.config.set_tick(clock::flow_tick(now, self.config.tick()));
            }
            let received = io.burst(|frames| {
                pipeline.process(frames, &view, clock::flow_ns_at(now), &self.counters);
            })?;
            if received > 0 {
                io.send(pipeline.released())?;
                pipeline.forget_released();
                empty = 0;
                self.counters.add(Counter::Bursts, 1);
                self.counters.add(Counter::BusyNs, clock::monotonic_ns().wrapping_sub(now));
            } else {
                empty += 1;
                self.counters.add(Counter::EmptyPolls, 1);
            }
            if now.wrapping_sub(housekept) > HOUSEKEEPING_NS {
                housekept = now;
                self.config.heartbeat(self.id, now);
                self.counters.add(Counter::TotalNs, now.wrapping_sub(slice_start));
                slice_start = now;
                self.config.set_tick(clock::flow_tick(now, self.config.tick()));
                pipeline.expire(&view, clock::flow_ns_at(now), &self.counters);
                publish_io(&self.counters, &mut io_seen, io.stats());
            }
            // What housekeeping owes of its pass over the table, in steps, between polls.
            if received == 0 && pipeline.expiry_is_behind() {
                pipeline.expire(&view, clock::flow_ns_at(now), &self.counters);
            } else if empty > SPINS {
                empty = 0;
                publish_io(&self.counters, &mut io_seen, io.stats());
                self.counters.add(Counter::Sleeps, 1);
                gate.park();
                let slept = io.wait(SLEEP);
                gate.unpark();
                let now = clock::monotonic_ns();
                self.config.heartbeat(self.id, now);
                self.config.set_tick(clock::flow_tick(now, self.config.tick()));
                slept?;
            }
        }
        gate.park();
        // Dead from now on, not only after the heartbeat's timeout.
        self.config.heartbeat(self.id, 0);
        Ok(())
    }
}

/// Adds what the socket's totals have grown by to the shared counters.
fn publish_io(counters: &CounterBlock<Arc<SharedWords>>, seen: &mut IoStats, now: IoStats) {
    let grown = [
        (Counter::XskRxDropped, now.rx_dropped, seen.rx_dropped),
        (Counter::XskRxRingFull, now.rx_ring_full, seen.rx_ring_full),
        (Counter::RxTruncated, now.rx_truncated, seen.rx_truncated),
        (Counter::XskFillEmpty, now.rx_fill_empty, seen.rx_fill_empty),
        (Counter::XskRxInvalid, now.rx_invalid_descs, seen.rx_invalid_descs),
        (Counter::XskTxInvalid, now.tx_invalid_descs, seen.tx_invalid_descs),
        (Counter::RxFrames, now.rx_frames, seen.rx_frames),
        (
            Counter::RxBytes,
            without_shim(now.rx_bytes, now.rx_frames),
            without_shim(seen.rx_bytes, seen.rx_frames),
        ),
        (Counter::TxFrames, now.tx_frames, seen.tx_frames),
        (
            Counter::TxBytes,
            without_shim(now.tx_bytes, now.tx_frames),
            without_shim(seen.tx_bytes, seen.tx_frames),
        ),
    ];
    for (counter, new, old) in grown {
        if new != old {
            counters.add(counter, new.wrapping_sub(old));
        }
    }
    // Which way the frames were going is no longer known here; most leave a pod.
    let unsent = now.tx_full.wrapping_sub(seen.tx_full);
    if unsent > 0 {
        counters.add_drops(Direction::Egress, Reason::TxFull, unsent);
    }
    *seen = now;
}

/// What the packets themselves amount to.
fn without_shim(bytes: u64, frames: u64) -> u64 {
    bytes.saturating_sub(frames * SHIM_LEN as u64)
}
