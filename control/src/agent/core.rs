//! What agents of all sources do alike: keep the index, compile what changed, say what is wrong.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use tracing::{error, info, warn};

use crate::compile::{Compiled, compile};
use crate::index::{Changes, Index};
use crate::ledger::Ledger;
use crate::model::{Complaint, Severity};
use crate::names::NamesWriter;
use crate::publisher::{Desired, Mailbox};

/// The state that every change of the input passes through.
#[derive(Debug)]
pub(super) struct Core {
    node: Option<String>,
    mailbox: Arc<Mailbox>,
    ledger: Arc<Ledger>,
    names: Option<NamesWriter>,
    /// The objects in force.
    pub(super) index: Index,
    /// The compiler's last result, and the image as it was handed over.
    compiled: Option<(Compiled, Desired)>,
    /// What of the complaints was logged.
    logged: BTreeSet<(u8, String)>,
}

impl Core {
    pub(super) fn new(node: Option<String>, mailbox: Arc<Mailbox>, ledger: Arc<Ledger>) -> Self {
        Self {
            node,
            mailbox,
            ledger,
            names: None,
            index: Index::default(),
            compiled: None,
            logged: BTreeSet::new(),
        }
    }

    /// Leaves pods' names with this writer.
    pub(super) fn name_with(&mut self, names: NamesWriter) {
        self.names = Some(names);
    }

    /// Whether this process has published anything.
    pub(super) fn is_compiled(&self) -> bool {
        self.compiled.is_some()
    }

    /// Publishes what the index means now, if it is anything new; `changes` since the last time,
    /// the first of which came at `since`.
    pub(super) fn publish(&mut self, changes: Changes, since: Instant) {
        if !changes.verdicts() && self.is_compiled() {
            return;
        }
        if let Some((compiled, desired)) = &mut self.compiled
            && !changes.policies
            && !changes.namespaces
            && let Some(addresses) = compiled.reclassify(&self.index)
        {
            if desired.addresses != addresses {
                desired.addresses = addresses;
                self.mailbox.put(desired.clone(), since);
            }
            return;
        }
        let begin = Instant::now();
        let compiled = compile(&self.index);
        let image = match &self.compiled {
            // The same image: the table in force says it all already.
            Some((_, before)) if *before.image == compiled.image => Arc::clone(&before.image),
            _ => Arc::new(compiled.image.clone()),
        };
        let desired = Desired { image, addresses: compiled.addresses.clone() };
        let unchanged = self.compiled.as_ref().is_some_and(|(_, before)| {
            Arc::ptr_eq(&before.image, &desired.image) && before.addresses == desired.addresses
        });
        info!(
            namespaces = self.index.namespaces().len(),
            pods = self.index.pods().len(),
            pods_here = self.pods_here(),
            policies = self.index.policies().len(),
            refused_policies = self.index.policies().filter(|policy| policy.refused).count(),
            compile_us = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX),
            changed = !unchanged,
            "compiled"
        );
        if !unchanged {
            self.mailbox.put(desired.clone(), since);
        }
        self.compiled = Some((compiled, desired));
    }

    /// Hands the names of the index's pods to their writer. After everything else: nothing is
    /// decided by names.
    pub(super) fn name(&self) {
        if let Some(names) = &self.names {
            names.put(&self.index);
        }
    }

    /// Pods of this node, if its name was given. The table holds all pods: both ends of a
    /// connection are judged, and explained, on either node.
    fn pods_here(&self) -> Option<usize> {
        let node = self.node.as_deref()?;
        Some(self.index.pods().filter(|pod| pod.node.as_deref() == Some(node)).count())
    }

    /// Logs what is new, and that what was logged before is settled; tells the ledger. Of `unread`
    /// files nothing is in force.
    pub(super) fn report(&mut self, complaints: &[Complaint], unread: usize) {
        self.ledger.input(&self.index, complaints, unread);
        let lines = complaints.iter().map(|c| (c.severity as u8, c.to_string()));
        let now: BTreeSet<(u8, String)> = lines.collect();
        for (severity, text) in now.difference(&self.logged) {
            if *severity == Severity::Refused as u8 {
                error!("refused: {text}");
            } else {
                warn!("{text}");
            }
        }
        for (_, text) in self.logged.difference(&now) {
            info!("settled: {text}");
        }
        if now != self.logged {
            let refused = now.iter().filter(|(s, _)| *s == Severity::Refused as u8).count();
            info!(refused, complaints = now.len(), "state of the input");
        }
        self.logged = now;
    }
}
