//! AF_XDP: one socket on queue 0 of the device, both rings, copy mode.
//!
//! Invariants, on which every `unsafe` block below rests:
//! - each frame of the UMEM is in exactly one place: a free list, a ring, or the batch being
//!   read or written. All of them come from [`Umem::new`];
//! - user space touches a frame's bytes only while it is in the batch;
//! - the type is not `Sync`: one thread drives it.
//!
//! Frames for sending and for receiving are kept apart, so that neither can starve the other.
//! The data plane's own AF_XDP code is not used here: it sends back what it received, has
//! shorter rings, and its frames carry no time.
#![allow(unsafe_code)]

use std::io;
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use xsk_rs::config::{
    BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig,
};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use super::filter::{Filter, Match};
use super::{BATCH, Backend, MAX_FRAME, Rings, Role};

/// Bytes of a frame of the UMEM: 256 are the kernel's, eight the time of arrival.
const FRAME: u32 = 2048;
/// Descriptors of the rings for sending: a call sends [`BATCH`], and the rest is slack.
const TX_RING: u32 = 256;
/// Descriptors of the rings for receiving. The sink's: ten milliseconds at 1.6 million frames a
/// second, longer than it sleeps or is kept waiting for a processor.
const SINK_RING: u32 = 16_384;
const GENERATOR_RING: u32 = 2048;
/// The time of arrival in front of a received frame.
const STAMP: usize = 8;
/// So long a device may take nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// An AF_XDP socket and its program.
pub struct AfXdp {
    umem: Umem,
    fill: FillQueue,
    rx: RxQueue,
    tx: TxQueue,
    completion: CompQueue,
    /// Frames for sending that nobody has.
    free: Vec<FrameDesc>,
    /// Frames received and read, on their way back to the fill ring.
    empty: Vec<FrameDesc>,
    batch: Vec<FrameDesc>,
    _filter: Filter,
}

impl AfXdp {
    /// Opens a socket in the namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel has no AF_XDP, the queue is taken, or the program is refused.
    pub fn open(device: &str, role: Role, ours: Match) -> Result<Self> {
        let rx_ring = match role {
            Role::Generator => GENERATOR_RING,
            Role::Sink => SINK_RING,
        };
        let umem_config = UmemConfig::builder()
            .frame_size(FrameSize::new(FRAME)?)
            .fill_queue_size(QueueSize::new(rx_ring)?)
            .comp_queue_size(QueueSize::new(TX_RING)?)
            .build()?;
        let frames = NonZeroU32::new(rx_ring + TX_RING).ok_or_else(|| anyhow!("no frames"))?;
        let (umem, mut free) = Umem::new(umem_config, frames, false)
            .context("cannot make a UMEM (it needs RLIMIT_MEMLOCK or CAP_IPC_LOCK)")?;
        let config = SocketConfig::builder()
            .rx_queue_size(QueueSize::new(rx_ring)?)
            .tx_queue_size(QueueSize::new(TX_RING)?)
            // Ours stamps the frames and takes only those of the run.
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_COPY)
            .build();
        let interface: Interface = device.parse()?;
        // SAFETY: the UMEM is not shared with any other socket.
        let (tx, rx, rings) = unsafe { Socket::new(config, &umem, &interface, 0) }
            .context("cannot bind to queue 0 (needs root, CONFIG_XDP_SOCKETS, and that no other AF_XDP socket is there)")?;
        let (mut fill, completion) =
            rings.ok_or_else(|| anyhow!("the AF_XDP socket came without its rings"))?;
        let for_rx = free.split_off(TX_RING as usize);
        // SAFETY: the descriptors were made by `Umem::new` for this UMEM and nothing else holds
        // them.
        let filled = unsafe { fill.produce(&for_rx) };
        if filled != for_rx.len() {
            return Err(anyhow!("the fill ring took {filled} of {} frames", for_rx.len()));
        }
        let filter = Filter::deliver(device, ours, rx.fd().as_raw_fd())?;
        Ok(Self {
            umem,
            fill,
            rx,
            tx,
            completion,
            free,
            empty: Vec::with_capacity(rx_ring as usize),
            batch: vec![FrameDesc::default(); BATCH],
            _filter: filter,
        })
    }

    /// Takes back frames that have been sent.
    fn reclaim(&mut self) {
        loop {
            // SAFETY: every descriptor in the completion ring is a frame of this UMEM that was
            // put on the tx ring and is not used otherwise.
            let n = unsafe { self.completion.consume(&mut self.batch) };
            self.free.extend_from_slice(&self.batch[..n]);
            if n < self.batch.len() {
                return;
            }
        }
    }

    /// Makes the kernel send what is on the tx ring, all of it.
    fn kick(&mut self) -> io::Result<()> {
        let mut since = None;
        while self.tx.nb_free_exact() != TX_RING {
            self.tx.wakeup()?;
            if self.tx.nb_free_exact() != TX_RING {
                self.reclaim(); // a full completion ring stops the kernel
                patient(&mut since)?;
            }
        }
        Ok(())
    }
}

