//! What comes from the kernel is not believed: whatever the bytes, reading ends without a
//! panic, and what comes of them keeps the promises of [`Seed`].
//!
//! What this cannot see: whether a seed is the right one; that is in the named cases.

use std::collections::HashSet;

use proptest::prelude::*;

use super::tests::endpoints;
use super::*;

const LIMIT: usize = 8;

/// Reads a datagram up to its end or its first fault and checks every seed.
fn check(datagram: &[u8]) -> Result<(), TestCaseError> {
    let endpoints = endpoints(true, true);
    let mut harvest = Harvest::new(&endpoints, LIMIT);
    // The outcome is free; that there is one is the property.
    let _ = ctnetlink::read(datagram, &mut |entry| harvest.take(entry));
    prop_assert!(harvest.seeds.len() <= LIMIT);
    prop_assert!(harvest.entries <= datagram.len() / 16);
    let keys: HashSet<_> = harvest.seeds.iter().map(|s| s.key).collect();
    prop_assert_eq!(keys.len(), harvest.seeds.len());
    for seed in &harvest.seeds {
        prop_assert!(seed.seen.any_from(seed.initiator), "{:?}", seed);
        prop_assert!(seed.ifindex != [0, 0], "{:?}", seed);
        for side in [Side::Lo, Side::Hi] {
            let (address, _) = seed.key.end(side);
            let device = endpoints.by_address(address).map_or(0, |e| e.ifindex);
            prop_assert_eq!(seed.ifindex[side.index()], device);
            prop_assert!(!is_no_end(address));
        }
    }
    Ok(())
}

/// A netlink message of the dump around a payload.
fn message(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + payload.len()).unwrap();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend((1u16 << 8).to_ne_bytes());
    bytes.extend(0u16.to_ne_bytes());
    bytes.extend(1u32.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(payload);
    bytes
}

/// An attribute with anything in it, its length now and then a lie.
fn attribute() -> impl Strategy<Value = Vec<u8>> {
    let leaf = (0..20u16, proptest::collection::vec(any::<u8>(), 0..20));
    let leaf = leaf.prop_map(|(kind, value)| encoded(kind, &value));
    let tree = leaf.prop_recursive(3, 16, 4, |inner| {
        (0..20u16, proptest::collection::vec(inner, 0..4))
            .prop_map(|(kind, parts)| encoded(kind, &parts.concat()))
    });
    (tree, proptest::option::weighted(0.1, any::<u8>())).prop_map(|(mut bytes, lie)| {
        if let Some(lie) = lie {
            bytes[0] = lie;
        }
        bytes
    })
}

fn encoded(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(4 + value.len()).unwrap().to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

proptest! {
    #[test]
    fn arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        check(&bytes)?;
        check(&message(&bytes))?;
    }

    #[test]
    fn arbitrary_attributes(
        family in prop_oneof![Just(2u8), Just(10u8), any::<u8>()],
        attributes in proptest::collection::vec(attribute(), 0..6),
    ) {
        let payload = [vec![family, 0, 0, 0], attributes.concat()].concat();
        check(&message(&payload))?;
    }
}

#[cfg(target_endian = "little")]
proptest! {
    #[test]
    fn a_recorded_table_with_some_bytes_changed(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..24),
    ) {
        let datagrams = super::reading::recorded();
        let mut bytes = which.get(&datagrams).clone();
        for (at, byte) in changes {
            *at.get_mut(&mut bytes) = byte;
        }
        check(&bytes)?;
    }
}
