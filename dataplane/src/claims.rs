//! Whose address is whose: what pods claim, and what of it counts.
//!
//! A pod with NET_ADMIN can give its interface any address. If that alone made the address the
//! pod's, it could cut the node's other pods off from whoever has it, be it a gateway, the
//! cluster's DNS or a server beyond the node, or borrow another pod's identity. So an address
//! counts for others only if control names it as a pod's, and it is the one with which the
//! interface came from its CNI plugin.
//!
//! ```text
//!  the node has it as well ─────────────────────────> stolen: the pod is quarantined
//!  another pod has it ──────────────────────────────> stolen: the pod is quarantined
//!  came with the interface ─┬ control names it ─────> settled: the interface's for good
//!                           └ not yet ──────────────> believed on its own link only
//!  any other ───────────────────────────────────────> no effect
//! ```
//!
//! An interface comes with what it has when it is first seen with an address of a family; of a
//! family that it lacked, with nothing, once it has settled for one of the other family and
//! [`COMES_WITHIN`] is over. Else a pod without IPv6 could choose any address of it, for ever.
//!
//! Invariants
//! - An interface has at most one settled address of a family, and keeps it until its device is
//!   gone: Kubernetes gives a pod one address of each family, for its life.
//! - What has no effect is nobody's: to others it stays what it was without the claim.
//!
//! What remains: who starts with another node's pod's address, beside its own or in its place,
//! and before control has named its own, is believed. Only the CNI plugin could tell.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::discover::Binding;

/// Time within which a CNI plugin has given an interface all addresses. It does so between two
/// netlink requests; the rest is for a machine that is busy.
const COMES_WITHIN: Duration = Duration::from_secs(5);

/// What control says of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It is a pod's.
    APods,
    /// It is no pod's.
    NoPods,
    /// It is being changed, or nothing was said yet: what was said last counts.
    Nothing,
}

/// Who has an address that a pod claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// The node itself.
    Node,
    /// The pod behind this device.
    Pod(u32),
}

/// What a pod's claims amount to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// The pod's, for everybody.
    pub effective: Vec<IpAddr>,
    /// The pod's own on its link and towards the node: the effective ones, and while it has
    /// none of a family, what it came with.
    pub believed: Vec<IpAddr>,
    /// Without effect on others: packets under them drop at the pod's hooks.
    pub void: Vec<IpAddr>,
    /// Of these, what it claims beside the address that it has: no fresh pod's.
    pub added: Vec<IpAddr>,
    /// What others have.
    pub stolen: Vec<(IpAddr, Holder)>,
}

/// What is remembered of an interface.
#[derive(Debug, Clone, Default)]
struct Interface {
    /// What it came with, and still has.
    first: Vec<IpAddr>,
    /// What of it control has named: one a family.
    settled: Vec<IpAddr>,
    /// When it was first seen; `None` in an earlier daemon's life.
    since: Option<Instant>,
}

impl Interface {
    fn is_settled(&self, like: &IpAddr) -> bool {
        self.settled.iter().any(|a| a.is_ipv4() == like.is_ipv4())
    }

    /// True if what it has now of a family that it lacked is none of what it came with.
    fn is_complete(&self, now: Instant) -> bool {
        let is_old = |since| now.saturating_duration_since(since) > COMES_WITHIN;
        !self.settled.is_empty() && self.since.is_none_or(is_old)
    }

    fn may_hold(&self, address: &IpAddr) -> bool {
        self.settled.contains(address) || !self.is_settled(address) && self.first.contains(address)
    }
}

/// The claims of all pods of this node.
#[derive(Debug, Default)]
pub struct Claims {
    interfaces: BTreeMap<u32, Interface>,
    holders: HashMap<IpAddr, u32>,
}

impl Claims {
    /// Claims as an earlier daemon left them: of each interface what it came with, and what of
    /// that is settled.
    pub fn resumed(held: impl IntoIterator<Item = (u32, Vec<IpAddr>, Vec<IpAddr>)>) -> Self {
        let mut claims = Self::default();
        for (ifindex, first, settled) in held {
            claims.holders.extend(settled.iter().map(|address| (*address, ifindex)));
            claims.interfaces.insert(ifindex, Interface { first, settled, since: None });
        }
        claims
    }

