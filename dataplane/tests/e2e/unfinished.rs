//! A pod asks the kernel to write a checksum into the destination port, after the verdict.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use crate::clock::until;
use crate::lab::{Cni, Family, mac_of, outside, text};
use crate::node::{growth, node, settled};
use crate::turn;
use crate::weir::Weir;
use crate::wire::{Wire, packet};

/// What the policy allows, and what the pod is after.
const ALLOWED: u16 = 8080;
const WANTED: u16 = 9999;
const PATIENCE: Duration = Duration::from_secs(3);
const DOUBT: Duration = Duration::from_millis(300);

const ONLY_8080: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-8080, namespace: default}
spec:
  podSelector: {matchLabels: {run: testcurl}}
  policyTypes: [Egress]
  egress: [{ports: [{protocol: UDP, port: 8080}]}]
";

/// `struct virtio_net_hdr`: a checksum is to be written at `start` + `offset` of the frame.
fn unfinished(frame: &[u8], start: u16, offset: u16) -> Vec<u8> {
    const NEEDS_CSUM: u8 = 1;
    let mut bytes = vec![NEEDS_CSUM, 0];
    bytes.extend([0; 4]);
    bytes.extend(start.to_ne_bytes());
    bytes.extend(offset.to_ne_bytes());
    bytes.extend(frame);
    bytes
}

/// The sum of RFC 1071, not complemented.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut total: u32 = words.sum();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// What UDP's checksum covers besides the datagram (RFC 768, RFC 8200 section 8.1).
fn pseudo_header(ends: (IpAddr, IpAddr), length: u8) -> Vec<u8> {
    let mut bytes = match ends {
        (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
        (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
        mixed => unreachable!("{mixed:?}"),
    };
    bytes.extend([0, 17, 0, length]);
    bytes
}

#[test]
fn no_checksum_is_written_over_what_was_judged() {
    let Some(_turn) = turn() else { return };
    for (io, offload) in [("af_xdp", "on"), ("tap", "off"), ("tap", "on")] {
        let (lab, folder) = node(Cni::Ptp);
        // As a device without checksum offload: the kernel writes it where packets leave.
        lab.command("node", "ethtool", &["-K", "uplink0", "tx", "off"]);
        let mut weir = Weir::start(&lab, folder, &["--io", io, "--offload", offload]);
        weir.apply("only-8080.yaml", ONLY_8080);
        for family in Family::BOTH {
            let to = outside(family);
            let listen = |port| {
                let socket = lab.within("outside", || UdpSocket::bind((to, port)).unwrap());
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket
            };
            let (allowed, wanted) = (listen(ALLOWED), listen(WANTED));
            let own = lab.address("curl", family);
            let gateway = gateway_mac(&lab, to);
            let start = if family == Family::V4 { 34 } else { 54 };
            let frame = |sport: u16, port: u16, payload: &[u8]| {
                let head = packet((lab.mac("curl"), gateway), (own, to)).udp(sport, port);
                let mut bytes = Vec::new();
                head.write(&mut bytes, payload).unwrap();
                bytes
            };
            let mut wire = Wire::with_vnet_header(&lab, "curl");
            let mut buffer = [0; 64];

            // As a stack does it: where the checksum belongs, over the pseudo-header's sum.
            let mut honest = frame(5555, ALLOWED, b"honest");
            let at = usize::from(start) + 6;
            let pseudo = sum(&pseudo_header((own, to), 8 + 6));
            honest[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
            for _ in 0..3 {
                wire.send(&unfinished(&honest, start, 6));
            }
            wire.flush();
            let (length, _) = allowed.recv_from(&mut buffer).unwrap_or_else(|error| {
                panic!("{io}, offload {offload}, {family:?}: {error}\n{}", weir.words())
            });
            assert_eq!(&buffer[..length], b"honest");

            // The last word of the payload makes the sum come out as the wanted port; in the
            // flow that is open, and in others like it.
            let before = settled(&weir);
            let ports = [5555, 5556, 5557];
            for sport in ports {
                let mut evil = frame(sport, ALLOWED, &[0; 8]);
                evil[at..at + 2].fill(0); // receivers of IPv4 take it without
                let rest = sum(&evil[usize::from(start)..]);
                let missing = sum(&[(!WANTED).to_be_bytes(), (!rest).to_be_bytes()].concat());
                let end = evil.len();
                evil[end - 2..].copy_from_slice(&missing.to_be_bytes());
                assert_eq!(!sum(&evil[usize::from(start)..]), WANTED, "the test's own sum");
                wire.send(&unfinished(&evil, start, 2));
            }
            wire.flush();
            wanted.set_read_timeout(Some(DOUBT)).unwrap();
            let arrived = wanted.recv_from(&mut buffer);
            assert!(
                arrived.is_err(),
                "{io}, offload {offload}, {family:?}: it reached the other port\n{}",
                weir.words()
            );
            let dropped = growth(&weir, &before)("steering.drop_unfinished");
            assert_eq!(dropped, ports.len() as u64, "{family:?}\n{}", weir.words());
        }
    }
}

/// The hardware address to which a pod of the lab sends what goes beyond the node.
fn gateway_mac(lab: &crate::lab::Lab, to: IpAddr) -> [u8; 6] {
    let family = if to.is_ipv4() { "-4" } else { "-6" };
    let mut mac = None;
    let known = until(PATIENCE, || {
        lab.attempt("curl", "ping", &["-c1", "-W1", &to.to_string()]);
        let neighbours = lab.command("curl", "ip", &[family, "neigh", "show", "dev", "eth0"]);
        let neighbours = text(&neighbours);
        let words = neighbours.split_whitespace();
        mac = words.skip_while(|word| *word != "lladdr").nth(1).map(mac_of);
        mac.is_some()
    });
    assert!(known, "{to} has no gateway");
    mac.unwrap()
}
