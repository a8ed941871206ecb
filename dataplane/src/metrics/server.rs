//! The responder: one thread, no more connections than [`CONNECTIONS`], each for one request and
//! [`LIFE`] at most.
//!
//! ```text
//!   accept ─> read a head ─> answer ─> write ─> no more from us ─> read until the other end closes
//!                 │                      │
//!                 └── time over, or the place is needed: closed
//! ```
//!
//! Whoever asks must not keep the daemon from its work, nor others from an answer: a kubelet that
//! gets none restarts the container. So a new connection takes the place of the oldest when there
//! is none left; whoever sends its request at once is answered before anybody can do that to it.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::request::{MAX_HEAD, Parsed, parse};

/// Connections at a time.
const CONNECTIONS: usize = 32;
/// Life of a connection, from its acceptance on.
const LIFE: Duration = Duration::from_secs(5);
/// Longest wait, after which the thread looks whether to stop.
const POLL: Duration = Duration::from_millis(200);
/// Pause after a connection could not be accepted, for want of descriptors perhaps.
const PAUSE: Duration = Duration::from_millis(100);
/// What is read at a time.
const CHUNK: usize = 1024;
/// What is read after the answer, so that the other end reads it before it hears of the close.
const DRAIN: usize = 64 * 1024;

/// What a path has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The media type of the body.
    pub media_type: &'static str,
    /// The body.
    pub body: String,
}

impl Answer {
    /// A line or two for people.
    pub fn plain(status: u16, body: impl Into<String>) -> Self {
        Self { status, media_type: "text/plain; charset=utf-8", body: body.into() }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let Self { status, media_type, body } = self;
        let allow = if *status == 405 { "Allow: GET\r\n" } else { "" };
        format!(
            "HTTP/1.1 {status} {}\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n{allow}\
             Connection: close\r\n\r\n{body}",
            reason(*status),
            body.len()
        )
        .into_bytes()
    }
}

/// The words that go with a status (RFC 9110, 15; RFC 6585).
const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

