//! One case a rule of the API server's validation.

use weir_control::model::Severity;

use super::{directions, only_policy, policy};

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
