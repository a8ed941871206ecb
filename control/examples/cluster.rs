//! Writes a synthetic cluster and probes for it, to measure `weir eval` by:
//!
//! ```text
//! cargo run --release -p weir-control --example cluster -- /tmp/cluster
//! cargo build --release -p weir-control
//! perf stat taskset -c 1 target/release/weir eval -f /tmp/cluster/objects.yaml \
//!     --probes /tmp/cluster/one.jsonl -o json > /dev/null         # start
//! perf stat taskset -c 1 target/release/weir eval -f /tmp/cluster/objects.yaml \
//!     --probes /tmp/cluster/probes.jsonl -o json > /dev/null      # start and all probes
//! ```
//!
//! The objects are written as `kubectl get -A -o yaml` prints them, pods with the fields that the
//! API server and the kubelet add. The same seed and numbers give the same bytes.

#![allow(clippy::cast_possible_truncation, missing_docs)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
#[command(about = "Writes objects.yaml, probes.jsonl and one.jsonl of a synthetic cluster")]
struct Args {
    /// Folder to write to; made if need be
    dir: PathBuf,
    #[arg(long, default_value_t = 1000)]
    pods: u64,
    #[arg(long, default_value_t = 1000)]
    policies: u64,
    #[arg(long, default_value_t = 50)]
    namespaces: u64,
    #[arg(long, default_value_t = 1_000_000)]
    probes: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// SplitMix64: small, and the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }
}

const TEAMS: [&str; 4] = ["a", "b", "c", "d"];
const TIERS: [&str; 4] = ["web", "db", "cache", "batch"];

fn main() -> Result<()> {
    let args = Args::parse();
    std::fs::create_dir_all(&args.dir)?;
    let mut random = Random(args.seed);
    let create =
        |name: &str| Ok::<_, anyhow::Error>(BufWriter::new(File::create(args.dir.join(name))?));

    let mut out = create("objects.yaml")?;
    writeln!(out, "apiVersion: v1\nitems:")?;
    for namespace in 0..args.namespaces {
        let (team, env) = (random.of(&TEAMS), random.of(&["prod", "dev"]));
        write!(
            out,
            "- apiVersion: v1\n  kind: Namespace\n  metadata:\n    labels:\n      env: {env}\n      kubernetes.io/metadata.name: ns{namespace}\n      team: {team}\n    name: ns{namespace}\n"
        )?;
    }
    for pod in 0..args.pods {
        write_pod(&mut out, pod, args.namespaces, &mut random)?;
    }
    for policy in 0..args.policies {
        write_policy(&mut out, policy, args.namespaces, &mut random)?;
    }
    writeln!(out, "kind: List\nmetadata:\n  resourceVersion: \"\"")?;
    out.flush()?;

    let mut probes = create("probes.jsonl")?;
    let mut one = create("one.jsonl")?;
    for probe in 0..args.probes {
        let line = probe_line(&args, &mut random);
        probes.write_all(line.as_bytes())?;
        if probe == 0 {
            one.write_all(line.as_bytes())?;
        }
    }
    probes.flush()?;
    one.flush()?;
    Ok(())
}

fn address(pod: u64) -> String {
    format!("10.{}.{}.{}", pod >> 16, pod >> 8 & 255, pod & 255)
}

fn write_pod(out: &mut impl Write, pod: u64, namespaces: u64, random: &mut Random) -> Result<()> {
    let (namespace, app, tier) = (pod % namespaces, random.below(10), random.of(&TIERS));
    let (hash, node, ip) = (random.below(1 << 32), random.below(20), address(pod));
    write!(
        out,
        "- apiVersion: v1
  kind: Pod
  metadata:
    annotations:
      checksum/config: {hash:064x}
    creationTimestamp: \"2024-05-06T07:08:09Z\"
    generateName: app{app}-{hash:x}-
    labels:
      app: app{app}
      pod-template-hash: \"{hash:x}\"
      tier: {tier}
    name: pod-{pod}
    namespace: ns{namespace}
    ownerReferences:
    - apiVersion: apps/v1
      blockOwnerDeletion: true
      controller: true
      kind: ReplicaSet
      name: app{app}-{hash:x}
      uid: 00000000-0000-4000-8000-{hash:012x}
    resourceVersion: \"{}\"
    uid: 00000000-0000-4000-9000-{pod:012x}
  spec:
    containers:
    - env:
      - name: MODE
        value: production
      image: registry.example/app{app}:1.2.3
      imagePullPolicy: IfNotPresent
      name: main
      ports:
      - containerPort: {}
        name: http
        protocol: TCP
      - containerPort: 9090
        name: metrics
        protocol: TCP
      resources:
        limits:
          memory: 256Mi
        requests:
          cpu: 100m
          memory: 256Mi
      terminationMessagePath: /dev/termination-log
      volumeMounts:
      - mountPath: /var/run/secrets/kubernetes.io/serviceaccount
        name: kube-api-access
        readOnly: true
    dnsPolicy: ClusterFirst
    nodeName: node{node}
    restartPolicy: Always
    serviceAccountName: default
    tolerations:
    - effect: NoExecute
      key: node.kubernetes.io/not-ready
      operator: Exists
      tolerationSeconds: 300
  status:
    conditions:
    - lastProbeTime: null
      lastTransitionTime: \"2024-05-06T07:08:09Z\"
      status: \"True\"
      type: Ready
    containerStatuses:
    - name: main
      ready: true
      restartCount: 0
      state:
        running:
          startedAt: \"2024-05-06T07:08:10Z\"
    hostIP: 192.168.0.{node}
    phase: Running
    podIP: {ip}
    podIPs:
    - ip: {ip}
    qosClass: Burstable
",
        1000 + pod,
        8000 + random.below(4),
    )?;
    Ok(())
}

