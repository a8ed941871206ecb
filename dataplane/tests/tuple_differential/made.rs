//! Frames made up: plain ones, odd ones, broken ones.

use std::net::IpAddr;

use etherparse::PacketBuilder;
use weir_table::Address;

use crate::support::{self, ONE, TWO, frames};

const UDP_LITE: u8 = 136;

/// What is made up follows from it.
pub struct Dice(crate::dice::Dice);

impl Dice {
    pub fn from_env() -> Self {
        let seed = std::env::var("WEIR_TUPLE_SEED").map_or(0x5eed, |s| s.parse().unwrap());
        Self(crate::dice::Dice::new(seed | 1))
    }

    fn roll(&mut self) -> u64 {
        self.0.roll()
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound)
    }

    /// An address of a few or of many, so that both orders and equal ends occur.
    fn address(&mut self, six: bool) -> Address {
        let few = self.below(4) != 0;
        let bits = if few { self.roll() & 3 } else { self.roll() };
        if six {
            let upper = if few { 0 } else { self.roll() & 0x00ff_ffff_ffff_ffff };
            return Address::from_words(0xfd00_0000_0000_0000 | upper, bits);
        }
        let first = if few { 10 } else { 1 + self.below(223) as u8 };
        let [.., b, c, d] = bits.to_be_bytes();
        Address::v4([first, b, c, d])
    }

    fn port(&mut self) -> u16 {
        if self.below(2) == 0 { self.below(3) as u16 + 80 } else { self.roll() as u16 }
    }
}

/// A frame that the fast path has to read: no options, no extension headers, no fragment.
pub fn plain(dice: &mut Dice) -> Vec<u8> {
    let six = dice.below(2) == 0;
    let (src, dst) = (dice.address(six), dice.address(six));
    let (sport, dport) = (dice.port(), dice.port());
    let payload = vec![0x5a; dice.below(64)];
    let start = || {
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        match (src.to_ip(), dst.to_ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), 64),
            (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), 64),
            mixed => unreachable!("{mixed:?}"),
        }
    };
    let mut out = Vec::new();
    match dice.below(9) {
        0..3 => {
            let flags = dice.roll();
            let mut tcp = start().tcp(sport, dport, 1, 1000);
            match flags & 3 {
                0 => tcp = tcp.syn(),
                1 => tcp = tcp.fin(),
                2 => tcp = tcp.rst(),
                _ => {}
            }
            if flags & 4 != 0 {
                tcp = tcp.ack(7);
            }
            if flags & 8 != 0 {
                tcp = tcp.options_raw(&[1; 12]).unwrap();
            }
            tcp.write(&mut out, &payload).unwrap();
        }
        3 => start().udp(sport, dport).write(&mut out, &payload).unwrap(),
        4 => {
            let first = dice.below(16) as u8;
            // An INIT is alone; others may be bundled.
            let behind = if first == frames::SCTP_INIT { 0 } else { dice.below(3) };
            let chunks = [&[first][..], &vec![frames::SCTP_INIT; behind]].concat();
            out = frames::sctp_of((src, sport), (dst, dport), &chunks);
        }
        5 => {
            let mut header = frames::udp_header(sport, dport, 0);
            // Checksum coverage: all, or the header.
            header[5] = if dice.below(2) == 0 { 0 } else { 8 };
            header.extend(&payload);
            out = frames::ip(src, dst, UDP_LITE, 0, &header);
        }
        6 => {
            // GRE, ESP, L2TP, an experimental one; what is an extension header in IPv6 only.
            let mut protocols = vec![47, 50, 115, 253];
            if !six {
                protocols.extend([43, 44, 51, 59, 60, 135]);
            }
            let protocol = protocols[dice.below(protocols.len())];
            out = frames::ip(src, dst, protocol, 0, &[&[0; 4], &payload[..]].concat());
        }
        _ if six && dice.below(2) == 0 => {
            start().icmpv6_echo_request(sport, 1).write(&mut out, &payload).unwrap();
        }
        _ if six => start().icmpv6_echo_reply(sport, 1).write(&mut out, &payload).unwrap(),
        8 => start().icmpv4_echo_request(sport, 1).write(&mut out, &payload).unwrap(),
        _ => start().icmpv4_echo_reply(sport, 1).write(&mut out, &payload).unwrap(),
    }
    // As Ethernet does with the short ones.
    if dice.below(4) == 0 && out.len() < 60 {
        out.resize(60, 0);
    }
    out
}

