//! Packet I/O: where bursts of frames come from and where accepted ones go.
//!
//! [`PacketIo`] is the one seam between the verdict pipeline and the world. The same
//! pipeline runs over
//! - `af_xdp`: the sockets of a worker (the real thing),
//! - [`tap`]: the queues of a TAP device, packets of up to 64 KiB whole,
//! - [`memory`]: two in-memory queues with fault injection (tests, simulation),
//! - [`pcap`]: a capture in, the accepted frames out.
//!
//! Contract of a backend: frames handed to the closure are complete (never part of a
//! packet); a frame left with `accept == false` is never transmitted; nothing is
//! allocated per packet; a full transmit queue drops and counts (`tx_full`), it never
//! blocks.

pub mod af_xdp;
pub mod memory;
pub mod pcap;
pub mod tap;

use std::io;
use std::time::Duration;

use crate::frame::Frame;

/// The largest number of frames in one burst. Large enough to amortise the ring
/// accesses and overlap cache misses, small enough to stay in the first-level cache.
pub const BURST: usize = 64;

/// Totals of one backend since it was opened, in frames unless said otherwise. The
/// fields from `rx_dropped` on exist for AF_XDP (`struct xdp_statistics`, if_xdp.h);
/// other backends leave what they do not have at 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IoStats {
    /// Frames received.
    pub rx_frames: u64,
    /// Bytes received, shim included.
    pub rx_bytes: u64,
    /// Frames queued for transmission.
    pub tx_frames: u64,
    /// Bytes queued for transmission, shim included.
    pub tx_bytes: u64,
    /// Accepted frames lost because the transmit queue was full.
    pub tx_full: u64,
    /// Received frames that were cut short by the backend (larger than its buffers) and
    /// therefore dropped.
    pub rx_truncated: u64,
    /// Dropped by the kernel before they reached the receive ring, for other reasons.
    pub rx_dropped: u64,
    /// Dropped by the kernel because the receive ring was full.
    pub rx_ring_full: u64,
    /// Dropped by the kernel because the fill ring had no free buffer.
    pub rx_fill_empty: u64,
    /// Descriptors of the fill ring that the kernel refused.
    pub rx_invalid_descs: u64,
    /// Descriptors of the transmit ring that the kernel refused.
    pub tx_invalid_descs: u64,
}

/// A source and sink of frames, driven by one worker.
pub trait PacketIo {
    /// Receives up to [`BURST`] frames without blocking, hands them to `f` in one call
    /// (not at all if there were none), transmits those left with `accept == true` and
    /// recycles the rest. Returns how many were received; 0 means idle.
    ///
    /// # Errors
    /// When the device or file is gone or broken; never for a single bad frame.
    fn burst<F: FnMut(&mut [Frame<'_>])>(&mut self, f: F) -> io::Result<usize>;

    /// Transmits frames that are not of the present burst, in this order. What has no room is
    /// dropped and counted (`tx_full`).
    ///
    /// # Errors
    /// As [`PacketIo::burst`].
    fn send<'f>(&mut self, frames: impl Iterator<Item = &'f [u8]>) -> io::Result<()>;

    /// Blocks until a frame may be there, or `timeout` has passed.
    ///
    /// # Errors
    /// When waiting itself fails; a timeout is not an error.
    fn wait(&mut self, timeout: Duration) -> io::Result<()>;

    /// Totals since the backend was opened.
    fn stats(&mut self) -> IoStats;
}