/// Takes the address, `127.0.0.1:9465` or `[::]:9465`; port 0 lets the kernel choose.
///
/// # Errors
/// It is no address, not of this host, or in use.
pub fn bind(address: &str) -> Result<TcpListener> {
    let listener = TcpListener::bind(address)
        .with_context(|| format!("--metrics {address} (as in 127.0.0.1:9465) cannot be served"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Answers until told to stop; `answer` says what a path has to say. Nothing that a client does
/// ends it.
pub fn serve(listener: &TcpListener, stop: &AtomicBool, answer: impl FnMut(&str) -> Answer) {
    serve_within(listener, stop, answer, (CONNECTIONS, LIFE));
}

fn serve_within(
    listener: &TcpListener,
    stop: &AtomicBool,
    mut answer: impl FnMut(&str) -> Answer,
    (most, life): (usize, Duration),
) {
    // In the order in which they came.
    let mut connections: Vec<Connection> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        wait(listener, &connections);
        match listener.accept() {
            Ok((stream, _)) if stream.set_nonblocking(true).is_ok() => {
                if connections.len() >= most {
                    connections.remove(0);
                }
                connections.push(Connection::new(stream, Instant::now() + life));
            }
            Ok(_) => {}
            Err(error) if is_nothing(&error) => {}
            Err(error) => {
                tracing::debug!(%error, "a connection for metrics could not be accepted");
                thread::sleep(PAUSE);
            }
        }
        let now = Instant::now();
        connections.retain_mut(|connection| {
            now < connection.until && connection.step(&mut answer).unwrap_or(false)
        });
    }
}

/// Waits for a connection, for one of them to be ready, or for its end.
fn wait(listener: &TcpListener, connections: &[Connection]) {
    let now = Instant::now();
    let ends = connections.iter().map(|c| c.until.saturating_duration_since(now));
    let patience = ends.chain([POLL]).min().unwrap_or(POLL);
    let timeout = Timespec::try_from(patience).ok();
    let mut fds = vec![PollFd::new(listener, PollFlags::IN)];
    fds.extend(connections.iter().map(|c| PollFd::new(&c.stream, c.interest())));
    if poll(&mut fds, timeout.as_ref()).is_err() {
        // A signal; or no memory for it, which a pause may cure.
        thread::sleep(Duration::from_millis(1));
    }
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
    )
}

/// One that asks.
struct Connection {
    stream: TcpStream,
    until: Instant,
    state: State,
}

enum State {
    /// The head so far.
    Reading(Vec<u8>),
    /// The answer, and how much of it is sent.
    Writing(Vec<u8>, usize),
    /// Everything is said; so much more will be read.
    Draining(usize),
}

impl Connection {
    fn new(stream: TcpStream, until: Instant) -> Self {
        Self { stream, until, state: State::Reading(Vec::new()) }
    }

    fn interest(&self) -> PollFlags {
        match self.state {
            State::Writing(..) => PollFlags::OUT,
            State::Reading(_) | State::Draining(_) => PollFlags::IN,
        }
    }

    /// Goes as far as it can without waiting. `Ok(false)`: it is over.
    fn step(&mut self, answer: &mut impl FnMut(&str) -> Answer) -> io::Result<bool> {
        loop {
            let done = match &mut self.state {
                State::Reading(head) => {
                    let Some(read) = read_some(&mut self.stream, head)? else { return Ok(true) };
                    let said = match parse(head) {
                        Parsed::Incomplete if read == 0 => return Ok(false),
                        Parsed::Incomplete => continue,
                        Parsed::Get(path) => answer(path),
                        Parsed::Refused(status) => {
                            Answer::plain(status, format!("{}\n", reason(status)))
                        }
                    };
                    State::Writing(said.to_bytes(), 0)
                }
                State::Writing(bytes, sent) => {
                    let rest = bytes.get(*sent..).unwrap_or_default();
                    if rest.is_empty() {
                        self.stream.shutdown(Shutdown::Write)?;
                        State::Draining(DRAIN)
                    } else {
                        match self.stream.write(rest) {
                            Ok(0) => return Ok(false),
                            Ok(written) => *sent += written,
                            Err(error) if is_nothing(&error) => return Ok(true),
                            Err(error) => return Err(error),
                        }
                        continue;
                    }
                }
                State::Draining(left) => {
                    let mut rest = Vec::new();
                    match read_some(&mut self.stream, &mut rest)? {
                        None => return Ok(true),
                        Some(read) if read == 0 || read > *left => return Ok(false),
                        Some(read) => *left -= read,
                    }
                    continue;
                }
            };
            self.state = done;
        }
    }
}

/// Appends what has come, a chunk at most, so that the head never grows far beyond [`MAX_HEAD`].
/// `None`: nothing yet. `Some(0)`: nothing more.
fn read_some(stream: &mut TcpStream, to: &mut Vec<u8>) -> io::Result<Option<usize>> {
    debug_assert!(to.len() <= MAX_HEAD + CHUNK);
    let mut chunk = [0; CHUNK];
    match stream.read(&mut chunk) {
        Ok(read) => {
            to.extend_from_slice(chunk.get(..read).unwrap_or_default());
            Ok(Some(read))
        }
        Err(error) if is_nothing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A responder that says its path `times` over; ended when dropped.
    struct Server {
        address: SocketAddr,
        stop: Arc<AtomicBool>,
        thread: Option<thread::JoinHandle<()>>,
    }

    impl Server {
        fn start(most: usize, life: Duration, times: usize) -> Self {
            let listener = bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let stop = Arc::new(AtomicBool::new(false));
            let told = Arc::clone(&stop);
            let echo = move |path: &str| Answer::plain(200, path.repeat(times));
            let thread = thread::spawn(move || {
                serve_within(&listener, &told, echo, (most, life));
            });
            Self { address, stop, thread: Some(thread) }
        }

        fn connect(&self) -> TcpStream {
            let stream = TcpStream::connect(self.address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
        }

        fn ask(&self, request: &[u8]) -> String {
            let mut stream = self.connect();
            stream.write_all(request).unwrap();
            rest_of(stream)
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            self.stop.store(true, Ordering::Relaxed);
            if let Some(thread) = self.thread.take() {
                thread.join().unwrap();
            }
        }
    }

    fn rest_of(mut stream: TcpStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn one_answer_a_connection_whatever_is_asked() {
        let server = Server::start(4, PATIENCE, 1);
        let answer = server.ask(b"GET /readyz HTTP/1.1\r\nHost: weir\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\nContent-Length: 7\r\nConnection: close\r\n\r\n/readyz"));
        let answer = server.ask(b"DELETE / HTTP/1.1\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("\r\nAllow: GET\r\n"));
        assert!(server.ask(b"\x16\x03\x01\r\n\r\n").starts_with("HTTP/1.1 400 "));
        let answer = server.ask(&[b'a'; MAX_HEAD + 1]);
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        // In pieces, and with a body that nobody wants.
        let mut stream = server.connect();
        for piece in ["GET /m", "etrics HTTP/1.1\r\n", "Content-Length: 3\r\n\r", "\nabc"] {
            stream.write_all(piece.as_bytes()).unwrap();
            thread::sleep(Duration::from_millis(5));
        }
        assert!(rest_of(stream).ends_with("\r\n\r\n/metrics"));
        // Half a request, and the end.
        let stream = server.connect();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest_of(stream), "");
    }

    /// More than any socket's buffer takes at once.
    #[test]
    fn a_long_answer_comes_whole() {
        const TIMES: usize = 4 << 20;
        let server = Server::start(4, PATIENCE, TIMES);
        let answer = server.ask(b"GET /a HTTP/1.1\r\n\r\n");
        assert_eq!(answer.split_once("\r\n\r\n").unwrap().1.len(), 2 * TIMES);
    }

    #[test]
    fn who_says_nothing_gives_way_and_ends() {
        let server = Server::start(3, PATIENCE, 1);
        let idle: Vec<TcpStream> = (0..3).map(|_| server.connect()).collect();
        for n in 0..10 {
            let answer = server.ask(b"GET /healthz HTTP/1.1\r\n\r\n");
            assert!(answer.ends_with("/healthz"), "{n}: {answer:?}");
        }
        // Closed by the other side, long before its time was over.
        let mut idle = idle.into_iter();
        assert_eq!(rest_of(idle.next().unwrap()), "");
        let short = Server::start(3, Duration::from_millis(50), 1);
        let mut stream = short.connect();
        stream.write_all(b"GET /met").unwrap();
        let mut rest = Vec::new();
        // Closed, or reset, since what it sent was read only in part.
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        assert_eq!(rest, b"");
    }

    #[test]
    fn addresses_that_cannot_be_served_are_named() {
        let taken = bind("127.0.0.1:0").unwrap();
        for address in ["9465", "nowhere:1:2", &taken.local_addr().unwrap().to_string()] {
            let error = format!("{:#}", bind(address).unwrap_err());
            assert!(error.starts_with(&format!("--metrics {address} ")), "{error}");
        }
    }
}
