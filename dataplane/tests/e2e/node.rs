//! The node of these tests: who is on it and what is asked of it.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::lab::{Cni, Lab};
use crate::probe::serve;
use crate::weir::place;

/// A lab with pods `web`, `curl`, `kurl` (in namespace default, labelled as in the
/// exercise) and echo servers in `web`.
pub fn node(cni: Cni) -> (Lab, PathBuf) {
    let lab = Lab::up(cni);
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
