//! Control's side: connect, publish, tell of changed addresses, wait for the answer.

use std::{
    collections::VecDeque,
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
    message::{AddressReceipt, Hello, Message, Receipt, Summary},
    news::{News, Settled},
    socket::Connection,
};

/// Most news that wait to be taken. A node has some hundred pods; who does not take what is
/// told connects again and is told everything anew.
const MAX_NEWS: usize = 8192;
/// Tickets in one message: of 20 digits at most, so a third of what fits.
const TICKETS_A_MESSAGE: usize = 1024;
/// Longest words of a rejection, in bytes.
const MAX_WORDS: usize = 4096;

/// A connection to the dataplane over which generations are published.
#[derive(Debug)]
pub struct Publisher {
    connection: Connection,
    dataplane: Hello,
    /// What the dataplane has told and nobody has taken.
    news: VecDeque<News>,
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
                Ok(Publisher { connection, dataplane, news: VecDeque::new() })
            }
            Message::Refused { generation, reason, .. } => {
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
        let message = Message::Publish { generation, summary: summary.clone() };
        self.call(&message, &[policy, addresses], timeout, |answer| match answer {
            Message::Receipt(receipt) if receipt.generation == generation => {
                Answer::Mine(Ok(receipt))
            }
            Message::Refused { generation: about, epoch: None, reason }
                if about.is_none_or(|about| about == generation) =>
            {
                Answer::Mine(Err(PublishError::Refused { generation: about, reason }))
            }
            other => other.into(),
        })
    }

    /// Says that addresses of the generation in force were changed in the map
    /// that the dataplane shares, and waits until no flow keeps a verdict from
    /// before. `epoch` is the map's after the last change
    /// ([`AddressMapWriter::epoch`](crate::addrmap::AddressMapWriter::epoch)).
    ///
    /// # Errors
    /// [`PublishError::Refused`] with the dataplane's reason, for example that
    /// another generation is in force: the connection stays usable.
    /// [`PublishError::Timeout`]: whether the change is enforced is not known.
    /// After these two a new generation is right. Any other error: connect again.
    pub fn addresses_changed(
        &mut self,
        generation: u64,
        epoch: u64,
        timeout: Duration,
    ) -> Result<AddressReceipt, PublishError> {
        let message = Message::AddressesChanged { generation, epoch };
        self.call(&message, &[], timeout, |answer| match answer {
            // What is enforced up to a later epoch is enforced up to this one.
            Message::AddressesEnforced(receipt)
                if receipt.generation == generation && receipt.epoch >= epoch =>
            {
                Answer::Mine(Ok(receipt))
            }
            Message::Refused { generation: about, epoch: of, reason }
                if about.is_none() || (about, of) == (Some(generation), Some(epoch)) =>
            {
                Answer::Mine(Err(PublishError::Refused { generation: about, reason }))
            }
            other => other.into(),
        })
    }

    /// Sends a message and waits for what `sort` says is its answer.
    fn call<T>(
        &mut self,
        message: &Message,
        descriptors: &[BorrowedFd<'_>],
        timeout: Duration,
        sort: impl Fn(Message) -> Answer<T>,
    ) -> Result<T, PublishError> {
        let deadline = Instant::now() + timeout;
        self.connection.send(message, descriptors, timeout)?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let received = self.connection.receive(left).map_err(|error| match error {
                PublishError::Timeout { .. } => {
                    PublishError::Timeout { milliseconds: timeout.as_millis() }
                }
                error => error,
            })?;
            match sort(received.0) {
                Answer::Mine(result) => return result,
                Answer::Late => {}
                Answer::News(news) => self.keep(news)?,
                Answer::OutOfTurn(other) => return Err(unexpected(&other)),
            }
        }
    }

    /// Whether the dataplane is still there. Does not wait. What it has told since is kept for
    /// [`Publisher::take_news`].
    pub fn is_connected(&mut self) -> bool {
        self.collect().is_ok()
    }

    /// What the dataplane has told since the last time, oldest first. Does not wait.
    ///
    /// # Errors
    /// [`PublishError::Closed`] and the like: connect again, and everything is told anew.
    pub fn take_news(&mut self) -> Result<Vec<News>, PublishError> {
        self.collect()?;
        Ok(self.news.drain(..).collect())
    }

    /// Says that the policies of these pods are in force, which the last receipt showed.
    ///
    /// # Errors
    /// As for a call: connect again.
    pub fn settled(
        &mut self,
        tickets: &[u64],
        (generation, epoch): (u64, u64),
        timeout: Duration,
    ) -> Result<(), PublishError> {
        tickets.chunks(TICKETS_A_MESSAGE).try_for_each(|tickets| {
            let settled = Settled { tickets: tickets.to_vec(), generation, epoch };
            self.connection.send(&Message::Settled(settled), &[], timeout)
        })
    }

    /// Says why the policy of a pod cannot be in force as things stand. That may change: it can
    /// be followed by [`Publisher::settled`].
    ///
    /// # Errors
    /// As for a call: connect again.
    pub fn rejected(
        &mut self,
        ticket: u64,
        words: &str,
        timeout: Duration,
    ) -> Result<(), PublishError> {
        let end = (0..=words.len().min(MAX_WORDS)).rev().find(|&end| words.is_char_boundary(end));
        let words = words[..end.unwrap_or(0)].to_owned();
        self.connection.send(&Message::Rejected { ticket, words }, &[], timeout)
    }

    /// Takes what has arrived between two calls.
    fn collect(&mut self) -> Result<(), PublishError> {
        while let Some((message, _)) = self.connection.try_receive()? {
            match Answer::<()>::from(message) {
                Answer::News(news) => self.keep(news)?,
                // To a call that gave up waiting.
                Answer::Late | Answer::Mine(_) => {}
                Answer::OutOfTurn(other) => return Err(unexpected(&other)),
            }
        }
        Ok(())
    }

    fn keep(&mut self, news: News) -> Result<(), PublishError> {
        if self.news.len() >= MAX_NEWS {
            let problem = format!("more than {MAX_NEWS} news that nobody has taken");
            return Err(PublishError::Message { problem });
        }
        self.news.push_back(news);
        Ok(())
    }
}

/// To be polled for readability: between calls, that means news or a hang-up.
impl AsFd for Publisher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

/// What a message is to the call that is waiting.
enum Answer<T> {
    /// Its answer.
    Mine(Result<T, PublishError>),
    /// The answer to an earlier call that gave up waiting.
    Late,
    /// None, but told unasked.
    News(News),
    /// None at all.
    OutOfTurn(Message),
}

impl<T> From<Message> for Answer<T> {
    /// Sorts what the waiting call has not found to be its own.
    fn from(message: Message) -> Answer<T> {
        match message {
            Message::Receipt(_) | Message::AddressesEnforced(_) | Message::Refused { .. } => {
                Answer::Late
            }
            Message::News(news) => Answer::News(news),
            other => Answer::OutOfTurn(other),
        }
    }
}

fn unexpected(message: &Message) -> PublishError {
    PublishError::Message { problem: format!("out of turn: {message:?}") }
}
