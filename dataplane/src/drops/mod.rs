//! Dropped packets, one by one: from the workers and the hooks to the ring that
//! `weir drops` and `weir capture` read.
//!
//! ```text
//!   worker: pipeline ─ DropSampler ── bounded queue ──┐
//!                                                 ├─> Recorder ─> ring (weir_table::drops)
//!   hook: bpf/drops.h ──────────── BPF ringbuf ───┘   names, policy
//! ```
//!
//! On the packet path a drop costs an account of its reason ([`Budget`]); one that is told
//! a copy of the frame's head besides. Nothing there waits, allocates or calls the kernel:
//! a queue that is full costs the record, not the worker. Whatever takes time, the
//! recorder does, on a thread of its own, and bounded: however many workers and CPUs tell,
//! it records of each reason no more than one budget allows (`sample.rs`).
//!
//! | file | concept |
//! |---|---|
//! | `sampler.rs` | which drops of a worker are told |
//! | `hooks.rs` | what the hooks tell |
//! | `sample.rs` | which of all that is told is recorded |
//! | `packet.rs` | the 5-tuple of a frame's head |
//! | `attribute.rs` | whose policy it was |
//! | `recorder.rs` | the thread |
#![forbid(unsafe_code)]

mod attribute;
mod hooks;
mod packet;
mod recorder;
mod sample;
mod sampler;

pub use hooks::HookDrops;
pub use recorder::{Recorder, Sources};
pub use sampler::{DropQueue, DropSampler, queue};
pub use weir_table::drops::{Budget, FRAME_BYTES};

use weir_table::counters::Direction;

/// A dropped packet as it was seen where it was dropped.
#[derive(Debug, Clone)]
pub struct DropEvent {
    /// When: by the clock of flows at a worker, `CLOCK_MONOTONIC` at a hook; nanoseconds.
    pub at_ns: u64,
    /// Why, in words.
    pub reason: &'static str,
    /// The hook's device; 0 = not known.
    pub ifindex: u32,
    /// Which way the packet crossed it.
    pub direction: Direction,
    /// Others of its reason that were not told there, since the last one that was.
    pub left_out: u32,
    /// Length of the whole frame.
    pub frame_len: u32,
    /// How much of it is here.
    pub captured: usize,
    /// Its first bytes.
    pub frame: [u8; FRAME_BYTES],
}

impl DropEvent {
    /// The frame's head.
    pub fn head(&self) -> &[u8] {
        self.frame.get(..self.captured).unwrap_or(&self.frame)
    }
}
