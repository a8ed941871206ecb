//! From a text to objects: documents, Lists and kinds.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::common::UNNAMED;
use super::decode::{Place, Problems};
use super::document::{Node, SyntaxError, Value, parse};
use super::written::{EmptyList, empty_lists};
use super::{
    Complaint, Effect, Object, Origin, Severity, endpoint_slice, namespace, node, pod,
    policy_decode, service,
};

/// What one text held.
#[derive(Debug, Default, Clone)]
pub struct Loaded {
    /// Objects of the kinds that are read, in the order of the text.
    pub objects: Vec<Object>,
    /// Lists that policies write and leave empty.
    pub empty_lists: Vec<EmptyList>,
    /// What could not be honoured, or was left out.
    pub complaints: Vec<Complaint>,
    /// Objects of kinds that are known and decide no verdict in this version: kind → count.
    pub skipped: BTreeMap<String, usize>,
}

impl Loaded {
    /// Adds another text's content.
    pub fn merge(&mut self, other: Loaded) {
        self.objects.extend(other.objects);
        self.empty_lists.extend(other.empty_lists);
        self.complaints.extend(other.complaints);
        for (kind, count) in other.skipped {
            *self.skipped.entry(kind).or_default() += count;
        }
    }

    /// The number of objects left out because of their kind, in words; `None` if there are none.
    pub fn skipped_in_words(&self) -> Option<String> {
        if self.skipped.is_empty() {
            return None;
        }
        let total: usize = self.skipped.values().sum();
        let kinds: Vec<String> =
            self.skipped.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        Some(format!(
            "{total} object{} of other kinds left out: {}",
            if total == 1 { "" } else { "s" },
            kinds.join(", ")
        ))
    }
}

/// Reads every object of a text.
///
/// # Errors
/// [`SyntaxError`] if the text is not YAML or JSON as a whole; the caller keeps what it had.
pub fn load(file: &str, bytes: &[u8]) -> Result<Loaded, SyntaxError> {
    let file: Arc<str> = Arc::from(file);
    let mut loaded = Loaded::default();
    for document in parse(bytes)? {
        load_object(&Place::root(&document), &file, &mut loaded);
    }
    number_unnamed(&mut loaded.objects);
    Ok(loaded)
}

/// Reads one object, which a source has as a tree already.
pub fn load_node(node: &Node, file: &Arc<str>) -> Loaded {
    let mut loaded = Loaded::default();
    load_object(&Place::root(node), file, &mut loaded);
    loaded
}

/// Gives objects without a name a number where the line does not tell them apart (`jq -c` writes
/// one line only): each of them isolates for itself.
fn number_unnamed(objects: &mut [Object]) {
    let mut counts: BTreeMap<Arc<str>, usize> = BTreeMap::new();
    for object in objects {
        let name = match object {
            Object::Pod(pod) => &mut pod.key.name,
            Object::NetworkPolicy(policy) => &mut policy.key.name,
            // The others are left out without a name.
            _ => continue,
        };
        if name.starts_with(UNNAMED) {
            let count = counts.entry(name.clone()).or_default();
            *count += 1;
            if *count > 1 {
                *name = format!("{name} {count}").into();
            }
        }
    }
}

/// API groups whose objects a cluster listing contains as a matter of course; their kinds decide
/// no verdict and are only counted.
const KNOWN_GROUPS: [&str; 20] = [
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "apps",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "extensions",
    "flowcontrol.apiserver.k8s.io",
    "gateway.networking.k8s.io",
    "kustomize.config.k8s.io",
    "metrics.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
];

/// Other kinds of the group of NetworkPolicy. By name, since here a misspelt kind is most likely a
/// policy that its author believes to be in force.
const NETWORKING_KINDS: [&str; 5] =
    ["ClusterCIDR", "IPAddress", "Ingress", "IngressClass", "ServiceCIDR"];

/// Kinds of the core group that a listing may contain.
const CORE_KINDS: [&str; 14] = [
    "Binding",
    "ComponentStatus",
    "ConfigMap",
    "Endpoints",
    "Event",
    "LimitRange",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodTemplate",
    "ReplicationController",
    "ResourceQuota",
    "Secret",
    "ServiceAccount",
    "Status",
];

