//! Packet generator, loads and the judgement of measurements.
//!
//! Everything speaks through ordinary sockets: good for loss, order and delay, for the
//! cost of a packet and the rate of connections, at the rates that a socket reaches
//! (about a million packets a second on a core).
//!
//! | Module | Job |
//! |---|---|
//! | [`message`] | what a numbered datagram carries: stream, sequence number, time sent |
//! | [`pacer`] | when the next one is due |
//! | [`pktgen`] | sends a stream |
//! | [`tally`] | judges a stream from the messages seen: pure, no sockets, no clock |
//! | [`sink`] | receives a stream and hands it to the tally |
//! | [`place`] | network namespaces, devices' counters, processors |
//! | [`cpu`] | processor time spent on behalf of a load |
//! | [`flood`] | load: processor time for a packet |
//! | [`rr`] | load: time of a request and its response |
//! | [`connect`] | load: connections a second |
//! | [`stats`] | medians and spreads |
//! | [`report`] | judges the samples of `bench/fastpath` |
//! | [`cli`] | the command line |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::float_cmp))]

pub mod cli;
pub mod connect;
pub mod cpu;
pub mod flood;
pub mod message;
pub mod pacer;
pub mod pktgen;
pub mod place;
pub mod report;
pub mod rr;
pub mod sink;
pub mod stats;
pub mod tally;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`, which every process of one machine shares,
/// in whatever network namespace. Times of two machines cannot be compared.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
