//! Who claims which address, kept up to date as pods come, change and go.
//!
//! A cluster has a hundred thousand pods, and one of them changes: what follows from that must not
//! cost a look at the others. So claims are kept by address, and every change notes the addresses
//! whose owner it may concern ([`Touched`]).
//!
//! Invariants:
//! * an address is here exactly if a policed pod claims it;
//! * `contested` holds exactly those that more than one claims;
//! * claimants are in the order of their keys, so that the same pods give the same answer however
//!   they came.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::Pod;

/// More addresses than this are not told one by one: whoever asks looks at all of them.
const MOST_TOUCHED: usize = 4096;

/// Addresses whose owner may be another one since somebody last asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// These, and no others.
    These(BTreeSet<IpAddr>),
    /// So many that they are not worth naming.
    Any,
}

impl Default for Touched {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
}

impl Touched {
    fn add(&mut self, address: IpAddr) {
        if let Self::These(addresses) = self {
            addresses.insert(address);
            if addresses.len() > MOST_TOUCHED {
                *self = Self::Any;
            }
        }
    }
}

/// The claims on one address.
#[derive(Debug, Clone)]
enum Claim {
    One(Arc<Pod>),
    /// At least two, by key.
    Several(Vec<Arc<Pod>>),
}

/// The claims on all addresses.
#[derive(Debug, Clone, Default)]
pub(super) struct Owners {
    claims: BTreeMap<IpAddr, Claim>,
    contested: BTreeSet<IpAddr>,
    touched: Touched,
}

impl Owners {
    /// A pod comes, changes or goes.
    pub(super) fn replace(&mut self, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) {
        if let Some(old) = old.filter(|pod| pod.is_policed()) {
            old.addresses.iter().for_each(|address| self.remove(*address, old));
        }
        if let Some(new) = new.filter(|pod| pod.is_policed()) {
            new.addresses.iter().for_each(|address| self.insert(*address, new));
        }
    }

    /// The owner of an address may be another one, for another reason than its claims.
    pub(super) fn touch(&mut self, address: IpAddr) {
        self.touched.add(address);
    }

    fn insert(&mut self, address: IpAddr, pod: &Arc<Pod>) {
        self.touched.add(address);
        match self.claims.get_mut(&address) {
            None => {
                self.claims.insert(address, Claim::One(Arc::clone(pod)));
            }
            Some(Claim::One(other)) => {
                let mut both = vec![Arc::clone(other), Arc::clone(pod)];
                both.sort_unstable_by(|a, b| a.key.cmp(&b.key));
                self.claims.insert(address, Claim::Several(both));
                self.contested.insert(address);
            }
            Some(Claim::Several(all)) => {
                let place = all.partition_point(|other| other.key < pod.key);
                all.insert(place, Arc::clone(pod));
            }
        }
    }

    fn remove(&mut self, address: IpAddr, pod: &Arc<Pod>) {
        self.touched.add(address);
        match self.claims.get_mut(&address) {
            None => {}
            Some(Claim::One(_)) => {
                self.claims.remove(&address);
            }
            Some(Claim::Several(all)) => {
                all.retain(|other| other.key != pod.key);
                match &all[..] {
                    [] => self.claims.remove(&address),
                    [last] => {
                        let last = Claim::One(Arc::clone(last));
                        self.claims.insert(address, last)
                    }
                    _ => return,
                };
                self.contested.remove(&address);
            }
        }
    }

    /// Who claims an address, by key; nobody: none.
    pub(super) fn of(&self, address: &IpAddr) -> &[Arc<Pod>] {
        self.claims.get(address).map_or(&[], Claim::pods)
    }

    /// Every address that is claimed, in order, and by whom.
    pub(super) fn all(&self) -> impl ExactSizeIterator<Item = (IpAddr, &[Arc<Pod>])> {
        self.claims.iter().map(|(address, claim)| (*address, claim.pods()))
    }

    /// Addresses that more than one pod claims, and who.
    pub(super) fn contested(&self) -> impl Iterator<Item = (IpAddr, &[Arc<Pod>])> {
        self.contested.iter().map(|address| (*address, self.of(address)))
    }

    /// What was touched since the last call.
    pub(super) fn take_touched(&mut self) -> Touched {
        std::mem::take(&mut self.touched)
    }
}

impl Claim {
    fn pods(&self) -> &[Arc<Pod>] {
        match self {
            Self::One(pod) => std::slice::from_ref(pod),
            Self::Several(pods) => pods,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Index;
    use crate::model::{Object, ObjectId, Phase};
    use proptest::prelude::*;

    /// Naively: a look at all pods.
    fn naive(index: &Index) -> BTreeMap<IpAddr, Vec<&Pod>> {
        let mut claims: BTreeMap<IpAddr, Vec<&Pod>> = BTreeMap::new();
        for pod in index.pods().filter(|pod| pod.is_policed()) {
            for address in &pod.addresses {
                claims.entry(*address).or_default().push(pod);
            }
        }
        claims
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    proptest! {
        /// After any history the claims are those that a look at all pods finds, and whatever
        /// differs from before was named.
        #[test]
        fn kept_claims_are_those_of_the_pods(
            steps in prop::collection::vec((0u8..6, prop::collection::btree_set(0u8..4, 0..3), 0u8..4), 1..60)
        ) {
            let mut index = Index::default();
            for (name, addresses, what) in steps {
                let before: BTreeMap<IpAddr, Vec<Pod>> = naive(&index)
                    .into_iter()
                    .map(|(address, pods)| (address, pods.into_iter().cloned().collect()))
                    .collect();
                index.take_touched();
                let mut pod = Pod::new("ns", format!("pod-{name}"));
                if what == 0 {
                    index.delete(&ObjectId::Pod(pod.key));
                } else {
                    pod.addresses = addresses.into_iter().map(ip).collect();
                    pod.terminating = what == 2;
                    pod.phase = if what == 3 { Phase::Failed } else { Phase::Live };
                    index.apply(Object::Pod(pod));
                }
                let Touched::These(touched) = index.take_touched() else { panic!("so few") };
                let after = naive(&index);
                let kept: BTreeMap<IpAddr, Vec<&Pod>> = index
                    .owners
                    .all()
                    .map(|(address, pods)| (address, pods.iter().map(|p| &**p).collect()))
                    .collect();
                prop_assert_eq!(&kept, &after);
                let contested: Vec<IpAddr> = index.owners.contested().map(|(a, _)| a).collect();
                let several = after.iter().filter(|(_, pods)| pods.len() > 1);
                prop_assert_eq!(contested, several.map(|(a, _)| *a).collect::<Vec<_>>());
                for address in (0..4).map(ip) {
                    let was = before.get(&address).map(|pods| pods.iter().collect::<Vec<_>>());
                    if was.as_ref() != after.get(&address) {
                        prop_assert!(touched.contains(&address), "{} was not named", address);
                    }
                }
            }
        }
    }

    #[test]
    fn very_many_are_not_named_and_nothing_is_named_twice() {
        let mut index = Index::default();
        for i in 0..=MOST_TOUCHED {
            let mut pod = Pod::new("ns", format!("pod-{i}"));
            let number = u32::try_from(i).unwrap() + 0x0a00_0000;
            pod.addresses.push(IpAddr::from(number.to_be_bytes()));
            index.apply(Object::Pod(pod));
        }
        assert_eq!(index.take_touched(), Touched::Any);
        assert_eq!(index.take_touched(), Touched::default());
    }
}
