//! What is attached to a device by tc, asked of the kernel by rtnetlink: enough to see other
//! people's filters and to take away a clsact qdisc that nobody uses any more.
//!
//! Messages are built and read by hand (netlink(7), rtnetlink(7)): a library would bring a runtime
//! for four of them. Everything that is read is checked against the length of what came.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{recv, send, socket_with};

/// A direction of a clsact qdisc, as the parent of its filters (linux/pkt_sched.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Direction {
    /// What the device takes in.
    Ingress = 0xffff_fff2,
    /// What it gives out.
    Egress = 0xffff_fff3,
}

/// A filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Lower ones run first.
    pub priority: u16,
    /// `bpf`, `flower`, `matchall`, ...
    pub kind: String,
    /// Of a `bpf` filter: its program, as it was called when it was attached.
    pub program: Option<String>,
}

const ACK: u16 = 0x0004;
const REQUEST: u16 = 0x0001;
const DUMP: u16 = 0x0300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const SET_LINK: u16 = 19;
const NEW_QDISC: u16 = 36;
const DELETE_QDISC: u16 = 37;
const GET_QDISC: u16 = 38;
const NEW_FILTER: u16 = 44;
const GET_FILTER: u16 = 46;
/// `TC_H_CLSACT`, and the handle that the kernel gives to that qdisc.
const CLSACT_PARENT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const ATTRIBUTE_KIND: u16 = 1;
const ATTRIBUTE_OPTIONS: u16 = 2;
const BPF_NAME: u16 = 7;
const LINK_TXQLEN: u16 = 13;
const HEADER: usize = 16;
const TC_MESSAGE: usize = 20;

/// A question to the kernel about the network namespace of the calling thread.
#[derive(Debug)]
pub struct Tc {
    socket: OwnedFd,
}

/// A `struct tcmsg` with its attributes.
struct Entry<'a> {
    ifindex: u32,
    handle: u32,
    parent: u32,
    info: u32,
    attributes: &'a [u8],
}

impl Tc {
    /// # Errors
    /// The kernel has no rtnetlink.
    pub fn open() -> io::Result<Self> {
        // NETLINK_ROUTE is protocol 0.
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket })
    }

    /// Whether a device has a clsact qdisc.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn has_clsact(&self, ifindex: u32) -> io::Result<bool> {
        let mut found = false;
        self.dump(GET_QDISC, NEW_QDISC, ifindex, 0, |entry| {
            let is_clsact = string(entry.attributes, ATTRIBUTE_KIND).as_deref() == Some("clsact");
            found |= is_clsact && entry.ifindex == ifindex && entry.parent == CLSACT_PARENT;
        })?;
        Ok(found)
    }

    /// The filters of one direction, first the one that runs first.
    ///
    /// # Errors
    /// The kernel's answer; a device without clsact qdisc is an error on some kernels.
    pub fn filters(&self, ifindex: u32, direction: Direction) -> io::Result<Vec<Filter>> {
        let mut filters = Vec::new();
        self.dump(GET_FILTER, NEW_FILTER, ifindex, direction as u32, |entry| {
            // The one with handle 0 stands for all of a priority.
            if entry.handle != 0 && entry.ifindex == ifindex {
                let options = attribute(entry.attributes, ATTRIBUTE_OPTIONS).unwrap_or_default();
                filters.push(Filter {
                    priority: u16::try_from(entry.info >> 16).unwrap_or(u16::MAX),
                    kind: string(entry.attributes, ATTRIBUTE_KIND).unwrap_or_default(),
                    program: string(options, BPF_NAME),
                });
            }
        })?;
        Ok(filters)
    }

    /// Takes the clsact qdisc off a device, with all filters in it.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn remove_clsact(&self, ifindex: u32) -> io::Result<()> {
        let mut body = tc_message(ifindex, CLSACT_HANDLE, CLSACT_PARENT);
        body.extend(11u16.to_ne_bytes());
        body.extend(ATTRIBUTE_KIND.to_ne_bytes());
        body.extend(b"clsact\0\0"); // its zero, and padding
        self.tell(DELETE_QDISC, &body)
    }

    /// Gives a device's transmit queue a length, in packets.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn set_queue(&self, ifindex: u32, packets: u32) -> io::Result<()> {
        let mut body = vec![0; 4]; // struct ifinfomsg: family, padding, type
        body.extend(ifindex.to_ne_bytes());
        body.extend([0; 8]); // flags, and which of them to change
        body.extend(8u16.to_ne_bytes());
        body.extend(LINK_TXQLEN.to_ne_bytes());
        body.extend(packets.to_ne_bytes());
        self.tell(SET_LINK, &body)
    }

    /// Has something changed.
    fn tell(&self, kind: u16, body: &[u8]) -> io::Result<()> {
        self.ask(&request(kind, REQUEST | ACK, body))?;
        let mut answer = Ok(());
        self.listen(|kind, body| {
            if kind == ERROR {
                answer = error_of(body);
            }
            kind == ERROR || kind == DONE
        })?;
        answer
    }

    fn dump(
        &self,
        get: u16,
        new: u16,
        ifindex: u32,
        parent: u32,
        mut each: impl FnMut(&Entry<'_>),
    ) -> io::Result<()> {
        self.ask(&request(get, REQUEST | DUMP, &tc_message(ifindex, 0, parent)))?;
        let mut answer = Ok(());
        self.listen(|kind, body| {
            match kind {
                ERROR => answer = error_of(body),
                _ if kind == new => {
                    if let Some(entry) = entry(body) {
                        each(&entry);
                    }
                }
                _ => {}
            }
            kind == ERROR || kind == DONE
        })?;
        answer
    }

    fn ask(&self, request: &[u8]) -> io::Result<()> {
        send(&self.socket, request, SendFlags::empty())?;
        Ok(())
    }

    /// Reads messages until one is the last.
    fn listen(&self, mut is_last: impl FnMut(u16, &[u8]) -> bool) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let (_, length) = recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Some((kind, body, after)) = message(rest) {
                if is_last(kind, body) {
                    return Ok(());
                }
                rest = after;
            }
        }
    }
}

