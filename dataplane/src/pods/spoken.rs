//! What the CNI plugin says of pods' interfaces, taken in and acted upon.
//!
//! Everything here ends in one change of what workers know, however many interfaces it is about,
//! and is on disk before anybody is told: a daemon that is killed right after is followed by one
//! that knows as much.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Instant;

use weir_table::cni::{AttachmentId, Refusal, WaitingFor};
use weir_table::publish::{Attached, CutOff, NotEnforced, Settled};

use super::Pods;
use crate::claims::Holder;
use crate::discover::{Binding, NodeSide};
use crate::node::WorkerHangs;
use crate::placements::Progress;
use crate::words::{Said, Settlement, Word};

/// What an `add` says, and the interface that the kernel shows.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// What is said.
    pub said: Said,
    /// What is there.
    pub binding: Binding,
}

/// What became of an arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It has this ticket; [`Pods::progress`] tells how far it is.
    Attached(u64),
    /// Another interface has one of its addresses. It may be about to go.
    AddressTaken(String),
    /// It cannot be.
    Refused(Refusal, String),
}

impl Pods {
    /// Takes interfaces in that the CNI plugin has made: hooks on, and held until control settles
    /// them. `node` was looked at after they were said.
    pub fn admit(&mut self, arrivals: Vec<Arrival>, node: &NodeSide) -> Vec<Admission> {
        let mut devices = node.devices();
        self.confirm(&mut devices);
        self.forget_words_of_others(&devices);
        let now = Instant::now();
        let mut admissions = Vec::with_capacity(arrivals.len());
        for Arrival { said, binding } in arrivals {
            admissions.push(match self.objection(&said, &devices) {
                Some(objection) => objection,
                None => match self.attach_arrival(&binding) {
                    Ok(()) => {
                        self.bindings.retain(|b| b.ifindex != binding.ifindex);
                        self.bindings.push(binding);
                        Admission::Attached(self.words.attach(said, now))
                    }
                    Err(words) => Admission::Refused(Refusal::Other, words),
                },
            });
        }
        if admissions.iter().any(|a| matches!(a, Admission::Attached(_))) {
            self.bindings.sort_by_key(|b| b.ifindex);
            self.tell_macs(&node.macs());
            self.renew();
            self.bells.control.ring();
        }
        admissions
    }

    /// Why an arrival cannot be taken in.
    fn objection(&self, said: &Said, devices: &HashSet<u32>) -> Option<Admission> {
        for address in &said.addresses {
            if self.node_addresses.contains(address) {
                let words = format!("{address} is an address of the node's own");
                return Some(Admission::Refused(Refusal::AddressTaken, words));
            }
            let named = self.claims.holder(address, &self.words);
            let worded = self.words.iter().filter(|(_, word)| word.addresses.contains(address));
            let is_other = |holder: &u32| {
                *holder != said.ifindex
                    && devices.contains(holder)
                    && self.words.of(*holder).is_none_or(|word| word.id != said.id)
            };
            let mut holders = worded.map(|(ifindex, _)| ifindex).chain(named);
            if let Some(holder) = holders.find(is_other) {
                let mut words = format!("{address} is in use");
                if let Some(binding) = self.bindings.iter().find(|b| b.ifindex == holder) {
                    let _ = write!(words, " by {} ({})", binding.device, binding.netns);
                }
                if let Some(word) = self.words.of(holder) {
                    let _ = write!(words, ", given to {}", word.name());
                }
                return Some(Admission::AddressTaken(words));
            }
        }
        None
    }

    /// Hooks go on at once, so that nothing passes that nobody has judged.
    fn attach_arrival(&mut self, binding: &Binding) -> Result<(), String> {
        if self.attached.contains(&binding.ifindex) {
            return Ok(());
        }
        let attached = self.attach(binding.ifindex, &binding.device);
        attached.map_err(|error| {
            self.unattached.remove(&binding.ifindex);
            error.to_string()
        })
    }

