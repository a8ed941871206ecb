//! AF_PACKET sockets (packet(7)), as far as they are needed here.
//!
//! Every `unsafe` block is one system call on memory that this module owns; what it returns is
//! checked before it is believed.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::{BATCH, MAX_FRAME};

/// Room for a frame; a longer one is cut short and ignored.
const BUFFER: usize = 2048;
/// Room for a time and its header (cmsg(3)).
const CONTROL: usize = 64;

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Sends only.
    Send,
    /// Receives what arrives; `queue` bytes may wait.
    Receive { queue: usize },
    /// Receives what arrives and what leaves.
    Watch,
}

/// An AF_PACKET socket on a device.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    index: i32,
    buffers: Vec<[u8; BUFFER]>,
}

impl PacketSocket {
    /// Opens a socket on a device in the namespace of the calling thread.
    pub fn open(device: &str, purpose: Use) -> io::Result<Self> {
        let name = CString::new(device)?;
        // SAFETY: `name` is a string that ends with a zero and lives through the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        let index = i32::try_from(index).unwrap_or(0);
        if index == 0 {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no device {device}")));
        }
        // Bound to a protocol only once the options are set: before, frames of other devices
        // would come in.
        // SAFETY: takes no memory of ours.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        check(fd)?;
        // SAFETY: the descriptor was made just now and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let socket = Self { fd, index, buffers: vec![[0; BUFFER]; BATCH] };
        let protocol = match purpose {
            Use::Send => {
                socket.option(libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)?;
                0
            }
            Use::Receive { queue } => {
                socket.option(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
                socket.option(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
                let queue = i32::try_from(queue).unwrap_or(i32::MAX);
                socket.option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, queue)?;
                libc::ETH_P_ALL
            }
            Use::Watch => libc::ETH_P_ALL,
        };
        let mut address = socket.address();
        address.sll_protocol = u16::try_from(protocol).unwrap_or(0).to_be();
        // SAFETY: `address` is a whole sockaddr_ll and its size is given.
        check(unsafe {
            libc::bind(socket.fd.as_raw_fd(), (&raw const address).cast(), ADDRESS_SIZE)
        })?;
        Ok(socket)
    }

    /// The device's hardware address; `None` if it has none of six bytes.
    pub fn hardware_address(&self) -> io::Result<Option<[u8; 6]>> {
        let mut address = self.address();
        let mut length = ADDRESS_SIZE;
        // SAFETY: the kernel writes at most `length` bytes to `address`.
        check(unsafe {
            libc::getsockname(self.fd.as_raw_fd(), (&raw mut address).cast(), &raw mut length)
        })?;
        Ok((address.sll_halen == 6).then(|| address.sll_addr.first_chunk::<6>().copied()).flatten())
    }

    /// Sends up to [`BATCH`] frames. One that the device refuses is left out.
    pub fn send(
        &mut self,
        count: usize,
        write: &mut dyn FnMut(usize, &mut [u8]) -> usize,
    ) -> io::Result<()> {
        let count = count.min(BATCH);
        let mut vectors = [EMPTY_VECTOR; BATCH];
        for (place, (buffer, vector)) in
            self.buffers.iter_mut().zip(&mut vectors).take(count).enumerate()
        {
            vector.iov_len = write(place, &mut buffer[..MAX_FRAME]).min(MAX_FRAME);
            vector.iov_base = buffer.as_mut_ptr().cast();
        }
        // SAFETY: all fields of the headers are integers and pointers, for which zero is a value.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        for (header, vector) in headers.iter_mut().zip(&mut vectors) {
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
        }
        let mut done = 0;
        while done < count {
            let left = &mut headers[done..count];
            // SAFETY: `left` holds as many headers as are named; each points to one vector of
            // `vectors`, and that to a buffer of ours; all outlive the call.
            let sent = unsafe {
                libc::sendmmsg(
                    self.fd.as_raw_fd(),
                    left.as_mut_ptr(),
                    u32::try_from(left.len()).unwrap_or(0),
                    0,
                )
            };
            match check(sent) {
                Ok(sent) => done += sent.max(1),
                // Refused by the device or for want of memory: this one is lost.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN)) => {
                    done += 1;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Hands up to [`BATCH`] frames to `read`, with the time of arrival (`CLOCK_REALTIME`,
    /// nanoseconds; 0 where the kernel gave none), without waiting.
    pub fn receive(&mut self, read: &mut dyn FnMut(&[u8], u64)) -> io::Result<usize> {
        let mut controls = [Control([0; CONTROL]); BATCH];
        let mut vectors = [EMPTY_VECTOR; BATCH];
        // SAFETY: all fields of the headers are integers and pointers, for which zero is a value.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        for (((header, vector), buffer), control) in
            headers.iter_mut().zip(&mut vectors).zip(&mut self.buffers).zip(&mut controls)
        {
            vector.iov_base = buffer.as_mut_ptr().cast();
            vector.iov_len = BUFFER;
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL;
        }
        // SAFETY: BATCH headers, each with one buffer of BUFFER bytes and room for CONTROL bytes
        // of control data; all outlive the call. No timeout is given.
        let n = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                headers.as_mut_ptr(),
                u32::try_from(BATCH).unwrap_or(0),
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let n = match check(n) {
            Ok(n) => n.min(BATCH),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
            Err(e) => return Err(e),
        };
        for (header, buffer) in headers[..n].iter().zip(&self.buffers) {
            let length = usize::try_from(header.msg_len).unwrap_or(0).min(BUFFER);
            if header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0 {
                read(&buffer[..length], arrival(&header.msg_hdr));
            }
        }
        Ok(n)
    }

    /// Whether a frame came within `timeout`.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one pollfd, which outlives the call.
        Ok(check(unsafe { libc::poll(&raw mut poll, 1, ms) })? > 0)
    }

    /// Frames dropped for want of room since the last question.
    pub fn dropped(&self) -> io::Result<u64> {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = size_u32::<libc::tpacket_stats>();
        // SAFETY: the kernel writes at most `length` bytes to `statistics`.
        check(unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        })?;
        Ok(u64::from(statistics.tp_drops))
    }

    fn address(&self) -> libc::sockaddr_ll {
        // SAFETY: all fields are integers, for which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or(0);
        address.sll_ifindex = self.index;
        address
    }

    fn option(&self, level: i32, name: i32, value: i32) -> io::Result<()> {
        // SAFETY: the kernel reads an integer of the size that is named.
        check(unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                name,
                (&raw const value).cast(),
                size_u32::<i32>(),
            )
        })?;
        Ok(())
    }
}

/// Control data must be aligned as `cmsghdr` is.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

const EMPTY_VECTOR: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

#[expect(clippy::cast_possible_truncation, reason = "a few dozen bytes")]
const ADDRESS_SIZE: u32 = size_of::<libc::sockaddr_ll>() as u32;

#[expect(clippy::cast_possible_truncation, reason = "a few bytes")]
const fn size_u32<T>() -> u32 {
    size_of::<T>() as u32
}

/// The time in a message's control data.
fn arrival(header: &libc::msghdr) -> u64 {
    // SAFETY: the kernel filled in the header; the macros walk its control data within
    // `msg_controllen`, which the kernel has set to what it wrote.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(header);
        while !at.is_null() {
            if (*at).cmsg_level == libc::SOL_SOCKET && (*at).cmsg_type == libc::SCM_TIMESTAMPNS {
                let time: libc::timespec = std::ptr::read_unaligned(libc::CMSG_DATA(at).cast());
                let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
                return seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0);
            }
            at = libc::CMSG_NXTHDR(header, at);
        }
    }
    0
}

/// What a system call returned, or the error that it left.
fn check(returned: i32) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error())
}
