//! Ranges of addresses.
//!
//! Invariant: a range is of one family, holds at least one address and at most [`MOST`], and
//! does not go around.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The most addresses of a range: a /16 of IPv4.
pub const MOST: u32 = 1 << 16;

/// A range of addresses, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    first: IpAddr,
    count: u32,
}

impl Addresses {
    /// The first.
    pub fn first(self) -> IpAddr {
        self.first
    }

    /// How many, from 1 to [`MOST`].
    pub fn count(self) -> u32 {
        self.count
    }

    /// The address at a place, counted from 0 and around.
    pub fn at(self, place: u32) -> IpAddr {
        let place = place % self.count;
        match self.first {
            IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() + place).into(),
            IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() + u128::from(place)).into(),
        }
    }
}

impl From<IpAddr> for Addresses {
    fn from(first: IpAddr) -> Self {
        Self { first, count: 1 }
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        if self.count > 1 { write!(f, "-{}", self.at(self.count - 1)) } else { Ok(()) }
    }
}

impl FromStr for Addresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no address and no range like 10.0.0.1-10.0.0.99");
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) =
            (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
        let beyond = match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                last.to_bits().checked_sub(first.to_bits()).map(u128::from)
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => last.to_bits().checked_sub(first.to_bits()),
            _ => None,
        };
        let beyond = beyond.ok_or_else(wrong)?;
        u32::try_from(beyond)
            .ok()
            .filter(|beyond| *beyond < MOST)
            .map(|beyond| Self { first, count: beyond + 1 })
            .ok_or_else(|| format!("{text} are more than {MOST} addresses"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_range_holds_both_its_ends() {
        for (text, count, last) in [
            ("10.0.0.1", 1, "10.0.0.1"),
            ("10.0.0.250-10.0.1.5", 12, "10.0.1.5"),
            ("fd00::1", 1, "fd00::1"),
            ("fd00::ffff-fd00::1:1", 3, "fd00::1:1"),
            ("255.255.0.0-255.255.255.255", 65_536, "255.255.255.255"),
        ] {
            let range: Addresses = text.parse().unwrap();
            assert_eq!((range.count(), range.at(count - 1)), (count, last.parse().unwrap()));
            assert_eq!((range.at(count), range.to_string().as_str()), (range.first(), text));
        }
    }

    #[test]
    fn what_is_no_range_is_told() {
        for (text, word) in [
            ("", "no address"),
            ("10.0.0.1-", "no address"),
            ("10.0.0.2-10.0.0.1", "no address"),
            ("10.0.0.1-fd00::1", "no address"),
            ("10.0.0.0/24", "no address"),
            ("10.0.0.0-10.1.0.0", "more than 65536"),
            ("::-ffff::", "more than 65536"),
        ] {
            let error = text.parse::<Addresses>().unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn every_address_of_a_range_is_another(first: u32, more in 0..300_u32, six: bool) {
            let last = first.saturating_add(more);
            let text = |bits: u32| if six {
                Ipv6Addr::from_bits(u128::from(bits) << 8).to_string()
            } else {
                Ipv4Addr::from_bits(bits).to_string()
            };
            // Ranges of IPv6 go by steps of 256 here.
            prop_assume!(!six || last - first < 256);
            let range: Addresses = format!("{}-{}", text(first), text(last)).parse().unwrap();
            let all: std::collections::BTreeSet<_> = (0..range.count()).map(|n| range.at(n)).collect();
            prop_assert_eq!(all.len(), usize::try_from(range.count()).unwrap());
            prop_assert_eq!(all.last().map(ToString::to_string), Some(text(last)));
        }
    }
}
