//! What the in-process benchmarks share: a node in this process's own memory, frames for it,
//! and the hash maps that its flow table is held against.
//!
//! No privileges, no network, no clock but the one that measures. Everything random follows
//! from a seed.
#![allow(dead_code)] // each benchmark uses its part

pub mod rivals;
pub mod traffic;
pub mod world;

/// SplitMix64 (Steele, Lea, Flood 2014): picks flows so that no prefetcher guesses the next.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The same numbers for the same seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; the bias is below `bound` in 2^32.
    pub fn below(&mut self, bound: u32) -> u32 {
        let scaled = (self.roll() >> 32) * u64::from(bound);
        u32::try_from(scaled >> 32).unwrap_or(0)
    }
}