/// `struct tcmsg`.
fn tc_message(ifindex: u32, handle: u32, parent: u32) -> Vec<u8> {
    let mut body = vec![0; 4]; // family and padding
    for word in [ifindex, handle, parent, 0] {
        body.extend(word.to_ne_bytes());
    }
    body
}

/// `struct nlmsghdr`, and what follows it.
fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(1u32.to_ne_bytes()); // sequence
    bytes.extend(0u32.to_ne_bytes()); // our port
    bytes.extend(body);
    bytes
}

/// The first message: its type, its body, and what follows.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let body = bytes.get(HEADER..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((u16_at(bytes, 4)?, body, after))
}

fn entry(body: &[u8]) -> Option<Entry<'_>> {
    Some(Entry {
        ifindex: u32_at(body, 4)?,
        handle: u32_at(body, 8)?,
        parent: u32_at(body, 12)?,
        info: u32_at(body, 16)?,
        attributes: body.get(TC_MESSAGE..)?,
    })
}

/// The value of the first attribute of a type.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16_at(bytes, 0)?);
        let value = bytes.get(4..length)?;
        // The two upper bits say how the value is written.
        if u16_at(bytes, 2)? & 0x3fff == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn string(attributes: &[u8], wanted: u16) -> Option<String> {
    let value = attribute(attributes, wanted)?;
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    Some(String::from_utf8_lossy(value.get(..end)?).into_owned())
}

/// The answer of an `NLMSG_ERROR`: 0 is an acknowledgement.
fn error_of(body: &[u8]) -> io::Result<()> {
    let code = u32_at(body, 0).map_or(0, u32::cast_signed);
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code.wrapping_neg())) }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attribute_of(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(4 + value.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn messages_and_attributes_are_taken_apart() {
        let options = attribute_of(BPF_NAME, b"weir_from_pod\0");
        let body = tc_message(7, 0x7765, Direction::Ingress as u32);
        let mut bytes = request(NEW_FILTER, 0, &body);
        bytes[32..36].copy_from_slice(&(1u32 << 16 | 3).to_ne_bytes());
        bytes.extend(attribute_of(ATTRIBUTE_KIND, b"bpf\0"));
        bytes.extend(attribute_of(ATTRIBUTE_OPTIONS | 0x8000, &options));
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes.extend(request(DONE, 0, &[]));

        let (kind, body, after) = message(&bytes).unwrap();
        let filter = entry(body).unwrap();
        assert_eq!((kind, filter.ifindex, filter.handle, filter.info >> 16), (44, 7, 0x7765, 1));
        assert_eq!(string(filter.attributes, ATTRIBUTE_KIND).unwrap(), "bpf");
        let options = attribute(filter.attributes, ATTRIBUTE_OPTIONS).unwrap();
        assert_eq!(string(options, BPF_NAME).unwrap(), "weir_from_pod");
        assert_eq!(string(options, ATTRIBUTE_KIND), None);
        assert_eq!(message(after).unwrap().0, DONE);
    }

    #[test]
    fn an_error_is_the_kernels_and_zero_is_none() {
        assert!(error_of(&0i32.to_ne_bytes()).is_ok());
        let error = error_of(&(-2i32).to_ne_bytes()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    /// The loopback device of any namespace has no clsact qdisc, and asking needs no privilege.
    #[test]
    fn the_kernel_answers() {
        let tc = Tc::open().unwrap();
        assert!(!tc.has_clsact(1).unwrap());
        assert!(tc.filters(1, Direction::Egress).unwrap_or_default().is_empty());
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_within_its_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut rest = bytes.as_slice();
            while let Some((_, body, after)) = message(rest) {
                if let Some(entry) = entry(body) {
                    let _ = string(entry.attributes, ATTRIBUTE_KIND);
                }
                prop_assert!(after.len() < rest.len());
                rest = after;
            }
            let _ = attribute(&bytes, BPF_NAME);
        }
    }
}
