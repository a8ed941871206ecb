//! Named cases: one for each rule of the parser.

use super::*;

const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 1];
const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 2];
const A4: [u8; 4] = [10, 0, 0, 1];
const B4: [u8; 4] = [10, 0, 0, 2];
const A6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const B6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// `[Ethernet][IPv4 without options][payload]`.
fn v4(protocol: u8, fragment_word: u16, payload: &[u8]) -> Vec<u8> {
    v4_with_options(protocol, fragment_word, &[], payload)
}

fn v4_with_options(protocol: u8, fragment_word: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0);
    let header = 20 + options.len();
    let mut f = Vec::new();
    f.extend_from_slice(&MAC_B);
    f.extend_from_slice(&MAC_A);
    f.extend_from_slice(&[0x08, 0x00, 0x40 | (header / 4) as u8, 0]);
    f.extend_from_slice(&((header + payload.len()) as u16).to_be_bytes());
    f.extend_from_slice(&[0x12, 0x34]);
    f.extend_from_slice(&fragment_word.to_be_bytes());
    f.extend_from_slice(&[64, protocol, 0, 0]);
    f.extend_from_slice(&A4);
    f.extend_from_slice(&B4);
    f.extend_from_slice(options);
    f.extend_from_slice(payload);
    f
}

/// `[Ethernet][IPv6][rest]`, `rest` beginning with extension headers if `next` says so.
fn v6(next: u8, rest: &[u8]) -> Vec<u8> {
    let mut f = Vec::new();
    f.extend_from_slice(&MAC_B);
    f.extend_from_slice(&MAC_A);
    f.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
    f.extend_from_slice(&(rest.len() as u16).to_be_bytes());
    f.extend_from_slice(&[next, 64]);
    f.extend_from_slice(&A6);
    f.extend_from_slice(&B6);
    f.extend_from_slice(rest);
    f
}

fn tcp_header(sport: u16, dport: u16, flags: u8) -> Vec<u8> {
    let mut h = vec![0; 20];
    h[0..2].copy_from_slice(&sport.to_be_bytes());
    h[2..4].copy_from_slice(&dport.to_be_bytes());
    h[12] = 5 << 4;
    h[13] = flags;
    h
}

fn udp_header(sport: u16, dport: u16, payload: usize) -> Vec<u8> {
    let mut h = Vec::new();
    h.extend_from_slice(&sport.to_be_bytes());
    h.extend_from_slice(&dport.to_be_bytes());
    h.extend_from_slice(&((8 + payload) as u16).to_be_bytes());
    h.extend_from_slice(&[0, 0]);
    h
}

/// An 8-byte extension header of the common form.
fn extension(next: u8) -> [u8; 8] {
    [next, 0, 1, 4, 0, 0, 0, 0]
}

fn fragment_header(next: u8, offset: u16, more: bool, id: u32) -> [u8; 8] {
    let word = (offset | u16::from(more)).to_be_bytes();
    let id = id.to_be_bytes();
    [next, 0, word[0], word[1], id[0], id[1], id[2], id[3]]
}

