//! The comparison at the size of a large cluster: right, and how fast.
//!
//! `cargo test --release -p weir-table diff::scale -- --nocapture` prints times.

use std::{collections::HashMap, time::Instant};

use super::{
    Changes, changes,
    world::{Heap, build},
};
use crate::{
    addr::Address,
    policy::{
        ClassInfo, PolicyImage, PolicyInfo, PolicyKind, Program, ProgramId, RuleId, RuleInfo, Span,
        Verdict,
    },
};

/// Pods of a cluster by role. Role `r` has a policy for ingress, and every third
/// one for egress: each allows some roles as peers on a range of ports.
#[derive(Clone)]
struct Cluster {
    roles: u32,
    /// How many ranges of ports each policy opens, each for other peers.
    ranges: u32,
    /// Each pod's role; `None` if there is no such pod.
    pods: Vec<Option<u32>>,
    /// Shifts which roles are peers, for these roles' policies.
    changed: Vec<u32>,
    /// These roles have no policy.
    free: Vec<u32>,
    /// Class 0 is outside; role r has class 1 + (r + rotation) % roles.
    rotation: u32,
}

fn pod(number: usize) -> Address {
    Address::from_bits(Address::v4([10, 0, 0, 0]).bits() + number as u128)
}

impl Cluster {
    fn new(roles: u32, ranges: u32, pods: usize) -> Cluster {
        let pods = (0..pods).map(|pod| Some(pod as u32 % roles)).collect();
        Cluster { roles, ranges, pods, changed: vec![], free: vec![], rotation: 0 }
    }

    fn class(&self, role: u32) -> u32 {
        1 + (role + self.rotation) % self.roles
    }

    fn classifier(&self, generation: u64) -> Heap {
        let classes = self.roles as usize + 1;
        let spread = |row| {
            let all = vec![Span { first: 0, row }];
            let (tcp, udp) = (all.clone(), all.clone());
            Program { isolating: vec![], tcp, udp, sctp: all, icmp: row, other: row }
        };
        let mut rows =
            vec![vec![Verdict::ALLOW_UNRESTRICTED; classes], vec![Verdict::DENY_ISOLATED; classes]];
        let mut programs = vec![spread(0)];
        let mut program = |role: u32, direction: u32| {
            if self.free.contains(&role) || direction == 1 && !role.is_multiple_of(3) {
                return ProgramId::UNRESTRICTED;
            }
            let shift = u32::from(self.changed.contains(&role));
            let mut tcp = vec![Span { first: 0, row: 1 }];
            let mut icmp = vec![Verdict::DENY_ISOLATED; classes];
            for range in 0..self.ranges {
                let mut row = vec![Verdict::DENY_ISOLATED; classes];
                for peer in 0..20 {
                    let peer = (role * 7 + range * 97 + peer * 31 + direction + shift) % self.roles;
                    row[self.class(peer) as usize] = Verdict::allow(RuleId(role));
                    icmp[self.class(peer) as usize] = Verdict::allow(RuleId(role));
                }
                rows.push(row);
                let first = 80 + 100 * range as u16;
                tcp.push(Span { first, row: rows.len() as u32 - 1 });
                tcp.push(Span { first: first + 10, row: 1 });
            }
            rows.push(icmp);
            programs.push(Program { tcp, icmp: rows.len() as u32 - 1, ..spread(1) });
            ProgramId(programs.len() as u32 - 1)
        };
        let mut infos = vec![ClassInfo::UNRESTRICTED; classes];
        for role in 0..self.roles {
            let (ingress, egress) = (program(role, 0), program(role, 1));
            infos[self.class(role) as usize] = ClassInfo { ingress, egress };
        }
        let kind = PolicyKind::NetworkPolicy;
        let image = PolicyImage {
            generation,
            policies: (0..self.roles)
                .map(|r| PolicyInfo { kind, name: format!("a/{r}") })
                .collect(),
            rules: (0..self.roles).map(|policy| RuleInfo { policy, path: "x".into() }).collect(),
            classes: infos,
            prefixes: ["0.0.0.0/0", "::/0"].map(|net| (net.parse().unwrap(), 0)).to_vec(),
            programs,
            rows,
            services: Vec::new(),
        };
        let address =
            |(number, role): (usize, &Option<u32>)| Some((pod(number), self.class((*role)?)));
        build(&image, &self.pods.iter().enumerate().filter_map(address).collect::<Vec<_>>())
    }
}

