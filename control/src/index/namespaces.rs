//! What is known of namespaces, and which of them a selector selects.

use super::Index;
use crate::model::{LabelSelector, Labels, namespace::NAME_LABEL};

/// What is known of a namespace's labels. A selector may ask for the absence of a label, so a label
/// of which nobody knows whether it is there satisfies no requirement, negative ones included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamespaceLabels<'a> {
    /// The namespace is declared: all of them.
    Known(&'a Labels),
    /// It is not: only the label that the API server sets, which holds this name.
    NameOnly(String),
    /// It was refused: no selector selects it.
    Unknown,
}

impl Index {
    /// What is known of a namespace's labels.
    pub fn namespace_labels(&self, name: &str) -> NamespaceLabels<'_> {
        match self.namespaces.get(name) {
            Some(namespace) if namespace.refused => NamespaceLabels::Unknown,
            Some(namespace) => NamespaceLabels::Known(&namespace.labels),
            None => NamespaceLabels::NameOnly(name.to_owned()),
        }
    }

    /// Whether a namespaceSelector selects a namespace.
    pub fn selects_namespace(&self, selector: &LabelSelector, name: &str) -> bool {
        match self.namespace_labels(name) {
            NamespaceLabels::Unknown => false,
            NamespaceLabels::Known(labels) => selector.matches(labels),
            NamespaceLabels::NameOnly(name) => {
                let labels = Labels::from([(NAME_LABEL.to_owned(), name)]);
                // Whether another label is absent is not known, so nothing may depend on it.
                let known = selector.requirements.iter().all(|r| r.key == NAME_LABEL);
                known && selector.matches(&labels)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Namespace, Object, Origin};

    #[test]
    fn what_is_known() {
        let declared = Namespace::new("ns", Labels::new(), Origin::memory());
        let refused =
            Namespace { refused: true, ..Namespace::new("bad", Labels::new(), Origin::memory()) };
        let index = Index::of([declared.clone(), refused].map(Object::Namespace));
        assert_eq!(index.namespace_labels("ns"), NamespaceLabels::Known(&declared.labels));
        assert_eq!(index.namespace_labels("bad"), NamespaceLabels::Unknown);
        let name_only = NamespaceLabels::NameOnly("other".to_owned());
        assert_eq!(index.namespace_labels("other"), name_only);
        let everything = LabelSelector::everything();
        let selected = ["ns", "bad", "other"].map(|n| index.selects_namespace(&everything, n));
        assert_eq!(selected, [true, false, true]);
    }
}
