//! Whatever the words hold, a reader neither panics nor goes on for ever; what a writer
//! wrote, a reader reads.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::addr::Address;
use crate::counters::Direction;
use crate::mem::{Words, heap_words};
use crate::sync::Ordering;

fn text() -> impl Strategy<Value = Text> {
    let name = "[a-z0-9./-]{0,40}";
    (name, name, name, name, name, name, "[a-z0-9/,-]{0,300}").prop_map(
        |(reason, device, pod, src_pod, dst_pod, rule, policy)| Text {
            reason,
            device,
            pod,
            src_pod,
            dst_pod,
            rule,
            policy,
        },
    )
}

fn address() -> impl Strategy<Value = Address> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(Address::v4),
        any::<[u8; 16]>().prop_map(|octets| Address::from(std::net::IpAddr::from(octets))),
    ]
}

prop_compose! {
    fn packet()(
        ether_type in any::<u16>(),
        addresses in proptest::option::of((address(), address())),
        protocol in any::<u8>(),
        ports in proptest::option::of(any::<(u16, u16)>()),
    ) -> Packet {
        Packet { ether_type, addresses, protocol, ports }
    }
}

prop_compose! {
    fn record()(
        (monotonic_ns, wall_ns, generation) in any::<(u64, u64, u64)>(),
        (ifindex, frame_len, left_out) in any::<(u32, u32, u32)>(),
        ingress in any::<bool>(),
        worker in proptest::option::of(0u32..1000),
        packet in packet(),
        frame in vec(any::<u8>(), 0..=FRAME_BYTES),
        text in text(),
    ) -> DropRecord {
        let direction = if ingress { Direction::Ingress } else { Direction::Egress };
        DropRecord {
            monotonic_ns, wall_ns, generation, ifindex, direction, worker, left_out, frame_len,
            packet, frame, text,
        }
    }
}

/// A ring of any content, with a plausible header or none.
fn ring(content: &[u64], header: Option<(u64, u64)>) -> Arc<Vec<crate::sync::AtomicU64>> {
    let words = Arc::new(heap_words(words_for(8, 3)));
    for (word, value) in words.words().iter().zip(content) {
        word.store(*value, Ordering::Relaxed);
    }
    if let Some((written, left_out)) = header {
        RingWriter::create(words.clone(), 8, 3).unwrap();
        words[4].store(written, Ordering::Relaxed);
        words[5].store(left_out, Ordering::Relaxed);
    }
    words
}

proptest! {
    #[test]
    fn records_come_back_as_they_were(record in record()) {
        prop_assert_eq!(DropRecord::decode(&record.encode()), record);
    }

    #[test]
    fn any_words_are_some_record(words in vec(any::<u64>(), RECORD_WORDS)) {
        let record = DropRecord::decode(&words.try_into().unwrap());
        prop_assert!(record.frame.len() <= FRAME_BYTES);
        let text = [&record.text.reason, &record.text.policy, &record.text.device];
        prop_assert!(text.iter().all(|text| !text.contains(char::is_control)));
        // What was read can be written, and then read again.
        prop_assert_eq!(DropRecord::decode(&record.encode()).packet, record.packet);
    }

    #[test]
    fn a_reader_of_any_words_comes_to_an_end(
        content in vec(prop_oneof![any::<u64>(), 0u64..40], words_for(8, 3)),
        header in proptest::option::of((prop_oneof![any::<u64>(), 0u64..20], any::<u64>())),
        back in any::<u64>(),
    ) {
        let words = ring(&content, header);
        let Ok(ring) = DropRing::open(words, 3) else { return Ok(()) };
        let mut follower = Follower::new(ring, back);
        let read = std::iter::from_fn(|| follower.next(&mut [0; 3])).count();
        prop_assert!(read <= 8);
    }

    #[test]
    fn a_reader_is_told_what_it_missed(
        bursts in vec(0u64..20, 1..20),
        back in 0u64..10,
    ) {
        let words = Arc::new(heap_words(words_for(8, 3)));
        let mut writer = RingWriter::create(words.clone(), 8, 3).unwrap();
        let mut follower = Follower::new(DropRing::open(words, 3).unwrap(), back);
        let (mut written, mut read) = (0, 0);
        for burst in bursts {
            for _ in 0..burst {
                writer.push(&[written, !written, written << 1], 1);
                written += 1;
            }
            let mut out = [0; 3];
            while let Some(n) = follower.next(&mut out) {
                prop_assert_eq!(out, [n, !n, n << 1]);
                read += 1;
            }
            read += follower.missed();
            prop_assert_eq!(read, written);
        }
    }
}

