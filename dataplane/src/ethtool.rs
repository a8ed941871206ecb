//! The two ethtool switches that the punt device needs off.
//!
//! A packet that leaves through weir0 must be complete: checksums filled in, segments
//! cut. A veth claims to do both and passes the work on; with `tx-checksum` off the
//! kernel does it before the packet reaches weir1 (turning it off takes TSO and UDP
//! segmentation with it). Left on, every frame that a worker sees carries a bad checksum.
//!
//! SIOCETHTOOL is an ioctl with a pointer inside, hence `unsafe`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_STSO: u32 = 0x1f;

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct Value {
    cmd: u32,
    data: u32,
}

/// The part of `struct ifreq` that SIOCETHTOOL reads, padded to its full size.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    data: *mut Value,
    padding: [u8; 16],
}

/// Turns transmit checksum offload and segmentation offload of a device off. The
/// device is looked up in the calling thread's network namespace.
///
/// # Errors
/// `ENODEV` when there is no such device, `EPERM` without CAP_NET_ADMIN, and
/// [`io::ErrorKind::InvalidInput`] for a name that is no interface name.
pub fn disable_transmit_offloads(device: &str) -> io::Result<()> {
    let mut name = [0; libc::IFNAMSIZ];
    if device.len() >= name.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{device:?} is longer than an interface name can be"),
        ));
    }
    name[..device.len()].copy_from_slice(device.as_bytes());
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    for cmd in [ETHTOOL_STSO, ETHTOOL_STXCSUM] {
        let mut value = Value { cmd, data: 0 };
        let mut request = Request { name, data: &raw mut value, padding: [0; 16] };
        // SAFETY: `request` is at least as large as struct ifreq, its name ends in NUL,
        // and its pointer leads to a struct ethtool_value that outlives the call, which
        // is what these two commands read.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
