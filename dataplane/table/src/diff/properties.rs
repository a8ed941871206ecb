//! Soundness and exactness against every connection that matters.

use std::collections::BTreeSet;

use proptest::{prelude::*, sample::Index};

use super::{
    Changes, changes,
    world::{Heap, Peer, Policy, Services, World, allowed, between, build, halves, ip},
};
use crate::{
    addr::Address,
    classify::Connection,
    policy::{
        Backend, ClassId, ClassInfo, PolicyImage, PolicyInfo, PolicyKind, Program, ProgramId,
        RuleId, RuleInfo, ServiceInfo, Span, Verdict,
    },
};

const PROTOCOLS: [u8; 7] = [0, 1, 6, 17, 58, 132, 136];

/// Pods' addresses; some are beside the edges of [`BLOCKS`], some inside.
const PODS: [&str; 9] = [
    "10.0.0.0",
    "10.0.0.1",
    "10.0.0.2",
    "10.0.1.255",
    "10.0.2.0",
    "10.0.2.1",
    "fd00::1",
    "fd00::2",
    "fd01::",
];
/// Blocks that nest, in both families.
const BLOCKS: [&str; 8] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/23",
    "10.0.0.0/24",
    "10.0.0.1/32",
    "192.0.2.0/24",
    "fd00::/8",
    "fd00::/64",
];
/// Addresses of no pod, inside, beside and outside of the blocks.
const OUTSIDE: [&str; 8] = [
    "0.0.0.0",
    "10.0.0.77",
    "10.0.1.77",
    "10.77.0.0",
    "192.0.2.1",
    "255.255.255.255",
    "fd00::77",
    "2001:db8::1",
];

fn addresses() -> impl Iterator<Item = Address> {
    PODS.iter().chain(&OUTSIDE).map(|text| ip(text))
}

/// Every port at which some program of either table changes, and its neighbours.
fn ports(classifiers: [&Heap; 2]) -> BTreeSet<u16> {
    let mut ports = BTreeSet::from([0, 65535]);
    for table in classifiers.map(|classifier| classifier.table()) {
        ports.extend(table.services().map(|(_, _, port, _)| port));
        for program in 0..table.counts().programs {
            for protocol in 0..3 {
                for (first, _) in table.spans(ProgramId(program as u32), protocol) {
                    ports.extend([first.saturating_sub(1) as u16, first as u16]);
                }
            }
        }
    }
    ports
}

/// Every connection that a node with these endpoints is asked about.
fn connections(classifiers: [&Heap; 2], local: &[Address], mut f: impl FnMut(&Connection)) {
    let ports = ports(classifiers);
    for &own in local {
        for peer in addresses() {
            for (src, dst) in [(own, peer), (peer, own)] {
                for protocol in PROTOCOLS {
                    for &dport in &ports {
                        f(&Connection { src, dst, protocol, dport });
                        if !matches!(protocol, 6 | 17 | 132) {
                            break; // no ports
                        }
                    }
                }
            }
        }
    }
}

fn check_sound(old: &Heap, new: &Heap, local: &[Address]) -> Result<Changes, TestCaseError> {
    let found = changes(old, new, local);
    prop_assert!(!found.all && found.addresses.is_sorted_by(|a, b| a < b));
    let named = |address: &Address| found.addresses.contains(address);
    let mut missed = None;
    connections([old, new], local, |connection| {
        let differs = allowed(old, local, connection) != allowed(new, local, connection);
        if differs && !named(&connection.src) && !named(&connection.dst) {
            missed = Some(*connection);
        }
    });
    prop_assert_eq!(missed, None, "named: {:?}", found.addresses);
    Ok(found)
}

/// Each named address has a connection of which an asked half answers otherwise.
fn check_exact(
    old: &Heap,
    new: &Heap,
    local: &[Address],
    found: &Changes,
) -> Result<(), TestCaseError> {
    let mut idle: BTreeSet<Address> = found.addresses.iter().copied().collect();
    connections([old, new], local, |connection| {
        if halves(old, local, connection) != halves(new, local, connection) {
            idle.remove(&connection.src);
            idle.remove(&connection.dst);
        }
    });
    // What a NodePort's port was without it is not known.
    idle.retain(|address| !address.is_unspecified());
    prop_assert!(idle.is_empty(), "named for nothing: {:?} of {:?}", idle, found.addresses);
    Ok(())
}

fn labels() -> impl Strategy<Value = u32> {
    (0u32..16).prop_map(|bits| bits & 7)
}

prop_compose! {
    fn policy()(
        egress in any::<bool>(),
        selects in prop_oneof![Just(1u32), Just(2), Just(4), Just(3)],
        peers in prop::collection::vec(prop_oneof![
            labels().prop_map(Peer::Pods),
            (0..BLOCKS.len()).prop_map(|block| Peer::Block(BLOCKS[block].parse().unwrap())),
        ], 0..3),
        ports in prop::option::of(prop_oneof![
            Just((80, 80)), Just((80, 89)), Just((0, 100)), Just((443, 65535)),
        ]),
    ) -> Policy {
        Policy { egress, selects, peers, ports }
    }
}

