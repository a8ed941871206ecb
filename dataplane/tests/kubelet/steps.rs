//! The daemons are absent, are killed or come back at each step of a pod's life: nothing that is
//! denied gets through, and what fails says so and can be done again.

use std::thread;
use std::time::{Duration, Instant};

use crate::clock::until;
use crate::kubelet::{Failure, Kubelet, Sandbox};
use crate::lab::{Cni, Family, Lab};
use crate::probe::By::Tcp;
use crate::probe::{denied, differences, reaches, serve};
use crate::site::{CLOSED, FREE, SOME, end, endpoint, leases, links, node, run, start, whole};
use crate::traffic::{Receiver, Sender};
use crate::turn;
use crate::weir::Weir;

const PATIENCE: Duration = Duration::from_secs(60);
const TRIED: Duration = Duration::from_millis(200);
/// Tag of what the pod under test sends to `web`.
const POD: u64 = 7;

fn later(failure: &Failure, words: &str) {
    assert_eq!((failure.plugin.as_str(), failure.code), ("weir-cni", 11), "{failure:?}");
    assert!(failure.words.contains(words), "{failure:?} should say: {words}");
}

/// A pod that may reach nobody, and tries from the first instant on; not yet connected.
fn eager(lab: &Lab, kubelet: &Kubelet<'_>, place: &str) -> (Sandbox, Sender) {
    let pod = kubelet.pod(&format!("default/{place}"), &[CLOSED]);
    kubelet.create(&pod);
    let sandbox = kubelet.sandbox(&pod, place);
    let to = Family::BOTH.map(|family| lab.address("web", family));
    let sender = Sender::start(lab, place, &to, POD);
    (sandbox, sender)
}

/// The runtime tries again and again, as the kubelet has it; gives the moment of success.
fn add_until(weir: &Weir<'_>, kubelet: &Kubelet<'_>, sandbox: &mut Sandbox) -> u64 {
    let (mut last, mut moment) = (None, 0);
    let added = until(PATIENCE, || match kubelet.add(sandbox) {
        Ok(returned) => {
            moment = returned;
            true
        }
        Err(failure) => {
            last = Some(failure);
            false
        }
    });
    assert!(added, "{last:?}\n{}", weir.words());
    moment
}

#[test]
fn without_a_dataplane_no_pod_is_connected() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let kubelet = Kubelet::new(&lab, &folder, &whole(Cni::Bridge));
    let before = (links(&lab), leases(&lab));
    // Never there.
    kubelet.weir_cni("install", &[]);
    let pod = kubelet.pod("default/pod", &[FREE]);
    kubelet.create(&pod);
    let mut sandbox = kubelet.sandbox(&pod, "pod");
    let failure = kubelet.add(&mut sandbox).unwrap_err();
    later(&failure, "pod default/pod is not connected: cannot reach the dataplane");
    assert_eq!((links(&lab), leases(&lab)), before, "what was made is undone");

    // Killed: who runs goes on being closed, who starts does not start.
    let mut weir = start(&lab, &folder, &kubelet);
    serve(&lab, "pod");
    kubelet.add(&mut sandbox).unwrap_or_else(|e| panic!("{e:?}\n{}", weir.words()));
    let web = Receiver::start(&lab, "web");
    weir.kill();
    let (mut other, sender) = eager(&lab, &kubelet, "other");
    let failure = kubelet.add(&mut other).unwrap_err();
    later(&failure, "cannot reach the dataplane");
    assert_eq!(web.of(POD), [0, 0], "nobody judges, nothing passes\n{}", weir.words());
    // A pod can go without it.
    kubelet.del(&mut sandbox);
    assert_eq!((links(&lab), leases(&lab)), before);

    // It is back; control is not, but what it said last is in force.
    weir.start_dataplane(&["--workers", "1"]);
    weir.start_control();
    let added = add_until(&weir, &kubelet, &mut other);
    thread::sleep(TRIED);
    sender.end();
    assert_eq!(web.since(POD, added), [0, 0], "{}", weir.words());
    // The one that went meanwhile is not remembered for its successor.
    add_until(&weir, &kubelet, &mut sandbox);
    let found = differences(&lab, &[reaches("pod", "web", Tcp), reaches("curl", "pod", Tcp)]);
    assert!(found.is_empty(), "{found:#?}\n{}", weir.words());
    end(&kubelet, sandbox);
    end(&kubelet, other);
    kubelet.weir_cni("uninstall", &[]);
}

