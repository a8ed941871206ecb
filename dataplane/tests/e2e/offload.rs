//! Decided flows stay in the kernel: which packets take which way, told by the counters;
//! that a flow serves only the pods for which it was judged; and that its hand-over from
//! the workers to the hooks loses no packet and keeps their order.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use crate::lab::{Cni, Family, Lab, outside};
use crate::node::{growth, node, settled};
use crate::probe::{TCP_PORT, connect, echoes};
use crate::stream::Stream;
use crate::turn;
use crate::weir::Weir;
use crate::wire::{Wire, packet};

/// Datagrams of a flow whose way is counted.
const PACKETS: u32 = 1000;
const PATIENCE: Duration = Duration::from_secs(5);

/// A flow's first packets go to a worker, once: the hook at the other end passes what came
/// back. All others are hits, one a hook.
#[test]
fn hits_take_the_table_and_misses_the_sockets() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let weir = Weir::start(&lab, folder, &["--workers", "1"]);
    let outside = SocketAddr::from((outside(Family::V4), 9100));
    for (what, hooks, mut stream) in [
        ("IPv4 between pods", 2, Stream::open(&lab, "curl", "web", Family::V4, 9100)),
        ("IPv6 between pods", 2, Stream::open(&lab, "curl", "web", Family::V6, 9100)),
        ("IPv4 to the outside", 1, {
            let source = (lab.address("curl", Family::V4), 0).into();
            Stream::between((&lab, "curl", source), ("outside", outside))
        }),
    ] {
        let before = settled(&weir);
        stream.run(PACKETS).unwrap_or_else(|error| panic!("{what}: {error}\n{}", weir.words()));
        let grown = growth(&weir, &before);
        let punted = grown("steering.punted");
        // The first, which no hook could count, and one that shows that it is back.
        assert!((1..=3).contains(&punted), "{what}: {punted} punted\n{}", weir.words());
        assert_eq!(grown("counters.rx_frames"), punted, "{what}\n{}", weir.words());
        assert_eq!(grown("steering.returned"), punted, "{what}\n{}", weir.words());
        let hits = hooks * (u64::from(PACKETS) - punted);
        assert_eq!(grown("steering.hit"), hits, "{what}\n{}", weir.words());
    }
}

/// Without offloading, all packets go through a worker, once.
#[test]
fn without_offloading_every_packet_takes_the_sockets() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let weir = Weir::start(&lab, folder, &["--workers", "1", "--offload", "off"]);
    let mut stream = Stream::open(&lab, "curl", "web", Family::V4, 9100);
    let before = settled(&weir);
    stream.run(PACKETS).unwrap_or_else(|error| panic!("{error}\n{}", weir.words()));
    let grown = growth(&weir, &before);
    for name in ["steering.punted", "counters.rx_frames", "steering.returned"] {
        assert_eq!(grown(name), u64::from(PACKETS), "{name}\n{}", weir.words());
    }
    assert_eq!(grown("steering.hit"), 0, "{}", weir.words());
}

/// Of a TCP connection only the SYN goes to a worker: its verdict stands before it goes
/// on, so the answer is a hit already.
#[test]
fn of_a_connection_only_the_syn_reaches_a_worker() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Ptp);
    let weir = Weir::start(&lab, folder, &["--workers", "1"]);
    for family in Family::BOTH {
        let web = (lab.address("web", family), TCP_PORT).into();
        let before = settled(&weir);
        let mut stream = connect(&lab, "curl", web, PATIENCE).unwrap();
        for _ in 0..100 {
            assert!(echoes(&mut stream, PATIENCE), "{}", weir.words());
        }
        let grown = growth(&weir, &before);
        assert_eq!(grown("steering.punted"), 1, "{family:?}\n{}", weir.words());
        assert_eq!(grown("counters.rx_frames"), 1, "{family:?}\n{}", weir.words());
        // SYN-ACK, a hundred questions and answers; some acknowledgements travel alone.
        let hits = grown("steering.hit");
        assert!(hits >= 2 * 201, "{family:?}: {hits} hits\n{}", weir.words());
    }
}

