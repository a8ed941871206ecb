use super::*;
use crate::{
    addrmap::AddressMapWriter,
    mem::SharedWords,
    policy::{
        Backend, ClassInfo, PolicyImage, PolicyInfo, PolicyKind, Program, ProgramId, RuleId,
        RuleInfo, ServiceInfo, Span, encode,
    },
};

type Heap = std::sync::Arc<SharedWords>;

const OUTSIDE: u32 = 0;
const WEB: u32 = 1;
const CLIENT: u32 = 2;
const LOCKED: u32 = 3;

/// Web takes TCP 80 from clients; Locked may send nowhere but by UDP 53.
fn image() -> PolicyImage {
    let spans = |row| vec![Span { first: 0, row }];
    let uniform = |row| Program {
        isolating: vec![],
        tcp: spans(row),
        udp: spans(row),
        sctp: spans(row),
        icmp: row,
        other: row,
    };
    let deny = Verdict::DENY_ISOLATED;
    let path = |p: &str| p.to_owned();
    let policy = |name: &str| PolicyInfo { kind: PolicyKind::NetworkPolicy, name: name.into() };
    PolicyImage {
        generation: 4,
        policies: vec![policy("shop/web"), policy("shop/locked")],
        rules: vec![
            RuleInfo { policy: 0, path: path("spec.ingress[0].from[0]") },
            RuleInfo { policy: 1, path: path("spec.egress[0]") },
        ],
        classes: vec![
            ClassInfo::UNRESTRICTED,
            ClassInfo { ingress: ProgramId(1), egress: ProgramId::UNRESTRICTED },
            ClassInfo::UNRESTRICTED,
            ClassInfo { ingress: ProgramId::UNRESTRICTED, egress: ProgramId(2) },
        ],
        prefixes: vec![("0.0.0.0/0".parse().unwrap(), OUTSIDE), ("::/0".parse().unwrap(), OUTSIDE)],
        programs: vec![
            uniform(0),
            Program {
                isolating: vec![0],
                tcp: vec![
                    Span { first: 0, row: 1 },
                    Span { first: 80, row: 2 },
                    Span { first: 81, row: 1 },
                ],
                icmp: 2,
                ..uniform(1)
            },
            Program {
                isolating: vec![1],
                udp: vec![
                    Span { first: 0, row: 1 },
                    Span { first: 53, row: 3 },
                    Span { first: 54, row: 1 },
                ],
                icmp: 3,
                ..uniform(1)
            },
        ],
        rows: vec![
            vec![Verdict::ALLOW_UNRESTRICTED; 4],
            vec![deny; 4],
            vec![deny, deny, Verdict::allow(RuleId(0)), deny],
            vec![Verdict::allow(RuleId(1)); 4],
        ],
        services: Vec::new(),
    }
}

fn ip(text: &str) -> Address {
    text.parse().unwrap()
}

fn classifier() -> (Classifier<Vec<u8>, Heap>, AddressMapWriter<Heap>) {
    let table = PolicyTable::from_bytes(encode(&image()).unwrap()).unwrap();
    let words = std::sync::Arc::new(SharedWords::heap(8 + 64 * 4));
    let mut writer = AddressMapWriter::in_words(words.clone(), 4).unwrap();
    for (address, class) in
        [("10.0.0.1", WEB), ("10.0.0.2", CLIENT), ("10.0.0.3", LOCKED), ("fd00::2", CLIENT)]
    {
        writer.insert(ip(address), ClassId(class)).unwrap();
    }
    (Classifier::new(table, AddressMap::open(words).unwrap()).unwrap(), writer)
}

#[test]
fn both_ends_must_allow() {
    let (classifier, _) = classifier();
    let (web, client, locked, out) =
        (ip("10.0.0.1"), ip("10.0.0.2"), ip("10.0.0.3"), ip("192.0.2.1"));
    for (src, dst, protocol, dport, egress, ingress, why) in [
        (client, web, 6, 80, true, true, "the rule"),
        (client, web, 6, 81, true, false, "another port"),
        (client, web, 17, 80, true, false, "another protocol"),
        (client, web, 1, 0, true, true, "ICMP follows any rule for the peer"),
        (client, web, 136, 80, true, false, "UDP-Lite is not UDP"),
        (out, web, 6, 80, true, false, "an outsider"),
        (ip("fd00::2"), web, 6, 80, true, true, "identity, not address family"),
        (web, client, 6, 80, true, true, "nobody selects the client"),
        (web, out, 6, 443, true, true, "no egress policy on web"),
        (web, web, 6, 9999, true, true, "a pod reaches itself"),
        (locked, locked, 6, 9999, true, true, "a pod reaches itself"),
        (locked, client, 6, 53, false, true, "TCP is not allowed out"),
        (locked, client, 17, 53, true, true, "UDP 53 is"),
        (locked, web, 17, 53, true, false, "allowed out, not in"),
        (locked, web, 6, 80, false, false, "denied at both ends"),
    ] {
        let judgement = classifier.evaluate(&Connection { src, dst, protocol, dport });
        assert_eq!(judgement.egress.is_allow(), egress, "{why}: egress");
        assert_eq!(judgement.ingress.is_allow(), ingress, "{why}: ingress");
        assert_eq!(judgement.is_allowed(), egress && ingress, "{why}");
    }
    let by_rule =
        classifier.evaluate(&Connection { src: client, dst: web, protocol: 6, dport: 80 });
    assert_eq!(by_rule.egress, Verdict::ALLOW_UNRESTRICTED);
    assert_eq!(by_rule.ingress.rule(), Some(RuleId(0)));
    assert!(classifier.is_pod(web) && !classifier.is_pod(out));
}

