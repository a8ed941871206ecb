//! The dataplane's side: listen, read, hand out, answer; never wait for one client.
//!
//! Made for a plain thread: [`Server::poll`] blocks up to a timeout and gives at most one
//! event. Everything that can be refused without asking the caller is refused here. An answer
//! may come much later, while other requests come and go.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::PollFlags,
    fs::{self, AtFlags, CWD, Mode},
    io::Errno,
    net::{SocketAddrUnix, SocketFlags, accept_with, bind, listen},
};

use super::{
    CniError, NamespaceId,
    message::{
        Answer, Header, MAX_VALID, PROTOCOL_VERSION, Refusal, Request, read_request, write_answer,
    },
    namespace_id,
    socket::{Connection, Datagram, new_socket, wait_any},
};

/// Most connections at a time; one more is told [`Refusal::Busy`]. Far more than a node
/// starts pods at once; a bound on descriptors and memory.
pub const MAX_CONNECTIONS: usize = 256;
/// How long a new connection may take for its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait that a client can ask for: beyond that nobody waits any more.
const MAX_WAIT: Duration = Duration::from_secs(600);
/// After a connection could not be accepted for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(10);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 256;
const SOCKET_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Names a request until it is answered. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

/// A request that keeps the limits, with what it must bring.
#[derive(Debug)]
pub struct Incoming {
    /// To answer it with.
    pub id: RequestId,
    /// What is asked for.
    pub request: Request,
    /// The pod's namespace: present exactly for `add` and `check`.
    pub netns: Option<(NamespaceId, OwnedFd)>,
    /// What the other side calls itself.
    pub software: String,
    /// Until then it waits: answer [`Answer::Pending`] at the latest now.
    pub deadline: Instant,
}

/// What [`Server::poll`] found.
#[derive(Debug)]
pub enum Event {
    /// Answer it with [`Server::answer`], sooner or later.
    Request(Box<Incoming>),
    /// Who asked is gone and wants no answer any more. What it asked for may still be done:
    /// it will ask again, or the runtime will send a `del`.
    Gone(RequestId),
    /// A connection was refused and closed; the other side has been told. To be logged.
    Refused {
        /// The words that were sent.
        reason: String,
    },
    /// The descriptor given to [`Server::poll`] is readable. It stays so until it is read.
    Woken,
}

#[derive(Debug)]
struct Client {
    id: RequestId,
    connection: Connection,
    /// The version that it speaks; ours until it has said so.
    protocol: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Until then its request must come, whole.
    Reading(Instant),
    /// Until then the rest of its list must come.
    Listing(Instant, String, Vec<(String, String)>),
    /// For our answer.
    Waiting,
}

/// The dataplane's socket for the CNI plugin.
#[derive(Debug)]
pub struct Server {
    socket: OwnedFd,
    path: PathBuf,
    software: String,
    clients: Vec<Client>,
    next: u64,
}

impl Server {
    /// Listens at `path`, mode 0600. The directory that holds it decides who can reach it, and
    /// the caller must be its only user: a file that is there already is taken for a dead
    /// dataplane's and replaced.
    ///
    /// # Errors
    /// [`CniError::Listen`] with the step.
    pub fn bind(path: &Path, software: &str) -> Result<Server, CniError> {
        let path = path.to_owned();
        let failed = |step| {
            let path = path.clone();
            move |e: Errno| CniError::Listen { path, step, source: io::Error::from(e) }
        };
        let address = SocketAddrUnix::new(&path).map_err(failed("the path is too long"))?;
        match fs::unlinkat(CWD, &path, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(failed("unlink")(error)),
        }
        let socket = new_socket().map_err(failed("socket"))?;
        bind(&socket, &address).map_err(failed("bind"))?;
        // Until listen nobody can connect, whatever the mode.
        fs::chmod(&path, SOCKET_MODE).map_err(failed("chmod"))?;
        listen(&socket, BACKLOG).map_err(failed("listen"))?;
        Ok(Server { socket, path, software: software.to_owned(), clients: Vec::new(), next: 1 })
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.clients.len()
    }

