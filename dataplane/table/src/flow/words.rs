//! The words of an entry, taken apart and put together. No memory is touched here.
#![forbid(unsafe_code)]

use super::key::Side;
use super::layout::{
    AUX_SEEN_HI_SHIFT, AUX_SEEN_LO_SHIFT, AUX_VERSION_SHIFT, FLAG_HI, POD_SHIFT, STATE_ALLOWED,
    STATE_BUSY, STATE_DENIED, STATE_FREE, STATE_MASK, VERSION_SHIFT,
};
use super::quota::Pod;
use super::state::{Seen, Tick};

/// A control word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Ctl(pub u64);

impl Ctl {
    pub const fn new(version: u32, denied: bool, initiator: Side, pod: Pod) -> Self {
        let state = if denied { STATE_DENIED } else { STATE_ALLOWED };
        let flags = match initiator {
            Side::Lo => 0,
            Side::Hi => FLAG_HI,
        };
        Self((version as u64) << VERSION_SHIFT | (pod.0 as u64) << POD_SHIFT | flags | state)
    }

    pub const fn marked(version: u32, state: u64) -> Self {
        Self((version as u64) << VERSION_SHIFT | state)
    }

    #[allow(clippy::cast_possible_truncation)] // the shift leaves 32 bits
    #[inline]
    pub const fn version(self) -> u32 {
        (self.0 >> VERSION_SHIFT) as u32
    }

    #[allow(clippy::cast_possible_truncation)] // 16 bits of the word
    #[inline]
    pub const fn pod(self) -> Pod {
        Pod((self.0 >> POD_SHIFT) as u16)
    }

    #[inline]
    pub const fn is_live(self) -> bool {
        matches!(self.0 & STATE_MASK, STATE_ALLOWED | STATE_DENIED)
    }

    #[inline]
    pub const fn is_free(self) -> bool {
        self.0 & STATE_MASK == STATE_FREE
    }

    #[inline]
    pub const fn is_busy(self) -> bool {
        self.0 & STATE_MASK == STATE_BUSY
    }

    #[inline]
    pub const fn is_denied(self) -> bool {
        self.0 & STATE_MASK == STATE_DENIED
    }

    #[inline]
    pub const fn initiator(self) -> Side {
        if self.0 & FLAG_HI != 0 { Side::Hi } else { Side::Lo }
    }
}

/// An aux word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Aux(pub u64);

impl Aux {
    pub const fn new(version: u32, seen: Seen, last_seen: Tick) -> Self {
        Self(
            (version as u64 & 0xffff) << AUX_VERSION_SHIFT
                | (seen.lo as u64) << AUX_SEEN_LO_SHIFT
                | (seen.hi as u64) << AUX_SEEN_HI_SHIFT
                | last_seen.0 as u64,
        )
    }

    #[inline]
    pub const fn is_of(self, version: u32) -> bool {
        self.0 >> AUX_VERSION_SHIFT == version as u64 & 0xffff
    }

    #[inline]
    pub const fn seen(self) -> Seen {
        let [_, _, lo, hi, ..] = self.0.to_be_bytes();
        Seen { lo, hi }
    }

    /// This word, of the same version, after one more packet.
    #[inline]
    pub const fn noted(self, side: Side, tcp_flags: u8, now: Tick) -> Self {
        let shift = match side {
            Side::Lo => AUX_SEEN_LO_SHIFT,
            Side::Hi => AUX_SEEN_HI_SHIFT,
        };
        let (gone, new) = Seen::marks_of(tcp_flags);
        let marks = self.0 & !((gone as u64) << shift) | (new as u64) << shift;
        Self(marks & !(u32::MAX as u64) | now.0 as u64)
    }

    #[inline]
    pub const fn last_seen(self) -> Tick {
        let [_, _, _, _, a, b, c, d] = self.0.to_be_bytes();
        Tick(u32::from_be_bytes([a, b, c, d]))
    }
}

/// Packets of each side that were punted to user space, and that came back, modulo 2^16.
///
/// The steering program counts them for flows that it finds in the table. As long as the
/// two differ for a side, packets of that side are out, and the next one must not overtake
/// them through the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Counts(pub(super) u64);

impl Counts {
    const fn field(self, side: Side, shift: u32) -> u16 {
        let side = match side {
            Side::Lo => 0,
            Side::Hi => 32,
        };
        (self.0 >> (side + shift) & 0xffff) as u16
    }

    /// Packets of a side that went to user space.
    pub const fn punted(self, side: Side) -> u16 {
        self.field(side, 0)
    }

    /// Packets of a side that came back.
    pub const fn returned(self, side: Side) -> u16 {
        self.field(side, 16)
    }

    /// True while packets of a side are out.
    pub const fn is_held(self, side: Side) -> bool {
        self.punted(side) != self.returned(side)
    }

    /// These, after one more packet of `side` went out.
    #[must_use]
    pub const fn punt(self, side: Side) -> Self {
        let shift = match side {
            Side::Lo => 0,
            Side::Hi => 32,
        };
        let punted = self.punted(side).wrapping_add(1) as u64;
        Self(self.0 & !(0xffff << shift) | punted << shift)
    }
}

/// Another writer is at work where the key could stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the flow is just being changed by another thread")]
pub struct InChange;

/// Names one entry in one incarnation of its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Handle {
    pub slot: usize,
    pub version: u32,
}

/// The words of an entry that a writer decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub initiator: Side,
    pub denied: bool,
    pub seen: Seen,
    pub last_seen: Tick,
    pub ifindex: [u32; 2],
    pub stamps: [u64; 2],
    pub counts: Counts,
    /// To whose account it is.
    pub pod: Pod,
}

impl Record {
    /// What words say that were read together.
    #[inline]
    pub const fn of(ctl: Ctl, aux: Aux, ifindex: u64, stamps: [u64; 2], counts: Counts) -> Self {
        let [a, b, c, d, e, f, g, h] = ifindex.to_be_bytes();
        Self {
            initiator: ctl.initiator(),
            denied: ctl.is_denied(),
            seen: aux.seen(),
            last_seen: aux.last_seen(),
            ifindex: [u32::from_be_bytes([e, f, g, h]), u32::from_be_bytes([a, b, c, d])],
            stamps,
            counts,
            pod: ctl.pod(),
        }
    }
}

/// A packet, as far as its flow's entry has to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seeing {
    /// Who sent it.
    pub side: Side,
    /// TCP's flag byte; 0 for other protocols.
    pub tcp_flags: u8,
    /// The device of each side ([`Side::index`]); 0 if that is not on this node.
    pub ifindex: [u32; 2],
    /// When.
    pub now: Tick,
}

/// Words that were read together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Snapshot<const K: usize> {
    pub handle: Handle,
    pub key: [u64; K],
    pub record: Record,
}

/// What an insertion found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    pub handle: Handle,
    /// True if a flow that yields had to go.
    pub evicted: bool,
}
