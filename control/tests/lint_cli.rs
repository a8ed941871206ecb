//! `weir lint` as a process: exit codes, both outputs, help.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;
use weir_control::lint::CHECKS;

/// One finding of each weight: a port that is none, a misspelt label, a range that covers a port.
const OBJECTS: &str = "\
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
status: {podIP: 10.0.0.1}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: bad}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - ports:
    - port: 70000
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: misspelt}
spec:
  podSelector: {matchLabels: {app: wbe}}
  ingress:
  - ports:
    - {port: 1, endPort: 99}
    - {port: 80}
";

fn weir(args: &[&str], stdin: &str) -> (i32, String, String) {
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
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_table_reads_like_this() {
    let (code, stdout, stderr) = weir(&["lint", "-f", "-", "--severity", "info"], OBJECTS);
    assert_eq!(
        stdout,
        "\
NetworkPolicy shop/bad
  error   -:13 spec.ingress[0].ports[0].port [refused]
          70000 is no port; ports are 1 to 65535; the rule is refused and allows nothing; the policy isolates for ingress all the same, and it has no other rule
          instead: correct this field as said; the API server would not take the object either

NetworkPolicy shop/misspelt
  warning -:15 spec.podSelector [selects-nothing]
          selects no pod: no pod of namespace shop has `app=wbe`; values of `app` there: `web`
          instead: `app=web`, which exists
  info    -:23 spec.ingress[0].ports[1] [redundant-entry]
          ports[0] of the same list allows it already
          instead: remove it

1 error, 1 warning, 1 info
"
    );
    assert_eq!((code, stderr.as_str()), (1, ""));
}

#[test]
fn json_is_one_object_a_line() {
    let (code, stdout, _) = weir(&["lint", "-f", "-", "-o", "json"], OBJECTS);
    assert_eq!(code, 1);
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{stdout}");
    assert_eq!(
        lines[1],
        r#"{"severity":"warning","code":"selects-nothing","object":"NetworkPolicy shop/misspelt","field":"spec.podSelector","file":"-","line":15,"message":"selects no pod: no pod of namespace shop has `app=wbe`; values of `app` there: `web`","remedy":"`app=web`, which exists"}"#
    );
    let first: Value = serde_json::from_str(lines[0]).unwrap();
    assert_eq!((&first["severity"], &first["line"]), (&"error".into(), &13.into()));
}

/// 0 without findings of the weight asked for, 1 with, 2 if the question makes no sense.
#[test]
fn exit_codes() {
    let misspelt = OBJECTS.replace("70000", "7000");
    let tidy = misspelt.replace("wbe", "web").replace("    - {port: 80}\n", "");
    for (name, objects, args, code, out, err) in [
        ("errors only", OBJECTS, &["--severity", "error"][..], 1, "1 error, 0", "2 below error"),
        ("no errors", &misspelt, &["--severity", "error"], 0, "no findings", "2 below error"),
        ("a warning", &misspelt, &[], 1, "1 warning", "1 below warning"),
        ("nothing", &tidy, &["--severity", "info"], 0, "no findings\n", ""),
        ("nothing, JSON", &tidy, &["--severity", "info", "-o", "json"], 0, "", ""),
        ("no YAML", "a: [", &[], 2, "", "not valid YAML"),
        ("empty", "", &[], 2, "", "empty"),
        ("no such level", &tidy, &["--severity", "fatal"], 2, "", "info, warning, error"),
    ] {
        let run = weir(&[&["lint", "-f", "-"], args].concat(), objects);
        assert_eq!(run.0, code, "{name}: {run:?}");
        assert!(run.1.contains(out) && run.2.contains(err), "{name}: {run:?}");
    }
    let (code, _, stderr) = weir(&["lint"], "");
    assert!(code == 2 && stderr.contains("--file"), "{stderr}");
    let (code, _, stderr) = weir(&["lint", "-f", "/nonexistent"], "");
    assert!(code == 2 && stderr.contains("/nonexistent"), "{stderr}");
}

#[test]
fn help_lists_every_check() {
    let (code, stdout, _) = weir(&["lint", "--help"], "");
    assert_eq!(code, 0);
    for check in CHECKS {
        let line = stdout.lines().find(|line| line.trim_start().starts_with(check.code));
        let line = line.unwrap_or_else(|| panic!("{}: {stdout}", check.code));
        assert!(line.contains(check.severity.as_str()) && line.contains(check.finds), "{line}");
    }
}
