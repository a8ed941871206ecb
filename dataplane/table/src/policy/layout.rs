//! Where everything stands in a policy table.
//!
//! ```text
//!  0   label "weir policy" (16 bytes, zero padded)
//!  16  endianness mark   u32   0x0000feff in the writer's order
//!  20  format version    u32
//!  24  total length      u64   bytes, a multiple of 16
//!  32  content hash      u64   over every other byte
//!  40  generation        u64
//!  48  section directory       one { offset u64, count u64 } for each section
//!  304 sections, each at a multiple of 16, zero padded
//! ```
//!
//! Numbers are in the byte order of the machine that wrote them: a table never
//! leaves its node, and the mark makes a foreign one fail at once.

/// First bytes of every policy table.
pub(super) const LABEL: [u8; 16] = *b"weir policy\0\0\0\0\0";
/// Raised whenever the meaning of any byte changes. Both sides of the socket
/// compare it before a table is sent.
pub const FORMAT_VERSION: u32 = 2;
/// The endianness mark.
pub(super) const ENDIAN_MARK: u32 = 0x0000_feff;

pub(super) const AT_ENDIAN: usize = 16;
pub(super) const AT_VERSION: usize = 20;
pub(super) const AT_LENGTH: usize = 24;
pub(super) const AT_HASH: usize = 32;
pub(super) const AT_GENERATION: usize = 40;
pub(super) const AT_DIRECTORY: usize = 48;
pub(super) const HEADER_BYTES: usize = AT_DIRECTORY + 16 * SECTIONS;
pub(super) const SECTION_ALIGN: usize = 16;

const _: () = assert!(HEADER_BYTES.is_multiple_of(SECTION_ALIGN));
// Offsets are computed as u32 index times element size; a 64-bit usize cannot
// overflow by that.
const _: () = assert!(usize::BITS >= 64, "Weir runs on 64-bit machines");

/// The sections, in the order in which they stand in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Section {
    /// `{ kind, name offset, name length }`, u32 each.
    Policies,
    /// `{ policy, path offset, path length }`, u32 each.
    Rules,
    /// UTF-8 without separators.
    Strings,
    /// `{ ingress program, egress program }`, u32 each.
    Classes,
    /// First address of each IPv4 interval, u32, ascending from 0.
    V4Starts,
    /// Class of each IPv4 interval, u32.
    V4Classes,
    /// First address of each IPv6 interval, u128, ascending from 0.
    V6Starts,
    /// Class of each IPv6 interval, u32.
    V6Classes,
    /// `{ icmp row, other row, (first span, spans) × 3, first isolating,
    /// isolating }`, u32 each.
    Programs,
    /// `{ first port, row }`, u32 each.
    Spans,
    /// Policy indices, u32.
    Isolating,
    /// `{ bits, first palette entry, palette entries, first index word }`, u32
    /// each.
    Rows,
    /// Verdict words, u32.
    Palette,
    /// Packed indices into a row's palette, u32 words, lowest bits first.
    Indices,
    /// `{ address, u128; protocol << 16 | port, first backend, backends, u32 each }`,
    /// ascending by address, then protocol and port.
    Services,
    /// `{ class, elsewhere << 16 | port }`, u32 each, ascending within a Service.
    Backends,
}

pub(super) const SECTIONS: usize = 16;

impl Section {
    pub(super) const ALL: [Section; SECTIONS] = [
        Section::Policies,
        Section::Rules,
        Section::Strings,
        Section::Classes,
        Section::V4Starts,
        Section::V4Classes,
        Section::V6Starts,
        Section::V6Classes,
        Section::Programs,
        Section::Spans,
        Section::Isolating,
        Section::Rows,
        Section::Palette,
        Section::Indices,
        Section::Services,
        Section::Backends,
    ];

    /// Bytes of one element.
    pub(super) const fn element(self) -> usize {
        match self {
            Section::Strings => 1,
            Section::V4Starts
            | Section::V4Classes
            | Section::V6Classes
            | Section::Isolating
            | Section::Palette
            | Section::Indices => 4,
            Section::Classes | Section::Spans | Section::Backends => 8,
            Section::Policies | Section::Rules => 12,
            Section::V6Starts | Section::Rows => 16,
            Section::Services => 28,
            Section::Programs => 40,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Section::Policies => "policies",
            Section::Rules => "rules",
            Section::Strings => "strings",
            Section::Classes => "classes",
            Section::V4Starts => "IPv4 intervals",
            Section::V4Classes => "IPv4 interval classes",
            Section::V6Starts => "IPv6 intervals",
            Section::V6Classes => "IPv6 interval classes",
            Section::Programs => "programs",
            Section::Spans => "port spans",
            Section::Isolating => "isolating policies",
            Section::Rows => "rows",
            Section::Palette => "palettes",
            Section::Indices => "row indices",
            Section::Services => "Services",
            Section::Backends => "backends",
        }
    }
}

/// Widths that a row's index can have, in bits. Up to [`CLOSED_BITS`] the
/// palette always has 2^bits entries, so that every possible index is in range
/// and none needs a check.
pub(super) const ROW_BITS: [u32; 7] = [0, 1, 2, 4, 8, 16, 32];
/// Widest index whose palette is filled up.
pub(super) const CLOSED_BITS: u32 = 8;

/// Words of indices that a row of `classes` classes takes.
pub(super) const fn index_words(classes: usize, bits: u32) -> usize {
    (classes * bits as usize).div_ceil(32)
}

/// The u32 at byte `at`; 0 past the end, which every reader takes as "deny" or
/// as "nothing".
#[inline]
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    match bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(chunk) => u32::from_ne_bytes(*chunk),
        None => 0,
    }
}

/// The u64 at byte `at`; 0 past the end.
#[inline]
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(chunk) => u64::from_ne_bytes(*chunk),
        None => 0,
    }
}

/// The u128 at byte `at`; 0 past the end.
#[inline]
pub(super) fn u128_at(bytes: &[u8], at: usize) -> u128 {
    match bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(chunk) => u128::from_ne_bytes(*chunk),
        None => 0,
    }
}

/// Hash of a whole table, its own field taken as zero.
///
/// Each step is a bijection of the running value for a given word and of the
/// word for a given running value. So *any* change within one aligned 8-byte
/// word is noticed, others with probability 1 − 2⁻⁶⁴. It guards against
/// accidents, not against an attacker: who may publish is decided by the socket.
pub(super) fn content_hash(bytes: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15; // odd: 2^64 / golden ratio
    let mut hash = (bytes.len() as u64).wrapping_mul(MULTIPLIER);
    let (words, tail) = bytes.as_chunks::<8>();
    let mut step = |word: u64| hash = (hash ^ word).wrapping_mul(MULTIPLIER).rotate_left(29);
    for (i, word) in words.iter().enumerate() {
        step(if i == AT_HASH / 8 { 0 } else { u64::from_ne_bytes(*word) });
    }
    for &byte in tail {
        step(u64::from(byte));
    }
    hash ^ (hash >> 32)
}
