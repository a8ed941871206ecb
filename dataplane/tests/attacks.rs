//! Attacks on the flow table, by packets through the pipeline: millions of them are cheap
//! here. What the hooks do against the same is in the end-to-end tests (`e2e/attacks.rs`).
//!
//! ONE (device 11) attacks. HONEST (device 13) has connections to TWO (device 12), which may
//! open none to it: an answer that HONEST gets, it gets by its flow.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod support;

use std::collections::HashMap;
use std::time::Instant;

use support::frames::{self, ACK, SYN};
use support::node::Did::{self, Drop, PassBoth};
use support::node::{Node, ip};
use support::{Matrix, ONE, OUTSIDE, REMOTE as HONEST, Service, TWO, Tables};
use weir_dataplane::frame::Frame;
use weir_dataplane::io::BURST;
use weir_dataplane::shim::Direction::{self, FromPod, ToPod};
use weir_dataplane::shim::Shim;
use weir_table::addr::Address;
use weir_table::counters::{Counter, Reason};
use weir_table::flow::{Flow, FlowKey, HashKey, NewFlow, Side, Tick};

/// Entries of either family, the flows that these are meant for, and a pod's quarter of them.
const ENTRIES: usize = 4096;
const FLOWS: usize = ENTRIES / 2;
const PER_POD: usize = FLOWS / 4;
/// Connections that HONEST has from the beginning.
const KEPT: u16 = 200;

/// TWO may open nothing to HONEST, ONE nothing to anybody but the outside and TWO.
fn matrix() -> Matrix {
    let mut matrix = Matrix::OPEN;
    matrix.ingress[HONEST] = [0; 4];
    matrix
}

fn node(entries: usize, per_pod: usize) -> Node {
    let mut node = Node::with_tables(matrix(), Tables::limited(entries, per_pod as u64));
    node.endpoints = support::endpoints([(ONE, 11, false), (TWO, 12, false), (HONEST, 13, false)]);
    node
}

/// A node under attack, on which HONEST has its connections already.
struct Siege {
    node: Node,
    /// Honest connections tried since, and those that came about.
    tried: u16,
    served: u16,
}

impl Siege {
    fn new() -> Self {
        let mut siege = Self { node: node(ENTRIES, PER_POD), tried: 0, served: 0 };
        for port in 0..KEPT {
            assert!(siege.connects(10_000 + port, &mut |_| {}));
        }
        siege
    }

    /// HONEST opens a connection to TWO; `between` happens between its packets.
    fn connects(&mut self, port: u16, between: &mut dyn FnMut(&mut Node)) -> bool {
        let (client, server) = ((ip(HONEST), port), (ip(TWO), 80));
        let segments = [(true, SYN), (false, SYN | ACK), (true, ACK), (false, ACK)];
        segments.iter().all(|&(from_client, flags)| {
            between(&mut self.node);
            let did = if from_client {
                self.node.punt(13, FromPod, &frames::tcp(client, server, flags))
            } else {
                self.node.punt(12, FromPod, &frames::tcp(server, client, flags))
            };
            did == PassBoth
        })
    }

    /// As long as the attack lasts, HONEST goes on; `attack(n)` sends the next packets.
    fn under(&mut self, rounds: u32, attack: &mut dyn FnMut(&mut Node, u32)) {
        for round in 0..rounds {
            let mut step = 0;
            let mut between = |node: &mut Node| {
                attack(node, round * 4 + step);
                step += 1;
            };
            self.tried += 1;
            let port = 20_000 + self.tried;
            self.served += u16::from(self.connects(port, &mut between));
        }
    }

    fn flows_of(&self, device: u32) -> usize {
        let pays = |flow: &Flow| flow.ifindex[flow.initiator.index()] == device;
        self.node.tables.flows.iter().filter(pays).count()
    }

