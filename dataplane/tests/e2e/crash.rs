//! Both daemons are killed under traffic and started again: whatever was decided goes on
//! without losing a packet, all the way; what is new is refused, or passes where the
//! administrator prefers that; afterwards everything is decided as before.

use std::io::Read;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::clock::StopOnDrop;
use crate::lab::{Cni, Family, Lab};
use crate::node::{allow_testcurl_alone, count, growth, node, settled};
use crate::probe::By::{Tcp, Udp};
use crate::probe::{Probe, Resent, denied, differences, reaches, serve};
use crate::ready::{self, Has};
use crate::turn;
use crate::weir::Weir;

/// With the policies of deploy/examples for `testweb`.
const ENFORCED: &[Probe] = &[
    reaches("curl", "web", Tcp),
    reaches("curl", "kurl", Tcp),
    reaches("outside", "kurl", Tcp),
    reaches("node", "web", Tcp),
    denied("kurl", "web", Tcp),
    denied("outside", "web", Tcp),
];

/// Nobody is there to decide.
const CLOSED: &[Probe] = &[
    denied("curl", "web", Tcp),
    denied("curl", "kurl", Tcp),
    denied("curl", "kurl", Udp),
    denied("outside", "kurl", Tcp),
    reaches("node", "web", Tcp),
    reaches("node", "kurl", Udp),
];

/// The same with `--on-failure open`. What was denied before may still be: that is known.
const OPEN: &[Probe] = &[
    reaches("curl", "web", Udp),
    reaches("curl", "kurl", Tcp),
    reaches("outside", "kurl", Udp),
    reaches("kurl", "web", Udp),
    reaches("node", "web", Tcp),
    reaches("node", "kurl", Tcp),
];

#[test]
fn open_flows_outlive_both_daemons_which_fail_closed() {
    survive("closed", "af_xdp", CLOSED, "steering.drop_no_worker");
}

#[test]
fn open_flows_outlive_both_daemons_which_fail_open() {
    survive("open", "tap", OPEN, "steering.pass_no_worker");
}

fn survive(on_failure: &str, io: &str, while_dead: &[Probe], counted: &str) {
    let Some(_turn) = turn() else { return };
    let options = ["--workers", "1", "--on-failure", on_failure, "--io", io];
    let (lab, folder) = node(Cni::Bridge);
    serve(&lab, "kurl");
    let mut weir = Weir::start(&lab, folder, &options);
    allow_testcurl_alone(&mut weir);
    let expect = |weir: &Weir<'_>, state: &str, probes: &[Probe]| {
        let found = differences(&lab, probes);
        assert!(found.is_empty(), "{state}: {found:#?}\n{}", weir.words());
    };
    expect(&weir, "before", ENFORCED);

    let fleet = Fleet::between(&lab, "curl", "web");
    for round in 0..3 {
        assert_eq!(fleet.round(round), 0, "lost while opening\n{}", weir.words());
    }
    let resent = ["curl", "web"].map(|place| Resent::by(&lab, place));
    let bulk = Bulk::start(&lab, "curl", "web");
    let traffic = Traffic { rounds: AtomicU32::new(3), ..Traffic::default() };
    thread::scope(|scope| {
        scope.spawn(|| traffic.run(&fleet));
        let _stop = StopOnDrop(&traffic.stop);
        traffic.go_on(3);
        let before = settled(&weir);

        weir.kill();
        let killed = weir.status();
        traffic.go_on(3);
        expect(&weir, "nobody runs", while_dead);
        assert!(count(&weir.status(), counted) > count(&killed, counted), "{}", weir.words());
        traffic.go_on(3);

        weir.start_dataplane(&options);
        expect(&weir, "the dataplane runs again", ENFORCED);
        traffic.go_on(3);
        weir.start_control();
        expect(&weir, "control runs again", ENFORCED);
        traffic.go_on(3);

        let lost = traffic.lost.load(Ordering::Relaxed);
        assert_eq!(lost, 0, "datagrams of open flows\n{}", weir.words());
        // The probes' first packets, and no flow that was open.
        let punted = growth(&weir, &before)("steering.punted");
        eprintln!("{on_failure}: {punted} punted beside {FLOWS} open flows");
        assert!(punted < 200, "{punted} punted\n{}", weir.words());
    });
    let rounds = traffic.rounds.load(Ordering::Relaxed);
    let sent = bulk.end();
    eprintln!("{on_failure}: {rounds} rounds of {FLOWS} datagrams; iperf3: {sent}");
    // All the while at half its rate at least: what is cut does not catch up.
    let bits_a_second = sent["bits_per_second"].as_f64().unwrap();
    assert!(bits_a_second > 50e6, "iperf3: {sent}\n{}", weir.words());
    for (place, before) in [("curl", resent[0]), ("web", resent[1])] {
        let lost = before.lost_since(&lab, place);
        assert_eq!(lost, 0, "TCP segments of {place}; iperf3: {sent}\n{}", weir.words());
    }
}

