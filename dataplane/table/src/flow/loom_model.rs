//! Every interleaving (within loom's bounds) of two or three threads on the slots of one
//! bucket, with weak memory.
//!
//! What this cannot see: more threads, longer histories, the steering program (whose
//! accesses follow the same protocol), and versions that wrap.
//!
//! Readers have a thread of their own and the writer is the main one, not the other way
//! round: loom remembers only the last access to a word. Were the reader first, a writer
//! that loads each word before it stores it would hide the reader's loads from loom, which
//! would then try one order and call it all. [`model`] asserts that it did not.

use loom::thread;

use super::*;
use crate::addr::Address;
use crate::mem::heap_words;
use crate::stamps::Stamps;
use crate::sync::{Arc, AtomicU64, Ordering};

/// What a packet leaves that neither opens nor resets.
const WENT_ON: u8 = layout::SEEN_ANY | layout::SEEN_MORE;

type Table = FlowTable<Arc<Vec<AtomicU64>>>;

/// One bucket a family: every key competes for the same two slots.
fn table() -> Arc<Table> {
    let key = HashKey::from_bytes(&[3; HashKey::BYTES]);
    let v4 = Arc::new(heap_words(layout::v4_words(layout::BUCKET)));
    let v6 = Arc::new(heap_words(layout::v6_words(layout::BUCKET)));
    Arc::new(FlowTable::new(v4, v6, key).unwrap())
}

fn key(n: u8) -> (FlowKey, Side) {
    let src = (Address::v4([10, 0, 0, n]), 1000 + u16::from(n));
    FlowKey::new(src, (Address::v4([10, 0, 1, n]), 80), 17)
}

/// A flow whose every word follows from `n`.
fn new_flow(n: u8) -> NewFlow {
    let (_, initiator) = key(n);
    let ifindex = [u32::from(n), u32::from(n) + 1];
    let stamps = [u64::from(n) << 40, u64::from(n) << 41];
    NewFlow { initiator, tcp_flags: 0, ifindex, stamps, hold: false }
}

fn insert(table: &Table, n: u8) -> FlowRef {
    let (key, _) = key(n);
    table.insert(&key, table.hash(&key), &new_flow(n), Tick(u32::from(n))).unwrap().flow
}

fn lookup(table: &Table, n: u8) -> Option<(FlowRef, Flow)> {
    let (key, _) = key(n);
    table.lookup(&key, table.hash(&key)).ok().flatten()
}

fn assert_whole(flow: &Flow, n: u8) {
    let new = new_flow(n);
    assert_eq!(flow.key, key(n).0);
    assert_eq!(flow.ifindex, new.ifindex);
    assert_eq!(flow.stamps, new.stamps);
    assert_eq!(flow.last_seen, Tick(u32::from(n)));
    assert_eq!(flow.seen, Seen::default().with(new.initiator, 0));
}

fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    let orders = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = orders.clone();
    builder.check(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        f();
    });
    let orders = orders.load(Ordering::Relaxed);
    assert!(orders > 1, "loom saw nothing to reorder");
}

#[test]
fn loom_a_reader_sees_whole_flows_or_none() {
    model(|| {
        let table = table();
        let first = insert(&table, 1);
        let writer = {
            let table = table.clone();
            thread::spawn(move || {
                assert!(table.delete(first));
                insert(&table, 2);
            })
        };
        for n in [1, 2] {
            if let Some((_, flow)) = lookup(&table, n) {
                assert_whole(&flow, n);
            }
        }
        writer.join().unwrap();
        assert!(lookup(&table, 1).is_none());
        assert_whole(&lookup(&table, 2).unwrap().1, 2);
    });
}

