//! The flow table: conntrack in shared memory.
//!
//! One entry stands for both directions of a connection. Workers write it, the steering
//! program and the CLI read it, and it outlives the daemon (a pinned, mmapable BPF
//! array). An entry remembers what a policy table cannot know: who opened the
//! connection, under which state of the policies it was judged ([`Flow::stamps`]), for
//! the hooks of which devices the verdict was given ([`Flow::ifindex`]), and whether it
//! was cut since ([`Flow::denied`]).
//!
//! | file | what |
//! |---|---|
//! | `layout.rs` | where each bit stands; shared with C |
//! | `key.rs` | canonical 5-tuple, keyed hash |
//! | `state.rs` | ticks, states, timeouts |
//! | `words.rs` | the words of an entry |
//! | `region.rs`, `writing.rs` | one address family's entries, the lock-free protocol |
//! | `entry.rs` | a flow as callers see it; which gives way to others |
//! | `table.rs` | both families, insertion and eviction, expiry, the CLI's view |
//! | `verdicts.rs` | the verdict cache: the same entries, keyed by who asks for what |
//!
//! The table has a fixed size and no chains: a key may stand in one of four slots. Where
//! all four are taken, flows that yield ([`Flow::yields`]) or whose time is over
//! make room; if none does, [`FlowTable::insert`] says so and the caller judges packet by
//! packet. Time is passed in, never read.
#![forbid(unsafe_code)]

#[cfg(all(test, not(loom)))]
mod accounts;
mod entry;
mod key;
pub mod layout;
#[cfg(all(test, loom))]
mod loom_model;
#[cfg(all(test, not(loom)))]
mod model;
mod quota;
mod region;
mod state;
mod table;
mod verdicts;
mod words;
mod writing;

pub use entry::{Flow, FlowRef, Inserted, NewFlow, NoRoom};
pub use key::{FlowHash, FlowKey, HashKey, Side};
pub use quota::{LEAST_SHARE_SHIFT, QUOTA_WORDS, Quota};
pub use state::{FlowState, Seen, Tick, timeout};
pub use table::{ExpiryCursor, FlowTable, FlowTableError, FlowView};
pub use verdicts::{CachedVerdict, VerdictCache, VerdictKey};
pub use words::{Counts, InChange, Seeing};
