//! Both sides over real sockets; and any bytes as messages.

mod bytes;

use std::{
    fs::File,
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::net::SendFlags;
use tempfile::TempDir;

use super::{
    message::{Header, read_answer, write_request},
    socket::{Connection, connect_to},
    *,
};

const SECOND: Duration = Duration::from_secs(1);
/// For what must happen: longer than any machine takes.
const LONG: Duration = Duration::from_secs(60);

fn id(container: &str) -> AttachmentId {
    AttachmentId { network: "lab".into(), container: container.into(), ifname: "eth0".into() }
}

fn attachment(container: &str) -> Attachment {
    Attachment {
        id: id(container),
        netns: "/run/netns/cni-1".into(),
        pod: Some(PodRef { namespace: "shop".into(), name: "web-0".into(), uid: None }),
        host: vec![HostDevice { name: "veth1".into(), ifindex: 7 }],
        mac: Some("02:00:00:00:00:01".into()),
        addresses: vec!["10.244.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
        host_ports: vec![HostPort { protocol: Protocol::Tcp, host_ip: None, host: 8080, pod: 80 }],
    }
}

fn enforced() -> Answer {
    Answer::Enforced { generation: 12, epoch: 40, waited_us: 2100 }
}

fn own_namespace() -> File {
    File::open("/proc/self/ns/net").unwrap()
}

fn client(path: &Path) -> Client<'_> {
    Client { path, software: "test-cni 1", patience: Patience { total: LONG, absent: LONG } }
}

fn server() -> (TempDir, PathBuf, Server) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join(CNI_SOCKET_FILE);
    let server = Server::bind(&path, "test-dataplane 1").unwrap();
    (directory, path, server)
}

/// The next event; panics if none comes.
fn next(server: &mut Server) -> Event {
    let end = Instant::now() + LONG;
    while Instant::now() < end {
        if let Some(event) = server.poll(None, SECOND).unwrap() {
            return event;
        }
    }
    panic!("nothing happened for a minute")
}

fn next_request(server: &mut Server) -> Incoming {
    match next(server) {
        Event::Request(incoming) => *incoming,
        other => panic!("expected a request, got {other:?}"),
    }
}

