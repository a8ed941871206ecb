//! Brings the wanted state to the dataplane and keeps it there.
//!
//! ```text
//!   agent ──put──► Mailbox (the wanted state, and what of it is new) ──► Courier (a thread)
//!     ▲                                                              │ connect, back off
//!     └──take── Inbox (what the dataplane tells) ◄───────────────────┤ Live: memfds
//!                                                                    ▼
//!                                                                dataplane.sock
//! ```
//!
//! Invariants:
//! * only the latest state is ever sent; what was overtaken is skipped;
//! * a dataplane that was away, or was restarted, gets the present state as a new generation as soon
//!   as it is there again;
//! * the dataplane is connected to even if nothing is wanted yet: it can say then why pods wait;
//! * a generation number is used once: it is above the dataplane's last and above our last;
//! * if only addresses changed, and to classes that the present generation has, they are changed in
//!   place and no generation is made. The dataplane is told and must answer: flows that it decided
//!   by the old addresses stay decided until it looks. A change that it does not acknowledge is
//!   handled as a lost connection, so that a new generation follows;
//! * a state counts as delivered only when the dataplane has said that it enforces it;
//! * nothing is published over a connection before the agent knows which interfaces the CNI plugin
//!   has made: what it says of their addresses could be true of their predecessors;
//! * pods are said to be settled only after the state that has them is delivered.

mod inbox;
mod live;
mod mailbox;
mod session;

pub use inbox::Inbox;
pub use live::{Live, LiveError, Update};
pub use mailbox::{Desired, Heard, Mailbox};

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::{error, info, warn};
use weir_table::publish::{PublishError, Publisher, Summary};

use crate::ledger::Ledger;
use session::Session;

/// Shortest wait before the dataplane is tried again.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
/// Longest wait before the dataplane is tried again.
const BACK_OFF_MAX: Duration = Duration::from_secs(2);
/// How long an answer of the dataplane is waited for.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often a failure that goes on is logged again.
const REMIND: Duration = Duration::from_secs(30);

/// The thread that publishes.
#[derive(Debug)]
pub struct Courier {
    mailbox: Arc<Mailbox>,
    inbox: Arc<Inbox>,
    ledger: Arc<Ledger>,
    socket: PathBuf,
    source: String,
    connection: Option<Publisher>,
    session: Session,
    live: Option<Live>,
    /// Since when what is wanted is not yet enforced.
    pending: Option<Instant>,
    /// When the oldest change of the source was noticed that is not yet enforced.
    cause: Option<Instant>,
    last_generation: u64,
    back_off: Duration,
    complaint: Option<(String, Instant)>,
}

impl Courier {
    /// A courier for a dataplane's socket; `source` is named in the summary.
    pub fn new(
        (mailbox, inbox): (Arc<Mailbox>, Arc<Inbox>),
        ledger: Arc<Ledger>,
        socket: PathBuf,
        source: String,
    ) -> Self {
        Self {
            mailbox,
            inbox,
            ledger,
            socket,
            source,
            connection: None,
            session: Session::new(0),
            live: None,
            pending: Some(Instant::now()),
            cause: None,
            last_generation: 0,
            back_off: BACK_OFF_MIN,
            complaint: None,
        }
    }

    /// Publishes until the mailbox says stop.
    pub fn run(mut self) {
        loop {
            let (since, stop) = self.mailbox.look();
            if stop {
                return;
            }
            if let Some(since) = since {
                let oldest = |before: Option<Instant>| Some(before.map_or(since, |b| b.min(since)));
                self.pending = oldest(self.pending);
                self.cause = oldest(self.cause);
            }
            if self.mailbox.look_at_heard() {
                self.pending.get_or_insert_with(Instant::now);
            }
            self.listen_or_lose();
            let wait = match self.deliver() {
                Ok(()) => self.patience(),
                Err(error) => {
                    self.complain(&error);
                    self.lost();
                    let wait = self.back_off;
                    self.back_off = (wait * 2).min(BACK_OFF_MAX);
                    Some(wait)
                }
            };
            // What came during a call would wake nobody.
            let is_lost = self.listen_or_lose();
            self.sleep(if is_lost { Some(Duration::ZERO) } else { wait });
        }
    }

