//! What a worker has said of one connection, the hooks apply to the next like it: they open
//! it or drop it without asking. Whatever makes the verdict untrue makes them ask again.
//! And asking has its price, which a pod pays alone.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::MapData;
use rustix::net::{AddressFamily, SocketType, ipproto, socket};
use serde_json::Value;
use weir_table::abi;
use weir_table::mem::{Access, SharedWords, Words};

use crate::clock::{StopOnDrop, until};
use crate::lab::{Cni, Family, Lab};
use crate::node::{allow_testcurl_alone, count, example, growth, node, settled};
use crate::probe::{TCP_PORT, connect, echoes};
use crate::stream::{Stream, fresh_port};
use crate::turn;
use crate::weir::Weir;
use crate::wire::{Wire, packet};

const PATIENCE: Duration = Duration::from_secs(5);

/// Growth of what was punted, opened, and dropped for either side's policies.
fn by_whom(weir: &Weir<'_>, before: &Value) -> [u64; 4] {
    let grown = growth(weir, before);
    ["punted", "opened", "drop_ingress", "drop_egress"]
        .map(|name| grown(&format!("steering.{name}")))
}

/// A new connection of a protocol that policy allows; whether it came about.
type Opens<'a> = dyn FnMut(u16) -> bool + 'a;

#[test]
fn the_second_connection_is_opened_by_the_hook() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let mut weir = Weir::start(&lab, folder, &["--workers", "1"]);
    allow_testcurl_alone(&mut weir);
    let mut wire = Wire::of(&lab, "curl");
    for family in Family::BOTH {
        let (curl, web) = (lab.address("curl", family), lab.address("web", family));
        let mut tcp = |_| {
            connect(&lab, "curl", (web, TCP_PORT).into(), PATIENCE)
                .is_ok_and(|mut stream| echoes(&mut stream, PATIENCE))
        };
        let udp_server = lab.within("web", || UdpSocket::bind((web, 9401)).unwrap());
        udp_server.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut udp = |_| {
            let client = lab.within("curl", || UdpSocket::bind((curl, fresh_port())).unwrap());
            client.send_to(b"x", (web, 9401)).unwrap();
            udp_server.recv(&mut [0; 8]).is_ok()
        };
        // Takes the packets, so that the pod's stack does not object to them.
        let _sctp_server = raw_sctp(&lab, family);
        let mut sctp = |sport: u16| {
            // Ports, verification tag 0, no checksum, INIT of 20 bytes (RFC 9260, 3.3.2).
            let mut init = [sport.to_be_bytes(), 9402_u16.to_be_bytes()].concat();
            init.extend([0; 8]);
            init.extend([1, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 1]);
            let mut frame = Vec::new();
            packet((lab.mac("curl"), lab.mac("web")), (curl, web))
                .write(&mut frame, etherparse::ip_number::SCTP, &init)
                .unwrap();
            wire.send(&frame);
            wire.flush();
            true
        };
        let cases: [(&str, &mut Opens<'_>); 3] =
            [("TCP", &mut tcp), ("UDP", &mut udp), ("SCTP", &mut sctp)];
        for (what, opens) in cases {
            for (sport, expected) in [(40_001, [1, 0, 0, 0]), (40_002, [0, 1, 0, 0])] {
                let before = settled(&weir);
                assert!(opens(sport), "{what}, {family:?}\n{}", weir.words());
                let counted = by_whom(&weir, &before);
                assert_eq!(
                    counted,
                    expected,
                    "{what}, {family:?}, from {sport}: punted, opened, denied\n{}",
                    weir.words()
                );
            }
        }
    }
}

fn raw_sctp(lab: &Lab, family: Family) -> OwnedFd {
    let family = if family == Family::V4 { AddressFamily::INET } else { AddressFamily::INET6 };
    lab.within("web", || socket(family, SocketType::RAW, Some(ipproto::SCTP)).unwrap())
}

/// Only the first of many denied packets is a worker's.
#[test]
fn what_was_denied_once_is_dropped_by_the_hook() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let mut weir = Weir::start(&lab, folder, &["--workers", "1"]);
    weir.apply("deny.yaml", &example("deny-all-for-testweb"));
    let ask_only = example("ask-only-over-udp")
        .replace("run: asker", "run: testkurl")
        .replace("run: answerer", "run: testweb");
    weir.apply("ask.yaml", &ask_only);
    for family in Family::BOTH {
        for (from, to, expected) in
            [("curl", "web", [1, 0, 19, 0]), ("kurl", "curl", [1, 0, 0, 19])]
        {
            let before = settled(&weir);
            let target: SocketAddr = (lab.address(to, family), 9403).into();
            let send_one = || {
                let source = (lab.address(from, family), 0);
                let client = lab.within(from, || UdpSocket::bind(source).unwrap());
                client.send_to(b"x", target).unwrap();
            };
            send_one();
            let denials = |status: &Value| {
                count(status, "drops.policy_ingress") + count(status, "drops.policy_egress")
            };
            let denied = until(PATIENCE, || denials(&weir.status()) > denials(&before));
            assert!(denied, "{from} to {to}, {family:?}: no verdict\n{}", weir.words());
            (1..20).for_each(|_| send_one());
            let counted = by_whom(&weir, &before);
            assert_eq!(
                counted,
                expected,
                "{from} to {to}, {family:?}: punted, opened, denied\n{}",
                weir.words()
            );
        }
    }
}

