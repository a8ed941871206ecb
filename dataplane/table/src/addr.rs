//! [`Address`]: one integer type for both address families.
//!
//! An IPv4 address is held in its IPv4-mapped IPv6 form (`::ffff:a.b.c.d`,
//! RFC 4291 section 2.5.5.2). One type then serves the flow table, the address
//! map and the prefix search. The two families cannot collide as long as packets
//! whose *IPv6 header* carries a mapped address are refused; the packet parser
//! does that, since such addresses must not appear on the wire (RFC 4038
//! section 4.2, draft-itojun-v6ops-v4mapped-harmful).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// The upper 96 bits of every IPv4 address in mapped form.
const V4_PREFIX: u128 = 0xffff_0000_0000;
/// The same in the upper half of an address's lower word.
const V4_MARK: u64 = 0xffff;

/// An IPv4 or IPv6 address in 128 bits, in host order (so that numeric order is
/// address order within a family).
///
/// Aligned as a 64-bit word: 128-bit alignment would make a flow's key half as large again,
/// and nothing quicker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(Rust, packed(8))]
pub struct Address(u128);

impl Address {
    /// An IPv4 address from its four octets as they stand in the packet.
    #[inline]
    pub const fn v4(octets: [u8; 4]) -> Address {
        Address(V4_PREFIX | u32::from_be_bytes(octets) as u128)
    }

    /// An IPv6 address from its sixteen octets as they stand in the packet.
    ///
    /// An IPv4-mapped address becomes the IPv4 address: a caller that reads
    /// packets refuses those first (see the module's text).
    #[inline]
    pub const fn v6(octets: [u8; 16]) -> Address {
        Address(u128::from_be_bytes(octets))
    }

    /// The address from its 128 bits in host order, mapped form.
    #[inline]
    pub const fn from_bits(bits: u128) -> Address {
        Address(bits)
    }

    /// The 128 bits in host order, mapped form.
    #[inline]
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// The upper and the lower 64 bits, for tables made of 64-bit words.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // splitting is the purpose
    pub const fn to_words(self) -> (u64, u64) {
        ((self.0 >> 64) as u64, self.0 as u64)
    }

    /// The address from its upper and its lower 64 bits.
    #[inline]
    pub const fn from_words(high: u64, low: u64) -> Address {
        Address(((high as u128) << 64) | low as u128)
    }

    /// Whether this is an IPv4 address.
    #[inline]
    pub const fn is_v4(self) -> bool {
        let (high, low) = self.to_words();
        high == 0 && low >> 32 == V4_MARK
    }

    /// The 32 bits of an IPv4 address in host order; `None` for IPv6.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // the upper bits are the prefix
    pub const fn v4_bits(self) -> Option<u32> {
        if self.is_v4() { Some(self.0 as u32) } else { None }
    }

    /// The address as the standard library's type.
    #[inline]
    pub const fn to_ip(self) -> IpAddr {
        match self.v4_bits() {
            Some(bits) => IpAddr::V4(Ipv4Addr::from_bits(bits)),
            None => IpAddr::V6(Ipv6Addr::from_bits(self.0)),
        }
    }

    /// Whether this is a multicast address: 224.0.0.0/4 (RFC 5771) or ff00::/8
    /// (RFC 4291 section 2.7).
    #[inline]
    pub const fn is_multicast(self) -> bool {
        match self.v4_bits() {
            Some(bits) => bits >> 28 == 0xe,
            None => self.0 >> 120 == 0xff,
        }
    }

    /// Whether this is the limited broadcast address 255.255.255.255 (RFC 919).
    /// A subnet's own broadcast address cannot be told from an address alone.
    #[inline]
    pub const fn is_broadcast(self) -> bool {
        self.0 == V4_PREFIX | 0xffff_ffff
    }

    /// Whether this is `0.0.0.0` or `::`.
    #[inline]
    pub const fn is_unspecified(self) -> bool {
        self.0 == V4_PREFIX || self.0 == 0
    }

    /// Whether this is a loopback address: 127.0.0.0/8 (RFC 1122 section
    /// 3.2.1.3) or ::1.
    #[inline]
    pub const fn is_loopback(self) -> bool {
        match self.v4_bits() {
            Some(bits) => bits >> 24 == 127,
            None => self.0 == 1,
        }
    }

    /// Whether this is a link-local address: 169.254.0.0/16 (RFC 3927) or
    /// fe80::/10 (RFC 4291 section 2.5.6).
    #[inline]
    pub const fn is_link_local(self) -> bool {
        match self.v4_bits() {
            Some(bits) => bits >> 16 == 0xa9fe,
            None => self.0 >> 118 == 0x3fa,
        }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(ip: Ipv4Addr) -> Address {
        Address::v4(ip.octets())
    }
}

impl From<Ipv6Addr> for Address {
    fn from(ip: Ipv6Addr) -> Address {
        Address::v6(ip.octets())
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Address {
        match ip {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(ip) => ip.into(),
        }
    }
}

impl FromStr for Address {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Address, Self::Err> {
        text.parse::<IpAddr>().map(Address::from)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn both_families_go_there_and_back() {
        for text in ["0.0.0.0", "10.1.2.3", "255.255.255.255", "::", "::1", "fd00::a:b", "ff02::1"]
        {
            let a = address(text);
            assert_eq!(a.to_string(), text);
            assert_eq!(a.is_v4(), text.contains('.'));
            let (high, low) = a.to_words();
            assert_eq!(Address::from_words(high, low), a);
            assert_eq!(Address::from_bits(a.bits()), a);
        }
    }

    #[test]
    fn neighbours_of_the_mapped_range_are_ipv6() {
        assert!(!Address::from_bits(V4_PREFIX - 1).is_v4());
        assert!(!Address::from_bits(V4_PREFIX + (1 << 32)).is_v4());
        assert!(!Address::from_bits(V4_PREFIX | 1 << 127).is_v4());
        assert_eq!(address("::ffff:10.0.0.1"), address("10.0.0.1"));
    }

    #[test]
    fn special_addresses() {
        for (text, multicast, broadcast, unspecified, loopback, link_local) in [
            ("223.255.255.255", false, false, false, false, false),
            ("224.0.0.0", true, false, false, false, false),
            ("239.255.255.255", true, false, false, false, false),
            ("240.0.0.0", false, false, false, false, false),
            ("255.255.255.255", false, true, false, false, false),
            ("10.0.0.255", false, false, false, false, false),
            ("0.0.0.0", false, false, true, false, false),
            ("::", false, false, true, false, false),
            ("127.0.0.53", false, false, false, true, false),
            ("::1", false, false, false, true, false),
            ("ff02::1", true, false, false, false, false),
            ("fe80::1", false, false, false, false, true),
            ("febf::1", false, false, false, false, true),
            ("fec0::1", false, false, false, false, false),
            ("169.254.1.1", false, false, false, false, true),
        ] {
            let a = address(text);
            assert_eq!(a.is_multicast(), multicast, "{text} multicast");
            assert_eq!(a.is_broadcast(), broadcast, "{text} broadcast");
            assert_eq!(a.is_unspecified(), unspecified, "{text} unspecified");
            assert_eq!(a.is_loopback(), loopback, "{text} loopback");
            assert_eq!(a.is_link_local(), link_local, "{text} link-local");
        }
    }
}
