//! A large cluster: how long it takes from the start of the process to the first table, and from the
//! event of a policy to the dataplane; what the process weighs then, after a list of everything anew,
//! and after a tenth of it has changed.
//!
//! ```text
//! cargo test --release -p weir-control --test kube_source scale:: -- --nocapture --include-ignored
//! ```
//!
//! Sizes are set by `WEIR_SCALE_PODS` and `WEIR_SCALE_POLICIES` for the test that is ignored by
//! default, because its figures say nothing beside other tests, and in a debug build.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use weir_apiserver::{Cut, Kind, World, monotonic_ns};

use crate::Cluster;
use crate::support::Control;

/// For the whole of a large cluster, in a debug build, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

/// Resident memory of a process in KiB: now, at most, and of that what is not shared.
#[derive(Debug)]
#[allow(dead_code)] // They are printed.
struct Memory {
    now: u64,
    most: u64,
    own: u64,
}

fn memory(control: &Control) -> Memory {
    let text = fs::read_to_string(format!("/proc/{}/status", control.pid())).unwrap();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    Memory { now: field("VmRSS:"), most: field("VmHWM:"), own: field("RssAnon:") }
}

/// Processor time of a process so far.
fn spent(control: &Control) -> Duration {
    let text = fs::read_to_string(format!("/proc/{}/stat", control.pid())).unwrap();
    // Behind the name, which may hold anything: utime and stime are fields 14 and 15.
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    // Linux shows hundredths of a second to all programs.
    Duration::from_millis(ticks * 10)
}

/// Serves the dataplane until the condition holds.
fn serve_until(cluster: &mut Cluster, what: &str, holds: impl Fn(&Cluster) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds(cluster) {
        assert!(Instant::now() < end, "{what} never came");
        cluster.dataplane.poll(Duration::from_millis(1));
    }
}

/// Serves it for a while.
fn settle(cluster: &mut Cluster) {
    let end = Instant::now() + Duration::from_secs(3);
    serve_until(cluster, "an end", |_| Instant::now() >= end);
}

/// A cluster of that size, and a control process that has published it; prints what that took.
fn start(world: &World) -> Cluster {
    let mut cluster = Cluster::unfollowed();
    world.load(&cluster.server).unwrap();
    let begin = Instant::now();
    cluster.follow(&[]);
    cluster.dataplane.next_within(PATIENCE);
    let elapsed = begin.elapsed();
    println!(
        "{} pods, {} policies: first table after {elapsed:?}, {:?} of processor time; {:?} KiB",
        world.pods,
        world.policies,
        spent(cluster.control()),
        memory(cluster.control()),
    );
    cluster
}

fn first_address(world: &World, pod: u32) -> IpAddr {
    world.addresses(pod)[0]
}

#[test]
fn ten_thousand_pods_and_a_thousand_policies() {
    let world = World { pods: 10_000, policies: 1_000, services: 300, ..World::default() };
    let cluster = start(&world);
    // The first table is the whole one.
    for pod in 0..world.pods {
        assert!(cluster.dataplane.is_pod(first_address(&world, pod)), "pod {pod}");
    }
    // And two pods that are always there: 40 pages of 250 are not enough.
    let asked = |kind| cluster.server.asked("list", kind);
    assert_eq!([Kind::Pod, Kind::NetworkPolicy, Kind::Namespace].map(asked), [41, 2, 1]);
    cluster.stop();
}

/// From the line of the watch to a table that the dataplane has read: control's part of the way.
fn policy_changes(world: &World, cluster: &mut Cluster) {
    let mut times: Vec<u64> = (0..200)
        .map(|number| {
            let mut policy = world.policy(number % world.policies);
            policy["spec"]["ingress"][0]["ports"][0]["port"] = (20_000 + number).into();
            let version = cluster.server.apply(policy).unwrap();
            cluster.dataplane.next_within(PATIENCE);
            monotonic_ns() - cluster.server.sent_at(version).unwrap()
        })
        .collect();
    times.sort_unstable();
    let [half, most, worst] = [99, 197, 199].map(|at| Duration::from_nanos(times[at]));
    println!("200 changes of a policy: median {half:?}, p99 {most:?}, worst {worst:?}");
}

#[test]
#[ignore = "a measurement: to be run alone and in a release build"]
fn figures() {
    let size = |name: &str, default| {
        std::env::var(name).ok().map_or(default, |text| text.parse::<u32>().unwrap())
    };
    let world = World {
        pods: size("WEIR_SCALE_PODS", 150_000),
        policies: size("WEIR_SCALE_POLICIES", 1_000),
        services: 5_000,
        namespaces: 200,
        nodes: 5_000,
        ..World::default()
    };
    let mut cluster = start(&world);
    settle(&mut cluster);
    println!("at rest: {:?} KiB", memory(cluster.control()));
    policy_changes(&world, &mut cluster);
    println!("after that: {:?} KiB", memory(cluster.control()));
    let pages = cluster.server.asked("list", Kind::Pod);
    cluster.until_watched();
    // Another kind's change, so that where the watch of pods has come to is compacted away.
    cluster.apply("apiVersion: v1\nkind: Node\nmetadata: {name: one-more}\n");
    cluster.server.compact();
    cluster.server.cut(Kind::Pod, Cut::Expired);
    serve_until(&mut cluster, "a second list", |cluster| {
        let server = &cluster.server;
        server.asked("list", Kind::Pod) == 2 * pages && server.watches(Kind::Pod) == 1
    });
    settle(&mut cluster);
    println!("listed anew: {:?} KiB", memory(cluster.control()));
    let (changed, begin) = (world.pods / 10, Instant::now());
    for pod in 0..changed {
        cluster.server.delete(Kind::Pod, &world.pod_key(pod)).unwrap();
        let other = world.pods + pod;
        cluster.server.load(Kind::Pod, &world.pod_key(other), &world.pod_rest(other));
    }
    let (first, last) = (first_address(&world, 0), first_address(&world, world.pods + changed - 1));
    serve_until(&mut cluster, "the last pod", |cluster| {
        cluster.dataplane.is_pod(last) && !cluster.dataplane.is_pod(first)
    });
    println!(
        "{changed} pods replaced in {:?}, {} changes in place; {:?} of processor time in all",
        begin.elapsed(),
        cluster.dataplane.announced.len(),
        spent(cluster.control()),
    );
    settle(&mut cluster);
    println!("then: {:?} KiB", memory(cluster.control()));
    cluster.stop();
}
