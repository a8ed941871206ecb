//! Whose address is whose: what pods claim, what the CNI plugin says, and what of it counts.
//!
//! A pod with NET_ADMIN can give its interface any address. If that alone made the address the
//! pod's, it could cut the node's other pods off from whoever has it, be it a gateway, the
//! cluster's DNS or a server beyond the node, or borrow another pod's identity. So an address
//! counts for others only if the CNI plugin has said that it is the pod's, and control that this
//! pod's policy is in force for it ([`crate::words`]). Of an interface without a word it counts
//! only if control names it as a pod's, and it is the one with which the interface came.
//!
//! ```text
//!  the node has it as well ─────────────────────────> stolen: the pod is quarantined
//!  another pod has it ──────────────────────────────> stolen: the pod is quarantined
//!  of the interface's word ─┬ placed ───────────────> the interface's, as long as the word stands
//!                           └ not (yet) ────────────> believed on its own link only
//!  beside its word ─────────────────────────────────> no effect
//!  its word was withdrawn, or must come ────────────> no effect
//!  no word:
//!    came with the interface ┬ control names it ────> settled: the interface's for good
//!                            └ not yet ─────────────> believed on its own link only
//!    any other ─────────────────────────────────────> no effect
//! ```
//!
//! An interface without a word comes with what it has when it is first seen with an address of a
//! family; of a family that it lacked, with nothing, once it has settled for one of the other
//! family and [`COMES_WITHIN`] is over. Else a pod without IPv6 could choose any address of it,
//! for ever. Once the plugin has spoken on this node, its word on a new interface is waited for
//! as long; with `--cni required` without end, but for interfaces that were there before the
//! first daemon.
//!
//! Invariants
//! - An interface without a word has at most one settled address of a family, and keeps it until
//!   its device is gone: Kubernetes gives a pod one address of each family, for its life.
//! - An interface of which there was a word has exactly the addresses of its word, and none once
//!   it is withdrawn.
//! - What has no effect is nobody's: to others it stays what it was without the claim.
//!
//! What remains: who starts without a word, with another node's pod's address beside its own or
//! in its place, and before control has named its own, is believed.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::discover::Binding;
use crate::words::{Word, Words};

/// Time within which a CNI plugin has given an interface all addresses, and has spoken of it. It
/// does so between two netlink requests; the rest is for a machine that is busy.
pub const COMES_WITHIN: Duration = Duration::from_secs(5);

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
    /// The pod's own on its link and towards the node: the effective ones, those of its word,
    /// and while it has neither of a family, what it came with.
    pub believed: Vec<IpAddr>,
    /// Without effect on others: packets under them drop at the pod's hooks.
    pub void: Vec<IpAddr>,
    /// Of these, what it claims beside the address that it has: no fresh pod's.
    pub added: Vec<IpAddr>,
    /// What others have.
    pub stolen: Vec<(IpAddr, Holder)>,
    /// It has no word and must have one: nothing counts.
    pub wordless: bool,
}

/// Whether a word is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// No: what the interface came with counts.
    Over,
    /// For some time.
    Soon,
    /// Nothing else will do.
    Ever,
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
    /// There was a word of it: nothing else counts from then on.
    worded: bool,
    /// It was there before the first daemon.
    adopted: bool,
}

impl Interface {
    fn is_settled(&self, like: &IpAddr) -> bool {
        self.settled.iter().any(|a| a.is_ipv4() == like.is_ipv4())
    }

    fn is_older_than(&self, age: Duration, now: Instant) -> bool {
        self.since.is_none_or(|since| now.saturating_duration_since(since) > age)
    }

    /// True if what it has now of a family that it lacked is none of what it came with.
    fn is_complete(&self, now: Instant) -> bool {
        !self.settled.is_empty() && self.is_older_than(COMES_WITHIN, now)
    }

    fn may_hold(&self, address: &IpAddr) -> bool {
        self.settled.contains(address) || !self.is_settled(address) && self.first.contains(address)
    }
}

/// What an earlier daemon left of an interface.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// What it came with.
    pub came_with: Vec<IpAddr>,
    /// What of that is settled.
    pub settled: Vec<IpAddr>,
    /// Whether there was a word of it.
    pub worded: bool,
    /// Whether it was there before the first daemon.
    pub adopted: bool,
}

/// The claims of all pods of this node.
#[derive(Debug, Default)]
pub struct Claims {
    interfaces: BTreeMap<u32, Interface>,
    holders: HashMap<IpAddr, u32>,
    /// Interfaces that come now need a word.
    required: bool,
    /// Interfaces have been seen, by this daemon or an earlier one: those that come now are new.
    begun: bool,
}

