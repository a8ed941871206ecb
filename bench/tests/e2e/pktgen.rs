//! `weir-bench pktgen` against a path that does what it is told.

use std::thread;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use pcap_file::pcap::{PcapPacket, PcapWriter};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::net::{Family, Net, result, say, turn};

/// Each backend, family and protocol with the least size of its frames.
fn each(mut test: impl FnMut(&str, Family, &str, u32)) {
    for io in ["af_xdp", "af_packet"] {
        for (protocol, sizes) in [("udp", [64, 78]), ("tcp", [70, 90]), ("sctp", [78, 98])] {
            test(io, Family::V4, protocol, sizes[0]);
            test(io, Family::V6, protocol, sizes[1]);
        }
    }
}

/// Loss, repetition and order as given; all else as it should be.
fn assert_found(found: &Value, sent: u64, lost: u64, duplicated: u64) {
    let wanted = [
        ("sent", sent),
        ("received", sent - lost + duplicated),
        ("lost", lost),
        ("duplicated", duplicated),
        ("reordered", 0),
        ("sink_dropped", 0),
        ("foreign", 0),
    ];
    for (name, value) in wanted {
        assert_eq!(found[name], value, "{name}: {found}");
    }
}

#[test]
fn a_path_that_loses_nothing_is_seen_to_lose_nothing() {
    let Some(_turn) = turn() else { return };
    let net = Net::new();
    each(|io, family, protocol, size| {
        let options = format!(
            "--io {io} --protocol {protocol} --size {size} --flows 7 --rate 2000 --count 500"
        );
        let found = net.pktgen(family, &options);
        say(format!("{family:?} {protocol} by {io}: {}", found["latency_ns"]));
        assert_found(&found, 500, 0, 0);
        assert_eq!(found["io"], io);
        assert_eq!((&found["frame_bytes"], &found["flows"]), (&f64::from(size).into(), &7.into()));
        let latency = &found["latency_ns"];
        let at = |name: &str| latency[name].as_u64().unwrap();
        assert!(at("min") > 0 && at("min") <= at("p50") && at("p50") <= at("max"), "{latency}");
        assert!(found["cpu"]["tx_ns"].as_u64().unwrap() > 0, "{found}");
    });
}

/// One flow of ten is refused at the router: exactly its frames are lost, and as many as the
/// router refused.
#[test]
fn what_a_rule_drops_is_lost() {
    let Some(_turn) = turn() else { return };
    for io in ["af_xdp", "af_packet"] {
        let net = Net::new();
        // Only counted frames are as long as that; those that establish flows pass.
        net.rules("inet", "prerouting", &["meta length 110 udp sport 20003 count drop"]).unwrap();
        let options = format!("--io {io} --size 128 --flows 10 --rate 5000 --count 1000");
        let found = net.pktgen(Family::V4, &options);
        assert_found(&found, 1000, 100, 0);
        assert_eq!(net.counted(), 100);
    }
}

#[test]
fn what_is_repeated_on_the_way_is_counted_as_repeated() {
    let Some(_turn) = turn() else { return };
    let net = Net::new();
    let rule = "meta length 110 udp sport 20003 dup to 198.18.2.2 device server";
    if let Err(why) = net.rules("ip", "prerouting", &[rule]) {
        say(format!("SKIPPED: this kernel's nftables cannot repeat packets ({why})"));
        return;
    }
    let found = net.pktgen(Family::V4, "--size 128 --flows 10 --rate 2000 --count 1000");
    assert_found(&found, 1000, 0, 100);
}

/// Half as fast a path as is sent into: the last frame waits for all before it.
#[test]
fn waiting_in_a_queue_on_the_way_is_latency() {
    let Some(_turn) = turn() else { return };
    let net = Net::new();
    let words = "qdisc add dev server root tbf rate 4mbit burst 3000 latency 10s";
    net.run("router", "tc", &words.split(' ').collect::<Vec<_>>());
    // 200 frames of 1000 bytes take 400 ms at that rate; they are sent within 200.
    let found = net.pktgen(Family::V4, "--size 1004 --rate 1000 --count 200");
    assert_found(&found, 200, 0, 0);
    let latency = &found["latency_ns"];
    assert!(latency["max"].as_u64().unwrap() > 150_000_000, "{found}");
    assert!(latency["min"].as_u64().unwrap() < 100_000_000, "{found}");
}

