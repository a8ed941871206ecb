//! weir0, the device through which undecided packets reach the workers: one end of a veth
//! pair whose other end AF_XDP sockets read, or a TAP device.
//!
//! | | AF_XDP | TAP |
//! |---|---|---|
//! | small packets | cheaper: a burst costs a system call | a system call each |
//! | bulk | cut into segments before a worker sees it | whole, up to 64 KiB |
//! | pods' MTU | up to [`veth::MAX_POD_MTU`] | any |
//!
//! With offload, only the first packets of flows come this way, and AF_XDP is the better
//! one. Which it is, is chosen once, at the start ([`choose`]).

pub mod tap;
pub mod veth;

use std::fs;
use std::io;

use crate::netlink::Netlink;

/// What was asked for (`--io`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum IoMode {
    /// AF_XDP where it can carry the pods' packets, else TAP
    Auto,
    /// AF_XDP sockets on a veth pair
    #[value(name = "af_xdp")]
    AfXdp,
    /// A TAP device, GSO packets whole
    Tap,
}

/// How packets reach user space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// AF_XDP sockets on a veth pair.
    AfXdp,
    /// A multi-queue TAP device.
    Tap,
}

impl Backend {
    /// The name that `--io` takes.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AfXdp => "af_xdp",
            Self::Tap => "tap",
        }
    }
}

/// The backend for what was asked, and why. `largest_mtu` is that of any device of the node,
/// in bytes: pods may come later; `has_af_xdp` whether the kernel has such sockets.
pub fn choose(mode: IoMode, largest_mtu: u32, has_af_xdp: bool) -> (Backend, String) {
    let limit = veth::MAX_POD_MTU;
    match mode {
        IoMode::AfXdp => (Backend::AfXdp, "as --io says".to_owned()),
        IoMode::Tap => (Backend::Tap, "as --io says".to_owned()),
        IoMode::Auto if !has_af_xdp => {
            (Backend::Tap, "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)".to_owned())
        }
        IoMode::Auto if largest_mtu > limit => (
            Backend::Tap,
            format!(
                "a device here has an MTU of {largest_mtu}, and AF_XDP on a veth carries at most \
                 {limit} bytes"
            ),
        ),
        IoMode::Auto => {
            (Backend::AfXdp, "the kernel has it and it carries every pod's MTU".to_owned())
        }
    }
}

/// Whether the kernel has AF_XDP sockets.
pub fn kernel_has_af_xdp() -> bool {
    use rustix::io::Errno;
    use rustix::net::{AddressFamily, SocketType, socket};
    !matches!(
        socket(AddressFamily::XDP, SocketType::RAW, None),
        Err(Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT)
    )
}

/// Removes what an earlier daemon may have left under weir0's name, and nothing else.
async fn remove_leftover(netlink: &Netlink, name: &str) -> io::Result<()> {
    let Some(old) = netlink.links().await?.into_iter().find(|link| link.name == name) else {
        return Ok(());
    };
    let has_address = netlink.addresses().await?.iter().any(|a| a.index == old.index);
    if !(old.veth || old.tun) || old.master || has_address {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!(
                "there is a device {name} that is not Weir's (it has an address, a master or \
                 another type); choose another name with --device-prefix"
            ),
        ));
    }
    netlink.delete(old.index).await
}

/// `/proc/sys/net` shows the namespace of the thread that opens it. A node without
/// IPv6 has no such file; a read-only `/proc/sys` costs a few frames that carry no
/// shim and are counted as such.
fn disable_ipv6(device: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6");
    if let Err(e) = fs::write(&path, "1")
        && e.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(device, error = %e, "cannot turn IPv6 off on the punt device");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_and_why() {
        let jumbo = 9000;
        for (mode, mtu, has_af_xdp, backend, reason) in [
            (IoMode::Auto, 1500, true, Backend::AfXdp, "carries every pod's MTU"),
            (IoMode::Auto, veth::MAX_POD_MTU, true, Backend::AfXdp, "carries every"),
            (IoMode::Auto, veth::MAX_POD_MTU + 1, true, Backend::Tap, "at most 3490"),
            (IoMode::Auto, jumbo, true, Backend::Tap, "an MTU of 9000"),
            (IoMode::Auto, 1500, false, Backend::Tap, "no AF_XDP"),
            (IoMode::AfXdp, jumbo, true, Backend::AfXdp, "--io"),
            (IoMode::Tap, 1500, true, Backend::Tap, "--io"),
        ] {
            let (chosen, why) = choose(mode, mtu, has_af_xdp);
            assert_eq!(chosen, backend, "{mode:?} {mtu} {has_af_xdp}");
            assert!(why.contains(reason), "{mode:?} {mtu} {has_af_xdp}: {why}");
        }
    }
}
