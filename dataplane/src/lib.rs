//! Weir's packet path: everything between a pod's host-side device and a verdict.
//!
//! `dataplane/README.md` is the architecture book. Read in this order: `bpf/steer.bpf.c`
//! (what the kernel decides by itself), [`shim`] and [`frame`] (what travels to user
//! space), [`io`] (where it comes from), [`pipeline`] (what becomes of it), [`worker`]
//! (the loop), [`node`] and [`rejudge`] (what a change does), [`pods`] (whose device is
//! whose), [`cni`] (what the CNI plugin says of it), [`seed`] (connections from before), [`origins`]
//! (who opened what the host translated), [`drops`] (what was dropped, and why), [`metrics`] (what is
//! told to Prometheus and to probes), [`steer`] and [`punt`] (programs, maps, devices), [`daemon`]
//! (how it all starts).
//!
//! `unsafe` lives only in the modules that talk to rings and to the kernel; all others
//! forbid it.
#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::cast_possible_truncation))]

pub mod admin;
pub mod claims;
pub mod clock;
pub mod cni;
pub mod daemon;
pub mod discover;
pub mod drops;
pub mod endpoints;
pub mod ethtool;
pub mod frame;
pub mod io;
pub mod metrics;
pub mod netlink;
pub mod netns;
pub mod node;
pub mod origins;
pub mod parse;
pub mod pipeline;
pub mod placements;
pub mod pods;
pub mod privileges;
pub mod punt;
pub mod rejudge;
pub mod seed;
pub mod shim;
pub mod state;
pub mod steer;
pub mod words;
pub mod worker;
