//! The public suites, reduced to data, as outside judges of the compiled table.
//!
//! The vectors are looked for in `$WEIR_VECTORS`, then in `../shared/vectors` beside the workspace.
//! Without them the tests say that they were skipped; with `WEIR_VECTORS` set they must be there.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use weir_control::eval::Offline;
use weir_control::index::Index;
use weir_control::model::Protocol;
use weir_control::model::{Loaded, load};
use weir_control::oracle::{self, Traffic};
use weir_table::Address;
use weir_table::classify::Connection;

fn vectors() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("WEIR_VECTORS") {
        let path = PathBuf::from(path);
        assert!(path.is_dir(), "WEIR_VECTORS={} is no directory", path.display());
        return Some(path);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors");
    if path.is_dir() {
        return Some(path);
    }
    // Past the capture of the test harness: a test that did not run must not look like one that did.
    let _ =
        writeln!(std::io::stderr(), "SKIPPED: no vectors at {} (set WEIR_VECTORS)", path.display());
    None
}

/// Reads objects by the same path as a manifest folder does.
fn read(objects: &[Value]) -> Loaded {
    let text = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    load("vectors", text.as_bytes()).unwrap()
}

fn step_objects(namespaces: &Value, pods: &Value, policies: &Value) -> Vec<Value> {
    let mut objects = Vec::new();
    for (name, labels) in namespaces.as_object().unwrap() {
        objects.push(json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": labels},
        }));
    }
    for pod in pods.as_array().unwrap() {
        let ports: Vec<Value> = pod["ports"].as_array().unwrap().iter().map(|port| {
            json!({"name": port["name"], "containerPort": port["port"], "protocol": port["protocol"]})
        }).collect();
        objects.push(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": pod["namespace"], "name": pod["name"], "labels": pod["labels"]},
            "spec": {"containers": [{"name": "c", "ports": ports}]},
            "status": {"phase": "Running", "podIP": pod["ip"], "podIPs": [{"ip": pod["ip"]}]},
        }));
    }
    objects.extend(policies.as_array().unwrap().iter().cloned());
    objects
}

/// Every case and step of a file against the table and against the oracle: (steps, questions).
fn run(path: &Path) -> (usize, usize) {
    let (mut steps, mut asked) = (0, 0);
    let text = fs::read_to_string(path).unwrap();
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let name = case["name"].as_str().unwrap();
        for (i, step) in case["steps"].as_array().unwrap().iter().enumerate() {
            let current = |field: &str| step.get(field).unwrap_or(&case[field]).clone();
            let (namespaces, pods) = (current("namespaces"), current("pods"));
            let loaded = read(&step_objects(&namespaces, &pods, &step["policies"]));
            let refused: Vec<String> = loaded.complaints.iter().map(|c| c.to_string()).collect();
            assert!(refused.is_empty(), "{name}, step {i}: {refused:?}");
            let offline = Offline::of(Index::of(loaded.objects)).unwrap();
            steps += 1;
            let addresses: Vec<IpAddr> = pods
                .as_array()
                .unwrap()
                .iter()
                .map(|pod| pod["ip"].as_str().unwrap().parse().unwrap())
                .collect();
            for (port, expect) in step["expect"].as_object().unwrap() {
                let (protocol, number) = port.split_once('/').unwrap();
                let protocol = Protocol::from_api(protocol).unwrap();
                let dport: u16 = number.parse().unwrap();
                for (a, src) in addresses.iter().enumerate() {
                    for (b, dst) in addresses.iter().enumerate().filter(|(b, _)| *b != a) {
                        let judgement = offline.classifier.evaluate(&Connection {
                            src: Address::from(*src),
                            dst: Address::from(*dst),
                            protocol: protocol.number(),
                            dport,
                        });
                        let naive = oracle::judge(
                            &offline.index,
                            *src,
                            *dst,
                            Traffic::Port(protocol, dport),
                        );
                        for (direction, compiled, naive) in [
                            ("egress", judgement.egress.is_allow(), naive.0.is_allowed()),
                            ("ingress", judgement.ingress.is_allow(), naive.1.is_allowed()),
                        ] {
                            let expected =
                                match expect[direction][a].as_str().unwrap().as_bytes()[b] {
                                    b'1' => true,
                                    b'0' => false,
                                    _ => continue,
                                };
                            asked += 1;
                            let what =
                                format!("{name}, step {i}: {src} → {dst} {port} {direction}");
                            assert_eq!(compiled, expected, "table: {what}");
                            assert_eq!(naive, expected, "oracle: {what}");
                        }
                    }
                }
            }
        }
    }
    (steps, asked)
}

/// Cyclonus / policy-assistant: every case, step and direction, off the diagonal.
#[test]
fn vectors_ipv4() {
    let Some(path) = vectors() else { return };
    let (steps, asked) = run(&path.join("netpol-v4.jsonl"));
    println!("{steps} steps, {asked} verdicts");
    assert!(steps >= 230 && asked > 100_000, "{steps} steps, {asked} verdicts");
}

/// The same over IPv6.
#[test]
fn vectors_ipv6() {
    let Some(path) = vectors() else { return };
    let (steps, asked) = run(&path.join("netpol-v6.jsonl"));
    println!("{steps} steps, {asked} verdicts");
    assert!(steps >= 230 && asked > 100_000, "{steps} steps, {asked} verdicts");
}

/// kubernetes-network-policy-recipes: each file compiles without a complaint.
#[test]
fn recipes_compile_without_complaint() {
    let Some(path) = vectors() else { return };
    let mut files: Vec<PathBuf> =
        fs::read_dir(path.join("recipes")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 15, "{files:?}");
    for file in files {
        let name = file.display().to_string();
        let loaded = load(&name, &fs::read(&file).unwrap()).unwrap();
        assert!(loaded.complaints.is_empty(), "{name}: {:?}", loaded.complaints);
        assert!(loaded.skipped.is_empty(), "{name}: {:?}", loaded.skipped);
        assert_eq!(loaded.objects.len(), 1, "{name}");
        Offline::of(Index::of(loaded.objects)).unwrap();
    }
}
