//! The kinds that are followed, where the API serves them, and what of their objects is kept.
//!
//! Kinds are values and not types: what becomes of an object is decided by its decoder, and the
//! list of fields that the decoder reads. That list is here. A field that is added to a decoder has
//! to be added here as well; the tests hold the two against each other.

use crate::model::ObjectId;
use crate::model::document::{Node, Value};
use crate::model::pod::MIRROR;

use super::trim::{Keep, node};

/// A kind that is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1` Pods of all nodes: either end of a connection may be anywhere.
    Pods,
    /// `v1` Namespaces.
    Namespaces,
    /// `networking.k8s.io/v1` NetworkPolicies.
    NetworkPolicies,
    /// `v1` Services.
    Services,
    /// `discovery.k8s.io/v1` EndpointSlices.
    EndpointSlices,
    /// `v1` Nodes.
    Nodes,
}

use Keep::{Except, Nothing, Only, Whole};

/// Name, identity and labels.
const METADATA: Keep = Only(&[
    ("name", Whole),
    ("namespace", Whole),
    ("uid", Whole),
    ("resourceVersion", Whole),
    ("labels", Whole),
]);

const CONTAINER: Keep = Only(&[("restartPolicy", Whole), ("ports", Whole)]);

const POD: Keep = Only(&[
    ("apiVersion", Whole),
    ("kind", Whole),
    (
        "metadata",
        Only(&[
            ("name", Whole),
            ("namespace", Whole),
            ("uid", Whole),
            ("resourceVersion", Whole),
            ("labels", Whole),
            ("annotations", Only(&[(MIRROR, Whole)])),
            ("deletionTimestamp", Whole),
        ]),
    ),
    (
        "spec",
        Only(&[
            ("nodeName", Whole),
            ("hostNetwork", Whole),
            ("containers", CONTAINER),
            ("initContainers", CONTAINER),
        ]),
    ),
    ("status", Only(&[("phase", Whole), ("podIP", Whole), ("podIPs", Whole)])),
]);

const NAMESPACE: Keep = Only(&[("apiVersion", Whole), ("kind", Whole), ("metadata", METADATA)]);

/// Everything: a field that is not known may restrict, and refuses the policy.
const NETWORK_POLICY: Keep =
    Except(&[("metadata", Except(&[("managedFields", Nothing), ("annotations", Nothing)]))]);

const SERVICE: Keep = Only(&[
    ("apiVersion", Whole),
    ("kind", Whole),
    ("metadata", METADATA),
    ("spec", Whole),
    ("status", Only(&[("loadBalancer", Whole)])),
]);

const ENDPOINT_SLICE: Keep = Only(&[
    ("apiVersion", Whole),
    ("kind", Whole),
    ("metadata", METADATA),
    ("addressType", Whole),
    (
        "endpoints",
        Only(&[
            ("addresses", Whole),
            ("conditions", Whole),
            ("targetRef", Only(&[("kind", Whole), ("namespace", Whole), ("name", Whole)])),
            ("nodeName", Whole),
        ]),
    ),
    ("ports", Whole),
]);

const NODE: Keep = Only(&[
    ("apiVersion", Whole),
    ("kind", Whole),
    ("metadata", METADATA),
    ("spec", Only(&[("podCIDR", Whole), ("podCIDRs", Whole)])),
    ("status", Only(&[("addresses", Whole)])),
]);

impl Kind {
    /// All of them, the needed ones first.
    pub const ALL: [Self; 6] = [
        Self::Namespaces,
        Self::NetworkPolicies,
        Self::Pods,
        Self::Services,
        Self::EndpointSlices,
        Self::Nodes,
    ];

