//! What the text alone shows.

use weir_control::lint::Severity::{Info, Warning};

use super::{Case, case, named, web};

pub(super) fn cases() -> Vec<Case> {
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
            "empty-peers",
            Warning,
            "spec.ingress[0].from",
            &["`from:` puts no condition", "everyone"],
            (web("ingress:\n- from:"), web("ingress:\n- {}")),
        ),
        case(
            "empty-ports",
            Warning,
            "spec.egress[0].ports",
            &["`ports:` puts no condition", "every port"],
            (
                web("egress:\n- ports: null\n  to: [{podSelector: {}}]"),
                web("egress:\n- to: [{podSelector: {}}]"),
            ),
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
