//! What the tests stand on: a node whose pods `web`, `curl` and `kurl` are older than Weir,
//! Weir's daemons on it, and Weir in the chain by which later pods are made.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::kubelet::{Kubelet, Network, Sandbox};
use crate::lab::{Cni, Lab};
use crate::node::populate;
use crate::probe::serve;
use crate::weir::{Weir, place};

/// How long the daemons may take for anything: a machine that makes pods is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Selects pods that nobody reaches and that reach nobody.
pub const CLOSED: &str = "run=closed";
/// Selects pods that `curl` reaches and that reach `web`, and nothing else.
pub const SOME: &str = "run=some";
/// Selected by no policy.
pub const FREE: &str = "run=free";

/// A dual-stack node with three pods that are there before Weir, servers in `web` and `kurl`,
/// and the policies for [`CLOSED`] and [`SOME`].
pub fn node(cni: Cni) -> (Lab, PathBuf) {
    let (lab, folder) = populate(Lab::up(cni));
    serve(&lab, "kurl");
    place(&folder, "closed.json", &policy("default", "closed", &CLOSED[4..], json!({})));
    let peer = |run| json!([{"podSelector": {"matchLabels": {"run": run}}}]);
    let rules = json!({
        "ingress": [{"from": peer("testcurl")}],
        "egress": [{"to": peer("testweb")}],
    });
    place(&folder, "some.json", &policy("default", "some", &SOME[4..], rules));
    (lab, folder)
}

/// A policy of both directions for pods of one `run`; of all pods, if that is empty.
pub fn policy(namespace: &str, name: &str, run: &str, rules: Value) -> String {
    let labels = if run.is_empty() { json!({}) } else { json!({"run": run}) };
    let mut policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"podSelector": {"matchLabels": labels}, "policyTypes": ["Ingress", "Egress"]},
    });
    for (key, value) in rules.as_object().unwrap() {
        policy["spec"][key] = value.clone();
    }
    policy.to_string()
}

/// Starts the daemons and puts Weir into the chain. An ADD may wait long: what is slow here is
/// the machine.
pub fn start<'a>(lab: &'a Lab, folder: &Path, kubelet: &Kubelet<'_>) -> Weir<'a> {
    let weir = Weir::start_within(PATIENCE, lab, folder.to_owned(), &["--workers", "1"]);
    kubelet.weir_cni("install", &["--timeout-ms", "60000"]);
    weir
}

/// The network of the node as it is.
pub fn whole(cni: Cni) -> Network {
    Network { cni, ranges: None }
}

/// A pod with everything that the kubelet does for it, its servers listening before it has an
/// interface. It is not reported: control knows no address of it.
pub fn run(lab: &Lab, kubelet: &Kubelet<'_>, place: &str, label: &str) -> Sandbox {
    let pod = kubelet.pod(&format!("default/{place}"), &[label]);
    kubelet.create(&pod);
    let mut sandbox = kubelet.sandbox(&pod, place);
    serve(lab, place);
    kubelet.add(&mut sandbox).unwrap_or_else(|failure| panic!("{place}: {failure:?}"));
    sandbox
}

/// The opposite.
pub fn end(kubelet: &Kubelet<'_>, mut sandbox: Sandbox) {
    kubelet.del(&mut sandbox);
    kubelet.forget(&sandbox.pod);
    kubelet.remove(sandbox);
}

/// The devices of the node, but for Weir's own.
pub fn links(lab: &Lab) -> Vec<String> {
    let links = lab.command("node", "ip", &["-json", "link"]);
    let links: Value = serde_json::from_slice(&links).unwrap();
    let names = links.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap());
    names.filter(|name| !name.starts_with("weir")).map(str::to_owned).collect()
}

/// The addresses that host-local has given out.
pub fn leases(lab: &Lab) -> Vec<String> {
    let entries = fs::read_dir(lab.node_path("/var/lib/cni/networks/weir-lab")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut leases: Vec<_> =
        names.filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect();
    leases.sort();
    leases
}

/// What `weir status` says of the interface of a place; null if it does not know it.
pub fn endpoint(weir: &Weir<'_>, place: &str) -> Value {
    let status = weir.status();
    let all = status["endpoints"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|endpoint| endpoint["netns"] == place).unwrap_or(Value::Null)
}
