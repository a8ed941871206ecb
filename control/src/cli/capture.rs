//! `weir capture`: dropped packets as a pcapng file, each with the reason as its comment.
//!
//! An interface of the file is a pod's device. What is written is the head of each frame that
//! the dataplane keeps; the file says so (snap length), as it says the frame's real length.

use std::borrow::Cow;
use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pcap_file::DataLink;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{PcapNgBlock, PcapNgWriter};
use weir_table::counters::Direction;
use weir_table::drops::{DropRecord, FRAME_BYTES};

use super::OK;
use super::interrupt::Interrupt;
use crate::live::Places;
use crate::live::drops::{Filter, Reader};

/// How often new records are looked for.
const PERIOD: Duration = Duration::from_millis(50);
/// Timestamps are in 10^-9 s: the exponent of if_tsresol.
const NANOSECONDS: u8 = 9;
/// Bits of an enhanced packet block's flags: the direction at the device.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Runs until Ctrl-C, --count or --duration. Open the file with wireshark, tshark or tcpdump:\n  \
tshark -r FILE -T fields -e frame.comment -e _ws.col.info\n\
Exit code: 0 written, 2 no dataplane has run here or the file cannot be written.")]
pub(super) struct Args {
    /// Capture dropped packets (there is nothing else to capture)
    #[arg(long, required = true)]
    drops: bool,
    /// The file to write, `-` for standard output; one that exists is overwritten
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    file: PathBuf,
    /// End after so many packets
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End after so long, for example 30s
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Begin with up to so many that are recorded already
    #[arg(long, value_name = "N", default_value_t = 0)]
    last: u64,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    places: Places,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let interrupt = Interrupt::new()?;
    let mut reader = Reader::new(&args.places.run_dir, args.last)?;
    let out = BufWriter::new(create(&args.file)?);
    let mut capture = Capture::new(out)?;
    let start = Instant::now();
    let (mut written, mut missed) = (0, 0);
    let mut done = args.count == Some(0);
    let left = || args.duration.map(|duration| duration.saturating_sub(start.elapsed()));
    // Asked for each record: under a lasting flood there is always one more.
    let over = || interrupt.came() || left().is_some_and(|left| left.is_zero());
    while !done {
        while !done && let Some((_, record)) = reader.read()? {
            if args.filter.wants(&record) {
                capture.write(&record)?;
                written += 1;
                done = args.count.is_some_and(|count| written >= count);
            }
            done |= over();
        }
        capture.flush()?;
        missed += reader.missed();
        done = done || over() || interrupt.within(left().map_or(PERIOD, |left| left.min(PERIOD)));
    }
    capture.flush()?;
    eprintln!("weir: {written} packets captured");
    if missed > 0 {
        eprintln!("weir: {missed} records were overwritten before they were read");
    }
    Ok(OK)
}

/// The file to write: readable by its owner alone, since it holds what pods send. So a file that
/// exists is replaced and not written over: others may read it, or have it open. What is no plain
/// file (a pipe, `/dev/null`) is opened as it is.
fn create(path: &Path) -> Result<Box<dyn Write>> {
    if path == Path::new("-") {
        let out = io::stdout();
        if io::IsTerminal::is_terminal(&out) {
            bail!(
                "a capture is not for a terminal: give -w FILE, or send it on: -w - | tshark -r -"
            );
        }
        return Ok(Box::new(out));
    }
    let failed = || format!("{} cannot be written", path.display());
    // Through links: the file that they lead to is replaced.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if fs::metadata(&target).is_ok_and(|metadata| !metadata.is_file()) {
        return Ok(Box::new(OpenOptions::new().write(true).open(&target).with_context(failed)?));
    }
    let name = target.file_name().with_context(failed)?.to_string_lossy();
    let aside = target.with_file_name(format!(".{name}.{}", std::process::id()));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside);
    let file = file.with_context(failed)?;
    if let Err(error) = fs::rename(&aside, &target) {
        // Nothing is in it yet.
        let _ = fs::remove_file(&aside);
        return Err(error).with_context(failed);
    }
    Ok(Box::new(file))
}

/// A pcapng file in the making.
struct Capture<W: Write> {
    writer: PcapNgWriter<W>,
    /// The interfaces described so far: index and name of the device.
    interfaces: Vec<(u32, String)>,
}

impl<W: Write> Capture<W> {
    fn new(out: W) -> Result<Self> {
        Ok(Self { writer: PcapNgWriter::new(out)?, interfaces: Vec::new() })
    }

    fn write(&mut self, record: &DropRecord) -> Result<()> {
        let interface_id = self.interface(record)?;
        let flags = if record.direction == Direction::Egress { INBOUND } else { OUTBOUND };
        let packet = EnhancedPacketBlock {
            interface_id,
            // In units of if_tsresol, as it happens those of a Duration.
            timestamp: Duration::from_nanos(record.wall_ns),
            original_len: record.frame_len,
            data: Cow::Borrowed(&record.frame),
            options: vec![
                EnhancedPacketOption::Comment(Cow::Owned(comment(record))),
                EnhancedPacketOption::Flags(flags),
                // No drop count: that would be those lost at this interface, and what was left
                // out is known by reason only. The comment says it.
            ],
        };
        self.writer.write_block(&packet.into_block())?;
        Ok(())
    }

