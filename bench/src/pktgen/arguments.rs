//! What can be asked of the generator on the command line, and how it is read.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::addresses::Addresses;
use super::flows::Ports;
use super::plan::{Pace, Plan, Protocol, Stop};
use super::size::Sizes;
use crate::place;
use crate::rings::Backend;

/// The options of `weir-bench pktgen`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Where frames are sent: a network namespace, by path or by its name in /run/netns
    /// [default: this process's]
    #[arg(long, value_name = "NETNS")]
    client: Option<String>,
    /// Where they are received
    #[arg(long, value_name = "NETNS")]
    server: Option<String>,
    /// The client's device
    #[arg(long, value_name = "NAME", default_value = "eth0")]
    device: String,
    /// The server's device
    #[arg(long, value_name = "NAME", default_value = "eth0")]
    peer_device: String,
    /// The address to send from, IPv4 or IPv6, or a range, e.g. 10.0.0.2-10.0.0.99
    ///
    /// The answers must find their way back: every address of a range is the client's own
    /// (`ip addr add`), or the next hop routes it to the client (`ip route add RANGE via CLIENT`).
    /// A policy engine that refuses spoofed sources, as Weir does, lets a pod send from its own
    /// address alone.
    #[arg(long, value_name = "IP[-IP]")]
    from: Addresses,
    /// The address to send to, of the same family, or a range
    ///
    /// Every address of a range is the server's own, or routed to the server. Frames are taken off
    /// its device by their ports, so nobody has to listen there.
    #[arg(long, value_name = "IP[-IP]")]
    to: Addresses,
    /// Hardware address of the next hop; auto: the one that the client's kernel uses
    #[arg(long, value_name = "MAC", default_value = "auto")]
    next_hop: String,
    /// Bytes of a frame with its checksum (64 is the least of Ethernet), or IMIX: 64, 570 and
    /// 1518 bytes as 7:4:1
    #[arg(long, default_value = "64")]
    size: Sizes,
    /// Flows, used in turn
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    flows: u32,
    /// Of the frames, so many a second begin a flow [default: none, all flows are established
    /// before]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    new_flows: Option<f64>,
    /// Transport protocol
    #[arg(long, value_enum, default_value = "udp")]
    protocol: Protocol,
    /// Source ports, e.g. 20000-52767
    #[arg(long, value_name = "A-B", default_value = "20000-52767")]
    sport: Ports,
    /// Destination ports; the next one is used when the source ports are
    #[arg(long, value_name = "A-B", default_value = "9000-9063")]
    dport: Ports,
    /// Frames a second (k and M are understood), or max: flat out
    #[arg(long, value_name = "PPS", default_value = "1000")]
    rate: Pace,
    /// Stop after so many seconds [default: 10 unless --count is given]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    duration: Option<Duration>,
    /// Stop after so many frames
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Send for so many seconds before measuring, at the same rate
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = pause)]
    warm_up: Duration,
    /// How frames get to and from the devices; auto: AF_XDP, and AF_PACKET where it is missing
    #[arg(long, value_enum, default_value = "auto")]
    io: Choice,
    /// Processors of generator and sink [default: the last and the first]
    #[arg(long, value_name = "TX,RX", value_delimiter = ',', num_args = 1)]
    pin: Option<Vec<usize>>,
    /// Send the frames of this capture, again and again, instead of made ones: addresses and
    /// hardware addresses are replaced, ports and sizes kept
    #[arg(long, value_name = "FILE", conflicts_with_all = ["size", "flows", "new_flows", "protocol"])]
    pcap: Option<PathBuf>,
    /// Processes whose time counts, e.g. a policy engine's
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    charge: Vec<u32>,
    /// Say every second on standard error how far it is
    #[arg(long)]
    progress: bool,
    /// Output format
    #[arg(short = 'o', long, value_enum, default_value = "table")]
    pub output: Output,
}

/// How frames get to and from the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Choice {
    /// AF_XDP, and AF_PACKET where that is missing
    Auto,
    /// AF_XDP sockets
    #[value(name = "af_xdp")]
    AfXdp,
    /// AF_PACKET sockets
    #[value(name = "af_packet")]
    AfPacket,
}

/// How the result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// One JSON object on one line
    Json,
}

impl Arguments {
    /// The plan that was asked for.
    ///
    /// # Errors
    /// In words for whoever wrote the command line, when options contradict each other.
    pub fn plan(&self) -> Result<Plan, String> {
        let next_hop = match self.next_hop.as_str() {
            "auto" => None,
            text => Some(mac(text)?),
        };
        let pin = match self.pin.as_deref() {
            None => (place::processors() - 1, 0),
            Some([tx, rx]) => (*tx, *rx),
            Some(_) => return Err("--pin wants two processors, e.g. 1,0".to_owned()),
        };
        let stop = Stop {
            count: self.count,
            duration: self.duration.or(self.count.is_none().then_some(Duration::from_secs(10))),
        };
        let plan = Plan {
            client: self.client.as_deref().map(namespace),
            server: self.server.as_deref().map(namespace),
            device: self.device.clone(),
            peer_device: self.peer_device.clone(),
            from: self.from,
            to: self.to,
            next_hop,
            sizes: self.size.clone(),
            flows: self.flows,
            new_flows: self.new_flows.unwrap_or(0.0),
            protocol: self.protocol,
            sport: self.sport,
            dport: self.dport,
            pace: self.rate,
            stop,
            warm_up: self.warm_up,
            io: match self.io {
                Choice::Auto => None,
                Choice::AfXdp => Some(Backend::AfXdp),
                Choice::AfPacket => Some(Backend::AfPacket),
            },
            pin,
            pcap: self.pcap.clone(),
            charge: self.charge.clone(),
            progress: self.progress,
        };
        plan.check()?;
        Ok(plan)
    }
}

