//! Attacks in which the hooks take part: a table that is flooded full, a flood of denied
//! packets, forged ICMP errors. What is counted is asserted; what others get meanwhile too.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

use crate::clock::{StopOnDrop, until};
use crate::lab::{Cni, Family, Lab};
use crate::node::{allow_testcurl_alone, count, example, growth, node, settled};
use crate::probe::{TCP_PORT, connect, echoes};
use crate::stream::Stream;
use crate::turn;
use crate::weir::Weir;
use crate::wire::{Wire, packet};

const PATIENCE: Duration = Duration::from_secs(5);
/// A client is served if it is at once, or after one retransmission of its SYN (1 s).
const SERVED: Duration = Duration::from_millis(1500);
/// `--flows`, and a pod's quarter.
const FLOWS: usize = 1024;
const PER_POD: usize = FLOWS / 4;
/// SYNs a second: enough to fill the table ten times a second, little enough that the test
/// is about the table and not about processors.
const SYNS_A_SECOND: u32 = 10_000;

/// A raw socket of a place, for TCP headers of our own.
fn raw_tcp(lab: &Lab, place: &str) -> OwnedFd {
    lab.within(place, || socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::TCP)).unwrap())
}

/// A SYN with its checksum, behind an IPv4 header that the kernel writes.
fn syn(from: IpAddr, to: IpAddr, sport: u16, dport: u16) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else { unreachable!("IPv4") };
    let mut header = etherparse::TcpHeader::new(sport, dport, 7, 64_000);
    header.syn = true;
    header.checksum = header.calc_checksum_ipv4_raw(from.octets(), to.octets(), &[]).unwrap();
    header.to_bytes().to_vec()
}

/// What is sent until it is told to stop.
#[derive(Default)]
struct Flood {
    stop: AtomicBool,
    sent: AtomicU32,
}

