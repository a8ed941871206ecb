//! Whether what is known of the cluster is of today.
//!
//! ```text
//!   followers ──contact, listed, failed──► Health ──report──► agent ──► ledger
//! ```
//!
//! Every answer is a sign of life, a bookmark or the orderly end of a watch as well as an event. So
//! a quiet kind and a dead connection are two things: the first is heard of at least every
//! [`SILENCE`], because the server ends each watch within that time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::kinds::Kind;

/// A kind that fails for so long is stale; what takes less is a hiccup that nobody need see.
pub const STALE: Duration = Duration::from_secs(5);
/// A kind of which nothing was heard for so long is stale, whatever its connection looks like: the
/// longest watch and what is waited for its end.
pub const SILENCE: Duration = Duration::from_secs(180);

/// A moment by the clock that measures and by the one on the wall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// For differences.
    pub at: Instant,
    /// For people.
    pub clock: SystemTime,
}

impl Moment {
    fn now() -> Self {
        Self { at: Instant::now(), clock: SystemTime::now() }
    }
}

/// Requests that fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// Since the first of them that no answer has followed.
    pub since: Moment,
    /// What the server, or the network, said to the last.
    pub words: String,
}

/// What is known of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KindHealth {
    /// It has been listed completely since the process began.
    pub listed: bool,
    /// When the server said something last.
    pub contact: Option<Moment>,
    /// Whether requests fail now.
    pub failing: Option<Failing>,
    /// Objects in watches.
    pub events: u64,
    /// Lists after the first.
    pub relists: u64,
    /// Requests that failed.
    pub failures: u64,
}

/// What is known of all kinds.
#[derive(Debug)]
pub struct Health {
    began: Moment,
    kinds: Mutex<[KindHealth; Kind::ALL.len()]>,
}

/// How far what is known can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Something has not been listed yet since the process began, and nothing fails.
    Syncing,
    /// Everything is followed.
    Live,
    /// Something is not: it is as it was then.
    Stale,
}

/// All kinds together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How far it can be believed.
    pub state: State,
    /// Since when it is stale, by the clock on the wall.
    pub since: Option<SystemTime>,
    /// Why: the kinds, and what the server or the network says; empty if all is well.
    pub words: String,
    /// For how long each kind has been stale; zero for those that are not.
    pub stale: [Duration; Kind::ALL.len()],
    /// What is known of each, in the order of [`Kind::ALL`].
    pub kinds: [KindHealth; Kind::ALL.len()],
}

impl Default for Health {
    fn default() -> Self {
        Self { began: Moment::now(), kinds: Mutex::default() }
    }
}

impl Health {
    /// The server answered, with so many objects if it was a watch that spoke.
    pub fn contact(&self, kind: Kind, events: u64) {
        self.change(kind, |health| {
            health.contact = Some(Moment::now());
            health.failing = None;
            health.events += events;
        });
    }

    /// A list is complete.
    pub fn listed(&self, kind: Kind) {
        self.change(kind, |health| health.listed = true);
    }

    /// A list begins anew.
    pub fn relists(&self, kind: Kind) {
        self.change(kind, |health| health.relists += 1);
    }

    /// A request failed; whether the words are new.
    pub fn failed(&self, kind: Kind, words: &str) -> bool {
        self.change(kind, |health| {
            health.failures += 1;
            let before = health.failing.take();
            let is_new = before.as_ref().is_none_or(|failing| failing.words != words);
            let since = before.map_or_else(Moment::now, |failing| failing.since);
            health.failing = Some(Failing { since, words: words.to_owned() });
            is_new
        })
    }

    /// What is known of a kind.
    pub fn of(&self, kind: Kind) -> KindHealth {
        self.change(kind, |health| health.clone())
    }

    /// All kinds together, at a moment.
    pub fn report(&self, now: Instant) -> Report {
        let kinds = Kind::ALL.map(|kind| self.of(kind));
        let mut reasons: Vec<(Kind, String)> = Vec::new();
        let mut first: Option<Moment> = None;
        let mut stale = [Duration::ZERO; Kind::ALL.len()];
        for ((kind, health), stale) in Kind::ALL.into_iter().zip(&kinds).zip(&mut stale) {
            let heard = health.contact.unwrap_or(self.began);
            let (since, limit, words) = match &health.failing {
                Some(failing) => (failing.since, STALE, failing.words.as_str()),
                None => (heard, SILENCE, "nothing is heard of it"),
            };
            let age = now.saturating_duration_since(since.at);
            if age >= limit {
                *stale = age;
                reasons.push((kind, words.to_owned()));
                first = first.filter(|first| first.at <= since.at).or(Some(since));
            }
        }
        let state = match first {
            Some(_) => State::Stale,
            None if kinds.iter().all(|health| health.listed) => State::Live,
            None => State::Syncing,
        };
        let since = first.map(|first| first.clock);
        Report { state, since, words: in_words(reasons), stale, kinds }
    }

