//! Who may ask: tokens, authorities, contexts; and the form of the log.

use std::process::Command;

use weir_apiserver::{Cut, Holder, Kind, Settings};

use crate::support::{ALLOW, DENY, World, address, sample};
use crate::{CLIENT, Cluster, WEB};

#[test]
fn a_new_token_is_read_when_the_old_one_is_refused() {
    let mut cluster = Cluster::unfollowed();
    cluster.server.add_token("one", Holder::admin("weir-control"));
    cluster.introduce(Some("one"));
    cluster.follow(&[]);
    cluster.until(CLIENT, WEB, true);
    cluster.until_watched();
    cluster.server.add_token("two", Holder::admin("weir-control"));
    cluster.server.remove_token("one");
    cluster.server.cut_all(Cut::End);
    cluster.control().expect("cannot be followed: HTTP 401");
    cluster.introduce(Some("two"));
    cluster.apply(DENY);
    cluster.until(CLIENT, WEB, false);
    cluster.control().expect("the client configuration was read again");
    assert_eq!(cluster.lists(), [1; 6]);
    let requests = cluster.server.requests();
    let version = env!("CARGO_PKG_VERSION");
    assert!(requests.iter().all(|r| r.agent == format!("weir-control/{version}")));
    cluster.stop();
}

#[test]
fn a_new_authority_is_read_when_the_old_one_is_replaced() {
    let mut cluster = Cluster::with(Settings { tls: Some(Vec::new()), ..Settings::default() });
    cluster.follow(&[]);
    cluster.until(CLIENT, WEB, true);
    cluster.until_watched();
    cluster.server.rotate_ca().unwrap();
    cluster.server.close_connections().unwrap();
    cluster.control().expect("cannot be followed: ");
    cluster.apply(DENY);
    cluster.introduce(None);
    cluster.until(CLIENT, WEB, false);
    cluster.control().expect("the client configuration was read again");
    assert_eq!(cluster.lists(), [1; 6]);
    cluster.stop();
}

#[test]
fn without_a_server_to_ask_it_does_not_start() {
    let world = World::new();
    let run = |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_weir-control"))
            .args(more)
            .args(["--run-dir", world.run.to_str().unwrap()])
            .env_remove("KUBECONFIG")
            .env_remove("KUBERNETES_SERVICE_HOST")
            .env("HOME", &world.folder)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let text = run(&["--source", "kube"]);
    assert!(text.contains("give --kubeconfig PATH"), "{text}");
    let text = run(&["--source", "kube", "--kubeconfig", "/nowhere"]);
    assert!(text.contains("--kubeconfig /nowhere"), "{text}");
    let text = run(&["--source", "kube", "--context", "c"]);
    assert!(text.contains("--context"), "{text}");
    let text = run(&["--source", "dir:/tmp", "--context", "c"]);
    assert!(text.contains("belong to --source kube"), "{text}");
    let text = run(&["--source", "kube", "--log", "json"]);
    let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!(line["level"], "ERROR");
    assert!(line["message"].as_str().unwrap().contains("--kubeconfig PATH"), "{line}");
}

/// Another engine beside Weir is worth a line.
#[test]
fn other_engines_are_named() {
    let mut cluster = Cluster::unfollowed();
    cluster.server.add_group("cilium.io", "v2");
    cluster.follow(&["--metrics", "127.0.0.1:0"]);
    let address = address(cluster.control());
    cluster.until(CLIENT, WEB, true);
    cluster.control().expect("kube: Cilium is installed: its own policies are not read here");
    assert_eq!(sample(&address, "weir_control_other_engines{name=\"Cilium\"}"), 1.0);
    assert_eq!(sample(&address, "weir_control_other_engines{name=\"Calico\"}"), 0.0);
    cluster.stop();
}

/// A context of the kubeconfig that is not the current one.
#[test]
fn a_context_may_be_chosen() {
    let mut cluster = Cluster::unfollowed();
    let text = cluster.server.kubeconfig(None);
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["current-context"] = "elsewhere".into();
    std::fs::write(cluster.kubeconfig(), config.to_string()).unwrap();
    cluster.follow(&["--context", "test"]);
    cluster.until(CLIENT, WEB, true);
    cluster.stop();
}

#[test]
fn the_log_is_one_object_a_line_if_that_is_wanted() {
    let mut cluster = Cluster::unfollowed();
    cluster.apply(&ALLOW.replace("from:", "ports: [{port: 0}], from:"));
    cluster.follow(&["--log", "json"]);
    cluster.until_asked("watch", Kind::NetworkPolicy, 1);
    let mut parsed = |part: &str| {
        let line = cluster.control().expect(part).to_owned();
        serde_json::from_str::<serde_json::Value>(&line).unwrap_or_else(|_| panic!("{line}"))
    };
    let compiled = parsed("\"compiled\"");
    assert_eq!(compiled["level"], "INFO");
    assert_eq!(compiled["pods"], 2);
    let refused = parsed("refused: kube");
    assert_eq!(refused["level"], "ERROR");
    assert_eq!(refused["object"], "NetworkPolicy shop/allow");
    assert!(refused["timestamp"].is_string() && refused["target"].is_string(), "{refused}");
    cluster.stop();
}