    /// The path of the collection over all namespaces.
    pub fn path(self) -> &'static str {
        match self {
            Self::Pods => "/api/v1/pods",
            Self::Namespaces => "/api/v1/namespaces",
            Self::NetworkPolicies => "/apis/networking.k8s.io/v1/networkpolicies",
            Self::Services => "/api/v1/services",
            Self::EndpointSlices => "/apis/discovery.k8s.io/v1/endpointslices",
            Self::Nodes => "/api/v1/nodes",
        }
    }

    /// The name of the resource, as rights and metrics have it.
    pub fn resource(self) -> &'static str {
        // What stands behind the last slash; the paths above have one.
        self.path().rsplit('/').next().unwrap_or_default()
    }

    /// The API group; empty for the core group.
    pub fn group(self) -> &'static str {
        match self {
            Self::NetworkPolicies => "networking.k8s.io",
            Self::EndpointSlices => "discovery.k8s.io",
            _ => "",
        }
    }

    /// `apiVersion` and `kind` of an object.
    pub fn type_meta(self) -> (&'static str, &'static str) {
        match self {
            Self::Pods => ("v1", "Pod"),
            Self::Namespaces => ("v1", "Namespace"),
            Self::NetworkPolicies => ("networking.k8s.io/v1", "NetworkPolicy"),
            Self::Services => ("v1", "Service"),
            Self::EndpointSlices => ("discovery.k8s.io/v1", "EndpointSlice"),
            Self::Nodes => ("v1", "Node"),
        }
    }

    /// What of an object is kept.
    pub fn keep(self) -> Keep {
        match self {
            Self::Pods => POD,
            Self::Namespaces => NAMESPACE,
            Self::NetworkPolicies => NETWORK_POLICY,
            Self::Services => SERVICE,
            Self::EndpointSlices => ENDPOINT_SLICE,
            Self::Nodes => NODE,
        }
    }

    /// How many objects a page of a list holds at first.
    pub fn page(self) -> u32 {
        match self {
            // With its status a Pod is 5 to 10 KiB: some 2 MiB a page.
            Self::Pods => 250,
            _ => 500,
        }
    }

    /// The identity of an object in the index.
    pub fn id(self, namespace: &str, name: &str) -> ObjectId {
        let key = || crate::model::ObjectKey::new(namespace, name);
        match self {
            Self::Pods => ObjectId::Pod(key()),
            Self::Namespaces => ObjectId::Namespace(name.to_owned()),
            Self::NetworkPolicies => ObjectId::NetworkPolicy(key()),
            Self::Services => ObjectId::Service(key()),
            Self::EndpointSlices => ObjectId::EndpointSlice(key()),
            Self::Nodes => ObjectId::Node(name.to_owned()),
        }
    }

    /// Adds `apiVersion` and `kind`, which items of a list leave out.
    pub fn complete(self, object: &mut Node) {
        let (api_version, kind) = self.type_meta();
        for (key, text) in [("apiVersion", api_version), ("kind", kind)] {
            if object.get(key).is_none()
                && let Value::Map(entries) = &mut object.value
            {
                entries.push((key.to_owned(), node(Value::String(text.to_owned()))));
            }
        }
    }
}

/// What the API says of every object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// The namespace; empty for a cluster-wide kind.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// `metadata.uid` as a number; 0 if there is none.
    pub uid: u128,
    /// `metadata.resourceVersion`; 0 if it is no number.
    pub version: u64,
}

impl Meta {
    /// Reads it; `None` if the object has no name.
    pub fn of(object: &Node) -> Option<Self> {
        let metadata = object.get("metadata")?;
        let text = |key| metadata.get_str(key).unwrap_or_default();
        let name = Some(text("name")).filter(|name| !name.is_empty())?;
        Some(Self {
            namespace: text("namespace").to_owned(),
            name: name.to_owned(),
            uid: uid(text("uid")),
            version: text("resourceVersion").parse().unwrap_or(0),
        })
    }
}