/// Who forges the 5-tuple of an open flow, in either direction, does not meet it.
#[test]
fn a_forged_5_tuple_does_not_hit() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let weir = Weir::start(&lab, folder, &["--workers", "1"]);
    let mut forger = Wire::of(&lab, "kurl");
    for family in Family::BOTH {
        let mut stream = Stream::open(&lab, "curl", "web", family, 9100);
        stream.run(20).unwrap_or_else(|error| panic!("{error}\n{}", weir.words()));
        let client = stream.sender.local_addr().unwrap();
        let server = stream.receiver.local_addr().unwrap();
        let before = settled(&weir);
        for _ in 0..FORGED {
            forger.send(&datagram(&lab, ("kurl", client), ("web", server)));
            forger.send(&datagram(&lab, ("kurl", server), ("curl", client)));
        }
        forger.flush();
        let grown = growth(&weir, &before);
        assert_eq!(grown("steering.hit"), 0, "{family:?}\n{}", weir.words());
        assert_eq!(grown("drops.spoofed_source"), 2 * FORGED, "{family:?}\n{}", weir.words());
        for socket in [&stream.receiver, &stream.sender] {
            assert!(is_silent(socket), "{family:?}: a forged datagram arrived");
        }
        // The flow that was forged goes on, without another look.
        let before = settled(&weir);
        stream.run(10).unwrap_or_else(|error| panic!("{error}\n{}", weir.words()));
        assert_eq!(growth(&weir, &before)("steering.punted"), 0, "{family:?}\n{}", weir.words());
    }
}

/// A packet of an open flow that is led to another pod, as by a poisoned neighbour table,
/// is a hit where it comes from and none where it arrives.
#[test]
fn a_flow_hits_at_its_own_receiver_only() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let weir = Weir::start(&lab, folder, &["--workers", "1"]);
    let mut curl = Wire::of(&lab, "curl");
    for family in Family::BOTH {
        let mut stream = Stream::open(&lab, "curl", "web", family, 9100);
        stream.run(20).unwrap_or_else(|error| panic!("{error}\n{}", weir.words()));
        let client = stream.sender.local_addr().unwrap();
        let server = stream.receiver.local_addr().unwrap();
        let before = settled(&weir);
        for _ in 0..FORGED {
            curl.send(&datagram(&lab, ("curl", client), ("kurl", server)));
        }
        curl.flush();
        let grown = growth(&weir, &before);
        assert_eq!(grown("steering.hit"), FORGED, "{family:?}\n{}", weir.words());
        assert_eq!(grown("drops.not_endpoint"), FORGED, "{family:?}\n{}", weir.words());
    }
}

const FORGED: u64 = 25;

/// A UDP frame from one pod's hardware address to another's, whatever its IP addresses.
fn datagram(
    lab: &Lab,
    (from, source): (&str, SocketAddr),
    (to, target): (&str, SocketAddr),
) -> Vec<u8> {
    let mut frame = Vec::new();
    packet((lab.mac(from), lab.mac(to)), (source.ip(), target.ip()))
        .udp(source.port(), target.port())
        .write(&mut frame, b"forged")
        .unwrap();
    frame
}

fn is_silent(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    socket.recv(&mut [0; 16]).is_err()
}

/// Bursts without a pause, from the very first packet of each flow: all arrive, and they keep
/// their order while the flow goes from the worker to the hooks.
#[test]
fn a_burst_from_the_first_packet_keeps_its_order() {
    burst_keeps_its_order("af_xdp");
}

#[test]
fn a_burst_through_the_tap_device_keeps_its_order() {
    burst_keeps_its_order("tap");
}

fn burst_keeps_its_order(io: &str) {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let weir = Weir::start(&lab, folder, &["--workers", "1", "--io", io]);
    for family in Family::BOTH {
        let burst = Burst::between(&lab, family);
        let before = settled(&weir);
        let arrived = burst.send();
        let grown = growth(&weir, &before);
        let (punted, hits) = (grown("steering.punted"), grown("steering.hit"));
        let wanted: Vec<u32> = (0..3 * BURST).collect();
        let mut overtaken = 0;
        for (flow, numbers) in arrived.iter().enumerate() {
            overtaken += numbers.windows(2).filter(|pair| pair[0] > pair[1]).count();
            let mut all = numbers.clone();
            all.sort_unstable();
            let count = numbers.len();
            assert!(all == wanted, "{family:?}, {flow}: {count} came\n{}", weir.words());
        }
        eprintln!("{family:?}: {punted} punted, {hits} hits, {overtaken} overtaken");
        assert!(overtaken <= OVERTAKEN, "{family:?}: {overtaken} times\n{}", weir.words());
        // Otherwise this has not tested the hand-over.
        let flows = u64::from(FLOWS);
        assert!(punted > flows && hits > flows, "{punted}, {hits}\n{}", weir.words());
    }
}

