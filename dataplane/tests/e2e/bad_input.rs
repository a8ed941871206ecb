//! Broken manifests: the file, the object and the field are named; the object is
//! refused, its pod isolated where the object would isolate; the rest is enforced,
//! and the last good state of a broken file stays.

use std::fs;

use crate::lab::Cni;
use crate::node::{example, node};
use crate::probe::By::Tcp;
use crate::probe::{Probe, denied, reaches, settle};
use crate::turn;
use crate::weir::Weir;

/// A policy that selects `web` and would allow everything but for its fault:
/// name, the faulty spec, what must be named besides file and object.
const FAULTY: &[(&str, &str, &str)] = &[
    (
        "unknown field",
        "{podSelector: {matchLabels: {run: testweb}}, ingress: [{form: []}]}",
        "spec.ingress[0].form",
    ),
    (
        "bad CIDR",
        "{podSelector: {matchLabels: {run: testweb}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}",
        "spec.ingress[0].from[0].ipBlock.cidr",
    ),
    (
        "port 70000",
        "{podSelector: {matchLabels: {run: testweb}}, ingress: [{ports: [{port: 70000}]}]}",
        "spec.ingress[0].ports[0].port",
    ),
    (
        "endPort below port",
        "{podSelector: {matchLabels: {run: testweb}}, ingress: [{ports: [{port: 90, endPort: 80}]}]}",
        "spec.ingress[0].ports[0].endPort",
    ),
];

const WEB_ISOLATED: &[Probe] = &[
    denied("curl", "web", Tcp),
    denied("outside", "web", Tcp),
    reaches("node", "web", Tcp),
    // The rest of the folder is enforced.
    denied("curl", "kurl", Tcp),
];

const WEB_OPEN: &[Probe] = &[reaches("curl", "web", Tcp), denied("curl", "kurl", Tcp)];

#[test]
fn broken_manifests_are_named_and_harm_nothing_else() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    crate::probe::serve(&lab, "kurl");
    let mut weir = Weir::start(&lab, folder.clone(), &["--workers", "1"]);
    let rest = example("deny-all-for-testweb").replace("testweb", "testkurl");
    weir.apply("rest.yaml", &rest);
    settle(&mut weir, &lab, "before anything is broken", WEB_OPEN);

    for (name, spec, field) in FAULTY {
        let file = format!("{}.yaml", name.replace(' ', "-"));
        let object = name.to_lowercase().replace(' ', "-");
        weir.place(&file, &policy(&object, spec));
        told(&mut weir, name, &[&file, &object, field]);
        settle(&mut weir, &lab, name, WEB_ISOLATED);
        weir.remove(&file);
        settle(&mut weir, &lab, "the broken file removed", WEB_OPEN);
    }

    // An unknown kind isolates nobody: nothing tells whom it is about.
    let unknown =
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolice\nmetadata: {name: ghost}\n";
    weir.place("kind.yaml", unknown);
    told(&mut weir, "unknown kind", &["kind.yaml", "NetworkPolice"]);
    settle(&mut weir, &lab, "unknown kind", WEB_OPEN);

    // Half a file: its last good content stays.
    let good = example("deny-all-for-testweb");
    weir.apply("half.yaml", &good);
    settle(&mut weir, &lab, "the whole file", WEB_ISOLATED);
    let mut half = good.replace("ingress: []", "ingress: [{from: [");
    half.truncate(half.find("from: [").unwrap() + 7);
    weir.place("half.yaml", &half);
    let kept = "its last good content stays in force";
    told(&mut weir, "half a file", &["half.yaml", kept]);
    settle(&mut weir, &lab, "half a file", WEB_ISOLATED);

    // Written in place and in pieces, as a careless editor does.
    fs::write(folder.join("half.yaml"), "").unwrap();
    told(&mut weir, "an emptied file", &["half.yaml", "empty", kept]);
    settle(&mut weir, &lab, "an emptied file", WEB_ISOLATED);
    fs::write(folder.join("half.yaml"), &good).unwrap();
    settle(&mut weir, &lab, "the whole file again", WEB_ISOLATED);
    weir.remove("half.yaml");
    settle(&mut weir, &lab, "the file removed", WEB_OPEN);
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: {name}, namespace: default}}\nspec: {spec}\n"
    )
}

/// Waits until one line of weir-control names all of these.
fn told(weir: &mut Weir<'_>, case: &str, names: &[&str]) {
    weir.wait(&format!("{case}: a line that names {names:?}"), |weir| {
        weir.control_log().lines().any(|line| names.iter().all(|name| line.contains(name)))
    });
}
