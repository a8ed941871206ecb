//! Every check of `weir lint`, as a table: what is written, what is said about it, and what is
//! written instead, about which that check says nothing.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

use std::collections::BTreeSet;

use weir_control::eval::Offline;
use weir_control::index::Index;
use weir_control::lint::{CHECKS, Finding, MAX_VERDICTS, Severity, lint_within};
use weir_control::model::load;
use weir_control::source::dir::unique;

/// Two namespaces of applications, one of the system, one empty.
const CLUSTER: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: shop}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: ops, labels: {team: ops}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: kube-system}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: vacant}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web-1, labels: {app: web, track: stable}}
spec: {containers: [{ports: [{name: http, containerPort: 8080}, {name: stats, containerPort: 9125, protocol: UDP}]}]}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web-2, labels: {app: web, track: canary}}
spec: {containers: [{ports: [{name: http, containerPort: 8081}]}]}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: db, labels: {app: db}}
spec: {containers: [{ports: [{name: sql, containerPort: 5432}]}]}
status: {podIP: 10.0.0.3}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: agent, labels: {app: agent}}
spec: {hostNetwork: true}
status: {podIP: 192.0.2.1}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: job, labels: {app: job}}, status: {phase: Succeeded, podIP: 10.0.0.4}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: ops, name: monitor, labels: {app: monitor}}, status: {podIP: 10.0.1.1}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: ops, name: backup, labels: {app: backup}}, status: {podIP: 10.0.1.2}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: kube-system, name: coredns, labels: {k8s-app: kube-dns}}, status: {podIP: 10.0.2.1}}
---
";

/// One row of the manual.
struct Case {
    code: &'static str,
    severity: Severity,
    /// Documents beside [`CLUSTER`]; those that begin with `!` stand alone.
    wrong: String,
    /// The field of the finding.
    field: &'static str,
    /// Parts of message and remedy.
    says: &'static [&'static str],
    /// What is written instead.
    right: String,
}

fn findings(documents: &str, verdicts: usize) -> Vec<Finding> {
    let text = match documents.strip_prefix('!') {
        Some(alone) => alone.to_owned(),
        None => format!("{CLUSTER}{documents}"),
    };
    let mut loaded = unique(load("lint.yaml", text.as_bytes()).unwrap());
    let index = Index::of(std::mem::take(&mut loaded.objects));
    lint_within(&loaded, &Offline::of(index).unwrap(), verdicts)
}

/// A policy of namespace shop over the pods `app=web`.
fn web(rest: &str) -> String {
    named("shop", "p", "{matchLabels: {app: web}}", rest)
}

fn named(namespace: &str, name: &str, selector: &str, rest: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec:\n  podSelector: {selector}\n  {}\n",
        rest.replace('\n', "\n  ")
    )
}

fn both(first: &str, second: &str) -> String {
    format!("{first}---\n{second}")
}

fn pod(name: &str, rest: &str) -> String {
    format!("{{apiVersion: v1, kind: Pod, metadata: {{namespace: shop, name: {name}}}, {rest}}}\n")
}

fn service(spec: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{namespace: shop, name: web}}, spec: {spec}}}\n"
    )
}

use Severity::{Error, Info, Warning};

fn case(
    code: &'static str,
    severity: Severity,
    field: &'static str,
    says: &'static [&'static str],
    (wrong, right): (String, String),
) -> Case {
    Case { code, severity, wrong, field, says, right }
}

/// What was read, and could not be honoured or counts twice.
fn input() -> Vec<Case> {
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
            &["unknown kind", "NetworkPolicy of networking.k8s.io/v1"],
            (calico.to_owned(), open()),
        ),
        case("not-enforced", Error, "", &["AdminNetworkPolicy"], (admin.to_owned(), open())),
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
            Info,
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

