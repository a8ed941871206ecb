//! The generator end to end: what it counts is what happened on the way.
//!
//! Two pods and a router between them, network namespaces of the test's own. The router loses,
//! repeats or delays frames as nftables and tc are told to, and counts what it did; or a wire of
//! the test's own does ([`wire`]).
//!
//! Needs root and what `scripts/setup` installs. Without root the tests say "SKIPPED: needs
//! root" and pass; with `WEIR_REQUIRE_E2E=1`, as `scripts/test` runs them, that is a failure.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod flood;
mod kernel;
mod net;
mod pktgen;
mod ranges;
mod run;
mod wire;
