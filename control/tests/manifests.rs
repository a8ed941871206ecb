//! Objects through their text: what is written in any of the forms that mean the same is read as
//! the same objects, and decides the same.
//!
//! Random objects are written as manifests, by coin tosses among the forms that the API allows:
//! `policyTypes` given or left to its default, `matchLabels` or `matchExpressions`, absent, null or
//! empty lists, TCP said or implied, one `kind: List`, several documents or JSON. The table compiled
//! from what was read is then held against the oracle over what was meant.

#![allow(clippy::unwrap_used, missing_docs)]

mod clusters;

use std::net::IpAddr;

use clusters::{connection, ends, objects, pick, traffic};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use weir_control::eval::Offline;
use weir_control::index::Index;
use weir_control::model::{
    Direction, LabelSelector, NetworkPolicy, Object, Operator, Origin, Peer, Phase, Pod, PortMatch,
    Protocol, Rule, load,
};
use weir_control::oracle;

/// Decides among forms; begins anew at its end.
struct Coin {
    tosses: Vec<bool>,
    next: usize,
}

impl Coin {
    fn toss(&mut self) -> bool {
        self.next += 1;
        self.tosses[self.next % self.tosses.len()]
    }

    /// A field whose value says no more than its absence: absent, null or written.
    fn idle(&mut self, map: &mut Map<String, Value>, key: &str, value: Value) {
        match (self.toss(), self.toss()) {
            (true, _) => {}
            (false, true) => _ = map.insert(key.to_owned(), Value::Null),
            (false, false) => _ = map.insert(key.to_owned(), value),
        }
    }
}

fn put(map: &mut Map<String, Value>, key: &str, value: Value) {
    map.insert(key.to_owned(), value);
}

fn selector(selector: &LabelSelector, coin: &mut Coin) -> Value {
    let (mut labels, mut expressions) = (Map::new(), Vec::new());
    for requirement in &selector.requirements {
        let operator = match requirement.operator {
            Operator::In => "In",
            Operator::NotIn => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
        };
        let one = requirement.operator == Operator::In && requirement.values.len() == 1;
        // Labels come before expressions when they are read, so the order must not change.
        if one && expressions.is_empty() && !labels.contains_key(&requirement.key) && coin.toss() {
            // A mapping has no order of its own; the reader's is the text's.
            put(&mut labels, &requirement.key, json!(requirement.values[0]));
            continue;
        }
        let mut expression = Map::new();
        put(&mut expression, "key", json!(requirement.key));
        put(&mut expression, "operator", json!(operator));
        if requirement.values.is_empty() {
            coin.idle(&mut expression, "values", json!([]));
        } else {
            put(&mut expression, "values", json!(requirement.values));
        }
        expressions.push(Value::Object(expression));
    }
    let mut map = Map::new();
    match labels.is_empty() {
        true => coin.idle(&mut map, "matchLabels", json!({})),
        false => put(&mut map, "matchLabels", Value::Object(labels)),
    }
    match expressions.is_empty() {
        true => coin.idle(&mut map, "matchExpressions", json!([])),
        false => put(&mut map, "matchExpressions", json!(expressions)),
    }
    Value::Object(map)
}

fn peer(peer: &Peer, coin: &mut Coin) -> Value {
    let mut map = Map::new();
    match peer {
        Peer::IpBlock { cidr, except } => {
            let mut block = Map::new();
            put(&mut block, "cidr", json!(cidr.to_string()));
            match except.is_empty() {
                true => coin.idle(&mut block, "except", json!([])),
                false => put(
                    &mut block,
                    "except",
                    json!(except.iter().map(|c| c.to_string()).collect::<Vec<_>>()),
                ),
            }
            put(&mut map, "ipBlock", Value::Object(block));
        }
        Peer::Pods { namespaces, pods } => {
            for (key, part) in [("namespaceSelector", namespaces), ("podSelector", pods)] {
                match part {
                    Some(part) => put(&mut map, key, selector(part, coin)),
                    None if coin.toss() => put(&mut map, key, Value::Null),
                    None => {}
                }
            }
        }
    }
    Value::Object(map)
}

