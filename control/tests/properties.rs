//! The compiled table against the oracle: random clusters, random policies with every field,
//! random probes. `WEIR_PROPERTY_CASES` sets how many clusters (default 512, each with 200 probes,
//! of which those between two families are left out); `WEIR_PROPERTY_CASES=100000` takes minutes.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod clusters;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use clusters::{connection, ends, objects, pick, pod, traffic};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use weir_control::compile::compile;
use weir_control::eval::Offline;
use weir_control::index::{Index, Touched};
use weir_control::model::{
    Direction, LabelSelector, NetworkPolicy, Object, ObjectKey, Operator, Peer, Phase, Pod,
    PortMatch, Protocol, Requirement, namespace::NAME_LABEL,
};
use weir_control::oracle::{self, Side, Traffic};
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

/// classify(encode(compile(objects))) == oracle(objects): verdict, policy and rule. So the rule
/// that a verdict names is one that the oracle finds to match, and the first such.
#[test]
fn table_equals_oracle() {
    let asked = Cell::new(0u32);
    let strategy = (objects(), prop::collection::vec((ends(), traffic()), 200));
    let result = TestRunner::new(config()).run(&strategy, |(objects, probes)| {
        let offline = Offline::of(Index::of(objects)).unwrap();
        let pool = pool(&offline.index);
        for (ends, traffic) in probes {
            let Some((src, dst)) = pick(&pool, &ends) else { continue };
            let judgement = offline.classifier.evaluate(&connection(src, dst, traffic));
            let table = (side(&offline, judgement.egress), side(&offline, judgement.ingress));
            let naive = oracle::judge(&offline.index, src, dst, traffic);
            prop_assert_eq!(table, naive, "{} → {} {:?}", src, dst, traffic);
            asked.set(asked.get() + 1);
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    println!("{} probes", asked.get());
    assert!(asked.get() / config().cases >= 40, "{} probes", asked.get());
    // What a run without a wish of its own does at least.
    assert!(config().cases < 512 || asked.get() >= 20_000, "{} probes", asked.get());
}

proptest! {
    #![proptest_config(config())]

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
        let mut compiled = compile(&Index::of(before));
        if let Some(addresses) = compiled.classes.reclassify(&after) {
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

    /// Whatever changes of pods do not touch keeps its class.
    #[test]
    fn touched_addresses_are_all_that_differ(
        before in objects(),
        pods in prop::collection::vec(pod(), 1..16),
    ) {
        let others = before.iter().filter(|object| !matches!(object, Object::Pod(_))).cloned();
        let after: Vec<Object> = others.chain(pods.into_iter().map(Object::Pod)).collect();
        let mut index = Index::of(before);
        let mut compiled = compile(&index);
        index.take_touched();
        index.sync(&after);
        let Touched::These(touched) = index.take_touched() else { panic!("so few are named") };
        let all = compiled.classes.reclassify(&index);
        let these = compiled.classes.reclassify_these(&index, touched);
        prop_assert_eq!(these.is_some(), all.is_some());
        if let (Some(these), Some(all)) = (these, all) {
            let mut addresses: BTreeMap<_, _> = compiled.addresses.into_iter().collect();
            for (address, class) in these {
                match class {
                    Some(class) => addresses.insert(address, class),
                    None => addresses.remove(&address),
                };
            }
            prop_assert_eq!(addresses, all.into_iter().collect());
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

/// How often each thing occurs that a cluster, a policy or a probe can have.
#[derive(Default)]
struct Census(BTreeMap<&'static str, u32>);

impl Census {
    fn note(&mut self, what: &'static str, is: bool) {
        *self.0.entry(what).or_default() += u32::from(is);
    }

    fn selector(&mut self, selector: &LabelSelector) {
        self.note("empty selector", selector.is_empty());
        for (name, operator) in [
            ("In", Operator::In),
            ("NotIn", Operator::NotIn),
            ("Exists", Operator::Exists),
            ("DoesNotExist", Operator::DoesNotExist),
        ] {
            self.note(name, selector.requirements.iter().any(|r| r.operator == operator));
        }
        self.note("several requirements", selector.requirements.len() > 1);
        self.note("several values", selector.requirements.iter().any(|r| r.values.len() > 1));
    }

    fn pod(&mut self, pod: &Pod) {
        let families = [true, false].map(|v4| pod.addresses.iter().any(|a| a.is_ipv4() == v4));
        self.note("dual-stack pod", families == [true, true]);
        self.note("pod without address", pod.addresses.is_empty());
        self.note("host network", pod.host_network);
        self.note("Succeeded", pod.phase == Phase::Succeeded);
        self.note("Failed", pod.phase == Phase::Failed);
        self.note("terminating", pod.terminating);
        self.note("refused pod", pod.refused);
        let named = |name| pod.ports.iter().filter(move |p| p.name.as_deref() == Some(name));
        self.note("one name, two ports", named("web").count() > 1);
        self.note("two names", named("web").next().is_some() && named("dns").next().is_some());
        self.note("port without name", pod.ports.iter().any(|p| p.name.is_none()));
    }

    fn policy(&mut self, policy: &NetworkPolicy, pods: &[IpAddr]) {
        use Direction::{Egress, Ingress};
        self.note("Ingress alone", policy.directions == [Ingress]);
        self.note("Egress alone", policy.directions == [Egress]);
        self.note("both directions", policy.directions.len() == 2);
        self.note("refused policy", policy.refused);
        self.note(
            "isolates without rules",
            [Ingress, Egress].iter().any(|d| policy.isolates(*d) && policy.rules(*d).is_empty()),
        );
        self.selector(&policy.pod_selector);
        for rule in policy.ingress.iter().chain(&policy.egress) {
            self.note("rule for everything", rule.peers.is_empty() && rule.ports.is_empty());
            self.note("rule without peers", rule.peers.is_empty() && !rule.ports.is_empty());
            self.note("rule without ports", !rule.peers.is_empty() && rule.ports.is_empty());
            for port in &rule.ports {
                self.note("TCP port", port.protocol == Protocol::Tcp);
                self.note("UDP port", port.protocol == Protocol::Udp);
                self.note("SCTP port", port.protocol == Protocol::Sctp);
                self.note("port absent", port.port == PortMatch::All);
                self.note("named port", matches!(port.port, PortMatch::Named(_)));
                self.note("port", matches!(port.port, PortMatch::Range(a, b) if a == b));
                self.note("endPort", matches!(port.port, PortMatch::Range(a, b) if a < b));
            }
            for peer in &rule.peers {
                match &peer.peer {
                    Peer::IpBlock { cidr, except } => {
                        self.note("IPv4 block", cidr.addr().is_ipv4());
                        self.note("IPv6 block", cidr.addr().is_ipv6());
                        self.note("except", !except.is_empty());
                        self.note("block over pods", pods.iter().any(|pod| cidr.contains(pod)));
                        let hole = |pod| except.iter().any(|hole| hole.contains(pod));
                        self.note("except over pods", pods.iter().any(hole));
                        self.note("every address", cidr.prefix_len() == 0);
                    }
                    Peer::Pods { namespaces, pods } => {
                        self.note("podSelector", namespaces.is_none());
                        self.note("namespaceSelector", pods.is_none());
                        self.note("both selectors", namespaces.is_some() && pods.is_some());
                        namespaces.iter().chain(pods).for_each(|s| self.selector(s));
                    }
                }
            }
        }
    }

    /// What is known of the namespaces that pods are in, and what policies ask of them.
    fn namespaces(&mut self, index: &Index) {
        let negative = |selector: &LabelSelector| {
            let negative = [Operator::NotIn, Operator::DoesNotExist];
            let absent = |r: &Requirement| r.key != NAME_LABEL && negative.contains(&r.operator);
            selector.requirements.iter().any(absent)
        };
        let peers = |policy: &NetworkPolicy| {
            let rules = policy.ingress.iter().chain(&policy.egress);
            rules.flat_map(|rule| rule.peers.clone()).any(|peer| match peer.peer {
                Peer::Pods { namespaces: Some(selector), .. } => negative(&selector),
                _ => false,
            })
        };
        let asked = index.policies().any(peers);
        for pod in index.pods().filter(|pod| pod.is_policed() && !pod.addresses.is_empty()) {
            let namespace = index.namespace(&pod.key.namespace);
            self.note("pod of an undeclared namespace", namespace.is_none());
            self.note("absence asked of an undeclared one", namespace.is_none() && asked);
            self.note("pod of a refused namespace", namespace.is_some_and(|n| n.refused));
            self.note("pod without a name", clusters::is_unnamed(&pod.key.name));
        }
        let unnamed = |policy: &NetworkPolicy| clusters::is_unnamed(&policy.key.name);
        index.policies().for_each(|policy| self.note("policy without a name", unnamed(policy)));
    }

    fn probe(&mut self, index: &Index, src: IpAddr, dst: IpAddr, traffic: Traffic) {
        let endpoints = index.endpoints();
        let foreign = [src, dst].map(|address| !endpoints.contains_key(&address));
        let host = |address| index.pods().any(|p| p.host_network && p.addresses.contains(&address));
        self.note("from outside", foreign == [true, false]);
        self.note("to outside", foreign == [false, true]);
        self.note("node's address", host(src) || host(dst));
        self.note("IPv6 probe", src.is_ipv6());
        self.note("to itself", src == dst);
        self.note("TCP", matches!(traffic, Traffic::Port(Protocol::Tcp, _)));
        self.note("UDP", matches!(traffic, Traffic::Port(Protocol::Udp, _)));
        self.note("SCTP", matches!(traffic, Traffic::Port(Protocol::Sctp, _)));
        self.note("ICMP", traffic == Traffic::Icmp);
        self.note("other protocol", traffic == Traffic::Other);
        let (egress, ingress) = oracle::judge(index, src, dst, traffic);
        let allowed = |side: &Side| matches!(side, Side::Allowed(..));
        self.note(
            "both sides restricted",
            [&egress, &ingress].iter().all(|s| **s != Side::Unrestricted),
        );
        self.note("allowed by rules of both", allowed(&egress) && allowed(&ingress));
    }
}

/// Every field of the API and every kind of pod, end and traffic comes up often in what a run asks.
#[test]
fn the_generator_uses_every_field() {
    let mut runner = TestRunner::deterministic();
    let mut census = Census::default();
    let strategy = (objects(), prop::collection::vec((ends(), traffic()), 100));
    for _ in 0..100 {
        let (objects, probes) = strategy.new_tree(&mut runner).unwrap().current();
        let index = Index::of(objects);
        let pool = pool(&index);
        index
            .namespaces()
            .for_each(|namespace| census.note("refused namespace", namespace.refused));
        index.pods().for_each(|pod| census.pod(pod));
        census.namespaces(&index);
        index.policies().for_each(|policy| census.policy(policy, &pool));
        census.note("contested address", !index.conflicts().is_empty());
        let web = |pod: &Pod| pod.ports.iter().find(|p| p.name.as_deref() == Some("web")).cloned();
        let numbers: std::collections::BTreeSet<_> =
            index.pods().filter_map(web).map(|port| (port.protocol, port.port)).collect();
        census.note("one name, other numbers at other pods", numbers.len() > 1);
        for (ends, traffic) in probes {
            if let Some((src, dst)) = pick(&pool, &ends) {
                census.probe(&index, src, dst, traffic);
            }
        }
    }
    println!("{:?}", census.0);
    let rare: Vec<_> = census.0.iter().filter(|(_, count)| **count < 15).collect();
    assert!(rare.is_empty(), "{rare:?}");
}