fn concat(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn ports_of(frame: &[u8]) -> (u8, u16, u16) {
    let packet = parse(frame).unwrap();
    (packet.tuple.protocol, packet.tuple.sport, packet.tuple.dport)
}

#[test]
fn a_tcp_segment_in_either_family() {
    let segment = tcp_header(40_000, 80, TcpFlags::SYN);
    let four = parse(&v4(6, 0, &segment)).unwrap();
    assert_eq!(four.tuple.src, Address::v4(A4));
    assert_eq!(four.tuple.dst, Address::v4(B4));
    assert_eq!((four.tuple.sport, four.tuple.dport), (40_000, 80));
    assert_eq!(four.transport, Transport::Tcp(TcpFlags(TcpFlags::SYN)));
    assert_eq!(four.fragment, Fragment::No);
    let six = parse(&v6(6, &segment)).unwrap();
    assert_eq!(six.tuple.src, Address::v6(A6));
    assert_eq!(six.tuple.dst, Address::v6(B6));
    assert_eq!(six.transport, four.transport);
}

#[test]
fn ethernet_padding_behind_the_packet_is_not_part_of_it() {
    let mut frame = v4(17, 0, &udp_header(1, 2, 0));
    frame.resize(60, 0xff);
    assert_eq!(ports_of(&frame), (17, 1, 2));
    // The padding must not lend bytes to a header that the packet does not have.
    let mut short = v4(6, 0, &[0; 8]);
    short.resize(60, 0);
    assert_eq!(parse(&short), Err(ParseError::Truncated(Layer::Transport)));
    let mut short6 = v6(17, &[0; 4]);
    short6.resize(80, 0);
    assert_eq!(parse(&short6), Err(ParseError::Truncated(Layer::Transport)));
}

#[test]
fn every_transport_with_ports() {
    assert_eq!(ports_of(&v4(17, 0, &udp_header(5, 53, 0))), (17, 5, 53));
    assert_eq!(ports_of(&v4(136, 0, &udp_header(5, 53, 0))), (136, 5, 53));
    let sctp = concat(&[&5u16.to_be_bytes(), &36_412u16.to_be_bytes(), &[0; 12]]);
    assert_eq!(ports_of(&v6(132, &sctp)), (132, 5, 36_412));
    let gre = parse(&v4(47, 0, &[0; 4])).unwrap();
    assert_eq!((gre.transport, gre.tuple.sport), (Transport::Portless, 0));
}

#[test]
fn ipv4_options_are_stepped_over_and_source_routes_refused() {
    let segment = tcp_header(1, 2, TcpFlags::ACK);
    let timestamp = [68, 4, 5, 0];
    assert_eq!(ports_of(&v4_with_options(6, 0, &timestamp, &segment)), (6, 1, 2));
    for kind in [131, 137] {
        let route = [1, kind, 7, 4, 10, 0, 0, 9];
        let frame = v4_with_options(6, 0, &route, &segment);
        assert_eq!(parse(&frame), Err(ParseError::SourceRoute), "option {kind}");
    }
    let overrun = [68, 40, 5, 0];
    let frame = v4_with_options(6, 0, &overrun, &segment);
    assert_eq!(parse(&frame), Err(ParseError::Truncated(Layer::Ipv4)));
    let endless = [68, 0, 0, 0];
    let frame = v4_with_options(6, 0, &endless, &segment);
    assert_eq!(parse(&frame), Err(ParseError::Truncated(Layer::Ipv4)));
}

#[test]
fn lengths_that_contradict_each_other_are_refused() {
    let good = v4(6, 0, &tcp_header(1, 2, 0));
    let mut ihl = good.clone();
    ihl[14] = 0x44;
    assert_eq!(parse(&ihl), Err(ParseError::HeaderLength(4)));
    let mut total = good.clone();
    total[17] += 1;
    assert_eq!(parse(&total), Err(ParseError::TotalLength { claimed: 41, present: 40 }));
    let mut below = good.clone();
    below[16..18].copy_from_slice(&19u16.to_be_bytes());
    assert_eq!(parse(&below), Err(ParseError::TotalLength { claimed: 19, present: 40 }));
    let mut version = good.clone();
    version[14] = 0x65;
    assert_eq!(parse(&version), Err(ParseError::Version(6)));
    assert_eq!(parse(&good[..13]), Err(ParseError::Truncated(Layer::Ethernet)));
    assert_eq!(parse(&good[..20]), Err(ParseError::Truncated(Layer::Ipv4)));

    let mut offset = good.clone();
    offset[14 + 20 + 12] = 4 << 4;
    assert_eq!(parse(&offset), Err(ParseError::TcpOffset(4)));
    offset[14 + 20 + 12] = 6 << 4;
    assert_eq!(parse(&offset), Err(ParseError::TcpOffset(6)));

    assert_eq!(parse(&v4(17, 0, &[0, 1, 0, 2, 0, 9, 0, 0])), Err(ParseError::UdpLength(9)));
    assert_eq!(parse(&v4(17, 0, &[0, 1, 0, 2, 0, 7, 0, 0])), Err(ParseError::UdpLength(7)));
    // UDP-Lite: a coverage of 0 means the whole packet, RFC 3828 section 3.1.
    assert_eq!(ports_of(&v4(136, 0, &[0, 1, 0, 2, 0, 0, 0, 0])), (136, 1, 2));
    assert_eq!(parse(&v4(17, 0, &[0, 1, 0, 2, 0, 0, 0, 0])), Err(ParseError::UdpLength(0)));
}

#[test]
fn what_is_not_untagged_ip_is_unsupported() {
    for ethertype in [0x0806u16, 0x8100, 0x88a8, 0x0026, 0x88b5] {
        let mut frame = v4(6, 0, &tcp_header(1, 2, 0));
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        assert_eq!(parse(&frame), Err(ParseError::UnsupportedEtherType(ethertype)));
    }
}

#[test]
fn syn_with_fin_or_rst_is_refused() {
    for extra in [TcpFlags::FIN, TcpFlags::RST] {
        let flags = TcpFlags::SYN | extra;
        let frame = v4(6, 0, &tcp_header(1, 2, flags));
        assert_eq!(parse(&frame), Err(ParseError::TcpFlags(flags)));
    }
    assert!(TcpFlags(TcpFlags::SYN).opens());
    assert!(!TcpFlags(TcpFlags::SYN | TcpFlags::ACK).opens());
}

#[test]
fn every_ipv6_extension_header_is_walked() {
    let segment = tcp_header(1, 2, TcpFlags::SYN);
    let routing_done = [60, 0, 2, 0, 0, 0, 0, 0];
    let authentication = [135, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1];
    let chain = concat(&[
        &extension(60),
        &extension(43),
        &routing_done,
        &extension(51),
        &authentication,
        &extension(139),
        &extension(140),
        &extension(6),
        &segment,
    ]);
    assert_eq!(ports_of(&v6(0, &chain)), (6, 1, 2));
}

#[test]
fn ipv6_header_chains_out_of_order_too_long_or_cut_are_refused() {
    let segment = tcp_header(1, 2, TcpFlags::SYN);
    let late_hop_by_hop = concat(&[&extension(0), &extension(6), &segment]);
    assert_eq!(parse(&v6(60, &late_hop_by_hop)), Err(ParseError::ExtensionChain));
    let mut long = vec![];
    for _ in 0..MAX_EXTENSIONS {
        long.extend_from_slice(&extension(60));
    }
    long.extend_from_slice(&extension(6));
    long.extend_from_slice(&segment);
    assert_eq!(parse(&v6(60, &long)), Err(ParseError::ExtensionChain));
    assert_eq!(
        parse(&v6(60, &[6, 1, 1, 4, 0, 0, 0, 0])),
        Err(ParseError::Truncated(Layer::Ipv6Extension))
    );
    assert_eq!(parse(&v6(59, &[])).unwrap().transport, Transport::Portless);
}

#[test]
fn routing_headers_with_segments_left_and_jumbograms_are_refused() {
    let segment = tcp_header(1, 2, TcpFlags::SYN);
    let route = concat(&[&[6, 0, 0, 1, 0, 0, 0, 0], &segment]);
    assert_eq!(parse(&v6(43, &route)), Err(ParseError::SourceRoute));
    let jumbo = concat(&[&[6, 0, 0xc2, 4, 0, 1, 0, 0], &segment]);
    assert_eq!(parse(&v6(0, &jumbo)), Err(ParseError::Jumbogram));
    let mut no_length = v6(6, &segment);
    no_length[18..20].copy_from_slice(&[0, 0]);
    assert_eq!(parse(&no_length), Err(ParseError::Jumbogram));
}

#[test]
fn addresses_that_lie_are_refused() {
    let mut mapped = v6(6, &tcp_header(1, 2, TcpFlags::SYN));
    mapped[14 + 8..14 + 24].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 1]);
    assert_eq!(parse(&mapped), Err(ParseError::MappedAddress));
    let mut group = v4(17, 0, &udp_header(1, 2, 0));
    group[26..30].copy_from_slice(&[224, 0, 0, 1]);
    assert_eq!(parse(&group), Err(ParseError::GroupSource));
    group[26..30].copy_from_slice(&[255; 4]);
    assert_eq!(parse(&group), Err(ParseError::GroupSource));
}

