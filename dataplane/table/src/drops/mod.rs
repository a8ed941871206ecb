//! Dropped packets, told one by one: a ring of records in a file that everybody maps.
//!
//! ```text
//!   workers ── queue ──┐                        ┌── weir drops --follow
//!                      ├─> drops thread ─> ring ┤
//!   hooks ── ringbuf ──┘   (names, policy)      └── weir capture --drops
//! ```
//!
//! Counters say how many packets were dropped; this says which. It is a sample: each
//! reason has a budget of its own ([`Budget`]), so that a flood of one does not hide the
//! others, and every record says how many of its kind were left out before it.
//!
//! | file | concept |
//! |---|---|
//! | `ring.rs` | records in shared words: one writer, any number of readers, a sequence lock each |
//! | `record.rs` | what a record says, and how it lies in its words |
//! | `file.rs` | the ring in the run directory |
//! | `reason.rs` | what the hooks' reasons are called |
//! | `budget.rs` | how many drops are told |
//!
//! Invariants
//! - A reader never acts on half a record, and never waits for the writer, nor the writer
//!   for it: who reads too slowly is told how many records it has missed.
//! - Whatever the words hold, reading them neither panics nor reads elsewhere.

mod budget;
#[cfg(not(loom))]
mod file;
#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod properties;
mod reason;
mod record;
mod ring;

pub use budget::Budget;
#[cfg(not(loom))]
pub use file::{RING_FILE, RingFileError, RingIdentity, identity, open, open_or_create};
pub use reason::{reason_of_hook, reasons};
pub use record::{DropRecord, FRAME_BYTES, Packet, RECORD_WORDS, Text};
pub use ring::{DropRing, Follower, HEADER_WORDS, RingError, RingWriter, VERSION, words_for};

/// Records that the dataplane's ring holds: 2 MiB, and ten seconds of a flood of one reason.
pub const RECORDS: u64 = 2048;
