//! Frames that no honest pod sends, sent from inside one: who got them, and which counter
//! grew. Every frame carries a mark of its own, for which the receiver's interface is
//! listened to.

use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use crate::clock::until;
use crate::lab::{Cni, Family, Lab, outside};
use crate::node::{count, example, growth, node, settled};
use crate::probe::By::{Icmp, Tcp};
use crate::probe::{denied, differences, reaches};
use crate::ready::{self, Has};
use crate::stream::Stream;
use crate::turn;
use crate::weir::Weir;
use crate::wire::{Wire, packet};

type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
/// A hardware address that nobody on the node has.
const NOBODYS: Mac = [2, 0, 0, 0xaa, 0xaa, 0xaa];

/// Writes down what arrives at a pod's interface.
struct Ear {
    socat: Child,
    heard: PathBuf,
}

impl Ear {
    fn at(lab: &Lab, pod: &str) -> Self {
        let heard = lab.dir().join(format!("heard-{pod}"));
        // What an ear before this one has heard.
        let _ = fs::remove_file(&heard);
        let mut socat = lab
            .enter(pod, "socat")
            .args(["-u", "-b", "65536", "INTERFACE:eth0"])
            .arg(format!("CREATE:{}", heard.display()))
            .spawn()
            .unwrap();
        ready::wait_until(&mut socat, Has::PacketSocket);
        Self { socat, heard }
    }

    fn has_heard(&self, mark: &[u8; 8]) -> bool {
        let heard = fs::read(&self.heard).unwrap_or_default();
        heard.windows(mark.len()).any(|window| window == mark)
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let _ = self.socat.kill();
        let _ = self.socat.wait();
    }
}

/// Two pods, one of which sends what it likes.
struct Link<'a> {
    lab: &'a Lab,
    weir: &'a Weir<'a>,
    wire: Wire,
    ear: Ear,
    marks: u64,
    /// Marks of frames that must not arrive, and what these were.
    dropped: Vec<([u8; 8], String)>,
}

/// What becomes of a frame shows within this, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(5);

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Arrives,
    /// Dropped by the hook, under this steering counter.
    Hook(&'static str),
    /// Dropped by a worker, for this reason.
    Worker(&'static str),
}
use Fate::{Arrives, Hook, Worker};

impl<'a> Link<'a> {
    fn new(lab: &'a Lab, weir: &'a Weir<'a>, from: &str, to: &str) -> Self {
        Self {
            lab,
            weir,
            wire: Wire::of(lab, from),
            ear: Ear::at(lab, to),
            marks: 0,
            dropped: Vec::new(),
        }
    }

    fn expect(&mut self, what: &str, frame: impl FnOnce(&[u8; 8]) -> Vec<u8>, fate: Fate) {
        self.marks += 1;
        let mark = (0x5745_4952_4d41_0000 + self.marks).to_be_bytes();
        let counter = match fate {
            Arrives => None,
            Hook(counter) => Some(format!("steering.{counter}")),
            Worker(reason) => Some(format!("drops.{reason}")),
        };
        let Some(counter) = counter else {
            self.wire.send(&frame(&mark));
            let heard = until(PATIENCE, || self.ear.has_heard(&mark));
            assert!(heard, "{what}: not heard\n{}", self.weir.words());
            return;
        };
        let before = count(&self.weir.status(), &counter);
        self.wire.send(&frame(&mark));
        let mut grown = 0;
        let counted = until(PATIENCE, || {
            grown = count(&self.weir.status(), &counter) - before;
            grown > 0
        });
        assert!(counted && grown == 1, "{what}: {grown} {counter}\n{}", self.weir.words());
        self.dropped.push((mark, what.to_owned()));
    }

    /// That nothing has arrived which was counted as dropped, now or since.
    fn assert_dropped(&mut self) {
        self.wire.flush();
        settled(self.weir);
        for (mark, what) in &self.dropped {
            assert!(!self.ear.has_heard(mark), "{what}: heard\n{}", self.weir.words());
        }
    }

    fn macs(&self, from: &str, to: &str) -> (Mac, Mac) {
        (self.lab.mac(from), self.lab.mac(to))
    }

    fn addresses(&self, from: &str, to: &str, family: Family) -> (IpAddr, IpAddr) {
        (self.lab.address(from, family), self.lab.address(to, family))
    }
}

fn udp(macs: (Mac, Mac), addresses: (IpAddr, IpAddr), mark: &[u8; 8]) -> Vec<u8> {
    let mut frame = Vec::new();
    packet(macs, addresses).udp(4000, 9300).write(&mut frame, mark).unwrap();
    frame
}

/// ARP (RFC 826) for IPv4 over Ethernet: the sender tells of itself.
fn arp(
    ethernet: Mac,
    operation: u8,
    sender: (Mac, IpAddr),
    target: IpAddr,
    mark: &[u8; 8],
) -> Vec<u8> {
    let (IpAddr::V4(sender_ip), IpAddr::V4(target)) = (sender.1, target) else { panic!() };
    let mut frame = [&BROADCAST[..], &ethernet, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]].concat();
    frame.extend([&sender.0[..], &sender_ip.octets(), &[0; 6], &target.octets()].concat());
    frame.extend(mark);
    frame
}

