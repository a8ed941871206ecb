//! Checksums of a frame that changes in few places: the sum of what stays is kept.

/// The Internet checksum's sum (RFC 1071), not yet folded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The sum with bytes added that begin at an even place of the checksummed data.
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Self {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let whole: u64 = pairs.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum();
        let half = rest.first().map_or(0, |&byte| u64::from(byte) << 8);
        Self(self.0 + whole + half)
    }

    /// The sum with a 16-bit number added.
    #[must_use]
    pub fn with_u16(self, value: u16) -> Self {
        Self(self.0 + u64::from(value))
    }

    /// The sum with that of other data added.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The checksum.
    #[expect(clippy::cast_possible_truncation, reason = "folded until it fits")]
    pub fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071() {
        let sum = Sum::default().with(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.finish(), !0xddf2);
    }

    proptest! {
        #[test]
        fn in_parts_it_is_the_same(
            bytes in prop::collection::vec(any::<u8>(), 0..100), cut in any::<prop::sample::Index>(),
        ) {
            let cut = cut.index(bytes.len() + 1) & !1;
            let parts = Sum::default().with(&bytes[..cut]).with(&bytes[cut..]);
            prop_assert_eq!(parts, Sum::default().with(&bytes));
            // With its checksum added, data sums up to all ones.
            let even = [&bytes[..], &[0][..bytes.len() % 2]].concat();
            prop_assert_eq!(Sum::default().with(&even).with_u16(parts.finish()).finish(), 0);
        }
    }
}
