//! One facade over the atomics of `std` and of loom.
//!
//! Every lock-free structure of this crate takes its atomics from here, so that
//! the code that loom explores (`RUSTFLAGS="--cfg loom"`) is the code that runs.
//!
//! What loom cannot see: the mapped memory itself. Under loom every structure
//! lives in heap words (see [`crate::mem::SharedWords::heap`]), and the mmap
//! constructors do not exist.

#[cfg(not(loom))]
pub use std::{
    hint,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering, fence},
    },
    thread,
};

#[cfg(loom)]
pub use loom::{
    hint,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering, fence},
    },
    thread,
};