/// A neighbour discovery message (RFC 4861) with hop limit 255: `body` begins after the
/// checksum. The mark follows as an option that nobody knows.
fn nd(
    macs: (Mac, Mac),
    (from, to): (Ipv6Addr, Ipv6Addr),
    kind: u8,
    body: &[u8],
    mark: &[u8; 8],
) -> Vec<u8> {
    let mut message = body.to_vec();
    message.extend([253, 2, 0, 0, 0, 0, 0, 0]);
    message.extend(mark);
    let ethernet = etherparse::PacketBuilder::ethernet2(macs.0, macs.1);
    let mut frame = Vec::new();
    let [a, b, c, d, rest @ ..] = &message[..] else { panic!() };
    ethernet
        .ipv6(from.octets(), to.octets(), 255)
        .icmpv6_raw(kind, 0, [*a, *b, *c, *d])
        .write(&mut frame, rest)
        .unwrap();
    frame
}

/// An IPv6 frame with extension headers, the first of which has this number, before what it
/// carries. (A checksum of what it carries does not cover them.)
fn behind(first: u8, headers: &[u8], frame: &[u8]) -> Vec<u8> {
    let (ip, payload) = frame.split_at(54);
    let mut whole = [ip, headers, payload].concat();
    let length = (headers.len() + payload.len()) as u16;
    whole[18..20].copy_from_slice(&length.to_be_bytes());
    whole[20] = first;
    whole
}

fn link_layer_option(kind: u8, mac: Mac) -> Vec<u8> {
    [&[kind, 1][..], &mac].concat()
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V6(address) => address,
        IpAddr::V4(_) => panic!("{address}"),
    }
}

/// Puts bytes behind the hardware addresses, in the place of the EtherType.
fn with_type(frame: &[u8], header: &[u8]) -> Vec<u8> {
    [&frame[..12], header, &frame[14..]].concat()
}

/// The whole of it on a bridge, where pods share a link, through the workers or past them.
fn on_a_bridge(offload: &str) {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let mut weir = Weir::start(&lab, folder, &["--workers", "1", "--offload", offload]);
    let found = differences(&lab, &[reaches("kurl", "web", Tcp), reaches("kurl", "web", Icmp)]);
    assert!(found.is_empty(), "{found:#?}\n{}", weir.words());
    {
        let mut link = Link::new(&lab, &weir, "kurl", "web");
        addresses_of_the_link(&mut link);
        address_resolution(&mut link);
        neighbour_discovery(&mut link);
        encapsulations(&mut link);
        groups(&mut link);
        fragments(&mut link);
        link.assert_dropped();
    }
    weir.apply("deny.yaml", &example("deny-all-for-testweb"));
    let mut link = Link::new(&lab, &weir, "kurl", "web");
    groups_denied(&mut link);
    link.assert_dropped();
    drop(link);
    let found = differences(&lab, &[denied("kurl", "web", Tcp), reaches("node", "web", Tcp)]);
    assert!(found.is_empty(), "{found:#?}\n{}", weir.words());
}

#[test]
fn layer_2_from_a_pod_through_the_workers() {
    on_a_bridge("off");
}

#[test]
fn layer_2_from_a_pod_past_the_workers() {
    on_a_bridge("on");
}

