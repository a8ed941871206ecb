//! `weir-dataplane --metrics`: what a scraper, a kubelet's probes and a reader of JSON logs get.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::{Cni, Lab};
use crate::node::{count, node, settled};
use crate::probe::By::{Tcp, Udp};
use crate::probe::{denied, differences, reaches};
use crate::turn;
use crate::weir::Weir;

/// In the lab's own network: nobody else's port.
const ADDRESS: &str = "127.0.0.1:9465";
/// weir-control's.
const CONTROL: &str = "127.0.0.1:9464";
const OPTIONS: [&str; 6] = ["--workers", "2", "--log", "json", "--metrics", ADDRESS];
const PATIENCE: Duration = Duration::from_secs(10);

/// Status code and body; `None` while nobody listens.
fn get(lab: &Lab, path: &str) -> Option<(u16, String)> {
    get_from(lab, ADDRESS, path)
}

fn get_from(lab: &Lab, address: &str, path: &str) -> Option<(u16, String)> {
    lab.within("node", || {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().unwrap(), body.to_owned()))
    })
}

/// The value of a sample, by its name with labels.
fn sample(lab: &Lab, name: &str) -> f64 {
    let (code, text) = get(lab, "/metrics").unwrap();
    assert_eq!(code, 200, "{text}");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}:\n{text}")).parse().unwrap()
}

#[test]
fn what_is_told_is_what_the_node_does() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let mut weir = Weir::start(&lab, folder, &OPTIONS);
    weir.apply("deny.yaml", &crate::node::example("deny-all-for-testweb"));
    let told =
        [denied("curl", "web", Tcp), reaches("curl", "kurl", Udp), reaches("node", "web", Tcp)];
    crate::probe::serve(&lab, "kurl");
    let found = differences(&lab, &told);
    assert!(found.is_empty(), "{found:#?}\n{}", weir.words());

    for (path, body) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        assert_eq!(get(&lab, path), Some((200, body.to_owned())), "{}", weir.words());
    }
    assert_eq!(get(&lab, "/").unwrap().0, 404);
    let before = settled(&weir);
    for (name, expect) in [
        ("weir_table_generation", weir.generation()),
        ("weir_publisher_connected", 1),
        ("weir_publisher_gone_seconds", 0),
        ("weir_endpoints{state=\"enforced\"}", 3),
        ("weir_endpoints{state=\"not_enforced\"}", 0),
        ("weir_endpoints{state=\"quarantined\"}", 0),
        ("weir_worker_generation{worker=\"1\"}", weir.generation()),
        ("weir_flow_table_capacity", 262_144),
    ] {
        assert_eq!(sample(&lab, name), expect as f64, "{name}\n{}", weir.words());
    }
    const DENIED: &str =
        // Where both ends are here, the sender's hook has asked for both.
        "weir_packets_total{direction=\"egress\",verdict=\"deny\",reason=\"policy_ingress\"}";
    let counted = [
        ("weir_punts_total", "steering.punted"),
        ("weir_hook_events_total{event=\"node\"}", "steering.node"),
        ("weir_worker_events_total{event=\"rx_frames\"}", "counters.rx_frames"),
        (DENIED, "drops.policy_ingress"),
    ];
    let samples = counted.map(|(name, _)| sample(&lab, name));
    let after = weir.status();
    for ((name, counter), found) in counted.into_iter().zip(samples) {
        let range = count(&before, counter) as f64..=count(&after, counter) as f64;
        assert!(found > 0.0 && range.contains(&found), "{name} {found}, by status {range:?}");
    }
    assert!(sample(&lab, "weir_decisions_total{verdict=\"allow\"}") >= 1.0);
    assert!(sample(&lab, "weir_worker_heartbeat_age_seconds{worker=\"0\"}") < 3.0);
    assert!(sample(&lab, "weir_table_age_seconds") > 0.0);

    // Everything that was logged is JSON, with the fields apart.
    let log = weir.dataplane_log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let in_force = lines.iter().find(|line| line["message"] == "policy table in force").unwrap();
    assert!(in_force["generation"].is_u64() && in_force["level"] == "INFO", "{in_force}");

    // A dataplane alone goes on by the last table: ready, and it says since when it is alone.
    weir.kill();
    assert_eq!(get(&lab, "/healthz"), None);
    weir.start_dataplane(&OPTIONS);
    assert_eq!(get(&lab, "/readyz"), Some((200, "ready\n".to_owned())), "{}", weir.words());
    assert_eq!(sample(&lab, "weir_publisher_connected"), 0.0);
    assert!(sample(&lab, "weir_publisher_gone_seconds") > 0.0);
    assert!(sample(&lab, "weir_table_generation") >= 1.0);
}

