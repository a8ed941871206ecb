//! Reading: a table recorded from a kernel (`recorded.rs`), what a kernel may say instead
//! of one, and the kernel at hand.

use std::io;

use etherparse::PacketBuilder;
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, ProtoInfo, ProtoInfoTCP,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::tests::{answered, endpoints, shown, tuple};
use super::*;
use crate::netns::NetNs;
use crate::parse;

#[test]
fn what_the_kernel_answers_instead_of_a_table_is_told_apart() {
    let answer = |kind: u16, errno: i32| {
        let mut bytes = Vec::new();
        bytes.extend(20u32.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(0u16.to_ne_bytes());
        bytes.extend(1u32.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend((-errno).to_ne_bytes());
        ctnetlink::read(&bytes, &mut |entry| panic!("{entry:?}"))
    };
    const ERROR: u16 = 2;
    const DONE: u16 = 3;
    for errno in [libc::EPROTONOSUPPORT, libc::EINVAL, libc::ENOENT] {
        assert!(matches!(answer(ERROR, errno), Err(DumpError::Absent(_))), "{errno}");
    }
    let refused = answer(ERROR, libc::EPERM).unwrap_err();
    assert!(refused.to_string().ends_with("grant CAP_NET_ADMIN"), "{refused}");
    assert!(matches!(answer(DONE, libc::ENOMEM), Err(DumpError::Failed(..))));
    assert!(matches!(answer(ERROR, i32::MIN + 1), Err(DumpError::Failed(..))));
    assert!(answer(ERROR, 0).unwrap().is_continue());
    assert!(answer(DONE, 0).unwrap().is_break());
}

/// The recorded datagrams.
#[cfg(target_endian = "little")]
pub(super) fn recorded() -> Vec<Vec<u8>> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    recorded::DUMP.iter().map(|hex| hex.as_bytes().chunks_exact(2).map(byte).collect()).collect()
}

/// Reads a whole dump, entry by entry.
#[cfg(target_endian = "little")]
fn entries(datagrams: &[Vec<u8>]) -> Vec<Option<Entry>> {
    let mut entries = Vec::new();
    let mut sink = |entry| {
        entries.push(entry);
        ControlFlow::Continue(())
    };
    let (last, others) = datagrams.split_last().unwrap();
    for datagram in others {
        assert!(ctnetlink::read(datagram, &mut sink).unwrap().is_continue());
    }
    assert!(ctnetlink::read(last, &mut sink).unwrap().is_break());
    entries
}

/// The flows of the recorded table: one an entry, two for the three translated ones, none
/// for the node's own and the one in zone 5. The answer to the latter, which alone is in
/// zone 0, shows what a zone of one direction does.
#[cfg(target_endian = "little")]
const FLOWS: [&str; 25] = [
    "1 10.77.0.2#0@7 > 10.77.1.2#0@9 icmp",
    "1 10.77.0.2#4242@7 > 10.77.1.2#4242@9 icmp",
    "132 10.77.0.2#42001@7 > 10.77.1.2#3868@9 answered",
    "17 10.77.0.2#41001@7 > 10.77.1.2#5353@9 answered",
    "17 10.77.0.2#41002@7 > 10.77.1.2#5353@9 answered",
    "17 10.77.0.2#41002@7 > 10.96.0.1#53 answered",
    "17 10.77.0.2#41004@7 > 10.77.1.9#5353 unanswered",
    "17 10.77.1.2#7777@9 > 10.77.0.2#41003@7 unanswered",
    "253 10.77.0.2#0@7 > 10.77.1.2#0@9 unanswered",
    "47 10.77.0.2#0@7 > 10.77.1.2#0@9 unanswered",
    "58 fd77::2#6464@7 > fd77:1::2#6464@9 icmp",
    "6 10.77.0.2#40001@7 > 10.77.1.2#8080@9 established",
    "6 10.77.0.2#40002@7 > 10.77.1.2#8080@9 established",
    "6 10.77.0.2#40002@7 > 10.96.0.1#80 established",
    "6 10.77.0.2#40003@7 > 10.96.0.2#80 established",
    "6 10.77.0.2#40005@7 > 10.77.1.2#9999@9 opening",
    "6 10.77.0.2#40006@7 > 10.77.1.2#9998@9 opening",
    "6 10.77.0.2#40007@7 > 10.77.1.2#8080@9 closing",
    "6 10.77.0.2#40008@7 > 10.77.1.2#8080@9 closing",
    "6 10.77.0.2#40009@7 > 10.77.1.2#8080@9 closing",
    "6 10.77.0.2#40010@7 > 10.77.1.2#8080@9 reset",
    "6 10.77.0.2#40011@7 > 10.77.1.2#8080@9 closing",
    "6 10.77.0.2#40012@7 > 10.77.1.2#8080@9 closing",
    "6 10.77.1.1#39632 > 10.77.1.2#8080@9 established",
    "6 fd77::2#40004@7 > fd77:1::2#8086@9 established",
];

#[test]
#[cfg(target_endian = "little")]
fn a_recorded_table_gives_the_flows_that_were_open() {
    let endpoints = endpoints(true, true);
    let mut harvest = Harvest::new(&endpoints, 100);
    for entry in entries(&recorded()) {
        assert!(harvest.take(entry).is_continue());
    }
    assert_eq!((harvest.entries, harvest.unreadable, harvest.other_zones), (24, 0, 1));
    let mut found: Vec<_> = harvest.seeds.iter().map(shown).collect();
    found.sort();
    assert_eq!(found, FLOWS);
}

/// The recorded entry of a port of the opener.
#[cfg(target_endian = "little")]
fn recorded_entry(sport: u16) -> Entry {
    let mut entries = entries(&recorded()).into_iter().flatten();
    entries.find(|e| e.original.sport == sport).unwrap()
}

#[test]
#[cfg(target_endian = "little")]
fn who_sent_the_first_fin_is_read_from_the_recorded_table() {
    use TcpState::{CloseWait, Established, FinWait};
    for (port, state, closer) in [
        (40001, Established, [false, false]),
        (40007, CloseWait, [true, false]),
        (40008, CloseWait, [false, true]),
        (40011, FinWait, [true, false]),
    ] {
        assert_eq!(recorded_entry(port).tcp, Some(Tcp { state, closer }), "{port}");
    }
}

#[test]
#[cfg(target_endian = "little")]
fn an_entry_has_the_5_tuple_that_the_parser_makes_of_its_packets() {
    let (client, backend) = ([10, 77, 0, 2], [10, 77, 1, 2]);
    let client6: std::net::Ipv6Addr = "fd77::2".parse().unwrap();
    let backend6: std::net::Ipv6Addr = "fd77:1::2".parse().unwrap();
    let v4 = || PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(client, backend, 64);
    let v6 =
        || PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(client6.octets(), backend6.octets(), 64);
    let mut frames = vec![Vec::new(); 7];
    let [tcp, tcp6, udp, echo, echo6, timestamp, other] = frames.as_mut_slice() else {
        unreachable!()
    };
    v4().tcp(40001, 8080, 1, 1).write(tcp, &[]).unwrap();
    v6().tcp(40004, 8086, 1, 1).write(tcp6, &[]).unwrap();
    v4().udp(41001, 5353).write(udp, &[]).unwrap();
    v4().icmpv4_echo_request(4242, 1).write(echo, &[]).unwrap();
    v6().icmpv6_echo_request(6464, 1).write(echo6, &[]).unwrap();
    v4().icmpv4_raw(13, 0, [3, 9, 0, 1]).write(timestamp, &[0; 12]).unwrap();
    v4().write(other, etherparse::IpNumber(253), &[0; 20]).unwrap();
    let table: Vec<_> = entries(&recorded()).into_iter().map(|e| e.unwrap().original).collect();
    for frame in frames {
        let wanted = parse::parse(&frame).unwrap().tuple;
        assert!(table.contains(&wanted), "{wanted:?}");
    }
}

#[test]
#[cfg(target_endian = "little")]
fn an_entry_that_cannot_be_read_costs_only_itself() {
    let mut datagrams = recorded();
    let whole = entries(&datagrams).len();
    // fd77::2 becomes ::ffff:10.77.0.2, an address that would pass for the IPv4 client's.
    let v6: Address = "fd77::2".parse().unwrap();
    let mapped: Address = "10.77.0.2".parse().unwrap();
    let (v6, mapped) = (v6.bits().to_be_bytes(), mapped.bits().to_be_bytes());
    for datagram in &mut datagrams {
        for at in 0..datagram.len() {
            if datagram[at..].starts_with(&v6) {
                datagram[at..at + 16].copy_from_slice(&mapped);
            }
        }
    }
    let read = entries(&datagrams);
    assert_eq!(read.len(), whole);
    assert_eq!(read.iter().filter(|e| e.is_none()).count(), 2, "the two IPv6 entries");
}

#[test]
#[cfg(target_endian = "little")]
fn what_answers_another_question_is_passed_over_and_a_cut_message_is_an_error() {
    let first = recorded().swap_remove(0);
    let mut foreign = first.clone();
    let length = u32::from_ne_bytes(*foreign.first_chunk().unwrap()) as usize;
    foreign[8] = 2;
    let count = |bytes: &[u8]| {
        let mut count = 0;
        let mut sink = |_| {
            count += 1;
            ControlFlow::Continue(())
        };
        ctnetlink::read(bytes, &mut sink).map(|_| count)
    };
    assert_eq!(count(&foreign[..length]).unwrap(), 0);
    assert_eq!(count(&first[..length]).unwrap(), 1);
    for end in 1..length {
        assert!(matches!(count(&first[..end]), Err(DumpError::Malformed(_))), "{end}");
    }
}

/// Puts a connection into the conntrack table of this thread's namespace.
fn create(entry: &Entry, state: u8) -> io::Result<()> {
    let family = if entry.original.src.is_v4() {
        NetfilterProtoFamily::IPv4
    } else {
        NetfilterProtoFamily::IPv6
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_ACK;
    let mut attributes = vec![
        ConntrackAttribute::CtaTupleOrig(ctnetlink::in_attributes(&entry.original)),
        ConntrackAttribute::CtaTupleReply(ctnetlink::in_attributes(&entry.reply)),
        ConntrackAttribute::CtaStatus(entry.status),
        ConntrackAttribute::CtaTimeout(600),
    ];
    if entry.tcp.is_some() {
        let tcp = ProtoInfo::TCP(vec![ProtoInfoTCP::State(state)]);
        attributes.push(ConntrackAttribute::CtaProtoInfo(vec![tcp]));
    }
    let mut message = NetlinkMessage::new(
        header,
        NetlinkPayload::from(NetfilterMessage::new(
            NetfilterHeader::new(family, 0, 0),
            ConntrackMessage::New(attributes),
        )),
    );
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let mut answer = Vec::with_capacity(4096);
    socket.recv(&mut answer, 0)?;
    let errno = i32::from_ne_bytes(*answer[16..].first_chunk().unwrap());
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-errno)) }
}

