//! What becomes of frames is counted exactly: a wire of the test's own loses, repeats and delays
//! some, and notes what it did.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use weir_bench::place::Place;
use weir_bench::rings::af_packet::AfPacket;
use weir_bench::rings::{Match, Rings, Role};

use crate::net::{Family, Net, turn};

/// Bytes of the frames that count, without FCS; those that establish flows are shorter, and
/// pass as they come.
const LENGTH: usize = 252;
/// Frames of a run. The last ones are left alone, so that none is still held back at the end.
const FRAMES: u64 = 3000;
const LEFT_ALONE: u64 = 20;

/// What is done to every so many frames, counted from 1; 0: to none.
#[derive(Clone, Copy, Debug, Default)]
struct Disorder {
    /// Goes nowhere.
    lose: u64,
    /// Goes twice, one behind the other.
    repeat: u64,
    /// Goes behind so many of the later ones.
    late: (u64, u64),
    /// Goes now and once more behind three later ones.
    echo: u64,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Done {
    lost: u64,
    repeated: u64,
    /// Frames that came behind at least one of a higher number.
    late: u64,
    passed: u64,
}

/// A wire from one device to another: which frames leave it when one comes.
#[derive(Debug)]
struct Wire {
    disorder: Disorder,
    seen: u64,
    /// Frames held back, and for how many more.
    held: Vec<(u64, Vec<u8>)>,
    done: Done,
}

impl Wire {
    fn new(disorder: Disorder) -> Self {
        Self { disorder, seen: 0, held: Vec::new(), done: Done::default() }
    }

    fn pass(&mut self, frame: &[u8], out: &mut Vec<Vec<u8>>) {
        if frame.len() != LENGTH {
            out.push(frame.to_vec());
            return;
        }
        self.seen += 1;
        let every = |n: u64| self.seen.is_multiple_of(n) && self.seen <= FRAMES - LEFT_ALONE;
        let Disorder { lose, repeat, late, echo } = self.disorder;
        let mut goes = true;
        if every(lose) {
            self.done.lost += 1;
            goes = false;
        } else if every(repeat) {
            self.done.repeated += 1;
            out.push(frame.to_vec());
        } else if every(late.0) {
            self.done.late += 1;
            self.held.push((late.1, frame.to_vec()));
            goes = false;
        } else if every(echo) {
            self.done.repeated += 1;
            self.held.push((3, frame.to_vec()));
            out.push(frame.to_vec());
            self.done.passed += 1;
            return;
        }
        if goes {
            self.done.passed += 1;
            out.push(frame.to_vec());
            // One that has gone counts for those that wait behind it.
            self.held.retain_mut(|(left, held)| {
                *left -= 1;
                if *left == 0 {
                    out.push(held.clone());
                }
                *left > 0
            });
        }
    }
}

/// Both directions, in a namespace, until told to stop.
fn forward(place: &Place, disorder: Disorder, stop: &AtomicBool, ready: &AtomicBool) -> Wire {
    place.enter().unwrap();
    let all =
        Match { protocol: 0, sport: "1-65535".parse().unwrap(), dport: "1-65535".parse().unwrap() };
    let mut client = AfPacket::open("client", Role::Sink, all).unwrap();
    let mut server = AfPacket::open("server", Role::Sink, all).unwrap();
    ready.store(true, Ordering::Release);
    let mut there = Wire::new(disorder);
    let mut frames = Vec::new();
    while !stop.load(Ordering::Acquire) {
        let n = client.receive(&mut |frame, _| there.pass(frame, &mut frames)).unwrap();
        send(&mut server, &mut frames);
        let back = server.receive(&mut |frame, _| frames.push(frame.to_vec())).unwrap();
        send(&mut client, &mut frames);
        if n + back == 0 {
            thread::sleep(Duration::from_micros(100));
        }
    }
    assert_eq!((client.dropped().unwrap(), server.dropped().unwrap()), (0, 0), "none of its own");
    there
}

fn send(rings: &mut AfPacket, frames: &mut Vec<Vec<u8>>) {
    for batch in frames.chunks(weir_bench::rings::BATCH) {
        let write = &mut |place: usize, out: &mut [u8]| {
            out[..batch[place].len()].copy_from_slice(&batch[place]);
            batch[place].len()
        };
        rings.send(batch.len(), write).unwrap();
    }
    frames.clear();
}

/// Runs the generator over such a wire: what it found and what the wire did.
fn over(net: &Net, family: Family, disorder: Disorder, options: &str) -> (Value, Wire) {
    let place = Place::open(Some(&net.path("router"))).unwrap();
    let (stop, ready) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let wire = scope.spawn(|| {
            let outcome = std::panic::catch_unwind(|| forward(&place, disorder, &stop, &ready));
            ready.store(true, Ordering::Release);
            outcome.unwrap()
        });
        while !ready.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(1));
        }
        let options = format!("--size {} --count {FRAMES} {options}", LENGTH + 4);
        let child = net.start(family, &options);
        let out = child.wait_with_output().unwrap();
        stop.store(true, Ordering::Release);
        let wire = wire.join().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        (serde_json::from_slice(&out.stdout).unwrap(), wire)
    })
}

fn assert_counted(found: &Value, wire: &Wire) {
    assert_eq!((wire.seen, wire.held.len()), (FRAMES, 0), "{:?}", wire.done);
    let Done { lost, repeated, late, passed } = wire.done;
    assert_eq!(passed + lost + late, FRAMES);
    for (name, wanted) in [
        ("sent", FRAMES),
        ("received", FRAMES - lost + repeated),
        ("lost", lost),
        ("duplicated", repeated),
        ("reordered", late),
        ("sink_dropped", 0),
        ("foreign", 0),
    ] {
        assert_eq!(found[name], wanted, "{name}: {found} of {:?}", wire.done);
    }
}

#[test]
fn what_a_wire_does_to_frames_is_counted_to_the_frame() {
    let Some(_turn) = turn() else { return };
    let net = Net::unwired();
    let none = Disorder::default();
    for (io, family, options, disorder, at_least) in [
        ("af_xdp", Family::V4, "--flows 5", none, Done::default()),
        (
            "af_xdp",
            Family::V4,
            "--flows 5",
            Disorder { late: (7, 1), ..none },
            Done { late: 400, ..Done::default() },
        ),
        (
            "af_packet",
            Family::V6,
            "--flows 1",
            Disorder { repeat: 10, ..none },
            Done { repeated: 250, ..Done::default() },
        ),
        (
            "af_packet",
            Family::V4,
            "--protocol tcp --flows 3",
            Disorder { late: (13, 8), echo: 17, ..none },
            Done { late: 200, repeated: 150, ..Done::default() },
        ),
        (
            "af_xdp",
            Family::V6,
            "--protocol sctp --flows 3",
            Disorder { lose: 5, repeat: 7, late: (11, 4), echo: 13 },
            Done { lost: 500, repeated: 400, late: 100, passed: 0 },
        ),
    ] {
        let options = format!("--io {io} --rate 6000 {options}");
        let (found, wire) = over(&net, family, disorder, &options);
        let Done { lost, repeated, late, .. } = wire.done;
        assert!(
            lost >= at_least.lost && repeated >= at_least.repeated && late >= at_least.late,
            "{disorder:?} does too little: {:?}",
            wire.done
        );
        assert_counted(&found, &wire);
    }
}
