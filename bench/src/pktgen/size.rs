//! Sizes of frames.
//!
//! A size is what RFC 2544 means by it: all bytes of the Ethernet frame with the four of its
//! checksum (FCS), which the generator does not write itself. So 64 is the least, and 1518 what
//! an MTU of 1500 lets through.

use std::str::FromStr;

/// Bytes of the frame check sequence.
pub const FCS: usize = 4;

/// The least and the largest size that RFC 2544 knows (section 9.1).
const LEAST: usize = 64;
const MOST: usize = 1518;

/// The simple IMIX of CSIT and of vendors: 7 of 64, 4 of 570, 1 of 1518 bytes, spread evenly.
const IMIX: [usize; 12] = [64, 570, 64, 64, 570, 64, 1518, 64, 570, 64, 64, 570];

/// Sizes, in turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes(Vec<usize>);

impl Sizes {
    /// The size of frame `number`, FCS included.
    pub fn of(&self, number: u64) -> usize {
        // The vector is never empty and its length fits every integer.
        #[expect(clippy::cast_possible_truncation, reason = "smaller than the length")]
        let place = (number % self.0.len() as u64) as usize;
        self.0[place]
    }

    /// All sizes, in turn.
    pub fn all(&self) -> &[usize] {
        &self.0
    }

    /// The smallest.
    pub fn least(&self) -> usize {
        self.0.iter().copied().min().unwrap_or(LEAST)
    }

    /// Whether there is more than one.
    pub fn is_mix(&self) -> bool {
        self.0.len() > 1
    }

    /// The mean, in bytes.
    #[expect(clippy::cast_precision_loss, reason = "a dozen small numbers")]
    pub fn mean(&self) -> f64 {
        self.0.iter().sum::<usize>() as f64 / self.0.len() as f64
    }

    /// The same with no size below `least`: in a mix, a frame that has no room for the label
    /// becomes as small as can be (78 bytes for UDP over IPv6, as in CSIT).
    #[must_use]
    pub fn at_least(&self, least: usize) -> Self {
        Self(self.0.iter().map(|&size| size.max(least)).collect())
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("imix") {
            return Ok(Self(IMIX.to_vec()));
        }
        match text.parse() {
            Ok(size) if (LEAST..=MOST).contains(&size) => Ok(Self(vec![size])),
            _ => Err(format!("from {LEAST} to {MOST} bytes, or IMIX")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imix_is_seven_to_four_to_one() {
        let mix: Sizes = "IMIX".parse().unwrap();
        let count = |size| (0..1200).filter(|&n| mix.of(n) == size).count();
        assert_eq!([count(64), count(570), count(1518)], [700, 400, 100]);
        assert!((mix.mean() - 353.8).abs() < 0.1, "{}", mix.mean());
        assert_eq!(mix.at_least(78).least(), 78);
    }

    #[test]
    fn a_size_is_one_that_ethernet_knows() {
        assert_eq!("64".parse::<Sizes>().unwrap().all(), [64]);
        assert!("63".parse::<Sizes>().is_err());
        assert!("1519".parse::<Sizes>().is_err());
        assert!("".parse::<Sizes>().is_err());
    }
}
