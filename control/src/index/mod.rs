//! The objects in force, and what follows from them: who owns which address.
//!
//! ```text
//!   objects ──sync/apply/delete──► Index { namespaces, pods, policies,     ──► Changes
//!                                    │      services, endpoint slices, nodes }
//!                                    │
//!   words of the CNI plugin ─────────┤
//!     (this node's pods)             ├─ endpoints(): address → one pod, or nobody for sure
//!                                    └─ take_touched(): addresses to look at again
//! ```
//!
//! Pure: no clock, no files, no threads; the same objects in any order give the same index.
//!
//! Invariants:
//! * pods on the host network and finished pods (Succeeded, Failed) own no address;
//! * an address that several live pods claim belongs to none of them: it is isolated both ways
//!   until the claim is settled, because the identity of either could open what the other's
//!   policies close. A terminating pod gives way to one that is not;
//! * on this node what the CNI plugin says comes before what pods' objects say ([`Placements`]).

mod namespaces;
mod owners;
mod placements;
mod shared;

pub use namespaces::NamespaceLabels;
pub use owners::Touched;
pub use placements::{Placements, Settlement};

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use weir_table::publish::Attached;

use crate::model::{
    Complaint, Effect, EndpointSlice, Namespace, NetworkPolicy, Node, Object, ObjectId, ObjectKey,
    Pod, Service, Severity,
};

/// So many of those who claim an address as well are named.
const MOST_NAMED: usize = 8;

/// Which kinds of objects differ from before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Some NetworkPolicy.
    pub policies: bool,
    /// Some Namespace.
    pub namespaces: bool,
    /// Some Pod.
    pub pods: bool,
    /// Some Service or EndpointSlice.
    pub services: bool,
    /// Some Node.
    pub nodes: bool,
}

impl Changes {
    /// Whether anything changed.
    pub fn any(self) -> bool {
        self.verdicts() || self.services || self.nodes
    }

    /// Whether anything changed that every verdict can depend on. If not, the table in force stays,
    /// unless it heeds Services and some changed.
    pub fn verdicts(self) -> bool {
        self.policies || self.namespaces || self.pods
    }

    /// What changed in either.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            policies: self.policies | other.policies,
            namespaces: self.namespaces | other.namespaces,
            pods: self.pods | other.pods,
            services: self.services | other.services,
            nodes: self.nodes | other.nodes,
        }
    }

    fn note(&mut self, id: &ObjectId) {
        match id {
            ObjectId::Namespace(_) => self.namespaces = true,
            ObjectId::Pod(_) => self.pods = true,
            ObjectId::NetworkPolicy(_) => self.policies = true,
            ObjectId::Service(_) | ObjectId::EndpointSlice(_) => self.services = true,
            ObjectId::Node(_) => self.nodes = true,
        }
    }
}

/// Every object in force.
#[derive(Debug, Clone, Default)]
pub struct Index {
    namespaces: BTreeMap<String, Namespace>,
    pods: BTreeMap<ObjectKey, Arc<Pod>>,
    policies: BTreeMap<ObjectKey, NetworkPolicy>,
    services: BTreeMap<ObjectKey, Service>,
    endpoint_slices: BTreeMap<ObjectKey, EndpointSlice>,
    nodes: BTreeMap<String, Node>,
    owners: owners::Owners,
    placements: Placements,
    shared: shared::Shared,
}

/// The same objects, however they came.
impl PartialEq for Index {
    fn eq(&self, other: &Self) -> bool {
        self.namespaces == other.namespaces
            && self.pods == other.pods
            && self.policies == other.policies
            && self.services == other.services
            && self.endpoint_slices == other.endpoint_slices
            && self.nodes == other.nodes
    }
}

impl Eq for Index {}

