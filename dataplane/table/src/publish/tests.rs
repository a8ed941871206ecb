//! Both sides over real sockets and real memory files.

mod addresses;
mod news;

use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tempfile::TempDir;

use super::{
    message::{Hello, Message},
    socket::Connection,
    *,
};
use crate::{
    Address, DEFAULT_RUN_DIR, SOCKET_FILE,
    addrmap::AddressMapWriter,
    classify,
    mem::SharedWords,
    policy::{ClassId, PolicyImage, encode, small_image},
    seal,
};

const SECOND: Duration = Duration::from_secs(1);
const SHORT: Duration = Duration::from_millis(50);

/// The epoch of an address map that the test dataplane refuses.
const REFUSED_EPOCH: u64 = 666;

/// What the server thread saw, in order.
type Log = mpsc::Receiver<String>;

/// A dataplane that accepts every valid generation, in a thread of its own.
struct Server {
    directory: TempDir,
    log: Log,
    stop: mpsc::Sender<()>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    fn start() -> Server {
        let directory = TempDir::new().unwrap();
        let mut listener = Listener::bind(directory.path(), "test-dataplane 1", 0).unwrap();
        let (say, log) = mpsc::channel();
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                let text = match listener.poll(Duration::from_millis(20)).unwrap() {
                    None => continue,
                    Some(Event::Published(received)) => {
                        let generation = received.generation;
                        assert_eq!(received.classifier.generation(), generation);
                        let pod: Address = "10.0.0.1".parse().unwrap();
                        let class = received.classifier.class_of(pod);
                        if received.summary.source == "refuse me" {
                            listener.refuse(generation, "the test said so");
                        } else {
                            let at = generation * 100;
                            let (workers, enforced_at_ns) = (2, at);
                            listener.receipt(Receipt { generation, workers, enforced_at_ns });
                        }
                        format!("published {generation} pod class {}", class.0)
                    }
                    Some(Event::AddressesChanged { generation, epoch }) => {
                        if epoch == REFUSED_EPOCH {
                            listener.refuse_addresses(generation, epoch, "the test said so");
                        } else {
                            listener.addresses_enforced(AddressReceipt {
                                generation,
                                epoch,
                                flows_rejudged: Some(epoch * 10),
                                enforced_at_ns: epoch * 100,
                            });
                        }
                        format!("addresses of {generation} changed to epoch {epoch}")
                    }
                    Some(Event::Connected { software }) => format!("connected {software}"),
                    Some(Event::Disconnected) => "disconnected".to_owned(),
                    Some(other @ (Event::Settled(_) | Event::Rejected { .. } | Event::Woken)) => {
                        format!("{other:?}")
                    }
                    Some(Event::Refused { generation, reason }) => {
                        format!("refused {generation:?} {reason}")
                    }
                };
                say.send(text).unwrap();
            }
        });
        Server { directory, log, stop, thread: Some(thread) }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join(SOCKET_FILE)
    }

    fn connect(&self) -> Result<Publisher, PublishError> {
        Publisher::connect(&self.socket(), "test-control 1", SECOND)
    }

    fn expect(&self, start: &str) {
        let text = self.log.recv_timeout(5 * SECOND).unwrap();
        assert!(text.starts_with(start), "expected {start:?}, the server saw {text:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.stop.send(());
        let ended = self.thread.take().unwrap().join();
        if !thread::panicking() {
            ended.unwrap();
        }
    }
}

fn generation(number: u64) -> (OwnedFd, AddressMapWriter<SharedWords>) {
    let image = PolicyImage { generation: number, ..small_image() };
    let table = seal::sealed_copy("weir-policy", &encode(&image).unwrap()).unwrap();
    let mut addresses = AddressMapWriter::create(number, 16).unwrap();
    addresses.insert("10.0.0.1".parse().unwrap(), ClassId(1)).unwrap();
    (table, addresses)
}

fn publish(publisher: &mut Publisher, number: u64, source: &str) -> Result<Receipt, PublishError> {
    let (table, addresses) = generation(number);
    let summary = Summary { source: source.to_owned(), heard: 0 };
    publisher.publish(number, &summary, table.as_fd(), addresses.fd().unwrap(), SECOND)
}

