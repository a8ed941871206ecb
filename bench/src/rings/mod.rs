//! How frames get to and from a device, past the kernel's sockets.
//!
//! [`Rings`] is one end: what is sent leaves the device, and of what arrives there the frames of
//! the run are taken away before the network stack sees them ([`filter`]). Two backends:
//!
//! | Backend | Sends | Receives |
//! |---|---|---|
//! | [`af_xdp`] | AF_XDP, copy mode, 32 frames a system call | generic XDP program → AF_XDP |
//! | [`af_packet`] | AF_PACKET, past the queueing discipline | AF_PACKET, then dropped at tc ingress |
//!
//! Generic XDP, because native XDP changes what is measured: on a veth it moves the receiver's
//! work to a NAPI of its own, turns GRO on and makes the *other* end allocate frames anew. The
//! generic program runs where the pod's stack would have begun, so every contender pays the
//! same for the sink: a copy of the frame, and nothing behind it.
//!
//! Arrival is stamped in the kernel, at the device. The sink may therefore sleep between looks
//! at its ring, and leaves its processor to those who are measured.
//!
//! Invariant of both: a frame is received complete or not at all, and what the kernel had no
//! room for is counted ([`Rings::dropped`]).

pub mod af_packet;
pub mod af_xdp;
pub mod filter;
pub mod next_hop;
mod packet_socket;

use std::fmt;
use std::io;

use anyhow::{Context, Result};
use serde::Serialize;

pub use filter::Match;

/// Frames of one call at most: what AF_XDP in copy mode sends in one system call
/// (`TX_BATCH_SIZE` of net/xdp/xsk.c).
pub const BATCH: usize = 32;

/// The largest frame, in bytes without FCS.
pub const MAX_FRAME: usize = 1514;

/// A way to and from a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// AF_XDP sockets behind a generic XDP program.
    AfXdp,
    /// AF_PACKET sockets.
    AfPacket,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AfXdp => "af_xdp",
            Self::AfPacket => "af_packet",
        })
    }
}

/// One end of a run: frames to and from a device.
pub trait Rings {
    /// Sends `count` frames (at most [`BATCH`]). `write` is called for each in turn with its
    /// place from 0 and a buffer of at least [`MAX_FRAME`] bytes, and gives the frame's length.
    ///
    /// A frame that the device refuses is lost, as on any other part of its way.
    ///
    /// # Errors
    /// When the socket is broken or takes nothing for a second.
    fn send(
        &mut self,
        count: usize,
        write: &mut dyn FnMut(usize, &mut [u8]) -> usize,
    ) -> io::Result<()>;

    /// Hands what has arrived to `read`, with the time of arrival (`CLOCK_MONOTONIC`,
    /// nanoseconds), without waiting. Gives how many there were, at most a few batches.
    ///
    /// # Errors
    /// When the socket is broken.
    fn receive(&mut self, read: &mut dyn FnMut(&[u8], u64)) -> io::Result<usize>;

    /// Frames so far that arrived and for which the queue had no room.
    ///
    /// # Errors
    /// When the socket is broken.
    fn dropped(&mut self) -> io::Result<u64>;

    /// Which backend this is.
    fn backend(&self) -> Backend;
}

/// Which end: the sink needs the longer queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sends, and receives answers.
    Generator,
    /// Receives, and answers.
    Sink,
}

/// Opens an end on `device` in the namespace of the calling thread, for frames that are `ours`.
/// Without a backend AF_XDP is tried, then AF_PACKET.
///
/// # Errors
/// Names the device, the cause and, where it is known, the remedy.
pub fn open(
    device: &str,
    role: Role,
    ours: Match,
    backend: Option<Backend>,
) -> Result<Box<dyn Rings>> {
    let packet = || {
        af_packet::AfPacket::open(device, role, ours)
            .map(|rings| Box::new(rings) as Box<dyn Rings>)
            .with_context(|| format!("AF_PACKET on {device}"))
    };
    let xdp = || {
        af_xdp::AfXdp::open(device, role, ours)
            .map(|rings| Box::new(rings) as Box<dyn Rings>)
            .with_context(|| format!("AF_XDP on {device}"))
    };
    match backend {
        Some(Backend::AfXdp) => xdp(),
        Some(Backend::AfPacket) => packet(),
        None => xdp().or_else(|why| {
            packet().with_context(|| format!("neither AF_XDP ({why:#}) nor AF_PACKET works"))
        }),
    }
}
