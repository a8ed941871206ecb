//! The thread that writes the ring: takes what was told, adds who it was, sorts by time.
//!
//! It looks 20 times a second. Nobody wakes it: a system call for a dropped packet would be
//! the flood's to command.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
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

use super::attribute::{Denier, Question, denier};
use super::packet::packet_of;
use super::{DropEvent, DropQueue, HookDrops};
use crate::clock;
use crate::node::{Node, Snapshot};

/// How often the recorder looks.
const PERIOD: Duration = Duration::from_millis(50);

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
            pending: Vec::new(),
        })
    }

    /// Records until told to stop.
    pub fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(PERIOD);
            self.record();
        }
        self.record();
    }

    /// Takes everything that was told so far.
    fn record(&mut self) {
        while let Some(event) = self.sources.hooks.take() {
            self.pending.push((None, event));
        }
        let monotonic = clock::monotonic_ns();
        let behind = monotonic.wrapping_sub(clock::flow_ns_at(monotonic));
        for (worker, queue) in (0..).zip(&self.sources.workers) {
            while let Some(event) = queue.pop() {
                let at_ns = event.at_ns.wrapping_add(behind);
                self.pending.push((Some(worker), DropEvent { at_ns, ..event }));
            }
        }
        if self.pending.is_empty() {
            return;
        }
        self.pending.sort_by_key(|(_, event)| event.at_ns);
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
        let Denier { policy, rule } = match &self.snapshot.classifier {
            Some(classifier) => denier(&question, classifier, &self.snapshot.endpoints, self.flows),
            None => Denier::default(),
        };
        let name = |address: Address| self.names.get(address).unwrap_or_default().to_owned();
        let (src_pod, dst_pod) =
            packet.addresses.map_or_else(Default::default, |(src, dst)| (name(src), name(dst)));
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
            text: Text {
                reason: event.reason.to_owned(),
                device: self.device.to_owned(),
                pod: self.pod_at(event.ifindex),
                src_pod,
                dst_pod,
                rule,
                policy,
            },
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
