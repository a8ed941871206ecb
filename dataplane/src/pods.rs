//! From what discovery found to what workers and hooks know: which interface is a pod's,
//! which addresses are its own, and that Weir's programs are on it.
//!
//! Rules
//! - Nothing is attached before the first policy table is in force: pods that run when
//!   Weir arrives are adopted without a gap. From then on a new interface gets its hooks
//!   at once, and drops everything until its addresses are known to the policy table.
//! - An address is a pod's to others once control has named it, and only the one that it came
//!   with ([`crate::claims`]). A pod that takes the address of another pod of this node, or of
//!   the node, is quarantined and named; what else it gives itself has no effect.
//! - A frame of a pod carries the hardware address of the pod's own interface. A pod that
//!   changes it is believed, with a warning, unless another pod or the node has it: then its
//!   frames under it are dropped. One whose address is not known is not checked.
//! - Hooks leave a device only when the device is gone from the node. A pod that hides
//!   its interface, or a namespace that cannot be read, keeps them: what a worker does
//!   not know, it drops.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use weir_table::addr::Address;
use weir_table::mem::SharedWords;

use crate::claims::{Claims, Holder, Said, Standing};
use crate::discover::{Binding, Scan};
use crate::endpoints::{Endpoint, EndpointsBuilder};
use crate::node::{Node, WorkerHangs};
use crate::state;
use crate::steer::abi::Config;
use crate::steer::attach::{AttachMode, Hook};
use crate::steer::macs::{Mac, Macs};
use crate::steer::{SteerError, Steering};

/// One pod interface, as `weir status` shows it (`endpoints.json`).
#[derive(Debug, Serialize)]
pub struct EndpointRecord<'a> {
    /// Index of the host-side device.
    pub ifindex: u32,
    /// Name of the host-side device.
    pub device: &'a str,
    /// Name of the pod's network namespace.
    pub netns: &'a str,
    /// The pod's addresses.
    pub addresses: &'a [IpAddr],
    /// What of these it came with.
    pub came_with: &'a [IpAddr],
    /// What of these control has named: its own to others.
    pub settled: &'a [IpAddr],
    /// What of these it has added to the ones that it came with: without effect.
    pub ignored: &'a [IpAddr],
    /// True if it claims an address that another has.
    pub quarantined: bool,
    /// True if both hooks are on the device.
    pub attached: bool,
}

/// The pods of this node.
pub struct Pods {
    steering: Steering,
    config: Arc<Config>,
    node: Arc<Node>,
    mode: AttachMode,
    offload: bool,
    run_dir: PathBuf,
    /// Largest pod MTU that the punt pair carries, in bytes.
    max_mtu: u32,
    bindings: Vec<Binding>,
    node_addresses: Vec<IpAddr>,
    claims: Claims,
    /// What the claims of each binding amount to.
    standings: Vec<Standing>,
    /// The bindings of which workers and hooks have been told.
    told: Vec<Binding>,
    /// When control was asked about them ([`Node::said_at`]).
    asked_at: Option<u64>,
    /// The hooks' map of hardware addresses; `None` if it is not to be had.
    macs: Option<Macs<SharedWords>>,
    /// The hardware address of each pod interface.
    mac_of: BTreeMap<u32, Mac>,
    attached: HashSet<u32>,
    /// Some namespace could not be read by the last scan.
    unreadable: bool,
    enforcing: bool,
}

impl Pods {
    /// No pods yet, nothing attached. Who held which address before a restart is read
    /// from the run directory: else the lowest interface index would win afterwards.
    pub fn new(
        steering: Steering,
        config: Arc<Config>,
        node: Arc<Node>,
        (mode, offload): (AttachMode, bool),
        run_dir: &Path,
        max_mtu: u32,
    ) -> Self {
        let macs = steering.macs();
        if let Err(error) = &macs {
            tracing::error!(%error, "pods' hardware addresses are not checked");
        }
        Self {
            macs: macs.ok(),
            mac_of: BTreeMap::new(),
            steering,
            config,
            node,
            mode,
            offload,
            run_dir: run_dir.to_owned(),
            max_mtu,
            bindings: Vec::new(),
            node_addresses: Vec::new(),
            claims: claims_before(run_dir),
            standings: Vec::new(),
            told: Vec::new(),
            asked_at: None,
            attached: HashSet::new(),
            unreadable: false,
            enforcing: false,
        }
    }

