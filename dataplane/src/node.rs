//! The state of the node, as the admin threads keep it and the workers read it.
//!
//! ```text
//!   publisher thread ── new generation ──┐
//!                                        ├─> Node: lock, build a Snapshot, swap the pointer,
//!   discovery thread ── new endpoints ───┘         wait until every gate acknowledges,
//!                                                  make outdated verdicts stale
//!                                                             │
//!   worker 0..N-1 ── one atomic load a burst ── Snapshot <────┘
//! ```
//!
//! Invariants
//! - A [`Snapshot`] never changes; a change is a new one with a higher version.
//! - The lock is the admin threads' own; workers never take it.
//! - Stamps change only after every worker decides by the new state, and under the lock:
//!   so no verdict of the old state carries a stamp of the new.
//! - The last reference to a retired snapshot is dropped here, by an admin thread, so
//!   that unmapping a policy table never happens on the packet path.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam::utils::CachePadded;
use weir_table::addr::Address;
use weir_table::addrmap::UNSETTLED;
use weir_table::classify::MappedClassifier;
use weir_table::counters::{Counters, Enforced};
use weir_table::diff::{self, KnownAddresses, Moment};
use weir_table::flow::{FlowTable, Tick};
use weir_table::gate::Gate;
use weir_table::mem::SharedWords;
use weir_table::stamps::{SlotSet, Stamps};

use crate::claims::Said;
use crate::clock;
use crate::endpoints::Endpoints;
use crate::origins::{HostConntrack, Origins};
use crate::rejudge::{self, Rejudged};
use crate::seed;
use crate::steer::node_ports::NodePorts;

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

/// What the admin side remembers between changes.
#[derive(Debug, Default)]
struct Admin {
    retired: Vec<Arc<Snapshot>>,
    /// The address map as it was when flows were last judged again.
    known: Option<KnownAddresses>,
    /// The host's conntrack; `None` if it cannot be asked.
    origins: Option<HostConntrack>,
}

impl Admin {
    fn origins(&self) -> Option<&dyn Origins> {
        self.origins.as_ref().map(|origins| origins as &dyn Origins)
    }
}

/// The node's state and the workers' acknowledgements.
pub struct Node {
    current: ArcSwap<Snapshot>,
    gates: Vec<CachePadded<Gate>>,
    counters: Counters<Arc<SharedWords>>,
    flows: Arc<FlowTable<SharedWords>>,
    stamps: Arc<Stamps<SharedWords>>,
    /// Which ports of the node are Services', for the hooks.
    node_ports: Option<NodePorts<SharedWords>>,
    admin: Mutex<Admin>,
    /// Since when no publisher is connected, `CLOCK_MONOTONIC` in nanoseconds; 0 while one is.
    alone_since: AtomicU64,
}

impl Node {
    /// A node without a table and without endpoints.
    pub fn new(
        workers: usize,
        counters: Counters<Arc<SharedWords>>,
        flows: Arc<FlowTable<SharedWords>>,
        stamps: Arc<Stamps<SharedWords>>,
    ) -> Self {
        let first =
            Snapshot { version: 1, classifier: None, endpoints: Arc::new(Endpoints::default()) };
        Self {
            current: ArcSwap::from_pointee(first),
            gates: (0..workers).map(|_| CachePadded::new(Gate::new())).collect(),
            counters,
            flows,
            stamps,
            node_ports: None,
            admin: Mutex::default(),
            alone_since: AtomicU64::new(clock::monotonic_ns()),
        }
    }

    /// Notes whether control is connected. One thread says so, again and again.
    pub fn set_publisher(&self, connected: bool) {
        let alone = self.alone_since.load(Ordering::Relaxed) != 0;
        if alone == connected {
            let since = if connected { 0 } else { clock::monotonic_ns() };
            self.alone_since.store(since, Ordering::Relaxed);
        }
    }

    /// Since when control is not connected, `CLOCK_MONOTONIC` in nanoseconds: what it has not
    /// told since is not enforced. `None` while it is.
    pub fn alone_since_ns(&self) -> Option<u64> {
        let since = self.alone_since.load(Ordering::Relaxed);
        (since != 0).then_some(since)
    }

    /// Tells the hooks here which ports of the node are Services'.
    #[must_use]
    pub fn telling_node_ports_to(mut self, node_ports: NodePorts<SharedWords>) -> Self {
        self.node_ports = Some(node_ports);
        self
    }

    /// Asks this table who opened what the host has translated.
    #[must_use]
    pub fn asking_for_origins(self, origins: Option<HostConntrack>) -> Self {
        self.lock().origins = origins;
        self
    }

