//! What the generator is to send, checked as a whole.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;

use super::addresses::Addresses;
use super::flows::{Flows, Ports};
use super::frame::Layout;
use super::size::Sizes;
use crate::rings::Backend;
use crate::sequence::MAX_NUMBER;

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// A datagram is a flow's first packet; answered, the flow is established
    Udp,
    /// A flow begins with a handshake of three
    Tcp,
    /// A flow begins with a handshake of four
    Sctp,
}

impl Protocol {
    /// Its number in an IP header (IANA).
    pub const fn number(self) -> u8 {
        match self {
            Self::Udp => 17,
            Self::Tcp => 6,
            Self::Sctp => 132,
        }
    }

    /// The protocol of a number; `None` for one that the generator does not speak.
    pub const fn of(number: u8) -> Option<Self> {
        match number {
            17 => Some(Self::Udp),
            6 => Some(Self::Tcp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }
}

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Frames a second, above 0.
    PerSecond(f64),
    /// As fast as the kernel takes them.
    Max,
}

impl FromStr for Pace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" { Ok(Self::Max) } else { per_second(text).map(Self::PerSecond) }
    }
}

/// Parses a rate: a number above 0 and at most a thousand million, with k or M behind it.
///
/// # Errors
/// In words.
pub fn per_second(text: &str) -> Result<f64, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'M']) {
        Some(digits) if text.ends_with('k') => (digits, 1e3),
        Some(digits) => (digits, 1e6),
        None => (text, 1.0),
    };
    let value = digits.parse::<f64>().map_err(|_| format!("{text:?} is no rate"))? * unit;
    if value > 0.0 && value <= 1e9 {
        Ok(value)
    } else {
        Err(format!("a rate is above 0 and at most 1000M a second, not {text}"))
    }
}

/// When it is over: whatever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// After so many frames.
    pub count: Option<u64>,
    /// After this time.
    pub duration: Option<Duration>,
}

/// What to send, from where to where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Network namespace of the client; `None` is this process's own.
    pub client: Option<PathBuf>,
    /// Network namespace of the server.
    pub server: Option<PathBuf>,
    /// The client's device.
    pub device: String,
    /// The server's device.
    pub peer_device: String,
    /// The addresses to send from.
    pub from: Addresses,
    /// The addresses to send to, of the same family.
    pub to: Addresses,
    /// Hardware address of the next hop; `None`: the one that the kernel uses.
    pub next_hop: Option<[u8; 6]>,
    /// Sizes of the frames, in turn.
    pub sizes: Sizes,
    /// Established flows, used in turn.
    pub flows: u32,
    /// Frames a second, of all, that begin a flow; 0: none.
    pub new_flows: f64,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Source ports.
    pub sport: Ports,
    /// Destination ports.
    pub dport: Ports,
    /// How fast.
    pub pace: Pace,
    /// When it is over.
    pub stop: Stop,
    /// Sent before measuring.
    pub warm_up: Duration,
    /// How frames get to and from the devices; `None`: the best that there is.
    pub io: Option<Backend>,
    /// Processors of generator and sink.
    pub pin: (usize, usize),
    /// A capture to send instead.
    pub pcap: Option<PathBuf>,
    /// Processes whose time counts.
    pub charge: Vec<u32>,
    /// Whether to say every second how far it is.
    pub progress: bool,
}

impl Plan {
    /// The flows of this plan.
    pub fn flow_space(&self) -> Flows {
        Flows::new((self.from, self.to), (self.sport, self.dport), self.flows)
    }

    /// Whether it is IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.from.first().is_ipv6()
    }

    /// The least size of its frames, FCS included.
    pub fn least_frame(&self) -> usize {
        Layout::new(self.is_ipv6(), self.protocol).least_frame()
    }

    /// Refuses what contradicts itself.
    ///
    /// # Errors
    /// In words, naming the option.
    #[expect(clippy::cast_precision_loss, reason = "limits far below 2^53")]
    pub fn check(&self) -> Result<(), String> {
        if self.from.first().is_ipv4() != self.to.first().is_ipv4() {
            return Err(format!("--from {} and --to {} are of two families", self.from, self.to));
        }
        let least = self.least_frame();
        if self.pcap.is_none() && self.sizes.least() < least && !self.sizes.is_mix() {
            return Err(format!(
                "--size: a frame of this protocol and family needs {least} bytes to carry number and time"
            ));
        }
        if self.pcap.is_some() && (self.from.count() > 1 || self.to.count() > 1) {
            return Err(
                "--pcap: all frames go from one address to one; a range has no place".to_owned()
            );
        }
        let room = self.flow_space().room();
        if u64::from(self.flows) > room {
            return Err(format!(
                "--flows {}: --sport, --dport and the addresses make only {room} flows; widen them",
                self.flows
            ));
        }
        if self.new_flows > 0.0 && u64::from(self.flows) == room {
            return Err(
                "--new-flows: --flows uses up all addresses and ports; widen --sport or --dport"
                    .to_owned(),
            );
        }
        let most = match (self.stop.count, self.stop.duration, self.pace) {
            (Some(count), _, _) => count as f64,
            (None, Some(duration), Pace::PerSecond(rate)) => duration.as_secs_f64() * rate,
            _ => 0.0,
        };
        if most > MAX_NUMBER as f64 {
            return Err(format!(
                "{most:.0} frames are more than the sink can tell apart ({MAX_NUMBER}): make it \
                 several runs"
            ));
        }
        if let Pace::PerSecond(rate) = self.pace
            && self.new_flows > rate
        {
            return Err(format!(
                "--new-flows {} is more than --rate {rate}: it counts among the frames",
                self.new_flows
            ));
        }
        Ok(())
    }
}