    /// Takes what the dataplane has told; true if that shows that it is gone.
    fn listen_or_lose(&mut self) -> bool {
        let Err(error) = self.listen() else { return false };
        match error {
            PublishError::Closed => {
                warn!("the dataplane closed the connection; it keeps enforcing what it has");
            }
            error => warn!(%error, "connection given up; the dataplane keeps what it has"),
        }
        self.lost();
        true
    }

    /// Hands on to the agent what the dataplane has told.
    fn listen(&mut self) -> Result<(), PublishError> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let news = connection.take_news()?;
        self.session.note(&news);
        if self.inbox.put(self.session.number(), news) {
            return Ok(());
        }
        let problem = "more than the agent can take".to_owned();
        Err(PublishError::Message { problem })
    }

    /// How long to wait although nothing is to be done: until a dataplane that says nothing is
    /// given up, or the agent is complained about.
    fn patience(&self) -> Option<Duration> {
        let is_waiting = self.connection.is_some() && self.pending.is_some();
        is_waiting.then(|| self.session.patience(TIMEOUT)).flatten()
    }

    fn lost(&mut self) {
        self.connection = None;
        // Nobody shares its memory any more.
        self.live = None;
        self.ledger.disconnected();
        // A new connection may be to a new dataplane, which has nothing.
        self.pending.get_or_insert_with(Instant::now);
    }

    /// Waits for the bell, for news or a hang-up of the dataplane, or for the time given.
    fn sleep(&self, timeout: Option<Duration>) {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        let mut fds = vec![PollFd::new(&*self.mailbox, PollFlags::IN)];
        if let Some(connection) = &self.connection {
            fds.push(PollFd::from_borrowed_fd(connection.as_fd(), PollFlags::IN));
        }
        // An interrupted wait is a short one.
        let _ = poll(&mut fds, timeout.as_ref());
    }

    /// Makes the dataplane enforce what is wanted, if it does not already, and says which pods are
    /// settled by it.
    fn deliver(&mut self) -> Result<(), DeliveryError> {
        let Some(since) = self.pending else { return Ok(()) };
        self.connect()?;
        if self.mailbox.heard().session != self.session.number() {
            return self.wait_for_words();
        }
        let heard = match self.update_in_place(since)? {
            Some(heard) => Some(heard),
            None => self.publish(since)?,
        };
        self.pending = None;
        let Some(connection) = &mut self.connection else { return Ok(()) };
        match (heard, &self.live) {
            (Some(heard), Some(live)) => {
                let place = (live.generation, live.epoch());
                self.session.settle(connection, &heard, place, TIMEOUT)?;
            }
            // Of this process nothing is in force, and so no pod is settled.
            _ => self.session.reject(connection, &self.mailbox.heard(), TIMEOUT)?,
        }
        Ok(())
    }

    fn connect(&mut self) -> Result<(), DeliveryError> {
        if self.connection.is_some() {
            return Ok(());
        }
        let software = concat!("weir-control ", env!("CARGO_PKG_VERSION"));
        let connection = Publisher::connect(&self.socket, software, TIMEOUT)?;
        info!(
            socket = %self.socket.display(),
            dataplane = connection.dataplane_software(),
            generation = connection.dataplane_generation(),
            "connected to the dataplane"
        );
        self.last_generation = self.last_generation.max(connection.dataplane_generation());
        self.session = Session::new(self.session.number() + 1);
        self.connection = Some(connection);
        // What it tells first has often come with its hello.
        self.listen()?;
        Ok(())
    }

    /// What is wanted does not know yet what this dataplane has told.
    fn wait_for_words(&mut self) -> Result<(), DeliveryError> {
        if self.session.is_silent(TIMEOUT) {
            return Err(DeliveryError::Untold);
        }
        if self.session.is_slow(TIMEOUT) {
            warn!("the pods that the dataplane has told of are still being compiled");
        }
        Ok(())
    }

    /// Has the dataplane take a new generation; gives what of the words is in it. `None`: nothing
    /// is wanted yet.
    fn publish(&mut self, since: Instant) -> Result<Option<Arc<Heard>>, DeliveryError> {
        let Some(connection) = &mut self.connection else {
            return Err(PublishError::Closed.into());
        };
        let generation = self.last_generation + 1;
        let mailbox = Arc::clone(&self.mailbox);
        let wanted = mailbox.read(|desired| Live::create(generation, desired));
        let Some((live, heard)) = wanted else { return Ok(None) };
        let live = live?;
        let map = live.map().ok_or(DeliveryError::NoMap)?;
        // Used even if the answer is lost: the dataplane may have taken it.
        self.last_generation = generation;
        let summary = Summary { source: self.source.clone(), heard: heard.last };
        let receipt = connection.publish(generation, &summary, live.table(), map, TIMEOUT)?;
        info!(
            generation = receipt.generation,
            workers = receipt.workers,
            enforced_at_ns = receipt.enforced_at_ns,
            took_us = micros(since),
            policies = live.image.policies.len(),
            rules = live.image.rules.len(),
            classes = live.image.classes.len(),
            programs = live.image.programs.len(),
            addresses = live.addresses(),
            bytes = live.bytes,
            "generation enforced by all workers"
        );
        self.live = Some(live);
        let cause = self.cause.take();
        self.ledger.enforced(receipt.generation, cause.map(|cause| cause.elapsed()));
        self.back_off = BACK_OFF_MIN;
        self.complaint = None;
        Ok(Some(heard))
    }

    /// Changes addresses of the present generation, if that is all there is to do, and waits until
    /// that is enforced; gives what of the words is in it. `None` when a new generation is needed.
    ///
    /// # Errors
    /// The dataplane did not acknowledge: it may enforce a part or nothing of it.
    fn update_in_place(&mut self, since: Instant) -> Result<Option<Arc<Heard>>, DeliveryError> {
        // Without the connection over which a generation went, there is none whose map is shared.
        let Some(connection) = &mut self.connection else { return Ok(None) };
        let Some(live) = &mut self.live else { return Ok(None) };
        let update =
            self.mailbox.read(|desired| live.is_of(&desired.image).then(|| live.update(desired)));
        let (update, heard) = match update {
            None | Some((None, _)) => return Ok(None),
            Some((Some(Ok(update)), heard)) => (update, heard),
            Some((Some(Err(error)), _)) => {
                info!(%error, "the address map cannot take the change: making a new generation");
                return Ok(None);
            }
        };
        if update != Update::default() {
            let receipt = connection.addresses_changed(live.generation, live.epoch(), TIMEOUT)?;
            info!(
                generation = receipt.generation,
                epoch = receipt.epoch,
                set = update.set,
                removed = update.removed,
                flows_rejudged = receipt.flows_rejudged,
                enforced_at_ns = receipt.enforced_at_ns,
                took_us = micros(since),
                "addresses changed in place, enforced"
            );
            let cause = self.cause.take();
            self.ledger.enforced(receipt.generation, cause.map(|cause| cause.elapsed()));
        }
        self.cause = None;
        Ok(Some(heard))
    }

    /// Logs a failure once, and again now and then while it goes on.
    fn complain(&mut self, failure: &DeliveryError) {
        let text = failure.to_string();
        let fresh = self
            .complaint
            .as_ref()
            .is_none_or(|(before, at)| *before != text || at.elapsed() >= REMIND);
        if !fresh {
            return;
        }
        match failure {
            DeliveryError::Publish(PublishError::Connect { .. }) => {
                warn!("{text}; trying again");
            }
            _ => error!("{text}; trying again"),
        }
        self.complaint = Some((text, Instant::now()));
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

#[derive(Debug, thiserror::Error)]
enum DeliveryError {
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Live(#[from] LiveError),
    #[error("the address map has no memory file")]
    NoMap,
    #[error("the dataplane has not told within 5 s which interfaces the CNI plugin has made")]
    Untold,
}
