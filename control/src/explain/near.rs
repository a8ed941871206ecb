//! The nearest miss: which rule comes closest to letting a connection pass, and what it lacks.
//!
//! The classifier has said no; here the objects are asked why. For each rule of each policy that
//! selects the end, and for each of the rule's peers, the conditions that fail are collected. Fewer
//! are nearer; of equals, those that something can be done about come first, then the order of
//! policies and rules.
//!
//! Every condition carries a [`Fix`]: what would make it hold, as data. If all fixes of a
//! [`NearMiss`] are applied, that rule lets the connection pass on this side; a property test holds
//! this against the oracle.

use std::net::IpAddr;

use ipnet::IpNet;

use super::ends::{Ends, Holder, holder};
use super::peer::peer_misses;
use super::port::port_misses;
use crate::index::{Index, Owner};
use crate::model::{Direction, LabelSelector, NetworkPolicy, ObjectKey, Origin, Pod, Protocol};
use crate::oracle::Traffic;

/// A question about one side of a connection, with what the objects know of it.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The objects.
    pub index: &'a Index,
    /// Which side.
    pub direction: Direction,
    /// The end that is isolated.
    pub this: &'a Pod,
    /// The other end's address.
    pub peer_address: IpAddr,
    /// The other end, if it is a pod that selectors can match.
    pub peer: Option<&'a Pod>,
    /// What is sent.
    pub traffic: Traffic,
    /// Who has the other end's address.
    pub(super) peer_is: Holder<'a>,
}

impl<'a> Question<'a> {
    /// A question about the side of the pod `this`, which policies must concern.
    pub fn new(
        index: &'a Index,
        direction: Direction,
        this: &'a Pod,
        peer_address: IpAddr,
        traffic: Traffic,
    ) -> Self {
        let peer = (peer_address, holder(index, peer_address));
        Self::about(index, direction, this, peer, traffic)
    }

    /// The side of a connection whose ends are known already; `None` if its end is no pod that
    /// policies concern.
    pub(super) fn of(ends: &Ends<'a>, direction: Direction, traffic: Traffic) -> Option<Self> {
        let (this, peer) = match direction {
            Direction::Ingress => (ends.destination, ends.source),
            Direction::Egress => (ends.source, ends.destination),
        };
        match this {
            (_, Holder::Pod(pod)) => Some(Self::about(ends.index, direction, pod, peer, traffic)),
            _ => None,
        }
    }

    fn about(
        index: &'a Index,
        direction: Direction,
        this: &'a Pod,
        (peer_address, peer_is): (IpAddr, Holder<'a>),
        traffic: Traffic,
    ) -> Self {
        let peer = match peer_is {
            Holder::Pod(pod) => Some(pod),
            _ => None,
        };
        Self { index, direction, this, peer_address, peer, traffic, peer_is }
    }
}

/// What would make a condition hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fix {
    /// To send to one of these ports instead; each of them will do.
    Traffic(Vec<(Protocol, u16)>),
    /// To name a port of a pod.
    PortName {
        /// The destination.
        pod: ObjectKey,
        /// The name that the rule uses.
        name: String,
        /// The rule's protocol.
        protocol: Protocol,
        /// The port asked for.
        port: u16,
    },
    /// To set a pod's label, or to take it away.
    PodLabel(ObjectKey, String, Option<String>),
    /// To set a namespace's label, or to take it away.
    NamespaceLabel(String, String, Option<String>),
    /// To change the rule.
    Edit(Edit),
    /// Nothing that can be said in general.
    Nothing,
}

/// A change of a rule or of its peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// To add a peer for this block.
    AddBlock(IpNet),
    /// To leave these out of the peer's `except`.
    DropExcept(Vec<IpNet>),
    /// To leave `ports` out.
    DropPorts,
    /// To give the peer this namespaceSelector.
    NamespaceSelector(LabelSelector),
}

