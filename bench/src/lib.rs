//! Packet generator and receiver for tests and measurements.
//!
//! This version speaks through ordinary UDP sockets: good for loss, order and
//! delay at the rates that a socket reaches (some 100,000 packets a second on a
//! core), not for finding the limit of a packet path.
//!
//! | Module | Job |
//! |---|---|
//! | [`message`] | what a datagram carries: stream, sequence number, time sent |
//! | [`pacer`] | when the next one is due |
//! | [`pktgen`] | sends a stream |
//! | [`tally`] | judges a stream from the messages seen: pure, no sockets, no clock |
//! | [`sink`] | receives a stream and hands it to the tally |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::cast_possible_truncation))]

pub mod message;
pub mod pacer;
pub mod pktgen;
pub mod sink;
pub mod tally;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`, which every process of one machine shares,
/// in whatever network namespace. Times of two machines cannot be compared.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
