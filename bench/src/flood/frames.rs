//! The packets of many flows, written by hand.
//!
//! A million flows would need a million sockets. A raw socket sends what it is given
//! instead: an IPv4 header and a UDP header whose ports are counted up. Only ports
//! change from packet to packet, so a batch of frames is patched in place.
//!
//! Invariant: the frames of one load are equally long and differ from their neighbours in
//! their ports alone. The kernel fills in the IPv4 header's checksum and identification
//! (raw(7)); a UDP checksum of zero means "none" (RFC 768).

use std::net::Ipv4Addr;

/// Bytes of the Ethernet header, which the kernel writes, and of the frame check sequence,
/// which no virtual device has.
const ETHERNET: usize = 14 + 4;
/// Bytes of an IPv4 header without options.
pub const IPV4: usize = 20;
/// Bytes of a UDP header.
pub const UDP: usize = 8;

/// Bytes of an IPv4 packet that makes a frame of `frame` bytes, 64 to 1518, with its check
/// sequence, as RFC 2544 counts.
pub fn packet_bytes(frame: usize) -> Option<usize> {
    (64..=1518).contains(&frame).then(|| frame - ETHERNET)
}

/// First source port. With [`SOURCE_PORTS`] it stays clear of well-known ports and of
/// those that the kernel hands out last.
const FIRST_SOURCE: u16 = 20_000;

/// Source ports for each destination port. A power of two; few destination ports, many
/// source ports, as the clients of a few servers have them.
const SOURCE_PORTS: u32 = 32_768;

/// Flows from one address to another, counted from 0.
#[derive(Clone, Copy, Debug)]
pub struct Flows {
    from: Ipv4Addr,
    to: Ipv4Addr,
    first_port: u16,
    count: u32,
    packet_bytes: usize,
    /// Flows to each destination port.
    sources: u32,
}

impl Flows {
    /// The most flows that one pair of addresses is used for.
    pub const MAX: u32 = 64 * SOURCE_PORTS;

    /// `count` flows (1 to [`Self::MAX`]) to the ports from `first_port` upwards, whose
    /// frames have `frame_bytes` (64 to 1518).
    pub fn new(
        (from, to): (Ipv4Addr, Ipv4Addr),
        first_port: u16,
        count: u32,
        frame_bytes: usize,
    ) -> Option<Self> {
        Self::with_sources((from, to), first_port, count, frame_bytes, SOURCE_PORTS)
    }

    /// The same, each to a destination port that no other of them uses.
    pub fn to_ports_of_their_own(
        ends: (Ipv4Addr, Ipv4Addr),
        first_port: u16,
        count: u32,
        frame_bytes: usize,
    ) -> Option<Self> {
        Self::with_sources(ends, first_port, count, frame_bytes, 1)
    }

    fn with_sources(
        (from, to): (Ipv4Addr, Ipv4Addr),
        first_port: u16,
        count: u32,
        frame_bytes: usize,
        sources: u32,
    ) -> Option<Self> {
        let packet_bytes = packet_bytes(frame_bytes)?;
        let flows = Self { from, to, first_port, count, packet_bytes, sources };
        let last_port = u32::from(first_port) + flows.ports().saturating_sub(1);
        ((1..=Self::MAX).contains(&count) && last_port <= u32::from(u16::MAX)).then_some(flows)
    }

    /// How many flows.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// How many destination ports they use.
    fn ports(&self) -> u32 {
        self.count.div_ceil(self.sources)
    }

    /// The destination ports, and of each the first flow that uses it.
    pub fn destinations(&self) -> impl Iterator<Item = (u16, u32)> + use<> {
        let (first_port, sources) = (self.first_port, self.sources);
        (0..self.ports()).map(move |n| (first_port + low(n), n * sources))
    }

    /// Source and destination port of a flow.
    pub fn ports_of(&self, flow: u32) -> (u16, u16) {
        (FIRST_SOURCE + low(flow % self.sources), self.first_port + low(flow / self.sources))
    }

