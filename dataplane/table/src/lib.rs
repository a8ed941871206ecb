//! Shared-memory formats of Weir.
//!
//! What crosses a process boundary lives here, and the code on both sides of
//! the boundary uses the same types:
//!
//! | Module | Memory | Writer → readers |
//! |---|---|---|
//! | [`policy`] | sealed memfd, one a generation | control → workers, CLI |
//! | [`addrmap`] | size-sealed memfd, one a generation | control → workers, CLI |
//! | [`flow`] | mmapable BPF arrays | workers, admin side, steering program → all, CLI |
//! | [`stamps`] | mmapable BPF array | dataplane's admin side → workers, steering program, CLI |
//! | [`counters`] | mmapable BPF array | workers, admin side → CLI |
//! | [`drops`] | file on tmpfs | dataplane's drops thread → CLI |
//! | [`names`] | file on tmpfs | control → dataplane's drops thread |
//! | [`abi`] | numbers of `bpf/weir.h` | C → Rust, when it is built |
//!
//! And what is built on them: [`classify`] asks table and address map, [`diff`] says for
//! which addresses two generations differ, [`gate`] when every worker has taken one over,
//! [`publish`] brings it from control, [`saved`] keeps it for a restart. [`cni`] is how the
//! plugin that runs for every pod speaks with the dataplane.
//!
//! Unsafe code is confined to [`mem`]; everything else works on `&[u8]` that
//! cannot change or on `&[AtomicU64]` that may, and treats every value that it
//! reads from shared memory as untrusted.
#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::cast_possible_truncation))]

pub mod abi;
pub mod addr;
pub mod addrmap;
pub mod classify;
#[cfg(not(loom))]
pub mod cni;
pub mod counters;
pub mod diff;
pub mod drops;
pub mod flow;
pub mod gate;
pub mod mem;
#[cfg(not(loom))]
pub mod names;
pub mod policy;
#[cfg(not(loom))]
pub mod publish;
#[cfg(not(loom))]
pub mod saved;
#[cfg(not(loom))]
pub mod seal;
pub mod stamps;
pub mod sync;

pub use addr::Address;

/// Where the sockets and the tmpfs state live by default.
pub const DEFAULT_RUN_DIR: &str = "/run/weir";
/// Where BPF maps, programs and links are pinned by default.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/weir";
/// The dataplane's publishing socket, in the run directory.
pub const SOCKET_FILE: &str = "dataplane.sock";
/// The last accepted policy table, in the run directory: for the CLI and for a
/// restart while the API is away.
pub const TABLE_FILE: &str = "generation.table";
/// The address map that belongs to [`TABLE_FILE`], in the run directory.
pub const ADDRESS_FILE: &str = "generation.addrs";
/// The devices that have their clsact qdisc from Weir, in the run directory: index, length of the
/// transmit queue before, name, a line each. For `weir uninstall`.
pub const CLSACT_FILE: &str = "clsact";