    fn change<R>(&self, kind: Kind, change: impl FnOnce(&mut KindHealth) -> R) -> R {
        // Every change is complete in itself, so a panic under the lock spoils nothing.
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let place = Kind::ALL.iter().position(|known| *known == kind).unwrap_or_default();
        change(&mut kinds[place])
    }
}

/// Kinds that fail alike are named together.
fn in_words(reasons: Vec<(Kind, String)>) -> String {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for (kind, words) in reasons {
        match groups.iter_mut().find(|(known, _)| *known == words) {
            Some((_, kinds)) => kinds.push(kind.resource()),
            None => groups.push((words, vec![kind.resource()])),
        }
    }
    let group = |(words, kinds): (String, Vec<&str>)| match kinds.len() {
        n if n == Kind::ALL.len() => words,
        _ => format!("{}: {words}", kinds.join(", ")),
    };
    groups.into_iter().map(group).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(health: &Health, later: Duration) -> (State, String) {
        let report = health.report(Instant::now() + later);
        assert_eq!(report.since.is_some(), report.state == State::Stale);
        (report.state, report.words)
    }

    #[test]
    fn syncing_live_stale_and_live_again() {
        let health = Health::default();
        assert_eq!(state(&health, Duration::ZERO), (State::Syncing, String::new()));
        for kind in Kind::ALL {
            health.contact(kind, 0);
            health.listed(kind);
        }
        assert_eq!(state(&health, Duration::ZERO).0, State::Live);
        assert!(health.failed(Kind::Pods, "HTTP 500"));
        assert!(!health.failed(Kind::Pods, "HTTP 500"));
        assert!(health.failed(Kind::Pods, "HTTP 503"));
        assert!(health.failed(Kind::Nodes, "HTTP 503"));
        assert_eq!(state(&health, Duration::ZERO).0, State::Live);
        let words = "pods, nodes: HTTP 503".to_owned();
        assert_eq!(state(&health, STALE), (State::Stale, words));
        health.contact(Kind::Pods, 3);
        assert_eq!(state(&health, STALE), (State::Stale, "nodes: HTTP 503".to_owned()));
        health.contact(Kind::Nodes, 0);
        assert_eq!(state(&health, STALE).0, State::Live);
        let pods = health.of(Kind::Pods);
        assert_eq!((pods.events, pods.failures, pods.failing), (3, 3, None));
        // No connection is broken, and yet nobody speaks.
        let words = "nothing is heard of it".to_owned();
        assert_eq!(state(&health, SILENCE), (State::Stale, words));
    }

    /// The moment since when does not move while nothing else happens: it is written down.
    #[test]
    fn the_first_that_failed_counts_and_stays() {
        let health = Health::default();
        health.failed(Kind::Pods, "HTTP 500");
        std::thread::sleep(Duration::from_millis(20));
        health.failed(Kind::Nodes, "HTTP 500");
        let first = health.of(Kind::Pods).failing.unwrap().since;
        for seconds in [5, 6, 60] {
            let now = first.at + Duration::from_secs(seconds);
            let report = health.report(now + Duration::from_millis(500));
            assert_eq!(report.since, Some(first.clock));
            let [.., nodes] = report.stale;
            let pods = report.stale[2];
            assert_eq!(Kind::ALL[2], Kind::Pods);
            assert!(pods > nodes && nodes > Duration::ZERO, "{pods:?} {nodes:?}");
            assert_eq!(report.stale[0], Duration::ZERO);
        }
    }

    #[test]
    fn an_api_that_never_answers_is_stale_and_not_syncing() {
        let health = Health::default();
        for kind in Kind::ALL {
            health.failed(kind, "connection refused");
        }
        assert_eq!(state(&health, STALE), (State::Stale, "connection refused".to_owned()));
    }
}
