//! What weir-control leaves for `weir status`, seen from another process.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod support;

use std::time::Instant;

use rustix::process::Signal;
use support::{ALLOW, Dataplane, PATIENCE, PODS, World};
use weir_control::live::Places;
use weir_control::live::control::{ControlStatus, State, control};

/// Waits until the record is as wanted.
fn until(world: &World, wanted: impl Fn(&ControlStatus) -> bool) -> ControlStatus {
    let places = Places { run_dir: world.run.clone(), pin_dir: world.run.clone() };
    let end = Instant::now() + PATIENCE;
    loop {
        let status = control(&places).unwrap();
        if wanted(&status) {
            return status;
        }
        assert!(Instant::now() < end, "{status:?}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn what_is_refused_is_on_record_until_it_is_settled() {
    let world = World::new();
    world.write("pods.yaml", PODS);
    let bad = ALLOW.replace("from:", "ports: [{port: 70000}], from:");
    world.write("policy.yaml", &bad);
    assert_eq!(until(&world, |_| true).state, State::Absent);
    let mut dataplane = Dataplane::start(&world.run, 0);
    let control = world.control();
    dataplane.until("10.0.0.2", "10.0.0.1", false);

    let status = until(&world, |status| {
        status.record.as_ref().is_some_and(|record| record.generation == 1 && record.connected)
    });
    assert_eq!(status.state, State::Running);
    let record = status.record.unwrap();
    assert_eq!((record.policies, record.pods, record.unsupported_rules), (1, 2, 1));
    let [complaint] = &record.complaints[..] else { panic!("{record:?}") };
    assert!(complaint.file.ends_with("policy.yaml"), "{complaint:?}");
    assert_eq!((complaint.severity.as_str(), complaint.line), ("refused", 4));
    assert_eq!(complaint.object, "NetworkPolicy shop/allow");
    assert_eq!(complaint.field, "spec.ingress[0].ports[0].port");
    assert!(complaint.consequence.contains("the rule is refused and allows nothing"));

    world.write("policy.yaml", ALLOW);
    dataplane.until("10.0.0.2", "10.0.0.1", true);
    let settled = until(&world, |status| {
        status.record.as_ref().is_some_and(|record| record.complaints.is_empty())
    });
    assert_eq!(settled.record.unwrap().unsupported_rules, 0);
    control.stop(Signal::TERM);
    assert_eq!(until(&world, |_| true).state, State::Dead);
}

#[test]
fn a_record_of_a_dead_process_says_so_and_the_next_one_takes_over() {
    let world = World::new();
    world.write("pods.yaml", PODS);
    let mut dataplane = Dataplane::start(&world.run, 0);
    let first = world.control();
    dataplane.next();
    let alive = until(&world, |status| status.state == State::Running);
    first.kill();
    let dead = until(&world, |status| status.state == State::Dead);
    assert_eq!(dead.record.unwrap().pid, alive.record.as_ref().unwrap().pid);

    let second = world.control();
    let pid = alive.record.unwrap().pid;
    until(&world, |status| {
        status.state == State::Running && status.record.as_ref().is_some_and(|r| r.pid != pid)
    });
    // A third one does not write over it, and says so.
    let mut third = world.control();
    third.expect("another weir-control writes it");
    third.stop(Signal::TERM);
    assert_eq!(until(&world, |_| true).state, State::Running);
    second.stop(Signal::TERM);
}

#[test]
fn a_dataplane_that_goes_away_is_on_record_and_so_is_a_new_run_directory() {
    let world = World::new();
    world.write("pods.yaml", PODS);
    let mut dataplane = Dataplane::start(&world.run, 0);
    let mut control = world.control();
    dataplane.next();
    until(&world, |status| status.record.as_ref().is_some_and(|record| record.connected));
    drop(dataplane);
    control.expect("closed the connection");
    until(&world, |status| status.record.as_ref().is_some_and(|record| !record.connected));
    // At once: control writes into it meanwhile.
    std::fs::rename(&world.run, world.run.with_extension("gone")).unwrap();
    let mut dataplane = Dataplane::start(&world.run, 0);
    dataplane.next();
    until(&world, |status| {
        status.state == State::Running && status.record.as_ref().is_some_and(|r| r.connected)
    });
    control.stop(Signal::TERM);
}