#[test]
fn icmp_of_the_other_family_is_refused() {
    assert_eq!(parse(&v4(58, 0, &[128, 0, 0, 0, 0, 7, 0, 1])), Err(ParseError::IcmpFamily));
    assert_eq!(parse(&v6(1, &[8, 0, 0, 0, 0, 7, 0, 1])), Err(ParseError::IcmpFamily));
}

#[test]
fn fragments_are_recognised_and_linked_by_their_identification() {
    let datagram = concat(&[&udp_header(7, 9, 100), &[0; 16]]);
    let id4 = FragmentId { id: 0x1234, next: 17 };
    let extent = |start, end, last| Extent { start, end, last };
    let first = parse(&v4(17, 0x2000, &datagram)).unwrap();
    let is_first = Fragment::First(id4, extent(0, 24, false));
    assert_eq!((first.fragment, first.tuple.dport), (is_first, 9));
    let later = parse(&v4(17, 3, &[0; 5])).unwrap();
    let is_later = Fragment::Later(id4, extent(24, 29, true));
    assert_eq!((later.fragment, later.transport), (is_later, Transport::Unseen));
    assert_eq!((later.tuple.sport, later.tuple.dport), (0, 0));

    // The Fragment header's Next Header is what links, not the transport behind it.
    let id6 = FragmentId { id: 77, next: 60 };
    let six = concat(&[&fragment_header(60, 0, true, 77), &extension(17), &datagram]);
    let first = parse(&v6(44, &six)).unwrap();
    let is_first = Fragment::First(id6, extent(0, 32, false));
    assert_eq!((first.fragment, first.tuple.protocol), (is_first, 17));
    let six = concat(&[&fragment_header(60, 32, false, 77), &[0; 5]]);
    let later = parse(&v6(44, &six)).unwrap();
    let is_later = Fragment::Later(id6, extent(32, 37, true));
    assert_eq!((later.fragment, later.transport), (is_later, Transport::Unseen));

    // RFC 6946: offset 0 and no more fragments is a whole packet.
    let atomic = concat(&[&fragment_header(17, 0, false, 77), &udp_header(7, 9, 0)]);
    assert_eq!(parse(&v6(44, &atomic)).unwrap().fragment, Fragment::No);
}

