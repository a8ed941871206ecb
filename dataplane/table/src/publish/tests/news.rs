//! News in both directions: kept, in order, bounded, and never taken for an answer.

use super::*;
use crate::cni::PodRef;

fn attached(ticket: u64) -> News {
    News::Attached(Attached {
        ticket,
        pod: PodRef { namespace: "shop".into(), name: format!("web-{ticket}"), uid: None },
        addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        host_ports: Vec::new(),
    })
}

/// The next event; panics if none comes.
fn next(listener: &mut Listener) -> Event {
    for _ in 0..60 {
        if let Some(event) = listener.poll(SECOND).unwrap() {
            return event;
        }
    }
    panic!("nothing happened for a minute")
}

/// A listener with a publisher.
fn pair(directory: &TempDir) -> (Listener, Publisher) {
    let mut listener = Listener::bind(directory.path(), "test-dataplane", 0).unwrap();
    let path = listener.path().to_owned();
    let client = thread::spawn(move || Publisher::connect(&path, "test", 60 * SECOND).unwrap());
    assert!(matches!(next(&mut listener), Event::Connected { .. }));
    (listener, client.join().unwrap())
}

/// Takes news until so many have come.
fn take(publisher: &mut Publisher, count: usize) -> Vec<News> {
    let end = Instant::now() + 60 * SECOND;
    let mut taken = Vec::new();
    while taken.len() < count {
        assert!(Instant::now() < end, "only {} of {count} news", taken.len());
        taken.extend(publisher.take_news().unwrap());
        thread::sleep(Duration::from_millis(1));
    }
    taken
}

#[test]
fn every_kind_arrives_as_it_was_told() {
    let directory = TempDir::new().unwrap();
    let (mut listener, mut publisher) = pair(&directory);
    let told = vec![
        attached(1),
        News::Detached { ticket: 1 },
        News::AllAttached { last: u64::MAX },
        News::NotEnforced(NotEnforced {
            ifindex: 7,
            device: "veth7".into(),
            netns: "cni-1".into(),
            pod: Some(PodRef { namespace: "a".into(), name: "b".into(), uid: Some("u".into()) }),
            addresses: vec!["10.0.0.1".parse().unwrap()],
            reason: CutOff::NoWord,
            words: "nobody said".into(),
        }),
        News::Cleared { ifindex: 7 },
    ];
    told.iter().for_each(|news| listener.tell(news.clone()));
    assert_eq!(take(&mut publisher, told.len()), told);
    assert!(publisher.is_connected());
    assert_eq!(publisher.take_news().unwrap(), []);
}

#[test]
fn a_reason_of_a_later_version_is_another() {
    let text = r#"{"type":"news","what":"not_enforced","ifindex":7,"device":"d","netns":"n",
        "reason":"weather","words":"rain","since":3}"#;
    let Message::News(News::NotEnforced(read)) = serde_json::from_str(text).unwrap() else {
        panic!()
    };
    assert_eq!((read.reason, read.reason.as_str()), (CutOff::Other, "other"));
}

/// News overtake the answer that a call waits for, and come between two calls.
#[test]
fn what_is_told_during_a_call_is_kept() {
    let directory = TempDir::new().unwrap();
    let (mut listener, mut publisher) = pair(&directory);
    let client = thread::spawn(move || {
        let receipt = publish(&mut publisher, 1, "").unwrap();
        (publisher, receipt)
    });
    let Event::Published(received) = next(&mut listener) else { panic!() };
    assert_eq!(received.summary.heard, 0);
    listener.tell(attached(1));
    listener.tell(attached(2));
    listener.receipt(Receipt { generation: 1, workers: 1, enforced_at_ns: 1 });
    let (mut publisher, receipt) = client.join().unwrap();
    assert_eq!(receipt.generation, 1);
    listener.tell(attached(3));
    let told: Vec<News> = [1, 2, 3].map(attached).into();
    assert_eq!(take(&mut publisher, 3), told);
}

