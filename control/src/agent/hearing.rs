//! What the dataplane tells, taken into the index: which interfaces the CNI plugin has made, and
//! which are cut off.
//!
//! A dataplane that starts anew, or is connected to anew, tells everything from the beginning.
//! Until it has told it all, what was known before stands as well: an interface that is told later
//! must not lose its address meanwhile.
//!
//! Pure: news in, changes out.

use std::collections::{BTreeMap, BTreeSet};

use weir_table::cni::PodRef;
use weir_table::publish::{CutOff, News, NotEnforced};

use crate::index::{Changes, Index};
use crate::model::{Complaint, Effect, Origin, Severity};
use crate::publisher::Heard;

/// Where complaints say that they come from that are not about what was read.
const ORIGIN: &str = "weir-dataplane";

/// What was heard.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    /// The connection that is being listened to.
    session: u64,
    /// The last one over which everything was told.
    complete: u64,
    /// Up to which ticket.
    last: u64,
    /// What has been told over this connection, until it is everything.
    tickets: BTreeSet<u64>,
    troubles: BTreeMap<u32, NotEnforced>,
}

impl Hearing {
    /// Takes news in, each with the number of its connection.
    pub(super) fn take(&mut self, index: &mut Index, news: Vec<(u64, News)>) -> Changes {
        let mut changes = Changes::default();
        for (session, news) in news {
            if session < self.session {
                continue;
            }
            if session > self.session {
                self.session = session;
                self.tickets.clear();
                self.troubles.clear();
            }
            changes = changes.and(self.hear(index, news));
        }
        changes
    }

    fn hear(&mut self, index: &mut Index, news: News) -> Changes {
        let is_complete = self.complete == self.session;
        match news {
            News::Attached(word) => {
                if is_complete {
                    self.last = self.last.max(word.ticket);
                } else {
                    self.tickets.insert(word.ticket);
                }
                index.attach(word)
            }
            News::Detached { ticket } => {
                self.tickets.remove(&ticket);
                index.detach(ticket)
            }
            News::AllAttached { last } => {
                (self.complete, self.last) = (self.session, last);
                index.retain_words(&std::mem::take(&mut self.tickets))
            }
            News::NotEnforced(trouble) => {
                self.troubles.insert(trouble.ifindex, trouble);
                Changes::default()
            }
            News::Cleared { ifindex } => {
                self.troubles.remove(&ifindex);
                Changes::default()
            }
        }
    }

    /// What an index means for what was heard.
    pub(super) fn heard(&self, index: &Index) -> Heard {
        let settlement = index.settlement();
        Heard {
            session: self.complete,
            last: self.last,
            settled: settlement.settled,
            waiting: settlement.waiting,
        }
    }

    /// Interfaces that are cut off, as complaints about their pods where these are known.
    pub(super) fn complaints(&self, index: &Index) -> Vec<Complaint> {
        self.troubles.values().map(|trouble| complaint(trouble, index)).collect()
    }
}

