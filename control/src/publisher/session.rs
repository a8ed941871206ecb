//! What was said over one connection.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tracing::info;
use weir_table::publish::{News, PublishError, Publisher};

use super::Heard;

/// What was said over the present connection, or the last.
#[derive(Debug)]
pub(super) struct Session {
    number: u64,
    since: Instant,
    /// The dataplane has told everything that stands.
    is_told: bool,
    /// That the agent takes long has been told.
    is_complained: bool,
    /// What the dataplane was told to be settled.
    settled: BTreeSet<u64>,
    /// And why other tickets are not.
    rejected: BTreeMap<u64, String>,
}

impl Session {
    /// The session of a connection that has just been made; `number` counts them, 0 is none.
    pub(super) fn new(number: u64) -> Self {
        Self {
            number,
            since: Instant::now(),
            is_told: false,
            is_complained: false,
            settled: BTreeSet::new(),
            rejected: BTreeMap::new(),
        }
    }

    /// Counts connections; 0 before the first.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Notes what the dataplane has told.
    pub(super) fn note(&mut self, news: &[News]) {
        self.is_told |= news.iter().any(|news| matches!(news, News::AllAttached { .. }));
    }

    /// Whether the dataplane has had `limit` to tell what stands, and has not.
    pub(super) fn is_silent(&self, limit: Duration) -> bool {
        !self.is_told && self.since.elapsed() >= limit
    }

    /// Whether the agent has had `limit` to take that in, and has not; once.
    pub(super) fn is_slow(&mut self, limit: Duration) -> bool {
        let is_slow = !self.is_complained && self.since.elapsed() >= limit;
        self.is_complained |= is_slow;
        is_slow
    }

    /// How long until one of the two is to be looked at.
    pub(super) fn patience(&self, limit: Duration) -> Option<Duration> {
        let left = limit.saturating_sub(self.since.elapsed()).max(Duration::from_millis(1));
        (!self.is_told || !self.is_complained).then_some(left)
    }

    /// Says which pods are settled by what is in force at this place (generation and epoch), and
    /// why others are not.
    pub(super) fn settle(
        &mut self,
        connection: &mut Publisher,
        heard: &Heard,
        (generation, epoch): (u64, u64),
        timeout: Duration,
    ) -> Result<(), PublishError> {
        let now: BTreeSet<u64> = heard.settled.iter().copied().collect();
        let fresh: Vec<u64> = now.difference(&self.settled).copied().collect();
        if !fresh.is_empty() {
            connection.settled(&fresh, (generation, epoch), timeout)?;
            info!(pods = fresh.len(), generation, epoch, "pods of this node settled");
        }
        self.settled = now;
        self.reject(connection, heard, timeout)
    }

    /// Says why pods are not settled.
    pub(super) fn reject(
        &mut self,
        connection: &mut Publisher,
        heard: &Heard,
        timeout: Duration,
    ) -> Result<(), PublishError> {
        for (ticket, words) in &heard.waiting {
            if self.rejected.get(ticket) != Some(words) {
                connection.rejected(*ticket, words, timeout)?;
            }
        }
        self.rejected = heard.waiting.iter().cloned().collect();
        Ok(())
    }
}
