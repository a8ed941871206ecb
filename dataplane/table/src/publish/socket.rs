//! One connection: messages and descriptors in both directions, with deadlines.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt,
    },
    process::geteuid,
};

use super::{PublishError, is_trusted, message::Message};

/// Longest message. Messages are some hundred bytes.
const MAX_MESSAGE: usize = 64 * 1024;
/// Descriptors for which a receiver makes room: more than any message has, so
/// that surplus ones are seen and refused rather than cut off.
const MAX_DESCRIPTORS: usize = 4;

/// A connected socket. Every descriptor that arrives is owned and closed with
/// the message that brought it.
#[derive(Debug)]
pub(super) struct Connection(OwnedFd);

/// A message with the descriptors that came along.
pub(super) type Received = (Message, Vec<OwnedFd>);

impl Connection {
    /// Takes over a connected socket whose peer is root or of our own uid.
    pub(super) fn new(socket: OwnedFd) -> Result<Connection, PublishError> {
        let uid = sockopt::socket_peercred(&socket).map_err(io::Error::from)?.uid.as_raw();
        let own = geteuid().as_raw();
        if is_trusted(uid, own) {
            Ok(Connection(socket))
        } else {
            // The words cannot reach an untrusted peer by way of an error.
            let refusal = PublishError::Peer { uid, own };
            let connection = Connection(socket);
            let reason = refusal.to_string();
            _ = connection.send(
                &Message::Refused { generation: None, epoch: None, reason },
                &[],
                Duration::ZERO,
            );
            Err(refusal)
        }
    }

    /// Sends one message, waiting for room at most `timeout`.
    pub(super) fn send(
        &self,
        message: &Message,
        descriptors: &[BorrowedFd<'_>],
        timeout: Duration,
    ) -> Result<(), PublishError> {
        let text = serde_json::to_vec(message)
            .map_err(|e| PublishError::Message { problem: e.to_string() })?;
        let deadline = Instant::now() + timeout;
        loop {
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty()
                && !control.push(SendAncillaryMessage::ScmRights(descriptors))
            {
                return Err(PublishError::Message { problem: "too many descriptors".into() });
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.0, &[IoSlice::new(&text)], &mut control, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, deadline, timeout)?,
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(PublishError::Closed),
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
    }

    /// Receives one message, waiting at most `timeout`.
    pub(super) fn receive(&self, timeout: Duration) -> Result<Received, PublishError> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(received) = self.try_receive()? {
                return Ok(received);
            }
            self.wait(PollFlags::IN, deadline, timeout)?;
        }
    }

    /// Receives one message if one is there.
    pub(super) fn try_receive(&self) -> Result<Option<Received>, PublishError> {
        let mut reset = false;
        loop {
            let mut text = vec![0; MAX_MESSAGE];
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
                Err(Errno::CONNRESET | Errno::PIPE) => return Err(PublishError::Closed),
                Err(error) => return Err(io::Error::from(error).into()),
            };
            let mut descriptors = Vec::new();
            for part in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = part {
                    descriptors.extend(rights);
                }
            }
            if message.bytes == 0 {
                return Err(PublishError::Closed);
            }
            if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
                let problem = "it is longer than any message is".to_owned();
                return Err(PublishError::Message { problem });
            }
            return match serde_json::from_slice(&text[..message.bytes]) {
                Ok(parsed) => Ok(Some((parsed, descriptors))),
                Err(error) => Err(PublishError::Message { problem: error.to_string() }),
            };
        }
    }

    fn wait(
        &self,
        flags: PollFlags,
        deadline: Instant,
        timeout: Duration,
    ) -> Result<(), PublishError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || wait_any(&[(self.as_fd(), flags)], left)?.is_none() {
            return Err(PublishError::Timeout { milliseconds: timeout.as_millis() });
        }
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until something happens at one of the descriptors; gives the index of
/// the first one, or `None` when the time is over or a signal came.
pub(super) fn wait_any(
    descriptors: &[(BorrowedFd<'_>, PollFlags)],
    timeout: Duration,
) -> io::Result<Option<usize>> {
    let mut polled: Vec<PollFd<'_>> =
        descriptors.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
    let timeout = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    match poll(&mut polled, Some(&timeout)) {
        // An error or a hang-up is an event too: reading tells what it is.
        Ok(_) => Ok(polled.iter().position(|fd| !fd.revents().is_empty())),
        Err(Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
