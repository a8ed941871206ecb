//! The frames of a capture, as templates.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::{Block, PcapNgReader};

use super::frame::Template;
use super::view::Ends;

/// First bytes of a pcapng file.
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// Frames that are taken: more would not fit into any cache and only measure memory.
const MOST: usize = 1 << 20;

/// What a capture gives to be sent.
#[derive(Debug)]
pub struct Replay {
    /// In the order of the capture; never empty.
    pub frames: Vec<Template>,
    /// Frames that cannot be sent: of another family or protocol, fragments, cut off, without
    /// room for a label.
    pub skipped: u64,
}

/// Reads a capture of Ethernet frames, pcap or pcapng, for sending between `ends`.
///
/// # Errors
/// When it is no such capture, or none of its frames can be sent.
pub fn read(path: &Path, ends: Ends) -> Result<Replay> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut magic = [0; 4];
    let mut captured = 0;
    let mut frames = Vec::new();
    let mut take = |frame: &[u8]| {
        captured += 1;
        if frames.len() < MOST {
            frames.extend(Template::captured(frame, ends));
        }
    };
    file.read_exact(&mut magic).with_context(|| format!("{} is no capture", path.display()))?;
    file.rewind()?;
    let read = if magic == PCAPNG { pcapng } else { pcap };
    read(BufReader::new(file), &mut take)
        .with_context(|| format!("{} cannot be read as a capture", path.display()))?;
    let skipped = captured - frames.len() as u64;
    ensure!(
        !frames.is_empty(),
        "none of the {captured} frames of {} can be sent: they must be UDP, TCP or SCTP of the \
         same family as --from, whole, and have 12 bytes of payload",
        path.display()
    );
    Ok(Replay { frames, skipped })
}

fn pcap(file: BufReader<File>, take: &mut dyn FnMut(&[u8])) -> Result<()> {
    let mut reader = PcapReader::new(file)?;
    ethernet(reader.header().datalink)?;
    while let Some(packet) = reader.next_packet() {
        take(&packet?.data);
    }
    Ok(())
}

fn pcapng(file: BufReader<File>, take: &mut dyn FnMut(&[u8])) -> Result<()> {
    let mut reader = PcapNgReader::new(file)?;
    while let Some(block) = reader.next_block() {
        match block? {
            Block::InterfaceDescription(interface) => ethernet(interface.linktype)?,
            Block::EnhancedPacket(packet) => take(&packet.data),
            Block::SimplePacket(packet) => take(&packet.data),
            _ => {}
        }
    }
    Ok(())
}

fn ethernet(link: DataLink) -> Result<()> {
    if link != DataLink::ETHERNET {
        bail!("it holds frames of {link:?}, not of Ethernet");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::label::{Label, Step};
    use etherparse::PacketBuilder;
    use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
    use proptest::prelude::*;
    use std::io::Write;
    use std::time::Duration;
    use tempfile::NamedTempFile;

    fn ends() -> Ends {
        Ends {
            from_mac: [2; 6],
            to_mac: [4; 6],
            from: [10, 0, 0, 1].into(),
            to: [10, 0, 0, 2].into(),
        }
    }

    fn datagram(port: u16, payload: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([1; 6], [1; 6])
            .ipv4([192, 0, 2, 1], [192, 0, 2, 2], 9)
            .udp(port, 53)
            .write(&mut frame, &vec![1; payload])
            .unwrap();
        frame
    }

    fn capture(datalink: DataLink, frames: &[Vec<u8>]) -> NamedTempFile {
        let file = NamedTempFile::new().unwrap();
        let header = PcapHeader { datalink, ..PcapHeader::default() };
        let mut writer = PcapWriter::with_header(file.reopen().unwrap(), header).unwrap();
        for frame in frames {
            let length = u32::try_from(frame.len()).unwrap();
            writer.write_packet(&PcapPacket::new(Duration::ZERO, length, frame)).unwrap();
        }
        file
    }

    #[test]
    fn frames_come_in_order_and_what_cannot_be_sent_is_counted() {
        let frames = [datagram(1, 40), datagram(2, 11), vec![0; 60], datagram(3, 12)];
        let file = capture(DataLink::ETHERNET, &frames);
        let replay = read(file.path(), ends()).unwrap();
        assert_eq!((replay.frames.len(), replay.skipped), (2, 2));
        let sent: Vec<_> = replay
            .frames
            .iter()
            .map(|template| {
                let mut out = [0; 200];
                let length = template.write(&mut out, (0, 0), &Label::new(1, Step::Count, 0, 0));
                crate::pktgen::view::View::of(&out[..length]).unwrap()
            })
            .collect();
        assert_eq!([sent[0].ports, sent[1].ports], [(1, 53), (3, 53)]);
        assert!(sent.iter().all(|view| view.ends == ends()));
    }

    #[test]
    fn what_is_no_capture_or_holds_nothing_is_told() {
        let told = |file: &NamedTempFile| format!("{:#}", read(file.path(), ends()).unwrap_err());
        let empty = NamedTempFile::new().unwrap();
        assert!(told(&empty).contains("no capture"), "{}", told(&empty));
        let raw = capture(DataLink::RAW, &[datagram(1, 40)]);
        assert!(told(&raw).contains("not of Ethernet"), "{}", told(&raw));
        let small = capture(DataLink::ETHERNET, &[datagram(1, 1)]);
        assert!(told(&small).contains("none of the 1 frames"), "{}", told(&small));
    }

    proptest! {
        #[test]
        fn arbitrary_files_are_refused_or_read(magic in 0..3_usize, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut file = NamedTempFile::new().unwrap();
            file.write_all(&[&[0xd4, 0xc3, 0xb2, 0xa1], &PCAPNG, &[0; 4]][magic][..]).unwrap();
            file.write_all(&bytes).unwrap();
            let _ = read(file.path(), ends());
        }
    }
}
