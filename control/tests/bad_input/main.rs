//! What the API server would refuse is refused here, naming object and field, and still isolates.
//! Sources: `pkg/apis/networking/validation` and `pkg/apis/core/validation` of Kubernetes, and the
//! API reference of `networking.k8s.io/v1`.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod specs;

use weir_control::eval::Offline;
use weir_control::eval::probe::{Probe, Prober};
use weir_control::index::Index;
use weir_control::model::{Direction, Loaded, NetworkPolicy, Object, Severity, load};

fn policy(spec: &str) -> Loaded {
    let text = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: p\n  namespace: ns\nspec: {spec}\n"
    );
    load("p.yaml", text.as_bytes()).unwrap()
}

fn only_policy(loaded: &Loaded) -> &NetworkPolicy {
    match &loaded.objects[..] {
        [Object::NetworkPolicy(policy)] => policy,
        other => panic!("{other:?}"),
    }
}

fn directions(policy: &NetworkPolicy) -> String {
    let name = |d: &Direction| if *d == Direction::Ingress { "in" } else { "out" };
    policy.directions.iter().map(name).collect::<Vec<_>>().join("+")
}

/// If it cannot be said which pods are meant, every pod of the namespace is isolated.
#[test]
fn an_unreadable_selector_isolates_the_namespace() {
    for (name, spec, field) in [
        ("a list", "{podSelector: []}", "spec.podSelector"),
        ("bad value", "{podSelector: {matchLabels: {a: [b]}}}", "spec.podSelector.matchLabels.a"),
        ("unknown field", "{podSelector: {labels: {a: b}}}", "spec.podSelector.labels"),
        (
            "bad operator",
            "{podSelector: {matchExpressions: [{key: a, operator: Is}]}}",
            "spec.podSelector.matchExpressions[0].operator",
        ),
        (
            "no key",
            "{podSelector: {matchExpressions: [{operator: Exists}]}}",
            "spec.podSelector.matchExpressions[0]",
        ),
        ("misspelt selector", "{podSelecter: {matchLabels: {a: b}}}", "spec.podSelecter"),
    ] {
        let loaded = policy(spec);
        let policy = only_policy(&loaded);
        assert!(policy.refused && policy.pod_selector.is_empty(), "{name}");
        let complaint = loaded.complaints.iter().find(|c| c.field == field);
        let text =
            complaint.unwrap_or_else(|| panic!("{name}: {:?}", loaded.complaints)).to_string();
        assert!(text.contains("every pod of namespace ns"), "{name}: {text}");
    }
}

