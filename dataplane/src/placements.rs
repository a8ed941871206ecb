//! Who waits for a pod to be placed, and what becomes of the wait.
//!
//! ```text
//!   weir-cni ──add──> [cni thread] ── admit ──> Pods ── attached ──> [publish thread] ──> control
//!      ▲                   ▲                     ▲                          │
//!      └── enforced ───────┴──── plugin bell ────┴───────── placed ─────────┘  settled <──┘
//! ```
//!
//! Neither thread waits for the other: what stands is in [`crate::pods`], under its lock, and a
//! bell says that it has changed. Whoever is woken compares it with what it has told, so nothing
//! is queued that could overflow, and however much changes at once is told together.
//!
//! Pure: the time is given.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use weir_table::cni::{Answer, Refusal, RequestId, WaitingFor};

use crate::words::Settlement;

/// Wakes a thread that polls it.
#[derive(Debug)]
pub struct Bell(OwnedFd);

impl Bell {
    /// A bell that does not ring.
    ///
    /// # Errors
    /// The kernel gives no eventfd.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Makes it readable.
    pub fn ring(&self) {
        // It can only fail if the counter is full, and then it rings already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Makes it unreadable, until it rings again.
    pub fn quiet(&self) {
        let mut count = [0; 8];
        // Nothing to read means that it did not ring.
        let _ = rustix::io::read(&self.0, &mut count);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The bells of the two threads.
#[derive(Debug)]
pub struct Bells {
    /// There is something to be told to control.
    pub control: Bell,
    /// There may be something to answer to the plugin.
    pub plugin: Bell,
}

impl Bells {
    /// Two bells.
    ///
    /// # Errors
    /// The kernel gives no eventfd.
    pub fn new() -> io::Result<Self> {
        Ok(Self { control: Bell::new()?, plugin: Bell::new()? })
    }
}

/// How far a pod's interface is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Its policy is in force.
    Enforced(Settlement),
    /// Not yet, for this reason.
    Waiting(WaitingFor, String),
    /// It was withdrawn.
    Over,
}

/// One who waits.
#[derive(Debug)]
struct Waiter {
    request: RequestId,
    ticket: u64,
    since: Instant,
    deadline: Instant,
}

/// All who wait.
#[derive(Debug, Default)]
pub struct Placements {
    waiters: Vec<Waiter>,
}

impl Placements {
    /// A request waits for a ticket, from `since` until `deadline`.
    pub fn wait(&mut self, request: RequestId, ticket: u64, since: Instant, deadline: Instant) {
        self.waiters.push(Waiter { request, ticket, since, deadline });
    }

    /// Nobody waits for the answer to this any more.
    pub fn forget(&mut self, request: RequestId) {
        self.waiters.retain(|waiter| waiter.request != request);
    }

    /// When the first wait is over.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.waiters.iter().map(|waiter| waiter.deadline).min()
    }

    /// True if nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// The answers that are due, given how far each ticket is.
    pub fn due(
        &mut self,
        now: Instant,
        progress: impl Fn(u64) -> Progress,
    ) -> Vec<(RequestId, Answer)> {
        let mut due = Vec::new();
        self.waiters.retain(|waiter| {
            let answer = match progress(waiter.ticket) {
                Progress::Enforced(settlement) => {
                    enforced(settlement, now.saturating_duration_since(waiter.since))
                }
                Progress::Over => Answer::Refused {
                    code: Refusal::Other,
                    words: "the interface was taken away, or made anew, meanwhile".to_owned(),
                },
                Progress::Waiting(waiting_for, words) if waiter.deadline <= now => {
                    Answer::Pending { waiting_for, words }
                }
                Progress::Waiting(..) => return true,
            };
            due.push((waiter.request, answer));
            false
        });
        due
    }
}

/// That a pod's policy is in force, after so long a wait.
pub fn enforced(settlement: Settlement, waited: Duration) -> Answer {
    let waited_us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
    let Settlement { generation, epoch } = settlement;
    Answer::Enforced { generation, epoch, waited_us }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::thread;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use weir_table::cni::{
        AttachmentId, CNI_SOCKET_FILE, Client, Event, Patience, Request, Server,
    };

    use super::*;

    const SETTLED: Settlement = Settlement { generation: 3, epoch: 9 };
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_bell_rings_until_it_is_quieted() {
        let bell = Bell::new().unwrap();
        let rings = || {
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            poll(&mut [PollFd::new(&bell, PollFlags::IN)], Some(&now)).unwrap() == 1
        };
        bell.quiet();
        assert!(!rings());
        bell.ring();
        bell.ring();
        assert!(rings() && rings());
        bell.quiet();
        assert!(!rings());
    }

    /// Ids of requests are the server's to give.
    fn requests(directory: &Path, count: usize) -> Vec<RequestId> {
        let path = directory.join(CNI_SOCKET_FILE);
        let mut server = Server::bind(&path, "test").unwrap();
        let mut ids = Vec::new();
        for n in 0..count {
            let patience = Patience { total: LONG, absent: LONG };
            let path = path.clone();
            let id = AttachmentId {
                network: "n".into(),
                container: n.to_string(),
                ifname: "eth0".into(),
            };
            let client = thread::spawn(move || {
                let client = Client { path: &path, software: "test", patience };
                client.ask(&Request::Del { id }, None).unwrap()
            });
            let incoming = loop {
                if let Some(Event::Request(incoming)) = server.poll(None, LONG).unwrap() {
                    break incoming;
                }
            };
            server.answer(incoming.id, &Answer::Done { removed: 0 });
            client.join().unwrap();
            ids.push(incoming.id);
        }
        ids
    }

    #[test]
    fn each_is_answered_when_it_is_due_and_once() {
        let directory = tempfile::tempdir().unwrap();
        let ids = requests(directory.path(), 5);
        let begin = Instant::now();
        let after = |ms| begin + Duration::from_millis(ms);
        let mut placements = Placements::default();
        assert!(placements.is_empty() && placements.next_deadline().is_none());
        for (n, id) in (0..).zip(&ids) {
            placements.wait(*id, n, begin, after(100 + n));
        }
        assert_eq!(placements.next_deadline(), Some(after(100)));
        let waiting = |_| Progress::Waiting(WaitingFor::Control, "not yet".to_owned());
        assert_eq!(placements.due(after(99), waiting), []);
        // The second is settled, the third withdrawn, the fifth has gone; the first's time is over.
        placements.forget(ids[4]);
        let progress = |ticket| match ticket {
            1 => Progress::Enforced(SETTLED),
            2 => Progress::Over,
            _ => waiting(ticket),
        };
        let due = placements.due(after(100), progress);
        assert_eq!(due.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids[..3]);
        let words = "not yet".to_owned();
        assert_eq!(due[0].1, Answer::Pending { waiting_for: WaitingFor::Control, words });
        assert_eq!(due[1].1, Answer::Enforced { generation: 3, epoch: 9, waited_us: 100_000 });
        assert!(matches!(due[2].1, Answer::Refused { code: Refusal::Other, .. }));
        assert_eq!(placements.next_deadline(), Some(after(103)));
        // What is in force is told even if its time is over as well.
        let due = placements.due(after(500), |_| Progress::Enforced(SETTLED));
        assert!(matches!(due[..], [(_, Answer::Enforced { .. })]));
        assert!(placements.is_empty());
    }
}
