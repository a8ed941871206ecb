//! A UDP flow of numbered datagrams, both of whose ends are in this process.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::lab::{Family, Lab};

/// A datagram that is not stopped arrives within this, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(3);
/// One that policy does not stop comes within a few milliseconds.
const DOUBT: Duration = Duration::from_millis(300);

/// The flow, seen from both ends. Invariant: what `receiver` has yet to hand out was sent
/// through `sender`, or by somebody who forges it.
pub struct Stream {
    /// The end that opens the flow; connected.
    pub sender: UdpSocket,
    /// The other end.
    pub receiver: UdpSocket,
    sent: u64,
}

impl Stream {
    /// A flow between two pods, to a port of the second that no other socket has.
    pub fn open(lab: &Lab, from: &str, to: &str, family: Family, port: u16) -> Self {
        let source = (lab.address(from, family), 0).into();
        Self::between((lab, from, source), (to, (lab.address(to, family), port).into()))
    }

    /// A flow between any two sockets: place and address of either end. A source of port 0
    /// gets one that no flow had before.
    pub fn between(
        (lab, from, source): (&Lab, &str, SocketAddr),
        (place, to): (&str, SocketAddr),
    ) -> Self {
        let receiver = lab.within(place, || UdpSocket::bind(to).unwrap());
        let source = match source.port() {
            0 => (source.ip(), fresh_port()).into(),
            _ => source,
        };
        let sender = lab.within(from, || UdpSocket::bind(source).unwrap());
        sender.connect(to).unwrap();
        Self { sender, receiver, sent: 0 }
    }

    fn send(&mut self) {
        self.sent += 1;
        self.sender.send(&self.sent.to_be_bytes()).unwrap();
    }

    /// The number of the next datagram that comes within a time.
    fn receive(&self, wait: Duration) -> Option<u64> {
        self.receiver.set_read_timeout(Some(wait)).unwrap();
        let mut number = [0; 8];
        self.receiver.recv(&mut number).ok().map(|_| u64::from_be_bytes(number))
    }

    /// Sends so many datagrams, each of which has to arrive before the next is sent.
    ///
    /// # Errors
    /// Which one did not arrive, or what came in its place.
    pub fn run(&mut self, count: u32) -> Result<(), String> {
        for nth in 1..=count {
            self.send();
            match self.receive(PATIENCE) {
                Some(number) if number == self.sent => {}
                other => return Err(format!("datagram {nth} of {count}: received {other:?}")),
            }
        }
        Ok(())
    }

    /// Sends so many datagrams, none of which may arrive.
    ///
    /// # Errors
    /// How many of them did.
    pub fn is_cut(&mut self, count: u32) -> Result<(), String> {
        let first = self.sent + 1;
        for _ in 0..count {
            self.send();
        }
        let come = std::iter::from_fn(|| self.receive(DOUBT));
        match come.filter(|number| *number >= first).count() {
            0 => Ok(()),
            some => Err(format!("{some} of {count} arrived")),
        }
    }
}

/// A source port that no flow of these tests had before. One that the kernel draws may be that
/// of a flow whose entry is still there: then the packet is not the first of its flow.
pub fn fresh_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    /// Below what the kernel draws from (`net.ipv4.ip_local_port_range`).
    const FIRST: u16 = 12_000;
    const PORTS: u16 = 16_384;
    FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS
}
