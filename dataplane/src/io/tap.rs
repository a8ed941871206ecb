//! TAP: one queue of a multi-queue TAP device a worker, GSO packets whole.
//!
//! ```text
//!  kernel ── weir0's transmit queue ──> read(2)   [vnet header][shim][Ethernet][IP ..]
//!  kernel <── receive path of weir0 ─── write(2)  [vnet header][Ethernet][shim][IP ..]
//! ```
//!
//! What AF_XDP cannot carry goes this way: packets of up to 64 KiB that the kernel has not
//! cut into segments yet, and jumbo frames. In front of every frame stands a `struct
//! virtio_net_hdr` (linux/virtio_net.h) that says how the packet is to be cut and where its
//! checksum is missing. Its offsets count from the start of the frame; the shim moves from
//! before the Ethernet header to behind it, so they stay true and the header goes back as it
//! came.
//!
//! The price is a system call a packet in each direction; for bulk that is one for 40
//! segments, for small packets it is more than AF_XDP costs.
//!
//! `unsafe`: the ioctls of /dev/net/tun take pointers.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use arrayvec::ArrayVec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{BURST, IoStats, PacketIo};
use crate::frame::Frame;
use crate::shim::HEAD_LEN;

/// `struct virtio_net_hdr` in front of every frame.
const VNET_HEADER: usize = 10;
/// Room for the largest frame that the kernel sends without cutting it (64 KiB) and its
/// head, and some more, so that a longer one would show.
const SLOT: usize = VNET_HEADER + HEAD_LEN + 65_536 + 512;
/// A burst ends after so many bytes: more would fall out of the second-level cache between
/// the stages of the pipeline.
const BURST_BYTES: usize = 256 * 1024;
/// The device's statistics are read at every so many calls of [`PacketIo::stats`].
const LOOK_AT_DEVICE: u32 = 1024;

const TUN: &str = "/dev/net/tun";
/// Bits of TUNSETOFFLOAD (linux/if_tun.h): what the reader of the device can take.
const CSUM_AND_TSO: libc::c_uint =
    libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
/// UDP segmentation, Linux 6.2 and newer.
const USO: libc::c_uint = 0x20 | 0x40;

/// A worker's queue of the TAP device.
#[derive(Debug)]
pub struct Tap {
    queue: File,
    device: String,
    /// Only one queue tells what the device has dropped.
    first: bool,
    /// [`BURST`] slots of [`SLOT`] bytes.
    slots: Vec<u8>,
    stats: IoStats,
    calls: u32,
}

/// What a device was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TapOffloads {
    /// UDP packets come uncut as well (TCP ones always do).
    pub udp: bool,
}

/// Makes the TAP device `name` with a queue a worker, in the calling thread's network
/// namespace. It is gone once all queues are closed. `chooser`, a loaded socket filter,
/// picks the queue of each frame.
///
/// # Errors
/// Names the remedy where the cause is known: no TUN driver, no capability, the name taken.
pub fn make(
    name: &str,
    queues: u32,
    chooser: BorrowedFd<'_>,
) -> io::Result<(Vec<Tap>, TapOffloads)> {
    let mut taps = Vec::new();
    for queue in 0..queues {
        taps.push(Tap::open(name, queue == 0)?);
    }
    let first = taps.first().ok_or_else(|| io::Error::other("a TAP device without queues"))?;
    let fd = &first.queue;
    let all = number(fd, libc::TUNSETOFFLOAD, CSUM_AND_TSO | USO);
    let udp = all.is_ok();
    if !udp {
        number(fd, libc::TUNSETOFFLOAD, CSUM_AND_TSO).map_err(|e| {
            explain(&e, name, "the kernel does not leave segmentation to the TAP device")
        })?;
    }
    let chooser = chooser.as_raw_fd();
    // SAFETY: the command reads one int, a descriptor of a socket filter, and keeps its own
    // reference to the program.
    let set = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETSTEERINGEBPF as _, &chooser) };
    if set < 0 {
        let error = io::Error::last_os_error();
        return Err(explain(&error, name, "the kernel does not take the program for its queues"));
    }
    Ok((taps, TapOffloads { udp }))
}

/// An ioctl that takes a number in place of a pointer.
fn number(fd: &File, command: libc::c_ulong, value: libc::c_uint) -> io::Result<()> {
    // SAFETY: the command takes its argument by value and touches no memory of ours.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), command as _, libc::c_ulong::from(value)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn explain(error: &io::Error, name: &str, what: &str) -> io::Error {
    let remedy = match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            "load the tun module, or give the container /dev/net/tun"
        }
        Some(libc::EPERM | libc::EACCES) => {
            "making a TAP device needs CAP_NET_ADMIN and access to /dev/net/tun; run as root or \
             grant them"
        }
        Some(libc::EBUSY) => "another process has the device; stop the other daemon",
        Some(libc::EINVAL) => {
            "another device has the name, or the kernel is older than 4.16; choose another \
             --device-prefix"
        }
        _ => "see the kernel's log",
    };
    io::Error::new(error.kind(), format!("TAP device {name}: {what}: {error}; {remedy}"))
}

