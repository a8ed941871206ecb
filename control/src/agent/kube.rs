//! Follows a cluster: news of one object after the other becomes changes of the index.
//!
//! Invariants:
//! * nothing is published before every kind that can decide a verdict has been listed completely:
//!   half a list of pods would take addresses from those that the dataplane knows from before, and
//!   half a list of policies would open what the others close;
//! * what comes together is compiled once, but nothing waits for more to come: the queue is emptied
//!   for [`DRAIN`] at most;
//! * what is only told (complaints, counts, names) costs a look at all pods. It is told after what
//!   is enforced, and not again before [`TELL`], and twenty times what it cost, have passed;
//! * names that an earlier process has left stay until there are all names to replace them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use tracing::error;

use super::core::{Core, Doubt};
use crate::index::{Changes, Index};
use crate::ledger::Ledger;
use crate::metrics::KindCounts;
use crate::model::{Complaint, Direction, Effect, ObjectId, ObjectKey, Origin, Severity};
use crate::names::NamesWriter;
use crate::publisher::{Inbox, Mailbox};
use crate::record::SourceRecord;
use crate::source::kube::events::Counts;
use crate::source::kube::health::{Report, State};
use crate::source::kube::notice::{Notice, turn};
use crate::source::kube::rivals;
use crate::source::kube::{Kind, KubeSource, News, ORIGIN, Stop, Wake};

/// How long the queue is emptied before what came is compiled.
const DRAIN: Duration = Duration::from_millis(1);
/// The least pause between two looks at everything for the sake of complaints and counts.
const TELL: Duration = Duration::from_millis(200);
/// Between two looks at the health of the source.
const LOOK: Duration = Duration::from_secs(1);
/// A first list that takes longer is complained about.
const PATIENCE: Duration = Duration::from_secs(5);

/// Follows a cluster and puts every new state into the mailbox.
#[derive(Debug)]
pub struct KubeAgent {
    source: KubeSource,
    core: Core,
    node: Option<String>,
    began: Instant,
    /// Kinds that have been listed completely.
    listed: BTreeSet<Kind>,
    /// What is wrong, by object, with its UID.
    complaints: BTreeMap<ObjectId, (Box<str>, Vec<Complaint>)>,
    /// Other engines.
    rivals: Vec<&'static str>,
    /// What of it was handed on to be said by Events, and whether only this node knows it.
    noticed: Vec<(Notice, bool)>,
    /// Since the last publication, and when the first of it came.
    pending: Option<(Changes, Instant)>,
    /// Something has not been told yet.
    untold: bool,
    told: Option<Instant>,
    /// Until it is told again.
    pause: Duration,
    looked: Option<Instant>,
    names_due: bool,
}

impl KubeAgent {
    /// An agent of a source that is being followed.
    pub fn new(
        source: KubeSource,
        node: Option<String>,
        mailbox: Arc<Mailbox>,
        ledger: Arc<Ledger>,
    ) -> Self {
        Self {
            source,
            core: Core::new(node.clone(), mailbox, ledger),
            node,
            began: Instant::now(),
            listed: BTreeSet::new(),
            complaints: BTreeMap::new(),
            rivals: Vec::new(),
            noticed: Vec::new(),
            pending: None,
            untold: true,
            told: None,
            pause: TELL,
            looked: None,
            names_due: true,
        }
    }

    /// Leaves pods' names with this writer.
    #[must_use]
    pub fn naming(mut self, names: NamesWriter) -> Self {
        self.core.name_with(names);
        self
    }

    /// Takes what the dataplane tells from this inbox.
    #[must_use]
    pub fn hearing(mut self, inbox: Arc<Inbox>) -> Self {
        let wait = self.source.stop();
        inbox.wake_with(move || wait.nudge());
        self.core.hear_from(inbox);
        self
    }

    /// A handle that ends [`Self::run`].
    pub fn handle(&self) -> Stop {
        self.source.stop()
    }

    /// Takes news until stopped, or until something is not followed any more.
    pub fn run(mut self) {
        loop {
            match self.source.next(self.patience()) {
                Wake::News(news, at) => {
                    if !self.drain(news, at) {
                        return;
                    }
                    self.hear();
                    self.publish();
                }
                Wake::Nudged => {
                    // It may be about what is cut off, which is only told.
                    self.untold = true;
                    self.hear();
                    self.publish();
                }
                Wake::Nothing => {}
                Wake::Stop => return,
            }
            // A process that begins anew follows everything again.
            if let Some(kind) = self.source.abandoned() {
                error!(kind = kind.resource(), "is not followed any more: the task has ended");
                return;
            }
            self.tell();
        }
    }

    /// Until something has to be done without news.
    fn patience(&self) -> Duration {
        let left = |last: Option<Instant>, pause: Duration| {
            last.map_or(Duration::ZERO, |last| pause.saturating_sub(last.elapsed()))
        };
        let look = left(self.looked, LOOK);
        if self.untold { look.min(left(self.told, self.pause)) } else { look }
    }

