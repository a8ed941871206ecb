//! `weir` as a process: input forms, output forms, exit codes.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const OBJECTS: &str = "\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {namespace: shop, name: web, labels: {app: web}}
  spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
  status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: \"fd00::1\"}]}
- apiVersion: v1
  kind: Pod
  metadata: {namespace: shop, name: client, labels: {app: client}}
  status: {phase: Running, podIP: 10.0.0.2}
- apiVersion: v1
  kind: Pod
  metadata: {namespace: shop, name: done}
  status: {phase: Succeeded, podIP: 10.0.0.3}
- apiVersion: v1
  kind: Pod
  metadata: {namespace: shop, name: waiting}
- apiVersion: v1
  kind: ConfigMap
  metadata: {namespace: shop, name: web}
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {namespace: shop, name: web}
  spec:
    podSelector: {matchLabels: {app: web}}
    ingress:
    - from:
      - ipBlock: {cidr: 192.0.2.0/24}
      - podSelector: {matchLabels: {app: client}}
      ports: [{port: http}]
";

struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

fn weir(args: &[&str], stdin: &str) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn manifests(text: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects.yaml");
    fs::write(&path, text).unwrap();
    (dir, path)
}

#[test]
fn probes_are_answered_in_order() {
    let (_dir, path) = manifests(OBJECTS);
    let cases = [
        (
            r#"{"from":"shop/client","to":"shop/web","protocol":"TCP","port":8080}"#,
            r#"{"verdict":"allow","egress":{"verdict":"allow"},"ingress":{"verdict":"allow","policy":"shop/web","rule":"spec.ingress[0].from[1]"}}"#,
        ),
        (
            r#"{"from":"192.0.2.9","to":"10.0.0.1","protocol":"TCP","port":8080}"#,
            r#"{"verdict":"allow","egress":{"verdict":"allow"},"ingress":{"verdict":"allow","policy":"shop/web","rule":"spec.ingress[0].from[0]"}}"#,
        ),
        (
            r#"{"from":"shop/client","to":"shop/web","protocol":"TCP","port":80}"#,
            r#"{"verdict":"deny","egress":{"verdict":"allow"},"ingress":{"verdict":"deny","policy":"shop/web"}}"#,
        ),
        (
            r#"{"from":"shop/client","to":"shop/web","protocol":"ICMP"}"#,
            r#"{"verdict":"allow","egress":{"verdict":"allow"},"ingress":{"verdict":"allow","policy":"shop/web","rule":"spec.ingress[0].from[1]"}}"#,
        ),
        (
            r#"{"from":"fd00::9","to":"shop/web","protocol":"SCTP","port":8080}"#,
            r#"{"verdict":"deny","egress":{"verdict":"allow"},"ingress":{"verdict":"deny","policy":"shop/web"}}"#,
        ),
        (
            r#"{"from":"shop/web","to":"shop/web","protocol":"UDP","port":1}"#,
            r#"{"verdict":"allow","egress":{"verdict":"allow"},"ingress":{"verdict":"allow"}}"#,
        ),
        (
            r#"{"from":"shop/client","to":"shop/web","protocol":47}"#,
            r#"{"verdict":"deny","egress":{"verdict":"allow"},"ingress":{"verdict":"deny","policy":"shop/web"}}"#,
        ),
        (
            r#"{"from":"shop/client","to":"shop/web","protocol":6,"port":8080}"#,
            r#"{"verdict":"allow","egress":{"verdict":"allow"},"ingress":{"verdict":"allow","policy":"shop/web","rule":"spec.ingress[0].from[1]"}}"#,
        ),
        (
            r#"{"from":"shop/client","to":"shop/web","protocol":"T\u0043P","port":80}"#,
            r#"{"verdict":"deny","egress":{"verdict":"allow"},"ingress":{"verdict":"deny","policy":"shop/web"}}"#,
        ),
        (r#"{"from":"shop/client","to":"shop/web","protocol":256}"#, "from 0 to 255"),
        (r#"{"from":"shop/client","to":"shop/web","protocol":-1}"#, "from 0 to 255"),
        (r#"{"from":"shop/client","to":"shop/web","protocol":[6]}"#, "from 0 to 255"),
        (r#"{"from":"shop/none","to":"shop/web","port":1}"#, "there is no pod shop/none"),
        (r#"{"from":"shop/done","to":"shop/web","port":1}"#, "has finished"),
        (r#"{"from":"shop/waiting","to":"shop/web","port":1}"#, "has no address"),
        (r#"{"from":"nobody","to":"shop/web","port":1}"#, "neither an address nor namespace/pod"),
        (r#"{"from":"fd00::9","to":"shop/client","port":1}"#, "no address family in common"),
        (r#"{"from":"shop/client","to":"shop/web","port":70000}"#, "1 to 65535"),
        (r#"{"from":"shop/client","to":"shop/web"}"#, "needs a port"),
        (r#"{"from":"shop/client","to":"shop/web","protocol":"ICMP","port":8}"#, "has no ports"),
        (r#"{"from":"shop/client","to":"shop/web","protocol":"WARP","port":8}"#, "no protocol"),
        (r#"{"from":"shop/client","to":"shop/web","prot":"TCP"}"#, "unknown field `prot`"),
        ("nonsense", "not a probe"),
    ];
    let questions: String = cases.iter().map(|(probe, _)| format!("{probe}\n")).collect();
    let run =
        weir(&["eval", "-f", path.to_str().unwrap(), "--probes", "-", "-o", "json"], &questions);
    let answers: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(answers.len(), cases.len(), "{}", run.stdout);
    for ((probe, expect), answer) in cases.iter().zip(answers) {
        if expect.starts_with('{') {
            assert_eq!(answer, *expect, "{probe}");
        } else {
            let answer: Value = serde_json::from_str(answer).unwrap();
            assert!(answer["error"].as_str().unwrap().contains(expect), "{probe}: {answer}");
        }
    }
    assert_eq!(run.code, 1, "a probe without an answer is a finding");
    assert!(run.stderr.contains("1 object of other kinds left out: 1 ConfigMap"), "{}", run.stderr);
}

/// One input in several forms: YAML, JSON, several documents, a folder, standard input.
#[test]
fn every_form_of_input_gives_the_same_matrix() {
    let (dir, path) = manifests(OBJECTS);
    let matrix = |args: &[&str], stdin: &str| {
        let run = weir(&[&["eval", "-o", "json"], args].concat(), stdin);
        assert_eq!(run.code, 0, "{}", run.stderr);
        run.stdout
    };
    let expect = matrix(&["-f", path.to_str().unwrap()], "");
    assert!(expect.contains(r#""verdict":"some","allowed":["TCP/8080","ICMP"]"#), "{expect}");
    assert_eq!(matrix(&["-f", "-"], OBJECTS), expect);
    assert_eq!(matrix(&["-f", dir.path().to_str().unwrap()], ""), expect);

    let list: Value = serde_saphyr::from_str(OBJECTS).unwrap();
    assert_eq!(matrix(&["-f", "-"], &list.to_string()), expect);
    assert_eq!(matrix(&["-f", "-"], &serde_json::to_string_pretty(&list).unwrap()), expect);
    let documents: Vec<String> =
        list["items"].as_array().unwrap().iter().map(Value::to_string).collect();
    assert_eq!(matrix(&["-f", "-"], &documents.join("\n---\n")), expect);
    let files = tempfile::tempdir().unwrap();
    for (i, document) in documents.iter().enumerate() {
        fs::write(files.path().join(format!("{i}.json")), document).unwrap();
    }
    assert_eq!(matrix(&["-f", files.path().to_str().unwrap()], ""), expect);
}

#[test]
fn explanations_read_like_this() {
    let (_dir, path) = manifests(OBJECTS);
    let file = path.to_str().unwrap();
    for (from, to, traffic, code, expect) in [
        (
            "shop/client",
            "shop/web",
            "TCP/8080",
            0,
            "shop/client (10.0.0.2) → shop/web (10.0.0.1), TCP/8080: allowed
  egress:  allowed: shop/client (10.0.0.2) is selected by no policy for egress
  ingress: allowed by spec.ingress[0].from[1] of NetworkPolicy shop/web (FILE:31), on its ports[0] (FILE:32)
",
        ),
        (
            "shop/client",
            "shop/web",
            "TCP/80",
            1,
            "shop/client (10.0.0.2) → shop/web (10.0.0.1), TCP/80: denied
  egress:  allowed: shop/client (10.0.0.2) is selected by no policy for egress
  ingress: denied: shop/web (10.0.0.1) is isolated for ingress by NetworkPolicy shop/web (FILE:23), and none of its ingress rules matches shop/client (10.0.0.2)
    nearest: spec.ingress[0].from[1] of NetworkPolicy shop/web (FILE:31): would pass on TCP/8080 (the named port http of pod shop/web)
  only the ingress side fails: egress lets it pass
",
        ),
        (
            "shop/web",
            "198.51.100.1",
            "ICMP",
            0,
            "shop/web (10.0.0.1) → 198.51.100.1, ICMP: allowed
  egress:  allowed: shop/web (10.0.0.1) is selected by no policy for egress
  ingress: allowed: 198.51.100.1 is no pod's address, and only pods have policies
",
        ),
    ] {
        let run = weir(&["explain", from, to, traffic, "-f", file], "");
        assert_eq!(run.stdout, expect.replace("FILE", file));
        assert_eq!(run.code, code, "{from} {to} {traffic}");
    }
}

#[test]
fn a_refused_policy_isolates_and_is_named() {
    let (_dir, path) = manifests(&OBJECTS.replace("192.0.2.0/24", "192.0.2.0/240"));
    let file = path.to_str().unwrap();
    let run = weir(&["explain", "shop/client", "shop/web", "TCP/8080", "-f", file], "");
    assert_eq!(run.code, 1);
    assert!(
        run.stdout.contains(
            "spec.ingress[0] of NetworkPolicy shop/web is refused as invalid and allows nothing"
        ),
        "{}",
        run.stdout
    );
    for part in ["NetworkPolicy shop/web", "spec.ingress[0].from[0].ipBlock.cidr", ":30:"] {
        assert!(run.stderr.contains(part), "{part}: {}", run.stderr);
    }
    let run = weir(&["eval", "-f", file], "");
    assert_eq!(run.code, 1);
    assert!(run.stdout.contains("X none is"), "{}", run.stdout);
}

/// A verdict that leaves out a policy is not the whole truth: said, and no success.
#[test]
fn a_policy_that_is_not_enforced_is_no_success() {
    const PODS: &str = "\
{apiVersion: v1, kind: Pod, metadata: {name: a}, status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b}, status: {podIP: 10.0.0.2}}
";
    const CLUSTER: &str = "---\n{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: c}}\n";
    for (more, code) in [("", 0), (CLUSTER, 1)] {
        let (_dir, path) = manifests(&[PODS, more].concat());
        let path = path.to_str().unwrap();
        for args in [
            &["eval", "-f", path][..],
            &["explain", "default/a", "default/b", "TCP/80", "-f", path],
        ] {
            let run = weir(args, "");
            assert_eq!(run.code, code, "{args:?}: {}", run.stderr);
            assert_eq!(run.stderr.contains("NOT ENFORCED"), code == 1, "{}", run.stderr);
        }
    }
}

#[test]
fn usage_and_absence_exit_with_2() {
    let empty = tempfile::tempdir().unwrap();
    let dir = empty.path().to_str().unwrap();
    let places = ["--run-dir", dir, "--pin-dir", dir];
    for (args, part) in [
        (vec!["eval"], "--file"),
        (vec!["eval", "-f", "/nonexistent"], "/nonexistent"),
        (vec!["eval", "-f", dir], "holds no manifests"),
        (vec!["eval", "-f", "-", "--probes", "-"], "standard input"),
        (vec!["explain", "10.0.0.1", "10.0.0.2", "TCP"], "needs a port"),
        ([&["explain", "10.0.0.1", "10.0.0.2", "TCP/1"][..], &places].concat(), "no policy table"),
        ([&["status"][..], &places].concat(), "is weir-dataplane running"),
        ([&["flows"][..], &places].concat(), "is weir-dataplane running"),
        (vec!["frobnicate"], "unrecognized"),
    ] {
        let run = weir(&args, "");
        assert_eq!(run.code, 2, "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains(part), "{args:?}: {}", run.stderr);
    }
    for args in [["--help"], ["--version"]] {
        assert_eq!(weir(&args, "").code, 0);
    }
}

/// From the table that a dataplane left behind: addresses, policies and rules, no objects needed.
#[test]
fn explain_asks_the_running_table() {
    use weir_control::eval::Offline;
    use weir_control::index::Index;
    use weir_control::model::load;
    let run_dir = tempfile::tempdir().unwrap();
    let index = Index::of(load("t", OBJECTS.as_bytes()).unwrap().objects);
    let offline = Offline::of(index).unwrap();
    weir_table::saved::save(run_dir.path(), &offline.classifier).unwrap();
    let endpoints = r#"[{"ifindex":7,"device":"veth1","netns":"cni-web","addresses":["10.0.0.1"],"quarantined":false,"attached":true}]"#;
    fs::write(run_dir.path().join("endpoints.json"), endpoints).unwrap();
    let run_dir = run_dir.path().to_str().unwrap();
    let ask =
        |from: &str, to: &str| weir(&["explain", from, to, "TCP/8080", "--run-dir", run_dir], "");
    let run = ask("10.0.0.2", "cni-web");
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(
        run.stdout.contains("spec.ingress[0].from[1] of NetworkPolicy shop/web"),
        "{}",
        run.stdout
    );
    assert_eq!(ask("10.0.0.9", "10.0.0.1").code, 1);
    let run = ask("shop/client", "10.0.0.1");
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("-f PATH"), "{}", run.stderr);
}
