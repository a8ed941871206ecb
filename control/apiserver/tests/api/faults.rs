//! Requests and connections that go wrong on purpose.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use weir_apiserver::{Action, Fault, Holder, Kind, rules_of};

use crate::support::{PATIENCE, get, pod, send, server};

#[test]
fn refusals_are_status_objects() {
    let server = server();
    for (code, reason) in [
        (401, "Unauthorized"),
        (403, "Forbidden"),
        (410, "Expired"),
        (429, "TooManyRequests"),
        (500, "InternalError"),
        (503, "ServiceUnavailable"),
        (504, "Timeout"),
    ] {
        let action = Action::Refuse { code, retry_after: (code == 429).then_some(3) };
        server.fault(Fault::once(action));
        let answer = get(&server, "/api/v1/pods");
        assert_eq!(
            (answer.code, answer.header("retry-after")),
            (code, (code == 429).then_some("3"))
        );
        assert_eq!(answer.json()["reason"], reason);
        assert_eq!(get(&server, "/api/v1/pods").code, 200);
    }
    server.fault(Fault::once(Action::TooLarge).on_verb("watch"));
    assert_eq!(get(&server, "/api/v1/pods").code, 200);
    let watch = get(&server, "/api/v1/pods?watch=1").json();
    assert_eq!(watch["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    server.fault(Fault::once(Action::ErrorEvent { code: 500 }));
    let answer = get(&server, "/api/v1/pods?watch=1");
    assert_eq!((answer.code, answer.json()["type"].clone()), (200, json!("ERROR")));
    // Faults are the server's doing.
    assert_eq!(server.take_complaints(), Vec::<String>::new());
    let codes: Vec<u16> = server.requests().iter().map(|asked| asked.code).collect();
    assert_eq!(codes[..4], [401, 200, 403, 200]);
}

#[test]
fn what_is_no_status_object() {
    let server = server();
    let page = "<html>Bad Gateway</html>".to_owned();
    let action = Action::Raw { code: 502, content_type: "text/html".into(), body: page.clone() };
    server.fault(Fault::once(action));
    let answer = get(&server, "/api/v1/pods");
    assert_eq!((answer.code, answer.header("content-type")), (502, Some("text/html")));
    assert_eq!(answer.body().0.unwrap(), page);
}

#[test]
fn connections_that_end() {
    let server = server();
    server.apply(pod("web", json!({}))).unwrap();
    server.fault(Fault::once(Action::Close).on_kind(Kind::Pod));
    assert!(send(server.address(), "GET", "/api/v1/pods", &[], "").is_none());
    assert_eq!(server.requests()[0].code, 0);
    server.fault(Fault::once(Action::Truncate).after(1));
    assert!(get(&server, "/api/v1/pods").body().0.is_ok());
    let (body, _) = get(&server, "/api/v1/pods").body();
    assert!(body.is_err(), "{body:?}");
}

#[test]
fn answers_that_come_late_or_never() {
    let server = server();
    let begin = Instant::now();
    server.fault(Fault::once(Action::Delay { ms: 300 }));
    assert_eq!(get(&server, "/api/v1/pods").code, 200);
    assert!(begin.elapsed() >= Duration::from_millis(300));
    server.fault(Fault::once(Action::Hang));
    let mut hung = TcpStream::connect(server.address()).unwrap();
    hung.write_all(b"GET /api/v1/pods HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert!(server.wait(PATIENCE, || server.requests().len() == 2));
    // Others are served meanwhile.
    assert_eq!(get(&server, "/api/v1/pods").code, 200);
    hung.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(hung.read(&mut [0]).is_err());
    server.close_connections().unwrap();
    hung.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(matches!(hung.read(&mut [0]), Ok(0) | Err(_)));
}

/// A server that stands still accepts, and sends nothing until it goes on.
#[test]
fn frozen() {
    let server = server();
    let mut watch = get(&server, "/api/v1/pods?watch=1&resourceVersion=1");
    server.freeze();
    server.apply(pod("web", json!({}))).unwrap();
    let thawed = thread::scope(|scope| {
        let answer = scope.spawn(|| (get(&server, "/api/v1/pods").code, Instant::now()));
        let event = scope.spawn(|| (watch.short(), Instant::now()));
        thread::sleep(Duration::from_millis(300));
        let thawed = Instant::now();
        server.thaw();
        let ((code, answered), (event, told)) = (answer.join().unwrap(), event.join().unwrap());
        assert_eq!((code, event.as_str()), (200, "ADDED web 2"));
        answered > thawed && told > thawed
    });
    assert!(thawed);
}

/// Killed, and back on the same port with the same objects.
#[test]
fn down_and_up() {
    let server = server();
    server.apply(pod("web", json!({}))).unwrap();
    let mut watch = get(&server, "/api/v1/pods?watch=1&resourceVersion=2");
    server.down().unwrap();
    assert!(watch.chunk().is_err());
    assert!(TcpStream::connect(server.address()).is_err());
    assert_eq!(server.watches(Kind::Pod), 0);
    server.apply(pod("db", json!({}))).unwrap();
    server.up().unwrap();
    let mut watch = get(&server, "/api/v1/pods?watch=1&resourceVersion=2");
    assert_eq!(watch.short(), "ADDED db 3");
}

#[test]
fn tokens_and_rules() {
    let server = server();
    let role = "{kind: ClusterRole, rules: [{apiGroups: [''], resources: [pods], verbs: [list]}]}";
    let holder = Holder::with_rules("weir", rules_of(role).unwrap());
    server.add_token("first", holder.clone());
    let ask = |path: &str, token: &str| {
        let authorization = format!("Bearer {token}");
        send(server.address(), "GET", path, &[("Authorization", &authorization)], "").unwrap()
    };
    assert_eq!(get(&server, "/api/v1/pods").code, 401);
    assert_eq!(ask("/api/v1/pods", "first").code, 200);
    assert_eq!(ask("/apis", "first").code, 200);
    assert_eq!(server.take_complaints(), Vec::<String>::new());
    for path in ["/api/v1/pods?watch=1", "/api/v1/nodes", "/api/v1/namespaces/shop/pods/web"] {
        let answer = ask(path, "first");
        assert_eq!((answer.code, answer.json()["reason"].clone()), (403, json!("Forbidden")));
        assert_eq!(server.take_complaints().len(), 1);
    }
    server.add_token("second", holder.expiring_in(Duration::from_secs(3600)));
    server.remove_token("first");
    assert_eq!((ask("/api/v1/pods", "first").code, ask("/api/v1/pods", "second").code), (401, 200));
    assert_eq!(server.requests().last().unwrap().user, "weir");
}
