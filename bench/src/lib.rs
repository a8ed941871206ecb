//! Packet generator, loads and the judgement of measurements.
//!
//! [`pktgen`] writes and reads frames itself, past the sockets of both kernels. Everything
//! else speaks through ordinary sockets, as applications do.
//!
//! | Module | Job |
//! |---|---|
//! | [`pktgen`] | generator and sink of frames: rate, loss, order, latency, cost |
//! | [`rings`] | how frames get to and from a device: AF_XDP, AF_PACKET |
//! | [`sequence`] | what became of numbered messages; pure |
//! | [`latency`] | distributions of latencies |
//! | [`message`] | what a numbered datagram carries: stream, sequence number, time sent |
//! | [`pacer`] | when the next one is due |
//! | [`stream`] | sends a stream of datagrams |
//! | [`tally`] | judges a stream from the messages seen: pure, no sockets, no clock |
//! | [`sink`] | receives a stream and hands it to the tally |
//! | [`place`] | network namespaces, devices' counters, processors |
//! | [`cpu`] | processor time spent on behalf of a load |
//! | [`flood`] | load: processor time for a packet |
//! | [`rr`] | load: time of a request and its response |
//! | [`connect`] | load: connections a second |
//! | [`stats`] | medians and spreads |
//! | [`run`] | contenders, round for round, on a node of their own |
//! | [`report`] | judges the samples of a run: tables, plots |
//! | [`cli`] | the command line |
#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::float_cmp))]

pub mod cli;
pub mod connect;
pub mod cpu;
pub mod flood;
pub mod latency;
pub mod message;
pub mod pacer;
pub mod pktgen;
pub mod place;
pub mod report;
pub mod rings;
pub mod rr;
pub mod run;
pub mod sequence;
pub mod sink;
pub mod stats;
pub mod stream;
pub mod tally;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`, which every process of one machine shares,
/// in whatever network namespace. Times of two machines cannot be compared.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
