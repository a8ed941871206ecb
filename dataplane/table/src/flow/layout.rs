//! Where everything stands in a flow entry, under the names that this crate uses.
//!
//! The numbers come from `bpf/weir.h`, which the steering program (C) includes and from
//! which [`crate::abi`] is generated: there is one source, so the two cannot drift apart.
//! Whoever changes one raises `WEIR_ABI_VERSION` there, by which a daemon knows pinned
//! maps that it must not adopt.
//!
//! ```text
//! IPv4 entry, 64 bytes               IPv6 entry, 128 bytes
//! w0  ctl                            w0  ctl
//! w1  address lo 32 | hi 32 << 32    w1  address lo, upper half
//! w2  ports and protocol             w2  address lo, lower half
//! w3  aux                            w3  address hi, upper half
//! w4  ifindex lo | hi << 32          w4  address hi, lower half
//! w5  stamp of lo                    w5  ports and protocol
//! w6  stamp of hi                    w6  aux
//! w7  counts                         w7  ifindex lo | hi << 32
//!                                    w8  stamp of lo
//!                                    w9  stamp of hi
//!                                    w10 counts
//!                                    w11 to w15 reserved
//! ```
//!
//! An IPv4 entry is one cache line; of an IPv6 entry a lookup that misses touches only
//! the first of two. A bucket is two adjacent entries; a key may stand in either of two
//! buckets, picked by the halves of its hash.
//!
//! Addresses and ports are in host order. "lo" and "hi" are the two sides of the
//! connection in canonical order: (address, port) of lo is the smaller.
#![forbid(unsafe_code)]

use crate::abi;

/// 64-bit words of an IPv4 entry.
pub const V4_ENTRY_WORDS: usize = abi::FLOW4_WORDS as usize;
/// 64-bit words of an IPv6 entry.
pub const V6_ENTRY_WORDS: usize = abi::FLOW6_WORDS as usize;
/// 64-bit words of an IPv4 key, from w1.
pub const V4_KEY_WORDS: usize = abi::FLOW4_KEY_WORDS as usize;
/// 64-bit words of an IPv6 key, from w1.
pub const V6_KEY_WORDS: usize = abi::FLOW6_KEY_WORDS as usize;
/// Entries of a bucket.
pub const BUCKET: usize = abi::FLOW_BUCKET as usize;

/// The control word.
pub const CTL: usize = abi::FLOW_CTL as usize;
/// First word of the key.
pub const KEY: usize = abi::FLOW_KEY as usize;
/// Words after the key, in this order.
pub const AUX_AFTER_KEY: usize = abi::FLOW_AUX as usize;
/// Host-side devices of both sides.
pub const IFINDEX_AFTER_KEY: usize = abi::FLOW_IFINDEX as usize;
/// The stamps of both sides, under which the verdict was given.
pub const STAMPS_AFTER_KEY: usize = abi::FLOW_STAMPS as usize;
/// Packets of either side punted and returned.
pub const COUNTS_AFTER_KEY: usize = abi::FLOW_COUNTS as usize;

/// The slot holds nothing.
pub const STATE_FREE: u64 = abi::FLOW_FREE as u64;
/// A writer is at work; nothing but ctl may be read.
pub const STATE_BUSY: u64 = abi::FLOW_BUSY as u64;
/// A flow whose verdict is to pass.
pub const STATE_ALLOWED: u64 = abi::FLOW_ALLOWED as u64;
/// A flow that passed once and was cut by a change of policy; a cached denial.
pub const STATE_DENIED: u64 = abi::FLOW_DENIED as u64;
/// Mask of the state in ctl.
pub const STATE_MASK: u64 = abi::FLOW_STATE_MASK as u64;
/// Flag in ctl. Of a flow: side hi opened it, otherwise lo did. Of a cached denial: the
/// receiver's policies deny, otherwise the sender's.
pub const FLAG_HI: u64 = abi::FLOW_FLAG_HI as u64;
/// Mask of the flags in ctl.
pub const FLAGS_MASK: u64 = abi::FLOW_FLAGS_MASK as u64;
/// Position in ctl of the pod to whose account a flow is: the low bits of its device, 0 for
/// nobody's. See [`super::Quota`].
pub const POD_SHIFT: u32 = abi::FLOW_POD_SHIFT;
/// Position of the version in ctl.
pub const VERSION_SHIFT: u32 = abi::FLOW_VERSION_SHIFT;

/// Position of the version's lower 16 bits in aux.
pub const AUX_VERSION_SHIFT: u32 = abi::AUX_VERSION_SHIFT;
/// Position of what was seen from side lo.
pub const AUX_SEEN_LO_SHIFT: u32 = abi::AUX_SEEN_LO_SHIFT;
/// Position of what was seen from side hi.
pub const AUX_SEEN_HI_SHIFT: u32 = abi::AUX_SEEN_HI_SHIFT;

#[allow(clippy::cast_possible_truncation)] // one byte by definition
const fn bit(value: u32) -> u8 {
    assert!(value <= 0xff);
    value as u8
}

/// Seen from a side: a segment with FIN.
pub const SEEN_FIN: u8 = bit(abi::SEEN_FIN);
/// Seen from a side: a segment with SYN.
pub const SEEN_SYN: u8 = bit(abi::SEEN_SYN);
/// Seen from a side: a reset, and nothing else since.
pub const SEEN_RST: u8 = bit(abi::SEEN_RST);
/// Seen from a side: a segment with ACK.
pub const SEEN_ACK: u8 = bit(abi::SEEN_ACK);
/// A packet that neither opens nor resets: its sender has gone on.
pub const SEEN_MORE: u8 = bit(abi::SEEN_MORE);
/// Seen from a side: any packet, of any protocol.
pub const SEEN_ANY: u8 = bit(abi::SEEN_ANY);
/// The bits of TCP's flag byte that are kept.
pub const SEEN_TCP_MASK: u8 = SEEN_FIN | SEEN_SYN | SEEN_RST | SEEN_ACK;

/// Position of the port of side hi.
pub const PORT_HI_SHIFT: u32 = abi::PORT_HI_SHIFT;
/// Position of the protocol.
pub const PROTOCOL_SHIFT: u32 = abi::PROTOCOL_SHIFT;

/// 64-bit words of the hash key: one constant and one multiplier for each 32-bit word
/// of the longest (IPv6) key, rounded up.
pub const HASH_KEY_WORDS: usize = abi::CONFIG_ABI_VERSION as usize;

/// One tick is 2^26 ns, about 67 ms: fine enough for timeouts of seconds, and a shift
/// instead of a division. 32 bits of ticks last nine years of uptime.
pub const TICK_SHIFT: u32 = abi::TICK_SHIFT;

/// Words of an IPv4 region of `entries` entries.
pub const fn v4_words(entries: usize) -> usize {
    entries * V4_ENTRY_WORDS
}

/// Words of an IPv6 region of `entries` entries.
pub const fn v6_words(entries: usize) -> usize {
    entries * V6_ENTRY_WORDS
}