/// A condition that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Miss {
    /// As a clause that can stand beside others: `namespace ns2 lacks team=a`.
    pub text: String,
    /// As a clause of its own, if that is better: `would pass on TCP/8080`.
    pub alone: Option<String>,
    /// What would make it hold.
    pub fix: Fix,
}

impl Miss {
    /// A condition with its fix.
    pub(super) fn new(text: impl Into<String>, fix: Fix) -> Self {
        Self { text: text.into(), alone: None, fix }
    }
}

/// A rule that does not match, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NearMiss {
    /// Its policy.
    pub policy: ObjectKey,
    /// Its direction's list and its position there.
    pub rule: (Direction, usize),
    /// The peer that is meant, by position; `None` if the rule has none.
    pub peer: Option<usize>,
    /// The path of rule or peer.
    pub path: String,
    /// File and line of rule or peer.
    pub origin: Origin,
    /// What fails; at least one condition.
    pub misses: Vec<Miss>,
}

impl NearMiss {
    /// How far away: conditions that fail, and of these the ones without a remedy.
    fn distance(&self) -> (usize, usize) {
        let hopeless = self.misses.iter().filter(|miss| miss.fix == Fix::Nothing).count();
        (self.misses.len(), hopeless)
    }

    /// What fails, in words.
    pub fn text(&self) -> String {
        match &self.misses[..] {
            [miss] => miss.alone.as_ref().unwrap_or(&miss.text).clone(),
            misses => {
                let texts: Vec<&str> = misses.iter().map(|miss| miss.text.as_str()).collect();
                format!("{} conditions fail: {}", misses.len(), texts.join("; "))
            }
        }
    }
}

/// Every rule that might have matched, the nearest first.
pub fn near_misses(question: &Question<'_>) -> Vec<NearMiss> {
    let mut found = Vec::new();
    for policy in selecting(question.index, question.direction, question.this) {
        for rule in policy.rules(question.direction) {
            let ports = port_misses(question, rule);
            let peers: Vec<Option<usize>> = match rule.peers.len() {
                0 => vec![None],
                count => (0..count).map(Some).collect(),
            };
            for peer in peers {
                let item = peer.and_then(|peer| rule.peers.get(peer));
                let mut misses =
                    item.map(|item| peer_misses(question, policy, &item.peer)).unwrap_or_default();
                misses.extend(ports.iter().cloned());
                let line = item.map_or(rule.line, |item| item.line);
                found.push(NearMiss {
                    policy: policy.key.clone(),
                    rule: (question.direction, rule.position),
                    peer,
                    path: rule.path(question.direction, peer),
                    origin: Origin { line, ..policy.origin.clone() },
                    misses,
                });
            }
        }
    }
    found.retain(|near| !near.misses.is_empty());
    found.sort_by_key(NearMiss::distance);
    found
}

/// The policies that isolate a pod in a direction, in their order.
pub fn selecting<'a>(
    index: &'a Index,
    direction: Direction,
    pod: &'a Pod,
) -> impl Iterator<Item = &'a NetworkPolicy> {
    index.policies().filter(move |policy| {
        policy.key.namespace == pod.key.namespace
            && policy.isolates(direction)
            && super::peer::failing(&policy.pod_selector, &pod.labels).is_empty()
    })
}

/// The nearest ones that are worth saying: the first, and a second that is as near.
pub fn nearest(mut all: Vec<NearMiss>) -> Vec<NearMiss> {
    let Some(distance) = all.first().map(NearMiss::distance) else { return all };
    let mut said = std::collections::BTreeSet::new();
    all.retain(|near| near.distance() == distance && said.insert(near.text()));
    all.truncate(2);
    all
}

/// The pod at an address, if exactly one owns it and selectors can match it.
pub fn pod_at(index: &Index, address: IpAddr) -> Option<&Pod> {
    match index.owner(&address) {
        Some(Owner::Pod(pod)) => Some(pod),
        _ => None,
    }
}
