//! Pairs of classes: which class an address had, and which it has.
//!
//! Classes are numbered anew in each generation, so a class alone says nothing
//! across two of them. But two addresses with the same old class and the same
//! new class see the same change of every verdict: such a *pair* is the unit of
//! comparison.

use std::cmp::Ordering;

use rustc_hash::FxHashMap;

use super::{Moment, known::merge};
use crate::{
    addr::Address,
    policy::{ClassId, PolicyTable},
};

/// An old and a new class that occur together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) old: ClassId,
    pub(super) new: ClassId,
    /// Whether a range of addresses of no pod has it; a range cannot be named.
    pub(super) range: bool,
    /// Whether the old class occurs with other new classes too, or the new one
    /// with other old ones. A generation that only numbers anew has none of
    /// these; a pod that got another label, and an address that got another
    /// owner, most often are one.
    pub(super) moved: bool,
}

/// An address of a pod that has a pair.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pod {
    pub(super) address: Address,
    /// Index into [`Pairing::pairs`].
    pub(super) pair: usize,
    /// Whether it is an endpoint of this node, known to both address maps.
    pub(super) local: bool,
}

/// All pairs, and who has them.
#[derive(Debug, Default)]
pub(super) struct Pairing {
    pub(super) pairs: Vec<Pair>,
    /// Ascending by address.
    pub(super) pods: Vec<Pod>,
    /// Addresses that change whatever their peers are, ascending.
    pub(super) named: Vec<Address>,
}

impl Pairing {
    /// Pairs up the classes of every address. `local` is ascending.
    pub(super) fn of<B: AsRef<[u8]>, B2: AsRef<[u8]>>(
        old: Moment<'_, B>,
        new: Moment<'_, B2>,
        local: &[Address],
    ) -> Pairing {
        let mut pairing = Pairing::default();
        let mut numbers = Numbers::default();
        let known = (old.table.classes(), new.table.classes());
        for (address, before, after) in merge(old.addresses.entries(), new.addresses.entries()) {
            let local = local.binary_search(&address).is_ok();
            if local && before.is_some() != after.is_some() {
                // In quarantine at one time, under policy at the other.
                pairing.named.push(address);
                continue;
            }
            let before = before.unwrap_or_else(|| old.table.class_of_prefix(address));
            let after = after.unwrap_or_else(|| new.table.class_of_prefix(address));
            match ((before.0 as usize) < known.0, (after.0 as usize) < known.1) {
                (true, true) => {
                    let pair = numbers.number(&mut pairing.pairs, before, after);
                    pairing.pods.push(Pod { address, pair, local });
                }
                // Everything of an unknown class is denied, in both generations.
                (false, false) => {}
                _ => pairing.named.push(address),
            }
        }
        let add = |before, after| {
            let pair = numbers.number(&mut pairing.pairs, before, after);
            pairing.pairs[pair].range = true;
        };
        ranges(old.table, new.table, add);
        mark_moved(&mut pairing.pairs, known);
        pairing
    }
}

/// Pair → its number.
#[derive(Default)]
struct Numbers(FxHashMap<(ClassId, ClassId), usize>);

impl Numbers {
    fn number(&mut self, pairs: &mut Vec<Pair>, old: ClassId, new: ClassId) -> usize {
        *self.0.entry((old, new)).or_insert_with(|| {
            pairs.push(Pair { old, new, range: false, moved: false });
            pairs.len() - 1
        })
    }
}

/// The pairs of the prefix tables' ranges, some of them repeatedly.
fn ranges<B: AsRef<[u8]>, B2: AsRef<[u8]>>(
    old: &PolicyTable<B>,
    new: &PolicyTable<B2>,
    mut add: impl FnMut(ClassId, ClassId),
) {
    overlay(old.v4_intervals(), new.v4_intervals(), &mut add);
    overlay(old.v6_intervals(), new.v6_intervals(), &mut add);
}

fn mark_moved(pairs: &mut [Pair], (old_classes, new_classes): (usize, usize)) {
    let (mut after, mut before) = (vec![0u32; old_classes], vec![0u32; new_classes]);
    for pair in pairs.iter() {
        // Every class of a pair is below its table's count.
        after[pair.old.0 as usize] += 1;
        before[pair.new.0 as usize] += 1;
    }
    for pair in pairs {
        pair.moved = after[pair.old.0 as usize] > 1 || before[pair.new.0 as usize] > 1;
    }
}

/// Lays one list of stretches over another: `f` gets the values of each stretch
/// in which neither changes. Both lists ascend and begin at the same point; a
/// stretch is given by where it begins and lasts up to the next.
pub(super) fn overlay<K: Ord, A: Copy, B: Copy>(
    old: impl Iterator<Item = (K, A)>,
    new: impl Iterator<Item = (K, B)>,
    mut f: impl FnMut(A, B),
) {
    let (mut old, mut new) = (old.peekable(), new.peekable());
    let (Some((_, mut before)), Some((_, mut after))) = (old.next(), new.next()) else {
        return; // never: a table has a first interval and each program a first span
    };
    loop {
        f(before, after);
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        if order.is_le()
            && let Some((_, value)) = old.next()
        {
            before = value;
        }
        if order.is_ge()
            && let Some((_, value)) = new.next()
        {
            after = value;
        }
    }
}
