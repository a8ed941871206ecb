//! With an API server: an object is created there, weir-control hears of it, the chain is run, the
//! pod is reported, deleted and forgotten there. And the API is away, or says nothing, meanwhile.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use weir_apiserver::{Action, ApiServer, Cut, Fault, Key, Kind};

use crate::clock::{now_ns, until};
use crate::cluster::{self, events_on};
use crate::kubelet::{Failure, Kubelet, Network, Sandbox};
use crate::lab::{Cni, Lab};
use crate::objects::{Objects, Pod};
use crate::probe::By::{Tcp, Udp};
use crate::probe::{Probe, denied, differences, reaches, serve};
use crate::reuse::ends;
use crate::site::{CLOSED, FREE, SOME, end, endpoint, leases, links, node, policy, run, whole};
use crate::traffic::{Receiver, Sender};
use crate::turn;
use crate::weir::Weir;

/// What should come about does so within this, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long who must not get through tries.
const TRIED: Duration = Duration::from_millis(200);
/// Tags of what `curl` and `kurl` send; new pods have their own numbers, from 1 on.
const CURL: u64 = 100;
const KURL: u64 = 101;

/// One address of each family, which one pod after the other is given.
const ONE: [&str; 2] = ["10.244.0.9", "fd00:10:244::9"];

fn one() -> Network {
    Network { cni: Cni::Bridge, ranges: Some(ONE.map(|address| [address; 2])) }
}

fn added(result: Result<u64, Failure>, weir: &Weir<'_>) -> u64 {
    result.unwrap_or_else(|failure| panic!("{failure:?}\n{}", weir.words()))
}

fn assert_probes(weir: &Weir<'_>, lab: &Lab, when: &str, probes: &[Probe]) {
    // Nobody tells them whose hardware address an address of IPv6 has now.
    for place in ["web", "curl", "kurl"] {
        lab.command(place, "ip", &["neigh", "flush", "all"]);
    }
    let found = differences(lab, probes);
    assert!(found.is_empty(), "{when}: {found:#?}\n{}", weir.words());
}

/// What a pod may and may not, by its label.
fn rights(place: &'static str, label: &str) -> Vec<Probe> {
    match label {
        CLOSED => vec![denied(place, "web", Tcp), denied("curl", place, Tcp)],
        FREE => vec![reaches(place, "kurl", Tcp), reaches("kurl", place, Tcp)],
        SOME => vec![
            reaches(place, "web", Tcp),
            denied(place, "kurl", Udp),
            reaches("curl", place, Udp),
            denied("kurl", place, Tcp),
        ],
        other => panic!("no policy is about {other}"),
    }
}

/// Fails unless an ADD has failed in a way that the kubelet tries again, for this reason.
fn later(failure: &Failure, words: &str) {
    assert_eq!((failure.plugin.as_str(), failure.code), ("weir-cni", 11), "{failure:?}");
    assert!(failure.words.contains(words), "{failure:?} should say: {words}");
}

/// Whether control has seen that pods cannot be followed.
fn missed(weir: &Weir<'_>) -> bool {
    let is_it = |line: &str| line.contains("cannot be followed") && line.contains("\"pods\"");
    weir.control_log().lines().any(is_it)
}

/// A pod that sends to `web` and `curl`, and listens, from before it has an interface.
struct Eager {
    sandbox: Sandbox,
    number: u64,
    sender: Sender,
    inside: Receiver,
}

impl Eager {
    fn new(lab: &Lab, kubelet: &Kubelet<'_>, pod: &Pod, place: &str, number: u64) -> Self {
        let sandbox = kubelet.sandbox(pod, place);
        serve(lab, place);
        let sender = Sender::start(lab, place, &ends(lab), number);
        Self { sandbox, number, sender, inside: Receiver::start(lab, place) }
    }

    /// What has left it and what of `curl` has entered it since a moment, by family.
    fn since(&self, web: &Receiver, moment: u64) -> [[u64; 2]; 2] {
        [web.since(self.number, moment), self.inside.since(CURL, moment)]
    }

    /// Fails if anything leaves or enters it.
    fn assert_cut(&self, web: &Receiver, moment: u64, weir: &Weir<'_>) {
        thread::sleep(TRIED);
        let came = self.since(web, moment);
        assert_eq!(came, [[0; 2]; 2], "{}: left, entered\n{}", self.sandbox.place, weir.words());
    }

