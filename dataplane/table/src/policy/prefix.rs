//! Longest-prefix match as a sorted list of elementary intervals.
//!
//! Nested prefixes cut the address space into intervals that each have one
//! class; neighbours of the same class are merged. A lookup is then one binary
//! search, whatever the depth of nesting.

use ipnet::IpNet;

use super::encode::EncodeError;

/// A prefix as a range of integers.
struct Range {
    first: u128,
    last: u128,
    length: u8,
    class: u32,
}

/// The elementary intervals of one address family: (first address, class).
pub(super) type Intervals = Vec<(u128, u32)>;

/// Splits prefixes into the intervals of IPv4 and of IPv6.
pub(super) fn intervals(prefixes: &[(IpNet, u32)]) -> Result<(Intervals, Intervals), EncodeError> {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for &(prefix, class) in prefixes {
        match prefix {
            IpNet::V4(net) => v4.push(Range {
                first: u128::from(net.network().to_bits()),
                last: u128::from(net.broadcast().to_bits()),
                length: net.prefix_len(),
                class,
            }),
            IpNet::V6(net) => v6.push(Range {
                first: net.network().to_bits(),
                last: net.broadcast().to_bits(),
                length: net.prefix_len(),
                class,
            }),
        }
    }
    let v4 = family(v4, u128::from(u32::MAX), "0.0.0.0/0")?;
    let v6 = family(v6, u128::MAX, "::/0")?;
    Ok((v4, v6))
}

fn family(
    mut ranges: Vec<Range>,
    max: u128,
    default: &'static str,
) -> Result<Intervals, EncodeError> {
    // An enclosing prefix comes before those that it holds.
    ranges.sort_by_key(|r| (r.first, r.length));
    if ranges.first().is_none_or(|r| r.length != 0) {
        return Err(EncodeError::NoDefaultPrefix { prefix: default });
    }
    for pair in ranges.windows(2) {
        if (pair[0].first, pair[0].length) == (pair[1].first, pair[1].length)
            && pair[0].class != pair[1].class
        {
            return Err(EncodeError::PrefixConflict {
                length: pair[0].length,
                classes: (pair[0].class, pair[1].class),
            });
        }
    }

    let mut out: Intervals = Vec::with_capacity(ranges.len() * 2);
    let mut open: Vec<&Range> = Vec::new();
    for range in &ranges {
        close(&mut out, &mut open, Some(range.first), max);
        boundary(&mut out, range.first, range.class);
        open.push(range);
    }
    close(&mut out, &mut open, None, max);
    out.dedup_by_key(|&mut (_, class)| class);
    Ok(out)
}

/// Ends the open ranges that end before `next` (all of them if `None`); where
/// one ends, the range around it goes on.
fn close(out: &mut Intervals, open: &mut Vec<&Range>, next: Option<u128>, max: u128) {
    while let Some(inner) = open.last() {
        let last = inner.last;
        if next.is_some_and(|next| last >= next) {
            return;
        }
        open.pop();
        if let (Some(outer), true) = (open.last(), last < max) {
            boundary(out, last + 1, outer.class);
        }
    }
}

/// From `start` on it is `class`; a later word about the same start wins.
fn boundary(out: &mut Intervals, start: u128, class: u32) {
    match out.last_mut() {
        Some(previous) if previous.0 == start => previous.1 = class,
        _ => out.push((start, class)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn nesting_is_cut_into_intervals() {
        let (v4, v6) = intervals(&[
            (net("::/0"), 0),
            (net("10.1.2.0/24"), 2),
            (net("0.0.0.0/0"), 0),
            (net("10.0.0.0/8"), 1),
            (net("255.255.255.255/32"), 5),
            (net("ffff::/16"), 7),
        ])
        .unwrap();
        let at = |text: &str| u128::from(text.parse::<std::net::Ipv4Addr>().unwrap().to_bits());
        assert_eq!(
            v4,
            [
                (0, 0),
                (at("10.0.0.0"), 1),
                (at("10.1.2.0"), 2),
                (at("10.1.3.0"), 1),
                (at("11.0.0.0"), 0),
                (at("255.255.255.255"), 5),
            ]
        );
        assert_eq!(v6, [(0, 0), (0xffff << 112, 7)]);
    }

    #[test]
    fn ranges_that_end_together_close_together() {
        let (v4, _) = intervals(&[
            (net("0.0.0.0/0"), 0),
            (net("10.0.0.0/8"), 1),
            (net("10.255.0.0/16"), 2),
            (net("10.255.255.0/24"), 3),
            (net("::/0"), 0),
        ])
        .unwrap();
        let classes: Vec<u32> = v4.iter().map(|i| i.1).collect();
        assert_eq!(classes, [0, 1, 2, 3, 0]);
    }

    #[test]
    fn a_missing_default_is_named() {
        let error = intervals(&[(net("0.0.0.0/0"), 0), (net("fd00::/8"), 1)]).unwrap_err();
        assert!(error.to_string().contains("::/0"), "{error}");
    }

    #[test]
    fn one_prefix_with_two_classes_is_refused_and_a_repetition_is_not() {
        let base = [(net("0.0.0.0/0"), 0), (net("::/0"), 0), (net("10.0.0.0/8"), 1)];
        let mut twice = base.to_vec();
        twice.push((net("10.9.9.9/8"), 1)); // host bits do not count
        intervals(&twice).unwrap();
        twice.push((net("10.0.0.0/8"), 2));
        assert!(matches!(intervals(&twice), Err(EncodeError::PrefixConflict { length: 8, .. })));
    }

    proptest! {
        /// Against the definition: the longest prefix that contains the address.
        #[test]
        fn intervals_are_longest_prefix_match(
            nets in prop::collection::vec((any::<u32>(), 0u8..=32, 0u32..6), 0..40),
            probes in prop::collection::vec(any::<u32>(), 40),
        ) {
            let mut prefixes: Vec<(IpNet, u32)> = vec![(net("0.0.0.0/0"), 0), (net("::/0"), 0)];
            for (bits, length, class) in nets {
                // Few distinct bits, so that prefixes do nest.
                let ip = std::net::Ipv4Addr::from_bits(bits & 0xc0c0_c0c0);
                let prefix = IpNet::new(ip.into(), length).unwrap().trunc();
                if prefixes.iter().all(|(p, _)| *p != prefix) {
                    prefixes.push((prefix, class));
                }
            }
            let (v4, _) = intervals(&prefixes).unwrap();
            prop_assert_eq!(v4[0].0, 0);
            prop_assert!(v4.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 != w[1].1));
            let edges = prefixes.iter().filter_map(|(p, _)| match p {
                IpNet::V4(n) => Some([n.network().to_bits(), n.broadcast().to_bits()]),
                IpNet::V6(_) => None,
            });
            for probe in probes.into_iter().chain(edges.flatten()) {
                for probe in [probe.wrapping_sub(1), probe, probe.wrapping_add(1)] {
                    let ip: std::net::IpAddr = std::net::Ipv4Addr::from_bits(probe).into();
                    let expected = prefixes.iter().filter(|(p, _)| p.contains(&ip))
                        .max_by_key(|(p, _)| p.prefix_len()).unwrap().1;
                    let at = v4.partition_point(|i| i.0 <= u128::from(probe)) - 1;
                    prop_assert_eq!(v4[at].1, expected, "{}", ip);
                }
            }
        }
    }
}