    /// Nothing of HONEST's was lost, and it was served meanwhile.
    fn is_survived(&mut self) {
        let kept = (0..KEPT).filter(|port| {
            let answer = frames::tcp((ip(TWO), 80), (ip(HONEST), 10_000 + port), ACK);
            self.node.punt(12, FromPod, &answer) == PassBoth
        });
        assert_eq!(kept.count(), usize::from(KEPT), "an established connection was lost");
        let share = f64::from(self.served) / f64::from(self.tried);
        eprintln!("{} of {} honest connections served", self.served, self.tried);
        assert!(share >= 0.9, "{share}");
    }

    fn get(&self, counter: Counter) -> u64 {
        self.node.tally.get(counter)
    }
}

/// Sends packets in bursts, as they come; how many were accepted.
fn send(
    node: &mut Node,
    device: u32,
    direction: Direction,
    packets: impl Iterator<Item = Vec<u8>>,
) -> usize {
    let mut accepted = 0;
    let mut waiting: Vec<Vec<u8>> = packets
        .map(|ethernet| {
            let mut frame = Vec::new();
            Shim::new(device, direction).push_punted(&ethernet, &mut frame);
            frame
        })
        .collect();
    for burst in waiting.chunks_mut(BURST) {
        let mut frames: Vec<Frame<'_>> = burst.iter_mut().map(|frame| Frame::new(frame)).collect();
        accepted += node.burst(&mut frames).iter().filter(|accept| **accept).count();
    }
    accepted
}

/// One of 2^24 addresses outside.
fn stranger(n: u32) -> Address {
    Address::v4((0xc600_0000 | n & 0x00ff_ffff).to_be_bytes())
}

/// Packets between two of HONEST's.
const WAVE: u32 = 1000;

#[test]
fn a_syn_flood_of_a_pod_costs_the_others_nothing() {
    let mut siege = Siege::new();
    siege.under(250, &mut |node, wave| {
        let syn =
            |n| frames::tcp((ip(ONE), (wave + n) as u16), (stranger(wave * WAVE + n), 80), SYN);
        assert_eq!(send(node, 11, FromPod, (0..WAVE).map(syn)), WAVE as usize, "they may be sent");
    });
    siege.is_survived();
    assert!(siege.flows_of(11) <= PER_POD, "{}", siege.flows_of(11));
    assert!(
        siege.flows_of(11) > PER_POD * 9 / 10,
        "the flood had its own share: {}",
        siege.flows_of(11)
    );
    // A million SYNs: each entered for an older one, or not at all.
    let (evicted, at_quota) = (siege.get(Counter::FlowsEvicted), siege.get(Counter::FlowQuota));
    assert!(evicted > 900_000, "{evicted} evicted, {at_quota} left out");
}

#[test]
fn a_syn_flood_that_a_server_answers_is_a_flood_of_half_open_connections() {
    // The server answers every SYN, as with SYN cookies; the attacker never goes on.
    let mut siege = Siege::new();
    siege.under(100, &mut |node, wave| {
        let client = |n: u32| (ip(ONE), (wave * WAVE + n) as u16);
        let server = |n: u32| (ip(TWO), 1 + ((wave * WAVE + n) >> 16) as u16);
        send(node, 11, FromPod, (0..WAVE).map(|n| frames::tcp(client(n), server(n), SYN)));
        send(node, 12, FromPod, (0..WAVE).map(|n| frames::tcp(server(n), client(n), SYN | ACK)));
    });
    siege.is_survived();
    assert!(siege.flows_of(11) <= PER_POD);
    siege.node.seconds += 21;
    siege.node.expire();
    assert_eq!(siege.flows_of(11), 0, "forgotten after 20 s, not after an hour");
}