    /// Waits until something leaves and something enters it that is sent from now on, by both
    /// families.
    fn assert_free(&self, web: &Receiver, weir: &Weir<'_>) {
        let moment = now_ns();
        let through = || self.since(web, moment).iter().flatten().all(|count| *count > 0);
        let came = until(PATIENCE, through);
        let Sandbox { place, .. } = &self.sandbox;
        assert!(came, "{place}: {:?}\n{}", self.since(web, moment), weir.words());
    }

    /// Its end, in the middle of what it does.
    fn end(self, kubelet: &Kubelet<'_>) {
        end(kubelet, self.sandbox);
        assert!(self.sender.end() > 0, "it has tried");
    }
}

/// From the object to the end; one address for one pod after the other, each under another policy,
/// and in the API it is its predecessor's still.
#[test]
fn a_pod_lives_as_its_object_says() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let api = cluster::serve(&lab, &folder);
    let kubelet = Kubelet::with(&lab, Objects::Api(&api), &one());
    let mut weir = cluster::start(&lab, &folder, &kubelet);
    let before = (links(&lab), leases(&lab));
    let web = Receiver::start(&lab, "web");
    let address: [IpAddr; 2] = ONE.map(|address| address.parse().unwrap());
    let curl = Sender::start(&lab, "curl", &address, CURL);
    let lives = [("free", FREE), ("closed", CLOSED), ("some", SOME)];
    let mut last: Option<Eager> = None;
    for (number, (place, label)) in (1..).zip(lives) {
        let pod = kubelet.pod(&format!("default/{place}"), &[label]);
        kubelet.create(&pod);
        let mut new = Eager::new(&lab, &kubelet, &pod, place, number);
        let gone = last.take().map(|mut last| {
            kubelet.terminate(&last.sandbox);
            kubelet.del(&mut last.sandbox);
            last
        });
        let moment = added(kubelet.add(&mut new.sandbox), &weir);
        assert_eq!(new.sandbox.addresses(), address);
        for when in ["not reported", "reported"] {
            match label {
                CLOSED => new.assert_cut(&web, moment, &weir),
                _ => new.assert_free(&web, &weir),
            }
            if when == "not reported" {
                assert_probes(&weir, &lab, when, &rights(place, label));
                kubelet.report(&new.sandbox);
            }
        }
        if let Some(gone) = gone {
            kubelet.forget(&gone.sandbox.pod);
            kubelet.remove(gone.sandbox);
        }
        last = Some(new);
    }
    let last = last.unwrap();
    let checked = kubelet.check(&last.sandbox);
    checked.unwrap_or_else(|e| panic!("{e:?}\n{}", weir.words()));
    last.end(&kubelet);
    curl.end();
    weir.wait("its end to be seen", |weir| endpoint(weir, "some").is_null());
    assert_eq!((links(&lab), leases(&lab)), before);
    assert_eq!(api.count(Kind::Pod), 3);
    let (count, median, worst) = kubelet.delays().unwrap();
    println!("{count} ADDs, weir-cni took {median:?} (median), {worst:?} (worst)");
}

/// What is known is enforced, also for pods that start; what is not known is not guessed.
#[test]
fn an_api_that_is_away_keeps_only_those_waiting_who_are_not_known() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let api = cluster::serve(&lab, &folder);
    let kubelet = Kubelet::with(&lab, Objects::Api(&api), &whole(Cni::Bridge));
    let mut weir = cluster::start(&lab, &folder, &kubelet);
    let known = kubelet.pod("default/known", &[SOME]);
    kubelet.create(&known);
    // Pods are told in order: when this one is enforced, the one before it is known.
    let placed = run(&lab, &kubelet, "placed", SOME);
    let inside = Receiver::start(&lab, "placed");
    let senders = [("curl", CURL), ("kurl", KURL)]
        .map(|(from, tag)| Sender::start(&lab, from, &placed.addresses(), tag));
    let goes_on = |weir: &Weir<'_>, when: &str| {
        let before = inside.of(CURL);
        let grows = || inside.of(CURL).iter().zip(&before).all(|(now, before)| now > before);
        assert!(until(PATIENCE, grows), "{when}: {before:?}\n{}", weir.words());
        assert_eq!(inside.of(KURL), [0, 0], "{when}\n{}", weir.words());
    };
    goes_on(&weir, "before");

    api.down().unwrap();
    weir.wait("the API to be missed", missed);
    let mut sandbox = kubelet.sandbox(&known, "known");
    serve(&lab, "known");
    added(kubelet.add(&mut sandbox), &weir);
    assert_probes(&weir, &lab, "known before", &rights("known", SOME));

    // A policy, and a pod that it is about, of which nobody here has heard.
    api.apply_yaml(&policy("default", "late", "late", json!({}))).unwrap();
    let late = kubelet.pod("default/late", &["run=late"]);
    kubelet.create(&late);
    let web = Receiver::start(&lab, "web");
    let mut late = Eager::new(&lab, &kubelet, &late, "late", 1);
    kubelet.weir_cni("install", &["--timeout-ms", "700"]);
    let failure = kubelet.add(&mut late.sandbox).unwrap_err();
    later(&failure, "weir-control knows no pod default/late yet; weir-control cannot follow pods");
    kubelet.weir_cni("install", &["--timeout-ms", "60000"]);
    goes_on(&weir, "while the API is away");

    api.up().unwrap();
    let moment = added(kubelet.add(&mut late.sandbox), &weir);
    late.assert_cut(&web, moment, &weir);
    goes_on(&weir, "when the API is back");
    late.end(&kubelet);
    for sandbox in [sandbox, placed] {
        end(&kubelet, sandbox);
    }
    drop(senders);
    assert_eq!(inside.of(KURL), [0, 0], "{}", weir.words());
}

