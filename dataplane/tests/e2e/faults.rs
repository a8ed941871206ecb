//! What the machine lacks is told in one sentence with the remedy, exit 2; what a
//! pod sends, however broken, is dropped and counted and harms nobody.

use std::fs;
use std::net::UdpSocket;
use std::process::Output;
use std::time::Duration;

use etherparse::PacketBuilder;

use crate::clock::until;
use crate::dice::Dice;
use crate::lab::{Cni, Family, Lab, text};
use crate::node::{count, growth, node, settled};
use crate::probe::By::{Icmp, Tcp, Udp};
use crate::probe::{TCP_PORT, differences, reaches};
use crate::turn;
use crate::weir::{Weir, binary};
use crate::wire::{Wire, packet};

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn missing_rights_and_file_systems_are_told_in_one_sentence() {
    let Some(_turn) = turn() else { return };
    let lab = Lab::up(Cni::Bridge);
    let dataplane = binary("weir-dataplane");
    for capability in ["CAP_BPF", "CAP_NET_ADMIN"] {
        // The bounding set limits what root gets at exec; CAP_SYS_ADMIN, which
        // stands in for CAP_BPF, goes too.
        let short = capability.trim_start_matches("CAP_").to_lowercase();
        let without = format!("-{short},-sys_admin");
        let arguments =
            ["--bounding-set", &without, "--inh-caps", &without, &dataplane, "--offload", "off"];
        let out = lab.attempt("node", "setpriv", &arguments);
        one_sentence(&out, capability);
    }

    // No bpf file system: taken away in a mount namespace of its own.
    let script = "umount /sys/fs/bpf && exec \"$0\" --offload off";
    let out = lab.attempt("node", "unshare", &["--mount", "sh", "-c", script, &dataplane]);
    one_sentence(&out, "/sys/fs/bpf");
    let out = lab.attempt("node", &dataplane, &["--offload", "off", "--pin-dir", "/run/pins"]);
    one_sentence(&out, "/run/pins");
}

fn one_sentence(out: &Output, named: &str) {
    let told = text(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{named}: exit code; it said: {told}");
    let lines: Vec<&str> = told.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(lines.len(), 1, "{named}: one sentence, not: {told}");
    assert!(lines[0].contains(named), "{told:?} does not name {named}");
}

#[test]
fn garbage_frames_are_dropped_and_counted() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let mut weir = Weir::start(&lab, folder, &["--workers", "1"]);
    let mut wire = Wire::of(&lab, "curl");
    let seeds = good_frames(&lab);
    let before = settled(&weir);

    // Cut off at every length that an Ethernet socket accepts.
    for frame in &seeds {
        for length in 14..frame.len() {
            wire.send(&frame[..length]);
        }
    }
    // A few bytes changed, anywhere behind the addresses of the Ethernet header.
    let mut dice = Dice::new(0x5eed);
    for _ in 0..2000 {
        let mut frame = seeds[dice.below(seeds.len())].clone();
        for _ in 0..=dice.below(4) {
            let at = 12 + dice.below(frame.len() - 12);
            frame[at] = dice.roll() as u8;
        }
        wire.send(&frame);
    }
    // Noise behind every EtherType that means something to the node.
    for ether_type in [0x0800_u16, 0x86dd, 0x0806, 0x8100, 0x88a8, 0x88b5, 0x0004] {
        for _ in 0..200 {
            let mut frame = seeds[0][..12].to_vec();
            frame.extend(ether_type.to_be_bytes());
            let length = dice.below(200);
            frame.extend((0..length).map(|_| dice.roll() as u8));
            wire.send(&frame);
        }
    }
    wire.flush();
    let after = settled(&weir);
    weir.assert_alive();
    for (name, least) in [
        ("drops.malformed", 100),       // by a worker: the parser
        ("drops.spoofed_source", 1),    // a changed source address
        ("steering.drop_l2", 400),      // tagged and unknown EtherTypes
        ("steering.drop_truncated", 1), // too short for an IP header
    ] {
        let grown = count(&after, name) - count(&before, name);
        assert!(grown >= least, "{name} grew by {grown}, not {least}\n{}", weir.words());
    }
    let log = weir.dataplane_log();
    assert!(!log.contains("panicked"), "{log}");

    let probes =
        [Tcp, Udp, Icmp].map(|by| [reaches("curl", "web", by), reaches("outside", "web", by)]);
    let found = differences(&lab, probes.as_flattened());
    assert!(found.is_empty(), "after the garbage: {found:#?}\n{}", weir.words());
}