#[test]
fn a_syn_flood_from_outside_is_to_the_account_of_the_pod_that_it_floods() {
    let mut siege = Siege::new();
    siege.under(100, &mut |node, wave| {
        let syn = |n| frames::tcp((stranger(wave * WAVE + n), 4000), (ip(ONE), 80), SYN);
        send(node, 11, ToPod, (0..WAVE).map(syn));
    });
    siege.is_survived();
    let floods = siege.node.tables.flows.iter().filter(|f| f.destination().0 == ip(ONE)).count();
    assert!((1..=PER_POD).contains(&floods), "{floods}");
    assert_eq!(siege.node.tables.flows.quota().unwrap().flows_of(11), floods as u64);
}

#[test]
fn without_accounts_a_syn_flood_still_displaces_no_established_connection() {
    // The table's own order: unanswered flows give way, the longest silent first.
    let mut siege = Siege::new();
    siege.node.tables = Tables::sized(ENTRIES);
    for port in 0..KEPT {
        assert!(siege.connects(10_000 + port, &mut |_| {}));
    }
    siege.under(100, &mut |node, wave| {
        let syn = |n| frames::tcp((ip(ONE), 4000), (stranger(wave * WAVE + n), 80), SYN);
        send(node, 11, FromPod, (0..WAVE).map(syn));
    });
    siege.tried = 1; // who is new is not protected then
    siege.served = 1;
    siege.is_survived();
    assert!(siege.flows_of(11) > ENTRIES / 2);
}

#[test]
fn a_full_table_keeps_what_is_established_and_serves_who_is_new() {
    // No account to speak of, so that the flood fills whatever there is. For each packet of
    // an honest connection so many SYNs that a 64th of the table is new.
    let mut siege = Siege::new();
    siege.node.tables = Tables::limited(ENTRIES, ENTRIES as u64);
    for port in 0..KEPT {
        assert!(siege.connects(10_000 + port, &mut |_| {}));
    }
    let syn = |n: u32| frames::tcp((ip(ONE), n as u16), (stranger(n), 80), SYN);
    for wave in 0..40 {
        send(&mut siege.node, 11, FromPod, (0..WAVE).map(|n| syn(1 << 20 | (wave * WAVE + n))));
    }
    let full = siege.get(Counter::FlowsEvicted);
    assert!(full > 20_000, "the table is full: {full} of 40,000 took another's place");
    const SYNS: u32 = ENTRIES as u32 / 64;
    siege.under(600, &mut |node, wave| {
        send(node, 11, FromPod, (0..SYNS).map(|n| syn(wave * SYNS + n)));
    });
    siege.is_survived();
    assert!(siege.flows_of(11) > ENTRIES * 3 / 4, "{}", siege.flows_of(11));
}

#[test]
fn handshakes_that_a_server_denies_are_none() {
    // From under forged addresses: a SYN, and unseen the segment that would acknowledge the
    // answer. The server says that its number is wrong, and repeats its answer to some.
    let mut siege = Siege::new();
    const FORGED: u32 = PER_POD as u32 / 20;
    let server = (ip(ONE), 80);
    let forge = |node: &mut Node, wave: u32| {
        node.seconds += 1;
        let client = |n: u32| (stranger(wave * FORGED + n), 4000);
        let forged = |flags| move |n: u32| frames::tcp(client(n), server, flags);
        let answers = |flags| move |n: u32| frames::tcp(server, client(n), flags);
        send(node, 11, ToPod, (0..FORGED).map(forged(SYN)));
        send(node, 11, FromPod, (0..FORGED).map(answers(SYN | ACK)));
        send(node, 11, ToPod, (0..FORGED).map(forged(ACK)));
        send(node, 11, FromPod, (0..FORGED).map(answers(frames::RST)));
        send(node, 11, FromPod, (0..FORGED).step_by(2).map(answers(SYN | ACK)));
    };
    siege.under(250, &mut |node, wave| forge(node, wave));
    siege.is_survived();
    let evicted = siege.get(Counter::FlowsEvicted);
    assert!(evicted > 15_000, "forged ones give way to each other: {evicted} of 25,000");
    // The server's own clients are served as well, though its account is full of the others.
    let client = |n: u32| (stranger(1 << 23 | n), 5000);
    for n in 0..200 {
        let steps = [(true, SYN), (false, SYN | ACK), (true, ACK), (false, ACK)];
        for (step, (asks, flags)) in (0..).zip(steps) {
            forge(&mut siege.node, 1000 + n * 4 + step);
            let did = match asks {
                true => siege.node.punt(11, ToPod, &frames::tcp(client(n), server, flags)),
                false => siege.node.punt(11, FromPod, &frames::tcp(server, client(n), flags)),
            };
            assert_eq!(did, Did::Pass);
        }
    }
    let honest = |flow: &Flow| (0..200).any(|n| flow.source() == client(n));
    let flows = || siege.node.tables.flows.iter().filter(|flow| flow.destination() == server);
    let lasting = flows().filter(|flow| !flow.yields()).count();
    assert!(flows().all(|flow| flow.yields() || honest(&flow)), "a forged one lasts");
    assert!(lasting >= 180, "{lasting} of 200");
}