/// A pod ends, and nobody has heard of it: who is given its address is not taken for it.
#[test]
fn an_address_is_not_its_last_pods_although_the_api_still_says_so() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let api = cluster::serve(&lab, &folder);
    let kubelet = Kubelet::with(&lab, Objects::Api(&api), &one());
    let weir = cluster::start(&lab, &folder, &kubelet);
    let web = Receiver::start(&lab, "web");
    let curl = Sender::start(&lab, "curl", &ONE.map(|address| address.parse().unwrap()), CURL);

    // Known before, not connected yet.
    let second = kubelet.pod("default/second", &[CLOSED]);
    kubelet.create(&second);
    let pod = kubelet.pod("default/first", &[FREE]);
    kubelet.create(&pod);
    let mut first = Eager::new(&lab, &kubelet, &pod, "first", 1);
    added(kubelet.add(&mut first.sandbox), &weir);
    kubelet.report(&first.sandbox);
    first.assert_free(&web, &weir);

    let refused = Action::Refuse { code: 503, retry_after: None };
    api.fault(Fault::always(refused).on_verb("watch").on_kind(Kind::Pod));
    assert_eq!(api.cut(Kind::Pod, Cut::Broken), 1);
    first.end(&kubelet);
    let mut second = Eager::new(&lab, &kubelet, &second, "second", 2);
    let moment = added(kubelet.add(&mut second.sandbox), &weir);
    second.assert_cut(&web, moment, &weir);
    second.end(&kubelet);

    // One that nobody here has heard of may do all that the first might, once it is known. It
    // starts all the same, cut off, so that it can try.
    let options = ["--timeout-ms", "300", "--on-timeout", "quarantine"];
    kubelet.weir_cni("install", &options);
    let pod = kubelet.pod("default/third", &[FREE]);
    kubelet.create(&pod);
    let mut third = Eager::new(&lab, &kubelet, &pod, "third", 3);
    let moment = added(kubelet.add(&mut third.sandbox), &weir);
    third.assert_cut(&web, moment, &weir);
    api.clear_faults();
    third.assert_free(&web, &weir);
    curl.end();
    third.end(&kubelet);
}

/// Waits for the one Event on an object: its reason, and its note.
fn event_on(api: &ApiServer, kind: Kind, name: &str, weir: &Weir<'_>) -> (String, String) {
    let object = api.get(kind, &Key::new("default", name)).unwrap();
    let came = until(PATIENCE, || !events_on(api, &object).is_empty());
    assert!(came, "no Event on {name}\n{}", weir.words());
    let mut events = events_on(api, &object);
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0)
}

