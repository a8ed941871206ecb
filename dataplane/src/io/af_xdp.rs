//! AF_XDP: one socket and one UMEM a worker, bound to its queue of weir1.
//!
//! ```text
//!            fill ring  ──>  kernel  ──>  rx ring
//!  free frames  ^                            │ burst: closure decides in place
//!               │                            v
//!         completion ring <── kernel <──  tx ring      rejected: straight to the free list
//! ```
//!
//! Invariants, on which every `unsafe` block below rests:
//! - each frame of the UMEM is in exactly one place: the free list, the fill ring, the rx
//!   ring, the burst, the tx ring or the completion ring. Only frames of this UMEM ever
//!   enter any of them, because all of them come from [`Umem::new`];
//! - user space touches a frame's bytes only while it is in the burst;
//! - the type is not `Sync`: one thread drives it.
//!
//! Copy mode: on a veth the kernel copies a packet into the UMEM anyway.
#![allow(unsafe_code)]

use std::io::{self, Write};
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;
use std::time::Duration;

use arrayvec::ArrayVec;
use xsk_rs::config::{
    BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig,
};
use xsk_rs::umem::frame::DataMut;
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use super::{BURST, IoStats, PacketIo};
use crate::frame::Frame;

/// Descriptors of each of the four rings.
const RING: u32 = 2048;
/// Frames of a UMEM: a full fill ring, and as many again in flight.
const FRAMES: u32 = 2 * RING;
/// What the kernel keeps in front of a packet in every frame (XDP_PACKET_HEADROOM).
const HEADROOM: u32 = 256;
/// Largest Ethernet frame head beyond the MTU.
const ETHERNET: u32 = 14;

/// A worker's AF_XDP socket.
pub struct AfXdp {
    umem: Umem,
    fill: FillQueue,
    rx: RxQueue,
    tx: TxQueue,
    completion: CompQueue,
    free: Vec<FrameDesc>,
    burst: Vec<FrameDesc>,
    send: Vec<FrameDesc>,
    /// Frames handed to the kernel for transmission and not yet completed.
    in_flight: usize,
    stats: IoStats,
}

impl AfXdp {
    /// Opens a socket on `queue` of `device` in the calling thread's network namespace.
    /// `mtu` is the device's, in bytes; it chooses the frame size.
    ///
    /// # Errors
    /// Names the remedy where the cause is known: no AF_XDP in the kernel, no
    /// capability, the queue is taken.
    pub fn open(device: &str, queue: u32, mtu: u32) -> io::Result<Self> {
        let frame_size = if mtu + ETHERNET + HEADROOM <= 2048 { 2048 } else { 4096 };
        let invalid = |e: &dyn std::fmt::Display| io::Error::other(e.to_string());
        let ring = QueueSize::new(RING).map_err(|e| invalid(&e))?;
        let umem_config = UmemConfig::builder()
            .frame_size(FrameSize::new(frame_size).map_err(|e| invalid(&e))?)
            .fill_queue_size(ring)
            .comp_queue_size(ring)
            .build()
            .map_err(|e| invalid(&e))?;
        let frames = NonZeroU32::new(FRAMES).ok_or_else(|| io::Error::other("no frames"))?;
        let (umem, mut free) =
            Umem::new(umem_config, frames, false).map_err(|e| explain(&e, device, queue))?;
        let config = SocketConfig::builder()
            .rx_queue_size(ring)
            .tx_queue_size(ring)
            // libxdp's default program does not know the shim; ours is on the device.
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        let interface: Interface =
            device.parse().map_err(|e| io::Error::other(format!("{device}: {e}")))?;
        // SAFETY: the UMEM is not shared with any other socket, which is all that the
        // function asks (it forbids a second bind of a shared UMEM to the same queue
        // without INHIBIT_PROG_LOAD).
        let (tx, rx, rings) = unsafe { Socket::new(config, &umem, &interface, queue) }
            .map_err(|e| explain(&e, device, queue))?;
        let (mut fill, completion) =
            rings.ok_or_else(|| io::Error::other("AF_XDP socket came without its rings"))?;
        let spare = free.split_off(RING as usize);
        // SAFETY: the descriptors were made by `Umem::new` for this UMEM and nothing
        // else holds them.
        let filled = unsafe { fill.produce(&free) };
        let mut rest = free.split_off(filled);
        rest.extend(spare);
        rest.reserve_exact(FRAMES as usize - rest.len());
        Ok(Self {
            umem,
            fill,
            rx,
            tx,
            completion,
            free: rest,
            burst: vec![FrameDesc::default(); BURST],
            send: Vec::with_capacity(BURST),
            in_flight: 0,
            stats: IoStats::default(),
        })
    }

