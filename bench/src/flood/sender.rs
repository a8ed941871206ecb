//! Sends packets in batches, a system call for [`BATCH`] of them.

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::net::{
    AddressFamily, MMsgHdr, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, connect,
    ipproto, sendmmsg, socket_with,
};

use super::frames::Flows;
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

/// One flow through an ordinary, connected UDP socket.
#[derive(Debug)]
pub struct Connected {
    socket: UdpSocket,
    payloads: Vec<Vec<u8>>,
}

impl Connected {
    /// Sends `payload` bytes a packet.
    pub fn new(socket: UdpSocket, payload: usize) -> Self {
        Self { socket, payloads: vec![vec![0; payload]; BATCH] }
    }
}

impl Sender for Connected {
    fn send(&mut self, count: u32) -> Result<()> {
        in_batches(count, |batch| sendmmsg_all(&self.socket, &self.payloads[..batch]))
    }
}

/// Many flows in turn, through a raw socket.
#[derive(Debug)]
pub struct Raw {
    socket: OwnedFd,
    flows: Flows,
    answer: bool,
    next: u32,
    frames: Vec<Vec<u8>>,
}

impl Raw {
    /// A sender in `place`, of the flows' packets or of answers to them.
    ///
    /// # Errors
    /// When a raw socket cannot be had (needs `CAP_NET_RAW`).
    pub fn new(place: &Place, flows: Flows, to: SocketAddr, answer: bool) -> Result<Self> {
        let socket = place.within(|| {
            let socket = socket_with(
                AddressFamily::INET,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                Some(ipproto::RAW),
            )
            .context("cannot make a raw socket")?;
            connect(&socket, &to).with_context(|| format!("no route to {to}"))?;
            Ok(socket)
        })?;
        Ok(Self { socket, flows, answer, next: 0, frames: vec![flows.template(answer); BATCH] })
    }

    /// Makes a flow the next one to be sent.
    pub fn seek(&mut self, flow: u32) {
        self.next = flow % self.flows.count();
    }
}

impl Sender for Raw {
    fn send(&mut self, count: u32) -> Result<()> {
        in_batches(count, |batch| {
            for frame in &mut self.frames[..batch] {
                self.flows.patch(frame, self.next, self.answer);
                self.next += 1;
                if self.next == self.flows.count() {
                    self.next = 0;
                }
            }
            sendmmsg_all(&self.socket, &self.frames[..batch])
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
fn sendmmsg_all(socket: impl AsFd, frames: &[Vec<u8>]) -> Result<()> {
    let slices: Vec<[IoSlice<'_>; 1]> = frames.iter().map(|frame| [IoSlice::new(frame)]).collect();
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
