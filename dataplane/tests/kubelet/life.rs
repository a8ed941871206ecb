//! A pod is enforced when ADD returns: not before its policy holds, and no later.

use std::thread;
use std::time::Duration;

use crate::clock::until;
use crate::kubelet::{Kubelet, Sandbox};
use crate::lab::{Cni, Family, Lab};
use crate::probe::By::{Icmp, Tcp, Udp};
use crate::probe::{Probe, denied, differences, reaches, serve};
use crate::site::{CLOSED, FREE, SOME, end, endpoint, leases, links, node, run, start, whole};
use crate::traffic::{Receiver, Sender};
use crate::turn;
use crate::weir::Weir;

/// How long who must not get through tries, once it is said that its policy holds.
const TRIED: Duration = Duration::from_millis(300);
/// What should arrive arrives within this, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);
/// Tag of what `curl` sends.
const CURL: u64 = 1;
/// Tags of what the new pods send.
const CLOSED_POD: u64 = 2;
const SOME_POD: u64 = 3;

/// As the policies have it.
const OF_SOME: [Probe; 7] = [
    reaches("some", "web", Tcp),
    reaches("some", "web", Udp),
    denied("some", "kurl", Tcp),
    reaches("curl", "some", Tcp),
    denied("kurl", "some", Tcp),
    denied("kurl", "some", Icmp),
    reaches("node", "some", Tcp),
];

fn assert_probes(weir: &Weir<'_>, lab: &Lab, when: &str, probes: &[Probe]) {
    let found = differences(lab, probes);
    assert!(found.is_empty(), "{when}: {found:#?}\n{}", weir.words());
}

/// The addresses that the next pods will get: host-local counts.
fn next_addresses() -> Vec<std::net::IpAddr> {
    (5..9)
        .flat_map(|n| [format!("10.244.0.{n}"), format!("fd00:10:244::{n:x}")])
        .map(|address| address.parse().unwrap())
        .collect()
}

#[test]
fn a_pod_is_enforced_when_add_returns() {
    let Some(_turn) = turn() else { return };
    for cni in [Cni::Bridge, Cni::Ptp] {
        let (lab, folder) = node(cni);
        let kubelet = Kubelet::new(&lab, &folder, &whole(cni));
        let mut weir = start(&lab, &folder, &kubelet);
        let before = (links(&lab), leases(&lab));
        let web = Receiver::start(&lab, "web");
        let curl = Sender::start(&lab, "curl", &next_addresses(), CURL);

        // Nobody reaches it, and it reaches nobody, from the first instant of its life.
        let pod = kubelet.pod("default/closed", &[CLOSED]);
        kubelet.create(&pod);
        let mut closed = kubelet.sandbox(&pod, "closed");
        let mut inside = Receiver::start(&lab, "closed");
        let to = Family::BOTH.map(|family| lab.address("web", family));
        let sender = Sender::start(&lab, "closed", &to, CLOSED_POD);
        let added = kubelet.add(&mut closed).unwrap_or_else(|e| panic!("{e:?}\n{}", weir.words()));
        for _ in 0..2 {
            thread::sleep(TRIED);
            let left = web.since(CLOSED_POD, added);
            assert_eq!(left, [0, 0], "{cni:?}: left the pod\n{}", weir.words());
            let entered = inside.since(CURL, added);
            assert_eq!(entered, [0, 0], "{cni:?}: entered it\n{}", weir.words());
            // With its addresses in the Pod's status: nothing else.
            kubelet.report(&closed);
        }
        kubelet.check(&closed).unwrap_or_else(|e| panic!("{e:?}\n{}", weir.words()));
        assert!(sender.end() > 0, "it has tried");
        inside.end();
        assert_eq!(inside.since(CURL, added), [0, 0]);

        // What is allowed is allowed at once, while control knows none of its addresses.
        let free = Receiver::start(&lab, "kurl");
        let pod = kubelet.pod("default/some", &[SOME]);
        kubelet.create(&pod);
        let mut some = kubelet.sandbox(&pod, "some");
        serve(&lab, "some");
        let to = Family::BOTH.map(|family| lab.address("kurl", family));
        let sender = Sender::start(&lab, "some", &to, SOME_POD);
        let added = kubelet.add(&mut some).unwrap_or_else(|e| panic!("{e:?}\n{}", weir.words()));
        assert_probes(&weir, &lab, "when ADD has returned", &OF_SOME);
        kubelet.report(&some);
        assert_probes(&weir, &lab, "when its addresses are reported", &OF_SOME);
        sender.end();
        let left = free.since(SOME_POD, added);
        assert_eq!(left, [0, 0], "{cni:?}: left the pod\n{}", weir.words());
        drop(curl);

        // And nothing is left of either.
        for sandbox in [closed, some] {
            let place = sandbox.place.clone();
            end(&kubelet, sandbox);
            weir.wait("its end to be seen", |weir| endpoint(weir, &place).is_null());
        }
        assert_eq!((links(&lab), leases(&lab)), before);
        let (count, median, worst) = kubelet.delays().unwrap();
        println!("{cni:?}: {count} ADDs, weir-cni took {median:?} (median), {worst:?} (worst)");
    }
}

