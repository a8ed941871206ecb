//! The fewest addresses that cover every change.
//!
//! A change is an edge between an endpoint of this node and a peer for which a
//! verdict of the endpoint differs. Each edge needs one of its ends named: a
//! vertex cover. Addresses of one pair, and all of them or none of them on this
//! node, have the same edges; so a *kind* (pair, local or not) is chosen as a
//! whole and the graph stays as small as the number of pairs.
//!
//! Greedy: the kind whose addresses each cover the most uncovered edges comes
//! first. Nothing smaller is promised than within a logarithm of the least, but
//! what happens one at a time is answered exactly: a changed policy has the edges
//! of its endpoints, a relabelled or replaced pod those of its own address.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{
    pairs::{Pair, Pod},
    verdicts::{PairSet, contains, members},
};

/// How many candidates are looked at before the rest is covered by naming the
/// endpoints of this node: some milliseconds. What happens to a few pods or
/// policies at a time takes few steps.
const MAX_STEPS: usize = 20_000;

/// A pair, and whether its addresses are on this node: the index is
/// `2 * pair + local`.
type Kind = usize;

fn kind_of(pod: &Pod) -> Kind {
    2 * pod.pair + usize::from(pod.local)
}

/// Endpoints of this node whose verdicts change for the same peers.
#[derive(Debug)]
pub(super) struct Group {
    /// The peers.
    pub(super) differing: PairSet,
}

/// The graph while it is being covered. All counts are of addresses that are not
/// yet chosen.
pub(super) struct Cover<'a> {
    pairs: &'a [Pair],
    groups: &'a [Group],
    /// The group of each pair's local addresses, if it has any.
    group_of: &'a [Option<usize>],
    /// Addresses of each kind.
    counts: Vec<u64>,
    chosen: Vec<bool>,
    /// For each group: peers for which its endpoints change.
    peers: Vec<u64>,
    /// For each pair: endpoints that change for it.
    endpoints: Vec<u64>,
}

impl<'a> Cover<'a> {
    pub(super) fn new(
        pairs: &'a [Pair],
        pods: &[Pod],
        groups: &'a [Group],
        group_of: &'a [Option<usize>],
    ) -> Cover<'a> {
        let mut counts = vec![0; 2 * pairs.len()];
        for pod in pods {
            counts[kind_of(pod)] += 1;
        }
        let of_pair = |pair: usize| counts[2 * pair] + counts[2 * pair + 1];
        let peers = groups.iter().map(|group| members(&group.differing).map(of_pair).sum());
        let mut cover = Cover {
            pairs,
            groups,
            group_of,
            peers: peers.collect(),
            endpoints: vec![0; pairs.len()],
            chosen: vec![false; counts.len()],
            counts,
        };
        for (pair, group) in group_of.iter().enumerate() {
            if let &Some(group) = group {
                for peer in members(&groups[group].differing) {
                    cover.endpoints[peer] += cover.counts[2 * pair + 1];
                }
            }
        }
        cover
    }

    /// Covers every edge.
    pub(super) fn run(&mut self) {
        // What changes for a range has no other end to name.
        let changes_for_range = |group: &Group| {
            members(&group.differing).any(|peer| self.pairs.get(peer).is_some_and(|p| p.range))
        };
        let forced: Vec<bool> = self.groups.iter().map(changes_for_range).collect();
        self.choose_endpoints(|cover, pair| cover.group_of[pair].is_some_and(|g| forced[g]));
        // Degrees only fall, so an entry whose degree is no longer right goes
        // back with the right one, and whatever is right at the top is largest.
        let kinds = 0..self.counts.len();
        let mut heap: BinaryHeap<_> = kinds.map(|kind| self.priority(kind)).collect();
        heap.retain(|entry| entry.0 > 0);
        let mut steps = 0;
        while let Some(entry) = heap.pop() {
            steps += 1;
            if steps > MAX_STEPS {
                break;
            }
            let now = self.priority(entry.2.0);
            if now.0 == 0 {
                continue;
            }
            if now == entry {
                self.choose(entry.2.0);
            } else {
                heap.push(now);
            }
        }
        // After too many steps: every edge has an end on this node.
        self.choose_endpoints(|cover, pair| cover.degree(pair, true) > 0);
    }

    /// Names the local addresses of every pair for which `holds`.
    fn choose_endpoints(&mut self, holds: impl Fn(&Self, usize) -> bool) {
        for pair in 0..self.pairs.len() {
            if self.group_of[pair].is_some() && holds(self, pair) {
                self.choose(2 * pair + 1);
            }
        }
    }

    /// Whether the address was chosen.
    pub(super) fn names(&self, pod: &Pod) -> bool {
        self.chosen[kind_of(pod)]
    }

    /// Uncovered edges of each address of a kind; among equals one that seems to
    /// have moved itself goes before one that did not, then an endpoint of this
    /// node before a peer elsewhere.
    fn priority(&self, kind: Kind) -> (u64, u8, Reverse<Kind>) {
        let (pair, local) = (kind / 2, kind % 2 == 1);
        let rank = u8::from(self.pairs[pair].moved) * 2 + u8::from(local);
        (self.degree(pair, local), rank, Reverse(kind))
    }

    fn degree(&self, pair: usize, local: bool) -> u64 {
        if self.counts[2 * pair + usize::from(local)] == 0 {
            return 0;
        }
        let as_peer = self.endpoints[pair];
        match self.group_of[pair] {
            Some(group) if local => {
                // A pod always reaches itself: no edge, but counted from both ends.
                let itself = 2 * u64::from(contains(&self.groups[group].differing, pair));
                (self.peers[group] + as_peer).saturating_sub(itself)
            }
            _ => as_peer,
        }
    }

    /// Names all addresses of a kind, which covers all of their edges.
    fn choose(&mut self, kind: Kind) {
        let (pair, local) = (kind / 2, kind % 2 == 1);
        let count = std::mem::take(&mut self.counts[kind]);
        self.chosen[kind] = true;
        for (group, peers) in self.groups.iter().zip(&mut self.peers) {
            if contains(&group.differing, pair) {
                *peers -= count;
            }
        }
        if let (true, Some(group)) = (local, self.group_of[pair]) {
            for peer in members(&self.groups[group].differing) {
                self.endpoints[peer] -= count;
            }
        }
    }
}