/// A generator that was held up counts latency from when frames should have been sent: the
/// stop shows in all that were due meanwhile, not in one.
#[test]
fn a_held_up_generator_does_not_hide_it() {
    let Some(_turn) = turn() else { return };
    let net = Net::new();
    let child = net.start(Family::V4, "--rate 1000 --count 2000");
    let pid = Pid::from_child(&child);
    // In the midst of those that count: before them it sends only what establishes its flows.
    let start = Instant::now();
    while net.sent_by("client") < 300 {
        assert!(start.elapsed() < Duration::from_secs(30), "it does not send");
        thread::sleep(Duration::from_millis(10));
    }
    kill_process(pid, Signal::STOP).unwrap();
    let stopped = Instant::now();
    thread::sleep(Duration::from_millis(300));
    let stopped = stopped.elapsed();
    kill_process(pid, Signal::CONT).unwrap();
    let found = result(child);
    assert_found(&found, 2000, 0, 0);
    let lag = Duration::from_nanos(found["send_lag_max_ns"].as_u64().unwrap());
    assert!(lag > stopped - Duration::from_millis(20), "{lag:?} of {stopped:?}");
    // 300 of 2000 frames were due meanwhile: a tenth of all waited 100 ms or longer.
    let p90 = Duration::from_nanos(found["latency_ns"]["p90"].as_u64().unwrap());
    assert!(p90 > Duration::from_millis(80), "{found}");
}

#[test]
fn new_flows_are_begun_at_their_rate_and_handshakes_completed() {
    let Some(_turn) = turn() else { return };
    let net = Net::new();
    each(|io, family, protocol, _| {
        let options = format!(
            "--io {io} --protocol {protocol} --size 128 --rate 1000 --new-flows 250 --count 400"
        );
        let found = net.pktgen(family, &options);
        assert_found(&found, 400, 0, 0);
        assert_eq!(found["new_flows"], 100, "{found}");
        let handshakes = if protocol == "udp" { 0 } else { 100 };
        assert_eq!(found["handshakes"], handshakes, "{protocol}: {found}");
    });
}

/// The router's conntrack, which knows nothing of the generator, sees connections.
#[test]
fn conntrack_takes_the_handshakes_for_real() {
    let Some(_turn) = turn() else { return };
    let net = Net::new();
    // 126 bytes are 108 without Ethernet, a multiple of four as SCTP wants it. Data counts if its connection is established for conntrack; what it finds invalid is lost.
    let rules = ["ct state invalid drop", "meta length 108 ct state established count"];
    net.rules("inet", "forward", &rules).unwrap();
    for (n, protocol) in ["udp", "tcp", "sctp"].into_iter().enumerate() {
        let options = format!("--protocol {protocol} --size 126 --flows 5 --rate 2000 --count 500");
        let found = net.pktgen(Family::V4, &options);
        assert_found(&found, 500, 0, 0);
        assert_eq!(net.counted(), 500 * (n as u64 + 1), "{protocol}");
    }
}

#[test]
fn a_capture_is_replayed() {
    let Some(_turn) = turn() else { return };
    let net = Net::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut writer = PcapWriter::new(file.reopen().unwrap()).unwrap();
    for (port, payload) in [(53, 40), (123, 48), (443, 4), (443, 1200)] {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([192, 0, 2, 1], [192, 0, 2, 2], 61)
            .udp(30_000, port)
            .write(&mut frame, &vec![7; payload])
            .unwrap();
        let length = u32::try_from(frame.len()).unwrap();
        writer.write_packet(&PcapPacket::new(Duration::ZERO, length, &frame)).unwrap();
    }
    drop(writer);
    let pcap = file.path().display();
    let found = net.pktgen(Family::V4, &format!("--pcap {pcap} --rate 2000 --count 300"));
    assert_found(&found, 300, 0, 0);
    assert_eq!(found["skipped"], 1, "no room in four bytes: {found}");
    let mean = f64::from(40 + 48 + 1200) / 3.0 + 46.0;
    assert!((found["frame_bytes"].as_f64().unwrap() - mean).abs() < 0.01, "{found}");
}

#[test]
fn what_is_blocked_is_told_in_a_sentence() {
    let Some(_turn) = turn() else { return };
    let net = Net::new();
    net.rules("inet", "prerouting", &["udp dport 9000 drop"]).unwrap();
    let out = net.start(Family::V4, "--count 10").wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{words}");
    assert!(words.contains("are not answered") && words.contains("9000"), "{words}");
}
