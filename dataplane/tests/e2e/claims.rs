//! A pod with NET_ADMIN gives its interface addresses that are not its own: the gateway's, a
//! host's beyond the node, a pod's on another node. Nobody else may feel it, and it may not
//! speak as them.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::json;

use crate::clock::until;
use crate::lab::{Cni, Family, Lab, outside};
use crate::node::{allow_testcurl_alone, growth, node, settled};
use crate::probe::By::{Icmp, Tcp, Udp};
use crate::probe::{differences, reaches};
use crate::stream::Stream;
use crate::turn;
use crate::weir::Weir;

/// Two addresses more in the networks of `outside`.
const REMOTE: [&str; 2] = ["198.51.100.77", "2001:db8:1::77"];

fn give(lab: &Lab, pod: &str, address: &str) {
    lab.command(pod, "ip", &["addr", "add", address, "dev", "eth0"]);
}

/// Waits until the daemon has seen that a pod has an address; gives what it says of the pod.
fn seen(weir: &mut Weir<'_>, pod: &str, address: &str) -> serde_json::Value {
    let of = |weir: &Weir<'_>| {
        let status = weir.status();
        let all = status["endpoints"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|endpoint| endpoint["netns"] == pod)
    };
    let has = |weir: &Weir<'_>| {
        of(weir).is_some_and(|e| e["addresses"].as_array().unwrap().contains(&json!(address)))
    };
    weir.wait("the address to be seen", has);
    of(weir).unwrap()
}

#[test]
fn what_a_pod_claims_is_nobody_elses_loss() {
    let Some(_turn) = turn() else { return };
    for cni in [Cni::Bridge, Cni::Ptp] {
        let (lab, folder) = node(cni);
        let mut weir = Weir::start(&lab, folder, &["--workers", "1"]);
        let to_outside = |family, port| {
            let own = (lab.address("curl", family), 0).into();
            Stream::between((&lab, "curl", own), ("outside", (outside(family), port).into()))
        };
        let mut streams = Family::BOTH.map(|family| to_outside(family, 9401));
        let mut go_on = |weir: &Weir<'_>, when: &str| {
            for stream in &mut streams {
                stream.run(20).unwrap_or_else(|e| panic!("{when}: {e}\n{}", weir.words()));
            }
        };
        go_on(&weir, "before");

        for (n, address) in Family::BOTH.map(outside).into_iter().enumerate() {
            give(&lab, "kurl", &address.to_string());
            let pod = seen(&mut weir, "kurl", &address.to_string());
            assert_eq!(pod["ignored"].as_array().unwrap().len(), n + 1, "{pod}");
            assert_eq!(pod["quarantined"], false, "{pod}");
        }
        assert!(weir.dataplane_log().contains("it has no effect"), "{}", weir.words());
        let before = settled(&weir);
        go_on(&weir, "with the address of their other end claimed");
        // A connection of its own, not one of before.
        for family in Family::BOTH {
            let mut new = to_outside(family, 9402);
            new.run(20).unwrap_or_else(|e| panic!("a new flow: {e}\n{}", weir.words()));
        }
        let grown = growth(&weir, &before);
        assert_eq!(grown("steering.stale") + grown("drops.quarantined"), 0, "{}", weir.words());
        // The pod itself goes on as what it is, and is heard as nothing else.
        let wrong = differences(&lab, &[reaches("kurl", "web", Udp), reaches("web", "kurl", Icmp)]);
        assert!(wrong.is_empty(), "{wrong:#?}\n{}", weir.words());
        let web = lab.address("web", Family::V4);
        let claimed = (outside(Family::V4), 0).into();
        let before = settled(&weir);
        let mut forged = Stream::between((&lab, "kurl", claimed), ("web", (web, 9403).into()));
        forged.is_cut(20).unwrap_or_else(|e| panic!("forged: {e}\n{}", weir.words()));
        assert_eq!(growth(&weir, &before)("drops.quarantined"), 20, "{}", weir.words());

        // The gateway: an address of the node's own.
        let there = outside(Family::V4).to_string();
        let gateway = lab.command("curl", "ip", &["-json", "route", "get", &there]);
        let gateway: serde_json::Value = serde_json::from_slice(&gateway).unwrap();
        let gateway = gateway[0]["gateway"].as_str().unwrap().to_owned();
        give(&lab, "kurl", &format!("{gateway}/32"));
        let pod = seen(&mut weir, "kurl", &gateway);
        assert_eq!(pod["quarantined"], true, "{pod}");
        lab.command("curl", "ip", &["neigh", "flush", "all"]);
        lab.command("web", "ip", &["neigh", "flush", "all"]);
        go_on(&weir, "with the gateway claimed");
        let probes = [
            reaches("node", "web", Tcp),
            reaches("curl", "web", Tcp),
            reaches("outside", "web", Tcp),
        ];
        let wrong = differences(&lab, &probes);
        assert!(wrong.is_empty(), "{wrong:#?}\n{}", weir.words());
    }
}

