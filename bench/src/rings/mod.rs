//! How frames get to and from a device, past the kernel's sockets.

use std::fmt;

use serde::Serialize;

/// A way to and from a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// AF_XDP sockets behind a generic XDP program.
    AfXdp,
    /// AF_PACKET sockets.
    AfPacket,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AfXdp => "af_xdp",
            Self::AfPacket => "af_packet",
        })
    }
}
