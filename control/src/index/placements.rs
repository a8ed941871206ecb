//! Which pod has which address of this node, by the word of the CNI plugin.
//!
//! The plugin speaks when a pod is made, seconds before the API server knows the pod's address,
//! and when it is deleted, while `status.podIP` still names the address, perhaps for minutes. So on
//! this node words come before what pods' objects say:
//!
//! * an address of a word is that pod's, if the pod is known, and nobody's if it is not (yet);
//!   whoever else claims it in its status does not count;
//! * a pod of which there is a word has the addresses of its words, whatever its status says;
//! * an address whose word was withdrawn is that pod's no longer by its status, as long as its
//!   object is there.
//!
//! A pod is meant by namespace and name; the UID must agree if both sides state one, so that a
//! pod is not taken for its predecessor of the same name.
//!
//! Pure: the dataplane's tickets in, owners out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use weir_table::cni::PodRef;
use weir_table::publish::Attached;

use crate::model::{ObjectKey, Pod};

/// The words that stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placements {
    words: BTreeMap<u64, Attached>,
    /// Whose word an address is: the last one.
    by_address: BTreeMap<IpAddr, u64>,
    by_pod: BTreeMap<ObjectKey, BTreeSet<u64>>,
    /// Addresses of words that were withdrawn from pods whose objects are still there, by UID.
    spent: BTreeMap<ObjectKey, BTreeMap<Option<String>, BTreeSet<IpAddr>>>,
}

/// What a state of the index means for words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settlement {
    /// Tickets whose addresses are owned by their pods.
    pub settled: Vec<u64>,
    /// Those whose are not, and why.
    pub waiting: Vec<(u64, String)>,
}

impl Placements {
    /// An interface has come. False: that is known.
    pub(super) fn attach(&mut self, word: Attached) -> bool {
        if self.words.get(&word.ticket) == Some(&word) {
            return false;
        }
        self.remove(word.ticket);
        let key = key_of(&word.pod);
        for address in &word.addresses {
            let last = self.by_address.entry(*address).or_default();
            *last = word.ticket.max(*last);
        }
        self.by_pod.entry(key).or_default().insert(word.ticket);
        self.words.insert(word.ticket, word);
        true
    }

    /// An interface has gone; gives what was said of it. With the pods: its addresses are not its
    /// pod's any more, whatever the pod's status says.
    pub(super) fn detach(
        &mut self,
        ticket: u64,
        pods: Option<&BTreeMap<ObjectKey, Arc<Pod>>>,
    ) -> Option<Attached> {
        let word = self.remove(ticket)?;
        let key = key_of(&word.pod);
        let pod = pods.and_then(|pods| pods.get(&key));
        if pod.is_some_and(|pod| is_meant(word.pod.uid.as_deref(), pod)) {
            let by_uid = self.spent.entry(key).or_default();
            by_uid.entry(word.pod.uid.clone()).or_default().extend(word.addresses.iter().copied());
        }
        Some(word)
    }

    /// The tickets of all words but these.
    pub(super) fn all_but(&self, tickets: &BTreeSet<u64>) -> Vec<u64> {
        self.words.keys().filter(|ticket| !tickets.contains(ticket)).copied().collect()
    }

    /// A pod's object is another, or gone: what was its predecessor's does not concern it.
    pub(super) fn pod_changed(&mut self, key: &ObjectKey, now: Option<&Pod>) {
        let Some(spent) = self.spent.get_mut(key) else { return };
        spent.retain(|uid, _| now.is_some_and(|pod| is_meant(uid.as_deref(), pod)));
        if spent.is_empty() {
            self.spent.remove(key);
        }
    }

    fn remove(&mut self, ticket: u64) -> Option<Attached> {
        let word = self.words.remove(&ticket)?;
        for address in &word.addresses {
            if self.by_address.get(address) == Some(&ticket) {
                self.by_address.remove(address);
                let mut others = self.words.iter().filter(|(_, w)| w.addresses.contains(address));
                if let Some((other, _)) = others.next_back() {
                    self.by_address.insert(*address, *other);
                }
            }
        }
        let key = key_of(&word.pod);
        if let Some(tickets) = self.by_pod.get_mut(&key) {
            tickets.remove(&ticket);
            if tickets.is_empty() {
                self.by_pod.remove(&key);
            }
        }
        Some(word)
    }

