//! What a record of a dropped packet says, and how it lies in its words.
//!
//! ```text
//!   w0      CLOCK_MONOTONIC, ns
//!   w1      time since the epoch, ns
//!   w2      generation in force
//!   w3      ifindex 31..0 | length of the frame 63..32
//!   w4      left out before it 31..0 | bytes of the frame 47..32 | bytes of text 63..48
//!   w5      sport 15..0 | dport 31..16 | protocol 39..32 | flags 47..40 | EtherType 63..48
//!   w6      worker, or 2^32 - 1: the hook itself
//!   w7      0
//!   w8, 9   source address, upper and lower half, as IPv6
//!   w10, 11 destination address
//!   w12..   the frame's head, 192 bytes
//!   w36..   text: seven fields, a newline between each
//! ```
//!
//! Names stand in the record itself and not in a table beside it: a pod, a policy or a
//! device may be gone by the time that somebody reads.

use crate::addr::Address;
use crate::counters::Direction;

/// Words of a record without its lock: with it 1 KiB.
pub const RECORD_WORDS: usize = 127;
/// Bytes of the frame's head that a record holds: Ethernet, IPv6 with an extension header or
/// two, TCP with options, and in an ICMP error as much of the packet that it quotes.
pub const FRAME_BYTES: usize = 192;

const W_FRAME: usize = 12;
const W_TEXT: usize = W_FRAME + FRAME_BYTES / 8;
const TEXT_BYTES: usize = (RECORD_WORDS - W_TEXT) * 8;
const FIELDS: usize = 7;
/// Stands at the end of a text that had no room.
const CUT: &str = "…";

const HOOK: u64 = u32::MAX as u64;

const INGRESS: u64 = 1;
const HAS_ADDRESSES: u64 = 2;
const HAS_PORTS: u64 = 4;

/// The 5-tuple of a dropped packet, as far as it has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// EtherType, 0 if the frame is too short for one; of a tagged frame that of the tag.
    pub ether_type: u16,
    /// Source and destination; of ARP the protocol addresses. `None`: no IP packet.
    pub addresses: Option<(Address, Address)>,
    /// IANA protocol number, behind all extension headers; 0 without addresses.
    pub protocol: u8,
    /// Source and destination port of TCP, UDP, SCTP; `None` for others and for fragments
    /// other than the first.
    pub ports: Option<(u16, u16)>,
}

/// What a record says in words. An empty text: not known, or there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// Why: a name of [`crate::counters::Reason`] or of a steering counter.
    pub reason: String,
    /// The pod's device on the host.
    pub device: String,
    /// The pod at whose hook the packet was dropped: `namespace/name`, or the name of its
    /// network namespace.
    pub pod: String,
    /// The pod that has the source address: `namespace/name`.
    pub src_pod: String,
    /// The pod that has the destination address.
    pub dst_pod: String,
    /// The rule that denies, if one does so by itself.
    pub rule: String,
    /// The policies that deny, by isolating: `namespace/name`, a comma between each; see
    /// [`Text::set_policies`].
    pub policy: String,
}

/// One dropped packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropRecord {
    /// When, `CLOCK_MONOTONIC` in nanoseconds.
    pub monotonic_ns: u64,
    /// When, in nanoseconds since 1970-01-01 UTC.
    pub wall_ns: u64,
    /// The generation in force; 0 = none.
    pub generation: u64,
    /// Index of the pod's device on the host; 0 = not known.
    pub ifindex: u32,
    /// Which way the packet crossed the pod's device.
    pub direction: Direction,
    /// The worker that dropped it; `None`: the hook did, in the kernel.
    pub worker: Option<u32>,
    /// Packets dropped for the same reason that have no record, as far as is known, since the
    /// last one of this reason that has.
    pub left_out: u32,
    /// Length of the whole frame in bytes, without checksum.
    pub frame_len: u32,
    /// What the packet is.
    pub packet: Packet,
    /// Its first bytes, from the Ethernet header on: at most [`FRAME_BYTES`].
    pub frame: Vec<u8>,
    /// Reason and names.
    pub text: Text,
}

impl DropRecord {
    /// The words of the record. A frame or a text that is too long is cut.
    pub fn encode(&self) -> [u64; RECORD_WORDS] {
        let mut words = [0; RECORD_WORDS];
        let frame = &self.frame[..self.frame.len().min(FRAME_BYTES)];
        let text = self.text.joined();
        let packet = &self.packet;
        let (sport, dport) = packet.ports.unwrap_or_default();
        let flag = |on: bool, flag: u64| if on { flag } else { 0 };
        let flags = flag(self.direction == Direction::Ingress, INGRESS)
            | flag(packet.addresses.is_some(), HAS_ADDRESSES)
            | flag(packet.ports.is_some(), HAS_PORTS);
        words[0] = self.monotonic_ns;
        words[1] = self.wall_ns;
        words[2] = self.generation;
        words[3] = u64::from(self.ifindex) | u64::from(self.frame_len) << 32;
        words[4] =
            u64::from(self.left_out) | (frame.len() as u64) << 32 | (text.len() as u64) << 48;
        words[5] = u64::from(sport)
            | u64::from(dport) << 16
            | u64::from(packet.protocol) << 32
            | flags << 40
            | u64::from(packet.ether_type) << 48;
        words[6] = self.worker.map_or(HOOK, u64::from);
        if let Some((src, dst)) = packet.addresses {
            for (at, address) in [(8, src), (10, dst)] {
                let bits = u128::from_be_bytes(octets(address));
                words[at] = (bits >> 64) as u64;
                #[allow(clippy::cast_possible_truncation)] // the lower half is meant
                let low = bits as u64;
                words[at + 1] = low;
            }
        }
        put_bytes(&mut words[W_FRAME..W_TEXT], frame);
        put_bytes(&mut words[W_TEXT..], text.as_bytes());
        words
    }