#[test]
fn a_text_without_room_is_cut_at_a_letter() {
    let text =
        Text { reason: "policy_ingress".into(), policy: "é".repeat(700), ..Text::default() };
    let record = record_of(text);
    let back = DropRecord::decode(&record.encode());
    assert_eq!(back.frame, [9; FRAME_BYTES]);
    assert_eq!(back.text.reason, "policy_ingress");
    assert!(back.text.policy.starts_with("éé") && back.text.policy.ends_with('…'));
    let commands = Text { device: "a\u{1b}[2J\nb".into(), ..Text::default() };
    let back = DropRecord::decode(&DropRecord { text: commands, ..record }.encode());
    assert_eq!(back.text.device, "a?[2J?b", "a terminal would obey");
}

proptest! {
    #[test]
    fn policies_without_room_are_counted(
        names in vec("[a-zé]{1,40}/[a-z]{1,100}", 0..200),
        others in "[a-z]{0,250}",
    ) {
        let asked = std::cell::Cell::new(0);
        let policies = names.iter().map(|name| {
            asked.set(asked.get() + 1);
            name.as_str()
        });
        let mut text = Text { pod: others.clone(), src_pod: others, ..Text::default() };
        text.set_policies(policies);
        let record = record_of(text.clone());
        let back = DropRecord::decode(&record.encode()).text;
        prop_assert_eq!(&back, &text, "the record had no room");
        let (listed, rest) = match back.policy.split_once(",…") {
            Some((listed, rest)) => (listed, rest),
            None => (back.policy.as_str(), ""),
        };
        let listed: Vec<&str> = listed.split(',').filter(|name| !name.is_empty()).collect();
        prop_assert!(names.iter().zip(&listed).all(|(name, listed)| name == listed));
        let left = names.len() - listed.len();
        let expected = if left == 0 { String::new() } else { format!(" and {left} more") };
        prop_assert_eq!(rest, expected);
        prop_assert!(asked.get() <= listed.len() + 1, "asked for {} names", asked.get());
    }
}

#[test]
fn a_long_name_or_none_at_all() {
    let mut text = Text { policy: "old".into(), ..Text::default() };
    text.set_policies([].into_iter());
    assert_eq!(text.policy, "");
    let long = "p".repeat(5000);
    text.set_policies([long.as_str(), "b/c"].into_iter());
    let back = DropRecord::decode(&record_of(text).encode()).text;
    assert!(
        back.policy.starts_with("ppp") && back.policy.ends_with("p…,… and 1 more"),
        "{}",
        back.policy
    );
}

fn record_of(text: Text) -> DropRecord {
    DropRecord {
        monotonic_ns: 1,
        wall_ns: 2,
        generation: 3,
        ifindex: 4,
        direction: Direction::Egress,
        worker: None,
        left_out: 0,
        frame_len: 2000,
        packet: Packet::default(),
        frame: vec![9; 500],
        text,
    }
}

#[test]
fn two_threads_share_a_ring() {
    let words = Arc::new(heap_words(words_for(8, 7)));
    let mut writer = RingWriter::create(words.clone(), 8, 7).unwrap();
    let mut follower = Follower::new(DropRing::open(words, 7).unwrap(), 0);
    const RECORDS: u64 = 400_000;
    let (mut whole, mut missed) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for n in 0..RECORDS {
                writer.push(&[n; 7], 0);
            }
        });
        let mut out = [0; 7];
        while whole + missed < RECORDS {
            if let Some(n) = follower.next(&mut out) {
                assert_eq!(out, [n; 7]);
                whole += 1;
            }
            missed += follower.missed();
        }
    });
    assert_eq!(whole + missed, RECORDS);
}