/// A namespace's path from its path or name.
fn namespace(text: &str) -> PathBuf {
    if text.contains('/') { PathBuf::from(text) } else { PathBuf::from("/run/netns").join(text) }
}

/// Parses a hardware address, `02:00:00:00:00:01`.
fn mac(text: &str) -> Result<[u8; 6], String> {
    let wrong =
        || format!("--next-hop: {text:?} is neither auto nor six bytes like 02:00:00:00:00:01");
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
    }
    if parts.next().is_some() { Err(wrong()) } else { Ok(bytes) }
}

/// Parses a rate of events a second, above 0.
fn rate(text: &str) -> Result<f64, String> {
    super::plan::per_second(text)
}

fn seconds(text: &str) -> Result<Duration, String> {
    match pause(text)? {
        Duration::ZERO => Err("more than 0 seconds".to_owned()),
        some => Ok(some),
    }
}

/// Parses a number of seconds from 0 to a day.
fn pause(text: &str) -> Result<Duration, String> {
    let value: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    if (0.0..=86_400.0).contains(&value) {
        Ok(Duration::from_secs_f64(value))
    } else {
        Err("from 0 to 86400 seconds".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use proptest::prelude::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn plan(more: &str) -> Result<Plan, String> {
        let own = |option, address| {
            if more.contains(option) { String::new() } else { format!("{option} {address}") }
        };
        let line = format!("x {} {} {more}", own("--from", "10.0.0.1"), own("--to", "10.0.0.2"));
        let line = Line::try_parse_from(line.split_whitespace()).map_err(|e| e.to_string())?;
        line.arguments.plan()
    }

    #[test]
    fn without_options_it_is_a_thousand_small_frames_a_second_for_ten_seconds() {
        let plan = plan("").unwrap();
        assert_eq!(plan.pace, Pace::PerSecond(1000.0));
        assert_eq!(plan.stop, Stop { count: None, duration: Some(Duration::from_secs(10)) });
        assert_eq!((plan.flows, plan.io, plan.protocol), (1, None, Protocol::Udp));
        assert_eq!(plan.sizes.mean(), 64.0);
    }

    #[test]
    fn options_are_read() {
        let plan = plan("--client a --server /x/b --rate 1.5M --count 7 --pin 3,2 --size imix --new-flows 10k --next-hop 02:00:00:00:00:0f").unwrap();
        assert_eq!(plan.client, Some("/run/netns/a".into()));
        assert_eq!(plan.server, Some("/x/b".into()));
        assert_eq!(plan.pace, Pace::PerSecond(1.5e6));
        assert_eq!(plan.stop, Stop { count: Some(7), duration: None });
        assert_eq!((plan.pin, plan.new_flows), ((3, 2), 10_000.0));
        assert_eq!(plan.next_hop, Some([2, 0, 0, 0, 0, 15]));
    }

    #[test]
    fn contradictions_are_refused_in_words() {
        for (options, word) in [
            ("--pin 1", "two processors"),
            ("--next-hop 02:00:00:00:00", "neither auto"),
            ("--next-hop 02:00:00:00:00:1+", "neither auto"),
            ("--flows 5 --sport 1-2 --dport 1-2", "4"),
            ("--protocol tcp --size 64", "70"),
            ("--new-flows 10 --rate 5", "--new-flows"),
            ("--rate=-1", "rate"),
            ("--rate 0", "rate"),
            ("--size 63", "64"),
            ("--size 9999", "1518"),
            ("--sport 5-2", "5-2"),
            ("--duration 0", "0 seconds"),
            ("--pcap x --flows 2", "--flows"),
            ("--to 10.0.0.2-10.0.0.1", "no address"),
            ("--to fd00::1", "two families"),
            ("--to 10.0.0.2-10.0.0.3 --pcap x", "a range has no place"),
            ("--from 10.0.0.1-10.0.0.4 --flows 9 --sport 1-2 --dport 3", "8 flows"),
        ] {
            let error = plan(options).unwrap_err();
            assert!(error.contains(word), "{options}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,24}") {
            let _ = (mac(&text), rate(&text), pause(&text), seconds(&text), namespace(&text));
            let _ = (text.parse::<Sizes>(), text.parse::<Ports>(), text.parse::<Pace>());
        }
    }
}
