//! The Kubernetes objects that Weir reads, trimmed to what decides a verdict or explains one.
//!
//! Kubernetes' own types carry hundreds of fields and default silently; a policy engine has to
//! know exactly what it understood. So the types here are our own, and a text becomes an object
//! in three steps, each in a module of its own:
//!
//! ```text
//!   text ──document──► Node tree (values with their lines)
//!        ──load──────► one object per document or List item, by apiVersion and kind
//!        ──decode────► typed object, or Complaints that name file, object and field
//! ```
//!
//! Invariants:
//! * every object here passed the validation that the API server applies;
//! * Service, EndpointSlice and Node decide no verdict; one that did not pass is left out;
//! * a rule of a NetworkPolicy that did not pass is left out of the policy, which keeps its place
//!   and what is wrong with it;
//! * a NetworkPolicy that did not pass in any other part is still here, with `refused` set and
//!   without rules: it isolates where the written object would isolate and allows nothing;
//! * a Pod that did not pass is still here with the addresses that could be read, and `refused`
//!   set: it is isolated in both directions.

mod common;
pub mod decode;
pub mod document;
pub mod endpoint_slice;
pub mod label;
pub mod load;
pub mod namespace;
pub mod node;
pub mod pod;
pub mod policy;
mod policy_decode;
mod policy_rule;
pub mod service;
pub mod written;

use std::fmt;
use std::sync::Arc;

pub use endpoint_slice::{AddressType, Endpoint, EndpointSlice, SlicePort};
pub use label::{LabelSelector, Labels, Operator, Requirement};
pub use load::{Loaded, load};
pub use namespace::Namespace;
pub use node::Node;
pub use pod::{ContainerPort, Phase, Pod};
pub use policy::{
    Direction, Fault, NetworkPolicy, Peer, PeerRule, PortMatch, PortRule, Protocol, Rule,
};
pub use service::{Service, ServicePort, ServiceType, TargetPort, TrafficPolicy};
pub use written::EmptyList;

/// Namespace and name of a namespaced object; ordered as Weir orders policies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The object's namespace; `default` where the manifest names none, as kubectl would set.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// Joins a namespace and a name.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Where an object was read: a file (or another source's name) and a line, 0 if unknown.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// File path as given, `-` for standard input.
    pub file: Arc<str>,
    /// First line of the object, counted from 1; 0 if the format keeps no lines.
    pub line: u32,
}

impl Origin {
    /// An origin for objects that were made in memory.
    pub fn memory() -> Self {
        Self { file: Arc::from("memory"), line: 0 }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            f.write_str(&self.file)
        } else {
            write!(f, "{}:{}", self.file, self.line)
        }
    }
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// `v1` Namespace.
    Namespace(Namespace),
    /// `v1` Pod.
    Pod(Pod),
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy(NetworkPolicy),
    /// `v1` Service.
    Service(Service),
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// `v1` Node.
    Node(Node),
}

/// Identifies an object among all objects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectId {
    /// A Namespace by its name.
    Namespace(String),
    /// A Pod.
    Pod(ObjectKey),
    /// A NetworkPolicy.
    NetworkPolicy(ObjectKey),
    /// A Service.
    Service(ObjectKey),
    /// An EndpointSlice.
    EndpointSlice(ObjectKey),
    /// A Node by its name.
    Node(String),
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "Namespace {name}"),
            Self::Pod(key) => write!(f, "Pod {key}"),
            Self::NetworkPolicy(key) => write!(f, "NetworkPolicy {key}"),
            Self::Service(key) => write!(f, "Service {key}"),
            Self::EndpointSlice(key) => write!(f, "EndpointSlice {key}"),
            Self::Node(name) => write!(f, "Node {name}"),
        }
    }
}

impl Object {
    /// Kind, namespace and name.
    pub fn id(&self) -> ObjectId {
        match self {
            Self::Namespace(namespace) => ObjectId::Namespace(namespace.name.clone()),
            Self::Pod(pod) => ObjectId::Pod(pod.key.clone()),
            Self::NetworkPolicy(policy) => ObjectId::NetworkPolicy(policy.key.clone()),
            Self::Service(service) => ObjectId::Service(service.key.clone()),
            Self::EndpointSlice(slice) => ObjectId::EndpointSlice(slice.key.clone()),
            Self::Node(node) => ObjectId::Node(node.name.clone()),
        }
    }

    /// Where the object was read.
    pub fn origin(&self) -> &Origin {
        match self {
            Self::Namespace(namespace) => &namespace.origin,
            Self::Pod(pod) => &pod.origin,
            Self::NetworkPolicy(policy) => &policy.origin,
            Self::Service(service) => &service.origin,
            Self::EndpointSlice(slice) => &slice.origin,
            Self::Node(node) => &node.origin,
        }
    }
}

/// How much a complaint weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Read and honoured, but worth a look (host bits in a CIDR, for example).
    Warning,
    /// Left out of the policy: a kind that Weir does not know or does not enforce.
    Skipped,
    /// Refused: the object or the file cannot be honoured as written.
    Refused,
}

/// What a complaint means for what is enforced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Nothing: what is meant is honoured, or decides no verdict.
    #[default]
    Nothing,
    /// Less passes than is written: it isolates where the written object would, and allows nothing.
    Closed,
    /// It is not in force at all: what it would isolate is open, unless another object isolates it.
    NotEnforced,
}

/// Something in the input that Weir could not honour, naming file, object and field.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Complaint {
    /// How much it weighs.
    pub severity: Severity,
    /// What it means for what is enforced.
    pub effect: Effect,
    /// File and line.
    pub origin: Origin,
    /// `Kind namespace/name`; empty when the file as a whole is meant.
    pub object: String,
    /// Path of the field, `spec.ingress[0].ports[0].port`; empty when the whole object is meant.
    pub field: String,
    /// What is wrong and what to write instead.
    pub message: String,
    /// What Weir does about it; empty when nothing changes.
    pub consequence: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.object.is_empty() {
            write!(f, "{}: ", self.object)?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        if !self.consequence.is_empty() {
            write!(f, "; {}", self.consequence)?;
        }
        Ok(())
    }
}
