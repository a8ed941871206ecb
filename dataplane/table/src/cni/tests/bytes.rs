//! Any bytes may arrive; what is written is read as it was.

use proptest::prelude::*;

use super::super::message::{
    Header, MAX_MESSAGE, VALID_A_MESSAGE, read_answer, read_request, write_answer, write_request,
};
use super::super::*;

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,80}"
}

fn ifname() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9_.@-]{0,14}"
}

fn attachment_id() -> impl Strategy<Value = AttachmentId> {
    (name(), name(), ifname()).prop_map(|(network, container, ifname)| AttachmentId {
        network,
        container,
        ifname,
    })
}

fn pod() -> impl Strategy<Value = PodRef> {
    (name(), name(), proptest::option::of(name())).prop_map(|(namespace, name, uid)| PodRef {
        namespace,
        name,
        uid,
    })
}

fn host_port() -> impl Strategy<Value = HostPort> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
    (protocol, any::<Option<std::net::IpAddr>>(), any::<u16>(), any::<u16>())
        .prop_map(|(protocol, host_ip, host, pod)| HostPort { protocol, host_ip, host, pod })
}

fn attachment() -> impl Strategy<Value = Attachment> {
    (
        attachment_id(),
        "/[ -~]{0,100}",
        proptest::option::of(pod()),
        prop::collection::vec((ifname(), any::<u32>()), 0..5),
        proptest::option::of("[0-9a-f:]{1,17}"),
        prop::collection::vec(any::<std::net::IpAddr>(), 0..32),
        prop::collection::vec(host_port(), 0..40),
    )
        .prop_map(|(id, netns, pod, host, mac, addresses, host_ports)| Attachment {
            id,
            netns,
            pod,
            host: host.into_iter().map(|(name, ifindex)| HostDevice { name, ifindex }).collect(),
            mac,
            addresses,
            host_ports,
        })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        attachment().prop_map(Request::Add),
        attachment().prop_map(Request::Check),
        attachment_id().prop_map(|id| Request::Del { id }),
        Just(Request::Status),
        (name(), prop::collection::vec((name(), ifname()), 0..VALID_A_MESSAGE), any::<bool>())
            .prop_map(|(network, valid, more)| Request::Gc { network, valid, more }),
    ]
}

fn answer() -> impl Strategy<Value = Answer> {
    let code = prop_oneof![
        Just(Refusal::Skew),
        Just(Refusal::NoDevice),
        Just(Refusal::AddressTaken),
        Just(Refusal::NoTable),
        Just(Refusal::Differs),
        Just(Refusal::BadRequest),
        Just(Refusal::Busy),
        Just(Refusal::Other),
    ];
    let waiting_for = prop_oneof![
        Just(WaitingFor::Control),
        Just(WaitingFor::PodObject),
        Just(WaitingFor::Worker),
        Just(WaitingFor::Other),
    ];
    prop_oneof![
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(generation, epoch, waited_us)| {
            Answer::Enforced { generation, epoch, waited_us }
        }),
        (waiting_for, "\\PC{0,60}")
            .prop_map(|(waiting_for, words)| Answer::Pending { waiting_for, words }),
        (code, "\\PC{0,60}").prop_map(|(code, words)| Answer::Refused { code, words }),
        any::<u32>().prop_map(|removed| Answer::Done { removed }),
        Just(Answer::Ready),
        (any::<bool>(), "\\PC{0,60}")
            .prop_map(|(limited, words)| Answer::NotReady { limited, words }),
    ]
}

fn header() -> Header {
    Header { protocol: PROTOCOL_VERSION, software: "x 1".into(), wait_ms: 17 }
}

/// Text near enough to a message to get past the first brace.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    (request(), any::<prop::sample::Index>(), any::<u8>(), any::<u8>()).prop_map(
        |(request, at, byte, how)| {
            let mut text = write_request(&header(), &request).unwrap();
            let at = at.index(text.len());
            match how % 3 {
                0 => text[at] = byte,
                1 => text.truncate(at),
                _ => text.insert(at, byte),
            }
            text
        },
    )
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(text in prop::collection::vec(any::<u8>(), 0..2000)) {
        _ = read_request(&text);
        _ = read_answer(&text);
    }

    #[test]
    fn what_a_program_calls_itself_is_a_short_line(
        name in any::<String>(), times in 1_usize..100, protocol in 0_u32..3,
    ) {
        let software = name.repeat(times);
        let text = serde_json::json!({"protocol": protocol, "software": software, "type": "status"});
        let said = match read_request(&serde_json::to_vec(&text).unwrap()) {
            Ok((header, _)) => header.software,
            Err(CniError::Version { software, .. }) => software,
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        };
        prop_assert!(said.len() <= 253 && !said.contains(char::is_control));
    }

    #[test]
    fn damaged_messages_are_read_or_refused(text in nearly()) {
        if let Ok((_, request)) = read_request(&text) {
            // What gets through keeps the limits, whatever it says.
            prop_assert_eq!(request.check(), Ok(()));
        }
        _ = read_answer(&text);
    }

    #[test]
    fn requests_are_read_as_written(request in request()) {
        let text = write_request(&header(), &request).unwrap();
        prop_assert!(text.len() <= MAX_MESSAGE);
        prop_assert_eq!(read_request(&text).unwrap(), (header(), request));
    }

    #[test]
    fn answers_are_read_as_written(answer in answer()) {
        let text = write_answer(&header(), &answer).unwrap();
        prop_assert_eq!(read_answer(&text).unwrap(), answer);
    }

    #[test]
    fn words_of_any_length_fit(words in "\\PC{0,9}", times in 0_usize..3000) {
        let words = words.repeat(times);
        let answer = Answer::Refused { code: Refusal::BadRequest, words: words.clone() };
        let text = write_answer(&header(), &answer).unwrap();
        let Answer::Refused { words: read, .. } = read_answer(&text).unwrap() else {
            return Err(TestCaseError::fail("another answer"));
        };
        prop_assert!(words.starts_with(&read));
        prop_assert!(read.len() == words.len() || read.len() > 4000);
    }
}
