//! The kinds that the server has, and where their paths are.
//!
//! What differs between kinds is a row of [`Kind::ALL`]'s table here and nothing else: group, names,
//! scope, whether `status` is written apart, and the fields that a field selector may name.

use std::fmt;

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Kind {
    Namespace,
    Node,
    Pod,
    Service,
    EndpointSlice,
    NetworkPolicy,
    ClusterNetworkPolicy,
    Event,
}

/// The row of a kind.
struct Row {
    kind: &'static str,
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    short: &'static str,
    namespaced: bool,
    status: bool,
    generation: bool,
    custom: bool,
    /// Beside `metadata.name` and, where there is one, `metadata.namespace`.
    fields: &'static [&'static str],
}

const NAMESPACE: Row = Row {
    kind: "Namespace",
    group: "",
    version: "v1",
    plural: "namespaces",
    short: "ns",
    namespaced: false,
    status: true,
    generation: false,
    custom: false,
    fields: &["status.phase"],
};
const NODE: Row = Row {
    kind: "Node",
    plural: "nodes",
    short: "no",
    fields: &["spec.unschedulable"],
    ..NAMESPACE
};
const POD: Row = Row {
    kind: "Pod",
    plural: "pods",
    short: "po",
    namespaced: true,
    fields: &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ],
    ..NAMESPACE
};
const SERVICE: Row = Row {
    kind: "Service",
    plural: "services",
    short: "svc",
    namespaced: true,
    fields: &["spec.clusterIP", "spec.type"],
    ..NAMESPACE
};
const ENDPOINT_SLICE: Row = Row {
    kind: "EndpointSlice",
    group: "discovery.k8s.io",
    plural: "endpointslices",
    short: "",
    namespaced: true,
    status: false,
    generation: true,
    fields: &[],
    ..NAMESPACE
};
const NETWORK_POLICY: Row = Row {
    kind: "NetworkPolicy",
    group: "networking.k8s.io",
    plural: "networkpolicies",
    short: "netpol",
    ..ENDPOINT_SLICE
};
const CLUSTER_NETWORK_POLICY: Row = Row {
    kind: "ClusterNetworkPolicy",
    group: "policy.networking.k8s.io",
    version: "v1alpha2",
    plural: "clusternetworkpolicies",
    short: "cnp",
    namespaced: false,
    status: true,
    generation: true,
    custom: true,
    fields: &[],
};
const EVENT: Row = Row {
    kind: "Event",
    group: "events.k8s.io",
    plural: "events",
    short: "ev",
    namespaced: true,
    status: false,
    fields: &[
        "reason",
        "type",
        "reportingController",
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "regarding.apiVersion",
        "regarding.resourceVersion",
        "regarding.fieldPath",
    ],
    ..NAMESPACE
};

impl Kind {
    /// Every kind, in the order of their rows.
    pub const ALL: [Kind; 8] = [
        Kind::Namespace,
        Kind::Node,
        Kind::Pod,
        Kind::Service,
        Kind::EndpointSlice,
        Kind::NetworkPolicy,
        Kind::ClusterNetworkPolicy,
        Kind::Event,
    ];

    const fn row(self) -> &'static Row {
        match self {
            Kind::Namespace => &NAMESPACE,
            Kind::Node => &NODE,
            Kind::Pod => &POD,
            Kind::Service => &SERVICE,
            Kind::EndpointSlice => &ENDPOINT_SLICE,
            Kind::NetworkPolicy => &NETWORK_POLICY,
            Kind::ClusterNetworkPolicy => &CLUSTER_NETWORK_POLICY,
            Kind::Event => &EVENT,
        }
    }

    /// `Pod`
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().kind
    }

    /// `networking.k8s.io`; empty for the core group.
    #[must_use]
    pub const fn group(self) -> &'static str {
        self.row().group
    }

    /// `v1`
    #[must_use]
    pub const fn version(self) -> &'static str {
        self.row().version
    }

    /// `networking.k8s.io/v1`
    #[must_use]
    pub fn api_version(self) -> String {
        match self.group() {
            "" => self.version().to_owned(),
            group => format!("{group}/{}", self.version()),
        }
    }

    /// `pods`, as paths and RBAC rules have it.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        self.row().plural
    }

    /// `po`, as kubectl has it; empty if there is none.
    #[must_use]
    pub const fn short(self) -> &'static str {
        self.row().short
    }

    /// `pods`, `networkpolicies.networking.k8s.io`: as messages have it.
    #[must_use]
    pub fn qualified(self) -> String {
        match self.group() {
            "" => self.plural().to_owned(),
            group => format!("{}.{group}", self.plural()),
        }
    }

    /// Whether its objects are in namespaces.
    #[must_use]
    pub const fn is_namespaced(self) -> bool {
        self.row().namespaced
    }

    /// Whether `status` is a subresource: a write of the object leaves it alone.
    #[must_use]
    pub const fn has_status(self) -> bool {
        self.row().status
    }

    /// Whether `metadata.generation` counts changes of what is not `metadata` and `status`.
    #[must_use]
    pub const fn has_generation(self) -> bool {
        self.row().generation
    }

    /// Whether it comes of a CustomResourceDefinition: items of its lists name their kind.
    #[must_use]
    pub const fn is_custom(self) -> bool {
        self.row().custom
    }

    /// Fields, beside those of `metadata`, that a field selector may name.
    #[must_use]
    pub const fn fields(self) -> &'static [&'static str] {
        self.row().fields
    }

    /// The kind with these names in a path.
    #[must_use]
    pub fn of_path(group: &str, version: &str, plural: &str) -> Option<Kind> {
        Kind::ALL
            .into_iter()
            .find(|kind| (kind.group(), kind.version(), kind.plural()) == (group, version, plural))
    }

    /// The kind that an object says it is.
    #[must_use]
    pub fn of_object(api_version: &str, kind: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| k.name() == kind && k.api_version() == api_version)
    }

    /// The path of all its objects, or of those of a namespace.
    #[must_use]
    pub fn path(self, namespace: Option<&str>) -> String {
        let root = match self.group() {
            "" => format!("/api/{}", self.version()),
            group => format!("/apis/{group}/{}", self.version()),
        };
        match namespace {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{}", self.plural()),
            None => format!("{root}/{}", self.plural()),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
