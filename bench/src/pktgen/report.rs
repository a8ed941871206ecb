//! What came of a run: one JSON object, or a table for people.

use std::fmt::Write;

use serde::Serialize;

use crate::latency::Latency;
use crate::rings::Backend;

/// The result of a run. Counts are of the measured frames; warm-up, handshakes and answers are
/// not among them.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Frames a second that were wanted; flat out, what was sent.
    pub offered_pps: f64,
    /// Frames given to the kernel.
    pub sent: u64,
    /// Frames that arrived, repeated ones included.
    pub received: u64,
    /// Frames that never arrived.
    pub lost: u64,
    /// Arrivals of a frame that had arrived before.
    pub duplicated: u64,
    /// Arrivals after a frame with a higher number (RFC 4737).
    pub reordered: u64,
    /// Of the lost frames, those that the sink's own queue had no room for: if there are any,
    /// the sink was too slow, not the path.
    pub sink_dropped: u64,
    /// Frames on the ports of the run that are none of it.
    pub foreign: u64,
    /// First to last frame sent, in seconds.
    pub duration_s: f64,
    /// Frames sent a second.
    pub sent_pps: f64,
    /// Frames received a second.
    pub received_pps: f64,
    /// Bits a second of the frames received, FCS included.
    pub bits_per_s: f64,
    /// Nanoseconds from the time at which a frame was to be sent to its arrival at the server's
    /// device.
    pub latency_ns: Latency,
    /// The longest that a frame was sent behind its time, in nanoseconds: the generator's part
    /// of the latency.
    pub send_lag_max_ns: u64,
    /// Processor time.
    pub cpu: Cpu,
    /// How frames got to and from the devices.
    pub io: Backend,
    /// Mean size of a frame, FCS included.
    pub frame_bytes: f64,
    /// Addresses to send from.
    pub sources: u32,
    /// Addresses to send to.
    pub destinations: u32,
    /// Flows that were established before measuring.
    pub flows: u64,
    /// Flows begun while measuring.
    pub new_flows: u64,
    /// TCP and SCTP: flows begun whose handshake was completed.
    pub handshakes: u64,
    /// TCP and SCTP: nanoseconds from the time at which the first frame of a handshake was to be
    /// sent until the client has the answer to its last.
    pub handshake_ns: Latency,
    /// Frames of the capture that could not be sent: not of this family, fragments, no room.
    pub skipped: u64,
    /// The command line.
    pub command: String,
}

/// Nanoseconds of processor time over the whole run.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cpu {
    /// For a frame received: generator, ksoftirqd and charged processes.
    pub ns_per_packet: f64,
    /// Of the generator's thread, waiting left out. The kernel does the work of the whole path
    /// on it as long as nothing else takes it over.
    pub tx_ns: u64,
    /// Of the sink's thread. Not in `ns_per_packet`.
    pub rx_ns: u64,
    /// Of the ksoftirqd threads.
    pub softirq_ns: u64,
    /// Of the processes to be charged.
    pub charged_ns: u64,
}

impl Report {
    /// The table for people.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let mut row = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{name:<16} {value}");
        };
        row(
            "sent",
            format!("{} ({:.0}/s, wanted {:.0}/s)", self.sent, self.sent_pps, self.offered_pps),
        );
        row(
            "received",
            format!(
                "{} ({:.0}/s, {:.3} Gbit/s)",
                self.received,
                self.received_pps,
                self.bits_per_s / 1e9
            ),
        );
        row(
            "lost",
            format!(
                "{}{}",
                self.lost,
                if self.sink_dropped > 0 {
                    format!(" ({} of them by the sink's own queue)", self.sink_dropped)
                } else {
                    String::new()
                }
            ),
        );
        row("duplicated", self.duplicated.to_string());
        row("reordered", self.reordered.to_string());
        row("foreign", self.foreign.to_string());
        let addresses = match (self.sources, self.destinations) {
            (1, 1) => String::new(),
            (sources, destinations) => {
                format!(", {sources} sources to {destinations} destinations")
            }
        };
        row("flows", format!("{} established, {} new{addresses}", self.flows, self.new_flows));
        if self.handshakes > 0 {
            row("handshakes", format!("{} completed, {}", self.handshakes, self.handshake_ns));
        }
        if self.skipped > 0 {
            row("skipped", format!("{} frames of the capture", self.skipped));
        }
        row("latency", self.latency_ns.to_string());
        row("behind time", format!("at most {:.1} µs", us(self.send_lag_max_ns)));
        row(
            "cpu",
            format!(
                "{:.0} ns a packet (generator {:.0} ms, softirq {:.0} ms, charged {:.0} ms; sink {:.0} ms beside)",
                self.cpu.ns_per_packet,
                ms(self.cpu.tx_ns),
                ms(self.cpu.softirq_ns),
                ms(self.cpu.charged_ns),
                ms(self.cpu.rx_ns),
            ),
        );
        row(
            "frames",
            format!("{:.0} bytes by {}, {:.2} s", self.frame_bytes, self.io, self.duration_s),
        );
        out
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

fn ms(ns: u64) -> f64 {
    us(ns) / 1e3
}