fn write_policy(
    out: &mut impl Write,
    policy: u64,
    namespaces: u64,
    random: &mut Random,
) -> Result<()> {
    let (namespace, tier) = (policy % namespaces, random.of(&TIERS));
    write!(
        out,
        "- apiVersion: networking.k8s.io/v1\n  kind: NetworkPolicy\n  metadata:\n    name: policy-{policy}\n    namespace: ns{namespace}\n  spec:\n"
    )?;
    for (field, peers) in [("egress", "to"), ("ingress", "from")] {
        writeln!(out, "    {field}:")?;
        for _ in 0..=random.below(3) {
            writeln!(out, "    - {peers}:")?;
            for _ in 0..=random.below(3) {
                write_peer(out, random)?;
            }
            if random.below(2) == 0 {
                writeln!(out, "      ports:")?;
                for _ in 0..=random.below(3) {
                    write_port(out, random)?;
                }
            }
        }
    }
    write!(
        out,
        "    podSelector:\n      matchLabels:\n        tier: {tier}\n    policyTypes:\n    - Ingress\n    - Egress\n"
    )?;
    Ok(())
}

fn write_peer(out: &mut impl Write, random: &mut Random) -> Result<()> {
    match random.below(4) {
        0 => {
            let (a, b) = (random.below(256), random.below(256));
            write!(
                out,
                "      - ipBlock:\n          cidr: 10.{a}.0.0/16\n          except:\n          - 10.{a}.{b}.0/24\n"
            )?;
        }
        1 => {
            write!(
                out,
                "      - podSelector:\n          matchLabels:\n            app: app{}\n",
                random.below(10)
            )?;
        }
        2 => {
            write!(
                out,
                "      - namespaceSelector:\n          matchLabels:\n            team: {}\n",
                random.of(&TEAMS)
            )?;
        }
        _ => {
            write!(
                out,
                "      - namespaceSelector:\n          matchExpressions:\n          - key: env\n            operator: In\n            values:\n            - prod\n        podSelector:\n          matchLabels:\n            tier: {}\n",
                random.of(&TIERS)
            )?;
        }
    }
    Ok(())
}

fn write_port(out: &mut impl Write, random: &mut Random) -> Result<()> {
    let (port, protocol) = (1 + random.below(60_000), random.of(&["TCP", "UDP"]));
    match random.below(4) {
        0 => write!(out, "      - port: http\n        protocol: TCP\n")?,
        1 => write!(
            out,
            "      - endPort: {}\n        port: {port}\n        protocol: {protocol}\n",
            port + random.below(1000)
        )?,
        _ => write!(out, "      - port: {port}\n        protocol: {protocol}\n")?,
    }
    Ok(())
}

fn probe_line(args: &Args, random: &mut Random) -> String {
    let mut end = || match random.below(10) {
        // An address outside, or of a pod.
        0 => address(random.below(1 << 24)),
        _ => {
            let pod = random.below(args.pods);
            format!("ns{}/pod-{pod}", pod % args.namespaces)
        }
    };
    let (from, to) = (end(), end());
    let protocol = random.of(&["TCP", "UDP"]);
    let port = match random.below(2) {
        0 => 8000 + random.below(4),
        _ => 1 + random.below(65_535),
    };
    format!("{{\"from\":\"{from}\",\"to\":\"{to}\",\"protocol\":\"{protocol}\",\"port\":{port}}}\n")
}
