//! Addresses that change in place: said, enforced, answered.

use proptest::prelude::*;
use rustix::net::{SendFlags, SocketAddrUnix, accept_with, bind, listen, send};

use super::*;

/// Takes the generation on and gives it to the test to hold.
fn published(server: &Server, number: u64) -> (Publisher, AddressMapWriter<SharedWords>) {
    let mut publisher = server.connect().unwrap();
    server.expect("connected");
    let (table, addresses) = generation(number);
    let (table, map) = (table.as_fd(), addresses.fd().unwrap());
    publisher.publish(number, &Summary::default(), table, map, SECOND).unwrap();
    server.expect("published");
    (publisher, addresses)
}

fn enforced(generation: u64, epoch: u64) -> AddressReceipt {
    AddressReceipt { generation, epoch, flows_rejudged: None, enforced_at_ns: 1 }
}

#[test]
fn a_change_in_place_is_announced_and_acknowledged() {
    let server = Server::start();
    let (mut publisher, mut map) = published(&server, 3);
    let before = map.epoch();
    map.insert("10.0.0.2".parse().unwrap(), ClassId(1)).unwrap();
    map.remove("10.0.0.1".parse().unwrap());
    let epoch = map.epoch();
    assert_eq!(epoch, before + 2);
    let receipt = publisher.addresses_changed(3, epoch, SECOND).unwrap();
    let flows_rejudged = Some(epoch * 10);
    let enforced_at_ns = epoch * 100;
    assert_eq!(receipt, AddressReceipt { generation: 3, epoch, flows_rejudged, enforced_at_ns });
    server.expect(&format!("addresses of 3 changed to epoch {epoch}"));
    // And generations go on as before.
    publish(&mut publisher, 4, "").unwrap();
    publisher.addresses_changed(4, 1, SECOND).unwrap();
}

#[test]
fn the_changed_map_is_there_when_the_message_is() {
    let directory = TempDir::new().unwrap();
    let mut listener = Listener::bind(directory.path(), "test", 0).unwrap();
    let path = listener.path().to_owned();
    let client = thread::spawn(move || {
        let mut publisher = Publisher::connect(&path, "test", SECOND).unwrap();
        let (table, mut addresses) = generation(1);
        let (table, map) = (table.as_fd(), addresses.fd().unwrap());
        publisher.publish(1, &Summary::default(), table, map, SECOND).unwrap();
        for last in 2..=8 {
            let address = format!("10.0.0.{last}").parse().unwrap();
            addresses.insert(address, ClassId(1)).unwrap();
            publisher.addresses_changed(1, addresses.epoch(), SECOND).unwrap();
        }
    });
    let mut held = None;
    let mut changes = 0;
    while changes < 7 {
        match listener.poll(SECOND).unwrap() {
            Some(Event::Published(received)) => {
                listener.receipt(Receipt { generation: 1, workers: 1, enforced_at_ns: 1 });
                held = Some(received.classifier);
            }
            Some(Event::AddressesChanged { generation, epoch }) => {
                let map = held.as_ref().unwrap().addresses();
                assert_eq!(map.epoch(), epoch);
                changes += 1;
                assert_eq!(map.len(), 1 + changes);
                listener.addresses_enforced(enforced(generation, epoch));
            }
            _ => {}
        }
    }
    client.join().unwrap();
}

#[test]
fn the_dataplane_can_refuse_a_change_in_its_own_words() {
    let server = Server::start();
    let (mut publisher, _map) = published(&server, 1);
    let error = publisher.addresses_changed(1, REFUSED_EPOCH, SECOND).unwrap_err();
    assert!(error.to_string().contains("generation 1: the test said so"), "{error}");
    assert!(publisher.is_connected());
    publisher.addresses_changed(1, REFUSED_EPOCH + 1, SECOND).unwrap();
}