fn load_object(place: &Place<'_>, file: &Arc<str>, loaded: &mut Loaded) {
    let origin = Origin { file: Arc::clone(file), line: place.line() };
    let kind = match text(place.node, "kind") {
        Ok(kind) => kind,
        Err(message) => {
            loaded.complaints.push(Complaint {
                severity: Severity::Refused,
                // It may be a policy.
                effect: Effect::NotEnforced,
                origin,
                object: describe(place),
                field: "kind".to_owned(),
                message,
                consequence: "the object is left out".to_owned(),
            });
            return;
        }
    };
    let api_version = place.node.get_str("apiVersion").unwrap_or_default();
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    match (group, kind) {
        // `kubectl get` prints `v1/List`; typed lists (`PodList`) come from the raw API.
        ("", "List") => load_list(place, file, None, loaded),
        // `extensions/v1beta1` is gone since Kubernetes 1.16, the group of a manifest without
        // apiVersion is unknown, and `policy/v1` is a slip: all are clearly meant as policies, so
        // they are refused, not skipped, and isolate.
        (_, "NetworkPolicy") if is_kubernetes(group) => {
            let policy = policy_decode::decode(place, &origin, &mut loaded.complaints);
            if let Some(policy) = &policy {
                loaded.empty_lists.extend(empty_lists(place, &policy.key, &origin));
            }
            loaded.objects.extend(policy.map(Object::NetworkPolicy));
        }
        (_, "NetworkPolicyList") if is_kubernetes(group) => {
            load_list(place, file, kind.strip_suffix("List"), loaded);
        }
        // Before the groups of which everything else is only counted.
        _ if is_network_policy(group, kind) => loaded.complaints.push(Complaint {
            severity: Severity::Skipped,
            effect: Effect::NotEnforced,
            origin,
            object: describe(place),
            field: "kind".to_owned(),
            message: format!("{} is not enforced in this version", full_kind(api_version, kind)),
            consequence: "its rules have no effect".to_owned(),
        }),
        ("", "Namespace") => {
            let namespace = namespace::decode(place, &origin, &mut loaded.complaints);
            loaded.objects.extend(namespace.map(Object::Namespace));
        }
        ("", "Pod") => {
            let pod = pod::decode(place, &origin, &mut loaded.complaints);
            loaded.objects.extend(pod.map(Object::Pod));
        }
        ("", "Service") => {
            let service = service::decode(place, &origin, &mut loaded.complaints);
            loaded.objects.extend(service.map(Object::Service));
        }
        ("discovery.k8s.io", "EndpointSlice") => {
            let slice = endpoint_slice::decode(place, &origin, &mut loaded.complaints);
            loaded.objects.extend(slice.map(Object::EndpointSlice));
        }
        ("", "Node") => {
            let node = node::decode(place, &origin, &mut loaded.complaints);
            loaded.objects.extend(node.map(Object::Node));
        }
        ("", "NamespaceList" | "PodList" | "ServiceList" | "NodeList")
        | ("discovery.k8s.io", "EndpointSliceList") => {
            load_list(place, file, kind.strip_suffix("List"), loaded);
        }
        ("", _) if CORE_KINDS.contains(&kind) => count(loaded, kind),
        ("networking.k8s.io", _) if NETWORKING_KINDS.contains(&kind) => count(loaded, kind),
        (group, _) if KNOWN_GROUPS.contains(&group) => count(loaded, kind),
        _ => loaded.complaints.push(Complaint {
            severity: Severity::Skipped,
            effect: match group {
                // A misspelt policy, most likely.
                "networking.k8s.io" => Effect::NotEnforced,
                _ => Effect::Nothing,
            },
            origin,
            object: describe(place),
            field: "kind".to_owned(),
            message: format!("unknown kind {}", full_kind(api_version, kind)),
            consequence: "the object is left out".to_owned(),
        }),
    }
}

/// Whether a group is Kubernetes' own, in which `NetworkPolicy` means the one that is enforced.
fn is_kubernetes(group: &str) -> bool {
    group.is_empty() || group.ends_with(".k8s.io") || KNOWN_GROUPS.contains(&group)
}

/// Whether the author of such an object believes that it protects something: a network policy of
/// whatever API, or a misspelt one.
fn is_network_policy(group: &str, kind: &str) -> bool {
    group == "policy.networking.k8s.io" || kind.to_ascii_lowercase().contains("networkpolic")
}

fn full_kind(api_version: &str, kind: &str) -> String {
    match api_version {
        "" => format!("`{kind}` (no apiVersion)"),
        version => format!("`{kind}` of {version}"),
    }
}

fn count(loaded: &mut Loaded, kind: &str) {
    *loaded.skipped.entry(kind.to_owned()).or_default() += 1;
}

fn load_list(place: &Place<'_>, file: &Arc<str>, item_kind: Option<&str>, loaded: &mut Loaded) {
    let mut problems = Problems::default();
    let items = place.field("items").map(|items| items.items(&mut problems)).unwrap_or_default();
    for problem in problems.list {
        loaded.complaints.push(Complaint {
            severity: Severity::Refused,
            effect: Effect::NotEnforced,
            origin: Origin { file: Arc::clone(file), line: problem.line },
            object: describe(place),
            field: problem.path,
            message: problem.message,
            consequence: "the item is left out".to_owned(),
        });
    }
    for item in items {
        // Items of a typed list leave kind and apiVersion out.
        if let (Some(kind), Value::Map(entries), None) =
            (item_kind, &item.node.value, item.node.get("kind"))
        {
            let mut entries = entries.clone();
            let version = place.node.get("apiVersion").cloned();
            entries.extend(version.map(|version| ("apiVersion".to_owned(), version)));
            let kind = Node { line: item.line(), value: Value::String(kind.to_owned()) };
            entries.push(("kind".to_owned(), kind));
            let node = Node { line: item.line(), value: Value::Map(entries) };
            load_object(&Place::root(&node), file, loaded);
        } else {
            load_object(&Place::root(item.node), file, loaded);
        }
    }
}

fn text<'n>(node: &'n Node, key: &str) -> Result<&'n str, String> {
    if !matches!(node.value, Value::Map(_)) {
        return Err(format!("the document is {}, not an object", node.value.type_name()));
    }
    match node.get(key).map(|field| &field.value) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("is {}, must be a string", other.type_name())),
        None => Err("is missing: this is no Kubernetes object".to_owned()),
    }
}

/// `Kind namespace/name` as far as they can be read.
fn describe(place: &Place<'_>) -> String {
    let kind = place.node.get_str("kind").unwrap_or("object");
    let metadata = place.node.get("metadata");
    let of = |key| metadata.and_then(|metadata| metadata.get_str(key));
    match (of("namespace"), of("name")) {
        (Some(namespace), Some(name)) => format!("{kind} {namespace}/{name}"),
        (None, Some(name)) => format!("{kind} {name}"),
        _ => kind.to_owned(),
    }
}