#[test]
fn a_port_scan_answered_or_not_costs_the_others_nothing() {
    for answered in [false, true] {
        let mut siege = Siege::new();
        let mut isolated = matrix();
        isolated.ingress[ONE] = [0; 4];
        siege.node.publish(isolated);
        siege.under(330, &mut |node, wave| {
            // 330 × 4 × 50: every port of one host, 50 a second.
            node.seconds += 1;
            let ports = || (0..50).map(|n| (wave * 50 + n) as u16);
            let host = (ip(ONE), 4000);
            let ask = |port| frames::udp(host, (stranger(1), port));
            assert_eq!(send(node, 11, FromPod, ports().map(ask)), 50);
            if answered {
                // By their flows: ONE takes nothing from outside that it did not ask for.
                let answer = |port| frames::udp((stranger(1), port), host);
                let got = send(node, 11, ToPod, ports().map(answer));
                assert!(got >= 45, "{got} of 50 answers in wave {wave}");
            }
        });
        siege.is_survived();
        assert!(siege.flows_of(11) <= PER_POD, "{}", siege.flows_of(11));
        let (evicted, at_quota) = (siege.get(Counter::FlowsEvicted), siege.get(Counter::FlowQuota));
        // Its older ones give way to its own new ones, answered or not.
        assert!(evicted > 60_000 && at_quota < 2000, "{evicted} gave way, {at_quota} left out");
        // Whose time is over has no account: the pod has its flows back.
        siege.node.seconds += 121;
        siege.node.expire();
        assert_eq!(siege.flows_of(11), 0);
        assert_eq!(siege.node.tables.flows.quota().unwrap().flows_of(11), 0);
    }
}

#[test]
fn two_pods_that_collude_do_not_get_the_table() {
    // ONE and TWO open to each other and to the outside whatever they like, all answered.
    let mut siege = Siege::new();
    siege.under(100, &mut |node, wave| {
        let port = |n: u32| (wave * 100 + n) as u16;
        for (device, pod, other) in [(11, ONE, 12), (12, TWO, 11)] {
            let peer = if pod == ONE { TWO } else { ONE };
            let (from, to) = (|n| (ip(pod), port(n)), (ip(peer), 9));
            send(node, device, FromPod, (0..100).map(|n| frames::udp(from(n), to)));
            send(node, other, FromPod, (0..100).map(|n| frames::udp(to, from(n))));
        }
    });
    siege.is_survived();
    assert_eq!((siege.flows_of(11), siege.flows_of(12)), (PER_POD, PER_POD));
    assert!(siege.get(Counter::FlowsEvicted) > 10_000);
}

