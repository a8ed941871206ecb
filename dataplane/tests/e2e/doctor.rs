//! `weir doctor` on a node: well while Weir runs, and each fault by its line.

use serde_json::Value;

use crate::lab::{Cni, Lab, text};
use crate::node::node;
use crate::turn;
use crate::weir::{Weir, binary};

/// Where the lab's runtime would look.
const CNI: [&str; 4] = ["--cni-conf-dir", "/run/cni-conf", "--cni-bin-dir", "/run/cni-bin"];

/// The exit code, and level, what and remedy by check.
fn doctor(lab: &Lab) -> (i32, Vec<(String, String, String)>) {
    let out = lab.attempt("node", &binary("weir"), &[&["doctor", "-o", "json"][..], &CNI].concat());
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let finding = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let words = format!("{} — {}", word(&line["what"]), word(&line["remedy"]));
        (word(&line["check"]), word(&line["level"]), words)
    };
    let findings = text(&out.stdout).lines().map(finding).collect();
    (out.status.code().unwrap(), findings)
}

/// Fails unless a check says this.
fn says(found: &(i32, Vec<(String, String, String)>), check: &str, level: &str, words: &str) {
    let said = found.1.iter().any(|(c, l, w)| c == check && l == level && w.contains(words));
    assert!(said, "no {level} of {check} with {words:?}: {found:#?}");
}

#[test]
fn what_is_wrong_with_a_node_is_said_with_the_remedy() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let before = doctor(&lab);
    assert_eq!(before.0, 1);
    says(&before, "dataplane", "fail", "none has left anything");

    let mut weir = Weir::start(&lab, folder, &["--workers", "2", "--attach", "auto"]);
    let conf = lab.node_path("/run/cni-conf");
    std::fs::create_dir_all(&conf).unwrap();
    let list = |plugins: &str| {
        let text = format!(r#"{{"cniVersion":"1.0.0","name":"net","plugins":[{plugins}]}}"#);
        std::fs::write(conf.join("10-net.conflist"), text).unwrap();
    };
    list(r#"{"type":"bridge"}"#);
    let running = doctor(&lab);
    assert_eq!(running.0, 0, "{running:#?}\n{}", weir.words());
    for (check, words) in [
        ("kernel", "Linux "),
        ("bpffs", "BPF file system"),
        ("capabilities", "weir-dataplane (process "),
        ("rights", "root's alone"),
        ("dataplane", "runs"),
        ("workers", "2 of 2 workers"),
        ("table", "is enforced by all workers"),
        ("control", "weir-control follows dir:"),
        ("hooks", "3 pod interfaces have hooks"),
        ("mtu", "1500"),
    ] {
        says(&running, check, "ok", words);
    }
    says(&running, "cni", "note", "weir-cni install --conf-dir /run/cni-conf");
    let table = lab.attempt("node", &binary("weir"), &["doctor"]);
    assert!(text(&table.stdout).lines().any(|line| line.starts_with("ok   3 pod interfaces")));

    // A chained plugin whose program is not there keeps every pod from starting.
    list(r#"{"type":"bridge"},{"type":"weir-cni"}"#);
    let chained = doctor(&lab);
    assert_eq!(chained.0, 1);
    says(&chained, "cni", "ok", "weir-cni is the last of bridge, weir-cni");
    says(&chained, "cni-program", "fail", "no pod starts");
    list(r#"{"type":"bridge"}"#);
    std::fs::create_dir_all(lab.node_path("/run/cni-bin")).unwrap();
    let dirs = ["install", "--conf-dir", "/run/cni-conf", "--bin-dir", "/run/cni-bin"];
    lab.command("node", &binary("weir-cni"), &dirs);
    let installed = doctor(&lab);
    assert_eq!(installed.0, 0, "{installed:#?}");
    let version = concat!("weir-cni ", env!("CARGO_PKG_VERSION"), " is in /run/cni-bin");
    says(&installed, "cni-program", "ok", version);
    list(r#"{"type":"bridge"}"#);

    // A pod whose frames do not fit, and a hook that somebody has taken off.
    let veth = weir.status()["endpoints"][0]["device"].as_str().unwrap().to_owned();
    let index = weir.status()["endpoints"][0]["ifindex"].to_string();
    lab.command("node", "ip", &["link", "set", &veth, "mtu", "9000"]);
    std::fs::remove_file(lab.node_path(&format!("/sys/fs/bpf/weir/links/{index}_to_pod"))).unwrap();
    let spoilt = doctor(&lab);
    assert_eq!(spoilt.0, 1);
    says(&spoilt, "mtu", "fail", &format!("{veth} has MTU 9000"));
    says(&spoilt, "order", "fail", &format!("is not on {veth} (egress) any more"));

    weir.kill();
    let dead = doctor(&lab);
    assert_eq!(dead.0, 1);
    says(&dead, "dataplane", "fail", "what it left goes on being enforced");
    says(&dead, "control", "fail", "weir-control does not run");
}