/// What the text alone shows.
fn shape() -> Vec<Case> {
    vec![
        case(
            "rules-without-effect",
            Warning,
            "spec.egress",
            &["policyTypes does not name Egress", "add Egress"],
            (
                web("policyTypes: [Ingress]\negress: [{to: [{podSelector: {}}]}]"),
                web("policyTypes: [Ingress, Egress]\negress: [{to: [{podSelector: {}}]}]"),
            ),
        ),
        case(
            "rules-without-effect",
            Warning,
            "spec.ingress",
            &["policyTypes does not name Ingress"],
            (web("policyTypes: [Egress]\ningress: [{}]"), web("ingress: [{}]")),
        ),
        case(
            "empty-rules",
            Warning,
            "spec.egress",
            &["denies nothing", "policyTypes: [Egress]"],
            (web("egress: []"), web("policyTypes: [Egress]\negress: []")),
        ),
        case(
            "empty-peers",
            Warning,
            "spec.ingress[0].from",
            &["everyone", "`ingress: []` if no one is meant"],
            (web("ingress:\n- from: []"), web("ingress: []")),
        ),
        case(
            "empty-peers",
            Warning,
            "spec.egress[0].to",
            &["everyone", "policyTypes Egress"],
            (web("egress:\n- to: []"), web("egress:\n- {}")),
        ),
        case(
            "empty-ports",
            Warning,
            "spec.ingress[0].ports",
            &["every port", "leave `ports` out"],
            (
                web("ingress:\n- ports: []\n  from: [{podSelector: {}}]"),
                web("ingress:\n- from: [{podSelector: {}}]"),
            ),
        ),
        case(
            "empty-except",
            Info,
            "spec.ingress[0].from[0].ipBlock.except",
            &["excepts nothing"],
            (
                web("ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24, except: []}}]}]"),
                web("ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.1/32]}}]}]"),
            ),
        ),
        case(
            "redundant-entry",
            Info,
            "spec.ingress[0].ports[1]",
            &["ports[0] of the same list"],
            (
                web("ingress: [{ports: [{port: 1, endPort: 99}, {port: 80}]}]"),
                web("ingress: [{ports: [{port: 1, endPort: 99}, {port: 80, protocol: UDP}]}]"),
            ),
        ),
        case(
            "redundant-entry",
            Info,
            "spec.ingress[0].from[0]",
            &["from[1] of the same list", "one item"],
            (
                web(
                    "ingress: [{from: [{podSelector: {matchLabels: {app: db}}}, {podSelector: {}}]}]",
                ),
                web(
                    "ingress: [{from: [{podSelector: {matchLabels: {app: db}}}, {namespaceSelector: {matchLabels: {team: ops}}}]}]",
                ),
            ),
        ),
        case(
            "contradictory-selector",
            Warning,
            "spec.podSelector",
            &["`app=web` and `!app`", "cannot both hold"],
            (
                named(
                    "shop",
                    "p",
                    "{matchLabels: {app: web}, matchExpressions: [{key: app, operator: DoesNotExist}]}",
                    "ingress: []",
                ),
                web("ingress: []"),
            ),
        ),
        case(
            "contradictory-selector",
            Warning,
            "spec.ingress[0].from[0].podSelector",
            &["`app=web` and `app=db`"],
            (
                web(
                    "ingress: [{from: [{podSelector: {matchLabels: {app: web}, matchExpressions: [{key: app, operator: In, values: [db]}]}}]}]",
                ),
                web(
                    "ingress: [{from: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [db, web]}]}}]}]",
                ),
            ),
        ),
    ]
}

