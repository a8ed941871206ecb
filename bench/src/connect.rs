//! New TCP connections a second: connect, a byte there, a byte back, close.
//!
//! The client closes with a reset (`SO_LINGER` 0) unless told otherwise. So no end
//! stays in TIME-WAIT: ephemeral ports do not run out, and a run does not leave tens of
//! thousands of sockets behind that would slow down the next contender. An orderly close
//! costs three more packets, all of an established flow; per new flow the reset is the
//! harsher test of a policy engine.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::net::sockopt;
use serde::Serialize;

use crate::place::{self, Place};

/// The server's port.
const PORT: u16 = 8998;

/// How long after its time a run may still hang in a system call before it is given up:
/// longer than the first repetitions of a lost SYN (1 s, 3 s).
const GRACE: Duration = Duration::from_secs(8);

/// What to open.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Network namespace of the client's pod; `None` is this process's own.
    pub client: Option<PathBuf>,
    /// Network namespace of the server's pod.
    pub server: Option<PathBuf>,
    /// The server's address.
    pub to: IpAddr,
    /// Threads of the client, and as many of the server.
    pub threads: usize,
    /// How long.
    pub duration: Duration,
    /// Processors of the client's threads and of the server's.
    pub cpus: (usize, usize),
    /// Close in order (FIN) instead of by a reset.
    pub orderly: bool,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Connections whose byte came back.
    pub connections: u64,
    /// Connections that failed.
    pub failed: u64,
    /// From the first to the last, in seconds.
    pub seconds: f64,
    /// Connections a second.
    pub rate: f64,
}

/// Opens connections until the time is over.
///
/// # Errors
/// When the listener cannot be had, no connection succeeds, or one hangs.
pub fn run(plan: &Plan) -> Result<Report> {
    ensure!(plan.threads > 0, "no threads");
    let client = Arc::new(Place::open(plan.client.as_deref())?);
    let server = Place::open(plan.server.as_deref())?;
    let to = SocketAddr::from((plan.to, server.port(PORT)));
    let listener = server
        .within(|| TcpListener::bind(to).with_context(|| format!("cannot listen on {to}")))?;
    let to = listener.local_addr()?;
    let stop = Arc::new(AtomicBool::new(false));
    for _ in 0..plan.threads {
        let listener = listener.try_clone()?;
        let stop = Arc::clone(&stop);
        let cpu = plan.cpus.1;
        // Ends with the process at the latest: a server that hangs in accept(2) holds
        // nothing that would matter afterwards.
        let (pinned, is_pinned) = channel();
        thread::spawn(move || {
            // Nobody listens if another thread could not be pinned.
            let _ = pinned.send(place::pin(cpu));
            serve(&listener, &stop);
        });
        is_pinned.recv().context("the server's thread is gone")??;
    }

    let failed = Arc::new(AtomicU64::new(0));
    let (done, results) = channel();
    let start = Instant::now();
    let end = start + plan.duration;
    for _ in 0..plan.threads {
        let (client, failed, done) = (Arc::clone(&client), Arc::clone(&failed), done.clone());
        let (orderly, cpu) = (plan.orderly, plan.cpus.0);
        thread::spawn(move || {
            let placed = place::pin(cpu).and_then(|()| client.enter());
            let count = placed.map(|()| {
                let mut count = 0_u64;
                while Instant::now() < end {
                    match once(to, orderly) {
                        Ok(()) => count += 1,
                        Err(_) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
                count
            });
            let _ = done.send(count); // nobody listens if the run was given up
        });
    }
    let mut connections = 0;
    for _ in 0..plan.threads {
        let left = (end + GRACE).saturating_duration_since(Instant::now());
        connections += results
            .recv_timeout(left)
            .context("a connection hangs: packets are lost, or the server is not reachable")??;
    }
    let seconds = start.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let failed = failed.load(Ordering::Relaxed);
    ensure!(connections > 0, "none of {failed} connections succeeded");
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = connections as f64 / seconds;
    Ok(Report { connections, failed, seconds, rate })
}

/// One connection.
fn once(to: SocketAddr, orderly: bool) -> Result<()> {
    let mut stream = TcpStream::connect(to)?;
    if !orderly {
        sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    }
    stream.write_all(&[1])?;
    stream.read_exact(&mut [0])?;
    Ok(())
}

/// Accepts until told to stop; the client is the one that closes first.
fn serve(listener: &TcpListener, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Ok((mut stream, _)) = listener.accept() else { continue };
        // What fails here fails at the client too and is counted there.
        let _ = (|| {
            stream.read_exact(&mut [0])?;
            stream.write_all(&[2])?;
            stream.read(&mut [0]) // waits for the client's close
        })();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn connections_are_opened_and_counted_on_the_processors_that_were_named() {
        let mut plan = Plan {
            client: None,
            server: None,
            to: Ipv4Addr::new(127, 0, 0, 3).into(),
            threads: 2,
            cpus: (0, 0),
            duration: Duration::from_millis(100),
            orderly: false,
        };
        // Whoever else is on this machine may have the port: nothing depends on it.
        let _taken = TcpListener::bind((plan.to, PORT));
        let report = run(&plan).unwrap();
        assert!(report.connections > 0 && report.failed == 0, "{report:?}");
        assert!(report.seconds >= 0.1);
        // A processor that is not there: the thread would have to be on it.
        plan.to = Ipv4Addr::new(127, 0, 0, 7).into();
        plan.cpus = (0, 1023);
        assert!(run(&plan).is_err(), "the server's threads are pinned");
        plan.cpus = (1023, 0);
        plan.to = Ipv4Addr::new(127, 0, 0, 6).into();
        assert!(run(&plan).is_err(), "the client's threads are pinned");
    }
}
