//! Events on the objects that cannot be honoured: whoever wrote them looks there, and not into the
//! log of a node.
//!
//! ```text
//!   agent ──notices (all that hold now)──► Schedule ──one at a time──► POST events.k8s.io
//! ```
//!
//! Every node has the same to say; how that becomes one Event is in [`notice`](super::notice).
//!
//! Invariants:
//! * nothing waits for this, and nothing that is enforced depends on it;
//! * at most [`MOST`] notices at a time, and [`BURST`] and then one each [`PACE`] sent;
//! * what does not hold any more when its time comes is not said.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;
use tracing::{debug, warn};

use super::client::Access;
use super::http;
use super::notice::Notice;

/// Notices that are kept; what is beyond is left out, and the log says so.
pub const MOST: usize = 256;
/// Events that may be sent without a pause,
const BURST: u32 = 25;
/// and the pause between those that follow.
const PACE: Duration = Duration::from_secs(1);
/// An Event lives for an hour. What holds longer is said again when it is gone.
const AGAIN: Duration = Duration::from_secs(61 * 60);
/// After a failure, before it is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// How saying it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// It is said, by us or by another.
    Yes,
    /// It may work later.
    Not,
}

#[derive(Debug)]
struct Entry {
    notice: Notice,
    due: Duration,
    /// This node's turn among those that say it.
    turn: Duration,
}

/// What is to be said when. Pure: times are since any fixed moment.
#[derive(Debug)]
struct Schedule {
    entries: BTreeMap<String, Entry>,
    /// How many may be sent at `filled`.
    tokens: u32,
    filled: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), tokens: BURST, filled: Duration::ZERO }
    }
}

impl Schedule {
    /// From now on these hold and no others; how many are too many.
    fn set(&mut self, wanted: Vec<(Notice, Duration)>, now: Duration) -> usize {
        let mut before = std::mem::take(&mut self.entries);
        let all = wanted.len();
        for (notice, turn) in wanted.into_iter().take(MOST) {
            let name = notice.event_name();
            let due = before.remove(&name).map_or(now + turn, |entry| entry.due);
            self.entries.insert(name, Entry { notice, due, turn });
        }
        all.saturating_sub(MOST)
    }

    /// When there is something to say, and what.
    fn next(&self) -> Option<(Duration, &str)> {
        let (name, entry) = self.entries.iter().min_by_key(|(_, entry)| entry.due)?;
        Some((entry.due.max(self.free()), name))
    }

    /// When the next may be sent.
    fn free(&self) -> Duration {
        if self.tokens > 0 { Duration::ZERO } else { self.filled + PACE }
    }

    /// It is sent.
    fn sent(&mut self, now: Duration) {
        let filled = now.saturating_sub(self.filled).as_secs() / PACE.as_secs();
        if filled > 0 {
            let more = u32::try_from(filled).unwrap_or(BURST);
            self.tokens = self.tokens.saturating_add(more).min(BURST);
            self.filled = now;
        }
        self.tokens = self.tokens.saturating_sub(1);
    }

    fn done(&mut self, name: &str, said: Said, now: Duration) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.due = match said {
                Said::Yes => now + AGAIN + entry.turn,
                Said::Not => now + RETRY,
            };
        }
    }
}

/// Counts since the process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events that this process has made.
    pub posted: u64,
    /// Those that were there already.
    pub known: u64,
    /// Attempts that failed.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Shared {
    wanted: Mutex<Option<Vec<(Notice, Duration)>>>,
    counts: Mutex<Counts>,
    ring: Notify,
}

/// Where notices are handed over.
#[derive(Debug, Clone, Default)]
pub struct Events(Arc<Shared>);

