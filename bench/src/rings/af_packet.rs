//! AF_PACKET: where the kernel or the device has no AF_XDP.
//!
//! Slower than AF_XDP, and its sink costs more: each frame is cloned for the socket and then
//! runs into the program that drops it. Compare figures of one backend with each other only.

use std::io;

use anyhow::Result;
use rustix::time::{ClockId, clock_gettime};

use super::filter::{Filter, Match};
use super::packet_socket::{PacketSocket, Use};
use super::{Backend, Rings, Role};
use crate::monotonic_ns;

/// Bytes that may wait: the kernel counts about 768 for a small frame.
const SINK_QUEUE: usize = 64 << 20;
const GENERATOR_QUEUE: usize = 4 << 20;

/// A pair of AF_PACKET sockets and the program behind them.
#[derive(Debug)]
pub struct AfPacket {
    tx: PacketSocket,
    rx: PacketSocket,
    dropped: u64,
    _filter: Filter,
}

impl AfPacket {
    /// Opens the sockets in the namespace of the calling thread.
    ///
    /// # Errors
    /// When there is no such device, or without `CAP_NET_RAW` and `CAP_NET_ADMIN`.
    pub fn open(device: &str, role: Role, ours: Match) -> Result<Self> {
        let queue = match role {
            Role::Generator => GENERATOR_QUEUE,
            Role::Sink => SINK_QUEUE,
        };
        Ok(Self {
            tx: PacketSocket::open(device, Use::Send)?,
            rx: PacketSocket::open(device, Use::Receive { queue })?,
            dropped: 0,
            _filter: Filter::drop_behind_taps(device, ours)?,
        })
    }
}

impl Rings for AfPacket {
    fn send(
        &mut self,
        count: usize,
        write: &mut dyn FnMut(usize, &mut [u8]) -> usize,
    ) -> io::Result<()> {
        self.tx.send(count, write)
    }

    fn receive(&mut self, read: &mut dyn FnMut(&[u8], u64)) -> io::Result<usize> {
        // The kernel stamps with the clock that can be set; what it is ahead of ours may change
        // while it is adjusted, so it is looked up each time.
        let ahead = realtime_ns().saturating_sub(monotonic_ns());
        self.rx.receive(&mut |frame, at| read(frame, at.saturating_sub(ahead)))
    }

    fn dropped(&mut self) -> io::Result<u64> {
        self.dropped += self.rx.dropped()?;
        Ok(self.dropped)
    }

    fn backend(&self) -> Backend {
        Backend::AfPacket
    }
}

fn realtime_ns() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