/// A connection that speaks the protocol by hand.
fn raw(path: &Path) -> Connection {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    Connection::new(socket).unwrap()
}

fn greeted(path: &Path) -> Connection {
    let connection = raw(path);
    connection.send(&Message::Hello(Hello::new("raw", 0)), &[], SECOND).unwrap();
    assert!(matches!(connection.receive(SECOND).unwrap().0, Message::Hello(_)));
    connection
}

fn refusal(connection: &Connection) -> String {
    match connection.receive(SECOND).unwrap().0 {
        Message::Refused { reason, .. } => reason,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn a_generation_is_published_and_receipted() {
    let server = Server::start();
    let mut publisher = server.connect().unwrap();
    assert_eq!(publisher.dataplane_generation(), 0);
    assert_eq!(publisher.dataplane_software(), "test-dataplane 1");
    server.expect("connected test-control 1");
    let receipt = publish(&mut publisher, 1, "dir:/x").unwrap();
    assert_eq!(receipt, Receipt { generation: 1, workers: 2, enforced_at_ns: 100 });
    server.expect("published 1 pod class 1");
    assert_eq!(publish(&mut publisher, 5, "dir:/x").unwrap().generation, 5);
    server.expect("published 5");
    assert!(publisher.is_connected());
    drop(publisher);
    server.expect("disconnected");
    // A control process that starts anew counts on.
    assert_eq!(server.connect().unwrap().dataplane_generation(), 5);
}

#[test]
fn generations_only_go_up() {
    let server = Server::start();
    let mut publisher = server.connect().unwrap();
    publish(&mut publisher, 3, "").unwrap();
    for number in [3, 2] {
        let error = publish(&mut publisher, number, "").unwrap_err();
        assert!(error.to_string().contains("not newer than generation 3"), "{error}");
    }
    publish(&mut publisher, 4, "").unwrap();
}

#[test]
fn the_dataplane_can_refuse_in_its_own_words() {
    let server = Server::start();
    let mut publisher = server.connect().unwrap();
    let error = publish(&mut publisher, 1, "refuse me").unwrap_err();
    assert!(error.to_string().contains("generation 1: the test said so"), "{error}");
    // Refused is not enforced: the number may be used again.
    publish(&mut publisher, 1, "").unwrap();
}

#[test]
fn a_second_publisher_is_refused_until_the_first_has_gone() {
    let server = Server::start();
    let first = server.connect().unwrap();
    server.expect("connected");
    for _ in 0..20 {
        let error = server.connect().unwrap_err();
        assert!(
            matches!(&error, PublishError::Refused { reason, .. }
                if reason.contains("another publisher is connected")),
            "{error}"
        );
        server.expect("refused None another publisher");
    }
    drop(first);
    server.expect("disconnected");
    publish(&mut server.connect().unwrap(), 1, "").unwrap();
}

#[test]
fn unsealed_or_invalid_generations_are_refused_and_the_session_goes_on() {
    let server = Server::start();
    let mut publisher = server.connect().unwrap();
    let (table, addresses) = generation(1);
    let good = (table.as_fd(), addresses.fd().unwrap());

    let bytes = encode(&PolicyImage { generation: 1, ..small_image() }).unwrap();
    let unsealed = seal::create("weir-policy").unwrap();
    rustix::io::write(&unsealed, &bytes).unwrap();
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    let damaged = seal::sealed_copy("weir-policy", &damaged).unwrap();
    let cut = seal::sealed_copy("weir-policy", &bytes[..bytes.len() - 1]).unwrap();
    let empty = seal::sealed_copy("weir-policy", b"").unwrap();
    let (other_table, other_addresses) = generation(2);
    let open_map = seal::create("weir-addresses").unwrap();
    rustix::fs::ftruncate(&open_map, 4096).unwrap();

    for (policy, map, words) in [
        (unsealed.as_fd(), good.1, "F_SEAL_WRITE, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL"),
        (damaged.as_fd(), good.1, "damaged"),
        (cut.as_fd(), good.1, "cut off"),
        (empty.as_fd(), good.1, "length of 0"),
        (good.1, good.0, "F_SEAL_WRITE missing"),
        (good.0, open_map.as_fd(), "address map is not sealed"),
        (good.0, good.0, "no address map"),
        (good.0, other_addresses.fd().unwrap(), "address map is generation 2"),
        (other_table.as_fd(), other_addresses.fd().unwrap(), "the table says generation 2"),
    ] {
        let error = publisher.publish(1, &Summary::default(), policy, map, SECOND).unwrap_err();
        assert!(error.to_string().contains(words), "{error} should say: {words}");
    }
    publisher.publish(1, &Summary::default(), good.0, good.1, SECOND).unwrap();
}

#[test]
fn versions_that_differ_are_put_into_words() {
    let server = Server::start();
    let connection = raw(&server.socket());
    let strange = Hello { table_format: 99, ..Hello::new("weir-control 9.9", 0) };
    connection.send(&Message::Hello(strange), &[], SECOND).unwrap();
    // The dataplane says its own versions before it closes …
    let (answer, _) = connection.receive(SECOND).unwrap();
    assert!(matches!(answer, Message::Hello(hello) if hello.check().is_ok()));
    assert!(matches!(connection.receive(SECOND), Err(PublishError::Closed)));
    server.expect(&format!(
        "refused None the policy table's format differs: this side has version {}, \
         the other (weir-control 9.9) version 99",
        crate::policy::FORMAT_VERSION
    ));
    // … so the publisher can do the same.
    let theirs = Hello { protocol: 99, ..Hello::new("weir-dataplane 9.9", 0) };
    let error = theirs.check().unwrap_err().to_string();
    assert!(error.contains("protocol") && error.contains("weir-dataplane 9.9"), "{error}");
}

#[test]
fn a_hello_of_a_later_version_can_still_be_read() {
    let text = r#"{"type":"hello","protocol":99,"table_format":1,"address_format":1,
        "software":"weir-control 2","generation":0,"added_later":{"x":1}}"#;
    let Message::Hello(hello) = serde_json::from_str(text).unwrap() else { panic!() };
    assert!(matches!(
        hello.check(),
        Err(PublishError::Version { ours: PROTOCOL_VERSION, theirs: 99, .. })
    ));
}

#[test]
fn nonsense_ends_the_session_in_words() {
    let server = Server::start();
    for (text, words) in [
        (&b"{"[..], "EOF"),
        (b"\xff\xfe", "expected value"),
        (b"{\"type\":\"dance\"}", "unknown variant `dance`"),
        (b"{\"type\":\"publish\",\"generation\":1}", "out of turn"),
        (&[b' '; 70_000][..], "longer than any message"),
    ] {
        let connection = raw(&server.socket());
        rustix::net::send(&connection, text, rustix::net::SendFlags::NOSIGNAL).unwrap();
        let reason = refusal(&connection);
        assert!(reason.contains(words), "{reason} should say: {words}");
        server.expect("refused None");
    }
    // And it is free for the next.
    publish(&mut server.connect().unwrap(), 1, "").unwrap();
}

#[test]
fn the_number_of_descriptors_must_be_two() {
    let server = Server::start();
    let (table, addresses) = generation(1);
    let (table, map) = (table.as_fd(), addresses.fd().unwrap());
    let connection = greeted(&server.socket());
    for (descriptors, words) in
        [(&[][..], "0 descriptors"), (&[table], "1 descriptors"), (&[table, map, map], "3 desc")]
    {
        let message = Message::Publish { generation: 1, summary: Summary::default() };
        connection.send(&message, descriptors, SECOND).unwrap();
        let reason = refusal(&connection);
        assert!(reason.contains(words), "{reason} should say: {words}");
    }
}

#[test]
fn a_silent_connection_is_given_up() {
    let server = Server::start();
    let silent = raw(&server.socket());
    let begin = Instant::now();
    let (answer, _) = silent.receive(5 * SECOND).unwrap();
    assert!(
        matches!(&answer, Message::Refused { reason, .. } if reason.contains("no hello")),
        "{answer:?}"
    );
    assert!(begin.elapsed() > SECOND);
    publish(&mut server.connect().unwrap(), 1, "").unwrap();
}

#[test]
fn a_receipt_that_does_not_come_is_a_timeout_and_is_skipped_later() {
    let directory = TempDir::new().unwrap();
    let mut listener = Listener::bind(directory.path(), "slow", 0).unwrap();
    let path = listener.path().to_owned();
    let client = thread::spawn(move || {
        let mut publisher = Publisher::connect(&path, "test", SECOND).unwrap();
        let (table, addresses) = generation(1);
        let (table, map) = (table.as_fd(), addresses.fd().unwrap());
        let error = publisher.publish(1, &Summary::default(), table, map, SHORT).unwrap_err();
        assert!(matches!(error, PublishError::Timeout { milliseconds: 50 }), "{error}");
        publish(&mut publisher, 2, "").unwrap()
    });
    let mut receipts = Vec::new();
    while receipts.len() < 2 {
        if let Some(Event::Published(received)) = listener.poll(SECOND).unwrap() {
            receipts.push(received.generation);
        }
    }
    // Both answers only now: the first is for a call that has given up.
    for generation in receipts {
        listener.receipt(Receipt { generation, workers: 1, enforced_at_ns: 1 });
    }
    assert_eq!(client.join().unwrap().generation, 2);
}

#[test]
fn directory_and_socket_are_closed_to_others() {
    let parent = TempDir::new().unwrap();
    let run = parent.path().join("weir");
    std::fs::create_dir(&run).unwrap();
    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o755)).unwrap();
    let listener = Listener::bind(&run, "test", 0).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&run), 0o700);
    assert_eq!(mode(listener.path()), 0o600);
    assert_eq!(listener.path(), run.join(SOCKET_FILE));
    assert!(is_trusted(0, 1000) && is_trusted(1000, 1000) && !is_trusted(1001, 1000));
    assert!(Path::new(DEFAULT_RUN_DIR).is_absolute());
}

