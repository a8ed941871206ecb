//! From what discovery found to what workers and hooks know: which interface is a pod's,
//! which addresses are its own, and that Weir's programs are on it.
//!
//! Rules
//! - Nothing is attached before the first policy table is in force: pods that run when
//!   Weir arrives are adopted without a gap. From then on a new interface gets its hooks
//!   at once, and drops everything until its addresses are known to the policy table.
//! - An address is a pod's to others once control has settled the CNI plugin's word of it, or, of
//!   an interface without a word, has named it, and only the one that it came
//!   with ([`crate::claims`]). A pod that takes the address of another pod of this node, or of
//!   the node, is quarantined and named; what else it gives itself has no effect.
//! - A frame of a pod carries the hardware address of the pod's own interface. A pod that
//!   changes it is believed, with a warning, unless another pod or the node has it: then its
//!   frames under it are dropped. One whose address is not known is not checked.
//! - An interface of which there is a word has its hooks at once, even before the first policy
//!   table: it is new, so there is nothing to adopt.
//! - Hooks leave a device only when the device is gone from the node. A pod that hides
//!   its interface, or a namespace that cannot be read, keeps them: what a worker does
//!   not know, it drops.

mod hardware;
mod records;
mod spoken;
mod tally;

pub use records::EndpointRecord;
pub use spoken::{Admission, Arrival};
pub use tally::Tally;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use hardware::renewed;
use weir_table::addr::Address;
use weir_table::mem::SharedWords;
use weir_table::publish::NotEnforced;

use crate::claims::{Claims, Holder, Said, Standing};
use crate::discover::{Binding, Scan};
use crate::endpoints::{Endpoint, EndpointsBuilder};
use crate::netlink::has_device;
use crate::node::{Node, WorkerHangs};
use crate::placements::Bells;
use crate::steer::abi::Config;
use crate::steer::attach::{AttachMode, Hook};
use crate::steer::macs::{Mac, Macs};
use crate::steer::{SteerError, Steering};
use crate::words::Words;

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
    /// The node's own addresses of which workers have been told.
    told_of_node: Vec<IpAddr>,
    /// When control was asked about them ([`Node::said_at`]).
    asked_at: Option<u64>,
    /// The hooks' map of hardware addresses; `None` if it is not to be had.
    macs: Option<Macs<SharedWords>>,
    /// The hardware address of each pod interface.
    mac_of: BTreeMap<u32, Mac>,
    attached: HashSet<u32>,
    /// Why hooks could not be attached, when it was last tried.
    unattached: BTreeMap<u32, String>,
    /// Some namespace could not be read by the last scan.
    unreadable: bool,
    enforcing: bool,
    /// What the CNI plugin says.
    words: Words,
    /// Some interface is looked at again when the time for its word is over.
    waiting_for_words: bool,
    /// What others have to be told of these interfaces.
    troubles: BTreeMap<u32, NotEnforced>,
    /// Rung when words or troubles have changed.
    bells: Arc<Bells>,
    /// Whether a publisher is connected.
    controlled: bool,
    /// Why the list of endpoints could not be written, when it was last tried.
    unrecorded: Option<String>,
    /// Why workers do not know what is here, when they were last told.
    untold: Option<String>,
}

/// How the CNI plugin is dealt with.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// Every interface that comes needs a word.
    pub required: bool,
    /// Who is told that words have changed.
    pub bells: Arc<Bells>,
}

impl Pods {
    /// No pods yet, nothing attached. Who held which address before a restart is read
    /// from the run directory: else the lowest interface index would win afterwards.
    pub fn new(
        steering: Steering,
        config: Arc<Config>,
        node: Arc<Node>,
        (mode, offload): (AttachMode, bool),
        (run_dir, plugin): (&Path, Plugin),
        max_mtu: u32,
    ) -> Self {
        let records::Before { claims, words, bindings } = records::before(run_dir, plugin.required);
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
            bindings,
            node_addresses: Vec::new(),
            claims,
            standings: Vec::new(),
            told: Vec::new(),
            told_of_node: Vec::new(),
            asked_at: None,
            attached: HashSet::new(),
            unattached: BTreeMap::new(),
            unreadable: false,
            enforcing: false,
            words,
            waiting_for_words: false,
            troubles: BTreeMap::new(),
            bells: plugin.bells,
            controlled: false,
            unrecorded: None,
            untold: None,
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
        // What the CNI plugin has said since the scan began it need not have seen.
        let later = |since: Option<Instant>| since.is_some_and(|since| since >= scan.began);
        let fresh = self.words.iter().filter(|(_, word)| later(word.since)).map(|(i, _)| i);
        scan.devices.extend(fresh.collect::<Vec<_>>());
        self.confirm(&mut scan.devices);
        for ifindex in self.attached.extract_if(|i| !scan.devices.contains(i)) {
            self.steering.forget(ifindex);
        }
        self.claims.retain_devices(&scan.devices);
        self.forget_words_of_others(&scan.devices);
        // What could not be read this time is as it was; so is what was said of it.
        let seen: HashSet<u32> = scan.bindings.iter().map(|b| b.ifindex).collect();
        let is_known =
            |b: &Binding| scan.unreadable.contains(&b.netns) || self.words.of(b.ifindex).is_some();
        let as_before = self
            .bindings
            .iter()
            .filter(|b| is_known(b) && scan.devices.contains(&b.ifindex))
            .filter(|b| !seen.contains(&b.ifindex));
        scan.bindings.extend(as_before.cloned().collect::<Vec<_>>());
        scan.bindings.sort_by_key(|b| b.ifindex);
        self.unreadable = !scan.unreadable.is_empty();
        let bindings_changed = scan.bindings != self.bindings;
        if bindings_changed {
            self.tell_of_changes(&scan);
            self.bindings = scan.bindings;
            self.tell_macs(&scan.node_macs);
        }
        if node_changed || self.waiting_for_words || self.told != self.bindings {
            self.weigh_claims()?;
        }
        self.attach_all();
        self.write_records();
        self.renew_troubles();
        Ok(())
    }

