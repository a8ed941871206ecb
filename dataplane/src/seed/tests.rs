//! The rules one by one, on entries made here.

use weir_table::flow::FlowState;

use super::*;
use crate::endpoints::{Endpoint, EndpointsBuilder};

const CLIENT: u32 = 7;
const BACKEND: u32 = 9;

fn endpoint(ifindex: u32, quarantined: bool, addresses: &[&str]) -> Endpoint {
    let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
    let name = format!("pod on {ifindex}");
    Endpoint { ifindex, addresses, void: Vec::new(), quarantined, name }
}

/// The client and the backend of the recorded node, as far as they are here.
pub(super) fn endpoints(client: bool, backend: bool) -> Endpoints {
    let mut builder = EndpointsBuilder::new();
    if client {
        builder.add(endpoint(CLIENT, false, &["10.77.0.2", "fd77::2"]));
    }
    if backend {
        builder.add(endpoint(BACKEND, false, &["10.77.1.2", "fd77:1::2"]));
    }
    builder.build().0
}

/// Reads `[address]#port > [address]#port`.
pub(super) fn tuple(protocol: u8, text: &str) -> FiveTuple {
    let end = |text: &str| -> (Address, u16) {
        let (address, port) = text.split_once('#').unwrap();
        (address.parse().unwrap(), port.parse().unwrap())
    };
    let (from, to) = text.split_once(" > ").unwrap();
    let ((src, sport), (dst, dport)) = (end(from), end(to));
    FiveTuple { src, dst, protocol, sport, dport }
}

pub(super) fn answered() -> Status {
    Status::Confirmed | Status::SeenReply | Status::Assured
}

/// A connection without translation.
fn plain(protocol: u8, text: &str) -> Entry {
    let original = tuple(protocol, text);
    let tcp = (protocol == protocol::TCP)
        .then_some(Tcp { state: TcpState::Established, closer: [false; 2] });
    Entry { original, reply: original.reversed(), status: answered(), zone: 0, tcp }
}

fn direct() -> Entry {
    plain(protocol::TCP, "10.77.0.2#40001 > 10.77.1.2#8080")
}

/// The same under translation: what the opener sends, what the other end sends.
fn translated(original: &str, reply: &str) -> Entry {
    let reply = tuple(protocol::TCP, reply);
    Entry { original: tuple(protocol::TCP, original), reply, ..direct() }
}

/// As text: protocol, opener and its device, other end and its device, state.
pub(super) fn shown(seed: &Seed) -> String {
    let end = |side: Side| {
        let (address, port) = seed.key.end(side);
        match seed.ifindex[side.index()] {
            0 => format!("{address}#{port}"),
            device => format!("{address}#{port}@{device}"),
        }
    };
    let state = FlowState::of(seed.key.protocol(), seed.initiator, seed.seen, false).as_str();
    let (from, to) = (end(seed.initiator), end(seed.initiator.other()));
    format!("{} {from} > {to} {state}", seed.key.protocol())
}

fn flows(entry: &Entry, endpoints: &Endpoints) -> Vec<String> {
    seeds_of(entry, endpoints).iter().map(shown).collect()
}

const NONE: [&str; 0] = [];

#[test]
fn an_untranslated_connection_is_one_flow_with_the_devices_of_the_ends_that_are_here() {
    let cases = [
        (true, true, &["6 10.77.0.2#40001@7 > 10.77.1.2#8080@9 established"][..]),
        (true, false, &["6 10.77.0.2#40001@7 > 10.77.1.2#8080 established"]),
        (false, true, &["6 10.77.0.2#40001 > 10.77.1.2#8080@9 established"]),
        (false, false, &[]),
    ];
    for (client, backend, wanted) in cases {
        assert_eq!(flows(&direct(), &endpoints(client, backend)), wanted);
    }
}

#[test]
fn the_opener_is_the_initiator_whichever_end_is_lower() {
    let back = plain(protocol::TCP, "10.77.1.2#40001 > 10.77.0.2#8080");
    let seed = seeds_of(&back, &endpoints(true, true))[0];
    assert_eq!(seed.initiator, Side::Hi);
    assert_eq!(shown(&seed), "6 10.77.1.2#40001@9 > 10.77.0.2#8080@7 established");
    assert_eq!(seed.ifindex, [CLIENT, BACKEND]);
}

