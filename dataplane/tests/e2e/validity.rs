//! What was decided holds as long as what it was decided by: another label, or another
//! owner of an address, cuts the open flows of that address, though they are in the kernel,
//! and those of no other.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::lab::{Cni, Family, Lab};
use crate::node::{allow_testcurl_alone, growth, node, settled};
use crate::stream::Stream;
use crate::turn;
use crate::weir::Weir;

/// One flow a family from a place to `web`, in the kernel.
fn open_flows(weir: &Weir<'_>, lab: &Lab, from: &str, port: u16) -> Vec<Stream> {
    let open = |family| {
        let mut stream = Stream::open(lab, from, "web", family, port);
        go_on(weir, &mut stream, &format!("{from}, {family:?}"));
        stream
    };
    Family::BOTH.map(open).into()
}

fn go_on(weir: &Weir<'_>, stream: &mut Stream, whose: &str) {
    stream.run(20).unwrap_or_else(|error| panic!("{whose}: {error}\n{}", weir.words()));
}

fn all_go_on(weir: &Weir<'_>, streams: &mut [Stream], whose: &str) {
    streams.iter_mut().for_each(|stream| go_on(weir, stream, whose));
}

fn all_cut(weir: &Weir<'_>, streams: &mut [Stream], whose: &str) {
    for stream in streams {
        stream.is_cut(20).unwrap_or_else(|error| panic!("{whose}: {error}\n{}", weir.words()));
    }
}

/// What `weir flows` says of a field of the open flows of an address.
fn said(weir: &Weir<'_>, source: IpAddr, field: &str) -> Vec<Value> {
    let of_source = |flow: &Value| flow["src"] == source.to_string();
    weir.flows().into_iter().filter(of_source).map(|flow| flow[field].clone()).collect()
}

#[test]
fn a_relabelled_peer_loses_its_flows_and_no_other_does() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let mut weir = Weir::start(&lab, folder, &["--workers", "1"]);
    let label = |weir: &Weir<'_>, pod: &str, label: &str| {
        let manifest = lab.manifest(&format!("default/{pod}"), pod, &[label]);
        weir.place(&format!("pod-{pod}.json"), &manifest);
    };
    allow_testcurl_alone(&mut weir);
    weir.relabel(|weir| label(weir, "kurl", "run=testcurl"));
    let mut curl = open_flows(&weir, &lab, "curl", 9101);
    let mut kurl = open_flows(&weir, &lab, "kurl", 9102);
    let families = Family::BOTH.len() as u64;

    for round in 0..2 {
        let before = settled(&weir);
        let judged = weir.relabel(|weir| label(weir, "curl", "run=other"));
        all_cut(&weir, &mut curl, "relabelled");
        all_go_on(&weir, &mut kurl, "of the same label as before");
        let grown = growth(&weir, &before);
        assert_eq!(judged, Some(families), "round {round}, in place\n{}", weir.words());
        // Judged before the change was acknowledged: no packet came back to a worker.
        for name in ["steering.punted", "steering.stale", "counters.flows_rejudged"] {
            assert_eq!(grown(name), 0, "round {round}, {name}\n{}", weir.words());
        }
        assert_eq!(grown("steering.drop_cut_egress"), 20 * families, "{}", weir.words());
        assert_eq!(grown("steering.hit"), 2 * 20 * families, "{}", weir.words());
        for family in Family::BOTH {
            let (curl, kurl) = (lab.address("curl", family), lab.address("kurl", family));
            assert_eq!(said(&weir, curl, "verdict"), ["deny"], "{}", weir.words());
            assert_eq!(said(&weir, kurl, "verdict"), ["allow"], "{}", weir.words());
            assert_eq!(said(&weir, kurl, "offloaded"), [true], "{}", weir.words());
        }

        let judged = weir.relabel(|weir| label(weir, "curl", "run=testcurl"));
        assert_eq!(judged, Some(families), "round {round}, back\n{}", weir.words());
        all_go_on(&weir, &mut curl, "its label back");
        all_go_on(&weir, &mut kurl, "of the same label still");
    }
}

