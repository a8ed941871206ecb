//! The sentences of `weir explain`: one named case for each, held as a snapshot. A difference fails;
//! `INSTA_UPDATE=always cargo test --test explain` takes the new text, to be read in the diff.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

use std::fmt::Write;

use weir_control::eval::Offline;
use weir_control::eval::probe::{pair, pairs, resolve, traffic};
use weir_control::explain::explain;
use weir_control::index::Index;
use weir_control::model::load;
use weir_table::classify::Connection;

const OBJECTS: &str = include_str!("explain_objects.yaml");

/// What each case shows, who asks for what.
const CASES: &[(&str, &str, &str, &str)] = &[
    ("no policy selects the ends", "shop/client", "shop/free", "TCP/80"),
    ("by a rule, with the port of its list", "shop/client", "shop/web", "TCP/8443"),
    ("by a rule without peers and ports", "192.0.2.1", "shop/open", "UDP/9"),
    ("the other policies that select the pod are named", "shop/client", "shop/two", "TCP/80"),
    ("a pod and itself", "shop/web", "shop/web", "TCP/1"),
    ("an address and itself", "192.0.2.1", "192.0.2.1", "TCP/1"),
    ("another port", "shop/client", "shop/web", "TCP/80"),
    ("another protocol", "shop/client", "shop/web", "UDP/8443"),
    ("a range of ports", "shop/client", "shop/range", "TCP/79"),
    ("a named port is another number here", "shop/client", "shop/named", "TCP/80"),
    ("a named port that the pod lacks", "shop/client", "shop/unnamed", "TCP/80"),
    ("a named port of another protocol", "shop/client", "shop/unnamed", "UDP/80"),
    ("a named port towards no pod", "shop/named-out", "192.0.2.1", "TCP/80"),
    ("ICMP needs a port that exists", "shop/client", "shop/unnamed", "ICMP"),
    ("a protocol without ports", "shop/client", "shop/web", "47"),
    ("the pod lacks a label", "shop/free", "shop/labels", "TCP/80"),
    ("the pod has another value", "shop/client", "shop/labels", "TCP/80"),
    ("a label that must not be", "shop/bad", "shop/labels", "TCP/80"),
    ("every kind of requirement", "shop/bad", "shop/expressions", "TCP/80"),
    ("the namespace lacks a label", "other/guest", "shop/teams", "TCP/80"),
    ("the namespace is another", "other/guest", "shop/by-name", "TCP/80"),
    ("a podSelector alone means the policy's namespace", "other/guest", "shop/web", "TCP/8443"),
    ("a selector that contradicts itself", "shop/client", "shop/never", "TCP/80"),
    ("several conditions at once", "other/guest", "shop/teams", "UDP/81"),
    ("two rules that are as near", "shop/client", "shop/near", "TCP/80"),
    ("outside of the block", "192.0.3.1", "shop/blocks", "TCP/80"),
    ("inside, but excepted", "192.0.2.200", "shop/blocks", "TCP/80"),
    ("a block of the other family", "2001:db8::1", "shop/blocks", "TCP/80"),
    ("selectors match pods only", "198.51.100.1", "shop/web", "TCP/8443"),
    ("ingress: [] allows nothing", "shop/client", "shop/closed", "TCP/80"),
    ("only egress fails", "shop/locked", "shop/free", "TCP/80"),
    ("both sides fail", "shop/locked", "shop/closed", "TCP/80"),
    ("a refused rule", "shop/client", "shop/faulty", "TCP/80"),
    ("a refused policy", "shop/client", "shop/refused", "TCP/80"),
    ("a refused pod", "shop/client", "shop/broken", "TCP/80"),
    ("a refused namespace", "sealed/guest", "shop/teams", "TCP/80"),
    ("an address of two pods", "shop/client", "10.0.0.90", "TCP/80"),
    ("from an address of two pods", "10.0.0.90", "shop/web", "TCP/8443"),
    ("a pod on its node's network", "shop/client", "kube/agent", "TCP/9100"),
    ("from a pod on its node's network", "kube/agent", "shop/web", "TCP/8443"),
    ("from the pod's own node", "10.1.0.1", "shop/web", "TCP/8443"),
    ("to the pod's own node", "shop/locked", "10.1.0.1", "TCP/10250"),
    ("from another node", "10.1.0.2", "shop/web", "TCP/8443"),
    ("an address that a finished pod had", "shop/client", "10.0.0.91", "TCP/80"),
    ("from an address that a finished pod had", "10.0.0.91", "shop/web", "TCP/8443"),
    ("an address that nobody is known to have", "shop/client", "203.0.113.9", "TCP/443"),
    ("a Service's address", "shop/locked", "10.96.0.10", "TCP/80"),
    ("IPv6, where both ends have it", "fd00::11", "shop/web", "TCP/8443"),
    ("the other family says something else", "shop/client", "shop/four", "TCP/80"),
    ("from the pod's own node, to a port that policies close", "10.1.0.1", "shop/web", "TCP/1"),
    ("from a pod on the network of the pod's own node", "kube/agent", "shop/on-n2", "TCP/80"),
    ("from a node, and the pod's node is not known", "10.1.0.1", "shop/closed", "TCP/80"),
    ("from where a finished pod was on its node's network", "10.1.0.8", "shop/closed", "TCP/80"),
    ("to where a finished pod was on its node's network", "shop/client", "10.1.0.8", "TCP/80"),
    ("ingress is not written at all", "shop/client", "shop/silent", "TCP/80"),
    ("a refused rule of the other direction", "shop/client", "shop/half", "TCP/80"),
    ("the nearest of several names", "shop/client", "shop/names", "UDP/53"),
];