fn addresses_of_the_link(link: &mut Link<'_>) {
    let macs = link.macs("kurl", "web");
    let curl = link.lab.mac("curl");
    for family in Family::BOTH {
        let own = link.addresses("kurl", "web", family);
        let others = link.addresses("curl", "web", family);
        link.expect("a datagram", |mark| udp(macs, own, mark), Arrives);
        let spoofed = Worker("spoofed_source");
        link.expect("another's IP address", |mark| udp(macs, others, mark), spoofed);
        for mac in [curl, NOBODYS] {
            let forged = |mark: &[u8; 8]| udp((mac, macs.1), own, mark);
            link.expect("another's MAC", forged, Hook("drop_mac"));
        }
    }
}

fn address_resolution(link: &mut Link<'_>) {
    let (own, web) = link.addresses("kurl", "web", Family::V4);
    let curl = link.lab.address("curl", Family::V4);
    let mac = link.lab.mac("kurl");
    let [request, reply] = [1, 2];
    for (what, ethernet, operation, sender, fate) in [
        ("ARP", mac, request, (mac, own), Arrives),
        ("ARP for itself", mac, reply, (mac, own), Arrives),
        ("ARP for another", mac, reply, (mac, curl), Hook("drop_nd")),
        ("ARP under another's MAC", NOBODYS, reply, (mac, own), Hook("drop_mac")),
        ("ARP about another's MAC", mac, reply, (NOBODYS, own), Hook("drop_mac")),
    ] {
        link.expect(what, |mark| arp(ethernet, operation, sender, web, mark), fate);
    }
    let ethernet_over = |mark: &[u8; 8]| {
        let mut odd = arp(mac, request, (mac, own), web, mark);
        odd[18] = 8; // hardware addresses of 8 bytes
        odd
    };
    link.expect("ARP of another kind", ethernet_over, Hook("drop_l2"));
}

fn neighbour_discovery(link: &mut Link<'_>) {
    const SOLICIT: u8 = 135;
    const ADVERT: u8 = 136;
    const ROUTER_SOLICIT: u8 = 133;
    const ROUTER_ADVERT: u8 = 134;
    const REDIRECT: u8 = 137;
    let macs = link.macs("kurl", "web");
    let mac = macs.0;
    let (own, web) = link.addresses("kurl", "web", Family::V6);
    let (own, web) = (v6(own), v6(web));
    let curl = v6(link.lab.address("curl", Family::V6));
    let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    let group = [0x33, 0x33, 0, 0, 0, 1];
    let about = |target: Ipv6Addr, option: u8, mac: Mac| {
        [&[0; 4][..], &target.octets(), &link_layer_option(option, mac)].concat()
    };
    let router = |mac: Mac| [&[0; 4][..], &link_layer_option(1, mac)].concat();
    let advert = [&[0x20, 0, 0, 0][..], &own.octets()].concat();
    let twice = [about(web, 1, mac), link_layer_option(1, NOBODYS)].concat();
    let many = [about(web, 1, mac), [14, 1, 0, 0, 0, 0, 0, 0].repeat(9)].concat();
    for (what, kind, from, body, fate) in [
        ("a solicitation", SOLICIT, own, about(web, 1, mac), Arrives),
        ("one under another's address", SOLICIT, curl, about(web, 1, mac), Hook("drop_nd")),
        ("one with another's MAC", SOLICIT, own, about(web, 1, NOBODYS), Hook("drop_mac")),
        ("one with a second MAC", SOLICIT, own, twice, Hook("drop_mac")),
        ("one with too many options", SOLICIT, own, many, Hook("drop_mac")),
        ("an advertisement", ADVERT, own, about(own, 2, mac), Arrives),
        ("one without options", ADVERT, own, advert, Arrives),
        ("one for another", ADVERT, own, about(curl, 2, mac), Hook("drop_nd")),
        ("one with another's MAC", ADVERT, own, about(own, 2, NOBODYS), Hook("drop_mac")),
        (
            "a router solicitation with another's MAC",
            ROUTER_SOLICIT,
            own,
            router(NOBODYS),
            Hook("drop_mac"),
        ),
        ("a router advertisement", ROUTER_ADVERT, own, vec![0; 12], Hook("drop_nd")),
        ("a redirect", REDIRECT, own, vec![0; 36], Hook("drop_nd")),
    ] {
        link.expect(what, |mark| nd(macs, (from, web), kind, &body, mark), fate);
    }
    let everyone = (mac, group);
    let body = about(own, 2, mac);
    let unasked = |mark: &[u8; 8]| nd(everyone, (own, all_nodes), ADVERT, &body, mark);
    link.expect("an advertisement to everyone", unasked, Arrives);
    let routers = |mark: &[u8; 8]| nd(everyone, (own, all_nodes), ROUTER_ADVERT, &[0; 12], mark);
    link.expect("a router advertisement to everyone", routers, Hook("drop_nd"));
    let of_the_node = about("fe80::1".parse().unwrap(), 2, mac);
    hidden_discovery(link, macs, (own, web), &body);
    // What is for the node itself passes its hook unjudged.
    let there = outside(Family::V6).to_string();
    let way = link.lab.command("kurl", "ip", &["-json", "route", "get", &there]);
    let way: serde_json::Value = serde_json::from_slice(&way).unwrap();
    let gateway = way[0]["gateway"].as_str().unwrap().parse().unwrap();
    hidden_discovery(link, macs, (own, gateway), &body);
    let ping = |mark: &[u8; 8]| behind(60, &PADDED, &nd(macs, (own, web), 128, &[0; 4], mark));
    link.expect("a ping behind destination options", ping, Arrives);
    let stranger = |mark: &[u8; 8]| nd(macs, (own, web), ADVERT, &of_the_node, mark);
    link.expect("one for a link-local address", stranger, Arrives);
}

