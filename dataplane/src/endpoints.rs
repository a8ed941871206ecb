//! The endpoints of this node: which addresses live behind which host-side device.
//!
//! An [`Endpoints`] is an immutable snapshot. The admin thread builds a new one when a
//! pod comes or goes and swaps it in whole; workers look things up without a lock, by
//! the ifindex of the hook a packet came from and by address.
//!
//! Invariant: an address belongs to at most one endpoint. The first to claim it keeps
//! it; a later claimant is quarantined as a whole and reported, since a pod with
//! NET_ADMIN can put any address on its own interface.
#![forbid(unsafe_code)]

use rustc_hash::{FxHashMap, FxHashSet};
use thiserror::Error;
use weir_table::addr::Address;

/// One pod interface, seen from the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Index of the host-side device.
    pub ifindex: u32,
    /// The pod's addresses on that interface, for everybody.
    pub addresses: Vec<Address>,
    /// Addresses that it has, but which are no pod's to others (yet): packets under them drop
    /// at its hooks.
    pub void: Vec<Address>,
    /// True: nothing passes, in either direction, until its policy is programmed.
    pub quarantined: bool,
    /// `namespace/pod` where known, else the network namespace's name; for people.
    pub name: String,
}

impl Endpoint {
    /// True if `address` is one of this endpoint's own. Linear: a pod has a handful.
    #[inline]
    pub fn owns(&self, address: Address) -> bool {
        self.addresses.contains(&address)
    }

    /// True if `address` is on its interface, but not its own to others.
    pub fn claims(&self, address: Address) -> bool {
        self.void.contains(&address)
    }
}

/// Why an endpoint could not be taken as it was claimed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EndpointConflict {
    /// Two endpoints on one device.
    #[error(
        "{claimant} claims interface {ifindex}, which {holder} already has: ignored; \
         remove one of the two bindings"
    )]
    Ifindex {
        /// The device both claim.
        ifindex: u32,
        /// Name of the endpoint that keeps it.
        holder: String,
        /// Name of the endpoint that was ignored.
        claimant: String,
    },
    /// An address that another endpoint already has.
    #[error(
        "{claimant} claims address {address}, which {holder} already has: {claimant} is \
         quarantined; give it an address of its own"
    )]
    Address {
        /// The address both claim.
        address: std::net::IpAddr,
        /// Name of the endpoint that keeps it.
        holder: String,
        /// Name of the endpoint that is quarantined.
        claimant: String,
    },
}

/// Collects endpoints, in the order in which they became known, for a snapshot.
#[derive(Debug, Default)]
pub struct EndpointsBuilder {
    endpoints: Endpoints,
    conflicts: Vec<EndpointConflict>,
}

impl EndpointsBuilder {
    /// An empty builder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an endpoint. If it claims an ifindex that is taken it is ignored; if it
    /// claims an address that is taken it is kept without that address, quarantined.
    #[must_use]
    pub fn with(mut self, endpoint: Endpoint) -> Self {
        self.add(endpoint);
        self
    }

    /// As [`EndpointsBuilder::with`], by reference.
    pub fn add(&mut self, mut endpoint: Endpoint) {
        let held = &mut self.endpoints;
        if let Some(holder) = held.by_ifindex(endpoint.ifindex) {
            self.conflicts.push(EndpointConflict::Ifindex {
                ifindex: endpoint.ifindex,
                holder: holder.name.clone(),
                claimant: endpoint.name,
            });
            return;
        }
        let index = held.all.len();
        let mut own = Vec::with_capacity(endpoint.addresses.len());
        for address in std::mem::take(&mut endpoint.addresses) {
            match held.address_index.get(&address) {
                Some(&holder) if holder == index => {}
                Some(&holder) => {
                    endpoint.quarantined = true;
                    self.conflicts.push(EndpointConflict::Address {
                        address: address.to_ip(),
                        holder: held.all.get(holder).map_or_else(String::new, |e| e.name.clone()),
                        claimant: endpoint.name.clone(),
                    });
                }
                None => {
                    held.address_index.insert(address, index);
                    own.push(address);
                }
            }
        }
        for &address in &own {
            let quarantined = endpoint.quarantined;
            held.owners.insert(Owner { address, ifindex: endpoint.ifindex, quarantined });
        }
        endpoint.addresses = own;
        held.ifindex_index.insert(endpoint.ifindex, index);
        held.all.push(endpoint);
    }

    /// Says which addresses are the node's own, in place of any said before.
    pub fn set_node_addresses(&mut self, addresses: impl IntoIterator<Item = Address>) {
        self.endpoints.of_the_node = addresses.into_iter().collect();
    }

    /// The snapshot, and what could not be taken as claimed.
    pub fn build(self) -> (Endpoints, Vec<EndpointConflict>) {
        (self.endpoints, self.conflicts)
    }
}

