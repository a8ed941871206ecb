//! Control's side: connect, publish, wait for the receipt.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};

use super::{
    PublishError,
    message::{Hello, Message, Receipt, Summary},
    socket::Connection,
};

/// A connection to the dataplane over which generations are published.
#[derive(Debug)]
pub struct Publisher {
    connection: Connection,
    dataplane: Hello,
}

impl Publisher {
    /// Connects to the dataplane's socket and compares versions. `software` is
    /// what this program calls itself, name and version.
    ///
    /// # Errors
    /// [`PublishError`]: `Connect` when nobody listens, `Refused` when another
    /// publisher is connected, `Version` on a mismatch, `Peer` when the socket
    /// belongs to someone else, `Timeout` after `timeout`.
    pub fn connect(
        path: &Path,
        software: &str,
        timeout: Duration,
    ) -> Result<Publisher, PublishError> {
        let failed = |source: Errno| PublishError::Connect {
            path: path.to_owned(),
            source: io::Error::from(source),
        };
        let address = SocketAddrUnix::new(path).map_err(failed)?;
        // Not blocking: with a full backlog, connect would wait without end.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(failed)?;
        connect(&socket, &address).map_err(failed)?;
        let connection = Connection::new(socket)?;

        let hello = Message::Hello(Hello::new(software, 0));
        match connection.send(&hello, &[], timeout) {
            // Closed at once: the reason may be there to be read.
            Ok(()) | Err(PublishError::Closed) => {}
            Err(error) => return Err(error),
        }
        match connection.receive(timeout)?.0 {
            Message::Hello(dataplane) => {
                dataplane.check()?;
                Ok(Publisher { connection, dataplane })
            }
            Message::Refused { generation, reason } => {
                Err(PublishError::Refused { generation, reason })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// The last generation that the dataplane had when this connection was made;
    /// 0 = none. The next one published must be higher.
    pub fn dataplane_generation(&self) -> u64 {
        self.dataplane.generation
    }

    /// What the dataplane calls itself: name and version.
    pub fn dataplane_software(&self) -> &str {
        &self.dataplane.software
    }

    /// Sends a generation (its sealed policy table and its address map) and
    /// waits until all workers enforce it.
    ///
    /// # Errors
    /// [`PublishError::Refused`] with the dataplane's reason: the connection
    /// stays usable. [`PublishError::Timeout`]: whether the generation is
    /// enforced is not known; its receipt, should it still come, is skipped by
    /// the next call. Any other error: connect again.
    pub fn publish(
        &mut self,
        generation: u64,
        summary: &Summary,
        policy: BorrowedFd<'_>,
        addresses: BorrowedFd<'_>,
        timeout: Duration,
    ) -> Result<Receipt, PublishError> {
        let deadline = Instant::now() + timeout;
        let message = Message::Publish { generation, summary: summary.clone() };
        self.connection.send(&message, &[policy, addresses], timeout)?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = self.connection.receive(left).map_err(|error| match error {
                PublishError::Timeout { .. } => {
                    PublishError::Timeout { milliseconds: timeout.as_millis() }
                }
                error => error,
            })?;
            match answer.0 {
                Message::Receipt(receipt) if receipt.generation == generation => {
                    return Ok(receipt);
                }
                Message::Refused { generation: about, reason }
                    if about.is_none() || about == Some(generation) =>
                {
                    return Err(PublishError::Refused { generation: about, reason });
                }
                // The answer to an earlier generation that we gave up waiting for.
                Message::Receipt(_) | Message::Refused { .. } => {}
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Whether the dataplane is still there. Does not wait.
    pub fn is_connected(&self) -> bool {
        match self.connection.try_receive() {
            // Late answers to a call that timed out may be thrown away.
            Ok(_) => true,
            Err(PublishError::Message { .. }) => true,
            Err(_) => false,
        }
    }
}

/// To be polled for readability: between calls, that means a hang-up.
impl AsFd for Publisher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

fn unexpected(message: &Message) -> PublishError {
    PublishError::Message { problem: format!("out of turn: {message:?}") }
}
