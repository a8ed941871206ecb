//! The flow table under fire: the hooks' own code (C, in the kernel) against writers in user
//! space (Rust, in the same memory), on so few slots that each is reused all the time.
//!
//! Whatever is written under key n follows from n and from one number `e`, new with every
//! writing; so an entry of which a reader sees two states at once does not add up.
//! `bpf/stress.bpf.c` is the other half and checks what the kernel reads.
//!
//! build.rs makes versions of the C code without one step of the protocol; that these fail
//! shows that the test can. A compiler or a machine that reorders more than this one does is
//! not seen here: loom explores the Rust side (`table/src/flow/loom_model.rs`).
//!
//! Needs root. Without it the tests say "SKIPPED: needs root" and pass, unless
//! `WEIR_REQUIRE_E2E=1`. Nothing is attached or pinned: the kernel runs the programs on the
//! spot (BPF_PROG_TEST_RUN), and all ends with the process.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

#[path = "support/dice.rs"]
mod dice;
#[path = "support/root.rs"]
mod root;

use std::os::fd::AsFd;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::Map;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use dice::Dice;
use root::turn;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use weir_dataplane::steer::Sizes;
use weir_dataplane::steer::abi::{self, CONFIG_WORDS, Config, Fixed, Mark};
use weir_table::Address;
use weir_table::flow::layout::{SEEN_ANY, SEEN_SYN, v4_words, v6_words};
use weir_table::flow::{
    Flow, FlowHash, FlowKey, FlowRef, FlowTable, HashKey, NewFlow, QUOTA_WORDS, Quota, Side, Tick,
};
use weir_table::mem::{Access, SharedWords, Words};

static SOUND: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/stress.bpf.o"));
static UNCHECKED: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/stress_unchecked.bpf.o"));
static UNCLAIMED: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/stress_unclaimed.bpf.o"));

/// Slots of either family's table: two buckets of two.
const SLOTS: u32 = 4;
/// Keys of both families together, and how it is with so many: one a slot, rewritten in place
/// all the time; or slots that change their key all the time.
const FEW: u32 = 2;
const MANY: u32 = 16;
/// `MOST_KEYS` of stress.bpf.c.
const KEY_MASK: u32 = 1023;
/// Reads that must go well, with few keys and with many.
const READS: u64 = 10_000_000;
/// Packets that hooks try to enter or to note.
const WRITES: u64 = 3_000_000;
/// A broken version must be found out, and a machine be fast enough, within this time.
const PATIENCE: Duration = Duration::from_secs(60);
const NO_RACE: &str = "reader and writer never met: this test needs two processors";
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

type Table = FlowTable<SharedWords>;

/// The processors that this process may use.
static PROCESSORS: LazyLock<Vec<usize>> = LazyLock::new(|| {
    let set = sched_getaffinity(None).unwrap();
    (0..CpuSet::MAX_CPU).filter(|&processor| set.is_set(processor)).collect()
});

/// Keeps this thread on the nth of them: on a busy machine all would share one otherwise, and
/// take turns where they should meet.
fn run_on(nth: usize) {
    let mut set = CpuSet::new();
    set.set(PROCESSORS[nth % PROCESSORS.len()]);
    sched_setaffinity(None, &set).unwrap();
}

/// Words of `struct stress`.
#[derive(Clone, Copy)]
enum Word {
    Keys,
    Looks,
    Hits,
    Again,
    Wrong,
    Opened,
    Raced,
    Late,
    LostFlags,
    LostCounts,
}
const STRESS_WORDS: usize = Word::LostCounts as usize + 1;

/// The programs and the memory that they share with the test.
struct Rig {
    ebpf: Ebpf,
    stress: SharedWords,
    table: Table,
}