/// A hit reads where it compares. Both flows are of the same devices; that of key 1 is stale,
/// its successor in the slot is not.
#[test]
fn loom_a_hit_never_holds_by_the_stamps_of_another_flow() {
    model(|| {
        let table = table();
        let enter = |n, stamp| {
            let (key, _) = key(n);
            let new = NewFlow { ifindex: [7, 8], stamps: [stamp; 2], ..new_flow(n) };
            table.insert(&key, table.hash(&key), &new, Tick(1)).unwrap().flow
        };
        let hit = |table: &Table, n| {
            let secret = HashKey::from_bytes(&[3; HashKey::BYTES]);
            let stamps = Stamps::new(Arc::new(heap_words(1)), secret).unwrap();
            let (key, side) = key(n);
            let packet = Seeing { side, tcp_flags: 0, ifindex: [7, 8], now: Tick(1) };
            table.hit(&key, table.hash(&key), &packet, &stamps)
        };
        let stale = enter(1, 3);
        let reader = {
            let table = table.clone();
            thread::spawn(move || {
                assert_eq!(hit(&table, 1), None);
                if let Some((flow, cut)) = hit(&table, 2) {
                    assert!(!cut);
                    assert!(table.entries().any(|(name, _)| name == flow));
                }
            })
        };
        assert!(table.delete(stale));
        enter(2, 0);
        reader.join().unwrap();
        assert!(hit(&table, 2).is_some());
    });
}

#[test]
fn loom_an_evicted_flow_is_never_mixed_with_its_successor() {
    model(|| {
        let table = table();
        insert(&table, 1);
        insert(&table, 2);
        let reader = {
            let table = table.clone();
            thread::spawn(move || {
                for n in [1, 3] {
                    if let Some((_, flow)) = lookup(&table, n) {
                        assert_whole(&flow, n);
                    }
                }
            })
        };
        // Both slots are taken: one of the two unanswered flows has to go.
        insert(&table, 3);
        reader.join().unwrap();
        assert_whole(&lookup(&table, 3).unwrap().1, 3);
        assert_eq!(table.iter().count(), 2);
    });
}

#[test]
fn loom_a_late_touch_never_hits_the_next_flow() {
    model(|| {
        let table = table();
        let first = insert(&table, 1);
        insert(&table, 5);
        let toucher = {
            let table = table.clone();
            thread::spawn(move || {
                table.touch(first, key(1).1, layout::SEEN_RST, Tick(99));
                table.rejudge(first, true, [99, 98], [99, 99])
            })
        };
        table.delete(first);
        insert(&table, 2);
        toucher.join().unwrap();
        assert_whole(&lookup(&table, 2).unwrap().1, 2);
    });
}

#[test]
fn loom_a_new_verdict_appears_whole() {
    model(|| {
        let table = table();
        let flow = insert(&table, 1);
        let reader = {
            let table = table.clone();
            thread::spawn(move || {
                let Some((_, flow)) = lookup(&table, 1) else { return };
                let verdict = (flow.denied, flow.stamps, flow.ifindex);
                assert!(
                    verdict == (true, [77, 78], [8, 9])
                        || verdict == (false, [1 << 40, 1 << 41], [1, 2]),
                    "{verdict:?}"
                );
            })
        };
        let renamed = table.rejudge(flow, true, [77, 78], [8, 9]).unwrap();
        reader.join().unwrap();
        assert_eq!(lookup(&table, 1).unwrap().0, renamed);
    });
}

#[test]
fn loom_two_writers_of_one_key_leave_one_entry() {
    model(|| {
        let table = table();
        let other = {
            let table = table.clone();
            thread::spawn(move || {
                insert(&table, 1);
            })
        };
        insert(&table, 1);
        other.join().unwrap();
        let flows: Vec<Flow> = table.iter().collect();
        assert!(flows.len() <= 1, "a key stands in two slots: {flows:?}");
        for flow in &flows {
            assert_whole(flow, 1);
        }
    });
}

#[test]
fn loom_touches_of_both_sides_are_both_kept() {
    model(|| {
        let table = table();
        let flow = insert(&table, 1);
        let (_, sender) = key(1);
        let other = {
            let table = table.clone();
            thread::spawn(move || {
                table.touch(flow, sender.other(), layout::SEEN_FIN, Tick(1));
            })
        };
        table.touch(flow, sender, layout::SEEN_ACK, Tick(1));
        other.join().unwrap();
        let (_, flow) = lookup(&table, 1).unwrap();
        assert_eq!(flow.seen.from(sender), WENT_ON | layout::SEEN_ACK);
        assert_eq!(flow.seen.from(sender.other()), WENT_ON | layout::SEEN_FIN);
    });
}