/// A pod on another node, whom `web` lets in.
fn remote() -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "default", "name": "remote", "labels": {"run": "testcurl"}},
        "spec": {"nodeName": "elsewhere", "containers": []},
        "status": {"phase": "Running", "podIP": REMOTE[0],
                   "podIPs": [{"ip": REMOTE[0]}, {"ip": REMOTE[1]}]},
    })
    .to_string()
}

/// What control knows as a pod's, but not this one's.
#[test]
fn a_claimed_identity_is_not_lent() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let mut weir = Weir::start(&lab, folder, &["--workers", "1"]);
    // A pod elsewhere is `run=testcurl`.
    allow_testcurl_alone(&mut weir);
    weir.relabel(|weir| weir.place("remote.json", &remote()));
    for (n, family) in Family::BOTH.into_iter().enumerate() {
        let to = (lab.address("web", family), 9404).into();
        let claimed = (REMOTE[n].parse::<IpAddr>().unwrap(), 0);
        // Whether it keeps its own or gives it up for the other's.
        for given_up in [false, true] {
            if given_up {
                let own = lab.address("kurl", family);
                let prefix = if own.is_ipv4() { 24 } else { 64 };
                lab.command(
                    "kurl",
                    "ip",
                    &["addr", "del", &format!("{own}/{prefix}"), "dev", "eth0"],
                );
            }
            lab.attempt("kurl", "ip", &["addr", "add", REMOTE[n], "dev", "eth0"]);
            let route =
                ["-f", if n == 0 { "inet" } else { "inet6" }, "route", "replace", "default"];
            lab.attempt("kurl", "ip", &[&route[..], &["dev", "eth0"]].concat());
            let pod = seen(&mut weir, "kurl", REMOTE[n]);
            assert!(pod["ignored"].as_array().unwrap().contains(&json!(REMOTE[n])), "{pod}");
            std::thread::sleep(Duration::from_millis(100));
            let before = settled(&weir);
            let mut thief = Stream::between((&lab, "kurl", claimed.into()), ("web", to));
            thief.is_cut(20).unwrap_or_else(|e| panic!("{family:?}: {e}\n{}", weir.words()));
            // In user space, or its question after the neighbour in the hook, which may have been
            // asked a moment ago and is then asked again within some seconds.
            let dropped = until(Duration::from_secs(10), || {
                thief.is_cut(1).unwrap_or_else(|e| panic!("{family:?}: {e}\n{}", weir.words()));
                let grown = growth(&weir, &before);
                grown("drops.quarantined") + grown("steering.drop_nd") > 0
            });
            assert!(dropped, "{}", weir.words());
        }
    }
    let mut curl = Stream::open(&lab, "curl", "web", Family::V4, 9405);
    curl.run(20).unwrap_or_else(|e| panic!("{e}\n{}", weir.words()));
}

/// Neither as the first address of a family that it does not have, nor as an IPv6 address that
/// programs take for an IPv4 one.
#[test]
fn a_pod_without_ipv6_does_not_choose_an_identity_by_it() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    lab.command("kurl", "ip", &["-6", "addr", "flush", "dev", "eth0", "scope", "global"]);
    let mut weir = Weir::start(&lab, folder, &["--workers", "1"]);
    allow_testcurl_alone(&mut weir);
    weir.relabel(|weir| weir.place("remote.json", &remote()));
    // Longer than a CNI plugin may take for its second family.
    std::thread::sleep(Duration::from_millis(5500));

    let mapped = |address: IpAddr| format!("::ffff:{address}/128");
    let others = [lab.address("curl", Family::V4), REMOTE[0].parse().unwrap()];
    for other in others {
        give(&lab, "kurl", &mapped(other));
    }
    give(&lab, "kurl", &format!("{}/128", REMOTE[1]));
    let pod = seen(&mut weir, "kurl", REMOTE[1]);
    assert_eq!(pod["ignored"], json!([REMOTE[1]]), "{pod}");
    let own = json!([lab.address("kurl", Family::V4), REMOTE[1]]);
    assert_eq!(pod["addresses"], own, "mapped ones are none: {pod}");
    for endpoint in weir.status()["endpoints"].as_array().unwrap() {
        assert_eq!(endpoint["quarantined"], false, "{endpoint}");
    }

    lab.command("kurl", "ip", &["-6", "route", "replace", "default", "dev", "eth0"]);
    let web = lab.address("web", Family::V6);
    let claimed = (REMOTE[1].parse::<IpAddr>().unwrap(), 0);
    let mut thief = Stream::between((&lab, "kurl", claimed.into()), ("web", (web, 9406).into()));
    thief.is_cut(20).unwrap_or_else(|e| panic!("{e}\n{}", weir.words()));
    for family in Family::BOTH {
        let mut curl = Stream::open(&lab, "curl", "web", family, 9407);
        curl.run(20).unwrap_or_else(|e| panic!("{family:?}: {e}\n{}", weir.words()));
    }
}
