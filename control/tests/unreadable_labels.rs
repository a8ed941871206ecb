//! Labels that cannot be read never open anything.
//!
//! A selector may ask for the absence of a label. So a namespace or a pod of which some label could
//! not be read must not be taken for one that lacks it: no peer selector finds such a namespace,
//! and such a pod is isolated.

#![allow(clippy::unwrap_used, missing_docs)]

use std::net::IpAddr;

use weir_control::eval::Offline;
use weir_control::index::Index;
use weir_control::model::{ObjectId, Protocol, Severity, load};
use weir_control::oracle::{self, Traffic};
use weir_table::Address;
use weir_table::classify::Connection;

const SERVER: &str = "10.0.0.1";
const CLIENT: &str = "10.0.0.2";

/// `shop/server` admits what `peer` says; the client's namespace and labels are given.
fn cluster(peer: &str, namespace_labels: &str, client_labels: &str) -> (Offline, Vec<String>) {
    let text = format!(
        "
{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, labels: {{team: a}}}}}}
---
{{apiVersion: v1, kind: Namespace, metadata: {{name: other, labels: {namespace_labels}}}}}
---
{{apiVersion: v1, kind: Pod, metadata: {{namespace: shop, name: server}}, status: {{podIP: {SERVER}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{namespace: other, name: client, labels: {client_labels}}}
status: {{podIP: {CLIENT}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{namespace: shop, name: p}}
spec: {{podSelector: {{}}, ingress: [{{from: [{peer}]}}]}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{namespace: other, name: closed}}
spec: {{podSelector: {{matchLabels: {{app: locked}}}}, policyTypes: [Egress]}}
"
    );
    let loaded = load("t.yaml", text.as_bytes()).unwrap();
    let refusals = loaded.complaints.iter().filter(|c| c.severity == Severity::Refused);
    let refusals = refusals.map(ToString::to_string).collect();
    (Offline::of(Index::of(loaded.objects)).unwrap(), refusals)
}

/// What egress and ingress say about client → server, table and oracle agreeing.
fn reach(offline: &Offline) -> (bool, bool) {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let (src, dst) = (address(CLIENT), address(SERVER));
    let naive = oracle::judge(&offline.index, src, dst, Traffic::Port(Protocol::Tcp, 80));
    let judgement = offline.classifier.evaluate(&Connection {
        src: Address::from(src),
        dst: Address::from(dst),
        protocol: 6,
        dport: 80,
    });
    let table = (judgement.egress.is_allow(), judgement.ingress.is_allow());
    assert_eq!(table, (naive.0.is_allowed(), naive.1.is_allowed()));
    table
}

#[test]
fn no_namespace_selector_selects_a_namespace_whose_labels_cannot_be_read() {
    const NOT_IN: &str =
        "{namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [b]}]}}";
    const ABSENT: &str =
        "{namespaceSelector: {matchExpressions: [{key: team, operator: DoesNotExist}]}}";
    const NAME: &str = "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: other}}}";
    const ALL: &str = "{namespaceSelector: {}}";
    const BOTH: &str = "{namespaceSelector: {}, podSelector: {}}";
    for (labels, refused, found_by) in [
        ("{}", false, &[NOT_IN, ABSENT, NAME, ALL, BOTH][..]),
        ("{team: c}", false, &[NOT_IN, NAME, ALL, BOTH]),
        ("{team: b}", false, &[NAME, ALL, BOTH]),
        // A number, a value that is none, a key that is none, no mapping at all.
        ("{team: 7}", true, &[]),
        ("{team: \"b/\"}", true, &[]),
        ("{\"team \": b}", true, &[]),
        ("{other: [b]}", true, &[]),
        ("[team, b]", true, &[]),
    ] {
        for peer in [NOT_IN, ABSENT, NAME, ALL, BOTH] {
            let (offline, refusals) = cluster(peer, labels, "{app: client}");
            assert_eq!(reach(&offline), (true, found_by.contains(&peer)), "{labels} {peer}");
            assert_eq!(!refusals.is_empty(), refused, "{labels}: {refusals:?}");
            if refused {
                let text = &refusals[0];
                assert!(text.contains("Namespace other: metadata.labels"), "{text}");
                assert!(text.contains("no namespaceSelector selects"), "{text}");
            }
        }
    }
}

#[test]
fn policies_within_such_a_namespace_stay_in_force() {
    let (offline, _) = cluster("{namespaceSelector: {}}", "{team: 7}", "{app: locked}");
    assert_eq!(reach(&offline), (false, false));
    // An ipBlock looks at the address alone.
    let (offline, _) = cluster("{ipBlock: {cidr: 10.0.0.0/24}}", "{team: 7}", "{app: client}");
    assert_eq!(reach(&offline), (true, true));
}

#[test]
fn a_pod_whose_labels_cannot_be_read_is_isolated() {
    const PEER: &str = "{namespaceSelector: {}, podSelector: {matchExpressions: [{key: app, operator: DoesNotExist}]}}";
    assert_eq!(reach(&cluster(PEER, "{}", "{}").0), (true, true));
    for labels in ["{app: 7}", "{app: [locked]}", "{app: \"a b\"}", "[app]", "app"] {
        let (offline, refusals) = cluster(PEER, "{}", labels);
        assert_eq!(reach(&offline), (false, false), "{labels}");
        assert!(refusals[0].contains("Pod other/client"), "{refusals:?}");
    }
}

/// Of a namespace that is not declared only the name is known. Whether it lacks another label is
/// not, so no requirement on one holds.
#[test]
fn of_an_undeclared_namespace_only_the_name_is_known() {
    let expression = |key: &str, rest: &str| {
        format!("{{namespaceSelector: {{matchExpressions: [{{key: {key}, {rest}}}]}}}}")
    };
    const NAME: &str = "kubernetes.io/metadata.name";
    let both = "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: other}, matchExpressions: [{key: team, operator: DoesNotExist}]}}";
    for (peer, expect) in [
        ("{namespaceSelector: {}}".to_owned(), true),
        (expression(NAME, "operator: In, values: [other]"), true),
        (expression(NAME, "operator: NotIn, values: [shop]"), true),
        (expression(NAME, "operator: Exists"), true),
        (expression(NAME, "operator: In, values: [shop]"), false),
        (expression(NAME, "operator: NotIn, values: [other]"), false),
        (expression(NAME, "operator: DoesNotExist"), false),
        (expression("team", "operator: In, values: [a]"), false),
        (expression("team", "operator: NotIn, values: [a]"), false),
        (expression("team", "operator: Exists"), false),
        (expression("team", "operator: DoesNotExist"), false),
        (both.to_owned(), false),
    ] {
        let (mut offline, _) = cluster(&peer, "{}", "{}");
        offline.index.delete(&ObjectId::Namespace("other".to_owned()));
        let offline = Offline::of(offline.index).unwrap();
        assert_eq!(reach(&offline), (true, expect), "{peer}");
    }
}
