//! Kinds, groups and versions: what is meant as a policy is never left out without a word, and
//! isolates where it can.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

use weir_control::model::{Effect, Loaded, NetworkPolicy, Object, Severity, load};

fn only_policy(loaded: &Loaded) -> &NetworkPolicy {
    match &loaded.objects[..] {
        [Object::NetworkPolicy(policy)] => policy,
        other => panic!("{other:?}"),
    }
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

/// Typed lists leave the items' kind out.
#[test]
fn typed_lists() {
    let text =
        "{apiVersion: v1, kind: PodList, items: [{metadata: {name: a}}, {metadata: {name: b}}]}";
    let loaded = load("p.yaml", text.as_bytes()).unwrap();
    assert!(loaded.complaints.is_empty(), "{:?}", loaded.complaints);
    assert_eq!(loaded.objects.len(), 2);
}

/// A policy under a group that a listing contains anyway is still a policy.
#[test]
fn a_policy_of_another_kubernetes_group_isolates() {
    for group in [
        "policy/v1",
        "apps/v1",
        "policy.networking.k8s.io/v1alpha2",
        "rbac.authorization.k8s.io/v1",
    ] {
        for (kind, items) in [("NetworkPolicy", ""), ("NetworkPolicyList", "items: [{")] {
            let close = if items.is_empty() { "" } else { "}]" };
            let text = format!(
                "{{apiVersion: {group}, kind: {kind}, {items}metadata: {{name: p}}, spec: {{ingress: [{{}}]}}{close}}}"
            );
            let loaded = load("p.yaml", text.as_bytes()).unwrap();
            let policy = only_policy(&loaded);
            assert!(policy.refused && policy.ingress.is_empty(), "{text}");
            let [complaint] = &loaded.complaints[..] else { panic!("{loaded:?}") };
            assert_eq!(
                (complaint.field.as_str(), complaint.effect),
                ("apiVersion", Effect::Closed)
            );
        }
    }
}

/// Every other kind that says "network policy" is named, whatever its group.
#[test]
fn what_is_like_a_policy_is_not_enforced_and_said() {
    for (group, kind) in [
        ("policy/v1", "NetworkPolicies"),
        ("extensions/v1beta1", "Networkpolicy"),
        ("apps/v1", "GlobalNetworkPolicy"),
        ("crd.projectcalico.org/v1", "NetworkPolicy"),
        ("cilium.io/v2", "CiliumNetworkPolicy"),
        ("cilium.io/v2", "CiliumClusterwideNetworkPolicyList"),
        ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"),
        ("policy.networking.k8s.io/v1alpha1", "Baseline"),
    ] {
        let text = format!("{{apiVersion: {group}, kind: {kind}, metadata: {{name: p}}}}");
        let loaded = load("p.yaml", text.as_bytes()).unwrap();
        assert!(loaded.objects.is_empty() && loaded.skipped.is_empty(), "{text}");
        let [complaint] = &loaded.complaints[..] else { panic!("{loaded:?}") };
        assert_eq!(complaint.effect, Effect::NotEnforced, "{complaint}");
        assert!(complaint.to_string().contains("is not enforced in this version"), "{complaint}");
    }
}
