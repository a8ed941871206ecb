//! The format against its image, against damage, and against nonsense.

use ipnet::IpNet;
use proptest::prelude::*;

use super::{
    layout::AT_HASH,
    tests::{image_verdict, net, small, table, uniform},
    *,
};
use crate::addr::Address;

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
    for (address, protocol, port, service) in table.services() {
        assert_eq!(table.service(address, protocol, port), Some(service));
        table.backends(service).for_each(|backend| _ = backend);
    }
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

prop_compose! {
    /// Backends of few classes and ports, so that lists are equal now and then.
    fn backends(classes: u32)(
        kinds in prop::collection::btree_map((0..classes, 1u16..4), any::<bool>(), 0..4),
    ) -> Vec<Backend> {
        let backend = |((class, port), elsewhere)| Backend { class: ClassId(class), port, elsewhere };
        kinds.into_iter().map(backend).collect()
    }
}

fn services(classes: u32) -> impl Strategy<Value = Vec<ServiceInfo>> {
    let address = prop_oneof![
        any::<u32>().prop_map(|bits| Address::v4(bits.to_be_bytes())),
        any::<u128>().prop_map(Address::from_bits),
        Just(Address::v4([10, 96, 0, 1])),
        Just(Address::v4([0; 4])),
    ];
    let protocol = prop_oneof![Just(6u8), Just(17), Just(132)];
    let port = prop_oneof![1u16..4, 1u16..];
    prop::collection::btree_map((address, protocol, port), backends(classes), 0..12)
        .prop_map(|services| {
            let service = |((address, protocol, port), backends)| ServiceInfo {
                address,
                protocol,
                port,
                backends,
            };
            services.into_iter().map(service).collect::<Vec<_>>()
        })
        // In any order.
        .prop_shuffle()
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
                ((0..classes, 0..classes), services(classes)),
            )
        })
        .prop_map(|(generation, policies, rules, classes, rows, programs, v4, v6, last)| {
            let (defaults, services) = last;
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
                services,
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
        let mut places: Vec<(Address, u8, u16)> =
            image.services.iter().map(|s| (s.address, s.protocol, s.port)).collect();
        places.sort_unstable();
        prop_assert_eq!(table.services().map(|(a, b, c, _)| (a, b, c)).collect::<Vec<_>>(), places);
        prop_assert_eq!(table.has_services(), !image.services.is_empty());
        for ServiceInfo { address, protocol, port, backends } in &image.services {
            let service = table.service(*address, *protocol, *port).unwrap();
            prop_assert_eq!(&table.backends(service).collect::<Vec<_>>(), backends);
            for other in [port.wrapping_add(1), 0] {
                let is_there = image.services.iter()
                    .any(|s| (s.address, s.protocol, s.port) == (*address, *protocol, other));
                prop_assert_eq!(table.service(*address, *protocol, other).is_some(), is_there);
            }
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