impl Rings for AfXdp {
    fn send(
        &mut self,
        count: usize,
        write: &mut dyn FnMut(usize, &mut [u8]) -> usize,
    ) -> io::Result<()> {
        let count = count.min(BATCH);
        let mut since = None;
        self.reclaim();
        while self.free.len() < count {
            patient(&mut since)?;
            self.kick()?;
            self.reclaim();
        }
        let start = self.free.len() - count;
        for (place, descriptor) in self.free[start..].iter_mut().enumerate() {
            // SAFETY: a free frame of this UMEM, which nothing else holds; the slice into it ends
            // with this iteration, before the frame goes to a ring.
            let mut data = unsafe { self.umem.data_mut(descriptor) };
            // The frame may be at any length from its last use; the buffer is what matters.
            data.cursor().set_pos(MAX_FRAME);
            let length = write(place, data.contents_mut());
            data.cursor().set_pos(length);
        }
        // SAFETY: free frames of this UMEM, and no slice into them is alive.
        let queued = unsafe { self.tx.produce(&self.free[start..]) };
        // The ring is empty between calls and longer than a batch: it takes all.
        self.free.truncate(self.free.len() - queued);
        self.kick()
    }

    fn receive(&mut self, read: &mut dyn FnMut(&[u8], u64)) -> io::Result<usize> {
        // SAFETY: a descriptor from the rx ring is a frame of this UMEM that the kernel has
        // finished writing and given to us.
        let n = unsafe { self.rx.consume(&mut self.batch) };
        for descriptor in &self.batch[..n] {
            // SAFETY: the frame is in the batch and nowhere else; the slice ends with this
            // iteration, before the frame goes back to the fill ring.
            let data = unsafe { self.umem.data(descriptor) };
            if let Some((stamp, frame)) = data.contents().split_first_chunk::<STAMP>() {
                read(frame, u64::from_ne_bytes(*stamp));
            }
        }
        self.empty.extend_from_slice(&self.batch[..n]);
        if !self.empty.is_empty() {
            // SAFETY: these frames were taken from the rx ring and read; nothing else holds them.
            let taken = unsafe { self.fill.produce(&self.empty) };
            // All or nothing; in the second case they go with the next ones.
            if taken > 0 {
                self.empty.clear();
            }
        }
        Ok(n)
    }

    fn dropped(&mut self) -> io::Result<u64> {
        let statistics = self.rx.fd().xdp_statistics()?;
        // rx_dropped counts what found no frame in the fill ring.
        Ok(statistics.rx_dropped() + statistics.rx_ring_full())
    }

    fn backend(&self) -> Backend {
        Backend::AfXdp
    }
}

/// An error once the device has taken nothing for too long.
fn patient(since: &mut Option<Instant>) -> io::Result<()> {
    if since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the device takes no frames; is it up, and its peer?",
        ));
    }
    Ok(())
}
