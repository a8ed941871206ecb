//! Flows as pairs of ports, and which frame belongs to which flow.
//!
//! Invariant: flow `n` has one pair of ports, and two flows below [`Flows::room`] never the
//! same one.

use std::str::FromStr;

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The first.
    pub first: u16,
    /// The last, not below the first.
    pub last: u16,
}

impl Ports {
    /// Every port.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    /// How many, at least 1.
    pub fn count(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }

    /// The port at a place, counted from 0 and around.
    #[expect(clippy::cast_possible_truncation, reason = "the sum is at most last")]
    fn at(self, place: u32) -> u16 {
        (u32::from(self.first) + place % self.count()) as u16
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(Self { first, last }),
            _ => Err(format!("{text:?} is no range of ports like 9000-9063")),
        }
    }
}

/// The flows between one pair of addresses.
#[derive(Clone, Copy, Debug)]
pub struct Flows {
    sport: Ports,
    dport: Ports,
    established: u32,
}

impl Flows {
    /// Flows of these ports, of which the first `established` are set up before measuring.
    pub fn new(sport: Ports, dport: Ports, established: u32) -> Self {
        Self { sport, dport, established }
    }

    /// How many flows the ports make.
    pub fn room(&self) -> u64 {
        u64::from(self.sport.count()) * u64::from(self.dport.count())
    }

    /// How many are set up before measuring.
    pub fn established(&self) -> u32 {
        self.established
    }

    /// Source and destination port of a flow: source ports first, as many clients of few
    /// servers have them.
    pub fn ports(&self, flow: u32) -> (u16, u16) {
        (self.sport.at(flow), self.dport.at(flow / self.sport.count()))
    }

    /// Of the established flows, the first to each destination port.
    pub fn first_of_ports(&self) -> impl Iterator<Item = u32> + use<> {
        let step = usize::try_from(self.sport.count()).unwrap_or(usize::MAX);
        (0..self.established).step_by(step)
    }

    /// The `n`th new flow: those behind the established ones, and around.
    #[expect(clippy::cast_possible_truncation, reason = "below room, which is at most 2^32")]
    pub fn fresh(&self, n: u64) -> u32 {
        let spare = (self.room() - u64::from(self.established)).max(1);
        (u64::from(self.established) + n % spare) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn a_million_flows_are_a_million_pairs_of_ports() {
        let flows =
            Flows::new("20000-52767".parse().unwrap(), "9000-9063".parse().unwrap(), 1_000_000);
        let pairs: HashSet<_> = (0..1_000_000).map(|flow| flows.ports(flow)).collect();
        assert_eq!(pairs.len(), 1_000_000);
        assert_eq!(flows.room(), 1 << 21);
        let firsts: Vec<u32> = flows.first_of_ports().collect();
        assert_eq!((firsts.len(), firsts[1]), (31, 32_768));
        assert_eq!((flows.ports(0), flows.ports(32_768)), ((20_000, 9000), (20_000, 9001)));
    }

    #[test]
    fn the_largest_space_has_no_overflow() {
        let flows = Flows::new(Ports::ALL, Ports::ALL, u32::MAX);
        assert_eq!(flows.room(), 1 << 32);
        assert_eq!(flows.ports(u32::MAX), (u16::MAX, u16::MAX));
        assert_eq!(flows.fresh(u64::MAX), u32::MAX);
    }

    proptest! {
        #[test]
        fn new_flows_are_never_established_ones(
            first in 1_u16..60_000, more in 1_u16..50, servers in 0_u16..5, n in any::<u64>(),
        ) {
            let sport = Ports { first, last: first + more };
            let dport = Ports { first: 9000, last: 9000 + servers };
            let flows = Flows::new(sport, dport, u32::from(more));
            let fresh = flows.fresh(n);
            prop_assert!(fresh >= u32::from(more) && u64::from(fresh) < flows.room());
            let (source, destination) = flows.ports(fresh);
            prop_assert!((sport.first..=sport.last).contains(&source));
            prop_assert!((dport.first..=dport.last).contains(&destination));
        }
    }
}
