//! The format by example: what a table says, and what is refused.

use super::*;
use crate::addr::Address;
use ipnet::IpNet;

pub(super) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn all_ports(row: u32) -> Vec<Span> {
    vec![Span { first: 0, row }]
}

pub(super) fn uniform(row: u32) -> Program {
    Program {
        isolating: vec![],
        tcp: all_ports(row),
        udp: all_ports(row),
        sctp: all_ports(row),
        icmp: row,
        other: row,
    }
}

/// A web server that one client may reach on TCP 80..=89, and nothing else.
pub(crate) fn small() -> PolicyImage {
    let allow = Verdict::allow(RuleId(0));
    let deny = Verdict::DENY_ISOLATED;
    PolicyImage {
        generation: 7,
        policies: vec![PolicyInfo {
            kind: PolicyKind::NetworkPolicy,
            name: "default/allow-client".into(),
        }],
        rules: vec![RuleInfo { policy: 0, path: "spec.ingress[0].from[0]".into() }],
        classes: vec![
            ClassInfo::UNRESTRICTED,
            ClassInfo { ingress: ProgramId(1), egress: ProgramId(0) },
            ClassInfo::UNRESTRICTED,
        ],
        prefixes: vec![(net("0.0.0.0/0"), 0), (net("::/0"), 0), (net("10.0.0.0/8"), 2)],
        programs: vec![
            uniform(0),
            Program {
                isolating: vec![0],
                tcp: vec![
                    Span { first: 0, row: 1 },
                    Span { first: 80, row: 2 },
                    Span { first: 90, row: 1 },
                ],
                udp: all_ports(1),
                sctp: all_ports(1),
                icmp: 2,
                other: 1,
            },
        ],
        rows: vec![vec![Verdict::ALLOW_UNRESTRICTED; 3], vec![deny; 3], vec![deny, deny, allow]],
        // The client's Service, of which all backends are web servers, one kind of them here.
        services: vec![service("10.96.0.1", 80, &[(1, 80, false), (1, 81, true)])],
    }
}

pub(super) fn service(address: &str, port: u16, backends: &[(u32, u16, bool)]) -> ServiceInfo {
    let kind = |&(class, port, elsewhere)| Backend { class: ClassId(class), port, elsewhere };
    let backends = backends.iter().map(kind).collect();
    ServiceInfo { address: address.parse().unwrap(), protocol: 6, port, backends }
}

/// What the image itself says: the definition that the table has to match.
pub(super) fn image_verdict(
    image: &PolicyImage,
    program: u32,
    peer: u32,
    protocol: u8,
    dport: u16,
) -> Verdict {
    let program = &image.programs[program as usize];
    let span = |spans: &[Span]| spans.iter().rfind(|s| s.first <= dport).unwrap().row;
    let row = match protocol {
        6 => span(&program.tcp),
        17 => span(&program.udp),
        132 => span(&program.sctp),
        1 | 58 => program.icmp,
        _ => program.other,
    };
    image.rows[row as usize][peer as usize]
}

pub(super) fn table(image: &PolicyImage) -> PolicyTable<Vec<u8>> {
    PolicyTable::from_bytes(encode(image).unwrap()).unwrap()
}

#[test]
fn a_small_table_reads_as_it_was_written() {
    let table = table(&small());
    assert_eq!(table.generation(), 7);
    let client = ClassId(2);
    for (peer, protocol, port, allowed) in [
        (client, 6, 79, false),
        (client, 6, 80, true),
        (client, 6, 89, true),
        (client, 6, 90, false),
        (client, 6, 65535, false),
        (client, 17, 80, false),
        (client, 132, 80, false),
        (client, 136, 80, false),
        (client, 1, 0, true),
        (client, 58, 0, true),
        (client, 47, 0, false),
        (ClassId(0), 6, 80, false),
        (ClassId(1), 6, 80, false),
    ] {
        let verdict = table.judge(ProgramId(1), peer, protocol, port);
        assert_eq!(verdict.is_allow(), allowed, "{peer:?} {protocol} {port}");
        assert_eq!(verdict.rule(), allowed.then_some(RuleId(0)));
    }
    assert_eq!(
        table.rule(RuleId(0)),
        Some(RuleRef {
            policy: "default/allow-client",
            kind: PolicyKind::NetworkPolicy,
            path: "spec.ingress[0].from[0]"
        })
    );
    assert_eq!(table.rule(RuleId(1)), None);
    assert_eq!(table.isolating(ProgramId(1)).collect::<Vec<_>>(), ["default/allow-client"]);
    assert_eq!(table.isolating(ProgramId(0)).count(), 0);
    assert_eq!(table.isolating(ProgramId(9)).count(), 0);
    assert_eq!(table.programs(ClassId(1)), Some((ProgramId(1), ProgramId(0))));
    assert_eq!(table.programs(ClassId(3)), None);
    let class = |text: &str| table.class_of_prefix(text.parse::<Address>().unwrap());
    assert_eq!(class("10.9.8.7"), ClassId(2));
    assert_eq!(class("9.255.255.255"), ClassId(0));
    assert_eq!(class("11.0.0.0"), ClassId(0));
    assert_eq!(class("fd00::1"), ClassId(0));
    assert_eq!(table.counts().policies, 1);
    assert_eq!(table.counts().rows, 3);
}