/// Whom selectors select.
fn selectors() -> Vec<Case> {
    let from = |peer: &str| web(&format!("ingress:\n- from:\n  - {peer}"));
    let select = |selector: &str| named("shop", "p", selector, "ingress: []");
    let many: String = (0..50).map(|i| format!("{}---\n", pod(&format!("m{i}"), ""))).collect();
    vec![
        case(
            "selects-nothing",
            Warning,
            "spec.podSelector",
            &["no pod of namespace shop has `app=wbe`", "`app=web`"],
            (select("{matchLabels: {app: wbe}}"), select("{matchLabels: {app: web}}")),
        ),
        case(
            "selects-nothing",
            Warning,
            "spec.podSelector",
            &["the label `App`", "`app=web`"],
            (select("{matchLabels: {App: web}}"), select("{}")),
        ),
        case(
            "selects-nothing",
            Warning,
            "spec.podSelector",
            &["such pods in ops", "`namespace: ops`"],
            (
                select("{matchLabels: {app: monitor}}"),
                named("ops", "p", "{matchLabels: {app: monitor}}", "ingress: []"),
            ),
        ),
        case(
            "selects-nothing",
            Warning,
            "spec.podSelector",
            &["no pod of namespace shop has all of `app=db,track=stable`"],
            (
                select("{matchLabels: {app: db, track: stable}}"),
                select("{matchLabels: {app: web, track: stable}}"),
            ),
        ),
        case(
            "selects-nothing",
            Warning,
            "spec.podSelector",
            &["have finished: shop/job"],
            (select("{matchLabels: {app: job}}"), select("{matchLabels: {app: db}}")),
        ),
        case(
            "selects-nothing",
            Warning,
            "metadata.namespace",
            &["namespace shopp has none", "`namespace: shop`"],
            (named("shopp", "p", "{}", "ingress: []"), select("{}")),
        ),
        case(
            "selects-nothing",
            Info,
            "metadata.namespace",
            &["namespace vacant has none", "yet to come"],
            (named("vacant", "p", "{}", "ingress: []"), select("{}")),
        ),
        case(
            "peer-selects-nothing",
            Warning,
            "spec.ingress[0].from[0]",
            &["such pods in ops", "kubernetes.io/metadata.name: ops"],
            (
                from("podSelector: {matchLabels: {app: monitor}}"),
                from(
                    "podSelector: {matchLabels: {app: monitor}}\n    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ops}}",
                ),
            ),
        ),
        case(
            "peer-selects-nothing",
            Warning,
            "spec.ingress[0].from[0]",
            &["no pod of namespace ops has `app=moniter`", "`app=monitor`"],
            (
                from(
                    "podSelector: {matchLabels: {app: moniter}}\n    namespaceSelector: {matchLabels: {team: ops}}",
                ),
                from("namespaceSelector: {matchLabels: {team: ops}}"),
            ),
        ),
        case(
            "peer-selects-nothing",
            Warning,
            "spec.ingress[0].from[0].namespaceSelector",
            &["no namespace has `team=op`", "values of `team` there: `ops`, `shop`"],
            (
                from("namespaceSelector: {matchLabels: {team: op}}"),
                from("namespaceSelector: {matchLabels: {team: ops}}"),
            ),
        ),
        case(
            "host-network",
            Warning,
            "spec.podSelector",
            &["no effect", "shop/agent"],
            (select("{matchLabels: {app: agent}}"), select("{matchLabels: {app: web}}")),
        ),
        case(
            "host-network",
            Info,
            "spec.podSelector",
            &["1 of the 2 pods", "shop/agent"],
            (
                select("{matchExpressions: [{key: app, operator: In, values: [agent, db]}]}"),
                select("{}"),
            ),
        ),
        case(
            "host-network",
            Warning,
            "spec.ingress[0].from[0]",
            &["matches nothing", "shop/agent", "ipBlock"],
            (
                from("podSelector: {matchLabels: {app: agent}}"),
                from("ipBlock: {cidr: 192.0.2.1/32}"),
            ),
        ),
        case(
            "and-or",
            Warning,
            "spec.ingress[0].from[0]",
            &["mean OR", "3 pods", "it would be 1: ops/monitor", "one item"],
            (
                both(
                    &from(
                        "namespaceSelector: {matchLabels: {team: ops}}\n  - podSelector: {matchLabels: {app: monitor}}",
                    ),
                    "{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: m, labels: {app: monitor}}, status: {podIP: 10.0.0.9}}\n",
                ),
                from(
                    "namespaceSelector: {matchLabels: {team: ops}}\n    podSelector: {matchLabels: {app: monitor}}",
                ),
            ),
        ),
        case(
            "and-or",
            Warning,
            "spec.ingress[0].from[0]",
            &["it would be 1: ops/monitor"],
            (
                from(
                    "podSelector: {matchLabels: {app: monitor}}\n  - namespaceSelector: {matchLabels: {team: ops}}",
                ),
                // No pod meets both, so OR is what is meant.
                from(
                    "podSelector: {matchLabels: {app: db}}\n  - namespaceSelector: {matchLabels: {team: ops}}",
                ),
            ),
        ),
        case(
            "broad-selector",
            Info,
            "spec.podSelector",
            &["all 53 pods of namespace shop"],
            (format!("{many}{}", select("{}")), select("{}")),
        ),
        case(
            "isolates-kube-system",
            Warning,
            "spec.podSelector",
            &["1 pod of kube-system for ingress: kube-system/coredns"],
            (
                named("kube-system", "p", "{}", "ingress: []"),
                named("ops", "p", "{}", "ingress: []"),
            ),
        ),
        case(
            "isolates-kube-system",
            Info,
            "spec.podSelector",
            &["kube-system/coredns"],
            (
                named(
                    "kube-system",
                    "p",
                    "{matchLabels: {k8s-app: kube-dns}}",
                    "ingress: [{ports: [{port: 53}, {port: 53, protocol: UDP}]}]",
                ),
                named("ops", "p", "{}", "ingress: []"),
            ),
        ),
    ]
}

