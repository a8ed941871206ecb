//! Words against what pods' objects say; and against a model that keeps no indexes.

use proptest::prelude::*;

use super::*;
use crate::index::{Index, Owner};
use crate::model::{Object, ObjectId, Phase};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pod(name: &str, uid: &str, address: Option<&str>) -> Pod {
    let mut pod = Pod::new("shop", name);
    pod.uid = (!uid.is_empty()).then(|| uid.into());
    pod.addresses.extend(address.map(ip));
    pod
}

fn word(ticket: u64, name: &str, uid: &str, addresses: &[&str]) -> Attached {
    let uid = (!uid.is_empty()).then(|| uid.to_owned());
    Attached {
        ticket,
        pod: PodRef { namespace: "shop".into(), name: name.into(), uid },
        addresses: addresses.iter().map(|a| ip(a)).collect(),
        host_ports: Vec::new(),
    }
}

fn owner(index: &Index, address: &str) -> Option<String> {
    index.endpoints().get(&ip(address)).map(|owner| match owner {
        Owner::Pod(pod) => pod.key.name.to_string(),
        Owner::Isolated(_) => "isolated".to_owned(),
    })
}

const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";

/// The life of a pod, and of the one that gets its address a moment later.
#[test]
fn words_come_before_what_objects_say() {
    let mut index = Index::default();
    // The object first, without an address.
    index.apply(Object::Pod(pod("old", "1", None)));
    assert!(index.attach(word(1, "old", "1", &[A])).pods);
    assert!(!index.attach(word(1, "old", "1", &[A])).any(), "told again");
    assert_eq!(owner(&index, A).as_deref(), Some("old"));
    assert_eq!(index.settlement().settled, [1]);
    // Its status says it later: nothing changes.
    index.apply(Object::Pod(pod("old", "1", Some(A))));
    assert_eq!(owner(&index, A).as_deref(), Some("old"));
    // The sandbox is gone, and the status still says it.
    assert!(index.detach(1).pods);
    assert!(!index.detach(1).any());
    assert_eq!(owner(&index, A), None);
    // The next one is here before its object is known.
    index.attach(word(2, "new", "2", &[A]));
    assert_eq!(owner(&index, A), None);
    let Settlement { settled, waiting } = index.settlement();
    assert!(settled.is_empty());
    assert!(waiting[0].0 == 2 && waiting[0].1.contains("knows no pod shop/new"), "{waiting:?}");
    index.apply(Object::Pod(pod("new", "2", None)));
    assert_eq!(owner(&index, A).as_deref(), Some("new"));
    assert_eq!(index.settlement(), Settlement { settled: vec![2], waiting: vec![] });
    assert!(index.conflicts().is_empty(), "a status that does not count is no claim");
}

#[test]
fn a_pod_with_a_word_has_what_its_words_say() {
    let mut index = Index::default();
    // A sandbox made anew: the status still has the address of the first.
    index.apply(Object::Pod(pod("web", "1", Some(A))));
    assert_eq!(owner(&index, A).as_deref(), Some("web"), "no word of it: adopted");
    index.attach(word(1, "web", "1", &[B]));
    assert_eq!((owner(&index, A), owner(&index, B).as_deref()), (None, Some("web")));
    // Two interfaces.
    index.attach(word(2, "web", "1", &["fd00::2"]));
    assert_eq!(owner(&index, "fd00::2").as_deref(), Some("web"));
    // The first address came back to it, by a word.
    index.detach(1);
    index.attach(word(3, "web", "1", &[A]));
    index.detach(2);
    assert_eq!((owner(&index, A).as_deref(), owner(&index, B)), (Some("web"), None));
}

#[test]
fn a_pod_is_not_taken_for_its_predecessor_of_the_same_name() {
    let mut index = Index::default();
    index.apply(Object::Pod(pod("db-0", "aaaa-1", Some(A))));
    index.attach(word(7, "db-0", "AAAA2", &[B]));
    assert_eq!((owner(&index, A).as_deref(), owner(&index, B)), (Some("db-0"), None));
    assert!(index.settlement().waiting[0].1.contains("another UID"));
    index.apply(Object::Pod(pod("db-0", "aaaa-2", None)));
    assert_eq!((owner(&index, A), owner(&index, B).as_deref()), (None, Some("db-0")));
    // Without a UID on either side the name has to do.
    let mut index = Index::default();
    index.apply(Object::Pod(pod("db-0", "", None)));
    index.attach(word(7, "db-0", "2", &[B]));
    assert_eq!(index.settlement().settled, [7]);
}