#[test]
fn a_flood_of_denied_packets_leaves_nothing_behind() {
    let mut siege = Siege::new();
    siege.node.publish(matrix().deny_egress(ONE, OUTSIDE, Service::OtherUdp));
    let before = siege.node.tables.flows.iter().count();
    siege.under(250, &mut |node, wave| {
        let datagram = |n| frames::udp((ip(ONE), n as u16), (stranger(wave * WAVE + n), 9));
        assert_eq!(send(node, 11, FromPod, (0..WAVE).map(datagram)), 0);
    });
    let after = siege.node.tables.flows.iter().count();
    assert_eq!(after, before + usize::from(siege.served), "HONEST's, and no other");
    siege.is_survived();
    assert_eq!(siege.served, siege.tried);
    assert_eq!(siege.flows_of(11), 0);
    let denied = siege.node.tally.drops();
    assert_eq!(denied, [(Reason::PolicyEgress, u64::from(250 * 4 * WAVE))]);
}

#[test]
fn a_flood_of_forged_icmp_errors_changes_nothing() {
    let mut siege = Siege::new();
    let before: Vec<Flow> = siege.node.tables.flows.iter().collect();
    let mut told = 0_u64;
    for wave in 0..250 {
        // From inside: about what HONEST sent to TWO, told by ONE. From outside, to HONEST:
        // about connections that it does not have.
        let inside = |n: u32| {
            let about = frames::tcp((ip(HONEST), 10_000 + (n % 200) as u16), (ip(TWO), 80), ACK);
            frames::unreachable(ip(ONE), ip(HONEST), &about)
        };
        let outside = |n: u32| {
            let about = frames::tcp((ip(HONEST), n as u16), (stranger(wave * WAVE + n), 80), ACK);
            frames::unreachable(stranger(n), ip(HONEST), &about)
        };
        assert_eq!(send(&mut siege.node, 11, FromPod, (0..WAVE).map(inside)), 0);
        assert_eq!(send(&mut siege.node, 13, ToPod, (0..WAVE).map(outside)), 0);
        told += 2 * u64::from(WAVE);
    }
    assert_eq!(siege.node.tally.drops(), [(Reason::IcmpUnrelated, told)]);
    assert_eq!(siege.node.tables.flows.iter().collect::<Vec<_>>(), before);
}

// ---- crafted collisions ---------------------------------------------------------

/// A key whose words are all 0 or 1: what an attacker would compute with that does not know
/// the secret. With it every addition to a port can be made up for in an address.
fn unkeyed() -> HashKey {
    HashKey::from_words([1; 12])
}

/// Keys that are alike under [`unkeyed`], all of them ONE's to choose: its port and whom it
/// asks.
fn collisions(count: u32) -> Vec<FlowKey> {
    let keys: Vec<FlowKey> = (0..count)
        .map(|n| {
            let whom = Address::v4((0xc612_0000 + n).to_be_bytes());
            // Side lo's port stands in the lower half of its word, ONE's address is the lower.
            FlowKey::new((ip(ONE), (count - n) as u16), (whom, 80), 17).0
        })
        .collect();
    let hash = unkeyed().hash(&keys[0]);
    assert!(keys.iter().all(|key| unkeyed().hash(key) == hash), "no collision at all");
    keys
}

fn secret(n: u64) -> HashKey {
    // splitmix64.
    HashKey::from_words(std::array::from_fn(|i| {
        let mut z = (n * 12 + i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) | u64::from(i == 0)
    }))
}

#[test]
fn crafted_collisions_spread_evenly_under_any_secret() {
    const BUCKETS: u64 = 4096;
    let keys = collisions(16 * BUCKETS as u32 / 2);
    for n in 0..50 {
        let secret = secret(n);
        for half in [0, 32] {
            let mut occupancy: HashMap<u64, u64> = HashMap::new();
            for key in &keys {
                *occupancy.entry(secret.hash(key).bits() >> half & (BUCKETS - 1)).or_default() += 1;
            }
            // Eight a bucket on average. Chi-square has BUCKETS - 1 degrees of freedom: mean
            // 4095, deviation 90; the largest of so many is some 22 if they fall at random.
            let expected = keys.len() as f64 / BUCKETS as f64;
            let filled: f64 = occupancy.values().map(|n| (*n as f64 - expected).powi(2)).sum();
            let empty = (BUCKETS - occupancy.len() as u64) as f64 * expected.powi(2);
            let chi_square = (filled + empty) / expected;
            let most = occupancy.values().max().unwrap();
            assert!(chi_square < 4095.0 + 10.0 * 90.0, "secret {n}: chi-square {chi_square}");
            assert!(*most <= 30, "secret {n}: {most} in one bucket");
        }
    }
}

