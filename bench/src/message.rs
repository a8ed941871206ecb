//! What each datagram of a stream carries.
//!
//! ```text
//!  0        8        16       24       32       40 ...
//!  | magic  | stream | number | sent   | total  | zeros up to the wanted size
//! ```
//!
//! All fields big endian. `total` is 0 while more messages follow. The last
//! message of a stream is repeated with `total` set, so that a receiver knows
//! how many there were even when the end was lost; these end marks carry no
//! number of their own and are not counted as messages.

/// Marks a datagram as ours and names the layout's version.
const MAGIC: [u8; 8] = *b"WEIRSEQ1";

/// Bytes that a message needs; the smallest payload of a stream.
pub const MIN_SIZE: usize = 40;

/// One message of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Which run of the generator this belongs to.
    pub stream: u64,
    /// Counts from 0 without gaps.
    pub number: u64,
    /// `CLOCK_MONOTONIC` of the sender, in nanoseconds.
    pub sent_ns: u64,
    /// How many messages the stream had, in an end mark; 0 before that.
    pub total: u64,
}

impl Message {
    /// Writes the message to the head of `payload` and leaves the rest alone.
    ///
    /// Returns `None`, and writes nothing, if `payload` is shorter than
    /// [`MIN_SIZE`].
    pub fn write(&self, payload: &mut [u8]) -> Option<()> {
        let head = payload.first_chunk_mut::<MIN_SIZE>()?;
        let fields =
            [u64::from_be_bytes(MAGIC), self.stream, self.number, self.sent_ns, self.total];
        for (word, field) in head.chunks_exact_mut(8).zip(fields) {
            word.copy_from_slice(&field.to_be_bytes());
        }
        Some(())
    }

    /// Reads a message; `None` for a datagram that is not one of ours.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let head = payload.first_chunk::<MIN_SIZE>()?;
        let mut words = head
            .chunks_exact(8)
            .map(|word| word.iter().fold(0_u64, |value, &byte| value << 8 | u64::from(byte)));
        if words.next()? != u64::from_be_bytes(MAGIC) {
            return None;
        }
        Some(Self {
            stream: words.next()?,
            number: words.next()?,
            sent_ns: words.next()?,
            total: words.next()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_was_written() {
        let message = Message { stream: 7, number: u64::MAX, sent_ns: 1 << 40, total: 3 };
        let mut payload = [0xff_u8; 64];
        message.write(&mut payload).unwrap();
        assert_eq!(Message::read(&payload), Some(message));
        assert_eq!(payload[MIN_SIZE..], [0xff; 24], "bytes behind the message are not ours");
    }

    #[test]
    fn refuses_what_is_too_short_or_foreign() {
        let message = Message { stream: 0, number: 0, sent_ns: 0, total: 0 };
        assert_eq!(message.write(&mut [0; MIN_SIZE - 1]), None);
        let mut payload = [0; MIN_SIZE];
        message.write(&mut payload).unwrap();
        assert_eq!(Message::read(&payload[..MIN_SIZE - 1]), None);
        payload[0] ^= 1;
        assert_eq!(Message::read(&payload), None);
    }
}
