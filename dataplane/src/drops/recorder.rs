//! The thread that writes the ring: takes what was told, adds who it was, sorts by time.
//!
//! It looks 20 times a second. Nobody wakes it: a system call for a dropped packet would be
//! the flood's to command. What one look costs is bounded: it takes at most [`HOOK_EVENTS`]
//! and the workers' queues once, describes as much of that as the [`Sample`] admits, and of
//! each no more than a record holds.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, netdevice::index_to_name, socket};
use rustix::time::{ClockId, clock_gettime};
use weir_table::addr::Address;
use weir_table::drops::{DropRecord, RECORDS, RingFileError, RingWriter, Text, open_or_create};
use weir_table::flow::FlowTable;
use weir_table::mem::SharedWords;
use weir_table::names::{Names, NamesFile};

use super::attribute::{Question, name_denier};
use super::packet::packet_of;
use super::sample::Sample;
use super::{DropEvent, DropQueue, HookDrops};
use crate::clock;
use crate::node::{Node, Snapshot};

/// How often the recorder looks.
const PERIOD: Duration = Duration::from_millis(50);
/// Pause after a look that failed.
const AFTER_A_FAULT: Duration = Duration::from_secs(1);
/// Events of the hooks that one look takes; what is left waits for the next in the kernel's
/// buffer, which holds about twice as many. Where that is full the hooks count what is left out.
const HOOK_EVENTS: usize = 2048;

/// Where drops come from.
pub struct Sources {
    /// What the hooks tell.
    pub hooks: HookDrops,
    /// What each worker tells, by number.
    pub workers: Vec<Arc<DropQueue>>,
}

/// Writes the ring.
pub struct Recorder {
    ring: RingWriter<SharedWords>,
    sources: Sources,
    node: Arc<Node>,
    flows: Arc<FlowTable<SharedWords>>,
    names: NamesFile,
    devices: Devices,
    sample: Sample,
    pending: Vec<(Option<u32>, DropEvent)>,
}

impl Recorder {
    /// A recorder that goes on with the ring of `run_dir`, or begins one.
    ///
    /// # Errors
    /// [`RingFileError`] if there can be none.
    pub fn new(
        run_dir: &Path,
        sources: Sources,
        node: Arc<Node>,
        flows: Arc<FlowTable<SharedWords>>,
    ) -> Result<Self, RingFileError> {
        let (ring, replaced) = open_or_create(run_dir, RECORDS)?;
        if let Some(why) = replaced {
            tracing::warn!(%why, "began a new ring of dropped packets");
        }
        Ok(Self {
            ring,
            sources,
            node,
            flows,
            names: NamesFile::new(run_dir),
            devices: Devices::default(),
            sample: Sample::default(),
            pending: Vec::new(),
        })
    }

    /// Records until told to stop.
    pub fn run(mut self, stop: &AtomicBool) {
        look_until(stop, || self.record());
    }

    /// Takes what was told so far.
    fn record(&mut self) {
        // What a look that failed has left.
        self.pending.clear();
        let Sources { hooks, workers } = &mut self.sources;
        let told = std::iter::from_fn(|| hooks.take()).take(HOOK_EVENTS);
        self.pending.extend(told.map(|event| (None, event)));
        let monotonic = clock::monotonic_ns();
        let behind = monotonic.wrapping_sub(clock::flow_ns_at(monotonic));
        for (worker, queue) in (0..).zip(workers.iter()) {
            // Not until it is empty: the worker goes on filling it.
            let told = std::iter::from_fn(|| queue.pop()).take(queue.capacity());
            self.pending.extend(told.map(|event| {
                let at_ns = event.at_ns.wrapping_add(behind);
                (Some(worker), DropEvent { at_ns, ..event })
            }));
        }
        if self.pending.is_empty() {
            return;
        }
        self.sample.select(&mut self.pending, monotonic);
        let snapshot = self.node.current().load_full();
        let names = self.names.current();
        let wall = wall_ns();
        self.devices.forget();
        for (worker, event) in self.pending.drain(..) {
            let described = Described {
                snapshot: &snapshot,
                names,
                flows: &self.flows,
                device: self.devices.name(event.ifindex),
            };
            let age = monotonic.saturating_sub(event.at_ns);
            let record = described.record(&event, worker, wall.saturating_sub(age));
            self.ring.push(&record.encode(), u64::from(event.left_out));
        }
    }
}