#[test]
fn one_dataplane_a_directory() {
    let directory = TempDir::new().unwrap();
    let first = Listener::bind(directory.path(), "first", 0).unwrap();
    let error = Listener::bind(directory.path(), "second", 0).unwrap_err();
    assert!(matches!(error, PublishError::InUse { .. }), "{error}");
    let path = first.path().to_owned();
    drop(first);
    assert!(!path.exists());
    // A socket file that a dead dataplane left behind is in nobody's way.
    std::fs::write(&path, b"").unwrap();
    drop(Listener::bind(directory.path(), "third", 0).unwrap());
}

#[test]
fn nobody_listening_is_said_with_the_path() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join(SOCKET_FILE);
    let error = Publisher::connect(&path, "test", SHORT).unwrap_err().to_string();
    assert!(error.contains("is weir-dataplane running") && error.contains(SOCKET_FILE), "{error}");
    let long = directory.path().join("x".repeat(200));
    assert!(matches!(Publisher::connect(&long, "test", SHORT), Err(PublishError::Connect { .. })));
}

#[test]
fn descriptors_of_refused_messages_are_closed() {
    let server = Server::start();
    let connection = greeted(&server.socket());
    let table = seal::create("weir-leak-test").unwrap();
    let message = Message::Publish { generation: 1, summary: Summary::default() };
    let three = [table.as_fd(), table.as_fd(), table.as_fd()];
    connection.send(&message, &three, SECOND).unwrap();
    server.expect("connected");
    let open = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        links
            .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
            .filter(|target| target.to_string_lossy().contains("weir-leak-test"))
            .count()
    };
    server.expect("refused Some(1) 3 descriptors");
    assert_eq!(open(), 1, "only the test's own descriptor may be left");
}

#[test]
fn stamps_of_two_generations_differ() {
    let of = |number| {
        let (table, addresses) = generation(number);
        let mapping = crate::mem::Mapping::of_sealed(table.as_fd(), "table").unwrap();
        let table = crate::policy::PolicyTable::from_bytes(mapping).unwrap();
        let map = crate::addrmap::AddressMap::from_fd(addresses.fd().unwrap()).unwrap();
        classify::Classifier::new(table, map).unwrap().stamp()
    };
    assert_ne!(of(1), of(2));
    assert_eq!(classify::stamp_generation(of(7)), 7);
}
