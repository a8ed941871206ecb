//! Ethernet frames, by hand.

use std::net::IpAddr;

use weir_table::addr::Address;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// `[Ethernet][IP][payload]`; for IPv4 `fragment` is the flags and offset word.
pub fn ip(src: Address, dst: Address, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    match (src.to_ip(), dst.to_ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            f.extend_from_slice(&[0x08, 0x00, 0x45, 0]);
            f.extend_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
            f.extend_from_slice(&[0, 99]);
            f.extend_from_slice(&fragment.to_be_bytes());
            f.extend_from_slice(&[64, protocol, 0, 0]);
            f.extend_from_slice(&src.octets());
            f.extend_from_slice(&dst.octets());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            assert_eq!(fragment, 0);
            f.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
            f.extend_from_slice(&(payload.len() as u16).to_be_bytes());
            f.extend_from_slice(&[protocol, 64]);
            f.extend_from_slice(&src.octets());
            f.extend_from_slice(&dst.octets());
        }
        mixed => panic!("{mixed:?}"),
    }
    f.extend_from_slice(payload);
    f
}

fn ports(sport: u16, dport: u16) -> Vec<u8> {
    [sport.to_be_bytes(), dport.to_be_bytes()].concat()
}

pub fn tcp(src: (Address, u16), dst: (Address, u16), flags: u8) -> Vec<u8> {
    let mut header = ports(src.1, dst.1);
    header.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    ip(src.0, dst.0, 6, 0, &header)
}

pub fn udp_header(sport: u16, dport: u16, payload: u16) -> Vec<u8> {
    let mut header = ports(sport, dport);
    header.extend_from_slice(&(8 + payload).to_be_bytes());
    header.extend_from_slice(&[0, 0]);
    header
}

pub fn udp(src: (Address, u16), dst: (Address, u16)) -> Vec<u8> {
    ip(src.0, dst.0, 17, 0, &udp_header(src.1, dst.1, 0))
}

pub const SCTP_DATA: u8 = 0;
pub const SCTP_INIT: u8 = 1;
pub const SCTP_INIT_ACK: u8 = 2;
pub const SCTP_ABORT: u8 = 6;
pub const SCTP_SHUTDOWN: u8 = 7;
pub const SCTP_SHUTDOWN_ACK: u8 = 8;
pub const SCTP_COOKIE_ECHO: u8 = 10;
pub const SCTP_COOKIE_ACK: u8 = 11;
pub const SCTP_SHUTDOWN_COMPLETE: u8 = 14;

/// A packet with one chunk of this type, 20 bytes long.
pub fn sctp(src: (Address, u16), dst: (Address, u16), chunk: u8) -> Vec<u8> {
    sctp_of(src, dst, &[chunk])
}

/// A packet with these chunks, 20 bytes each.
pub fn sctp_of(src: (Address, u16), dst: (Address, u16), chunks: &[u8]) -> Vec<u8> {
    let mut packet = ports(src.1, dst.1);
    packet.extend_from_slice(&[0; 8]);
    for chunk in chunks {
        packet.extend_from_slice(&[*chunk, 0, 0, 20]);
        packet.extend_from_slice(&[7; 16]);
    }
    ip(src.0, dst.0, 132, 0, &packet)
}

pub fn icmp_of(address: Address) -> u8 {
    if address.is_v4() { 1 } else { 58 }
}

pub fn echo(src: Address, dst: Address, id: u16, reply: bool) -> Vec<u8> {
    let kind = match (src.is_v4(), reply) {
        (true, false) => 8,
        (true, true) => 0,
        (false, false) => 128,
        (false, true) => 129,
    };
    let [a, b] = id.to_be_bytes();
    ip(src, dst, icmp_of(src), 0, &[kind, 0, 0, 0, a, b, 0, 1])
}

/// "Unreachable" from `src` to `dst` about a packet (an Ethernet frame).
pub fn unreachable(src: Address, dst: Address, about: &[u8]) -> Vec<u8> {
    let kind = if src.is_v4() { 3 } else { 1 };
    let mut message = vec![kind, 1, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&about[14..]);
    ip(src, dst, icmp_of(src), 0, &message)
}
