//! `weir-control` as a process, against a dataplane that accepts every valid generation.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod support;

use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use support::{ALLOW, DENY, Dataplane, MORE, OnChange, PODS, World};

#[test]
fn a_changed_file_changes_verdicts_soon() {
    let world = World::new();
    world.write("pods.yaml", PODS);
    let mut dataplane = Dataplane::start(&world.run, 0);
    let control = world.control();
    dataplane.until("10.0.0.2", "10.0.0.1", true);
    let mut times = Vec::new();
    for _ in 0..10 {
        world.write("deny.yaml", DENY);
        times.push(dataplane.until("10.0.0.2", "10.0.0.1", false));
        world.remove("deny.yaml");
        times.push(dataplane.until("10.0.0.2", "10.0.0.1", true));
    }
    times.sort_unstable();
    println!("file change to receipt: quartile {:?}, worst {:?}", times[4], times[19]);
    // The lower quartile: other tests run meanwhile and keep some of them waiting. What each
    // change has to wait for shows in it.
    assert!(times[4] < Duration::from_millis(250), "{times:?}");
    assert!(times[19] < Duration::from_secs(5), "{times:?}");
    control.stop(Signal::TERM);
}

#[test]
fn pods_come_and_go_without_a_generation() {
    let world = World::new();
    world.write("pods.yaml", PODS);
    world.write("allow.yaml", ALLOW);
    let mut dataplane = Dataplane::start(&world.run, 0);
    let mut control = world.control();
    let generation = dataplane.next();
    assert!(dataplane.allows("10.0.0.2", "10.0.0.1"));
    assert!(!dataplane.allows("10.0.0.3", "10.0.0.1"));

    // A second client of a known identity.
    world.write("more.yaml", MORE);
    dataplane.until_announced(1);
    assert!(dataplane.allows("10.0.0.3", "10.0.0.1"));
    control.expect("addresses changed in place, enforced");
    control.expect("set=1 removed=0 flows_rejudged=7");
    // The same again in other words: nothing to tell.
    world.write("more.yaml", &MORE.replace("hash: x1", "hash: x2"));
    assert_eq!(dataplane.poll(Duration::from_millis(300)), None);
    assert_eq!(dataplane.announced.len(), 1);
    world.remove("more.yaml");
    dataplane.until_announced(2);
    assert!(!dataplane.allows("10.0.0.3", "10.0.0.1"));
    control.expect("set=0 removed=1");
    let (first, second) = (dataplane.announced[0], dataplane.announced[1]);
    assert_eq!((first.0, second.0), (generation, generation));
    assert_eq!(second.1, first.1 + 1);

    // One of a namespace that had no pods needs new classes.
    world.write("more.yaml", &MORE.replace("namespace: shop", "namespace: stock"));
    assert!(dataplane.next() > generation);
    assert_eq!(dataplane.announced.len(), 2);
    control.stop(Signal::INT);
}