/// An immutable snapshot of the node's endpoints.
///
/// The hash is not keyed: the maps hold only what the node's own configuration put
/// there; packets merely probe them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints {
    all: Vec<Endpoint>,
    ifindex_index: FxHashMap<u32, usize>,
    address_index: FxHashMap<Address, usize>,
    owners: Owners,
    of_the_node: FxHashSet<Address>,
}

impl Endpoints {
    /// Whether an address is one of the node's own.
    #[inline]
    pub fn is_nodes(&self, address: Address) -> bool {
        self.of_the_node.contains(&address)
    }

    /// The node's own addresses, in no order.
    pub fn of_the_node(&self) -> impl Iterator<Item = Address> + '_ {
        self.of_the_node.iter().copied()
    }

    /// The endpoint behind a host-side device.
    #[inline]
    pub fn by_ifindex(&self, ifindex: u32) -> Option<&Endpoint> {
        self.all.get(*self.ifindex_index.get(&ifindex)?)
    }

    /// The endpoint that has an address, quarantined or not.
    #[inline]
    pub fn by_address(&self, address: Address) -> Option<&Endpoint> {
        self.all.get(*self.address_index.get(&address)?)
    }

    /// Who has an address, if an endpoint of this node has it. The same as
    /// [`Endpoints::by_address`], in one step: asked twice for every packet.
    #[inline]
    pub fn owner(&self, address: Address) -> Option<&Owner> {
        self.owners.get(address)
    }

    /// All endpoints, in the order in which they became known.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Endpoint> {
        self.all.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

/// What a packet's address says about its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The address.
    pub address: Address,
    /// The device of the endpoint that has it.
    pub ifindex: u32,
    /// [`Endpoint::quarantined`].
    pub quarantined: bool,
}

/// Owners by address: open addressing, at most a quarter full, so that mostly one place is
/// looked at whether or not the address is there. Only ever grows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Owners {
    /// Their number is a power of two, or none.
    places: Vec<Option<Owner>>,
    /// What leaves as many bits of a word as there are places.
    shift: u32,
    held: usize,
}