/// What is dropped and what arrives must not depend on what stands before it.
fn hidden_discovery(
    link: &mut Link<'_>,
    macs: (Mac, Mac),
    ends: (Ipv6Addr, Ipv6Addr),
    claim: &[u8],
) {
    const ICMPV6: u8 = 58;
    const ADVERT: u8 = 136;
    let padded = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let long = [&[ICMPV6, 1, 1, 12][..], &[0; 12]].concat();
    let authenticated = [&[ICMPV6, 4][..], &[0; 22]].concat();
    for (what, first, headers) in [
        ("destination options", 60, PADDED.to_vec()),
        ("hop-by-hop options", 0, PADDED.to_vec()),
        ("many hop-by-hop options", 0, long),
        ("both", 0, [padded(60), PADDED].concat()),
        ("an atomic fragment's header", 44, vec![ICMPV6, 0, 0, 0, 0, 0, 0, 7]),
        ("an authentication header", 51, authenticated),
        ("eight headers", 60, [[padded(60); 7].concat(), PADDED.to_vec()].concat()),
        ("nine headers", 60, [[padded(60); 8].concat(), PADDED.to_vec()].concat()),
    ] {
        let hidden = |mark: &[u8; 8]| behind(first, &headers, &nd(macs, ends, ADVERT, claim, mark));
        let what = format!("an advertisement to {} behind {what}", ends.1);
        link.expect(&what, hidden, Hook("drop_nd"));
    }
}

/// A header of options, of which the only one pads, before ICMPv6.
const PADDED: [u8; 8] = [58, 0, 1, 4, 0, 0, 0, 0];