    /// Takes a scan over: workers first, so that no packet reaches a worker that does
    /// not know its interface; then the hooks.
    ///
    /// # Errors
    /// When a worker hangs or a map cannot be written. A device that cannot take its
    /// hooks is logged and tried again with the next scan.
    pub fn apply(&mut self, mut scan: Scan) -> anyhow::Result<()> {
        let node_changed = scan.node_addresses != self.node_addresses;
        if node_changed {
            if let Err(error) = self.steering.set_node_addresses(&scan.node_addresses) {
                tracing::error!(%error, "some of the node's own addresses are judged as foreign");
            }
            self.node_addresses = std::mem::take(&mut scan.node_addresses);
        }
        for ifindex in self.attached.extract_if(|i| !scan.devices.contains(i)) {
            self.steering.forget(ifindex);
        }
        self.claims.retain_devices(&scan.devices);
        // What could not be read this time is as it was.
        let as_before = self
            .bindings
            .iter()
            .filter(|b| scan.unreadable.contains(&b.netns) && scan.devices.contains(&b.ifindex))
            .filter(|old| !scan.bindings.iter().any(|b| b.ifindex == old.ifindex));
        scan.bindings.extend(as_before.cloned().collect::<Vec<_>>());
        scan.bindings.sort_by_key(|b| b.ifindex);
        self.unreadable = !scan.unreadable.is_empty();
        let bindings_changed = scan.bindings != self.bindings;
        if bindings_changed {
            self.tell_of_changes(&scan);
            self.bindings = scan.bindings;
            self.tell_macs(&scan.node_macs);
        }
        if bindings_changed || node_changed {
            self.weigh_claims()?;
        }
        self.attach_all();
        self.write_records();
        Ok(())
    }

    fn tell_of_changes(&self, scan: &Scan) {
        for old in &self.bindings {
            if !scan.bindings.iter().any(|b| b.ifindex == old.ifindex) {
                let hidden = scan.devices.contains(&old.ifindex);
                tracing::info!(
                    device = old.device,
                    netns = old.netns,
                    hidden,
                    "pod interface gone"
                );
            }
        }
        for new in scan.bindings.iter().filter(|b| !self.bindings.contains(b)) {
            tracing::info!(
                device = new.device, netns = new.netns, addresses = ?new.addresses,
                "pod interface"
            );
            if new.mtu > self.max_mtu {
                tracing::error!(
                    device = new.device,
                    mtu = new.mtu,
                    limit = self.max_mtu,
                    "packets larger than the limit will be lost on their way to a worker; restart \
                     weir-dataplane with --io tap, which carries any size, or lower the MTU"
                );
            }
        }
    }

    /// Puts the hooks on every known device, and from now on on every new one at once.
    pub fn start_enforcing(&mut self) {
        if !self.enforcing {
            self.enforcing = true;
            self.attach_all();
            self.config.set_offload(self.offload);
            self.write_records();
        }
    }

    /// The record that the hooks read.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// True once the hooks go on every device at once.
    pub fn is_enforcing(&self) -> bool {
        self.enforcing
    }

    /// True while some interface has no address yet, so that another scan is due soon.
    pub fn incomplete(&self) -> bool {
        self.bindings.iter().any(|b| b.addresses.is_empty())
            || self.unreadable
            || (self.enforcing && !self.bindings.iter().all(|b| self.attached.contains(&b.ifindex)))
    }

