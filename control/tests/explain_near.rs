//! Whatever a nearest miss says would have to be otherwise: if it is, the side passes, by the
//! oracle and by the compiled table. `WEIR_PROPERTY_CASES` sets how many clusters (default 256,
//! each with 100 questions).

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod clusters;

use std::net::IpAddr;
use std::sync::Arc;

use clusters::{Ends, connection, ends, objects, pick, traffic};
use proptest::prelude::*;
use weir_control::eval::Offline;
use weir_control::explain::near::{Edit, Fix, NearMiss, Question, near_misses, nearest, pod_at};
use weir_control::index::Index;
use weir_control::model::{ContainerPort, Direction, Namespace, Object, Origin, Peer, PeerRule};
use weir_control::oracle::{self, Traffic};

const QUESTIONS: usize = 100;

fn cases() -> u32 {
    std::env::var("WEIR_PROPERTY_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(256)
}

/// Makes the objects as a fix wants them.
fn apply(objects: &mut Vec<Object>, near: &NearMiss, fix: &Fix) {
    match fix {
        Fix::PodLabel(key, label, value) => for_pod(objects, key, |pod| {
            let labels = Arc::make_mut(&mut pod.labels);
            match value {
                Some(value) => labels.insert(label.clone(), value.clone()),
                None => labels.remove(label),
            };
        }),
        Fix::PortName { pod, name, protocol, port } => for_pod(objects, pod, |pod| {
            let name = Some(name.clone());
            let new = ContainerPort { name, protocol: *protocol, port: *port };
            pod.ports = pod.ports.iter().cloned().chain([new]).collect();
        }),
        Fix::NamespaceLabel(name, label, value) => {
            let found = objects.iter_mut().find_map(|object| match object {
                Object::Namespace(namespace) if namespace.name == *name => Some(namespace),
                _ => None,
            });
            let labels = match found {
                Some(namespace) => &mut namespace.labels,
                None => {
                    let new = Namespace::new(name.clone(), Default::default(), Origin::memory());
                    objects.push(Object::Namespace(new));
                    return apply(objects, near, fix);
                }
            };
            match value {
                Some(value) => labels.insert(label.clone(), value.clone()),
                None => labels.remove(label),
            };
        }
        Fix::Edit(edit) => edit_rule(objects, near, edit),
        Fix::Traffic(_) | Fix::Nothing => {}
    }
}

fn for_pod(
    objects: &mut [Object],
    key: &weir_control::model::ObjectKey,
    change: impl Fn(&mut weir_control::model::Pod),
) {
    for object in objects {
        match object {
            Object::Pod(pod) if pod.key == *key => change(pod),
            _ => {}
        }
    }
}

fn edit_rule(objects: &mut [Object], near: &NearMiss, edit: &Edit) {
    let (direction, position) = near.rule;
    for object in objects {
        let Object::NetworkPolicy(policy) = object else { continue };
        if policy.key != near.policy {
            continue;
        }
        let rules = match direction {
            Direction::Ingress => &mut policy.ingress,
            Direction::Egress => &mut policy.egress,
        };
        let rule = rules.iter_mut().find(|rule| rule.position == position).unwrap();
        match edit {
            Edit::AddBlock(block) => {
                let peer = Peer::IpBlock { cidr: *block, except: Vec::new() };
                rule.peers.push(PeerRule { peer, line: 0 });
            }
            Edit::DropExcept(holes) => {
                let Peer::IpBlock { except, .. } = &mut rule.peers[near.peer.unwrap()].peer else {
                    panic!("no block: {near:?}");
                };
                except.retain(|hole| !holes.contains(hole));
            }
            Edit::DropPorts => rule.ports.clear(),
            Edit::NamespaceSelector(selector) => {
                let Peer::Pods { namespaces, .. } = &mut rule.peers[near.peer.unwrap()].peer else {
                    panic!("no selectors: {near:?}");
                };
                *namespaces = Some(selector.clone());
            }
        }
    }
}

/// Whether a side passes, by oracle and table, which must agree.
fn passes(index: &Index, direction: Direction, ends: (IpAddr, IpAddr), traffic: Traffic) -> bool {
    let (egress, ingress) = oracle::judge(index, ends.0, ends.1, traffic);
    let offline = Offline::of(index.clone()).unwrap();
    let judgement = offline.classifier.evaluate(&connection(ends.0, ends.1, traffic));
    let (side, verdict) = match direction {
        Direction::Egress => (egress, judgement.egress),
        Direction::Ingress => (ingress, judgement.ingress),
    };
    assert_eq!(side.is_allowed(), verdict.is_allow());
    side.is_allowed()
}

/// Returns how many suggestions were tried.
fn check(index: &Index, ends: (IpAddr, IpAddr), traffic: Traffic) -> usize {
    let (source, destination) = ends;
    let mut tried = 0;
    let (egress, ingress) = oracle::judge(index, source, destination, traffic);
    for (direction, this, other, allowed) in [
        (Direction::Egress, source, destination, egress.is_allowed()),
        (Direction::Ingress, destination, source, ingress.is_allowed()),
    ] {
        let Some(pod) = pod_at(index, this) else { continue };
        let question = Question::new(index, direction, pod, other, traffic);
        let peer = question.peer;
        assert_eq!(peer, pod_at(index, other));
        let near = near_misses(&question);
        if allowed {
            continue;
        }
        // A denial is explained by every rule of the policies that the table names.
        let offline = Offline::of(index.clone()).unwrap();
        let table = offline.classifier.table();
        let (ingress, egress) = table.programs(offline.classifier.class_of(this.into())).unwrap();
        let program = if direction == Direction::Ingress { ingress } else { egress };
        let names: Vec<&str> = table.isolating(program).collect();
        let policies = index.policies().filter(|p| names.contains(&p.key.to_string().as_str()));
        let rules: usize = policies
            .flat_map(|policy| policy.rules(direction))
            .map(|rule| rule.peers.len().max(1))
            .sum();
        assert_eq!(near.len(), rules, "a rule matches, but the verdict is deny: {near:?}");
        // Labels of the isolated pod itself decide which policies select it.
        if peer.is_some_and(|peer| peer.key == pod.key) {
            continue;
        }
        for near in nearest(near) {
            if near.misses.iter().any(|miss| miss.fix == Fix::Nothing) {
                continue;
            }
            let mut objects = clusters::objects_of(index);
            let mut tries = vec![traffic];
            for miss in &near.misses {
                apply(&mut objects, &near, &miss.fix);
                if let Fix::Traffic(ports) = &miss.fix {
                    tries = ports.iter().map(|(p, n)| Traffic::Port(*p, *n)).collect();
                }
            }
            let changed = Index::of(objects);
            for traffic in tries {
                tried += 1;
                assert!(
                    passes(&changed, direction, ends, traffic),
                    "{direction} of {source} → {destination}, {traffic:?} still fails after: {near:?}"
                );
            }
        }
    }
    tried
}

#[test]
fn what_the_nearest_miss_suggests_passes() {
    let tried = std::cell::Cell::new(0usize);
    let questions = prop::collection::vec((ends(), traffic()), QUESTIONS);
    let config = ProptestConfig {
        cases: cases(),
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..Default::default()
    };
    proptest!(config, |(objects in objects(), questions in questions)| {
        let index = Index::of(objects);
        let pool: Vec<IpAddr> = index.endpoints().keys().copied().collect();
        for (ends, traffic) in &questions {
            let ends: &Ends = ends;
            // Port 0 is on no wire.
            if matches!(traffic, Traffic::Port(_, 0)) {
                continue;
            }
            if let Some((source, destination)) = pick(&pool, ends).filter(|(a, b)| a != b) {
                tried.set(tried.get() + check(&index, (source, destination), *traffic));
            }
        }
    });
    println!("{} suggestions tried", tried.get());
    assert!(tried.get() > cases() as usize, "only {} suggestions", tried.get());
}