#[test]
fn loom_a_touch_during_a_new_verdict_is_noted_or_says_that_it_is_not() {
    model(|| {
        let table = table();
        let flow = insert(&table, 1);
        let (_, sender) = key(1);
        let toucher = {
            let table = table.clone();
            thread::spawn(move || table.touch(flow, sender.other(), layout::SEEN_FIN, Tick(9)))
        };
        table.rejudge(flow, true, [77, 78], [8, 9]).unwrap();
        let noted = toucher.join().unwrap();
        let (_, flow) = lookup(&table, 1).unwrap();
        let fin = WENT_ON | layout::SEEN_FIN;
        assert_eq!(flow.seen.from(sender.other()), if noted { fin } else { 0 });
        assert_eq!(flow.seen.from(sender), WENT_ON);
        assert_eq!((flow.denied, flow.stamps, flow.ifindex), (true, [77, 78], [8, 9]));
    });
}

#[test]
fn loom_a_count_that_was_seen_outlives_a_new_verdict() {
    model(|| {
        let table = table();
        let flow = insert(&table, 1);
        let (_, sender) = key(1);
        let holder = {
            let table = table.clone();
            thread::spawn(move || {
                table.hold(flow, sender);
                lookup(&table, 1).is_some_and(|(_, flow)| flow.counts.is_held(sender))
            })
        };
        table.rejudge(flow, true, [77, 78], [8, 9]).unwrap();
        let held = holder.join().unwrap();
        let (_, flow) = lookup(&table, 1).unwrap();
        assert_eq!((flow.denied, flow.stamps, flow.ifindex), (true, [77, 78], [8, 9]));
        assert_eq!((flow.seen, flow.last_seen), (Seen::default().with(sender, 0), Tick(1)));
        let before = Counts::default();
        assert!(flow.counts == before || flow.counts == before.punt(sender), "{flow:?}");
        assert!(!held || flow.counts.is_held(sender));
    });
}

#[test]
fn loom_a_late_count_costs_the_next_flow_a_detour_at_most() {
    model(|| {
        let table = table();
        let first = insert(&table, 1);
        insert(&table, 5);
        let (_, sender) = key(1);
        let holder = {
            let table = table.clone();
            thread::spawn(move || table.hold(first, sender))
        };
        table.delete(first);
        insert(&table, 2);
        holder.join().unwrap();
        let (_, flow) = lookup(&table, 2).unwrap();
        assert_whole(&flow, 2);
        let before = Counts::default();
        assert!(flow.counts == before || flow.counts == before.punt(sender), "{flow:?}");
    });
}

/// The same table with an account for each of two pods: odd and even devices.
fn counted(limit: u64) -> Arc<FlowTable<Arc<Vec<AtomicU64>>>> {
    let key = HashKey::from_bytes(&[3; HashKey::BYTES]);
    let v4 = Arc::new(heap_words(layout::v4_words(layout::BUCKET)));
    let v6 = Arc::new(heap_words(layout::v6_words(layout::BUCKET)));
    let quota = Quota::new(Arc::new(heap_words(3)), limit);
    Arc::new(FlowTable::new(v4, v6, key).unwrap().with_quota(quota))
}

/// At rest every account is what the pod's flows are.
fn assert_counted(table: &Table) {
    for pod in [1, 2] {
        let of_pod = |flow: &Flow| flow.ifindex[flow.initiator.index()] % 2 == pod % 2;
        let flows = table.iter().filter(of_pod).count() as u64;
        assert_eq!(table.quota().unwrap().flows_of(pod), flows, "pod {pod}");
    }
}