    /// The record that lies in `words`, whatever they hold: numbers that cannot be are
    /// brought into range, text that is none is replaced.
    #[allow(clippy::cast_possible_truncation)] // every `as` takes the bits it is meant to
    pub fn decode(words: &[u64; RECORD_WORDS]) -> Self {
        let frame_bytes = (words[4] >> 32 & 0xffff) as usize;
        let text_bytes = (words[4] >> 48) as usize;
        let flags = words[5] >> 40;
        let address = |at: usize| {
            let bits = u128::from(words[at]) << 64 | u128::from(words[at + 1]);
            Address::from(std::net::IpAddr::from(bits.to_be_bytes()))
        };
        let mut frame = get_bytes(&words[W_FRAME..W_TEXT]);
        frame.truncate(frame_bytes);
        let mut text = get_bytes(&words[W_TEXT..]);
        text.truncate(text_bytes);
        Self {
            monotonic_ns: words[0],
            wall_ns: words[1],
            generation: words[2],
            ifindex: words[3] as u32,
            direction: if flags & INGRESS != 0 { Direction::Ingress } else { Direction::Egress },
            worker: u32::try_from(words[6]).ok().filter(|worker| *worker != u32::MAX),
            left_out: words[4] as u32,
            frame_len: (words[3] >> 32) as u32,
            packet: Packet {
                ether_type: (words[5] >> 48) as u16,
                addresses: (flags & HAS_ADDRESSES != 0).then(|| (address(8), address(10))),
                protocol: (words[5] >> 32) as u8,
                ports: (flags & HAS_PORTS != 0)
                    .then_some((words[5] as u16, (words[5] >> 16) as u16)),
            },
            frame,
            text: Text::split(&String::from_utf8_lossy(&text)),
        }
    }
}

impl Text {
    /// Sets [`Self::policy`] to as many of `policies` as there is room for beside the other
    /// texts, which are set before; then `… and N more`. No more of them than that are asked
    /// for: a pod may have thousands, and whoever sends to it causes records.
    pub fn set_policies<'a>(&mut self, policies: impl ExactSizeIterator<Item = &'a str>) {
        let others =
            [&self.reason, &self.device, &self.pod, &self.src_pod, &self.dst_pod, &self.rule];
        let taken = others.iter().map(|text| text.len() + 1).sum();
        let room = TEXT_BYTES.saturating_sub(taken);
        self.policy.clear();
        let count = policies.len();
        for (named, name) in policies.enumerate() {
            let comma = if named == 0 { "" } else { "," };
            let left = count - named - 1;
            let rest = if left == 0 { String::new() } else { more(left) };
            let length = self.policy.len() + comma.len() + name.len() + rest.len();
            if length > room {
                // One name in any case, be it cut short.
                if named == 0 {
                    let room = room.saturating_sub(rest.len() + CUT.len());
                    self.policy.push_str(head(name, room));
                    self.policy.push_str(CUT);
                    self.policy.push_str(&rest);
                } else {
                    self.policy.push_str(&more(count - named));
                }
                return;
            }
            self.policy.push_str(comma);
            self.policy.push_str(name);
        }
    }

    /// The fields, the longest last, as many bytes as there is room for.
    fn joined(&self) -> String {
        let fields: [&str; FIELDS] = [
            &self.reason,
            &self.device,
            &self.pod,
            &self.src_pod,
            &self.dst_pod,
            &self.rule,
            &self.policy,
        ];
        // A letter more than there is room for, so that what is cut off shows.
        let fields = fields.map(|field| printable(head(field, TEXT_BYTES + 4)));
        let mut text = fields.join("\n");
        if text.len() > TEXT_BYTES {
            text.truncate(head(&text, TEXT_BYTES - CUT.len()).len());
            text.push_str(CUT);
        }
        text
    }

    fn split(text: &str) -> Self {
        let mut fields = text.splitn(FIELDS, '\n').map(printable);
        let mut next = || fields.next().unwrap_or_default();
        Self {
            reason: next(),
            device: next(),
            pod: next(),
            src_pod: next(),
            dst_pod: next(),
            rule: next(),
            policy: next(),
        }
    }
}

/// How a list of policies goes on that has no room.
fn more(count: usize) -> String {
    format!(",{CUT} and {count} more")
}

/// The first bytes of a text, as many as make whole letters.
fn head(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Names come from the node's surroundings and go to a terminal: nothing in them may
/// command either.
fn printable(text: &str) -> String {
    text.replace(char::is_control, "?")
}

fn octets(address: Address) -> [u8; 16] {
    match address.to_ip() {
        std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        std::net::IpAddr::V6(v6) => v6.octets(),
    }
}

fn put_bytes(words: &mut [u64], bytes: &[u8]) {
    for (word, chunk) in words.iter_mut().zip(bytes.chunks(8)) {
        let mut eight = [0; 8];
        eight[..chunk.len()].copy_from_slice(chunk);
        *word = u64::from_ne_bytes(eight);
    }
}

fn get_bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

const _: () = assert!(FRAME_BYTES.is_multiple_of(8) && TEXT_BYTES > 600);
