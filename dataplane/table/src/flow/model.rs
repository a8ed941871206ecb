//! The table against a `HashMap`, and under threads that do their worst.
//!
//! What the property cannot see: interleavings; those are in `loom_model.rs`, and, as
//! far as real hardware shows them, in the stress test below.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::*;
use crate::addr::Address;
use crate::mem::heap_words;
use crate::stamps::Stamps;

pub(super) type Table = FlowTable<Vec<std::sync::atomic::AtomicU64>>;

pub(super) fn table(v4_entries: usize, v6_entries: usize) -> Table {
    let key = HashKey::from_bytes(&std::array::from_fn(|i| (i as u8).wrapping_mul(37) ^ 0x5a));
    let v4 = heap_words(layout::v4_words(v4_entries));
    FlowTable::new(v4, heap_words(layout::v6_words(v6_entries)), key).unwrap()
}

fn address(six: bool, host: u8) -> Address {
    if six {
        Address::from_bits(0xfd << 120 | u128::from(host))
    } else {
        Address::v4([10, 0, 0, host])
    }
}

pub(super) fn key(six: bool, host: u8, port: u16, protocol: u8) -> (FlowKey, Side) {
    FlowKey::new((address(six, host), port), (address(six, 100), 80), protocol)
}

/// Two stamps that hold as long as nothing was ever outdated if the number is 0, else never.
fn stamps(number: u64) -> [u64; 2] {
    [number, number.rotate_left(7)]
}

pub(super) fn new_flow(initiator: Side, tcp_flags: u8, stamp: u64) -> NewFlow {
    NewFlow { initiator, tcp_flags, ifindex: [7, 9], stamps: stamps(stamp), hold: false }
}

/// One thing that happens to the table. Keys come from a small set so that they meet.
#[derive(Debug, Clone)]
enum Op {
    Insert { key: usize, from_sender: bool, flags: u8, stamp: u64 },
    Touch { key: usize, from_sender: bool, flags: u8 },
    Rejudge { key: usize, denied: bool, stamp: u64, ifindex: [u32; 2] },
    Hit { key: usize, from_sender: bool, flags: u8, elsewhere: bool },
    Delete { key: usize },
    Wait { seconds: u32 },
    Expire,
}

pub(super) const KEYS: usize = 60;

fn any_op() -> impl Strategy<Value = Op> {
    let key = 0..KEYS;
    let stamp = || prop_oneof![Just(0), any::<u64>()];
    prop_oneof![
        4 => (key.clone(), any::<bool>(), any::<u8>(), stamp())
            .prop_map(|(key, from_sender, flags, stamp)| Op::Insert { key, from_sender, flags, stamp }),
        4 => (key.clone(), any::<bool>(), any::<u8>())
            .prop_map(|(key, from_sender, flags)| Op::Touch { key, from_sender, flags }),
        2 => (key.clone(), any::<bool>(), stamp(), prop_oneof![Just([7, 9]), any::<[u32; 2]>()])
            .prop_map(|(key, denied, stamp, ifindex)| Op::Rejudge { key, denied, stamp, ifindex }),
        4 => (key.clone(), any::<bool>(), any::<u8>(), proptest::bool::weighted(0.2)).prop_map(
            |(key, from_sender, flags, elsewhere)| Op::Hit { key, from_sender, flags, elsewhere },
        ),
        1 => key.prop_map(|key| Op::Delete { key }),
        1 => prop_oneof![0..12u32, 0..200u32, 3000..4000u32].prop_map(|seconds| Op::Wait { seconds }),
        1 => Just(Op::Expire),
    ]
}

pub(super) fn key_number(n: usize) -> (FlowKey, Side) {
    let protocol = [6, 17, 1, 132, 47][n % 5];
    key(n.is_multiple_of(2), (n / 10) as u8, (n % 7) as u16, protocol)
}

fn contents(table: &Table) -> HashMap<FlowKey, Flow> {
    let all: Vec<Flow> = table.iter().collect();
    let map: HashMap<_, _> = all.iter().map(|flow| (flow.key, *flow)).collect();
    assert_eq!(map.len(), all.len(), "a key stands in two slots");
    map
}

pub(super) fn find(table: &Table, key: &FlowKey) -> Option<(FlowRef, Flow)> {
    table.lookup(key, table.hash(key)).unwrap()
}

