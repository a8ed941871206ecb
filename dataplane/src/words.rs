//! What the CNI plugin has said: whose an interface is, and which addresses it was given.
//!
//! A word is the runtime's own, given over a socket that only root can open, so it is believed
//! where an interface's look is not ([`crate::claims`]). It says nothing of policy: that the pod's
//! is in force for these addresses is control's to say, under the word's ticket. Before that the
//! word is *attached*, and its interface is nobody's to others; from then on it is *placed*.
//!
//! ```text
//!   add ──> attached ──control: settled──> placed ──del, device gone──> (none)
//!              ▲  │                           │
//!              │  └──del, device gone──> ...  │
//!              └──a generation that does not know the ticket──┘
//! ```
//!
//! Invariants
//! - An interface has at most one word, and an attachment (network, container, name of the
//!   interface) at most one interface.
//! - A ticket belongs to one word for the time of a boot: who heard of it cannot mean another.
//! - What is on disk ([`crate::pods`]) never says placed of a word whose table is not on disk.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use weir_table::cni::{AttachmentId, HostPort, PodRef};

/// From when on a pod's policy was in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// The generation.
    pub generation: u64,
    /// The epoch of its address map.
    pub epoch: u64,
}

/// What was said of one interface. Its form on disk is what a restart needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// What control knows it by.
    pub ticket: u64,
    /// What the runtime knows it by.
    pub id: AttachmentId,
    /// Whose it is; `None` where the runtime is not Kubernetes'.
    #[serde(default)]
    pub pod: Option<PodRef>,
    /// The addresses that it was given.
    pub addresses: Vec<IpAddr>,
    /// Ports of the node that lead to it.
    #[serde(default)]
    pub host_ports: Vec<HostPort>,
    /// Since when others believe it.
    #[serde(skip)]
    pub placed: Option<Settlement>,
    /// The same, if the table that says so is on disk.
    #[serde(rename = "placed", default)]
    pub kept: Option<Settlement>,
    /// Why control could not settle it, when it last tried.
    #[serde(skip)]
    pub rejected: Option<String>,
    /// When it was said; `None` to an earlier daemon.
    #[serde(skip)]
    pub since: Option<Instant>,
}

impl Word {
    /// Whether others believe it. Without a pod it is for control to name the addresses.
    pub fn is_placed(&self) -> bool {
        self.placed.is_some()
    }

    /// The pod's name, or the container's.
    pub fn name(&self) -> String {
        match &self.pod {
            Some(pod) => format!("{}/{}", pod.namespace, pod.name),
            None => format!("container {}", self.id.container),
        }
    }
}

/// What an `add` says, once the kernel has shown that it can be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Index of the host-side device.
    pub ifindex: u32,
    /// What the runtime knows it by.
    pub id: AttachmentId,
    /// Whose it is.
    pub pod: Option<PodRef>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Ports of the node that lead to it.
    pub host_ports: Vec<HostPort>,
}

/// All words that stand, by host-side device.
#[derive(Debug, Default)]
pub struct Words {
    by_device: BTreeMap<u32, Word>,
    devices: BTreeMap<AttachmentId, u32>,
    /// The highest ticket that was given.
    last: u64,
    /// Whether any word was ever said.
    spoken: bool,
}

impl Words {
    /// Words as an earlier daemon left them. Tickets go on above `floor`, which must be above all
    /// that earlier daemons gave.
    pub fn resumed(words: impl IntoIterator<Item = (u32, Word)>, floor: u64) -> Self {
        let mut all = Self { last: floor, ..Self::default() };
        for (ifindex, mut word) in words {
            word.placed = word.kept;
            all.last = all.last.max(word.ticket);
            all.insert(ifindex, word);
        }
        all
    }

    /// Takes what was said; gives its ticket. The same again is the same word; anything else
    /// takes the place of what was said of this interface or this attachment.
    pub fn attach(&mut self, said: Said, now: Instant) -> u64 {
        let Said { ifindex, id, pod, addresses, host_ports } = said;
        if let Some(word) = self.by_device.get(&ifindex)
            && (&word.id, &word.pod, &word.addresses, &word.host_ports)
                == (&id, &pod, &addresses, &host_ports)
        {
            return word.ticket;
        }
        self.last += 1;
        let word = Word {
            ticket: self.last,
            id,
            pod,
            addresses,
            host_ports,
            placed: None,
            kept: None,
            rejected: None,
            since: Some(now),
        };
        self.insert(ifindex, word);
        self.last
    }

    fn insert(&mut self, ifindex: u32, word: Word) {
        self.spoken = true;
        if let Some(elsewhere) = self.devices.insert(word.id.clone(), ifindex)
            && elsewhere != ifindex
        {
            self.by_device.remove(&elsewhere);
        }
        if let Some(before) = self.by_device.insert(ifindex, word)
            && self.by_device.get(&ifindex).is_some_and(|now| now.id != before.id)
        {
            self.devices.remove(&before.id);
        }
    }