/// Valid frames from `curl` to `web`: what the broken ones are made of.
fn good_frames(lab: &Lab) -> Vec<Vec<u8>> {
    let (from, to) = (lab.mac("curl"), lab.mac("web"));
    let mut frames = Vec::new();
    for family in Family::BOTH {
        let start =
            || packet((from, to), (lab.address("curl", family), lab.address("web", family)));
        let payload = [0x77; 24];
        let mut frame = Vec::new();
        start().tcp(40_000, TCP_PORT, 1, 64_000).syn().write(&mut frame, &[]).unwrap();
        frames.push(frame);
        let mut frame = Vec::new();
        start().udp(40_001, 9999).write(&mut frame, &payload).unwrap();
        frames.push(frame);
        let mut frame = Vec::new();
        match family {
            Family::V4 => start().icmpv4_echo_request(7, 1).write(&mut frame, &payload).unwrap(),
            Family::V6 => start().icmpv6_echo_request(7, 1).write(&mut frame, &payload).unwrap(),
        }
        frames.push(frame);
    }
    frames
}

/// A pod cannot speak under another's address, whatever policy says.
#[test]
fn a_spoofed_source_is_dropped() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let weir = Weir::start(&lab, folder, &["--workers", "1"]);
    let sink = lab.within("web", || UdpSocket::bind(("0.0.0.0", 9002)).unwrap());
    sink.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut wire = Wire::of(&lab, "curl");
    let (std::net::IpAddr::V4(curl), std::net::IpAddr::V4(kurl), std::net::IpAddr::V4(web)) = (
        lab.address("curl", Family::V4),
        lab.address("kurl", Family::V4),
        lab.address("web", Family::V4),
    ) else {
        unreachable!("asked for IPv4")
    };
    let frame = |source: std::net::Ipv4Addr| {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(lab.mac("curl"), lab.mac("web"))
            .ipv4(source.octets(), web.octets(), 64)
            .udp(1234, 9002)
            .write(&mut frame, &source.octets())
            .unwrap();
        frame
    };
    let before = settled(&weir);
    for _ in 0..10 {
        wire.send(&frame(kurl));
    }
    wire.send(&frame(curl));
    wire.flush();
    let mut payload = [0; 16];
    let length = sink.recv(&mut payload).expect("its own address passes");
    assert_eq!(payload[..length], curl.octets(), "the first to arrive is the honest one");
    assert!(sink.recv(&mut payload).is_err(), "and the only one");
    let dropped = growth(&weir, &before)("drops.spoofed_source");
    assert_eq!(dropped, 10, "{}", weir.words());
}

