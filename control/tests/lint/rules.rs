//! Rules that others cover, port names, blocks.

use weir_control::lint::Severity::{Info, Warning};

use super::{Case, both, case, named, pod, web};

pub(super) fn cases() -> Vec<Case> {
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
