//! weir0 as a TAP device.
//!
//! ```text
//!  pod's veth ── steering: miss ──> weir0 ══> worker 0..N-1: read(2)
//!  pod's veth <── weir_return ────  weir0 <══ write(2)
//! ```
//!
//! Invariants: one queue a worker, chosen by the shim; an MTU that no pod's packet exceeds,
//! so that the device never has to be made anew; no queueing
//! discipline, so that the driver's ring is the only place where a frame waits or is lost; no address, ARP or IPv6, so no frame of the
//! kernel's own ever appears on it. The device dies with the daemon's descriptors.

use std::io;
use std::os::fd::BorrowedFd;

use crate::io::tap::{self, Tap, TapOffloads};
use crate::netlink::Netlink;

/// The largest MTU of a TAP device: 65535 less its Ethernet header (tun.c, `tun_setup`).
const MTU: u32 = 65_535 - 14;
/// Frames that the driver keeps for each queue: a burst of a busy pod, as on a veth pair.
const QUEUE_LENGTH: u32 = 4096;

/// The device, up and running.
#[derive(Debug)]
pub struct PuntTap {
    /// Index of weir0.
    pub index: u32,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// What kinds of packet reach it uncut.
    pub offloads: TapOffloads,
}

impl PuntTap {
    /// Makes the device, in place of what an earlier daemon may have left, and gives the
    /// queues. `chooser` is the socket filter that picks a frame's queue.
    ///
    /// # Errors
    /// Names the step that the kernel refused, and why.
    pub async fn make(
        name: &str,
        queues: u32,
        chooser: BorrowedFd<'_>,
    ) -> io::Result<(Self, Vec<Tap>)> {
        let netlink = Netlink::open()?;
        super::remove_leftover(&netlink, name).await?;
        let (taps, offloads) = tap::make(name, queues, chooser)?;
        let index = netlink
            .index_of(name)
            .await?
            .ok_or_else(|| io::Error::other(format!("{name} disappeared while it was made")))?;
        super::disable_ipv6(name);
        netlink.set_size(index, MTU, QUEUE_LENGTH).await?;
        netlink.set_no_queue(index).await?;
        netlink.set_up_without_arp(index).await?;
        Ok((Self { index, mtu: MTU, offloads }, taps))
    }
}
