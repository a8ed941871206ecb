//! `v1` Namespace: its labels.

use super::decode::{Place, Problems};
use super::label::{Labels, decode_labels, is_dns_label};
use super::{Complaint, Effect, Origin, Severity};

/// The label every namespace carries (Kubernetes 1.22 and later; set by the API server, so it is
/// implied here and wins over what a manifest says).
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels, [`NAME_LABEL`] included.
    pub labels: Labels,
    /// Some label could not be read. What the namespace lacks is then not known, so no
    /// namespaceSelector selects it: one that says `NotIn` or `DoesNotExist` would otherwise open
    /// what the unread label closes. Policies within it are not concerned.
    pub refused: bool,
    /// Where it was read.
    pub origin: Origin,
}

impl Namespace {
    /// A namespace with the labels given and the one that is implied.
    pub fn new(name: impl Into<String>, mut labels: Labels, origin: Origin) -> Self {
        let name = name.into();
        labels.insert(NAME_LABEL.to_owned(), name.clone());
        Self { name, labels, refused: false, origin }
    }
}

/// Reads a Namespace; `None` if it cannot be named. If any label cannot be read, the namespace is
/// there with `refused` set.
pub(super) fn decode(
    root: &Place<'_>,
    origin: &Origin,
    complaints: &mut Vec<Complaint>,
) -> Option<Namespace> {
    let mut problems = Problems::default();
    let metadata = root.field("metadata");
    let name = metadata.as_ref().and_then(|m| m.field("name"));
    let name = name.and_then(|field| {
        let name = field.string(&mut problems)?;
        if !is_dns_label(name) {
            problems.at(&field, format!("`{name}` is no namespace name (RFC 1123 label)"));
            return None;
        }
        Some(name.to_owned())
    });
    let labels = metadata
        .as_ref()
        .and_then(|m| m.field("labels"))
        .map(|labels| decode_labels(&labels, &mut problems))
        .unwrap_or_default();
    if name.is_none() && problems.list.is_empty() {
        problems.at(root, "metadata.name is required");
    }
    let object = format!("Namespace {}", name.as_deref().unwrap_or("(unnamed)"));
    let consequence = match name {
        Some(_) => "no namespaceSelector selects the namespace; policies within it stay in force",
        None => "it is left out",
    };
    let refused = problems.refusals() > 0;
    for problem in problems.list {
        complaints.push(Complaint {
            severity: Severity::Refused,
            effect: Effect::Closed,
            origin: Origin { line: problem.line, ..origin.clone() },
            object: object.clone(),
            field: problem.path,
            message: problem.message,
            consequence: consequence.to_owned(),
        });
    }
    Some(Namespace { refused, ..Namespace::new(name?, labels, origin.clone()) })
}