    /// Waits up to `timeout` for something to happen, also at `wake`. `None` when nothing did
    /// that the caller has to know.
    ///
    /// # Errors
    /// When the listening socket itself fails. A client that misbehaves is no error, nor is a
    /// want of descriptors: who connects waits.
    pub fn poll(
        &mut self,
        wake: Option<BorrowedFd<'_>>,
        timeout: Duration,
    ) -> io::Result<Option<Event>> {
        let mut deadline = Instant::now() + timeout;
        for index in 0..self.clients.len() {
            let (State::Reading(until) | State::Listing(until, ..)) = self.clients[index].state
            else {
                continue;
            };
            let now = Instant::now();
            if until <= now {
                // What has come counts: it may be us who did not look in time.
                let connection = &self.clients[index].connection;
                if wait_any(&[(connection.as_fd(), PollFlags::IN)], Some(now))?.is_some() {
                    return Ok(self.serve(index));
                }
                let seconds = REQUEST_TIMEOUT.as_secs();
                let words = format!("no request came within {seconds} seconds");
                return Ok(Some(self.turn_away(index, Refusal::BadRequest, words)));
            }
            deadline = deadline.min(until);
        }
        // Those that are connected first: who has gone makes room for the next.
        let mut descriptors = Vec::with_capacity(self.clients.len() + 2);
        descriptors.extend(self.clients.iter().map(|c| (c.connection.as_fd(), PollFlags::IN)));
        descriptors.extend(wake.map(|wake| (wake, PollFlags::IN)));
        descriptors.push((self.socket.as_fd(), PollFlags::IN));
        let listening = descriptors.len() - 1;
        match wait_any(&descriptors, Some(deadline))? {
            None => Ok(None),
            Some(index) if index == listening => self.accept(),
            Some(index) if index == self.clients.len() => Ok(Some(Event::Woken)),
            Some(index) => Ok(self.serve(index)),
        }
    }

    /// Answers a request and closes its connection. False: nobody is there to hear it.
    pub fn answer(&mut self, id: RequestId, answer: &Answer) -> bool {
        let Some(index) = self.clients.iter().position(|c| c.id == id) else { return false };
        self.finish(index, answer)
    }

    fn finish(&mut self, index: usize, answer: &Answer) -> bool {
        let client = self.clients.swap_remove(index);
        client.answer(&self.software, answer)
    }

    fn accept(&mut self) -> io::Result<Option<Event>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match accept_with(&self.socket, flags) {
            Ok(socket) => socket,
            // It went away again, or a signal came.
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(None),
            // It stays in the backlog. What is open already goes on, and makes room.
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                std::thread::sleep(PAUSE);
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let connection = match Connection::new(socket) {
            Ok(connection) => connection,
            Err(error) => return Ok(Some(Event::Refused { reason: error.to_string() })),
        };
        let id = RequestId(self.next);
        self.next += 1;
        let state = State::Reading(Instant::now() + REQUEST_TIMEOUT);
        let client = Client { id, connection, protocol: PROTOCOL_VERSION, state };
        if self.clients.len() >= MAX_CONNECTIONS {
            let words = format!("{MAX_CONNECTIONS} requests are waiting already; try again");
            client.answer(
                &self.software,
                &Answer::Refused { code: Refusal::Busy, words: words.clone() },
            );
            return Ok(Some(Event::Refused { reason: words }));
        }
        self.clients.push(client);
        Ok(None)
    }

