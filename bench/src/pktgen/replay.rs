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
