//! Receives a stream over UDP and reports what came of it.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::net::sockopt;

use crate::monotonic_ns;
use crate::tally::{Report, Tally};

/// Room for what arrives while this process is not scheduled; otherwise the
/// socket's own overflow would be counted as loss on the way.
const RECEIVE_BUFFER: usize = 8 << 20;

/// How long one wait for a datagram lasts, and so how late an end is noticed.
const TICK: Duration = Duration::from_millis(20);

/// What to wait for.
#[derive(Clone, Debug)]
pub struct Wait {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// Give up if no message has come by then.
    pub first: Duration,
    /// The stream is over when nothing has come for this long.
    pub idle: Duration,
}

/// Receives one stream. Says "listening on ..." on standard error once a
/// generator may start. Returns when every message has come or the stream has
/// been idle.
///
/// # Errors
/// When the socket cannot be had, or no message comes in time.
pub fn run(wait: &Wait) -> Result<Report> {
    let socket =
        UdpSocket::bind(wait.listen).with_context(|| format!("cannot bind {}", wait.listen))?;
    // Root may pass the system's limit; others get what the limit allows.
    if sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?;
    }
    socket.set_read_timeout(Some(TICK))?;
    eprintln!("listening on {}", socket.local_addr()?);

    let mut tally = Tally::new()?;
    let mut buffer = vec![0_u8; 65536];
    let mut last = Instant::now();
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                tally.note(&buffer[..length], monotonic_ns());
                last = Instant::now();
                if tally.is_whole() {
                    return Ok(tally.report());
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if tally.has_begun() && last.elapsed() >= wait.idle {
                    return Ok(tally.report());
                }
                if !tally.has_begun() && last.elapsed() >= wait.first {
                    bail!("no message came within {:?}", wait.first);
                }
            }
            Err(error) => return Err(error).context("cannot receive"),
        }
    }
}