/// A pod speaks in ARP and ND for its own addresses only, and what merely bears the
/// type of a neighbour protocol is judged like any packet.
#[test]
fn a_pod_answers_for_its_own_address_only() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let weir = Weir::start(&lab, folder, &["--workers", "1"]);
    let mut wire = Wire::of(&lab, "curl");
    let address = |pod, family| lab.address(pod, family);
    let (from, to) = (lab.mac("curl"), lab.mac("web"));

    let arp_reply = |claimed: std::net::IpAddr| {
        let (std::net::IpAddr::V4(claimed), std::net::IpAddr::V4(asker)) =
            (claimed, address("web", Family::V4))
        else {
            unreachable!("asked for IPv4")
        };
        let mut frame = [&to[..], &from, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &from].concat();
        frame.extend(claimed.octets());
        frame.extend(to);
        frame.extend(asker.octets());
        frame
    };
    let icmp6 = |kind: u8, hop_limit: u8, body: &[u8]| {
        let (std::net::IpAddr::V6(source), std::net::IpAddr::V6(target)) =
            (address("curl", Family::V6), address("web", Family::V6))
        else {
            unreachable!("asked for IPv6")
        };
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(from, to)
            .ipv6(source.octets(), target.octets(), hop_limit)
            .icmpv6_raw(kind, 0, [0x20, 0, 0, 0])
            .write(&mut frame, body)
            .unwrap();
        frame
    };
    let octets = |pod| match address(pod, Family::V6) {
        std::net::IpAddr::V6(address) => address.octets(),
        std::net::IpAddr::V4(_) => unreachable!("asked for IPv6"),
    };

    let advertisement = |source: [u8; 16], target: [u8; 16]| {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(from, to)
            .ipv6(source, target, 255)
            .icmpv6_raw(136, 0, [0x20, 0, 0, 0])
            .write(&mut frame, &octets("curl"))
            .unwrap();
        frame
    };
    let beyond = "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets();

    let before = settled(&weir);
    wire.send(&advertisement(octets("kurl"), octets("web"))); // from another pod's address
    wire.send(&advertisement(octets("curl"), beyond)); // would be routed, whatever it is shaped as
    wire.send(&arp_reply(address("kurl", Family::V4))); // another pod's
    wire.send(&icmp6(136, 255, &octets("kurl"))); // NA for another pod's
    wire.send(&icmp6(134, 255, &[0; 8])); // router advertisement
    wire.send(&arp_reply(address("curl", Family::V4))); // its own
    wire.send(&icmp6(136, 255, &octets("curl"))); // NA for its own
    wire.send(&icmp6(131, 64, b"not a report at all")); // "MLD" to a host, routable
    wire.send(&icmp6(133, 64, b"nor a solicitation.")); // "RS" likewise
    wire.flush();
    let grown = growth(&weir, &before);
    assert_eq!(grown("steering.drop_nd"), 4, "{}", weir.words());
    assert!(grown("steering.neighbour") >= 2, "its own pass\n{}", weir.words());
    assert_eq!(grown("steering.punted"), 3, "judged by a worker\n{}", weir.words());
}

/// A pod with NET_ADMIN can hide its interface from discovery; that must not take the
/// hooks off the node's end of it.
#[test]
fn a_hidden_interface_keeps_its_hooks() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let mut weir = Weir::start(&lab, folder, &["--workers", "1"]);
    let mut hiding = lab.enter("curl", "unshare").args(["--net", "sleep", "60"]).spawn().unwrap();
    let pid = hiding.id().to_string();
    // nsenter first, which changes to the pod's namespace; then unshare, to one of its own.
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).unwrap();
    let others = [namespace("self"), lab.within("curl", || namespace("thread-self"))];
    let hides = until(PATIENCE, || !others.contains(&namespace(&pid)));
    assert!(hides, "no namespace of its own");
    let (own, web) = (lab.address("curl", Family::V4), lab.address("web", Family::V4));
    let mac = lab.mac("web").map(|byte| format!("{byte:02x}")).join(":");
    lab.command("curl", "ip", &["link", "set", "eth0", "netns", &pid]);
    weir.wait("the interface to be missed", |weir| {
        weir.status()["endpoints"].as_array().is_some_and(|all| all.len() == 2)
    });
    let before = settled(&weir);
    let script = format!(
        "ip addr add {own}/24 dev eth0 && ip link set eth0 up && \
         ip neigh replace {web} lladdr {mac} dev eth0 && ping -c3 -i0.2 -W1 {web}"
    );
    let ping = std::process::Command::new("nsenter")
        .args(["--target", &pid, "--net", "--", "sh", "-c", &script])
        .output()
        .unwrap();
    let dropped = growth(&weir, &before)("drops.unknown_interface");
    hiding.kill().unwrap();
    hiding.wait().unwrap();
    assert!(!ping.status.success(), "{ping:?}\n{}", weir.words());
    assert!(dropped >= 3, "{dropped} dropped; {ping:?}\n{}", weir.words());
}
