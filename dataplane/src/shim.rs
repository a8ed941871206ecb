//! The shim: 16 bytes that travel with a punted packet and say where it came from.
//!
//! The steering program cannot tell user space anything about a packet except
//! through the packet itself, so it prepends a shim; user space cannot tell the
//! kernel anything about an accepted packet except the same way, so the shim goes
//! back with it. The two places differ:
//!
//! ```text
//! punted    [shim 16][Ethernet 14][IP ...]     a frame of EtherType 0x88b5 (tag at byte 12)
//! accepted  [Ethernet 14][shim 16][IP ...]     an IP frame whose head can be stripped by
//!                                              bpf_skb_adjust_room, which only knows IP
//! ```
//!
//! The length does not change, so acceptance is a rewrite of 30 bytes in place
//! ([`Shim::accept_in_place`]). Layout, all offsets in bytes:
//!
//! | offset | field | byte order |
//! |---|---|---|
//! | 0..4 | ifindex of the pod's host-side device | native |
//! | 4..8 | worker that the steering program chose | native |
//! | 8 | direction: 0 leaving the pod, 1 entering it | |
//! | 9 | flags | |
//! | 10..12 | GSO size of the punted packet, 0 = none | big endian |
//! | 12..14 | tag 0x88b5 | big endian |
//! | 14..16 | how many of its side's packets were punted before it, if counted | native |
//!
//! Invariant: a [`Shim`] value always carries a known direction; reading checks
//! length, tag and direction and cannot panic.
#![forbid(unsafe_code)]

use thiserror::Error;

/// Length of the shim in bytes.
pub const SHIM_LEN: usize = 16;

/// Length of an untagged Ethernet header in bytes.
pub const ETHERNET_LEN: usize = 14;

/// Length of the head of every punted or accepted frame: shim and Ethernet header.
pub const HEAD_LEN: usize = SHIM_LEN + ETHERNET_LEN;

/// Offset of the flags in the shim.
const AT_FLAGS: usize = 9;

/// Tag at byte 12 of the shim: "Local Experimental EtherType 1" of IEEE 802, so that a
/// punted frame that strays is not taken for IP by anyone.
pub const SHIM_TAG: u16 = 0x88b5;

/// Which way a packet was crossing the pod's hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Leaving the pod: the hook's endpoint is the packet's source (egress policy).
    FromPod,
    /// Entering the pod: the hook's endpoint is the packet's destination (ingress policy).
    ToPod,
}

impl Direction {
    /// The byte on the wire: 0 or 1.
    #[inline]
    pub const fn to_wire(self) -> u8 {
        match self {
            Self::FromPod => 0,
            Self::ToPod => 1,
        }
    }

    /// The direction for a wire byte; `None` for anything but 0 and 1.
    #[inline]
    pub const fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::FromPod),
            1 => Some(Self::ToPod),
            _ => None,
        }
    }
}

/// Flags of a shim. Bits that user space does not know are carried back unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct ShimFlags(u8);

impl ShimFlags {
    /// The verdict covers the second hook of a node-local packet as well: the mark may
    /// be carried on to it.
    pub const COVERS_BOTH: Self = Self(1);
    /// The steering program found the packet's flow and counted the packet there:
    /// [`Shim::sequence`] is valid.
    pub const COUNTED: Self = Self(2);

    /// Flags from the wire byte.
    #[inline]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The wire byte.
    #[inline]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// True if all bits of `other` are set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags with the bits of `other` set or cleared.
    #[must_use]
    #[inline]
    pub const fn with(self, other: Self, on: bool) -> Self {
        if on { Self(self.0 | other.0) } else { Self(self.0 & !other.0) }
    }
}

/// Why a frame carries no usable shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ShimError {
    /// Shorter than shim and Ethernet header together.
    #[error(
        "frame of {len} bytes is shorter than a shim and an Ethernet header ({HEAD_LEN}): \
         check the MTU of the punt pair (largest pod MTU + {SHIM_LEN})"
    )]
    TooShort {
        /// Bytes present.
        len: usize,
    },
    /// The tag is not [`SHIM_TAG`]: the frame was not punted by Weir's steering program.
    #[error(
        "frame carries tag {found:#06x} instead of {SHIM_TAG:#06x}: something other than \
         Weir's steering program sends into the punt device"
    )]
    NotTagged {
        /// The tag found.
        found: u16,
    },
    /// The direction is neither 0 nor 1.
    #[error(
        "shim with direction {found}: the steering program and this binary differ in version; \
             restart the dataplane so that it loads its own"
    )]
    BadDirection {
        /// The direction byte found.
        found: u8,
    },
}

