//! Request and response over UDP, one at a time: the time until the answer is there.
//!
//! Two ways to wait for a packet. *Blocking* is what applications do; its time includes
//! waking a thread on another processor, twice, which no policy engine changes much.
//! *Spinning* asks the socket again and again: nearly nothing but the packet's path is
//! left, so that a difference shows at its largest.
//!
//! Requests are numbered, and an answer carries its request's number. A request whose
//! answer does not come within [`PATIENCE`] is lost: it is counted, enters the times with
//! that much, and the next one is asked. AF_XDP ports of other programs are seen to forget
//! a lonely packet in a ring until the next one comes; more than a fiftieth of losses
//! fails the run.

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use hdrhistogram::Histogram;
use rustix::net::{Shutdown, shutdown};
use serde::Serialize;

use crate::place::{self, Place};

/// Payload of both packets; 64-byte frames.
const PAYLOAD: usize = 22;
/// Ports of the client, blocking and spinning: a flow of its own for each, so that the
/// second is not known to conntrack from the first.
const CLIENT_PORTS: [u16; 2] = [19_998, 19_997];
/// Port of the server.
const SERVER_PORT: u16 = 8999;
/// Transactions before the first that counts.
const WARM_UP: u32 = 500;
/// Transactions that count, at least.
const LEAST: u32 = 500;
/// No more than [`LEAST`] after this time: some answer in microseconds, some in milliseconds.
const ENOUGH: Duration = Duration::from_secs(5);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(100);
/// Of so many requests so far, and of [`LEAST`] to begin with, one may be lost.
const LOSS: u32 = 50;
/// Times above this are recorded as this.
const MAX_NS: u64 = 10_000_000_000;

/// What to ask.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Network namespace of the client's pod; `None` is this process's own.
    pub client: Option<PathBuf>,
    /// Network namespace of the server's pod.
    pub server: Option<PathBuf>,
    /// The client's address.
    pub from: IpAddr,
    /// The server's address.
    pub to: IpAddr,
    /// Transactions that count, at most; 500 and no more where they take longer than 5 s.
    pub transactions: u32,
    /// Give up after this time.
    pub timeout: Duration,
    /// Spin instead of block.
    pub spin: bool,
    /// Processors of client and server.
    pub cpus: (usize, usize),
}

/// How long it took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Transactions that were counted.
    pub transactions: u64,
    /// Packets sent in both directions, those of the warm-up included.
    pub packets: u64,
    /// Requests without an answer.
    pub lost: u32,
    /// Median, in nanoseconds.
    pub p50_ns: u64,
    /// 99th percentile, in nanoseconds.
    pub p99_ns: u64,
    /// Largest, in nanoseconds.
    pub max_ns: u64,
}

/// Asks and waits for the answer, again and again.
///
/// # Errors
/// When sockets cannot be had, too many requests are lost, or the time is over.
pub fn run(plan: &Plan) -> Result<Report> {
    let client = Place::open(plan.client.as_deref())?;
    let client_port = client.port(CLIENT_PORTS[usize::from(plan.spin)]);
    let client = client.udp((plan.from, client_port).into())?;
    let server = Place::open(plan.server.as_deref())?;
    let server_port = server.port(SERVER_PORT);
    let server = server.udp((plan.to, server_port).into())?;
    client.connect(server.local_addr()?)?;
    server.connect(client.local_addr()?)?;
    for socket in [&client, &server] {
        socket.set_nonblocking(plan.spin)?;
    }
    client.set_read_timeout(Some(PATIENCE))?;
    let stop = Arc::new(AtomicBool::new(false));
    let ends = (End::new(client, &stop, plan.spin), End::new(server, &stop, plan.spin));
    let wake = (ends.0.socket.try_clone()?, ends.1.socket.try_clone()?);

    // Neither end looks at a clock to see whether it is late; whoever is stuck when
    // the time is over is woken by a shutdown of its socket.
    let (done, result) = channel();
    let answerer = thread::spawn({
        let cpu = plan.cpus.1;
        move || answer(&ends.1, cpu)
    });
    let asker = thread::spawn({
        let plan = plan.clone();
        move || done.send(ask(&ends.0, &plan))
    });
    let outcome = result.recv_timeout(plan.timeout);
    stop.store(true, Ordering::Relaxed);
    for socket in [&wake.0, &wake.1] {
        let _ = shutdown(socket, Shutdown::Both); // it may have ended already
    }
    let _ = asker.join();
    let answered = answerer.join().map_err(|_| anyhow!("the answering thread panicked"))?;
    match outcome {
        Ok(report) => answered.and(report),
        Err(RecvTimeoutError::Timeout) => {
            bail!("an answer was lost or {:?} too short", plan.timeout)
        }
        Err(RecvTimeoutError::Disconnected) => bail!("the asking thread panicked"),
    }
}

/// One end: a socket and the word to stop.
#[derive(Debug)]
struct End {
    socket: UdpSocket,
    stop: Arc<AtomicBool>,
    spins: bool,
}

impl End {
    fn new(socket: UdpSocket, stop: &Arc<AtomicBool>, spins: bool) -> Self {
        Self { socket, stop: Arc::clone(stop), spins }
    }

