//! What the packet path costs in instructions, counted by callgrind: the same number on a
//! busy machine as on an idle one, so that a change that makes a packet dearer is noticed
//! where times cannot be trusted.
//!
//! Every benchmark has a limit: what was counted when it was last set, and [`MARGIN`] for what
//! compilers and libraries differ in. Beyond it the run fails (exit code 3). A count that has
//! fallen is the occasion to set its limit anew.
//!
//! `bench/instructions` runs this; it brings the program that gungraun wants beside valgrind.
//!
//! What it cannot see: caches. The tables are small here, and an instruction is an
//! instruction; `in_process` measures what waiting for memory costs.
#![allow(missing_docs)] // gungraun's macros make public items
#![allow(clippy::expect_used)]

mod support;

use std::hint::black_box;

use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind};
use support::rivals::{BATCH, Flows, Query, Weir};
use support::traffic::{self, ACK, FRAME, Punted, SHUT, SYN};
use support::world::{self, World};
use weir_control::eval::Offline;
use weir_control::index::Index;
use weir_control::model::Loaded;
use weir_dataplane::parse;
use weir_dataplane::shim::SHIM_LEN;
use weir_table::classify::Connection;
use weir_table::flow::Tick;

/// In percent of what was counted.
const MARGIN: u64 = 5;
/// A full burst.
const PACKETS: u32 = 64;
const POLICIES: u32 = 100;
const CLIENTS: u32 = 200;
const FLOWS: u32 = 512;
const NOW: Tick = Tick(100_000);

/// Instructions only: caches are not simulated, which halves the time. The limit is `counted`
/// and the margin.
fn at_most(counted: u64) -> LibraryBenchmarkConfig {
    let mut callgrind = Callgrind::with_args(["--cache-sim=no"]);
    callgrind.hard_limits([(EventKind::Ir, counted + counted * MARGIN / 100)]);
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind);
    config
}

fn frames(six: bool) -> Vec<Vec<u8>> {
    let frame = |n| {
        let mut frame = Vec::with_capacity(FRAME);
        let flow = traffic::tuple(n, six);
        traffic::write(&Punted { flow, from_pod: n % 2 == 0, flags: ACK }, &mut frame);
        frame
    };
    (0..PACKETS).map(frame).collect()
}

#[library_benchmark]
#[bench::tcp4(args = (false), setup = frames, config = at_most(7_969))]
#[bench::tcp6(args = (true), setup = frames, config = at_most(8_353))]
fn parse_plain(frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    for frame in &frames {
        assert!(black_box(parse::plain(black_box(&frame[SHIM_LEN..]))).is_some());
    }
    frames
}

#[library_benchmark]
#[bench::tcp4(args = (false), setup = frames, config = at_most(15_394))]
#[bench::tcp6(args = (true), setup = frames, config = at_most(15_714))]
fn parse_long(frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    for frame in &frames {
        assert!(black_box(parse::parse(black_box(&frame[SHIM_LEN..]))).is_ok());
    }
    frames
}

fn queries(base: u32) -> Vec<Query> {
    (base..).take(BATCH).map(Query::new).collect()
}

/// A table with the flows from 0, and what to look for.
fn table(base: u32) -> (Weir, Vec<Query>) {
    let table = Weir::with_room_for(4096);
    let known: Vec<Query> = (0..FLOWS).map(Query::new).collect();
    assert_eq!(table.insert(&known, NOW), known.len());
    (table, queries(base))
}

#[library_benchmark]
#[bench::hit(args = (0, BATCH), setup = table_and_expected, config = at_most(46_124))]
#[bench::miss(args = (FLOWS, 0), setup = table_and_expected, config = at_most(34_065))]
fn flow_lookup((table, queries, expected): (Weir, Vec<Query>, usize)) -> Weir {
    assert_eq!(table.hit(black_box(&queries), NOW), expected);
    table
}

fn table_and_expected(base: u32, expected: usize) -> (Weir, Vec<Query>, usize) {
    let (table, queries) = table(base);
    (table, queries, expected)
}

