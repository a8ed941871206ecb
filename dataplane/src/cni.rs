//! Serving the CNI plugin: a thread that takes what it says, and answers once that is enforced.
//!
//! It never waits for one pod: requests that have come together are taken in together (one look
//! at the node, one change of what workers know), and each is answered when it is due, in any
//! order. A request that is sent twice means the same as once.
//!
//! Fails closed: what cannot be verified is refused, what is not settled in time is said to be
//! pending, and an interface is held, with its hooks on, from the moment that it is taken in.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use weir_table::cni::{
    Answer, Attachment, Event, Incoming, MAX_CONNECTIONS, Refusal, Request, RequestId, Server,
};

use crate::clock;
use crate::daemon::lock;
use crate::discover::{Discovery, NodeSide};
use crate::netns::NetNs;
use crate::node::Node;
use crate::placements::{Bells, Placements, Progress, enforced};
use crate::pods::{Admission, Arrival, Pods};
use crate::words::Said;

/// How long the thread waits before it looks whether to stop.
const POLL: Duration = Duration::from_millis(200);
/// Between two looks at an address that another interface still has.
const RETRY: Duration = Duration::from_millis(20);
/// How long such an interface may take to go: plugins give an address back a moment before they
/// delete the interface that had it.
const GOES_WITHIN: Duration = Duration::from_secs(1);

/// The thread's state.
pub struct Plugins {
    server: Server,
    runtime: Runtime,
    discovery: Discovery,
    pods: Arc<Mutex<Pods>>,
    node: Arc<Node>,
    bells: Arc<Bells>,
    stop: Arc<AtomicBool>,
    placements: Placements,
    /// Whose address another interface still has: when they came.
    blocked: Vec<(Instant, Box<Incoming>)>,
}

/// An `add` or `check` whose interface was found.
struct Found {
    id: RequestId,
    since: Instant,
    arrival: Arrival,
}

impl Plugins {
    /// Takes the socket over. Must be called in the node's network namespace.
    ///
    /// # Errors
    /// When netlink is not to be had.
    pub fn new(
        server: Server,
        discovery: impl FnOnce() -> std::io::Result<Discovery>,
        (pods, node): (Arc<Mutex<Pods>>, Arc<Node>),
        bells: Arc<Bells>,
        stop: Arc<AtomicBool>,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let discovery = runtime
            .block_on(async { discovery() })
            .context("cannot look at pods' interfaces for the CNI plugin")?;
        let (placements, blocked) = (Placements::default(), Vec::new());
        Ok(Self { server, runtime, discovery, pods, node, bells, stop, placements, blocked })
    }