/// Rules that others cover, port names, blocks.
fn rules() -> Vec<Case> {
    let ports = |ports: &str| web(&format!("ingress: [{{ports: [{ports}]}}]"));
    let block = |block: &str| web(&format!("ingress: [{{from: [{block}]}}]"));
    let stable = "{matchLabels: {app: web, track: stable}}";
    let dual = pod("dual", "status: {podIPs: [{ip: 10.0.0.9}, {ip: \"fd00::9\"}]}");
    vec![
        case(
            "covered-rule",
            Warning,
            "spec.ingress[1]",
            &["spec.ingress[0] of the same policy", "lint.yaml:"],
            (
                web(
                    "ingress:\n- ports: [{port: 80, endPort: 90}]\n- ports: [{port: 81}]\n  from: [{podSelector: {}}]",
                ),
                web(
                    "ingress:\n- ports: [{port: 80, endPort: 90}]\n- ports: [{port: 91}]\n  from: [{podSelector: {}}]",
                ),
            ),
        ),
        case(
            "covered-rule",
            Warning,
            "spec.ingress[0]",
            &["NetworkPolicy shop/q, which selects `app=web`"],
            (
                both(
                    &named("shop", "p", stable, "ingress: [{from: [{podSelector: {}}]}]"),
                    &named("shop", "q", "{matchLabels: {app: web}}", "ingress: [{}]"),
                ),
                // The other way round each has pods of its own.
                both(
                    &named("shop", "p", "{}", "ingress: [{from: [{podSelector: {}}]}]"),
                    &named("shop", "q", stable, "ingress: [{}]"),
                ),
            ),
        ),
        case(
            "covered-rule",
            Info,
            "spec.ingress[1]",
            &["with the pods of today", "spec.ingress[0]"],
            (
                web(
                    "ingress:\n- from: [{namespaceSelector: {matchLabels: {team: ops}}}]\n- from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: monitor}}}]",
                ),
                web(
                    "ingress:\n- from: [{namespaceSelector: {matchLabels: {team: ops}}}]\n- from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: db}}}]",
                ),
            ),
        ),
        case(
            "named-port-missing",
            Warning,
            "spec.ingress[0].ports[0].port",
            &["opens nothing", "`htp` (TCP)", "`port: http`"],
            (ports("{port: htp}"), ports("{port: http}")),
        ),
        case(
            "named-port-missing",
            Warning,
            "spec.ingress[0].ports[0].port",
            &["`stats` (TCP)", "`protocol: UDP`"],
            (ports("{port: stats}"), ports("{port: 9125, protocol: UDP}")),
        ),
        case(
            "named-port-missing",
            Info,
            "spec.ingress[0].ports[0].port",
            &["1 of 2 pods", "shop/web-2"],
            (
                ports("{port: stats, protocol: UDP}"),
                named("shop", "p", stable, "ingress: [{ports: [{port: stats, protocol: UDP}]}]"),
            ),
        ),
        case(
            "named-port-missing",
            Warning,
            "spec.egress[0].ports[0].port",
            &["`http` (TCP): shop/db", "a name that they have: sql"],
            (
                web(
                    "egress: [{to: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: http}]}]",
                ),
                web(
                    "egress: [{to: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: sql}]}]",
                ),
            ),
        ),
        case(
            "named-port-differs",
            Info,
            "spec.ingress[0].ports[0].port",
            &["8080 in shop/web-1, 8081 in shop/web-2"],
            (
                ports("{port: http}"),
                named("shop", "p", stable, "ingress: [{ports: [{port: http}]}]"),
            ),
        ),
        case(
            "block-over-pods",
            Warning,
            "spec.ingress[0].from[0].ipBlock",
            &["2 pods: ops/backup, ops/monitor", "podSelector"],
            (
                block("{ipBlock: {cidr: 10.0.1.0/24}}"),
                block("{ipBlock: {cidr: 10.0.0.0/16, except: [10.0.0.0/22]}}"),
            ),
        ),
        case(
            "block-over-pods",
            Info,
            "spec.ingress[0].from[0].ipBlock",
            &["0.0.0.0/0", "under `except`"],
            (
                block("{ipBlock: {cidr: 0.0.0.0/0}}"),
                block("{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/16]}}"),
            ),
        ),
        case(
            "block-over-pods",
            Warning,
            "spec.ingress[0].from[0].ipBlock",
            &["the pods' block 10.9.0.0/24"],
            (
                both(
                    &block("{ipBlock: {cidr: 10.9.0.0/16}}"),
                    "{apiVersion: v1, kind: Node, metadata: {name: n}, spec: {podCIDR: 10.9.0.0/24}}\n",
                ),
                block("{ipBlock: {cidr: 10.9.0.0/16}}"),
            ),
        ),
        case(
            "one-family",
            Warning,
            "spec.ingress[0].from[0].ipBlock.cidr",
            &["over IPv6 none of them matches", "cidr: ::/0"],
            (
                both(&block("{ipBlock: {cidr: 0.0.0.0/0}}"), &dual),
                both(&block("{ipBlock: {cidr: 0.0.0.0/0}}, {ipBlock: {cidr: \"::/0\"}}"), &dual),
            ),
        ),
        case(
            "one-family",
            Info,
            "spec.ingress[0].from[0].ipBlock.cidr",
            &["over IPv4 none of them matches", "the same peer's IPv4 block"],
            (
                both(&block("{ipBlock: {cidr: \"2001:db8::/64\"}}"), &dual),
                block("{ipBlock: {cidr: \"2001:db8::/64\"}}"),
            ),
        ),
    ]
}

