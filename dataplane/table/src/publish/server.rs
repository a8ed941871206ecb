//! The dataplane's side: listen, greet, check, hand over, answer.
//!
//! Made for a plain thread: [`Listener::poll`] blocks up to a timeout and gives
//! at most one event. Everything that can be refused without asking the caller
//! is refused here, before a generation is handed out.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::PollFlags,
    fs::{self, AtFlags, CWD, Mode},
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen,
        socket_with,
    },
};

use super::{
    PublishError,
    directory::take_directory,
    message::{AddressReceipt, Hello, Message, Receipt},
    news::{News, Settled},
    received::{ReceivedGeneration, check_addresses},
    socket::{Connection, wait_any},
};
use crate::SOCKET_FILE;

/// How long a new connection may take for its hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer may wait for room in the publisher's socket.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// Most news that wait for room in the publisher's socket. One more, and it is disconnected:
/// after its next hello it is told everything anew.
const MAX_NEWS: usize = 4096;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 8;
const SOCKET_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// What [`Listener::poll`] found.
#[derive(Debug)]
pub enum Event {
    /// A publisher has connected and speaks our versions.
    Connected {
        /// What it calls itself.
        software: String,
    },
    /// A generation has arrived and is valid. Answer with [`Listener::receipt`]
    /// or [`Listener::refuse`].
    Published(Box<ReceivedGeneration>),
    /// The publisher has changed addresses of the generation in force, in the
    /// memory that it shares with us. Answer with
    /// [`Listener::addresses_enforced`] or [`Listener::refuse_addresses`].
    AddressesChanged {
        /// The last one receipted, and it came over this connection.
        generation: u64,
        /// The address map's epoch after the change, as the publisher says. The
        /// map itself may be further on.
        epoch: u64,
    },
    /// The policies of these pods are in force, as far as what we have receipted is.
    Settled(Settled),
    /// The policy of a pod cannot be in force as things stand.
    Rejected {
        /// The ticket under which it was told.
        ticket: u64,
        /// Why, for people.
        words: String,
    },
    /// The descriptor given to [`Listener::poll_or_wake`] is readable. It stays so until it is
    /// read.
    Woken,
    /// Something was refused; the other side has been told. To be logged.
    Refused {
        /// The generation; `None` when a connection was refused.
        generation: Option<u64>,
        /// The words that were sent.
        reason: String,
    },
    /// The publisher is gone. What is enforced stays so.
    Disconnected,
}

/// The one publisher, and how far it has got.
#[derive(Debug)]
enum Session {
    None,
    /// Until then its hello must come.
    Greeting(Connection, Instant),
    /// With the generation that our hello named: only higher ones can have come
    /// over this connection.
    Ready(Connection, u64),
}

impl Session {
    fn connection(&self) -> Option<&Connection> {
        match self {
            Session::None => None,
            Session::Greeting(connection, _) | Session::Ready(connection, _) => Some(connection),
        }
    }
}

/// The dataplane's publishing socket.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    /// Locked as long as this dataplane lives.
    _directory: OwnedFd,
    software: String,
    generation: u64,
    session: Session,
    /// What the publisher is still to be told.
    pub(super) news: VecDeque<News>,
}

impl Listener {
    /// Takes the run directory (made if missing, then 0700, locked against a
    /// second dataplane) and listens on the socket in it.
    ///
    /// `software` is what this program calls itself; `generation` the last one
    /// that it enforces (0 = none), for example from before a restart.
    ///
    /// # Errors
    /// [`PublishError`]: `InUse`, `ForeignDirectory`, or `Listen` with the step.
    pub fn bind(run_dir: &Path, software: &str, generation: u64) -> Result<Listener, PublishError> {
        Listener::bind_at(run_dir, &run_dir.join(SOCKET_FILE), software, generation)
    }

