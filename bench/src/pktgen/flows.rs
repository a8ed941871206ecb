//! Flows as pairs of addresses and ports, and which frame belongs to which flow.
//!
//! Invariant: flow `n` has one tuple, and two flows below [`Flows::room`] never the same one.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::addresses::Addresses;

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

/// What tells one flow of a run from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Source and destination; `None`: those of the frame, which all flows have.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// Source and destination port.
    pub ports: (u16, u16),
}

impl From<(u16, u16)> for Tuple {
    fn from(ports: (u16, u16)) -> Self {
        Self { addresses: None, ports }
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (source, destination) = self.ports;
        match self.addresses {
            None => write!(f, "from port {source} to {destination}"),
            Some((from, to)) => {
                let (from, to) = (SocketAddr::new(from, source), SocketAddr::new(to, destination));
                write!(f, "from {from} to {to}")
            }
        }
    }
}

/// The flows between ranges of addresses.
#[derive(Clone, Copy, Debug)]
pub struct Flows {
    from: Addresses,
    to: Addresses,
    sport: Ports,
    dport: Ports,
    established: u32,
}

impl Flows {
    /// Flows between these addresses and ports, of which the first `established` are set up
    /// before measuring.
    pub fn new(
        (from, to): (Addresses, Addresses),
        (sport, dport): (Ports, Ports),
        established: u32,
    ) -> Self {
        Self { from, to, sport, dport, established }
    }

    /// How many flows addresses and ports make, as far as they are counted: up to 2^32.
    pub fn room(&self) -> u64 {
        let ports = u64::from(self.sport.count()) * u64::from(self.dport.count());
        ports.saturating_mul(self.pairs()).min(1 << 32)
    }

    /// Pairs of addresses.
    fn pairs(&self) -> u64 {
        u64::from(self.from.count()) * u64::from(self.to.count())
    }

    /// How many are set up before measuring.
    pub fn established(&self) -> u32 {
        self.established
    }

    /// Addresses and ports of a flow: source addresses first, then destinations, so that few
    /// flows use all of them; then source ports before destination ports, as many clients of
    /// few servers have them.
    #[expect(clippy::cast_possible_truncation, reason = "parts of a 32-bit number")]
    pub fn tuple(&self, flow: u32) -> Tuple {
        let port = (u64::from(flow) / self.pairs()) as u32;
        let ports = (self.sport.at(port), self.dport.at(port / self.sport.count()));
        let addresses =
            (self.pairs() > 1).then(|| (self.from.at(flow), self.to.at(flow / self.from.count())));
        Tuple { addresses, ports }
    }

    /// Of the established flows, the first between two addresses to each destination port: what
    /// a policy engine may remember of one serves for the others.
    pub fn first_of_ports(&self) -> impl Iterator<Item = u32> + use<> {
        let (pairs, sources) = (self.pairs(), u64::from(self.sport.count()));
        (0..self.established).filter(move |flow| u64::from(*flow) / pairs % sources == 0)
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

    fn one() -> (Addresses, Addresses) {
        (IpAddr::from([10, 0, 0, 1]).into(), IpAddr::from([10, 0, 0, 2]).into())
    }

    #[test]
    fn a_million_flows_are_a_million_pairs_of_ports() {
        let ports = ("20000-52767".parse().unwrap(), "9000-9063".parse().unwrap());
        let flows = Flows::new(one(), ports, 1_000_000);
        let pairs: HashSet<_> = (0..1_000_000).map(|flow| flows.tuple(flow).ports).collect();
        assert_eq!(pairs.len(), 1_000_000);
        assert_eq!(flows.room(), 1 << 21);
        let firsts: Vec<u32> = flows.first_of_ports().collect();
        assert_eq!((firsts.len(), firsts[1]), (31, 32_768));
        assert_eq!(
            (flows.tuple(0), flows.tuple(32_768)),
            ((20_000, 9000).into(), (20_000, 9001).into())
        );
    }

    #[test]
    fn few_flows_use_all_addresses() {
        let ends = ("10.0.0.1-10.0.0.3".parse().unwrap(), "10.1.0.0-10.1.0.1".parse().unwrap());
        let ports = ("7-8".parse().unwrap(), "90-99".parse().unwrap());
        let flows = Flows::new(ends, ports, 120);
        let words = |flow| flows.tuple(flow).to_string();
        assert_eq!(words(0), "from 10.0.0.1:7 to 10.1.0.0:90");
        assert_eq!(words(2), "from 10.0.0.3:7 to 10.1.0.0:90");
        assert_eq!(words(3), "from 10.0.0.1:7 to 10.1.0.1:90");
        assert_eq!(
            (words(6), words(12)),
            (words(0).replace(":7", ":8"), words(0).replace(":90", ":91"))
        );
        let all: HashSet<_> = (0..120).map(words).collect();
        assert_eq!((all.len(), flows.room()), (120, 120));
        // 6 pairs of addresses, 10 destination ports.
        let firsts: Vec<u32> = flows.first_of_ports().collect();
        assert_eq!((firsts.len(), &firsts[4..8]), (60, &[4, 5, 12, 13][..]));
    }

    #[test]
    fn the_largest_space_has_no_overflow() {
        let flows = Flows::new(one(), (Ports::ALL, Ports::ALL), u32::MAX);
        assert_eq!(flows.room(), 1 << 32);
        assert_eq!(flows.tuple(u32::MAX).ports, (u16::MAX, u16::MAX));
        assert_eq!(flows.fresh(u64::MAX), u32::MAX);
        let all: Addresses = "10.0.0.0-10.0.255.255".parse().unwrap();
        let flows = Flows::new((all, all), (Ports::ALL, Ports::ALL), u32::MAX);
        assert_eq!(flows.room(), 1 << 32);
        assert_eq!(flows.tuple(u32::MAX).ports, (0, 0), "addresses alone make as many");
        assert_eq!(flows.tuple(u32::MAX).to_string(), "from 10.0.255.255:0 to 10.0.255.255:0");
    }

    proptest! {
        #[test]
        fn new_flows_are_never_established_ones(
            first in 1_u16..60_000, more in 1_u16..50, servers in 0_u16..5, n in any::<u64>(),
        ) {
            let sport = Ports { first, last: first + more };
            let dport = Ports { first: 9000, last: 9000 + servers };
            let flows = Flows::new(one(), (sport, dport), u32::from(more));
            let fresh = flows.fresh(n);
            prop_assert!(fresh >= u32::from(more) && u64::from(fresh) < flows.room());
            let (source, destination) = flows.tuple(fresh).ports;
            prop_assert!((sport.first..=sport.last).contains(&source));
            prop_assert!((dport.first..=dport.last).contains(&destination));
        }
    }
}
