//! Weir: both daemons, as many policies on the server as the scenario has rules. Each
//! lets in one source by its address, the same addresses that the filters' rules name, the
//! client's in the last one: every policy is a peer of its own in the compiled tables.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Counters, Switch, sources};
use crate::run::lab::{Daemon, Lab, Where, output};
use crate::run::scenario::Scenario;

/// How long policies may take until they are enforced.
const PATIENCE: Duration = Duration::from_secs(60);
/// The flow table's size unless a scenario needs more: the daemon's own default.
const FLOWS: u32 = 262_144;

/// Both daemons.
#[derive(Debug)]
pub struct Weir {
    bin: PathBuf,
    offload: &'static str,
    io: &'static str,
    dataplane: Option<Daemon>,
    control: Option<Daemon>,
}

impl Weir {
    /// Programs in `bin`; the values of `--offload` and `--io`.
    pub fn new(bin: &Path, offload: &'static str, io: &'static str) -> Self {
        Self { bin: bin.to_owned(), offload, io, dataplane: None, control: None }
    }

    fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Steering's counters and endpoints, from shared memory.
    fn status(&self, lab: &Lab, more: &[&str]) -> Result<Value> {
        let words = [&["status", "-o", "json"], more].concat();
        let mut command = lab.command(Where::Node, self.program("weir"));
        Ok(serde_json::from_str(&output(command.args(words), Duration::from_secs(20))?)?)
    }

    /// Whether the policies are enforced: by the workers, and by hooks at both pods.
    fn is_ready(&self, lab: &Lab) -> bool {
        let Ok(status) = self.status(lab, &["--wait-generation", "1"]) else { return false };
        let Some(endpoints) = status["endpoints"].as_array() else { return false };
        let enforced = |endpoint: &Value| {
            endpoint["attached"] == json!(true) && endpoint["quarantined"] != json!(true)
        };
        endpoints.len() == 2 && endpoints.iter().all(enforced)
    }
}

impl Switch for Weir {
    fn on(&mut self, lab: &Lab, scenario: Scenario) -> Result<()> {
        for name in ["weir-dataplane", "weir-control", "weir"] {
            let path = self.program(name);
            anyhow::ensure!(
                path.is_file(),
                "{} is not built (cargo build --release --bins)",
                path.display()
            );
        }
        let manifests = manifests(lab, scenario)?;
        let flows = FLOWS.max(scenario.table_flows().saturating_mul(2)).to_string();
        // `taskset`: a worker takes the last processor that it may use.
        let mut command = lab.command(Where::Node, "taskset");
        command.args(["--cpu-list", "0"]).arg(self.program("weir-dataplane"));
        command.args(["--workers", "1", "--offload", self.offload, "--io", self.io]);
        command.args(["--flows", &flows, "--flows-per-pod", &flows]);
        self.dataplane = Some(lab.spawn("weir-dataplane", command)?);
        let mut command = lab.command(Where::Node, "taskset");
        command.args(["--cpu-list", "0"]).arg(self.program("weir-control"));
        command.arg("--source").arg(format!("dir:{}", manifests.display()));
        let mut control = lab.spawn("weir-control", command)?;
        let ready = control.wait_until(PATIENCE, || self.is_ready(lab));
        self.control = Some(control);
        let said = self.dataplane.as_ref().map(Daemon::words).unwrap_or_default();
        ready.with_context(|| format!("weir-dataplane said: {said}; weir-control"))
    }

    fn off(&mut self, lab: &Lab) -> Result<()> {
        for daemon in [self.control.take(), self.dataplane.take()].into_iter().flatten() {
            daemon.end();
        }
        let removed = lab.node(self.program("weir"), &["uninstall"]);
        // It says so if it found nothing; that is no failure here.
        if lab.node_path("/sys/fs/bpf/weir").exists() {
            removed?;
        }
        Ok(())
    }

    fn charged(&self) -> Vec<u32> {
        self.dataplane.iter().chain(&self.control).map(Daemon::pid).collect()
    }

    fn counters(&self, lab: &Lab) -> Result<Counters> {
        let status = self.status(lab, &[])?;
        let steering = status["steering"].as_object().context("weir status has no steering")?;
        let counters = steering
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)))
            .collect();
        Ok(Counters { weir: Some(counters), ..Counters::default() })
    }
}

/// The two pods, and policies that all select the server.
fn manifests(lab: &Lab, scenario: Scenario) -> Result<PathBuf> {
    let Scenario { family, rules, .. } = scenario;
    let folder = lab.dir.join(format!("manifests-{family:?}-{rules}"));
    if folder.exists() {
        return Ok(folder);
    }
    let sources = sources(lab.client.ip(family), rules);
    let policies: Vec<Value> = sources.iter().enumerate().map(|(at, it)| policy(at, it)).collect();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": "default", "labels": {"kubernetes.io/metadata.name": "default"}}});
    let list = json!({"apiVersion": "v1", "kind": "List", "items": policies});
    let client = ["role=client".to_owned()];
    let server = ["role=server".to_owned()];
    // Complete before it is seen: the folder is renamed when all files are there.
    let draft = lab.dir.join("manifests.draft");
    fs::create_dir_all(&draft)?;
    fs::write(draft.join("namespace.json"), namespace.to_string())?;
    fs::write(draft.join("policies.json"), list.to_string())?;
    let pods = [("client", &lab.client, &client[..]), ("server", &lab.server, &server[..])];
    for (name, pod, labels) in pods {
        let text = lab.manifest(&format!("default/{name}"), pod, labels)?;
        fs::write(draft.join(format!("{name}.json")), text)?;
    }
    fs::rename(&draft, &folder)?;
    Ok(folder)
}

/// The policy that lets in one source.
fn policy(at: usize, source: &str) -> Value {
    let bits = if source.contains(':') { 128 } else { 32 };
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "default", "name": format!("source-{at}")},
        "spec": {"podSelector": {"matchLabels": {"role": "server"}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"ipBlock": {"cidr": format!("{source}/{bits}")}}]}]}})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn the_policies_name_the_sources_that_the_rivals_rules_name() {
        named_alike(IpAddr::from([10, 244, 0, 2]), 32);
        named_alike("fd00:10:244::2".parse().unwrap(), 128);
    }

    fn named_alike(client: IpAddr, bits: u8) {
        let sources = sources(client, 1000);
        let policies: Vec<Value> =
            sources.iter().enumerate().map(|(at, it)| policy(at, it)).collect();
        let cidr = |policy: &Value| {
            let peer = &policy["spec"]["ingress"][0]["from"][0]["ipBlock"]["cidr"];
            peer.as_str().map(str::to_owned)
        };
        let named: BTreeSet<_> = policies.iter().filter_map(cidr).collect();
        let wanted: BTreeSet<_> = sources.iter().map(|it| format!("{it}/{bits}")).collect();
        assert_eq!((named.len(), &named), (1000, &wanted));
        assert!(named.contains(&format!("{client}/{bits}")));
        let names: BTreeSet<_> =
            policies.iter().map(|it| it["metadata"]["name"].to_string()).collect();
        assert_eq!(names.len(), 1000);
    }
}
