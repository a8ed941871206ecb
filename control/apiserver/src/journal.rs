//! What was asked of the server, for tests to read.

use std::collections::VecDeque;

use serde::Serialize;

/// Requests that are kept.
const KEPT: usize = 200_000;

/// A request and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// When, in ns of CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// `GET`
    pub method: String,
    /// `/api/v1/pods`
    pub path: String,
    /// What stands behind the `?`.
    pub query: String,
    /// As RBAC has it: `list`, `watch`, …
    pub verb: String,
    /// Plural of the kind; empty if it is for none.
    pub resource: String,
    /// The token's holder; empty if it was not asked for.
    pub user: String,
    /// `User-Agent`
    pub agent: String,
    /// HTTP status; 0: no answer.
    pub code: u16,
}

/// The requests, the oldest first.
#[derive(Debug, Default)]
pub struct Journal {
    asked: VecDeque<Asked>,
    dropped: usize,
    complaints: Vec<String>,
}

impl Journal {
    /// Takes a request; its number.
    pub fn open(&mut self, asked: Asked) -> usize {
        if self.asked.len() == KEPT {
            self.asked.pop_front();
            self.dropped += 1;
        }
        self.asked.push_back(asked);
        self.dropped + self.asked.len() - 1
    }

    /// The request with this number, while it is kept.
    pub fn get(&mut self, number: usize) -> Option<&mut Asked> {
        self.asked.get_mut(number.checked_sub(self.dropped)?)
    }

    /// A client did what no correct one does.
    pub fn complain(&mut self, complaint: String) {
        self.complaints.push(complaint);
    }

    /// All requests; they are kept.
    #[must_use]
    pub fn requests(&self) -> Vec<Asked> {
        self.asked.iter().cloned().collect()
    }

    /// How many requests with this verb there were for kinds of this plural.
    #[must_use]
    pub fn count(&self, verb: &str, resource: &str) -> usize {
        let fits = |asked: &&Asked| asked.verb == verb && asked.resource == resource;
        self.asked.iter().filter(fits).count()
    }

    /// Forgets all requests.
    pub fn clear(&mut self) {
        self.dropped += self.asked.len();
        self.asked.clear();
    }

    /// Hands over the complaints.
    pub fn take_complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }
}
