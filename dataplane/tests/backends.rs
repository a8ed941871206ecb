//! The same pipeline over both backends that need no privileges: every test here runs
//! real frames through a real policy table, flow table and counters.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod support;

use std::io::Cursor;
use std::time::Duration;

use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use support::frames::{self, ACK, SYN};
use support::{HeapClassifier, Matrix, ONE, REMOTE, Service, TWO, Tables, Tally};
use weir_dataplane::endpoints::Endpoints;
use weir_dataplane::io::PacketIo;
use weir_dataplane::io::memory::{Faults, MemoryIo};
use weir_dataplane::io::pcap::{PcapIo, PcapIoError};
use weir_dataplane::pipeline::Pipeline;
use weir_dataplane::shim::{Direction, Shim};
use weir_table::addr::Address;
use weir_table::counters::{Counter, Reason};

fn ip(actor: usize) -> Address {
    support::address(actor, false)
}

/// A worker without a thread.
struct Worker {
    pipeline: Pipeline,
    classifier: HeapClassifier,
    endpoints: Endpoints,
    tables: Tables,
    tally: Tally,
}

impl Worker {
    fn new(matrix: Matrix) -> Self {
        Self {
            pipeline: Pipeline::new(0, 1),
            classifier: matrix.classifier(1),
            endpoints: support::two_endpoints(),
            tables: Tables::new(),
            tally: Tally::new(),
        }
    }

    fn burst(&mut self, io: &mut impl PacketIo, now: Duration) -> usize {
        let view = self.tables.view(Some(&self.classifier), &self.endpoints);
        let now = now.as_nanos() as u64;
        io.burst(|burst| self.pipeline.process(burst, &view, now, &self.tally.block)).unwrap()
    }
}

/// TWO serves the web to everyone but takes no UDP from ONE.
fn policy() -> Matrix {
    Matrix::OPEN.deny_ingress(TWO, ONE, Service::OtherUdp)
}

/// What a capture on both pods' devices would show: (frame, does it pass?).
fn conversation() -> Vec<(Vec<u8>, bool)> {
    let client = (ip(ONE), 4000);
    let server = (ip(TWO), 80);
    let remote = (ip(REMOTE), 4000);
    let mut arp = vec![0xff; 12];
    arp.extend_from_slice(&[0x08, 0x06]);
    arp.extend_from_slice(&[0; 28]);
    vec![
        (frames::tcp(client, server, SYN), true),
        (frames::tcp(server, client, SYN | ACK), true),
        (frames::tcp(client, server, ACK), true),
        (frames::udp(client, (ip(TWO), 9999)), false),
        (frames::tcp(remote, server, SYN), true),
        (frames::tcp(server, remote, SYN | ACK), true),
        (arp, false),
        (frames::tcp(remote, (ip(REMOTE), 80), SYN), false),
    ]
}

#[test]
fn memory_frames_go_through_the_pipeline_and_come_out_for_the_way_back() {
    let mut worker = Worker::new(policy());
    let mut io = MemoryIo::new(100);
    let mut frame = Vec::new();
    let mut expected = vec![];
    for (ethernet, passes) in conversation() {
        frame.clear();
        let from = |pod| ethernet.get(26..30) == Some(&ip(pod).bits().to_be_bytes()[12..]);
        let shim = match (from(ONE), from(TWO)) {
            (true, _) => Shim::new(11, Direction::FromPod),
            (_, true) => Shim::new(12, Direction::FromPod),
            _ => Shim::new(12, Direction::ToPod),
        };
        shim.push_punted(&ethernet, &mut frame);
        io.push(&frame);
        if passes {
            expected.push(ethernet);
        }
    }
    assert_eq!(worker.burst(&mut io, Duration::from_secs(1)), conversation().len());
    assert_eq!(worker.burst(&mut io, Duration::from_secs(1)), 0);
    let mut out = vec![];
    while let Some(frame) = io.pop() {
        let mut plain = Vec::new();
        Shim::strip_accepted(&frame, &mut plain).unwrap();
        out.push(plain);
    }
    assert_eq!(out, expected);
    assert_eq!(worker.tally.drops().len(), 3, "{:?}", worker.tally.drops());
}

#[test]
fn a_faulty_wire_never_turns_a_denied_packet_into_an_accepted_one() {
    for seed in 0..20 {
        let mut worker = Worker::new(policy());
        let faults = Faults { seed, drop: 100, duplicate: 100, truncate: 200 };
        let mut io = MemoryIo::with_faults(10_000, faults);
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        let shim = Shim::new(11, Direction::FromPod);
        shim.push_punted(&frames::tcp((ip(ONE), 4000), (ip(TWO), 80), SYN), &mut good);
        shim.push_punted(&frames::udp((ip(ONE), 4000), (ip(TWO), 9999)), &mut bad);
        for _ in 0..500 {
            io.push(&good);
            io.push(&bad);
        }
        while worker.burst(&mut io, Duration::from_secs(1)) > 0 {}
        let mut accepted = 0;
        while let Some(frame) = io.pop() {
            let mut plain = Vec::new();
            Shim::strip_accepted(&frame, &mut plain).unwrap();
            assert_eq!(plain, good[16..], "seed {seed}");
            accepted += 1;
        }
        assert!((200..=600).contains(&accepted), "seed {seed}: {accepted}");
        let stats = io.stats();
        assert_eq!(stats.tx_frames, accepted);
        let dropped: u64 = worker.tally.drops().iter().map(|(_, n)| n).sum();
        assert_eq!(stats.rx_frames, accepted + dropped);
    }
}

