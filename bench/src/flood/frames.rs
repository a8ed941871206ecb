//! The packets of many flows, written by hand.
//!
//! A million flows would need a million sockets. A raw socket sends what it is given
//! instead: an IP header and a UDP header whose ports are counted up. Only ports, and over IPv6
//! the checksum, change from packet to packet, so a batch of packets is patched in place.
//!
//! Invariant: packets of one load differ in nothing but their ports, their checksum and, in a
//! mix, their length. The kernel fills in the IPv4 header's checksum and identification
//! (raw(7)). Over IPv4 a UDP checksum of zero means "none" (RFC 768); IPv6 knows no such
//! thing (RFC 8200, section 8.1).

use std::net::IpAddr;

use crate::pktgen::checksum::Sum;

/// Bytes of the Ethernet header, which the kernel writes, and of the frame check sequence,
/// which no virtual device has.
const ETHERNET: usize = 14 + 4;
/// Bytes of the IP headers without options.
const IPV4: usize = 20;
const IPV6: usize = 40;
/// Bytes of a UDP header.
const UDP: usize = 8;

/// The least frame of UDP over IPv6, in bytes with its check sequence: that of the generator,
/// whose labels need as much, and of CSIT.
const LEAST_IPV6: usize = 78;

/// The least size of a frame in bytes with its check sequence, as RFC 2544 counts.
pub fn least_frame(ipv6: bool) -> usize {
    if ipv6 { LEAST_IPV6 } else { 64 }
}

/// Bytes of UDP payload that make a frame of `frame` bytes with its check sequence, from
/// [`least_frame`] to 1518.
pub fn payload_bytes(frame: usize, ipv6: bool) -> Option<usize> {
    let ip = if ipv6 { IPV6 } else { IPV4 };
    (least_frame(ipv6)..=1518).contains(&frame).then(|| frame - ETHERNET - ip - UDP)
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
    from: IpAddr,
    to: IpAddr,
    first_port: u16,
    count: u32,
    /// Flows to each destination port.
    sources: u32,
}

impl Flows {
    /// The most flows that one pair of addresses is used for.
    pub const MAX: u32 = 64 * SOURCE_PORTS;

    /// `count` flows (1 to [`Self::MAX`]) to the ports from `first_port` upwards, between two
    /// addresses of one family.
    pub fn new(ends: (IpAddr, IpAddr), first_port: u16, count: u32) -> Option<Self> {
        Self::with_sources(ends, first_port, count, SOURCE_PORTS)
    }

    /// The same, each to a destination port that no other of them uses.
    pub fn to_ports_of_their_own(
        ends: (IpAddr, IpAddr),
        first_port: u16,
        count: u32,
    ) -> Option<Self> {
        Self::with_sources(ends, first_port, count, 1)
    }

    fn with_sources(
        (from, to): (IpAddr, IpAddr),
        first_port: u16,
        count: u32,
        sources: u32,
    ) -> Option<Self> {
        let flows = Self { from, to, first_port, count, sources };
        let last_port = u32::from(first_port) + flows.ports().saturating_sub(1);
        let fits = (1..=Self::MAX).contains(&count) && last_port <= u32::from(u16::MAX);
        (fits && from.is_ipv4() == to.is_ipv4()).then_some(flows)
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

    /// A packet without ports that carries `payload` bytes (see [`payload_bytes`]), in the
    /// flows' direction or as an answer.
    pub fn packet(&self, payload: usize, answer: bool) -> Packet {
        let ends = if answer { (self.to, self.from) } else { (self.from, self.to) };
        let length = length_field(UDP + payload);
        match ends {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut bytes = vec![0; IPV4 + UDP + payload];
                bytes[0] = 0x45; // version 4, five words of header
                bytes[2..4].copy_from_slice(&length_field(IPV4 + UDP + payload));
                bytes[6] = 0x40; // don't fragment
                bytes[8] = 64; // time to live
                bytes[9] = 17; // UDP
                bytes[12..16].copy_from_slice(&from.octets());
                bytes[16..20].copy_from_slice(&to.octets());
                bytes[24..26].copy_from_slice(&length);
                Packet { bytes, ports_at: IPV4, sum: None }
            }
            (from, to) => {
                let octets = |address: IpAddr| match address {
                    IpAddr::V6(address) => address.octets(),
                    IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                };
                let mut bytes = vec![0; IPV6 + UDP + payload];
                bytes[0] = 0x60; // version 6
                bytes[4..6].copy_from_slice(&length);
                bytes[6] = 17; // UDP
                bytes[7] = 64; // hop limit
                bytes[8..24].copy_from_slice(&octets(from));
                bytes[24..40].copy_from_slice(&octets(to));
                bytes[44..46].copy_from_slice(&length);
                // The pseudo header, and the length in the UDP header; all else is zero.
                let sum = Sum::default().with(&bytes[8..40]).with(&length).with_u16(17);
                Packet { bytes, ports_at: IPV6, sum: Some(sum.with(&length)) }
            }
        }
    }

    /// Writes a flow's ports into a packet made by [`Self::packet`].
    pub fn patch(&self, packet: &mut Packet, flow: u32, answer: bool) {
        let (source, destination) = self.ports_of(flow);
        let (first, second) = if answer { (destination, source) } else { (source, destination) };
        packet.patch(first, second);
    }
}