impl Events {
    /// From now on these hold, each with this node's turn to say it.
    pub fn set(&self, notices: Vec<(Notice, Duration)>) {
        *self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner) = Some(notices);
        self.0.ring.notify_one();
    }

    /// What became of them.
    pub fn counts(&self) -> Counts {
        *self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.0.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Says what is to be said, for ever; `instance` is who does.
    pub(super) async fn run(self, access: Arc<Access>, instance: String) {
        let began = Instant::now();
        let mut schedule = Schedule::default();
        let mut words = None;
        loop {
            let wanted = self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(wanted) = wanted {
                let beyond = schedule.set(wanted, began.elapsed());
                if beyond > 0 {
                    warn!(beyond, "too much is wrong for an Event on each object");
                }
            }
            let Some((due, name)) = schedule.next() else {
                self.0.ring.notified().await;
                continue;
            };
            let name = name.to_owned();
            let wait = due.saturating_sub(began.elapsed());
            if !wait.is_zero() {
                // Either it is time, or something else is to be said.
                let _ = tokio::time::timeout(wait, self.0.ring.notified()).await;
                continue;
            }
            schedule.sent(began.elapsed());
            let Some(entry) = schedule.entries.get(&name) else { continue };
            let said = self.say(&access, &entry.notice, &instance, &mut words).await;
            schedule.done(&name, said, began.elapsed());
        }
    }

    async fn say(
        &self,
        access: &Access,
        notice: &Notice,
        instance: &str,
        words: &mut Option<String>,
    ) -> Said {
        let (_, client) = access.client();
        let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", notice.key.namespace);
        let body = notice.body(instance, SystemTime::now()).to_string();
        match http::post(&client, &path, body).await {
            Ok(()) => self.count(|counts| counts.posted += 1),
            Err(fault) if fault.code == Some(409) => self.count(|counts| counts.known += 1),
            Err(fault) => {
                self.count(|counts| counts.failed += 1);
                // Each reason once: whoever follows the API says that it is away.
                if words.as_ref() != Some(&fault.words) {
                    match fault.code {
                        Some(_) => warn!("an Event cannot be made: {}", fault.words),
                        None => debug!("an Event cannot be made: {}", fault.words),
                    }
                    *words = Some(fault.words);
                }
                return Said::Not;
            }
        }
        *words = None;
        Said::Yes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectKey;
    use crate::source::kube::kinds::Kind;
    use crate::source::kube::notice::STEP;

    const SECOND: Duration = Duration::from_secs(1);

    fn many(count: usize) -> Vec<(Notice, Duration)> {
        let notice = |i| Notice {
            kind: Kind::Pods,
            key: ObjectKey::new("ns", format!("p{i}")),
            uid: format!("u{i}").into(),
            reason: "Isolated",
            note: String::new(),
        };
        (0..count).map(|i| (notice(i), Duration::ZERO)).collect()
    }

    #[test]
    fn what_holds_is_said_once_an_hour_and_what_does_not_is_not() {
        let mut schedule = Schedule::default();
        let mut two = many(2);
        two[1].1 = STEP;
        assert_eq!(schedule.set(two.clone(), SECOND), 0);
        let (due, name) = schedule.next().map(|(due, name)| (due, name.to_owned())).unwrap();
        assert_eq!((due, &*name), (SECOND, &*two[0].0.event_name()));
        schedule.done(&name, Said::Not, SECOND);
        assert_eq!(schedule.next().unwrap().0, SECOND + STEP);
        // The same again does not begin anew.
        schedule.set(two.clone(), SECOND * 10);
        assert_eq!(schedule.next().unwrap().0, SECOND + STEP);
        schedule.set(two[..1].to_vec(), SECOND * 10);
        assert_eq!(schedule.next().unwrap().0, SECOND + RETRY);
        schedule.done(&name, Said::Yes, SECOND * 40);
        assert_eq!(schedule.next().unwrap().0, SECOND * 40 + AGAIN);
        schedule.set(Vec::new(), SECOND * 50);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn a_flood_is_spread_and_bounded() {
        let mut schedule = Schedule::default();
        assert_eq!(schedule.set(many(MOST + 7), Duration::ZERO), 7);
        let mut now = SECOND * 100;
        let mut times = Vec::new();
        for _ in 0..MOST {
            let (due, name) = schedule.next().map(|(due, name)| (due, name.to_owned())).unwrap();
            now = now.max(due);
            times.push(now);
            schedule.sent(now);
            schedule.done(&name, Said::Yes, now);
        }
        let at_once = times.iter().filter(|at| **at == times[0]).count();
        assert_eq!(at_once, BURST as usize);
        let spread = *times.last().unwrap() - times[0];
        assert!(spread >= PACE * u32::try_from(MOST - BURST as usize - 1).unwrap(), "{spread:?}");
    }
}
