//! Everything that can go wrong with an API server, together and again and again, while a cluster
//! lives. Whatever becomes of watches and requests, what is enforced in the end is what it has: the
//! verdicts between all addresses are those of its objects compiled from nothing.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weir_apiserver::{Action, ApiServer, Cut, Fault, Key, Kind, Release};
use weir_control::eval::Offline;
use weir_control::index::Index;
use weir_control::model::load;
use weir_table::classify::Connection;

use crate::support::{ALLOW, DENY, Dataplane, MORE};
use crate::{Cluster, OTHER, PATIENCE, WEB};

/// Addresses that pods of these tests can have.
fn addresses() -> impl Iterator<Item = String> {
    (1..=12).map(|last| format!("10.0.0.{last}"))
}

/// Verdicts between all addresses, by what the server has now.
fn wanted(server: &ApiServer) -> Vec<bool> {
    let mut text = String::new();
    for kind in Kind::ALL {
        for object in server.list(kind) {
            let _ = write!(text, "---\n{object}\n");
        }
    }
    let offline = Offline::of(Index::of(load("api", text.as_bytes()).unwrap().objects)).unwrap();
    let mut verdicts = Vec::new();
    for src in addresses() {
        for dst in addresses() {
            let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
            let connection = Connection { src, dst, protocol: 6, dport: 80 };
            verdicts.push(offline.classifier.evaluate(&connection).is_allowed());
        }
    }
    verdicts
}

/// Verdicts between all addresses, as they are in force.
fn enforced(dataplane: &Dataplane) -> Vec<bool> {
    let pairs = addresses().flat_map(|src| addresses().map(move |dst| (src.clone(), dst)));
    pairs.map(|(src, dst)| dataplane.allows(&src, &dst)).collect()
}

/// Serves the dataplane until it enforces what the server has.
fn converge(cluster: &mut Cluster, after: &str) {
    let (wanted, end) = (wanted(&cluster.server), Instant::now() + PATIENCE);
    while enforced(&cluster.dataplane) != wanted {
        assert!(Instant::now() < end, "after {after} what is enforced is not what the API has");
        cluster.dataplane.poll(Duration::from_millis(5));
    }
}

fn pod(name: &str, labels: &Value, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": name, "labels": labels},
        "spec": {"nodeName": "a", "containers": [{"name": "main", "image": "x"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
}

fn key(name: &str) -> Key {
    Key::new("shop", name)
}

/// Killed, and back under the same address: what came and went meanwhile is found, whether the
/// history is still there or not, and nothing is withdrawn in between.
#[test]
fn killed_and_restored() {
    for compacted in [false, true] {
        let mut cluster = Cluster::followed();
        cluster.apply(ALLOW);
        cluster.until(OTHER, WEB, false);
        cluster.server.down().unwrap();
        cluster.apply(MORE);
        cluster.delete(Kind::Pod, "shop/client");
        if compacted {
            cluster.server.compact();
        }
        cluster.server.clear_requests();
        cluster.server.up().unwrap();
        let (wanted, end) = (wanted(&cluster.server), Instant::now() + PATIENCE);
        while enforced(&cluster.dataplane) != wanted {
            assert!(Instant::now() < end, "compacted: {compacted}");
            let published = cluster.dataplane.poll(Duration::from_millis(5));
            assert_eq!(published, None, "no policy has changed");
            assert!(!cluster.allows("10.0.0.9", WEB), "the policy was away meanwhile");
        }
        let lists = cluster.server.asked("list", Kind::Pod);
        assert_eq!(lists, usize::from(compacted), "lists of pods after the restart");
        cluster.stop();
    }
}

/// The connection is gone within the line of an event, again and again: no event is lost, and
/// nothing is listed anew.
#[test]
fn cut_within_lines() {
    let mut cluster = Cluster::followed();
    let before = cluster.lists();
    let kinds = [Kind::Pod, Kind::NetworkPolicy];
    for round in 0..3 {
        // Held back, so that the line that is cut is one of these.
        for kind in kinds {
            cluster.server.hold(kind);
        }
        let (name, address) = (format!("extra-{round}"), format!("10.0.0.{}", 5 + round));
        cluster.server.apply(pod(&name, &json!({"app": "client"}), &address)).unwrap();
        cluster.apply(if round % 2 == 0 { DENY } else { ALLOW });
        cluster.server.freeze();
        for kind in kinds {
            cluster.server.release(kind, Release::InOrder);
            assert_eq!(cluster.server.cut(kind, Cut::MidLine), 1);
        }
        cluster.server.thaw();
        converge(&mut cluster, &format!("cut {round}"));
        cluster.until_watched();
    }
    assert_eq!(cluster.lists(), before);
    cluster.stop();
}

/// Numbers that a seed decides (xorshift64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % bound
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.below(choices.len() as u64)).unwrap()]
    }
}

