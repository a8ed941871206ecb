//! What was read, and could not be honoured or counts twice.

use weir_control::lint::Severity::{Error, Info, Warning};

use super::{Case, both, case, named, pod, web};

pub(super) fn cases() -> Vec<Case> {
    let open = || web("ingress: [{}]");
    let calico = "{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: c, namespace: shop}}\n";
    let admin = "{apiVersion: policy.networking.k8s.io/v1alpha1, kind: AdminNetworkPolicy, metadata: {name: a}}\n";
    let misspelt = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolice, metadata: {name: c}}\n";
    let gadget = "{apiVersion: example.org/v1, kind: Gadget, metadata: {name: g}}\n";
    let config = "{apiVersion: v1, kind: ConfigMap, metadata: {name: g}}\n";
    vec![
        case(
            "refused",
            Error,
            "spec.ingress[0].ports[0].port",
            &["70000 is no port", "allows nothing", "correct this field"],
            (web("ingress: [{ports: [{port: 70000}]}]"), web("ingress: [{ports: [{port: 7000}]}]")),
        ),
        case(
            "not-enforced",
            Error,
            "kind",
            &["is not enforced in this version", "NetworkPolicy of networking.k8s.io/v1"],
            (calico.to_owned(), open()),
        ),
        case("not-enforced", Error, "kind", &["AdminNetworkPolicy"], (admin.to_owned(), open())),
        case("not-enforced", Error, "kind", &["NetworkPolice"], (misspelt.to_owned(), open())),
        case(
            "unknown-kind",
            Info,
            "kind",
            &["Gadget", "left out"],
            (gadget.to_owned(), config.to_owned()),
        ),
        case(
            "read-otherwise",
            Warning,
            "spec.ingress[0].from[0].ipBlock.cidr",
            &["192.0.2.0/24"],
            (
                web("ingress: [{from: [{ipBlock: {cidr: 192.0.2.9/24}}]}]"),
                web("ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}]}]"),
            ),
        ),
        case(
            "address-conflict",
            Error,
            "status.podIPs",
            &["10.0.0.1", "shop/x", "isolated"],
            (pod("x", "status: {podIP: 10.0.0.1}"), pod("x", "status: {podIP: 10.0.0.9}")),
        ),
        case(
            "duplicate-object",
            Error,
            "",
            &["already written in lint.yaml:", "another name"],
            (
                both(&open(), &web("ingress: []")),
                both(&open(), &named("shop", "q", "{}", "ingress: []")),
            ),
        ),
        case(
            "duplicate-policy",
            Warning,
            "spec",
            &["the same as NetworkPolicy shop/p", "keep one"],
            (
                both(
                    &named(
                        "shop",
                        "p",
                        "{matchLabels: {app: web, track: stable}}",
                        "ingress: [{}]",
                    ),
                    &named(
                        "shop",
                        "q",
                        "{matchExpressions: [{key: track, operator: In, values: [stable]}, {key: app, operator: In, values: [web]}]}",
                        "policyTypes: [Ingress]\ningress: [{}]",
                    ),
                ),
                both(
                    &named("shop", "p", "{matchLabels: {app: web}}", "ingress: [{}]"),
                    &named("ops", "p", "{matchLabels: {app: web}}", "ingress: [{}]"),
                ),
            ),
        ),
        case("no-pods", Info, "", &["left out", "kubectl get"], (format!("!{}", open()), open())),
        case(
            "no-namespaces",
            Warning,
            "",
            &["no Namespace objects", "kubectl get namespaces"],
            (
                format!(
                    "!{}---\n{}",
                    pod("w", "status: {podIP: 10.0.0.1}"),
                    web("ingress: [{from: [{namespaceSelector: {matchLabels: {team: ops}}}]}]")
                ),
                web("ingress: [{from: [{namespaceSelector: {matchLabels: {team: ops}}}]}]"),
            ),
        ),
    ]
}