/// One new flow of a pod to `web`, on a port of its own; whether it passes, and who decided.
fn one_more(weir: &Weir<'_>, lab: &Lab, from: &str, expected: (bool, [u64; 4]), state: &str) {
    for family in Family::BOTH {
        let before = settled(weir);
        let mut stream = Stream::open(lab, from, "web", family, 9404);
        let (passes, by) = expected;
        let done = if passes { stream.run(1) } else { stream.is_cut(1) };
        done.unwrap_or_else(|e| panic!("{state}, {from}, {family:?}: {e}\n{}", weir.words()));
        let counted = by_whom(weir, &before);
        assert_eq!(counted, by, "{state}, {from}, {family:?}\n{}", weir.words());
    }
}

const ASKED: [u64; 4] = [1, 0, 0, 0];
const OPENED: [u64; 4] = [0, 1, 0, 0];
const DENIED: [u64; 4] = [0, 0, 1, 0];

#[test]
fn what_makes_a_verdict_untrue_makes_the_hooks_ask_again() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let mut weir = Weir::start(&lab, folder, &["--workers", "1"]);
    let label = |weir: &Weir<'_>, pod: &str, label: &str| {
        let manifest = lab.manifest(&format!("default/{pod}"), pod, &[label]);
        weir.place(&format!("pod-{pod}.json"), &manifest);
    };
    allow_testcurl_alone(&mut weir);
    weir.relabel(|weir| label(weir, "kurl", "run=testcurl"));
    for pod in ["curl", "kurl"] {
        one_more(&weir, &lab, pod, (true, ASKED), "the first");
        one_more(&weir, &lab, pod, (true, OPENED), "the second");
    }

    weir.relabel(|weir| label(weir, "curl", "run=other"));
    one_more(&weir, &lab, "curl", (false, ASKED), "relabelled");
    one_more(&weir, &lab, "curl", (false, DENIED), "relabelled, again");
    one_more(&weir, &lab, "kurl", (true, OPENED), "another was relabelled");
    weir.relabel(|weir| label(weir, "curl", "run=testcurl"));
    one_more(&weir, &lab, "curl", (true, ASKED), "its label back");

    weir.withdraw("allow.yaml");
    for pod in ["curl", "kurl"] {
        one_more(&weir, &lab, pod, (false, ASKED), "without the rule");
        one_more(&weir, &lab, pod, (false, DENIED), "without the rule, again");
    }
    weir.apply("allow.yaml", &example("allow-testcurl-for-testweb"));
    for pod in ["curl", "kurl"] {
        one_more(&weir, &lab, pod, (true, ASKED), "the rule again");
        one_more(&weir, &lab, pod, (true, OPENED), "the rule again, the second");
    }

    let addresses = Family::BOTH.map(|family| lab.address("curl", family));
    lab.unpod("curl");
    weir.relabel(|weir| weir.remove("pod-curl.json"));
    lab.pod_at("thief", addresses);
    weir.relabel(|weir| {
        let manifest = lab.manifest("default/thief", "thief", &["run=other"]);
        weir.place("pod-thief.json", &manifest);
    });
    one_more(&weir, &lab, "thief", (false, ASKED), "another pod under the address");
    one_more(&weir, &lab, "kurl", (true, OPENED), "under its own address still");
}