#[test]
fn only_the_generation_in_force_can_change() {
    let server = Server::start();
    let mut publisher = server.connect().unwrap();
    let refused = |publisher: &mut Publisher, number, words: &str| {
        let error = publisher.addresses_changed(number, 1, SECOND).unwrap_err();
        assert!(
            matches!(&error, PublishError::Refused { generation, reason }
                if *generation == Some(number) && reason.contains(words)),
            "{error} should say: {words}"
        );
    };
    for number in [0, 1] {
        refused(&mut publisher, number, "no generation is in force");
    }
    publish(&mut publisher, 5, "").unwrap();
    publish(&mut publisher, 7, "").unwrap();
    for number in [0, 5, 6, 8, u64::MAX] {
        refused(&mut publisher, number, "generation 7 is in force");
    }
    // A generation that was refused is not in force either.
    publish(&mut publisher, 8, "refuse me").unwrap_err();
    refused(&mut publisher, 8, "generation 7 is in force");
    publisher.addresses_changed(7, 1, SECOND).unwrap();
}

#[test]
fn only_the_connection_that_brought_the_generation_can_change_it() {
    let server = Server::start();
    let (publisher, _map) = published(&server, 3);
    drop(publisher);
    server.expect("disconnected");
    let mut next = server.connect().unwrap();
    let error = next.addresses_changed(3, 1, SECOND).unwrap_err();
    assert!(error.to_string().contains("did not come over this connection"), "{error}");
    publish(&mut next, 4, "").unwrap();
    next.addresses_changed(4, 1, SECOND).unwrap();

    // Nor one that the dataplane resumed from a copy of its own.
    let directory = TempDir::new().unwrap();
    let mut listener = Listener::bind(directory.path(), "resumed", 9).unwrap();
    let path = listener.path().to_owned();
    let client = thread::spawn(move || {
        let mut publisher = Publisher::connect(&path, "test", SECOND).unwrap();
        assert_eq!(publisher.dataplane_generation(), 9);
        publisher.addresses_changed(9, 1, SECOND).unwrap_err().to_string()
    });
    let reason = loop {
        match listener.poll(SECOND).unwrap() {
            Some(Event::Refused { generation: Some(9), reason }) => break reason,
            Some(Event::Connected { .. }) | None => {}
            other => panic!("expected a refusal, got {other:?}"),
        }
    };
    assert!(client.join().unwrap().ends_with(&reason));
}

#[test]
fn a_change_of_addresses_brings_no_descriptors() {
    let server = Server::start();
    let (table, addresses) = generation(1);
    let connection = greeted(&server.socket());
    let message = Message::Publish { generation: 1, summary: Summary::default() };
    connection.send(&message, &[table.as_fd(), addresses.fd().unwrap()], SECOND).unwrap();
    assert!(matches!(connection.receive(SECOND).unwrap().0, Message::Receipt(_)));
    let message = Message::AddressesChanged { generation: 1, epoch: 2 };
    connection.send(&message, &[table.as_fd()], SECOND).unwrap();
    let reason = refusal(&connection);
    assert!(reason.contains("1 descriptors"), "{reason}");
    connection.send(&message, &[], SECOND).unwrap();
    assert!(matches!(connection.receive(SECOND).unwrap().0, Message::AddressesEnforced(_)));
}

#[test]
fn before_the_hello_a_change_is_out_of_turn() {
    let server = Server::start();
    let connection = raw(&server.socket());
    let message = Message::AddressesChanged { generation: 1, epoch: 2 };
    connection.send(&message, &[], SECOND).unwrap();
    assert!(refusal(&connection).contains("out of turn"));
    // What only the dataplane says is so at any time.
    server.expect("refused None");
    let connection = greeted(&server.socket());
    connection.send(&Message::AddressesEnforced(enforced(1, 2)), &[], SECOND).unwrap();
    assert!(refusal(&connection).contains("out of turn"));
}

#[test]
fn the_version_without_changes_in_place_is_told_apart() {
    let server = Server::start();
    let connection = raw(&server.socket());
    let old = Hello { protocol: 1, ..Hello::new("weir-control 0", 0) };
    connection.send(&Message::Hello(old), &[], SECOND).unwrap();
    assert!(matches!(connection.receive(SECOND).unwrap().0, Message::Hello(_)));
    assert!(matches!(connection.receive(SECOND), Err(PublishError::Closed)));
    server.expect(
        "refused None the publishing protocol differs: this side has version 3, \
         the other (weir-control 0) version 1",
    );
}

