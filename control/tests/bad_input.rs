//! What the API server would refuse is refused here, naming object and field, and still isolates.
//! Sources: `pkg/apis/networking/validation` and `pkg/apis/core/validation` of Kubernetes, and the
//! API reference of `networking.k8s.io/v1`.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

use weir_control::eval::Offline;
use weir_control::eval::probe::{Probe, Prober};
use weir_control::index::{Index, Owner};
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

/// Refused specs: what is written, which field is named, a part of the message, whether the pod
/// selector was read (else the whole namespace is isolated), and the directions that isolate.
#[test]
fn refused_specs_isolate_and_allow_nothing() {
    const SELECTOR: &str = "podSelector: {matchLabels: {app: web}}";
    for (name, rest, field, message, selected, isolated) in [
        // NetworkPolicyPort
        (
            "port 70000",
            "ingress: [{ports: [{port: 70000}]}]",
            "spec.ingress[0].ports[0].port",
            "1 to 65535",
            true,
            "in",
        ),
        (
            "port 0",
            "ingress: [{ports: [{port: 0}]}]",
            "spec.ingress[0].ports[0].port",
            "1 to 65535",
            true,
            "in",
        ),
        (
            "negative port",
            "ingress: [{ports: [{port: -1}]}]",
            "spec.ingress[0].ports[0].port",
            "1 to 65535",
            true,
            "in",
        ),
        (
            "endPort below port",
            "ingress: [{ports: [{port: 90, endPort: 80}]}]",
            "spec.ingress[0].ports[0].endPort",
            "below",
            true,
            "in",
        ),
        (
            "endPort 70000",
            "ingress: [{ports: [{port: 90, endPort: 70000}]}]",
            "spec.ingress[0].ports[0].endPort",
            "1 to 65535",
            true,
            "in",
        ),
        (
            "endPort without port",
            "ingress: [{ports: [{endPort: 80}]}]",
            "spec.ingress[0].ports[0].endPort",
            "numeric `port`",
            true,
            "in",
        ),
        (
            "endPort with a name",
            "ingress: [{ports: [{port: web, endPort: 80}]}]",
            "spec.ingress[0].ports[0].endPort",
            "numeric `port`",
            true,
            "in",
        ),
        (
            "quoted number",
            "ingress: [{ports: [{port: \"80\"}]}]",
            "spec.ingress[0].ports[0].port",
            "without quotes",
            true,
            "in",
        ),
        (
            "port name of capitals",
            "ingress: [{ports: [{port: Web}]}]",
            "spec.ingress[0].ports[0].port",
            "no port name",
            true,
            "in",
        ),
        (
            "port name too long",
            "ingress: [{ports: [{port: a234567890123456}]}]",
            "spec.ingress[0].ports[0].port",
            "no port name",
            true,
            "in",
        ),
        (
            "port name with --",
            "ingress: [{ports: [{port: a--b}]}]",
            "spec.ingress[0].ports[0].port",
            "no port name",
            true,
            "in",
        ),
        (
            "port as a fraction",
            "ingress: [{ports: [{port: 80.5}]}]",
            "spec.ingress[0].ports[0].port",
            "number or a port name",
            true,
            "in",
        ),
        (
            "protocol ICMP",
            "ingress: [{ports: [{protocol: ICMP}]}]",
            "spec.ingress[0].ports[0].protocol",
            "TCP, UDP or SCTP",
            true,
            "in",
        ),
        (
            "protocol in small letters",
            "ingress: [{ports: [{protocol: tcp}]}]",
            "spec.ingress[0].ports[0].protocol",
            "TCP, UDP or SCTP",
            true,
            "in",
        ),
        // NetworkPolicyPeer, IPBlock
        (
            "empty peer",
            "ingress: [{from: [{}]}]",
            "spec.ingress[0].from[0]",
            "a peer needs",
            true,
            "in",
        ),
        (
            "null peer",
            "ingress: [{from: [~]}]",
            "spec.ingress[0].from[0]",
            "nothing is written",
            true,
            "in",
        ),
        (
            "null selector only",
            "ingress: [{from: [{podSelector: ~}]}]",
            "spec.ingress[0].from[0]",
            "a peer needs",
            true,
            "in",
        ),
        ("null rule", "ingress: [~]", "spec.ingress[0]", "nothing is written", true, "in"),
        (
            "ipBlock beside a selector",
            "egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]",
            "spec.egress[0].to[0].ipBlock",
            "two items",
            true,
            "in+out",
        ),
        (
            "bad CIDR",
            "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]",
            "spec.ingress[0].from[0].ipBlock.cidr",
            "no CIDR",
            true,
            "in",
        ),
        (
            "address without length",
            "ingress: [{from: [{ipBlock: {cidr: 10.0.0.1}}]}]",
            "spec.ingress[0].from[0].ipBlock.cidr",
            "no CIDR",
            true,
            "in",
        ),
        (
            "mapped CIDR",
            "ingress: [{from: [{ipBlock: {cidr: \"::ffff:10.0.0.0/104\"}}]}]",
            "spec.ingress[0].from[0].ipBlock.cidr",
            "IPv4-mapped",
            true,
            "in",
        ),
        (
            "no CIDR",
            "ingress: [{from: [{ipBlock: {except: [10.0.0.0/8]}}]}]",
            "spec.ingress[0].from[0].ipBlock",
            "required",
            true,
            "in",
        ),
        (
            "except outside",
            "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]",
            "spec.ingress[0].from[0].ipBlock.except[0]",
            "within",
            true,
            "in",
        ),
        (
            "except as large",
            "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]",
            "spec.ingress[0].from[0].ipBlock.except[0]",
            "smaller",
            true,
            "in",
        ),
        (
            "except of the other family",
            "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [\"fd00::/64\"]}}]}]",
            "spec.ingress[0].from[0].ipBlock.except[0]",
            "within",
            true,
            "in",
        ),
        // unknown fields at every level
        ("unknown in spec", "ingres: []", "spec.ingres", "unknown field", true, "in"),
        (
            "unknown in a rule",
            "ingress: [{form: []}]",
            "spec.ingress[0].form",
            "unknown field",
            true,
            "in",
        ),
        (
            "`to` in an ingress rule",
            "ingress: [{to: []}]",
            "spec.ingress[0].to",
            "unknown field",
            true,
            "in",
        ),
        (
            "unknown in a port",
            "ingress: [{ports: [{prot: TCP}]}]",
            "spec.ingress[0].ports[0].prot",
            "unknown field",
            true,
            "in",
        ),
        (
            "unknown in a peer",
            "ingress: [{from: [{pods: {}}]}]",
            "spec.ingress[0].from[0].pods",
            "unknown field",
            true,
            "in",
        ),
        (
            "unknown in a block",
            "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, not: []}}]}]",
            "spec.ingress[0].from[0].ipBlock.not",
            "unknown field",
            true,
            "in",
        ),
        // selectors of peers
        (
            "operator",
            "ingress: [{from: [{podSelector: {matchExpressions: [{key: a, operator: Equals, values: [b]}]}}]}]",
            "spec.ingress[0].from[0].podSelector.matchExpressions[0].operator",
            "no operator",
            true,
            "in",
        ),
        (
            "In without values",
            "ingress: [{from: [{podSelector: {matchExpressions: [{key: a, operator: In}]}}]}]",
            "spec.ingress[0].from[0].podSelector.matchExpressions[0]",
            "must not be empty",
            true,
            "in",
        ),
        (
            "Exists with values",
            "ingress: [{from: [{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}]}]",
            "spec.ingress[0].from[0].podSelector.matchExpressions[0].values",
            "absent",
            true,
            "in",
        ),
        (
            "label value",
            "ingress: [{from: [{podSelector: {matchLabels: {a: \"b c\"}}}]}]",
            "spec.ingress[0].from[0].podSelector.matchLabels.a",
            "no label value",
            true,
            "in",
        ),
        (
            "number as a value",
            "ingress: [{from: [{podSelector: {matchLabels: {a: 1}}}]}]",
            "spec.ingress[0].from[0].podSelector.matchLabels.a",
            "quote it",
            true,
            "in",
        ),
        // policyTypes
        (
            "unknown type",
            "policyTypes: [Ingres]",
            "spec.policyTypes[0]",
            "Ingress or Egress",
            true,
            "in+out",
        ),
        (
            "three types",
            "policyTypes: [Ingress, Ingress, Ingress]",
            "spec.policyTypes",
            "at most two",
            true,
            "in+out",
        ),
        ("types as a string", "policyTypes: Egress", "spec.policyTypes", "a list", true, "in+out"),
        (
            "bad egress only",
            "policyTypes: [Egress], egress: [{ports: [{port: 70000}]}]",
            "spec.egress[0].ports[0].port",
            "1 to 65535",
            true,
            "out",
        ),
        ("wrong type of egress", "egress: {}", "spec.egress", "a list", true, "in+out"),
    ] {
        let loaded = policy(&format!("{{{SELECTOR}, {rest}}}"));
        let complaint = loaded
            .complaints
            .iter()
            .find(|complaint| complaint.field == field)
            .unwrap_or_else(|| panic!("{name}: {:?}", loaded.complaints));
        let text = complaint.to_string();
        assert!(text.starts_with("p.yaml:"), "{name}: {text}");
        assert!(text.contains("NetworkPolicy ns/p"), "{name}: {text}");
        assert!(text.contains(message), "{name}: {text}");
        assert_eq!(complaint.severity, Severity::Refused, "{name}");
        let policy = only_policy(&loaded);
        assert!(policy.ingress.is_empty() && policy.egress.is_empty(), "{name}");
        // A fault inside a rule refuses the rule, any other the policy.
        let in_rule = field.starts_with("spec.ingress[") || field.starts_with("spec.egress[");
        assert_eq!(policy.refused, !in_rule, "{name}");
        let fault = policy.faults.iter().find(|fault| fault.field == field).unwrap();
        assert_eq!(fault.rule.is_some(), in_rule, "{name}");
        assert_eq!((&fault.message, fault.line), (&complaint.message, complaint.origin.line));
        assert_eq!(!policy.pod_selector.is_empty(), selected, "{name}");
        assert_eq!(directions(policy), isolated, "{name}");
    }
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

/// Objects of other kinds: counted if known, named if not; security policies are never silent.
#[test]
fn other_kinds() {
    let text = "\
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: s}}
- {apiVersion: v1, kind: Secret, metadata: {name: n}}
- {apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}
- {apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: e}}
- {apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: c}}
- {apiVersion: example.org/v1, kind: Gadget, metadata: {name: g, namespace: ns}}
- {apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i}}
- {apiVersion: networking.k8s.io/v1, kind: NetworkPolice, metadata: {name: m, namespace: ns}}
- {apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: k, namespace: ns}}
- {kind: 7}
- plain text
- {apiVersion: v1, kind: Pod, metadata: {name: p, uid: x, extra: y}, spec: {unknownField: 1}, status: {podIP: 10.0.0.1, unknown: 2}}
";
    let loaded = load("l.yaml", text.as_bytes()).unwrap();
    assert_eq!(loaded.objects.len(), 1);
    assert_eq!(loaded.skipped.values().sum::<usize>(), 5);
    assert!(loaded.skipped_in_words().unwrap().contains("1 ConfigMap"));
    let texts: Vec<String> = loaded.complaints.iter().map(|c| c.to_string()).collect();
    for (part, severity) in [
        (
            "ClusterNetworkPolicy c: kind: `ClusterNetworkPolicy` of policy.networking.k8s.io/v1alpha2 is not enforced",
            Severity::Skipped,
        ),
        ("Gadget ns/g: kind: unknown kind `Gadget` of example.org/v1", Severity::Skipped),
        (
            "NetworkPolice ns/m: kind: `NetworkPolice` of networking.k8s.io/v1 is not enforced",
            Severity::Skipped,
        ),
        (
            "NetworkPolicy ns/k: kind: `NetworkPolicy` of projectcalico.org/v3 is not enforced",
            Severity::Skipped,
        ),
        ("is a number, must be a string", Severity::Refused),
        ("is a string, not an object", Severity::Refused),
    ] {
        let i = texts.iter().position(|text| text.contains(part));
        let i = i.unwrap_or_else(|| panic!("{part}: {texts:#?}"));
        assert_eq!(loaded.complaints[i].severity, severity, "{part}");
    }
    assert_eq!(texts.len(), 6);
}

