//! Everything that the server knows, behind one lock.
//!
//! The lock is held while a request is answered from the store or a change is made, never while
//! anything is sent: bodies are streams over texts that are shared.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use crate::access::Access;
use crate::fault::Faults;
use crate::hub::{Hub, Item};
use crate::journal::Journal;
use crate::kind::Kind;
use crate::object::{Key, Object};
use crate::store::{Change, Gone, Store};

/// Sent versions whose time is kept.
const SENT: usize = 100_000;

/// How the server behaves.
#[derive(Debug, Clone)]
pub struct Manners {
    /// Between two bookmarks of a watch; the real server takes about a minute.
    pub bookmark_interval: Duration,
    /// Of a watch whose client names none; the real server takes 30 to 60 minutes.
    pub watch_timeout: Duration,
    /// Changes of each kind that are kept; older ones are compacted away.
    pub history: usize,
    /// Whether a watch from a compacted version is refused with HTTP 410 instead of 200 and an
    /// event of type ERROR. Servers do the latter, proxies and old servers the former.
    pub gone_as_status: bool,
    /// Whether a list says how many objects remain; servers need not.
    pub says_remaining: bool,
    /// The most objects on a page, whatever the client asks; 0: as it asks.
    pub page_limit: usize,
    /// Whether new objects need their namespace to be there, as admission has it.
    pub needs_namespaces: bool,
}

impl Default for Manners {
    fn default() -> Manners {
        Manners {
            bookmark_interval: Duration::from_secs(60),
            watch_timeout: Duration::from_secs(1800),
            history: 1_000_000,
            gone_as_status: false,
            says_remaining: true,
            page_limit: 0,
            needs_namespaces: true,
        }
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct State {
    /// Objects and their history.
    pub store: Store,
    /// Open watches.
    pub hub: Hub,
    /// Who may do what.
    pub access: Access,
    /// What goes wrong next.
    pub faults: Faults,
    /// What was asked.
    pub journal: Journal,
    /// How to behave.
    pub manners: Manners,
    /// API groups of others: group and version.
    pub groups: Vec<(String, String)>,
    /// Version and time of events sent.
    sent: VecDeque<(u64, u64)>,
    uids: u64,
}

/// State and the signals that tasks wait for.
#[derive(Debug)]
pub struct Shared {
    state: Mutex<State>,
    /// Whether nothing is answered and nothing is sent.
    pub frozen: watch::Sender<bool>,
}

impl Shared {
    /// A server without objects.
    #[must_use]
    pub fn new(manners: Manners) -> Shared {
        Shared {
            state: Mutex::new(State {
                store: Store::new(manners.history),
                hub: Hub::default(),
                access: Access::default(),
                faults: Faults::default(),
                journal: Journal::default(),
                manners,
                groups: Vec::new(),
                sent: VecDeque::new(),
                uids: 0,
            }),
            frozen: watch::Sender::new(false),
        }
    }

    /// The state; a test that panicked while it had it does not take it from the others.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the server is frozen.
    pub async fn thawed(&self) {
        let mut frozen = self.frozen.subscribe();
        // The sender lives as long as self.
        let _ = frozen.wait_for(|frozen| !frozen).await;
    }
}

impl State {
    /// Stores a change and tells the watches; the change, unless there is none.
    pub fn commit(&mut self, kind: Kind, key: &Key, object: Option<&Object>) -> Option<Change> {
        let change = self.store.put(kind, key, object)?;
        self.hub.publish(kind, &change);
        Some(change)
    }

    /// A uid that no object has had.
    pub fn uid(&mut self) -> String {
        self.uids += 1;
        let boot = std::process::id();
        format!("{boot:08x}-0000-4000-8000-{:012x}", self.uids)
    }

    /// Takes what a watch has to send next, and notes when.
    pub fn take(&mut self, watch: u64) -> Option<Item> {
        let item = self.hub.take(watch)?;
        if let Item::Event(_, object) = &item {
            if self.sent.len() == SENT {
                self.sent.pop_front();
            }
            self.sent.push_back((object.version, monotonic_ns()));
        }
        Some(item)
    }

    /// As [`Store::restore`]; versions after it are given anew.
    ///
    /// # Errors
    /// The version is compacted away.
    pub fn restore(&mut self, version: u64) -> Result<(), Gone> {
        self.store.restore(version)?;
        self.sent.retain(|(sent, _)| *sent <= version);
        Ok(())
    }

    /// When the event of this version was first handed to a connection, in ns of CLOCK_MONOTONIC.
    #[must_use]
    pub fn sent_at(&self, version: u64) -> Option<u64> {
        self.sent.iter().find(|(sent, _)| *sent == version).map(|(_, at)| *at)
    }
}

/// The clock that receipts of the dataplane use, in ns.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default()
}

/// Now, as `metadata.creationTimestamp` has it: `2024-05-06T07:08:09Z`.
#[must_use]
pub fn timestamp() -> String {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    time_text(elapsed.as_secs())
}

/// Seconds since 1970 in the proleptic Gregorian calendar. Years begin in March here, so that the
/// day that leap years have more is their last.
fn time_text(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_714_979_289, "2024-05-06T07:08:09Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(time_text(seconds), text);
        }
    }
}
