//! The binary, which is told by lines what tests in one process call.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{names, send};

const NAMESPACES: &str = "apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: shop}}
- {apiVersion: v1, kind: Namespace, metadata: {name: weir}}
";

struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    url: String,
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir-apiserver"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Process {
    fn start(args: &[&str]) -> Process {
        let mut child = command(args).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut url = String::new();
        output.read_line(&mut url).unwrap();
        Process { child, input, output, url: url.trim().to_owned() }
    }

    fn address(&self) -> SocketAddr {
        self.url.strip_prefix("http://").unwrap().parse().unwrap()
    }

    fn get(&self, path: &str) -> (u16, Value) {
        let answer = send(self.address(), "GET", path, &[], "").unwrap();
        (answer.code, answer.json())
    }

    fn tell(&mut self, line: &Value) -> Value {
        writeln!(self.input, "{line}").unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    /// Ends its input; its exit code, and what it said.
    fn end(mut self) -> (Option<i32>, String) {
        drop(self.input);
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

#[test]
fn begins_with_manifests_and_is_told_more() {
    let folder = TempDir::new().unwrap();
    let (manifests, config) = (folder.path().join("a.yaml"), folder.path().join("kubeconfig"));
    fs::write(&manifests, NAMESPACES).unwrap();
    let [file, kubeconfig] = [&manifests, &config].map(|path| path.to_str().unwrap());
    let mut process = Process::start(&["-f", file, "--kubeconfig", kubeconfig]);
    assert!(fs::read_to_string(&config).unwrap().contains(&process.url));
    let (code, list) = process.get("/api/v1/namespaces");
    assert_eq!((code, names(&list)), (200, vec!["shop", "weir"]));
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}});
    assert_eq!(process.tell(&json!({"do": "apply", "object": node}))["ok"]["version"], 4);
    assert_eq!(names(&process.get("/api/v1/nodes").1), ["a"]);
    let refuse = json!({"verb": "list", "times": 1, "action": {"refuse": {"code": 503}}});
    assert_eq!(process.tell(&json!({"do": "fault", "fault": refuse})), json!({"ok": null}));
    assert_eq!([(); 2].map(|()| process.get("/api/v1/nodes").0), [503, 200]);
    assert_eq!(process.end(), (Some(0), String::new()));
}

/// A complaint that nobody has taken is not lost with the process.
#[test]
fn fails_for_what_no_correct_client_asks() {
    let process = Process::start(&[]);
    assert_eq!(process.get("/api/v1/pods?limits=5").0, 400);
    let (code, said) = process.end();
    assert_eq!(code, Some(1));
    assert!(said.contains("GET /api/v1/pods?limits=5: 400 unknown query parameter"), "{said}");
    let mut process = Process::start(&[]);
    assert_eq!(process.get("/api/v1/pods?limits=5").0, 400);
    let complaints = process.tell(&json!({"do": "complaints"}));
    assert_eq!(complaints["ok"].as_array().unwrap().len(), 1);
    assert_eq!(process.end(), (Some(0), String::new()));
}

#[test]
fn says_which_file_it_cannot_take() {
    let output = command(&["-f", "/nowhere/a.yaml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("weir-apiserver: /nowhere/a.yaml: "), "{said}");
}