/// 10,000 flows, half of them of either family: each sender's to each receiver.
struct Fleet {
    senders: Vec<Vec<UdpSocket>>,
    receivers: Vec<Vec<UdpSocket>>,
}

const SENDERS: u32 = 50;
const RECEIVERS: u32 = 100;
const FLOWS: u32 = 2 * SENDERS * RECEIVERS;
const PATIENCE: Duration = Duration::from_secs(2);

impl Fleet {
    fn between(lab: &Lab, from: &str, to: &str) -> Self {
        let sockets = |place, count| {
            let of_family = |family| {
                let address = SocketAddr::from((lab.address(place, family), 0));
                lab.within(place, || {
                    (0..count).map(|_| UdpSocket::bind(address).unwrap()).collect()
                })
            };
            Family::BOTH.map(of_family).into()
        };
        let (senders, receivers): (_, Vec<Vec<UdpSocket>>) =
            (sockets(from, SENDERS), sockets(to, RECEIVERS));
        for receiver in receivers.iter().flatten() {
            receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        Self { senders, receivers }
    }

    /// Sends one datagram on every flow; how many did not arrive, or not in this round.
    fn round(&self, number: u32) -> u32 {
        let mut message = [0; 4];
        let mut lost = 0;
        for (senders, receivers) in self.senders.iter().zip(&self.receivers) {
            for receiver in receivers {
                let to = receiver.local_addr().unwrap();
                for sender in senders {
                    sender.send_to(&number.to_be_bytes(), to).unwrap();
                }
                let mut missing = SENDERS;
                while missing > 0 && receiver.recv(&mut message).is_ok() {
                    missing -= u32::from(u32::from_be_bytes(message) == number);
                }
                lost += missing;
            }
        }
        lost
    }
}

/// Rounds without end, on a thread of their own.
#[derive(Default)]
struct Traffic {
    stop: AtomicBool,
    rounds: AtomicU32,
    lost: AtomicU32,
}

impl Traffic {
    fn run(&self, fleet: &Fleet) {
        while !self.stop.load(Ordering::Relaxed) {
            let round = self.rounds.load(Ordering::Relaxed);
            self.lost.fetch_add(fleet.round(round), Ordering::Relaxed);
            self.rounds.store(round + 1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until so many more whole rounds are over.
    fn go_on(&self, rounds: u32) {
        let target = self.rounds.load(Ordering::Relaxed) + rounds + 1;
        let start = Instant::now();
        while self.rounds.load(Ordering::Relaxed) < target {
            let lost = self.lost.load(Ordering::Relaxed);
            assert!(lost == 0, "{lost} datagrams of open flows are lost");
            assert!(start.elapsed() < Duration::from_secs(60), "the rounds take for ever");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// iperf3 over TCP, well below what the machine can do: what is sent again was lost.
struct Bulk {
    server: Child,
    client: Child,
}

impl Bulk {
    fn start(lab: &Lab, from: &str, to: &str) -> Self {
        let run = |place, arguments: &[&str]| {
            let mut command = lab.enter(place, "iperf3");
            command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        };
        let mut server = run(to, &["--server", "--one-off"]);
        ready::wait_until(&mut server, Has::TcpPort(5201));
        let address = lab.address(to, Family::V4).to_string();
        // Longer than anything here takes: it is told to end.
        let arguments = ["--client", &address, "--time", "600", "--bitrate", "100M", "--json"];
        Self { client: run(from, &arguments), server }
    }

    /// Ends it and gives what the client says about the whole.
    fn end(mut self) -> Value {
        let pid = Pid::from_child(&self.client);
        kill_process(pid, Signal::INT).unwrap();
        let mut out = String::new();
        self.client.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        let report: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"));
        report["end"]["sum_sent"].clone()
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        for child in [&mut self.client, &mut self.server] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
