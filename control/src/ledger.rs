//! What weir-control knows of itself, kept in one place for those who ask.
//!
//! ```text
//!   agent ───input──────────┐            ┌──► control.json ──► weir status
//!   courier ─enforced, lost─┴──► Ledger ─┴──► Metrics ──► /metrics, /readyz
//! ```
//!
//! Pure bookkeeping: nothing that is enforced depends on it. If the record cannot be written, that
//! is logged once and tried again with the next entry; the agent makes one at every look at its
//! source.

use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tracing::warn;

use crate::index::Index;
use crate::metrics::{KindCounts, Metrics};
use crate::model::Complaint;
use crate::record::{ComplaintRecord, Record, RecordFile, SourceRecord, Unsupported};

/// The books of one process.
#[derive(Debug)]
pub struct Ledger {
    books: Mutex<Books>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Books {
    record: Record,
    file: RecordFile,
    /// What the file says; `None` if it has to be written.
    written: Option<Record>,
    /// The failure that was logged last.
    failure: Option<String>,
}

impl Ledger {
    /// Empty books; the record goes into `directory` as soon as that exists.
    pub fn new(directory: &Path, source: &str) -> Self {
        let record = Record {
            software: concat!("weir-control ", env!("CARGO_PKG_VERSION")).to_owned(),
            pid: std::process::id(),
            source: source.to_owned(),
            ..Record::default()
        };
        let file = RecordFile::new(directory);
        let books = Books { record, file, written: None, failure: None };
        Self { books: Mutex::new(books), metrics: Metrics::new() }
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The objects in force, all complaints about what was read, and of how many files nothing is
    /// in force.
    pub fn input(&self, index: &Index, complaints: &[Complaint], unread: usize) {
        let unsupported = Unsupported::of(complaints);
        self.metrics.set_input(index, complaints, unsupported);
        self.metrics.set_unread(unread);
        let mut sorted: Vec<&Complaint> = complaints.iter().collect();
        sorted.sort_by_key(|complaint| std::cmp::Reverse(complaint.severity));
        self.change(|record| {
            record.policies = index.policies().len();
            record.pods = index.pods().len();
            record.namespaces = index.namespaces().len();
            record.unsupported_rules = unsupported.rules;
            record.not_enforced = unsupported.not_enforced;
            record.complaints = sorted.into_iter().map(ComplaintRecord::from).collect();
        });
    }

    /// How the source is, if it is one that is followed over the network, and what of that is
    /// counted, by kind.
    pub fn source(&self, health: SourceRecord, kinds: &[KindCounts]) {
        let stale = (health.state == "stale").then(|| health.in_words());
        self.metrics.source().set(kinds, stale);
        self.change(|record| record.source_health = Some(health));
    }

    /// What keeps the first table of this process back, in words; `None` if nothing does.
    pub fn waiting(&self, why: Option<String>) {
        self.metrics.set_waiting(why);
    }

    /// All workers enforce a generation, `took` after the change of the input that it serves; `None`
    /// if it serves none (the dataplane was restarted).
    pub fn enforced(&self, generation: u64, took: Option<Duration>) {
        self.metrics.set_enforced(generation, took);
        self.change(|record| {
            record.generation = generation;
            record.connected = true;
        });
    }

    /// The dataplane cannot be reached; what it was told last goes on being enforced.
    pub fn disconnected(&self) {
        self.metrics.set_disconnected();
        self.change(|record| record.connected = false);
    }

    fn change(&self, change: impl FnOnce(&mut Record)) {
        // A panic under the lock leaves at worst a half-changed record, which the next completes.
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let books = &mut *books;
        change(&mut books.record);
        if books.written.as_ref() == Some(&books.record) && books.file.is_in_place() {
            return;
        }
        match books.file.write(&books.record) {
            Ok(()) => {
                books.written = Some(books.record.clone());
                books.failure = None;
            }
            // Before the first dataplane there is nothing to write into, and nobody who asks.
            Err(error) if error.kind() == io::ErrorKind::NotFound => books.written = None,
            Err(error) => {
                books.written = None;
                let text = match error.kind() {
                    io::ErrorKind::WouldBlock => "another weir-control writes it".to_owned(),
                    _ => error.to_string(),
                };
                if books.failure.as_ref() != Some(&text) {
                    warn!(
                        "`weir status` will not see this process: {}: {text}",
                        books.file.path().display()
                    );
                    books.failure = Some(text);
                }
            }
        }
    }
}