#[library_benchmark]
#[bench::new(args = (FLOWS), setup = table, config = at_most(184_533))]
fn flow_insert((table, queries): (Weir, Vec<Query>)) -> Weir {
    assert_eq!(table.insert(black_box(&queries), NOW), queries.len());
    table
}

fn connections(policies: u32) -> (Offline, Vec<Connection>) {
    let offline = Offline::of(world::index(policies, CLIENTS)).expect("a table of policies");
    let connection = |n| Connection {
        src: traffic::client(n * 7 % CLIENTS, false),
        dst: traffic::pod(n % traffic::PODS, false),
        protocol: 6,
        dport: if n % 2 == 0 { traffic::OPEN } else { SHUT },
    };
    (offline, (0..PACKETS).map(connection).collect())
}

#[library_benchmark]
#[bench::of_10(args = (10), setup = connections, config = at_most(27_260))]
#[bench::of_1000(args = (1000), setup = connections, config = at_most(27_260))]
fn classify((offline, connections): (Offline, Vec<Connection>)) -> Offline {
    let judge = |of: &&Connection| offline.classifier.evaluate(black_box(of)).is_allowed();
    let allowed = connections.iter().filter(judge).count();
    assert_eq!(allowed, connections.len() / 2);
    offline
}

/// A full burst waits.
fn world(six: bool, flags: u8, first: u32) -> World {
    let mut world = World::established(POLICIES, CLIENTS, FLOWS, six);
    for n in first..first + PACKETS {
        let flow = traffic::tuple(n, six);
        world.push(&Punted { flow, from_pod: flags == ACK && n % 2 == 1, flags });
    }
    world
}

#[library_benchmark]
#[bench::established(args = (false, ACK, 0), setup = world, config = at_most(41_107))]
#[bench::established_ipv6(args = (true, ACK, 0), setup = world, config = at_most(44_610))]
#[bench::new(args = (false, SYN, FLOWS), setup = world, config = at_most(156_617))]
fn pipeline(mut world: World) -> World {
    world.run(world::START_NS);
    assert_eq!(world.io.forget_sent(), PACKETS as usize);
    world
}

fn objects(policies: u32) -> Index {
    world::index(policies, CLIENTS)
}

#[library_benchmark]
#[bench::of_100(args = (100), setup = objects, config = at_most(5_013_650))]
fn compile(index: Index) -> Offline {
    Offline::of(black_box(index)).expect("a table of policies")
}

/// For what people wait for: `lint` compares policies in pairs, `explain` looks for the nearest miss
/// in all rules, and neither a pair nor a rule may take longer the more pods there are.
fn cluster(policies: u32, clients: u32) -> Offline {
    Offline::of(world::index(policies, clients)).expect("a table of policies")
}

#[library_benchmark]
#[bench::of_200_and_500_pods(args = (200, 500), setup = cluster, config = at_most(111_599_368))]
#[bench::of_200_and_2000_pods(args = (200, 2000), setup = cluster, config = at_most(217_743_813))]
fn lint(offline: Offline) -> Offline {
    let findings = weir_control::lint::lint(&Loaded::default(), black_box(&offline));
    assert!(findings.iter().all(|finding| finding.code != "covered-rule"));
    offline
}

#[library_benchmark]
#[bench::of_200_and_500_pods(args = (200, 500), setup = cluster, config = at_most(6_533_186))]
#[bench::of_200_and_2000_pods(args = (200, 2000), setup = cluster, config = at_most(12_862_572))]
fn explain(offline: Offline) -> Offline {
    let (src, dst) = (traffic::client(0, false), traffic::pod(0, false));
    let denied = Connection { src, dst, protocol: 6, dport: SHUT };
    let names = ("x/client-0", "x/web-0");
    let why = weir_control::explain::explain(
        &offline.classifier,
        Some(&offline.index),
        names,
        black_box(&denied),
    );
    assert_eq!(why.verdict, "deny");
    offline
}

library_benchmark_group!(
    name = instructions,
    benchmarks = [
        parse_plain,
        parse_long,
        flow_lookup,
        flow_insert,
        classify,
        pipeline,
        compile,
        lint,
        explain
    ]
);

main!(library_benchmark_groups = instructions);
