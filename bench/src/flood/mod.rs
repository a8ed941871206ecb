//! What a packet costs: processor time for each 64-byte packet of established flows.
//!
//! A thread in the client's pod sends UDP packets as fast as it can to sockets in the
//! server's pod that nobody reads. Their queues are as small as the kernel allows, so
//! that a packet that has come all the way is thrown away at the very end. A reader
//! would be woken for every burst; its time is the same under every policy engine,
//! depends on the scheduler, and would only blur what is to be compared. What is left
//! is the path itself, all of it on the sender's thread (see [`crate::cpu`]).
//!
//! Cost = processor time / packets that the server's device has received. It is taken
//! in several short slices; the caller takes their median.

pub mod frames;
pub mod sender;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::net::sockopt;
use serde::Serialize;

use crate::cpu::{Meter, Usage};
use crate::place::{self, Place};
use crate::stats;
use frames::{Flows, PAYLOAD};
use sender::{Connected, Raw, Sender};

/// First port of the server.
const PORT: u16 = 9000;
/// Port of the client's only flow.
const CLIENT_PORT: u16 = 19_999;

/// Answered packets before a flow counts as established: a policy engine may need a
/// few until no packet of the flow is under way through user space.
const HANDSHAKES: u32 = 16;
/// Attempts at one such exchange, and how long each waits.
const ATTEMPTS: u32 = 10;
const PATIENCE: Duration = Duration::from_millis(200);
/// Time for a verdict to be in force everywhere.
const PAUSE: Duration = Duration::from_millis(2);

/// What to send.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Network namespace of the client's pod; `None` is this process's own.
    pub client: Option<PathBuf>,
    /// Network namespace of the server's pod.
    pub server: Option<PathBuf>,
    /// The server's device, which counts what has arrived.
    pub device: String,
    /// The client's address.
    pub from: Ipv4Addr,
    /// The server's address.
    pub to: Ipv4Addr,
    /// Flows, used in turn: 1 through a UDP socket, more through a raw socket.
    pub flows: u32,
    /// Packets of one slice.
    pub packets: u32,
    /// Slices.
    pub slices: u32,
    /// The processor on which to send.
    pub cpu: usize,
    /// Processes whose time counts, e.g. a policy engine.
    pub charge: Vec<u32>,
    /// The largest part of the packets, 0 to 1, that may be lost: the cost of a packet
    /// that was lost half way is not that of a packet.
    pub loss: f64,
}

/// What it cost.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Flows.
    pub flows: u32,
    /// Median of the slices: nanoseconds of processor time for a packet.
    pub ns_per_packet: f64,
    /// Packets sent once all flows were established, those before the first slice
    /// included.
    pub sent: u64,
    /// One by one.
    pub slices: Vec<Slice>,
}

/// One slice.
#[derive(Clone, Debug, Serialize)]
pub struct Slice {
    /// Nanoseconds of processor time for a packet.
    pub ns_per_packet: f64,
    /// Packets that the server's device has received.
    pub delivered: u64,
    /// Processor time.
    #[serde(flatten)]
    pub usage: Usage,
    /// Nanoseconds by the clock.
    pub wall_ns: u64,
}

/// Establishes the flows, then measures.
///
/// # Errors
/// When the namespaces, sockets or processes cannot be had, or packets are lost.
pub fn run(plan: &Plan) -> Result<Report> {
    ensure!(plan.packets > 0 && plan.slices > 0, "nothing to send");
    let client = Place::open(plan.client.as_deref())?;
    let server = Place::open(plan.server.as_deref())?;
    place::pin(plan.cpu)?;

    let mut sinks = Vec::new();
    let mut sender: Box<dyn Sender> = if plan.flows == 1 {
        let from = client.udp((plan.from, CLIENT_PORT).into())?;
        from.connect((plan.to, PORT))?;
        let sink = sink(&server, plan.to, PORT)?;
        let mut sender = Connected(from);
        for _ in 0..HANDSHAKES {
            exchange(&sink, || sender.send(1))?;
        }
        sinks.push(sink);
        Box::new(sender)
    } else {
        let flows = Flows::new(plan.from, plan.to, PORT, plan.flows)
            .with_context(|| format!("from 1 to {} flows, not {}", Flows::MAX, plan.flows))?;
        let mut there = Raw::new(&client, flows, (plan.to, 0).into(), false)?;
        let mut back = Raw::new(&server, flows, (plan.from, 0).into(), true)?;
        for (port, first) in flows.destinations() {
            let sink = sink(&server, plan.to, port)?;
            // The first flow to a port slowly: its verdict serves for the others.
            for _ in 0..HANDSHAKES {
                there.seek(first);
                exchange(&sink, || there.send(1))?;
            }
            sinks.push(sink);
        }
        there.seek(0);
        there.send(plan.flows)?;
        back.send(plan.flows)?;
        Box::new(there)
    };
    for sink in &sinks {
        sockopt::set_socket_recv_buffer_size(sink, 0)?; // the kernel makes it its minimum
    }
    measure(plan, &server, sender.as_mut())
}