impl Flood {
    /// Calls `send(n)` at a steady rate.
    fn paced(&self, rate: u32, mut send: impl FnMut(u32)) {
        let started = Instant::now();
        let mut sent = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let due = || started.elapsed().as_secs_f64() * f64::from(rate);
            // A machine that is too slow for the rate must stop as well.
            while f64::from(sent) < due() && !self.stop.load(Ordering::Relaxed) {
                send(sent);
                sent += 1;
                self.sent.store(sent, Ordering::Relaxed);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// How much of a flood makes one, on a machine of any speed.
const LEAST: u32 = 10_000;

/// Runs `flood` on a thread of its own while `meanwhile` happens; how much it has sent.
fn under<T>(flood: impl FnOnce(&Flood) + Send, meanwhile: impl FnOnce() -> T) -> (u32, T) {
    let state = Flood::default();
    let result = thread::scope(|scope| {
        scope.spawn(|| flood(&state));
        let _stop = StopOnDrop(&state.stop);
        thread::sleep(Duration::from_secs(1));
        let enough = || state.sent.load(Ordering::Relaxed) >= LEAST;
        assert!(until(Duration::from_secs(30), enough), "the flood is none");
        meanwhile()
    });
    (state.sent.into_inner(), result)
}

#[test]
fn a_syn_flood_takes_no_more_of_the_table_than_its_pods_share() {
    let Some(_turn) = turn() else { return };
    for offload in ["on", "off"] {
        let (lab, folder) = node(Cni::Bridge);
        let flows = FLOWS.to_string();
        let options = ["--workers", "1", "--flows", &flows, "--offload", offload];
        let mut weir = Weir::start(&lab, folder, &options);
        // Nobody may open anything to `curl`: the answers that it gets, it gets by its flows.
        let isolated = example("deny-all-for-testweb").replace("run: testweb", "run: testcurl");
        weir.apply("deny.yaml", &isolated);
        let web = lab.address("web", Family::V4);
        let kurl = lab.address("kurl", Family::V4);
        let target = |family| SocketAddr::new(lab.address("web", family), TCP_PORT);
        let mut kept: Vec<_> = (0..40)
            .map(|n| connect(&lab, "curl", target(Family::BOTH[n % 2]), PATIENCE).unwrap())
            .collect();
        assert!(kept.iter_mut().all(|stream| echoes(stream, PATIENCE)));
        let before = settled(&weir);

        let raw = raw_tcp(&lab, "kurl");
        let to = SocketAddr::new(web, 0);
        let flood = |flood: &Flood| {
            // Ports where something listens and others: SYN-ACKs and resets both.
            flood.paced(SYNS_A_SECOND, |n| {
                let dport = if n & 1 == 0 { TCP_PORT } else { 10_000 + (n >> 16) as u16 };
                let _ = sendto(&raw, &syn(kurl, web, n as u16, dport), SendFlags::empty(), &to);
            });
        };
        let (sent, (served, most)) = under(flood, || {
            let mut most = 0;
            let served = (0..50).filter(|n| {
                let family = Family::BOTH[n % 2];
                let opened = connect(&lab, "curl", target(family), SERVED);
                let ok = opened.is_ok_and(|mut stream| echoes(&mut stream, PATIENCE));
                if n % 10 == 0 {
                    let flows = weir.flows();
                    let of_kurl = |flow: &&serde_json::Value| flow["src"] == kurl.to_string();
                    most = most.max(flows.iter().filter(of_kurl).count());
                }
                ok
            });
            (served.count(), most)
        });
        let grown = growth(&weir, &before);
        eprintln!(
            "offload {offload}: {sent} SYNs, {served} of 50 served, at most {most} flows of the \
             flood's; {} evicted, {} left out, {} punted",
            grown("counters.flows_evicted"),
            grown("counters.flow_quota"),
            grown("steering.punted"),
        );
        assert!(served >= 45, "{served} of 50 honest connections\n{}", weir.words());
        // Only at rest: a walk through the table that changes may meet a flow and the one for
        // which it made room.
        let flows = weir.flows();
        let left = flows.iter().filter(|flow| flow["src"] == kurl.to_string()).count();
        assert!(left <= PER_POD, "{left}");
        assert!(most > PER_POD / 2, "the flood never filled its share: {most}\n{}", weir.words());
        let pushed_back = grown("counters.flows_evicted") + grown("counters.flow_quota");
        assert!(pushed_back > 5_000, "{pushed_back}\n{}", weir.words());
        let alive = kept.iter_mut().filter_map(|s| echoes(s, PATIENCE).then_some(())).count();
        assert_eq!(alive, kept.len(), "established connections\n{}", weir.words());
        assert_eq!(grown("drops.flow_cut"), 0);
    }
}

/// A SYN from an address that nobody has, as a whole packet.
fn forged_syn(n: u32, to: IpAddr) -> Vec<u8> {
    let IpAddr::V4(to) = to else { unreachable!("IPv4") };
    // 198.18.0.0/15 is for benchmarks (RFC 2544, appendix C.2.2).
    let from = (0xc612_0000 | (n.wrapping_mul(2_654_435_761) & 0x1_ffff)).to_be_bytes();
    let mut packet = Vec::new();
    etherparse::PacketBuilder::ipv4(from, to.octets(), 64)
        .tcp(1024 + (n >> 7) as u16 % 60_000, TCP_PORT, 7, 64_000)
        .syn()
        .write(&mut packet, &[])
        .unwrap();
    packet
}

/// Whom the flood hits: a pod that is asked for connections by addresses that do not exist,
/// below and above what its hook may punt. Its clients of before are served on. It may send by
/// its flows only, so that those have to be in the table.
#[test]
fn the_clients_of_a_pod_that_is_flooded_are_served() {
    let Some(_turn) = turn() else { return };
    const NO_EGRESS: &str = r#"{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "no-egress", "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": {"run": "testweb"}}, "policyTypes": ["Egress"]}}"#;
    for rate in [SYNS_A_SECOND, 60_000] {
        let (lab, folder) = node(Cni::Bridge);
        let flows = (4 * FLOWS).to_string();
        let mut weir = Weir::start(&lab, folder, &["--workers", "1", "--flows", &flows]);
        weir.apply("no-egress.json", NO_EGRESS);
        let web = lab.address("web", Family::V4);
        let target = SocketAddr::new(web, TCP_PORT);
        let route = ["route", "add", "198.18.0.0/15", "via", "198.51.100.2"];
        lab.command("node", "ip", &route);
        let mut client = connect(&lab, "outside", target, PATIENCE).unwrap();
        assert!(echoes(&mut client, PATIENCE));
        let before = settled(&weir);
        let raw = lab.within("outside", || {
            socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW)).unwrap()
        });
        let flood = |flood: &Flood| {
            flood.paced(rate, |n| {
                let _ = sendto(&raw, &forged_syn(n, web), SendFlags::empty(), &target);
            });
        };
        let (sent, served) = under(flood, || {
            (0..50)
                .filter(|_| {
                    thread::sleep(Duration::from_millis(50));
                    let opened = connect(&lab, "outside", target, SERVED);
                    opened.is_ok_and(|mut stream| echoes(&mut stream, SERVED))
                })
                .count()
        });
        let grown = growth(&weir, &before);
        let held_back = grown("steering.drop_punt_rate");
        eprintln!(
            "{rate} a second: {sent} SYNs, {served} of 50 served, {held_back} held back, {} evicted, \
             {} left out, {} opened by hooks",
            grown("counters.flows_evicted"),
            grown("counters.flow_quota"),
            grown("steering.opened"),
        );
        assert!(served >= 45, "{served} of 50 of its clients\n{}", weir.words());
        assert!(echoes(&mut client, PATIENCE), "a connection of before\n{}", weir.words());
        let pushed_back = grown("counters.flows_evicted") + grown("counters.flow_quota");
        assert!(pushed_back > 5_000, "its account was never full: {pushed_back}\n{}", weir.words());
    }
}

/// With the verdict cache (and its denials) and without.
#[test]
fn a_flood_of_denied_packets_leaves_no_flow_and_starves_nobody() {
    let Some(_turn) = turn() else { return };
    for offload in ["on", "off"] {
        let (lab, folder) = node(Cni::Bridge);
        let mut weir = Weir::start(&lab, folder, &["--workers", "1", "--offload", offload]);
        // `web` may be reached by `curl` alone.
        allow_testcurl_alone(&mut weir);
        let (web, kurl) = (lab.address("web", Family::V4), lab.address("kurl", Family::V4));
        let before = settled(&weir);
        let socket = lab.within("kurl", || UdpSocket::bind(("0.0.0.0", 0)).unwrap());
        // No two alike: each denial has to be asked for once.
        let flood = |flood: &Flood| {
            flood.paced(SYNS_A_SECOND, |n| {
                let _ = socket.send_to(b"x", (web, 1 + (n % 65_535) as u16));
            });
        };
        let ports = 9500..9550;
        let (sent, served) = under(flood, || {
            let passes = |port: &u16| {
                let family = Family::BOTH[usize::from(port % 2)];
                Stream::open(&lab, "curl", "web", family, *port).run(1).is_ok()
            };
            ports.clone().filter(passes).count()
        });
        let grown = growth(&weir, &before);
        let denied = grown("drops.policy_ingress");
        let of_kurl = weir.flows().iter().filter(|flow| flow["src"] == kurl.to_string()).count();
        eprintln!("offload {offload}: {sent} sent, {denied} denied, {served} of 50 served");
        assert_eq!(of_kurl, 0, "a denied packet left a flow");
        assert!(served >= 45, "{served} of 50\n{}", weir.words());
        let held_back = grown("steering.drop_punt_rate");
        // What finds a worker's ring full, as after a stall that the sender makes up for, is
        // lost on the way to it and no drop of Weir's.
        let lost = grown("steering.punted").saturating_sub(grown("counters.rx_frames"));
        let sent = u64::from(sent);
        assert!(denied + held_back + lost >= sent * 9 / 10, "{denied}, {held_back}, {lost}");
        assert!(lost < sent / 2, "{lost} of {sent} never reached a worker");
        assert!(denied > 5_000, "{denied}");
    }
}

#[test]
fn forged_icmp_errors_are_dropped_and_counted_from_inside_and_outside() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let weir = Weir::start(&lab, folder, &["--workers", "1"]);
    let target = SocketAddr::new(lab.address("web", Family::V4), TCP_PORT);
    let mut stream = connect(&lab, "curl", target, PATIENCE).unwrap();
    assert!(echoes(&mut stream, PATIENCE));
    let [web, curl, kurl] = ["web", "curl", "kurl"].map(|pod| lab.address(pod, Family::V4));
    let sport = stream.local_addr().unwrap().port();
    let before = settled(&weir);

