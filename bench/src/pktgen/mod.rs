//! A generator of frames, and the sink that judges what arrives of them.
//!
//! ```text
//!  client's pod                                             server's pod
//!   generator ── rings ── device ══ what is measured ══ device ── rings ── sink
//!      │ 12-byte label in each frame: run, number, intended time             │
//!      └──────────────── one process, one clock, two threads ────────────────┘
//! ```
//!
//! A run: both ends are opened in their namespaces ([`crate::rings`]), flows are established
//! ([`establish`]), frames are sent without being counted (`--warm-up`), then counted
//! ([`generate`], [`sink`]), and the last ones are waited for. Neither kernel's sockets take
//! part, so what is measured is the way between the two devices and nothing else.
//!
//! | Module | Job |
//! |---|---|
//! | [`arguments`], [`plan`] | the command line, and what is asked by it |
//! | [`size`], [`addresses`], [`flows`], [`schedule`] | how large, between whom, when |
//! | [`label`] | what a frame carries to be counted |
//! | [`frame`], [`checksum`], [`replay`] | frames made, or taken from a capture |
//! | [`view`] | frames read; total over any bytes |
//! | [`answer`], [`establish`] | handshakes |
//! | [`generate`], [`sink`], [`shared`] | the two threads |
//! | [`idle`] | waiting told apart from work |
//! | [`report`] | the result |

pub mod addresses;
pub mod answer;
pub mod arguments;
pub mod checksum;
pub mod establish;
pub mod flows;
pub mod frame;
pub mod generate;
pub mod idle;
pub mod label;
pub mod plan;
pub mod replay;
pub mod report;
pub mod schedule;
pub mod shared;
pub mod sink;
pub mod size;
pub mod view;

use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::cpu::{Meter, Usage};
use crate::place::{self, Place};
use crate::rings::{self, Backend, Match, Role, next_hop};
use establish::Client;
use flows::Ports;
use generate::{Frames, Manner, Sent};
use label::Step;
use plan::{Pace, Stop};
use shared::{Phase, Shared};
use sink::Findings;
use view::Ends;

pub use arguments::{Arguments, Output};
pub use plan::Plan;
pub use report::{Cpu, Report};

/// Runs the plan.
///
/// # Errors
/// When devices, namespaces or processes cannot be had, flows cannot be established, or a device
/// goes away.
pub fn run(plan: &Plan) -> Result<Report> {
    let client = Place::open(plan.client.as_deref())?;
    let server = Place::open(plan.server.as_deref())?;
    let meter = Meter::new(&plan.charge)?;
    // Its low bits differ from those of the run before.
    let run = u16::try_from(crate::monotonic_ns() >> 10 & 0xffff).unwrap_or(0);
    let shared = Shared::default();
    let (ready, opened) = mpsc::channel();
    let (generated, found) = thread::scope(|scope| {
        let (shared, client, server, meter) = (&shared, &client, &server, &meter);
        let sink = scope.spawn(move || receive(plan, server, run, shared, ready));
        let generator = scope.spawn(move || {
            let _guard = shared.guard();
            // The sink's own error, if there is none to be received.
            let backend = opened.recv().map_err(|_| anyhow!("the sink could not be opened"))?;
            let generated = send(plan, client, run, backend, meter, shared)?;
            shared.enter(Phase::Drain);
            while shared.phase() != Phase::Over {
                thread::sleep(Duration::from_millis(1));
            }
            Ok::<_, anyhow::Error>(generated)
        });
        if plan.progress {
            progress(shared);
        }
        let found = sink.join().map_err(|_| anyhow!("the sink's thread panicked"));
        let generated = generator.join().map_err(|_| anyhow!("the generator's thread panicked"));
        // If both failed, the sink's error is the cause.
        match found? {
            Ok(found) => Ok((generated??, found)),
            Err(why) => Err(why),
        }
    })?;
    Ok(report(plan, &generated, &found))
}

/// What the generator's thread gives.
struct Generated {
    sent: Sent,
    usage: Usage,
    backend: Backend,
    skipped: u64,
    mean_size: f64,
}