/// A Service at 10.96.0.1, UDP; Locked may send to any port 53 and nowhere else.
fn serving(backends: &[(u32, u16, bool)]) -> Classifier<Vec<u8>, Heap> {
    let kind = |&(class, port, elsewhere)| Backend { class: ClassId(class), port, elsewhere };
    let service = |address: &str, port, protocol| ServiceInfo {
        address: ip(address),
        protocol,
        port,
        backends: backends.iter().map(kind).collect(),
    };
    let services = vec![
        service("10.96.0.1", 9, 17),
        service("0.0.0.0", 30_009, 17),
        // Somebody's externalIP; the pod's it stays.
        service("10.0.0.2", 53, 17),
        service("10.0.0.2", 9, 17),
    ];
    let image = PolicyImage { services, ..image() };
    let (_, writer) = classifier();
    let addresses = writer.into_reader().unwrap();
    Classifier::new(PolicyTable::from_bytes(encode(&image).unwrap()).unwrap(), addresses).unwrap()
}

#[test]
fn a_service_is_judged_on_its_backends() {
    use Ruling::{Allow, Deny, Later};
    let (locked, client) = (ip("10.0.0.3"), ip("10.0.0.2"));
    let to = |src, dst: &str, dport| Connection { src, dst: ip(dst), protocol: 17, dport };
    for (backends, ruling, counts, why) in [
        (&[(CLIENT, 53, true), (OUTSIDE, 53, true)][..], Allow, (2, 0, 0), "all allowed"),
        (&[(CLIENT, 54, false), (WEB, 80, false)], Deny, (0, 2, 0), "none is"),
        (&[(CLIENT, 54, true), (WEB, 80, true)], Deny, (0, 0, 2), "none is"),
        (&[], Deny, (0, 0, 0), "there is none"),
        (&[(CLIENT, 53, true), (WEB, 80, false)], Later, (1, 1, 0), "denied is one here"),
        (&[(CLIENT, 53, false), (WEB, 80, true)], Deny, (1, 0, 1), "denied is one elsewhere"),
        (&[(CLIENT, 53, true), (WEB, 80, false), (WEB, 81, true)], Deny, (1, 1, 1), "both"),
        (&[(LOCKED, 80, false)], Later, (0, 1, 0), "it may be itself"),
        (&[(LOCKED, 80, true)], Deny, (0, 0, 1), "or another elsewhere"),
        (&[(WEB, 80, true), (LOCKED, 80, false)], Deny, (0, 1, 1), "or another elsewhere"),
    ] {
        let sorted: std::collections::BTreeSet<_> = backends.iter().copied().collect();
        let classifier = serving(&sorted.into_iter().collect::<Vec<_>>());
        let connection = to(locked, "10.96.0.1", 9);
        let reach = classifier.reach(&connection).unwrap();
        assert_eq!(reach.ruling, ruling, "{why}");
        let Reach { allowed, denied_here, denied_elsewhere, .. } = reach;
        assert_eq!((allowed, denied_here, denied_elsewhere), counts, "{why}");
        let judgement = classifier.evaluate(&connection);
        assert_eq!(judgement.egress.is_allow(), ruling != Deny, "{why}");
        assert_eq!(judgement.egress, reach.verdict, "{why}");
        assert!(judgement.ingress.is_allow(), "the backend's to say: {why}");
        // The node's own port, and what is not asked of a Service.
        let port = to(locked, "192.0.2.9", 30_009);
        let judged = classifier.evaluate_to_node(&port).map(|j| j.egress.is_allow());
        assert_eq!(judged, Some(ruling != Deny), "{why}");
        assert_eq!(classifier.evaluate_to_node(&to(locked, "192.0.2.9", 9)), None, "{why}");
        assert!(!classifier.evaluate(&port).egress.is_allow(), "another's: an address");
        assert!(!classifier.evaluate(&to(locked, "10.96.0.1", 8)).egress.is_allow(), "{why}");
        assert!(classifier.evaluate(&to(locked, "10.96.0.1", 53)).egress.is_allow(), "{why}");
        assert!(classifier.evaluate(&to(client, "10.96.0.1", 9)).is_allowed(), "free: {why}");
        assert!(classifier.evaluate(&to(locked, "10.0.0.2", 53)).egress.is_allow(), "{why}");
        assert!(!classifier.evaluate(&to(locked, "10.0.0.2", 9)).egress.is_allow(), "{why}");
    }
    // The exact address of a node goes before any of its addresses.
    let classifier = serving(&[(CLIENT, 53, true)]);
    let exact = classifier.evaluate_to_node(&to(locked, "10.96.0.1", 9));
    assert!(exact.unwrap().egress.is_allow());
    let reach = classifier.reach(&to(client, "10.96.0.1", 9)).unwrap();
    assert_eq!((reach.ruling, reach.verdict), (Allow, Verdict::ALLOW_UNRESTRICTED));
    // Web lets nobody in over UDP; all others let in everybody.
    for (backends, kinds, receiver, ingress, reached, why) in [
        (&[(CLIENT, 9, true)][..], 1, CLIENT, true, 1, "let in"),
        (&[(WEB, 9, true)], 1, WEB, false, 0, "not let in"),
        (&[(WEB, 9, true), (CLIENT, 9, true)], 2, CLIENT, true, 1, "by some"),
        (&[], 0, OUTSIDE, true, 0, "there is none"),
    ] {
        let sorted: std::collections::BTreeSet<_> = backends.iter().copied().collect();
        let classifier = serving(&sorted.into_iter().collect::<Vec<_>>());
        let outlook = classifier.outlook(&to(client, "10.96.0.1", 9));
        assert_eq!(outlook.receiver, ClassId(receiver), "{why}");
        assert_eq!(outlook.judgement.ingress.is_allow(), ingress, "{why}");
        assert_eq!(outlook.reached, reached, "{why}");
        let reach = outlook.reach.unwrap();
        assert_eq!(reach.allowed + reach.denied_here + reach.denied_elsewhere, kinds, "{why}");
    }
    let plain = to(client, "10.0.0.1", 9);
    let outlook = classifier.outlook(&plain);
    assert_eq!(outlook.judgement, classifier.evaluate(&plain));
    assert_eq!((outlook.reach, outlook.receiver), (None, ClassId(WEB)));
    assert_eq!(classifier.reach(&to(client, "10.96.0.1", 53)), None);
    let tcp = Connection { protocol: 6, ..to(client, "10.96.0.1", 9) };
    assert_eq!(classifier.reach(&tcp), None);
}

