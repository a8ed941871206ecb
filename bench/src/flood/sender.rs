//! Sends packets in batches, a system call for [`BATCH`] of them.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::net::{
    AddressFamily, MMsgHdr, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, connect,
    ipproto, sendmmsg, socket_with,
};

use super::frames::{Flows, Packet};
use crate::place::Place;

/// Packets for one system call.
const BATCH: usize = 64;

/// A source of packets.
pub trait Sender {
    /// Sends exactly `count` packets.
    ///
    /// # Errors
    /// When the kernel refuses one.
    fn send(&mut self, count: u32) -> Result<()>;
}

/// Sizes of a mix come in turn, however the packets are batched: packets are made for so many
/// that the turn comes out even, and a batch more, so that each begins anywhere among them.
#[derive(Debug)]
struct Turn {
    at: usize,
    period: usize,
}

impl Turn {
    /// The payloads to make, and the turn among them.
    fn of(payloads: &[usize]) -> (Self, impl Iterator<Item = usize>) {
        let period = payloads.len().max(1);
        let made = period + BATCH;
        (Self { at: 0, period }, payloads.iter().copied().cycle().take(made))
    }

    /// The packets of the next batch, of at most [`BATCH`].
    fn next(&mut self, batch: usize) -> Range<usize> {
        let from = self.at;
        self.at = (self.at + batch) % self.period;
        from..from + batch
    }
}

/// One flow through an ordinary, connected UDP socket.
#[derive(Debug)]
pub struct Connected {
    socket: UdpSocket,
    payloads: Vec<Vec<u8>>,
    turn: Turn,
}

impl Connected {
    /// Sends packets with so many bytes of payload, in turn.
    pub fn new(socket: UdpSocket, payloads: &[usize]) -> Self {
        let (turn, made) = Turn::of(payloads);
        Self { socket, payloads: made.map(|bytes| vec![0; bytes]).collect(), turn }
    }
}

impl Sender for Connected {
    fn send(&mut self, count: u32) -> Result<()> {
        in_batches(count, |batch| sendmmsg_all(&self.socket, &self.payloads[self.turn.next(batch)]))
    }
}

/// Many flows in turn, through a raw socket.
#[derive(Debug)]
pub struct Raw {
    socket: OwnedFd,
    flows: Flows,
    answer: bool,
    next: u32,
    packets: Vec<Packet>,
    turn: Turn,
}

impl Raw {
    /// A sender in `place`, of the flows' packets or of answers to them, with so many bytes of
    /// payload in turn.
    ///
    /// # Errors
    /// When a raw socket cannot be had (needs `CAP_NET_RAW`).
    pub fn new(
        place: &Place,
        flows: Flows,
        payloads: &[usize],
        to: IpAddr,
        answer: bool,
    ) -> Result<Self> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = place.within(|| {
            // With this protocol, packets bring their IP header (raw(7), ipv6(7)).
            let socket =
                socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW))
                    .context("cannot make a raw socket")?;
            connect(&socket, &SocketAddr::new(to, 0))
                .with_context(|| format!("no route to {to}"))?;
            Ok(socket)
        })?;
        let (turn, made) = Turn::of(payloads);
        let packets = made.map(|bytes| flows.packet(bytes, answer)).collect();
        Ok(Self { socket, flows, answer, next: 0, packets, turn })
    }

    /// Makes a flow the next one to be sent.
    pub fn seek(&mut self, flow: u32) {
        self.next = flow % self.flows.count();
    }
}

impl Sender for Raw {
    fn send(&mut self, count: u32) -> Result<()> {
        in_batches(count, |batch| {
            let packets = &mut self.packets[self.turn.next(batch)];
            for packet in &mut *packets {
                self.flows.patch(packet, self.next, self.answer);
                self.next += 1;
                if self.next == self.flows.count() {
                    self.next = 0;
                }
            }
            sendmmsg_all(&self.socket, packets)
        })
    }
}

/// Splits `count` into batches.
fn in_batches(count: u32, mut send: impl FnMut(usize) -> Result<()>) -> Result<()> {
    let mut left = usize::try_from(count)?;
    while left > 0 {
        let batch = left.min(BATCH);
        send(batch)?;
        left -= batch;
    }
    Ok(())
}

/// Sends every one of `frames`, at most [`BATCH`].
fn sendmmsg_all(socket: impl AsFd, frames: &[impl AsRef<[u8]>]) -> Result<()> {
    let slices: Vec<[IoSlice<'_>; 1]> =
        frames.iter().map(|frame| [IoSlice::new(frame.as_ref())]).collect();
    let mut controls = [(); BATCH].map(|()| SendAncillaryBuffer::default());
    let mut messages: Vec<MMsgHdr<'_>> = slices
        .iter()
        .zip(&mut controls)
        .map(|(slice, control)| MMsgHdr::new(slice, control))
        .collect();
    let mut sent = 0;
    while sent < messages.len() {
        // At least one, or an error: the loop ends.
        sent += sendmmsg(&socket, &mut messages[sent..], SendFlags::empty())
            .context("the kernel refused a packet")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_keep_their_turn_whatever_the_batches() {
        let payloads = [18, 500, 18, 18, 1400];
        let (mut turn, made) = Turn::of(&payloads);
        let made: Vec<usize> = made.collect();
        let mut sent = Vec::new();
        for batch in [64, 64, 1, 17, 64, 3, 64] {
            sent.extend_from_slice(&made[turn.next(batch)]);
        }
        assert!(sent.iter().eq(payloads.iter().cycle().take(277)), "{sent:?}");
    }
}
