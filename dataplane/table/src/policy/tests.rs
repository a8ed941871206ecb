//! The format against its image, against damage, and against nonsense.

use ipnet::IpNet;
use proptest::prelude::*;

use super::{layout::AT_HASH, *};
use crate::addr::Address;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn all_ports(row: u32) -> Vec<Span> {
    vec![Span { first: 0, row }]
}

fn uniform(row: u32) -> Program {
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
    }
}

/// What the image itself says: the definition that the table has to match.
fn image_verdict(
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

fn table(image: &PolicyImage) -> PolicyTable<Vec<u8>> {
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
    let faults: [(Fault, &str); 16] = [
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

/// Puts the right hash on a table that a test has damaged on purpose.
fn rehash(bytes: &mut [u8]) {
    if bytes.len() >= AT_HASH + 8 {
        let hash = layout::content_hash(bytes);
        bytes[AT_HASH..AT_HASH + 8].copy_from_slice(&hash.to_ne_bytes());
    }
}

/// Every lookup with every interesting argument; must not panic.
fn exercise<B: AsRef<[u8]>>(table: &PolicyTable<B>) {
    for id in (0..6).chain([u32::MAX]) {
        table.programs(ClassId(id));
        table.rule(RuleId(id)).map(|r| (r.policy.len(), r.path.len()));
        table.isolating(ProgramId(id)).for_each(|name| _ = name.len());
        for peer in (0..40).chain([u32::MAX]) {
            for protocol in [0, 1, 6, 17, 58, 132, 255] {
                for port in [0, 1, 80, 65535] {
                    table.judge(ProgramId(id), ClassId(peer), protocol, port);
                }
            }
        }
    }
    table.policies().for_each(|(_, name)| _ = name.len());
    for bits in [0, 1, u128::MAX, 0xffff_0000_0000, 0xffff_ffff_ffff] {
        table.class_of_prefix(Address::from_bits(bits));
    }
}

fn spans(rows: u32) -> impl Strategy<Value = Vec<Span>> {
    prop::collection::btree_map(1u16.., 0..rows, 0..6).prop_flat_map(move |rest| {
        (0..rows).prop_map(move |row| {
            let first = [Span { first: 0, row }];
            first.into_iter().chain(rest.iter().map(|(&first, &row)| Span { first, row })).collect()
        })
    })
}

prop_compose! {
    fn program(rows: u32, policies: u32)(
        tcp in spans(rows), udp in spans(rows), sctp in spans(rows),
        icmp in 0..rows, other in 0..rows,
        isolating in prop::collection::vec(0..policies, 0..4),
    ) -> Program {
        Program { isolating, tcp, udp, sctp, icmp, other }
    }
}

fn verdict(rules: u32) -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::ALLOW_UNRESTRICTED),
        Just(Verdict::DENY_ISOLATED),
        (0..rules).prop_map(|r| Verdict::allow(RuleId(r))),
        (0..rules).prop_map(|r| Verdict::deny(RuleId(r))),
    ]
}