#[test]
fn an_unknown_class_denies_both_ways() {
    let (classifier, mut writer) = classifier();
    writer.insert(ip("10.0.0.9"), ClassId(4)).unwrap();
    for (src, dst) in [("10.0.0.9", "10.0.0.2"), ("10.0.0.2", "10.0.0.9")] {
        let connection = Connection { src: ip(src), dst: ip(dst), protocol: 6, dport: 80 };
        assert_eq!(classifier.evaluate(&connection), Judgement::BAD_CLASS);
    }
}

#[test]
fn a_change_of_an_address_changes_verdict_and_stamp() {
    let (classifier, mut writer) = classifier();
    let connection =
        Connection { src: ip("10.0.0.7"), dst: ip("10.0.0.1"), protocol: 6, dport: 80 };
    assert!(!classifier.evaluate(&connection).is_allowed());
    let mut stamps = vec![classifier.stamp()];
    writer.insert(ip("10.0.0.7"), ClassId(CLIENT)).unwrap();
    assert!(classifier.evaluate(&connection).is_allowed());
    stamps.push(classifier.stamp());
    writer.remove(ip("10.0.0.7"));
    assert!(!classifier.evaluate(&connection).is_allowed());
    stamps.push(classifier.stamp());
    assert!(stamps[0] != stamps[1] && stamps[1] != stamps[2] && stamps[0] != stamps[2]);
    assert!(stamps.iter().all(|&s| stamp_generation(s) == 4));
}

#[test]
fn the_same_generation_number_again_has_another_stamp() {
    // Random 32 bits: a chance of 1 in 4 billion to fail wrongly.
    assert_ne!(classifier().0.stamp(), classifier().0.stamp());
}

#[test]
fn halves_of_two_generations_are_refused() {
    let table = PolicyTable::from_bytes(encode(&image()).unwrap()).unwrap();
    let map = AddressMapWriter::private(5, 1).unwrap().into_reader().unwrap();
    let error = Classifier::new(table, map).unwrap_err();
    assert_eq!(error, GenerationMismatch { table: 4, addresses: 5 });
}
