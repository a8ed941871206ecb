//! Addresses and names that go from one pod to the next within milliseconds.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use crate::clock::until;
use crate::kubelet::{Kubelet, Network, Sandbox};
use crate::lab::{Cni, Family, Lab};
use crate::probe::By::{Tcp, Udp};
use crate::probe::{denied, differences, reaches, serve};
use crate::site::{CLOSED, FREE, SOME, end, node, run, start, whole};
use crate::traffic::{Receiver, Sender};
use crate::turn;

/// What should arrive arrives within this, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long who must not get through tries.
const TRIED: Duration = Duration::from_millis(100);
/// Tag of what `curl` sends; pods have their own numbers, from 1 on.
const CURL: u64 = 0;

/// All addresses of `web` and `curl`.
pub fn ends(lab: &Lab) -> Vec<IpAddr> {
    let of = |place: &str| Family::BOTH.map(|family| lab.address(place, family));
    ["web", "curl"].into_iter().flat_map(of).collect()
}

/// One address of each family, for one pod after the other: one that may do everything, one
/// that may do nothing. The object of the one before is still there, terminating, with the
/// address in its status.
#[test]
fn an_address_is_the_new_pods_at_once() {
    let Some(_turn) = turn() else { return };
    for cni in [Cni::Bridge, Cni::Ptp] {
        let (lab, folder) = node(cni);
        let ranges = Some([["10.244.0.9"; 2], ["fd00:10:244::9"; 2]]);
        let kubelet = Kubelet::new(&lab, &folder, &Network { cni, ranges });
        let weir = start(&lab, &folder, &kubelet);
        let web = Receiver::start(&lab, "web");
        // To `curl` as well: with that it learns whose hardware address an IPv6 address has now,
        // which the plugins tell nobody.
        let to = ends(&lab);
        let address: [IpAddr; 2] =
            ["10.244.0.9", "fd00:10:244::9"].map(|text| text.parse().unwrap());
        let curl = Sender::start(&lab, "curl", &address, CURL);
        let mut before: Option<Sandbox> = None;
        for number in 1..=10_u64 {
            let is_free = number % 2 == 1;
            let place = format!("pod-{number}");
            let label = if is_free { FREE } else { CLOSED };
            let pod = kubelet.pod(&format!("default/{place}"), &[label]);
            kubelet.create(&pod);
            let mut sandbox = kubelet.sandbox(&pod, &place);
            let inside = Receiver::start(&lab, &place);
            let sender = Sender::start(&lab, &place, &to, number);
            let added;
            // The last step of one and the first of the next.
            if let Some(mut before) = before.take() {
                kubelet.terminate(&before);
                kubelet.del(&mut before);
                let gone = before.pod.clone();
                kubelet.remove(before);
                added = kubelet.add(&mut sandbox);
                thread::sleep(TRIED);
                kubelet.forget(&gone);
            } else {
                added = kubelet.add(&mut sandbox);
            }
            let added = added.unwrap_or_else(|e| panic!("{e:?}\n{}", weir.words()));
            assert_eq!(sandbox.addresses(), address);
            let both = |counts: [u64; 2]| counts.iter().all(|count| *count > 0);
            for when in ["not reported", "reported"] {
                if is_free {
                    let through = until(PATIENCE, || both(web.of(number)) && both(inside.of(CURL)));
                    let came = (web.of(number), inside.of(CURL));
                    assert!(through, "{place}, {when}: {came:?}\n{}", weir.words());
                } else {
                    thread::sleep(TRIED);
                    let came = (web.since(number, added), inside.since(CURL, added));
                    assert_eq!(came, ([0; 2], [0; 2]), "{place}, {when}\n{}", weir.words());
                }
                kubelet.report(&sandbox);
            }
            sender.end();
            drop(inside);
            before = Some(sandbox);
        }
        drop(curl);
        end(&kubelet, before.unwrap());
    }
}

/// The sandbox of a pod dies, and the kubelet makes another for the same pod: it may be the
/// second one's turn before the first one's end has been told, or after it.
#[test]
fn a_pod_in_a_new_sandbox_is_the_same_pod() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let kubelet = Kubelet::new(&lab, &folder, &whole(Cni::Bridge));
    let weir = start(&lab, &folder, &kubelet);
    let check = |place: &'static str, when: &str| {
        let probes = [
            reaches(place, "web", Tcp),
            denied(place, "kurl", Udp),
            reaches("curl", place, Udp),
            denied("kurl", place, Tcp),
        ];
        let found = differences(&lab, &probes);
        assert!(found.is_empty(), "{when}: {found:#?}\n{}", weir.words());
    };
    let mut first = run(&lab, &kubelet, "first", SOME);
    kubelet.report(&first);
    check("first", "the first");
    kubelet.del(&mut first);
    let mut pod = first.pod.clone();
    kubelet.remove(first);

    let again = |place: &str| {
        let mut sandbox = kubelet.sandbox(&pod, place);
        serve(&lab, place);
        kubelet.add(&mut sandbox).unwrap_or_else(|e| panic!("{place}: {e:?}\n{}", weir.words()));
        sandbox
    };
    let second = again("second");
    check("second", "while the status has the first one's addresses");
    kubelet.report(&second);
    check("second", "reported");

    // The node's runtime was killed: the namespace goes, and nobody says so.
    lab.command("node", "ip", &["netns", "del", "second"]);
    let third = again("third");
    check("third", "before the second's DEL");
    let mut late = second;
    kubelet.del(&mut late);
    check("third", "behind the second's late DEL");
    kubelet.report(&third);
    check("third", "reported");
    end(&kubelet, third);

    // Another pod of the same name, as a StatefulSet makes it.
    pod = kubelet.pod("default/first", &[CLOSED]);
    kubelet.create(&pod);
    let mut fourth = kubelet.sandbox(&pod, "fourth");
    serve(&lab, "fourth");
    kubelet.add(&mut fourth).unwrap_or_else(|e| panic!("{e:?}\n{}", weir.words()));
    let probes = [denied("fourth", "web", Tcp), denied("curl", "fourth", Tcp)];
    let found = differences(&lab, &probes);
    assert!(found.is_empty(), "another of that name: {found:#?}\n{}", weir.words());
    end(&kubelet, fourth);
}
