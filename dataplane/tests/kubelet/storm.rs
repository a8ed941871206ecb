//! Many pods at once, made and removed, under a policy that lets nothing in and nothing out.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::clock::until;
use crate::kubelet::{Kubelet, Network};
use crate::lab::{Cni, Lab};
use crate::reuse::ends;
use crate::site::{FREE, end, leases, links, node, policy, start};
use crate::traffic::{Receiver, Sender};
use crate::turn;
use crate::weir::{Weir, place};

/// Pods, unless `WEIR_KUBE_PODS` says otherwise.
const PODS: u64 = 100;
/// Made or removed at the same time, unless `WEIR_KUBE_AT_ONCE` says otherwise.
const AT_ONCE: u64 = 6;
/// Every so manieth pod is one that no policy selects: what it sends must arrive.
const FREE_EVERY: u64 = 8;
/// How long a pod lives beside what its ADD and DEL take.
const LIVES: Duration = Duration::from_millis(60);
const PATIENCE: Duration = Duration::from_secs(60);
/// Tag of what `curl` sends; pods have their own numbers, from 1 on.
const CURL: u64 = 0;

/// So few addresses that each is given out again and again.
const RANGES: [[&str; 2]; 2] =
    [["10.244.0.16", "10.244.0.31"], ["fd00:10:244::10", "fd00:10:244::1f"]];

/// One pod's life; gives how many datagrams that it may not send or get passed before its ADD had
/// returned, or in words what was wrong with it.
fn life(lab: &Lab, kubelet: &Kubelet<'_>, web: &Receiver, number: u64) -> Result<u64, String> {
    let is_free = number.is_multiple_of(FREE_EVERY);
    let name = format!("p{number}");
    let (namespace, label) = if is_free { ("default", FREE) } else { ("storm", "run=storm") };
    let pod = kubelet.pod(&format!("{namespace}/{name}"), &[label]);
    kubelet.create(&pod);
    let mut sandbox = kubelet.sandbox(&pod, &name);
    let mut inside = Receiver::start(lab, &name);
    let sender = Sender::start(lab, &name, &ends(lab), number);
    let added = kubelet.add(&mut sandbox).map_err(|failure| format!("{name}: {failure:?}"))?;
    let mut outcome = Ok(0);
    if is_free {
        let both = |counts: [u64; 2]| counts.iter().all(|count| *count > 0);
        if !until(PATIENCE, || both(web.of(number)) && both(inside.of(CURL))) {
            let came = (web.of(number), inside.of(CURL));
            outcome = Err(format!("{name} is free, but cut off: {came:?}"));
        }
    } else {
        thread::sleep(LIVES / 2);
    }
    kubelet.report(&sandbox);
    thread::sleep(LIVES / 2);
    // Whoever is in it speaks and listens until its interface is gone.
    end(kubelet, sandbox);
    sender.end();
    inside.end();
    if !is_free {
        let (left, entered) = (web.since(number, added), inside.since(CURL, added));
        if (left, entered) == ([0; 2], [0; 2]) {
            outcome = Ok(web.of(number).iter().chain(&inside.of(CURL)).sum());
        } else {
            outcome = Err(format!("{name}: {left:?} left it, {entered:?} entered it"));
        }
    }
    outcome
}

fn storm(cni: Cni, pods: u64) {
    let (lab, folder) = node(cni);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "storm"}});
    place(&folder, "storm.json", &namespace.to_string());
    place(&folder, "storm-deny.json", &policy("storm", "deny", "", json!({})));
    let kubelet = Kubelet::new(&lab, &folder, &Network { cni, ranges: Some(RANGES) });
    let mut weir: Weir<'_> = start(&lab, &folder, &kubelet);
    let before = (links(&lab), leases(&lab));
    let web = Receiver::start(&lab, "web");
    let addresses: Vec<_> = (16..32_u16)
        .flat_map(|n| {
            let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, n);
            [Ipv4Addr::new(10, 244, 0, n as u8).into(), v6.into()]
        })
        .collect();
    let curl = Sender::start(&lab, "curl", &addresses, CURL);

    let (next, wrong) = (AtomicU64::new(1), Mutex::new(Vec::new()));
    let early = AtomicU64::new(0);
    let at_once = asked("WEIR_KUBE_AT_ONCE").unwrap_or(AT_ONCE);
    let started = Instant::now();
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number > pods || wrong.lock().unwrap().len() > 5 {
                        return;
                    }
                    match life(&lab, &kubelet, &web, number) {
                        Ok(count) => _ = early.fetch_add(count, Ordering::Relaxed),
                        Err(words) => wrong.lock().unwrap().push(words),
                    }
                }
            });
        }
    });
    let took = started.elapsed();
    curl.end();
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{cni:?}: {wrong:#?}\n{}", weir.words());
    for number in (1..=pods).filter(|number| number.is_multiple_of(FREE_EVERY)) {
        assert!(web.of(number)[0] > 0, "p{number} was free, and heard");
    }
    // Nothing is left of those that are gone.
    assert_eq!((links(&lab), leases(&lab)), before);
    weir.wait("only the three pods from before", |weir| {
        weir.status()["endpoints"].as_array().is_some_and(|all| all.len() == 3)
    });
    let (count, median, late) = kubelet.delays().unwrap();
    println!(
        "{cni:?}: {pods} pods made and removed in {took:?}, {at_once} at a time; weir-cni took \
         {median:?} (median of {count}), {late:?} (99th percentile); {} datagrams passed before \
         an ADD had returned, none after it",
        early.into_inner(),
    );
}

#[test]
fn a_storm_of_pods_on_a_bridge_lets_nothing_through() {
    let Some(_turn) = turn() else { return };
    storm(Cni::Bridge, asked("WEIR_KUBE_PODS").unwrap_or(PODS));
}

#[test]
fn a_storm_of_routed_pods_lets_nothing_through() {
    let Some(_turn) = turn() else { return };
    storm(Cni::Ptp, asked("WEIR_KUBE_PODS").unwrap_or(PODS / 3));
}

fn asked(variable: &str) -> Option<u64> {
    let count = std::env::var(variable).ok()?;
    Some(count.parse().unwrap_or_else(|e| panic!("{variable}: {e}")))
}