/// Looks every [`PERIOD`] until told to stop, and once more then. A look that panics costs the
/// records it was about to write: what it reads are packets, and none may end the daemon, nor
/// the records of all that follow. The ring stays whole, since no reader believes half a record.
fn look_until(stop: &AtomicBool, mut look: impl FnMut()) {
    loop {
        let last = stop.load(Ordering::Relaxed);
        if catch_unwind(AssertUnwindSafe(&mut look)).is_err() {
            tracing::error!(
                "a fault of weir-dataplane while it recorded dropped packets: some are missing in \
                 `weir drops`; please report the panic above"
            );
            // So that a lasting fault does not fill the log.
            thread::sleep(AFTER_A_FAULT);
        }
        if last {
            return;
        }
        thread::sleep(PERIOD);
    }
}

/// What is known at the moment of recording.
struct Described<'a> {
    snapshot: &'a Snapshot,
    names: &'a Names,
    flows: &'a FlowTable<SharedWords>,
    device: &'a str,
}

impl Described<'_> {
    fn record(&self, event: &DropEvent, worker: Option<u32>, wall_ns: u64) -> DropRecord {
        let packet = packet_of(event.head());
        let question = Question {
            reason: event.reason,
            packet: &packet,
            ifindex: event.ifindex,
            direction: event.direction,
        };
        let name = |address: Address| self.names.get(address).unwrap_or_default().to_owned();
        let (src_pod, dst_pod) =
            packet.addresses.map_or_else(Default::default, |(src, dst)| (name(src), name(dst)));
        let mut text = Text {
            reason: event.reason.to_owned(),
            device: self.device.to_owned(),
            pod: self.pod_at(event.ifindex),
            src_pod,
            dst_pod,
            ..Text::default()
        };
        if let Some(classifier) = &self.snapshot.classifier {
            let endpoints = &self.snapshot.endpoints;
            name_denier(&question, classifier, endpoints, self.flows, &mut text);
        }
        DropRecord {
            monotonic_ns: event.at_ns,
            wall_ns,
            generation: self.snapshot.generation(),
            ifindex: event.ifindex,
            direction: event.direction,
            worker,
            left_out: event.left_out,
            frame_len: event.frame_len,
            packet,
            frame: event.head().to_vec(),
            text,
        }
    }

    /// The pod behind a device, by its address; else by its network namespace.
    fn pod_at(&self, ifindex: u32) -> String {
        let Some(endpoint) = self.snapshot.endpoints.by_ifindex(ifindex) else {
            return String::new();
        };
        let name = endpoint.addresses.iter().find_map(|address| self.names.get(*address));
        name.unwrap_or(&endpoint.name).to_owned()
    }
}

/// Devices' names, asked for once a look.
#[derive(Default)]
struct Devices {
    socket: Option<OwnedFd>,
    names: HashMap<u32, String>,
}

impl Devices {
    fn forget(&mut self) {
        self.names.clear();
    }

    fn name(&mut self, ifindex: u32) -> &str {
        if self.socket.is_none() {
            self.socket = socket(AddressFamily::INET, SocketType::DGRAM, None).ok();
        }
        let socket = &self.socket;
        self.names.entry(ifindex).or_insert_with(|| {
            let name = socket.as_ref().and_then(|socket| index_to_name(socket, ifindex).ok());
            name.unwrap_or_default()
        })
    }
}

/// Nanoseconds since 1970-01-01 UTC.
fn wall_ns() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_panics_is_not_the_last() {
        let stop = AtomicBool::new(false);
        let mut looks = 0;
        look_until(&stop, || {
            looks += 1;
            assert_ne!(looks, 1, "a fault that the test wants");
            stop.store(looks == 3, Ordering::Relaxed);
        });
        assert_eq!(looks, 4, "once more after the stop");
    }
}