/// CVE-2021-27853: what a parser does not look behind must not pass.
fn encapsulations(link: &mut Link<'_>) {
    let macs = link.macs("kurl", "web");
    for family in Family::BOTH {
        let addresses = link.addresses("kurl", "web", family);
        let ethertype = if family == Family::V4 { [8, 0] } else { [0x86, 0xdd] };
        let tag = [0x81, 0, 0, 7];
        let [hi, lo] = 200u16.to_be_bytes(); // a length, below 1536
        for (what, header) in [
            ("VLAN 7", [&tag[..], &ethertype].concat()),
            ("VLAN 0: priority only", [&[0x81, 0, 0, 0][..], &ethertype].concat()),
            ("a provider's tag", [&[0x88, 0xa8, 0, 7][..], &ethertype].concat()),
            ("two tags", [&tag[..], &tag, &ethertype].concat()),
            ("QinQ", [&[0x88, 0xa8, 0, 7][..], &tag, &ethertype].concat()),
            ("SNAP", [&[hi, lo, 0xaa, 0xaa, 3, 0, 0, 0][..], &ethertype].concat()),
            ("LLC", vec![hi, lo, 0x06, 0x06, 3]),
            (
                "SNAP behind a tag",
                [&tag[..], &[hi, lo, 0xaa, 0xaa, 3, 0, 0, 0], &ethertype].concat(),
            ),
            ("MPLS", vec![0x88, 0x47, 0, 1, 1, 64]),
            ("PPPoE", vec![0x88, 0x64, 0x11, 0, 0, 1, 0, 60, 0, 0x21]),
        ] {
            let frame = |mark: &[u8; 8]| with_type(&udp(macs, addresses, mark), &header);
            link.expect(what, frame, Hook("drop_l2"));
        }
    }
    let short = |_: &[u8; 8]| [&macs.1[..], &macs.0, &[8, 0, 0x45, 0, 0]].concat();
    link.expect("half a header", short, Hook("drop_truncated"));
}

/// Where each group's packets go on the link.
const GROUPS: [(&str, Mac); 3] = [
    ("239.0.0.9", [1, 0, 0x5e, 0, 0, 9]),
    ("255.255.255.255", BROADCAST),
    ("ff05::9", [0x33, 0x33, 0, 0, 0, 9]),
];

fn to_a_group(link: &Link<'_>, group: (&str, Mac), mark: &[u8; 8]) -> Vec<u8> {
    let to: IpAddr = group.0.parse().unwrap();
    let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
    udp((link.lab.mac("kurl"), group.1), (link.lab.address("kurl", family), to), mark)
}

fn groups(link: &mut Link<'_>) {
    for group in GROUPS {
        let frame = to_a_group(link, group, &[0; 8]);
        let marked = |mark: &[u8; 8]| [&frame[..frame.len() - 8], mark].concat();
        link.expect(group.0, marked, Arrives);
    }
}

/// The same packets, once the receiver takes nothing: others still get them.
fn groups_denied(link: &mut Link<'_>) {
    let other = Ear::at(link.lab, "curl");
    for group in GROUPS {
        let frame = to_a_group(link, group, &[0; 8]);
        let mut sent = [0; 8];
        let marked = |mark: &[u8; 8]| {
            sent = *mark;
            [&frame[..frame.len() - 8], mark].concat()
        };
        link.expect(group.0, marked, Worker("policy_ingress"));
        let heard = until(PATIENCE, || other.has_heard(&sent));
        assert!(heard, "{}: the other pod did not get it", group.0);
    }
}

/// Fragments by hand: whichever comes first.
fn fragments(link: &mut Link<'_>) {
    let macs = link.macs("kurl", "web");
    for family in Family::BOTH {
        let (from, to) = link.addresses("kurl", "web", family);
        for (id, order) in [[0, 1, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0]].into_iter().enumerate() {
            let parts: Vec<Vec<u8>> =
                (0..3).map(|n| fragment(macs, (from, to), id as u8, n)).collect();
            let before = settled(link.weir);
            for n in order {
                link.wire.send(&parts[n as usize]);
            }
            for n in 0..3 {
                let mark = fragment_mark(id as u8, n);
                let heard = until(PATIENCE, || link.ear.has_heard(&mark));
                assert!(heard, "{family:?} {order:?}: {n}\n{}", link.weir.words());
            }
            let grown = growth(link.weir, &before);
            let early = order.iter().position(|&n| n == 0).unwrap() as u64;
            assert_eq!(grown("counters.fragments_held"), early, "{family:?} {order:?}");
            assert_eq!(grown("counters.fragments_released"), early, "{family:?} {order:?}");
        }
        // The second again, and what comes after it.
        let part = |n| fragment(macs, (from, to), 9, n);
        let before = settled(link.weir);
        for n in [0, 1, 1, 2] {
            link.wire.send(&part(n));
        }
        link.wire.flush();
        let grown = growth(link.weir, &before);
        assert_eq!(grown("drops.fragment_overlap"), 2, "{family:?}\n{}", link.weir.words());
        assert!(!link.ear.has_heard(&fragment_mark(9, 2)), "{family:?}");
    }
}