/// From the moment on in which a policy restricts egress, and then by the kinds of their backends.
#[test]
fn services_count_once_a_policy_restricts_egress() {
    const NOTHING: Duration = Duration::from_millis(300);
    let service = |endpoints: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{namespace: shop, name: web}}\nspec: \
             {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}\n---\napiVersion: \
             discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{namespace: shop, name: web-1, \
             labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\nports: [{{port: \
             80}}]\nendpoints: [{endpoints}]\n"
        )
    };
    let web = "{addresses: [10.0.0.1], nodeName: n1}";
    let world = World::new();
    world.write("pods.yaml", &format!("{PODS}---\n{MORE}"));
    world.write("service.yaml", &service(""));
    let mut dataplane = Dataplane::start(&world.run, 0);
    let control = world.control_with(&["--node", "n1"]);
    assert_eq!(dataplane.next(), 1);
    assert!(dataplane.allows("10.0.0.2", "10.96.0.1"), "nobody restricts anything");
    world.write("service.yaml", &service(web));
    assert_eq!(dataplane.poll(NOTHING), None, "nobody asks for it");
    world.write(
        "egress.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {namespace: shop, name: \
         out}\nspec: {podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: \
         [{to: [{podSelector: {matchLabels: {app: web}}}]}]}\n",
    );
    assert_eq!(dataplane.next(), 2);
    assert!(dataplane.allows("10.0.0.2", "10.96.0.1"));
    assert!(!dataplane.allows("10.0.0.2", "10.96.0.2"));
    // One of another kind, on another node: which of them a connection gets nobody here sees.
    let other = "{addresses: [10.0.0.3], nodeName: n2}";
    world.write("service.yaml", &service(&format!("{web}, {other}")));
    assert_eq!(dataplane.next(), 3);
    assert!(!dataplane.allows("10.0.0.2", "10.96.0.1"));
    // On this one its own hook does.
    world.write("service.yaml", &service(&format!("{web}, {}", other.replace("n2", "n1"))));
    assert_eq!(dataplane.next(), 4);
    assert!(dataplane.allows("10.0.0.2", "10.96.0.1"));
    // More of a kind; none that is ready; one that is not there any more.
    let unready = "{addresses: [10.0.0.1], nodeName: n1, conditions: {ready: false}}";
    let gone = "{addresses: [10.0.0.9], nodeName: n2, targetRef: {kind: Pod, name: gone}}";
    world.write(
        "service.yaml",
        &service(&format!("{unready}, {unready}, {}, {gone}", other.replace("n2", "n1"))),
    );
    assert_eq!(dataplane.poll(NOTHING), None, "the same kinds");
    world.write("service.yaml", &service(""));
    assert_eq!(dataplane.next(), 5);
    assert!(!dataplane.allows("10.0.0.2", "10.96.0.1"), "there is none");
    assert!(dataplane.announced.is_empty());
    control.stop(Signal::TERM);
}

#[test]
fn a_change_in_place_that_is_not_acknowledged_becomes_a_generation() {
    for (on_change, words) in [
        (OnChange::Refuse, "the dataplane refused generation 1: the test said so; trying again"),
        (OnChange::Ignore, "no answer from the other side within 5000 ms; trying again"),
    ] {
        let world = World::new();
        world.write("pods.yaml", PODS);
        world.write("allow.yaml", ALLOW);
        let mut dataplane = Dataplane::start(&world.run, 0);
        let mut control = world.control();
        assert_eq!(dataplane.next(), 1);
        dataplane.on_change = on_change;
        world.write("more.yaml", MORE);
        dataplane.until_announced(1);
        assert_eq!(dataplane.next(), 2);
        assert!(dataplane.allows("10.0.0.3", "10.0.0.1"));
        control.expect(words);
        control.expect("generation enforced by all workers generation=2");
        // From then on in place again.
        dataplane.on_change = OnChange::Acknowledge;
        world.remove("more.yaml");
        dataplane.until_announced(2);
        assert_eq!(dataplane.announced[1].0, 2);
        control.expect("addresses changed in place, enforced generation=2");
        control.stop(Signal::TERM);
    }
}

#[test]
fn a_full_address_map_becomes_a_generation_and_is_not_announced() {
    let world = World::new();
    world.write("pods.yaml", PODS);
    world.write("allow.yaml", ALLOW);
    let mut dataplane = Dataplane::start(&world.run, 0);
    let mut control = world.control();
    assert_eq!(dataplane.next(), 1);
    // Room is for a quarter more than at the beginning, and a thousand, rounded up.
    let many_pods = 3000;
    let mut many = String::new();
    for number in 0..many_pods {
        many += &MORE
            .replace("name: more", &format!("name: more-{number}"))
            .replace("10.0.0.3", &format!("10.1.{}.{}", number / 200, number % 200 + 1));
        many += "---\n";
    }
    world.write("many.yaml", &many);
    assert_eq!(dataplane.next(), 2);
    control.expect("the address map cannot take the change");
    assert!(dataplane.allows("10.1.1.100", "10.0.0.1"));
    assert_eq!(dataplane.announced, []);
    control.stop(Signal::TERM);
}

#[test]
fn generations_rise_across_restarts_of_either_side() {
    let world = World::new();
    world.write("pods.yaml", PODS);
    let mut control = world.control();
    control.expect("is weir-dataplane running?");

    let mut dataplane = Dataplane::start(&world.run, 41);
    assert_eq!(dataplane.next(), 42);
    // The dataplane restarts and has forgotten everything: the same state, a higher number.
    drop(dataplane);
    control.expect("closed the connection");
    let mut dataplane = Dataplane::start(&world.run, 0);
    let after = dataplane.next();
    assert!(after > 42, "{after}");
    // weir-control restarts and counts on from the dataplane's number.
    control.stop(Signal::TERM);
    let mut control = world.control();
    let again = dataplane.next();
    assert!(again > after, "{again} after {after}");
    control.expect("generation enforced by all workers");
    control.stop(Signal::TERM);
}

