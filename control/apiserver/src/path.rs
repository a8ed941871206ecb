//! What a path names, and the pages by which clients find out which paths there are.

use serde_json::{Value, json};

use crate::kind::Kind;

/// Objects that a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Of this kind.
    pub kind: Kind,
    /// In this namespace; empty: in all, or the kind has none.
    pub namespace: String,
    /// This one; empty: the collection.
    pub name: String,
    /// `status`, or empty.
    pub subresource: String,
}

/// The objects that a path names; `None`: it is none of objects, or of a kind that is not here.
#[must_use]
pub fn target(path: &str) -> Option<Target> {
    let mut parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return None;
    }
    let (group, version) = match *parts.first()? {
        "api" if parts.len() > 2 => ("", parts[1]),
        "apis" if parts.len() > 3 => (parts[1], parts[2]),
        _ => return None,
    };
    parts.drain(..if group.is_empty() { 2 } else { 3 });
    // `namespaces/a/pods` is of pods, `namespaces/a` and `namespaces/a/status` of a namespace.
    let is_within = parts[0] == "namespaces"
        && parts.len() > 2
        && !(group.is_empty() && parts.len() == 3 && parts[2] == "status");
    let namespace = if is_within { parts[1] } else { "" };
    parts.drain(..if is_within { 2 } else { 0 });
    let (plural, name, subresource) = match *parts.as_slice() {
        [plural] => (plural, "", ""),
        [plural, name] => (plural, name, ""),
        [plural, name, subresource] => (plural, name, subresource),
        _ => return None,
    };
    let kind = Kind::of_path(group, version, plural)?;
    let is_placed = is_within == kind.is_namespaced();
    if !is_placed && (is_within || !name.is_empty()) {
        return None;
    }
    let has_it = subresource.is_empty() || (subresource == "status" && kind.has_status());
    if !has_it {
        return None;
    }
    let [namespace, name, subresource] = [namespace, name, subresource].map(str::to_owned);
    Some(Target { kind, namespace, name, subresource })
}

/// The page of discovery at the path; `others` are groups of others, without objects.
#[must_use]
pub fn discovery(path: &str, address: &str, others: &[(String, String)]) -> Option<Value> {
    let group = |name: &str, version: &str| {
        let version = json!({"groupVersion": format!("{name}/{version}"), "version": version});
        json!({"name": name, "versions": [version], "preferredVersion": version})
    };
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    Some(match parts.as_slice() {
        ["version"] => json!({
            "major": "1", "minor": "33", "gitVersion": "v1.33.0", "gitCommit": "", "platform": "",
            "gitTreeState": "clean", "buildDate": "", "goVersion": "", "compiler": "",
        }),
        ["api"] => json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
        }),
        ["apis"] => {
            let mut groups: Vec<Value> = Vec::new();
            for kind in Kind::ALL {
                if !kind.group().is_empty() {
                    groups.push(group(kind.group(), kind.version()));
                }
            }
            groups.extend(others.iter().map(|(name, version)| group(name, version)));
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["api", version] => resources("", version, others)?,
        ["apis", group, version] => resources(group, version, others)?,
        _ => return None,
    })
}

fn resources(group: &str, version: &str, others: &[(String, String)]) -> Option<Value> {
    let mut list = Vec::new();
    for kind in Kind::ALL {
        if (kind.group(), kind.version()) != (group, version) {
            continue;
        }
        let short: Vec<&str> = [kind.short()].into_iter().filter(|s| !s.is_empty()).collect();
        list.push(json!({
            "name": kind.plural(), "singularName": kind.name().to_lowercase(),
            "namespaced": kind.is_namespaced(), "kind": kind.name(), "shortNames": short,
            "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
        }));
        if kind.has_status() {
            list.push(json!({
                "name": format!("{}/status", kind.plural()), "singularName": "",
                "namespaced": kind.is_namespaced(), "kind": kind.name(),
                "verbs": ["get", "patch", "update"],
            }));
        }
    }
    let is_other = others.iter().any(|(g, v)| g == group && v == version);
    if list.is_empty() && !is_other {
        return None;
    }
    let name = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": list,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let show = |path: &str| {
            target(path)
                .map(|t| format!("{} {:?} {:?} {:?}", t.kind, t.namespace, t.name, t.subresource))
        };
        for (path, expected) in [
            ("/api/v1/pods", "Pod \"\" \"\" \"\""),
            ("/api/v1/namespaces/shop/pods", "Pod \"shop\" \"\" \"\""),
            ("/api/v1/namespaces/shop/pods/web", "Pod \"shop\" \"web\" \"\""),
            ("/api/v1/namespaces/shop/pods/web/status", "Pod \"shop\" \"web\" \"status\""),
            ("/api/v1/namespaces", "Namespace \"\" \"\" \"\""),
            ("/api/v1/namespaces/shop", "Namespace \"\" \"shop\" \"\""),
            ("/api/v1/namespaces/shop/status", "Namespace \"\" \"shop\" \"status\""),
            ("/api/v1/nodes/a", "Node \"\" \"a\" \"\""),
            ("/apis/events.k8s.io/v1/namespaces/shop/events", "Event \"shop\" \"\" \"\""),
            ("/apis/networking.k8s.io/v1/networkpolicies", "NetworkPolicy \"\" \"\" \"\""),
        ] {
            assert_eq!(show(path).as_deref(), Some(expected), "{path}");
        }
        for path in [
            "/",
            "/api",
            "/api/v1",
            "/api/v1/secrets",
            "/api/v2/pods",
            "/api/v1/pods/web",
            "/api/v1/namespaces/shop/nodes/a",
            "/api/v1/namespaces/shop/pods/web/log",
            "/api/v1//pods",
            "/apis/v1/pods",
            "/api/v1/pods/",
            "/healthz",
            "/apis/networking.k8s.io/v1/namespaces/a/networkpolicies/b/status",
        ] {
            assert_eq!(target(path), None, "{path}");
        }
    }

    #[test]
    fn pages() {
        let others = [("cilium.io".to_owned(), "v2".to_owned())];
        let page = |path: &str| discovery(path, "", &others);
        let groups = page("/apis").unwrap();
        let names: Vec<&str> = groups["groups"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|g| g["name"].as_str())
            .collect();
        assert!(names.contains(&"cilium.io") && names.contains(&"networking.k8s.io"));
        assert_eq!(page("/api/v1").unwrap()["resources"][0]["name"], "namespaces");
        assert!(page("/apis/cilium.io/v2").is_some());
        assert_eq!((page("/apis/apps/v1"), page("/metrics")), (None, None));
    }
}
