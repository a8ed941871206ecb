//! From what discovery found to what workers and hooks know: which interface is a pod's,
//! which addresses are its own, and that Weir's programs are on it.
//!
//! Rules
//! - Nothing is attached before the first policy table is in force: pods that run when
//!   Weir arrives are adopted without a gap. From then on a new interface gets its hooks
//!   at once, and drops everything until its addresses are known to the policy table.
//! - An address belongs to the interface that had it first, for as long as it has it. A
//!   pod that takes another's address is quarantined and named; it gains nothing.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use weir_table::addr::Address;

use crate::discover::{Binding, Scan};
use crate::endpoints::{Endpoint, EndpointsBuilder};
use crate::node::Node;
use crate::state;
use crate::steer::attach::{AttachMode, Hook};
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
    /// True if it claims an address that another has.
    pub quarantined: bool,
    /// True if both hooks are on the device.
    pub attached: bool,
}

/// The pods of this node.
pub struct Pods {
    steering: Steering,
    node: Arc<Node>,
    mode: AttachMode,
    run_dir: PathBuf,
    /// Largest pod MTU that the punt pair carries, in bytes.
    max_mtu: u32,
    bindings: Vec<Binding>,
    node_addresses: Vec<IpAddr>,
    holders: HashMap<IpAddr, u32>,
    attached: HashSet<u32>,
    enforcing: bool,
}

impl Pods {
    /// No pods yet, nothing attached.
    pub fn new(
        steering: Steering,
        node: Arc<Node>,
        mode: AttachMode,
        run_dir: &Path,
        max_mtu: u32,
    ) -> Self {
        Self {
            steering,
            node,
            mode,
            run_dir: run_dir.to_owned(),
            max_mtu,
            bindings: Vec::new(),
            node_addresses: Vec::new(),
            holders: HashMap::new(),
            attached: HashSet::new(),
            enforcing: false,
        }
    }

    /// Takes a scan over: workers first, so that no packet reaches a worker that does
    /// not know its interface; then the hooks.
    ///
    /// # Errors
    /// When a worker hangs or a map cannot be written. A device that cannot take its
    /// hooks is logged and tried again with the next scan.
    pub fn apply(&mut self, scan: Scan) -> anyhow::Result<()> {
        if scan.node_addresses != self.node_addresses {
            self.steering.set_node_addresses(&scan.node_addresses)?;
            self.node_addresses = scan.node_addresses;
        }
        if scan.bindings != self.bindings {
            for gone in self.bindings.iter().filter(|old| {
                !scan.bindings.iter().any(|b| b.ifindex == old.ifindex && b.netns == old.netns)
            }) {
                tracing::info!(device = gone.device, netns = gone.netns, "pod interface gone");
                if self.attached.remove(&gone.ifindex) {
                    self.steering.forget(gone.ifindex);
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
                        "packets larger than the limit will be lost on their way to a worker; \
                         restart weir-dataplane so that it sizes its device anew, or lower the MTU"
                    );
                }
            }
            self.bindings = scan.bindings;
            self.claim();
            self.tell_workers()?;
        }
        self.attach_all();
        self.write_records();
        Ok(())
    }

    /// Puts the hooks on every known device, and from now on on every new one at once.
    pub fn start_enforcing(&mut self) {
        if !self.enforcing {
            self.enforcing = true;
            self.attach_all();
            self.write_records();
        }
    }

    /// True while some interface has no address yet, so that another scan is due soon.
    pub fn incomplete(&self) -> bool {
        self.bindings.iter().any(|b| b.addresses.is_empty())
            || (self.enforcing && self.attached.len() < self.bindings.len())
    }

    /// Renews who holds which address: whoever lost one frees it, whoever has one that
    /// is free takes it.
    fn claim(&mut self) {
        let has = |ifindex: u32, address: &IpAddr| {
            self.bindings.iter().any(|b| b.ifindex == ifindex && b.addresses.contains(address))
        };
        self.holders.retain(|address, ifindex| has(*ifindex, address));
        for binding in &self.bindings {
            for address in &binding.addresses {
                self.holders.entry(*address).or_insert(binding.ifindex);
            }
        }
    }

    /// Addresses of others that a pod claims.
    fn stolen<'a>(&'a self, binding: &'a Binding) -> impl Iterator<Item = &'a IpAddr> {
        binding.addresses.iter().filter(|a| self.holders.get(a) != Some(&binding.ifindex))
    }

    fn tell_workers(&self) -> anyhow::Result<()> {
        let mut builder = EndpointsBuilder::new();
        for binding in &self.bindings {
            let stolen: Vec<&IpAddr> = self.stolen(binding).collect();
            for address in &stolen {
                tracing::error!(
                    %address, device = binding.device, netns = binding.netns,
                    holder = self.holders.get(address),
                    "this pod claims an address that another pod has; it is quarantined"
                );
            }
            builder.add(Endpoint {
                ifindex: binding.ifindex,
                addresses: binding
                    .addresses
                    .iter()
                    .filter(|a| !stolen.contains(a))
                    .map(|a| Address::from(*a))
                    .collect(),
                quarantined: !stolen.is_empty(),
                name: binding.netns.clone(),
            });
        }
        let (endpoints, conflicts) = builder.build();
        for conflict in conflicts {
            tracing::error!(%conflict, "conflicting pod interfaces");
        }
        self.node.set_endpoints(Arc::new(endpoints))?;
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
            .map(|b| EndpointRecord {
                ifindex: b.ifindex,
                device: &b.device,
                netns: &b.netns,
                addresses: &b.addresses,
                quarantined: self.stolen(b).next().is_some(),
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
