//! `weir drops`: dropped packets as the dataplane has recorded them (`weir_table::drops`).

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use clap::builder::PossibleValuesParser;
use serde::Serialize;
use weir_table::drops::{
    DropRecord, Follower, RECORD_WORDS, RING_FILE, RingFileError, RingIdentity, identity, open,
    reasons,
};
use weir_table::mem::SharedWords;

use crate::explain::protocol_name;

/// How often an idle reader looks whether the ring was replaced.
const LOOK: Duration = Duration::from_secs(1);

const ARP: u16 = 0x0806;

/// Why there is nothing to read.
#[derive(Debug, thiserror::Error)]
pub enum DropsError {
    /// No dataplane has run here.
    #[error(
        "{} does not exist; is weir-dataplane running on this node, and are you root?", .0.display()
    )]
    None(PathBuf),
    /// The ring is not readable.
    #[error(transparent)]
    Ring(#[from] RingFileError),
}

/// A dropped packet as it is printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DropRow {
    /// When, RFC 3339 in UTC.
    pub time: String,
    /// Why.
    pub reason: String,
    /// Which way it crossed its pod's device: `egress` or `ingress`.
    pub direction: &'static str,
    /// `TCP`, `UDP`, `ICMP`, `ARP`, the IP protocol number, or the EtherType.
    pub protocol: String,
    /// Source address; absent (null) if it is no IP or ARP packet.
    pub src: Option<String>,
    /// Destination address.
    pub dst: Option<String>,
    /// Source port, if it has ports.
    pub sport: Option<u16>,
    /// Destination port.
    pub dport: Option<u16>,
    /// The pod that has the source address.
    pub src_pod: Option<String>,
    /// The pod that has the destination address.
    pub dst_pod: Option<String>,
    /// The policies that denied it, a comma between each, `… and N more` if there are too many;
    /// null if it was no policy.
    pub policy: Option<String>,
    /// The rule, if one denies by itself rather than by allowing others only.
    pub rule: Option<String>,
    /// The generation in force.
    pub generation: u64,
    /// The pod at whose hook it was dropped.
    pub pod: Option<String>,
    /// That pod's device on the host.
    pub device: Option<String>,
    /// Source and destination hardware address.
    pub src_mac: Option<String>,
    /// Destination hardware address.
    pub dst_mac: Option<String>,
    /// Length of the frame in bytes.
    pub length: u32,
    /// `kernel`, or the worker that dropped it.
    pub by: String,
    /// Packets of its reason that have no record, as far as is known, since the last one that has.
    pub left_out: u32,
    /// The record's number.
    pub record: u64,
}

impl DropRow {
    /// Record number `n`.
    pub fn of(n: u64, record: &DropRecord) -> Self {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let packet = &record.packet;
        let protocol = match packet.addresses {
            Some(_) if packet.ether_type == ARP => "ARP".to_owned(),
            Some(_) => protocol_name(packet.protocol),
            None => format!("{:#06x}", packet.ether_type),
        };
        let address = |ip: IpAddr| ip.to_canonical().to_string();
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(record.wall_ns);
        let mac = |at: usize| record.frame.get(at..at + 6).map(mac);
        let text = &record.text;
        Self {
            time: humantime::format_rfc3339_micros(time).to_string(),
            reason: text.reason.clone(),
            direction: record.direction.as_str(),
            protocol,
            src: packet.addresses.map(|(src, _)| address(src.to_ip())),
            dst: packet.addresses.map(|(_, dst)| address(dst.to_ip())),
            sport: packet.ports.map(|(sport, _)| sport),
            dport: packet.ports.map(|(_, dport)| dport),
            src_pod: some(&text.src_pod),
            dst_pod: some(&text.dst_pod),
            policy: some(&text.policy),
            rule: some(&text.rule),
            generation: record.generation,
            pod: some(&text.pod),
            device: some(&text.device),
            src_mac: mac(6),
            dst_mac: mac(0),
            length: record.frame_len,
            by: record.worker.map_or_else(|| "kernel".to_owned(), |n| format!("worker {n}")),
            left_out: record.left_out,
            record: n,
        }
    }
}

fn mac(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.join(":")
}

/// Which drops are wanted.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Filter {
    /// Only packets from, to, or at the hook of this pod (namespace/name), or of this address
    #[arg(long, value_name = "POD|ADDRESS")]
    pub pod: Option<String>,
    /// Only packets dropped for this reason; may be repeated
    #[arg(long, value_name = "REASON", value_parser = PossibleValuesParser::new(reasons()))]
    pub reason: Vec<String>,
}

impl Filter {
    /// Whether a drop is wanted.
    pub fn wants(&self, record: &DropRecord) -> bool {
        let text = &record.text;
        let reason = self.reason.is_empty() || self.reason.contains(&text.reason);
        let pod = self.pod.as_ref().is_none_or(|pod| match pod.parse::<IpAddr>() {
            Ok(address) => record.packet.addresses.is_some_and(|(src, dst)| {
                [src, dst].iter().any(|end| end.to_ip() == address.to_canonical())
            }),
            Err(_) => [&text.pod, &text.src_pod, &text.dst_pod].contains(&pod),
        });
        reason && pod
    }
}

/// Reads the records in their order, also those of a ring that takes the place of the first.
#[derive(Debug)]
pub struct Reader {
    run_dir: PathBuf,
    follower: Follower<SharedWords>,
    identity: RingIdentity,
    looked: Instant,
}

