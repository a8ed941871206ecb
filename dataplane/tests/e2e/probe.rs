//! Asking whether one place of the lab reaches another, as a client would.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::clock::until;
use crate::lab::{Family, Lab};
use crate::weir::Weir;

/// An allowed answer may take this long before it counts as none: generous,
/// since the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(3);
/// A denied one is waited for this long. An answer that policy does not stop
/// comes within a few milliseconds.
const DOUBT: Duration = Duration::from_millis(400);

/// Where servers listen: TCP and UDP echo.
pub const TCP_PORT: u16 = 8080;
/// UDP echo.
pub const UDP_PORT: u16 = 5353;

/// How a probe asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Opens a connection and has a line echoed.
    Tcp,
    /// Has a datagram echoed.
    Udp,
    /// `ping`.
    Icmp,
}

/// One question and what policy says the answer is.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Pod, `node` or `outside`.
    pub from: &'static str,
    /// Pod.
    pub to: &'static str,
    /// How.
    pub by: By,
    /// Whether there should be an answer.
    pub allowed: bool,
}

/// Shorthand for tables of probes: should be answered.
pub const fn reaches(from: &'static str, to: &'static str, by: By) -> Probe {
    Probe { from, to, by, allowed: true }
}

/// Shorthand for tables of probes: should not be answered.
pub const fn denied(from: &'static str, to: &'static str, by: By) -> Probe {
    Probe { from, to, by, allowed: false }
}

/// Starts echo servers in a pod, for both families; they serve until the
/// process ends.
pub fn serve(lab: &Lab, pod: &str) {
    let (tcp, udp) = lab.within(pod, || {
        (TcpListener::bind(("::", TCP_PORT)).unwrap(), UdpSocket::bind(("::", UDP_PORT)).unwrap())
    });
    thread::spawn(move || {
        for stream in tcp.incoming().map_while(Result::ok) {
            thread::spawn(move || echo(stream));
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(&buffer[..length], peer);
        }
    });
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 2048];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
}

/// Opens a TCP connection from a place to a pod.
///
/// # Errors
/// Those of connect(2).
pub fn connect(
    lab: &Lab,
    from: &str,
    to: SocketAddr,
    wait: Duration,
) -> std::io::Result<TcpStream> {
    let stream = lab.within(from, || TcpStream::connect_timeout(&to, wait))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether an open connection still echoes.
pub fn echoes(stream: &mut TcpStream, wait: Duration) -> bool {
    stream.set_read_timeout(Some(wait)).unwrap();
    let mut answer = [0; 5];
    stream.write_all(b"hello").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer == *b"hello"
}

/// Asks all at once, for both families, and gives the differences in words. Who should be
/// answered may ask twice: a datagram has one try, and a broken path fails both.
pub fn differences(lab: &Lab, probes: &[Probe]) -> Vec<String> {
    let ask =
        |probe: &Probe, family| ask(lab, probe, family) || probe.allowed && ask(lab, probe, family);
    thread::scope(|scope| {
        let asked: Vec<_> = probes
            .iter()
            .flat_map(|probe| Family::BOTH.map(|family| (probe, family)))
            .map(|(probe, family)| (probe, family, scope.spawn(move || ask(probe, family))))
            .collect();
        asked
            .into_iter()
            .filter_map(|(probe, family, answer)| {
                let answered = answer.join().unwrap();
                (answered != probe.allowed).then(|| {
                    format!("{probe:?} {family:?}: {}", if answered { "answered" } else { "not" })
                })
            })
            .collect()
    })
}

/// Asks until the answers are as they should be, three times at most, and fails
/// then: for changes that need not bring a generation to wait for.
pub fn settle(weir: &mut Weir<'_>, lab: &Lab, state: &str, probes: &[Probe]) {
    let mut found = Vec::new();
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(100));
        found = differences(lab, probes);
        if found.is_empty() {
            break;
        }
    }
    weir.assert_alive();
    assert!(found.is_empty(), "{state}: {found:#?}\n{}", weir.words());
}

fn ask(lab: &Lab, probe: &Probe, family: Family) -> bool {
    let to = lab.address(probe.to, family);
    let wait = if probe.allowed { PATIENCE } else { DOUBT };
    match probe.by {
        By::Tcp => connect(lab, probe.from, (to, TCP_PORT).into(), wait)
            .is_ok_and(|mut stream| echoes(&mut stream, wait)),
        By::Udp => lab.within(probe.from, || ask_udp(None, (to, UDP_PORT).into(), wait)),
        By::Icmp => {
            let wait = wait.as_secs_f64().to_string();
            lab.attempt(probe.from, "ping", &["-c1", "-W", &wait, &to.to_string()]).status.success()
        }
    }
}

/// Sends one datagram and waits for its echo. Runs in the current namespace.
pub fn ask_udp(from: Option<IpAddr>, to: SocketAddr, wait: Duration) -> bool {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((from.unwrap_or(any), 0)).unwrap();
    socket.set_read_timeout(Some(wait)).unwrap();
    socket.connect(to).unwrap();
    let mut answer = [0; 16];
    match socket.send(b"question").and_then(|_| socket.recv(&mut answer)) {
        Ok(length) => answer[..length] == *b"question",
        Err(error) => {
            let silent = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
            assert!(silent.contains(&error.kind()), "{to}: denied packets vanish, but: {error}");
            false
        }
    }
}

/// TCP segments of open connections that a place has sent again, and how many of them in vain:
/// a busy machine makes TCP impatient, and then the first has arrived as well, which the other
/// end reports (RFC 2883).
#[derive(Clone, Copy)]
pub struct Resent {
    segments: u64,
    in_vain: u64,
}

impl Resent {
    /// By all connections of a place so far.
    pub fn by(lab: &Lab, place: &str) -> Self {
        let (snmp, netstat) = lab.within(place, || {
            ["snmp", "netstat"]
                .map(|file| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap())
                .into()
        });
        let extended = |name| kernel_counter(&netstat, "TcpExt:", name);
        // A report is of one segment or more; before Linux 5.10 only reports are counted.
        let in_vain = extended("TCPDSACKRecvSegs").unwrap_or_else(|| {
            ["TCPDSACKRecv", "TCPDSACKOfoRecv"].iter().filter_map(|name| extended(name)).sum()
        });
        // A SYN is of no open connection: those of denied ones go unanswered.
        let syns = extended("TCPSynRetrans").unwrap();
        Self {
            segments: kernel_counter(&snmp, "Tcp:", "RetransSegs").unwrap().saturating_sub(syns),
            in_vain,
        }
    }

    /// How many a place has lost since: the first of them did not arrive. The report of one that
    /// did may be on its way.
    pub fn lost_since(self, lab: &Lab, place: &str) -> u64 {
        let mut lost = 0;
        let _ = until(PATIENCE, || {
            let now = Self::by(lab, place);
            let again = now.segments.saturating_sub(self.segments);
            lost = again.saturating_sub(now.in_vain - self.in_vain);
            lost == 0
        });
        lost
    }
}

/// A line of names and one of numbers, both under the same heading.
fn kernel_counter(text: &str, heading: &str, name: &str) -> Option<u64> {
    let mut lines =
        text.lines().filter(|line| line.starts_with(heading)).map(str::split_whitespace);
    let (names, numbers) = (lines.next().unwrap(), lines.next().unwrap());
    let (_, number) = names.zip(numbers).find(|(other, _)| *other == name)?;
    Some(number.parse().unwrap())
}