/// A pod on another node: what the address map says of it is all that there is.
#[test]
fn another_pod_under_a_remote_address_loses_the_flows_of_the_first() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Ptp);
    let mut weir = Weir::start(&lab, folder, &["--workers", "1"]);
    allow_testcurl_alone(&mut weir);
    let addresses: [IpAddr; 2] = ["198.51.100.77", "2001:db8:1::77"].map(|a| a.parse().unwrap());
    for address in addresses {
        let prefix = if address.is_ipv4() { 24 } else { 64 };
        let with_prefix = format!("{address}/{prefix}");
        lab.command("outside", "ip", &["addr", "add", &with_prefix, "dev", "eth0"]);
    }
    let remote = |name: &str, label: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "default", "name": name, "labels": {"run": label}},
            "spec": {"nodeName": "elsewhere", "containers": []},
            "status": {"phase": "Running", "podIP": addresses[0],
                       "podIPs": [{"ip": addresses[0]}, {"ip": addresses[1]}]},
        })
        .to_string()
    };
    weir.relabel(|weir| weir.place("remote.json", &remote("first", "testcurl")));
    let mut streams: Vec<Stream> = addresses
        .into_iter()
        .map(|address| {
            let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
            let to = (lab.address("web", family), 9101).into();
            Stream::between((&lab, "outside", (address, 0).into()), ("web", to))
        })
        .collect();
    all_go_on(&weir, &mut streams, "the first");

    weir.relabel(|weir| weir.place("remote.json", &remote("second", "other")));
    let before = settled(&weir);
    all_cut(&weir, &mut streams, "the second, under the first's address");
    let cut = growth(&weir, &before)("steering.drop_cut_ingress");
    assert_eq!(cut, 2 * 20, "dropped by the hook\n{}", weir.words());
    weir.relabel(|weir| weir.place("remote.json", &remote("third", "testcurl")));
    all_go_on(&weir, &mut streams, "the third, which may");
    // No pod at all: an outsider.
    weir.relabel(|weir| weir.remove("remote.json"));
    all_cut(&weir, &mut streams, "an outsider under the address");
}

/// A pod of this node that gets the address of one that is gone, and uses the same ports.
#[test]
fn another_pod_under_a_local_address_loses_the_flows_of_the_first() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let mut weir = Weir::start(&lab, folder, &["--workers", "1"]);
    allow_testcurl_alone(&mut weir);
    let mut kurl_to_curl: Vec<Stream> =
        Family::BOTH.map(|family| Stream::open(&lab, "kurl", "curl", family, 9103)).into();
    all_go_on(&weir, &mut kurl_to_curl, "between others");
    let mut curl = open_flows(&weir, &lab, "curl", 9101);
    let ends: Vec<_> = curl
        .iter()
        .map(|s| (s.sender.local_addr().unwrap(), s.receiver.local_addr().unwrap()))
        .collect();
    let addresses = Family::BOTH.map(|family| lab.address("curl", family));
    assert_eq!(said(&weir, addresses[0], "offloaded"), [true], "{}", weir.words());

    // Sockets keep a namespace alive, and with it the pod's interface.
    curl.clear();
    kurl_to_curl.clear();
    lab.unpod("curl");
    weir.relabel(|weir| weir.remove("pod-curl.json"));
    lab.pod_at("thief", addresses);
    let manifest = lab.manifest("default/thief", "thief", &["run=other"]);
    weir.relabel(|weir| weir.place("pod-thief.json", &manifest));
    lab.command("web", "ip", &["neigh", "flush", "all"]);
    weir.wait("the thief's hooks", |weir| {
        let status = weir.status();
        let pods = status["endpoints"].as_array().cloned().unwrap_or_default();
        pods.iter().any(|pod| pod["netns"] == "thief" && pod["attached"] == true)
    });

    let mut again: Vec<Stream> = ends
        .into_iter()
        .map(|(source, to)| Stream::between((&lab, "thief", source), ("web", to)))
        .collect();
    let before = settled(&weir);
    all_cut(&weir, &mut again, "another pod with the same 5-tuple");
    let grown = growth(&weir, &before);
    assert_eq!(grown("steering.hit"), 0, "{}", weir.words());
    let manifest = lab.manifest("default/thief", "thief", &["run=testcurl"]);
    weir.relabel(|weir| weir.place("pod-thief.json", &manifest));
    all_go_on(&weir, &mut again, "it may now, as itself");
}
