//! The matrix that `weir eval` prints, as it is read.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fmt::Write as _;
use std::process::Command;

const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: x, name: only-own}
spec: {podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: y, name: web}
spec:
  podSelector: {matchLabels: {pod: a}}
  ingress:
  - ports: [{port: 80}, {port: 8000, endPort: 8010}, {protocol: UDP}]
    from: [{namespaceSelector: {}, podSelector: {matchLabels: {pod: b}}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: z, name: closed}
spec: {podSelector: {matchLabels: {pod: c}}, policyTypes: [Ingress, Egress]}
";

/// Three namespaces of three pods, as the public suites have them.
fn cluster(name: impl Fn(&str) -> String) -> String {
    let mut text = POLICIES.to_owned();
    for (i, namespace) in ["x", "y", "z"].iter().enumerate() {
        for (j, pod) in ["a", "b", "c"].iter().enumerate() {
            let name = name(pod);
            let _ = write!(
                text,
                "---\n{{apiVersion: v1, kind: Pod, metadata: {{namespace: {namespace}, name: {name}, labels: {{pod: {pod}}}}}, status: {{podIP: 10.0.{i}.{j}}}}}\n"
            );
        }
    }
    text
}

fn eval(text: &str, args: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster.yaml");
    std::fs::write(&path, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["eval", "-f", path.to_str().unwrap()])
        .args(args)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn short_names_head_the_columns() {
    assert_eq!(
        eval(&cluster(str::to_owned), &[]),
        "
    x/a x/b x/c y/a y/b y/c z/a z/b z/c
x/a  .   .   .   X   .   .   .   .   X
x/b  .   .   .   *   .   .   .   .   X
x/c  .   .   .   X   .   .   .   .   X
y/a  X   X   X   .   .   .   .   .   X
y/b  X   X   X   *   .   .   .   .   X
y/c  X   X   X   X   .   .   .   .   X
z/a  X   X   X   X   .   .   .   .   X
z/b  X   X   X   *   .   .   .   .   X
z/c  X   X   X   X   X   X   X   X   .

rows: sources, columns: destinations
  . all traffic is allowed
  X none is
  * some is (-o json says what)
"
        .trim_start_matches('\n')
    );
}

#[test]
fn one_port_is_allowed_or_denied() {
    let text = eval(&cluster(str::to_owned), &["--port", "TCP/80"]);
    assert!(text.contains("\nx/b  .   .   .   .   .   .   .   .   X\n"), "{text}");
    assert!(text.ends_with("\n  . allowed\n  X denied\n"), "{text}");
    let text = eval(&cluster(str::to_owned), &["--port", "TCP/81"]);
    assert!(text.contains("\nx/b  .   .   .   X   .   .   .   .   X\n"), "{text}");
}

#[test]
fn long_names_are_numbered() {
    let text = eval(&cluster(|pod| format!("{pod}-7f9c6d5b8-x2k4q")), &[]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0].trim_start(), "123456789");
    assert_eq!(lines[1], "1 x/a-7f9c6d5b8-x2k4q ...X....X");
    assert_eq!(lines[2], "2 x/b-7f9c6d5b8-x2k4q ...*....X");
    assert_eq!(lines[9], "9 z/c-7f9c6d5b8-x2k4q XXXXXXXX.");
    assert_eq!(lines[0].find('1'), lines[1].find("..."));
}

#[test]
fn wide_clusters_have_numbers_read_downwards() {
    let mut text = POLICIES.to_owned();
    for i in 1..=112 {
        let _ = write!(
            text,
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{namespace: x, name: pod-{i:03}}}, status: {{podIP: 10.0.0.{i}}}}}\n"
        );
    }
    let text = eval(&text, &[]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].ends_with("1 1111111111 11"), "{}", lines[0]);
    assert!(lines[1].contains("1 1111111112 2222222223 "), "{}", lines[1]);
    assert!(lines[2].contains("1234567890 1234567890"), "{}", lines[2]);
    assert!(lines[3].starts_with("  1 x/pod-001 .........."), "{}", lines[3]);
    assert!(lines[114].starts_with("112 x/pod-112 .......... .........."), "{}", lines[114]);
    // Every column stands below its number.
    assert!(lines[..115].iter().all(|line| line.chars().count() == lines[3].chars().count()));
}

#[test]
fn json_says_what_passes() {
    let text = eval(&cluster(str::to_owned), &["-o", "json"]);
    assert_eq!(text.lines().count(), 81);
    let expect = r#"{"from":"x/b","to":"y/a","verdict":"some","allowed":["TCP/80","TCP/8000-8010","UDP","ICMP"]}"#;
    assert!(text.lines().any(|line| line == expect), "{text}");
}

#[test]
fn ends_without_a_common_family_are_marked() {
    let text = "
{apiVersion: v1, kind: Pod, metadata: {namespace: x, name: a}, status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: x, name: b}, status: {podIP: \"fd00::1\"}}
";
    let text = eval(text, &[]);
    assert!(text.starts_with("    x/a x/b\nx/a  .   -\nx/b  -   .\n"), "{text}");
    assert!(text.contains("- no address family in common"), "{text}");
}

/// A block of one family closes the other: neither family's verdict may stand for both.
#[test]
fn families_that_differ_are_said() {
    let text = "
{apiVersion: v1, kind: Pod, metadata: {namespace: x, name: a}, status: {podIPs: [{ip: 10.0.0.1}, {ip: \"fd00::1\"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: x, name: b, labels: {app: b}}, status: {podIPs: [{ip: 10.0.0.2}, {ip: \"fd00::2\"}]}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: x, name: four}
spec: {podSelector: {matchLabels: {app: b}}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}
";
    let table = eval(text, &[]);
    assert!(table.starts_with("    x/a x/b\nx/a  .   *\nx/b  .   .\n"), "{table}");
    let table = eval(text, &["--port", "TCP/80"]);
    assert!(table.starts_with("    x/a x/b\nx/a  .   *\nx/b  .   .\n"), "{table}");
    assert!(table.contains("* allowed over one address family only"), "{table}");
    let all = r#"{"from":"x/a","to":"x/b","verdict":"some","families":[{"family":"IPv4","verdict":"all"},{"family":"IPv6","verdict":"none"}]}"#;
    assert!(eval(text, &["-o", "json"]).lines().any(|line| line == all));
    let port = r#"{"from":"x/a","to":"x/b","verdict":"some","families":[{"family":"IPv4","verdict":"allow"},{"family":"IPv6","verdict":"deny"}]}"#;
    assert!(eval(text, &["-o", "json", "--port", "TCP/80"]).lines().any(|line| line == port));
    // Where both say the same the cell is as it was.
    let same = r#"{"from":"x/b","to":"x/a","verdict":"all"}"#;
    assert!(eval(text, &["-o", "json"]).lines().any(|line| line == same));
}