impl Tap {
    fn open(name: &str, first: bool) -> io::Result<Self> {
        let queue = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(TUN)
            .map_err(|e| explain(&e, name, "cannot open /dev/net/tun"))?;
        // SAFETY: all zero is a valid `struct ifreq`.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if name.is_empty() || name.len() >= request.ifr_name.len() {
            let what = format!("{name:?} is no interface name of 1 to 15 bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed() as libc::c_char;
        }
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
        request.ifr_ifru.ifru_flags = u16::try_from(flags).unwrap_or(0).cast_signed();
        // SAFETY: the command reads and writes one `struct ifreq`, which outlives the call.
        let made =
            unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
        if made < 0 {
            return Err(explain(&io::Error::last_os_error(), name, "cannot be made"));
        }
        Ok(Self {
            queue,
            device: name.to_owned(),
            first,
            slots: vec![0; BURST * SLOT],
            stats: IoStats::default(),
            calls: 0,
        })
    }

    /// What the device has dropped because its queues were full.
    fn dropped(&self) -> Option<u64> {
        // Not sysfs, which shows the namespace of whoever mounted it.
        let devices = std::fs::read_to_string("/proc/thread-self/net/dev").ok()?;
        dropped_by(&devices, &self.device)
    }
}

/// Reads the transmit drops of a device from the text of `/proc/net/dev`.
fn dropped_by(devices: &str, device: &str) -> Option<u64> {
    /// Receive columns, then bytes, packets, errors, drops.
    const COLUMN: usize = 8 + 3;
    let line = devices.lines().find_map(|line| {
        let (name, rest) = line.split_once(':')?;
        (name.trim() == device).then_some(rest)
    })?;
    line.split_whitespace().nth(COLUMN)?.parse().ok()
}

/// True for what a single bad or unlucky frame is answered with.
fn is_the_frames_fault(error: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    [Errno::INVAL, Errno::MSGSIZE, Errno::FAULT].contains(&error)
}

impl IoStats {
    fn count_written(&mut self, written: rustix::io::Result<usize>, length: usize) {
        match written {
            Ok(_) => {
                self.tx_frames += 1;
                self.tx_bytes += length as u64;
            }
            Err(error) if is_the_frames_fault(error) => self.tx_invalid_descs += 1,
            // No memory or no room in the kernel at this moment.
            Err(_) => self.tx_full += 1,
        }
    }
}

impl PacketIo for Tap {
    fn burst<F: FnMut(&mut [Frame<'_>])>(&mut self, mut f: F) -> io::Result<usize> {
        let mut lengths: ArrayVec<usize, BURST> = ArrayVec::new();
        let mut bytes = 0;
        for slot in self.slots.chunks_exact_mut(SLOT) {
            if bytes >= BURST_BYTES {
                break;
            }
            match rustix::io::read(&self.queue, slot) {
                Ok(length) => {
                    // The kernel cuts what has no room, so a full slot is suspect.
                    let fits = (VNET_HEADER..SLOT).contains(&length);
                    self.stats.rx_truncated += u64::from(!fits);
                    lengths.push(if fits { length } else { VNET_HEADER });
                    bytes += length;
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => break,
                // A packet for which the vnet header has no words; it is gone.
                Err(error) if is_the_frames_fault(error) => {
                    self.stats.rx_truncated += 1;
                    lengths.push(VNET_HEADER);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let n = lengths.len();
        if n == 0 {
            return Ok(0);
        }
        let mut accepted = [false; BURST];
        {
            let mut frames: ArrayVec<Frame<'_>, BURST> = ArrayVec::new();
            for (slot, &length) in self.slots.chunks_exact_mut(SLOT).zip(&lengths) {
                self.stats.rx_bytes += (length - VNET_HEADER) as u64;
                frames.push(Frame::new(slot.get_mut(VNET_HEADER..length).unwrap_or_default()));
            }
            f(&mut frames);
            for (accept, frame) in accepted.iter_mut().zip(&frames) {
                *accept = frame.accept;
            }
        }
        self.stats.rx_frames += n as u64;
        for ((slot, &length), accept) in self.slots.chunks_exact(SLOT).zip(&lengths).zip(accepted) {
            let Some(frame) = slot.get(..length).filter(|_| accept) else { continue };
            let written = rustix::io::write(&self.queue, frame);
            self.stats.count_written(written, length - VNET_HEADER);
        }
        Ok(n)
    }

    /// Sent as they are: whole packets that nobody cuts, with checksums.
    fn send<'f>(&mut self, frames: impl Iterator<Item = &'f [u8]>) -> io::Result<()> {
        for frame in frames {
            let parts = [IoSlice::new(&[0; VNET_HEADER]), IoSlice::new(frame)];
            let written = rustix::io::writev(&self.queue, &parts);
            self.stats.count_written(written, frame.len());
        }
        Ok(())
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&self.queue, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn stats(&mut self) -> IoStats {
        if self.first && self.calls.is_multiple_of(LOOK_AT_DEVICE) {
            self.stats.rx_ring_full = self.dropped().unwrap_or(self.stats.rx_ring_full);
        }
        self.calls = self.calls.wrapping_add(1);
        self.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_read_from_the_devices_own_line() {
        let text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       0       0    0    7    0     0          0         0        0       0    0    8    0     0       0          0
 weir0:    1234      12    0    3    0     0          0         0     5678      56    0   42    0     0       0          0
";
        assert_eq!(dropped_by(text, "weir0"), Some(42));
        assert_eq!(dropped_by(text, "lo"), Some(8));
        assert_eq!(dropped_by(text, "weir1"), None);
        assert_eq!(dropped_by("weir0: 1 2", "weir0"), None);
    }
}