    /// Withdraws what was said of attachments; how many were known, for each. Their addresses are
    /// nobody's from here on.
    pub fn withdraw<'a>(&mut self, ids: impl IntoIterator<Item = &'a AttachmentId>) -> Vec<u32> {
        let withdrawn: Vec<_> = ids.into_iter().map(|id| self.words.withdraw(id)).collect();
        let removed = withdrawn.iter().map(|word| u32::from(word.is_some())).collect();
        self.after_withdrawal(withdrawn.into_iter().flatten().collect());
        removed
    }

    /// Withdraws what was said of all attachments of a network but these.
    pub fn keep_only(&mut self, network: &str, valid: &[(String, String)]) -> u32 {
        let over = self.words.keep_only(network, valid);
        self.after_withdrawal(over)
    }

    fn after_withdrawal(&mut self, over: Vec<(u32, Word)>) -> u32 {
        for (ifindex, word) in &over {
            tracing::info!(ifindex, pod = word.name(), ticket = word.ticket, "interface withdrawn");
        }
        if !over.is_empty() {
            self.renew();
            self.ring_both();
        }
        u32::try_from(over.len()).unwrap_or(u32::MAX)
    }

    /// Forgets words of devices that are gone.
    pub(super) fn forget_words_of_others(&mut self, devices: &HashSet<u32>) {
        let over = self.words.retain_devices(devices);
        for (ifindex, word) in &over {
            tracing::info!(
                ifindex,
                pod = word.name(),
                ticket = word.ticket,
                "interface gone without a word"
            );
        }
        if !over.is_empty() {
            self.ring_both();
        }
    }

    /// Control has said that pods' policies are in force. `kept`: the table that says so is on
    /// disk.
    ///
    /// # Errors
    /// When a worker hangs; then they are not placed.
    pub fn place(&mut self, settled: &Settled, kept: bool) -> Result<(), WorkerHangs> {
        let settlement = Settlement { generation: settled.generation, epoch: settled.epoch };
        let placed = self.words.place(&settled.tickets, settlement);
        if placed.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.weigh_claims() {
            self.words.hold(&placed);
            return Err(error);
        }
        if kept {
            self.words.set_kept();
        }
        self.write_records();
        self.renew_troubles();
        tracing::info!(
            pods = placed.len(),
            generation = settled.generation,
            epoch = settled.epoch,
            "pods placed: their policies are in force"
        );
        self.bells.plugin.ring();
        Ok(())
    }

    /// The table in force is on disk: so is what it says of words that are placed.
    pub fn table_is_kept(&mut self) {
        if self.words.iter().any(|(_, word)| word.kept != word.placed) {
            self.words.set_kept();
            self.write_records();
            self.bells.plugin.ring();
        }
    }

    /// A generation is about to be enforced that knows of words up to a ticket: of those above it
    /// it may say what was true before them.
    ///
    /// # Errors
    /// When a worker hangs.
    pub fn hold_unheard(&mut self, heard: u64) -> Result<(), WorkerHangs> {
        let held = self.words.hold_above(heard);
        if held.is_empty() {
            return Ok(());
        }
        tracing::warn!(
            pods = held.len(),
            "weir-control does not know yet which pods these are: cut off until it does"
        );
        self.weigh_claims()?;
        self.write_records();
        Ok(())
    }

    /// Control says why it cannot settle a word.
    pub fn reject(&mut self, ticket: u64, words: &str) {
        if self.words.reject(ticket, words) {
            tracing::debug!(ticket, words, "not settled");
        }
    }

    /// A publisher has come or gone.
    pub fn set_controlled(&mut self, controlled: bool) {
        if self.controlled != controlled {
            self.controlled = controlled;
            self.words.forget_rejections();
        }
    }

    /// How far the interface with a ticket is.
    pub fn progress(&self, ticket: u64) -> Progress {
        match self.words.of_ticket(ticket) {
            Some((_, word)) => self.progress_of(word),
            None => Progress::Over,
        }
    }

    fn progress_of(&self, word: &Word) -> Progress {
        let settlement = match (&word.pod, word.placed) {
            // It is for control to name its addresses, whenever it likes.
            (None, _) => {
                let generation = self.node.current().load().generation();
                Some(Settlement { generation, epoch: 0 })
            }
            (Some(_), placed) => placed,
        };
        if let Some(hung) = &self.untold {
            return Progress::Waiting(WaitingFor::Worker, hung.clone());
        }
        if let Some(error) = &self.unrecorded {
            let words = format!("the run directory cannot be written: {error}");
            return Progress::Waiting(WaitingFor::Other, words);
        }
        match (settlement, &word.rejected) {
            (Some(settlement), _) => Progress::Enforced(settlement),
            (None, Some(rejected)) => Progress::Waiting(WaitingFor::PodObject, rejected.clone()),
            (None, None) => {
                let words = match self.controlled {
                    true => "weir-control has not put the pod's policy in force yet",
                    false => "weir-control is not connected to weir-dataplane",
                };
                Progress::Waiting(WaitingFor::Control, words.to_owned())
            }
        }
    }

    /// Whether an attachment is as it is said to be, and how far it is. `binding` is what the
    /// kernel shows of it.
    ///
    /// # Errors
    /// What is not, in words.
    pub fn check(&self, said: &Said, binding: &Binding) -> Result<Progress, String> {
        let Some((ifindex, word)) = self.words.of_attachment(&said.id) else {
            return Err(
                "nothing is known of this interface: it was never added, or is deleted".into()
            );
        };
        let set = |all: &[IpAddr]| all.iter().copied().collect::<HashSet<IpAddr>>();
        if ifindex != binding.ifindex {
            return Err(format!("its device is {}, not the one that was added", binding.device));
        }
        if word.pod != said.pod || set(&word.addresses) != set(&said.addresses) {
            return Err("it was added with another pod or other addresses".into());
        }
        if let Some(missing) = word.addresses.iter().find(|a| !binding.addresses.contains(a)) {
            return Err(format!("the interface no longer has its address {missing}"));
        }
        if !self.attached.contains(&ifindex) {
            return Err(format!("Weir's hooks are not on {}", binding.device));
        }
        let trouble = self.troubles.get(&ifindex);
        if let Some(trouble) = trouble.filter(|trouble| trouble.reason != CutOff::Mtu) {
            return Err(trouble.words.clone());
        }
        Ok(self.progress_of(word))
    }

    /// Every word of a pod that stands, by ticket, as control is told of it; and the highest
    /// ticket.
    pub fn attached_words(&self) -> (Vec<Attached>, u64) {
        let with_pod = self.words.iter().filter_map(|(_, word)| {
            Some(Attached {
                ticket: word.ticket,
                pod: word.pod.clone()?,
                addresses: word.addresses.clone(),
                host_ports: word.host_ports.clone(),
            })
        });
        let mut all: Vec<Attached> = with_pod.collect();
        all.sort_by_key(|attached| attached.ticket);
        (all, self.words.last())
    }

    /// Namespaces of which all is known: each interface in them has a word and its hooks.
    pub fn complete_namespaces(&self) -> HashSet<(u64, u64)> {
        let is_complete =
            |b: &&Binding| self.words.of(b.ifindex).is_some() && self.attached.contains(&b.ifindex);
        let incomplete: HashSet<(u64, u64)> =
            self.bindings.iter().filter(|b| !is_complete(b)).map(|b| b.namespace).collect();
        let complete = self.bindings.iter().filter(is_complete).map(|b| b.namespace);
        complete.filter(|namespace| !incomplete.contains(namespace)).collect()
    }

    /// What others have to be told of interfaces that are cut off.
    pub fn troubles(&self) -> &BTreeMap<u32, NotEnforced> {
        &self.troubles
    }

    /// Workers, hooks and the disk learn what has changed.
    fn renew(&mut self) {
        if let Err(error) = self.weigh_claims() {
            // Tried again with the next scan; until then nobody is told that it is enforced.
            tracing::error!(%error, "workers do not know of changed interfaces");
        }
        self.write_records();
        self.renew_troubles();
    }

    fn ring_both(&self) {
        self.bells.control.ring();
        self.bells.plugin.ring();
    }

    /// Finds anew who is cut off for good.
    pub(super) fn renew_troubles(&mut self) {
        let now = Instant::now();
        let mut troubles = BTreeMap::new();
        for (binding, standing) in self.bindings.iter().zip(&self.standings) {
            let ifindex = binding.ifindex;
            let (reason, words) = if let Some(error) = self.unattached.get(&ifindex) {
                (CutOff::Hooks, format!("the hooks cannot be attached: {error}"))
            } else if let Some((address, holder)) = standing.stolen.first() {
                let holder = match holder {
                    Holder::Node => "the node itself".to_owned(),
                    Holder::Pod(other) => format!("another pod, behind interface {other},"),
                };
                (CutOff::AddressTaken, format!("it claims {address}, which {holder} has"))
            } else if self.claims.misses_its_word(ifindex, &self.words, now) {
                let words = "weir-cni has not told of it: it was made without weir-cni in its \
                    chain, or while weir-dataplane was away; make the pod anew";
                (CutOff::NoWord, words.to_owned())
            } else if self.enforcing && binding.mtu > self.max_mtu {
                let words = format!(
                    "its MTU is {}, and packets larger than {} are lost on their way to a worker",
                    binding.mtu, self.max_mtu
                );
                (CutOff::Mtu, words)
            } else {
                continue;
            };
            let word = self.words.of(ifindex);
            let trouble = NotEnforced {
                ifindex,
                device: binding.device.clone(),
                netns: binding.netns.clone(),
                pod: word.and_then(|word| word.pod.clone()),
                addresses: word.map_or(&binding.addresses, |word| &word.addresses).clone(),
                reason,
                words,
            };
            if reason == CutOff::NoWord && self.troubles.get(&ifindex) != Some(&trouble) {
                tracing::error!(
                    device = trouble.device,
                    netns = trouble.netns,
                    "this pod is cut off: {}",
                    trouble.words
                );
            }
            troubles.insert(ifindex, trouble);
        }
        if troubles != self.troubles {
            self.troubles = troubles;
            self.bells.control.ring();
        }
    }
}
