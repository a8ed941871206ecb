//! What a packet costs: processor time for each packet of established, or of new, flows.
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
//!
//! A path through user space is slower than the sender. So that nothing is lost on the
//! way (the cost of a packet that was lost half way is not that of a packet), at most
//! [`WINDOW`] packets are in flight: after so many the sender looks at the device's
//! counter and sleeps until enough have arrived. Looking and sleeping are not charged.
//! A kernel path delivers within the system call and never sleeps.

pub mod frames;
pub mod sender;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::net::sockopt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

use crate::cpu::{self, Meter, Usage};
use crate::pktgen::size::Sizes;
use crate::place::{self, Device, Place};
use crate::stats;
use frames::{Flows, least_frame, payload_bytes};
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
/// Packets that are sent before the sender looks whether they have arrived: fewer than
/// the ring of an AF_XDP socket or the queue of a TAP device holds.
const WINDOW: u32 = 256;
/// How long the sender sleeps before it looks again.
const NAP: Duration = Duration::from_micros(50);
/// What has not arrived after this time without any arrival is lost.
const LOST_AFTER: Duration = Duration::from_millis(200);
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
    pub from: IpAddr,
    /// The server's address, of the same family.
    pub to: IpAddr,
    /// Flows, used in turn: 1 through a UDP socket, more through a raw socket.
    pub flows: u32,
    /// Instead of `flows`: every packet is the first of a flow, to a port that other
    /// flows have reached before, as the connections of a service's clients are.
    pub new: bool,
    /// Instead of `flows`: every packet is the first of a flow and the first to its port, so
    /// that nothing decided for an earlier one serves.
    pub first: bool,
    /// Sizes of the frames, in turn.
    pub sizes: Sizes,
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
    /// Packets that were the first of their flow.
    pub opened: u64,
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

    ensure!(plan.from.is_ipv4() == plan.to.is_ipv4(), "both addresses must be of one family");
    let payloads = plan.payloads()?;

    let mut sinks = Vec::new();
    let mut sender: Box<dyn Sender> = if plan.flows == 1 && !plan.is_new() {
        let from = client.udp((plan.from, CLIENT_PORT).into())?;
        from.connect((plan.to, PORT))?;
        let sink = sink(&server, plan.to, PORT)?;
        let mut sender = Connected::new(from, &payloads);
        for _ in 0..HANDSHAKES {
            exchange(&sink, || sender.send(1))?;
        }
        sinks.push(sink);
        Box::new(sender)
    } else {
        let count = if plan.is_new() { plan.new_flows() } else { plan.flows };
        let ends = (plan.from, plan.to);
        let flows = if plan.first {
            // One more, which finds the way before anything counts.
            let count = count.saturating_add(1);
            raise_open_files(count)?;
            Flows::to_ports_of_their_own(ends, PORT, count)
                .with_context(|| format!("{count} ports from {PORT} upwards"))?
        } else {
            Flows::new(ends, PORT, count)
                .with_context(|| format!("from 1 to {} flows, not {count}", Flows::MAX))?
        };
        let mut there = Raw::new(&client, flows, &payloads, plan.to, false)?;
        let mut back = Raw::new(&server, flows, &payloads, plan.from, true)?;
        for (port, first) in flows.destinations() {
            let sink = sink(&server, plan.to, port)?;
            // The first flow to a port slowly: its verdict serves for the others. Where none
            // is to serve, only the first of all.
            let handshakes = if plan.first && first > 0 { 0 } else { HANDSHAKES };
            for _ in 0..handshakes {
                there.seek(first);
                exchange(&sink, || there.send(1))?;
            }
            sinks.push(sink);
        }
        there.seek(u32::from(plan.first));
        if !plan.is_new() {
            let mut device = server.device(&plan.device)?;
            let mut window = Window::new(&mut device)?;
            window.send(&mut there, count)?;
            let mut device = client.device(&plan.device)?;
            Window::new(&mut device)?.send(&mut back, count)?;
        }
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
    let warm_up = if plan.is_new() { plan.packets } else { plan.flows.max(plan.packets / 4) };
    Window::new(&mut device)?.send(sender, warm_up)?;
    let mut slices = Vec::new();
    for _ in 0..plan.slices {
        let start = Instant::now();
        let before = meter.read()?;
        let mut window = Window::new(&mut device)?;
        let own_ns = window.send(sender, plan.packets)?;
        let delivered = window.delivered;
        // The sender's looking and sleeping is not part of the path.
        let usage = Usage { own_ns, ..meter.read()?.since(before) };
        slices.push(Slice {
            ns_per_packet: cost(usage, delivered, u64::from(plan.packets), plan.loss)?,
            delivered,
            usage,
            wall_ns: u64::try_from(start.elapsed().as_nanos())?,
        });
    }
    let sent = u64::from(warm_up) + u64::from(plan.packets) * u64::from(plan.slices);
    Ok(Report {
        flows: plan.flows,
        ns_per_packet: stats::median(slices.iter().map(|slice| slice.ns_per_packet))
            .context("no slices")?,
        sent,
        opened: if plan.is_new() { sent } else { u64::from(plan.flows) },
        slices,
    })
}

