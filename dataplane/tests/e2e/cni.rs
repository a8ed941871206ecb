//! What the CNI plugin says: a pod is enforced when its `add` is answered, and open to nobody
//! before, whoever had its address a moment ago and whichever daemon is killed meanwhile.
//!
//! Pods are wired by the lab's plugins; what `weir-cni` would say is said by the test, over the
//! wire that it uses.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use weir_table::cni::{
    Answer, Attachment, AttachmentId, CNI_SOCKET_FILE, Client, Patience, PodRef, Refusal, Request,
    WaitingFor,
};

use crate::lab::{Cni, Family, Lab};
use crate::node::{allow_testcurl_alone, node};
use crate::probe::By::Tcp;
use crate::probe::{denied, differences, reaches, serve};
use crate::stream::Stream;
use crate::turn;
use crate::weir::Weir;

/// For what must happen: longer than any machine takes.
const LONG: Duration = Duration::from_secs(30);
/// For what must not happen in time.
const SHORT: Duration = Duration::from_millis(1500);

fn id(sandbox: &str) -> AttachmentId {
    AttachmentId {
        network: "weir-lab".into(),
        container: format!("lab-{sandbox}"),
        ifname: "eth0".into(),
    }
}

/// What the plugin says of a pod of the lab.
fn attachment(lab: &Lab, pod: &str, name: &str) -> Attachment {
    of_addresses(pod, name, Family::BOTH.map(|family| lab.address(pod, family)).into())
}

fn of_addresses(sandbox: &str, name: &str, addresses: Vec<IpAddr>) -> Attachment {
    Attachment {
        id: id(sandbox),
        netns: format!("/run/netns/{sandbox}"),
        pod: Some(PodRef { namespace: "default".into(), name: name.into(), uid: None }),
        host: Vec::new(),
        mac: None,
        addresses,
        host_ports: Vec::new(),
    }
}

/// Asks the dataplane; `sandbox` is the pod's namespace, for requests that bring one.
fn ask(lab: &Lab, request: &Request, sandbox: &str, patience: Duration) -> Answer {
    let path = lab.node_path("/run/weir").join(CNI_SOCKET_FILE);
    let netns = lab.node_path("/run/netns").join(sandbox);
    let netns = request.has_namespace().then(|| File::open(netns).unwrap());
    let patience = Patience { total: patience, absent: patience };
    let client = Client { path: &path, software: "weir-e2e", patience };
    client.ask(request, netns.as_ref().map(AsFd::as_fd)).unwrap()
}

fn add(lab: &Lab, pod: &str, name: &str, patience: Duration) -> Answer {
    ask(lab, &Request::Add(attachment(lab, pod, name)), pod, patience)
}

fn check(lab: &Lab, pod: &str, name: &str) -> Answer {
    ask(lab, &Request::Check(attachment(lab, pod, name)), pod, LONG)
}

fn del(lab: &Lab, pod: &str) -> Answer {
    ask(lab, &Request::Del { id: id(pod) }, pod, LONG)
}

fn assert_enforced(answer: &Answer, weir: &Weir<'_>) {
    assert!(matches!(answer, Answer::Enforced { .. }), "{answer:?}\n{}", weir.words());
}

/// Asks until it is the pod's object that is waited for: control may take a while to say so.
fn add_without_object(lab: &Lab, pod: &str, name: &str, weir: &Weir<'_>) {
    let mut answer = add(lab, pod, name, SHORT);
    let end = Instant::now() + LONG;
    while matches!(answer, Answer::Pending { waiting_for: WaitingFor::Control, .. })
        && Instant::now() < end
    {
        answer = add(lab, pod, name, SHORT);
    }
    assert_pending(&answer, WaitingFor::PodObject, weir);
}

fn assert_pending(answer: &Answer, who: WaitingFor, weir: &Weir<'_>) {
    let is_so = matches!(answer, Answer::Pending { waiting_for, .. } if *waiting_for == who);
    assert!(is_so, "{answer:?}\n{}", weir.words());
}

/// A Pod as the API server shows it before its kubelet has said anything of its addresses.
fn object(name: &str, label: &str, addresses: &[IpAddr]) -> String {
    let ips: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    let mut object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "default", "name": name, "labels": {"run": label}},
        "spec": {"nodeName": "lab", "containers": []},
        "status": {"phase": "Pending"},
    });
    if let Some(first) = addresses.first() {
        object["status"] = json!({"phase": "Running", "podIP": first, "podIPs": ips});
    }
    object.to_string()
}

