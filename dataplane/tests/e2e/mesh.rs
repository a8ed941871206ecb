//! All pods ask all others at once: TCP, UDP and SCTP, a matrix of who reaches whom.
//!
//! These kernels have no SCTP sockets: an INIT is sent and looked for by raw sockets.
//! Nothing is asked twice: each round has sockets and so flows of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_ipv6_v6only;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, ipproto,
    sendto, socket_with,
};

use crate::lab::Lab;

/// The ports at which every pod listens.
pub const PORTS: [u16; 2] = [80, 81];
/// What is expected to arrive may take this long, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(5);
/// What nothing stops arrives within this after the last that was expected.
const DOUBT: Duration = Duration::from_millis(200);
/// From where SCTP is sent.
const SCTP_SOURCE: u16 = 30_000;

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    Tcp,
    Udp,
    Sctp,
}

impl By {
    /// By the name that policies use.
    pub fn of(name: &str) -> Self {
        match name {
            "TCP" => Self::Tcp,
            "UDP" => Self::Udp,
            "SCTP" => Self::Sctp,
            other => panic!("unknown protocol {other}"),
        }
    }
}

/// Who asks whom, by what and at which port; pods by their numbers.
pub type Ask = (By, u16, usize, usize);

/// A pod that listens at all [`PORTS`] by all protocols, in one family.
pub struct Member {
    name: String,
    address: IpAddr,
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
    sctp: OwnedFd,
}

impl Member {
    /// A pod of the lab.
    pub fn of(lab: &Lab, name: &str, address: IpAddr) -> Self {
        let (tcp, udp, sctp) = lab.within(name, || {
            let tcp = PORTS.map(|port| TcpListener::bind((address, port)).unwrap());
            let udp = PORTS.map(|port| UdpSocket::bind((address, port)).unwrap());
            (tcp, udp, raw_sctp(address))
        });
        tcp.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
        udp.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
        Self { name: name.to_owned(), address, tcp: tcp.into(), udp: udp.into(), sctp }
    }