/// Enters the keys as flows of ONE; how many stand in the table then, and how many had to go.
fn enter(tables: &Tables, keys: &[FlowKey]) -> (usize, usize) {
    let mut evicted = 0;
    for key in keys {
        let new = NewFlow {
            initiator: Side::Lo,
            tcp_flags: 0,
            ifindex: [11, 0],
            stamps: [0; 2],
            hold: false,
        };
        let placed = tables.flows.insert(key, tables.flows.hash(key), &new, Tick(100));
        evicted += placed.map_or(0, |placed| usize::from(placed.evicted));
    }
    (tables.flows.iter().count(), evicted)
}

#[test]
fn crafted_collisions_evict_and_slow_nobody() {
    let keys = collisions(PER_POD as u32);
    let harmless: Vec<FlowKey> = (0..PER_POD as u32)
        .map(|n| {
            FlowKey::new((ip(ONE), n as u16), (stranger(n.wrapping_mul(2_654_435_761)), 80), 17).0
        })
        .collect();
    // It would work if the secret were known: four slots for all.
    let tables = Tables::with_key(ENTRIES, u64::MAX, unkeyed());
    assert_eq!(enter(&tables, &keys).0, 4);
    for n in 0..20 {
        let tables = Tables::with_key(ENTRIES, u64::MAX, secret(n));
        let (stored, evicted) = enter(&tables, &keys);
        // At this load two choices of two slots leave next to nobody out, crafted or not.
        assert!(
            stored >= PER_POD - 2 && evicted <= 2,
            "secret {n}: {stored} stored, {evicted} gone"
        );
        let (stored, _) = enter(&tables, &harmless);
        assert!(stored >= 2 * PER_POD - 8, "secret {n}: {stored} after the harmless ones");
    }
    // A lookup looks at four slots, whoever chose the keys.
    let tables = Tables::with_key(ENTRIES, u64::MAX, secret(7));
    enter(&tables, &keys);
    enter(&tables, &harmless);
    let time = |keys: &[FlowKey]| {
        let started = Instant::now();
        for _ in 0..200 {
            for key in keys {
                std::hint::black_box(tables.flows.lookup(key, tables.flows.hash(key)).ok());
            }
        }
        started.elapsed()
    };
    let best = |keys: &[FlowKey]| (0..7).map(|_| time(keys)).min().unwrap();
    let (crafted, plain) = (best(&keys), best(&harmless));
    eprintln!("{} lookups: crafted {crafted:?}, others {plain:?}", 200 * PER_POD);
    assert!(crafted < plain * 3, "crafted {crafted:?}, others {plain:?}");
}

#[test]
fn a_spoofed_source_opens_nothing() {
    let mut siege = Siege::new();
    let before = siege.node.tables.flows.iter().count();
    for n in 0..100_u32 {
        let forged = frames::tcp((stranger(n), 1), (ip(TWO), 80), SYN);
        assert_eq!(siege.node.punt(11, FromPod, &forged), Drop(Reason::SpoofedSource));
        let others = frames::tcp((ip(HONEST), 10_000), (ip(TWO), 80), ACK);
        let did: Did = siege.node.punt(11, FromPod, &others);
        assert_eq!(did, Drop(Reason::SpoofedSource));
    }
    assert_eq!(siege.node.tables.flows.iter().count(), before);
    assert_eq!(siege.node.tally.drops(), [(Reason::SpoofedSource, 200)]);
}