/// Where egress isolation leads, and Services.
fn reach() -> Vec<Case> {
    let dns = "{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{port: 53}, {port: 53, protocol: UDP}]}";
    let sql = "{to: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: 5432}]}";
    let out = |rules: &str| web(&format!("policyTypes: [Egress]\negress: [{rules}]"));
    let port_5353 = "
{apiVersion: v1, kind: Service, metadata: {namespace: kube-system, name: kube-dns}, spec: {selector: {k8s-app: kube-dns}, ports: [{name: u, port: 53, targetPort: 5353, protocol: UDP}, {name: t, port: 53, targetPort: 5353}]}}
";
    let api = "
{apiVersion: v1, kind: Service, metadata: {namespace: default, name: kubernetes}, spec: {clusterIP: 10.96.0.1, ports: [{name: https, port: 443, targetPort: 6443}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {namespace: default, name: kubernetes, labels: {kubernetes.io/service-name: kubernetes}}, addressType: IPv4, endpoints: [{addresses: [192.0.2.10]}], ports: [{name: https, port: 6443}]}
";
    let master = "{apiVersion: v1, kind: Node, metadata: {name: n, labels: {node-role.kubernetes.io/control-plane: \"\"}}, status: {addresses: [{type: InternalIP, address: 192.0.2.10}]}}\n";
    let to_api = "{to: [{ipBlock: {cidr: 192.0.2.10/32}}], ports: [{port: 6443}]}";
    let system = |rules: &str| {
        named("kube-system", "p", "{}", &format!("policyTypes: [Egress]\negress: [{rules}]"))
    };
    let http = service("{selector: {app: web}, ports: [{port: 80, targetPort: http}]}");
    let on_8080 = service("{selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}");
    let stable = |rest: &str| named("shop", "p", "{matchLabels: {track: stable}}", rest);
    let slice = |ready: bool| {
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{namespace: shop, name: web-1, labels: {{kubernetes.io/service-name: web}}}}, addressType: IPv4, endpoints: [{{addresses: [10.0.0.1], targetRef: {{kind: Pod, name: web-1}}}}, {{addresses: [10.0.0.2], conditions: {{ready: {ready}}}, targetRef: {{kind: Pod, name: web-2}}}}], ports: [{{port: 8080}}]}}\n"
        )
    };
    vec![
        case(
            "no-dns",
            Warning,
            "spec.egress",
            &["2 pods (shop/web-1, shop/web-2) cannot resolve names", "ports 53 of UDP and TCP"],
            (out(sql), out(&format!("{sql}, {dns}"))),
        ),
        case(
            "no-dns",
            Info,
            "spec.egress",
            &["may send nothing at all"],
            // A rule for everyone reaches a resolver outside.
            (out(""), out("{ports: [{port: 53, protocol: UDP}, {port: 53}]}")),
        ),
        case(
            "no-dns",
            Info,
            "spec.egress",
            &["over UDP and not over TCP"],
            (out(&dns.replace("{port: 53}, ", "")), out(dns)),
        ),
        case(
            "no-dns",
            Warning,
            "spec.egress",
            &["the DNS pods listen on 5353"],
            (
                both(&out(dns), port_5353),
                both(&out(&dns.replace("port: 53", "port: 5353")), port_5353),
            ),
        ),
        case(
            "no-dns",
            Warning,
            "spec.ingress",
            &["the DNS pods are isolated for ingress by this policy", "no `from`"],
            (
                named("kube-system", "p", "{}", "ingress: [{from: [{podSelector: {}}]}]"),
                named(
                    "kube-system",
                    "p",
                    "{}",
                    "ingress: [{ports: [{port: 53}, {port: 53, protocol: UDP}]}]",
                ),
            ),
        ),
        // Without pods the rules' ports decide.
        case(
            "no-dns",
            Warning,
            "spec.egress",
            &["no rule allows UDP/53"],
            (format!("!{}", out(sql)), format!("!{}", out(&format!("{sql}, {dns}")))),
        ),
        case(
            "no-api-server",
            Info,
            "spec.egress",
            &["2 pods (shop/web-1, shop/web-2) cannot reach the API server", "ipBlock"],
            (both(&out(dns), api), both(&out(&format!("{dns}, {to_api}")), api)),
        ),
        case(
            "no-api-server",
            Warning,
            "spec.egress",
            &["kube-system/coredns"],
            (both(&system(dns), master), both(&system(to_api), master)),
        ),
        case(
            "service-partly-reachable",
            Warning,
            "spec.ports[0]",
            &[
                "TCP/80 pass or fail by chance",
                "reach only shop/web-2, not shop/web-1",
                "no ingress rule of NetworkPolicy shop/p allows it",
                "`app=web`",
            ],
            (both(&http, &stable("ingress: []")), both(&http, &web("ingress: []"))),
        ),
        // The backends' ports differ, and the rule names one number.
        case(
            "service-partly-reachable",
            Warning,
            "spec.ports[0]",
            &["reach only shop/web-1, not shop/web-2"],
            (
                both(&http, &web("ingress: [{ports: [{port: 8080}]}]")),
                both(&http, &web("ingress: [{ports: [{port: http}]}]")),
            ),
        ),
        // The client's own policy knows one backend.
        case(
            "service-partly-reachable",
            Warning,
            "spec.ports[0]",
            &[
                "1 client pod (shop/db) reach only shop/web-1",
                "egress rule of NetworkPolicy shop/p",
            ],
            (
                both(
                    &on_8080,
                    &named(
                        "shop",
                        "p",
                        "{matchLabels: {app: db}}",
                        "policyTypes: [Egress]\negress: [{to: [{podSelector: {matchLabels: {track: stable}}}]}]",
                    ),
                ),
                both(
                    &on_8080,
                    &named(
                        "shop",
                        "p",
                        "{matchLabels: {app: db}}",
                        "policyTypes: [Egress]\negress: [{to: [{podSelector: {matchLabels: {app: web}}}]}]",
                    ),
                ),
            ),
        ),
        // By EndpointSlice: a backend that is not ready gets no connections.
        case(
            "service-partly-reachable",
            Warning,
            "spec.ports[0]",
            &["reach only shop/web-2, not shop/web-1"],
            (
                both(&both(&on_8080, &slice(true)), &stable("ingress: []")),
                both(&both(&on_8080, &slice(false)), &stable("ingress: []")),
            ),
        ),
        // Clients outside.
        case(
            "service-partly-reachable",
            Warning,
            "spec.ports[0]",
            &["clients outside (198.51.100.0/24)"],
            (
                both(
                    &on_8080.replace("{selector", "{type: LoadBalancer, selector"),
                    &both(
                        &named("shop", "p", "{}", "ingress: []"),
                        &named(
                            "shop",
                            "q",
                            "{matchLabels: {track: stable}}",
                            "ingress: [{from: [{ipBlock: {cidr: 198.51.100.0/24}}]}]",
                        ),
                    ),
                ),
                both(
                    &on_8080,
                    &both(
                        &named("shop", "p", "{}", "ingress: []"),
                        &named(
                            "shop",
                            "q",
                            "{matchLabels: {track: stable}}",
                            "ingress: [{from: [{ipBlock: {cidr: 198.51.100.0/24}}]}]",
                        ),
                    ),
                ),
            ),
        ),
        case(
            "service-partly-reachable",
            Info,
            "spec.ports[0]",
            &["reach only shop/web-2"],
            (
                both(
                    &on_8080.replace("{selector", "{clusterIP: None, selector"),
                    &stable("ingress: []"),
                ),
                on_8080.clone(),
            ),
        ),
    ]
}

