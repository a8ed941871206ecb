//! The stand-in as its clients see it: a plain one over a socket, and the kube client.
#![allow(clippy::unwrap_used, missing_docs)]

mod client;
mod faults;
mod lists;
mod mirror;
mod process;
mod support;
mod watches;
mod writes;