    /// The socket, for the XSKMAP.
    pub fn fd(&self) -> i32 {
        self.rx.fd().as_raw_fd()
    }

    /// Takes back frames that the kernel has sent.
    fn reclaim(&mut self) {
        while self.in_flight > 0 {
            // SAFETY: every descriptor in the completion ring is a frame of this UMEM
            // that we put on the tx ring and do not use otherwise.
            let n = unsafe { self.completion.consume(&mut self.burst) };
            if n == 0 {
                return;
            }
            self.in_flight -= n.min(self.in_flight);
            self.free.extend_from_slice(&self.burst[..n]);
        }
    }

    /// Gives the kernel as many free frames as its fill ring takes.
    fn refill(&mut self) {
        let room = self.fill.nb_free(RING) as usize;
        let n = room.min(self.free.len()).min(BURST);
        // Half a burst at a time: the ring's shared index is written less often.
        if n < BURST / 2 {
            return;
        }
        let start = self.free.len() - n;
        // SAFETY: free frames belong to this UMEM and nothing else holds them.
        let taken = unsafe { self.fill.produce(&self.free[start..]) };
        debug_assert!(taken == 0 || taken == n, "the ring takes all or nothing");
        self.free.truncate(self.free.len() - taken);
    }

    /// Puts `self.send` on the tx ring and wakes the kernel.
    fn transmit(&mut self) -> io::Result<()> {
        if self.send.is_empty() {
            return Ok(());
        }
        let n = self.send.len();
        // SAFETY: the frames are of this UMEM and, since the burst is over, no slice
        // into them is alive; their lengths are those that the kernel wrote.
        let mut queued = unsafe { self.tx.produce(&self.send) };
        if queued == 0 {
            // The ring takes all or nothing: let the kernel drain it, once.
            self.kick()?;
            self.reclaim();
            // SAFETY: as above.
            queued = unsafe { self.tx.produce(&self.send) };
        }
        if queued == 0 {
            self.stats.tx_full += n as u64;
            self.free.extend_from_slice(&self.send);
        } else {
            self.in_flight += queued;
            self.stats.tx_frames += queued as u64;
            self.stats.tx_bytes += self.send.iter().map(|d| d.lengths().data() as u64).sum::<u64>();
        }
        self.send.clear();
        self.kick()
    }

    /// Makes the kernel send what is on the tx ring. In copy mode one call takes a batch
    /// of 32, so a full burst needs a few; what a congested device leaves is sent by the
    /// next burst's call.
    fn kick(&mut self) -> io::Result<()> {
        for _ in 0..=BURST / 32 {
            if self.tx.nb_free(RING) == RING {
                break;
            }
            self.tx.wakeup()?;
        }
        Ok(())
    }
}