#[test]
fn settled_and_rejected_reach_the_dataplane() {
    let directory = TempDir::new().unwrap();
    let (mut listener, mut publisher) = pair(&directory);
    let client = thread::spawn(move || {
        publish(&mut publisher, 4, "").unwrap();
        // More than fit into one message, with the longest numbers.
        let tickets: Vec<u64> = (0..3000).map(|n| u64::MAX - n).collect();
        publisher.settled(&tickets, (4, 9), 60 * SECOND).unwrap();
        publisher.rejected(7, &"ä".repeat(3000), 60 * SECOND).unwrap();
        publisher
    });
    assert!(matches!(next(&mut listener), Event::Published(_)));
    listener.receipt(Receipt { generation: 4, workers: 1, enforced_at_ns: 1 });
    let mut tickets = Vec::new();
    while tickets.len() < 3000 {
        let Event::Settled(settled) = next(&mut listener) else { panic!() };
        assert_eq!((settled.generation, settled.epoch), (4, 9));
        tickets.extend(settled.tickets);
    }
    assert_eq!((tickets[0], tickets[2999]), (u64::MAX, u64::MAX - 2999));
    let Event::Rejected { ticket: 7, words } = next(&mut listener) else { panic!() };
    assert_eq!(words, "ä".repeat(2048), "cut between two characters");
    drop(client.join().unwrap());
    assert!(matches!(next(&mut listener), Event::Disconnected));
}

/// A generation that did not come over this connection says nothing of its tickets.
#[test]
fn what_is_settled_in_another_generation_ends_the_session() {
    let directory = TempDir::new().unwrap();
    let (mut listener, mut publisher) = pair(&directory);
    publisher.settled(&[1], (3, 1), SECOND).unwrap();
    let Event::Refused { generation: None, reason } = next(&mut listener) else { panic!() };
    assert!(reason.contains("settled out of turn"), "{reason}");
    assert!(!listener.has_publisher());
    let end = Instant::now() + 60 * SECOND;
    while publisher.is_connected() {
        assert!(Instant::now() < end);
    }
}

#[test]
fn who_does_not_read_is_disconnected_and_costs_no_memory() {
    let directory = TempDir::new().unwrap();
    let (mut listener, publisher) = pair(&directory);
    let mut told = 0_u64;
    while listener.has_publisher() {
        told += 1;
        listener.tell(attached(told));
        assert!(told < 100_000, "it goes on without end");
    }
    assert!(told > 4096, "what fits into the socket comes on top: {told}");
    assert!(listener.news.is_empty());
    // The next is told everything from the beginning.
    drop(publisher);
    let path = listener.path().to_owned();
    let client = thread::spawn(move || Publisher::connect(&path, "test", 60 * SECOND).unwrap());
    assert!(matches!(next(&mut listener), Event::Connected { .. }));
    listener.tell(attached(1));
    assert_eq!(take(&mut client.join().unwrap(), 1), [attached(1)]);
}

/// More than the socket holds: the rest goes as the other side reads.
#[test]
fn news_that_find_no_room_go_later() {
    let directory = TempDir::new().unwrap();
    let (mut listener, mut publisher) = pair(&directory);
    for ticket in 1..=4000 {
        listener.tell(attached(ticket));
    }
    assert!(!listener.news.is_empty(), "a larger socket than any: this shows nothing");
    let reader = thread::spawn(move || (take(&mut publisher, 4000), publisher));
    while !listener.news.is_empty() {
        listener.poll(SHORT).unwrap();
    }
    let (taken, _publisher) = reader.join().unwrap();
    let expected: Vec<News> = (1..=4000).map(attached).collect();
    assert!(taken == expected, "lost or out of order");
}

#[test]
fn nobody_is_told_anything() {
    let directory = TempDir::new().unwrap();
    let mut listener = Listener::bind(directory.path(), "test", 0).unwrap();
    listener.tell(attached(1));
    assert!(listener.news.is_empty());
}

#[test]
fn another_thread_can_wake_the_listener() {
    let directory = TempDir::new().unwrap();
    let mut listener = Listener::bind(directory.path(), "test", 0).unwrap();
    let (wake, waker) = std::io::pipe().unwrap();
    assert!(listener.poll_or_wake(Some(wake.as_fd()), SHORT).unwrap().is_none());
    std::io::Write::write_all(&mut &waker, b"!").unwrap();
    let event = listener.poll_or_wake(Some(wake.as_fd()), 60 * SECOND).unwrap();
    assert!(matches!(event, Some(Event::Woken)));
}