    /// Forgets interfaces whose device is gone. One that is merely hidden keeps its past.
    pub fn retain_devices(&mut self, devices: &HashSet<u32>) {
        self.interfaces.retain(|ifindex, _| devices.contains(ifindex));
    }

    /// What an interface came with, and still has.
    pub fn came_with(&self, ifindex: u32) -> &[IpAddr] {
        self.interfaces.get(&ifindex).map_or(&[], |interface| &interface.first)
    }

    /// The settled addresses of an interface.
    pub fn settled(&self, ifindex: u32) -> &[IpAddr] {
        self.interfaces.get(&ifindex).map_or(&[], |interface| &interface.settled)
    }

    /// Weighs all claims anew; one standing for each binding, in their order.
    pub fn weigh(
        &mut self,
        bindings: &[Binding],
        node: &[IpAddr],
        said: impl Fn(IpAddr) -> Said,
        now: Instant,
    ) -> Vec<Standing> {
        let node: HashSet<IpAddr> = node.iter().copied().collect();
        for binding in bindings {
            self.note_first(binding, &node, now);
        }
        self.renew_holders(bindings, &node);
        for binding in bindings {
            let Some(interface) = self.interfaces.get_mut(&binding.ifindex) else { continue };
            for address in &binding.addresses {
                let holds = self.holders.get(address) == Some(&binding.ifindex);
                if holds && !interface.is_settled(address) && said(*address) == Said::APods {
                    interface.settled.push(*address);
                }
            }
        }
        // Who has settled for one gives up what else it came with.
        self.renew_holders(bindings, &node);
        bindings.iter().map(|binding| self.standing(binding, &node, &said)).collect()
    }

    fn note_first(&mut self, binding: &Binding, node: &HashSet<IpAddr>, now: Instant) {
        let seen_now = || Interface { since: Some(now), ..Interface::default() };
        let interface = self.interfaces.entry(binding.ifindex).or_insert_with(seen_now);
        interface.first.retain(|a| binding.addresses.contains(a));
        if interface.is_complete(now) {
            return;
        }
        for v4 in [true, false] {
            if !interface.first.iter().any(|a| a.is_ipv4() == v4) {
                let of_family = binding.addresses.iter().filter(|a| a.is_ipv4() == v4);
                interface.first.extend(of_family.filter(|a| !node.contains(a)));
            }
        }
    }

    /// Whoever lost an address frees it; whoever may hold one that is free takes it.
    fn renew_holders(&mut self, bindings: &[Binding], node: &HashSet<IpAddr>) {
        let Self { interfaces, holders } = self;
        let may_hold = |ifindex: u32, address: &IpAddr| {
            !node.contains(address) && interfaces.get(&ifindex).is_some_and(|i| i.may_hold(address))
        };
        let has = |ifindex: u32, address: &IpAddr| {
            bindings.iter().any(|b| b.ifindex == ifindex && b.addresses.contains(address))
        };
        holders.retain(|address, ifindex| has(*ifindex, address) && may_hold(*ifindex, address));
        for binding in bindings {
            for address in binding.addresses.iter().filter(|a| may_hold(binding.ifindex, a)) {
                holders.entry(*address).or_insert(binding.ifindex);
            }
        }
    }