#[test]
fn what_gives_way_and_what_never_does() {
    use layout::{SEEN_ACK, SEEN_FIN, SEEN_RST, SEEN_SYN};
    let (syn, ack) = (SEEN_SYN, SEEN_ACK);
    let opened = [(true, syn), (false, syn | ack), (true, ack), (false, ack)];
    let blind = [&opened[..3], &[(false, SEEN_RST), (false, syn | ack)]].concat();
    let reset = [&opened[..1], &[(true, ack), (false, SEEN_RST)]].concat();
    // What is sent (by the initiator?, TCP's flags), and whether it yields.
    let cases = [
        ("a SYN", 6, vec![(true, syn)], true),
        ("a SYN and its answer", 6, opened[..2].to_vec(), true),
        ("a refused SYN", 6, vec![(true, syn), (false, SEEN_RST | ack)], true),
        ("a connection", 6, opened.to_vec(), false),
        ("a handshake that only its opener speaks of", 6, opened[..3].to_vec(), true),
        ("one that the other end denies", 6, blind, true),
        ("a finished one", 6, [&opened[..], &[(true, SEEN_FIN | ack)]].concat(), false),
        ("a reset one", 6, [&opened[..], &[(false, SEEN_RST)]].concat(), false),
        ("a FIN out of nothing", 6, vec![(true, SEEN_FIN | ack)], true),
        ("a handshake that the other end resets", 6, reset, true),
        ("an INIT and its answer", 132, opened[..2].to_vec(), true),
        ("an association", 132, opened.to_vec(), false),
        ("an association that only its opener speaks of", 132, opened[..3].to_vec(), true),
        ("a question", 17, vec![(true, 0)], true),
        ("question and answer", 17, vec![(true, 0), (false, 0)], false),
        ("a ping", 1, vec![(true, 0), (false, 0)], true),
    ];
    for (what, protocol, packets, yields) in cases {
        let table = table(2, 2);
        let (first, sender) = key(false, 1, 1, protocol);
        let new = new_flow(sender, packets[0].1, 0);
        let entered = table.insert(&first, table.hash(&first), &new, Tick(5)).unwrap().flow;
        for (from_opener, flags) in &packets[1..] {
            let side = if *from_opener { sender } else { sender.other() };
            table.touch(entered, side, *flags, Tick(5));
        }
        // One bucket: the third key needs one of the others' slots. The second is younger,
        // and does not yield.
        let (second, _) = key(false, 2, 1, 17);
        let young = table.insert(&second, table.hash(&second), &new_flow(Side::Lo, 0, 0), Tick(6));
        table.touch(young.unwrap().flow, Side::Hi, 0, Tick(6));
        let (third, _) = key(false, 3, 1, 17);
        let placed = table.insert(&third, table.hash(&third), &new_flow(Side::Lo, 0, 0), Tick(7));
        assert_eq!(placed.is_ok(), yields, "{what}");
        assert_eq!(find(&table, &first).is_none(), yields, "{what}");
        let flow = table.entries().find(|(_, flow)| flow.key == first);
        if let Some((name, _)) = flow {
            // Not even if it is cut; but once it is over.
            table.rejudge(name, true, [0; 2], [7, 9]).unwrap();
            let again =
                |now| table.insert(&third, table.hash(&third), &new_flow(Side::Lo, 0, 0), now);
            assert!(again(Tick(8)).is_err(), "{what}, cut");
            assert!(again(Tick(8 + Tick::in_seconds(3601))).is_ok(), "{what}, over");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_table_holds_what_a_map_holds(ops in proptest::collection::vec(any_op(), 1..200)) {
        // Small enough that keys fight for room.
        let table = table(16, 16);
        let mut model: HashMap<FlowKey, Flow> = HashMap::new();
        let mut now = Tick(u32::MAX - 500);
        let secret = HashKey::from_bytes(&[3; HashKey::BYTES]);
        let untouched = Stamps::new(heap_words(1), secret).unwrap();
        for op in ops {
            match op {
                Op::Insert { key, from_sender, flags, stamp } => {
                    let (key, sender) = key_number(key);
                    let initiator = if from_sender { sender } else { sender.other() };
                    let new = new_flow(initiator, flags, stamp);
                    let replaced = model.remove(&key).is_some();
                    match table.insert(&key, table.hash(&key), &new, now) {
                        Ok(inserted) => {
                            prop_assert!(!(replaced && inserted.evicted));
                            let after = contents(&table);
                            let gone: Vec<_> =
                                model.keys().filter(|k| !after.contains_key(*k)).copied().collect();
                            prop_assert_eq!(gone.len(), usize::from(inserted.evicted));
                            for gone in gone {
                                let flow = model.remove(&gone).unwrap();
                                prop_assert!(flow.is_expired(now) || flow.yields());
                            }
                            let seen = Seen::default().with(initiator, flags);
                            model.insert(key, Flow {
                                key, initiator, denied: false, seen, last_seen: now,
                                ifindex: [7, 9], stamps: stamps(stamp), counts: Counts::default(),
                            });
                        }
                        Err(NoRoom::Table | NoRoom::Pod) => {
                            prop_assert!(!replaced);
                            let stubborn = model.values()
                                .filter(|f| !f.is_expired(now) && !f.yields());
                            prop_assert!(stubborn.count() >= 2 * layout::BUCKET);
                        }
                    }
                }
                Op::Touch { key, from_sender, flags } => {
                    let (key, sender) = key_number(key);
                    let side = if from_sender { sender } else { sender.other() };
                    let found = find(&table, &key);
                    prop_assert_eq!(found.map(|(_, flow)| flow), model.get(&key).copied());
                    if let Some((flow, _)) = found {
                        prop_assert!(table.touch(flow, side, flags, now));
                        let flow = model.get_mut(&key).unwrap();
                        flow.seen = flow.seen.with(side, flags);
                        flow.last_seen = now;
                    }
                }
                Op::Hit { key, from_sender, flags, elsewhere } => {
                    let (key, sender) = key_number(key);
                    let side = if from_sender { sender } else { sender.other() };
                    let ifindex = if elsewhere { [7, 8] } else { [7, 9] };
                    let packet = Seeing { side, tcp_flags: flags, ifindex, now };
                    let hit = table.hit(&key, table.hash(&key), &packet, &untouched);
                    let name = find(&table, &key).map(|(name, _)| name);
                    let known = model.get_mut(&key).filter(|flow| {
                        flow.ifindex == ifindex
                            && flow.stamps == [0, 0]
                            && now.since(flow.last_seen) <= FlowState::SHORTEST_TIMEOUT
                    });
                    prop_assert_eq!(hit, name.zip(known.as_ref().map(|flow| flow.denied)));
                    if let Some(flow) = known {
                        flow.seen = flow.seen.with(side, flags);
                        flow.last_seen = now;
                    }
                }
                Op::Rejudge { key, denied, stamp, ifindex } => {
                    let (key, _) = key_number(key);
                    if let Some((old, _)) = find(&table, &key) {
                        let renamed = table.rejudge(old, denied, stamps(stamp), ifindex).unwrap();
                        // The old name is powerless from here on.
                        prop_assert!(!table.touch(old, Side::Lo, 0xff, now.plus(1)));
                        prop_assert!(!table.delete(old));
                        prop_assert!(table.rejudge(old, !denied, [0, 0], [0, 0]).is_none());
                        prop_assert_eq!(find(&table, &key).unwrap().0, renamed);
                        let flow = model.get_mut(&key).unwrap();
                        (flow.denied, flow.stamps, flow.ifindex) = (denied, stamps(stamp), ifindex);
                    }
                }
                Op::Delete { key } => {
                    let (key, _) = key_number(key);
                    if let Some((flow, _)) = find(&table, &key) {
                        prop_assert!(table.delete(flow));
                        prop_assert!(!table.delete(flow));
                    }
                    model.remove(&key);
                }
                Op::Wait { seconds } => now = now.plus(Tick::in_seconds(seconds)),
                Op::Expire => {
                    let mut cursors = [0, 1, 2].map(|worker| ExpiryCursor::new(worker, 3));
                    let expired: usize =
                        cursors.iter_mut().map(|c| table.expire(c, now, 11)).sum();
                    let before = model.len();
                    model.retain(|_, flow| !flow.is_expired(now));
                    prop_assert_eq!(expired, before - model.len());
                }
            }
            prop_assert_eq!(contents(&table), model.clone());
        }
        for n in 0..KEYS {
            let (key, _) = key_number(n);
            prop_assert_eq!(find(&table, &key).map(|(_, flow)| flow), model.get(&key).copied());
        }
    }
}

#[test]
fn a_flood_of_new_flows_never_displaces_an_established_one() {
    let table = table(64, 4);
    let (kept, client) = key(false, 1, 40_000, 6);
    let hash = table.hash(&kept);
    let flow = table.insert(&kept, hash, &new_flow(client, 0x02, 1), Tick(0)).unwrap().flow;
    assert!(table.touch(flow, client.other(), 0x12, Tick(0)));
    assert!(table.touch(flow, client, 0x10, Tick(0)));
    assert!(table.touch(flow, client.other(), 0x10, Tick(0)));
    let (cut, cut_client) = key(false, 2, 40_000, 6);
    let cut_ref =
        table.insert(&cut, table.hash(&cut), &new_flow(cut_client, 0x02, 1), Tick(0)).unwrap().flow;
    table.rejudge(cut_ref, true, [2, 3], [7, 9]).unwrap();

    let (mut evicted, mut full) = (0, 0);
    for port in 0..10_000u16 {
        let (key, sender) = key(false, 3, port, 6);
        match table.insert(&key, table.hash(&key), &new_flow(sender, 0x02, 1), Tick(1)) {
            Ok(inserted) => evicted += usize::from(inserted.evicted),
            Err(NoRoom::Table | NoRoom::Pod) => full += 1,
        }
    }
    assert!(evicted > 9_000, "the flood evicts itself: {evicted}");
    assert_eq!(full, 0);
    assert_eq!(find(&table, &kept).unwrap().1.state(), FlowState::Established);
    assert_eq!(find(&table, &cut).unwrap().1.state(), FlowState::Denied);
}

#[test]
fn a_table_full_of_established_flows_says_so() {
    let table = table(4, 4);
    let mut full = 0;
    for port in 0..20u16 {
        let (key, sender) = key(true, 3, port, 17);
        match table.insert(&key, table.hash(&key), &new_flow(sender, 0, 1), Tick(1)) {
            Ok(inserted) => {
                assert!(table.touch(inserted.flow, sender.other(), 0, Tick(1)));
            }
            Err(NoRoom::Table | NoRoom::Pod) => full += 1,
        }
    }
    assert_eq!(full, 16);
    // Their time over, they make room.
    let (key, sender) = key(true, 9, 9, 17);
    let later = Tick(1).plus(Tick::in_seconds(timeout::ANSWERED) + 1);
    assert!(table.insert(&key, table.hash(&key), &new_flow(sender, 0, 1), later).unwrap().evicted);
}

#[test]
fn two_choices_fill_the_table_to_the_promised_load() {
    // Sized for 45 % (IPv4): overflow there must stay rare.
    let table = table(4096, 4);
    let mut full = 0;
    let wanted = 4096 * 45 / 100;
    for n in 0..wanted {
        let (key, sender) = key(false, (n >> 8) as u8, (n & 0xff) as u16, 17);
        match table.insert(&key, table.hash(&key), &new_flow(sender, 0, 1), Tick(0)) {
            Ok(inserted) if !inserted.evicted => {
                table.touch(inserted.flow, sender.other(), 0, Tick(0));
            }
            _ => full += 1,
        }
    }
    assert!(full * 50 < wanted, "{full} of {wanted} found no room");
}

#[test]
fn slots_of_a_dead_writer_are_swept() {
    let table = table(4, 4);
    let (key, sender) = key(false, 1, 1, 6);
    table.insert(&key, table.hash(&key), &new_flow(sender, 0x02, 1), Tick(0)).unwrap();
    let words = heap_words(layout::v4_words(4));
    words[0].store(5 << layout::VERSION_SHIFT | layout::STATE_BUSY, Ordering::Relaxed);
    let hash_key = HashKey::from_bytes(&[1; HashKey::BYTES]);
    let orphaned = FlowTable::new(words, heap_words(layout::v6_words(4)), hash_key).unwrap();
    assert_eq!(orphaned.sweep(), 1);
    assert_eq!(orphaned.sweep(), 0);
    assert_eq!(orphaned.iter().count(), 0);
    assert_eq!(table.sweep(), 0);
    assert_eq!(table.iter().count(), 1);
}

/// A flow that another thread is just changing is neither there nor absent: whoever took it
/// for absent would enter it the other way round.
#[test]
fn an_entry_in_change_is_not_taken_for_absent() {
    let (words, v6) = (heap_words(layout::v4_words(2)), heap_words(layout::v6_words(2)));
    let hash_key = HashKey::from_bytes(&[1; HashKey::BYTES]);
    let table = FlowTable::new(&words, &v6, hash_key).unwrap();
    let (key, sender) = key(false, 1, 1, 6);
    let hash = table.hash(&key);
    assert_eq!(table.lookup(&key, hash), Ok(None));
    let flow = table.insert(&key, hash, &new_flow(sender, 2, 1), Tick(0)).unwrap().flow;
    let slot = if words[0].load(Ordering::Relaxed) & layout::STATE_MASK == 0 { 8 } else { 0 };
    let live = words[slot].load(Ordering::Relaxed);
    let busy = (live & !layout::STATE_MASK) | layout::STATE_BUSY;
    words[slot].store(busy, Ordering::Relaxed);
    assert_eq!(table.lookup(&key, hash), Err(InChange));
    words[slot].store(live, Ordering::Relaxed);
    assert_eq!(table.lookup(&key, hash).unwrap().unwrap().0, flow);
}

#[test]
fn packets_that_are_out_hold_their_side_alone() {
    let table = table(4, 4);
    for six in [false, true] {
        let (key, sender) = key(six, 1, 1, 17);
        let hash = table.hash(&key);
        let new = NewFlow { hold: true, ..new_flow(sender, 0, 1) };
        let flow = table.insert(&key, hash, &new, Tick(0)).unwrap().flow;
        let counts = |table: &Table| find(table, &key).unwrap().1.counts;
        assert!(counts(&table).is_held(sender) && !counts(&table).is_held(sender.other()));
        table.hold(flow, sender.other());
        table.hold(flow, sender);
        assert_eq!(counts(&table).punted(sender), 2);
        assert_eq!(counts(&table).punted(sender.other()), 1);
        // A new verdict leaves what is out as it is; the old name counts for nothing.
        table.rejudge(flow, false, [3, 4], [7, 9]).unwrap();
        table.hold(flow, sender);
        assert_eq!(counts(&table).punted(sender), 2);
    }
}

#[test]
fn memory_that_does_not_fit_is_refused_in_words() {
    let key = HashKey::from_bytes(&[1; HashKey::BYTES]);
    for entries in [0, 1, 3, 6, 12] {
        let words = heap_words(layout::v4_words(entries));
        let error =
            FlowTable::new(words, heap_words(layout::v6_words(4)), key.clone()).unwrap_err();
        assert!(error.to_string().contains("IPv4 flow region"), "{error}");
    }
    let error = FlowView::new(heap_words(16), heap_words(33)).unwrap_err();
    assert!(error.to_string().contains("IPv6 flow region has 33 words"), "{error}");
}

/// Everything in a flow of this test follows from its port, so a torn read shows.
fn stamp_of(port: u16) -> u64 {
    u64::from(port).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[test]
fn readers_never_see_halves_of_two_flows() {
    let table = Arc::new(table(4, 4));
    let stop = Arc::new(AtomicBool::new(false));
    let writer = |six: bool, seed: u16| {
        let (table, stop) = (table.clone(), stop.clone());
        std::thread::spawn(move || {
            let mut port = seed;
            while !stop.load(Ordering::Relaxed) {
                port = port.wrapping_mul(25_173).wrapping_add(13_849);
                let (key, sender) = key(six, 1, port, 17);
                let ifindex = [u32::from(port), u32::from(port) + 1];
                let stamps = [stamp_of(port), !stamp_of(port)];
                let new = NewFlow { initiator: sender, tcp_flags: 0, ifindex, stamps, hold: false };
                // Without room when the others snatch every slot.
                if let Ok(inserted) = table.insert(&key, table.hash(&key), &new, Tick(0))
                    && port.is_multiple_of(3)
                {
                    table.delete(inserted.flow);
                }
            }
        })
    };
    let writers = [writer(false, 1), writer(true, 2), writer(false, 3)];
    let mut seen = 0u64;
    let start = std::time::Instant::now();
    // Longer where the writers are not scheduled.
    let goes_on = |seen| start.elapsed().as_millis() < if seen > 100 { 300 } else { 30_000 };
    while goes_on(seen) {
        for flow in table.iter() {
            let (_, port) = flow.source();
            assert_eq!(flow.stamps, [stamp_of(port), !stamp_of(port)]);
            assert_eq!(flow.ifindex, [u32::from(port), u32::from(port) + 1]);
            seen += 1;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().unwrap();
    }
    assert!(seen > 100, "{seen}");
}