/// Gives a frame the addresses of pods ONE and TWO of the node, and few ports.
pub fn move_in(dice: &mut Dice, frame: &mut [u8]) {
    let six = match frame[12..14] {
        [0x08, 0x00] => false,
        [0x86, 0xdd] => true,
        _ => return,
    };
    let ends = if dice.below(2) == 0 { [ONE, TWO] } else { [TWO, ONE] };
    let at = if six { 22 } else { 26 };
    for (n, end) in ends.into_iter().enumerate() {
        match support::address(end, six).to_ip() {
            IpAddr::V4(ip) => frame[at + n * 4..at + n * 4 + 4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => frame[at + n * 16..at + n * 16 + 16].copy_from_slice(&ip.octets()),
        }
    }
    let l4 = if six { 54 } else { 34 };
    for port in [l4, l4 + 2] {
        if let Some(port) = frame.get_mut(port..port + 2) {
            port.copy_from_slice(&(80 + dice.below(4) as u16).to_be_bytes());
        }
    }
}

fn is_v4(frame: &[u8]) -> bool {
    frame[12..14] == [0x08, 0x00]
}

/// Where the IP header ends that the EtherType promises; the kernel's test run takes no
/// shorter frame.
pub fn l3_end(frame: &[u8]) -> usize {
    match frame[12..14] {
        [0x08, 0x00] => 34,
        [0x86, 0xdd] => 54,
        _ => 14,
    }
}

/// Puts `bytes` at `at`, and counts them in the packet's length.
fn insert(frame: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    frame.splice(at..at, bytes.iter().copied());
    let field = if is_v4(frame) { 16 } else { 18 };
    let length = u16::from_be_bytes([frame[field], frame[field + 1]]) + bytes.len() as u16;
    frame[field..field + 2].copy_from_slice(&length.to_be_bytes());
}

/// Makes a plain frame one that only the worker may read, if anybody.
pub fn make_odd(dice: &mut Dice, frame: &mut Vec<u8>) {
    let v4 = is_v4(frame);
    match dice.below(4) {
        0 if v4 => {
            insert(frame, 34, &[1, 1, 1, 0]); // options: no-operation, end
            frame[14] += 1;
        }
        1 if v4 => {
            let fragment = [0x2000, 0x0001, 0x1fff, 0x2002][dice.below(4)] as u16;
            frame[20..22].copy_from_slice(&fragment.to_be_bytes());
        }
        0 | 1 => {
            let header = [0, 43, 44, 60, 135, 139, 140][dice.below(7)];
            let next = std::mem::replace(&mut frame[20], header);
            insert(frame, 54, &[next, 0, 0, 0, 0, 0, 0, 0]);
        }
        2 => frame.splice(12..12, [0x81, 0, 0, 7]).for_each(drop),
        _ => {
            // An ICMP error or information, about nothing in particular.
            let kinds: &[u8] = if v4 { &[3, 4, 5, 11, 12, 13] } else { &[1, 2, 3, 4, 127, 130] };
            let (src, dst) = (dice.address(!v4), dice.address(!v4));
            let message = [&[kinds[dice.below(6)], 0, 0, 0, 0, 0, 0, 0], &frame[14..]].concat();
            *frame = frames::ip(src, dst, frames::icmp_of(src), 0, &message);
        }
    }
}

/// Breaks a frame: wrong fields, noise, or an early end.
pub fn break_it(dice: &mut Dice, frame: &mut Vec<u8>) {
    let l4 = l3_end(frame);
    for _ in 0..=dice.below(3) {
        let at = match dice.below(4) {
            0 => l4 + dice.below(20),                     // ports, lengths, flags
            1 => 14 + dice.below(8),                      // version, lengths, fragment
            2 => [20, 22, 23, 26, 30, 38][dice.below(6)], // next header, addresses
            _ => 12 + dice.below(frame.len().max(14) - 13),
        };
        if let Some(byte) = frame.get_mut(at) {
            *byte = if dice.below(2) == 0 { dice.roll() as u8 } else { *byte ^ 1 << dice.below(8) };
        }
    }
    match dice.below(8) {
        0 => frame.truncate(l4 + dice.below((frame.len() + 1).saturating_sub(l4).max(1))),
        1 => frame.extend(vec![0; dice.below(32)]),
        // IPv4-mapped, and groups: what the noise does not hit upon.
        2 if !is_v4(frame) => {
            frame[22..34].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255])
        }
        3 if is_v4(frame) => frame[26] |= 0xe0,
        3 => frame[22] = 0xff,
        _ => {}
    }
}