/// The decoded shim of one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shim {
    /// Index of the pod's host-side device whose hook punted the packet.
    pub ifindex: u32,
    /// The worker that the steering program chose; equal to the queue that the frame
    /// came in on, unless the kernel chose another.
    pub worker: u32,
    /// Which hook of that device.
    pub direction: Direction,
    /// Flags, see [`ShimFlags`].
    pub flags: ShimFlags,
    /// GSO segment size in bytes, 0 if the packet is a single segment.
    pub gso: u16,
    /// How many packets of its side were punted before it, modulo 2^16; carried back
    /// unchanged, so that the hook knows which have come back.
    pub sequence: u16,
}

impl Shim {
    /// A shim for a packet at one hook, as the steering program builds it.
    pub const fn new(ifindex: u32, direction: Direction) -> Self {
        Self { ifindex, worker: 0, direction, flags: ShimFlags(0), gso: 0, sequence: 0 }
    }

    /// Decodes 16 bytes.
    ///
    /// # Errors
    /// [`ShimError::NotTagged`] and [`ShimError::BadDirection`].
    #[inline]
    pub fn from_bytes(b: &[u8; SHIM_LEN]) -> Result<Self, ShimError> {
        let tag = u16::from_be_bytes([b[12], b[13]]);
        if tag != SHIM_TAG {
            return Err(ShimError::NotTagged { found: tag });
        }
        let direction =
            Direction::from_wire(b[8]).ok_or(ShimError::BadDirection { found: b[8] })?;
        Ok(Self {
            ifindex: u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            worker: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            direction,
            flags: ShimFlags(b[9]),
            gso: u16::from_be_bytes([b[10], b[11]]),
            sequence: u16::from_ne_bytes([b[14], b[15]]),
        })
    }

    /// Encodes to 16 bytes; the inverse of [`Shim::from_bytes`].
    #[inline]
    pub fn to_bytes(&self) -> [u8; SHIM_LEN] {
        let mut b = [0; SHIM_LEN];
        b[0..4].copy_from_slice(&self.ifindex.to_ne_bytes());
        b[4..8].copy_from_slice(&self.worker.to_ne_bytes());
        b[8] = self.direction.to_wire();
        b[9] = self.flags.0;
        b[10..12].copy_from_slice(&self.gso.to_be_bytes());
        b[12..14].copy_from_slice(&SHIM_TAG.to_be_bytes());
        b[14..16].copy_from_slice(&self.sequence.to_ne_bytes());
        b
    }

    /// Reads the shim of a punted frame `[shim][Ethernet][..]`; the packet's own Ethernet
    /// frame starts at [`SHIM_LEN`].
    ///
    /// # Errors
    /// Every [`ShimError`].
    #[inline]
    pub fn of_punted(frame: &[u8]) -> Result<Self, ShimError> {
        if frame.len() < HEAD_LEN {
            return Err(ShimError::TooShort { len: frame.len() });
        }
        match frame.first_chunk::<SHIM_LEN>() {
            Some(bytes) => Self::from_bytes(bytes),
            None => Err(ShimError::TooShort { len: frame.len() }),
        }
    }

    /// Rewrites the head of a punted frame into that of an accepted one,
    /// `[shim][Ethernet]` → `[Ethernet][shim]`, with this shim.
    ///
    /// # Errors
    /// [`ShimError::TooShort`]; the frame is then untouched.
    #[inline]
    pub fn accept_in_place(&self, frame: &mut [u8]) -> Result<(), ShimError> {
        let len = frame.len();
        let Some(head) = frame.first_chunk_mut::<HEAD_LEN>() else {
            return Err(ShimError::TooShort { len });
        };
        head.copy_within(SHIM_LEN..HEAD_LEN, 0);
        head[ETHERNET_LEN..].copy_from_slice(&self.to_bytes());
        Ok(())
    }

    /// The same with the shim that the frame has, but for [`ShimFlags::COVERS_BOTH`]. Does not
    /// look whether it is one: for frames whose shim has been read before.
    ///
    /// # Errors
    /// As [`Shim::accept_in_place`].
    #[inline]
    pub fn accept_as_it_is(frame: &mut [u8], covers_both: bool) -> Result<(), ShimError> {
        let len = frame.len();
        let Some(head) = frame.first_chunk_mut::<HEAD_LEN>() else {
            return Err(ShimError::TooShort { len });
        };
        let mut before = *head;
        let flags = ShimFlags(before[AT_FLAGS]);
        before[AT_FLAGS] = flags.with(ShimFlags::COVERS_BOTH, covers_both).0;
        let (shim, ethernet) = before.split_at(SHIM_LEN);
        head[..ETHERNET_LEN].copy_from_slice(ethernet);
        head[ETHERNET_LEN..].copy_from_slice(shim);
        Ok(())
    }

