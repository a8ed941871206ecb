//! `weir-control` as a process: what the CNI plugin says of this node's pods, told by a dataplane.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod support;

use rustix::process::Signal;
use support::{ALLOW, Dataplane, PODS, World};
use weir_table::cni::PodRef;
use weir_table::publish::{Attached, CutOff, News, NotEnforced};

/// A client as the API server shows it before its kubelet has said its address.
const NEW: &str = "\
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: new, uid: 11-22, labels: {app: client}}
status: {phase: Pending}
";

fn attached(ticket: u64, name: &str, address: &str) -> News {
    News::Attached(Attached {
        ticket,
        pod: PodRef { namespace: "shop".into(), name: name.into(), uid: None },
        addresses: vec![address.parse().unwrap()],
        host_ports: Vec::new(),
    })
}

fn begin(world: &World) -> Dataplane {
    world.write("pods.yaml", PODS);
    world.write("allow.yaml", ALLOW);
    Dataplane::start(&world.run, 0)
}

#[test]
fn a_pod_is_settled_once_the_dataplane_enforces_its_address() {
    let world = World::new();
    let mut dataplane = begin(&world);
    world.write("new.yaml", NEW);
    let mut control = world.control();
    let generation = dataplane.next();
    assert_eq!((dataplane.heard, dataplane.class("10.0.0.9")), (0, None));

    // In place, since it is of a class that there is.
    dataplane.tell(attached(5, "new", "10.0.0.9"));
    dataplane.until_so("the pod to be settled", |d| d.settled_tickets() == [5]);
    assert_eq!(dataplane.announced.len(), 1);
    assert!(dataplane.allows("10.0.0.9", "10.0.0.1"));
    assert_eq!(dataplane.class("10.0.0.9"), dataplane.class("10.0.0.2"));
    let settled = &dataplane.settled[0];
    assert_eq!((settled.generation, settled.epoch), (generation, dataplane.announced[0].1));
    control.expect("pods of this node settled");

    // Its kubelet says so as well: nothing new.
    world.write("new.yaml", &NEW.replace("phase: Pending", "podIP: 10.0.0.9"));
    // Deleted: nobody's, although the status still says it.
    dataplane.tell(News::Detached { ticket: 5 });
    dataplane.until_so("the address to be nobody's", |d| d.class("10.0.0.9").is_none());
    assert!(!dataplane.allows("10.0.0.9", "10.0.0.1"));

    // The next that gets it is nobody until it is known.
    dataplane.tell(attached(8, "next", "10.0.0.9"));
    dataplane.until_so("a reason", |d| !d.rejected.is_empty());
    assert_eq!(dataplane.rejected[0].0, 8);
    assert!(dataplane.rejected[0].1.contains("knows no pod shop/next"));
    assert_eq!(dataplane.class("10.0.0.9"), None);
    world.write("next.yaml", &NEW.replace("name: new", "name: next").replace("client", "web"));
    dataplane.until_so("the next to be settled", |d| d.settled_tickets() == [5, 8]);
    assert_eq!(dataplane.class("10.0.0.9"), dataplane.class("10.0.0.1"));
    control.stop(Signal::TERM);
}

/// Nothing is published before it is known whose addresses are whose: neither to a dataplane that
/// starts again nor by a control that does.
#[test]
fn what_is_published_first_knows_all_words() {
    let world = World::new();
    let mut dataplane = begin(&world);
    world.write("new.yaml", NEW);
    dataplane.words = vec![attached(3, "new", "10.0.0.9"), attached(7, "client", "10.0.0.22")];
    dataplane.last_ticket = 12;
    for _ in 0..2 {
        dataplane.settled.clear();
        let control = world.control();
        dataplane.next();
        assert_eq!(dataplane.heard, 12);
        assert!(dataplane.allows("10.0.0.9", "10.0.0.1"));
        // Of a pod with a word its status does not count.
        assert!(dataplane.allows("10.0.0.22", "10.0.0.1"));
        assert_eq!(dataplane.class("10.0.0.2"), None);
        dataplane.until_so("both to be settled", |d| d.settled_tickets() == [3, 7]);
        control.stop(Signal::TERM);
    }
    let control = world.control();
    dataplane.next();
    drop(dataplane);
    let mut dataplane = Dataplane::start(&world.run, 40);
    dataplane.words = vec![attached(3, "new", "10.0.0.9"), attached(13, "web", "10.0.0.77")];
    dataplane.last_ticket = 13;
    assert!(dataplane.next() > 40);
    assert_eq!(dataplane.heard, 13);
    assert!(dataplane.class("10.0.0.77").is_some() && dataplane.class("10.0.0.1").is_none());
    // Withdrawn while nobody listened: its status says the address, and it is not that.
    assert_eq!((dataplane.class("10.0.0.22"), dataplane.class("10.0.0.2").is_some()), (None, true));
    dataplane.until_so("these to be settled", |d| d.settled_tickets() == [3, 13]);
    control.stop(Signal::TERM);
}

#[test]
fn many_that_come_together_are_enforced_together() {
    const PODS: u64 = 200;
    let world = World::new();
    let mut dataplane = begin(&world);
    let mut all = String::new();
    for n in 1..=PODS {
        all += &NEW.replace("name: new", &format!("name: new-{n}"));
        all += "---\n";
    }
    world.write("new.yaml", &all);
    let control = world.control();
    dataplane.next();
    for n in 1..=PODS {
        dataplane.tell(attached(n, &format!("new-{n}"), &format!("10.1.0.{n}")));
    }
    dataplane.until_so("all to be settled", |d| d.settled_tickets().len() == PODS as usize);
    let changes = dataplane.announced.len();
    println!("{PODS} pods by {changes} changes");
    // While one is being enforced, what comes gathers.
    assert!(changes < PODS as usize / 4, "{changes}");
    control.stop(Signal::TERM);
}

#[test]
fn an_interface_that_is_cut_off_is_complained_about() {
    let world = World::new();
    let mut dataplane = begin(&world);
    let mut control = world.control();
    dataplane.next();
    dataplane.tell(News::NotEnforced(NotEnforced {
        ifindex: 7,
        device: "veth7".into(),
        netns: "cni-7".into(),
        pod: None,
        addresses: vec!["10.0.0.2".parse().unwrap()],
        reason: CutOff::NoWord,
        words: "the plugin has not told of it".into(),
    }));
    let line = control.expect("refused: weir-dataplane: Pod shop/client: interface veth7");
    assert!(line.contains("the plugin has not told of it; the interface is isolated"), "{line}");
    dataplane.tell(News::Cleared { ifindex: 7 });
    control.expect("settled: weir-dataplane: Pod shop/client");
    control.stop(Signal::TERM);
}

/// A dataplane that never says what stands is not one to publish to.
#[test]
fn a_dataplane_that_does_not_say_what_stands_is_given_up() {
    let world = World::new();
    let mut dataplane = begin(&world);
    dataplane.is_silent = true;
    let mut control = world.control();
    while control.try_expect("has not told within 5 s which interfaces").is_none() {
        assert_eq!(dataplane.poll(std::time::Duration::from_millis(50)), None);
    }
    dataplane.is_silent = false;
    dataplane.next();
    control.stop(Signal::TERM);
}