/// A policy of a wrong or absent apiVersion is clearly a policy: refused, and it isolates.
#[test]
fn a_policy_of_another_version_is_refused() {
    for version in
        ["apiVersion: extensions/v1beta1\n", "", "apiVersion: networking.k8s.io/v1beta1\n"]
    {
        let text = format!(
            "{version}kind: NetworkPolicy\nmetadata: {{name: p}}\nspec: {{ingress: [{{}}]}}\n"
        );
        let loaded = load("p.yaml", text.as_bytes()).unwrap();
        let policy = only_policy(&loaded);
        assert!(policy.refused && policy.ingress.is_empty(), "{version}");
        assert!(loaded.complaints[0].to_string().contains("networking.k8s.io/v1"), "{version}");
    }
}

/// A pod that cannot be read is isolated if its address can be.
#[test]
fn a_refused_pod_is_isolated() {
    for (name, pod, isolated) in [
        ("label", "metadata: {name: p, labels: {a: 1}}\nstatus: {podIP: 10.0.0.1}", true),
        (
            "port",
            "metadata: {name: p}\nspec: {containers: [{ports: [{containerPort: 99999}]}]}\nstatus: {podIP: 10.0.0.1}",
            true,
        ),
        (
            "second address",
            "metadata: {name: p}\nstatus: {podIP: 10.0.0.1, podIPs: [{ip: x}]}",
            true,
        ),
        ("address", "metadata: {name: p}\nstatus: {podIP: 10.0.0.256}", false),
        ("multicast", "metadata: {name: p}\nstatus: {podIP: 224.0.0.1}", false),
    ] {
        let text = format!("apiVersion: v1\nkind: Pod\n{pod}\n");
        let loaded = load("p.yaml", text.as_bytes()).unwrap();
        assert_eq!(loaded.complaints.len(), 1, "{name}: {:?}", loaded.complaints);
        let index = Index::of(loaded.objects);
        let owners: Vec<bool> =
            index.endpoints().values().map(|owner| matches!(owner, Owner::Isolated(_))).collect();
        assert_eq!(owners, vec![true; usize::from(isolated)], "{name}");
    }
}

/// Ports of sidecars count, those of ordinary init containers do not (KEP-753).
#[test]
fn sidecar_ports() {
    let text = "\
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  containers: [{ports: [{name: web, containerPort: 80}]}]
  initContainers:
  - {restartPolicy: Always, ports: [{name: metrics, containerPort: 9090, protocol: UDP}]}
  - {ports: [{name: setup, containerPort: 1}]}
";
    let loaded = load("p.yaml", text.as_bytes()).unwrap();
    let [Object::Pod(pod)] = &loaded.objects[..] else { panic!("{loaded:?}") };
    let names: Vec<&str> = pod.ports.iter().filter_map(|port| port.name.as_deref()).collect();
    assert_eq!(names, ["web", "metrics"]);
}

/// Typed lists leave the items' kind out.
#[test]
fn typed_lists() {
    let text =
        "{apiVersion: v1, kind: PodList, items: [{metadata: {name: a}}, {metadata: {name: b}}]}";
    let loaded = load("p.yaml", text.as_bytes()).unwrap();
    assert!(loaded.complaints.is_empty(), "{:?}", loaded.complaints);
    assert_eq!(loaded.objects.len(), 2);
}
