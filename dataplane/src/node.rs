//! The state of the node, as the admin threads keep it and the workers read it.
//!
//! ```text
//!   publisher thread ── new generation ──┐
//!                                        ├─> Node: lock, build a Snapshot, swap the pointer,
//!   discovery thread ── new endpoints ───┘         wait until every gate acknowledges
//!                                                             │
//!   worker 0..N-1 ── one atomic load a burst ── Snapshot <────┘
//! ```
//!
//! Invariants
//! - A [`Snapshot`] never changes; a change is a new one with a higher version.
//! - The lock is the admin threads' own; workers never take it.
//! - The last reference to a retired snapshot is dropped here, by an admin thread, so
//!   that unmapping a policy table never happens on the packet path.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam::utils::CachePadded;
use weir_table::counters::{Counters, Enforced};
use weir_table::gate::Gate;
use weir_table::mem::SharedWords;

use crate::endpoints::Endpoints;
use weir_table::classify::MappedClassifier;

/// How long a worker may take to acknowledge before it counts as hung. A burst takes
/// microseconds; a worker that the scheduler keeps off its core needs patience.
const ACKNOWLEDGE: Duration = Duration::from_secs(5);

/// Everything by which workers decide.
#[derive(Debug)]
pub struct Snapshot {
    /// Rises by one with every change.
    pub version: u64,
    /// The policy table and address map in force; `None` until the first is published.
    pub classifier: Option<Arc<MappedClassifier>>,
    /// The pods' interfaces.
    pub endpoints: Arc<Endpoints>,
}

impl Snapshot {
    /// The generation in force; 0 if there is none yet.
    pub fn generation(&self) -> u64 {
        self.classifier.as_ref().map_or(0, |c| c.generation())
    }
}

/// A worker that did not take a change over in time.
#[derive(Debug, thiserror::Error)]
#[error(
    "worker {worker} has not taken over the change after {} s: it hangs; restart weir-dataplane \
     (established flows go on meanwhile)", ACKNOWLEDGE.as_secs()
)]
pub struct WorkerHangs {
    /// Which worker.
    pub worker: usize,
}

/// The node's state and the workers' acknowledgements.
pub struct Node {
    current: ArcSwap<Snapshot>,
    gates: Vec<CachePadded<Gate>>,
    counters: Counters<Arc<SharedWords>>,
    retired: Mutex<Vec<Arc<Snapshot>>>,
}

impl Node {
    /// A node without a table and without endpoints.
    pub fn new(workers: usize, counters: Counters<Arc<SharedWords>>) -> Self {
        let first =
            Snapshot { version: 1, classifier: None, endpoints: Arc::new(Endpoints::default()) };
        Self {
            current: ArcSwap::from_pointee(first),
            gates: (0..workers).map(|_| CachePadded::new(Gate::new())).collect(),
            counters,
            retired: Mutex::new(Vec::new()),
        }
    }

    /// What workers read; they keep it through [`arc_swap::Cache`].
    pub fn current(&self) -> &ArcSwap<Snapshot> {
        &self.current
    }

    /// A worker's gate.
    pub fn gate(&self, worker: usize) -> &Gate {
        &self.gates[worker]
    }

    /// The counters, for reading and for the receipt.
    pub fn counters(&self) -> &Counters<Arc<SharedWords>> {
        &self.counters
    }

    /// Takes a new policy table over and returns when every worker decides by it.
    ///
    /// # Errors
    /// [`WorkerHangs`]; the table is in force on all other workers even then.
    pub fn enforce(&self, classifier: Arc<MappedClassifier>) -> Result<Enforced, WorkerHangs> {
        let generation = classifier.generation();
        self.change(|now, version| Snapshot {
            version,
            classifier: Some(classifier),
            endpoints: Arc::clone(&now.endpoints),
        })?;
        let enforced = Enforced { generation, at_ns: crate::clock::monotonic_ns() };
        self.counters.record_enforced(enforced);
        Ok(enforced)
    }

    /// Takes a new set of endpoints over and returns when every worker knows them.
    ///
    /// # Errors
    /// [`WorkerHangs`], as for [`Node::enforce`].
    pub fn set_endpoints(&self, endpoints: Arc<Endpoints>) -> Result<(), WorkerHangs> {
        self.change(|now, version| Snapshot {
            version,
            classifier: now.classifier.clone(),
            endpoints,
        })
    }

    fn change(&self, make: impl FnOnce(&Snapshot, u64) -> Snapshot) -> Result<(), WorkerHangs> {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.current.load_full();
        let next = make(&now, now.version + 1);
        let version = next.version;
        retired.push(self.current.swap(Arc::new(next)));
        drop(now);
        let deadline = Instant::now() + ACKNOWLEDGE;
        for (worker, gate) in self.gates.iter().enumerate() {
            while !gate.acknowledged(version) {
                if Instant::now() > deadline {
                    return Err(WorkerHangs { worker });
                }
                std::thread::sleep(Duration::from_micros(20));
            }
        }
        // A sleeping worker still holds what it used last; it lets go when it wakes.
        retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
        Ok(())
    }
}