impl Claims {
    /// Claims of a first daemon. With `required`, every interface that comes later needs a word.
    pub fn new(required: bool) -> Self {
        Self { required, ..Self::default() }
    }

    /// Claims as an earlier daemon left them.
    pub fn resumed(required: bool, held: impl IntoIterator<Item = (u32, Held)>) -> Self {
        let mut claims = Self { required, begun: true, ..Self::default() };
        for (ifindex, held) in held {
            let Held { came_with: first, settled, worded, adopted } = held;
            claims.holders.extend(settled.iter().map(|address| (*address, ifindex)));
            let interface = Interface { first, settled, since: None, worded, adopted };
            claims.interfaces.insert(ifindex, interface);
        }
        claims
    }

    /// Forgets interfaces whose device is gone. One that is merely hidden keeps its past.
    pub fn retain_devices(&mut self, devices: &HashSet<u32>) {
        self.interfaces.retain(|ifindex, _| devices.contains(ifindex));
    }

    /// What is to be kept of an interface for a restart.
    pub fn held(&self, ifindex: u32) -> Held {
        let interface = self.interfaces.get(&ifindex).cloned().unwrap_or_default();
        let Interface { first, settled, worded, adopted, .. } = interface;
        Held { came_with: first, settled, worded, adopted }
    }

    /// Who has an address, so that another interface cannot be given it: a word's, or one that
    /// control has named.
    pub fn holder(&self, address: &IpAddr, words: &Words) -> Option<u32> {
        let holder = *self.holders.get(address)?;
        let named = self.interfaces.get(&holder)?.settled.contains(address);
        (named || words.of(holder).is_some()).then_some(holder)
    }

    /// True while some interface is to be looked at again when the time for its word is over.
    pub fn wait_for_words(&self, words: &Words, now: Instant) -> bool {
        let waits = |(ifindex, interface): (&u32, &Interface)| {
            words.of(*ifindex).is_none()
                && !interface.worded
                && self.wait(interface, words, now) != Wait::Over
                && !interface.is_older_than(COMES_WITHIN, now)
        };
        self.interfaces.iter().any(waits)
    }

    /// Whether an interface has been without its word for too long.
    pub fn misses_its_word(&self, ifindex: u32, words: &Words, now: Instant) -> bool {
        self.interfaces.get(&ifindex).is_some_and(|interface| {
            words.of(ifindex).is_none()
                && !interface.worded
                && self.wait(interface, words, now) == Wait::Ever
                && interface.is_older_than(COMES_WITHIN, now)
        })
    }

    fn wait(&self, interface: &Interface, words: &Words, now: Instant) -> Wait {
        if interface.worded || self.required && !interface.adopted {
            Wait::Ever
        } else if interface.adopted
            || !interface.settled.is_empty()
            || !words.have_come()
            || interface.is_older_than(COMES_WITHIN, now)
        {
            Wait::Over
        } else {
            Wait::Soon
        }
    }

    /// Weighs all claims anew; one standing for each binding, in their order.
    pub fn weigh(
        &mut self,
        bindings: &[Binding],
        words: &Words,
        node: &[IpAddr],
        said: impl Fn(IpAddr) -> Said,
        now: Instant,
    ) -> Vec<Standing> {
        let node: HashSet<IpAddr> = node.iter().copied().collect();
        for binding in bindings {
            self.note_first(binding, &node, now);
        }
        self.begun = true;
        for (ifindex, _) in words.iter() {
            if let Some(interface) = self.interfaces.get_mut(&ifindex) {
                interface.worded = true;
            }
        }
        self.renew_holders(bindings, words, &node, now);
        for binding in bindings {
            let word = words.of(binding.ifindex);
            let Some(interface) = self.interfaces.get_mut(&binding.ifindex) else { continue };
            // With a pod's word it is not for the address to say whose it is.
            if word.is_some_and(|word| word.pod.is_some()) {
                continue;
            }
            for address in word.map_or(&binding.addresses, |word| &word.addresses) {
                let holds = self.holders.get(address) == Some(&binding.ifindex);
                let room = word.is_some() || !interface.is_settled(address);
                if holds && room && said(*address) == Said::APods {
                    interface.settled.retain(|settled| settled != address);
                    interface.settled.push(*address);
                }
            }
        }
        // Who has settled for one gives up what else it came with.
        self.renew_holders(bindings, words, &node, now);
        bindings
            .iter()
            .map(|binding| match words.of(binding.ifindex) {
                Some(word) => self.spoken_standing(binding, word, &node, &said),
                None => self.standing(binding, words, &node, &said, now),
            })
            .collect()
    }