    /// Renews which interface has which hardware address, here and for the hooks.
    fn tell_macs(&mut self, of_the_node: &HashSet<Mac>) {
        self.mac_of = renewed(&self.mac_of, &self.bindings, of_the_node);
        let Some(macs) = &self.macs else { return };
        let unchecked = macs.replace(&self.mac_of);
        if !unchecked.is_empty() {
            tracing::warn!(ifindexes = ?unchecked, "no room for these pods' hardware addresses: \
                they are not checked, and every packet takes the long way through its hook");
        }
    }

    /// Asks control again which addresses are pods', if what it says may have changed. To be
    /// called before anybody is told that a change is enforced.
    ///
    /// # Errors
    /// When a worker hangs.
    pub fn ask_again(&mut self) -> Result<(), WorkerHangs> {
        if self.asked_at != self.node.said_at() {
            self.weigh_claims()?;
            self.write_records();
        }
        Ok(())
    }

    fn weigh_claims(&mut self) -> Result<(), WorkerHangs> {
        let asked_at = self.node.said_at();
        let unsettled = Cell::new(false);
        let said = |address: IpAddr| {
            let said = self.node.said(Address::from(address));
            unsettled.set(unsettled.get() || said == Said::Nothing);
            said
        };
        let standings =
            self.claims.weigh(&self.bindings, &self.node_addresses, said, Instant::now());
        let is_new = standings != self.standings || self.told != self.bindings;
        let before = self.told.iter().zip(&self.standings);
        let before: HashMap<u32, &Standing> = before.map(|(b, s)| (b.ifindex, s)).collect();
        for (binding, standing) in self.bindings.iter().zip(&standings) {
            if before.get(&binding.ifindex) != Some(&standing) {
                tell_of_claims(binding, standing);
            }
        }
        self.standings = standings;
        if is_new {
            self.told.clear();
            self.tell_workers()?;
            self.told.clone_from(&self.bindings);
        }
        // An address that was being changed is asked for again.
        self.asked_at = asked_at.filter(|_| !unsettled.get());
        Ok(())
    }

    fn tell_workers(&mut self) -> Result<(), WorkerHangs> {
        let mut builder = EndpointsBuilder::new();
        let as_addresses = |all: &[IpAddr]| all.iter().map(|a| Address::from(*a)).collect();
        for (binding, standing) in self.bindings.iter().zip(&self.standings) {
            builder.add(Endpoint {
                ifindex: binding.ifindex,
                addresses: as_addresses(&standing.effective),
                void: as_addresses(&standing.void),
                quarantined: !standing.stolen.is_empty(),
                name: binding.netns.clone(),
            });
        }
        let (endpoints, conflicts) = builder.build();
        for conflict in conflicts {
            tracing::error!(%conflict, "conflicting pod interfaces");
        }
        let owned: Vec<(u32, IpAddr)> = self
            .bindings
            .iter()
            .zip(&self.standings)
            .filter(|(_, standing)| standing.stolen.is_empty())
            .flat_map(|(b, standing)| standing.believed.iter().map(|a| (b.ifindex, *a)))
            .collect();
        self.node.set_endpoints(Arc::new(endpoints))?;
        if let Err(error) = self.steering.set_pod_addresses(&owned) {
            tracing::error!(%error, "some pods' addresses are unknown to the hooks: cut off");
        }
        Ok(())
    }

    fn attach_all(&mut self) {
        if !self.enforcing {
            return;
        }
        for binding in &self.bindings {
            if self.attached.contains(&binding.ifindex) {
                continue;
            }
            let both = [Hook::ToPod, Hook::FromPod].iter().try_for_each(|h| {
                self.steering.attach(*h, &binding.device, binding.ifindex, self.mode)
            });
            match both {
                Ok(()) => {
                    self.attached.insert(binding.ifindex);
                }
                Err(error @ SteerError::Attach { .. }) => {
                    tracing::error!(
                        device = binding.device, netns = binding.netns, %error,
                        "this pod is NOT enforced yet; trying again"
                    );
                }
                Err(error) => tracing::error!(%error, "this pod is NOT enforced"),
            }
        }
    }