/// Before there is any table: alive, and not ready.
#[test]
fn a_dataplane_without_a_table_is_not_ready() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Ptp);
    let mut weir = Weir::start(&lab, folder, &["--workers", "1"]);
    weir.kill();
    std::fs::remove_dir_all(lab.node_path("/run/weir")).unwrap();
    weir.start_dataplane(&OPTIONS);
    assert_eq!(get(&lab, "/healthz").unwrap().0, 200);
    let (code, why) = get(&lab, "/readyz").unwrap();
    assert_eq!(code, 503);
    assert!(why.contains("no policy table is enforced yet"), "{why}");
    assert_eq!(sample(&lab, "weir_table_generation"), 0.0);
    assert_eq!(sample(&lab, "weir_endpoints{state=\"not_enforced\"}"), 3.0);
    weir.start_control();
    weir.wait("readiness", |_| get(&lab, "/readyz").is_some_and(|(code, _)| code == 200));
    assert_eq!(sample(&lab, "weir_endpoints{state=\"enforced\"}"), 3.0);

    // What cannot be served is said, and nothing is touched.
    let dataplane = crate::weir::binary("weir-dataplane");
    let out = lab.attempt("node", &dataplane, &["--metrics", "9465"]);
    let told = crate::lab::text(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{told}");
    assert!(told.contains("--metrics 9465 (as in 127.0.0.1:9465) cannot be served"), "{told}");
}

/// What dashboard and alerts ask for is there: by the samples of both daemons as they are served.
#[test]
fn dashboard_and_alerts_ask_for_what_is_served() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let _weir = Weir::start(&lab, folder.clone(), &OPTIONS);
    let source = format!("dir:{}", folder.display());
    let other = ["--source", &source, "--socket", "/run/other/x.sock", "--metrics", CONTROL];
    let mut control = lab.enter("node", &crate::weir::binary("weir-control"));
    let mut control = control.args(other).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    let served = loop {
        let both = [ADDRESS, CONTROL].map(|address| get_from(&lab, address, "/metrics"));
        if let [Some((200, dataplane)), Some((200, control))] = both {
            break dataplane + &control;
        }
        assert!(start.elapsed() < PATIENCE, "weir-control serves no metrics");
        std::thread::sleep(Duration::from_millis(10));
    };
    control.kill().unwrap();
    control.wait().unwrap();

    let deploy = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
    let read = |name: &str| std::fs::read_to_string(format!("{deploy}/{name}")).unwrap();
    let board: Value = serde_json::from_str(&read("grafana/weir.json")).unwrap();
    let mut asked = vec![read("kustomize/overlays/service-monitor/prometheusrule.yaml")];
    for target in board["panels"].as_array().unwrap().iter().flat_map(|p| p["targets"].as_array()) {
        asked.extend(target.iter().map(|t| t["expr"].as_str().unwrap().to_owned()));
    }
    let selectors: Vec<_> = asked.iter().flat_map(|text| selectors(text)).collect();
    assert!(selectors.len() > 30, "found only {selectors:?}");
    for (name, matchers) in &selectors {
        let samples = || {
            served.lines().filter_map(|line| {
                let (sample, labels) = line.split_once(['{', ' '])?;
                (sample == *name).then_some(labels)
            })
        };
        // Those of a source that is not followed here: control's tests look for them.
        if name.starts_with("weir_control_source_") {
            continue;
        }
        assert!(samples().next().is_some(), "nobody serves {name}");
        for (label, value) in matchers {
            let wanted = format!("{label}=\"{value}\"");
            let found = samples().any(|labels| labels.contains(&wanted));
            assert!(found, "no sample of {name} with {wanted}");
        }
    }
}

/// The metrics that expressions name, with the labels and values that they ask for. Those that
/// Prometheus adds when it scrapes are left out.
fn selectors(text: &str) -> Vec<(&str, Vec<(&str, &str)>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("weir_") {
        let begins = !rest[..at].ends_with(is_name);
        let from = &rest[at..];
        let (name, after) = from.split_at(from.find(|c| !is_name(c)).unwrap_or(from.len()));
        let braces = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        if begins {
            let mut matchers = Vec::new();
            for matcher in braces.map_or("", |(inner, _)| inner).split(", ") {
                let Some((label, value)) = matcher.split_once('=') else { continue };
                let value = value.trim_start_matches('~').trim_matches('"');
                if !["job", "node", "endpoint"].contains(&label) {
                    matchers.extend(value.split('|').map(|one| (label, one)));
                }
            }
            found.push((name, matchers));
        }
        rest = after;
    }
    found
}
