//! Frames that no stack of a pod would send, written to its interface as they are.

use std::net::{IpAddr, UdpSocket};
use std::process::Child;
use std::thread;
use std::time::Duration;

use etherparse::{PacketBuilder, PacketBuilderStep};

use crate::clock::until;
use crate::lab::Lab;
use crate::ready::{self, Has};

/// Where socat takes the frames.
const FEED: u16 = 7777;
/// What was fed may take this long to leave the pod, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(10);

/// Frames are written to the pod's interface as they are, past its own stack.
pub struct Wire {
    socat: Child,
    feed: UdpSocket,
}

impl Wire {
    /// socat in the pod turns each datagram on its loopback into a frame on eth0.
    pub fn of(lab: &Lab, pod: &str) -> Self {
        Self::to(lab, pod, "INTERFACE:eth0")
    }

    /// The same with a `struct virtio_net_hdr` before each frame (packet(7), PACKET_VNET_HDR).
    pub fn with_vnet_header(lab: &Lab, pod: &str) -> Self {
        Self::to(lab, pod, "INTERFACE:eth0,setsockopt-int=263:15:1")
    }

    fn to(lab: &Lab, pod: &str, interface: &str) -> Self {
        let feed = format!("UDP4-RECV:{FEED},bind=127.0.0.1,rcvbuf=4194304");
        let mut socat = lab.enter(pod, "socat").args(["-u", &feed, interface]).spawn().unwrap();
        ready::wait_until(&mut socat, Has::UdpPort(FEED));
        ready::wait_until(&mut socat, Has::PacketSocket);
        let feed = lab.within(pod, || UdpSocket::bind(("127.0.0.1", 0)).unwrap());
        feed.connect(("127.0.0.1", FEED)).unwrap();
        Self { socat, feed }
    }

    /// Sends one frame, as soon as socat gets to it.
    pub fn send(&self, frame: &[u8]) {
        self.feed.send(frame).unwrap();
        thread::sleep(Duration::from_micros(100));
    }

    /// Waits until everything fed has left the pod. What became of it is counted a moment
    /// later: [`crate::node::settled`].
    pub fn flush(&mut self) {
        let socat = &mut self.socat;
        let done = until(PATIENCE, || {
            assert!(socat.try_wait().unwrap().is_none(), "socat gave up on a frame");
            ready::is_done_with(socat, FEED)
        });
        assert!(done, "socat does not get to its frames");
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = self.socat.kill();
        let _ = self.socat.wait();
    }
}

/// The beginning of a frame: hardware addresses, then addresses of one family.
pub fn packet(
    (from_mac, to_mac): ([u8; 6], [u8; 6]),
    (from, to): (IpAddr, IpAddr),
) -> PacketBuilderStep<etherparse::IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(from_mac, to_mac);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        mixed => unreachable!("{mixed:?}"),
    }
}