    fn remove(&mut self, ifindex: u32) -> Option<Word> {
        let word = self.by_device.remove(&ifindex)?;
        self.devices.remove(&word.id);
        Some(word)
    }

    /// Withdraws what was said of an attachment.
    pub fn withdraw(&mut self, id: &AttachmentId) -> Option<(u32, Word)> {
        let ifindex = *self.devices.get(id)?;
        Some((ifindex, self.remove(ifindex)?))
    }

    /// Withdraws what was said of attachments of a network other than these: container, name
    /// of the interface.
    pub fn keep_only(&mut self, network: &str, valid: &[(String, String)]) -> Vec<(u32, Word)> {
        let valid: HashSet<(&str, &str)> =
            valid.iter().map(|(c, i)| (c.as_str(), i.as_str())).collect();
        let is_over = |word: &Word| {
            word.id.network == network
                && !valid.contains(&(word.id.container.as_str(), word.id.ifname.as_str()))
        };
        self.remove_if(|_, word| is_over(word))
    }

    /// Forgets what was said of devices that are gone.
    pub fn retain_devices(&mut self, devices: &HashSet<u32>) -> Vec<(u32, Word)> {
        self.remove_if(|ifindex, _| !devices.contains(&ifindex))
    }

    fn remove_if(&mut self, is_over: impl Fn(u32, &Word) -> bool) -> Vec<(u32, Word)> {
        let over: Vec<u32> =
            self.by_device.iter().filter(|(i, w)| is_over(**i, w)).map(|(i, _)| *i).collect();
        over.into_iter().filter_map(|ifindex| Some((ifindex, self.remove(ifindex)?))).collect()
    }

    /// Control says that the policies behind these tickets are in force; gives the devices that
    /// were not placed before. A ticket of no word that stands means nothing any more.
    pub fn place(&mut self, tickets: &[u64], settlement: Settlement) -> Vec<u32> {
        let tickets: HashSet<u64> = tickets.iter().copied().collect();
        let mut placed = Vec::new();
        for (ifindex, word) in &mut self.by_device {
            if tickets.contains(&word.ticket) && !word.is_placed() {
                word.placed = Some(settlement);
                word.rejected = None;
                placed.push(*ifindex);
            }
        }
        placed
    }

    /// The table that says of these devices what is placed is on disk.
    pub fn set_kept(&mut self) {
        for word in self.by_device.values_mut() {
            word.kept = word.placed;
        }
    }

    /// Holds words again: those above a ticket, of which a generation does not know. Gives
    /// their devices.
    pub fn hold_above(&mut self, heard: u64) -> Vec<u32> {
        let mut held = Vec::new();
        for (ifindex, word) in &mut self.by_device {
            if word.ticket > heard && word.placed.take().is_some() {
                word.kept = None;
                held.push(*ifindex);
            }
        }
        held
    }

    /// Holds words of these devices again.
    pub fn hold(&mut self, devices: &[u32]) {
        for ifindex in devices {
            if let Some(word) = self.by_device.get_mut(ifindex) {
                (word.placed, word.kept) = (None, None);
            }
        }
    }

    /// Control says why it cannot settle a word; true if that is new.
    pub fn reject(&mut self, ticket: u64, words: &str) -> bool {
        let word = self.by_device.values_mut().find(|word| word.ticket == ticket);
        let Some(word) = word.filter(|word| word.rejected.as_deref() != Some(words)) else {
            return false;
        };
        word.rejected = Some(words.to_owned());
        true
    }

    /// Control is another process, or gone: what it could not settle it has not tried.
    pub fn forget_rejections(&mut self) {
        self.by_device.values_mut().for_each(|word| word.rejected = None);
    }

    /// What was said of a device.
    pub fn of(&self, ifindex: u32) -> Option<&Word> {
        self.by_device.get(&ifindex)
    }

    /// What was said of an attachment.
    pub fn of_attachment(&self, id: &AttachmentId) -> Option<(u32, &Word)> {
        let ifindex = *self.devices.get(id)?;
        Some((ifindex, self.by_device.get(&ifindex)?))
    }

    /// The word with a ticket.
    pub fn of_ticket(&self, ticket: u64) -> Option<(u32, &Word)> {
        self.iter().find(|(_, word)| word.ticket == ticket)
    }

    /// All, by device.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Word)> {
        self.by_device.iter().map(|(ifindex, word)| (*ifindex, word))
    }

    /// The highest ticket that was given.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Whether any word was ever said: the plugin is at work on this node.
    pub fn have_come(&self) -> bool {
        self.spoken
    }
}

#[cfg(test)]
mod tests;