/// The runtime asks again whether all is as it was; a pod is removed however often, and without
/// its namespace too.
#[test]
fn a_pod_that_is_not_as_it_was_fails_its_check() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Ptp);
    let kubelet = Kubelet::new(&lab, &folder, &whole(Cni::Ptp));
    let weir = start(&lab, &folder, &kubelet);
    let mut pod = run(&lab, &kubelet, "pod", FREE);
    kubelet.check(&pod).unwrap_or_else(|e| panic!("{e:?}\n{}", weir.words()));
    // Another address beside its own is not what ADD was told.
    lab.command("pod", "ip", &["addr", "add", "10.244.0.99/32", "dev", "eth0"]);
    lab.command(
        "pod",
        "ip",
        &["addr", "del", &format!("{}/24", pod.addresses()[0]), "dev", "eth0"],
    );
    let failure = kubelet.check(&pod).unwrap_err();
    // Debian's ptp sees it first.
    assert!(["ptp", "weir-cni"].contains(&failure.plugin.as_str()), "{failure:?}");
    for _ in 0..2 {
        kubelet.del(&mut pod);
    }
    lab.command("node", "ip", &["netns", "del", "pod"]);
    kubelet.del(&mut pod);
    kubelet.forget(&pod.pod);
    assert!(!weir.dataplane_log().contains("panic"), "{}", weir.words());
}

/// A second interface, as a meta plugin makes it with the same chain: whose it is was said, so
/// it speaks and hears as its pod.
#[test]
fn each_interface_of_a_pod_is_enforced() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let kubelet = Kubelet::new(&lab, &folder, &whole(Cni::Bridge));
    let weir = start(&lab, &folder, &kubelet);
    let second = |sandbox: &Sandbox| {
        let mut second = kubelet.second(sandbox);
        let added = kubelet.add(&mut second);
        (added.unwrap_or_else(|e| panic!("{e:?}\n{}", weir.words())), second)
    };
    let peer = run(&lab, &kubelet, "peer", FREE);
    let at_peer = Receiver::start(&lab, "peer");
    let (_, of_peer) = second(&peer);
    let to = of_peer.addresses();

    let free = run(&lab, &kubelet, "free", FREE);
    let sender = Sender::start(&lab, "free", &to, SOME_POD);
    let (_, of_free) = second(&free);
    let came = until(PATIENCE, || at_peer.of(SOME_POD).iter().all(|count| *count > 0));
    assert!(came, "{:?}\n{}", at_peer.so_far(), weir.words());
    sender.end();

    let closed = run(&lab, &kubelet, "closed", CLOSED);
    let mut inside = Receiver::start(&lab, "closed");
    let sender = Sender::start(&lab, "closed", &to, CLOSED_POD);
    let (added, of_closed) = second(&closed);
    let back = Sender::start(&lab, "peer", &of_closed.addresses(), CURL);
    thread::sleep(TRIED);
    assert!(sender.end() > 0 && back.end() > 0, "they have tried");
    assert_eq!(at_peer.since(CLOSED_POD, added), [0, 0], "{}", weir.words());
    inside.end();
    assert_eq!(inside.of(CURL), [0, 0], "{}", weir.words());
    // The second goes, the first stays what it is.
    for mut second in [of_closed, of_free, of_peer] {
        kubelet.check(&second).unwrap_or_else(|e| panic!("{e:?}\n{}", weir.words()));
        kubelet.del(&mut second);
    }
    let probes = [reaches("free", "web", Tcp), denied("closed", "web", Tcp)];
    assert_probes(&weir, &lab, "the second is gone", &probes);
    for sandbox in [peer, free, closed] {
        end(&kubelet, sandbox);
    }
}