    /// Whether every worker decides by the table that is in force.
    pub fn is_acknowledged(&self) -> bool {
        self.lock().known.is_some()
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

    /// What control says of an address.
    pub fn said(&self, address: Address) -> Said {
        let current = self.current.load();
        match current.classifier.as_ref().map(|c| c.addresses().lookup(address)) {
            None | Some(Some(UNSETTLED)) => Said::Nothing,
            Some(Some(_)) => Said::APods,
            Some(None) => Said::NoPods,
        }
    }

    /// Differs whenever what [`Node::said`] says may. Load it first.
    pub fn said_at(&self) -> Option<u64> {
        self.current.load().classifier.as_ref().map(|c| c.stamp())
    }

    /// [`FlowTable::share_out`].
    pub fn share_flows_out(&self) {
        self.flows.share_out();
    }

    /// Takes a new policy table over and returns when every worker decides by it and no
    /// verdict of the one before holds where the two differ.
    ///
    /// # Errors
    /// [`WorkerHangs`]; the table is in force on all other workers even then.
    pub fn enforce(
        &self,
        classifier: Arc<MappedClassifier>,
    ) -> Result<(Enforced, Rejudged), WorkerHangs> {
        let mut admin = self.lock();
        let generation = classifier.generation();
        // Unknown until every worker has acknowledged: then everything is judged again.
        let mut before = admin.known.take();
        let old = self.current.load().classifier.clone();
        let new = Arc::clone(&classifier);
        // Before anybody judges by it: what control changes from here on is found later.
        let mut known = KnownAddresses::of(&new);
        self.change(&mut admin, |now, version| Snapshot {
            version,
            classifier: Some(classifier),
            endpoints: Arc::clone(&now.endpoints),
        })?;
        if let Some(before) = &before {
            rejudge::purge(&self.flows, &before.gone_in(&known));
        }
        let slots = match (&old, &mut before) {
            (Some(old), Some(before)) => self.slots_between((old, before), (&new, &mut known)),
            // What an earlier daemon enforced last is not known, nor what workers judge by
            // that did not acknowledge in time.
            _ => SlotSet::All,
        };
        if before.is_none() {
            // A change that a dead daemon did not finish.
            self.stamps.settle(&SlotSet::All);
        }
        admin.known = Some(known);
        self.tell_node_ports();
        let rejudged = self.restamp(&slots, &new, admin.origins());
        Ok((Enforced { generation, at_ns: clock::monotonic_ns() }, rejudged))
    }

    /// Says to those who look at the counters that a generation is enforced: on all
    /// workers, and, the first time, on all hooks.
    pub fn announce(&self, enforced: Enforced) {
        self.counters.record_enforced(enforced);
    }

    /// The slots of all addresses for which the two generations differ, and of those that
    /// control changed meanwhile in either map.
    fn slots_between(
        &self,
        (old, before): (&MappedClassifier, &mut KnownAddresses),
        (new, after): (&MappedClassifier, &mut KnownAddresses),
    ) -> SlotSet {
        let endpoints = Arc::clone(&self.current.load().endpoints);
        let local: Vec<Address> =
            endpoints.iter().flat_map(|e| e.addresses.iter().copied()).collect();
        let changes = diff::changes_between(
            Moment { table: old.table(), addresses: before },
            Moment { table: new.table(), addresses: after },
            &local,
        );
        if changes.all {
            return SlotSet::All;
        }
        let mut addresses = changes.addresses;
        if addresses.iter().any(|address| address.is_unspecified()) {
            addresses.extend(endpoints.of_the_node());
        }
        addresses.extend(before.update(old));
        addresses.extend(after.update(new));
        self.stamps.slots_of(&addresses)
    }

    /// Enters the connections of this node's pods that the host's conntrack knows, judged
    /// under the present policies. Must run in the host's network namespace.
    pub fn adopt_open_flows(&self) {
        let admin = self.lock();
        let snapshot = self.current.load_full();
        let Some(classifier) = &snapshot.classifier else { return };
        let (room, _) = self.flows.capacity();
        let seeds = seed::seeds(&snapshot.endpoints, room / 2);
        let now = Tick::from_nanos(clock::flow_ns());
        let known = (&*snapshot.endpoints, admin.origins());
        let tables = (&*self.flows, &*self.stamps);
        let entered = seed::enter(&seeds, classifier, known, tables, now);
        if !seeds.is_empty() {
            tracing::info!(
                found = seeds.len(),
                allowed = entered.allowed,
                cut = entered.cut,
                "took over the connections that were open before"
            );
        }
        if entered.no_room > 0 {
            tracing::warn!(
                left_out = entered.no_room,
                "no room for these connections that were open before: each is judged as opened by \
                 whoever speaks next; raise --flows or --flows-per-pod"
            );
        }
    }

    /// Makes stale what was said about addresses that control has changed in place since
    /// the last look; a look that finds nothing costs next to nothing. `None` if there is no
    /// table that every worker has acknowledged.
    pub fn addresses_changed(&self) -> Option<Rejudged> {
        let mut admin = self.lock();
        let classifier = self.current.load().classifier.clone()?;
        let known = admin.known.as_mut()?;
        if known.is_settled() && known.epoch() == classifier.addresses().epoch() {
            return Some(Rejudged::default());
        }
        let before = known.clone();
        let changed = known.update(&classifier);
        let slots = self.stamps.slots_of(&changed);
        rejudge::purge(&self.flows, &before.gone_in(known));
        // A pod that came or went has few flows; one with another identity may have many.
        let is_relabelled = |a: &Address| before.contains(*a) && known.contains(*a);
        if changed.iter().any(is_relabelled) {
            return Some(self.restamp(&slots, &classifier, admin.origins()));
        }
        self.outdate(&slots);
        Some(Rejudged::default())
    }

    /// Takes a new set of endpoints over and returns when every worker knows them and no
    /// verdict about an address holds whose device has changed.
    ///
    /// # Errors
    /// [`WorkerHangs`], as for [`Node::enforce`].
    pub fn set_endpoints(&self, endpoints: Arc<Endpoints>) -> Result<(), WorkerHangs> {
        let mut admin = self.lock();
        let old = Arc::clone(&self.current.load().endpoints);
        let moved = moved_addresses(&old, &endpoints);
        let changed = self.change(&mut admin, |now, version| Snapshot {
            version,
            classifier: now.classifier.clone(),
            endpoints,
        });
        if changed.is_err() {
            // Which verdicts of the silent worker outlive this is not known.
            admin.known = None;
        }
        changed?;
        // The flows of these addresses are for the workers: their devices have changed.
        // Without a table nothing was judged here yet, and what an earlier daemon said
        // holds until there is one.
        if self.current.load().classifier.is_some() {
            self.tell_node_ports();
            self.outdate(&self.stamps.slots_of(&moved));
            let now = self.current.load_full();
            let left: Vec<Address> =
                moved.into_iter().filter(|a| old.by_address(*a).is_some()).collect();
            rejudge::purge_moved(&self.flows, &left, &now.endpoints);
        }
        Ok(())
    }

    /// Tells the hooks which ports of the node's addresses are Services' under the table in
    /// force. After the workers know them: until then they are the node's.
    fn tell_node_ports(&self) {
        let current = self.current.load();
        let (Some(told), Some(classifier)) = (&self.node_ports, &current.classifier) else {
            return;
        };
        let of_the_node =
            |address: Address| address.is_unspecified() || current.endpoints.is_nodes(address);
        let services = classifier.table().services();
        let ports: BTreeSet<(u8, u16)> = services
            .filter(|(address, ..)| of_the_node(*address))
            .map(|(_, protocol, port, _)| (protocol, port))
            .collect();
        told.replace(&ports);
    }

    /// Ends the validity of what was judged before. The flows concerned come back to the
    /// workers with their next packets.
    fn outdate(&self, slots: &SlotSet) {
        self.stamps.announce(slots);
        self.stamps.settle(slots);
    }

    /// Ends the validity of what was judged before, and judges open flows again.
    fn restamp(
        &self,
        slots: &SlotSet,
        classifier: &MappedClassifier,
        origins: Option<&dyn Origins>,
    ) -> Rejudged {
        if slots.is_empty() {
            return Rejudged::default();
        }
        let endpoints = Arc::clone(&self.current.load().endpoints);
        let now = Tick::from_nanos(clock::flow_ns());
        self.stamps.announce(slots);
        let done = rejudge::rejudge(
            (&*self.flows, &*self.stamps, slots),
            classifier,
            (&*endpoints, origins),
            now,
        );
        self.stamps.settle(slots);
        done
    }

    fn lock(&self) -> MutexGuard<'_, Admin> {
        self.admin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(
        &self,
        admin: &mut Admin,
        make: impl FnOnce(&Snapshot, u64) -> Snapshot,
    ) -> Result<(), WorkerHangs> {
        let now = self.current.load_full();
        let next = make(&now, now.version + 1);
        let version = next.version;
        admin.retired.push(self.current.swap(Arc::new(next)));
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
        admin.retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
        Ok(())
    }
}

/// Addresses that are at another device than before, at none, or at one for the first time.
fn moved_addresses(old: &Endpoints, new: &Endpoints) -> Vec<Address> {
    let device = |endpoints: &Endpoints, address: Address| {
        endpoints.by_address(address).map(|e| (e.ifindex, e.quarantined))
    };
    let all = old.iter().chain(new.iter()).flat_map(|e| e.addresses.iter().copied());
    let mut moved: Vec<Address> = all.filter(|a| device(old, *a) != device(new, *a)).collect();
    // What is the node's is judged as such, or by who masqueraded under it.
    let of_the_node = old.of_the_node().chain(new.of_the_node());
    moved.extend(of_the_node.filter(|a| old.is_nodes(*a) != new.is_nodes(*a)));
    moved.sort_unstable();
    moved.dedup();
    moved
}

#[cfg(test)]
mod tests;