/// An IP packet whose ports are written anew each time.
#[derive(Clone, Debug)]
pub struct Packet {
    bytes: Vec<u8>,
    ports_at: usize,
    /// Where there is a UDP checksum, the sum of all but the ports.
    sum: Option<Sum>,
}

impl Packet {
    fn patch(&mut self, first: u16, second: u16) {
        let header = &mut self.bytes[self.ports_at..];
        header[..2].copy_from_slice(&first.to_be_bytes());
        header[2..4].copy_from_slice(&second.to_be_bytes());
        if let Some(sum) = self.sum {
            let value = match sum.with_u16(first).with_u16(second).finish() {
                0 => u16::MAX, // 0 would mean none
                value => value,
            };
            header[6..8].copy_from_slice(&value.to_be_bytes());
        }
    }
}

impl AsRef<[u8]> for Packet {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
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
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;
    use std::collections::HashSet;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn a_million_flows_are_a_million_pairs_of_ports() {
        let flows = Flows::new((A, B), 9000, 1_000_000).unwrap();
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
        let flows = Flows::to_ports_of_their_own((A, B), 9000, 30_000).unwrap();
        let ports: HashSet<_> = (0..30_000).map(|flow| flows.ports_of(flow).1).collect();
        assert_eq!((ports.len(), flows.destinations().count()), (30_000, 30_000));
        for (port, flow) in flows.destinations() {
            assert_eq!(flows.ports_of(flow), (FIRST_SOURCE, port));
        }
        assert!(Flows::to_ports_of_their_own((A, B), 9000, 56_537).is_none(), "no such port");
    }

    #[test]
    fn a_packet_is_what_the_rfcs_say() {
        let flows = Flows::new((A, B), 9000, 2).unwrap();
        let mut packet = flows.packet(payload_bytes(64, false).unwrap(), false);
        flows.patch(&mut packet, 1, false);
        let bytes = packet.as_ref();
        assert_eq!((bytes.len(), &bytes[..4]), (46, &[0x45, 0, 0, 46][..]));
        assert_eq!(bytes[9], 17);
        assert_eq!(bytes[12..20], [10, 0, 0, 1, 10, 0, 0, 2]);
        assert_eq!(bytes[20..28], [0x4e, 0x21, 0x23, 0x28, 0, 26, 0, 0], "20001 to 9000");
        let mut answer = flows.packet(18, true);
        flows.patch(&mut answer, 1, true);
        assert_eq!(answer.as_ref()[12..20], [10, 0, 0, 2, 10, 0, 0, 1]);
        assert_eq!(answer.as_ref()[20..24], [0x23, 0x28, 0x4e, 0x21]);
    }

    #[test]
    fn sizes_are_those_of_frames_with_their_check_sequence() {
        assert_eq!([payload_bytes(64, false), payload_bytes(78, true)], [Some(18), Some(12)]);
        assert_eq!(
            [payload_bytes(1518, false), payload_bytes(1518, true)],
            [Some(1472), Some(1452)]
        );
        for (frame, ipv6) in [(63, false), (77, true), (1519, false), (1519, true)] {
            assert_eq!(payload_bytes(frame, ipv6), None);
        }
    }

    #[test]
    fn counts_that_the_ports_cannot_hold_are_refused() {
        assert!(Flows::new((A, B), 9000, 0).is_none());
        assert!(Flows::new((A, B), 9000, Flows::MAX + 1).is_none());
        assert!(Flows::new((A, B), u16::MAX, 2).is_some());
        assert!(Flows::new((A, B), u16::MAX, SOURCE_PORTS + 1).is_none());
        assert!(Flows::new((A, Ipv6Addr::LOCALHOST.into()), 9000, 1).is_none());
    }

    proptest! {
        /// Held against etherparse, which knows nothing of ours; patched twice, as each is.
        #[test]
        fn every_packet_over_ipv6_has_its_checksum(
            from: u128, to: u128, frame in 78..1519_usize, flow in 0..Flows::MAX, before in 0..Flows::MAX, answer: bool,
        ) {
            let ends = (Ipv6Addr::from_bits(from).into(), Ipv6Addr::from_bits(to).into());
            let flows = Flows::new(ends, 9000, Flows::MAX).unwrap();
            let mut packet = flows.packet(payload_bytes(frame, true).unwrap(), answer);
            flows.patch(&mut packet, before, answer);
            flows.patch(&mut packet, flow, answer);
            prop_assert_eq!(packet.as_ref().len(), frame - ETHERNET);
            let sliced = SlicedPacket::from_ip(packet.as_ref()).unwrap();
            let Some(NetSlice::Ipv6(ip)) = sliced.net else { panic!("no IPv6") };
            let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("no UDP") };
            let (source, destination) = flows.ports_of(flow);
            let ports = if answer { (destination, source) } else { (source, destination) };
            prop_assert_eq!((udp.source_port(), udp.destination_port()), ports);
            let header = ip.header().to_header();
            let wanted = udp.to_header().calc_checksum_ipv6(&header, udp.payload()).unwrap();
            prop_assert_eq!(udp.checksum(), wanted);
        }
    }
}
