//! Changes of policy under traffic: how soon they act on open flows, and that
//! they lose nothing of what stays allowed.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::clock::{StopOnDrop, now_ns, until};
use crate::lab::{Cni, Family, Lab};
use crate::node::{allow_testcurl_alone, example, node};
use crate::numbered::Numbered;
use crate::probe::connect;
use crate::turn;
use crate::weir::Weir;

/// From the rename of the file to the last message that passes: half of all times, and all.
const BOUND: Duration = Duration::from_millis(50);
const MOST: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);
const ROUNDS: usize = 10;
const RELOADS: usize = 100;

/// A flow that was opened before the change and is never still: each message is
/// the time at which it was sent.
#[derive(Default)]
struct Flow {
    stop: AtomicBool,
    /// When the newest message received was sent.
    arrived: AtomicU64,
}

impl Flow {
    fn send(&self, mut out: impl FnMut(&[u8])) {
        while !self.stop.load(Ordering::Relaxed) {
            out(&now_ns().to_be_bytes());
            thread::sleep(Duration::from_micros(500));
        }
    }

    /// Takes messages off a socket or a stream, which may hand them out in pieces.
    fn receive(&self, mut take: impl FnMut(&mut [u8]) -> std::io::Result<usize>) {
        let (mut message, mut filled) = ([0; 8], 0);
        while !self.stop.load(Ordering::Relaxed) {
            filled += take(&mut message[filled..]).unwrap_or(0);
            if filled == message.len() {
                self.arrived.fetch_max(u64::from_be_bytes(message), Ordering::Relaxed);
                filled = 0;
            }
        }
    }

    /// Waits for the flow to stop after a change at `changed_ns`: how much later
    /// the last message that passed was sent.
    fn cut_after(&self, changed_ns: u64) -> Duration {
        const SILENCE_NS: u64 = 200_000_000;
        let last = || self.arrived.load(Ordering::Relaxed);
        let silent =
            until(PATIENCE, || now_ns().saturating_sub(last().max(changed_ns)) > SILENCE_NS);
        assert!(silent, "the flow still passes");
        Duration::from_nanos(last().saturating_sub(changed_ns))
    }

    /// Waits for a message sent after a change at `changed_ns`: how much later it
    /// was sent.
    fn open_after(&self, changed_ns: u64) -> Duration {
        let mut last = 0;
        let passes = until(PATIENCE, || {
            last = self.arrived.load(Ordering::Relaxed);
            last > changed_ns
        });
        assert!(passes, "the flow does not pass again");
        Duration::from_nanos(last - changed_ns)
    }
}

#[test]
fn a_change_acts_on_open_flows_within_50_ms() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let weir = Weir::start(&lab, folder, &["--workers", "1"]);
    let (udp, tcp) = (Flow::default(), Flow::default());
    let (sender, receiver) = open_udp(&lab);
    let web = (lab.address("web", Family::V6), crate::probe::TCP_PORT).into();
    let stream = connect(&lab, "curl", web, Duration::from_secs(3)).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    // Once cut, TCP keeps what was written until its buffer is full.
    stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| udp.send(|message| drop(sender.send(message))));
        scope.spawn(|| udp.receive(|buffer| receiver.recv(buffer)));
        scope.spawn(|| tcp.send(|message| drop((&stream).write(message))));
        scope.spawn(|| tcp.receive(|buffer| (&stream).read(buffer)));
        // Ends the threads above when an assertion fails, too.
        let _stop = [&udp, &tcp].map(|flow| StopOnDrop(&flow.stop));

        let deny = example("deny-all-for-testweb");
        let mut cuts = Vec::new();
        let mut opens = Vec::new();
        for _ in 0..ROUNDS {
            thread::sleep(Duration::from_millis(100));
            let changed = now_ns();
            weir.place("deny.yaml", &deny);
            cuts.push(udp.cut_after(changed));
            cuts.push(tcp.cut_after(changed));
            let changed = now_ns();
            weir.remove("deny.yaml");
            opens.push(udp.open_after(changed));
            tcp.open_after(changed); // as soon as TCP repeats itself
        }
        // The median: on a crowded machine the scheduler may keep any of the four processes of
        // a change waiting for longer than the bound.
        for (what, times) in
            [("a denied flow passes for", cuts), ("an allowed flow passes after", opens)]
        {
            let (median, most) = median_and_most(times);
            eprintln!(
                "{what} median {median:.1?}, at most {most:.1?} after the change of the file"
            );
            assert!(median <= BOUND, "{what} {median:?}\n{}", weir.words());
            assert!(most <= MOST, "{what} {most:?}\n{}", weir.words());
        }
    });
}

fn open_udp(lab: &Lab) -> (UdpSocket, UdpSocket) {
    let to = (lab.address("web", Family::V4), 9001);
    let receiver = lab.within("web", || UdpSocket::bind(("::", 9001)).unwrap());
    receiver.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let sender = lab.within("curl", || UdpSocket::bind(("0.0.0.0", 0)).unwrap());
    sender.connect(to).unwrap();
    (sender, receiver)
}

fn median_and_most(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() - 1])
}

/// Two streams with sequence numbers, one a family, run from `curl` to `web`
/// while a policy that concerns `web` keeps changing beside those that allow them.
#[test]
fn a_hundred_reloads_lose_nothing_that_stays_allowed() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let mut weir = Weir::start(&lab, folder, &["--workers", "1"]);
    allow_testcurl_alone(&mut weir);
    let before = weir.generation();

    let streams = Family::BOTH.map(|family| Numbered::start(&lab, &weir, family));
    let start = Instant::now();
    thread::sleep(Duration::from_millis(300));
    for reload in 0..RELOADS {
        let label = if reload % 2 == 0 { "run: other" } else { "run: testkurl" };
        let toggled = example("allow-testcurl-for-testweb")
            .replace("name: allow-testcurl-for-testweb", "name: toggled")
            .replace("run: testcurl", label);
        weir.apply("toggled.yaml", &toggled);
    }
    let took = start.elapsed();
    let generations = weir.generation() - before;
    assert!(generations >= RELOADS as u64, "only {generations} generations came of it");

    eprintln!("{RELOADS} reloads in {took:.1?}");
    for stream in streams {
        stream.end(&weir, RELOADS);
    }
}