#[test]
fn loom_accounts_are_the_flows_whoever_frees_them() {
    model(|| {
        let table = counted(9);
        let first = insert(&table, 1);
        insert(&table, 2);
        let other = {
            let table = table.clone();
            thread::spawn(move || {
                table.delete(first);
            })
        };
        // Evicts one of the two, perhaps the one that the other deletes.
        insert(&table, 3);
        other.join().unwrap();
        assert_counted(&table);
    });
}

#[test]
fn loom_a_double_is_taken_off_the_account() {
    model(|| {
        let table = counted(9);
        let other = {
            let table = table.clone();
            thread::spawn(move || {
                insert(&table, 1);
            })
        };
        insert(&table, 1);
        other.join().unwrap();
        assert_counted(&table);
    });
}

#[test]
fn loom_no_race_gives_a_pod_more_flows_than_it_may_have() {
    model(|| {
        let table = counted(1);
        let enter = |table: &Table, n: u8| {
            let (key, _) = key(n);
            table.insert(&key, table.hash(&key), &new_flow(n), Tick(n.into())).is_ok()
        };
        let other = {
            let table = table.clone();
            thread::spawn(move || enter(&table, 3))
        };
        enter(&table, 1);
        other.join().unwrap();
        assert!(table.iter().count() <= 1);
        assert_counted(&table);
    });
}

/// A cache of one bucket, and stamps that hold for good.
fn cache() -> Arc<(VerdictCache<Vec<AtomicU64>>, Stamps<Vec<AtomicU64>>)> {
    let key = HashKey::from_bytes(&[3; HashKey::BYTES]);
    let v4 = heap_words(layout::v4_words(layout::BUCKET));
    let v6 = heap_words(layout::v6_words(layout::BUCKET));
    let cache = VerdictCache::new(v4, v6, key.clone()).unwrap();
    Arc::new((cache, Stamps::new(heap_words(1), key).unwrap()))
}

fn verdict_key(n: u8) -> VerdictKey {
    let [src, dst] = [0, 1].map(|end| Address::v4([10, 0, end, n]));
    VerdictKey { src, dst, protocol: 17, dport: n.into() }
}

/// A verdict whose every word follows from `n`; denied for odd ones.
fn verdict(n: u8) -> CachedVerdict {
    let denied_by = (n & 1 == 1).then_some(if n & 2 == 0 { Side::Lo } else { Side::Hi });
    CachedVerdict { denied_by, ifindex: [n.into(), u32::from(n) + 1], stamps: [0, 0] }
}

fn enter(shared: &(VerdictCache<Vec<AtomicU64>>, Stamps<Vec<AtomicU64>>), under: u8, n: u8) {
    assert!(shared.0.insert(verdict_key(under), &verdict(n), &shared.1, Tick(n.into())));
}

#[test]
fn loom_a_cached_verdict_is_read_whole_or_not_at_all() {
    model(|| {
        let shared = cache();
        enter(&shared, 1, 1);
        let reader = {
            let shared = shared.clone();
            thread::spawn(move || {
                if let Some(found) = shared.0.lookup(verdict_key(1)) {
                    assert!(found == verdict(1) || found == verdict(4), "{found:?}");
                }
            })
        };
        enter(&shared, 1, 4);
        reader.join().unwrap();
        assert_eq!(shared.0.lookup(verdict_key(1)), Some(verdict(4)));
    });
}

#[test]
fn loom_a_verdict_that_makes_room_is_never_mixed_with_its_successor() {
    model(|| {
        let shared = cache();
        enter(&shared, 1, 1);
        enter(&shared, 2, 2);
        let reader = {
            let shared = shared.clone();
            thread::spawn(move || {
                for n in [1, 4] {
                    if let Some(found) = shared.0.lookup(verdict_key(n)) {
                        assert_eq!(found, verdict(n));
                    }
                }
            })
        };
        // The denial goes.
        enter(&shared, 4, 4);
        reader.join().unwrap();
        assert_eq!(shared.0.lookup(verdict_key(1)), None);
        assert_eq!(shared.0.lookup(verdict_key(4)), Some(verdict(4)));
    });
}
