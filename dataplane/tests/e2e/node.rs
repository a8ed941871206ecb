//! The node of these tests: who is on it and what is asked of it.

use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::MapData;
use serde_json::Value;
use weir_table::counters::{Counter, Counters};
use weir_table::mem::{Access, SharedWords};

use crate::lab::{Cni, Lab};
use crate::probe::serve;
use crate::weir::{Weir, place};

/// A lab with pods `web`, `curl`, `kurl` (in namespace default, labelled as in the
/// exercise) and echo servers in `web`.
pub fn node(cni: Cni) -> (Lab, PathBuf) {
    populate(Lab::up(cni))
}

/// The same pods on a lab that the test has made.
pub fn populate(lab: Lab) -> (Lab, PathBuf) {
    let folder = lab.dir().join("manifests");
    fs::create_dir(&folder).unwrap();
    place(&folder, "namespaces.yaml", &example("namespaces"));
    for (pod, label) in [("web", "run=testweb"), ("curl", "run=testcurl"), ("kurl", "run=testkurl")]
    {
        lab.pod(pod);
        let manifest = lab.manifest(&format!("default/{pod}"), pod, &[label]);
        place(&folder, &format!("pod-{pod}.json"), &manifest);
    }
    serve(&lab, "web");
    (lab, folder)
}

/// A manifest of deploy/examples, the ones the demo applies.
pub fn example(name: &str) -> String {
    let path = format!("{}/../deploy/examples/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(path).unwrap()
}

/// `web` accepts from `run=testcurl` and from nobody else, by `deny.yaml` and `allow.yaml`.
pub fn allow_testcurl_alone(weir: &mut Weir<'_>) {
    weir.apply("deny.yaml", &example("deny-all-for-testweb"));
    weir.apply("allow.yaml", &example("allow-testcurl-for-testweb"));
}

/// A number of a status: `steering.punted`, `counters.rx_frames`, or packets
/// dropped for a reason, in both directions: `drops.malformed`.
pub fn count(status: &Value, name: &str) -> u64 {
    let (part, field) = name.split_once('.').unwrap();
    match &status[part] {
        Value::Array(drops) => drops
            .iter()
            .filter(|drop| drop["reason"] == field)
            .map(|drop| drop["packets"].as_u64().unwrap())
            .sum(),
        numbers => numbers[field].as_u64().unwrap_or_else(|| panic!("no {name} in {status}")),
    }
}

/// The status once everything that has happened is counted: nothing has been for 100 ms, in
/// which a worker had its turn. They add up what they did with their sockets every 10 ms, but
/// a crowded machine may keep one waiting. Where something always happens, as it is after 3 s.
pub fn settled(weir: &Weir<'_>) -> Value {
    const QUIET: Duration = Duration::from_millis(100);
    const PATIENCE: Duration = Duration::from_secs(3);
    let start = Instant::now();
    let mut before = weir.status();
    loop {
        thread::sleep(QUIET);
        let after = weir.status();
        let quiet = what_happened(&before) == what_happened(&after);
        if quiet && turns(&before) != turns(&after) || start.elapsed() > PATIENCE {
            return after;
        }
        before = after;
    }
}

/// What packets and changes have made grow, without what grows by itself.
fn what_happened(status: &Value) -> [Value; 3] {
    let mut parts = ["counters", "steering", "drops"].map(|part| status[part].clone());
    if let Value::Object(counters) = &mut parts[0] {
        let by_itself = ["empty_polls", "sleeps", "busy_ns", "total_ns"];
        counters.retain(|name, _| !by_itself.contains(&name.as_str()));
    }
    parts
}

/// Grows as often as a worker has added up what it did.
fn turns(status: &Value) -> [&Value; 2] {
    ["sleeps", "total_ns"].map(|name| &status["counters"][name])
}

/// By how much each number of [`count`] has grown since a status.
pub fn growth(weir: &Weir<'_>, before: &Value) -> impl Fn(&str) -> u64 + use<> {
    let (before, after) = (before.clone(), settled(weir));
    move |name| count(&after, name) - count(&before, name)
}

/// The workers' counters in shared memory: what the status adds up, and cheaper to
/// ask. `None` before the dataplane has made them.
pub fn counters(lab: &Lab) -> Option<Counters<SharedWords>> {
    let data = MapData::from_pin(lab.node_path("/sys/fs/bpf/weir/weir_counters")).ok()?;
    let info = data.info().unwrap();
    let words = info.max_entries() as usize * info.value_size() as usize / 8;
    let words = SharedWords::map(data.fd().as_fd(), words, Access::ReadOnly, "counters").unwrap();
    Counters::open(words).ok()
}

/// Frames that each worker has taken from its AF_XDP socket.
pub fn frames_by_worker(lab: &Lab) -> Vec<u64> {
    let counters = counters(lab).unwrap();
    (0..counters.workers())
        .map(|worker| counters.worker(worker).unwrap().get(Counter::RxFrames))
        .collect()
}
