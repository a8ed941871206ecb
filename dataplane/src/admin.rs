//! The admin side of the daemon: taking policy tables from control, following pods, and
//! resuming from what an earlier daemon left. Nothing here is on the packet path.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::{FutureExt, StreamExt};
use rtnetlink::MulticastGroup;
use rtnetlink::sys::AsyncSocket;
use weir_table::classify::MappedClassifier;
use weir_table::counters::Enforced;
use weir_table::publish::{
    AddressReceipt, Event, Listener, News, NotEnforced, Receipt, ReceivedGeneration, Settled,
};
use weir_table::saved;

use crate::daemon::lock;
use crate::discover::Discovery;
use crate::node::{Node, WorkerHangs};
use crate::placements::Bells;
use crate::pods::Pods;
use crate::rejudge::Rejudged;

/// How long the publication thread waits before it looks whether to stop.
const POLL: Duration = Duration::from_millis(200);
/// Events come in bursts (a new pod is a dozen of them); one scan serves them all.
const SETTLE: Duration = Duration::from_millis(2);
/// Longest pause that scans keep between each other. In a storm of pods the events never end; so a
/// scan waits four times as long as the one before took, but a new pod never longer than this.
const APART: Duration = Duration::from_millis(20);
/// First pause before another look at an interface that has no address yet.
const SOON: Duration = Duration::from_millis(10);
/// Longest such pause.
const LATER: Duration = Duration::from_secs(1);
/// How long the pods' limit of flows stands: what all of them can enter meanwhile is little
/// beside what a limit leaves.
const SHARE_OUT: Duration = Duration::from_millis(100);
/// How often a look that fails is repeated: the kernel may be short of memory for a while.
const TRIES: u32 = 30;
/// A look without any event: the backstop against a missed one.
const SELDOM: Duration = Duration::from_secs(30);

/// Follows pods as they come and go, for ever.
///
/// # Errors
/// When netlink fails for good or a worker hangs.
pub async fn watch_pods(mut discovery: Discovery, pods: Arc<Mutex<Pods>>) -> Result<()> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (mut connection, _handle, mut events) =
        rtnetlink::new_multicast_connection(&groups).context("cannot follow network events")?;
    // A pod's addresses are given inside its namespace.
    if let Err(error) = connection.socket_mut().socket_mut().set_listen_all_namespaces(true) {
        tracing::warn!(%error, "cannot follow events of pods' namespaces; new pods take up to 1 s");
    }
    tokio::spawn(connection);
    let mut pause = SOON;
    let mut next = Instant::now();
    let mut failed = 0;
    loop {
        let wait = if lock(&pods).incomplete() { pause } else { SELDOM };
        tokio::select! {
            event = events.next() => {
                event.context("the kernel closed the stream of network events")?;
                pause = SOON;
                let left = next.saturating_duration_since(Instant::now());
                tokio::time::sleep(left.max(SETTLE)).await;
                while let Some(Some(_)) = events.next().now_or_never() {}
            }
            () = tokio::time::sleep(wait) => pause = (pause * 2).min(LATER),
        }
        let begin = Instant::now();
        let complete = lock(&pods).complete_namespaces();
        match discovery.scan(&complete).await {
            Ok(scan) => {
                failed = 0;
                lock(&pods).apply(scan)?;
            }
            // What is enforced goes on; who comes has no interface here yet, and is dropped.
            Err(error) if failed < TRIES => {
                failed += 1;
                tracing::error!(%error, failed, "cannot look at the node's interfaces; trying again");
                tokio::time::sleep(LATER).await;
            }
            Err(error) => return Err(error).context("cannot look at the node's interfaces"),
        }
        next = Instant::now() + (begin.elapsed() * 4).min(APART);
    }
}

/// Finds the pods' limit of flows anew, ever and again: from all accounts, half a mebibyte,
/// which is not a worker's to read.
pub async fn share_flows_out(node: &Node) -> Infallible {
    loop {
        tokio::time::sleep(SHARE_OUT).await;
        node.share_flows_out();
    }
}