/// Who owns an address.
#[derive(Debug, Clone, Copy)]
pub enum Owner<'a> {
    /// One pod.
    Pod(&'a Pod),
    /// Several pods claim it, or the pod's object was refused: isolated in both directions.
    Isolated(&'a Pod),
}

impl Index {
    /// An index of some objects; later ones replace earlier ones of the same identity.
    pub fn of(objects: impl IntoIterator<Item = Object>) -> Self {
        let mut index = Self::default();
        for object in objects {
            index.apply(object);
        }
        index
    }

    /// Adds or replaces an object.
    pub fn apply(&mut self, object: Object) -> Changes {
        let mut changes = Changes::default();
        let id = object.id();
        let changed = match object {
            Object::Namespace(new) => replace(&mut self.namespaces, new.name.clone(), new),
            Object::Pod(new) => self.apply_pod(new),
            Object::NetworkPolicy(new) => replace(&mut self.policies, new.key.clone(), new),
            Object::Service(new) => replace(&mut self.services, new.key.clone(), new),
            Object::EndpointSlice(new) => replace(&mut self.endpoint_slices, new.key.clone(), new),
            Object::Node(new) => replace(&mut self.nodes, new.name.clone(), new),
        };
        if changed {
            changes.note(&id);
        }
        changes
    }

    fn apply_pod(&mut self, mut new: Pod) -> bool {
        let old = self.pods.get(&new.key);
        if old.is_some_and(|old| **old == new) {
            return false;
        }
        self.shared.share(&mut new);
        let new = Arc::new(new);
        self.owners.replace(old, Some(&new));
        let key = new.key.clone();
        self.pods.insert(key.clone(), new);
        self.tell_placements(&key);
        true
    }

    /// A pod's object is another: so may be what its words amount to.
    fn tell_placements(&mut self, key: &ObjectKey) {
        self.placements.pod_changed(key, self.pods.get(key).map(|pod| &**pod));
        for address in self.placements.addresses_of(key) {
            self.owners.touch(address);
        }
    }

    /// The CNI plugin has made an interface of a pod of this node.
    pub fn attach(&mut self, word: Attached) -> Changes {
        let concerned = self.concerned_by(&word);
        if !self.placements.attach(word) {
            return Changes::default();
        }
        self.touch(concerned)
    }

    /// The interface with a ticket is gone.
    pub fn detach(&mut self, ticket: u64) -> Changes {
        self.take_word_back(ticket, true)
    }

    fn take_word_back(&mut self, ticket: u64, is_spent: bool) -> Changes {
        let Some(word) = self.placements.detach(ticket, is_spent.then_some(&self.pods)) else {
            return Changes::default();
        };
        let concerned = self.concerned_by(&word);
        self.touch(concerned)
    }

    /// Of all interfaces, those with these tickets are still there. A dataplane that knows of none
    /// where there were several has lost what it knew: then its pods are still there, and their
    /// addresses are what the API server says.
    pub fn retain_words(&mut self, tickets: &BTreeSet<u64>) -> Changes {
        let gone = self.placements.all_but(tickets);
        let is_withdrawn = !tickets.is_empty() || gone.len() < 2;
        let take_back =
            |changes: Changes, ticket| changes.and(self.take_word_back(ticket, is_withdrawn));
        gone.into_iter().fold(Changes::default(), take_back)
    }

    /// Which of the CNI plugin's words hold for the owners of [`Self::endpoints`].
    pub fn settlement(&self) -> Settlement {
        self.placements.settlement(&self.pods)
    }

    /// Addresses whose owner depends on a word: its own, and those in its pod's status.
    fn concerned_by(&self, word: &Attached) -> Vec<IpAddr> {
        let key = ObjectKey::new(&*word.pod.namespace, &*word.pod.name);
        let of_status = self.pods.get(&key).into_iter().flat_map(|pod| &pod.addresses);
        word.addresses.iter().chain(of_status).copied().collect()
    }

    fn touch(&mut self, addresses: Vec<IpAddr>) -> Changes {
        addresses.into_iter().for_each(|address| self.owners.touch(address));
        Changes { pods: true, ..Changes::default() }
    }

    /// Removes an object.
    pub fn delete(&mut self, id: &ObjectId) -> Changes {
        let mut changes = Changes::default();
        let existed = match id {
            ObjectId::Namespace(name) => self.namespaces.remove(name).is_some(),
            ObjectId::Pod(key) => {
                let old = self.pods.remove(key);
                self.owners.replace(old.as_ref(), None);
                self.tell_placements(key);
                old.is_some()
            }
            ObjectId::NetworkPolicy(key) => self.policies.remove(key).is_some(),
            ObjectId::Service(key) => self.services.remove(key).is_some(),
            ObjectId::EndpointSlice(key) => self.endpoint_slices.remove(key).is_some(),
            ObjectId::Node(name) => self.nodes.remove(name).is_some(),
        };
        if existed {
            changes.note(id);
        }
        changes
    }

    /// Makes the index hold exactly these objects; of several with one identity the first counts.
    pub fn sync<'a>(&mut self, objects: impl IntoIterator<Item = &'a Object>) -> Changes {
        let mut changes = Changes::default();
        let mut seen = BTreeSet::new();
        for object in objects {
            let id = object.id();
            if seen.contains(&id) {
                continue;
            }
            if !self.holds(object) {
                self.apply(object.clone());
                changes.note(&id);
            }
            seen.insert(id);
        }
        let gone: Vec<ObjectId> = self.ids().filter(|id| !seen.contains(id)).collect();
        for id in gone {
            self.delete(&id);
            changes.note(&id);
        }
        changes
    }

    fn holds(&self, object: &Object) -> bool {
        match object {
            Object::Namespace(new) => self.namespaces.get(&new.name) == Some(new),
            Object::Pod(new) => self.pods.get(&new.key).is_some_and(|old| **old == *new),
            Object::NetworkPolicy(new) => self.policies.get(&new.key) == Some(new),
            Object::Service(new) => self.services.get(&new.key) == Some(new),
            Object::EndpointSlice(new) => self.endpoint_slices.get(&new.key) == Some(new),
            Object::Node(new) => self.nodes.get(&new.name) == Some(new),
        }
    }

    fn ids(&self) -> impl Iterator<Item = ObjectId> + '_ {
        let namespaces = self.namespaces.keys().cloned().map(ObjectId::Namespace);
        let pods = self.pods.keys().cloned().map(ObjectId::Pod);
        let policies = self.policies.keys().cloned().map(ObjectId::NetworkPolicy);
        let services = self.services.keys().cloned().map(ObjectId::Service);
        let slices = self.endpoint_slices.keys().cloned().map(ObjectId::EndpointSlice);
        let nodes = self.nodes.keys().cloned().map(ObjectId::Node);
        namespaces.chain(pods).chain(policies).chain(services).chain(slices).chain(nodes)
    }

    /// Policies in the order in which they are named: by namespace, then name.
    pub fn policies(&self) -> impl ExactSizeIterator<Item = &NetworkPolicy> {
        self.policies.values()
    }

    /// A policy.
    pub fn policy(&self, key: &ObjectKey) -> Option<&NetworkPolicy> {
        self.policies.get(key)
    }

    /// Pods by namespace and name.
    pub fn pods(&self) -> impl ExactSizeIterator<Item = &Pod> {
        self.pods.values().map(|pod| &**pod)
    }

    /// A pod.
    pub fn pod(&self, key: &ObjectKey) -> Option<&Pod> {
        self.pods.get(key).map(|pod| &**pod)
    }

    /// Declared namespaces.
    pub fn namespaces(&self) -> impl ExactSizeIterator<Item = &Namespace> {
        self.namespaces.values()
    }

    /// A declared namespace.
    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(name)
    }

    /// Services by namespace and name.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Service> {
        self.services.values()
    }

    /// A Service.
    pub fn service(&self, key: &ObjectKey) -> Option<&Service> {
        self.services.get(key)
    }

    /// EndpointSlices by namespace and name.
    pub fn endpoint_slices(&self) -> impl ExactSizeIterator<Item = &EndpointSlice> {
        self.endpoint_slices.values()
    }

    /// Nodes by name.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Node> {
        self.nodes.values()
    }

    /// Every address that a pod owns, in the order of the addresses.
    pub fn endpoints(&self) -> BTreeMap<IpAddr, Owner<'_>> {
        self.owned().collect()
    }

    /// The same, one after the other.
    pub fn owned(&self) -> impl Iterator<Item = (IpAddr, Owner<'_>)> {
        let mut by_status = self.owners.all().peekable();
        let mut by_word = self.placements.addresses().peekable();
        std::iter::from_fn(move || {
            loop {
                let is_word_next = match (by_status.peek(), by_word.peek()) {
                    (_, None) => false,
                    (None, Some(_)) => true,
                    (Some((by_status, _)), Some(by_word)) => by_word <= by_status,
                };
                let (address, owner) = if is_word_next {
                    let address = by_word.next()?;
                    // Whoever claims it by its status.
                    by_status.next_if(|(claimed, _)| *claimed == address);
                    (address, self.owner_by_word(&address))
                } else {
                    let (address, claims) = by_status.next()?;
                    (address, self.settled(&address, claims))
                };
                if let Some(owner) = owner {
                    return Some((address, owner));
                }
            }
        })
    }

    /// No more addresses than this are owned.
    pub fn owned_at_most(&self) -> usize {
        self.owners.all().len() + self.placements.addresses().count()
    }

    /// Who owns an address; `None`: no pod.
    pub fn owner(&self, address: &IpAddr) -> Option<Owner<'_>> {
        match self.placements.has(address) {
            true => self.owner_by_word(address),
            false => self.settled(address, self.owners.of(address)),
        }
    }

    fn owner_by_word(&self, address: &IpAddr) -> Option<Owner<'_>> {
        let pod = self.placements.owner(address, &self.pods)?;
        Some(settle(std::slice::from_ref(pod)))
    }

    /// Who owns an address of which there is no word, by the claims of pods' status that count.
    fn settled<'a>(&'a self, address: &IpAddr, claims: &'a [Arc<Pod>]) -> Option<Owner<'a>> {
        if self.placements.is_empty() {
            return (!claims.is_empty()).then(|| settle(claims));
        }
        let counting: Vec<&Pod> = self.counting(address, claims).collect();
        (!counting.is_empty()).then(|| settle_among(&counting))
    }

    fn counting<'a>(
        &'a self,
        address: &IpAddr,
        claims: &'a [Arc<Pod>],
    ) -> impl Iterator<Item = &'a Pod> {
        let address = *address;
        let all = claims.iter().map(|pod| &**pod);
        all.filter(move |pod| self.placements.leaves(pod, &address))
    }

    /// Addresses whose owner may be another one, or look otherwise to policies, because of pods
    /// that came, changed or went since the last call. Policies and namespaces touch none.
    pub fn take_touched(&mut self) -> Touched {
        self.owners.take_touched()
    }

    /// Addresses that several live pods claim, said in words: of each address once.
    pub fn conflicts(&self) -> Vec<Complaint> {
        self.contested().map(|(address, rivals)| conflict(address, &rivals, 0)).collect()
    }

    /// The same, of each address for each of those pods.
    pub fn conflicts_by_pod(&self) -> Vec<Complaint> {
        let of_address = |(address, rivals): (IpAddr, Vec<&Pod>)| {
            let all = 0..rivals.len();
            all.map(|i| conflict(address, &rivals, i)).collect::<Vec<_>>()
        };
        self.contested().flat_map(of_address).collect()
    }

    fn contested(&self) -> impl Iterator<Item = (IpAddr, Vec<&Pod>)> {
        let all = self.owners.contested();
        all.map(|(address, claims)| (address, rivals(self.counting(&address, claims))))
            .filter(|(_, rivals)| rivals.len() > 1)
    }
}

