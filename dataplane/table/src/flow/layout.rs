//! Where everything stands in a flow entry. The steering program (C) shares the memory;
//! whoever changes a number raises `WEIR_ABI_VERSION` in `bpf/weir.h`, by which a daemon
//! knows pinned maps that it must not adopt.
//!
//! Two regions, each an array of 64-bit words in memory of its own:
//!
//! ```text
//! IPv4 entry, 64 bytes               IPv6 entry, 128 bytes
//! w0  ctl                            w0  ctl
//! w1  address lo 32 | hi 32 << 32    w1  address lo, upper half
//! w2  ports and protocol             w2  address lo, lower half
//! w3  aux                            w3  address hi, upper half
//! w4  ifindex lo | hi << 32          w4  address hi, lower half
//! w5  stamp                          w5  ports and protocol
//! w6  reserved (second stamp)        w6  aux
//! w7  counts                         w7  ifindex lo | hi << 32
//!                                    w8  stamp
//!                                    w9  reserved (second stamp)
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

/// 64-bit words of an IPv4 entry.
pub const V4_ENTRY_WORDS: usize = 8;
/// 64-bit words of an IPv6 entry.
pub const V6_ENTRY_WORDS: usize = 16;
/// 64-bit words of an IPv4 key, from w1.
pub const V4_KEY_WORDS: usize = 2;
/// 64-bit words of an IPv6 key, from w1.
pub const V6_KEY_WORDS: usize = 5;
/// Entries of a bucket.
pub const BUCKET: usize = 2;

/// The control word.
pub const CTL: usize = 0;
/// First word of the key.
pub const KEY: usize = 1;
/// Words after the key, in this order.
pub const AUX_AFTER_KEY: usize = 0;
/// Host-side devices of both sides.
pub const IFINDEX_AFTER_KEY: usize = 1;
/// The stamp of the policy that the verdict came from.
pub const STAMP_AFTER_KEY: usize = 2;
/// Packets punted and returned.
pub const COUNTS_AFTER_KEY: usize = 4;

// ctl: version 63..32 | reserved 31..16 | flags 15..8 | state 7..0

/// The slot holds nothing.
pub const STATE_FREE: u64 = 0;
/// A writer is at work; nothing but ctl may be read.
pub const STATE_BUSY: u64 = 1;
/// A flow whose verdict is to pass.
pub const STATE_ALLOWED: u64 = 2;
/// A flow that passed once and was cut by a change of policy.
pub const STATE_DENIED: u64 = 3;
/// Mask of the state in ctl.
pub const STATE_MASK: u64 = 0xff;
/// Flag in ctl: side hi opened the flow. Otherwise lo did.
pub const FLAG_INITIATOR_HI: u64 = 1 << 8;
/// Mask of the flags in ctl.
pub const FLAGS_MASK: u64 = 0xff00;
/// Position of the version in ctl.
pub const VERSION_SHIFT: u32 = 32;

// aux: low 16 bits of ctl's version 63..48 | seen from lo 47..40 | seen from hi 39..32 |
//      last seen 31..0

/// Position of the version in aux.
pub const AUX_VERSION_SHIFT: u32 = 48;
/// Position of what was seen from side lo.
pub const AUX_SEEN_LO_SHIFT: u32 = 40;
/// Position of what was seen from side hi.
pub const AUX_SEEN_HI_SHIFT: u32 = 32;

// What was seen from a side: TCP's own bits, and one for "anything".

/// Seen from a side: a segment with FIN.
pub const SEEN_FIN: u8 = 0x01;
/// Seen from a side: a segment with SYN.
pub const SEEN_SYN: u8 = 0x02;
/// Seen from a side: a reset, and nothing else since.
pub const SEEN_RST: u8 = 0x04;
/// Seen from a side: a segment with ACK.
pub const SEEN_ACK: u8 = 0x10;
/// Seen from a side: any packet, of any protocol.
pub const SEEN_ANY: u8 = 0x80;
/// The bits of TCP's flag byte that are kept.
pub const SEEN_TCP_MASK: u8 = SEEN_FIN | SEEN_SYN | SEEN_RST | SEEN_ACK;

// ports and protocol: reserved 63..40 | protocol 39..32 | port hi 31..16 | port lo 15..0

/// Position of the port of side hi.
pub const PORT_HI_SHIFT: u32 = 16;
/// Position of the protocol.
pub const PROTOCOL_SHIFT: u32 = 32;

/// 64-bit words of the hash key: one constant and one multiplier for each 32-bit word
/// of the longest (IPv6) key, rounded up.
pub const HASH_KEY_WORDS: usize = 12;

/// One tick is 2^26 ns, about 67 ms: fine enough for timeouts of seconds, and a shift
/// instead of a division. 32 bits of ticks last nine years of uptime.
pub const TICK_SHIFT: u32 = 26;

/// Words of an IPv4 region of `entries` entries.
pub const fn v4_words(entries: usize) -> usize {
    entries * V4_ENTRY_WORDS
}

/// Words of an IPv6 region of `entries` entries.
pub const fn v6_words(entries: usize) -> usize {
    entries * V6_ENTRY_WORDS
}