impl Reader {
    /// Begins so many records `back`, or at the oldest that there is.
    ///
    /// # Errors
    /// [`DropsError`].
    pub fn new(run_dir: &Path, back: u64) -> Result<Self, DropsError> {
        let (ring, identity) =
            open(run_dir)?.ok_or_else(|| DropsError::None(run_dir.join(RING_FILE)))?;
        let follower = Follower::new(ring, back);
        Ok(Self { run_dir: run_dir.to_owned(), follower, identity, looked: Instant::now() })
    }

    /// The next record and its number; `None` if there is none yet.
    ///
    /// # Errors
    /// The ring was replaced by one that cannot be read.
    pub fn read(&mut self) -> Result<Option<(u64, DropRecord)>, DropsError> {
        let mut words = [0; RECORD_WORDS];
        if let Some(n) = self.follower.next(&mut words) {
            return Ok(Some((n, DropRecord::decode(&words))));
        }
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            // Of the file that was opened: it may be replaced once more in between.
            if identity(&self.run_dir).is_some_and(|identity| identity != self.identity)
                && let Some((ring, identity)) = open(&self.run_dir)?
            {
                self.identity = identity;
                self.follower = Follower::new(ring, u64::MAX);
            }
        }
        Ok(None)
    }

    /// How many records were overwritten before they could be read, since last asked.
    pub fn missed(&mut self) -> u64 {
        self.follower.missed()
    }

    /// Records that there have been, and dropped packets that have none.
    pub fn totals(&self) -> (u64, u64) {
        let ring = self.follower.ring();
        (ring.written(), ring.left_out())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use weir_table::counters::Direction;
    use weir_table::drops::{Packet, Text, open_or_create};

    use super::*;

    /// A TCP packet to a pod, denied by a policy.
    pub(crate) fn denied() -> DropRecord {
        DropRecord {
            monotonic_ns: 1,
            wall_ns: 1_700_000_000_123_456_789,
            generation: 7,
            ifindex: 12,
            direction: Direction::Ingress,
            worker: None,
            left_out: 3,
            frame_len: 1514,
            packet: Packet {
                ether_type: 0x0800,
                addresses: Some(("10.0.0.3".parse().unwrap(), "10.0.0.1".parse().unwrap())),
                protocol: 6,
                ports: Some((40_000, 80)),
            },
            frame: [[2; 6], [4; 6]].concat(),
            text: Text {
                reason: "policy_ingress".into(),
                device: "veth1".into(),
                pod: "shop/web".into(),
                src_pod: "shop/curl".into(),
                dst_pod: "shop/web".into(),
                rule: String::new(),
                policy: "shop/deny,shop/web".into(),
            },
        }
    }

    #[test]
    fn a_drop_in_json() {
        assert_eq!(
            serde_json::to_string(&DropRow::of(9, &denied())).unwrap(),
            r#"{"time":"2023-11-14T22:13:20.123456Z","reason":"policy_ingress","direction":"ingress","protocol":"TCP","src":"10.0.0.3","dst":"10.0.0.1","sport":40000,"dport":80,"src_pod":"shop/curl","dst_pod":"shop/web","policy":"shop/deny,shop/web","rule":null,"generation":7,"pod":"shop/web","device":"veth1","src_mac":"04:04:04:04:04:04","dst_mac":"02:02:02:02:02:02","length":1514,"by":"kernel","left_out":3,"record":9}"#
        );
        let other = DropRecord {
            packet: Packet { ether_type: 0x88cc, ..Packet::default() },
            worker: Some(2),
            wall_ns: u64::MAX,
            ..denied()
        };
        let row = DropRow::of(0, &other);
        assert_eq!((row.protocol.as_str(), row.src, row.by.as_str()), ("0x88cc", None, "worker 2"));
    }

    #[test]
    fn filters() {
        let record = denied();
        let wants = |pod: &str, reasons: &[&str]| {
            let pod = (!pod.is_empty()).then(|| pod.to_owned());
            let reason = reasons.iter().map(|reason| (*reason).to_owned()).collect();
            Filter { pod, reason }.wants(&record)
        };
        for (pod, reasons, expected) in [
            ("", &[][..], true),
            ("shop/web", &[], true),
            ("shop/curl", &[], true),
            ("10.0.0.3", &[], true),
            ("::ffff:10.0.0.3", &[], true),
            ("10.0.0.4", &[], false),
            ("web", &[], false),
            ("", &["l2", "policy_ingress"], true),
            ("shop/web", &["policy_egress"], false),
        ] {
            assert_eq!(wants(pod, reasons), expected, "{pod} {reasons:?}");
        }
    }

    #[test]
    fn a_reader_goes_over_to_the_ring_that_takes_the_place_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Reader::new(dir.path(), 0).unwrap_err().to_string();
        assert!(missing.contains("drops.ring") && missing.contains("weir-dataplane"), "{missing}");
        let (mut writer, _) = open_or_create(dir.path(), 8).unwrap();
        let mut reader = Reader::new(dir.path(), 0).unwrap();
        writer.push(&denied().encode(), 3);
        assert_eq!(reader.read().unwrap(), Some((0, denied())));
        assert_eq!(reader.totals(), (1, 3));
        fs::remove_file(dir.path().join(RING_FILE)).unwrap();
        assert_eq!(reader.read().unwrap(), None);
        let (mut writer, _) = open_or_create(dir.path(), 8).unwrap();
        writer.push(&DropRecord { generation: 8, ..denied() }.encode(), 0);
        let start = Instant::now();
        let record = loop {
            if let Some((_, record)) = reader.read().unwrap() {
                break record;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "it stays with the old one");
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(record.generation, 8);
    }
}
