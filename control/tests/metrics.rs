//! `weir-control --metrics`, asked over HTTP on the loopback.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod support;

use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{ALLOW, DENY, Dataplane, MORE, PATIENCE, PODS, World, address, get, sample};

const BAD: &str = "\
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: bad}
spec: {podSelector: {matchLabels: {app: none}}, ingress: [{ports: [{port: 0}]}, {form: []}]}
";

fn until(address: &str, name: &str, value: f64) {
    let end = Instant::now() + PATIENCE;
    while (sample(address, name) - value).abs() > f64::EPSILON {
        assert!(Instant::now() < end, "{name} never became {value}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn metrics_follow_the_input_and_the_receipts() {
    let world = World::new();
    world.write("pods.yaml", PODS);
    world.write("policies.yaml", &[ALLOW, BAD].concat());
    let mut control = world.control_with(&["--metrics", "127.0.0.1:0"]);
    let address = address(&mut control);

    // Nothing is enforced yet.
    control.expect("is weir-dataplane running?");
    assert_eq!(get(&address, "/healthz").0, 200);
    let (code, _, body) = get(&address, "/readyz");
    assert_eq!((code, body.as_str()), (503, "no policy table is enforced yet\n"));
    until(&address, "weir_policies", 2.0);
    assert_eq!(sample(&address, "weir_unsupported_rules"), 2.0);
    assert_eq!(sample(&address, "weir_complaints{severity=\"refused\"}"), 2.0);
    assert_eq!(sample(&address, "weir_endpoints{state=\"policed\"}"), 2.0);
    assert_eq!(sample(&address, "weir_table_generation"), 0.0);
    assert_eq!(sample(&address, "weir_policy_programming_seconds_count"), 0.0);

    let mut dataplane = Dataplane::start(&world.run, 41);
    assert_eq!(dataplane.next(), 42);
    until(&address, "weir_table_generation", 42.0);
    assert_eq!(get(&address, "/readyz").0, 200);
    assert_eq!(sample(&address, "weir_dataplane_connected"), 1.0);
    assert_eq!(sample(&address, "weir_policy_programming_seconds_count"), 1.0);
    // The change waited for the dataplane; that counts.
    let waited = sample(&address, "weir_policy_programming_seconds_sum");

    // A pod that comes, in place; a policy that is repaired, as a generation.
    world.write("more.yaml", MORE);
    dataplane.until_announced(1);
    until(&address, "weir_policy_programming_seconds_count", 2.0);
    assert_eq!(sample(&address, "weir_endpoints{state=\"policed\"}"), 3.0);
    assert_eq!(sample(&address, "weir_table_generation"), 42.0);
    world.write("policies.yaml", ALLOW);
    assert_eq!(dataplane.next(), 43);
    until(&address, "weir_table_generation", 43.0);
    assert_eq!(sample(&address, "weir_unsupported_rules"), 0.0);
    until(&address, "weir_policy_programming_seconds_count", 3.0);
    let both = sample(&address, "weir_policy_programming_seconds_sum") - waited;
    assert!(both > 0.0 && both < 2.0, "{both} s for two changes");

    // A restart of the dataplane is no event of the source.
    drop(dataplane);
    until(&address, "weir_dataplane_connected", 0.0);
    assert_eq!(get(&address, "/readyz").0, 200);
    let mut dataplane = Dataplane::start(&world.run, 0);
    dataplane.next();
    until(&address, "weir_dataplane_connected", 1.0);
    assert_eq!(sample(&address, "weir_policy_programming_seconds_count"), 3.0);
    control.stop(Signal::TERM);
}

/// A scraper that holds its connections open keeps nobody from being isolated.
#[test]
fn connections_that_say_nothing_delay_no_policy() {
    let world = World::new();
    world.write("pods.yaml", PODS);
    let mut dataplane = Dataplane::start(&world.run, 0);
    let mut control = world.control_with(&["--metrics", "[::]:0"]);
    control.expect("there is no authentication");
    let port = address(&mut control).rsplit(':').next().unwrap().parse().unwrap();
    dataplane.until("10.0.0.2", "10.0.0.1", true);
    let idle: Vec<TcpStream> =
        (0..100).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    let pid = control.pid();
    let open = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    thread::sleep(Duration::from_millis(200));
    assert!(open() < 100, "{} descriptors", open());
    world.write("deny.yaml", DENY);
    assert!(dataplane.until("10.0.0.2", "10.0.0.1", false) < Duration::from_secs(5));
    drop(idle);
    control.stop(Signal::TERM);
}

/// A file of which nothing is in force is no readiness.
#[test]
fn an_unreadable_file_is_said_by_readyz_and_counted() {
    let world = World::new();
    world.write("pods.yaml", PODS);
    world.write("policy.yaml", "{");
    let mut dataplane = Dataplane::start(&world.run, 0);
    let mut control = world.control_with(&["--metrics", "127.0.0.1:0"]);
    let address = address(&mut control);
    dataplane.next();
    until(&address, "weir_table_generation", 1.0);
    let (code, _, body) = get(&address, "/readyz");
    assert_eq!(code, 503);
    assert_eq!(body, "1 file cannot be read, and nothing of it is in force\n");
    assert_eq!(sample(&address, "weir_not_enforced"), 1.0);
    assert_eq!(sample(&address, "weir_unsupported_rules"), 0.0);
    world.write("policy.yaml", ALLOW);
    until(&address, "weir_not_enforced", 0.0);
    assert_eq!(get(&address, "/readyz").0, 200);
    // What was read once stays in force, so only the present content counts as not enforced.
    world.write("policy.yaml", "{");
    until(&address, "weir_not_enforced", 1.0);
    assert_eq!(get(&address, "/readyz").0, 200);
    control.stop(Signal::TERM);
}

#[test]
fn the_text_is_what_prometheus_reads() {
    let world = World::new();
    let mut control = world.control_with(&["--metrics", "127.0.0.1:0"]);
    let address = address(&mut control);
    let (code, head, text) = get(&address, "/metrics");
    assert_eq!(code, 200);
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(text.ends_with("# EOF\n"), "{text}");
    for (name, kind) in [
        ("weir_policies", "gauge"),
        ("weir_unsupported_rules", "gauge"),
        ("weir_endpoints", "gauge"),
        ("weir_table_generation", "gauge"),
        ("weir_policy_programming_seconds", "histogram"),
    ] {
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name}:\n{text}");
        assert!(text.contains(&format!("# HELP {name} ")), "{name}:\n{text}");
    }
    assert_eq!(get(&address, "/other").0, 404);
    control.stop(Signal::INT);
}

#[test]
fn an_address_that_cannot_be_served_is_said() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    for (address, part) in [
        (taken.as_str(), "in use"),
        ("127.0.0.1", "--metrics 127.0.0.1 "),
        ("192.0.2.1:9101", "--metrics 192.0.2.1:9101 "),
        ("127.0.0.1:99999", "--metrics 127.0.0.1:99999 "),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_weir-control"))
            .args(["--source", &format!("dir:{}", world.folder.display())])
            .args(["--socket", "/nonexistent/socket", "--metrics", address])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{address}: {text}");
        assert!(text.contains(part), "{address}: {text}");
        assert_eq!(text.trim().lines().count(), 1, "{address}: {text}");
    }
}