#[test]
fn unknown_classes_and_programs_are_denied() {
    let table = table(&small());
    let bad = Verdict::DENY_BAD_CLASS;
    assert_eq!(table.judge(ProgramId(0), ClassId(3), 6, 80), bad);
    assert_eq!(table.judge(ProgramId(1), ClassId(u32::MAX), 6, 80), bad);
    assert_eq!(table.judge(ProgramId(2), ClassId(0), 6, 80), bad);
    assert_eq!(table.judge(ProgramId(u32::MAX), ClassId(0), 6, 80), bad);
}

#[test]
fn services_are_found_by_address_protocol_and_port() {
    let mut image = small();
    let list = [(0, 443, true), (1, 80, false), (1, 81, true)];
    image.services.extend([
        service("fd00::1", 80, &list),
        service("0.0.0.0", 30_080, &list),
        service("10.96.0.2", 80, &[]),
        service("10.96.0.1", 81, &list),
        ServiceInfo { protocol: 17, ..service("10.96.0.1", 80, &[]) },
    ]);
    let bytes = encode(&image).unwrap();
    image.services.reverse();
    assert_eq!(encode(&image).unwrap(), bytes, "in whatever order they are given");
    let table = table(&image);
    assert_eq!(table.counts().services, 6);
    let kinds = |address: &str, protocol, port| {
        let service = table.service(address.parse().unwrap(), protocol, port)?;
        Some(table.backends(service).map(|b| (b.class.0, b.port, b.elsewhere)).collect::<Vec<_>>())
    };
    assert_eq!(kinds("10.96.0.1", 6, 80), Some(vec![(1, 80, false), (1, 81, true)]));
    assert_eq!(kinds("10.96.0.1", 6, 81).as_deref(), Some(&list[..]));
    assert_eq!(kinds("fd00::1", 6, 80).as_deref(), Some(&list[..]));
    assert_eq!(kinds("0.0.0.0", 6, 30_080).as_deref(), Some(&list[..]));
    assert_eq!(kinds("10.96.0.2", 6, 80), Some(vec![]));
    assert_eq!(kinds("10.96.0.1", 17, 80), Some(vec![]));
    for (address, protocol, port) in
        [("10.96.0.1", 6, 79), ("10.96.0.1", 132, 80), ("10.96.0.3", 6, 80), ("::", 6, 30_080)]
    {
        assert_eq!(kinds(address, protocol, port), None, "{address} {protocol} {port}");
    }
    let places = table.services().map(|(address, protocol, port, _)| (address, protocol, port));
    assert!(places.is_sorted());
}

#[test]
fn equal_rows_are_stored_once() {
    let mut image = small();
    image.rows.push(image.rows[2].clone());
    image.programs[1].icmp = 3;
    let table = table(&image);
    assert_eq!(table.counts().rows, 3);
    assert!(table.judge(ProgramId(1), ClassId(2), 1, 0).is_allow());
}

/// Every width of index: 2^bits verdicts in one row, one a class.
#[test]
fn every_index_width_reads_back() {
    for distinct in [1usize, 2, 3, 4, 5, 16, 17, 256, 257, 65_536, 65_537] {
        let mut image = small();
        let classes = distinct + 3;
        image.classes.resize(classes, ClassInfo::UNRESTRICTED);
        let rule = |i: usize| RuleInfo { policy: 0, path: format!("spec.ingress[{i}]") };
        image.rules = (0..distinct).map(rule).collect();
        let row: Vec<_> =
            (0..classes).map(|class| Verdict::allow(RuleId((class % distinct) as u32))).collect();
        image.rows = vec![vec![Verdict::ALLOW_UNRESTRICTED; classes], row.clone(), row.clone()];
        let table = table(&image);
        for (class, &verdict) in row.iter().enumerate() {
            let found = table.judge(ProgramId(1), ClassId(class as u32), 17, 53);
            assert_eq!(found, verdict, "{distinct} verdicts, class {class}");
        }
    }
}