    /// Waits for a packet, as the socket is set up, at most `patience` if there is one.
    fn receive(&self, patience: Option<Duration>) -> Result<Received> {
        let mut payload = [0; PAYLOAD];
        let start = Instant::now();
        for spins in 0_u64.. {
            match self.socket.recv(&mut payload) {
                Ok(0) => break, // shut down
                Ok(_) => {
                    let [a, b, c, d, ..] = payload;
                    return Ok(Received::Number(u32::from_be_bytes([a, b, c, d])));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.stop.load(Ordering::Relaxed) {
                        break;
                    }
                    // Rarely, since it costs as much as the question to the socket.
                    let late = spins % 256 == 0 || !self.spins;
                    if late && patience.is_some_and(|patience| start.elapsed() >= patience) {
                        return Ok(Received::Nothing);
                    }
                    std::hint::spin_loop();
                }
                Err(error) => return Err(error).context("cannot receive"),
            }
        }
        Ok(Received::Stop)
    }

    fn send(&self, number: u32) -> Result<()> {
        let mut payload = [1; PAYLOAD];
        payload[..4].copy_from_slice(&number.to_be_bytes());
        self.socket.send(&payload).context("cannot send")?;
        Ok(())
    }
}

/// What came of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Received {
    /// A packet with this number.
    Number(u32),
    /// Nothing in time.
    Nothing,
    /// The word to stop.
    Stop,
}

fn answer(server: &End, cpu: usize) -> Result<()> {
    place::pin(cpu)?;
    while let Received::Number(number) = server.receive(None)? {
        server.send(number)?;
    }
    Ok(())
}

fn ask(client: &End, plan: &Plan) -> Result<Report> {
    place::pin(plan.cpus.0)?;
    let mut times = Histogram::<u64>::new_with_bounds(1, MAX_NS, 3)?;
    let mut lost = 0;
    let begin = Instant::now();
    for number in 0..WARM_UP + plan.transactions {
        let start = Instant::now();
        if times.len() >= u64::from(LEAST) && start.duration_since(begin) > ENOUGH {
            break;
        }
        client.send(number)?;
        let answered = loop {
            match client.receive(Some(PATIENCE))? {
                Received::Number(answer) if answer == number => break true,
                Received::Number(_) => {} // of a request that was given up
                Received::Nothing => break false,
                Received::Stop => bail!("stopped after {number} transactions"),
            }
        };
        if !answered {
            lost += 1;
            ensure!(
                lost <= number.max(LEAST) / LOSS,
                "{lost} of {} requests were not answered",
                number + 1
            );
        }
        if number >= WARM_UP {
            times.saturating_record(u64::try_from(start.elapsed().as_nanos())?);
        }
    }
    Ok(Report {
        transactions: times.len(),
        packets: 2 * (times.len() + u64::from(WARM_UP)),
        lost,
        p50_ns: times.value_at_quantile(0.5),
        p99_ns: times.value_at_quantile(0.99),
        max_ns: times.max(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn plan(spin: bool) -> Plan {
        Plan {
            client: None,
            server: None,
            from: Ipv4Addr::new(127, 0, 0, 2).into(),
            to: Ipv4Addr::LOCALHOST.into(),
            transactions: 50,
            timeout: Duration::from_secs(30),
            spin,
            cpus: (0, place::processors() - 1),
        }
    }

    #[test]
    fn a_lost_answer_ends_at_the_deadline() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.connect(silent.local_addr().unwrap()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let end = End::new(socket.try_clone().unwrap(), &stop, false);
        end.send(0).unwrap();
        let waiter = thread::spawn(move || end.receive(None).unwrap());
        thread::sleep(Duration::from_millis(20));
        shutdown(&socket, Shutdown::Both).unwrap();
        assert_eq!(waiter.join().unwrap(), Received::Stop);
    }

    #[test]
    fn an_answer_that_does_not_come_is_given_up_in_time() {
        let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for spin in [false, true] {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            socket.connect(silent.local_addr().unwrap()).unwrap();
            socket.set_nonblocking(spin).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let end = End::new(socket, &Arc::new(AtomicBool::new(false)), spin);
            let start = Instant::now();
            let patience = Some(Duration::from_millis(10));
            assert_eq!(end.receive(patience).unwrap(), Received::Nothing);
            assert!(start.elapsed() < Duration::from_secs(20));
        }
    }

    #[test]
    fn every_transaction_is_counted() {
        // Whoever else is on this machine may have these ports: nothing depends on them.
        let _taken = CLIENT_PORTS.map(|port| UdpSocket::bind((plan(false).from, port)));
        let _taken = UdpSocket::bind((plan(false).to, SERVER_PORT));
        for spin in [false, true] {
            let report = run(&plan(spin)).unwrap();
            assert_eq!((report.transactions, report.lost), (50, 0));
            assert_eq!(report.packets, 2 * (50 + u64::from(WARM_UP)));
            assert!(report.p50_ns > 0 && report.p50_ns <= report.p99_ns, "{report:?}");
        }
    }
}