/// A dataplane that says what the test wants: it greets, and answers the first
/// message of each following connection with these datagrams.
fn scripted(path: &Path) -> impl Fn(&[Vec<u8>]) -> Result<AddressReceipt, PublishError> + use<> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    listen(&socket, 1).unwrap();
    let path = path.to_owned();
    move |answers| {
        thread::scope(|scope| {
            scope.spawn(|| {
                let accepted = accept_with(&socket, SocketFlags::CLOEXEC).unwrap();
                let connection = Connection::new(accepted).unwrap();
                connection.receive(SECOND).unwrap();
                let hello = Message::Hello(Hello::new("scripted", 7));
                connection.send(&hello, &[], SECOND).unwrap();
                let (asked, _) = connection.receive(SECOND).unwrap();
                assert_eq!(asked, Message::AddressesChanged { generation: 7, epoch: 20 });
                for answer in answers {
                    // The publisher may have closed at an earlier one.
                    _ = send(&connection, answer, SendFlags::NOSIGNAL);
                }
            });
            let mut publisher = Publisher::connect(&path, "test", SECOND).unwrap();
            publisher.addresses_changed(7, 20, SECOND)
        })
    }
}

#[test]
fn an_answer_must_be_of_the_generation_and_not_of_an_earlier_epoch() {
    let directory = TempDir::new().unwrap();
    let ask = scripted(&directory.path().join(SOCKET_FILE));
    let text = |message: &Message| serde_json::to_vec(message).unwrap();
    let ours = text(&Message::AddressesEnforced(enforced(7, 20)));
    let refused = |generation, epoch| {
        let reason = "scripted".to_owned();
        text(&Message::Refused { generation, epoch, reason })
    };

    // Answers to calls that gave up: each is skipped, and ours is found behind it.
    for late in [
        text(&Message::AddressesEnforced(enforced(7, 19))),
        text(&Message::AddressesEnforced(enforced(6, 20))),
        text(&Message::AddressesEnforced(enforced(8, 21))),
        text(&Message::Receipt(Receipt { generation: 7, workers: 1, enforced_at_ns: 1 })),
        refused(Some(7), Some(19)),
        refused(Some(7), None),
        refused(Some(6), Some(20)),
    ] {
        let words = String::from_utf8(late.clone()).unwrap();
        assert_eq!(ask(&[late, ours.clone()]).unwrap(), enforced(7, 20), "{words}");
    }
    // A later epoch covers ours.
    let later = enforced(7, 25);
    assert_eq!(ask(&[text(&Message::AddressesEnforced(later))]).unwrap(), later);

    for (answer, words) in [
        (refused(Some(7), Some(20)), "the dataplane refused generation 7: scripted"),
        (refused(None, None), "the dataplane refused: scripted"),
        (text(&Message::Hello(Hello::new("scripted", 7))), "out of turn"),
        (text(&Message::AddressesChanged { generation: 7, epoch: 20 }), "out of turn"),
        (b"{\"type\":\"addresses_enforced\",\"generation\":7}".to_vec(), "missing field `epoch`"),
        (b"{\"type\":\"addresses_enforced\",\"generation\":-7}".to_vec(), "invalid value"),
    ] {
        let error = ask(&[answer, ours.clone()]).unwrap_err().to_string();
        assert!(error.contains(words), "{error} should say: {words}");
    }
    assert!(matches!(ask(&[]), Err(PublishError::Closed)));
}

#[test]
fn an_answer_that_does_not_come_is_a_timeout_and_is_skipped_later() {
    let directory = TempDir::new().unwrap();
    let mut listener = Listener::bind(directory.path(), "slow", 0).unwrap();
    let path = listener.path().to_owned();
    let client = thread::spawn(move || {
        let mut publisher = Publisher::connect(&path, "test", SECOND).unwrap();
        publish(&mut publisher, 1, "").unwrap();
        let error = publisher.addresses_changed(1, 5, SHORT).unwrap_err();
        assert!(matches!(error, PublishError::Timeout { milliseconds: 50 }), "{error}");
        let error = publisher.addresses_changed(1, 6, SHORT).unwrap_err();
        assert!(matches!(error, PublishError::Timeout { .. }), "{error}");
        let changed = publisher.addresses_changed(1, 7, 5 * SECOND).unwrap();
        // The same for a generation that is published after a call gave up.
        let error = publisher.addresses_changed(1, 8, SHORT).unwrap_err();
        assert!(matches!(error, PublishError::Timeout { .. }), "{error}");
        (changed, publish(&mut publisher, 2, "").unwrap())
    });
    let mut unanswered = Vec::new();
    loop {
        match listener.poll(SECOND).unwrap() {
            Some(Event::Published(received)) => {
                let generation = received.generation;
                for epoch in unanswered.drain(..) {
                    listener.addresses_enforced(enforced(1, epoch));
                }
                listener.receipt(Receipt { generation, workers: 1, enforced_at_ns: 1 });
                if generation == 2 {
                    break;
                }
            }
            Some(Event::AddressesChanged { generation: 1, epoch }) => {
                unanswered.push(epoch);
                // All answers only now; the first two come too late.
                if epoch == 7 {
                    assert_eq!(unanswered, [5, 6, 7]);
                    listener.addresses_enforced(enforced(1, 5));
                    listener.refuse_addresses(1, 6, "too late to matter");
                    listener.addresses_enforced(enforced(1, 7));
                    unanswered.clear();
                }
            }
            _ => {}
        }
    }
    let (changed, receipt) = client.join().unwrap();
    assert_eq!((changed.epoch, receipt.generation), (7, 2));
}