fn next_refusal(server: &mut Server) -> String {
    match next(server) {
        Event::Refused { reason } => reason,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn raw(path: &Path) -> Connection {
    Connection::new(connect_to(path).unwrap()).unwrap()
}

fn send(connection: &Connection, text: &[u8]) {
    rustix::net::send(connection, text, SendFlags::NOSIGNAL).unwrap();
}

fn said(connection: &Connection) -> Answer {
    read_answer(&connection.receive(Instant::now() + LONG).unwrap().text).unwrap()
}

fn request_text(request: &Request) -> Vec<u8> {
    let header = Header { protocol: PROTOCOL_VERSION, software: "raw 1".into(), wait_ms: 1000 };
    write_request(&header, request).unwrap()
}

#[test]
fn an_add_arrives_whole_and_is_answered() {
    let (_directory, path, mut server) = server();
    let asked = thread::spawn(move || {
        let netns = own_namespace();
        client(&path).ask(&Request::Add(attachment("c1")), Some(netns.as_fd())).unwrap()
    });
    let incoming = next_request(&mut server);
    assert_eq!(incoming.request, Request::Add(attachment("c1")));
    assert_eq!(incoming.software, "test-cni 1");
    let (which, descriptor) = incoming.netns.unwrap();
    assert_eq!(which, namespace_id(own_namespace()).unwrap());
    assert_eq!(which, namespace_id(descriptor).unwrap());
    let left = incoming.deadline.saturating_duration_since(Instant::now());
    assert!(left < LONG && left > LONG / 4, "told to answer within {left:?}");
    assert!(server.answer(incoming.id, &enforced()));
    assert_eq!(asked.join().unwrap(), enforced());
    assert_eq!(server.connections(), 0);
    assert!(!server.answer(incoming.id, &enforced()), "an answer is given once");
}

#[test]
fn requests_are_answered_in_any_order() {
    let (_directory, path, mut server) = server();
    let clients: Vec<_> = (0..50)
        .map(|number| {
            let path = path.clone();
            thread::spawn(move || {
                let netns = own_namespace();
                let request = Request::Add(attachment(&number.to_string()));
                (number, client(&path).ask(&request, Some(netns.as_fd())).unwrap())
            })
        })
        .collect();
    let mut waiting: Vec<_> = (0..50).map(|_| next_request(&mut server)).collect();
    waiting.reverse();
    for incoming in waiting {
        let Request::Add(attachment) = &incoming.request else { panic!() };
        let generation = attachment.id.container.parse().unwrap();
        let answer = Answer::Enforced { generation, epoch: 1, waited_us: 1 };
        assert!(server.answer(incoming.id, &answer));
    }
    for client in clients {
        let (number, answer) = client.join().unwrap();
        assert_eq!(answer, Answer::Enforced { generation: number, epoch: 1, waited_us: 1 });
    }
}

#[test]
fn every_kind_of_request_has_its_answers() {
    let (_directory, path, mut server) = server();
    let words = || "in words".to_owned();
    for (request, answer) in [
        (Request::Check(attachment("c")), enforced()),
        (
            Request::Add(attachment("c")),
            Answer::Pending { waiting_for: WaitingFor::PodObject, words: words() },
        ),
        (
            Request::Add(attachment("c")),
            Answer::Refused { code: Refusal::AddressTaken, words: words() },
        ),
        (Request::Del { id: id("c") }, Answer::Done { removed: 1 }),
        (Request::Status, Answer::Ready),
        (Request::Status, Answer::NotReady { limited: true, words: words() }),
        (
            Request::Gc { network: "lab".into(), valid: vec![], more: false },
            Answer::Done { removed: 9 },
        ),
    ] {
        let (path, sent) = (path.clone(), request.clone());
        let asked = thread::spawn(move || {
            let netns = own_namespace();
            let netns = sent.has_namespace().then(|| netns.as_fd());
            client(&path).ask(&sent, netns).unwrap()
        });
        let incoming = next_request(&mut server);
        assert_eq!(incoming.request, request);
        assert_eq!(incoming.netns.is_some(), request.has_namespace());
        assert!(server.answer(incoming.id, &answer));
        assert_eq!(asked.join().unwrap(), answer);
    }
}

#[test]
fn an_answer_to_something_else_is_none() {
    let (_directory, path, mut server) = server();
    let asked = thread::spawn(move || client(&path).ask(&Request::Status, None).unwrap_err());
    let incoming = next_request(&mut server);
    server.answer(incoming.id, &enforced());
    let error = asked.join().unwrap().to_string();
    assert!(error.contains("out of turn: Enforced"), "{error}");
}

#[test]
fn a_list_of_any_length_arrives_in_one_piece() {
    let (_directory, path, mut server) = server();
    for count in [0, 1, 200, 201, 1234] {
        // The longest names that are allowed, with the characters that take most room.
        let valid: Vec<_> = (0..count)
            .map(|n| (format!("{n:-<256}"), "\"\\\"\\\"\\\"\\\"\\\"\\\"\\".to_owned()))
            .collect();
        let (path, sent) = (path.clone(), valid.clone());
        let asked = thread::spawn(move || {
            let request = Request::Gc { network: "lab".into(), valid: sent, more: false };
            client(&path).ask(&request, None).unwrap()
        });
        let incoming = next_request(&mut server);
        assert_eq!(incoming.request, Request::Gc { network: "lab".into(), valid, more: false });
        server.answer(incoming.id, &Answer::Done { removed: 0 });
        asked.join().unwrap();
    }
}

#[test]
fn a_dataplane_that_restarts_is_asked_again() {
    let (_directory, path, mut server) = server();
    let place = path.clone();
    let asked = thread::spawn(move || {
        let netns = own_namespace();
        client(&path).ask(&Request::Add(attachment("c1")), Some(netns.as_fd())).unwrap()
    });
    next_request(&mut server);
    drop(server);
    assert!(!place.exists());
    let mut server = Server::bind(&place, "test-dataplane 2").unwrap();
    let again = next_request(&mut server);
    assert_eq!(again.request, Request::Add(attachment("c1")));
    server.answer(again.id, &enforced());
    assert_eq!(asked.join().unwrap(), enforced());
}

#[test]
fn patience_ends() {
    let (directory, path, mut server) = server();
    let short = |total, absent| Client {
        path: &path,
        software: "test",
        patience: Patience { total, absent },
    };
    // Somebody is there, and says nothing.
    let brief = Duration::from_millis(100);
    let error = short(brief, LONG).ask(&Request::Status, None).unwrap_err();
    assert!(matches!(error, CniError::Timeout { milliseconds: 100 }), "{error}");
    // It has gone by the time it is looked after.
    let id = next_request(&mut server).id;
    assert!(matches!(next(&mut server), Event::Gone(gone) if gone == id));
    drop(server);
    // Nobody is there: as long as either limit says.
    for client in [short(LONG, Duration::ZERO), short(brief, LONG), short(LONG, brief)] {
        let begin = Instant::now();
        let error = client.ask(&Request::Status, None).unwrap_err();
        assert!(matches!(error, CniError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("is weir-dataplane running"), "{error}");
        assert!(begin.elapsed() < LONG / 2);
    }
    // What will not be there later either is not waited for.
    let long = directory.path().join("x".repeat(200));
    let error = client(&long).ask(&Request::Status, None).unwrap_err();
    assert!(matches!(error, CniError::Unreachable { .. }), "{error}");
}

#[test]
fn versions_that_differ_are_put_into_words_on_both_sides() {
    let (_directory, path, mut server) = server();
    // A plugin of another age: told so, whatever else it says.
    for text in [
        &br#"{"type":"dance","protocol":99,"software":"weir-cni 9.9"}"#[..],
        br#"{"protocol":0,"software":"weir-cni 0.0","type":"status"}"#,
    ] {
        let connection = raw(&path);
        send(&connection, text);
        let reason = next_refusal(&mut server);
        assert!(reason.contains("CNI protocol differs"), "{reason}");
        assert!(reason.contains("weir-cni"), "{reason}");
        let answer = said(&connection);
        assert_eq!(answer, Answer::Refused { code: Refusal::Skew, words: reason });
    }
    // A dataplane of another age.
    let later = br#"{"protocol":99,"software":"weir-dataplane 9.9","type":"sung","verse":3}"#;
    let error = read_answer(later).unwrap_err();
    assert!(matches!(error, CniError::Version { ours: PROTOCOL_VERSION, theirs: 99, .. }));
    assert!(error.to_string().contains("weir-dataplane 9.9"), "{error}");
    const { assert!(OLDEST_PROTOCOL <= PROTOCOL_VERSION) };
}

#[test]
fn what_later_versions_add_is_read_over() {
    let added = format!(
        r#"{{"protocol":{PROTOCOL_VERSION},"software":"x","type":"refused","code":"new","words":"w","more":[1]}}"#
    );
    let answer = read_answer(added.as_bytes()).unwrap();
    assert_eq!(answer, Answer::Refused { code: Refusal::Other, words: "w".into() });
}

#[test]
fn nonsense_is_refused_in_words_and_harms_nobody_else() {
    let (_directory, path, mut server) = server();
    let bystander = {
        let path = path.clone();
        thread::spawn(move || client(&path).ask(&Request::Status, None).unwrap())
    };
    let waiting = next_request(&mut server);
    let add = |change: fn(&mut Attachment)| {
        let mut attachment = attachment("c");
        change(&mut attachment);
        // Past the check that our own client makes.
        let request = serde_json::to_value(Request::Add(attachment)).unwrap();
        let mut header = serde_json::json!({"protocol": PROTOCOL_VERSION, "software": "x"});
        header.as_object_mut().unwrap().extend(request.as_object().unwrap().clone());
        serde_json::to_vec(&header).unwrap()
    };
    for (text, words) in [
        (b"{".to_vec(), "EOF"),
        (b"\xff\xfe".to_vec(), "expected value"),
        (br#"{"protocol":1,"software":"x"}"#.to_vec(), "missing field `type`"),
        (br#"{"protocol":1,"software":"x","type":"dance"}"#.to_vec(), "unknown variant `dance`"),
        (vec![b' '; 70_000], "longer than any message"),
        (vec![b'['; 60_000], "invalid type"),
        (add(|_| ()), "0 descriptors came along; add brings one"),
        (add(|a| a.id.container.clear()), "the container's id is empty"),
        (add(|a| a.id.container = "x".repeat(300)), "300 bytes, more than 256"),
        (add(|a| a.id.container = "../x".into()), "the container's id cannot be"),
        (add(|a| a.id.network = "a b".into()), "the network's name cannot be"),
        (add(|a| a.id.ifname = "a/b".into()), "the interface's name cannot be"),
        (add(|a| a.id.ifname = "..".into()), "the interface's name cannot be"),
        (add(|a| a.id.ifname = "sixteen-letters!".into()), "more than 15"),
        (add(|a| a.pod.as_mut().unwrap().name = "a\nb".into()), "control character"),
        (add(|a| a.addresses = vec![[0, 0, 0, 0].into(); 33]), "33 addresses, more than 32"),
        (add(|a| a.host = vec![a.host[0].clone(); 17]), "17 devices"),
        (add(|a| a.host_ports = vec![a.host_ports[0].clone(); 257]), "257 ports"),
    ] {
        let connection = raw(&path);
        send(&connection, &text);
        let reason = next_refusal(&mut server);
        assert!(reason.contains(words), "{reason} should say: {words}");
        let answer = said(&connection);
        assert!(
            matches!(&answer, Answer::Refused { code: Refusal::BadRequest, words }
            if *words == reason),
            "{answer:?}"
        );
        assert!(matches!(connection.receive(Instant::now() + LONG), Err(CniError::Closed)));
    }
    server.answer(waiting.id, &Answer::Ready);
    assert_eq!(bystander.join().unwrap(), Answer::Ready);
}

#[test]
fn the_descriptor_must_be_a_namespace_and_one() {
    let (directory, path, mut server) = server();
    let file = File::create(directory.path().join("file")).unwrap();
    let netns = own_namespace();
    let status = request_text(&Request::Status);
    let add = request_text(&Request::Add(attachment("c")));
    let end = Some(Instant::now() + LONG);
    for (text, descriptor, words) in [
        (&add, file.as_fd(), "the descriptor that came along: it is not a namespace"),
        (&status, netns.as_fd(), "1 descriptors came along; status brings none"),
    ] {
        let connection = raw(&path);
        connection.send(text, Some(descriptor), end).unwrap();
        let reason = next_refusal(&mut server);
        assert!(reason.contains(words), "{reason} should say: {words}");
    }
}

#[test]
fn a_list_must_be_of_one_network_and_end() {
    let (_directory, path, mut server) = server();
    let part = |network: &str, more| {
        let valid = vec![("c".to_owned(), "eth0".to_owned())];
        request_text(&Request::Gc { network: network.into(), valid, more })
    };
    for (first, second, words) in [
        (part("a", true), part("b", false), "a list of two networks"),
        (part("a", true), request_text(&Request::Status), "status in the midst of a gc"),
    ] {
        let connection = raw(&path);
        send(&connection, &first);
        send(&connection, &second);
        let reason = next_refusal(&mut server);
        assert!(reason.contains(words), "{reason} should say: {words}");
    }
    let connection = raw(&path);
    for _ in 0..10 {
        send(&connection, &part("a", true));
    }
    let reason = next_refusal(&mut server);
    assert!(reason.contains("no request came within"), "{reason}");
}

#[test]
fn who_says_nothing_or_too_much_is_given_up() {
    let (_directory, path, mut server) = server();
    let silent = raw(&path);
    let reason = next_refusal(&mut server);
    assert!(reason.contains("no request came within"), "{reason}");
    assert!(matches!(said(&silent), Answer::Refused { code: Refusal::BadRequest, .. }));

    let connection = raw(&path);
    let status = request_text(&Request::Status);
    send(&connection, &status);
    let id = next_request(&mut server).id;
    send(&connection, &status);
    assert!(matches!(next(&mut server), Event::Gone(gone) if gone == id));
    let answer = said(&connection);
    assert!(matches!(&answer, Answer::Refused { words, .. } if words.contains("one request a")));
    assert_eq!(server.connections(), 0);
}

#[test]
fn a_request_that_came_in_time_is_served_by_a_server_that_is_late() {
    let (_directory, path, mut server) = server();
    let connection = raw(&path);
    let end = Instant::now() + LONG;
    while server.connections() == 0 {
        assert!(Instant::now() < end);
        assert!(server.poll(None, SECOND).unwrap().is_none());
    }
    send(&connection, &request_text(&Request::Status));
    thread::sleep(Duration::from_millis(2200));
    let incoming = next_request(&mut server);
    server.answer(incoming.id, &Answer::Ready);
    assert_eq!(said(&connection), Answer::Ready);
}

#[test]
fn more_than_can_wait_are_told_so() {
    let (_directory, path, mut server) = server();
    let status = request_text(&Request::Status);
    let mut waiting: Vec<_> = (0..MAX_CONNECTIONS)
        .map(|_| {
            let connection = raw(&path);
            send(&connection, &status);
            (connection, next_request(&mut server).id)
        })
        .collect();
    let surplus = raw(&path);
    assert!(next_refusal(&mut server).contains("requests are waiting already"));
    assert!(matches!(said(&surplus), Answer::Refused { code: Refusal::Busy, .. }));
    // A client of ours comes again.
    let place = path.clone();
    let patient = thread::spawn(move || client(&place).ask(&Request::Status, None).unwrap());
    assert!(next_refusal(&mut server).contains("requests are waiting already"));
    let (connection, id) = waiting.swap_remove(9);
    drop(connection);
    let mut gone = false;
    let served = loop {
        match next(&mut server) {
            Event::Gone(other) if other == id => gone = true,
            Event::Refused { .. } => {}
            Event::Request(incoming) => break incoming.id,
            other => panic!("{other:?}"),
        }
    };
    assert!(gone && server.answer(served, &Answer::Ready));
    assert_eq!(patient.join().unwrap(), Answer::Ready);
    let connection = raw(&path);
    send(&connection, &status);
    waiting.push((connection, next_request(&mut server).id));
    // One that goes makes room.
    let (connection, id) = waiting.swap_remove(7);
    drop(connection);
    assert!(matches!(next(&mut server), Event::Gone(gone) if gone == id));
    let connection = raw(&path);
    send(&connection, &status);
    waiting.push((connection, next_request(&mut server).id));
    for (connection, id) in waiting {
        assert!(server.answer(id, &Answer::Ready));
        assert_eq!(said(&connection), Answer::Ready);
    }
}

#[test]
fn another_thread_can_wake_the_server() {
    let (_directory, _path, mut server) = server();
    let (wake, waker) = std::io::pipe().unwrap();
    std::io::Write::write_all(&mut &waker, b"!").unwrap();
    assert!(matches!(server.poll(Some(wake.as_fd()), LONG).unwrap(), Some(Event::Woken)));
}

#[test]
fn the_socket_is_closed_to_others_and_replaces_a_dead_ones() {
    let (_directory, path, first) = server();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    // Killed: its file is still there.
    std::mem::forget(first);
    let mut server = Server::bind(&path, "second").unwrap();
    let connection = raw(&path);
    send(&connection, &request_text(&Request::Status));
    let incoming = next_request(&mut server);
    server.answer(incoming.id, &Answer::Ready);
    assert_eq!(said(&connection), Answer::Ready);
}