    /// Adds devices of which something stands here, and that are there although a dump lacks them:
    /// to take one for gone detaches its hooks and forgets whose it is.
    fn confirm(&self, devices: &mut HashSet<u32>) {
        let known = self.attached.iter().copied().chain(self.words.iter().map(|(i, _)| i));
        let lacking: HashSet<u32> = known.filter(|i| !devices.contains(i)).collect();
        devices.extend(lacking.into_iter().filter(|i| has_device(*i)));
    }

    fn tell_of_changes(&self, scan: &Scan) {
        let seen: HashSet<u32> = scan.bindings.iter().map(|b| b.ifindex).collect();
        let before: HashMap<u32, &Binding> = self.bindings.iter().map(|b| (b.ifindex, b)).collect();
        for old in &self.bindings {
            if !seen.contains(&old.ifindex) {
                let hidden = scan.devices.contains(&old.ifindex);
                tracing::info!(
                    device = old.device,
                    netns = old.netns,
                    hidden,
                    "pod interface gone"
                );
            }
        }
        for new in scan.bindings.iter().filter(|b| before.get(&b.ifindex) != Some(b)) {
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
            self.renew_troubles();
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

    /// True while some interface has no address yet, or no word that is due, so that another scan
    /// is due soon.
    pub fn incomplete(&self) -> bool {
        let is_bare = |b: &Binding| b.addresses.is_empty() && self.words.of(b.ifindex).is_none();
        self.bindings.iter().any(is_bare)
            || self.waiting_for_words
            || self.untold.is_some()
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
        // In a large cluster most of what changes concerns no pod of this node.
        if self.asked_at != self.node.said_at() && self.weigh_claims()? {
            self.write_records();
            self.renew_troubles();
        }
        Ok(())
    }

    /// Weighs all claims anew, and tells workers and hooks if that changes anything; whether it does.
    fn weigh_claims(&mut self) -> Result<bool, WorkerHangs> {
        let asked_at = self.node.said_at();
        let unsettled = Cell::new(false);
        let said = |address: IpAddr| {
            let said = self.node.said(Address::from(address));
            unsettled.set(unsettled.get() || said == Said::Nothing);
            said
        };
        let now = Instant::now();
        let standings =
            self.claims.weigh(&self.bindings, &self.words, &self.node_addresses, said, now);
        self.waiting_for_words = self.claims.wait_for_words(&self.words, now);
        let is_new = standings != self.standings
            || self.told != self.bindings
            || self.told_of_node != self.node_addresses;
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
            let told = self.tell_workers();
            self.untold = told.as_ref().err().map(ToString::to_string);
            told?;
            self.told.clone_from(&self.bindings);
            self.told_of_node.clone_from(&self.node_addresses);
        }
        // An address that was being changed is asked for again.
        self.asked_at = asked_at.filter(|_| !unsettled.get());
        Ok(is_new)
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
        builder.set_node_addresses(self.node_addresses.iter().map(|a| Address::from(*a)));
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
        let due: Vec<(u32, String, String)> = self
            .bindings
            .iter()
            .filter(|b| self.enforcing || self.words.of(b.ifindex).is_some())
            .filter(|b| !self.attached.contains(&b.ifindex))
            .map(|b| (b.ifindex, b.device.clone(), b.netns.clone()))
            .collect();
        for (ifindex, device, netns) in due {
            if let Err(error) = self.attach(ifindex, &device) {
                tracing::error!(
                    device, netns, %error, "this pod is NOT enforced yet; trying again"
                );
            }
        }
        let Self { unattached, bindings, .. } = self;
        unattached.retain(|ifindex, _| bindings.iter().any(|b| b.ifindex == *ifindex));
    }

    /// Puts both hooks on a device.
    fn attach(&mut self, ifindex: u32, device: &str) -> Result<(), SteerError> {
        let both = [Hook::ToPod, Hook::FromPod]
            .iter()
            .try_for_each(|hook| self.steering.attach(*hook, device, ifindex, self.mode));
        match &both {
            Ok(()) => {
                self.attached.insert(ifindex);
                self.unattached.remove(&ifindex);
            }
            Err(error) => drop(self.unattached.insert(ifindex, error.to_string())),
        }
        both
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

#[cfg(test)]
mod tests;