    // `kurl` tells `curl` that what it sends to `web` is too big; a host outside tells it the
    // same of a connection that `curl` does not have.
    let quote = |dport: u16| {
        let mut quoted = Vec::new();
        packet(([0; 6], [0; 6]), (curl, web))
            .tcp(sport, dport, 1, 1)
            .write(&mut quoted, &[])
            .unwrap();
        [&[3, 4, 0, 0, 0, 0, 2, 68][..], &quoted[14..]].concat()
    };
    let mut wire = Wire::of(&lab, "kurl");
    let mut frame = Vec::new();
    packet((lab.mac("kurl"), lab.mac("curl")), (kurl, curl))
        .write(&mut frame, etherparse::ip_number::ICMP, &with_checksum(quote(TCP_PORT)))
        .unwrap();
    for _ in 0..500 {
        wire.send(&frame);
    }
    wire.flush();
    let raw = lab.within("outside", || {
        socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).unwrap()
    });
    let message = with_checksum(quote(TCP_PORT + 1));
    for _ in 0..500 {
        sendto(&raw, &message, SendFlags::empty(), &SocketAddr::new(curl, 0)).unwrap();
        thread::sleep(Duration::from_micros(100));
    }
    let unrelated = growth(&weir, &before)("drops.icmp_unrelated");
    assert_eq!(unrelated, 1000, "{}", weir.words());
    // No path of `curl`'s has become narrower, and its connection goes on.
    let route = lab.command("curl", "ip", &["route", "get", &web.to_string()]);
    assert!(!crate::lab::text(&route).contains("mtu"), "{}", crate::lab::text(&route));
    assert!(echoes(&mut stream, PATIENCE), "{}", weir.words());
    assert_eq!(count(&weir.status(), "drops.flow_cut"), 0);
}

/// An ICMP message with its checksum (RFC 792).
fn with_checksum(mut message: Vec<u8>) -> Vec<u8> {
    let sum = message.chunks(2).fold(0_u32, |sum, pair| {
        sum + u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
    });
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}