/// An address that is a pod's, or is not, and that blocks tell apart.
fn anybody() -> impl Strategy<Value = Address> {
    (0..PODS.len() + OUTSIDE.len()).prop_map(|i| addresses().nth(i).unwrap())
}

fn backends() -> impl Strategy<Value = Vec<(Address, u16, bool)>> {
    let port = prop_oneof![Just(80u16), Just(85), Just(443)];
    prop::collection::vec((anybody(), port, any::<bool>()), 0..4)
}

fn place() -> impl Strategy<Value = (Address, u16)> {
    // Mostly at addresses of no pod, as it should be.
    let address = prop_oneof![
        8 => (0..OUTSIDE.len()).prop_map(|i| ip(OUTSIDE[i])),
        1 => Just(ip("::")),
        1 => anybody(),
    ];
    (address, prop_oneof![Just(80u16), Just(90)])
}

fn services() -> impl Strategy<Value = Services> {
    prop::collection::btree_map(place(), backends(), 0..4)
}

prop_compose! {
    fn world()(
        services in services(),
        pods in prop::collection::btree_map(0..PODS.len(), labels(), 0..PODS.len()),
        policies in prop::collection::vec(policy(), 0..5),
        order in any::<u64>(),
    ) -> World {
        let pods = pods.into_iter().map(|(pod, labels)| (ip(PODS[pod]), labels)).collect();
        World { pods, policies, services, order }
    }
}

/// One thing that happens in a cluster.
#[derive(Clone, Debug)]
enum Event {
    Label(usize, u32),
    Gone(usize),
    Add(Policy),
    Remove(Index),
    Replace(Index, Policy),
    Serve((Address, u16), Option<Vec<(Address, u16, bool)>>),
}

fn index() -> impl Strategy<Value = Index> {
    any::<Index>()
}

fn pair() -> impl Strategy<Value = (Index, Index)> {
    (index(), index())
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..PODS.len(), labels()).prop_map(|(pod, labels)| Event::Label(pod, labels)),
        (0..PODS.len()).prop_map(Event::Gone),
        policy().prop_map(Event::Add),
        index().prop_map(Event::Remove),
        (index(), policy()).prop_map(|(at, policy)| Event::Replace(at, policy)),
        (place(), prop::option::of(backends()))
            .prop_map(|(at, backends)| Event::Serve(at, backends)),
    ]
}

fn happen(world: &mut World, event: Event) {
    let count = world.policies.len();
    match event {
        Event::Label(pod, labels) => _ = world.pods.insert(ip(PODS[pod]), labels),
        Event::Gone(pod) => _ = world.pods.remove(&ip(PODS[pod])),
        Event::Add(policy) => world.policies.push(policy),
        Event::Remove(at) if count > 0 => _ = world.policies.remove(at.index(count)),
        Event::Replace(at, policy) if count > 0 => world.policies[at.index(count)] = policy,
        Event::Remove(_) | Event::Replace(..) => {}
        Event::Serve(at, Some(backends)) => _ = world.services.insert(at, backends),
        Event::Serve(at, None) => _ = world.services.remove(&at),
    }
}

fn local() -> impl Strategy<Value = Vec<Address>> {
    prop::collection::vec((0..PODS.len()).prop_map(|pod| ip(PODS[pod])), 1..6)
}

/// Spans of random rows.
fn spans(rows: u32) -> impl Strategy<Value = Vec<Span>> {
    let rest = prop::collection::btree_map(1u16.., 0..rows, 0..3);
    (0..rows, rest).prop_map(|(row, rest)| {
        let rest = rest.into_iter().map(|(first, row)| Span { first, row });
        std::iter::once(Span { first: 0, row }).chain(rest).collect()
    })
}

prop_compose! {
    fn program(rows: u32)(
        tcp in spans(rows), udp in spans(rows), sctp in spans(rows),
        icmp in 0..rows, other in 0..rows,
    ) -> Program {
        Program { isolating: vec![], tcp, udp, sctp, icmp, other }
    }
}

