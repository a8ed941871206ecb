//! The compiled table against the oracle: random clusters, random policies with every field,
//! random probes. `WEIR_PROPERTY_CASES` sets how many clusters (default 512, each with
//! 200 probes).

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod clusters;

use std::net::IpAddr;

use clusters::{connection, ends, objects, pick, pod, traffic};
use proptest::prelude::*;
use weir_control::compile::compile;
use weir_control::eval::Offline;
use weir_control::index::Index;
use weir_control::model::{Object, ObjectKey};
use weir_control::oracle::{self, Side};
use weir_table::Address;
use weir_table::policy::Verdict;

/// The verdict with the policy and the rule that it names, as the oracle would say it.
fn side(offline: &Offline, verdict: Verdict) -> Side {
    match verdict.rule().and_then(|rule| offline.classifier.table().rule(rule)) {
        Some(rule) => {
            let (namespace, name) = rule.policy.split_once('/').unwrap();
            assert!(verdict.is_allow());
            Side::Allowed(ObjectKey::new(namespace, name), rule.path.to_owned())
        }
        None if verdict.is_allow() => Side::Unrestricted,
        None => Side::Denied,
    }
}

fn pool(index: &Index) -> Vec<IpAddr> {
    index.pods().flat_map(|pod| pod.addresses.clone()).collect()
}

fn config() -> ProptestConfig {
    let cases = std::env::var("WEIR_PROPERTY_CASES").ok().and_then(|n| n.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(512),
        max_shrink_iters: 4096,
        failure_persistence: None,
        ..Default::default()
    }
}

proptest! {
    #![proptest_config(config())]

    /// classify(encode(compile(objects))) == oracle(objects): verdict, policy and rule.
    #[test]
    fn table_equals_oracle(
        objects in objects(),
        probes in prop::collection::vec((ends(), traffic()), 200),
    ) {
        let offline = Offline::of(Index::of(objects)).unwrap();
        let pool = pool(&offline.index);
        for (ends, traffic) in probes {
            let Some((src, dst)) = pick(&pool, &ends) else { continue };
            let judgement = offline.classifier.evaluate(&connection(src, dst, traffic));
            let table = (side(&offline, judgement.egress), side(&offline, judgement.ingress));
            let naive = oracle::judge(&offline.index, src, dst, traffic);
            prop_assert_eq!(table, naive, "{} → {} {:?}", src, dst, traffic);
        }
    }

    /// Changing pods only: the address list from the old image's classes, where it can be had,
    /// gives the verdicts of a new compilation.
    #[test]
    fn reclassification_equals_compilation(
        before in objects(),
        pods in prop::collection::vec(pod(), 1..16),
        probes in prop::collection::vec((ends(), traffic()), 100),
    ) {
        let keep = before.iter().filter(|object| !matches!(object, Object::Pod(_))).cloned();
        let after = Index::of(keep.chain(pods.into_iter().map(Object::Pod)));
        let compiled = compile(&Index::of(before));
        if let Some(addresses) = compiled.reclassify(&after) {
            let fresh = Offline::of(after).unwrap();
            let old = with_addresses(&compiled, &addresses);
            let pool = pool(&fresh.index);
            for (ends, traffic) in probes {
                let Some((src, dst)) = pick(&pool, &ends) else { continue };
                let connection = connection(src, dst, traffic);
                let (a, b) = (old.evaluate(&connection), fresh.classifier.evaluate(&connection));
                prop_assert_eq!(a.is_allowed(), b.is_allowed(), "{} → {} {:?}", src, dst, traffic);
            }
        }
    }

    /// Equal indexes give equal images, whatever the order of the objects.
    #[test]
    fn compilation_is_deterministic(objects in objects()) {
        let index = Index::of(objects);
        let mut other = Index::default();
        for object in clusters::objects_of(&index).into_iter().rev() {
            other.apply(object);
        }
        let (a, b) = (compile(&index), compile(&other));
        prop_assert_eq!(a.image, b.image);
        prop_assert_eq!(a.addresses, b.addresses);
    }
}

fn with_addresses(
    compiled: &weir_control::compile::Compiled,
    addresses: &[(Address, u32)],
) -> weir_table::classify::Classifier<Vec<u8>, weir_table::mem::SharedWords> {
    use weir_table::addrmap::AddressMapWriter;
    use weir_table::policy::{ClassId, PolicyTable, encode};
    let table = PolicyTable::from_bytes(encode(&compiled.image).unwrap()).unwrap();
    let mut map = AddressMapWriter::private(0, addresses.len()).unwrap();
    for (address, class) in addresses {
        map.insert(*address, ClassId(*class)).unwrap();
    }
    weir_table::classify::Classifier::new(table, map.into_reader().unwrap()).unwrap()
}

/// The generator is worth its name only if all kinds of answers occur often.
#[test]
fn the_generator_reaches_every_kind_of_answer() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let (mut unrestricted, mut allowed, mut denied, mut other) = (0, 0, 0, 0);
    let strategy = (objects(), prop::collection::vec((ends(), traffic()), 100));
    for _ in 0..100 {
        let (objects, probes) = strategy.new_tree(&mut runner).unwrap().current();
        let index = Index::of(objects);
        let pool = pool(&index);
        for (ends, traffic) in probes {
            let Some((src, dst)) = pick(&pool, &ends) else { continue };
            let (egress, ingress) = oracle::judge(&index, src, dst, traffic);
            for side in [egress, ingress] {
                match side {
                    Side::Unrestricted => unrestricted += 1,
                    Side::Denied => denied += 1,
                    Side::Allowed(_, path) if path.ends_with("[0]") => allowed += 1,
                    Side::Allowed(..) => other += 1,
                }
            }
        }
    }
    let counts = [unrestricted, allowed, denied, other];
    println!("unrestricted, by a first item, denied, by a later item: {counts:?}");
    assert!(counts.iter().all(|count| *count >= 300), "{counts:?}");
}