/// Compares two clusters, says how long it took, and gives what is named.
fn compare(what: &str, old: &Heap, new: &Cluster, local: &[Address]) -> Changes {
    let new = new.classifier(2);
    let mut times: Vec<_> = (0..9)
        .map(|_| {
            let begin = Instant::now();
            std::hint::black_box(changes(old, &new, local));
            begin.elapsed()
        })
        .collect();
    times.sort_unstable();
    let found = changes(old, &new, local);
    let counts = new.table().counts();
    println!(
        "{what}: {:?} (median {:?}), all {}, {} named; {} classes, {} programs, {} rows, {} pods, {} local",
        times[0],
        times[4],
        found.all,
        found.addresses.len(),
        counts.classes,
        counts.programs,
        counts.rows,
        new.addresses().len(),
        local.len(),
    );
    found
}

#[test]
fn a_thousand_policies_and_classes() {
    let old = Cluster { rotation: 5, ..Cluster::new(1000, 2, 10_000) };
    let here = |number: usize| number * 40 + number % 40;
    let local: Vec<Address> = (0..250).map(|number| pod(here(number))).collect();
    let before = old.classifier(1);
    let anew = || Cluster { rotation: 700, ..old.clone() };

    assert!(compare("numbers alone", &before, &anew(), &local).is_empty());

    // A pod that exists, is not on this node, and is a peer of many.
    let mut new = anew();
    let gone = (1..10_000).find(|number| !local.contains(&pod(*number))).unwrap();
    new.pods[gone] = None;
    assert_eq!(compare("a pod that went", &before, &new, &local).addresses, [pod(gone)]);

    let mut new = anew();
    new.pods[gone] = Some(500);
    new.pods[here(9)] = Some(501);
    let expected = Vec::from([pod(gone), pod(here(9))]);
    assert_eq!(compare("two pods relabelled", &before, &new, &local).addresses, expected);

    let roles: HashMap<Address, u32> =
        (0..250).filter_map(|n| Some((pod(here(n)), old.pods[here(n)]?))).collect();
    let of_role = |roles_named: &[u32]| -> Vec<Address> {
        local.iter().copied().filter(|address| roles_named.contains(&roles[address])).collect()
    };
    let role = roles[&local[3]];
    let new = Cluster { changed: vec![role], ..anew() };
    assert_eq!(compare("a policy changed", &before, &new, &local).addresses, of_role(&[role]));

    let free: Vec<u32> = (0..500).collect();
    let expected = of_role(&free);
    let new = Cluster { free, ..anew() };
    assert_eq!(compare("500 policies removed", &before, &new, &local).addresses, expected);

    let new = Cluster { changed: (0..1000).collect(), ..anew() };
    let found = compare("every policy changed", &before, &new, &local);
    assert!(!found.all && found.addresses.len() <= local.len());
}

/// Nothing in common: the largest cover to be found.
#[test]
fn a_cluster_replaced_by_another() {
    let old = Cluster::new(1000, 2, 10_000);
    let local: Vec<Address> = (0..250).map(|number| pod(number * 40)).collect();
    let mut new = old.clone();
    for (number, role) in new.pods.iter_mut().enumerate() {
        *role = Some((number * number % 997) as u32);
    }
    let found = compare("every pod relabelled", &old.classifier(1), &new, &local);
    assert!(!found.is_empty());
}

/// Larger than most: 4,000 classes, eight ranges of ports a policy.
#[test]
fn several_thousand_classes() {
    let old = Cluster::new(4000, 8, 20_000);
    let local: Vec<Address> = (0..250).map(|number| pod(number * 80 + number % 80)).collect();
    let new = Cluster { rotation: 1, changed: vec![0], ..old.clone() };
    let found = compare("a policy changed", &old.classifier(1), &new, &local);
    let role = |address: &Address| (address.bits() - pod(0).bits()) % 4000;
    let expected: Vec<Address> = local.iter().copied().filter(|a| role(a) == 0).collect();
    assert_eq!(found, Changes { all: false, addresses: expected });
}
