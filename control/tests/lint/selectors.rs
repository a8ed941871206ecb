//! Whom selectors select.

use weir_control::lint::Severity::{Info, Warning};

use super::{Case, both, case, named, pod, web};

pub(super) fn cases() -> Vec<Case> {
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
        // A block between the two items hides it from the eye.
        case(
            "and-or",
            Warning,
            "spec.ingress[0].from[0]",
            &["it would be 1: ops/monitor"],
            (
                from(
                    "namespaceSelector: {matchLabels: {team: ops}}\n  - ipBlock: {cidr: 192.0.2.0/24}\n  - podSelector: {matchLabels: {app: monitor}}",
                ),
                from(
                    "namespaceSelector: {matchLabels: {team: ops}}\n    podSelector: {matchLabels: {app: monitor}}\n  - ipBlock: {cidr: 192.0.2.0/24}",
                ),
            ),
        ),
        // Without pods only the author knows which is meant.
        case(
            "and-or",
            Warning,
            "spec.ingress[0].from[0]",
            &["mean OR", "namespaces with `team=ops`", "nothing, if either will do"],
            (
                format!(
                    "!{}",
                    from(
                        "namespaceSelector: {matchLabels: {team: ops}}\n  - podSelector: {matchLabels: {app: monitor}}",
                    )
                ),
                format!(
                    "!{}",
                    from(
                        "namespaceSelector: {matchLabels: {team: ops}}\n    podSelector: {matchLabels: {app: monitor}}",
                    )
                ),
            ),
        ),
        case(
            "isolates-kube-system",
            Warning,
            "spec.podSelector",
            &["isolates every pod of kube-system for ingress"],
            (
                format!("!{}", named("kube-system", "p", "{}", "ingress: []")),
                format!("!{}", named("kube-system", "p", "{matchLabels: {app: x}}", "ingress: []")),
            ),
        ),
        case(
            "isolates-kube-system",
            Warning,
            "spec.podSelector",
            &["kube-system/coredns", "this policy is refused: it allows nothing"],
            (
                named(
                    "kube-system",
                    "p",
                    "{matchLabels: {k8s-app: kube-dns}}",
                    "policyTypes: [Ingres]",
                ),
                named("ops", "p", "{}", "policyTypes: [Ingres]"),
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