/// Completes when a thread has ended, which none does unless it is told to or fails.
pub async fn watch_threads(threads: &[&thread::JoinHandle<Result<()>>]) {
    while !threads.iter().any(|thread| thread.is_finished()) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Enforces what an earlier daemon enforced last, until control publishes anew. Returns
/// its generation; 0 if there is none.
pub fn resume(run_dir: &Path, node: &Node, pods: &Mutex<Pods>) -> u64 {
    let resumed = match saved::load(run_dir) {
        Ok(None) => return 0,
        Ok(Some(classifier)) => enforce(node, pods, classifier).map_err(anyhow::Error::from),
        Err(error) => Err(error.into()),
    };
    match resumed {
        Ok((enforced, rejudged)) => {
            begin(node, pods);
            node.announce(enforced);
            tracing::info!(
                generation = enforced.generation,
                flows = rejudged.judged,
                cut = rejudged.cut,
                "resumed the last policy table"
            );
            enforced.generation
        }
        Err(error) => {
            tracing::warn!(
                %error,
                "cannot resume the last policy table; waiting for weir-control to publish one"
            );
            0
        }
    }
}

/// Puts a table in force, for the addresses that it knows.
fn enforce(
    node: &Node,
    pods: &Mutex<Pods>,
    classifier: MappedClassifier,
) -> Result<(Enforced, Rejudged), WorkerHangs> {
    let enforced = node.enforce(Arc::new(classifier))?;
    lock(pods).ask_again()?;
    Ok(enforced)
}

/// A policy table is in force: hooks go on the pods' devices. Before the first ones do,
/// the connections that are open already are taken over, so that the next packet of
/// either end is not taken for the beginning of a new one.
fn begin(node: &Node, pods: &Mutex<Pods>) {
    let mut pods = lock(pods);
    if !pods.is_enforcing() {
        if !pods.config().has_adopted() {
            node.adopt_open_flows();
            pods.config().set_adopted();
        }
        pods.start_enforcing();
    }
}

/// Takes policy tables from control; runs on a thread of its own until told to stop.
pub struct Publications {
    /// Where control publishes.
    pub listener: Listener,
    /// What the tables are for.
    pub node: Arc<Node>,
    /// The pods, to be attached with the first table.
    pub pods: Arc<Mutex<Pods>>,
    /// Where the last table is kept.
    pub run_dir: PathBuf,
    /// Set when the daemon stops.
    pub stop: Arc<AtomicBool>,
    /// The stamp of what was kept last; 0 at first.
    pub saved: u64,
    /// The last attempt to keep something failed, and was told.
    pub save_fails: bool,
    /// Rung when there is something to be told.
    pub bells: Arc<Bells>,
    /// What the publisher that is connected has been told.
    pub told: Told,
    /// What it has settled and not every worker has taken over.
    pub unplaced: Vec<Settled>,
}

/// What a publisher knows of pods' interfaces.
#[derive(Debug, Default)]
pub struct Told {
    tickets: BTreeSet<u64>,
    troubles: BTreeMap<u32, NotEnforced>,
}

impl Told {
    /// What it has to be told, now that `tickets` stand and these interfaces are cut off: first
    /// what is over, since that frees addresses.
    fn news(&mut self, pods: &Pods) -> Vec<News> {
        let (words, _) = pods.attached_words();
        let stand: BTreeSet<u64> = words.iter().map(|word| word.ticket).collect();
        let over = self.tickets.difference(&stand).map(|ticket| News::Detached { ticket: *ticket });
        let mut news: Vec<News> = over.collect();
        let fresh = words.into_iter().filter(|word| !self.tickets.contains(&word.ticket));
        news.extend(fresh.map(News::Attached));
        self.tickets = stand;
        let troubles = pods.troubles();
        let cleared = self.troubles.keys().filter(|ifindex| !troubles.contains_key(ifindex));
        news.extend(cleared.map(|ifindex| News::Cleared { ifindex: *ifindex }));
        let fresh = troubles.iter().filter(|(i, trouble)| self.troubles.get(i) != Some(trouble));
        news.extend(fresh.map(|(_, trouble)| News::NotEnforced(trouble.clone())));
        self.troubles.clone_from(troubles);
        news
    }
}

impl Publications {
    /// Serves until stopped.
    ///
    /// # Errors
    /// When the listening socket fails.
    pub fn serve(mut self) -> Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            match self.listener.poll_or_wake(Some(self.bells.control.as_fd()), POLL)? {
                Some(Event::Published(received)) => self.take(*received),
                Some(Event::AddressesChanged { generation, epoch }) => {
                    self.addresses_changed(generation, epoch);
                }
                Some(Event::Connected { software }) => {
                    tracing::info!(software, "publisher connected");
                    self.tell_everything();
                }
                Some(Event::Settled(settled)) => self.unplaced.push(settled),
                Some(Event::Rejected { ticket, words }) => lock(&self.pods).reject(ticket, &words),
                Some(Event::Woken) => {
                    self.bells.control.quiet();
                    self.tell();
                }
                Some(Event::Refused { generation, reason }) => {
                    tracing::warn!(?generation, reason, "refused; the last table stays in force");
                }
                Some(Event::Disconnected) => {
                    tracing::warn!("publisher gone; the last table stays in force");
                }
                None => {}
            }
            lock(&self.pods).set_controlled(self.listener.has_publisher());
            self.place();
            self.node.set_publisher(self.listener.has_publisher());
            // The backstop for what control has changed in place and could not announce.
            if let Err(error) = self.look_at_addresses() {
                tracing::error!(%error, "changed addresses not in force everywhere");
            }
            self.keep();
        }
        Ok(())
    }

    /// Tells a publisher that has just come what stands.
    fn tell_everything(&mut self) {
        (self.told, self.unplaced) = (Told::default(), Vec::new());
        let pods = lock(&self.pods);
        let last = pods.attached_words().1;
        let news = self.told.news(&pods);
        drop(pods);
        news.into_iter().for_each(|news| self.listener.tell(news));
        self.listener.tell(News::AllAttached { last });
    }

    /// Tells the publisher what has changed.
    fn tell(&mut self) {
        if self.listener.has_publisher() {
            let news = self.told.news(&lock(&self.pods));
            news.into_iter().for_each(|news| self.listener.tell(news));
        }
    }

    /// Has others believe the interfaces of which control has said that their pods' policies are
    /// in force. What says so is kept before anybody is told.
    fn place(&mut self) {
        if self.unplaced.is_empty() {
            return;
        }
        self.keep();
        let kept = self.is_kept();
        let mut pods = lock(&self.pods);
        self.unplaced.retain(|settled| match pods.place(settled, kept) {
            Ok(()) => false,
            Err(error) => {
                tracing::error!(%error, "pods not placed yet; trying again");
                true
            }
        });
    }

    fn take(&mut self, received: ReceivedGeneration) {
        let generation = received.generation;
        if let Err(error) = lock(&self.pods).hold_unheard(received.summary.heard) {
            tracing::error!(generation, %error, "policy table not in force");
            self.listener.refuse(generation, &error.to_string());
            return;
        }
        match enforce(&self.node, &self.pods, received.classifier) {
            Ok((enforced, rejudged)) => {
                begin(&self.node, &self.pods);
                self.keep();
                self.node.announce(enforced);
                let workers = u32::try_from(self.node.counters().workers()).unwrap_or(u32::MAX);
                self.listener.receipt(Receipt {
                    generation,
                    workers,
                    enforced_at_ns: enforced.at_ns,
                });
                let Rejudged { judged, cut } = rejudged;
                tracing::info!(generation, flows = judged, cut, "policy table in force");
            }
            Err(error) => {
                tracing::error!(generation, %error, "policy table not in force everywhere");
                self.listener.refuse(generation, &error.to_string());
            }
        }
    }

    /// Puts in force what control has changed in place. `None`: there is no table yet.
    fn look_at_addresses(&self) -> Result<Option<Rejudged>, WorkerHangs> {
        // Whose they are, before flows are judged by that.
        lock(&self.pods).ask_again()?;
        Ok(self.node.addresses_changed())
    }

    /// Control has changed addresses in place, up to `epoch`. Answered also if the
    /// backstop has seen them before.
    fn addresses_changed(&mut self, generation: u64, epoch: u64) {
        let rejudged = match self.look_at_addresses() {
            Ok(Some(rejudged)) => rejudged,
            Ok(None) => {
                let reason = "no policy table is in force yet; publish one";
                self.listener.refuse_addresses(generation, epoch, reason);
                return;
            }
            Err(error) => {
                tracing::error!(generation, epoch, %error, "changed addresses not in force");
                self.listener.refuse_addresses(generation, epoch, &error.to_string());
                return;
            }
        };
        self.keep();
        self.listener.addresses_enforced(AddressReceipt {
            generation,
            epoch,
            flows_rejudged: Some(rejudged.judged),
            enforced_at_ns: crate::clock::monotonic_ns(),
        });
        let Rejudged { judged, cut } = rejudged;
        tracing::debug!(generation, epoch, flows = judged, cut, "changed addresses in force");
    }

    /// Keeps the table and its addresses on tmpfs, before anybody is told that they are
    /// enforced: else a daemon that is killed right after would be followed by one that
    /// enforces less. Tried again until it works. What not every worker has acknowledged is
    /// not kept.
    fn keep(&mut self) {
        let snapshot = self.node.current().load_full();
        let Some(classifier) = &snapshot.classifier else { return };
        let stamp = classifier.stamp();
        if stamp == self.saved || !self.node.is_acknowledged() {
            return;
        }
        match saved::save(&self.run_dir, classifier) {
            Ok(()) => {
                (self.saved, self.save_fails) = (stamp, false);
                lock(&self.pods).table_is_kept();
            }
            Err(_) if self.save_fails => {}
            Err(error) => {
                self.save_fails = true;
                tracing::warn!(%error, "cannot keep the policy table for a restart; trying again");
            }
        }
    }

    /// Whether the table in force, with the addresses of this moment, is kept.
    fn is_kept(&self) -> bool {
        self.node.said_at() == Some(self.saved)
    }
}