    /// As [`Listener::bind`], with the socket at a path of the operator's choice; the
    /// directory that holds it decides who can reach it.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub fn bind_at(
        run_dir: &Path,
        path: &Path,
        software: &str,
        generation: u64,
    ) -> Result<Listener, PublishError> {
        let path = path.to_owned();
        let directory = take_directory(run_dir)?;
        let failed = |step| {
            let path = path.clone();
            move |e: Errno| PublishError::Listen { path, step, source: io::Error::from(e) }
        };
        let address = SocketAddrUnix::new(&path).map_err(failed("the path is too long"))?;
        // The lock is ours, so a socket file can only be a dead dataplane's.
        match fs::unlinkat(CWD, &path, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(failed("unlink")(error)),
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(failed("socket"))?;
        bind(&socket, &address).map_err(failed("bind"))?;
        // Between bind and chmod the directory's mode keeps others out.
        fs::chmod(&path, SOCKET_MODE).map_err(failed("chmod"))?;
        listen(&socket, BACKLOG).map_err(failed("listen"))?;
        Ok(Listener {
            socket,
            path,
            _directory: directory,
            software: software.to_owned(),
            generation,
            session: Session::None,
            news: VecDeque::new(),
        })
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last generation accepted; 0 = none.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether a publisher is connected.
    pub fn has_publisher(&self) -> bool {
        matches!(self.session, Session::Ready(..))
    }

    /// Waits up to `timeout` for something to happen. `None` when nothing did
    /// that the caller has to know.
    ///
    /// # Errors
    /// [`PublishError::Io`] when the listening socket itself fails. A publisher
    /// that misbehaves is no error but [`Event::Refused`] or
    /// [`Event::Disconnected`].
    pub fn poll(&mut self, timeout: Duration) -> Result<Option<Event>, PublishError> {
        self.poll_or_wake(None, timeout)
    }

    /// As [`Listener::poll`], and ends also when `wake` becomes readable.
    ///
    /// # Errors
    /// As [`Listener::poll`].
    pub fn poll_or_wake(
        &mut self,
        wake: Option<BorrowedFd<'_>>,
        timeout: Duration,
    ) -> Result<Option<Event>, PublishError> {
        let mut wait = timeout;
        if let Session::Greeting(_, deadline) = self.session {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seconds = HELLO_TIMEOUT.as_secs();
                let event = self.turn_away(format!("no hello came within {seconds} seconds"));
                return Ok(Some(event));
            }
            wait = wait.min(left);
        }
        self.flush();
        let room = if self.news.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        // The session first: a publisher that has gone makes room for the next.
        let mut descriptors = Vec::with_capacity(3);
        let session = self.session.connection().map(|c| (c.as_fd(), PollFlags::IN | room));
        let sessions = usize::from(session.is_some());
        descriptors.extend(session);
        descriptors.push((self.socket.as_fd(), PollFlags::IN));
        descriptors.extend(wake.map(|wake| (wake, PollFlags::IN)));
        match wait_any(&descriptors, wait)? {
            None => Ok(None),
            Some(index) if index > sessions => Ok(Some(Event::Woken)),
            Some(index) if index == sessions => self.accept(),
            Some(_) => Ok(self.serve()),
        }
    }

    /// Tells the publisher something that it did not ask for, as soon as it reads. Without one
    /// nothing happens.
    pub fn tell(&mut self, news: News) {
        if !self.has_publisher() {
            return;
        }
        if self.news.len() >= MAX_NEWS {
            self.end_session();
            return;
        }
        self.news.push_back(news);
        self.flush();
    }

    /// Sends what waits, as far as there is room.
    fn flush(&mut self) {
        while let (Session::Ready(connection, _), Some(news)) = (&self.session, self.news.front()) {
            match connection.send(&Message::News(news.clone()), &[], Duration::ZERO) {
                Ok(()) => drop(self.news.pop_front()),
                Err(PublishError::Timeout { .. }) => return,
                // The next poll would find the same.
                Err(_) => self.end_session(),
            }
        }
    }

    fn end_session(&mut self) {
        self.session = Session::None;
        self.news.clear();
    }

    /// Tells the publisher that all workers enforce a generation. If it is gone
    /// meanwhile, nothing happens; its hello-to-be will tell it.
    pub fn receipt(&mut self, receipt: Receipt) {
        self.generation = self.generation.max(receipt.generation);
        self.answer(&Message::Receipt(receipt));
    }

    /// Tells the publisher why a generation is not enforced.
    pub fn refuse(&mut self, generation: u64, reason: &str) {
        let reason = reason.to_owned();
        self.answer(&Message::Refused { generation: Some(generation), epoch: None, reason });
    }

    /// Tells the publisher that no flow keeps a verdict from before an epoch of
    /// its address map: one not below the epoch announced, or it goes on waiting.
    pub fn addresses_enforced(&mut self, receipt: AddressReceipt) {
        self.answer(&Message::AddressesEnforced(receipt));
    }

    /// Tells the publisher why a change of addresses is not enforced; the two
    /// numbers are those of [`Event::AddressesChanged`]. It will publish a new
    /// generation.
    pub fn refuse_addresses(&mut self, generation: u64, epoch: u64, reason: &str) {
        let reason = reason.to_owned();
        let (generation, epoch) = (Some(generation), Some(epoch));
        self.answer(&Message::Refused { generation, epoch, reason });
    }

    fn answer(&mut self, message: &Message) {
        if let Session::Ready(connection, _) = &self.session
            && connection.send(message, &[], SEND_TIMEOUT).is_err()
        {
            // It does not read, or is gone; the next poll would find the same.
            self.end_session();
        }
    }

    fn accept(&mut self) -> Result<Option<Event>, PublishError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match accept_with(&self.socket, flags) {
            Ok(socket) => socket,
            // It went away again, or a signal came.
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(None),
            // It stays in the backlog until there are descriptors or memory for it.
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                std::thread::sleep(Duration::from_millis(10));
                return Ok(None);
            }
            Err(error) => return Err(io::Error::from(error).into()),
        };
        let connection = match Connection::new(socket) {
            Ok(connection) => connection,
            Err(error) => {
                return Ok(Some(Event::Refused { generation: None, reason: error.to_string() }));
            }
        };
        if self.session.connection().is_some() {
            let reason = "another publisher is connected; only one weir-control may run on a node"
                .to_owned();
            let refusal =
                Message::Refused { generation: None, epoch: None, reason: reason.clone() };
            _ = connection.send(&refusal, &[], Duration::ZERO);
            return Ok(Some(Event::Refused { generation: None, reason }));
        }
        self.session = Session::Greeting(connection, Instant::now() + HELLO_TIMEOUT);
        Ok(None)
    }

    /// Reads what the publisher sent.
    fn serve(&mut self) -> Option<Event> {
        let received = match self.session.connection()?.try_receive() {
            Ok(received) => received?,
            Err(PublishError::Message { problem }) => return Some(self.turn_away(problem)),
            Err(_) => {
                let was_ready = self.has_publisher();
                self.end_session();
                return was_ready.then_some(Event::Disconnected);
            }
        };
        match (std::mem::replace(&mut self.session, Session::None), received.0) {
            (Session::Greeting(connection, _), Message::Hello(hello)) => {
                Some(self.greet(connection, &hello))
            }
            (Session::Ready(connection, before), Message::Publish { generation, summary }) => {
                self.session = Session::Ready(connection, before);
                match ReceivedGeneration::check(self.generation, generation, summary, received.1) {
                    Ok(received) => Some(Event::Published(Box::new(received))),
                    Err(reason) => {
                        self.refuse(generation, &reason);
                        Some(Event::Refused { generation: Some(generation), reason })
                    }
                }
            }
            (
                Session::Ready(connection, before),
                Message::AddressesChanged { generation, epoch },
            ) => {
                self.session = Session::Ready(connection, before);
                match check_addresses(self.generation, before, generation, &received.1) {
                    Ok(()) => Some(Event::AddressesChanged { generation, epoch }),
                    Err(reason) => {
                        self.refuse_addresses(generation, epoch, &reason);
                        Some(Event::Refused { generation: Some(generation), reason })
                    }
                }
            }
            (Session::Ready(connection, before), Message::Settled(settled)) => {
                self.session = Session::Ready(connection, before);
                match check_addresses(self.generation, before, settled.generation, &received.1) {
                    Ok(()) => Some(Event::Settled(settled)),
                    Err(reason) => Some(self.turn_away(format!("settled out of turn: {reason}"))),
                }
            }
            (Session::Ready(connection, before), Message::Rejected { ticket, words }) => {
                self.session = Session::Ready(connection, before);
                Some(Event::Rejected { ticket, words })
            }
            (session, other) => {
                self.session = session;
                Some(self.turn_away(format!("out of turn: {other:?}")))
            }
        }
    }

    fn greet(&mut self, connection: Connection, hello: &Hello) -> Event {
        // Ours goes out in any case: the other side can then say what differs.
        let ours = Message::Hello(Hello::new(&self.software, self.generation));
        if connection.send(&ours, &[], SEND_TIMEOUT).is_err() {
            return Event::Disconnected;
        }
        match hello.check() {
            Ok(()) => {
                self.session = Session::Ready(connection, self.generation);
                self.news.clear();
                Event::Connected { software: hello.software.clone() }
            }
            Err(error) => Event::Refused { generation: None, reason: error.to_string() },
        }
    }

    /// Ends the session in words.
    fn turn_away(&mut self, reason: String) -> Event {
        if let Some(connection) = self.session.connection() {
            let refusal =
                Message::Refused { generation: None, epoch: None, reason: reason.clone() };
            _ = connection.send(&refusal, &[], Duration::ZERO);
        }
        self.end_session();
        Event::Refused { generation: None, reason }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Still under the lock, so this is our own socket file.
        _ = fs::unlinkat(CWD, &self.path, AtFlags::empty());
    }
}
