//! Numbered flows, and frames of them.
//!
//! Flow n runs between a client somewhere in the cluster and port 80 of a pod on this node.
//! Neighbouring numbers differ in the pod, then in the client, then in the client's port.

use weir_dataplane::shim::{Direction, Shim};
use weir_table::Address;
use weir_table::flow::{FlowKey, Side};

/// Pods on this node.
pub const PODS: u32 = 64;
/// Pods elsewhere.
pub const CLIENTS: u32 = 4096;
/// The port that policies open.
pub const OPEN: u16 = 80;
/// A port that no policy opens.
pub const SHUT: u16 = 81;
/// A punted minimal Ethernet frame without its checksum: 16 bytes of shim and 60.
pub const FRAME: usize = 76;

pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;

const TCP: u8 = 6;
/// Device of pod 0.
pub const FIRST_DEVICE: u32 = 10;

/// The address of a pod on this node.
pub fn pod(pod: u32, six: bool) -> Address {
    if six { v6(1, pod + 1) } else { Address::v4([10, 1, 0, low_byte(pod + 1)]) }
}

/// The address of a client.
pub fn client(client: u32, six: bool) -> Address {
    if six { v6(2, client) } else { Address::v4([10, 2, low_byte(client >> 8), low_byte(client)]) }
}

fn v6(subnet: u8, host: u32) -> Address {
    let [a, b, c, d] = host.to_be_bytes();
    Address::v6([0xfd, 0, 0, 0, 0, subnet, 0, 0, 0, 0, 0, 0, a, b, c, d])
}

fn low_byte(n: u32) -> u8 {
    n.to_be_bytes()[3]
}

/// One flow.
#[derive(Debug, Clone, Copy)]
pub struct Tuple {
    pub client: (Address, u16),
    pub pod: (Address, u16),
    pub device: u32,
}

/// Flow number `n`, over IPv6 if `six`.
pub fn tuple(n: u32, six: bool) -> Tuple {
    let (number, rest) = (n % PODS, n / PODS);
    let port = u16::try_from(1024 + rest / CLIENTS).unwrap_or(u16::MAX);
    Tuple {
        client: (client(rest % CLIENTS, six), port),
        pod: (pod(number, six), OPEN),
        device: FIRST_DEVICE + number,
    }
}

/// The key of IPv4 flow `n`, and the client's side.
pub fn key(n: u32) -> (FlowKey, Side) {
    let Tuple { client, pod, .. } = tuple(n, false);
    FlowKey::new(client, pod, TCP)
}

/// A packet of a flow, punted.
#[derive(Debug, Clone, Copy)]
pub struct Punted {
    pub flow: Tuple,
    /// Sent by the pod, not by the client.
    pub from_pod: bool,
    /// TCP's flags.
    pub flags: u8,
}

/// Writes the punted frame; returns how long it is. Checksums are left at 0: nobody on the
/// way looks at them.
pub fn write(packet: &Punted, frame: &mut Vec<u8>) {
    let Tuple { client, pod, device } = packet.flow;
    let (src, dst, direction) = if packet.from_pod {
        (pod, client, Direction::FromPod)
    } else {
        (client, pod, Direction::ToPod)
    };
    frame.clear();
    frame.extend_from_slice(&Shim::new(device, direction).to_bytes());
    frame.extend_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
    match (src.0.to_ip(), dst.0.to_ip()) {
        (std::net::IpAddr::V4(src), std::net::IpAddr::V4(dst)) => {
            frame.extend_from_slice(&[8, 0, 0x45, 0, 0, 40, 0, 99, 0x40, 0, 64, TCP, 0, 0]);
            frame.extend_from_slice(&src.octets());
            frame.extend_from_slice(&dst.octets());
        }
        (std::net::IpAddr::V6(src), std::net::IpAddr::V6(dst)) => {
            frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, TCP, 64]);
            frame.extend_from_slice(&src.octets());
            frame.extend_from_slice(&dst.octets());
        }
        mixed => unreachable!("both ends are of one family: {mixed:?}"),
    }
    frame.extend_from_slice(&src.1.to_be_bytes());
    frame.extend_from_slice(&dst.1.to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1, 0x50, packet.flags, 0xff, 0xff, 0, 0, 0, 0]);
    frame.resize(frame.len().max(FRAME), 0);
}