#[test]
fn a_pod_is_enforced_when_its_plugin_is_answered() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let mut weir = Weir::start(&lab, folder, &["--workers", "1"]);
    allow_testcurl_alone(&mut weir);
    assert_eq!(ask(&lab, &Request::Status, "", LONG), Answer::Ready);

    // Nobody knows its address but the plugin.
    lab.pod("friend");
    weir.place("friend.json", &object("friend", "testcurl", &[]));
    assert_enforced(&add(&lab, "friend", "friend", LONG), &weir);
    serve(&lab, "friend");
    lab.pod("stranger");
    weir.place("stranger.json", &object("stranger", "testkurl", &[]));
    let mut cut = Stream::open(&lab, "stranger", "web", Family::V4, 9501);
    cut.is_cut(10).unwrap();
    assert_enforced(&add(&lab, "stranger", "stranger", LONG), &weir);
    let wrong = differences(
        &lab,
        &[
            reaches("friend", "web", Tcp),
            denied("stranger", "web", Tcp),
            reaches("stranger", "friend", Tcp),
            reaches("node", "friend", Tcp),
        ],
    );
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", weir.words());
    cut.is_cut(10).unwrap();
    // The same again is the same.
    assert_enforced(&add(&lab, "friend", "friend", LONG), &weir);
    assert_enforced(&check(&lab, "friend", "friend"), &weir);

    // A pod that the source does not know yet.
    lab.pod("early");
    serve(&lab, "early");
    add_without_object(&lab, "early", "early", &weir);
    let wrong = differences(&lab, &[denied("friend", "early", Tcp), reaches("node", "early", Tcp)]);
    assert!(wrong.is_empty(), "held: {wrong:#?}\n{}", weir.words());
    weir.place("early.json", &object("early", "testcurl", &[]));
    assert_enforced(&add(&lab, "early", "early", LONG), &weir);
    let wrong = differences(&lab, &[reaches("friend", "early", Tcp), reaches("early", "web", Tcp)]);
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", weir.words());

    // What it adds to its address is nobody's; what it takes away is missed.
    let own = lab.address("friend", Family::V4);
    lab.command("friend", "ip", &["addr", "add", "198.51.100.77/32", "dev", "eth0"]);
    assert_enforced(&check(&lab, "friend", "friend"), &weir);
    lab.command("friend", "ip", &["addr", "del", &format!("{own}/24"), "dev", "eth0"]);
    let answer = check(&lab, "friend", "friend");
    assert!(
        matches!(&answer, Answer::Refused { code: Refusal::Differs, words } if words.contains(&own.to_string())),
        "{answer:?}"
    );

    // What cannot be.
    let of_web = of_addresses("early", "early", vec![lab.address("web", Family::V4)]);
    let answer = ask(&lab, &Request::Add(of_web), "early", LONG);
    assert!(matches!(answer, Answer::Refused { code: Refusal::AddressTaken, .. }), "{answer:?}");
    let mut no_veth = attachment(&lab, "early", "early");
    no_veth.id.ifname = "lo".into();
    let answer = ask(&lab, &Request::Add(no_veth), "early", LONG);
    assert!(matches!(answer, Answer::Refused { code: Refusal::NoDevice, .. }), "{answer:?}");

    // Withdrawn: nothing passes any more, although the interface and its address are there.
    assert_eq!(del(&lab, "early"), Answer::Done { removed: 1 });
    assert_eq!(del(&lab, "early"), Answer::Done { removed: 0 });
    let answer = check(&lab, "early", "early");
    assert!(matches!(answer, Answer::Refused { code: Refusal::Differs, .. }), "{answer:?}");
    let wrong = differences(&lab, &[denied("early", "web", Tcp), reaches("curl", "web", Tcp)]);
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", weir.words());
    // All that a runtime does not know of is forgotten.
    let valid = vec![(id("friend").container, "eth0".to_owned())];
    let gc = Request::Gc { network: "weir-lab".into(), valid, more: false };
    assert_eq!(ask(&lab, &gc, "", LONG), Answer::Done { removed: 1 }, "stranger");
    weir.assert_alive();
}

