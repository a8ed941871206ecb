//! Weir's control process and command line: from Kubernetes objects to the table that the
//! dataplane enforces, and back to sentences that say why.
//!
//! ```text
//!   source ──► model ──► index ──► compile ──► publisher ──► dataplane
//!   (files,    (typed,   (objects   (classes,    (sealed
//!    API)       strict)   in force)  programs)    memfd)
//!                           │          │
//!                           ▼          ▼
//!                         oracle     eval, explain, lint
//! ```
//!
//! Everything but `source` and `publisher` is pure: values in, values out, no clock, no files.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::cast_possible_truncation))]

pub mod agent;
pub mod cli;
pub mod compile;
pub mod doctor;
pub mod eval;
pub mod explain;
pub mod index;
pub mod ledger;
pub mod lint;
pub mod live;
pub mod metrics;
pub mod model;
pub mod names;
pub mod oracle;
pub mod publisher;
pub mod record;
pub mod source;
