//! The control process: follow the source, compile, hand over to the courier.
//!
//! ```text
//!   folder: looks, reads, waits ──complete states──┐
//!                                                  ├──► core: index ──► compile ──► mailbox ──► courier
//!   kube: news of one object ────differences───────┘      └──► complaints ──► log, ledger
//! ```
//!
//! Two threads: the agent reads, compiles and logs; the courier (see `publisher`) talks to the
//! dataplane. Both tell the ledger. What is logged about the input is logged once, when it appears,
//! and once more when it is settled.

mod core;
mod folder;
mod hearing;
mod kube;

pub use folder::FolderAgent;
pub use kube::KubeAgent;
