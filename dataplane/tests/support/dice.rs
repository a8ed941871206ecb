//! Random numbers of a seed: the same in every run.
#![allow(dead_code)] // each test binary uses its own part

/// xorshift64*.
pub struct Dice(u64);

impl Dice {
    /// Of a seed, which must not be 0.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// The better half of the bits.
    pub fn roll_u32(&mut self) -> u32 {
        (self.roll() >> 32) as u32
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound as u64) as usize
    }
}
