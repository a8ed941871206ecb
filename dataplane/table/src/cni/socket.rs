//! One connection: datagrams and descriptors in both directions, with deadlines.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
        SocketType, connect, recvmsg, sendmsg, socket_with, sockopt,
    },
    process::geteuid,
};

use super::{CniError, is_trusted, message::MAX_MESSAGE};

/// Descriptors for which a receiver makes room: more than any message has, so that surplus
/// ones are seen and refused rather than cut off.
const MAX_DESCRIPTORS: usize = 4;

/// A connected socket. Every descriptor that arrives is owned, and closed with the datagram
/// that brought it.
#[derive(Debug)]
pub(super) struct Connection(OwnedFd);

/// What arrived at once.
#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) text: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// Makes a socket as both sides use it: packets, never blocking.
pub(super) fn new_socket() -> Result<OwnedFd, Errno> {
    // Not blocking: with a full backlog, connect would wait without end.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// Connects to a socket's file.
pub(super) fn connect_to(path: &Path) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let socket = new_socket()?;
    connect(&socket, &address)?;
    Ok(socket)
}

impl Connection {
    /// Takes over a connected socket whose peer is root or of our own uid.
    pub(super) fn new(socket: OwnedFd) -> Result<Connection, CniError> {
        let uid = sockopt::socket_peercred(&socket).map_err(io::Error::from)?.uid.as_raw();
        if is_trusted(uid) {
            Ok(Connection(socket))
        } else {
            Err(CniError::Peer { uid, own: geteuid().as_raw() })
        }
    }

    /// Sends one datagram, waiting for room until `deadline`; `None` = not at all.
    pub(super) fn send(
        &self,
        text: &[u8],
        descriptor: Option<BorrowedFd<'_>>,
        deadline: Option<Instant>,
    ) -> Result<(), CniError> {
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let descriptors = descriptor.as_slice();
            if !descriptors.is_empty()
                && !control.push(SendAncillaryMessage::ScmRights(descriptors))
            {
                return Err(CniError::Message { problem: "too many descriptors".into() });
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.0, &[IoSlice::new(text)], &mut control, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, deadline)?,
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(CniError::Closed),
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
    }

    /// Receives one datagram, waiting until `deadline`.
    pub(super) fn receive(&self, deadline: Instant) -> Result<Datagram, CniError> {
        loop {
            if let Some(received) = self.try_receive()? {
                return Ok(received);
            }
            self.wait(PollFlags::IN, Some(deadline))?;
        }
    }

    /// Receives one datagram if one is there.
    pub(super) fn try_receive(&self) -> Result<Option<Datagram>, CniError> {
        let mut reset = false;
        let mut text = vec![0; MAX_MESSAGE];
        loop {
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let result = recvmsg(&self.0, &mut [IoSliceMut::new(&mut text)], &mut control, flags);
            let message = match result {
                Ok(message) => message,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Ok(None),
                // The peer closed before it read all that we sent. The error
                // comes first; what the peer had said is still behind it.
                Err(Errno::CONNRESET) if !reset => {
                    reset = true;
                    continue;
                }
                Err(Errno::CONNRESET | Errno::PIPE) => return Err(CniError::Closed),
                Err(error) => return Err(io::Error::from(error).into()),
            };
            let mut descriptors = Vec::new();
            for part in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = part {
                    descriptors.extend(rights);
                }
            }
            if message.bytes == 0 {
                return Err(CniError::Closed);
            }
            if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
                let problem = "it is longer than any message is".to_owned();
                return Err(CniError::Message { problem });
            }
            text.truncate(message.bytes);
            return Ok(Some(Datagram { text, descriptors }));
        }
    }

    fn wait(&self, flags: PollFlags, deadline: Option<Instant>) -> Result<(), CniError> {
        // A signal is no reason to give up: the caller tries, and waits again.
        let over = deadline.is_none_or(|deadline| deadline <= Instant::now());
        if !over {
            wait_any(&[(self.as_fd(), flags)], deadline)?;
            return Ok(());
        }
        Err(CniError::Timeout { milliseconds: 0 })
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until something happens at one of the descriptors; gives the index of the first
/// one, or `None` when the deadline has passed or a signal came. No deadline: without end.
pub(super) fn wait_any(
    descriptors: &[(BorrowedFd<'_>, PollFlags)],
    deadline: Option<Instant>,
) -> io::Result<Option<usize>> {
    let mut polled: Vec<PollFd<'_>> =
        descriptors.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
    let timeout = deadline.map(|deadline| {
        let left = deadline.saturating_duration_since(Instant::now());
        Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        }
    });
    match poll(&mut polled, timeout.as_ref()) {
        // An error or a hang-up is an event too: reading tells what it is.
        Ok(_) => Ok(polled.iter().position(|fd| !fd.revents().is_empty())),
        Err(Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