    /// Takes what is in the queue; `false` if it is over.
    fn drain(&mut self, news: News, at: Instant) -> bool {
        let begin = Instant::now();
        self.take(news, at);
        while begin.elapsed() < DRAIN {
            match self.source.next(Duration::ZERO) {
                Wake::News(news, at) => self.take(news, at),
                Wake::Nudged => self.untold = true,
                Wake::Nothing => break,
                Wake::Stop => return false,
            }
        }
        true
    }

    fn take(&mut self, news: News, at: Instant) {
        let changes = match news {
            News::Apply { id, uid, object, complaints } => {
                self.untold |= match complaints.is_empty() {
                    true => self.complaints.remove(&id).is_some(),
                    false => {
                        let new = (uid.unwrap_or_default(), complaints);
                        let before = self.complaints.insert(id.clone(), new);
                        before.as_ref() != self.complaints.get(&id)
                    }
                };
                match object {
                    Some(object) => self.core.index.apply(*object),
                    // What it said before is not what it says now.
                    None => self.core.index.delete(&id),
                }
            }
            News::Delete(id) => {
                self.untold |= self.complaints.remove(&id).is_some();
                self.core.index.delete(&id)
            }
            News::Listed(kind) => {
                self.listed.insert(kind);
                self.untold = true;
                Changes::default()
            }
        };
        self.note(changes, at);
    }

    /// Takes what the dataplane has told.
    fn hear(&mut self) {
        let changes = self.core.hear();
        if changes.any() {
            self.note(changes, Instant::now());
        }
    }

    fn note(&mut self, changes: Changes, at: Instant) {
        self.untold |= changes.any();
        self.names_due |= changes.pods;
        let (sum, _) = self.pending.get_or_insert((Changes::default(), at));
        *sum = sum.and(changes);
    }

    /// Publishes what there is, and how much of what the dataplane told is in it.
    fn publish(&mut self) {
        if let Some(words) = self.waiting() {
            let failing = self.missing().into_iter().find_map(|kind| self.failing(kind));
            let why = failing.map(|words| format!(" ({words})")).unwrap_or_default();
            self.core
                .wait(&format!("weir-control cannot know what is to be enforced: {words}{why}"));
            return;
        }
        let doubt = self.outdated();
        self.core.doubt(doubt);
        let nothing = || (Changes::default(), Instant::now());
        let (changes, since) = self.pending.take().unwrap_or_else(nothing);
        self.core.publish(changes, since);
    }

    /// What may be older than it should be, and why. After an outage each kind comes back in its own
    /// time; a pod that is as new as a policy which is not known yet must not be said to be enforced.
    /// While pods are not followed either, none is newer.
    fn outdated(&self) -> Option<Doubt> {
        if let Some(words) = self.failing(Kind::Pods) {
            return Some(Doubt::Pods(format!("weir-control cannot follow pods ({words})")));
        }
        let mut kinds = [Kind::NetworkPolicies, Kind::Namespaces].into_iter();
        let (kind, words) = kinds.find_map(|kind| Some((kind.resource(), self.failing(kind)?)))?;
        let words = format!("weir-control cannot follow {kind} ({words})");
        Some(Doubt::Policies(format!("{words}, and one may concern the pod")))
    }

    /// What the API says to requests for a kind, if they fail.
    fn failing(&self, kind: Kind) -> Option<String> {
        self.source.health().of(kind).failing.map(|failing| failing.words)
    }

    /// Kinds without which nobody knows what is to be enforced.
    fn missing(&self) -> Vec<Kind> {
        let needed = needed(&self.core.index);
        needed.filter(|kind| !self.listed.contains(kind)).collect()
    }