/// A pod's address is given to another a moment after it was deleted, while the API server still
/// says it of the first: not one packet passes as the first's.
#[test]
fn an_address_that_is_given_again_brings_nothing_of_its_past() {
    let Some(_turn) = turn() else { return };
    for cni in [Cni::Bridge, Cni::Ptp] {
        let (lab, folder) = node(cni);
        let mut weir = Weir::start(&lab, folder, &["--workers", "1"]);
        allow_testcurl_alone(&mut weir);
        let web = (lab.address("web", Family::V4), 9502).into();
        let to_web = |pod: &'static str, address: IpAddr| {
            Stream::between((&lab, pod, (address, 4000).into()), ("web", web))
        };
        lab.pod("first");
        let addresses = Family::BOTH.map(|family| lab.address("first", family));
        weir.place("first.json", &object("first", "testcurl", &[]));
        assert_enforced(&add(&lab, "first", "first", LONG), &weir);
        let mut stream = to_web("first", addresses[0]);
        stream.run(20).unwrap_or_else(|e| panic!("{e}\n{}", weir.words()));
        drop(stream);
        // Its kubelet says so, and will not say for a while that it is over.
        weir.place("first.json", &object("first", "testcurl", &addresses));

        assert_eq!(del(&lab, "first"), Answer::Done { removed: 1 });
        lab.unpod("first");
        lab.pod_at("second", addresses);
        let mut stream = to_web("second", addresses[0]);
        stream.is_cut(20).unwrap_or_else(|e| panic!("before its word: {e}\n{}", weir.words()));
        // Not known to control: held, while the predecessor still is the address' owner there.
        add_without_object(&lab, "second", "second", &weir);
        stream.is_cut(20).unwrap_or_else(|e| panic!("while held: {e}\n{}", weir.words()));
        weir.place("second.json", &object("second", "testkurl", &[]));
        assert_enforced(&add(&lab, "second", "second", LONG), &weir);
        stream.is_cut(20).unwrap_or_else(|e| panic!("as itself: {e}\n{}", weir.words()));
        // The status of both says it; the word decides.
        weir.place("second.json", &object("second", "testkurl", &addresses));
        thread::sleep(Duration::from_millis(100));
        stream.is_cut(20).unwrap_or_else(|e| panic!("by its status: {e}\n{}", weir.words()));
        // It is a pod like any other: relabelled, it is let in.
        weir.relabel(|weir| {
            weir.place("second.json", &object("second", "testcurl", &addresses));
        });
        stream.run(20).unwrap_or_else(|e| panic!("{e}\n{}", weir.words()));
        weir.assert_alive();
    }
}

/// Words outlive the daemons, and what is placed stays so without control.
#[test]
fn words_outlive_both_daemons() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let options = ["--workers", "1"];
    let mut weir = Weir::start(&lab, folder, &options);
    allow_testcurl_alone(&mut weir);
    lab.pod("late");
    weir.place("late.json", &object("late", "testcurl", &[]));
    assert_enforced(&add(&lab, "late", "late", LONG), &weir);
    let mut stream = Stream::open(&lab, "late", "web", Family::V4, 9503);
    stream.run(20).unwrap();

    // Control away: what is placed goes on, what comes is held.
    weir.kill_control();
    lab.pod("later");
    serve(&lab, "later");
    assert_pending(&add(&lab, "later", "later", SHORT), WaitingFor::Control, &weir);
    stream.run(20).unwrap_or_else(|e| panic!("without control: {e}\n{}", weir.words()));

    // Both away, and one back: it knows all words, and whose policy was in force.
    weir.kill();
    weir.start_dataplane(&options);
    assert_enforced(&add(&lab, "late", "late", LONG), &weir);
    assert_pending(&add(&lab, "later", "later", SHORT), WaitingFor::Control, &weir);
    stream.run(20).unwrap_or_else(|e| panic!("after a restart: {e}\n{}", weir.words()));
    let wrong = differences(&lab, &[reaches("late", "web", Tcp), denied("late", "later", Tcp)]);
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", weir.words());
    // Its status has never been written; a control that starts anew is told.
    weir.place("later.json", &object("later", "testcurl", &[]));
    weir.start_control();
    stream.run(20).unwrap_or_else(|e| panic!("with a new control: {e}\n{}", weir.words()));
    assert!(!weir.dataplane_log().contains("cut off until it does"), "{}", weir.words());
    assert_enforced(&add(&lab, "later", "later", LONG), &weir);
    let wrong = differences(&lab, &[reaches("late", "later", Tcp), reaches("later", "web", Tcp)]);
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", weir.words());

    // The dataplane alone: control tells it what it was told.
    weir.kill_dataplane();
    weir.start_dataplane(&options);
    stream.run(20).unwrap_or_else(|e| panic!("dataplane again: {e}\n{}", weir.words()));
    assert_enforced(&add(&lab, "later", "later", LONG), &weir);
    // Deleted while nobody listened: the device is gone, and so is the word.
    weir.kill_dataplane();
    lab.unpod("later");
    weir.start_dataplane(&options);
    assert_eq!(del(&lab, "later"), Answer::Done { removed: 0 });
    stream.run(20).unwrap_or_else(|e| panic!("in the end: {e}\n{}", weir.words()));
    weir.assert_alive();
}