/// Something happens in the cluster.
fn change(server: &ApiServer, chance: &mut Chance) {
    let apps = ["web", "client", "db"];
    let name = format!("pod-{}", chance.below(8));
    match chance.below(8) {
        0..4 => {
            let address = format!("10.0.0.{}", 1 + chance.below(12));
            let mut pod = pod(&name, &json!({"app": chance.of(&apps)}), &address);
            if chance.below(3) == 0 {
                pod["metadata"]["uid"] = format!("{:032x}", chance.below(1 << 40)).into();
            }
            server.apply(pod).unwrap();
        }
        4 => drop(server.delete(Kind::Pod, &key(&name))),
        5 => {
            let policy = json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"namespace": "shop", "name": format!("policy-{}", chance.below(3))},
                "spec": {
                    "podSelector": {"matchLabels": {"app": chance.of(&apps)}},
                    "ingress": [{"from": [
                        {"podSelector": {"matchLabels": {"app": chance.of(&apps)}}},
                        {"namespaceSelector": {"matchLabels": {"team": chance.of(&["a", "b"])}}},
                    ]}],
                },
            });
            server.apply(policy).unwrap();
        }
        6 => {
            let policy = format!("policy-{}", chance.below(3));
            drop(server.delete(Kind::NetworkPolicy, &key(&policy)));
        }
        _ => {
            let labels = json!({"metadata": {"labels": {"team": chance.of(&["a", "b"])}}});
            server.patch(Kind::Namespace, &Key::new("", "shop"), &labels).unwrap();
        }
    }
}

/// Something happens to the API server.
fn disturb(server: &ApiServer, chance: &mut Chance) {
    let kind = chance.of(&[Kind::Pod, Kind::Pod, Kind::NetworkPolicy, Kind::Namespace]);
    match chance.below(12) {
        0..4 => {
            let how = chance.of(&[Cut::End, Cut::Broken, Cut::MidLine, Cut::Expired]);
            server.cut(kind, how);
        }
        4 => server.hold(kind),
        5 | 6 => server.release(kind, chance.of(&[Release::InOrder, Release::Doubled])),
        7 => {
            server.release(kind, Release::Dropped);
            server.cut(kind, Cut::Expired);
        }
        8 => server.repeat(kind, 4),
        9 => drop(server.bookmark(kind)),
        10 => server.compact(),
        _ => {
            let action = chance.of(&[0, 1, 2]);
            server.fault(Fault::once(match action {
                0 => Action::Truncate,
                1 => Action::Slow { bytes: 7, ms: 0 },
                _ => Action::Refuse { code: 500, retry_after: None },
            }));
        }
    }
}

/// Everything at once, in an order that a seed decides; another with `WEIR_KUBE_SEED`.
#[test]
fn in_the_end_what_the_api_has_is_enforced() {
    let mut cluster = Cluster::followed();
    let seed = std::env::var("WEIR_KUBE_SEED").map_or(0x5eed, |seed| seed.parse::<u64>().unwrap());
    let mut chance = Chance(seed.max(1));
    for round in 0..5 {
        for step in 0..24 {
            change(&cluster.server, &mut chance);
            if step % 4 == 3 {
                disturb(&cluster.server, &mut chance);
            }
            cluster.dataplane.poll(Duration::from_millis(2));
        }
        if round == 2 {
            cluster.server.down().unwrap();
            change(&cluster.server, &mut chance);
            cluster.server.up().unwrap();
        }
        for kind in Kind::ALL {
            cluster.server.release(kind, Release::InOrder);
        }
        converge(&mut cluster, &format!("round {round} of seed {seed}"));
    }
    // It had to go on and to begin anew for that.
    let asked = |verb: &str| {
        let of = |kind| cluster.server.asked(verb, kind);
        Kind::ALL.into_iter().map(of).sum::<usize>()
    };
    assert!(asked("list") > 6 && asked("watch") > 10, "{} {}", asked("list"), asked("watch"));
    cluster.stop();
}