/// A pod that floods the node with new flows gets its share of the workers and no more;
/// others open connections meanwhile.
#[test]
fn a_flood_of_new_flows_is_held_back_at_its_pod() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let weir = Weir::start(&lab, folder, &["--workers", "1"]);
    limit_punts(&lab);
    let (before, start) = (settled(&weir), Instant::now());
    let stop = AtomicBool::new(false);
    let ports = 9500..9560;
    let (sent, passed) = thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(&lab, &stop));
        let _stop = StopOnDrop(&stop);
        thread::sleep(Duration::from_secs(1));
        // Each of these has to be asked about: no two are alike.
        let passes = |port: &u16| {
            thread::sleep(Duration::from_millis(20));
            let family = if port.is_multiple_of(2) { Family::V4 } else { Family::V6 };
            Stream::open(&lab, "curl", "web", family, *port).run(1).is_ok()
        };
        let passed = ports.clone().filter(passes).count();
        stop.store(true, Ordering::Relaxed);
        (flooding.join().unwrap(), passed)
    });
    let most = PUNTS_AT_ONCE as f64 + PUNTS_A_SECOND as f64 * start.elapsed().as_secs_f64();
    let grown = growth(&weir, &before);
    let (limited, punted) = (grown("steering.drop_punt_rate"), grown("steering.punted"));
    eprintln!("{sent} new flows: {limited} held back, {punted} punted of {most:.0} at most");
    // Each is asked once and has no second try; without the limit hardly any passes.
    assert!(passed + 3 >= ports.len(), "{passed} of another pod's\n{}", weir.words());
    assert!(limited > PUNTS_AT_ONCE, "{}", weir.words());
    let others = 10 * ports.len() as u64;
    assert!(punted as f64 <= most + others as f64, "{punted} punted\n{}", weir.words());
}

/// A pod that leaves the cutting of its datagrams to the kernel has no larger share: what is cut
/// on the way to the worker counts as what reaches it.
#[test]
fn datagrams_that_are_cut_on_the_way_count_each() {
    let Some(_turn) = turn() else { return };
    const SENDS: usize = 1000;
    const EACH: usize = 64;
    let (lab, folder) = node(Cni::Bridge);
    let weir = Weir::start(&lab, folder, &["--workers", "1", "--io", "af_xdp"]);
    limit_punts(&lab);
    let file = lab.dir().join("datagrams");
    std::fs::write(&file, vec![b'x'; SENDS * EACH]).unwrap();
    let (before, start) = (settled(&weir), Instant::now());
    {
        // So that none of it is decided meanwhile.
        let _frozen = weir.freeze();
        // SOL_UDP, UDP_SEGMENT (linux/udp.h): a datagram for each byte.
        let there = "UDP4-SENDTO:198.18.0.1:9,setsockopt-int=17:103:1";
        let block = EACH.to_string();
        lab.command("kurl", "socat", &["-u", "-b", &block, &file.display().to_string(), there]);
    }
    let most = PUNTS_AT_ONCE as f64 + PUNTS_A_SECOND as f64 * start.elapsed().as_secs_f64();
    let grown = growth(&weir, &before);
    let (limited, punted) = (grown("steering.drop_punt_rate"), grown("steering.punted"));
    eprintln!("{SENDS} sends of {EACH}: {limited} held back, {punted} punted");
    let cut = punted as f64 * EACH as f64;
    assert!(cut <= most + EACH as f64, "{cut} of {most}\n{}", weir.words());
    assert!(punted > 0 && limited > SENDS as u64 / 2, "{}", weir.words());
}

/// The limit for this test: what any machine exceeds, however busy it is.
const PUNTS_A_SECOND: u64 = 1000;
const PUNTS_AT_ONCE: u64 = 500;

/// Lowers what one pod may ask of the workers.
fn limit_punts(lab: &Lab) {
    let data = MapData::from_pin(lab.node_path("/sys/fs/bpf/weir/weir_config")).unwrap();
    let words = abi::CONFIG_WORDS as usize;
    let config =
        SharedWords::map(data.fd().as_fd(), words, Access::ReadWrite, "weir_config").unwrap();
    let interval = 1_000_000_000 / PUNTS_A_SECOND;
    for (word, value) in
        [(abi::CONFIG_PUNT_BURST, PUNTS_AT_ONCE * interval), (abi::CONFIG_PUNT_INTERVAL, interval)]
    {
        assert_ne!(config.words()[word as usize].swap(value, Ordering::Relaxed), 0, "no limit");
    }
}

/// Datagrams from `kurl`, no two of them to the same address and port, so that nothing that
/// was said of one helps with another; how many. The addresses are those of RFC 2544, which
/// nobody has.
fn flood(lab: &Lab, stop: &AtomicBool) -> u32 {
    let socket = lab.within("kurl", || UdpSocket::bind(("0.0.0.0", 0)).unwrap());
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 0));
    for sent in 0.. {
        if stop.load(Ordering::Relaxed) {
            return sent;
        }
        let address = Ipv4Addr::from(first | sent & 0x1_ffff);
        let _ = socket.send_to(b"x", (address, 10_000 + (sent >> 17) as u16));
    }
    0
}