fn rule(rule: &Rule, direction: Direction, coin: &mut Coin) -> Value {
    let mut map = Map::new();
    let ports: Vec<Value> = rule
        .ports
        .iter()
        .map(|port| {
            let mut map = Map::new();
            match port.protocol {
                Protocol::Tcp => coin.idle(&mut map, "protocol", json!("TCP")),
                other => put(&mut map, "protocol", json!(other.to_string())),
            }
            match &port.port {
                PortMatch::All => coin.idle(&mut map, "endPort", Value::Null),
                PortMatch::Named(name) => put(&mut map, "port", json!(name)),
                PortMatch::Range(first, last) => {
                    put(&mut map, "port", json!(first));
                    match first == last {
                        true => coin.idle(&mut map, "endPort", json!(last)),
                        false => put(&mut map, "endPort", json!(last)),
                    }
                }
            }
            Value::Object(map)
        })
        .collect();
    let peers: Vec<Value> = rule.peers.iter().map(|p| peer(&p.peer, coin)).collect();
    for (key, list) in [("ports", ports), (direction.peers_field(), peers)] {
        match list.is_empty() {
            true => coin.idle(&mut map, key, json!([])),
            false => put(&mut map, key, json!(list)),
        }
    }
    Value::Object(map)
}

/// Whether the API's default would give the directions that are meant.
fn is_default(policy: &NetworkPolicy) -> bool {
    match policy.directions[..] {
        [Direction::Ingress] => policy.egress.is_empty(),
        [Direction::Ingress, Direction::Egress] => !policy.egress.is_empty(),
        _ => false,
    }
}

fn network_policy(policy: &NetworkPolicy, coin: &mut Coin) -> Value {
    let mut spec = Map::new();
    match policy.pod_selector.is_empty() {
        true => coin.idle(&mut spec, "podSelector", json!({})),
        false => put(&mut spec, "podSelector", selector(&policy.pod_selector, coin)),
    }
    if is_default(policy) {
        coin.idle(&mut spec, "policyTypes", json!([]));
    } else {
        let types = policy.directions.iter().map(|direction| match direction {
            Direction::Ingress => "Ingress",
            Direction::Egress => "Egress",
        });
        put(&mut spec, "policyTypes", types.collect());
    }
    for (direction, rules) in
        [(Direction::Ingress, &policy.ingress), (Direction::Egress, &policy.egress)]
    {
        match rules.is_empty() {
            true => coin.idle(&mut spec, direction.field(), json!([])),
            false => {
                let rules: Vec<Value> = rules.iter().map(|r| rule(r, direction, coin)).collect();
                put(&mut spec, direction.field(), json!(rules));
            }
        }
    }
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": *policy.key.namespace, "name": *policy.key.name},
        "spec": spec,
    })
}

fn pod_manifest(pod: &Pod, coin: &mut Coin) -> Value {
    let mut lists = [Vec::new(), Vec::new()];
    let sidecars = coin.toss();
    for (i, port) in pod.ports.iter().enumerate() {
        let mut map = Map::new();
        put(&mut map, "containerPort", json!(port.port));
        match port.protocol {
            Protocol::Tcp => coin.idle(&mut map, "protocol", json!("TCP")),
            other => put(&mut map, "protocol", json!(other.to_string())),
        }
        if let Some(name) = &port.name {
            put(&mut map, "name", json!(name));
        }
        // Containers are read before sidecars.
        lists[usize::from(sidecars && i * 2 >= pod.ports.len())].push(Value::Object(map));
    }
    let [own, sidecar] = lists;
    let mut spec = json!({
        "containers": [{"name": "c", "ports": own}, {"name": "d"}],
        "initContainers": [
            {"name": "i", "ports": [{"name": "web", "containerPort": 7}]},
            {"name": "s", "restartPolicy": "Always", "ports": sidecar},
        ],
    });
    let map = spec.as_object_mut().unwrap();
    match pod.host_network {
        true => put(map, "hostNetwork", json!(true)),
        false => coin.idle(map, "hostNetwork", json!(false)),
    }
    let mut status = Map::new();
    match pod.phase {
        Phase::Succeeded => put(&mut status, "phase", json!("Succeeded")),
        Phase::Failed => put(&mut status, "phase", json!("Failed")),
        Phase::Live => coin.idle(&mut status, "phase", json!("Running")),
    }
    match &pod.addresses[..] {
        [] => coin.idle(&mut status, "podIP", json!("")),
        all => {
            put(&mut status, "podIP", json!(all[0].to_string()));
            let ips: Vec<Value> = all.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
            if all.len() > 1 || coin.toss() {
                put(&mut status, "podIPs", json!(ips));
            }
        }
    }
    let mut metadata = Map::new();
    put(&mut metadata, "namespace", json!(*pod.key.namespace));
    put(&mut metadata, "name", json!(*pod.key.name));
    match pod.labels.is_empty() {
        true => coin.idle(&mut metadata, "labels", json!({})),
        false => put(&mut metadata, "labels", json!(*pod.labels)),
    }
    if pod.terminating {
        put(&mut metadata, "deletionTimestamp", json!("2024-01-01T00:00:00Z"));
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status})
}

