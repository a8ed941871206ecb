//! ipBlocks: from all CIDRs of all policies to few classes of addresses.
//!
//! Two addresses are of one *CIDR class* if the same ipBlocks match them. CIDRs nest or are
//! disjoint, so the set of blocks that match an address depends only on the longest CIDR (of any
//! `cidr` or `except`) that contains it: a longest-prefix table gives the class.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rustc_hash::FxHashMap;

use crate::model::{Direction, NetworkPolicy, Peer};

/// An ipBlock: the CIDR and what is taken out of it.
pub(super) type Block = (IpNet, Vec<IpNet>);

/// The CIDR classes of a set of policies.
#[derive(Debug, Clone)]
pub(super) struct Blocks {
    /// Distinct ipBlocks.
    numbers: BTreeMap<Block, u32>,
    /// Each prefix and its CIDR class; contains 0.0.0.0/0 and ::/0.
    prefixes: FxHashMap<IpNet, u32>,
    /// Prefix lengths in use, longest first: IPv4, IPv6.
    lengths: [Vec<u8>; 2],
    /// How many CIDR classes there are.
    classes: usize,
    /// For each block the CIDR classes whose addresses it matches, ascending.
    matched: Vec<Vec<u32>>,
}

impl Blocks {
    /// Collects the blocks of every effective rule.
    pub(super) fn of<'a>(policies: impl Iterator<Item = &'a NetworkPolicy>) -> Self {
        let mut blocks: BTreeSet<Block> = BTreeSet::new();
        for policy in policies {
            for direction in [Direction::Ingress, Direction::Egress] {
                for peer in policy.rules(direction).iter().flat_map(|rule| &rule.peers) {
                    if let Peer::IpBlock { cidr, except } = &peer.peer {
                        blocks.insert((*cidr, except.clone()));
                    }
                }
            }
        }
        let mut prefixes: BTreeSet<IpNet> = BTreeSet::new();
        prefixes.insert(IpNet::V4(Ipv4Net::default()));
        prefixes.insert(IpNet::V6(Ipv6Net::default()));
        for (cidr, except) in &blocks {
            prefixes.insert(*cidr);
            prefixes.extend(except);
        }
        let mut classes: FxHashMap<Vec<u32>, u32> = FxHashMap::default();
        let mut matched: Vec<Vec<u32>> = vec![Vec::new(); blocks.len()];
        let mut table = FxHashMap::default();
        let mut lengths = [BTreeSet::new(), BTreeSet::new()];
        let mut by_cidr: FxHashMap<IpNet, Vec<(u32, &[IpNet])>> = FxHashMap::default();
        for (number, (cidr, except)) in (0u32..).zip(&blocks) {
            by_cidr.entry(*cidr).or_default().push((number, except));
        }
        for prefix in prefixes {
            // A block's CIDR contains the prefix exactly if it is the prefix cut to some length.
            let mut key: Vec<u32> = (0..=prefix.prefix_len())
                .filter_map(|length| IpNet::new(prefix.addr(), length).ok())
                .filter_map(|covering| by_cidr.get(&covering.trunc()))
                .flatten()
                .filter(|(_, except)| !except.iter().any(|hole| hole.contains(&prefix)))
                .map(|(number, _)| *number)
                .collect();
            key.sort_unstable();
            let next = count(classes.len());
            let class = *classes.entry(key).or_insert_with_key(|key| {
                key.iter().for_each(|block| matched[*block as usize].push(next));
                next
            });
            table.insert(prefix, class);
            lengths[family(&prefix.addr())].insert(prefix.prefix_len());
        }
        let lengths = lengths.map(|set| set.into_iter().rev().collect());
        let numbers = blocks.into_iter().zip(0u32..).collect();
        Self { numbers, prefixes: table, lengths, classes: classes.len(), matched }
    }

    /// How many CIDR classes there are.
    pub(super) fn len(&self) -> usize {
        self.classes
    }

    /// The CIDR class of an address.
    pub(super) fn class_of(&self, address: IpAddr) -> u32 {
        for &length in &self.lengths[family(&address)] {
            let Ok(prefix) = IpNet::new(address, length) else { continue };
            if let Some(&class) = self.prefixes.get(&prefix.trunc()) {
                return class;
            }
        }
        // The default prefixes match everything, so this is not reached; if it were, class 0 is
        // that of the shortest prefix.
        0
    }

    /// The number of a block.
    pub(super) fn number(&self, block: &Block) -> Option<u32> {
        self.numbers.get(block).copied()
    }

    /// The CIDR classes whose addresses a block matches.
    pub(super) fn matched_by(&self, block: u32) -> &[u32] {
        &self.matched[block as usize]
    }

    /// Every prefix and its CIDR class, in the order of the prefixes.
    pub(super) fn prefixes(&self) -> Vec<(IpNet, u32)> {
        let mut prefixes: Vec<(IpNet, u32)> =
            self.prefixes.iter().map(|(net, class)| (*net, *class)).collect();
        prefixes.sort_unstable();
        prefixes
    }
}

fn family(address: &IpAddr) -> usize {
    usize::from(address.is_ipv6())
}

/// A length as the 32-bit index that the table uses.
pub(super) fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