fn all() -> Vec<Case> {
    [input(), shape(), selectors(), rules(), reach()].into_iter().flatten().collect()
}

#[test]
fn what_each_check_finds_and_what_it_leaves_alone() {
    for (i, case) in all().iter().enumerate() {
        let Case { code, severity, field, says, .. } = case;
        let found = findings(&case.wrong, MAX_VERDICTS);
        let of_code: Vec<&Finding> = found.iter().filter(|f| f.code == *code).collect();
        let fits = |f: &&&Finding| {
            let text = format!("{} {} | {}", f.object, f.message, f.remedy);
            f.severity == *severity && f.field == *field && says.iter().all(|s| text.contains(s))
        };
        assert!(
            of_code.iter().any(|f| fits(&f)),
            "case {i}, {code}: {severity:?} {field} {says:?}\nis not in {found:#?}\n{}",
            case.wrong
        );
        let found = findings(&case.right, MAX_VERDICTS);
        let left: Vec<&Finding> = found.iter().filter(|f| f.code == *code).collect();
        assert!(left.is_empty(), "case {i}, {code}: {left:#?}\n{}", case.right);
    }
}

/// Every finding says where it is and what to write, and comes from a check that `--help` lists.
#[test]
fn findings_are_complete() {
    for case in all() {
        for text in [&case.wrong, &case.right] {
            for finding in findings(text, MAX_VERDICTS) {
                let check = CHECKS.iter().find(|check| check.code == finding.code);
                let check = check.unwrap_or_else(|| panic!("not listed: {finding:?}"));
                assert!(finding.severity <= check.severity, "{finding:?}");
                assert!(!finding.message.is_empty() && !finding.remedy.is_empty(), "{finding:?}");
                assert_eq!(&*finding.origin.file, "lint.yaml", "{finding:?}");
                assert!(finding.origin.line > 0 || finding.object.is_empty(), "{finding:?}");
            }
        }
    }
}