    /// Serves until stopped.
    ///
    /// # Errors
    /// When the listening socket fails.
    pub fn serve(mut self) -> Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            let requests = self.gather()?;
            self.take(requests);
            self.answer_those_due();
        }
        Ok(())
    }

    /// Waits, and gives the requests that have come together; those that are blocked as well.
    fn gather(&mut self) -> Result<Vec<(Instant, Box<Incoming>)>> {
        let now = Instant::now();
        let until = self.placements.next_deadline().map(|at| at.saturating_duration_since(now));
        let mut wait = POLL.min(until.unwrap_or(POLL));
        if !self.blocked.is_empty() {
            wait = wait.min(RETRY);
        }
        let mut requests = Vec::new();
        let bell = Arc::clone(&self.bells);
        while requests.len() < MAX_CONNECTIONS {
            let before = self.server.connections();
            let event = self.server.poll(Some(bell.plugin.as_fd()), wait)?;
            // Somebody has connected and will ask in a moment; else nothing has happened.
            if event.is_none() && self.server.connections() == before {
                break;
            }
            wait = Duration::ZERO;
            match event {
                None => {}
                Some(Event::Request(incoming)) => requests.push((Instant::now(), incoming)),
                Some(Event::Gone(id)) => {
                    self.placements.forget(id);
                    self.blocked.retain(|(_, incoming)| incoming.id != id);
                    requests.retain(|(_, incoming)| incoming.id != id || !is_add(incoming));
                }
                Some(Event::Refused { reason }) => {
                    tracing::warn!(reason, "refused a request of the CNI plugin");
                }
                Some(Event::Woken) => bell.plugin.quiet(),
            }
        }
        requests.append(&mut self.blocked);
        Ok(requests)
    }

    /// Deals with requests: first what frees addresses, then what takes them.
    fn take(&mut self, requests: Vec<(Instant, Box<Incoming>)>) {
        let (mut adds, mut checks, mut dels) = (Vec::new(), Vec::new(), Vec::new());
        for (since, incoming) in requests {
            match &incoming.request {
                Request::Add(_) => adds.push((since, incoming)),
                Request::Check(_) => checks.push((since, incoming)),
                Request::Del { id } => dels.push((incoming.id, id.clone())),
                Request::Gc { network, valid, .. } => {
                    let removed = lock(&self.pods).keep_only(network, valid);
                    self.server.answer(incoming.id, &Answer::Done { removed });
                }
                Request::Status => {
                    let answer = self.readiness();
                    self.server.answer(incoming.id, &answer);
                }
            }
        }
        if !dels.is_empty() {
            let removed = lock(&self.pods).withdraw(dels.iter().map(|(_, id)| id));
            for ((request, _), removed) in dels.into_iter().zip(removed) {
                self.server.answer(request, &Answer::Done { removed });
            }
        }
        if adds.is_empty() && checks.is_empty() {
            return;
        }
        let node = match self.runtime.block_on(self.discovery.node_side()) {
            Ok(node) => node,
            Err(error) => {
                tracing::error!(%error, "cannot look at the node's devices for the CNI plugin");
                let words = format!("the node's devices cannot be listed: {error}");
                for (_, incoming) in adds.iter().chain(&checks) {
                    self.refuse(incoming.id, Refusal::Other, words.clone());
                }
                return;
            }
        };
        self.add(adds, &node);
        for (since, incoming) in checks {
            if let Some(found) = self.find(since, &incoming, &node) {
                let answer = self.check(&found);
                self.server.answer(found.id, &answer);
            }
        }
    }

    fn add(&mut self, adds: Vec<(Instant, Box<Incoming>)>, node: &NodeSide) {
        let (mut found, mut requests) = (Vec::new(), Vec::new());
        for (since, incoming) in adds {
            if let Some(one) = self.find(since, &incoming, node) {
                found.push(one.arrival);
                requests.push((since, incoming));
            }
        }
        if found.is_empty() {
            return;
        }
        let admissions = lock(&self.pods).admit(found, node);
        for ((since, incoming), admission) in requests.into_iter().zip(admissions) {
            match admission {
                Admission::Attached(ticket) => {
                    self.placements.wait(incoming.id, ticket, since, incoming.deadline);
                }
                Admission::AddressTaken(words) => {
                    let now = Instant::now();
                    if since + GOES_WITHIN <= now || incoming.deadline <= now {
                        self.refuse(incoming.id, Refusal::AddressTaken, words);
                    } else {
                        self.blocked.push((since, incoming));
                    }
                }
                Admission::Refused(code, words) => self.refuse(incoming.id, code, words),
            }
        }
    }

    /// Finds the interface that a request is about; refuses the request if it is none that
    /// could be enforced.
    fn find(&mut self, since: Instant, incoming: &Incoming, node: &NodeSide) -> Option<Found> {
        let (Request::Add(attachment) | Request::Check(attachment)) = &incoming.request else {
            return None;
        };
        match self.look_into(attachment, incoming, node) {
            Ok(arrival) => Some(Found { id: incoming.id, since, arrival }),
            Err((code, words)) => {
                self.refuse(incoming.id, code, words);
                None
            }
        }
    }

    fn look_into(
        &mut self,
        attachment: &Attachment,
        incoming: &Incoming,
        node: &NodeSide,
    ) -> Result<Arrival, (Refusal, String)> {
        let addresses = addresses_of(attachment).map_err(|words| (Refusal::BadRequest, words))?;
        let ifname = &attachment.id.ifname;
        let netns = incoming.netns.as_ref().and_then(|(_, fd)| fd.try_clone().ok());
        let netns = netns.ok_or_else(|| {
            (Refusal::Other, "there is no descriptor left for the namespace".to_owned())
        })?;
        let netns = NetNs::from(netns);
        let name = attachment.netns.rsplit('/').next().unwrap_or_default();
        let found = self.runtime.block_on(self.discovery.bindings_of(node, &netns, name)).map_err(
            |error| {
                (Refusal::NoDevice, format!("the pod's namespace cannot be looked into: {error}"))
            },
        )?;
        let Some(binding) = found.into_iter().find(|binding| binding.interface == *ifname) else {
            let words = format!(
                "{ifname} of {name} is no veth whose other end is on this node; Weir enforces at \
                 that end, so plugins such as bridge and ptp will do, and ipvlan, macvlan or \
                 SR-IOV will not"
            );
            return Err((Refusal::NoDevice, words));
        };
        let said = Said {
            ifindex: binding.ifindex,
            id: attachment.id.clone(),
            pod: attachment.pod.clone(),
            addresses,
            host_ports: attachment.host_ports.clone(),
        };
        Ok(Arrival { said, binding })
    }

    fn check(&self, found: &Found) -> Answer {
        let Found { since, arrival, .. } = found;
        match lock(&self.pods).check(&arrival.said, &arrival.binding) {
            Err(words) => Answer::Refused { code: Refusal::Differs, words },
            Ok(Progress::Enforced(settlement)) => enforced(settlement, since.elapsed()),
            Ok(Progress::Waiting(waiting_for, words)) => Answer::Pending { waiting_for, words },
            Ok(Progress::Over) => {
                let words = "it was withdrawn".to_owned();
                Answer::Refused { code: Refusal::Differs, words }
            }
        }
    }

    /// Whether an `add` could be served.
    fn readiness(&self) -> Answer {
        let not_ready =
            |limited, words: &str| Answer::NotReady { limited, words: words.to_owned() };
        if !lock(&self.pods).config().has_live_worker(clock::monotonic_ns()) {
            return not_ready(true, "no worker gives signs of life");
        }
        if self.node.said_at().is_none() {
            return not_ready(false, "no policy table is in force yet; is weir-control running?");
        }
        Answer::Ready
    }

    fn refuse(&mut self, id: RequestId, code: Refusal, words: String) {
        tracing::warn!(?code, words, "refused a request of the CNI plugin");
        self.server.answer(id, &Answer::Refused { code, words });
    }

    fn answer_those_due(&mut self) {
        if self.placements.is_empty() {
            return;
        }
        let pods = lock(&self.pods);
        let due = self.placements.due(Instant::now(), |ticket| pods.progress(ticket));
        drop(pods);
        for (id, answer) in due {
            if let Answer::Pending { waiting_for, words } = &answer {
                tracing::warn!(?waiting_for, words, "a pod is not enforced in time: it is cut off");
            }
            self.server.answer(id, &answer);
        }
    }
}