    fn write_records(&self) {
        let records: Vec<EndpointRecord<'_>> = self
            .bindings
            .iter()
            .zip(&self.standings)
            .map(|(b, standing)| EndpointRecord {
                ifindex: b.ifindex,
                device: &b.device,
                netns: &b.netns,
                addresses: &b.addresses,
                came_with: self.claims.came_with(b.ifindex),
                settled: self.claims.settled(b.ifindex),
                ignored: &standing.added,
                quarantined: !standing.stolen.is_empty(),
                attached: self.attached.contains(&b.ifindex),
            })
            .collect();
        let written: io::Result<()> = serde_json::to_vec(&records)
            .map_err(io::Error::from)
            .and_then(|json| state::replace(&self.run_dir.join(state::ENDPOINTS), &json));
        if let Err(error) = written {
            tracing::warn!(%error, "cannot write {}; `weir status` shows old pods", state::ENDPOINTS);
        }
    }
}

/// Says what a pod claims that is not its own.
fn tell_of_claims(binding: &Binding, standing: &Standing) {
    let Binding { device, netns, .. } = binding;
    for (address, holder) in &standing.stolen {
        match holder {
            Holder::Node => tracing::error!(
                %address, device, netns,
                "this pod claims an address of the node's own; it is quarantined"
            ),
            Holder::Pod(holder) => tracing::error!(
                %address, device, netns, holder,
                "this pod claims an address that another pod has; it is quarantined"
            ),
        }
    }
    for address in &standing.added {
        tracing::warn!(
            %address, device, netns,
            "this pod has an address that it did not come with; it has no effect, and the \
             pod's packets under it are dropped"
        );
    }
}

/// The hardware address of each interface after a scan. What an interface has when it is
/// first seen comes from its CNI plugin and is believed; so is a change, unless the address is
/// another pod's or the node's.
fn renewed(
    before: &BTreeMap<u32, Mac>,
    bindings: &[Binding],
    of_the_node: &HashSet<Mac>,
) -> BTreeMap<u32, Mac> {
    let mut after: BTreeMap<u32, Mac> = BTreeMap::new();
    for binding in bindings {
        let known = before.get(&binding.ifindex).copied();
        let Some(mac) = binding.mac.or(known) else { continue };
        let of_another = || {
            let has_it = |(&ifindex, &m): (&u32, &Mac)| ifindex != binding.ifindex && m == mac;
            of_the_node.contains(&mac) || before.iter().chain(&after).any(has_it)
        };
        let believed = match known {
            Some(known) if known != mac && of_another() => {
                tracing::error!(
                    device = binding.device, netns = binding.netns, mac = ?mac,
                    "this pod has taken a hardware address that another pod or the node has; \
                     its frames under it are dropped"
                );
                known
            }
            Some(known) if known != mac => {
                tracing::warn!(
                    device = binding.device, netns = binding.netns, was = ?known, now = ?mac,
                    "this pod has changed its hardware address"
                );
                mac
            }
            Some(_) | None => mac,
        };
        after.insert(binding.ifindex, believed);
    }
    after
}

/// The part of an [`EndpointRecord`] that says what is whose.
#[derive(Deserialize)]
struct Held {
    ifindex: u32,
    #[serde(default)]
    came_with: Vec<IpAddr>,
    settled: Vec<IpAddr>,
}

/// What was whose when the last daemon wrote its endpoints; nothing, if there is no such file
/// or it is not readable.
fn claims_before(run_dir: &Path) -> Claims {
    let json = std::fs::read(run_dir.join(state::ENDPOINTS)).unwrap_or_default();
    let records: Vec<Held> = serde_json::from_slice(&json).unwrap_or_default();
    Claims::resumed(records.into_iter().map(|held| (held.ifindex, held.came_with, held.settled)))
}

#[cfg(test)]
mod tests;
