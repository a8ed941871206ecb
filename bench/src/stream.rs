//! Sends a stream of numbered messages over UDP at a steady rate, by an ordinary socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::message::{MIN_SIZE, Message};
use crate::monotonic_ns;
use crate::pacer::Pacer;

/// How often, and at what distance, the end of a stream is announced: often
/// enough that one lost packet does not hide it.
const END_MARKS: u32 = 5;
const END_MARK_DISTANCE: Duration = Duration::from_millis(20);

/// What to send.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Receiver.
    pub to: SocketAddr,
    /// Own address and port; `None` lets the kernel choose.
    pub from: Option<SocketAddr>,
    /// Messages a second; 0 for as many as the socket takes.
    pub rate: f64,
    /// Stop after so many messages.
    pub count: Option<u64>,
    /// Stop after this time.
    pub duration: Option<Duration>,
    /// Bytes of UDP payload, from [`MIN_SIZE`] up.
    pub size: usize,
}

/// What was sent.
#[derive(Clone, Debug, Serialize)]
pub struct Sent {
    /// The stream's number, also in each message.
    pub stream: u64,
    /// Messages given to the kernel.
    pub sent: u64,
    /// Messages that the kernel refused (counted in `sent` too: for the receiver
    /// they are lost).
    pub refused: u64,
    /// Time from the first to the last message, in seconds.
    pub seconds: f64,
    /// Messages a second that came of it.
    pub rate: f64,
}

/// Sends the stream, then its end marks.
///
/// A message that the kernel refuses (no buffer, an ICMP error from an earlier
/// one) is counted and not repeated.
///
/// # Errors
/// When the plan is contradictory or the socket cannot be had.
pub fn run(plan: &Plan) -> Result<Sent> {
    ensure!(plan.size >= MIN_SIZE, "a message needs at least {MIN_SIZE} bytes, not {}", plan.size);
    ensure!(plan.rate >= 0.0, "the rate cannot be negative");
    ensure!(
        plan.count.is_some() || plan.duration.is_some(),
        "say when to stop: a count, a duration or both"
    );
    let own = plan.from.unwrap_or_else(|| unspecified(plan.to.ip()));
    let socket = UdpSocket::bind(own).with_context(|| format!("cannot bind {own}"))?;
    socket.connect(plan.to).with_context(|| format!("no route to {}", plan.to))?;

    let stream = monotonic_ns();
    let mut payload = vec![0_u8; plan.size];
    let mut refused = 0;
    let mut number = 0;
    let pacer = Pacer::new(plan.rate);
    while plan.count.is_none_or(|count| number < count)
        && plan.duration.is_none_or(|duration| pacer.elapsed() < duration)
    {
        pacer.wait(number);
        let message = Message { stream, number, sent_ns: monotonic_ns(), total: 0 };
        message.write(&mut payload);
        refused += u64::from(socket.send(&payload).is_err());
        number += 1;
    }
    let seconds = pacer.elapsed().as_secs_f64();

    for _ in 0..END_MARKS {
        std::thread::sleep(END_MARK_DISTANCE);
        let end = Message { stream, number, sent_ns: monotonic_ns(), total: number };
        end.write(&mut payload);
        let _ = socket.send(&payload); // repeated, and its loss only delays the receiver
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = number as f64 / seconds;
    Ok(Sent { stream, sent: number, refused, seconds, rate })
}

/// The unspecified address of the same family, any port.
fn unspecified(peer: IpAddr) -> SocketAddr {
    match peer {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
