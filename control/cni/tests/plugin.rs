//! The plugin as a runtime runs it, against a dataplane that answers as the test says.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod support;

use std::{
    os::unix::net::UnixListener,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use weir_table::cni::{Answer, AttachmentId, Refusal, Request};

use support::{Answered, Dataplane, LONG, Namespace, Reply, plugin, run, willing};

/// As bridge writes it, with a spelling that no serializer would choose.
const PREV: &str = r#"{ "cniVersion":"1.0.0", "interfaces":[{"name":"cni0"},{"name":"vethab"},
    {"name":"eth0","mac":"02:00:00:00:00:07","sandbox":"/run/netns/x"}],
    "ips":[ {"interface":2,"address":"10.244.0.7/24"},{"address":"fd00::7/64","interface":2} ],
    "dns":{}, "z" : 1.50e3 }"#;

const ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u-1";

fn config(socket: &Path, members: &str) -> String {
    format!(
        r#"{{"cniVersion":"1.0.0","name":"lab","type":"weir-cni","socket":"{}"{members}}}"#,
        socket.display()
    )
}

fn with_prev(socket: &Path, members: &str) -> String {
    config(socket, &format!("{members},\"prevResult\":{PREV}"))
}

fn call(verb: &str, container: &str, netns: &str, input: &str) -> Answered {
    let variables = [
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", container),
        ("CNI_NETNS", netns),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", ARGS),
        ("CNI_PATH", "/opt/cni/bin"),
    ];
    run(plugin(), &variables, input)
}

/// For a configuration of 1.1.0.
fn newest(text: &str) -> String {
    text.replace(r#"{"cniVersion":"1.0.0""#, r#"{"cniVersion":"1.1.0""#)
}

#[test]
fn an_add_tells_all_and_hands_on_what_came_before() {
    let Some(pod) = Namespace::new() else { return };
    let dataplane = Dataplane::willing();
    let ports = r#","runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":8080,"protocol":"tcp"}]}"#;
    let added = call("ADD", "c1", &pod.path(), &with_prev(&dataplane.socket(), ports)).ok();
    assert_eq!(added.output, PREV);
    assert_eq!(added.errors, "");
    let told = dataplane.told();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].netns, Some(pod.id()), "the descriptor is of the pod's namespace");
    assert!(told[0].software.starts_with("weir-cni "));
    let Request::Add(attachment) = &told[0].request else { panic!("{told:?}") };
    let id = AttachmentId { network: "lab".into(), container: "c1".into(), ifname: "eth0".into() };
    assert_eq!(attachment.id, id);
    let of_pod = attachment.pod.as_ref().unwrap();
    assert_eq!((of_pod.namespace.as_str(), of_pod.name.as_str()), ("shop", "web-0"));
    assert_eq!(of_pod.uid.as_deref(), Some("u-1"));
    assert_eq!(attachment.mac.as_deref(), Some("02:00:00:00:00:07"));
    let addresses: Vec<_> = attachment.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.244.0.7", "fd00::7"]);
    assert_eq!(attachment.host_ports.len(), 1);
    assert_eq!(attachment.netns, pod.path());
}

#[test]
fn every_verb_that_succeeds_but_add_says_nothing() {
    let Some(pod) = Namespace::new() else { return };
    let dataplane = Dataplane::willing();
    let socket = dataplane.socket();
    let valid = r#","cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]"#;
    for (verb, input) in [
        ("CHECK", with_prev(&socket, "")),
        ("DEL", with_prev(&socket, "")),
        ("STATUS", newest(&config(&socket, ""))),
        ("GC", newest(&config(&socket, valid))),
    ] {
        let answered = call(verb, "c1", &pod.path(), &input).ok();
        assert_eq!((answered.output, answered.errors), (String::new(), String::new()), "{verb}");
    }
    let told: Vec<_> = dataplane.told().into_iter().map(|told| told.request).collect();
    assert!(matches!(&told[0], Request::Check(check) if check.addresses.len() == 2));
    assert!(matches!(&told[1], Request::Del { id } if id.container == "c1"));
    assert_eq!(told[2], Request::Status);
    let gc = Request::Gc {
        network: "lab".into(),
        valid: vec![("c1".into(), "eth0".into())],
        more: false,
    };
    assert_eq!(told[3], gc);
}

