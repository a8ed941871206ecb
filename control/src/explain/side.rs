//! One end of a connection: its verdict in sentences.

use std::net::IpAddr;

use weir_table::classify::{Classifier, Connection};
use weir_table::mem::Words;
use weir_table::policy::Verdict;

use super::ends::{Ends, Holder};
use super::near::{NearMiss, Question, near_misses, nearest};
use super::port::matching_port;
use super::{Nearest, SideWhy, ends, traffic_of};
use crate::eval::{SideAnswer, side_answer};
use crate::model::{Direction, NetworkPolicy, ObjectKey, Origin, Rule};

/// What is looked at.
pub(super) struct View<'a, B, W> {
    /// The table in force.
    pub classifier: &'a Classifier<B, W>,
    /// What the objects know of both ends, if there are objects.
    pub ends: Option<Ends<'a>>,
    /// Which side.
    pub direction: Direction,
    /// The connection.
    pub connection: &'a Connection,
    /// This end's name and address.
    pub name: &'a str,
    /// The other end's.
    pub peer: &'a str,
}

impl<B: AsRef<[u8]>, W: Words> View<'_, B, W> {
    pub(super) fn explain(&self, verdict: Verdict) -> SideWhy {
        let table = self.classifier.table();
        let own = self.connection.src == self.connection.dst;
        let (this, _) = self.addresses();
        let class = self.classifier.class_of(this.into());
        let program = table.programs(class).map(|(ingress, egress)| match self.direction {
            Direction::Ingress => ingress,
            Direction::Egress => egress,
        });
        let answer = side_answer(table, program.filter(|_| !own), verdict);
        let selected_by: Vec<String> = program
            .map(|program| table.isolating(program).map(str::to_owned).collect())
            .unwrap_or_default();
        let source = self.locate(&answer).map(|origin| origin.to_string());
        let why = match own {
            true if self.classifier.is_pod(this.into()) => {
                "allowed: a pod always reaches itself".to_owned()
            }
            true => "allowed: source and destination are the same address".to_owned(),
            false => self.sentence(verdict, &answer, &selected_by, source.as_deref()),
        };
        let denied = answer.verdict == "deny" && answer.policy.is_some();
        SideWhy {
            verdict: answer.verdict,
            policy: answer.policy,
            rule: answer.rule,
            source,
            nearest: if denied { self.nearest() } else { Vec::new() },
            without_effect: if denied { self.without_effect(&selected_by) } else { Vec::new() },
            selected_by,
            why,
        }
    }

    /// This end's address and the other's.
    fn addresses(&self) -> (IpAddr, IpAddr) {
        let (src, dst) = (self.connection.src.to_ip(), self.connection.dst.to_ip());
        match self.direction {
            Direction::Ingress => (dst, src),
            Direction::Egress => (src, dst),
        }
    }

    fn question(&self) -> Option<Question<'_>> {
        Question::of(self.ends.as_ref()?, self.direction, traffic_of(self.connection))
    }

    /// Who has this end's address.
    fn holder(&self) -> Option<Holder<'_>> {
        self.ends.as_ref().map(|ends| match self.direction {
            Direction::Ingress => ends.destination.1,
            Direction::Egress => ends.source.1,
        })
    }

    fn sentence(
        &self,
        verdict: Verdict,
        answer: &SideAnswer,
        selected_by: &[String],
        source: Option<&str>,
    ) -> String {
        let Self { name, peer, direction, .. } = self;
        let (this, _) = self.addresses();
        let at = source.map(|source| format!(" ({source})")).unwrap_or_default();
        match (&answer.rule, &answer.policy) {
            (Some(rule), Some(policy)) => {
                let verb = if verdict.is_allow() { "allowed" } else { "denied" };
                let (port, others) =
                    (self.port_text(policy, rule), self.others(selected_by, policy));
                format!("{verb} by {rule} of NetworkPolicy {policy}{at}{port}{others}")
            }
            _ if verdict == Verdict::DENY_BAD_CLASS => format!(
                "denied: the table does not know the class of {name}; a new generation is due"
            ),
            _ if verdict.is_allow() && self.classifier.is_pod(this.into()) => {
                format!("allowed: {name} is selected by no policy for {direction}")
            }
            _ if verdict.is_allow() => {
                format!("allowed: {name} {}", ends::unrestricted(self.holder()))
            }
            (None, Some(_)) => {
                let policies = self.named(selected_by.iter());
                format!(
                    "denied: {name} is isolated for {direction} by NetworkPolicy {policies}, and \
                     none of {} {direction} rules matches {peer}",
                    if selected_by.len() == 1 { "its" } else { "their" }
                )
            }
            _ => format!(
                "denied: {name} is isolated in both directions: {}",
                ends::contested(self.ends, (this, self.holder().unwrap_or(Holder::Unknown)))
            ),
        }
    }

    /// `ns/a (a.yaml:3), ns/b (b.yaml:1)`; without objects the names alone.
    fn named<'s>(&self, names: impl Iterator<Item = &'s String>) -> String {
        let one = |name: &String| match self.policy(name) {
            Some(policy) => format!("{name} ({})", policy.origin),
            None => name.clone(),
        };
        names.map(one).collect::<Vec<String>>().join(", ")
    }

    fn others(&self, selected_by: &[String], policy: &str) -> String {
        let others = self.named(selected_by.iter().filter(|other| *other != policy));
        if others.is_empty() { others } else { format!("; also selected by {others}") }
    }

    fn policy(&self, name: &str) -> Option<&NetworkPolicy> {
        let (namespace, name) = name.split_once('/')?;
        self.ends.as_ref()?.index.policy(&ObjectKey::new(namespace, name))
    }

    fn rule(&self, policy: &str, path: &str) -> Option<(&NetworkPolicy, &Rule)> {
        let policy = self.policy(policy)?;
        let of_path = |rule: &&Rule| {
            let peers = (0..rule.peers.len()).map(Some);
            std::iter::once(None).chain(peers).any(|peer| rule.path(self.direction, peer) == path)
        };
        Some((policy, policy.rules(self.direction).iter().find(of_path)?))
    }

    /// Where the rule that decided is written; if none did, where the policy is.
    fn locate(&self, answer: &SideAnswer) -> Option<Origin> {
        let name = answer.policy.as_deref()?;
        let Some(path) = answer.rule.as_deref() else {
            return Some(self.policy(name)?.origin.clone());
        };
        let (policy, rule) = self.rule(name, path)?;
        let peers = (0..).zip(&rule.peers);
        let line = peers
            .filter(|(i, _)| rule.path(self.direction, Some(*i)) == path)
            .map(|(_, peer)| peer.line)
            .next();
        Some(Origin { line: line.unwrap_or(rule.line), ..policy.origin.clone() })
    }

    /// Which of the rule's ports matched, if it has any: `, on its ports[1] (web.yaml:14)`.
    fn port_text(&self, policy: &str, path: &str) -> String {
        let text = || {
            let (policy, rule) = self.rule(policy, path)?;
            let position = matching_port(&self.question()?, rule)?;
            let line = rule.ports.get(position)?.line;
            let origin = Origin { line, ..policy.origin.clone() };
            Some(format!(", on its ports[{position}] ({origin})"))
        };
        text().unwrap_or_default()
    }

    fn nearest(&self) -> Vec<Nearest> {
        let Some(question) = self.question() else { return Vec::new() };
        let say = |near: NearMiss| Nearest {
            policy: near.policy.to_string(),
            rule: near.path.clone(),
            source: near.origin.to_string(),
            lacks: near.text(),
        };
        nearest(near_misses(&question)).into_iter().map(say).collect()
    }

    /// The selecting policies and their rules that allow nothing to anybody.
    fn without_effect(&self, selected_by: &[String]) -> Vec<String> {
        let mut texts = Vec::new();
        for policy in selected_by.iter().filter_map(|name| self.policy(name)) {
            let key = &policy.key;
            let field = self.direction.field();
            for fault in &policy.faults {
                let what = match fault.rule {
                    _ if policy.refused => format!(
                        "NetworkPolicy {key} is refused as invalid: it isolates and allows nothing"
                    ),
                    Some((direction, position)) if direction == self.direction => format!(
                        "{} of NetworkPolicy {key} is refused as invalid and allows nothing",
                        Rule::path_at(direction, position, None)
                    ),
                    _ => continue,
                };
                let at = Origin { line: fault.line, ..policy.origin.clone() };
                let of = if fault.field.is_empty() { "" } else { ": " };
                texts.push(format!("{what}{of}{}: {} ({at})", fault.field, fault.message));
            }
            let any_written = !policy.refused_rules(self.direction).is_empty();
            if !policy.refused && !any_written && policy.rules(self.direction).is_empty() {
                texts.push(format!(
                    "NetworkPolicy {key} isolates for {field} and has no {field} rules: it allows \
                     nothing ({})",
                    policy.origin
                ));
            }
        }
        texts
    }
}