fn is_add(incoming: &Incoming) -> bool {
    matches!(incoming.request, Request::Add(_) | Request::Check(_))
}

/// The addresses of an attachment that can be a pod's own: link-local ones are left out, as they
/// are of every interface.
fn addresses_of(attachment: &Attachment) -> Result<Vec<IpAddr>, String> {
    let mut addresses = Vec::new();
    for &address in &attachment.addresses {
        let odd = address.is_unspecified()
            || address.is_loopback()
            || address.is_multicast()
            || matches!(address, IpAddr::V4(four) if four.is_broadcast())
            || matches!(address, IpAddr::V6(six) if six.to_ipv4_mapped().is_some());
        if odd {
            return Err(format!("{address} cannot be a pod's address"));
        }
        let link_local = matches!(address, IpAddr::V6(six) if six.is_unicast_link_local());
        if !link_local && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use weir_table::cni::AttachmentId;

    use super::*;

    fn given(addresses: &[&str]) -> Result<Vec<IpAddr>, String> {
        let id = AttachmentId { network: "n".into(), container: "c".into(), ifname: "eth0".into() };
        addresses_of(&Attachment {
            id,
            netns: "/run/netns/x".into(),
            pod: None,
            host: Vec::new(),
            mac: None,
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            host_ports: Vec::new(),
        })
    }

    #[test]
    fn only_what_can_be_a_pods_own_address_is_taken() {
        let own = ["10.0.0.7", "fd00::7", "169.254.1.1"];
        let taken = given(&[&own[..], &["fe80::7", "10.0.0.7"]].concat()).unwrap();
        assert_eq!(taken, own.map(|a| a.parse::<IpAddr>().unwrap()), "each once");
        assert_eq!(given(&[]), Ok(Vec::new()));
        for odd in [
            "0.0.0.0",
            "127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
            "::ffff:10.0.0.7",
        ] {
            let refused = given(&["10.0.0.7", odd]).unwrap_err();
            assert!(refused.contains("cannot be a pod's address"), "{odd}: {refused}");
        }
    }
}