#[test]
fn every_check_has_a_case() {
    let mut cases: BTreeSet<&str> = all().iter().map(|case| case.code).collect();
    // It has a test of its own below.
    cases.insert("services-not-checked");
    let checks: BTreeSet<&str> = CHECKS.iter().map(|check| check.code).collect();
    assert_eq!(cases, checks);
    assert_eq!(checks.len(), CHECKS.len(), "a code is used twice");
}

/// What is beyond the bound is said, and what is within it is checked.
#[test]
fn services_beyond_the_bound_are_named() {
    let text = both(
        &service("{selector: {app: web}, ports: [{port: 80}]}"),
        &named("shop", "p", "{matchLabels: {track: stable}}", "ingress: []"),
    );
    let codes = |verdicts| {
        let found = findings(&text, verdicts);
        found.iter().map(|f| (f.code, f.message.clone())).collect::<Vec<_>>()
    };
    let few = codes(1);
    let [(code, message)] = &few[..] else { panic!("{few:?}") };
    assert_eq!(*code, "services-not-checked");
    assert!(message.contains("1 Service not checked") && message.contains("shop/web"), "{message}");
    let enough = codes(1000);
    assert_eq!(enough.len(), 1);
    assert_eq!(enough[0].0, "service-partly-reachable");
}

/// A cluster as it should be: isolated by default, opened where needed, with DNS.
#[test]
fn good_practice_is_left_alone() {
    let text = [
        named("shop", "default-deny", "{}", "policyTypes: [Ingress, Egress]"),
        named(
            "shop",
            "dns",
            "{}",
            "policyTypes: [Egress]\negress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{port: 53}, {port: 53, protocol: UDP}]}]",
        ),
        named(
            "shop",
            "web",
            "{matchLabels: {app: web}}",
            "policyTypes: [Ingress, Egress]\ningress: [{ports: [{port: http}], from: [{namespaceSelector: {matchLabels: {team: ops}}, podSelector: {matchLabels: {app: monitor}}}]}]\negress: [{to: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: sql}]}]",
        ),
        named(
            "shop",
            "db",
            "{matchLabels: {app: db}}",
            "ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: sql}]}]",
        ),
        service("{selector: {app: web}, ports: [{port: 80, targetPort: http}]}"),
    ]
    .join("---\n");
    let found = findings(&text, MAX_VERDICTS);
    let codes: Vec<&str> = found.iter().map(|f| f.code).collect();
    // The two web pods of this cluster give `http` different numbers.
    assert_eq!(codes, ["named-port-differs"], "{found:#?}");
}
