//! Weir's CNI plugin: the last of the chain that wires a pod.
//!
//! ```text
//!  kubelet → runtime ─┬─ bridge | ptp | …   makes the interface, gives it addresses
//!                     ├─ portmap | …
//!                     └─ weir-cni ── cni.sock ──▶ weir-dataplane
//!                            ADD returns when the pod's policy is in force
//! ```
//!
//! The plugin changes nothing itself. It tells the dataplane which interface of which pod was
//! made, with which addresses, and waits (see [`weir_table::cni`]). What the plugins before it
//! have said is handed on byte for byte.
//!
//! | Module | What it does |
//! |---|---|
//! | [`environment`] | what the runtime says in variables |
//! | [`config`] | what the runtime says on standard input |
//! | [`verbs`] | ADD, CHECK, DEL, STATUS, GC, VERSION |
//! | [`failure`] | errors as CNI wants them: a code, a sentence, what to do |
//! | [`text`] | where in a JSON text a value stands: what is not ours is not written anew |
//! | [`splice`] | our entry into a list of plugins, and out of it |
//! | [`conflist`] | which file of a directory runtimes follow; replacing a file as a whole |
//! | [`install`] | into the node's chain, and out of it |
//! | [`watch`] | and in again, when another installer has written the file anew |
//! | [`arguments`] | the command line of the last two |
//!
//! Invariants
//! - **Fails closed.** ADD succeeds only if the dataplane has said that the pod is enforced, or
//!   that it is cut off until it is and the operator has chosen that (`"onTimeout":
//!   "quarantine"`). A dataplane that is absent, silent, or another's is an error, unless the
//!   operator has chosen otherwise (`"onFailure": "open"`), and then it is said.
//! - **DEL never stands in the way**: whatever is missing, it succeeds, within a second.
//! - Every wait is bounded; nothing is kept on disk.
//! - It runs once for every pod of the node: one short process, no threads, no async runtime.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::cast_possible_truncation))]

pub mod arguments;
pub mod config;
pub mod conflist;
pub mod environment;
pub mod failure;
pub mod install;
pub mod splice;
pub mod text;
pub mod verbs;
pub mod watch;

/// The plugin's name: of its file, and the `type` of its entry in a list of plugins.
pub const PLUGIN: &str = "weir-cni";

/// What this program calls itself to others.
pub const SOFTWARE: &str = concat!("weir-cni ", env!("CARGO_PKG_VERSION"));

/// Versions of CNI that the plugin speaks, oldest first: those in which plugins are chained by
/// `prevResult`.
pub const CNI_VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