    fn udp_from(&self, lab: &Lab) -> UdpSocket {
        lab.within(&self.name, || UdpSocket::bind((self.address, 0)).unwrap())
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

fn raw_sctp(address: IpAddr) -> OwnedFd {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family(address), SocketType::RAW, flags, Some(ipproto::SCTP)).unwrap();
    bind(&socket, &SocketAddr::new(address, 0)).unwrap();
    socket
}

/// A common header and an INIT chunk (RFC 9260 sections 3.1 and 3.3.2); `round` is the
/// initiate tag. Nobody checks the checksum.
fn sctp_init(port: u16, round: u32) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(SCTP_SOURCE.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend([0; 8]);
    packet.extend([1, 0, 0, 20]);
    packet.extend(round.to_be_bytes());
    packet.extend([0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    packet
}

/// Destination port and round of a received INIT.
fn read_init(packet: &[u8]) -> Option<(u16, u32)> {
    let port = packet.get(2..4)?.try_into().ok()?;
    let round = packet.get(16..20)?.try_into().ok()?;
    Some((u16::from_be_bytes(port), u32::from_be_bytes(round)))
}

/// Begins a connection that nobody waits for.
fn begin_tcp(from: IpAddr, to: SocketAddr) -> OwnedFd {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let tcp: Option<Protocol> = Some(ipproto::TCP);
    let socket = socket_with(family(from), SocketType::STREAM, flags, tcp).unwrap();
    if from.is_ipv6() {
        set_ipv6_v6only(&socket, true).unwrap();
    }
    bind(&socket, &SocketAddr::new(from, 0)).unwrap();
    match connect(&socket, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => socket,
        Err(error) => panic!("{from} to {to}: {error}"),
    }
}

/// Sends one question for each, and gives those that arrived. Returns as soon as all of
/// `expected` have and nothing else comes.
pub fn ask(
    lab: &Lab,
    members: &[&Member],
    asks: &[Ask],
    expected: &BTreeSet<Ask>,
    round: u32,
) -> BTreeSet<Ask> {
    let udp: Vec<UdpSocket> = members.iter().map(|member| member.udp_from(lab)).collect();
    let mut connections: BTreeMap<SocketAddr, Ask> = BTreeMap::new();
    let mut open = Vec::new();
    for (number, member) in members.iter().enumerate() {
        let own = asks.iter().filter(|ask| ask.2 == number && ask.0 == By::Tcp);
        let begun: Vec<(OwnedFd, Ask)> = lab.within(&member.name, || {
            own.map(|&ask| {
                let to = SocketAddr::new(members[ask.3].address, ask.1);
                (begin_tcp(member.address, to), ask)
            })
            .collect()
        });
        for (socket, ask) in begun {
            let stream = TcpStream::from(socket);
            connections.insert(stream.local_addr().unwrap(), ask);
            open.push(stream);
        }
    }
    for &(by, port, from, to) in asks {
        let address = SocketAddr::new(members[to].address, port);
        match by {
            By::Tcp => {}
            By::Udp => {
                let question = [round.to_be_bytes(), (from as u32).to_be_bytes()].concat();
                udp[from].send_to(&question, address).unwrap();
            }
            By::Sctp => {
                let socket = &members[from].sctp;
                let to = SocketAddr::new(address.ip(), 0);
                sendto(socket, &sctp_init(port, round), SendFlags::empty(), &to).unwrap();
            }
        }
    }
    let mut arrived = BTreeSet::new();
    let start = Instant::now();
    let mut complete = None;
    loop {
        let before = arrived.len();
        for (number, member) in members.iter().enumerate() {
            collect(member, number, members, &connections, round, &mut arrived);
        }
        let now = Instant::now();
        if arrived.len() > before || complete.is_none() {
            complete = arrived.is_superset(expected).then_some(now);
        }
        let over = complete.is_some_and(|at| now - at > DOUBT);
        if over || start.elapsed() > PATIENCE {
            return arrived;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Takes what has reached a member's sockets.
fn collect(
    member: &Member,
    number: usize,
    members: &[&Member],
    connections: &BTreeMap<SocketAddr, Ask>,
    round: u32,
    arrived: &mut BTreeSet<Ask>,
) {
    for listener in &member.tcp {
        // A connection of an earlier round, closed by now, is none of `connections`.
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = stream.set_nonblocking(true);
            let closed = matches!(stream.read(&mut [0]), Ok(0));
            let peer = SocketAddr::new(peer.ip(), peer.port());
            arrived.extend(connections.get(&peer).filter(|ask| !closed && ask.3 == number));
        }
    }
    let mut buffer = [0; 256];
    for (socket, port) in member.udp.iter().zip(PORTS) {
        loop {
            match socket.recv(&mut buffer) {
                Ok(8) if buffer[..4] == round.to_be_bytes() => {
                    let from = u32::from_be_bytes(buffer[4..8].try_into().unwrap());
                    arrived.insert((By::Udp, port, from as usize, number));
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{}: {error}", member.name),
            }
        }
    }
    while let Ok((_, length, from)) = receive_from(&member.sctp, &mut buffer) {
        // A raw IPv4 socket gives the IP header as well, IPv6 does not.
        let head = if member.address.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
        let Some((port, sent_in)) = read_init(&buffer[head.min(length)..length]) else { continue };
        let sender = members.iter().position(|other| Some(other.address) == from);
        if let (Some(from), true) = (sender, sent_in == round) {
            arrived.insert((By::Sctp, port, from, number));
        }
    }
}

fn receive_from(
    socket: &OwnedFd,
    buffer: &mut [u8],
) -> rustix::io::Result<(usize, usize, Option<IpAddr>)> {
    let (length, whole, from) = rustix::net::recvfrom(socket, &mut *buffer, RecvFlags::DONTWAIT)?;
    let from = from.and_then(|from| SocketAddr::try_from(from).ok()).map(|from| from.ip());
    Ok((whole, length, from))
}
