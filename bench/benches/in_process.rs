//! What the packet path costs in time: parse, flow table, classify, the whole pipeline on
//! memory rings, compiling a table; beside them, concurrent hash maps as flow tables.
//!
//! `bench/in-process` runs this together with the rivals that are other programs. By hand:
//! `cargo bench -p weir-bench --bench in_process [-- FILTER]`; `WEIR_BENCH_FLOWS` limits the
//! largest flow table (10,000,000 needs some 8 GB).
//!
//! Every figure is for one packet (or one table). Preparing packets is not timed; what the
//! timed part did is checked after it: a benchmark of packets that are dropped would be fast.
#![forbid(unsafe_code)]
#![allow(clippy::expect_used)]

mod support;

use std::cell::LazyCell;
use std::collections::HashSet;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};
use support::Dice;
use support::rivals::{BATCH, Dash, Flows, Papaya, Query, Weir, WeirBurst};
use support::traffic::{self, ACK, CLIENTS, Punted, SHUT, SYN, Tuple};
use support::world::{self, World};
use weir_control::eval::Offline;
use weir_dataplane::parse;
use weir_dataplane::shim::SHIM_LEN;
use weir_table::classify::Connection;
use weir_table::counters::Counter;
use weir_table::flow::Tick;

/// Sizes of a flow table, with their names.
const FLOWS: [(u32, &str); 3] = [(10_000, "10k"), (1_000_000, "1M"), (10_000_000, "10M")];
const POLICIES: [u32; 4] = [10, 100, 1_000, 10_000];
/// Policies in force where their number does not matter.
const SOME_POLICIES: u32 = 100;
/// Packets that are timed together: 4 bursts, which stay in the first-level cache.
const PACKETS: u32 = 256;

fn group<'c>(c: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(u64::from(PACKETS)));
    group
}

/// Sums up the timed part of every round.
fn rounds(count: u64, mut round: impl FnMut() -> Duration) -> Duration {
    (0..count).map(|_| round()).sum()
}

fn time(timed: impl FnOnce()) -> Duration {
    let start = Instant::now();
    timed();
    start.elapsed()
}

fn bench_parse(c: &mut Criterion) {
    let mut group = group(c, "parse");
    for (name, six) in [("tcp4", false), ("tcp6", true)] {
        let frames: Vec<Vec<u8>> = (0..PACKETS)
            .map(|n| {
                let mut frame = Vec::new();
                let flow = traffic::tuple(n * 997, six);
                traffic::write(&Punted { flow, from_pod: n % 2 == 0, flags: ACK }, &mut frame);
                frame
            })
            .collect();
        let packets = || frames.iter().map(|frame| black_box(&frame[SHIM_LEN..]));
        group.bench_function(BenchmarkId::new("weir", name), |b| {
            b.iter(|| assert!(packets().all(|packet| black_box(parse::plain(packet)).is_some())));
        });
        // What no packet of this kind needs: the way of those that are not plain.
        group.bench_function(BenchmarkId::new("weir", format!("{name}-long")), |b| {
            b.iter(|| assert!(packets().all(|packet| black_box(parse::parse(packet)).is_ok())));
        });
    }
}

fn largest_table() -> u32 {
    let limit = std::env::var("WEIR_BENCH_FLOWS").ok().and_then(|text| text.parse().ok());
    limit.unwrap_or(u32::MAX)
}

/// Hit, miss and insertion among `flows` flows.
fn bench_flows_of<F: Flows>(c: &mut Criterion, contender: &str, flows: u32, name: &str) {
    const BATCHED: u32 = 256;
    assert_eq!(BATCHED as usize, BATCH);
    let now = Tick(100_000);
    // The flow table has no room for some; those are not looked for.
    let filled = LazyCell::new(|| {
        let table = F::with_room_for(flows);
        let enters = |n: &u32| {
            let query = [Query::new(*n)];
            let entered = table.insert(&query, now) == 1;
            if entered {
                table.establish(&query, now);
            }
            entered
        };
        let refused: HashSet<u32> = (0..flows).filter(|n| !enters(n)).collect();
        assert!(refused.len() <= flows as usize / 30, "room for 97 %");
        (table, refused)
    });
    let mut dice = Dice::new(u64::from(flows));
    let mut pick = |base: u32, refused: &HashSet<u32>| -> Vec<Query> {
        let picks = std::iter::repeat_with(|| base + dice.below(flows));
        picks.filter(|n| !refused.contains(n)).take(BATCH).map(Query::new).collect()
    };
    let mut hit = group(c, "flow-hit");
    hit.bench_function(BenchmarkId::new(contender, name), |b| {
        let (table, refused) = &*filled;
        b.iter_custom(|count| {
            rounds(count, || {
                let queries = pick(0, refused);
                let mut found = 0;
                let took = time(|| found = black_box(table.hit(black_box(&queries), now)));
                assert_eq!(found, BATCH);
                took
            })
        });
    });
    hit.finish();
    let mut miss = group(c, "flow-miss");
    miss.bench_function(BenchmarkId::new(contender, name), |b| {
        let (table, refused) = &*filled;
        b.iter_custom(|count| {
            rounds(count, || {
                let queries = pick(flows, refused);
                let mut found = 0;
                let took = time(|| found = black_box(table.hit(black_box(&queries), now)));
                assert_eq!(found, 0);
                took
            })
        });
    });
    miss.finish();
    let mut insert = group(c, "flow-insert");
    let mut next = flows;
    insert.bench_function(BenchmarkId::new(contender, name), |b| {
        let (table, _) = &*filled;
        b.iter_custom(|count| {
            rounds(count, || {
                let queries: Vec<Query> = (next..next + BATCHED).map(Query::new).collect();
                next = flows + (next + BATCHED - flows) % (1 << 20);
                let mut entered = 0;
                let took = time(|| entered = black_box(table.insert(black_box(&queries), now)));
                // A flow that is not established yet may have made room for a later one.
                let removed = table.remove(&queries);
                assert!(removed <= entered && removed > BATCH - BATCH / 6, "room for most");
                took
            })
        });
    });
    insert.finish();
}