impl Owners {
    /// Where the chain of an address begins.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // so many bits as there are places
    fn home(&self, address: Address) -> usize {
        // Fibonacci hashing (Knuth, vol. 3, 6.4): on the topmost bits of a product all bits of
        // its factors have a say.
        let (high, low) = address.to_words();
        let product = (low ^ high.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        product.wrapping_shr(self.shift) as usize
    }

    #[inline]
    fn get(&self, address: Address) -> Option<&Owner> {
        let mask = self.places.len().wrapping_sub(1);
        let mut place = self.home(address);
        loop {
            // None: there are no places, or the chain ends here, as every chain does.
            let owner = self.places.get(place & mask)?.as_ref()?;
            if owner.address == address {
                return Some(owner);
            }
            place = place.wrapping_add(1);
        }
    }

    /// Adds an address that is not there yet.
    fn insert(&mut self, owner: Owner) {
        if (self.held + 1) * 4 > self.places.len() {
            let places = (self.places.len() * 2).max(16);
            self.shift = u64::BITS - places.trailing_zeros();
            let old = std::mem::replace(&mut self.places, vec![None; places]);
            old.into_iter().flatten().for_each(|owner| self.place(owner));
        }
        self.place(owner);
        self.held += 1;
    }

    fn place(&mut self, owner: Owner) {
        let mask = self.places.len().wrapping_sub(1);
        let home = self.home(owner.address);
        let free = (0..self.places.len())
            .map(|probe| home.wrapping_add(probe) & mask)
            .find(|&place| self.places.get(place).is_some_and(Option::is_none));
        if let Some(place) = free.and_then(|place| self.places.get_mut(place)) {
            *place = Some(owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn address(text: &str) -> Address {
        Address::from(text.parse::<IpAddr>().unwrap())
    }

    fn endpoint(ifindex: u32, name: &str, addresses: &[&str]) -> Endpoint {
        Endpoint {
            ifindex,
            addresses: addresses.iter().map(|a| address(a)).collect(),
            void: Vec::new(),
            quarantined: false,
            name: name.to_owned(),
        }
    }

    #[test]
    fn endpoints_are_found_by_device_and_by_every_address() {
        let (endpoints, conflicts) = EndpointsBuilder::new()
            .with(endpoint(7, "blue/web", &["10.0.0.2", "fd00::2"]))
            .with(endpoint(9, "blue/db", &["10.0.0.3"]))
            .build();
        assert!(conflicts.is_empty());
        assert_eq!(endpoints.len(), 2);
        assert_eq!(endpoints.by_ifindex(7).unwrap().name, "blue/web");
        assert_eq!(endpoints.by_address(address("fd00::2")).unwrap().ifindex, 7);
        assert_eq!(endpoints.by_address(address("10.0.0.3")).unwrap().ifindex, 9);
        assert!(endpoints.by_ifindex(8).is_none());
        assert!(endpoints.by_address(address("10.0.0.4")).is_none());
    }

    #[test]
    fn owners_are_what_the_endpoints_say() {
        let mut builder = EndpointsBuilder::new();
        for n in 0..300u32 {
            let addresses = [format!("10.0.{}.{}", n / 250, n % 250), format!("fd00::{n:x}")];
            let addresses = [addresses[0].as_str(), addresses[1].as_str()];
            let quarantined = n % 7 == 0;
            builder.add(Endpoint { quarantined, ..endpoint(n + 1, "x/y", &addresses) });
        }
        // Claims what another has, and one address of its own.
        builder.add(endpoint(1000, "x/thief", &["10.0.0.3", "10.9.0.1"]));
        let (endpoints, _) = builder.build();
        for text in ["10.0.0.0", "10.0.0.3", "10.0.1.9", "fd00::12b", "10.9.0.1", "10.9.0.2", "::"]
        {
            let address = address(text);
            let seen = endpoints.owner(address).map(|o| (o.address, o.ifindex, o.quarantined));
            let said = endpoints.by_address(address).map(|e| (address, e.ifindex, e.quarantined));
            assert_eq!(seen, said, "{text}");
        }
        for endpoint in endpoints.iter() {
            for &address in &endpoint.addresses {
                let owner = endpoints.owner(address).unwrap();
                assert_eq!(
                    (owner.ifindex, owner.quarantined),
                    (endpoint.ifindex, endpoint.quarantined)
                );
            }
        }
        assert_eq!(Endpoints::default().owner(address("10.0.0.1")), None);
    }

    /// Whatever part of it an address plan leaves to the pod, mostly one place is looked at.
    #[test]
    fn chains_are_short_for_all_address_plans() {
        let plans: [fn(u32) -> String; 7] = [
            |n| format!("10.{}.{}.1", n / 250, n % 250),
            |n| format!("10.0.{}.{}", n / 250, n % 250),
            |n| format!("fd00::{n:x}"),
            |n| format!("fd00:0:0:1:{n:x}::1"),
            |n| format!("fd00:0:{n:x}::1"),
            |n| format!("fd00:{n:x}::1"),
            |n| format!("2001:db8:1:2:0:{n:x}:0:7"),
        ];
        for plan in plans {
            let mut owners = Owners::default();
            for n in 0..1000 {
                let address = address(&plan(n));
                owners.insert(Owner { address, ifindex: n, quarantined: false });
            }
            let mask = owners.places.len() - 1;
            let steps = owners.places.iter().enumerate().filter_map(|(at, owner)| {
                Some((at.wrapping_sub(owners.home(owner.as_ref()?.address)) & mask) + 1)
            });
            let all: usize = steps.sum();
            assert!(all < 1500, "{}: {all} places for 1000 addresses", plan(1));
        }
    }

    #[test]
    fn the_first_to_claim_an_address_keeps_it_and_the_second_is_quarantined() {
        let (endpoints, conflicts) = EndpointsBuilder::new()
            .with(endpoint(7, "blue/web", &["10.0.0.2"]))
            .with(endpoint(9, "red/thief", &["10.0.0.9", "10.0.0.2"]))
            .build();
        assert_eq!(endpoints.by_address(address("10.0.0.2")).unwrap().ifindex, 7);
        let thief = endpoints.by_ifindex(9).unwrap();
        assert!(thief.quarantined);
        assert!(!thief.owns(address("10.0.0.2")));
        assert!(!endpoints.by_ifindex(7).unwrap().quarantined);
        let [conflict] = conflicts.as_slice() else { panic!("{conflicts:?}") };
        assert!(conflict.to_string().contains("red/thief is quarantined"), "{conflict}");
    }

    #[test]
    fn a_second_endpoint_on_one_device_is_ignored() {
        let (endpoints, conflicts) = EndpointsBuilder::new()
            .with(endpoint(7, "blue/web", &["10.0.0.2"]))
            .with(endpoint(7, "red/other", &["10.0.0.5"]))
            .build();
        assert_eq!(endpoints.len(), 1);
        assert!(endpoints.by_address(address("10.0.0.5")).is_none());
        assert_eq!(conflicts.len(), 1);
    }

    #[test]
    fn an_address_named_twice_by_its_owner_is_no_conflict() {
        let (endpoints, conflicts) = EndpointsBuilder::new()
            .with(endpoint(7, "blue/web", &["10.0.0.2", "10.0.0.2"]))
            .build();
        assert!(conflicts.is_empty());
        assert_eq!(endpoints.by_ifindex(7).unwrap().addresses.len(), 1);
    }
}