/// A table that no compiler would make, of few or of many classes, so that rows
/// have every width; and a map of which some classes are unknown.
fn wild() -> impl Strategy<Value = (PolicyImage, Vec<(Address, u32)>)> {
    let verdict = |rules: u32| {
        prop_oneof![
            Just(Verdict::ALLOW_UNRESTRICTED),
            Just(Verdict::DENY_ISOLATED),
            (0..rules).prop_map(|rule| Verdict::allow(RuleId(rule))),
            (0..rules).prop_map(|rule| Verdict::deny(RuleId(rule))),
        ]
    };
    let classes = prop_oneof![1u32..6, 60u32..70, Just(700)];
    (classes, 1u32..400, 1u32..4, 1u32..4)
        .prop_flat_map(move |(classes, rules, rows, programs)| {
            (
                any::<u64>(),
                Just(rules),
                prop::collection::vec((0..programs, 0..programs), classes as usize),
                prop::collection::vec(
                    prop::collection::vec(verdict(rules), classes as usize),
                    rows as usize,
                ),
                prop::collection::vec(program(rows + 1), programs as usize - 1),
                prop::collection::btree_map(1..BLOCKS.len(), 0..classes, 0..5),
                (0..classes, 0..classes),
                prop::collection::btree_map(0..PODS.len(), 0..classes + 2, 0..PODS.len()),
                prop::collection::btree_map(
                    place(),
                    prop::collection::btree_map((0..classes, 1u16..100), any::<bool>(), 0..4),
                    0..4,
                ),
            )
        })
        .prop_map(
            |(generation, rules, classes, rows, programs, blocks, defaults, pods, services)| {
                let services = services.into_iter().map(|((address, port), kinds)| {
                    let backend = |((class, port), elsewhere)| Backend {
                        class: ClassId(class),
                        port,
                        elsewhere,
                    };
                    let backends = kinds.into_iter().map(backend).collect();
                    ServiceInfo { address, protocol: 6, port, backends }
                });
                let class = |(ingress, egress)| ClassInfo {
                    ingress: ProgramId(ingress),
                    egress: ProgramId(egress),
                };
                let all = |row| vec![Span { first: 0, row }];
                let free = Program {
                    tcp: all(0),
                    udp: all(0),
                    sctp: all(0),
                    icmp: 0,
                    other: 0,
                    isolating: vec![],
                };
                let default = |text: &str, class| (text.parse().unwrap(), class);
                let blocks =
                    blocks.into_iter().map(|(b, class)| (BLOCKS[b].parse().unwrap(), class));
                let kind = PolicyKind::NetworkPolicy;
                let image = PolicyImage {
                    generation,
                    services: services.collect(),
                    policies: vec![PolicyInfo { kind, name: "test/wild".into() }],
                    rules: (0..rules)
                        .map(|_| RuleInfo { policy: 0, path: String::new() })
                        .collect(),
                    rows: std::iter::once(vec![Verdict::ALLOW_UNRESTRICTED; classes.len()])
                        .chain(rows)
                        .collect(),
                    classes: classes.into_iter().map(class).collect(),
                    prefixes: [default("0.0.0.0/0", defaults.0), default("::/0", defaults.1)]
                        .into_iter()
                        .chain(blocks)
                        .collect(),
                    programs: std::iter::once(free).chain(programs).collect(),
                };
                (image, pods.into_iter().map(|(pod, class)| (ip(PODS[pod]), class)).collect())
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn what_happens_in_a_cluster_is_named_and_no_more(
        old in world(), events in prop::collection::vec(event(), 0..4), order in any::<u64>(),
        local in local(),
    ) {
        let mut new = World { order, ..old.clone() };
        events.into_iter().for_each(|event| happen(&mut new, event));
        let (old, new) = (old.classifier(1), new.classifier(2));
        let found = check_sound(&old, &new, &local)?;
        check_exact(&old, &new, &local, &found)?;
    }

    #[test]
    fn another_numbering_of_the_same_cluster_is_no_change(
        old in world(), order in any::<u64>(), local in local(),
    ) {
        let new = World { order, ..old.clone() };
        prop_assert_eq!(between(&old, &new, &local), Changes::default());
    }

    #[test]
    fn any_two_tables_are_compared_soundly(old in wild(), new in wild(), local in local()) {
        check_sound(&build(&old.0, &old.1), &build(&new.0, &new.1), &local)?;
    }

    /// A few words of a wild table changed: most verdicts stay.
    #[test]
    fn a_table_and_a_variant_of_it_are_compared_soundly(
        (image, pods) in wild(), local in local(),
        cells in prop::collection::vec(pair(), 0..2),
        edits in prop::collection::vec((index(), 0..5, index()), 0..2),
        moves in prop::collection::vec(pair(), 0..2),
    ) {
        let (mut variant, mut others) = (image.clone(), pods.clone());
        for (row, class) in cells {
            let rows = variant.rows.len() - 1;
            let row = &mut variant.rows[1 + row.index(rows)];
            let class = class.index(row.len());
            let denies = !row[class].is_allow();
            row[class] = if denies { Verdict::allow(RuleId(0)) } else { Verdict::DENY_ISOLATED };
        }
        for (at, field, row) in edits {
            let programs = variant.programs.len();
            let row = row.index(variant.rows.len()) as u32;
            // Program 0 allows everything, and has to.
            if let Some(program) = variant.programs.get_mut(1 + at.index(programs)) {
                match field {
                    0 => program.icmp = row,
                    1 => program.other = row,
                    2 => program.tcp[0].row = row,
                    3 => program.udp[0].row = row,
                    _ => program.sctp[0].row = row,
                }
            }
        }
        for (pod, class) in moves.into_iter().take(others.len()) {
            let pod = pod.index(others.len());
            others[pod].1 = class.index(image.classes.len()) as u32;
        }
        check_sound(&build(&image, &pods), &build(&variant, &others), &local)?;
    }
}