#[test]
fn a_count_that_nobody_made_is_not_sent() {
    let text = serde_json::to_string(&Message::AddressesEnforced(enforced(1, 2))).unwrap();
    assert!(!text.contains("flows_rejudged"), "{text}");
    let read: Message = serde_json::from_str(&text).unwrap();
    assert_eq!(read, Message::AddressesEnforced(enforced(1, 2)));
}

/// Any bytes, and bytes that are nearly a message of this session.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let near = (0..4u64, any::<u64>(), any::<prop::sample::Index>(), any::<u8>(), 0..3u8).prop_map(
        |(generation, epoch, at, byte, how)| {
            let message = Message::AddressesChanged { generation, epoch };
            let mut text = serde_json::to_vec(&message).unwrap();
            let at = at.index(text.len());
            match how {
                0 => text[at] = byte,
                1 => text.truncate(at),
                _ => {}
            }
            text
        },
    );
    prop_oneof![prop::collection::vec(any::<u8>(), 0..200), near]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever a publisher sends: it is refused, or it is a change of the
    /// generation in force. And the next publisher is served.
    #[test]
    fn arbitrary_datagrams_never_pass_for_another_generation(
        datagrams in prop::collection::vec(datagram(), 1..5),
    ) {
        let directory = TempDir::new().unwrap();
        let mut listener = Listener::bind(directory.path(), "test", 0).unwrap();
        let path = listener.path().to_owned();
        let connection = greet(&mut listener, &path);
        let (table, addresses) = generation(2);
        let message = Message::Publish { generation: 2, summary: Summary::default() };
        connection.send(&message, &[table.as_fd(), addresses.fd().unwrap()], SECOND).unwrap();
        assert!(matches!(listener.poll(SECOND), Ok(Some(Event::Published(_)))));
        listener.receipt(Receipt { generation: 2, workers: 1, enforced_at_ns: 1 });

        for bytes in &datagrams {
            send(&connection, bytes, SendFlags::NOSIGNAL).unwrap();
            match listener.poll(SECOND).unwrap() {
                Some(Event::AddressesChanged { generation, epoch }) => {
                    prop_assert_eq!(generation, 2);
                    let said: Message = serde_json::from_slice(bytes).unwrap();
                    prop_assert_eq!(said, Message::AddressesChanged { generation, epoch });
                    listener.addresses_enforced(enforced(generation, epoch));
                }
                // In words, and the session goes on.
                Some(Event::Refused { generation: Some(about), .. }) => prop_assert_ne!(about, 2),
                // An empty datagram looks like the end of the connection.
                Some(Event::Refused { generation: None, .. } | Event::Disconnected) => break,
                other => prop_assert!(false, "{:?} for {:?}", other, bytes),
            }
        }
        drop(connection);
        while listener.has_publisher() {
            listener.poll(SECOND).unwrap();
        }
        greet(&mut listener, &path);
    }
}

/// Connects while this thread is the dataplane too.
fn greet(listener: &mut Listener, path: &Path) -> Connection {
    let connection = raw(path);
    connection.send(&Message::Hello(Hello::new("raw", 0)), &[], SECOND).unwrap();
    let begin = Instant::now();
    while !listener.has_publisher() {
        listener.poll(SECOND).unwrap();
        assert!(begin.elapsed() < 5 * SECOND, "the dataplane does not greet");
    }
    connection
}
