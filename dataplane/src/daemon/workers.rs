//! The daemon's threads on the packet path: workers with the sockets or queues that they serve, and
//! the one that records what was dropped.
//!
//! Each worker is pinned to a core of its own, as far as there are as many; all end when `stop` says
//! so, and what they end with is the caller's to join.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use anyhow::{Context, Result};
use weir_table::flow::FlowTable;
use weir_table::mem::SharedWords;

use super::Settings;
use crate::drops::{self, Recorder};
use crate::io::PacketIo;
use crate::io::af_xdp::AfXdp;
use crate::node::Node;
use crate::pipeline::Pipeline;
use crate::punt::tap::PuntTap;
use crate::punt::veth::PuntPair;
use crate::steer::Steering;
use crate::steer::abi::{PUNT_TAP, PUNT_TAP_UDP};
use crate::worker::Worker;

/// Workers at work, and the device through which packets reach them.
pub(super) struct Served {
    /// Index of weir0.
    pub(super) near_index: u32,
    /// What kind of device it is, in the hooks' words.
    pub(super) flags: u32,
    /// Its MTU, in bytes.
    pub(super) mtu: u32,
    /// Their threads.
    pub(super) workers: Vec<thread::JoinHandle<Result<()>>>,
    /// weir0 and weir1, which go when this does; `None`: a TAP device.
    pub(super) pair: Option<PuntPair>,
}

/// Starts the workers on AF_XDP sockets, in weir1's namespace.
pub(super) async fn serve_by_af_xdp(
    settings: &Settings,
    steering: &mut Steering,
    worker: impl Fn(u32) -> Result<(Worker, Pipeline)>,
) -> Result<Served> {
    let pair = PuntPair::make(&settings.device_prefix, settings.workers).await?;
    pair.netns.run(|| steering.attach_delivery(&pair.far).map_err(std::io::Error::other))?;
    let mut workers = Vec::new();
    for id in 0..settings.workers {
        let io = pair.netns.run(|| AfXdp::open(&pair.far, id, pair.mtu))?;
        steering.set_socket(id, io.fd())?;
        workers.push(spawn_worker(worker(id)?, io)?);
    }
    let (near_index, mtu) = (pair.near_index, pair.mtu);
    Ok(Served { near_index, flags: 0, mtu, workers, pair: Some(pair) })
}

/// Starts the workers on the queues of a TAP device.
pub(super) async fn serve_by_tap(
    settings: &Settings,
    near: &str,
    steering: &mut Steering,
    worker: impl Fn(u32) -> Result<(Worker, Pipeline)>,
) -> Result<Served> {
    let chooser = steering.queue_chooser()?;
    let (device, queues) = PuntTap::make(near, settings.workers, chooser).await?;
    steering.set_tap(device.index)?;
    let mut workers = Vec::new();
    for (id, io) in (0..).zip(queues) {
        workers.push(spawn_worker(worker(id)?, io)?);
    }
    let flags = PUNT_TAP | if device.offloads.udp { PUNT_TAP_UDP } else { 0 };
    Ok(Served { near_index: device.index, flags, mtu: device.mtu, workers, pair: None })
}

fn spawn_worker(
    (worker, pipeline): (Worker, Pipeline),
    io: impl PacketIo + Send + 'static,
) -> Result<thread::JoinHandle<Result<()>>> {
    let id = worker.id;
    let handle = thread::Builder::new().name(format!("weir-worker-{id}")).spawn(move || {
        pin_to_core(id);
        worker.run(io, pipeline).with_context(|| format!("worker {id} stopped"))
    })?;
    Ok(handle)
}

/// Starts the thread that records dropped packets. A run directory that is full costs these
/// records, not enforcement.
pub(super) fn spawn_recorder(
    run_dir: &Path,
    sources: drops::Sources,
    node: &Arc<Node>,
    flows: &Arc<FlowTable<SharedWords>>,
    stop: &Arc<AtomicBool>,
) -> Result<Option<thread::JoinHandle<Result<()>>>> {
    let recorder = match Recorder::new(run_dir, sources, Arc::clone(node), Arc::clone(flows)) {
        Ok(recorder) => recorder,
        Err(error) => {
            tracing::error!(%error, "`weir drops` will show nothing");
            return Ok(None);
        }
    };
    let stop = Arc::clone(stop);
    let thread = thread::Builder::new().name("weir-drops".into()).spawn(move || {
        recorder.run(&stop);
        Ok(())
    })?;
    Ok(Some(thread))
}

/// Pins the calling thread to the `n`th of the cores that the process may use.
fn pin_to_core(n: u32) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|c| allowed.is_set(*c)).collect();
    // From the last core down: the first one takes most devices' interrupts.
    let Some(core) = cores.iter().rev().cycle().nth(n as usize) else { return };
    let mut set = CpuSet::new();
    set.set(*core);
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(worker = n, core, %error, "worker runs unpinned");
    }
}