/// A fault inside one rule takes that rule out of force and no other; the paths stay as written.
#[test]
fn a_refused_rule_leaves_the_others_in_force() {
    const PODS: &str = "\
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: ns}, status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: client, namespace: ns}, status: {podIP: 10.0.0.2}}
---
";
    const GOOD: &str = "{ports: [{port: 80}]}";
    for (name, rest, refused, port_80, port_81) in [
        ("bad port", "{ports: [{port: 80}, {port: 70000}]}", vec![0], "spec.ingress[1]", false),
        ("bad peer", "{from: [{podSelector: {}}, {}]}", vec![0], "spec.ingress[1]", false),
        ("null rule", "~", vec![0], "spec.ingress[1]", false),
        ("a string", "everything", vec![0], "spec.ingress[1]", false),
        ("two", "{form: []}, {from: {}}", vec![0, 1], "spec.ingress[2]", false),
        ("good ones around it", "{}, {ports: 80}", vec![1], "spec.ingress[0]", true),
    ] {
        let spec = format!("{{podSelector: {{}}, ingress: [{rest}, {GOOD}]}}");
        let policies = policy(&spec);
        let loaded = only_policy(&policies);
        assert!(!loaded.refused, "{name}");
        let positions: Vec<usize> = loaded.refused_rules(Direction::Ingress).into_iter().collect();
        assert_eq!(positions, refused, "{name}");
        assert!(loaded.refused_rules(Direction::Egress).is_empty(), "{name}");
        assert_eq!(policies.complaints.len(), refused.len(), "{name}: {:?}", policies.complaints);
        for complaint in &policies.complaints {
            let text = complaint.to_string();
            assert!(text.contains("the rule is refused and allows nothing"), "{name}: {text}");
            assert!(text.contains("its other rules stay in force"), "{name}: {text}");
        }
        let pods = load("pods.yaml", PODS.as_bytes()).unwrap().objects;
        let index = Index::of(pods.into_iter().chain(policies.objects));
        let offline = Offline::of(index).unwrap();
        let mut prober = Prober::new(&offline);
        let mut ask = |port: u16| {
            let probe = format!(r#"{{"from":"ns/client","to":"ns/web","port":{port}}}"#);
            prober.answer(&serde_json::from_str::<Probe<'_>>(&probe).unwrap()).unwrap()
        };
        assert_eq!(ask(80).ingress.rule.as_deref(), Some(port_80), "{name}");
        assert_eq!(ask(81).verdict == "allow", port_81, "{name}");
    }
}

/// A rule that is refused in the only direction with rules isolates that direction all the same.
#[test]
fn a_refused_rule_still_counts_for_the_policy_types() {
    let loaded = policy("{egress: [{to: [{ipBlock: {cidr: nonsense}}]}]}");
    let policy = only_policy(&loaded);
    assert!(!policy.refused && policy.egress.is_empty());
    assert_eq!(directions(policy), "in+out");
    assert!(loaded.complaints[0].consequence.contains("no other rule"), "{loaded:?}");
}

/// All that is wrong is said at once, with the lines.
#[test]
fn every_problem_is_named() {
    let text = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p}
spec:
  podSelector: {}
  ingress:
  - ports:
    - port: 70000
    from:
    - ipBlock:
        cidr: 10.0.0.300/8
  extra: 1
";
    let loaded = load("p.yaml", text.as_bytes()).unwrap();
    let mut named: Vec<(u32, &str)> =
        loaded.complaints.iter().map(|c| (c.origin.line, c.field.as_str())).collect();
    named.sort_unstable();
    assert_eq!(
        named,
        [
            (8, "spec.ingress[0].ports[0].port"),
            (11, "spec.ingress[0].from[0].ipBlock.cidr"),
            (12, "spec.extra"),
        ]
    );
}

/// What the API accepts is accepted, with its defaults.
#[test]
fn accepted_specs() {
    for (name, spec, isolated, ingress, egress) in [
        ("empty spec", "{}", "in", 0, 0),
        ("null selector", "{podSelector: ~}", "in", 0, 0),
        ("null lists", "{podSelector: {}, ingress: ~, egress: ~, policyTypes: ~}", "in", 0, 0),
        ("empty policyTypes", "{policyTypes: []}", "in", 0, 0),
        ("empty egress does not count", "{egress: []}", "in", 0, 0),
        ("egress rules count", "{egress: [{}]}", "in+out", 0, 1),
        ("types win", "{policyTypes: [Egress], ingress: [{}]}", "out", 1, 0),
        ("types twice", "{policyTypes: [Egress, Egress]}", "out", 0, 0),
        (
            "null labels in a selector",
            "{podSelector: {matchLabels: ~, matchExpressions: ~}}",
            "in",
            0,
            0,
        ),
        ("ports without anything", "{ingress: [{ports: [{}]}]}", "in", 1, 0),
        (
            "both selectors",
            "{ingress: [{from: [{podSelector: {}, namespaceSelector: {}}]}]}",
            "in",
            1,
            0,
        ),
        (
            "IPv6 block",
            "{ingress: [{from: [{ipBlock: {cidr: \"fd00::/8\", except: [\"fd00::/16\"]}}]}]}",
            "in",
            1,
            0,
        ),
    ] {
        let loaded = policy(spec);
        assert!(loaded.complaints.is_empty(), "{name}: {:?}", loaded.complaints);
        let policy = only_policy(&loaded);
        assert!(!policy.refused, "{name}");
        assert_eq!(directions(policy), isolated, "{name}");
        assert_eq!((policy.ingress.len(), policy.egress.len()), (ingress, egress), "{name}");
    }
}

/// Host bits are taken off, as the API server does, and it is said.
#[test]
fn host_bits_are_a_warning() {
    let loaded = policy("{ingress: [{from: [{ipBlock: {cidr: 10.1.2.3/8}}]}]}");
    assert_eq!(loaded.complaints.len(), 1);
    assert_eq!(loaded.complaints[0].severity, Severity::Warning);
    assert!(loaded.complaints[0].message.contains("10.0.0.0/8"));
    assert!(!only_policy(&loaded).refused);
}