#[test]
fn fragments_made_to_deceive_are_refused() {
    // RFC 1858 section 4.2: a second fragment that rewrites the TCP flags.
    assert_eq!(parse(&v4(6, 1, &[0; 16])), Err(ParseError::FragmentExtent));
    assert_eq!(parse(&v4(6, 2, &[0; 16])), Err(ParseError::FragmentExtent));
    assert!(parse(&v4(6, 3, &[0; 16])).is_ok());
    // RFC 1858 section 3: a first fragment without the whole TCP header.
    assert_eq!(parse(&v4(6, 0x2000, &[0; 16])), Err(ParseError::Truncated(Layer::Transport)));
    // Reassembling beyond 65,535 bytes.
    assert_eq!(parse(&v4(17, 0x1fff, &[0; 8])), Err(ParseError::FragmentExtent));
    // Nothing at all.
    assert_eq!(parse(&v4(17, 0x2003, &[])), Err(ParseError::FragmentExtent));
    assert_eq!(parse(&v4(17, 3, &[])), Err(ParseError::FragmentExtent));
    // Not a multiple of 8 though more follow.
    assert_eq!(parse(&v4(17, 0x2001, &[0; 9])), Err(ParseError::FragmentExtent));
    // Two Fragment headers.
    let twice = concat(&[&fragment_header(44, 0, true, 1), &fragment_header(17, 0, false, 1)]);
    assert_eq!(parse(&v6(44, &twice)), Err(ParseError::ExtensionChain));
    // RFC 7112: the first fragment must hold the whole header chain.
    let cut = concat(&[&fragment_header(60, 0, true, 1), &[17, 1, 1, 4, 0, 0, 0, 0]]);
    assert_eq!(parse(&v6(44, &cut)), Err(ParseError::Truncated(Layer::Ipv6Extension)));
}

#[test]
fn echo_messages_carry_their_identifier_as_ports() {
    for message in [8, 0] {
        let packet = parse(&v4(1, 0, &[message, 0, 0, 0, 0x12, 0x34, 0, 1])).unwrap();
        assert_eq!(packet.transport, Transport::IcmpEcho);
        assert_eq!((packet.tuple.sport, packet.tuple.dport), (0x1234, 0x1234));
    }
    for message in [128, 129] {
        let packet = parse(&v6(58, &[message, 0, 0, 0, 0x12, 0x34, 0, 1])).unwrap();
        assert_eq!(packet.transport, Transport::IcmpEcho);
        assert_eq!(packet.tuple.dport, 0x1234);
    }
    let timestamp = parse(&v4(1, 0, &[13, 0, 0, 0, 0, 1, 0, 1])).unwrap();
    assert_eq!((timestamp.transport, timestamp.tuple.dport), (Transport::Icmp, 0));
}

