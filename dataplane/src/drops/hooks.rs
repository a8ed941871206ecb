//! What the hooks tell of the packets that they drop: `struct weir_drop` of `bpf/weir.h`.

use aya::maps::{MapData, RingBuf};
use weir_table::counters::Direction;
use weir_table::drops::reason_of_hook;

use super::{DropEvent, FRAME_BYTES};

/// Bytes of a `struct weir_drop` before the frame.
const HEAD: usize = 24;

/// The ring buffer that the hooks write.
pub struct HookDrops(RingBuf<MapData>);

impl HookDrops {
    /// Of the map `weir_drops`.
    pub const fn new(ring: RingBuf<MapData>) -> Self {
        Self(ring)
    }

    /// The next event; `None` if there is none now.
    pub fn take(&mut self) -> Option<DropEvent> {
        while let Some(item) = self.0.next() {
            if let Some(event) = decode(&item) {
                return Some(event);
            }
        }
        None
    }
}

/// An event of the hooks; `None` if it is too short for one.
fn decode(bytes: &[u8]) -> Option<DropEvent> {
    let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
    let mut frame = [0; FRAME_BYTES];
    frame.copy_from_slice(rest.get(..FRAME_BYTES)?);
    let word = |at: usize| {
        let mut word = [0; 4];
        word.copy_from_slice(&head[at..at + 4]);
        u32::from_ne_bytes(word)
    };
    let mut time = [0; 8];
    time.copy_from_slice(&head[..8]);
    let captured = usize::from(u16::from_ne_bytes([head[20], head[21]])).min(FRAME_BYTES);
    Some(DropEvent {
        at_ns: u64::from_ne_bytes(time),
        reason: reason_of_hook(head[22]),
        ifindex: word(8),
        direction: if head[23] == 0 { Direction::Egress } else { Direction::Ingress },
        left_out: word(16),
        frame_len: word(12),
        captured,
        frame,
    })
}

#[cfg(test)]
mod tests {
    use weir_table::abi::{DROP_FRAME, STEERING_COUNTERS};

    use super::*;

    #[test]
    fn an_event_is_read_as_the_header_lays_it_out() {
        assert_eq!(FRAME_BYTES, DROP_FRAME as usize);
        let place =
            STEERING_COUNTERS.iter().position(|name| *name == "drop_cut_ingress").unwrap() as u8;
        let mut bytes = Vec::new();
        bytes.extend(5u64.to_ne_bytes());
        bytes.extend([7u32, 1514, 3].map(u32::to_ne_bytes).concat());
        bytes.extend(60u16.to_ne_bytes());
        bytes.extend([place, 1]);
        bytes.extend([0xcd; FRAME_BYTES]);
        let event = decode(&bytes).unwrap();
        assert_eq!((event.at_ns, event.ifindex, event.frame_len, event.left_out), (5, 7, 1514, 3));
        assert_eq!((event.reason, event.direction), ("flow_cut", Direction::Ingress));
        assert_eq!(event.head(), [0xcd; 60]);
        for short in 0..bytes.len() {
            assert!(decode(&bytes[..short]).is_none());
        }
        // Numbers that no hook writes.
        bytes[20..24].fill(0xff);
        let event = decode(&bytes).unwrap();
        assert_eq!((event.reason, event.head().len()), ("unknown", FRAME_BYTES));
    }
}
