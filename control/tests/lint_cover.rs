//! What `covered-rule` claims is true: without the rules that it names, no verdict changes. Held
//! against the compiled table over small random clusters.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use weir_control::eval::Offline;
use weir_control::index::Index;
use weir_control::lint::lint;
use weir_control::model::{Direction, Loaded, NetworkPolicy, Object, load};
use weir_table::Address;
use weir_table::classify::Connection;

const APPS: [&str; 3] = ["a", "b", "c"];

/// Pods of four namespaces with labels and port names that differ, some of them dual-stack. One
/// namespace is refused, one not declared; one pod is refused, and two claim one address.
const PODS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: x, labels: {team: one}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: y, labels: {team: two}}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: x, name: a, labels: {app: a, tier: f}}, spec: {containers: [{ports: [{name: p, containerPort: 80}]}]}, status: {podIPs: [{ip: 10.0.0.1}, {ip: \"fd00::1\"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: x, name: b, labels: {app: b, tier: f}}, spec: {containers: [{ports: [{name: p, containerPort: 81}]}]}, status: {podIP: 10.0.0.2}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: x, name: c, labels: {app: c}}, status: {podIP: 10.0.0.3}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: y, name: a, labels: {app: a}}, spec: {containers: [{ports: [{name: p, containerPort: 80}]}]}, status: {podIPs: [{ip: 10.0.1.1}, {ip: \"fd00::2\"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: y, name: b, labels: {app: b, tier: f}}, status: {podIP: 10.0.1.2}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: y, name: c, labels: {app: c}}, spec: {hostNetwork: true}, status: {podIP: 192.0.2.9}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: z, labels: {team: [one]}}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: z, name: a, labels: {app: a}}, spec: {containers: [{ports: [{name: p, containerPort: 80}]}]}, status: {podIP: 10.0.2.1}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: z, name: b, labels: {app: b, tier: f}}, status: {podIP: 10.0.2.2}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: w, name: a, labels: {app: a}}, status: {podIP: 10.0.3.1}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: x, name: refused, labels: {app: a, tier: [f]}}, spec: {containers: [{ports: [{name: p, containerPort: 81}]}]}, status: {podIP: 10.0.0.4}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: x, name: twin-1, labels: {app: b}}, spec: {containers: [{ports: [{name: p, containerPort: 80}]}]}, status: {podIP: 10.0.0.5}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: x, name: twin-2, labels: {app: c}}, status: {podIP: 10.0.0.5}}
---
";

fn selector() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just("{}".to_owned()),
        3 => prop::sample::select(&APPS[..]).prop_map(|app| format!("{{matchLabels: {{app: {app}}}}}")),
        1 => Just("{matchExpressions: [{key: app, operator: In, values: [a, b]}]}".to_owned()),
        1 => Just("{matchExpressions: [{key: app, operator: NotIn, values: [c]}]}".to_owned()),
        1 => Just("{matchExpressions: [{key: tier, operator: Exists}]}".to_owned()),
    ]
}

fn peer() -> impl Strategy<Value = String> {
    let namespaces = prop::sample::select(vec![
        "{}",
        "{matchLabels: {team: one}}",
        "{matchExpressions: [{key: team, operator: Exists}]}",
    ]);
    let blocks = prop::sample::select(vec![
        "{cidr: 0.0.0.0/0}",
        "{cidr: 10.0.0.0/16}",
        "{cidr: 10.0.0.0/24}",
        "{cidr: 10.0.0.0/16, except: [10.0.1.0/24]}",
        "{cidr: 10.0.0.1/32}",
        "{cidr: \"fd00::/64\"}",
    ]);
    prop_oneof![
        3 => selector().prop_map(|pods| format!("{{podSelector: {pods}}}")),
        2 => namespaces.clone().prop_map(|n| format!("{{namespaceSelector: {n}}}")),
        2 => (namespaces, selector())
            .prop_map(|(n, pods)| format!("{{namespaceSelector: {n}, podSelector: {pods}}}")),
        3 => blocks.prop_map(|block| format!("{{ipBlock: {block}}}")),
    ]
}

fn port() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "{}",
        "{port: 80}",
        "{port: 81}",
        "{port: 80, endPort: 81}",
        "{port: 82, endPort: 90}",
        "{port: p}",
        "{protocol: UDP, port: 80}",
        "{protocol: UDP}",
    ])
}

fn rule(peers: &'static str) -> impl Strategy<Value = String> {
    let list = |items: Vec<String>| items.join(", ");
    let peer = prop::collection::vec(peer(), 0..3);
    let ports = prop::collection::vec(port().prop_map(str::to_owned), 0..3);
    (peer, ports).prop_map(move |(peer, ports)| {
        format!("{{{peers}: [{}], ports: [{}]}}", list(peer), list(ports))
    })
}

fn policy() -> impl Strategy<Value = String> {
    let rules = |peers| prop::collection::vec(rule(peers), 0..3);
    (prop::sample::select(vec!["x", "y", "z", "w"]), selector(), rules("from"), rules("to")).prop_map(
        |(namespace, selector, ingress, egress)| {
            format!(
                "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {{name: NAME, namespace: {namespace}}}\nspec: {{podSelector: {selector}, policyTypes: [Ingress, Egress], ingress: [{}], egress: [{}]}}\n",
                ingress.join(", "),
                egress.join(", ")
            )
        },
    )
}