#[test]
fn what_was_a_predecessors_is_no_loss_of_a_successor() {
    for (uid, next) in [("1", "2"), ("", "")] {
        let mut index = Index::default();
        index.apply(Object::Pod(pod("db-0", uid, Some(A))));
        index.attach(word(1, "db-0", uid, &[A]));
        index.detach(1);
        assert_eq!(owner(&index, A), None);
        let key = ObjectKey::new("shop", "db-0");
        if uid.is_empty() {
            index.delete(&ObjectId::Pod(key));
        }
        // On another node, of which we hear no words.
        index.apply(Object::Pod(pod("db-0", next, Some(A))));
        assert_eq!(owner(&index, A).as_deref(), Some("db-0"));
    }
}

#[test]
fn who_cannot_be_policed_is_not_settled() {
    type Change = (fn(&mut Pod), &'static str);
    let changes: [Change; 3] = [
        (|pod| pod.phase = Phase::Succeeded, "has finished"),
        (|pod| pod.phase = Phase::Failed, "has finished"),
        (|pod| pod.host_network = true, "host network"),
    ];
    for (change, words) in changes {
        let mut index = Index::default();
        let mut pod = pod("web", "1", None);
        change(&mut pod);
        index.apply(Object::Pod(pod));
        index.attach(word(1, "web", "1", &[A]));
        assert_eq!(owner(&index, A), None);
        assert!(index.settlement().waiting[0].1.contains(words));
    }
    // One that cannot be read is isolated, and that is its policy.
    let mut index = Index::default();
    let mut refused = pod("web", "1", None);
    refused.refused = true;
    index.apply(Object::Pod(refused));
    index.attach(word(1, "web", "1", &[A]));
    assert_eq!(owner(&index, A).as_deref(), Some("isolated"));
    assert_eq!(index.settlement().settled, [1]);
    // One that is being deleted still is what it is.
    let mut index = Index::default();
    let mut leaving = pod("web", "1", None);
    leaving.terminating = true;
    index.apply(Object::Pod(leaving));
    index.attach(word(1, "web", "1", &[A]));
    assert_eq!(owner(&index, A).as_deref(), Some("web"));
}

#[test]
fn the_last_word_on_an_address_counts() {
    let mut index = Index::default();
    for name in ["one", "two"] {
        index.apply(Object::Pod(pod(name, "", None)));
    }
    index.attach(word(2, "two", "", &[A]));
    index.attach(word(1, "one", "", &[A, B]));
    assert_eq!(owner(&index, A).as_deref(), Some("two"));
    let Settlement { settled, waiting } = index.settlement();
    assert_eq!((settled, waiting[0].0), (vec![2], 1));
    assert!(waiting[0].1.contains("10.0.0.1 has been given to another pod"));
    index.detach(2);
    assert_eq!((owner(&index, A).as_deref(), index.settlement().settled), (Some("one"), vec![1]));
}

#[test]
fn a_dataplane_that_starts_again_tells_what_still_stands() {
    let mut index = Index::default();
    for (ticket, name) in [(1, "one"), (2, "two")] {
        index.apply(Object::Pod(pod(name, "", Some(A))));
        index.attach(word(ticket, name, "", &[&format!("10.0.1.{ticket}")]));
    }
    assert!(!index.retain_words(&BTreeSet::from([1, 2, 3])).any());
    assert!(index.retain_words(&BTreeSet::from([2])).pods);
    assert_eq!((owner(&index, "10.0.1.1"), index.settlement().settled), (None, vec![2]));
}

/// Its pods are still there, and what the API server says of them is all that is known.
#[test]
fn a_dataplane_that_has_lost_its_records_withdraws_nothing() {
    let mut index = Index::default();
    for (ticket, name, address) in [(1, "one", A), (2, "two", B)] {
        index.apply(Object::Pod(pod(name, "", Some(address))));
        index.attach(word(ticket, name, "", &[address]));
    }
    index.retain_words(&BTreeSet::new());
    let both = [A, B].map(|address| owner(&index, address));
    assert_eq!(both, [Some("one".to_owned()), Some("two".to_owned())]);
    assert_eq!(index.settlement(), Settlement::default());
}

#[derive(Debug, Clone)]
enum Step {
    Attach(u8, u8, Vec<u8>),
    Detach(usize),
    Pod(u8, Option<u8>),
    Gone(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let (name, address) = (0..3_u8, 0..4_u8);
    prop_oneof![
        3 => (name.clone(), 0..2_u8, prop::collection::vec(address.clone(), 0..3))
            .prop_map(|(name, uid, addresses)| Step::Attach(name, uid, addresses)),
        2 => (0..12_usize).prop_map(Step::Detach),
        3 => (name.clone(), prop::option::of(address))
            .prop_map(|(name, address)| Step::Pod(name, address)),
        1 => name.prop_map(Step::Gone),
    ]
}

proptest! {
    /// The last word on an address decides, whatever else is said; without one, whoever claims it
    /// and has no word, nor had one for it.
    #[test]
    fn owners_are_what_the_rules_say(steps in prop::collection::vec(step(), 1..30)) {
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        let mut index = Index::default();
        let mut stand: Vec<Attached> = Vec::new();
        let mut over: Vec<Attached> = Vec::new();
        let mut objects: BTreeMap<u8, Pod> = BTreeMap::new();
        for (ticket, step) in (1..).zip(steps) {
            match step {
                Step::Attach(name, uid, addresses) => {
                    let mut said = word(ticket, &name.to_string(), &format!("{name}-{uid}"), &[]);
                    said.addresses = addresses.into_iter().map(address).collect();
                    said.addresses.sort_unstable();
                    said.addresses.dedup();
                    index.attach(said.clone());
                    stand.push(said);
                }
                Step::Detach(n) if n < stand.len() => {
                    let gone = stand.remove(n);
                    index.detach(gone.ticket);
                    // Of a pod that nobody knows there is nothing that could be its address.
                    if objects.keys().any(|name| name.to_string() == gone.pod.name) {
                        over.push(gone);
                    }
                }
                Step::Detach(_) => {}
                Step::Pod(name, claimed) => {
                    let uid = format!("{name}-0");
                    let mut object = pod(&name.to_string(), &uid, None);
                    object.addresses.extend(claimed.map(address));
                    index.apply(Object::Pod(object.clone()));
                    objects.insert(name, object);
                }
                Step::Gone(name) => {
                    index.delete(&ObjectId::Pod(ObjectKey::new("shop", name.to_string())));
                    objects.remove(&name);
                    over.retain(|word| word.pod.name != name.to_string());
                }
            }
            let settled = index.settlement().settled;
            for last in 0..4 {
                let address = address(last);
                let is_of = |word: &Attached, object: &Pod| {
                    *word.pod.name == *object.key.name && word.pod.uid.as_deref() == object.uid.as_deref()
                };
                let words = stand.iter().filter(|word| word.addresses.contains(&address));
                let expected: Vec<&str> = match words.max_by_key(|word| word.ticket) {
                    Some(word) => objects.values().filter(|o| is_of(word, o)).collect(),
                    None => objects
                        .values()
                        .filter(|o| o.addresses.contains(&address))
                        .filter(|o| !stand.iter().any(|word| is_of(word, o)))
                        .filter(|o| {
                            !over.iter().any(|w| is_of(w, o) && w.addresses.contains(&address))
                        })
                        .collect::<Vec<_>>(),
                }
                .into_iter()
                .map(|pod| &*pod.key.name)
                .collect();
                let found = owner(&index, &address.to_string());
                match expected[..] {
                    [] => prop_assert_eq!(found, None),
                    [one] => prop_assert_eq!(found.as_deref(), Some(one)),
                    _ => prop_assert_eq!(found.as_deref(), Some("isolated")),
                }
            }
            for word in &stand {
                let own = word.addresses.iter().all(|address| {
                    owner(&index, &address.to_string()).as_deref() == Some(&word.pod.name)
                });
                let known = objects.values().any(|o| {
                    *word.pod.name == *o.key.name && word.pod.uid.as_deref() == o.uid.as_deref()
                });
                if settled.contains(&word.ticket) {
                    prop_assert!(own && known);
                } else {
                    let newest = |a: &IpAddr| {
                        let others = stand.iter().filter(|w| w.addresses.contains(a));
                        others.map(|w| w.ticket).max() == Some(word.ticket)
                    };
                    prop_assert!(!known || !word.addresses.iter().all(newest));
                }
            }
        }
    }
}
