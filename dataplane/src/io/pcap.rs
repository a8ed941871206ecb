//! A capture as a [`PacketIo`]: frames from a pcap file in, accepted ones to another.
//!
//! Replays what was captured on pods' host-side devices (plain Ethernet) through the
//! pipeline, without privileges. The shim that steering would have put in front follows
//! from the endpoints ([`PcapIo::new`]); it is taken off again before writing, so input
//! and output can be compared packet by packet.
//!
//! Frames that the capture cut short (snap length) are dropped and counted
//! (`rx_truncated`): a backend hands out complete frames only. A burst never spans more
//! time than a tick of the flow table, so that a replay can pass on the time of the
//! capture ([`PcapIo::next_time`]).
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::{DataLink, PcapError};
use thiserror::Error;
use weir_table::flow::layout::TICK_SHIFT;

use super::{BURST, IoStats, PacketIo};
use crate::endpoints::Endpoints;
use crate::frame::Frame;
use crate::parse;
use crate::shim::{Direction, Shim};

/// Why a capture cannot be replayed.
#[derive(Debug, Error)]
pub enum PcapIoError {
    /// Not a pcap file, or not writable.
    #[error("the capture cannot be read or the output not be written: {0}")]
    Format(#[from] PcapError),
    /// Something other than Ethernet was captured.
    #[error(
        "the capture holds {0:?} frames, Weir needs Ethernet: capture on the pod's \
         host-side device, not on `any`"
    )]
    DataLink(DataLink),
}

/// A frame read from the capture, with its shim in front.
#[derive(Debug, Default)]
struct Captured {
    time: Duration,
    data: Vec<u8>,
}

/// Replays a capture.
#[derive(Debug)]
pub struct PcapIo<R: Read, W: Write> {
    reader: PcapReader<R>,
    writer: PcapWriter<W>,
    endpoints: Endpoints,
    captured_on: u32,
    /// The next frame, read ahead for its time.
    ahead: Option<Captured>,
    burst: Vec<Captured>,
    spare: Vec<Captured>,
    plain: Vec<u8>,
    /// When the last frame was captured that was handed out.
    time: Duration,
    stats: IoStats,
}

impl<R: Read, W: Write> PcapIo<R, W> {
    /// Reads from `input`, writes what is accepted to `output`.
    ///
    /// `captured_on` is the ifindex of the device on which the capture was made: frames
    /// whose source that endpoint owns are leaving it, all others entering it. If it is 0
    /// the capture may be of several devices: a frame is leaving the endpoint of its
    /// source, or else entering that of its destination; one that concerns no endpoint
    /// carries ifindex 0.
    ///
    /// # Errors
    /// [`PcapIoError`].
    pub fn new(
        input: R,
        output: W,
        endpoints: Endpoints,
        captured_on: u32,
    ) -> Result<Self, PcapIoError> {
        let reader = PcapReader::new(input)?;
        let header = reader.header();
        if header.datalink != DataLink::ETHERNET {
            return Err(PcapIoError::DataLink(header.datalink));
        }
        let writer = PcapWriter::with_header(
            output,
            PcapHeader { endianness: pcap_file::Endianness::native(), ..header },
        )?;
        Ok(Self {
            reader,
            writer,
            endpoints,
            captured_on,
            ahead: None,
            burst: Vec::with_capacity(BURST),
            spare: Vec::new(),
            plain: Vec::new(),
            time: Duration::ZERO,
            stats: IoStats::default(),
        })
    }

    /// When the next frame was captured; `None` at the end.
    ///
    /// # Errors
    /// When the file is broken there.
    pub fn next_time(&mut self) -> io::Result<Option<Duration>> {
        self.read_ahead()?;
        Ok(self.ahead.as_ref().map(|frame| frame.time))
    }

    /// Ends the replay and gives the output back.
    ///
    /// # Errors
    /// When the output cannot be flushed.
    pub fn finish(self) -> io::Result<W> {
        let mut output = self.writer.into_writer();
        output.flush()?;
        Ok(output)
    }