/// On the objects themselves, where their authors look.
#[test]
fn what_cannot_be_enforced_is_said_by_events() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let api = cluster::serve(&lab, &folder);
    let kubelet = Kubelet::with(&lab, Objects::Api(&api), &whole(Cni::Bridge));
    let weir = cluster::start(&lab, &folder, &kubelet);
    let thief = run(&lab, &kubelet, "thief", FREE);
    kubelet.report(&thief);
    assert_probes(&weir, &lab, "before", &[reaches("thief", "web", Tcp)]);

    // A rule that no packet can fit.
    let rules = json!({"ingress": [{"ports": [{"port": 0}]}]});
    api.apply_yaml(&policy("default", "odd", "odd", rules)).unwrap();
    let (reason, note) = event_on(&api, Kind::NetworkPolicy, "odd", &weir);
    assert_eq!(reason, "RuleNotHonoured");
    assert!(note.starts_with("spec.ingress[0].ports[0].port: 0 is no port"), "{note}");

    // Two pods of other nodes with one address.
    let twin = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "default", "name": name},
            "spec": {"nodeName": "elsewhere", "containers": []},
            "status": {"phase": "Running", "podIP": "10.9.9.9", "podIPs": [{"ip": "10.9.9.9"}]},
        })
    };
    for name in ["twin-a", "twin-b"] {
        api.apply(twin(name)).unwrap();
    }
    for name in ["twin-a", "twin-b"] {
        let (reason, note) = event_on(&api, Kind::Pod, name, &weir);
        assert_eq!(reason, "Isolated");
        assert!(note.contains("10.9.9.9"), "{note}");
    }

    // A pod of this node that takes another's address.
    let taken = lab.address("web", crate::lab::Family::V4);
    lab.command("thief", "ip", &["addr", "add", &format!("{taken}/32"), "dev", "eth0"]);
    // A namespace that was looked into just before is left until the next thing happens.
    let object = api.get(Kind::Pod, &Key::new("default", "thief")).unwrap();
    let mut times = 0;
    let _ = until(PATIENCE, || {
        times += 1;
        lab.command("thief", "ip", &["link", "set", "eth0", "alias", &times.to_string()]);
        until(TRIED, || !events_on(&api, &object).is_empty())
    });
    let (reason, note) = event_on(&api, Kind::Pod, "thief", &weir);
    assert_eq!(reason, "Isolated");
    assert!(note.contains(&format!("it claims {taken}, which")), "{note}");
    let cut = [denied("thief", "kurl", Tcp), denied("curl", "thief", Tcp)];
    assert_probes(&weir, &lab, "with another's address", &cut);
    assert_probes(&weir, &lab, "whose it is", &[reaches("curl", "web", Tcp)]);
    end(&kubelet, thief);
    let instances = |event: &Value| event["reportingInstance"] == "lab";
    assert!(api.list(Kind::Event).iter().all(instances), "{:#?}", api.list(Kind::Event));
}

/// weir-control ends, and the next finds no API: what is in force stays, also for a dataplane that
/// begins anew, and a pod can end. None can start, since nobody knows what is to be enforced for it.
#[test]
fn placed_pods_outlive_a_control_that_finds_no_api() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let api = cluster::serve(&lab, &folder);
    let kubelet = Kubelet::with(&lab, Objects::Api(&api), &whole(Cni::Bridge));
    let mut weir = cluster::start(&lab, &folder, &kubelet);
    // None of their addresses is reported: nobody but the plugin has said whose they are.
    let some = run(&lab, &kubelet, "some", SOME);
    let free = run(&lab, &kubelet, "free", FREE);
    let gone = run(&lab, &kubelet, "gone", FREE);
    let probes = [rights("some", SOME), rights("free", FREE)].concat();
    assert_probes(&weir, &lab, "before", &probes);

    api.down().unwrap();
    weir.kill_control();
    weir.launch_control();
    weir.wait("the API to be missed", missed);
    assert_probes(&weir, &lab, "a control that knows nothing", &probes);
    end(&kubelet, gone);
    let new = kubelet.pod("default/new", &[SOME]);
    kubelet.create(&new);
    let mut new = kubelet.sandbox(&new, "new");
    serve(&lab, "new");
    kubelet.weir_cni("install", &["--timeout-ms", "700"]);
    later(&kubelet.add(&mut new).unwrap_err(), "there has been no full list of namespaces");
    kubelet.weir_cni("install", &["--timeout-ms", "60000"]);
    weir.kill_dataplane();
    weir.start_dataplane(&["--workers", "1"]);
    assert_probes(&weir, &lab, "and a dataplane that begins anew", &probes);

    let before = weir.generation();
    api.up().unwrap();
    weir.wait("a generation of the new control", |weir| weir.generation() > before);
    assert_probes(&weir, &lab, "the API is back", &probes);
    added(kubelet.add(&mut new), &weir);
    assert_probes(&weir, &lab, "and a pod starts", &rights("new", SOME));
    assert!(endpoint(&weir, "gone").is_null(), "{}", weir.status());
    for sandbox in [some, free, new] {
        let checked = kubelet.check(&sandbox);
        checked.unwrap_or_else(|e| panic!("{e:?}\n{}", weir.words()));
        end(&kubelet, sandbox);
    }
}
