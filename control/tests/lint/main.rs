//! Every check of `weir lint`, as a table: what is written, what is said about it, and what is
//! written instead, about which that check says nothing.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod input;
mod reach;
mod rules;
mod selectors;
mod shape;

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

fn case(
    code: &'static str,
    severity: Severity,
    field: &'static str,
    says: &'static [&'static str],
    (wrong, right): (String, String),
) -> Case {
    Case { code, severity, wrong, field, says, right }
}

fn all() -> Vec<Case> {
    let parts =
        [input::cases(), shape::cases(), selectors::cases(), rules::cases(), reach::cases()];
    parts.into_iter().flatten().collect()
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
