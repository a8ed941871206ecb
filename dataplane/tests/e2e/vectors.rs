//! Cases of a public conformance suite with real packets: policies applied to running pods,
//! every pod asks every other by TCP, UDP and SCTP.
//!
//! The cases are read from `$WEIR_VECTORS` or `../shared/vectors` beside the workspace; the
//! test says so if they are not there. All of them are held against the compiled table by
//! weir-control's tests; here it is as many as cover every tag of the suite.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::lab::{Cni, Lab};
use crate::mesh::{self, Ask, By, Member};
use crate::turn;
use crate::weir::{Weir, place};

/// How many cases of each family.
const CASES: usize = 40;

fn vectors() -> Option<PathBuf> {
    let path = std::env::var_os("WEIR_VECTORS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors"),
        PathBuf::from,
    );
    if path.is_dir() {
        return Some(path);
    }
    assert!(std::env::var_os("WEIR_VECTORS").is_none(), "{} is no folder", path.display());
    println!("SKIPPED: no vectors at {} (set WEIR_VECTORS)", path.display());
    None
}

/// As many cases as asked for: first those that bring a tag that none before has, then some
/// evenly spread over the rest.
fn chosen(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let all: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut tags = BTreeSet::new();
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    for case in all {
        let mut brings = false;
        for tag in case["tags"].as_array().unwrap() {
            brings |= tags.insert(tag.as_str().unwrap().to_owned());
        }
        if brings { first.push(case) } else { rest.push(case) }
    }
    let wanted = CASES.saturating_sub(first.len());
    let step = rest.len() / wanted.max(1);
    first.extend(rest.into_iter().step_by(step.max(1)).take(wanted));
    first
}

/// The name of a pod's network namespace.
fn place_of(pod: &Value) -> String {
    format!("{}-{}", pod["namespace"].as_str().unwrap(), pod["name"].as_str().unwrap())
}

fn address(pod: &Value) -> IpAddr {
    pod["ip"].as_str().unwrap().parse().unwrap()
}

/// Both addresses of a pod, of which the cases of a family name one: `10.244.1.N` and
/// `fd00:10:244:1::N`.
fn both_addresses(pod: &Value) -> [IpAddr; 2] {
    let ip = pod["ip"].as_str().unwrap();
    let host = ip.rsplit(['.', ':']).next().unwrap();
    [format!("10.244.1.{host}").parse().unwrap(), format!("fd00:10:244:1::{host}").parse().unwrap()]
}

/// What the cluster's manifests say in a step. A pod that is nowhere has a policy named
/// after the round, so that every step brings a generation to wait for.
fn manifests(namespaces: &Value, pods: &Value, policies: &Value, round: u32) -> String {
    let mut items: Vec<Value> = namespaces
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, labels)| {
            json!({"apiVersion": "v1", "kind": "Namespace",
                   "metadata": {"name": name, "labels": labels}})
        })
        .collect();
    for pod in pods.as_array().unwrap() {
        let ports: Vec<Value> = pod["ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|port| {
                json!({"name": port["name"], "containerPort": port["port"],
                       "protocol": port["protocol"]})
            })
            .collect();
        items.push(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": pod["namespace"], "name": pod["name"],
                         "labels": pod["labels"]},
            "spec": {"containers": [{"name": "c", "ports": ports}]},
            "status": {"phase": "Running", "podIPs": [{"ip": pod["ip"]}]},
        }));
    }
    items.extend(policies.as_array().unwrap().iter().cloned());
    items.push(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "marker", "name": "marker"},
        "spec": {"containers": []},
        "status": {"phase": "Running", "podIPs": [{"ip": "192.0.2.1"}]},
    }));
    items.push(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "marker", "name": format!("round-{round}")},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }));
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// What a step asks, and which of it passes: if both directions say so.
fn questions(expect: &Value) -> (Vec<Ask>, BTreeSet<Ask>) {
    let (mut asks, mut passing) = (Vec::new(), BTreeSet::new());
    for (traffic, tables) in expect.as_object().unwrap() {
        let (protocol, port) = traffic.split_once('/').unwrap();
        let (by, port) = (By::of(protocol), port.parse().unwrap());
        let rows = ["egress", "ingress"].map(|direction| tables[direction].as_array().unwrap());
        for (from, (out, into)) in rows[0].iter().zip(rows[1]).enumerate() {
            let says = out.as_str().unwrap().bytes().zip(into.as_str().unwrap().bytes());
            for (to, said) in says.enumerate() {
                if from == to || said.0 == b'.' || said.1 == b'.' {
                    continue;
                }
                asks.push((by, port, from, to));
                if said == (b'1', b'1') {
                    passing.insert((by, port, from, to));
                }
            }
        }
    }
    (asks, passing)
}