    /// Whether what a pod's status says of an address counts.
    pub(super) fn leaves(&self, pod: &Pod, address: &IpAddr) -> bool {
        if self.is_empty() {
            return true;
        }
        let mut words = self.by_pod.get(&pod.key).into_iter().flatten();
        let has_word = words.any(|ticket| {
            self.words.get(ticket).is_some_and(|word| is_meant(word.pod.uid.as_deref(), pod))
        });
        let mut spent = self.spent.get(&pod.key).into_iter().flatten();
        let is_spent = spent
            .any(|(uid, addresses)| addresses.contains(address) && is_meant(uid.as_deref(), pod));
        !has_word && !is_spent && !self.by_address.contains_key(address)
    }

    /// Whether nothing that pods' objects say is overruled.
    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty() && self.spent.is_empty()
    }

    /// Whether there is a word on an address.
    pub(super) fn has(&self, address: &IpAddr) -> bool {
        self.by_address.contains_key(address)
    }

    /// The addresses of which there are words.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.by_address.keys().copied()
    }

    /// Whose an address is by its word; `None` while that pod is not known.
    pub(super) fn owner<'a>(
        &self,
        address: &IpAddr,
        pods: &'a BTreeMap<ObjectKey, Arc<Pod>>,
    ) -> Option<&'a Arc<Pod>> {
        find(self.words.get(self.by_address.get(address)?)?, pods).ok()
    }

    /// The addresses of a pod's words.
    pub(super) fn addresses_of(&self, key: &ObjectKey) -> Vec<IpAddr> {
        let words = self.by_pod.get(key).into_iter().flatten();
        words.filter_map(|t| self.words.get(t)).flat_map(|w| &w.addresses).copied().collect()
    }

    /// Which words have come true.
    pub(super) fn settlement(&self, pods: &BTreeMap<ObjectKey, Arc<Pod>>) -> Settlement {
        let mut settlement = Settlement::default();
        for (ticket, word) in &self.words {
            let lost = word.addresses.iter().find(|a| self.by_address.get(*a) != Some(ticket));
            let found = match lost {
                Some(address) => Err(format!("{address} has been given to another pod since")),
                None => find(word, pods).map(|_| ()),
            };
            match found {
                Ok(()) => settlement.settled.push(*ticket),
                Err(words) => settlement.waiting.push((*ticket, words)),
            }
        }
        settlement
    }
}

/// The pod that a word means.
fn find<'a>(
    word: &Attached,
    pods: &'a BTreeMap<ObjectKey, Arc<Pod>>,
) -> Result<&'a Arc<Pod>, String> {
    let key = key_of(&word.pod);
    let Some(pod) = pods.get(&key) else {
        return Err(format!("weir-control knows no pod {key} yet"));
    };
    if !is_meant(word.pod.uid.as_deref(), pod) {
        return Err(format!("the pod {key} that weir-control knows has another UID"));
    }
    if pod.host_network {
        return Err(format!("the pod {key} is on the host network, by its object"));
    }
    if !pod.is_policed() {
        return Err(format!("the pod {key} has finished, by its status"));
    }
    Ok(pod)
}

fn key_of(pod: &PodRef) -> ObjectKey {
    ObjectKey::new(&*pod.namespace, &*pod.name)
}

/// Whether a UID is this pod's, as far as both are known. They are compared without hyphens: of
/// static pods some runtimes write them without.
fn is_meant(uid: Option<&str>, pod: &Pod) -> bool {
    let digits = |text: &str| text.replace('-', "");
    match (uid, pod.uid.as_deref()) {
        (Some(said), Some(known)) => digits(said).eq_ignore_ascii_case(&digits(known)),
        _ => true,
    }
}

#[cfg(test)]
mod tests;