#[test]
fn where_words_are_required_a_pod_without_one_is_cut_off_and_told() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Ptp);
    let mut weir = Weir::start(&lab, folder, &["--workers", "1", "--cni", "required"]);
    let adopted = [reaches("curl", "web", Tcp), reaches("kurl", "web", Tcp)];
    let wrong = differences(&lab, &adopted);
    assert!(wrong.is_empty(), "adopted: {wrong:#?}\n{}", weir.words());

    lab.pod("bypass");
    let addresses = Family::BOTH.map(|family| lab.address("bypass", family));
    weir.relabel(|weir| weir.place("bypass.json", &object("bypass", "testcurl", &addresses)));
    let wrong = differences(&lab, &[denied("bypass", "web", Tcp), denied("node", "bypass", Tcp)]);
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", weir.words());
    weir.wait("the pod to be told of", |weir| {
        weir.control_log().contains("Pod default/bypass: interface")
            && weir.dataplane_log().contains("weir-cni has not told of it")
    });
    // With its word it is a pod like any other.
    assert_enforced(&add(&lab, "bypass", "bypass", LONG), &weir);
    let wrong = differences(&lab, &[reaches("bypass", "web", Tcp)]);
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", weir.words());
    weir.wait("it to be settled", |weir| {
        weir.control_log().contains("settled: weir-dataplane: Pod default/bypass")
    });
    weir.assert_alive();
}

/// Hundreds may be made at once; what they change is told together.
#[test]
fn many_at_once_are_taken_in_together() {
    const PODS: u32 = 60;
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Ptp);
    let mut weir = Weir::start(&lab, folder, &["--workers", "1"]);
    let address = |n: u32| IpAddr::from([10, 99, 0, n as u8 + 1]);
    let make = format!(
        "for n in $(seq 0 {}); do ip netns add many$n && \
         ip link add many$n type veth peer name eth0 netns many$n && ip link set many$n up && \
         ip -n many$n addr add 10.99.0.$((n + 1))/32 dev eth0 && \
         ip -n many$n link set eth0 up || exit 1; done",
        PODS - 1
    );
    lab.command("node", "sh", &["-c", &make]);
    let mut objects = String::new();
    for n in 0..PODS {
        objects += &object(&format!("many{n}"), "testcurl", &[]);
        objects += "\n---\n";
    }
    weir.place("many.yaml", &objects);
    let begin = Instant::now();
    let answers: Vec<Answer> = thread::scope(|scope| {
        let lab = &lab;
        let asked: Vec<_> = (0..PODS)
            .map(|n| {
                scope.spawn(move || {
                    let name = format!("many{n}");
                    let said = of_addresses(&name, &name, vec![address(n)]);
                    ask(lab, &Request::Add(said), &name, LONG)
                })
            })
            .collect();
        asked.into_iter().map(|answer| answer.join().unwrap()).collect()
    });
    for answer in &answers {
        assert_enforced(answer, &weir);
    }
    let changes = weir.dataplane_log().matches("pods placed").count();
    eprintln!("{PODS} pods in {:?}, by {changes} changes", begin.elapsed());
    let status = weir.status();
    let mut placed = 0;
    for endpoint in status["endpoints"].as_array().unwrap() {
        let name = endpoint["netns"].as_str().unwrap();
        if let Some(n) = name.strip_prefix("many") {
            assert_eq!(endpoint["addresses"], json!([address(n.parse().unwrap())]));
            assert_eq!(endpoint["attached"], true, "{endpoint}");
            assert_eq!(endpoint["pod"], format!("default/{name}"), "{endpoint}");
            assert_eq!(endpoint["placed"], true, "{endpoint}");
            placed += 1;
        }
    }
    assert_eq!(placed, PODS);
    weir.assert_alive();
}
