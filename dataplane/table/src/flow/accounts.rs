//! The accounts of pods against a count of their flows.

use std::collections::HashMap;

use proptest::prelude::*;

use super::model::{KEYS, find, key, key_number, new_flow, table};
use super::*;
use crate::mem::heap_words;

/// A flow of one of four pods, some of which face an address that is off the node.
fn of_pod(initiator: Side, own: u32, other: u32) -> NewFlow {
    let mut ifindex = [0; 2];
    ifindex[initiator.index()] = own;
    ifindex[initiator.other().index()] = other;
    NewFlow { ifindex, ..new_flow(initiator, 0, 0) }
}

/// To whose account a flow is: its initiator's, or the other pod's if that has none.
fn payer(flow: &Flow) -> u32 {
    let [own, other] =
        [flow.initiator, flow.initiator.other()].map(|side| flow.ifindex[side.index()]);
    if own != 0 { own } else { other }
}

proptest! {
    #[test]
    fn every_pod_has_the_flows_that_its_account_says_and_no_more_than_it_may(
        steps in proptest::collection::vec(
            (0..KEYS, 0..4u32, 1..4u32, 0..20u32, any::<bool>(), any::<bool>()), 1..200,
        ),
        limit in 1..8u64,
    ) {
        let words = heap_words(9);
        let table = table(16, 16).with_quota(Quota::new(words, limit));
        let mut now = Tick(1000);
        let mut payers: HashMap<FlowKey, u32> = HashMap::new();
        for (number, own, other, wait, answered, gone) in steps {
            let (key, sender) = key_number(number);
            let quota = table.quota().unwrap();
            if gone {
                if let Some((flow, _)) = find(&table, &key) {
                    prop_assert!(table.delete(flow));
                    prop_assert!(!table.delete(flow), "and off the account once");
                }
            } else {
                let new = of_pod(sender, own, other);
                let payer = if own != 0 { own } else { other };
                match table.insert(&key, table.hash(&key), &new, now) {
                    Ok(inserted) => {
                        payers.insert(key, payer);
                        if answered {
                            // A new verdict with other devices: the account stays.
                            table.touch(inserted.flow, sender.other(), 0x10, now);
                            table.rejudge(inserted.flow, false, [0; 2], [9, 9]);
                        }
                    }
                    Err(NoRoom::Pod) => prop_assert_eq!(quota.flows_of(payer), limit),
                    Err(NoRoom::Table) => {}
                }
            }
            now = now.plus(Tick::in_seconds(wait));
            if wait == 7 {
                table.expire(&mut ExpiryCursor::new(0, 1), now, 64);
            }
            for pod in 1..4 {
                let flows = table.iter().filter(|flow| payers[&flow.key] == pod).count() as u64;
                prop_assert_eq!(quota.flows_of(pod), flows, "pod {}", pod);
                prop_assert!(flows <= limit);
            }
        }
    }
}

#[test]
fn a_pod_at_its_limit_gets_a_slot_only_for_one_of_its_own() {
    let words = heap_words(65);
    let table = table(1024, 1024).with_quota(Quota::new(words, 100));
    let enter = |n: u16, pod: u32, now: u32| {
        let (key, sender) = key(false, pod as u8, n, 17);
        let new = of_pod(sender, pod, 0);
        (key, sender, table.insert(&key, table.hash(&key), &new, Tick(now)))
    };
    let flows_of = |pod: u32| table.iter().filter(|flow| payer(flow) == pod).count();
    for n in 0..100 {
        assert!(enter(n, 2, 1).2.is_ok());
    }
    // One after another; none of them answered, so the oldest it finds gives way.
    let (mut entered, mut evicted) = (0, 0);
    for n in 0..3000 {
        if let (_, _, Ok(inserted)) = enter(n, 1, n.into()) {
            entered += 1;
            evicted += usize::from(inserted.evicted);
        }
        assert!(flows_of(1) <= 100);
    }
    assert!(evicted > 2000, "{evicted} of {entered}");
    assert!(flows_of(1) > 90, "{}", flows_of(1));
    assert_eq!(flows_of(2), 100, "nobody else's went");
    // Answered ones give way to the pod's own, the longest silent of those that are found,
    // and to nobody else's.
    for (flow, state) in table.entries().filter(|(_, flow)| payer(flow) == 1) {
        table.touch(flow, state.initiator.other(), 0, Tick(3000));
    }
    let entered = (3000..3100).filter(|&n| enter(n, 1, 3001).2.is_ok()).count();
    assert!(entered > 90, "{entered}");
    // Connections do not.
    table.entries().filter(|(_, flow)| payer(flow) == 1).for_each(|(flow, _)| {
        table.delete(flow);
    });
    let connect = |n: u16, now: u32| {
        let (key, sender) = key(false, 1, n, 6);
        let new = NewFlow { tcp_flags: layout::SEEN_SYN, ..of_pod(sender, 1, 0) };
        let inserted = table.insert(&key, table.hash(&key), &new, Tick(now))?;
        for side in [sender.other(), sender] {
            table.touch(inserted.flow, side, layout::SEEN_ACK, Tick(now));
        }
        Ok(key)
    };
    let mut n = 0;
    while flows_of(1) < 100 {
        connect(n, 3100).unwrap();
        n += 1;
    }
    for n in n..1000 {
        assert_eq!(connect(n, 3100), Err(NoRoom::Pod));
    }
    assert!(enter(4000, 2, 3100).2.is_ok(), "another pod's oldest goes for its own");
    assert!(enter(4000, 3, 3100).2.is_ok());
    // Until they are over, whether or not expiry has come by.
    assert!(connect(5000, 3100 + Tick::in_seconds(3601)).is_ok());
    // The account is the same after a restart, also if a writer has died with a reservation.
    let before = [1, 2, 3].map(|pod| table.quota().unwrap().flows_of(pod));
    table.recount();
    assert_eq!([1, 2, 3].map(|pod| table.quota().unwrap().flows_of(pod)), before);
}

/// A look for an own flow is the longer, the smaller the share of the slots.
#[test]
fn a_pod_with_a_small_account_finds_a_flow_to_give_up() {
    const SLOTS: usize = 1 << 16;
    let table = table(SLOTS, SLOTS).with_quota(Quota::new(heap_words(65), SLOTS as u64 / 256));
    let entered = (0..5000).filter(|&n| {
        let (key, sender) = key(false, 1, n, 17);
        table.insert(&key, table.hash(&key), &of_pod(sender, 1, 0), Tick(n.into())).is_ok()
    });
    let entered = entered.count();
    assert!(entered > 4500, "{entered} of 5000");
}
