//! One copy of what many pods say alike: namespaces, nodes, whole sets of labels, lists of ports.
//!
//! The pods of one owner agree in all of them. In a cluster of 150,000 pods that is the difference
//! between a hundred megabytes and ten; and whoever compiles recognizes equal sets by where they
//! are, without reading them.
//!
//! Invariant: sharing changes no value. Whoever finds two sets in two places may still find them
//! equal.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::model::{ContainerPort, Labels, Pod};

/// Values that nobody else holds are looked for when there are twice as many as after the last look.
const AT_LEAST: usize = 256;

/// Values of one type, each once.
#[derive(Debug)]
struct Pool<T: ?Sized> {
    values: HashSet<Arc<T>, rustc_hash::FxBuildHasher>,
    /// Swept when it has grown to this.
    sweep_at: usize,
}

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self { values: HashSet::default(), sweep_at: AT_LEAST }
    }
}

// Derived, it would want the values themselves to be `Clone`.
impl<T: ?Sized> Clone for Pool<T> {
    fn clone(&self) -> Self {
        Self { values: self.values.clone(), sweep_at: self.sweep_at }
    }
}

impl<T: ?Sized + Eq + Hash> Pool<T> {
    /// Puts the pool's copy in the place of an equal value.
    fn share(&mut self, value: &mut Arc<T>) {
        if let Some(known) = self.values.get(value) {
            if !Arc::ptr_eq(known, value) {
                *value = Arc::clone(known);
            }
            return;
        }
        if self.values.len() >= self.sweep_at {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.values.shrink_to_fit();
            self.sweep_at = (self.values.len() * 2).max(AT_LEAST);
        }
        self.values.insert(Arc::clone(value));
    }
}

/// The pools of an index.
#[derive(Debug, Clone, Default)]
pub(super) struct Shared {
    names: Pool<str>,
    labels: Pool<Labels>,
    ports: Pool<[ContainerPort]>,
}

impl Shared {
    /// Makes a pod share what another one has as well.
    pub(super) fn share(&mut self, pod: &mut Pod) {
        self.names.share(&mut pod.key.namespace);
        if let Some(node) = &mut pod.node {
            self.names.share(node);
        }
        self.labels.share(&mut pod.labels);
        self.ports.share(&mut pod.ports);
        pod.addresses.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(app: &str) -> Pod {
        let mut pod = Pod::new(String::from("ns"), "pod");
        pod.labels = Arc::new(Labels::from([("app".to_owned(), app.to_owned())]));
        pod.node = Some(Arc::from(String::from("ns")));
        pod
    }

    #[test]
    fn equal_values_are_one_and_go_when_nobody_holds_them() {
        let mut shared = Shared::default();
        let (mut a, mut b) = (pod("web"), pod("web"));
        assert!(!Arc::ptr_eq(&a.labels, &b.labels));
        let before = (a.clone(), b.clone());
        shared.share(&mut a);
        shared.share(&mut b);
        assert_eq!((&a, &b), (&before.0, &before.1));
        assert!(Arc::ptr_eq(&a.labels, &b.labels));
        assert!(Arc::ptr_eq(&a.key.namespace, &b.key.namespace));
        assert!(Arc::ptr_eq(&a.ports, &b.ports));
        drop(before);
        for i in 0..AT_LEAST * 10 {
            shared.share(&mut pod(&format!("v{i}")));
        }
        assert!(shared.labels.values.len() <= AT_LEAST, "{}", shared.labels.values.len());
        let mut again = pod("web");
        shared.share(&mut again);
        assert!(Arc::ptr_eq(&a.labels, &again.labels), "what is held stays");
    }
}