const FLOWS: u32 = 200;
const BURST: u32 = 100;
/// Overtakings that may happen among the 60,000 datagrams of a family. The last packets to come
/// back are still on their way from the hook to the pod when the next may pass (FLOW.md,
/// "Order"): none or a few, but all that a worker returned in one go where the kernel keeps
/// them waiting. Without counting it is up to a thousand.
const OVERTAKEN: usize = 60;
/// Datagrams that may be on their way at once: less than a worker's socket holds, so that
/// a worker that the scheduler keeps waiting costs time and no packets.
const WINDOW: u64 = 1000;

/// Flows from `curl` to as many ports of `web`; a datagram is the number of its flow and
/// its own.
struct Burst {
    senders: Vec<UdpSocket>,
    receivers: Vec<UdpSocket>,
}

impl Burst {
    fn between(lab: &Lab, family: Family) -> Self {
        let (from, to) = (lab.address("curl", family), lab.address("web", family));
        let sockets = |place, address: IpAddr| {
            lab.within(place, || {
                let bind = |_| UdpSocket::bind((address, 0)).unwrap();
                (0..FLOWS).map(bind).collect::<Vec<_>>()
            })
        };
        let (senders, receivers) = (sockets("curl", from), sockets("web", to));
        for (sender, receiver) in senders.iter().zip(&receivers) {
            sender.connect(receiver.local_addr().unwrap()).unwrap();
            sockopt::set_socket_recv_buffer_size_force(receiver, 1 << 20).unwrap();
            receiver.set_nonblocking(true).unwrap();
        }
        Self { senders, receivers }
    }

    /// The numbers that arrived of each flow, in their order.
    fn send(&self) -> Vec<Vec<u32>> {
        let (received, done) = (AtomicU64::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            let receiving = scope.spawn(|| self.receive(&received, &done));
            let mut sent = 0;
            let mut burst = |flow: u32, numbers: Range<u32>, window: u64| {
                let start = Instant::now();
                while sent - received.load(Ordering::Relaxed) > window && start.elapsed() < PATIENCE
                {
                    thread::sleep(Duration::from_micros(50));
                }
                sent += numbers.len() as u64;
                for number in numbers {
                    let message = u64::from(flow) << 32 | u64::from(number);
                    self.senders[flow as usize].send(&message.to_be_bytes()).unwrap();
                }
            };
            (0..FLOWS).for_each(|flow| burst(flow, 0..BURST, WINDOW));
            // All flows in turn, and again after a pause in which everything arrives.
            for numbers in [BURST..2 * BURST, 2 * BURST..3 * BURST] {
                burst(0, numbers.start..numbers.start, 0);
                for number in numbers {
                    (0..FLOWS).for_each(|flow| burst(flow, number..number + 1, WINDOW));
                }
            }
            done.store(true, Ordering::Relaxed);
            receiving.join().unwrap()
        })
    }

    /// Receives until everything has come, or nothing more for a second after the last was
    /// sent.
    fn receive(&self, received: &AtomicU64, done: &AtomicBool) -> Vec<Vec<u32>> {
        let mut arrived = vec![Vec::new(); self.receivers.len()];
        let mut last = Instant::now();
        let mut message = [0; 8];
        while last.elapsed() < Duration::from_secs(1) || !done.load(Ordering::Relaxed) {
            for (flow, receiver) in self.receivers.iter().enumerate() {
                while receiver.recv(&mut message).is_ok() {
                    let message = u64::from_be_bytes(message);
                    assert_eq!(message >> 32, flow as u64, "a datagram of another flow");
                    arrived[flow].push(message as u32);
                    last = Instant::now();
                }
            }
            let all = arrived.iter().map(|numbers| numbers.len() as u64).sum();
            received.store(all, Ordering::Relaxed);
            if all >= u64::from(FLOWS * 3 * BURST) {
                break;
            }
            thread::sleep(Duration::from_micros(200));
        }
        arrived
    }
}