fn fragment_mark(id: u8, n: u8) -> [u8; 8] {
    [0xf7, 0x57, 0x45, 0x49, 0x52, 0xf7, id, n]
}

/// A third of a UDP datagram of 72 bytes.
fn fragment(macs: (Mac, Mac), ends: (IpAddr, IpAddr), id: u8, n: u8) -> Vec<u8> {
    let mut part = vec![0; 24];
    if n == 0 {
        part[..8].copy_from_slice(&[0x0f, 0xa0, 0x24, 0x54, 0, 72, 0, 0]);
    }
    let family = u8::from(ends.0.is_ipv6()) << 7;
    part[16..].copy_from_slice(&fragment_mark(id, n));
    let mut frame = Vec::new();
    let word = u16::from(n) * 3;
    match ends {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            frame.extend(
                [&macs.1[..], &macs.0, &[8, 0, 0x45, 0, 0, 44, 0x77, id | family]].concat(),
            );
            frame.extend((word | if n == 2 { 0 } else { 0x2000 }).to_be_bytes());
            frame.extend([64, 17, 0, 0]);
            frame.extend([from.octets(), to.octets()].concat());
            let sum = checksum(&frame[14..]);
            frame[24..26].copy_from_slice(&sum);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            frame.extend(
                [&macs.1[..], &macs.0, &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 44, 64]].concat(),
            );
            frame.extend([from.octets(), to.octets()].concat());
            frame.extend([17, 0]);
            frame.extend((word << 3 | u16::from(n != 2)).to_be_bytes());
            frame.extend([0, 0, 0x77, id | family]);
        }
        mixed => unreachable!("{mixed:?}"),
    }
    [frame, part].concat()
}

/// RFC 1071.
fn checksum(header: &[u8]) -> [u8; 2] {
    let words = header.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes()
}

/// Under another's hardware address a pod does not even meet its own flow.
#[test]
fn an_open_flow_is_no_licence_for_another_hardware_address() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let weir = Weir::start(&lab, folder, &["--workers", "1"]);
    let mut wire = Wire::of(&lab, "curl");
    for family in Family::BOTH {
        let mut stream = Stream::open(&lab, "curl", "web", family, 9100);
        stream.run(20).unwrap_or_else(|error| panic!("{error}\n{}", weir.words()));
        let (client, server) =
            (stream.sender.local_addr().unwrap(), stream.receiver.local_addr().unwrap());
        let before = settled(&weir);
        let mut frame = Vec::new();
        packet((lab.mac("kurl"), lab.mac("web")), (client.ip(), server.ip()))
            .udp(client.port(), server.port())
            .write(&mut frame, b"forged")
            .unwrap();
        for _ in 0..100 {
            wire.send(&frame);
        }
        wire.flush();
        let grown = growth(&weir, &before);
        assert_eq!(grown("steering.drop_mac"), 100, "{family:?}\n{}", weir.words());
        assert_eq!(grown("steering.hit"), 0, "{family:?}\n{}", weir.words());
        stream.run(10).unwrap_or_else(|error| panic!("{error}\n{}", weir.words()));
    }
}

/// A pod that changes its hardware address goes on, with a warning; one that takes another's
/// does not.
#[test]
fn a_changed_hardware_address() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let mut weir = Weir::start(&lab, folder, &["--workers", "1"]);
    let take = |mac: Mac| {
        let text = mac.map(|byte| format!("{byte:02x}")).join(":");
        lab.command("kurl", "ip", &["link", "set", "eth0", "address", &text]);
    };
    take(NOBODYS);
    weir.wait("the change to be told", |weir| {
        weir.dataplane_log().contains("has changed its hardware address")
    });
    let found = differences(&lab, &[reaches("kurl", "web", Tcp)]);
    assert!(found.is_empty(), "{found:#?}\n{}", weir.words());
    take(lab.mac("curl"));
    weir.wait("the theft to be told", |weir| {
        weir.dataplane_log().contains("has taken a hardware address that another pod")
    });
    let before = settled(&weir);
    let found = differences(&lab, &[denied("kurl", "web", Tcp)]);
    assert!(found.is_empty(), "{found:#?}\n{}", weir.words());
    assert!(growth(&weir, &before)("steering.drop_mac") > 0, "{}", weir.words());
}
