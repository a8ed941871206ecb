//! What agents of all sources do alike: keep the index, compile what changed, say what is wrong.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use tracing::{error, info, warn};

use super::hearing::Hearing;
use crate::compile::{Classes, Compiled, compile_for};
use crate::index::{Changes, Index, Touched};
use crate::ledger::Ledger;
use crate::model::{Complaint, Severity};
use crate::names::NamesWriter;
use crate::publisher::{Inbox, Mailbox};

/// What is known may be older than it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Doubt {
    /// Of policies, for this reason: no pod is settled that is not yet.
    Policies(String),
    /// Of pods, for this reason: those who wait for theirs are told.
    Pods(String),
}

/// The state that every change of the input passes through.
#[derive(Debug)]
pub(super) struct Core {
    node: Option<String>,
    mailbox: Arc<Mailbox>,
    inbox: Arc<Inbox>,
    ledger: Arc<Ledger>,
    names: Option<NamesWriter>,
    hearing: Hearing,
    /// The objects in force.
    pub(super) index: Index,
    /// The classes of the image that was compiled last.
    classes: Option<Classes>,
    /// What of the complaints was logged: severity, text, object.
    logged: BTreeSet<(u8, String, String)>,
    doubt: Option<Doubt>,
    /// Tickets that were said to be settled.
    settled: BTreeSet<u64>,
}

impl Core {
    pub(super) fn new(node: Option<String>, mailbox: Arc<Mailbox>, ledger: Arc<Ledger>) -> Self {
        Self {
            node,
            mailbox,
            inbox: Arc::default(),
            ledger,
            names: None,
            hearing: Hearing::default(),
            index: Index::default(),
            classes: None,
            logged: BTreeSet::new(),
            doubt: None,
            settled: BTreeSet::new(),
        }
    }

    /// Leaves pods' names with this writer.
    pub(super) fn name_with(&mut self, names: NamesWriter) {
        self.names = Some(names);
    }

    /// Takes what the dataplane tells from this inbox.
    pub(super) fn hear_from(&mut self, inbox: Arc<Inbox>) {
        self.inbox = inbox;
    }

    /// Takes what the dataplane has told since.
    pub(super) fn hear(&mut self) -> Changes {
        let news = self.inbox.take();
        self.hearing.take(&mut self.index, news)
    }

    /// What the dataplane complains about.
    pub(super) fn cut_off(&self) -> Vec<Complaint> {
        self.hearing.complaints(&self.index)
    }

    /// The books.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Whether this process has published anything.
    pub(super) fn is_compiled(&self) -> bool {
        self.classes.is_some()
    }

    /// Publishes what the index means now, if it is anything new; `changes` since the last time,
    /// the first of which came at `since`.
    pub(super) fn publish(&mut self, changes: Changes, since: Instant) {
        self.publish_addresses(changes, since);
        let mut heard = self.hearing.heard(&self.index);
        match &self.doubt {
            Some(Doubt::Policies(words)) => {
                let (before, new): (Vec<u64>, Vec<u64>) =
                    heard.settled.iter().copied().partition(|ticket| self.settled.contains(ticket));
                heard.settled = before;
                heard.waiting.extend(new.into_iter().map(|ticket| (ticket, words.clone())));
            }
            Some(Doubt::Pods(words)) => {
                heard.waiting.iter_mut().for_each(|(_, why)| *why = format!("{why}; {words}"));
            }
            None => {}
        }
        self.settled = heard.settled.iter().copied().collect();
        // After them: what it says is in them.
        self.mailbox.put_heard(heard);
    }

    /// Says to all who wait for their pods that of this process nothing is in force yet, and why.
    pub(super) fn wait(&self, why: &str) {
        let mut heard = self.hearing.heard(&self.index);
        heard.waiting.extend(heard.settled.drain(..).map(|ticket| (ticket, String::new())));
        heard.waiting.iter_mut().for_each(|(_, words)| why.clone_into(words));
        self.mailbox.put_heard(heard);
    }

    /// What is to be doubted from now on; whether that is new.
    pub(super) fn doubt(&mut self, doubt: Option<Doubt>) -> bool {
        let is_new = self.doubt != doubt;
        self.doubt = doubt;
        is_new
    }

    fn publish_addresses(&mut self, changes: Changes, since: Instant) {
        let heeded = self.classes.as_ref().is_none_or(Classes::heed_services);
        let services = changes.services && heeded;
        if !changes.verdicts() && !services && self.is_compiled() {
            return;
        }
        let touched = self.index.take_touched();
        let in_place = !changes.policies && !changes.namespaces;
        if in_place && self.reclassify(touched, services, since).is_some() {
            return;
        }
        let begin = Instant::now();
        let Compiled { image, addresses, classes } = compile_for(&self.index, self.node.as_deref());
        let compile_us = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.classes = Some(classes);
        let changed = self.mailbox.put(image, addresses, since);
        info!(
            namespaces = self.index.namespaces().len(),
            pods = self.index.pods().len(),
            pods_here = self.pods_here(),
            policies = self.index.policies().len(),
            refused_policies = self.index.policies().filter(|policy| policy.refused).count(),
            compile_us,
            changed,
            "compiled"
        );
    }

    /// Changes the addresses of pods that changed, if the image in force has the classes that they
    /// need and says of Services what is so, of which some changed or not; `None` if a new one is
    /// needed.
    fn reclassify(&mut self, touched: Touched, services: bool, since: Instant) -> Option<()> {
        let classes = self.classes.as_mut()?;
        if services && !classes.follow_services(&self.index) {
            return None;
        }
        match touched {
            Touched::These(addresses) => {
                let changes = classes.reclassify_these(&self.index, addresses)?;
                self.mailbox.put_changes(changes, since);
            }
            Touched::Any => {
                self.mailbox.put_addresses(classes.reclassify(&self.index)?, since);
            }
        }
        Some(())
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
    /// files nothing is in force. What the dataplane complains about comes on top.
    pub(super) fn report(&mut self, complaints: &[Complaint], unread: usize) {
        let complaints = [complaints, &self.cut_off()].concat();
        self.ledger.input(&self.index, &complaints, unread);
        let lines = complaints.iter().map(|c| (c.severity as u8, c.to_string(), c.object.clone()));
        let now: BTreeSet<(u8, String, String)> = lines.collect();
        // As a field of its own for those who read logs by machine.
        let named = |object: &String| (!object.is_empty()).then(|| object.clone());
        for (severity, text, object) in now.difference(&self.logged) {
            if *severity == Severity::Refused as u8 {
                error!(object = named(object), "refused: {text}");
            } else {
                warn!(object = named(object), "{text}");
            }
        }
        for (_, text, object) in self.logged.difference(&now) {
            info!(object = named(object), "settled: {text}");
        }
        if now != self.logged {
            let refused = now.iter().filter(|(s, ..)| *s == Severity::Refused as u8).count();
            info!(refused, complaints = now.len(), "state of the input");
        }
        self.logged = now;
    }
}