fn manifest(object: &Object, coin: &mut Coin) -> Option<Value> {
    match object {
        Object::Namespace(namespace) => Some(json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace.name, "labels": namespace.labels},
        })),
        Object::Pod(pod) => Some(pod_manifest(pod, coin)),
        Object::NetworkPolicy(policy) => Some(network_policy(policy, coin)),
        _ => None,
    }
}

/// One text of all manifests.
fn text(manifests: &[Value], coin: &mut Coin) -> String {
    let service = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other"}});
    let all: Vec<&Value> = manifests.iter().chain([&service]).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": all, "metadata": {}});
    match (coin.toss(), coin.toss()) {
        (true, true) => list.to_string(),
        (true, false) => serde_json::to_string_pretty(&list).unwrap(),
        (false, true) => serde_saphyr::to_string(&list).unwrap(),
        (false, false) => {
            let documents = all.iter().map(|value| serde_saphyr::to_string(value).unwrap());
            documents.collect::<Vec<_>>().join("---\n")
        }
    }
}

/// The object as it would have been written: only what the text can say, and no places.
fn bare(mut object: Object) -> Object {
    match &mut object {
        Object::Namespace(namespace) => namespace.origin = Origin::memory(),
        Object::Pod(pod) => pod.origin = Origin::memory(),
        Object::NetworkPolicy(policy) => {
            policy.origin = Origin::memory();
            for rules in [&mut policy.ingress, &mut policy.egress] {
                for (position, rule) in rules.iter_mut().enumerate() {
                    (rule.line, rule.position) = (0, position);
                    rule.peers.iter_mut().for_each(|peer| peer.line = 0);
                    rule.ports.iter_mut().for_each(|port| port.line = 0);
                }
            }
            for selector in selectors(policy) {
                // Requirements and values are sets, in whatever order they are written.
                for requirement in &mut selector.requirements {
                    requirement.values.sort_unstable();
                }
                selector.requirements.sort_unstable();
            }
        }
        _ => {}
    }
    object
}

fn selectors(policy: &mut NetworkPolicy) -> Vec<&mut LabelSelector> {
    let mut all = vec![&mut policy.pod_selector];
    for peer in policy.ingress.iter_mut().chain(&mut policy.egress).flat_map(|r| &mut r.peers) {
        if let Peer::Pods { namespaces, pods } = &mut peer.peer {
            all.extend(namespaces.iter_mut().chain(pods));
        }
    }
    all
}

/// Only what manifests can say: no refused objects, no two places of one address.
fn sayable(object: &Object) -> bool {
    match object {
        Object::Pod(pod) => !pod.refused && pod.addresses.len() <= 2,
        Object::NetworkPolicy(policy) => !policy.refused,
        Object::Namespace(namespace) => !namespace.refused,
        _ => true,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_was_meant_is_read_and_decided(
        objects in objects(),
        tosses in prop::collection::vec(any::<bool>(), 97),
        probes in prop::collection::vec((ends(), traffic()), 100),
    ) {
        let meant = Index::of(objects.into_iter().filter(sayable).map(bare));
        let meant_objects = clusters::objects_of(&meant);
        let mut coin = Coin { tosses, next: 0 };
        let manifests: Vec<Value> =
            meant_objects.iter().filter_map(|object| manifest(object, &mut coin)).collect();
        prop_assert_eq!(manifests.len(), meant_objects.len());
        let text = text(&manifests, &mut coin);
        let loaded = load("t", text.as_bytes()).unwrap();
        prop_assert!(loaded.complaints.is_empty(), "{:?}\n{}", loaded.complaints, text);
        prop_assert_eq!(loaded.skipped.values().sum::<usize>(), 1);
        let read: Vec<Object> = loaded.objects.into_iter().map(bare).collect();
        for (read, meant) in read.iter().zip(&meant_objects) {
            prop_assert_eq!(read, meant, "{}", text);
        }
        let offline = Offline::of(Index::of(read)).unwrap();
        let pool: Vec<IpAddr> = meant.pods().flat_map(|pod| pod.addresses.clone()).collect();
        for (ends, traffic) in probes {
            let Some((src, dst)) = pick(&pool, &ends) else { continue };
            let judgement = offline.classifier.evaluate(&connection(src, dst, traffic));
            let naive = oracle::judge(&meant, src, dst, traffic);
            prop_assert_eq!(judgement.egress.is_allow(), naive.0.is_allowed());
            prop_assert_eq!(judgement.ingress.is_allow(), naive.1.is_allowed());
        }
    }
}