fn measure(plan: &Plan, server: &Place, sender: &mut dyn Sender) -> Result<Report> {
    let mut device = server.device(&plan.device)?;
    let meter = Meter::new(&plan.charge)?;
    let warm_up = plan.flows.max(plan.packets / 4);
    sender.send(warm_up)?;
    let mut slices = Vec::new();
    for _ in 0..plan.slices {
        let start = Instant::now();
        let received = device.received()?;
        let before = meter.read()?;
        sender.send(plan.packets)?;
        let usage = meter.read()?.since(before);
        let delivered = device.received()? - received;
        slices.push(Slice {
            ns_per_packet: cost(usage, delivered, u64::from(plan.packets), plan.loss)?,
            delivered,
            usage,
            wall_ns: u64::try_from(start.elapsed().as_nanos())?,
        });
    }
    Ok(Report {
        flows: plan.flows,
        ns_per_packet: stats::median(slices.iter().map(|slice| slice.ns_per_packet))
            .context("no slices")?,
        sent: u64::from(warm_up) + u64::from(plan.packets) * u64::from(plan.slices),
        slices,
    })
}

/// A socket of the server.
fn sink(server: &Place, own: Ipv4Addr, port: u16) -> Result<UdpSocket> {
    let sink = server.udp(SocketAddr::new(IpAddr::V4(own), port))?;
    sink.set_read_timeout(Some(PATIENCE))?;
    Ok(sink)
}

/// One packet there and one back.
fn exchange(sink: &UdpSocket, mut send: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in 0..ATTEMPTS {
        send()?;
        if let Ok((length, peer)) = sink.recv_from(&mut [0; PAYLOAD]) {
            sink.send_to(&[0; PAYLOAD][..length], peer)?;
            thread::sleep(PAUSE);
            return Ok(());
        }
    }
    bail!("nothing reaches {} in {ATTEMPTS} attempts: is it allowed?", sink.local_addr()?)
}

/// Nanoseconds for each packet that arrived.
fn cost(usage: Usage, delivered: u64, sent: u64, loss: f64) -> Result<f64> {
    ensure!(
        delivered > 0 && ratio(delivered, sent) >= 1.0 - loss,
        "only {delivered} of {sent} packets arrived"
    );
    Ok(ratio(usage.total_ns(), delivered))
}

#[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds far below 2^53")]
fn ratio(dividend: u64, divisor: u64) -> f64 {
    dividend as f64 / divisor as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(to: Ipv4Addr) -> Plan {
        Plan {
            client: None,
            server: None,
            device: "lo".to_owned(),
            from: Ipv4Addr::LOCALHOST,
            to,
            flows: 1,
            packets: 1000,
            slices: 3,
            cpu: 0,
            charge: Vec::new(),
            loss: 0.0,
        }
    }

    #[test]
    fn a_packet_of_an_established_flow_costs_something() {
        let report = run(&plan(Ipv4Addr::new(127, 0, 0, 4))).unwrap();
        assert_eq!((report.sent, report.slices.len()), (3250, 3));
        assert!(report.slices.iter().all(|slice| slice.delivered >= 1000), "{report:?}");
        assert!((50.0..1e6).contains(&report.ns_per_packet), "{report:?}");
    }

    #[test]
    fn the_cost_is_shared_by_what_arrived_and_too_much_loss_is_an_error() {
        let usage = Usage { own_ns: 900, ksoftirqd_ns: 90, charged_ns: 9 };
        assert_eq!(cost(usage, 999, 1000, 0.001).unwrap(), 1.0);
        assert!(cost(usage, 998, 1000, 0.001).unwrap_err().to_string().contains("998 of 1000"));
        assert_eq!(cost(usage, 333, 1000, 1.0).unwrap(), 3.0);
        assert!(cost(usage, 0, 1000, 1.0).is_err(), "nothing arrived");
    }
}