#[test]
fn without_control_an_add_waits_and_then_fails() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Ptp);
    let kubelet = Kubelet::new(&lab, &folder, &whole(Cni::Ptp));
    let mut weir = start(&lab, &folder, &kubelet);
    kubelet.weir_cni("install", &["--timeout-ms", "1500"]);
    let before = (links(&lab), leases(&lab));
    let web = Receiver::start(&lab, "web");
    weir.kill_control();
    let (mut pod, sender) = eager(&lab, &kubelet, "pod");
    let begin = Instant::now();
    let failure = kubelet.add(&mut pod).unwrap_err();
    later(&failure, "weir-control");
    assert!(begin.elapsed() > Duration::from_millis(700), "it has waited");
    assert_eq!((links(&lab), leases(&lab)), before);

    // With the choice for it, the pod runs and is cut off from all but its node.
    kubelet.weir_cni("install", &["--timeout-ms", "500", "--on-timeout", "quarantine"]);
    let free = kubelet.pod("default/free", &[FREE]);
    kubelet.create(&free);
    let mut free = kubelet.sandbox(&free, "free");
    serve(&lab, "free");
    kubelet.add(&mut free).unwrap_or_else(|e| panic!("{e:?}\n{}", weir.words()));
    let cut = [
        denied("free", "web", Tcp),
        denied("curl", "free", Tcp),
        reaches("node", "free", Tcp),
        reaches("curl", "web", Tcp),
    ];
    let found = differences(&lab, &cut);
    assert!(found.is_empty(), "{found:#?}\n{}", weir.words());

    // Control is back: who waits is released, who failed can come.
    weir.start_control();
    let released = [reaches("free", "web", Tcp), reaches("curl", "free", Tcp)];
    let found = until(PATIENCE, || differences(&lab, &released).is_empty());
    assert!(found, "{}", weir.words());
    kubelet.weir_cni("install", &["--timeout-ms", "60000"]);
    let added = kubelet.add(&mut pod).unwrap_or_else(|e| panic!("{e:?}\n{}", weir.words()));
    thread::sleep(TRIED);
    sender.end();
    assert_eq!(web.since(POD, added), [0, 0], "{}", weir.words());
    end(&kubelet, pod);
    end(&kubelet, free);
}

/// The dataplane dies while an ADD waits for control, and another takes its place.
#[test]
fn a_dataplane_that_dies_during_an_add_is_asked_again_or_the_add_fails() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let kubelet = Kubelet::new(&lab, &folder, &whole(Cni::Bridge));
    let mut weir = start(&lab, &folder, &kubelet);
    let web = Receiver::start(&lab, "web");
    let (mut pod, sender) = eager(&lab, &kubelet, "pod");
    let frozen = weir.freeze_control();
    thread::scope(|scope| {
        let adding = scope.spawn(|| {
            let outcome = kubelet.add(&mut pod);
            (pod, outcome)
        });
        // The dataplane knows the pod, and waits for control.
        let seen = until(PATIENCE, || !endpoint(&weir, "pod").is_null());
        assert!(seen, "{}", weir.words());
        assert!(!adding.is_finished());
        weir.kill_dataplane();
        weir.start_dataplane(&["--workers", "1"]);
        drop(frozen);
        let (mut pod, outcome) = adding.join().unwrap();
        let added = outcome.unwrap_or_else(|failure| {
            // It was away for longer than is waited: the kubelet tries again.
            later(&failure, "cannot reach the dataplane");
            add_until(&weir, &kubelet, &mut pod)
        });
        thread::sleep(TRIED);
        sender.end();
        assert_eq!(web.since(POD, added), [0, 0], "{}", weir.words());
        end(&kubelet, pod);
    });
}

/// What CNI said of the pods outlives the daemon to which it was said.
#[test]
fn pods_outlive_the_daemons() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let kubelet = Kubelet::new(&lab, &folder, &whole(Cni::Bridge));
    let mut weir = start(&lab, &folder, &kubelet);
    let some = run(&lab, &kubelet, "some", SOME);
    let free = run(&lab, &kubelet, "free", FREE);
    let gone = run(&lab, &kubelet, "gone", FREE);
    let probes = [
        reaches("some", "web", Tcp),
        denied("some", "kurl", Tcp),
        reaches("curl", "some", Tcp),
        denied("kurl", "some", Tcp),
        reaches("free", "web", Tcp),
        reaches("kurl", "free", Tcp),
    ];
    let check = |weir: &Weir<'_>, when: &str| {
        let found = differences(&lab, &probes);
        assert!(found.is_empty(), "{when}: {found:#?}\n{}", weir.words());
    };
    check(&weir, "before");
    // None of their addresses has been reported: nobody but CNI has said whose they are.
    weir.kill();
    end(&kubelet, gone);
    weir.start_dataplane(&["--workers", "1"]);
    check(&weir, "a new dataplane, without control");
    weir.start_control();
    check(&weir, "a new control");
    weir.kill_control();
    weir.start_control();
    check(&weir, "one more");
    assert!(endpoint(&weir, "gone").is_null(), "{}", weir.status());
    kubelet.check(&some).unwrap_or_else(|e| panic!("{e:?}\n{}", weir.words()));
    for sandbox in [some, free] {
        end(&kubelet, sandbox);
    }
}