impl Plan {
    /// Bytes of payload, in turn. In a mix, what is too small for the family is as small as can
    /// be.
    fn payloads(&self) -> Result<Vec<usize>> {
        let ipv6 = self.from.is_ipv6();
        let least = least_frame(ipv6);
        let sizes =
            if self.sizes.is_mix() { self.sizes.at_least(least) } else { self.sizes.clone() };
        let payload = |size: &usize| {
            payload_bytes(*size, ipv6)
                .with_context(|| format!("a frame has {least} to 1518 bytes, not {size}"))
        };
        sizes.all().iter().map(payload).collect()
    }

    /// Whether every packet is the first of its flow.
    fn is_new(&self) -> bool {
        self.new || self.first
    }

    /// A new flow for every packet of every slice and of the warm-up before them.
    fn new_flows(&self) -> u32 {
        self.packets.saturating_mul(self.slices.saturating_add(1))
    }
}

/// Files that are open beside the sockets of ports.
const OTHER_FILES: u32 = 100;

/// Packets of a slice at most where each is the first to its port: as many as there may be open
/// sockets, each slice's and the warm-up's at once.
pub fn most_first_packets(slices: u32) -> u32 {
    let maximum = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let sockets = u32::try_from(maximum).unwrap_or(u32::MAX).saturating_sub(OTHER_FILES + 1);
    sockets / slices.saturating_add(1)
}

/// Each port is a socket, so that no packet is answered by "port unreachable".
fn raise_open_files(sockets: u32) -> Result<()> {
    let wanted = u64::from(sockets) + u64::from(OTHER_FILES);
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let maximum = limit.maximum.map(|maximum| maximum.max(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).with_context(|| {
        format!("{sockets} open sockets: fewer --packets or --slices, or a higher `ulimit -Hn`")
    })
}

/// Keeps the packets in flight few; see the head of the module.
struct Window<'a> {
    device: &'a mut Device,
    start: u64,
    /// Packets that the device has received.
    delivered: u64,
}

impl<'a> Window<'a> {
    fn new(device: &'a mut Device) -> Result<Self> {
        let start = device.received()?;
        Ok(Self { device, start, delivered: 0 })
    }

    /// Sends `count` packets; gives the nanoseconds of processor time of the sending alone.
    /// Returns when all have arrived, or no more do.
    fn send(&mut self, sender: &mut dyn Sender, count: u32) -> Result<u64> {
        let (mut sent, mut own_ns, mut lost) = (0_u32, 0, 0);
        while sent < count {
            let chunk = WINDOW.min(count - sent);
            let before = cpu::own_ns();
            sender.send(chunk)?;
            own_ns += cpu::own_ns() - before;
            sent += chunk;
            // Half a window may still be under way, so that the path does not run dry.
            let slack = if sent == count { 0 } else { WINDOW / 2 };
            lost += self.await_arrival(u64::from(sent - slack).saturating_sub(lost))?;
        }
        Ok(own_ns)
    }

    /// Waits until `wanted` packets have arrived; gives how many of them are lost.
    fn await_arrival(&mut self, wanted: u64) -> Result<u64> {
        let mut last = Instant::now();
        loop {
            let delivered = self.device.received()? - self.start;
            if delivered > self.delivered {
                self.delivered = delivered;
                last = Instant::now();
            }
            if delivered >= wanted {
                return Ok(0);
            }
            if last.elapsed() > LOST_AFTER {
                return Ok(wanted - delivered);
            }
            thread::sleep(NAP);
        }
    }
}

/// A socket of the server.
fn sink(server: &Place, own: IpAddr, port: u16) -> Result<UdpSocket> {
    let sink = server.udp(SocketAddr::new(own, port))?;
    sink.set_read_timeout(Some(PATIENCE))?;
    Ok(sink)
}

/// One packet there and one back.
fn exchange(sink: &UdpSocket, mut send: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in 0..ATTEMPTS {
        send()?;
        if let Ok((length, peer)) = sink.recv_from(&mut [0; 2048]) {
            sink.send_to(&[0; 2048][..length], peer)?;
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
    use std::io::Write;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn as_many_first_packets_as_sockets_may_be_open() {
        for slices in [1, 5] {
            let packets = most_first_packets(slices).min(5_000);
            raise_open_files(packets * (slices + 1) + 1).unwrap();
        }
    }

    fn plan(to: impl Into<IpAddr>) -> Plan {
        let to = to.into();
        Plan {
            client: None,
            server: None,
            device: "lo".to_owned(),
            from: if to.is_ipv4() {
                Ipv4Addr::LOCALHOST.into()
            } else {
                Ipv6Addr::LOCALHOST.into()
            },
            to,
            flows: 1,
            new: false,
            first: false,
            sizes: "64".parse().unwrap(),
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
    fn first_packets_go_to_as_many_ports() {
        let wanted =
            Plan { first: true, packets: 300, slices: 2, ..plan(Ipv4Addr::new(127, 0, 0, 5)) };
        if let Err(error) = place::Place::open(None).and_then(|place| {
            let flows = Flows::new((wanted.from, wanted.to), PORT, 1).context("a flow")?;
            Raw::new(&place, flows, &[18], wanted.to, false)
        }) {
            let _ = writeln!(std::io::stderr(), "SKIPPED: no raw socket ({error:#})");
            return;
        }
        let report = run(&wanted).unwrap();
        assert_eq!((report.sent, report.opened), (900, 900));
        assert!(report.slices.iter().all(|slice| slice.delivered >= 300), "{report:?}");
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
