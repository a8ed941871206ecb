//! The manifests of `deploy/` against the API's own types: whatever a type does not know, or knows
//! by another shape, would be refused or, worse, ignored by an API server.
//!
//! `deploy/check` renders them where there are tools for it, and compares them with each other; this
//! needs none.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Kinds whose types come with an operator, not with Kubernetes.
const FOREIGN: [&str; 2] = ["ServiceMonitor", "PrometheusRule"];

/// The object as its type writes it.
fn through<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Value, String> {
    let typed: T = serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
    serde_json::to_value(typed).map_err(|error| error.to_string())
}

fn typed(object: &Value) -> Option<Result<Value, String>> {
    Some(match object["kind"].as_str()? {
        "DaemonSet" => through::<DaemonSet>(object),
        "Namespace" => through::<Namespace>(object),
        "Service" => through::<Service>(object),
        "ServiceAccount" => through::<ServiceAccount>(object),
        "ClusterRole" => through::<ClusterRole>(object),
        "ClusterRoleBinding" => through::<ClusterRoleBinding>(object),
        _ => return None,
    })
}

/// Paths of what is not in `after` as it is in `before`.
fn lost(before: &Value, after: &Value, path: &str, into: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                lost(value, after.get(key).unwrap_or(&Value::Null), &format!("{path}.{key}"), into);
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (a, b)) in before.iter().zip(after).enumerate() {
                lost(a, b, &format!("{path}[{index}]"), into);
            }
        }
        _ if before != after => into.push(format!("{path}: {before} became {after}")),
        _ => {}
    }
}

/// Every file of objects below a folder, patches of overlays included: all but kustomize's own.
fn manifests(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            manifests(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "yaml")
            && !path.ends_with("kustomization.yaml")
        {
            into.push(path);
        }
    }
}

#[test]
fn every_object_is_what_its_type_says() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kustomize"));
    let mut files = Vec::new();
    manifests(folder, &mut files);
    let (mut problems, mut seen) = (Vec::new(), Vec::new());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        let name = file.strip_prefix(folder).unwrap().display();
        // Patches as well: they say less, but nothing that is not in the type.
        for object in &objects {
            let kind = object["kind"].as_str().unwrap().to_owned();
            match typed(object) {
                Some(Ok(after)) => {
                    let mut paths = Vec::new();
                    lost(object, &after, &format!("{name}: {kind}"), &mut paths);
                    problems.extend(paths);
                }
                Some(Err(error)) => problems.push(format!("{name}: {kind}: {error}")),
                None if FOREIGN.contains(&kind.as_str()) => {}
                None => problems.push(format!("{name}: {kind}: no type for it here")),
            }
            seen.push(kind);
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
    for kind in ["DaemonSet", "ClusterRole", "Namespace", "Service"] {
        assert!(seen.iter().any(|seen| seen == kind), "no {kind} among {seen:?}");
    }
}

/// Variables by the name of their container, in one object.
fn variables(daemon_set: &Value) -> BTreeSet<(String, String)> {
    let pod = &daemon_set["spec"]["template"]["spec"];
    let lists = ["initContainers", "containers"].map(|list| pod[list].as_array());
    let word = |value: &Value| value["name"].as_str().unwrap().to_owned();
    let mut found = BTreeSet::new();
    for container in lists.into_iter().flatten().flatten() {
        let env = container["env"].as_array().into_iter().flatten();
        found.extend(env.map(|variable| (word(container), word(variable))));
    }
    found
}

/// A misspelt container or variable of an overlay would be one more, and change nothing.
#[test]
fn overlays_change_what_the_base_has() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kustomize"));
    let of = |path: &Path| -> BTreeSet<(String, String)> {
        let objects: Vec<Value> =
            serde_saphyr::from_multiple(&fs::read_to_string(path).unwrap()).unwrap();
        objects.iter().filter(|object| object["kind"] == "DaemonSet").flat_map(variables).collect()
    };
    let base = of(&folder.join("base/daemonset.yaml"));
    let mut files = Vec::new();
    manifests(&folder.join("overlays"), &mut files);
    let changed: BTreeSet<_> = files.iter().flat_map(|file| of(file)).collect();
    assert!(changed.len() >= 4, "{changed:?}");
    let unknown: Vec<_> = changed.difference(&base).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// What the types are good for: a misspelt field, a wrong type, an unknown kind.
#[test]
fn what_is_wrong_is_noticed() {
    let object = |text: &str| -> Value { serde_saphyr::from_str(text).unwrap() };
    let good = "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: None, ports: [{port: 1, targetPort: x}]}}";
    let paths = |text: &str| {
        let (before, mut paths) = (object(text), Vec::new());
        match typed(&before).unwrap() {
            Ok(after) => lost(&before, &after, "", &mut paths),
            Err(error) => paths.push(error),
        }
        paths
    };
    assert_eq!(paths(good), Vec::<String>::new());
    let misspelt = paths(&good.replace("targetPort", "targetport"));
    assert_eq!(misspelt, [".spec.ports[0].targetport: \"x\" became null"]);
    assert_eq!(paths(&good.replace("port: 1", "port: one")).len(), 1);
    assert!(typed(&object("{kind: Servise}")).is_none());
}
