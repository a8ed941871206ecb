//! Policies that allow a Service's own address and none of its backends.
//!
//! The API leaves open on which side of the address translation policies act (concept page "Network
//! Policies", on ipBlock). Weir judges a connection to a Service on the backends; an engine that
//! sees the packet before its translation judges the Service's address. Policies that were written
//! for such a one name that address in an ipBlock, which here opens nothing: this says where.

use std::collections::{BTreeMap, BTreeSet};

use weir_table::Address;
use weir_table::policy::{ClassId, ProgramId};

use super::services::Backend;
use super::world::{PodSet, World, counted, some_of};
use super::{Finding, Severity};
use crate::model::{Direction, ObjectKey, Origin, Peer, Protocol, Service, ServicePort};

/// A Service's addresses and ports that clients do not reach, though a block names the address.
type Unreached = BTreeMap<ObjectKey, BTreeSet<(Address, Protocol, u16)>>;

/// What has been found so far.
pub(super) struct Addresses {
    /// Egress programs that restrict, by family (IPv4 first), with their pods.
    clients: [Vec<(ProgramId, PodSet)>; 2],
    /// Addresses that some egress rule allows by a block of their own.
    allowed: BTreeSet<Address>,
    /// By the client's egress program.
    found: BTreeMap<ProgramId, (PodSet, Unreached)>,
}

impl Addresses {
    pub(super) fn new(world: &World<'_>) -> Self {
        let clients = [0, 1].map(|family: usize| {
            let mut programs: BTreeMap<ProgramId, PodSet> = BTreeMap::new();
            for (class, members) in world.members[family].iter().enumerate() {
                let class = ClassId(u32::try_from(class).unwrap_or(u32::MAX));
                let Some((_, egress)) = world.table().programs(class) else { continue };
                if egress != ProgramId::UNRESTRICTED && !members.is_empty() {
                    programs.entry(egress).or_default().add(&members.iter().copied().collect());
                }
            }
            programs.into_iter().collect()
        });
        let rules = world.index.policies().flat_map(|policy| policy.rules(Direction::Egress));
        let blocks = rules.flat_map(|rule| &rule.peers).filter_map(|peer| match &peer.peer {
            Peer::IpBlock { cidr, .. } if cidr.prefix_len() == cidr.max_prefix_len() => {
                Some(Address::from(cidr.addr()))
            }
            _ => None,
        });
        let allowed = blocks.collect();
        Self { clients, allowed, found: BTreeMap::new() }
    }

    /// Looks at one port of a Service; `None` if that takes more verdicts than are left.
    pub(super) fn look(
        &mut self,
        world: &World<'_>,
        service: &Service,
        port: &ServicePort,
        backends: &[Backend],
        left: &mut usize,
    ) -> Option<()> {
        let protocol = port.protocol.number();
        for address in service.cluster_ips.iter().map(|address| Address::from(*address)) {
            let kinds: BTreeSet<(ClassId, u16)> = backends
                .iter()
                .filter(|backend| backend.address.is_v4() == address.is_v4())
                .map(|backend| (world.class_of(backend.address), backend.port))
                .collect();
            let clients = &self.clients[usize::from(!address.is_v4())];
            if kinds.is_empty() || !self.allowed.contains(&address) {
                continue;
            }
            *left = left.checked_sub(clients.len() * (kinds.len() + 1))?;
            let own = world.class_of(address);
            for (program, pods) in clients {
                let passes = |(class, port): (ClassId, u16)| {
                    world.table().judge(*program, class, protocol, port).is_allow()
                };
                if !passes((own, port.port)) || kinds.iter().copied().any(passes) {
                    continue;
                }
                let (who, unreached) = self.found.entry(*program).or_default();
                who.add(pods);
                unreached.entry(service.key.clone()).or_default().insert((
                    address,
                    port.protocol,
                    port.port,
                ));
            }
        }
        Some(())
    }

    /// One finding for each set of egress policies.
    pub(super) fn report(self, world: &World<'_>, findings: &mut Vec<Finding>) {
        let mut by_policies: BTreeMap<Vec<&str>, (PodSet, Unreached)> = BTreeMap::new();
        for (program, (pods, unreached)) in self.found {
            let (who, all) = by_policies.entry(world.isolating(program)).or_default();
            who.add(&pods);
            for (service, addresses) in unreached {
                all.entry(service).or_default().extend(addresses);
            }
        }
        for (policies, (pods, unreached)) in by_policies {
            let Some(first) = policies.first() else { continue };
            let by = match policies.len() {
                1 => "this policy lets".to_owned(),
                _ => format!("NetworkPolicy {} let", policies.join(", ")),
            };
            let origin = first.split_once('/').and_then(|(namespace, name)| {
                let policy = world.index.policy(&ObjectKey::new(namespace, name))?;
                Some(policy.origin.clone())
            });
            findings.push(Finding {
                severity: Severity::Warning,
                code: "service-address",
                object: format!("NetworkPolicy {first}"),
                field: "spec.egress".to_owned(),
                origin: origin.unwrap_or_else(Origin::memory),
                message: format!(
                    "{by} {} ({}) send to the own address of Service {}, by an ipBlock, and to none of its backends, on which a connection to a Service is judged",
                    counted(pods.len(), "pod"),
                    world.names(pods.iter()),
                    some_of(unreached.keys()),
                ),
                remedy: "select the backends' pods in a rule, with the ports on which they listen"
                    .to_owned(),
            });
        }
    }
}