/// That an address is not only one pod's, as a complaint about that pod.
fn conflict(address: IpAddr, rivals: &[&Pod], of: usize) -> Complaint {
    let others = rivals.iter().enumerate().filter(|(i, _)| *i != of).map(|(_, pod)| &pod.key);
    let mut words: Vec<String> = others.clone().take(MOST_NAMED).map(ToString::to_string).collect();
    let unnamed = others.skip(MOST_NAMED).count();
    if unnamed > 0 {
        words.push(format!("{unnamed} more"));
    }
    Complaint {
        severity: Severity::Refused,
        effect: Effect::Closed,
        origin: rivals[of].origin.clone(),
        object: format!("Pod {}", rivals[of].key),
        field: "status.podIPs".to_owned(),
        message: format!("address {address} is also claimed by {}", words.join(", ")),
        consequence: "the address is isolated in both directions until one remains".to_owned(),
    }
}

fn replace<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, new: V) -> bool {
    let same = map.get(&key) == Some(&new);
    if !same {
        map.insert(key, new);
    }
    !same
}

/// Those claimants that are not on their way out; all of them if every one is.
fn rivals<'a>(claims: impl Iterator<Item = &'a Pod>) -> Vec<&'a Pod> {
    let all: Vec<&Pod> = claims.collect();
    let staying: Vec<&Pod> = all.iter().copied().filter(|pod| !pod.terminating).collect();
    if staying.is_empty() { all } else { staying }
}