    fn read_ahead(&mut self) -> io::Result<()> {
        while self.ahead.is_none() {
            let Some(packet) = self.reader.next_packet() else { return Ok(()) };
            let packet = packet.map_err(io_error)?;
            if usize::try_from(packet.orig_len).is_ok_and(|length| length > packet.data.len()) {
                self.stats.rx_truncated += 1;
                continue;
            }
            let shim = shim_for(&self.endpoints, self.captured_on, &packet.data);
            let mut frame = self.spare.pop().unwrap_or_default();
            frame.time = packet.timestamp;
            frame.data.clear();
            shim.push_punted(&packet.data, &mut frame.data);
            self.ahead = Some(frame);
        }
        Ok(())
    }

    fn write(&mut self, time: Duration, frame: &[u8]) -> io::Result<()> {
        self.plain.clear();
        Shim::strip_accepted(frame, &mut self.plain).map_err(io::Error::other)?;
        let length = u32::try_from(self.plain.len()).map_err(io::Error::other)?;
        let packet = PcapPacket::new(time, length, &self.plain);
        self.writer.write_packet(&packet).map_err(io_error)?;
        self.stats.tx_frames += 1;
        self.stats.tx_bytes += frame.len() as u64;
        Ok(())
    }
}

fn io_error(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    }
}

/// The shim that steering would have made.
fn shim_for(endpoints: &Endpoints, captured_on: u32, ethernet: &[u8]) -> Shim {
    let tuple = parse::parse(ethernet).ok().map(|packet| packet.tuple);
    let sender = tuple.and_then(|tuple| endpoints.by_address(tuple.src));
    let receiver = tuple.and_then(|tuple| endpoints.by_address(tuple.dst));
    match (sender, receiver) {
        (Some(sender), _) if captured_on == 0 || sender.ifindex == captured_on => {
            Shim::new(sender.ifindex, Direction::FromPod)
        }
        (_, Some(receiver)) if captured_on == 0 => Shim::new(receiver.ifindex, Direction::ToPod),
        _ => Shim::new(captured_on, Direction::ToPod),
    }
}

impl<R: Read, W: Write> PacketIo for PcapIo<R, W> {
    fn burst<F: FnMut(&mut [Frame<'_>])>(&mut self, mut f: F) -> io::Result<usize> {
        let tick = |time: Duration| time.as_nanos() >> TICK_SHIFT;
        while self.burst.len() < BURST {
            self.read_ahead()?;
            let Some(next) = &self.ahead else { break };
            if self.burst.first().is_some_and(|first| tick(first.time) != tick(next.time)) {
                break;
            }
            self.burst.extend(self.ahead.take());
        }
        let count = self.burst.len();
        if count == 0 {
            return Ok(0);
        }
        let mut accepted = [false; BURST];
        {
            let mut frames: [Frame<'_>; BURST] = std::array::from_fn(|_| Frame::new(&mut []));
            for (frame, read) in frames.iter_mut().zip(&mut self.burst) {
                *frame = Frame::new(&mut read.data);
            }
            let (frames, _) = frames.split_at_mut(count);
            f(frames);
            for (accepted, frame) in accepted.iter_mut().zip(frames) {
                *accepted = frame.accept;
            }
        }
        let mut burst = std::mem::take(&mut self.burst);
        for (frame, accepted) in burst.drain(..).zip(accepted) {
            self.stats.rx_frames += 1;
            self.stats.rx_bytes += frame.data.len() as u64;
            self.time = frame.time;
            if accepted {
                self.write(frame.time, &frame.data)?;
            }
            self.spare.push(frame);
        }
        self.burst = burst;
        Ok(count)
    }

    fn send<'f>(&mut self, mut frames: impl Iterator<Item = &'f [u8]>) -> io::Result<()> {
        frames.try_for_each(|frame| self.write(self.time, frame))
    }

    /// A file never makes anyone wait.
    fn wait(&mut self, _timeout: Duration) -> io::Result<()> {
        Ok(())
    }

    fn stats(&mut self) -> IoStats {
        self.stats
    }
}