    fn note_first(&mut self, binding: &Binding, node: &HashSet<IpAddr>, now: Instant) {
        let adopted = !self.begun;
        let seen_now = || Interface { since: Some(now), adopted, ..Interface::default() };
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

    /// Whoever lost an address frees it; words take theirs from whom control has not named as
    /// their owner; then whoever may hold one that is free takes it.
    fn renew_holders(
        &mut self,
        bindings: &[Binding],
        words: &Words,
        node: &HashSet<IpAddr>,
        now: Instant,
    ) {
        let by_device: HashMap<u32, &Binding> = bindings.iter().map(|b| (b.ifindex, b)).collect();
        let mut holders = std::mem::take(&mut self.holders);
        let may_hold = |ifindex: u32, address: &IpAddr| {
            if node.contains(address) {
                return false;
            }
            match words.of(ifindex) {
                Some(word) => word.addresses.contains(address),
                None => self.interfaces.get(&ifindex).is_some_and(|interface| {
                    self.wait(interface, words, now) == Wait::Over && interface.may_hold(address)
                }),
            }
        };
        let has = |ifindex: u32, address: &IpAddr| {
            let binding = by_device.get(&ifindex);
            binding.is_some_and(|b| words.of(ifindex).is_some() || b.addresses.contains(address))
        };
        let named = |ifindex: u32, address: &IpAddr| {
            self.interfaces.get(&ifindex).is_some_and(|i| i.settled.contains(address))
        };
        holders.retain(|address, ifindex| has(*ifindex, address) && may_hold(*ifindex, address));
        for (ifindex, word) in words.iter().filter(|(i, _)| by_device.contains_key(i)) {
            for address in word.addresses.iter().filter(|a| may_hold(ifindex, a)) {
                let holder = holders.entry(*address).or_insert(ifindex);
                if words.of(*holder).is_none() && !named(*holder, address) {
                    *holder = ifindex;
                }
            }
        }
        for binding in bindings.iter().filter(|b| words.of(b.ifindex).is_none()) {
            for address in binding.addresses.iter().filter(|a| may_hold(binding.ifindex, a)) {
                holders.entry(*address).or_insert(binding.ifindex);
            }
        }
        self.holders = holders;
    }

    /// Who else has an address.
    fn other_holder(
        &self,
        ifindex: u32,
        address: &IpAddr,
        node: &HashSet<IpAddr>,
    ) -> Option<Holder> {
        if node.contains(address) {
            return Some(Holder::Node);
        }
        self.holders.get(address).filter(|other| **other != ifindex).map(|i| Holder::Pod(*i))
    }

    /// The standing of an interface of which there is a word.
    fn spoken_standing(
        &self,
        binding: &Binding,
        word: &Word,
        node: &HashSet<IpAddr>,
        said: impl Fn(IpAddr) -> Said,
    ) -> Standing {
        let mut standing = Standing::default();
        let settled = self.interfaces.get(&binding.ifindex).map_or(&[][..], |i| &i.settled);
        for &address in &word.addresses {
            if let Some(holder) = self.other_holder(binding.ifindex, &address, node) {
                standing.stolen.push((address, holder));
                continue;
            }
            standing.believed.push(address);
            let counts = match &word.pod {
                Some(_) => word.is_placed(),
                None => settled.contains(&address),
            };
            // A pod that has finished is still there, but no pod to others.
            if counts && said(address) != Said::NoPods {
                standing.effective.push(address);
            } else {
                standing.void.push(address);
            }
        }
        for &address in binding.addresses.iter().filter(|a| !word.addresses.contains(a)) {
            match self.other_holder(binding.ifindex, &address, node) {
                Some(holder) => standing.stolen.push((address, holder)),
                None => {
                    standing.void.push(address);
                    standing.added.push(address);
                }
            }
        }
        standing
    }

    /// The standing of an interface without a word.
    fn standing(
        &self,
        binding: &Binding,
        words: &Words,
        node: &HashSet<IpAddr>,
        said: impl Fn(IpAddr) -> Said,
        now: Instant,
    ) -> Standing {
        let mut standing = Standing::default();
        let Some(interface) = self.interfaces.get(&binding.ifindex) else { return standing };
        let wait = self.wait(interface, words, now);
        if wait == Wait::Ever {
            standing.void.clone_from(&binding.addresses);
            standing.wordless = true;
            return standing;
        }
        for &address in &binding.addresses {
            let holds = self.holders.get(&address) == Some(&binding.ifindex);
            if let Some(holder) = self.other_holder(binding.ifindex, &address, node) {
                standing.stolen.push((address, holder));
            } else if !holds && wait == Wait::Over {
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
                let mut of_family = standing.believed.iter();
                if interface.first.contains(&address)
                    && !of_family.any(|a| a.is_ipv4() == address.is_ipv4())
                {
                    standing.believed.push(address);
                }
                standing.void.push(address);
            }
        }
        standing
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod word_tests;