fn complaint(trouble: &NotEnforced, index: &Index) -> Complaint {
    let NotEnforced { device, netns, pod, addresses, reason, words, .. } = trouble;
    let claims = || index.pods().find(|p| p.addresses.iter().any(|a| addresses.contains(a)));
    let object = match pod {
        Some(PodRef { namespace, name, .. }) => format!("Pod {namespace}/{name}"),
        None => claims().map(|pod| format!("Pod {}", pod.key)).unwrap_or_default(),
    };
    let (severity, effect, consequence) = match reason {
        CutOff::Hooks => {
            (Severity::Refused, Effect::NotEnforced, "no policy acts on this interface")
        }
        CutOff::Mtu => (Severity::Warning, Effect::Nothing, "larger packets are lost"),
        CutOff::AddressTaken | CutOff::NoWord | CutOff::Other => {
            (Severity::Refused, Effect::Closed, "the interface is isolated in both directions")
        }
    };
    Complaint {
        severity,
        effect,
        origin: Origin { file: ORIGIN.into(), line: 0 },
        object,
        field: String::new(),
        message: format!("interface {device} (namespace {netns}): {words}"),
        consequence: consequence.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use weir_table::publish::Attached;

    use super::*;
    use crate::model::{Object, Pod};

    fn attached(ticket: u64) -> News {
        let name = format!("p{ticket}");
        News::Attached(Attached {
            ticket,
            pod: PodRef { namespace: "ns".into(), name, uid: None },
            addresses: vec![[10, 0, 0, u8::try_from(ticket).unwrap()].into()],
            host_ports: Vec::new(),
        })
    }

    fn index() -> Index {
        Index::of((1..10).map(|n| Object::Pod(Pod::new("ns", format!("p{n}")))))
    }

    #[test]
    fn nothing_is_heard_before_everything_is_told() {
        let (mut index, mut hearing) = (index(), Hearing::default());
        assert_eq!(hearing.heard(&index), Heard::default());
        let changes = hearing.take(&mut index, vec![(1, attached(3)), (1, attached(5))]);
        assert!(changes.pods);
        assert_eq!(hearing.heard(&index).session, 0);
        let changes = hearing.take(&mut index, vec![(1, News::AllAttached { last: 7 })]);
        assert!(!changes.any());
        let heard = Heard { session: 1, last: 7, settled: vec![3, 5], waiting: vec![] };
        assert_eq!(hearing.heard(&index), heard);
        hearing.take(&mut index, vec![(1, attached(8)), (1, News::Detached { ticket: 3 })]);
        let heard = Heard { session: 1, last: 8, settled: vec![5, 8], waiting: vec![] };
        assert_eq!(hearing.heard(&index), heard);
    }

    #[test]
    fn another_connection_begins_anew_and_loses_nothing_that_still_stands() {
        let (mut index, mut hearing) = (index(), Hearing::default());
        let all = |last| News::AllAttached { last };
        let first = vec![(1, attached(1)), (1, attached(2)), (1, all(2))];
        hearing.take(&mut index, first);
        // While it tells, what is known stands.
        let changes = hearing.take(&mut index, vec![(2, attached(2)), (2, attached(3))]);
        assert!(changes.pods);
        let heard = Heard { session: 1, last: 2, settled: vec![1, 2, 3], waiting: vec![] };
        assert_eq!(hearing.heard(&index), heard);
        // What comes late over the old one is of no more interest.
        hearing.take(&mut index, vec![(1, attached(9)), (1, News::Detached { ticket: 2 })]);
        hearing.take(&mut index, vec![(2, News::Detached { ticket: 3 }), (2, all(4))]);
        let heard = Heard { session: 2, last: 4, settled: vec![2], waiting: vec![] };
        assert_eq!(hearing.heard(&index), heard);
    }

    #[test]
    fn what_is_cut_off_is_complained_about_at_its_pod() {
        let (mut index, mut hearing) = (index(), Hearing::default());
        let mut adopted = Pod::new("ns", "old");
        adopted.addresses.push([10, 9, 9, 9].into());
        index.apply(Object::Pod(adopted));
        let trouble = |ifindex, pod: Option<&str>, last: u8, reason| {
            News::NotEnforced(NotEnforced {
                ifindex,
                device: format!("veth{ifindex}"),
                netns: "cni-1".into(),
                pod: pod.map(|name| PodRef {
                    namespace: "ns".into(),
                    name: name.into(),
                    uid: None,
                }),
                addresses: vec![[10, 9, 9, last].into()],
                reason,
                words: "so it is".into(),
            })
        };
        let told = vec![
            (1, trouble(7, Some("p1"), 1, CutOff::AddressTaken)),
            (1, trouble(8, None, 9, CutOff::NoWord)),
            (1, trouble(9, None, 8, CutOff::Hooks)),
        ];
        assert!(!hearing.take(&mut index, told).any());
        let complaints = hearing.complaints(&index);
        let objects: Vec<_> = complaints.iter().map(|c| (c.object.as_str(), c.effect)).collect();
        assert_eq!(
            objects,
            [
                ("Pod ns/p1", Effect::Closed),
                ("Pod ns/old", Effect::Closed),
                ("", Effect::NotEnforced)
            ]
        );
        assert!(complaints[1].to_string().contains("interface veth8 (namespace cni-1): so it is"));
        hearing.take(&mut index, vec![(1, News::Cleared { ifindex: 8 })]);
        assert_eq!(hearing.complaints(&index).len(), 2);
        // A dataplane that starts anew tells of them again, if they still are.
        hearing.take(&mut index, vec![(2, News::AllAttached { last: 0 })]);
        assert_eq!(hearing.complaints(&index), []);
    }
}