#[test]
fn a_table_with_any_byte_changed_is_refused() {
    let good = encode(&small()).unwrap();
    let mut bytes = good.clone();
    for at in 0..good.len() {
        for change in [0x01, 0x80, 0xff] {
            bytes[at] = good[at] ^ change;
            assert!(
                PolicyTable::from_bytes(&bytes[..]).is_err(),
                "byte {at} changed by {change:#x} went unnoticed"
            );
        }
        bytes[at] = good[at];
    }
    assert!(PolicyTable::from_bytes(&bytes[..]).is_ok());
}

#[test]
fn a_table_cut_off_or_prolonged_is_refused() {
    let good = encode(&small()).unwrap();
    for length in 0..good.len() {
        assert!(
            matches!(
                PolicyTable::from_bytes(&good[..length]),
                Err(DecodeError::TooShort { found, .. }) if found == length as u64
            ),
            "{length} of {} bytes",
            good.len()
        );
    }
    let mut long = good;
    long.push(0);
    assert!(matches!(PolicyTable::from_bytes(long), Err(DecodeError::TooLong { .. })));
}

#[test]
fn foreign_tables_are_refused_in_words() {
    let good = encode(&small()).unwrap();
    let refusal = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        PolicyTable::from_bytes(bytes).unwrap_err()
    };
    assert_eq!(refusal(0, b'X'), DecodeError::Label);
    assert!(matches!(refusal(16, 0), DecodeError::Endianness { .. }));
    let version = refusal(20, 99);
    assert_eq!(version, DecodeError::Version { found: 99 });
    assert!(version.to_string().contains("same release"), "{version}");
    assert_eq!(refusal(40, 99), DecodeError::Hash);
}

#[test]
fn images_with_a_fault_are_refused() {
    type Fault = fn(&mut PolicyImage);
    let faults: [(Fault, &str); 22] = [
        (|i| i.rules[0].policy = 1, "rule names policy 1"),
        (|i| i.classes[1].ingress = ProgramId(2), "class names program 2"),
        (|i| i.classes[1].egress = ProgramId(2), "class names program 2"),
        (|i| i.classes.clear(), "no class"),
        (|i| i.prefixes[2].1 = 3, "prefix names class 3"),
        (|i| _ = i.prefixes.remove(0), "lack 0.0.0.0/0"),
        (|i| _ = i.prefixes.remove(1), "lack ::/0"),
        (|i| i.prefixes.push((net("10.0.0.0/8"), 1)), "two classes, 2 and 1"),
        (|i| _ = i.rows[1].pop(), "row 1 of the image holds 2 verdicts for 3"),
        (|i| i.rows[2][0] = Verdict::allow(RuleId(1)), "allow(rule 1), but there are only 1"),
        (|i| i.rows[2][0] = Verdict::DENY_BAD_CLASS, "deny(bad class)"),
        (|i| i.programs[1].tcp[0].first = 1, "TCP spans of program 1"),
        (|i| i.programs[1].tcp[2].first = 80, "TCP spans of program 1"),
        (|i| i.programs[1].sctp.clear(), "SCTP spans of program 1"),
        (|i| i.programs[1].other = 3, "program names row 3"),
        (|i| i.programs[0].icmp = 1, "program 0 of the image must allow everything"),
        (|i| i.services.push(i.services[0].clone()), "10.96.0.1 protocol 6 port 80 is there twice"),
        (|i| i.services[0].protocol = 1, "has no ports, or port 0"),
        (|i| i.services[0].port = 0, "has no ports, or port 0"),
        (|i| i.services[0].backends.reverse(), "kinds of backends that do not ascend"),
        (|i| i.services[0].backends[0].port = 0, "backends at port 0"),
        (|i| i.services[0].backends[1].class = ClassId(3), "Service names class 3"),
    ];
    for (fault, words) in faults {
        let mut image = small();
        fault(&mut image);
        let error = encode(&image).unwrap_err();
        assert!(error.to_string().contains(words), "{error} should say: {words}");
    }
    let mut image = small();
    image.programs.clear();
    image.classes = vec![ClassInfo::UNRESTRICTED; 3];
    assert!(encode(&image).is_err());
}
