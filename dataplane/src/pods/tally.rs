//! How many pods' interfaces are enforced.
#![forbid(unsafe_code)]

use super::Pods;

/// Pods' interfaces, each once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// A policy table is in force, and hooks go on whatever is found.
    pub enforcing: bool,
    /// Both hooks are on, and packets pass as policies say.
    pub enforced: usize,
    /// A hook is missing.
    pub not_enforced: usize,
    /// Both hooks are on, and nothing passes but between the node and the pod: it claims what is
    /// another's, or has no word of weir-cni's and must have one.
    pub quarantined: usize,
}

impl Pods {
    /// Counts them as they are now.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally { enforcing: self.enforcing, ..Tally::default() };
        for (binding, standing) in self.bindings.iter().zip(&self.standings) {
            let count = if !self.attached.contains(&binding.ifindex) {
                &mut tally.not_enforced
            } else if !standing.stolen.is_empty() || standing.wordless {
                &mut tally.quarantined
            } else {
                &mut tally.enforced
            };
            *count += 1;
        }
        tally
    }
}
