//! Weir's packet path: everything between a pod's host-side device and a verdict.
//!
//! Read in this order: [`shim`] and [`frame`] (what travels), [`io`] (where it comes
//! from).
//!
//! `unsafe` lives only in the modules that talk to rings and to the kernel; all others
//! forbid it.
#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::cast_possible_truncation))]

pub mod clock;
pub mod discover;
pub mod endpoints;
pub mod ethtool;
pub mod frame;
pub mod io;
pub mod netlink;
pub mod netns;
pub mod parse;
pub mod punt;
pub mod shim;
pub mod steer;