fn offline() -> Offline {
    let loaded = load("objects.yaml", OBJECTS.as_bytes()).unwrap();
    Offline::of(Index::of(loaded.objects)).unwrap()
}

#[test]
fn sentences() {
    let offline = offline();
    let mut text = String::new();
    for (name, from, to, what) in CASES {
        let end = |text: &str| resolve(&offline.index, text).unwrap();
        let (protocol, port) = match what.split_once('/') {
            Some((protocol, port)) => (protocol, port.parse().ok()),
            None => (*what, None),
        };
        let mut families = pairs(end(from), end(to)).map(|(src, dst)| {
            let (protocol, dport) = traffic(Some(protocol), port, src.is_v4()).unwrap();
            let connection = Connection { src, dst, protocol, dport };
            explain(&offline.classifier, Some(&offline.index), (from, to), &connection)
        });
        let why = families.next().unwrap();
        let why = match families.next() {
            Some(other) => why.beside(&other),
            None => why,
        };
        writeln!(text, "# {name}\n{why}\n").unwrap();
    }
    insta::assert_snapshot!("sentences", text);
}

/// The same as JSON: every field that a program would look at.
#[test]
fn json() {
    let offline = offline();
    let end = |text: &str| resolve(&offline.index, text).unwrap();
    let (src, dst) = pair(end("shop/client"), end("shop/web")).unwrap();
    let connection = Connection { src, dst, protocol: 6, dport: 80 };
    let names = ("shop/client", "shop/web");
    let why = explain(&offline.classifier, Some(&offline.index), names, &connection);
    insta::assert_snapshot!("json", serde_json::to_string_pretty(&why).unwrap());
}

/// A node reaches its own pods: a program that reads the JSON learns it too.
#[test]
fn a_node_and_its_own_pod_as_json() {
    let offline = offline();
    for (from, to, verdict) in [
        ("10.1.0.1", "shop/web", "allow"),
        ("shop/locked", "10.1.0.1", "allow"),
        ("10.1.0.2", "shop/web", "deny"),
        ("shop/locked", "10.1.0.2", "deny"),
    ] {
        let end = |text: &str| resolve(&offline.index, text).unwrap();
        let (src, dst) = pair(end(from), end(to)).unwrap();
        let connection = Connection { src, dst, protocol: 6, dport: 1 };
        let why = explain(&offline.classifier, Some(&offline.index), (from, to), &connection);
        let json = serde_json::to_value(&why).unwrap();
        assert_eq!(json["verdict"], verdict, "{json}");
        assert!(json["over_v6"].is_null());
        let sides = [&json["egress"]["verdict"], &json["ingress"]["verdict"]];
        assert_eq!(sides.iter().all(|side| **side == "allow"), verdict == "allow", "{json}");
    }
}

/// A denial by thousands of rules among thousands of pods is explained at once: who has an address
/// is found out once, not for each rule. (What it takes is counted in `bench/benches/instructions.rs`.)
#[test]
fn many_rules_and_many_pods() {
    let mut text = String::new();
    for i in 0..4000 {
        let address = format!("10.2.{}.{}", i / 250, i % 250);
        writeln!(text, "{{apiVersion: v1, kind: Pod, metadata: {{namespace: x, name: p{i}}}, status: {{podIP: {address}}}}}\n---").unwrap();
    }
    let rules: Vec<String> = (0..2000)
        .map(|i| {
            format!(
                "{{from: [{{podSelector: {{matchLabels: {{a: b{i}}}}}}}], ports: [{{port: n{i}}}]}}"
            )
        })
        .collect();
    writeln!(text, "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{namespace: x, name: n}}, spec: {{podSelector: {{}}, ingress: [{}]}}}}", rules.join(", ")).unwrap();
    let offline = Offline::of(Index::of(load("many", text.as_bytes()).unwrap().objects)).unwrap();
    for source in ["10.2.0.7", "192.0.2.1"] {
        let (src, dst) = (source.parse().unwrap(), "10.2.0.8".parse().unwrap());
        let connection = Connection { src, dst, protocol: 6, dport: 80 };
        let why = explain(&offline.classifier, Some(&offline.index), (source, "x/p8"), &connection);
        assert_eq!(why.verdict, "deny");
        assert!(!why.ingress.nearest.is_empty());
    }
}

/// From a table alone: what it knows, without objects and so without near misses.
#[test]
fn from_the_table_alone() {
    let offline = offline();
    let mut text = String::new();
    for (src, dst, dport) in [
        ("10.0.0.11", "10.0.0.10", 8443),
        ("10.0.0.11", "10.0.0.10", 80),
        ("10.0.0.11", "10.0.0.90", 80),
        ("10.0.0.11", "203.0.113.9", 80),
        ("10.1.0.1", "10.0.0.10", 80),
    ] {
        let (source, destination) = (src.parse().unwrap(), dst.parse().unwrap());
        let connection = Connection { src: source, dst: destination, protocol: 6, dport };
        writeln!(text, "{}\n", explain(&offline.classifier, None, (src, dst), &connection))
            .unwrap();
    }
    insta::assert_snapshot!("from_the_table_alone", text);
}