    /// Tells what has changed, if it is time.
    fn tell(&mut self) {
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            self.looked = Some(Instant::now());
            self.look();
        }
        let is_time = self.told.is_none_or(|told| told.elapsed() >= self.pause);
        if !self.untold || !is_time {
            return;
        }
        let begin = Instant::now();
        let conflicts = self.core.index.conflicts();
        self.notice();
        let of_objects = self.complaints.values().flat_map(|(_, complaints)| complaints).cloned();
        let mut complaints: Vec<Complaint> = of_objects.collect();
        complaints.extend(conflicts);
        complaints.extend(self.held());
        complaints.extend(self.rivals.iter().map(|name| rivals::complaint(name)));
        self.core.report(&complaints, 0);
        if self.names_due && self.core.is_compiled() {
            self.names_due = false;
            self.core.name();
        }
        self.untold = false;
        self.pause = TELL.max(begin.elapsed() * 20);
        self.told = Some(Instant::now());
    }

    /// Has what is wrong said on the objects themselves.
    fn notice(&mut self) {
        // Who says what depends on who is there to say it.
        if self.node.is_some() && !self.listed.contains(&Kind::Nodes) {
            return;
        }
        let index = &self.core.index;
        let of_objects = self.complaints.iter().flat_map(|(id, (uid, complaints))| {
            complaints.iter().filter_map(move |complaint| Notice::of(id, uid, complaint))
        });
        let of_pod = |complaint: &Complaint| {
            let (namespace, name) = complaint.object.strip_prefix("Pod ")?.split_once('/')?;
            let key = ObjectKey::new(namespace, name);
            let uid = index.pod(&key)?.uid.as_deref().unwrap_or_default();
            Notice::of(&ObjectId::Pod(key), uid, complaint)
        };
        // On each of the pods: whose author looks at one need not know of the other.
        let conflicts = index.conflicts_by_pod();
        let of_addresses = conflicts.iter().filter_map(of_pod);
        // Of its interfaces nobody knows but this node.
        let of_interfaces = self.core.cut_off();
        let of_interfaces = of_interfaces.iter().filter_map(of_pod).map(|notice| (notice, true));
        let of_all = of_objects.chain(of_addresses).map(|notice| (notice, false));
        // First what nobody else can say: there is room for so many.
        let notices: Vec<(Notice, bool)> = of_interfaces.chain(of_all).collect();
        if notices == self.noticed {
            return;
        }
        let ours = |(notice, is_ours): &(Notice, bool)| {
            if *is_ours {
                return Some((notice.clone(), Duration::ZERO));
            }
            let nodes = index.nodes().map(|node| node.name.as_str());
            let turn = turn(&notice.event_name(), self.node.as_deref(), nodes)?;
            Some((notice.clone(), turn))
        };
        self.source.events().set(notices.iter().filter_map(ours).collect());
        self.noticed = notices;
    }

    /// What keeps the first table back; `None` if nothing does.
    fn waiting(&self) -> Option<String> {
        let missing = if self.core.is_compiled() { Vec::new() } else { self.missing() };
        let names: Vec<&str> = missing.iter().map(|kind| kind.resource()).collect();
        let words = "there has been no full list of";
        (!names.is_empty())
            .then(|| format!("{words} {} since this process began", names.join(", ")))
    }

    /// That as a complaint, if it takes long.
    fn held(&self) -> Option<Complaint> {
        let message = self.waiting().filter(|_| self.began.elapsed() >= PATIENCE)?;
        Some(Complaint {
            severity: Severity::Refused,
            effect: Effect::NotEnforced,
            origin: Origin { file: ORIGIN.into(), line: 0 },
            object: String::new(),
            field: String::new(),
            message,
            consequence:
                "until then nothing is published, and the dataplane keeps the table that it has"
                    .to_owned(),
        })
    }

    /// Looks whether what is known is of today.
    fn look(&mut self) {
        // What keeps the table back becomes a complaint, or ceases to be one, with time.
        self.untold |= !self.core.is_compiled();
        let found = self.source.rivals().found();
        self.untold |= found != self.rivals;
        self.rivals = found;
        let report = self.source.health().report(Instant::now());
        let doubt = self.outdated();
        if self.core.doubt(doubt) {
            self.publish();
        }
        let ledger = self.core.ledger();
        ledger.waiting(self.waiting());
        ledger.source(record(&report), &counts(&report));
        let Counts { posted, known, failed } = self.source.events().counts();
        ledger.metrics().source().set_events(posted, known, failed);
        let engines = rivals::NAMES.map(|name| (name, self.rivals.contains(&name)));
        ledger.metrics().source().set_engines(&engines);
    }
}

fn record(report: &Report) -> SourceRecord {
    let since = report.since.and_then(|since| since.duration_since(UNIX_EPOCH).ok());
    let kinds = Kind::ALL.iter().zip(&report.kinds);
    let missing = kinds.filter(|(_, health)| !health.listed).map(|(kind, _)| *kind);
    SourceRecord {
        state: match report.state {
            State::Syncing => "syncing",
            State::Live => "live",
            State::Stale => "stale",
        }
        .to_owned(),
        stale_since: since.map(|since| since.as_secs()),
        words: report.words.clone(),
        missing: missing.map(|kind| kind.resource().to_owned()).collect(),
    }
}

fn counts(report: &Report) -> [KindCounts; Kind::ALL.len()] {
    std::array::from_fn(|i| KindCounts {
        kind: Kind::ALL[i].resource(),
        connected: report.kinds[i].contact.is_some() && report.kinds[i].failing.is_none(),
        listed: report.kinds[i].listed,
        stale: report.stale[i],
        events: report.kinds[i].events,
        relists: report.kinds[i].relists,
        failures: report.kinds[i].failures,
    })
}

/// Kinds that can decide a verdict. Services and their backends can if a policy isolates for
/// egress: a Service's address is judged by them.
fn needed(index: &Index) -> impl Iterator<Item = Kind> {
    let services = index.policies().any(|policy| policy.directions.contains(&Direction::Egress));
    let always = [Kind::Namespaces, Kind::NetworkPolicies, Kind::Pods];
    always
        .into_iter()
        .chain([Kind::Services, Kind::EndpointSlices].into_iter().filter(move |_| services))
}