    /// Reads what a client sent.
    fn serve(&mut self, index: usize) -> Option<Event> {
        let client = &mut self.clients[index];
        let datagram = match client.connection.try_receive() {
            Ok(datagram) => datagram?,
            Err(CniError::Message { problem }) => {
                return Some(self.turn_away(index, Refusal::BadRequest, problem));
            }
            Err(_) => {
                let client = self.clients.swap_remove(index);
                let asked = matches!(client.state, State::Waiting);
                return asked.then_some(Event::Gone(client.id));
            }
        };
        if matches!(client.state, State::Waiting) {
            let id = client.id;
            let words = "one request a connection".to_owned();
            self.turn_away(index, Refusal::BadRequest, words);
            return Some(Event::Gone(id));
        }
        match client.read(datagram) {
            Ok(incoming) => incoming.map(|incoming| Event::Request(Box::new(incoming))),
            Err(error) => {
                let code = match error {
                    CniError::Version { .. } => Refusal::Skew,
                    _ => Refusal::BadRequest,
                };
                let words = match error {
                    CniError::Message { problem } => problem,
                    other => other.to_string(),
                };
                Some(self.turn_away(index, code, words))
            }
        }
    }

    /// Ends a connection in words.
    fn turn_away(&mut self, index: usize, code: Refusal, words: String) -> Event {
        self.finish(index, &Answer::Refused { code, words: words.clone() });
        Event::Refused { reason: words }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The caller is the directory's only user, so this is our own socket file.
        _ = fs::unlinkat(CWD, &self.path, AtFlags::empty());
    }
}

impl Client {
    fn answer(self, software: &str, answer: &Answer) -> bool {
        let header = Header { protocol: self.protocol, software: software.to_owned(), wait_ms: 0 };
        write_answer(&header, answer)
            .and_then(|text| self.connection.send(&text, None, None))
            .is_ok()
    }

    /// Takes a datagram; gives the request once it is whole.
    fn read(&mut self, datagram: Datagram) -> Result<Option<Incoming>, CniError> {
        let wrong = |problem: String| CniError::Message { problem };
        let (header, request) = read_request(&datagram.text)?;
        self.protocol = header.protocol;
        let netns = namespace_of(&request, datagram.descriptors).map_err(wrong)?;
        let state = std::mem::replace(&mut self.state, State::Waiting);
        let request = match (state, request) {
            (State::Reading(until), Request::Gc { network, valid, more: true }) => {
                self.state = State::Listing(until, network, valid);
                return Ok(None);
            }
            (State::Listing(until, ours, mut list), Request::Gc { network, valid, more }) => {
                if network != ours {
                    return Err(wrong("a list of two networks".into()));
                }
                list.extend(valid);
                if list.len() > MAX_VALID {
                    return Err(wrong(format!("more than {MAX_VALID} attachments")));
                }
                if more {
                    self.state = State::Listing(until, ours, list);
                    return Ok(None);
                }
                Request::Gc { network, valid: list, more: false }
            }
            (State::Listing(..), other) => {
                return Err(wrong(format!("{} in the midst of a gc", other.name())));
            }
            (_, request) => request,
        };
        let wait = Duration::from_millis(header.wait_ms).min(MAX_WAIT);
        Ok(Some(Incoming {
            id: self.id,
            request,
            netns,
            software: header.software,
            deadline: Instant::now() + wait,
        }))
    }
}

/// The namespace that belongs to a request.
fn namespace_of(
    request: &Request,
    descriptors: Vec<OwnedFd>,
) -> Result<Option<(NamespaceId, OwnedFd)>, String> {
    let count = descriptors.len();
    let name = request.name();
    if !request.has_namespace() {
        return match count {
            0 => Ok(None),
            _ => Err(format!("{count} descriptors came along; {name} brings none")),
        };
    }
    let [netns] = <[OwnedFd; 1]>::try_from(descriptors).map_err(|_| {
        format!("{count} descriptors came along; {name} brings one, the pod's namespace")
    })?;
    let id =
        namespace_id(&netns).map_err(|words| format!("the descriptor that came along: {words}"))?;
    Ok(Some((id, netns)))
}