impl PacketIo for AfXdp {
    fn burst<F: FnMut(&mut [Frame<'_>])>(&mut self, mut f: F) -> io::Result<usize> {
        self.reclaim();
        self.refill();
        // SAFETY: a descriptor from the rx ring is a frame of this UMEM that the kernel
        // has finished writing and given to us; it stays ours until it is produced again.
        let n = unsafe { self.rx.consume(&mut self.burst) };
        if n == 0 {
            self.kick()?;
            return Ok(0);
        }
        let mut accepted = [false; BURST];
        {
            let mut data: ArrayVec<DataMut<'_>, BURST> = ArrayVec::new();
            for descriptor in &mut self.burst[..n] {
                // SAFETY: the frame is in the burst and nowhere else, every descriptor
                // names a different frame, and the slices end with this block, before
                // any frame is produced to a ring again.
                data.push(unsafe { self.umem.data_mut(descriptor) });
            }
            let mut frames: ArrayVec<Frame<'_>, BURST> = ArrayVec::new();
            for bytes in &mut data {
                self.stats.rx_bytes += bytes.contents().len() as u64;
                frames.push(Frame::new(bytes.contents_mut()));
            }
            f(&mut frames);
            for (slot, frame) in accepted.iter_mut().zip(&frames) {
                *slot = frame.accept;
            }
        }
        self.stats.rx_frames += n as u64;
        for (descriptor, accept) in self.burst[..n].iter().zip(accepted) {
            if accept {
                self.send.push(*descriptor);
            } else {
                self.free.push(*descriptor);
            }
        }
        self.transmit()?;
        Ok(n)
    }

    fn send<'f>(&mut self, frames: impl Iterator<Item = &'f [u8]>) -> io::Result<()> {
        for frame in frames {
            if self.send.len() == BURST {
                self.transmit()?;
            }
            let Some(mut descriptor) = self.free.pop() else {
                self.stats.tx_full += 1;
                continue;
            };
            // SAFETY: a free frame of this UMEM, which nothing else holds; the slice into it
            // ends with this block.
            let mut data = unsafe { self.umem.data_mut(&mut descriptor) };
            let mut cursor = data.cursor();
            cursor.set_pos(0);
            if cursor.write_all(frame).is_ok() {
                self.send.push(descriptor);
            } else {
                // Larger than a frame of the UMEM, so it never came from here.
                self.stats.tx_invalid_descs += 1;
                self.free.push(descriptor);
            }
        }
        self.transmit()
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        self.reclaim();
        self.refill();
        let ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        self.rx.poll(ms)?;
        Ok(())
    }

    fn stats(&mut self) -> IoStats {
        let mut stats = self.stats;
        if let Ok(kernel) = self.rx.fd().xdp_statistics() {
            stats.rx_dropped = kernel.rx_dropped();
            stats.rx_ring_full = kernel.rx_ring_full();
            stats.rx_fill_empty = kernel.rx_fill_ring_empty_descs();
            stats.rx_invalid_descs = kernel.rx_invalid_descs();
            stats.tx_invalid_descs = kernel.tx_invalid_descs();
        }
        stats
    }
}

/// Turns what libxdp says into what the operator can do about it.
fn explain(error: &dyn std::error::Error, device: &str, queue: u32) -> io::Error {
    let cause = error.source().and_then(|s| s.downcast_ref::<io::Error>());
    let remedy = match cause.and_then(io::Error::raw_os_error) {
        Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT) => {
            "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS); use one that has"
        }
        Some(libc::EPERM | libc::EACCES) => {
            "AF_XDP sockets need CAP_NET_RAW and CAP_NET_ADMIN; run as root or grant them"
        }
        Some(libc::ENOBUFS | libc::ENOMEM) => {
            "the UMEM cannot be locked in memory; grant CAP_IPC_LOCK or raise RLIMIT_MEMLOCK"
        }
        Some(libc::EBUSY) => "another AF_XDP socket has this queue; stop the other daemon",
        _ => "see the kernel's log",
    };
    let detail = cause.map_or_else(|| error.to_string(), |c| format!("{error}: {c}"));
    io::Error::other(format!("AF_XDP socket on {device} queue {queue}: {detail}; {remedy}"))
}