    fn standing(
        &self,
        binding: &Binding,
        node: &HashSet<IpAddr>,
        said: impl Fn(IpAddr) -> Said,
    ) -> Standing {
        let mut standing = Standing::default();
        let Some(interface) = self.interfaces.get(&binding.ifindex) else { return standing };
        for &address in &binding.addresses {
            let holder = self.holders.get(&address).copied();
            if node.contains(&address) {
                standing.stolen.push((address, Holder::Node));
            } else if let Some(other) = holder.filter(|holder| *holder != binding.ifindex) {
                standing.stolen.push((address, Holder::Pod(other)));
            } else if holder.is_none() {
                standing.void.push(address);
                standing.added.push(address);
            } else if interface.settled.contains(&address) {
                standing.believed.push(address);
                // A pod that has finished is still there, but no pod to others.
                if said(address) == Said::NoPods {
                    standing.void.push(address);
                } else {
                    standing.effective.push(address);
                }
            } else {
                if !standing.believed.iter().any(|a| a.is_ipv4() == address.is_ipv4()) {
                    standing.believed.push(address);
                }
                standing.void.push(address);
            }
        }
        standing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| ip(text)).collect()
    }

    fn binding(ifindex: u32, addresses: &[&str]) -> Binding {
        Binding {
            ifindex,
            device: format!("veth{ifindex}"),
            mtu: 1500,
            mac: None,
            addresses: ips(addresses),
            netns: String::new(),
        }
    }

    const GATEWAY: &str = "10.0.0.1";
    const EXTERNAL: &str = "8.8.8.8";
    const REMOTE: &str = "10.0.9.9";

    /// A node with pods 7 and 9 and a pod elsewhere, all of them known to control.
    struct World {
        claims: Claims,
        named: Vec<IpAddr>,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            let named = ips(&["10.0.0.7", "fd00::7", "10.0.0.9", "fd00::9", REMOTE]);
            let mut world = Self { claims: Claims::default(), named, now: Instant::now() };
            let [seven, nine] =
                world.weigh([binding(7, &["10.0.0.7", "fd00::7"]), binding(9, &["10.0.0.9"])]);
            assert_eq!(seven.effective, ips(&["10.0.0.7", "fd00::7"]));
            assert_eq!((nine.effective, nine.void.len()), (ips(&["10.0.0.9"]), 0));
            world
        }

        fn restarted(&self) -> Claims {
            let claims = &self.claims;
            let held = |i| (i, claims.came_with(i).to_vec(), claims.settled(i).to_vec());
            Claims::resumed([7, 9, 11].map(held))
        }

        fn weigh<const N: usize>(&mut self, bindings: [Binding; N]) -> [Standing; N] {
            let Self { claims, named, now } = self;
            let said = |a| if named.contains(&a) { Said::APods } else { Said::NoPods };
            claims.weigh(&bindings, &ips(&[GATEWAY]), said, *now).try_into().unwrap()
        }
    }

    #[test]
    fn what_a_pod_adds_has_no_effect_whatever_it_is() {
        for claimed in [EXTERNAL, REMOTE, "10.0.0.77", "255.1.2.3"] {
            let mut world = World::new();
            for addresses in [&["10.0.0.7", claimed][..], &[claimed], &[claimed, "10.0.0.7"]] {
                let [pod] = world.weigh([binding(7, addresses)]);
                let kept = if addresses.len() > 1 { ips(&["10.0.0.7"]) } else { vec![] };
                assert_eq!(pod.effective, kept, "{addresses:?}");
                assert_eq!(pod.believed, kept, "{addresses:?}");
                assert_eq!(pod.added, ips(&[claimed]));
                assert!(pod.stolen.is_empty());
            }
        }
    }

    #[test]
    fn a_family_that_a_pod_lacks_is_closed_once_it_has_settled() {
        let foreign = "fd00:9::9";
        let mut world = World::new();
        world.named.extend(ips(&[foreign, "fd00::9"]));
        // Its plugin may be between two requests.
        let [slow] = world.weigh([binding(9, &["10.0.0.9", "fd00::9"])]);
        assert_eq!(slow.effective, ips(&["10.0.0.9", "fd00::9"]));

        let mut world = World::new();
        world.named.push(ip(foreign));
        world.now += COMES_WITHIN + Duration::from_secs(1);
        let mut after_a_restart = World { claims: world.restarted(), ..World::new() };
        after_a_restart.named.push(ip(foreign));
        for world in [&mut world, &mut after_a_restart] {
            for addresses in [&["10.0.0.9", foreign][..], &[foreign]] {
                let [pod] = world.weigh([binding(9, addresses)]);
                assert_eq!(pod.added, ips(&[foreign]));
                assert!(!pod.effective.contains(&ip(foreign)));
                assert!(!pod.believed.contains(&ip(foreign)));
            }
        }
    }

    /// Control names a pod when it has its own address; what it has added by then, while
    /// the daemon was away, is no more its own than before.
    #[test]
    fn a_restart_does_not_forget_what_an_unnamed_pod_came_with() {
        let mut world = World::new();
        world.weigh([binding(11, &["10.0.0.11"])]);
        let mut world = World { claims: world.restarted(), ..World::new() };
        world.named.push(ip("10.0.0.11"));
        let [pod] = world.weigh([binding(11, &[REMOTE, "10.0.0.11"])]);
        assert_eq!((pod.effective, pod.added), (ips(&["10.0.0.11"]), ips(&[REMOTE])));
    }

    #[test]
    fn the_nodes_own_addresses_and_other_pods_are_stolen() {
        let mut world = World::new();
        for (claimed, holder) in [(GATEWAY, Holder::Node), ("10.0.0.9", Holder::Pod(9))] {
            let [thief, owner] =
                world.weigh([binding(7, &["10.0.0.7", claimed]), binding(9, &["10.0.0.9"])]);
            assert_eq!(thief.stolen, [(ip(claimed), holder)]);
            assert_eq!(owner.effective, ips(&["10.0.0.9"]));
        }
        // Not even one that has nothing else yet.
        let [fresh] = world.weigh([binding(11, &[GATEWAY])]);
        assert_eq!((fresh.believed.len(), fresh.stolen.len()), (0, 1));
    }

    #[test]
    fn a_fresh_pod_is_believed_on_its_link_until_control_names_it() {
        let mut world = World::new();
        let fresh = || binding(11, &["10.0.0.11", EXTERNAL, "fd00::11"]);
        let [pod] = world.weigh([fresh()]);
        assert!(pod.effective.is_empty());
        assert_eq!(pod.believed, ips(&["10.0.0.11", "fd00::11"]));
        assert_eq!(pod.void, fresh().addresses);
        assert!(pod.added.is_empty(), "not worth a warning yet");
        world.named.extend(ips(&["10.0.0.11", "fd00::11"]));
        let [pod] = world.weigh([fresh()]);
        assert_eq!(pod.effective, ips(&["10.0.0.11", "fd00::11"]));
        assert_eq!((pod.void, pod.added), (ips(&[EXTERNAL]), ips(&[EXTERNAL])));
    }

    /// A pod that guesses the next pod's address must not have it before that pod.
    #[test]
    fn an_added_address_does_not_keep_the_next_pod_from_it() {
        let mut world = World::new();
        world.weigh([binding(7, &["10.0.0.7", "10.0.0.11"])]);
        world.named.push(ip("10.0.0.11"));
        let [guesser, next] =
            world.weigh([binding(7, &["10.0.0.7", "10.0.0.11"]), binding(11, &["10.0.0.11"])]);
        assert_eq!(next.effective, ips(&["10.0.0.11"]));
        assert_eq!(guesser.effective, ips(&["10.0.0.7"]));
        assert_eq!(guesser.stolen, [(ip("10.0.0.11"), Holder::Pod(11))]);
    }

    #[test]
    fn what_was_settled_outlives_hiding_a_restart_and_an_unsettled_answer() {
        let mut world = World::new();
        world.weigh([]);
        let [back] = world.weigh([binding(7, &[REMOTE])]);
        assert!(back.effective.is_empty(), "it has had its address");

        let mut resumed = world.restarted();
        let pods = [binding(3, &["10.0.0.7"]), binding(7, &[REMOTE, "10.0.0.7"])];
        let standings = resumed.weigh(&pods, &[], |_| Said::Nothing, world.now);
        assert_eq!(standings[0].stolen, [(ip("10.0.0.7"), Holder::Pod(7))]);
        assert_eq!(standings[1].effective, ips(&["10.0.0.7"]));
        assert_eq!(standings[1].added, ips(&[REMOTE]));

        world.claims.retain_devices(&HashSet::from([9]));
        let [anew] = world.weigh([binding(7, &[REMOTE])]);
        assert_eq!(anew.effective, ips(&[REMOTE]), "another device of the same number");
    }

    #[test]
    fn a_pod_that_has_finished_keeps_its_address_to_itself() {
        let mut world = World::new();
        world.named.retain(|a| *a != ip("10.0.0.9"));
        let [_, finished] = world.weigh([binding(7, &["10.0.0.7"]), binding(9, &["10.0.0.9"])]);
        assert!(finished.effective.is_empty());
        assert_eq!(finished.believed, ips(&["10.0.0.9"]));
        assert_eq!(finished.void, ips(&["10.0.0.9"]));
    }
}