/// The pods of the lab, kept as the steps say.
struct Pods<'a> {
    lab: &'a Lab,
    members: Vec<(Value, Member)>,
}

impl Pods<'_> {
    /// Makes and removes pods until exactly these are there, in this order.
    fn become_these(&mut self, pods: &Value) {
        let wanted = pods.as_array().unwrap();
        let same = |a: &Value, b: &Value| place_of(a) == place_of(b) && a["ip"] == b["ip"];
        let (mut kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.members)
            .into_iter()
            .partition(|(old, _)| wanted.iter().any(|new| same(old, new)));
        for (pod, member) in gone {
            drop(member);
            self.lab.unpod(&place_of(&pod));
        }
        for new in wanted {
            let member = match kept.iter().position(|(old, _)| same(old, new)) {
                Some(at) => kept.swap_remove(at).1,
                None => {
                    self.lab.pod_at(&place_of(new), both_addresses(new));
                    Member::of(self.lab, &place_of(new), address(new))
                }
            };
            self.members.push((new.clone(), member));
        }
    }
}

/// Whether the daemon has found these pods' addresses.
fn knows(weir: &Weir<'_>, pods: &Value) -> bool {
    let status = weir.status();
    let Some(endpoints) = status["endpoints"].as_array() else { return false };
    let known: Vec<&str> = endpoints
        .iter()
        .filter_map(|endpoint| endpoint["addresses"].as_array())
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let addresses = pods.as_array().unwrap().iter().flat_map(both_addresses);
    addresses.into_iter().all(|address| known.contains(&address.to_string().as_str()))
}

/// Both families, one after the other on the same pods.
fn with_real_packets(offload: &str) {
    let Some(_turn) = turn() else { return };
    let Some(path) = vectors() else { return };
    let nets = ["10.244.1.0/24", "fd00:10:244:1::/64"];
    let lab = Lab::up_with(Cni::Bridge, 1500, nets);
    let folder = lab.dir().join("manifests");
    fs::create_dir(&folder).unwrap();
    let mut weir: Option<Weir<'_>> = None;
    let (mut steps, mut asked, mut round) = (0, 0, 0);
    for file in ["netpol-v4.jsonl", "netpol-v6.jsonl"] {
        let mut pods = Pods { lab: &lab, members: Vec::new() };
        for case in chosen(&path.join(file)) {
            let name = case["name"].as_str().unwrap();
            for (i, step) in case["steps"].as_array().unwrap().iter().enumerate() {
                let current = |field: &str| step.get(field).unwrap_or(&case[field]).clone();
                let (namespaces, wanted) = (current("namespaces"), current("pods"));
                pods.become_these(&wanted);
                round += 1;
                let text = manifests(&namespaces, &wanted, &step["policies"], round);
                match &mut weir {
                    Some(weir) => weir.apply("cluster.json", &text),
                    none => {
                        place(&folder, "cluster.json", &text);
                        let options = ["--workers", "2", "--offload", offload];
                        *none = Some(Weir::start(&lab, folder.clone(), &options));
                    }
                }
                let weir = weir.as_mut().unwrap();
                // That a generation is enforced does not say that the daemon has seen a new
                // pod's addresses; until it has, the pod reaches nobody.
                weir.wait("the pods' addresses", |weir| knows(weir, &wanted));
                let (asks, passing) = questions(&step["expect"]);
                let members: Vec<&Member> = pods.members.iter().map(|(_, m)| m).collect();
                let arrived = mesh::ask(&lab, &members, &asks, &passing, round);
                let missing: Vec<_> = passing.difference(&arrived).collect();
                let beyond: Vec<_> = arrived.difference(&passing).collect();
                assert!(
                    missing.is_empty() && beyond.is_empty(),
                    "{file}, {name}, step {i}: not arrived: {missing:?}; arrived though denied: \
                     {beyond:?}\n{}",
                    weir.words()
                );
                steps += 1;
                asked += asks.len();
            }
        }
        for (pod, member) in pods.members {
            drop(member);
            lab.unpod(&place_of(&pod));
        }
    }
    println!("offload {offload}: {steps} steps, {asked} questions");
    assert!(steps >= 2 * CASES && asked > 10_000, "{steps} steps, {asked} questions");
}

#[test]
fn cases_with_real_packets_through_the_kernel() {
    with_real_packets("on");
}

#[test]
fn cases_with_real_packets_through_user_space() {
    with_real_packets("off");
}
