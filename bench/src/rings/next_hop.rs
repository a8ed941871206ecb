//! Which hardware addresses the client's kernel would put on a frame.
//!
//! The kernel is asked by example: an ordinary socket sends a datagram to the server, and the
//! frame in which it leaves the device is looked at. So routes, gateways and neighbours of
//! either family are the kernel's own business.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::packet_socket::{PacketSocket, Use};
use crate::pktgen::addresses::Addresses;
use crate::pktgen::view::View;

/// The discard service (RFC 863): nobody answers.
const DISCARD: u16 = 9;
/// How long, and how often within it, the datagram is sent: resolving a neighbour takes a while.
const PATIENCE: Duration = Duration::from_secs(3);
const AGAIN: Duration = Duration::from_millis(100);

/// Own and next hop's hardware address for frames from `from` to `to` through `device`, in the
/// namespace of the calling thread. A `next_hop` that is given is not questioned. A range may be
/// routed to the client instead of being its own: then its kernel sends from whatever address it
/// takes for the way to `to`.
///
/// # Errors
/// When the device has no Ethernet address, or no frame leaves it.
pub fn addresses(
    device: &str,
    from: Addresses,
    to: IpAddr,
    next_hop: Option<[u8; 6]>,
) -> Result<([u8; 6], [u8; 6])> {
    let mut watch = PacketSocket::open(device, Use::Watch)
        .with_context(|| format!("cannot watch {device} (needs root)"))?;
    let own =
        watch.hardware_address()?.with_context(|| format!("{device} has no Ethernet address"))?;
    if let Some(next_hop) = next_hop {
        return Ok((own, next_hop));
    }
    let any = if to.is_ipv4() {
        IpAddr::from(Ipv4Addr::UNSPECIFIED)
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind(SocketAddr::new(from.first(), 0))
        .or_else(|why| match from.count() {
            1 => Err(why),
            _ => UdpSocket::bind(SocketAddr::new(any, 0)),
        })
        .with_context(|| format!("{from} is no address of the client"))?;
    socket
        .connect(SocketAddr::new(to, DISCARD))
        .with_context(|| format!("the client has no route to {to}"))?;
    let from = socket.local_addr()?.ip();
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        match socket.send(&[0; 12]) {
            // An ICMP error that an earlier one provoked.
            Ok(_) => {}
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable
                ) => {}
            Err(e) => return Err(e).with_context(|| format!("the client cannot send to {to}")),
        }
        if let Some(found) = left(&mut watch, from, to)? {
            return Ok(found);
        }
    }
    bail!(
        "no frame to {to} leaves {device} within {PATIENCE:?}: does the next hop answer? \
         --next-hop MAC names it"
    )
}

/// The hardware addresses of a frame from `from` to `to` that leaves within [`AGAIN`].
fn left(watch: &mut PacketSocket, from: IpAddr, to: IpAddr) -> Result<Option<([u8; 6], [u8; 6])>> {
    let start = Instant::now();
    let mut found = None;
    while found.is_none() && start.elapsed() < AGAIN {
        watch.wait(Duration::from_millis(10))?;
        watch.receive(&mut |frame, _| {
            if let Some(view) = View::of(frame)
                && (view.ends.from, view.ends.to) == (from, to)
                && view.ports.1 == DISCARD
            {
                found = Some((view.ends.from_mac, view.ends.to_mac));
            }
        })?;
    }
    Ok(found)
}