/// Every verdict between all addresses, one outsider of each family among them.
fn verdicts(offline: &Offline) -> Vec<bool> {
    let addresses = [
        "10.0.0.1",
        "10.0.0.2",
        "10.0.0.3",
        "10.0.0.4",
        "10.0.0.5",
        "10.0.1.1",
        "10.0.1.2",
        "10.0.2.1",
        "10.0.2.2",
        "10.0.3.1",
        "192.0.2.9",
        "10.0.0.77",
        "10.0.1.77",
        "198.51.100.1",
        "fd00::1",
        "fd00::2",
        "fd00::77",
        "2001:db8::1",
    ];
    let addresses = addresses.map(|text| text.parse::<Address>().unwrap());
    let traffic =
        [(6, 79), (6, 80), (6, 81), (6, 85), (17, 80), (17, 9), (132, 80), (1, 0), (50, 0)];
    let mut all = Vec::new();
    for src in addresses {
        for dst in addresses.into_iter().filter(|dst| dst.is_v4() == src.is_v4()) {
            for (protocol, dport) in traffic {
                let protocol = if protocol == 1 && !src.is_v4() { 58 } else { protocol };
                let connection = Connection { src, dst, protocol, dport };
                all.push(offline.classifier.evaluate(&connection).is_allowed());
            }
        }
    }
    all
}

fn without(policy: &NetworkPolicy, covered: &BTreeSet<(String, String)>) -> NetworkPolicy {
    let mut policy = policy.clone();
    let object = format!("NetworkPolicy {}", policy.key);
    for direction in [Direction::Ingress, Direction::Egress] {
        let rules = match direction {
            Direction::Ingress => &mut policy.ingress,
            Direction::Egress => &mut policy.egress,
        };
        rules.retain(|rule| !covered.contains(&(object.clone(), rule.path(direction, None))));
    }
    policy
}

fn check(policies: &[String]) -> usize {
    let named = policies.iter().enumerate().map(|(i, p)| p.replace("NAME", &format!("p{i}")));
    let text = format!("{PODS}{}", named.collect::<Vec<_>>().join("---\n"));
    let objects = load("t", text.as_bytes()).unwrap().objects;
    let offline = Offline::of(Index::of(objects.clone())).unwrap();
    let covered: BTreeSet<(String, String)> = lint(&Loaded::default(), &offline)
        .into_iter()
        .filter(|finding| finding.code == "covered-rule")
        .map(|finding| (finding.object, finding.field))
        .collect();
    let fewer = objects.into_iter().map(|object| match object {
        Object::NetworkPolicy(policy) => Object::NetworkPolicy(without(&policy, &covered)),
        other => other,
    });
    let fewer = Offline::of(Index::of(fewer)).unwrap();
    assert_eq!(verdicts(&offline), verdicts(&fewer), "{covered:?}\n{text}");
    covered.len()
}

/// `WEIR_PROPERTY_CASES` sets how many clusters.
fn cases() -> u32 {
    std::env::var("WEIR_PROPERTY_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(400)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn covered_rules_can_go(policies in prop::collection::vec(policy(), 1..7)) {
        check(&policies);
    }
}

/// Of a refused namespace nobody knows the labels: the empty namespaceSelector does not find it, and
/// a podSelector alone does. So the one is not covered by the other.
#[test]
fn in_a_refused_namespace_all_namespaces_are_not_all() {
    let policy = |namespace: &str| {
        format!(
            "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {{name: NAME, namespace: {namespace}}}\nspec: {{podSelector: {{}}, ingress: [{{from: [{{namespaceSelector: {{}}}}]}}, {{from: [{{podSelector: {{}}}}]}}]}}\n"
        )
    };
    assert_eq!(check(&[policy("x")]), 1);
    assert_eq!(check(&[policy("z")]), 0);
}

/// Rules are compared in pairs, and what a pair takes must not grow with the pods: 1,000 policies that
/// select all of 3,000 pods. (What it takes is counted in `bench/benches/instructions.rs`, for fewer.)
#[test]
fn many_policies_over_many_pods() {
    let mut documents: Vec<String> = (0..3000)
        .map(|i| {
            format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{namespace: x, name: p{i}, labels: {{app: a{}}}}}, spec: {{containers: [{{ports: [{{name: http, containerPort: {}}}]}}]}}, status: {{podIP: 10.1.{}.{}}}}}",
                i % 200,
                8000 + i % 50,
                i / 250,
                i % 250
            )
        })
        .collect();
    documents.extend((0..1000).map(|i| {
        format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{namespace: x, name: n{i}}}, spec: {{podSelector: {{}}, policyTypes: [Ingress, Egress], ingress: [{{from: [{{podSelector: {{matchLabels: {{app: a{}}}}}}}], ports: [{{port: {}}}]}}], egress: [{{to: [{{podSelector: {{matchLabels: {{app: a{}}}}}}}], ports: [{{port: http}}, {{port: {}}}]}}]}}}}",
            i % 200,
            1000 + i,
            i * 7 % 200,
            20000 + i
        )
    }));
    let objects = load("many", documents.join("\n---\n").as_bytes()).unwrap().objects;
    let offline = Offline::of(Index::of(objects)).unwrap();
    let findings = lint(&Loaded::default(), &offline);
    assert!(findings.iter().all(|finding| finding.code != "covered-rule"));
}

/// The generator makes covered rules often enough for the property to mean something.
#[test]
fn covered_rules_are_generated() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let strategy = prop::collection::vec(policy(), 1..7);
    let found: usize =
        (0..100).map(|_| check(&strategy.new_tree(&mut runner).unwrap().current())).sum();
    assert!(found >= 50, "{found} covered rules in 100 clusters");
}