impl Rig {
    fn new(object: &[u8]) -> Self {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("weir_flows4", SLOTS)
            .map_max_entries("weir_flows6", SLOTS)
            .load(object)
            .unwrap();
        for (_, program) in ebpf.programs_mut() {
            let program: &mut SchedClassifier = program.try_into().unwrap();
            program.load().unwrap();
        }
        let words = |name, words| {
            let Some(Map::Array(data)) = ebpf.map(name) else { panic!("no map {name}") };
            SharedWords::map(data.fd().as_fd(), words, Access::ReadWrite, "stress map").unwrap()
        };
        let key: abi::HashKeyWords =
            std::array::from_fn(|i| (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Config::new(words("weir_config", CONFIG_WORDS as usize)).init(
            key,
            &Fixed {
                mark: Mark::DEFAULT,
                fail_open: false,
                heartbeat_timeout: Duration::from_secs(2),
                offload: true,
                punt_limit: None,
                flows: Sizes { flows4: SLOTS, flows6: SLOTS },
            },
        );
        let stress = words("weir_stress", STRESS_WORDS);
        let v4 = words("weir_flows4", v4_words(SLOTS as usize));
        let v6 = words("weir_flows6", v6_words(SLOTS as usize));
        let quota = Quota::new(words("weir_quota", QUOTA_WORDS), u64::MAX);
        let table = FlowTable::new(v4, v6, HashKey::from_words(key)).unwrap().with_quota(quota);
        Self { ebpf, stress, table }
    }

    /// Runs a program `repeat` times on this processor.
    fn run(&self, program: &str, repeat: u32) {
        let program: &SchedClassifier = self.ebpf.program(program).unwrap().try_into().unwrap();
        let frame = [0; 64];
        let options = TestRunOptions { data_in: Some(&frame), repeat, ..Default::default() };
        program.test_run(options).unwrap();
    }

    fn get(&self, word: Word) -> u64 {
        self.stress.words()[word as usize].load(Ordering::Relaxed)
    }

    /// Runs a program on `keys` keys against writers in user space until `done`, until one of
    /// them finds a torn entry, or out of patience. Gives the torn entries.
    fn under_fire(
        &self,
        program: &str,
        keys: u32,
        writer: fn(&Table, &[Known], Dice, &AtomicBool) -> Written,
        done: impl Fn(&Self) -> bool,
    ) -> u64 {
        self.stress.words().iter().for_each(|word| word.store(0, Ordering::Relaxed));
        self.stress.words()[Word::Keys as usize].store(keys.into(), Ordering::Relaxed);
        let all: Vec<Known> = (0..keys).map(|n| Known::new(&self.table, n)).collect();
        let writers = (PROCESSORS.len() - 1).clamp(1, 2);
        let stop = AtomicBool::new(false);
        let started = Instant::now();
        let written: Vec<Written> = thread::scope(|scope| {
            let (all, stop) = (&all, &stop);
            let spawn = |nth| {
                scope.spawn(move || {
                    run_on(nth);
                    writer(&self.table, all, Dice::new(0x9e37_79b9_7f4a_7c15 + nth as u64), stop)
                })
            };
            let writers: Vec<_> = (1..=writers).map(spawn).collect();
            run_on(0);
            while !done(self) && !stop.load(Ordering::Relaxed) && started.elapsed() < PATIENCE {
                self.run(program, 200);
            }
            stop.store(true, Ordering::Relaxed);
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        use Word::{Again, Hits, Late, Looks, Opened, Raced, Wrong};
        let [looks, hits, again, wrong, opened, raced, late] =
            [Looks, Hits, Again, Wrong, Opened, Raced, Late].map(|word| self.get(word));
        eprintln!(
            "{program}, {keys} keys, {:.1} s: {looks} looks, {hits} hits, {again} met in change, \
             {wrong} wrong, {opened} opened, {raced} raced, {late} late; in user space {written:?}",
            started.elapsed().as_secs_f32()
        );
        written.iter().map(|w| w.torn).sum()
    }
}

// ---- what stands under key n: the same functions as in stress.bpf.c ----------

fn key_of(n: u32) -> (FlowKey, Side) {
    let end = |hi: u32| {
        if n & 1 == 1 {
            Address::from_words(0xfd00_0000_0000_0000 | u64::from(hi), n.into())
        } else {
            Address::v4((0x0a00_0000 | hi << 16 | n).to_be_bytes())
        }
    };
    let (key, _) = FlowKey::new((end(0), 1000 + n as u16), (end(1), 80), 6);
    (key, if n >> 1 & 1 == 1 { Side::Hi } else { Side::Lo })
}

fn stamps_of(n: u32, e: u32) -> [u64; 2] {
    [u64::from(2 * n) << 32 | u64::from(e), u64::from(2 * n + 1) << 32 | u64::from(!e)]
}

fn devices_of(n: u32, e: u32) -> [u32; 2] {
    let base = e.wrapping_mul(2_654_435_761);
    [base.wrapping_add(2 * n), base.wrapping_add(2 * n + 1)]
}

fn is_whole(flow: &Flow, n: u32) -> bool {
    let (key, initiator) = key_of(n);
    let e = flow.stamps[0] as u32;
    let opened = SEEN_ANY | SEEN_SYN;
    flow.key == key
        && flow.initiator == initiator
        && flow.stamps == stamps_of(n, e)
        && flow.ifindex == devices_of(n, e)
        && flow.denied == (e & 1 == 1)
        && flow.last_seen.0 & KEY_MASK == n
        && flow.seen.from(initiator) & opened == opened
}

struct Known {
    n: u32,
    key: FlowKey,
    hash: FlowHash,
    initiator: Side,
}

impl Known {
    fn new(table: &Table, n: u32) -> Self {
        let (key, initiator) = key_of(n);
        Self { n, key, hash: table.hash(&key), initiator }
    }

    fn lookup(&self, table: &Table) -> Option<(FlowRef, Flow)> {
        table.lookup(&self.key, self.hash).ok().flatten()
    }

    /// `e` must be even: a new flow is allowed. False if there is no room.
    fn insert(&self, table: &Table, e: u32) -> bool {
        let new = NewFlow {
            initiator: self.initiator,
            tcp_flags: SYN,
            ifindex: devices_of(self.n, e),
            stamps: stamps_of(self.n, e),
            hold: false,
        };
        table.insert(&self.key, self.hash, &new, Tick(e & !KEY_MASK | self.n)).is_ok()
    }

    fn rejudge(&self, table: &Table, flow: FlowRef, e: u32) -> bool {
        let (stamps, devices) = (stamps_of(self.n, e), devices_of(self.n, e));
        table.rejudge(flow, e & 1 == 1, stamps, devices).is_some()
    }
}

/// Writings, and entries found that did not add up.
#[derive(Debug, Default)]
struct Written {
    writes: u64,
    torn: u64,
}

/// Inserts, deletes, judges anew and touches as fast as it goes.
fn write(table: &Table, all: &[Known], mut dice: Dice, stop: &AtomicBool) -> Written {
    let mut written = Written::default();
    while !stop.load(Ordering::Relaxed) {
        let (roll, e) = (dice.roll_u32(), dice.roll_u32());
        let known = &all[(roll >> 8) as usize % all.len()];
        let Some((flow, found)) = known.lookup(table) else {
            written.writes += u64::from(known.insert(table, e & !1));
            continue;
        };
        if !is_whole(&found, known.n) {
            written.torn += 1;
            stop.store(true, Ordering::Relaxed);
        }
        let side = if roll & 16 == 0 { Side::Lo } else { Side::Hi };
        written.writes += u64::from(match roll & 3 {
            0 => table.delete(flow),
            1 => known.rejudge(table, flow, e),
            2 => table.touch(flow, side, ACK, Tick(e & !KEY_MASK | known.n)),
            _ => known.insert(table, e & !1),
        });
    }
    written
}

/// Gives flows new verdicts, and does nothing else to them.
fn judge(table: &Table, all: &[Known], mut dice: Dice, stop: &AtomicBool) -> Written {
    let mut written = Written::default();
    while !stop.load(Ordering::Relaxed) {
        for known in all {
            if let Some((flow, _)) = known.lookup(table) {
                written.writes += u64::from(known.rejudge(table, flow, dice.roll_u32()));
            }
        }
    }
    written
}

#[test]
fn no_reader_acts_on_an_entry_that_is_just_changing() {
    let Some(_turn) = turn() else { return };
    let rig = Rig::new(SOUND);
    for keys in [FEW, MANY] {
        let done = |rig: &Rig| rig.get(Word::Looks) >= READS && rig.get(Word::Again) > 0;
        let torn = rig.under_fire("stress_read", keys, write, done);
        assert_eq!((rig.get(Word::Wrong), torn), (0, 0), "in the kernel, in user space");
        let (looks, hits) = (rig.get(Word::Looks), rig.get(Word::Hits));
        assert!(looks >= READS, "only {looks} reads in {PATIENCE:?}");
        assert!(hits >= looks / 10, "{hits} hits in {looks} reads: the test missed the table");
        assert!(rig.get(Word::Again) > 0, "{NO_RACE}");
    }
}

#[test]
fn a_reader_that_does_not_look_at_the_control_word_again_is_found_out() {
    let Some(_turn) = turn() else { return };
    let rig = Rig::new(UNCHECKED);
    rig.under_fire("stress_read", FEW, write, |rig| rig.get(Word::Wrong) > 0);
    assert!(rig.get(Word::Wrong) > 0, "{} reads went well without it", rig.get(Word::Looks));
}

#[test]
fn hooks_and_user_space_write_the_same_slots() {
    let Some(_turn) = turn() else { return };
    let rig = Rig::new(SOUND);
    for keys in [FEW, MANY] {
        let done = |rig: &Rig| rig.get(Word::Looks) >= WRITES && rig.get(Word::Raced) > 0;
        let torn = rig.under_fire("stress_write", keys, write, done);
        assert_eq!((rig.get(Word::Wrong), torn), (0, 0), "in the kernel, in user space");
        assert!(rig.get(Word::Looks) >= WRITES, "too slow: {}", rig.get(Word::Looks));
        assert!(rig.get(Word::Opened) >= WRITES / 10, "hooks hardly ever entered a flow");
        assert!(rig.get(Word::Raced) > 0, "{NO_RACE}");
    }
    // What was left behind: no slot that nobody can use, every flow whole, and every pod's
    // account what its flows are, though each side took off what the other had put there.
    assert_eq!(rig.table.sweep(), 0, "slots that are busy for good");
    for flow in rig.table.iter() {
        let n = (0..MANY).find(|n| key_of(*n).0 == flow.key).expect("a key of ours");
        assert!(is_whole(&flow, n), "{flow:?}");
    }
    let accounts = |table: &Table| -> Vec<u64> {
        (0..=u32::from(u16::MAX)).map(|pod| table.quota().unwrap().flows_of(pod)).collect()
    };
    let counted = accounts(&rig.table);
    rig.table.recount();
    assert!(counted == accounts(&rig.table), "the pods' accounts are wrong");
}

#[test]
fn a_hook_whose_entry_is_live_before_it_is_whole_is_found_out() {
    let Some(_turn) = turn() else { return };
    let rig = Rig::new(UNCLAIMED);
    let torn = rig.under_fire("stress_write", FEW, write, |rig| rig.get(Word::Wrong) > 0);
    assert!(rig.get(Word::Wrong) + torn > 0, "nobody saw a half-written entry");
}

#[test]
fn a_new_verdict_loses_nothing_that_a_hook_has_noted() {
    let Some(_turn) = turn() else { return };
    let rig = Rig::new(SOUND);
    for n in 0..FEW {
        assert!(Known::new(&rig.table, n).insert(&rig.table, 2));
    }
    let done = |rig: &Rig| rig.get(Word::Looks) >= WRITES && rig.get(Word::Late) > 0;
    rig.under_fire("stress_touch", FEW, judge, done);
    let (hits, late) = (rig.get(Word::Hits), rig.get(Word::Late));
    assert!(hits >= WRITES / 2, "only {hits} touches");
    assert!(late > 0, "{NO_RACE}");
    let lost = (rig.get(Word::LostFlags), rig.get(Word::LostCounts));
    assert_eq!(lost, (0, 0), "flags and counts lost, of {hits}");
}