#[test]
fn late_is_an_error_or_a_quarantine_as_was_chosen() {
    let Some(pod) = Namespace::new() else { return };
    let dataplane = Dataplane::start(|incoming| match &incoming.request {
        Request::Add(_) | Request::Check(_) => Reply::Late,
        other => Reply::Now(willing(other)),
    });
    let socket = dataplane.socket();
    let words = "pod shop/web-0 is not connected: its policy is not in force after 0.4 s: \
                 control does not know the pod";
    for input in [
        with_prev(&socket, r#","timeoutMs":400"#),
        with_prev(&socket, r#","timeoutMs":400,"onTimeout":"fail""#),
    ] {
        let begin = Instant::now();
        call("ADD", "c1", &pod.path(), &input).failed(11, words);
        assert!(begin.elapsed() > Duration::from_millis(150), "it has waited");
    }
    let input = with_prev(&socket, r#","timeoutMs":400,"onTimeout":"quarantine""#);
    let added = call("ADD", "c1", &pod.path(), &input).ok();
    assert_eq!(added.output, PREV);
    assert!(added.errors.contains("pod shop/web-0 is cut off until"), "{added:?}");
    call("CHECK", "c1", &pod.path(), &input).failed(11, "not in force after 0.4 s");
}

#[test]
fn without_a_dataplane_nothing_is_connected_and_everything_removable() {
    let Some(pod) = Namespace::new() else { return };
    let directory = TempDir::new().unwrap();
    let nobody = directory.path().join("cni.sock");
    let dead = directory.path().join("dead.sock");
    drop(UnixListener::bind(&dead).unwrap());
    let silent = Dataplane::start(|_| Reply::Never);
    for (socket, words) in [
        (nobody.as_path(), "cannot reach the dataplane"),
        (dead.as_path(), "is weir-dataplane running?"),
        (&silent.socket(), "no answer from the dataplane within 300 ms"),
    ] {
        // Whatever was chosen for those that are late: this is not late.
        for chosen in ["fail", "quarantine"] {
            let members = format!(r#","timeoutMs":300,"onTimeout":"{chosen}""#);
            let input = with_prev(socket, &members);
            let failed = call("ADD", "c1", &pod.path(), &input);
            assert!(failed.output.contains("pod shop/web-0 is not connected"), "{failed:?}");
            failed.failed(11, words);
        }
        let input = with_prev(socket, r#","timeoutMs":300"#);
        call("CHECK", "c1", &pod.path(), &input).failed(11, words);
        let begin = Instant::now();
        let gone = call("DEL", "c1", "", &input).ok();
        assert_eq!(gone.output, "");
        assert!(gone.errors.contains("DEL of c1 eth0"), "{gone:?}");
        assert!(begin.elapsed() < LONG / 2);
        let status = newest(&config(socket, ""));
        call("STATUS", "", "", &status).failed(50, "weir cannot serve pods");
        let gc = newest(&config(socket, r#","timeoutMs":300,"cni.dev/valid-attachments":[]"#));
        call("GC", "", "", &gc).failed(11, "network lab");
    }
}

#[test]
fn who_prefers_pods_that_start_is_told_that_they_are_unjudged() {
    let Some(pod) = Namespace::new() else { return };
    let directory = TempDir::new().unwrap();
    let nobody = directory.path().join("cni.sock");
    let silent = Dataplane::start(|_| Reply::Never);
    let refuses = |code| {
        Dataplane::start(move |_| Reply::Now(Answer::Refused { code, words: "as was said".into() }))
    };
    let (no_table, taken) = (refuses(Refusal::NoTable), refuses(Refusal::AddressTaken));
    let open = r#","timeoutMs":300,"onFailure":"open""#;
    for (socket, words) in [
        (nobody.as_path(), "cannot reach the dataplane"),
        (&silent.socket(), "no answer from the dataplane within 300 ms"),
        (&no_table.socket(), "as was said"),
    ] {
        let added = call("ADD", "c1", &pod.path(), &with_prev(socket, open)).ok();
        assert_eq!(added.output, PREV);
        let said = "pod shop/web-0 starts unjudged";
        assert!(added.errors.contains(said) && added.errors.contains(words), "{added:?}");
        let status = newest(&config(socket, open));
        let status = call("STATUS", "", "", &status).ok();
        assert!(status.errors.contains("start unjudged"), "{status:?}");
    }
    // What is wrong with the pod stays wrong.
    let input = with_prev(&taken.socket(), open);
    call("ADD", "c1", &pod.path(), &input).failed(103, "as was said");
}

#[test]
fn refusals_have_their_codes() {
    let Some(pod) = Namespace::new() else { return };
    for (refusal, add, check) in [
        (Refusal::Skew, 100, 100),
        (Refusal::Differs, 101, 101),
        (Refusal::NoDevice, 102, 101),
        (Refusal::AddressTaken, 103, 101),
        (Refusal::BadRequest, 104, 104),
        (Refusal::Other, 104, 104),
        (Refusal::NoTable, 11, 11),
        (Refusal::Busy, 11, 11),
    ] {
        let dataplane = Dataplane::start(move |_| {
            Reply::Now(Answer::Refused { code: refusal, words: "as was said".into() })
        });
        let members = r#","timeoutMs":500,"onTimeout":"quarantine""#;
        let input = with_prev(&dataplane.socket(), members);
        call("ADD", "c1", &pod.path(), &input).failed(add, "shop/web-0 is not connected: as was");
        call("CHECK", "c1", &pod.path(), &input).failed(check, "as was said");
        let gone = call("DEL", "c1", &pod.path(), &input).ok();
        assert!(gone.errors.contains("as was said"), "{gone:?}");
        let status = newest(&config(&dataplane.socket(), ""));
        call("STATUS", "", "", &status).failed(50, "as was said");
    }
}

#[test]
fn status_tells_who_is_affected() {
    for (limited, code) in [(false, 50), (true, 51)] {
        let dataplane = Dataplane::start(move |_| {
            Reply::Now(Answer::NotReady { limited, words: "no worker lives".into() })
        });
        let input = newest(&config(&dataplane.socket(), ""));
        call("STATUS", "", "", &input).failed(code, "weir cannot serve pods: no worker lives");
    }
}

/// Listens, and sends everyone who connects some bytes.
fn speaks(directory: &Path, bytes: &'static [u8]) -> std::path::PathBuf {
    use rustix::net::{
        AddressFamily, SendFlags, SocketAddrUnix, SocketType, accept, bind, listen, send, socket,
    };
    let path = directory.join("cni.sock");
    let listener = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&listener, 8).unwrap();
    // Ends with the process.
    thread::spawn(move || {
        let mut kept = Vec::new();
        while let Ok(connection) = accept(&listener) {
            _ = send(&connection, bytes, SendFlags::NOSIGNAL);
            kept.push(connection);
        }
    });
    path
}

#[test]
fn another_version_and_garbage_are_failures_in_words() {
    let Some(pod) = Namespace::new() else { return };
    for (bytes, code, words) in [
        (
            &br#"{"protocol":99,"software":"weir-dataplane 9.9","type":"sung"}"#[..],
            100,
            "the other (weir-dataplane 9.9) version 99",
        ),
        (b"\xff\x00garbage", 104, "no message of this protocol"),
        (br#"{"protocol":1,"software":"x","type":"ready"}"#, 104, "out of turn: Ready"),
        (br#"{"protocol":1,"software":"x","type":"enforced"}"#, 104, "missing field"),
        (&[b' '; 70_000], 104, "longer than any message"),
    ] {
        let directory = TempDir::new().unwrap();
        let socket = speaks(directory.path(), bytes);
        let input = with_prev(&socket, r#","onTimeout":"quarantine""#);
        call("ADD", "c1", &pod.path(), &input).failed(code, words);
        call("DEL", "c1", &pod.path(), &input).ok();
    }
}

#[test]
fn a_restart_in_the_midst_of_an_add_is_not_noticed() {
    let Some(pod) = Namespace::new() else { return };
    let first = AtomicBool::new(true);
    let dataplane = Dataplane::start(move |incoming| {
        if first.swap(false, Ordering::Relaxed) {
            Reply::Restart
        } else {
            Reply::Now(willing(&incoming.request))
        }
    });
    let added = call("ADD", "c1", &pod.path(), &with_prev(&dataplane.socket(), "")).ok();
    assert_eq!(added.output, PREV);
    let told = dataplane.told();
    assert_eq!(told.len(), 2);
    assert_eq!(told[0].request, told[1].request);
}

#[test]
fn adds_and_dels_may_be_repeated() {
    let Some(pod) = Namespace::new() else { return };
    let dataplane = Dataplane::willing();
    let input = with_prev(&dataplane.socket(), "");
    for verb in ["ADD", "ADD", "DEL", "DEL", "ADD", "DEL"] {
        call(verb, "c1", &pod.path(), &input).ok();
    }
    let told = dataplane.told();
    assert_eq!(told.len(), 6);
    assert_eq!(told[0].request, told[4].request);
}

#[test]
fn a_del_needs_neither_namespace_nor_result_nor_sound_settings() {
    let dataplane = Dataplane::willing();
    let socket = dataplane.socket();
    let gone = "/proc/1/ns/is-gone";
    for (netns, input) in [
        (gone, with_prev(&socket, "")),
        ("", with_prev(&socket, "")),
        ("", config(&socket, "")),
        ("", config(&socket, r#","prevResult":{"ips":7}"#)),
    ] {
        let answered = call("DEL", "c1", netns, &input).ok();
        assert_eq!((answered.output, answered.errors), (String::new(), String::new()));
    }
    assert_eq!(dataplane.told().len(), 4);
    // It cannot be told then; still the pod goes.
    let broken = config(&socket, r#","onTimeout":"pass""#).replace(r#""lab""#, r#""""#);
    let answered = call("DEL", "c1", "", &broken).ok();
    assert!(answered.errors.contains("the network's name cannot be"), "{answered:?}");
}

#[test]
fn what_no_namespace_is_is_refused() {
    let dataplane = Dataplane::willing();
    let file = tempfile::NamedTempFile::new().unwrap();
    let input = with_prev(&dataplane.socket(), "");
    for (netns, words) in [
        ("/proc/self/ns/net", "the node's own namespace"),
        ("/nowhere/to/be/found", "CNI_NETNS is /nowhere/to/be/found: No such file"),
        (file.path().to_str().unwrap(), "it is not a namespace"),
    ] {
        call("ADD", "c1", netns, &input).failed(4, words);
        call("CHECK", "c1", netns, &input).failed(4, words);
    }
    assert!(dataplane.told().is_empty());
}

#[test]
fn verbs_that_a_version_has_not_are_errors() {
    let dataplane = Dataplane::willing();
    let input = config(&dataplane.socket(), "");
    for verb in ["STATUS", "GC"] {
        call(verb, "c1", "", &input).failed(1, "CNI 1.0.0 has no");
    }
    let old = input.replace("1.0.0", "0.3.1");
    call("CHECK", "c1", "/x", &old).failed(1, "CNI 0.3.1 has no CHECK");
    call("DANCE", "c1", "/x", &input).failed(4, "CNI_COMMAND is");
    call("ADD", "c1", "/x", "{").failed(6, "cannot read the network configuration");
    let gc = newest(&input);
    call("GC", "", "", &gc).failed(7, "nothing is removed");
}

#[test]
fn many_at_once_get_each_its_own_answer() {
    let Some(pod) = Namespace::new() else { return };
    // The later half is enforced, the others are refused: by their names, in any order.
    let dataplane = Dataplane::start(|incoming| {
        let Request::Add(attachment) = &incoming.request else {
            return Reply::Now(willing(&incoming.request));
        };
        let number: u32 = attachment.id.container.parse().unwrap();
        Reply::Now(match number {
            0..30 => {
                let words = format!("number {number}");
                Answer::Refused { code: Refusal::AddressTaken, words }
            }
            _ => willing(&incoming.request),
        })
    });
    let input = with_prev(&dataplane.socket(), "");
    thread::scope(|scope| {
        for number in 0..60_u32 {
            let (input, netns) = (&input, pod.path());
            scope.spawn(move || {
                let answered = call("ADD", &number.to_string(), &netns, input);
                if number < 30 {
                    answered.failed(103, &format!("number {number}\""));
                } else {
                    assert_eq!(answered.ok().output, PREV);
                }
                call("DEL", &number.to_string(), &netns, input).ok();
            });
        }
    });
    assert_eq!(dataplane.told().len(), 120);
}

#[test]
fn it_says_what_it_is_and_how_it_is_used() {
    let version = run(plugin(), &[("CNI_COMMAND", "VERSION")], r#"{"cniVersion":"1.0.0"}"#).ok();
    assert_eq!(version.json()["cniVersion"], "1.0.0");
    let words = run(plugin(), &[], "");
    assert!(!words.success && words.errors.contains("no CNI_COMMAND"), "{words:?}");
    for (argument, found) in [("--help", "usage: weir-cni install"), ("--version", "weir-cni 0.")] {
        let mut command = plugin();
        command.arg(argument);
        assert!(run(command, &[], "").ok().output.contains(found));
    }
    let mut command = plugin();
    command.arg("dance");
    assert_eq!(command.output().unwrap().status.code(), Some(2));
}