/// Who of those that claim an address owns it; at least one claims it.
fn settle(claims: &[Arc<Pod>]) -> Owner<'_> {
    if let [pod] = claims {
        return if pod.refused { Owner::Isolated(pod) } else { Owner::Pod(pod) };
    }
    let all: Vec<&Pod> = claims.iter().map(|pod| &**pod).collect();
    settle_among(&all)
}

fn settle_among<'a>(claims: &[&'a Pod]) -> Owner<'a> {
    let rivals = rivals(claims.iter().copied());
    match rivals[..] {
        [pod] if !pod.refused => Owner::Pod(pod),
        _ => Owner::Isolated(rivals[0]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Labels, Origin, Phase};

    fn pod(name: &str, address: &str) -> Pod {
        let mut pod = Pod::new("ns", name);
        pod.addresses.push(address.parse().unwrap());
        pod
    }

    fn owner(pods: Vec<Pod>) -> Option<String> {
        let index = Index::of(pods.into_iter().map(Object::Pod));
        let endpoints = index.endpoints();
        endpoints.get(&"10.0.0.1".parse::<IpAddr>().unwrap()).map(|owner| match owner {
            Owner::Pod(pod) => pod.key.name.to_string(),
            Owner::Isolated(_) => "isolated".to_owned(),
        })
    }

    #[test]
    fn who_owns_an_address() {
        let a = || pod("a", "10.0.0.1");
        let b = || pod("b", "10.0.0.1");
        let with = |mut pod: Pod, change: fn(&mut Pod)| {
            change(&mut pod);
            pod
        };
        for (name, pods, expect) in [
            ("one pod", vec![a()], Some("a")),
            ("two live pods", vec![a(), b()], Some("isolated")),
            ("one is terminating", vec![with(a(), |p| p.terminating = true), b()], Some("b")),
            ("only a terminating one", vec![with(a(), |p| p.terminating = true)], Some("a")),
            (
                "both are terminating",
                vec![with(a(), |p| p.terminating = true), with(b(), |p| p.terminating = true)],
                Some("isolated"),
            ),
            ("succeeded", vec![with(a(), |p| p.phase = Phase::Succeeded), b()], Some("b")),
            ("failed", vec![with(a(), |p| p.phase = Phase::Failed)], None),
            ("host network", vec![with(a(), |p| p.host_network = true)], None),
            ("refused", vec![with(a(), |p| p.refused = true)], Some("isolated")),
        ] {
            assert_eq!(owner(pods).as_deref(), expect, "{name}");
        }
    }

    #[test]
    fn sync_reports_what_changed_and_nothing_else() {
        let mut index = Index::default();
        let objects = vec![
            Object::Pod(pod("a", "10.0.0.1")),
            Object::Namespace(Namespace::new("ns", Labels::new(), Origin::memory())),
        ];
        let changes = index.sync(&objects);
        assert!(changes.pods && changes.namespaces && !changes.policies);
        assert!(!index.sync(&objects).any());
        let changes = index.sync(&objects[1..]);
        assert_eq!(changes, Changes { pods: true, ..Changes::default() });
        assert_eq!(index.pods().len(), 0);
    }

    /// Services, slices and nodes come, change and go like everything else; without a policy that
    /// restricts egress they change no verdict.
    #[test]
    fn what_decides_no_verdict_says_so() {
        let text = "{apiVersion: v1, kind: List, items: [
            {apiVersion: v1, kind: Service, metadata: {name: s}, spec: {ports: [{port: 80}]}},
            {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e},
             addressType: IPv4},
            {apiVersion: v1, kind: Node, metadata: {name: n}}]}";
        let objects = crate::model::load("l", text.as_bytes()).unwrap().objects;
        assert_eq!(objects.len(), 3);
        let mut index = Index::default();
        let expect = Changes { services: true, nodes: true, ..Changes::default() };
        assert_eq!(index.sync(&objects), expect);
        assert!(expect.any() && !expect.verdicts());
        assert!(!index.sync(&objects).any());
        let counts = (index.services().len(), index.endpoint_slices().len(), index.nodes().len());
        assert_eq!(counts, (1, 1, 1));
        assert_eq!(index.sync(&[]), expect);
        assert_eq!(index, Index::default());
        for change in [
            Changes { policies: true, ..Changes::default() },
            Changes { pods: true, ..Changes::default() },
            Changes { namespaces: true, ..Changes::default() },
        ] {
            assert!(change.verdicts());
        }
    }

    #[test]
    fn a_conflict_is_named() {
        let pods = [pod("a", "10.0.0.1"), pod("b", "10.0.0.1"), pod("c", "10.0.0.2")];
        let index = Index::of(pods.map(Object::Pod));
        let conflicts = index.conflicts();
        assert_eq!(conflicts.len(), 1);
        let text = conflicts[0].to_string();
        assert!(text.contains("Pod ns/a") && text.contains("ns/b"), "{text}");
        assert!(text.contains("10.0.0.1"), "{text}");
        // To each of them.
        let of_each = index.conflicts_by_pod();
        assert_eq!(of_each[0], conflicts[0]);
        let text = of_each[1].to_string();
        assert!(of_each.len() == 2 && text.contains("Pod ns/b") && text.contains("ns/a"), "{text}");
    }
}