/// A UUID's 128 bits. Other texts, which the API does not make, give a number of their own.
fn uid(text: &str) -> u128 {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    match u128::from_str_radix(&digits, 16) {
        Ok(number) if digits.len() == 32 => number,
        // FNV-1a with 128 bits.
        _ if !text.is_empty() => {
            text.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| {
                (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
            })
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde::de::DeserializeSeed;

    use super::*;
    use crate::model::load::load_node;

    /// Every field that a decoder reads, among much that none does.
    const OBJECTS: [(Kind, &str); 6] = [
        (
            Kind::Pods,
            r#"{"metadata":{"name":"p","namespace":"n","uid":"u","labels":{"a":"b"},"deletionTimestamp":"2024-05-06T07:08:09Z",
                "annotations":{"x":"y","kubernetes.io/config.mirror":"m"},"managedFields":[{"fieldsV1":{"f:spec":{}}}],"ownerReferences":[{"kind":"ReplicaSet"}]},
              "spec":{"nodeName":"k","hostNetwork":false,"volumes":[{"name":"v"}],
                "containers":[{"name":"c","image":"i","ports":[{"name":"http","containerPort":80,"protocol":"TCP","hostPort":8080}]}],
                "initContainers":[{"restartPolicy":"Always","ports":[{"containerPort":81}]},{"ports":[{"containerPort":82}]}]},
              "status":{"phase":"Running","podIP":"10.0.0.1","podIPs":[{"ip":"10.0.0.1"},{"ip":"fd00::1"}],"hostIP":"192.0.2.1",
                "conditions":[{"type":"Ready"}]}}"#,
        ),
        (
            Kind::Namespaces,
            r#"{"metadata":{"name":"n","labels":{"team":"a"},"annotations":{}},"spec":{"finalizers":["kubernetes"]},"status":{"phase":"Active"}}"#,
        ),
        (
            Kind::NetworkPolicies,
            r#"{"metadata":{"name":"w","namespace":"n","generation":3,"annotations":{"big":"x"},"managedFields":[{}]},
              "spec":{"podSelector":{"matchExpressions":[{"key":"a","operator":"In","values":["b"]}]},"policyTypes":["Ingress"],
                "ingress":[{"from":[{"ipBlock":{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]}},{"namespaceSelector":{},"podSelector":{}}],
                  "ports":[{"port":"http"},{"port":80,"endPort":90,"protocol":"UDP"}],"unknown":1}]},"status":{}}"#,
        ),
        (
            Kind::Services,
            r#"{"metadata":{"name":"s","namespace":"n"},"spec":{"type":"NodePort","clusterIP":"10.96.0.1","clusterIPs":["10.96.0.1"],
              "selector":{"a":"b"},"externalTrafficPolicy":"Local","ports":[{"name":"http","port":80,"targetPort":"web","nodePort":30080,"protocol":"TCP"}],
              "sessionAffinity":"None"},"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.7"}]},"conditions":[]}}"#,
        ),
        (
            Kind::EndpointSlices,
            r#"{"metadata":{"name":"e","namespace":"n","labels":{"kubernetes.io/service-name":"s"}},"addressType":"IPv4",
              "endpoints":[{"addresses":["10.0.0.1"],"conditions":{"ready":false,"serving":true,"terminating":true},"nodeName":"k","zone":"z",
                "targetRef":{"kind":"Pod","namespace":"n","name":"p","uid":"u"}}],
              "ports":[{"name":"http","protocol":"TCP","port":8080,"appProtocol":"http"}]}"#,
        ),
        (
            Kind::Nodes,
            r#"{"metadata":{"name":"k","labels":{"node-role.kubernetes.io/control-plane":""}},"spec":{"podCIDR":"10.0.0.0/24","podCIDRs":["10.0.0.0/24"],
              "taints":[]},"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.1"},{"type":"Hostname","address":"k"}],
              "images":[{"names":["a"]}],"conditions":[]}}"#,
        ),
    ];

    fn tree(keep: Keep, kind: Kind, text: &str) -> Node {
        let mut object = keep.deserialize(&mut serde_json::Deserializer::from_str(text)).unwrap();
        kind.complete(&mut object);
        object
    }

    fn size(node: &Node) -> usize {
        match &node.value {
            Value::List(items) => 1 + items.iter().map(size).sum::<usize>(),
            Value::Map(entries) => 1 + entries.iter().map(|(_, node)| size(node)).sum::<usize>(),
            _ => 1,
        }
    }

    /// What is left out decides nothing and is complained about by nobody.
    #[test]
    fn what_is_kept_means_what_the_whole_object_means() {
        let file: Arc<str> = Arc::from("test");
        for (kind, text) in OBJECTS {
            let (whole, kept) = (tree(Keep::Whole, kind, text), tree(kind.keep(), kind, text));
            let (all, trimmed) = (load_node(&whole, &file), load_node(&kept, &file));
            assert_eq!(all.objects.len(), 1, "{kind:?}: {:?}", all.complaints);
            assert_eq!(all.objects, trimmed.objects);
            assert_eq!(all.complaints, trimmed.complaints);
            assert_eq!(trimmed.complaints.is_empty(), kind != Kind::NetworkPolicies, "{kind:?}");
            assert!(size(&kept) < size(&whole), "{kind:?}");
            let meta = Meta::of(&kept).unwrap();
            assert_eq!(kind.id(&meta.namespace, &meta.name), trimmed.objects[0].id());
        }
    }

    #[test]
    fn identities() {
        let uuid = uid("01234567-89ab-cdef-0123-456789abcdef");
        assert_eq!(uuid, 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert_eq!(uid(""), 0);
        assert_ne!(uid("mirror-1"), uid("mirror-2"));
        assert_ne!(uid("1"), 1);
        let resources = Kind::ALL.map(Kind::resource);
        let expect =
            ["namespaces", "networkpolicies", "pods", "services", "endpointslices", "nodes"];
        assert_eq!(resources, expect);
        for kind in Kind::ALL {
            let (version, _) = kind.type_meta();
            assert!(kind.path().contains(&format!("/{version}/")), "{kind:?}");
            assert!(version.starts_with(kind.group()), "{kind:?}");
        }
    }
}