#[test]
fn a_translated_connection_has_a_flow_at_either_ends_hook() {
    let dnat = translated("10.77.0.2#40002 > 10.96.0.1#80", "10.77.1.2#8080 > 10.77.0.2#40002");
    let at_client = "6 10.77.0.2#40002@7 > 10.96.0.1#80 established";
    assert_eq!(
        flows(&dnat, &endpoints(true, true)),
        [at_client, "6 10.77.0.2#40002@7 > 10.77.1.2#8080@9 established"]
    );
    assert_eq!(flows(&dnat, &endpoints(true, false)), [at_client]);
    assert_eq!(
        flows(&dnat, &endpoints(false, true)),
        ["6 10.77.0.2#40002 > 10.77.1.2#8080@9 established"]
    );
    assert_eq!(flows(&dnat, &endpoints(false, false)), NONE);

    let masqueraded =
        translated("10.77.0.2#40003 > 10.96.0.2#80", "10.77.1.2#8080 > 10.77.1.1#48031");
    assert_eq!(
        flows(&masqueraded, &endpoints(true, true)),
        [
            "6 10.77.0.2#40003@7 > 10.96.0.2#80 established",
            "6 10.77.1.1#48031 > 10.77.1.2#8080@9 established"
        ]
    );
}

#[test]
fn a_pod_that_leaves_the_cluster_masqueraded_has_its_own_address_at_its_hook() {
    let entry = translated("10.77.0.2#40000 > 192.0.2.1#443", "192.0.2.1#443 > 198.51.100.7#1025");
    assert_eq!(
        flows(&entry, &endpoints(true, true)),
        ["6 10.77.0.2#40000@7 > 192.0.2.1#443 established"]
    );
}

#[test]
fn an_outsider_that_reaches_a_pod_by_a_port_of_the_node_is_the_initiator() {
    let entry =
        translated("192.0.2.1#5000 > 198.51.100.7#30080", "10.77.1.2#8080 > 192.0.2.1#5000");
    assert_eq!(
        flows(&entry, &endpoints(true, true)),
        ["6 192.0.2.1#5000 > 10.77.1.2#8080@9 established"]
    );
}

#[test]
fn a_pod_that_reaches_itself_through_a_service_has_two_flows() {
    let entry = translated("10.77.1.2#5000 > 10.96.0.1#80", "10.77.1.2#8080 > 10.77.1.1#5000");
    assert_eq!(
        flows(&entry, &endpoints(true, true)),
        [
            "6 10.77.1.2#5000@9 > 10.96.0.1#80 established",
            "6 10.77.1.1#5000 > 10.77.1.2#8080@9 established"
        ]
    );
}

#[test]
fn tcp_is_in_the_state_that_conntrack_says() {
    use TcpState::*;
    const OPEN: u8 = SEEN_ANY | SEEN_ACK | SEEN_MORE;
    const ANSWER: u8 = SEEN_ANY | SEEN_SYN | SEEN_ACK;
    const ENDED: u8 = SEEN_ANY | SEEN_ACK | SEEN_RST;
    const NEITHER: [bool; 2] = [false, false];
    const OPENER: [bool; 2] = [true, false];
    const OTHER: [bool; 2] = [false, true];
    let syn = SEEN_ANY | SEEN_SYN;
    let cases = [
        (SynSent, false, NEITHER, [syn, 0], "opening"),
        (SynSent2, true, NEITHER, [syn, syn], "opening"),
        (SynRecv, true, NEITHER, [syn, ANSWER], "opening"),
        (Established, true, NEITHER, [OPEN, OPEN], "established"),
        // Picked up in its middle, other end not heard since.
        (Established, false, NEITHER, [OPEN, 0], "opening"),
        (FinWait, true, OPENER, [OPEN | SEEN_FIN, OPEN], "closing"),
        (CloseWait, true, OTHER, [OPEN, OPEN | SEEN_FIN], "closing"),
        (LastAck, true, OPENER, [OPEN | SEEN_FIN, OPEN], "closing"),
        (TimeWait, true, NEITHER, [OPEN | SEEN_FIN; 2], "closing"),
        (TimeWait, true, [true; 2], [OPEN | SEEN_FIN; 2], "closing"),
        (Close, true, NEITHER, [ENDED; 2], "reset"),
    ];
    for (state, replied, closer, [opener, other], wanted) in cases {
        let status = if replied { answered() } else { Status::Confirmed };
        let entry = Entry { status, tcp: Some(Tcp { state, closer }), ..direct() };
        let seeds = seeds_of(&entry, &endpoints(true, true));
        assert_eq!(seeds[0].seen, Seen { lo: opener, hi: other }, "{state:?}");
        assert!(shown(&seeds[0]).ends_with(wanted), "{state:?}: {}", shown(&seeds[0]));
    }
    let nameless = Entry { tcp: None, ..direct() };
    assert_eq!(flows(&nameless, &endpoints(true, true)), NONE);
}

