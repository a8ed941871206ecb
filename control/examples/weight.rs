//! What an index weighs and what compiling it takes, on this machine:
//!
//! ```text
//! cargo run --release -p weir-control --example weight -- --pods 150000
//! cargo run --release -p weir-control --example cluster -- /tmp/cluster --pods 10000 --probes 1
//! cargo run --release -p weir-control --example weight -- -f /tmp/cluster/objects.yaml
//! ```
//!
//! The first prints the resident memory that an index of pods alone adds to the process, and what
//! the source's book of them adds: pods as a cluster has them (one address, five labels shared by
//! the pods of one ReplicaSet, two ports). The
//! second prints medians of the times to compile and to encode a folder's objects. Both are figures
//! of one run: nothing fails by them.

#![allow(clippy::cast_possible_truncation, missing_docs)]

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use weir_control::compile::compile;
use weir_control::index::Index;
use weir_control::model::{ContainerPort, Labels, Object, ObjectKey, Origin, Pod, Protocol, load};
use weir_control::source::kube::book::Book;
use weir_control::source::kube::kinds::Meta;
use weir_table::policy::encode;

#[derive(Parser)]
#[command(about = "Prints what an index weighs, or what compiling a file takes")]
struct Args {
    /// Pods of a made-up index
    #[arg(long, default_value_t = 150_000, conflicts_with = "file")]
    pods: u32,
    /// Pods that share one set of labels
    #[arg(long, default_value_t = 15)]
    replicas: u32,
    /// Manifests to compile instead
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// How often each is done
    #[arg(long, default_value_t = 9)]
    rounds: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    match &args.file {
        Some(path) => times(path, args.rounds.max(1)),
        None => weight(args.pods, args.replicas.max(1)),
    }
}

fn weight(pods: u32, replicas: u32) -> Result<()> {
    let before = resident()?;
    let file: Arc<str> = Arc::from("kube");
    let mut index = Index::default();
    for i in 0..pods {
        index.apply(Object::Pod(pod(i, replicas, &file)));
    }
    let held = resident()?.saturating_sub(before);
    println!("{pods} pods: {held} KiB, {} bytes a pod", held * 1024 / u64::from(pods.max(1)));
    let before = resident()?;
    let mut book = Book::default();
    for (i, pod) in (1..).zip(index.pods()) {
        let ObjectKey { namespace, name } = &pod.key;
        let (namespace, name) = (namespace.to_string(), name.to_string());
        book.listed(&Meta { namespace, name, uid: i, version: 1 });
    }
    let kept = resident()?.saturating_sub(before);
    println!("their book: {kept} KiB, {} bytes a pod", kept * 1024 / u64::from(pods.max(1)));
    let owners = index.endpoints().len();
    let begin = Instant::now();
    let compiled = compile(&index);
    println!(
        "{owners} owned addresses; {} classes compiled in {:?}; resident now {} KiB, at most {} KiB",
        compiled.image.classes.len(),
        begin.elapsed(),
        resident()?,
        field("VmHWM")?,
    );
    Ok(())
}

fn pod(i: u32, replicas: u32, file: &Arc<str>) -> Pod {
    let set = i / replicas;
    let mut pod =
        Pod::new(format!("team-{}", set % 200), format!("app-{set}-{:010x}-{:05x}", set, i));
    let labels: Labels = [
        ("app.kubernetes.io/name", format!("app-{set}")),
        ("app.kubernetes.io/instance", format!("app-{set}-prod")),
        ("app.kubernetes.io/part-of", format!("suite-{}", set % 50)),
        ("tier", ["web", "db", "cache", "batch"][set as usize % 4].to_owned()),
        ("pod-template-hash", format!("{:010x}", set.wrapping_mul(2_654_435_761))),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    pod.labels = Arc::new(labels);
    pod.uid = Some(format!("{i:08x}-0000-4000-8000-000000000000").into());
    pod.addresses.push(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + i)));
    pod.node = Some(format!("node-{}", i % 5000).into());
    let port = |name: &str, port| ContainerPort {
        name: Some(name.to_owned()),
        protocol: Protocol::Tcp,
        port,
    };
    pod.ports = Arc::from([port("http", 8080), port("metrics", 9090)]);
    pod.origin = Origin { file: Arc::clone(file), line: 0 };
    pod
}

fn times(path: &PathBuf, rounds: usize) -> Result<()> {
    let text = fs::read(path).with_context(|| path.display().to_string())?;
    let loaded = load("objects", &text)?;
    drop(text);
    let index = Index::of(loaded.objects);
    let mut compiled = compile(&index);
    println!(
        "{} pods, {} policies, {} classes, {} programs",
        index.pods().len(),
        index.policies().len(),
        compiled.image.classes.len(),
        compiled.image.programs.len(),
    );
    let compiling = median(rounds, || drop(compile(&index)));
    let encoding = median(rounds, || drop(encode(&compiled.image)));
    let classifying = median(rounds, || drop(compiled.classes.reclassify(&index)));
    println!(
        "compile {compiling:?}, encode {encoding:?}, all addresses anew {classifying:?} (medians of {rounds})"
    );
    Ok(())
}

fn median(rounds: usize, mut what: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..rounds)
        .map(|_| {
            let begin = Instant::now();
            what();
            begin.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// Resident memory of this process, in KiB.
fn resident() -> Result<u64> {
    field("VmRSS")
}

fn field(name: &str) -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(name));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.and_then(|n| n.parse().ok()).ok_or_else(|| anyhow!("no {name} in /proc/self/status"))
}