#[test]
fn an_icmp_error_names_the_flow_that_it_is_about() {
    let quoted = &v4(17, 0, &udp_header(5000, 53, 400))[14..];
    for message in [3, 4, 5, 11, 12] {
        let error = concat(&[&[message, 1, 0, 0, 0, 0, 0, 0], quoted]);
        let packet = parse(&v4(1, 0, &error)).unwrap();
        let Transport::IcmpError(Some(about)) = packet.transport else {
            panic!("type {message}: {packet:?}")
        };
        assert_eq!((about.src, about.dst), (Address::v4(A4), Address::v4(B4)));
        assert_eq!((about.protocol, about.sport, about.dport), (17, 5000, 53));
    }
    let quoted = &v6(60, &concat(&[&extension(6), &tcp_header(9, 443, 0)]))[14..];
    let error = concat(&[&[2, 0, 0, 0, 0, 0, 5, 0], quoted]);
    let packet = parse(&v6(58, &error)).unwrap();
    let Transport::IcmpError(Some(about)) = packet.transport else { panic!("{packet:?}") };
    assert_eq!((about.protocol, about.sport, about.dport), (6, 9, 443));
}

#[test]
fn a_quotation_that_tells_nothing_is_none() {
    let unrelated = Transport::IcmpError(None);
    let head = [3, 1, 0, 0, 0, 0, 0, 0];
    for quoted in [
        vec![],
        vec![0x45; 19],
        v4(17, 3, &[0; 16])[14..].to_vec(), // a later fragment
        v4(17, 0, &[0; 3])[14..].to_vec(),  // ports cut off
        v4(1, 0, &[3, 0, 0, 0, 0, 0, 0, 0])[14..].to_vec(), // an error about an error
        v4(58, 0, &[128, 0, 0, 0, 0, 0, 0, 0])[14..].to_vec(),
    ] {
        let packet = parse(&v4(1, 0, &concat(&[&head, &quoted]))).unwrap();
        assert_eq!(packet.transport, unrelated, "{quoted:02x?}");
    }
    // ICMPv6 errors of types that nobody knows yet are errors all the same.
    let packet = parse(&v6(58, &[99, 0, 0, 0, 0, 0, 0, 0])).unwrap();
    assert_eq!(packet.transport, unrelated);
}

#[test]
fn the_first_chunk_says_what_an_sctp_packet_does() {
    let packet = |chunks: &[(u8, u16, usize)]| {
        let mut packet = concat(&[&5u16.to_be_bytes(), &80u16.to_be_bytes(), &[0; 8]]);
        for &(kind, length, present) in chunks {
            packet.extend([kind, 0]);
            packet.extend(length.to_be_bytes());
            packet.resize(packet.len() + present - 4, 0);
        }
        v4(132, 0, &packet)
    };
    let flags_of = |chunks: &[(u8, u16, usize)]| match parse(&packet(chunks)).map(|p| p.transport) {
        Ok(Transport::Sctp(TcpFlags(flags))) => Ok(flags),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error),
    };
    let (syn, ack, fin, rst) = (TcpFlags::SYN, TcpFlags::ACK, TcpFlags::FIN, TcpFlags::RST);
    for (kind, flags) in [(0, ack), (1, syn), (2, syn | ack), (3, ack), (4, ack), (6, rst)] {
        assert_eq!(flags_of(&[(kind, 20, 20)]), Ok(flags), "chunk {kind}");
    }
    for (kind, flags) in [(7, fin), (8, fin), (9, ack), (10, ack), (11, ack), (14, fin), (255, ack)]
    {
        assert_eq!(flags_of(&[(kind, 20, 20)]), Ok(flags), "chunk {kind}");
    }
    // An INIT is alone, whole, and its padding is none of its length.
    assert_eq!(flags_of(&[(1, 21, 24)]), Ok(syn));
    for (chunks, length) in [
        (&[(1, 20, 20), (0, 16, 16)][..], 20),
        (&[(1, 20, 20), (1, 20, 20)], 20),
        (&[(1, 16, 20)], 16),
        (&[(1, 0, 20)], 0),
        (&[(1, 65_535, 20)], 65_535),
        (&[(1, 24, 20)], 24),
    ] {
        assert_eq!(flags_of(chunks), Err(ParseError::SctpInit(length)), "{chunks:?}");
    }
    assert_eq!(flags_of(&[(0, 16, 16), (1, 20, 20)]), Ok(ack));
    assert_eq!(flags_of(&[]), Err(ParseError::Truncated(Layer::Transport)));
}