/// A capture file of (microseconds, frame, length on the wire).
fn capture(datalink: DataLink, packets: &[(u64, Vec<u8>, u32)]) -> Vec<u8> {
    let header = PcapHeader { datalink, ..Default::default() };
    let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
    for (time, data, length) in packets {
        let time = Duration::from_micros(*time);
        writer.write_packet(&PcapPacket::new(time, *length, data)).unwrap();
    }
    writer.into_writer()
}

fn replay(worker: &mut Worker, input: Vec<u8>, captured_on: u32) -> (Vec<u8>, u64) {
    let endpoints = worker.endpoints.clone();
    let mut io = PcapIo::new(Cursor::new(input), Vec::new(), endpoints, captured_on).unwrap();
    while let Some(now) = io.next_time().unwrap() {
        assert!(worker.burst(&mut io, now) > 0);
    }
    assert_eq!(worker.burst(&mut io, Duration::ZERO), 0);
    let truncated = io.stats().rx_truncated;
    (io.finish().unwrap(), truncated)
}

fn packets(file: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut reader = PcapReader::new(Cursor::new(file)).unwrap();
    let mut packets = vec![];
    while let Some(packet) = reader.next_packet() {
        let packet = packet.unwrap();
        packets.push((packet.timestamp.as_micros() as u64, packet.data.into_owned()));
    }
    packets
}

#[test]
fn a_capture_comes_out_without_what_policy_denies() {
    let input: Vec<_> = conversation()
        .into_iter()
        .zip((0u64..).step_by(1000))
        .map(|((frame, _), time)| (time, frame.clone(), frame.len() as u32))
        .collect();
    let expected: Vec<_> = conversation()
        .into_iter()
        .zip((0u64..).step_by(1000))
        .filter(|((_, passes), _)| *passes)
        .map(|((frame, _), time)| (time, frame))
        .collect();
    let mut worker = Worker::new(policy());
    let (output, truncated) = replay(&mut worker, capture(DataLink::ETHERNET, &input), 0);
    assert_eq!(packets(&output), expected);
    assert_eq!(truncated, 0);
    assert_eq!(worker.tally.drops(), [(Reason::PolicyIngress, 1), (Reason::UnknownInterface, 2)]);
}

#[test]
fn the_device_of_a_capture_decides_the_hook() {
    // On TWO's device the packets of ONE are entering, not leaving.
    let request = frames::tcp((ip(ONE), 4000), (ip(TWO), 80), SYN);
    let response = frames::tcp((ip(TWO), 80), (ip(ONE), 4000), SYN | ACK);
    let length = request.len() as u32;
    let input = capture(DataLink::ETHERNET, &[(0, request, length), (1, response, length)]);
    let mut worker = Worker::new(policy());
    replay(&mut worker, input, 12);
    assert_eq!(worker.tally.get(Counter::PassedIngress), 1);
    assert_eq!(worker.tally.get(Counter::PassedEgress), 1);
    assert_eq!(worker.tables.flows.iter().count(), 1);
}

#[test]
fn a_replay_runs_on_the_time_of_the_capture() {
    // The answer comes after the flow's 30 s; ONE takes nothing unasked.
    let mut matrix = Matrix::OPEN;
    matrix.ingress[ONE] = [0; 4];
    let ask = frames::udp((ip(ONE), 4000), (ip(REMOTE), 53));
    let answer = frames::udp((ip(REMOTE), 53), (ip(ONE), 4000));
    let length = ask.len() as u32;
    for (late, passed) in [(29_000_000, 2), (32_000_000, 1)] {
        let input = [(0, ask.clone(), length), (late, answer.clone(), length)];
        let mut worker = Worker::new(matrix);
        let (output, _) = replay(&mut worker, capture(DataLink::ETHERNET, &input), 11);
        assert_eq!(packets(&output).len(), passed);
    }
}

#[test]
fn frames_cut_by_the_capture_are_dropped_and_counted() {
    let whole = frames::tcp((ip(ONE), 4000), (ip(TWO), 80), SYN);
    let input = [(0, whole[..40].to_vec(), whole.len() as u32), (1, whole.clone(), 54)];
    let mut worker = Worker::new(policy());
    let (output, truncated) = replay(&mut worker, capture(DataLink::ETHERNET, &input), 0);
    assert_eq!(truncated, 1);
    assert_eq!(packets(&output), [(1, whole)]);
}

#[test]
fn a_capture_of_anything_but_ethernet_is_refused_in_words() {
    let endpoints = support::two_endpoints();
    let input = Cursor::new(capture(DataLink::LINUX_SLL, &[]));
    let error = PcapIo::new(input, Vec::new(), endpoints.clone(), 0).unwrap_err();
    assert!(matches!(error, PcapIoError::DataLink(_)));
    assert!(error.to_string().contains("host-side device"), "{error}");
    let error = PcapIo::new(Cursor::new(vec![7; 100]), Vec::new(), endpoints, 0).unwrap_err();
    assert!(matches!(error, PcapIoError::Format(_)), "{error}");
}