    /// The number of a record's interface in the file; described when it first occurs.
    fn interface(&mut self, record: &DropRecord) -> Result<u32> {
        let device = match record.text.device.as_str() {
            "" => format!("ifindex {}", record.ifindex),
            name => name.to_owned(),
        };
        let key = (record.ifindex, device);
        let number = match self.interfaces.iter().position(|known| *known == key) {
            Some(number) => number,
            None => {
                let pod = or_dash(&record.text.pod);
                let options = vec![
                    InterfaceDescriptionOption::IfName(Cow::Owned(key.1.clone())),
                    InterfaceDescriptionOption::IfDescription(Cow::Owned(format!("pod {pod}"))),
                    InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
                ];
                let snaplen = u32::try_from(FRAME_BYTES)?;
                let block =
                    InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen, options };
                self.writer.write_block(&block.into_block())?;
                self.interfaces.push(key);
                self.interfaces.len() - 1
            }
        };
        Ok(u32::try_from(number)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.get_mut().flush()
    }
}

/// What is known of a drop, to be read and to be searched for.
fn comment(record: &DropRecord) -> String {
    let text = &record.text;
    let by = record.worker.map_or_else(|| "kernel".to_owned(), |worker| format!("worker-{worker}"));
    format!(
        "reason={} direction={} policy={} rule={} src_pod={} dst_pod={} pod={} generation={} by={by} left_out={}",
        text.reason,
        record.direction.as_str(),
        or_dash(&text.policy),
        or_dash(&text.rule),
        or_dash(&text.src_pod),
        or_dash(&text.dst_pod),
        or_dash(&text.pod),
        record.generation,
        record.left_out,
    )
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

#[cfg(test)]
mod tests {
    use pcap_file::pcapng::{Block, PcapNgReader};

    use super::*;
    use crate::live::drops::tests::denied;

    #[test]
    fn a_capture_holds_frames_times_devices_and_reasons() {
        let mut capture = Capture::new(Vec::new()).unwrap();
        let (first, mut second, mut third) = (denied(), denied(), denied());
        second.text.device = "veth2".into();
        second.ifindex = 13;
        second.direction = Direction::Egress;
        third.frame = vec![9; FRAME_BYTES];
        for record in [&first, &second, &third] {
            capture.write(record).unwrap();
        }
        let bytes = capture.writer.into_inner();
        let mut reader = PcapNgReader::new(&bytes[..]).unwrap();
        let (mut names, mut packets) = (Vec::new(), Vec::new());
        while let Some(block) = reader.next_block() {
            match block.unwrap().into_owned() {
                Block::InterfaceDescription(interface) => {
                    assert_eq!(interface.snaplen, 192);
                    let InterfaceDescriptionOption::IfName(name) = &interface.options[0] else {
                        panic!("{interface:?}")
                    };
                    assert!(interface.options.contains(&InterfaceDescriptionOption::IfTsResol(9)));
                    names.push(name.clone().into_owned());
                }
                Block::EnhancedPacket(packet) => packets.push(packet),
                _ => {}
            }
        }
        assert_eq!(names, ["veth1", "veth2"]);
        let ids: Vec<u32> = packets.iter().map(|packet| packet.interface_id).collect();
        assert_eq!(ids, [0, 1, 0]);
        for (packet, record) in packets.iter().zip([&first, &second, &third]) {
            assert_eq!(packet.data, record.frame);
            assert_eq!(packet.original_len, 1514);
            assert_eq!(packet.timestamp, Duration::from_nanos(record.wall_ns));
        }
        assert_eq!(
            packets[0].options[0],
            EnhancedPacketOption::Comment(
                "reason=policy_ingress direction=ingress policy=shop/deny,shop/web rule=- \
                 src_pod=shop/curl dst_pod=shop/web pod=shop/web generation=7 by=kernel left_out=3"
                    .into()
            )
        );
        assert_eq!(packets[0].options[1], EnhancedPacketOption::Flags(OUTBOUND));
        assert_eq!(packets[1].options[1], EnhancedPacketOption::Flags(INBOUND));
        // Comment and flags: a drop count is by interface, which nobody knows.
        assert!(packets.iter().all(|packet| packet.options.len() == 2));
    }

    #[test]
    fn a_file_that_exists_is_replaced_by_one_that_its_owner_alone_reads() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("a.pcapng"), dir.path().join("link"));
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        std::os::unix::fs::symlink("a.pcapng", &link).unwrap();
        let mut reader = fs::File::open(&path).unwrap();
        for name in [&path, &link] {
            create(name).unwrap().write_all(b"new").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let mut seen = String::new();
        io::Read::read_to_string(&mut reader, &mut seen).unwrap();
        assert_eq!(seen, "old", "who had it open reads what pods send");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "something is left aside");
        create(Path::new("/dev/null")).unwrap().write_all(b"x").unwrap();
        assert!(create(&dir.path().join("no/where")).is_err());
    }
}