    /// Reads the shim of an accepted frame `[Ethernet][shim][..]`.
    ///
    /// # Errors
    /// Every [`ShimError`].
    pub fn of_accepted(frame: &[u8]) -> Result<Self, ShimError> {
        match frame.get(ETHERNET_LEN..).and_then(|rest| rest.first_chunk::<SHIM_LEN>()) {
            Some(bytes) => Self::from_bytes(bytes),
            None => Err(ShimError::TooShort { len: frame.len() }),
        }
    }

    /// The punted form of a plain Ethernet frame, appended to `out`.
    pub fn push_punted(&self, ethernet: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_bytes());
        out.extend_from_slice(ethernet);
    }

    /// The plain Ethernet frame within an accepted one, appended to `out`.
    ///
    /// # Errors
    /// [`ShimError::TooShort`]; `out` is then untouched.
    pub fn strip_accepted(frame: &[u8], out: &mut Vec<u8>) -> Result<(), ShimError> {
        let (Some(ethernet), Some(l3)) = (frame.get(..ETHERNET_LEN), frame.get(HEAD_LEN..)) else {
            return Err(ShimError::TooShort { len: frame.len() });
        };
        out.extend_from_slice(ethernet);
        out.extend_from_slice(l3);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_shim() -> impl Strategy<Value = Shim> {
        (any::<u32>(), any::<u32>(), any::<bool>(), any::<u8>(), any::<u16>(), any::<u16>())
            .prop_map(|(ifindex, worker, to_pod, flags, gso, sequence)| Shim {
                ifindex,
                worker,
                direction: if to_pod { Direction::ToPod } else { Direction::FromPod },
                flags: ShimFlags::from_bits(flags),
                gso,
                sequence,
            })
    }

    proptest! {
        #[test]
        fn bytes_round_trip(shim in any_shim()) {
            prop_assert_eq!(Shim::from_bytes(&shim.to_bytes()), Ok(shim));
        }

        #[test]
        fn acceptance_moves_the_head_and_nothing_else(
            shim in any_shim(),
            answer in any_shim(),
            ethernet in proptest::collection::vec(any::<u8>(), ETHERNET_LEN..200),
        ) {
            let mut frame = Vec::new();
            shim.push_punted(&ethernet, &mut frame);
            let length = frame.len();
            prop_assert_eq!(Shim::of_punted(&frame), Ok(shim));
            let mut other = frame.clone();
            let covers_both = answer.flags.contains(ShimFlags::COVERS_BOTH);
            Shim::accept_as_it_is(&mut other, covers_both).unwrap();
            let mut same = frame.clone();
            let flags = shim.flags.with(ShimFlags::COVERS_BOTH, covers_both);
            Shim { flags, ..shim }.accept_in_place(&mut same).unwrap();
            prop_assert_eq!(other, same);
            answer.accept_in_place(&mut frame).unwrap();
            prop_assert_eq!(frame.len(), length);
            prop_assert_eq!(Shim::of_accepted(&frame), Ok(answer));
            let mut plain = Vec::new();
            Shim::strip_accepted(&frame, &mut plain).unwrap();
            prop_assert_eq!(plain, ethernet);
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let before = bytes.clone();
            let _ = Shim::of_accepted(&bytes);
            match Shim::of_punted(&bytes) {
                Ok(shim) => prop_assert!(shim.accept_in_place(&mut bytes).is_ok()),
                Err(ShimError::TooShort { len }) => {
                    prop_assert!(len < HEAD_LEN);
                    let shim = Shim::new(1, Direction::ToPod);
                    prop_assert!(shim.accept_in_place(&mut bytes).is_err());
                    prop_assert_eq!(bytes, before);
                }
                Err(_) => {}
            }
        }
    }

    #[test]
    fn a_punted_frame_shows_the_tag_as_its_ethertype() {
        let bytes = Shim::new(7, Direction::ToPod).to_bytes();
        assert_eq!(bytes[12..14], SHIM_TAG.to_be_bytes());
        assert_eq!(bytes[0..4], 7u32.to_ne_bytes());
        assert_eq!(bytes[8], 1);
    }

    #[test]
    fn a_foreign_frame_is_refused_in_words() {
        let mut bytes = Shim::new(7, Direction::FromPod).to_bytes();
        bytes[8] = 2;
        assert_eq!(Shim::from_bytes(&bytes), Err(ShimError::BadDirection { found: 2 }));
        bytes[12] = 0x08;
        bytes[13] = 0;
        assert_eq!(Shim::from_bytes(&bytes), Err(ShimError::NotTagged { found: 0x0800 }));
    }

    #[test]
    fn unknown_flag_bits_survive_a_change_of_covers_both() {
        let flags = ShimFlags::from_bits(0b1000_0000);
        let on = flags.with(ShimFlags::COVERS_BOTH, true);
        assert_eq!(on.bits(), 0b1000_0001);
        assert!(on.contains(ShimFlags::COVERS_BOTH));
        assert_eq!(on.with(ShimFlags::COVERS_BOTH, false), flags);
    }
}
