//! What a frame of a family and protocol looks like.

use super::plan::Protocol;
use super::size::FCS;

/// Bytes of a label: what a frame carries to be counted.
const LABEL: usize = 12;

const ETHERNET: usize = 14;

/// Where things are in a frame of one family and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Where the transport header begins.
    pub transport: usize,
    /// Where its payload begins.
    pub payload: usize,
}

impl Layout {
    /// The layout of a data frame: no options, no extension headers.
    pub const fn new(ipv6: bool, protocol: Protocol) -> Self {
        let transport = ETHERNET + if ipv6 { 40 } else { 20 };
        let header = match protocol {
            Protocol::Udp => 8,
            Protocol::Tcp => 20,
            // Common header, and the header of a DATA chunk.
            Protocol::Sctp => 12 + 16,
        };
        Self { transport, payload: transport + header }
    }

    /// The least size of a frame, FCS included, that has room for a label: 64 bytes for UDP over
    /// IPv4 (Ethernet's own minimum), 78 for UDP over IPv6, and more for the others.
    pub const fn least_frame(self) -> usize {
        let needed = self.payload + LABEL + FCS;
        if needed < 64 { 64 } else { needed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_sizes_are_those_of_the_book() {
        let least = |ipv6, protocol| Layout::new(ipv6, protocol).least_frame();
        assert_eq!([least(false, Protocol::Udp), least(true, Protocol::Udp)], [64, 78]);
        assert_eq!([least(false, Protocol::Tcp), least(true, Protocol::Tcp)], [70, 90]);
        assert_eq!([least(false, Protocol::Sctp), least(true, Protocol::Sctp)], [78, 98]);
    }
}