/// The generator's thread.
fn send(
    plan: &Plan,
    place: &Place,
    run: u16,
    backend: Backend,
    meter: &Meter,
    shared: &Shared,
) -> Result<Generated> {
    place.enter()?;
    place::pin(plan.pin.0)?;
    let device = plan.device.as_str();
    let (from_mac, to_mac) =
        next_hop::addresses(device, plan.from, plan.to.first(), plan.next_hop)?;
    let ends = Ends { from_mac, to_mac, from: plan.from.first(), to: plan.to.first() };
    let mut rings = rings::open(device, Role::Generator, ours(plan).reversed(), Some(backend))?;
    let mut client = Client {
        rings: rings.as_mut(),
        ends,
        protocol: plan.protocol,
        flows: plan.flow_space(),
        run,
    };
    let sizes = plan.sizes.at_least(plan.least_frame());
    let (frames, skipped, mean_size) = match &plan.pcap {
        Some(path) => {
            let replay = replay::read(path, ends)?;
            #[expect(clippy::cast_precision_loss, reason = "a mean")]
            let mean = replay.frames.iter().map(|frame| frame.len() + size::FCS).sum::<usize>()
                as f64
                / replay.frames.len() as f64;
            (Frames::Captured(replay.frames), replay.skipped, mean)
        }
        None => {
            client.establish()?;
            (Frames::made(&client, &sizes), 0, sizes.mean())
        }
    };
    let manner = Manner {
        step: Step::Count,
        pace: plan.pace,
        new_flows: plan.new_flows,
        stop: plan.stop,
        begun: 0,
    };
    let mut begun = 0;
    if !plan.warm_up.is_zero() {
        let stop = Stop { count: None, duration: Some(plan.warm_up) };
        let warm = Manner { step: Step::Warm, stop, ..manner };
        begun = generate::run(&mut client, &frames, warm, shared)?.new_flows;
    }
    shared.enter(Phase::Count);
    let before = meter.read()?;
    let sent = generate::run(&mut client, &frames, Manner { begun, ..manner }, shared)?;
    let usage = meter.read()?.since(before);
    if plan.pcap.is_none() {
        client.close()?;
    }
    Ok(Generated { sent, usage, backend, skipped, mean_size })
}

/// The sink's thread.
fn receive(
    plan: &Plan,
    place: &Place,
    run: u16,
    shared: &Shared,
    ready: mpsc::Sender<Backend>,
) -> Result<Findings> {
    let _guard = shared.guard();
    place.enter()?;
    place::pin(plan.pin.1)?;
    let mut rings = rings::open(&plan.peer_device, Role::Sink, ours(plan), plan.io)?;
    // If nobody listens, the generator has failed and the run is over.
    let _ = ready.send(rings.backend());
    drop(ready);
    let handshakes = plan.new_flows > 0.0 && plan.protocol != plan::Protocol::Udp;
    let manner = sink::Manner { run, answers: plan.pcap.is_none(), awake: handshakes };
    sink::run(rings.as_mut(), manner, shared)
}

/// The frames of the run, as the server sees them.
fn ours(plan: &Plan) -> Match {
    if plan.pcap.is_some() {
        Match { protocol: 0, sport: Ports::ALL, dport: Ports::ALL }
    } else {
        Match { protocol: plan.protocol.number(), sport: plan.sport, dport: plan.dport }
    }
}

/// Says every second how far it is, until it is over.
fn progress(shared: &Shared) {
    let (mut last, mut tick) = ((0, 0), 0_u32);
    while shared.phase() < Phase::Drain {
        thread::sleep(Duration::from_millis(100));
        tick += 1;
        if tick % 10 != 0 {
            continue;
        }
        match shared.phase() {
            Phase::Open => eprintln!("establishing flows"),
            Phase::Count => {
                let sent = shared.sent.load(Ordering::Relaxed);
                let received = shared.received.load(Ordering::Relaxed);
                eprintln!(
                    "sent {sent} (+{}) received {received} (+{}) missing {}",
                    sent - last.0,
                    received - last.1,
                    sent.saturating_sub(received)
                );
                last = (sent, received);
            }
            Phase::Drain | Phase::Over => {}
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds far below 2^53")]
fn report(plan: &Plan, generated: &Generated, found: &Findings) -> Report {
    let Generated { sent, usage, .. } = generated;
    let received = found.sequence.received();
    let duration_s = sent.duration_ns as f64 / 1e9;
    let sent_pps = sent.frames as f64 / duration_s;
    let tx_ns = usage.own_ns.saturating_sub(sent.idle_ns);
    let spent = tx_ns + usage.ksoftirqd_ns + usage.charged_ns;
    Report {
        offered_pps: match plan.pace {
            Pace::PerSecond(rate) => rate,
            Pace::Max => sent_pps,
        },
        sent: sent.frames,
        received,
        lost: found.sequence.lost(sent.frames),
        duplicated: found.sequence.duplicated(),
        reordered: found.sequence.reordered(),
        sink_dropped: found.dropped,
        foreign: found.foreign,
        duration_s,
        sent_pps,
        received_pps: received as f64 / duration_s,
        bits_per_s: found.bytes as f64 * 8.0 / duration_s,
        latency_ns: found.latency,
        send_lag_max_ns: sent.lag_max_ns,
        cpu: Cpu {
            ns_per_packet: if received > 0 { spent as f64 / received as f64 } else { 0.0 },
            tx_ns,
            rx_ns: found.cpu_ns,
            softirq_ns: usage.ksoftirqd_ns,
            charged_ns: usage.charged_ns,
        },
        io: generated.backend,
        frame_bytes: generated.mean_size,
        sources: plan.from.count(),
        destinations: plan.to.count(),
        flows: if plan.pcap.is_some() { 0 } else { u64::from(plan.flows) },
        new_flows: sent.new_flows,
        handshakes: sent.handshakes,
        handshake_ns: sent.handshake,
        skipped: generated.skipped,
        command: std::env::args().collect::<Vec<_>>().join(" "),
    }
}
