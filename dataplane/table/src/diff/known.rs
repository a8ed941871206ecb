//! A copy of an address map, to tell what was changed in the map since.

use std::cmp::Ordering;

use crate::{
    addr::Address,
    addrmap::AddressMap,
    classify::Classifier,
    mem::Words,
    policy::{ClassId, PolicyTable},
};

/// How often a copy is begun anew because the map changed meanwhile. A reading
/// of ten thousand addresses takes some 0.1 ms, a change some microseconds, so
/// a writer would have to write without rest to defeat them all.
const ATTEMPTS: usize = 16;

/// The contents of an address map at one time.
///
/// Control changes a map in place, so that its owner cannot say what was in it
/// before. The dataplane keeps this copy: [`KnownAddresses::update`] names the
/// addresses that were changed since, and [`super::changes_between`] compares
/// what verdicts were given by, not what has been written meanwhile.
///
/// **What a copy cannot see**: a class that was changed and changed back between
/// two updates. Therefore whoever changes a map makes the dataplane update its
/// copy before the same address is changed again.
#[derive(Clone, Debug)]
pub struct KnownAddresses {
    generation: u64,
    epoch: u64,
    settled: bool,
    /// Ascending, no address twice.
    entries: Vec<(Address, ClassId)>,
}

impl KnownAddresses {
    /// Copies a classifier's address map as it is now.
    pub fn of<B: AsRef<[u8]>, W: Words>(classifier: &Classifier<B, W>) -> KnownAddresses {
        KnownAddresses::read(classifier.addresses(), &[])
    }

    /// Takes over what the map says now; gives every address that came, went or
    /// has another class, ascending, none twice.
    ///
    /// A map of another generation than the copy's: every address of either,
    /// since class numbers mean one generation only. What changed in policy is
    /// the business of [`super::changes`].
    pub fn update<B: AsRef<[u8]>, W: Words>(
        &mut self,
        classifier: &Classifier<B, W>,
    ) -> Vec<Address> {
        let now = KnownAddresses::read(classifier.addresses(), &self.entries);
        let same_numbers = self.generation == now.generation;
        let changed = merge(&self.entries, &now.entries)
            .filter(|&(_, before, after)| !same_numbers || before != after)
            .map(|(address, ..)| address)
            .collect();
        *self = now;
        changed
    }

    /// The map's epoch that the copy is at least as new as: while the map's is
    /// the same, an update would find nothing.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether the map held an address.
    pub fn contains(&self, address: Address) -> bool {
        self.entries.binary_search_by_key(&address, |entry| entry.0).is_ok()
    }

    /// The class under which the map held an address.
    pub(super) fn class_of(&self, address: Address) -> Option<ClassId> {
        let at = self.entries.binary_search_by_key(&address, |entry| entry.0).ok()?;
        self.entries.get(at).map(|entry| entry.1)
    }

    /// The addresses that the map held and `later` does not.
    pub fn gone_in(&self, later: &KnownAddresses) -> Vec<Address> {
        let all = self.entries.iter().map(|entry| entry.0);
        all.filter(|address| !later.contains(*address)).collect()
    }

    /// How many addresses the map held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the map held no address.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the copy is all of the map at one moment. It is not if the map's
    /// writer never rested, or stopped in the middle of a change.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// The addresses and their classes, ascending.
    pub(super) fn entries(&self) -> &[(Address, ClassId)] {
        &self.entries
    }

    /// Whether the class numbers are those of `table`.
    pub(super) fn belongs_to<B: AsRef<[u8]>>(&self, table: &PolicyTable<B>) -> bool {
        self.generation == table.generation()
    }

    /// Reads a map; `before` are addresses that it is known to have held.
    fn read<W: Words>(map: &AddressMap<W>, before: &[(Address, ClassId)]) -> KnownAddresses {
        let mut known = KnownAddresses {
            generation: map.generation(),
            epoch: 0,
            settled: false,
            entries: Vec::new(),
        };
        for _ in 0..ATTEMPTS {
            known.epoch = map.epoch();
            known.entries.clear();
            known.entries.extend(map.iter());
            known.entries.sort_unstable();
            // The map counts what is live: a number that does not agree means a
            // slot in the making or an address on its way to another slot.
            let complete = known.entries.len() == map.len();
            let distinct = known.entries.windows(2).all(|pair| pair[0].0 < pair[1].0);
            if complete && distinct && map.epoch() == known.epoch {
                known.settled = true;
                return known;
            }
        }
        // A lookup, unlike a pass over the slots, does not miss what moves.
        known.entries.extend_from_slice(before);
        known.entries.sort_unstable();
        known.entries.dedup_by_key(|entry| entry.0);
        known.entries.retain_mut(|(address, class)| match map.lookup(*address) {
            Some(now) => {
                *class = now;
                true
            }
            None => false,
        });
        known
    }
}

/// Walks two ascending lists together: each address of either once, with its
/// class in the first and in the second.
pub(super) fn merge(
    old: &[(Address, ClassId)],
    new: &[(Address, ClassId)],
) -> impl Iterator<Item = (Address, Option<ClassId>, Option<ClassId>)> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => a.0.cmp(&b.0),
        };
        let before = if order.is_le() { old.next() } else { None };
        let after = if order.is_ge() { new.next() } else { None };
        let &(address, _) = before.or(after)?;
        Some((address, before.map(|entry| entry.1), after.map(|entry| entry.1)))
    })
}