#[test]
fn other_protocols_are_answered_if_a_reply_was_seen() {
    for (protocol, yes, no) in [
        (protocol::UDP, "answered", "unanswered"),
        (protocol::UDP_LITE, "answered", "unanswered"),
        (protocol::SCTP, "answered", "unanswered"),
        (253, "answered", "unanswered"),
        (protocol::ICMP, "icmp", "icmp"),
    ] {
        let entry = plain(protocol, "10.77.0.2#40001 > 10.77.1.2#8080");
        let any = SEEN_ANY | SEEN_MORE;
        for (status, wanted, other) in [(answered(), yes, any), (Status::Confirmed, no, 0)] {
            let seeds = seeds_of(&Entry { status, ..entry }, &endpoints(true, true));
            let set_up = if protocol == protocol::SCTP && other != 0 { SEEN_ACK } else { 0 };
            assert_eq!(seeds[0].seen, Seen { lo: any | set_up, hi: other | set_up });
            assert!(shown(&seeds[0]).ends_with(&format!(" {wanted}")), "{}", shown(&seeds[0]));
        }
    }
}

#[test]
fn what_is_seen_comes_about_by_one_packet_from_either_side() {
    for closer in [[true, false], [false, true]] {
        for state in [TcpState::SynRecv, TcpState::FinWait, TcpState::Close] {
            let entry = Entry { tcp: Some(Tcp { state, closer }), ..direct() };
            let seed = seeds_of(&entry, &endpoints(true, true))[0];
            let (from, to) = (seed.initiator, seed.initiator.other());
            let seen =
                Seen::default().with(from, seed.tcp_flags(from)).with(to, seed.tcp_flags(to));
            assert_eq!(seen, seed.seen);
        }
    }
}

#[test]
fn entries_that_are_no_connection_of_this_nodes_pods_give_no_seed() {
    let all = endpoints(true, true);
    for status in [Status::Dying, Status::Template, Status::Untracked] {
        let entry = Entry { status: answered() | status, ..direct() };
        assert_eq!(flows(&entry, &all), NONE, "{status:?}");
    }
    assert_eq!(flows(&Entry { zone: 5, ..direct() }, &all), NONE);
    for text in [
        "10.77.0.2#68 > 255.255.255.255#67",
        "10.77.0.2#5353 > 224.0.0.251#5353",
        "fd77::2#5353 > ff02::fb#5353",
        "127.0.0.1#5000 > 10.77.0.2#80",
        "::1#5000 > fd77::2#80",
        "0.0.0.0#68 > 10.77.0.2#67",
    ] {
        assert_eq!(flows(&plain(protocol::UDP, text), &all), NONE, "{text}");
    }
}

#[test]
fn the_nodes_loopback_behind_a_translation_costs_only_its_own_flow() {
    let entry = translated("127.0.0.1#5000 > 127.0.0.1#30080", "10.77.1.2#8080 > 10.77.1.1#5000");
    assert_eq!(
        flows(&entry, &endpoints(true, true)),
        ["6 10.77.1.1#5000 > 10.77.1.2#8080@9 established"]
    );
}

#[test]
fn a_quarantined_endpoint_has_no_seed_at_either_end() {
    let (endpoints, _) = EndpointsBuilder::new()
        .with(endpoint(CLIENT, true, &["10.77.0.2"]))
        .with(endpoint(BACKEND, false, &["10.77.1.2"]))
        .build();
    assert_eq!(flows(&direct(), &endpoints), NONE);
    assert_eq!(flows(&plain(17, "10.77.1.2#1 > 10.77.0.2#2"), &endpoints), NONE);
    assert_eq!(
        flows(&plain(17, "10.77.1.2#1 > 192.0.2.1#2"), &endpoints),
        ["17 10.77.1.2#1@9 > 192.0.2.1#2 answered"]
    );
}

#[test]
fn a_key_is_seeded_once_and_the_limit_holds() {
    let endpoints = endpoints(true, true);
    let nth = |port: u16| plain(protocol::UDP, &format!("10.77.0.2#{port} > 10.77.1.2#53"));
    let mut harvest = Harvest::new(&endpoints, 2);
    let mut take = |entry| harvest.take(entry).is_continue();
    assert!(take(Some(nth(1))));
    assert!(take(Some(Entry { status: Status::Confirmed, ..nth(1) })));
    assert!(take(None));
    assert!(take(Some(nth(2))));
    // A repetition needs no room; a stranger's entry neither.
    assert!(take(Some(nth(1))));
    assert!(take(Some(plain(protocol::UDP, "192.0.2.1#1 > 192.0.2.2#2"))));
    assert!(!take(Some(nth(3))));
    assert!(harvest.cut);
    assert_eq!((harvest.entries, harvest.unreadable), (7, 1));
    assert_eq!(
        harvest.seeds.iter().map(shown).collect::<Vec<_>>(),
        [
            "17 10.77.0.2#1@7 > 10.77.1.2#53@9 answered",
            "17 10.77.0.2#2@7 > 10.77.1.2#53@9 answered"
        ]
    );
}

#[test]
fn without_endpoints_nothing_is_asked() {
    assert_eq!(seeds(&Endpoints::default(), 10), []);
}