    /// A frame without ports, in the flows' direction or as an answer.
    pub fn template(&self, answer: bool) -> Vec<u8> {
        let (from, to) = if answer { (self.to, self.from) } else { (self.from, self.to) };
        let mut frame = vec![0; self.packet_bytes];
        frame[0] = 0x45; // version 4, five words of header
        frame[2..4].copy_from_slice(&length_field(self.packet_bytes));
        frame[6] = 0x40; // don't fragment
        frame[8] = 64; // time to live
        frame[9] = 17; // UDP
        frame[12..16].copy_from_slice(&from.octets());
        frame[16..20].copy_from_slice(&to.octets());
        frame[24..26].copy_from_slice(&length_field(self.packet_bytes - IPV4));
        frame
    }

    /// Writes a flow's ports into a frame made by [`Self::template`].
    pub fn patch(&self, frame: &mut [u8], flow: u32, answer: bool) {
        let (source, destination) = self.ports_of(flow);
        let (first, second) = if answer { (destination, source) } else { (source, destination) };
        frame[20..22].copy_from_slice(&first.to_be_bytes());
        frame[22..24].copy_from_slice(&second.to_be_bytes());
    }
}

/// The lower half, where the upper one is known to be zero.
#[expect(clippy::cast_possible_truncation, reason = "callers are below 2^16")]
const fn low(value: u32) -> u16 {
    value as u16
}

#[expect(clippy::cast_possible_truncation, reason = "at most 1500")]
const fn length_field(length: usize) -> [u8; 2] {
    (length as u16).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    #[test]
    fn a_million_flows_are_a_million_pairs_of_ports() {
        let flows = Flows::new((A, B), 9000, 1_000_000, 64).unwrap();
        let pairs: HashSet<_> = (0..flows.count()).map(|flow| flows.ports_of(flow)).collect();
        assert_eq!(pairs.len(), 1_000_000);
        let destinations: Vec<_> = flows.destinations().collect();
        assert_eq!(destinations.len(), 31);
        for (port, flow) in destinations {
            assert_eq!(flows.ports_of(flow), (FIRST_SOURCE, port));
        }
    }

    #[test]
    fn first_packets_have_a_port_each() {
        let flows = Flows::to_ports_of_their_own((A, B), 9000, 30_000, 64).unwrap();
        let ports: HashSet<_> = (0..30_000).map(|flow| flows.ports_of(flow).1).collect();
        assert_eq!((ports.len(), flows.destinations().count()), (30_000, 30_000));
        for (port, flow) in flows.destinations() {
            assert_eq!(flows.ports_of(flow), (FIRST_SOURCE, port));
        }
        assert!(Flows::to_ports_of_their_own((A, B), 9000, 56_537, 64).is_none(), "no such port");
    }

    #[test]
    fn a_frame_is_what_the_rfcs_say() {
        let flows = Flows::new((A, B), 9000, 2, 64).unwrap();
        let mut frame = flows.template(false);
        flows.patch(&mut frame, 1, false);
        assert_eq!(frame[..4], [0x45, 0, 0, 46]);
        assert_eq!(frame[9], 17);
        assert_eq!(frame[12..20], [10, 0, 0, 1, 10, 0, 0, 2]);
        assert_eq!(frame[20..28], [0x4e, 0x21, 0x23, 0x28, 0, 26, 0, 0], "20001 to 9000");
        let mut answer = flows.template(true);
        flows.patch(&mut answer, 1, true);
        assert_eq!(answer[12..20], [10, 0, 0, 2, 10, 0, 0, 1]);
        assert_eq!(answer[20..24], [0x23, 0x28, 0x4e, 0x21]);
    }

    #[test]
    fn counts_that_the_ports_cannot_hold_are_refused() {
        assert!(Flows::new((A, B), 9000, 0, 64).is_none());
        assert!(Flows::new((A, B), 9000, Flows::MAX + 1, 64).is_none());
        assert!(Flows::new((A, B), u16::MAX, 2, 64).is_some());
        assert!(Flows::new((A, B), u16::MAX, SOURCE_PORTS + 1, 64).is_none());
        assert!(Flows::new((A, B), 9000, 1, 63).is_none());
        assert!(Flows::new((A, B), 9000, 1, 1519).is_none());
    }
}