fn image() -> impl Strategy<Value = PolicyImage> {
    (1u32..4, 1u32..30, 1u32..40, 1u32..7, 1u32..5)
        .prop_flat_map(|(policies, rules, classes, rows, programs)| {
            let row = prop::collection::vec(verdict(rules), classes as usize);
            (
                any::<u64>(),
                prop::collection::vec((any::<bool>(), "[a-zé]{0,9}/[a-z]{1,9}"), policies as usize),
                prop::collection::vec((0..policies, "spec[.a-z\\[\\]0-9]{0,20}"), rules as usize),
                prop::collection::vec((0..programs, 0..programs), classes as usize),
                prop::collection::vec(row, rows as usize),
                prop::collection::vec(program(rows + 1, policies), programs as usize - 1),
                prop::collection::btree_map((any::<u32>(), 0u8..=32), 0..classes, 0..8),
                prop::collection::btree_map((any::<u128>(), 0u8..=128), 0..classes, 0..8),
                (0..classes, 0..classes),
            )
        })
        .prop_map(|(generation, policies, rules, classes, rows, programs, v4, v6, defaults)| {
            let mut prefixes = vec![(net("0.0.0.0/0"), defaults.0), (net("::/0"), defaults.1)];
            let v4 = v4.into_iter().map(|((ip, len), c)| {
                (IpNet::new(std::net::Ipv4Addr::from_bits(ip).into(), len).unwrap().trunc(), c)
            });
            let v6 = v6.into_iter().map(|((ip, len), c)| {
                (IpNet::new(std::net::Ipv6Addr::from_bits(ip).into(), len).unwrap().trunc(), c)
            });
            for (prefix, class) in v4.chain(v6) {
                if prefixes.iter().all(|(p, _)| *p != prefix) {
                    prefixes.push((prefix, class));
                }
            }
            PolicyImage {
                generation,
                policies: policies
                    .into_iter()
                    .map(|(cluster, name)| PolicyInfo {
                        kind: if cluster {
                            PolicyKind::ClusterNetworkPolicy
                        } else {
                            PolicyKind::NetworkPolicy
                        },
                        name,
                    })
                    .collect(),
                rules: rules.into_iter().map(|(policy, path)| RuleInfo { policy, path }).collect(),
                rows: std::iter::once(vec![Verdict::ALLOW_UNRESTRICTED; classes.len()])
                    .chain(rows)
                    .collect(),
                classes: classes
                    .into_iter()
                    .map(|(i, e)| ClassInfo { ingress: ProgramId(i), egress: ProgramId(e) })
                    .collect(),
                prefixes,
                programs: std::iter::once(uniform(0)).chain(programs).collect(),
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_table_answers_what_its_image_says(image in image(), ports in prop::collection::vec(any::<u16>(), 4)) {
        let table = table(&image);
        prop_assert_eq!(table.generation(), image.generation);
        let edges: Vec<u16> = image.programs.iter()
            .flat_map(|p| p.tcp.iter().chain(&p.udp).chain(&p.sctp))
            .flat_map(|s| [s.first.saturating_sub(1), s.first]).chain(ports).collect();
        for program in 0..image.programs.len() as u32 {
            let names: Vec<&str> = table.isolating(ProgramId(program)).collect();
            let expected: Vec<&str> = image.programs[program as usize].isolating.iter()
                .map(|&p| image.policies[p as usize].name.as_str()).collect();
            prop_assert_eq!(names, expected);
            for peer in 0..image.classes.len() as u32 {
                for protocol in [1, 2, 6, 17, 47, 58, 132, 136] {
                    for &port in &edges {
                        prop_assert_eq!(
                            table.judge(ProgramId(program), ClassId(peer), protocol, port),
                            image_verdict(&image, program, peer, protocol, port)
                        );
                    }
                }
            }
        }
        for (number, rule) in image.rules.iter().enumerate() {
            let policy = &image.policies[rule.policy as usize];
            prop_assert_eq!(
                table.rule(RuleId(number as u32)),
                Some(RuleRef { policy: &policy.name, kind: policy.kind, path: &rule.path })
            );
        }
        for (number, class) in image.classes.iter().enumerate() {
            prop_assert_eq!(
                table.programs(ClassId(number as u32)), Some((class.ingress, class.egress))
            );
        }
        for (prefix, _) in &image.prefixes {
            for ip in [prefix.network(), prefix.broadcast()] {
                let expected = image.prefixes.iter().filter(|(p, _)| p.contains(&ip))
                    .max_by_key(|(p, _)| p.prefix_len()).unwrap().1;
                // An IPv6 address of mapped form is an IPv4 address to us.
                if Address::from(ip).is_v4() == ip.is_ipv4() {
                    prop_assert_eq!(table.class_of_prefix(ip.into()), ClassId(expected), "{}", ip);
                }
            }
        }
    }

    #[test]
    fn any_changed_byte_of_any_table_is_noticed(image in image(), at in any::<prop::sample::Index>(), change in 1u8..) {
        let mut bytes = encode(&image).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        prop_assert!(PolicyTable::from_bytes(bytes).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..2000), header in any::<bool>()) {
        if header {
            let good = encode(&small()).unwrap();
            let n = bytes.len().min(layout::AT_LENGTH);
            bytes[..n].copy_from_slice(&good[..n]);
            let length = (bytes.len() as u64).to_ne_bytes();
            if let Some(field) = bytes.get_mut(layout::AT_LENGTH..layout::AT_HASH) {
                field.copy_from_slice(&length);
            }
            rehash(&mut bytes);
        }
        if let Ok(table) = PolicyTable::from_bytes(bytes) {
            exercise(&table);
        }
    }

    /// Damage with a correct hash: what only the structural checks can stop.
    #[test]
    fn damage_with_a_correct_hash_never_panics(
        image in image(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![
            Just(0u32), Just(1), Just(u32::MAX), Just(1 << 31), any::<u32>(), 0u32..64,
        ]), 1..4),
    ) {
        let mut bytes = encode(&image).unwrap();
        for (at, value) in damage {
            let at = at.index(bytes.len() / 4) * 4;
            bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        rehash(&mut bytes);
        if let Ok(table) = PolicyTable::from_bytes(&bytes[..]) {
            exercise(&table);
        }
    }
}
