//! The API is gone, or not there at the start.

use std::process::Command;

use serde_json::Value;
use weir_apiserver::Kind;
use weir_control::live::Places;
use weir_control::live::control::control;

use crate::support::{DENY, address, get, sample};
use crate::{CLIENT, Cluster, PATIENCE, WEB, attached};

/// What `weir status` prints of the control process.
fn status(cluster: &Cluster) -> String {
    let run = cluster.world.run.clone();
    let mut text = Vec::new();
    control(&Places { run_dir: run.clone(), pin_dir: run }).unwrap().print(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

/// What `weir doctor` says of the source: level, and words.
fn doctor(cluster: &Cluster) -> (String, String) {
    let run = cluster.world.run.to_str().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["doctor", "-o", "json", "--run-dir", run, "--pin-dir", run])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut findings = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let found = findings.find(|finding| finding["check"] == "source");
    let found = found.unwrap_or_else(|| panic!("{text}"));
    let word = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (word("level"), format!("{} — {}", word("what"), word("remedy")))
}

#[test]
fn an_api_that_is_away_changes_nothing_and_is_said() {
    let mut cluster = Cluster::unfollowed();
    cluster.apply(DENY);
    cluster.follow(&["--metrics", "127.0.0.1:0"]);
    let address = address(cluster.control());
    cluster.until(CLIENT, WEB, false);
    // The answer to what is published comes after it.
    cluster.until_source(|source| source.state == "live" && get(&address, "/readyz").0 == 200);
    let of_pods =
        |name: &str| sample(&address, &format!("weir_control_source_{name}{{kind=\"pods\"}}"));
    assert_eq!((of_pods("connected"), of_pods("stale_seconds")), (1.0, 0.0));
    // What alerts and dashboard ask for of the source is there.
    let asked = [
        include_str!("../../../deploy/kustomize/overlays/service-monitor/prometheusrule.yaml"),
        include_str!("../../../deploy/grafana/weir.json"),
    ]
    .map(|text| {
        let names = text.split("weir_control_source_").skip(1);
        let end = |c: char| !c.is_ascii_lowercase() && c != '_';
        let names = names.map(|rest| of_pods(rest.split(end).next().unwrap()));
        names.count()
    });
    assert!(asked.iter().all(|count| *count > 0), "{asked:?}");

    cluster.server.down().unwrap();
    let source = cluster.until_source(|source| source.state == "stale");
    assert!(source.stale_since.is_some() && source.missing.is_empty(), "{source:?}");
    assert!(source.words.contains("refused"), "{source:?}");
    cluster.control().expect("cannot be followed: ");
    let text = status(&cluster);
    assert!(text.contains("  source    STALE since 2") && text.contains("goes on being"), "{text}");
    let (level, words) = doctor(&cluster);
    assert!(level == "fail" && words.contains("STALE since 2"), "{level} {words}");
    // Enforced as before, and ready as before.
    assert!(!cluster.allows(CLIENT, WEB));
    let (code, _, body) = get(&address, "/readyz");
    assert_eq!(code, 200);
    assert!(body.starts_with("ready; the source is STALE since"), "{body}");
    assert_eq!(of_pods("connected"), 0.0);
    // The kinds become stale one after the other.
    cluster.until_source(|_| of_pods("stale_seconds") >= 5.0);
    assert!(of_pods("failures_total") >= 1.0);
    // A dataplane that is restarted meanwhile is told what is known.
    cluster.dataplane = crate::support::Dataplane::restart(cluster.dataplane, &cluster.world.run);
    cluster.dataplane.next_within(PATIENCE);
    assert!(!cluster.allows(CLIENT, WEB));

    cluster.delete(Kind::NetworkPolicy, "shop/deny");
    cluster.server.up().unwrap();
    cluster.until(CLIENT, WEB, true);
    cluster.until_source(|source| source.state == "live" && source.words.is_empty());
    cluster.control().expect("is followed again");
    assert_eq!((of_pods("connected"), of_pods("stale_seconds")), (1.0, 0.0));
    assert!(status(&cluster).contains("  source    live"));
    assert_eq!(doctor(&cluster).0, "ok");
    // The watches have gone on; nothing had to be listed.
    assert_eq!(cluster.lists(), [1; 6]);
    assert_eq!(of_pods("relists_total"), 0.0);
    cluster.stop();
}

#[test]
fn a_restart_without_the_api_publishes_nothing_and_says_so() {
    let mut cluster = Cluster::unfollowed();
    cluster.apply(DENY);
    cluster.follow(&[]);
    cluster.until(CLIENT, WEB, false);
    cluster.control.take().unwrap().kill();
    cluster.server.down().unwrap();
    (cluster.dataplane.words, cluster.dataplane.last_ticket) =
        (vec![attached(3, "new", "10.0.0.9")], 3);
    cluster.follow(&["--metrics", "127.0.0.1:0"]);
    let address = address(cluster.control());
    let missing =
        "there has been no full list of namespaces, networkpolicies, pods since this process began";
    cluster.control().expect(&format!("refused: kube: {missing}"));
    let source = cluster.until_source(|source| source.state == "stale");
    assert_eq!(source.missing.len(), 6);
    // Whoever waits for a pod is told why it waits.
    cluster.dataplane.until_so("a reason", |dataplane| {
        let is_it = |words: &str| words.contains(missing) && words.contains("refused");
        dataplane.rejected.iter().any(|(ticket, words)| *ticket == 3 && is_it(words))
    });
    assert!(cluster.dataplane.settled.is_empty());
    let (code, _, body) = get(&address, "/readyz");
    assert_eq!((code, body), (503, format!("no policy table is enforced yet; {missing}\n")));
    assert_eq!(get(&address, "/healthz").0, 200);
    let text = status(&cluster);
    assert!(text.contains("not listed since the start: namespaces"), "{text}");
    assert!(text.contains("nothing is published, and the dataplane keeps"), "{text}");
    // The table of the process before is in force.
    assert!(!cluster.allows(CLIENT, WEB));
    cluster.delete(Kind::NetworkPolicy, "shop/deny");
    cluster.server.up().unwrap();
    cluster.until(CLIENT, WEB, true);
    cluster.control().expect("settled: kube: there has been no full list");
    cluster.until_source(|source| source.state == "live");
    assert_eq!(get(&address, "/readyz").2, "ready\n");
    cluster.stop();
}