/// In an empty namespace of its own; whoever may not make one learns that the kernel's
/// refusal is understood.
#[test]
fn the_kernel_at_hand_shows_what_was_put_into_its_table() {
    let mut table = Vec::new();
    let mut sink = |entry| {
        table.push(entry);
        ControlFlow::Continue(())
    };
    let netns = match NetNs::create() {
        Ok(netns) => netns,
        Err(e) => {
            assert_eq!(e.kind(), io::ErrorKind::PermissionDenied);
            let outcome = ctnetlink::dump(|_| ControlFlow::Break(()));
            let understood =
                matches!(outcome, Ok(()) | Err(DumpError::Refused(_) | DumpError::Absent(_)));
            assert!(understood, "{outcome:?}");
            return;
        }
    };
    let entry = |protocol, original, reply| {
        let tcp = (protocol == protocol::TCP)
            .then_some(Tcp { state: TcpState::Established, closer: [false; 2] });
        let (original, reply) = (tuple(protocol, original), tuple(protocol, reply));
        Entry { original, reply, status: answered(), zone: 0, tcp }
    };
    let made = [
        entry(6, "10.77.0.2#40002 > 10.96.0.1#80", "10.77.1.2#8080 > 10.77.0.2#40002"),
        entry(6, "fd77::2#40004 > fd77:1::2#8086", "fd77:1::2#8086 > fd77::2#40004"),
        entry(17, "10.77.1.2#41000 > 10.77.0.2#53", "10.77.0.2#53 > 10.77.1.2#41000"),
    ];
    let outcome = netns.run(|| {
        for entry in &made {
            if let Err(e) = create(entry, 3) {
                // A kernel without conntrack: the dump must say so.
                assert_eq!(e.raw_os_error(), Some(libc::EINVAL), "{e}");
                return Ok(ctnetlink::dump(&mut sink));
            }
        }
        Ok(ctnetlink::dump(&mut sink))
    });
    match outcome.unwrap() {
        Err(DumpError::Absent(e)) => eprintln!("this kernel has no conntrack table: {e}"),
        outcome => {
            outcome.unwrap();
            assert_eq!(table.len(), made.len());
            for entry in &made {
                assert!(table.contains(&Some(*entry)), "{entry:?} not in {table:?}");
            }
            // One by one, by the tuple of the answers.
            let asked = netns.run(|| {
                let mut entries = ctnetlink::Entries::open().unwrap();
                let mut ask = |tuple| entries.by_reply(&tuple).unwrap();
                for entry in &made {
                    assert_eq!(ask(entry.reply), Some(*entry));
                    // The kernel knows it by its original tuple as well.
                    assert_eq!(ask(entry.original), None);
                }
                let nobodys = tuple(6, "10.77.1.2#8080 > 10.77.0.2#40003");
                assert_eq!(ask(nobodys), None);
                assert_eq!(ask(FiveTuple { protocol: 1, ..nobodys }), None);
                Ok(ask(made[0].reply))
            });
            assert_eq!(asked.unwrap(), Some(made[0]));
            let seeds = netns.run(|| Ok(seeds(&endpoints(true, true), 10))).unwrap();
            let mut found: Vec<_> = seeds.iter().map(shown).collect();
            found.sort();
            assert_eq!(
                found,
                [
                    "17 10.77.1.2#41000@9 > 10.77.0.2#53@7 answered",
                    "6 10.77.0.2#40002@7 > 10.77.1.2#8080@9 established",
                    "6 10.77.0.2#40002@7 > 10.96.0.1#80 established",
                    "6 fd77::2#40004@7 > fd77:1::2#8086@9 established",
                ]
            );
        }
    }
}
