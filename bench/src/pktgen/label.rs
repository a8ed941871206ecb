//! What a frame carries to be counted: 12 bytes at the head of its payload.
//!
//! ```text
//!  0     2             7            12
//!  | run | step number |    time    |      16, 4 + 36 and 40 bits, big endian
//! ```
//!
//! Twelve bytes, because that is all that the smallest frame of UDP over IPv6 in use (78 bytes)
//! has room for. So the time is that of `CLOCK_MONOTONIC` in nanoseconds modulo 2^40 (18
//! minutes): a latency is told apart from others up to half of that.

/// Bytes of a label.
pub const LABEL: usize = 12;

/// Numbers are below this.
pub const MAX_NUMBER: u64 = 1 << 36;

/// Times are taken modulo this, in nanoseconds.
const TIME: u64 = 1 << 40;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Establishes a flow; its number is the flow's. To be answered.
    Open,
    /// Warms up; its number means nothing.
    Warm,
    /// Is counted; numbered from 0 without gaps.
    Count,
}

/// A frame's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Which run it belongs to.
    pub run: u16,
    /// What it is for.
    pub step: Step,
    /// Its number, below [`MAX_NUMBER`].
    pub number: u64,
    /// When it was to be sent, modulo 2^40 nanoseconds.
    time: u64,
}

impl Label {
    /// A label for a frame that is to be sent at `intended_ns` (`CLOCK_MONOTONIC`).
    pub const fn new(run: u16, step: Step, number: u64, intended_ns: u64) -> Self {
        Self { run, step, number: number % MAX_NUMBER, time: intended_ns % TIME }
    }

    /// Nanoseconds from the intended time to `now_ns`; 0 if that lies before it.
    pub const fn latency(&self, now_ns: u64) -> u64 {
        let passed = (now_ns % TIME + TIME - self.time) % TIME;
        if passed < TIME / 2 { passed } else { 0 }
    }

    /// The bytes.
    pub fn bytes(&self) -> [u8; LABEL] {
        let step: u64 = match self.step {
            Step::Open => 1,
            Step::Warm => 2,
            Step::Count => 3,
        };
        let mut bytes = [0; LABEL];
        bytes[..2].copy_from_slice(&self.run.to_be_bytes());
        bytes[2..7].copy_from_slice(&(step << 36 | self.number).to_be_bytes()[3..]);
        bytes[7..].copy_from_slice(&self.time.to_be_bytes()[3..]);
        bytes
    }

    /// Reads a label at the head of a payload; `None` for what cannot be one.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let bytes = payload.first_chunk::<LABEL>()?;
        let number =
            |bytes: &[u8]| bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte));
        let middle = number(&bytes[2..7]);
        let step = match middle >> 36 {
            1 => Step::Open,
            2 => Step::Warm,
            3 => Step::Count,
            _ => return None,
        };
        Some(Self {
            run: u16::from_be_bytes([bytes[0], bytes[1]]),
            step,
            number: middle % MAX_NUMBER,
            time: number(&bytes[7..]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn latency_survives_the_wrap_of_its_clock() {
        let sent = 7 * TIME - 10;
        let label = Label::new(1, Step::Count, 0, sent);
        assert_eq!(label.latency(sent + 25), 25);
        assert_eq!(label.latency(sent), 0);
        assert_eq!(label.latency(sent - 25), 0, "clocks of two processors may differ");
    }

    proptest! {
        #[test]
        fn reads_back_what_was_written(
            run: u16, number in 0..MAX_NUMBER, at in 0..u64::MAX / 2, passed in 0..TIME / 2, step in 0..3_usize,
        ) {
            let step = [Step::Open, Step::Warm, Step::Count][step];
            let label = Label::new(run, step, number, at);
            let mut payload = [0xff; 20];
            payload[..LABEL].copy_from_slice(&label.bytes());
            let found = Label::read(&payload).unwrap();
            prop_assert_eq!(found, label);
            prop_assert_eq!((found.number, found.latency(at + passed)), (number, passed));
        }

        #[test]
        fn arbitrary_bytes_are_a_label_or_none(bytes in prop::collection::vec(any::<u8>(), 0..20), now: u64) {
            if let Some(label) = Label::read(&bytes) {
                prop_assert_eq!(&label.bytes()[..], &bytes[..LABEL]);
                prop_assert!(label.latency(now) < TIME / 2);
            }
        }
    }
}
