//! What a new generation changes: the addresses whose verdicts may differ.
//!
//! When a generation replaces another, most flows keep their verdict. Judging
//! all of them again costs time that grows with the flows; so the dataplane asks
//! here which *addresses* are concerned, and judges only the flows of those.
//!
//! ```text
//!   address ─▶ (old class, new class)              pairs     few, however many addresses
//!   endpoint ─▶ (old programs, new programs)       groups    ─▶ pairs with another verdict
//!   endpoints × pairs, where a verdict differs     edges     ─▶ a small cover: addresses
//! ```
//!
//! A verdict of an endpoint E of this node about a peer P depends on E's program
//! and P's class, so each change is an edge (E, P), and it suffices to name one
//! end of each. That way a policy that is added to E names E, not its thousand
//! clients; and a client that gets another label is named itself, not the
//! thousand servers whose policies select it.
//!
//! - **Soundness**: take a connection with an end on this node, at any protocol
//!   and port. If it is allowed by one generation and not by the other (both
//!   ends on this node are asked; an endpoint that the address map does not hold
//!   is in quarantine), then one of its ends is named, or [`Changes::all`] is set
//!   (property test against every connection).
//! - Only allowed or not counts. Another rule, another policy's name, other
//!   numbers of classes, rows and programs are no change.
//! - **Exactness**: each named address has a connection for which the verdict of
//!   one half that is asked here differs (property test). It is the *halves* that
//!   are compared: a connection that the other half denies both times counts too.
//!   An address whose class only one of the tables knows is always named.
//! - Services: an endpoint's verdict about a Service depends on the classes of its backends,
//!   which are no end of the connection. So a Service's address is named itself, if at one of its
//!   ports the verdict of some endpoint of this node differs (`services`). The unspecified
//!   address stands for those of the node, as in the table; it is named as well if a NodePort
//!   comes or goes, since what a port of the node was without it is not known here.
//! - **Bounded**: about 50 million elementary comparisons at most, some
//!   50 ms; beyond that [`Changes::all`].
//! - No lookup panics, whatever the (validated) tables and the maps hold.

mod cover;
mod known;
mod pairs;
#[cfg(all(test, not(loom)))]
mod properties;
#[cfg(all(test, not(loom)))]
mod scale;
mod services;
#[cfg(all(test, not(loom)))]
mod tests;
mod verdicts;
#[cfg(all(test, not(loom)))]
mod world;

pub use known::KnownAddresses;

use rustc_hash::FxHashMap;

use crate::{addr::Address, classify::Classifier, mem::Words, policy::PolicyTable};
use cover::{Cover, Group};
use pairs::Pairing;
use verdicts::{Budget, Verdicts, members};

/// Most elementary comparisons; one takes about a nanosecond.
const MAX_WORK: u64 = 50_000_000;

/// What a new generation changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Every flow must be judged again: the comparison would take too long, or
    /// an address map could not be read as a whole. Then `addresses` is empty.
    pub all: bool,
    /// The addresses whose flows must be judged again, ascending, none twice.
    pub addresses: Vec<Address>,
}

impl Changes {
    const ALL: Changes = Changes { all: true, addresses: Vec::new() };

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        !self.all && self.addresses.is_empty()
    }
}

/// A generation at one time: its table, and what its address map held.
#[derive(Debug)]
pub struct Moment<'a, B> {
    /// The policy table.
    pub table: &'a PolicyTable<B>,
    /// A copy of the address map of the same generation.
    pub addresses: &'a KnownAddresses,
}

impl<B> Clone for Moment<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for Moment<'_, B> {}

/// The addresses for which replacing `old` by `new` can change a verdict that
/// this node gives. `local` are the addresses of the endpoints of this node, in
/// any order.
///
/// Compares the address maps as they are now. Where they may be changed in place
/// while verdicts are given, take [`changes_between`].
pub fn changes<B: AsRef<[u8]>, W: Words, B2: AsRef<[u8]>, W2: Words>(
    old: &Classifier<B, W>,
    new: &Classifier<B2, W2>,
    local: &[Address],
) -> Changes {
    let (before, after) = (KnownAddresses::of(old), KnownAddresses::of(new));
    changes_between(
        Moment { table: old.table(), addresses: &before },
        Moment { table: new.table(), addresses: &after },
        local,
    )
}

/// [`changes`] between two moments.
///
/// With maps that change in place: copy the new map *before* any worker judges by
/// it, and call [`KnownAddresses::update`] on both copies *after* no worker
/// judges by the old generation any more. Every verdict given meanwhile rests on
/// what the copies say, or on a change that the updates name; so the addresses of
/// all three together are those to judge again.
pub fn changes_between<B: AsRef<[u8]>, B2: AsRef<[u8]>>(
    old: Moment<'_, B>,
    new: Moment<'_, B2>,
    local: &[Address],
) -> Changes {
    changes_within(old, new, local, Budget::new(MAX_WORK))
}

fn changes_within<B: AsRef<[u8]>, B2: AsRef<[u8]>>(
    old: Moment<'_, B>,
    new: Moment<'_, B2>,
    local: &[Address],
    mut budget: Budget,
) -> Changes {
    let readable = old.addresses.is_settled() && new.addresses.is_settled();
    // Class numbers of another generation mean nothing here.
    if !readable || !old.addresses.belongs_to(old.table) || !new.addresses.belongs_to(new.table) {
        return Changes::ALL;
    }
    if old.addresses.entries() == new.addresses.entries() && old.table.says_the_same(new.table) {
        return Changes::default();
    }
    let mut local = local.to_vec();
    local.sort_unstable();
    local.dedup();

    let Pairing { pairs, pods, mut named } = Pairing::of(old, new, &local);
    // Endpoints of one pair have the same programs, before and after.
    let mut groups: Vec<Group> = Vec::new();
    let mut group_of = vec![None; pairs.len()];
    let mut numbers = FxHashMap::default();
    let mut verdicts = Verdicts::new(old.table, new.table, &pairs);
    let mut edges = 0;
    for pod in pods.iter().filter(|pod| pod.local) {
        if group_of[pod.pair].is_some() {
            continue;
        }
        let pair = pairs[pod.pair];
        let (Some(before), Some(after)) =
            (old.table.programs(pair.old), new.table.programs(pair.new))
        else {
            continue; // never: a pair's classes are known
        };
        let group = *numbers.entry((before, after)).or_insert_with(|| {
            let differing = verdicts.differing(before, after, &mut budget);
            groups.push(Group { differing });
            groups.len() - 1
        });
        group_of[pod.pair] = Some(group);
        edges += members(&groups[group].differing).count();
    }
    budget.spend(edges + groups.len() * pairs.len());
    if budget.is_exceeded() {
        return Changes::ALL;
    }
    let Some(services) = services::changed((old, new), &pairs, &pods, &mut budget) else {
        return Changes::ALL;
    };
    let mut cover = Cover::new(&pairs, &pods, &groups, &group_of);
    cover.run();
    named.extend(pods.iter().filter(|pod| cover.names(pod)).map(|pod| pod.address));
    named.extend(services);
    named.sort_unstable();
    named.dedup();
    Changes { all: false, addresses: named }
}
