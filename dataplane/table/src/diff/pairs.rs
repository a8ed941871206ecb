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
        let mut taken = Vec::with_capacity(new.addresses.len());
        for (address, before, after) in merge(old.addresses.entries(), new.addresses.entries()) {
            taken.push(address);
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
        for range in ranges(old.table, new.table) {
            // Where every address is a pod's, the prefix decides nothing.
            if !is_filled(&taken, range.first, range.last) {
                let pair = numbers.number(&mut pairing.pairs, range.old, range.new);
                pairing.pairs[pair].range = true;
            }
        }
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

/// Addresses in a row, by their bits, for which neither prefix table changes.
struct Range {
    first: u128,
    last: u128,
    old: ClassId,
    new: ClassId,
}

/// The ranges of both families.
fn ranges<B: AsRef<[u8]>, B2: AsRef<[u8]>>(
    old: &PolicyTable<B>,
    new: &PolicyTable<B2>,
) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    let v4 = |bits: u32| Address::v4(bits.to_be_bytes()).bits();
    overlay(old.v4_intervals(), new.v4_intervals(), |first, old, new| {
        ranges.push(Range { first: v4(first), last: v4(u32::MAX), old, new });
    });
    let family = ranges.len();
    overlay(old.v6_intervals(), new.v6_intervals(), |first, old, new| {
        ranges.push(Range { first, last: u128::MAX, old, new });
    });
    // Each but a family's last ends where the next begins.
    for next in (1..ranges.len()).filter(|&next| next != family) {
        ranges[next - 1].last = ranges[next].first - 1;
    }
    ranges
}

/// Whether `taken`, which ascends, has every address from `first` to `last`.
fn is_filled(taken: &[Address], first: u128, last: u128) -> bool {
    let from = taken.partition_point(|address| address.bits() < first);
    let through = taken.partition_point(|address| address.bits() <= last);
    (through - from) as u128 > last - first
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

/// Lays one list of stretches over another: `f` gets the beginning and the values
/// of each stretch in which neither changes. Both lists ascend and begin at the
/// same point; a stretch lasts up to where the next begins.
pub(super) fn overlay<K: Ord + Copy, A: Copy, B: Copy>(
    old: impl Iterator<Item = (K, A)>,
    new: impl Iterator<Item = (K, B)>,
    mut f: impl FnMut(K, A, B),
) {
    let (mut old, mut new) = (old.peekable(), new.peekable());
    let (Some((mut first, mut before)), Some((_, mut after))) = (old.next(), new.next()) else {
        return; // never: a table has a first interval and each program a first span
    };
    loop {
        f(first, before, after);
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        if order.is_le()
            && let Some((start, value)) = old.next()
        {
            (first, before) = (start, value);
        }
        if order.is_ge()
            && let Some((start, value)) = new.next()
        {
            (first, after) = (start, value);
        }
    }
}