fn bench_flows(c: &mut Criterion) {
    let limit = largest_table();
    for (flows, name) in FLOWS.into_iter().filter(|&(flows, _)| flows <= limit) {
        bench_flows_of::<Weir>(c, "weir", flows, name);
        bench_flows_of::<WeirBurst>(c, "weir-burst", flows, name);
        bench_flows_of::<Dash>(c, "dashmap", flows, name);
        bench_flows_of::<Papaya>(c, "papaya", flows, name);
    }
}

fn bench_classify(c: &mut Criterion) {
    let mut group = group(c, "classify");
    for policies in POLICIES {
        let offline = LazyCell::new(|| {
            Offline::of(world::index(policies, CLIENTS)).expect("a table of policies")
        });
        let mut dice = Dice::new(u64::from(policies));
        let connections: Vec<Connection> = (0..PACKETS)
            .map(|n| Connection {
                src: traffic::client(dice.below(CLIENTS), false),
                dst: traffic::pod(n % traffic::PODS, false),
                protocol: 6,
                dport: if n % 2 == 0 { traffic::OPEN } else { SHUT },
            })
            .collect();
        group.bench_function(BenchmarkId::new("weir", policies), |b| {
            let classifier = &offline.classifier;
            b.iter(|| {
                let judge = |of: &&Connection| classifier.evaluate(black_box(of)).is_allowed();
                let allowed = connections.iter().filter(judge).count();
                assert_eq!(black_box(allowed), connections.len() / 2);
            });
        });
    }
}

/// Times the worker's loop on the frames that wait; `passed` of them must come through.
fn through(world: &mut World, passed: usize) -> Duration {
    let took = time(|| world.work());
    assert_eq!(world.io.forget_sent(), passed);
    took
}

fn bench_established(c: &mut Criterion) {
    let mut group = group(c, "pipeline-established");
    let sizes = [(1, "1"), (10_000, "10k"), (1_000_000, "1M")];
    let four = sizes.map(|(flows, name)| (flows, name, false));
    for (flows, name, six) in four.into_iter().chain([(10_000, "10k-ipv6", true)]) {
        let mut world = LazyCell::new(|| World::established(SOME_POLICIES, CLIENTS, flows, six));
        let mut dice = Dice::new(u64::from(flows));
        group.bench_function(BenchmarkId::new("weir", name), |b| {
            let world = &mut *world;
            b.iter_custom(|count| {
                let before = world.count(Counter::FlowHits);
                let took = rounds(count, || {
                    let dice = &mut dice;
                    for n in 0..PACKETS {
                        let flow = traffic::tuple(world.pick(dice, flows), six);
                        world.push(&Punted { flow, from_pod: n % 2 == 1, flags: ACK });
                    }
                    through(world, PACKETS as usize)
                });
                let hits = world.count(Counter::FlowHits) - before;
                assert_eq!(hits, count * u64::from(PACKETS), "every packet of a known flow");
                took
            });
        });
    }
}

/// First packets, each of a flow of its own: allowed, so that it is entered; denied.
fn bench_first_packets(c: &mut Criterion) {
    for (name, port, entered) in
        [("pipeline-new", traffic::OPEN, true), ("pipeline-denied", SHUT, false)]
    {
        let mut group = group(c, name);
        for policies in POLICIES {
            // The table never holds more than one round's flows beside the established ones.
            let mut world = LazyCell::new(|| World::established(policies, CLIENTS, 10_000, false));
            let mut next = 0;
            group.bench_function(BenchmarkId::new("weir", policies), |b| {
                let world = &mut *world;
                b.iter_custom(|count| {
                    rounds(count, || {
                        let flow = |n| {
                            let known = traffic::tuple((next + n) % (1 << 20), false);
                            let client = (known.client.0, known.client.1 + 30_000);
                            Tuple { client, pod: (known.pod.0, port), ..known }
                        };
                        let packet = |n| Punted { flow: flow(n), from_pod: false, flags: SYN };
                        let passed = if entered { PACKETS as usize } else { 0 };
                        (0..PACKETS).for_each(|n| world.push(&packet(n)));
                        let took = through(world, passed);
                        let opened = (0..PACKETS).filter(|&n| world.forget(&flow(n))).count();
                        // All pass; a few find no room, or make room for others at once.
                        assert!(opened <= passed && opened >= passed - passed / 6, "entered");
                        next += PACKETS;
                        took
                    })
                });
            });
        }
    }
}

/// From objects in force to a table that workers would take over.
fn bench_compile(c: &mut Criterion) {
    let mut group = c.benchmark_group("compile");
    for policies in POLICIES {
        let index = LazyCell::new(|| world::index(policies, CLIENTS));
        group.bench_function(BenchmarkId::new("weir", policies), |b| {
            b.iter_batched(
                || index.clone(),
                |index| Offline::of(index).expect("a table of policies"),
                criterion::BatchSize::PerIteration,
            );
        });
    }
}

fn settings() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

criterion_group! {
    name = in_process;
    config = settings();
    targets = bench_parse, bench_flows, bench_classify, bench_established,
        bench_first_packets, bench_compile
}
criterion_main!(in_process);
