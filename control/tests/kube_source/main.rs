//! `weir-control --source kube` as a process, against an API server that fails in chosen ways.
//!
//! | module | |
//! |---|---|
//! | `sync` | what the API says is enforced as it says it, once everything has been listed |
//! | `faults` | watches that are cut, refused, repeated, reordered; requests that fail |
//! | `away` | the API is gone, or not there at the start: what goes on, and what is said |
//! | `access` | who may ask: tokens, authorities, contexts |
//! | `storm` | all of that at once, again and again: what is enforced in the end is what the API has |
//! | `scale` | large clusters: the time to the first table, memory |
//! | `rights` | what the ClusterRole of `deploy/` allows, and what happens without |

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod access;
mod away;
mod faults;
mod rights;
mod scale;
mod storm;
#[path = "../support/mod.rs"]
mod support;
mod sync;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use support::{Control, Dataplane, PODS, World};
use weir_apiserver::{ApiServer, Key, Kind, Settings};
use weir_control::record::{self, SourceRecord};
use weir_table::SOCKET_FILE;
use weir_table::cni::PodRef;
use weir_table::publish::{Attached, News};

/// Some of what is waited for takes several failures and the pauses between them.
pub const PATIENCE: Duration = Duration::from_secs(90);

pub const SHOP: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";

pub const WEB: &str = "10.0.0.1";
pub const CLIENT: &str = "10.0.0.2";
/// Of `MORE`.
pub const OTHER: &str = "10.0.0.3";

/// The kinds that are followed.
pub const KINDS: [Kind; 6] = [
    Kind::Namespace,
    Kind::NetworkPolicy,
    Kind::Pod,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::Node,
];

/// What the CNI plugin says of a pod.
pub fn attached(ticket: u64, name: &str, address: &str) -> News {
    News::Attached(Attached {
        ticket,
        pod: PodRef { namespace: "shop".into(), name: name.into(), uid: None },
        addresses: vec![address.parse().unwrap()],
        host_ports: Vec::new(),
    })
}

/// A server, and the two folders of a node. Fields end in this order: the process before the
/// server, which complains of what it was asked when it ends.
pub struct Cluster {
    pub control: Option<Control>,
    pub dataplane: Dataplane,
    pub server: ApiServer,
    pub world: World,
}

impl Cluster {
    /// A namespace with two pods, and nobody who follows it yet.
    pub fn unfollowed() -> Self {
        Self::with(Settings::default())
    }

    pub fn with(settings: Settings) -> Self {
        let (world, server) = (World::new(), ApiServer::start(settings).unwrap());
        server.apply_yaml(SHOP).unwrap();
        server.apply_yaml(PODS).unwrap();
        let dataplane = Dataplane::start(&world.run, 0);
        Self { control: None, dataplane, server, world }
    }

    /// One that is followed, and whose two pods are in force.
    pub fn followed() -> Self {
        let mut cluster = Self::unfollowed();
        cluster.follow(&[]);
        cluster.until(CLIENT, WEB, true);
        cluster.until_watched();
        cluster
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.world.folder.join("kubeconfig")
    }

    /// Writes how to reach the server, as somebody who has that token.
    pub fn introduce(&self, token: Option<&str>) {
        let path = self.kubeconfig();
        let aside = path.with_extension("new");
        fs::write(&aside, self.server.kubeconfig(token)).unwrap();
        fs::rename(aside, path).unwrap();
    }

    /// Starts a control process; without a kubeconfig, with one that needs no token.
    pub fn follow(&mut self, more: &[&str]) {
        if !self.kubeconfig().exists() {
            self.introduce(None);
        }
        let (socket, path) = (self.world.run.join(SOCKET_FILE), self.kubeconfig());
        let args = [&["--kubeconfig", path.to_str().unwrap()], more].concat();
        self.control = Some(Control::from_source("kube", &socket, &args));
    }

    pub fn control(&mut self) -> &mut Control {
        self.control.as_mut().unwrap()
    }

    pub fn apply(&self, manifests: &str) -> u64 {
        self.server.apply_yaml(manifests).unwrap()
    }

    pub fn delete(&self, kind: Kind, name: &str) {
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        self.server.delete(kind, &Key::new(namespace, name)).unwrap();
    }

    /// Waits until each kind has a watch.
    pub fn until_watched(&self) {
        for kind in KINDS {
            assert!(self.server.wait_for_watches(kind, 1, PATIENCE), "{kind:?} is not watched");
        }
    }

    /// Waits until there were so many requests of that sort.
    pub fn until_asked(&self, verb: &str, kind: Kind, count: usize) {
        let asked = self.server.wait_until_asked(verb, kind, count, PATIENCE);
        assert!(asked, "{verb} {kind:?}: {} times", self.server.asked(verb, kind));
    }

    /// Serves the dataplane until the verdict is so.
    pub fn until(&mut self, src: &str, dst: &str, allowed: bool) {
        let end = Instant::now() + PATIENCE;
        while !self.dataplane.has_table() || self.dataplane.allows(src, dst) != allowed {
            assert!(Instant::now() < end, "{src} → {dst} never became {allowed}");
            self.dataplane.poll(Duration::from_millis(5));
        }
    }

    /// The same without a new table: what is in force is changed in its place.
    pub fn until_in_place(&mut self, src: &str, dst: &str, allowed: bool) {
        let end = Instant::now() + PATIENCE;
        while self.dataplane.allows(src, dst) != allowed {
            assert!(Instant::now() < end, "{src} → {dst} never became {allowed}");
            let published = self.dataplane.poll(Duration::from_millis(5));
            assert_eq!(published, None, "a generation instead of a change in place");
        }
    }

    pub fn allows(&self, src: &str, dst: &str) -> bool {
        self.dataplane.allows(src, dst)
    }

    /// Serves the dataplane until the record says so of the source. Nothing is published meanwhile.
    pub fn until_source(&mut self, is: impl Fn(&SourceRecord) -> bool) -> SourceRecord {
        let end = Instant::now() + PATIENCE;
        loop {
            let record = record::read(&self.world.run).unwrap();
            let health = record.and_then(|(record, _)| record.source_health);
            if let Some(health) = health.as_ref().filter(|health| is(health)) {
                return health.clone();
            }
            assert!(Instant::now() < end, "{health:?}");
            assert_eq!(self.dataplane.poll(Duration::from_millis(20)), None);
        }
    }

    /// How often each kind was listed from the beginning.
    pub fn lists(&self) -> [usize; 6] {
        let requests = self.server.requests();
        KINDS.map(|kind| {
            let is = |verb: &str, resource: &str, query: &str| {
                verb == "list" && resource == kind.plural() && !query.contains("continue=")
            };
            requests.iter().filter(|r| is(&r.verb, &r.resource, &r.query)).count()
        })
    }

    /// Ends the process as an operator does.
    pub fn stop(mut self) {
        self.control.take().unwrap().stop(rustix::process::Signal::TERM);
    }
}