#[test]
fn bad_input_is_named_and_the_rest_enforced() {
    let world = World::new();
    world.write("pods.yaml", PODS);
    let mut dataplane = Dataplane::start(&world.run, 0);
    let mut control = world.control();
    dataplane.until("10.0.0.2", "10.0.0.1", true);

    // Refused, and it isolates.
    let bad = ALLOW.replace("from:", "ports: [{port: 70000}], from:");
    world.write("policy.yaml", &bad);
    dataplane.until("10.0.0.2", "10.0.0.1", false);
    control.expect("policy.yaml:4: NetworkPolicy shop/allow: spec.ingress[0].ports[0].port: 70000");

    // Repaired; then half a file: the last good content stays.
    world.write("policy.yaml", ALLOW);
    dataplane.until("10.0.0.2", "10.0.0.1", true);
    control.expect("settled: ");
    world.write("policy.yaml", "apiVersion: \"networking.k8s.io");
    control.expect("its last good content stays in force");
    assert!(dataplane.poll(Duration::from_millis(100)).is_none());
    assert!(!dataplane.allows("10.9.9.9", "10.0.0.1"));
    assert!(dataplane.allows("10.0.0.2", "10.0.0.1"));

    // The whole folder is swapped for another.
    let other = world.folder.with_extension("new");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("pods.yaml"), PODS).unwrap();
    fs::rename(&world.folder, world.folder.with_extension("old")).unwrap();
    fs::rename(&other, &world.folder).unwrap();
    dataplane.until("10.9.9.9", "10.0.0.1", true);
    control.expect("watching the new one");
    world.write("deny.yaml", DENY);
    dataplane.until("10.0.0.2", "10.0.0.1", false);
    control.stop(Signal::TERM);
}

/// A file that is broken when weir-control begins anew: what it said before stays in force.
#[test]
fn a_restart_over_a_broken_file_opens_nothing() {
    let world = World::new();
    world.write("pods.yaml", PODS);
    world.write("deny.yaml", DENY);
    let mut dataplane = Dataplane::start(&world.run, 0);
    let mut control = world.control();
    dataplane.until("10.0.0.2", "10.0.0.1", false);
    control.expect("generation enforced by all workers");
    control.kill();
    world.write("deny.yaml", "apiVersion: \"networking.k8s.io");
    let mut control = world.control();
    control.expect("its last good content stays in force");
    dataplane.next();
    assert!(!dataplane.allows("10.0.0.2", "10.0.0.1"));
    control.stop(Signal::TERM);
}

/// Without a record of the last good content the dataplane's table is left alone.
#[test]
fn what_may_have_been_in_force_is_not_replaced() {
    let world = World::new();
    world.write("pods.yaml", PODS);
    world.write("deny.yaml", "apiVersion: \"networking.k8s.io");
    let mut dataplane = Dataplane::start(&world.run, 7);
    // As a dataplane leaves it that enforces something.
    fs::write(world.run.join(weir_table::TABLE_FILE), "").unwrap();
    let mut control = world.control();
    control.expect("until then nothing is published, and the dataplane keeps the table");
    assert_eq!(dataplane.poll(Duration::from_millis(300)), None);
    // Repaired.
    world.write("deny.yaml", DENY);
    dataplane.until("10.0.0.2", "10.0.0.1", false);
    // From now on its own memory is complete: a new broken file holds nothing up.
    world.write("more.yaml", "{");
    world.remove("deny.yaml");
    dataplane.until("10.0.0.2", "10.0.0.1", true);
    control.stop(Signal::TERM);
}

#[test]
fn it_says_why_it_cannot_start() {
    for (source, part) in [
        ("kube:x", "neither kube nor dir:PATH"),
        ("dir:/nonexistent/folder", "/nonexistent/folder"),
        ("ftp:x", "neither kube nor dir:PATH"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_weir-control"))
            .args(["--source", source, "--socket", "/nonexistent/socket"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{source}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(part), "{source}: {text}");
        assert_eq!(text.trim().lines().count(), 1, "{source}: {text}");
    }
}
