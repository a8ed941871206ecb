//! A cluster's API server as the source of objects.
//!
//! ```text
//!   API server ──pages, events──► Follower (one a kind)      client   where it is, who we are
//!                                  │  reflect  which request comes next, what an answer means
//!                                  │  book     which version of each object is known
//!                                  │  wire     pages and events        ── trim  what is kept
//!                                  │  backoff  when to try again
//!                                  ▼
//!                                queue ──News──► agent          health ──► is it of today?
//!   API server ◄──────────────── events ◄────────┘        notice  what is said of an object
//! ```
//!
//! Six kinds are listed once and then watched, each by a task and a connection of its own. What of
//! an object is of no interest is skipped by the parser; what remains is decoded as a manifest is,
//! so that a field means the same from either source.
//!
//! Not `kube::runtime`'s watcher, for what it cannot do: leave a watch whose version the server
//! refuses at its start, go on beside an object that cannot be read, tell a quiet kind from a dead
//! connection.
//!
//! Invariants:
//! * news of one kind comes in the order in which the server said it, each difference once;
//! * nothing is withdrawn that the server has not said to be gone, or left out of a complete list;
//! * whatever the server does, memory is bounded: by what is in the cluster, one page a kind, and
//!   the queue.

pub mod backoff;
pub mod book;
pub mod client;
pub mod events;
mod follow;
pub mod health;
mod http;
pub mod kinds;
pub mod lines;
pub mod notice;
pub mod pool;
pub mod queue;
pub mod reflect;
pub mod refusal;
pub mod rivals;
pub mod trim;
pub mod wire;

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

pub use client::{Access, Place};
pub use events::Events;
pub use health::Health;
pub use kinds::Kind;
pub use queue::{News, Wake};

use follow::Follower;
use queue::{ROOM, Receiver, Sender, queue};
use rivals::Rivals;

/// Where complaints about objects of the API say that they were read.
pub const ORIGIN: &str = "kube";

/// Follows all kinds for as long as it lives.
#[derive(Debug)]
pub struct KubeSource {
    news: Receiver,
    health: Arc<Health>,
    stop: Sender,
    events: Events,
    rivals: Rivals,
    others: [AbortHandle; 2],
    tasks: [(Kind, AbortHandle); Kind::ALL.len()],
}

/// Ends the wait for news.
#[derive(Debug, Clone)]
pub struct Stop(Sender);

impl Stop {
    /// Ends it for something else than news.
    pub fn nudge(&self) {
        self.0.nudge();
    }

    /// Ends it for good.
    pub fn stop(&self) {
        self.0.stop();
    }
}

impl KubeSource {
    /// Begins to follow, on a runtime that others drive, as the weir-control of that node.
    pub fn start(runtime: &Handle, access: Access, node: Option<&str>) -> Self {
        let (access, health) = (Arc::new(access), Arc::new(Health::default()));
        let (sender, news) = queue(ROOM);
        let origin: Arc<str> = Arc::from(ORIGIN);
        let follow = |kind| {
            let (access, health) = (Arc::clone(&access), Arc::clone(&health));
            let follower = Follower::new(kind, access, health, sender.clone(), Arc::clone(&origin));
            (kind, runtime.spawn(follower.run()).abort_handle())
        };
        let tasks = Kind::ALL.map(follow);
        let events = Events::default();
        let rivals = Rivals::default();
        let instance = node.unwrap_or("weir-control").to_owned();
        let speaks = runtime.spawn(events.clone().run(Arc::clone(&access), instance));
        let looks = runtime.spawn(rivals.clone().run(access));
        let others = [speaks, looks].map(|task| task.abort_handle());
        Self { news, health, stop: sender, events, rivals, others, tasks }
    }

    /// Waits for news.
    pub fn next(&self, wait: std::time::Duration) -> Wake {
        self.news.next(wait)
    }

    /// Whether what is known is of today.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Where what is wrong is said to those who wrote it.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Other engines that were seen.
    pub fn rivals(&self) -> &Rivals {
        &self.rivals
    }

    /// A kind that nobody follows any more: its task has ended, which none does but by a fault in
    /// this program.
    pub fn abandoned(&self) -> Option<Kind> {
        let mut ended = self.tasks.iter().filter(|(_, task)| task.is_finished());
        ended.next().map(|(kind, _)| *kind)
    }

    /// What ends the wait.
    pub fn stop(&self) -> Stop {
        Stop(self.stop.clone())
    }
}

impl Drop for KubeSource {
    fn drop(&mut self) {
        for task in self.tasks.iter().map(|(_, task)| task).chain(&self.others) {
            task.abort();
        }
    }
}
