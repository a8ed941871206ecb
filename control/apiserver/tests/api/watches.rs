//! Watches, as a plain client sees them, and how tests disturb them.

use std::time::Duration;

use serde_json::json;
use weir_apiserver::{
    Action, ApiServer, Cut, Fault, Key, Kind, Manners, Release, Settings, monotonic_ns,
};

use crate::support::{Answer, PATIENCE, get, names, pod, server};

fn watch(server: &ApiServer, query: &str) -> Answer {
    let answer = get(server, &format!("/api/v1/pods?watch=true&{query}"));
    assert_eq!((answer.code, answer.header("content-type")), (200, Some("application/json")));
    answer
}

fn web() -> Key {
    Key::new("shop", "web")
}

#[test]
fn changes_come_as_they_are_made() {
    let server = server();
    server.apply(pod("old", json!({}))).unwrap();
    let mut from_now = watch(&server, "resourceVersion=2");
    let mut from_nothing = watch(&server, "");
    assert_eq!(from_nothing.short(), "ADDED old 2");
    server.apply(pod("web", json!({}))).unwrap();
    server.patch(Kind::Pod, &web(), &json!({"metadata": {"labels": {"a": "b"}}})).unwrap();
    server.apply(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}})).unwrap();
    server.delete(Kind::Pod, &web()).unwrap();
    for watch in [&mut from_now, &mut from_nothing] {
        assert_eq!(watch.short(), "ADDED web 3");
        let modified = watch.event();
        assert_eq!(
            (&modified["type"], &modified["object"]["kind"]),
            (&json!("MODIFIED"), &json!("Pod"))
        );
        assert_eq!(modified["object"]["metadata"]["labels"], json!({"a": "b"}));
        // An object that is gone has the version of its removal.
        assert_eq!(watch.short(), "DELETED web 6");
    }
    // From before, the history comes first.
    let mut from_past = watch(&server, "resourceVersion=3");
    assert_eq!(
        (from_past.short(), from_past.short()),
        ("MODIFIED web 4".into(), "DELETED web 6".into())
    );
    assert_eq!(server.watches(Kind::Pod), 3);
    drop((from_now, from_nothing, from_past));
    assert!(server.wait_for_watches(Kind::Pod, 0, PATIENCE));
}

#[test]
fn another_uid_is_another_object() {
    let server = server();
    let mut watch = watch(&server, "resourceVersion=1");
    server.apply(pod("web", json!({}))).unwrap();
    let mut other = pod("web", json!({}));
    other["metadata"]["uid"] = "0000".into();
    server.apply(other).unwrap();
    assert_eq!(watch.short(), "ADDED web 2");
    assert_eq!(watch.short(), "DELETED web 3");
    assert_eq!(watch.event()["object"]["metadata"]["uid"], "0000");
}

#[test]
fn namespaces_and_selectors() {
    let server = server();
    let path = "/api/v1/namespaces/shop/pods?watch=1&resourceVersion=1&labelSelector=app%3Dweb";
    let mut watch = get(&server, path);
    let mut elsewhere = pod("web", json!({"app": "web"}));
    elsewhere["metadata"]["namespace"] = "other".into();
    server.apply(elsewhere).unwrap();
    server.apply(pod("web", json!({"app": "db"}))).unwrap();
    server.apply(pod("web", json!({"app": "web"}))).unwrap();
    server.apply(pod("web", json!({"app": "db"}))).unwrap();
    assert_eq!(watch.short(), "ADDED web 4");
    let deleted = watch.event();
    assert_eq!(
        (&deleted["type"], &deleted["object"]["metadata"]["resourceVersion"]),
        (&json!("DELETED"), &json!("5"))
    );
    assert_eq!(deleted["object"]["metadata"]["labels"]["app"], "web");
}

/// A watch ends after the time that the client names, with a bookmark if it can read them.
#[test]
fn timeouts_and_bookmarks() {
    let server = server();
    server.behave(|manners| manners.bookmark_interval = Duration::from_millis(200));
    let mut quiet = watch(&server, "resourceVersion=1&timeoutSeconds=1");
    let mut marked = watch(&server, "resourceVersion=1&timeoutSeconds=1&allowWatchBookmarks=true");
    let version =
        server.apply(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}}));
    let mut last = marked.event();
    let mut bookmarks = 1;
    while let Some(line) = marked.chunk().unwrap() {
        last = serde_json::from_str(&line).unwrap();
        bookmarks += 1;
    }
    assert!(bookmarks >= 2, "{bookmarks}");
    assert_eq!((&last["type"], &last["object"]["kind"]), (&json!("BOOKMARK"), &json!("Pod")));
    assert_eq!(last["object"]["metadata"]["resourceVersion"], version.unwrap().to_string());
    assert_eq!(quiet.chunk(), Ok(None));
    let mut asked = watch(&server, "resourceVersion=1&allowWatchBookmarks=true");
    server.behave(|manners| manners.bookmark_interval = Duration::from_secs(3600));
    assert!(server.bookmark(Kind::Pod) >= 1);
    assert_eq!(asked.short(), "BOOKMARK - 2");
}

#[test]
fn compacted_and_future_versions() {
    let server = server();
    for app in ["a", "b", "c"] {
        server.apply(pod("web", json!({"app": app}))).unwrap();
    }
    let mut open = watch(&server, "resourceVersion=2");
    server.compact();
    // Who has begun goes on.
    assert_eq!((open.short(), open.short()), ("MODIFIED web 3".into(), "MODIFIED web 4".into()));
    let gone = watch(&server, "resourceVersion=3");
    let event = gone.json();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(event["object"]["reason"], "Expired");
    let _ = watch(&server, "resourceVersion=4");
    server.behave(|manners| manners.gone_as_status = true);
    let answer = get(&server, "/api/v1/pods?watch=true&resourceVersion=3");
    assert_eq!((answer.code, answer.json()["reason"].clone()), (410, json!("Expired")));
    assert_eq!(get(&server, "/api/v1/pods?watch=true&resourceVersion=5").code, 504);
}

#[test]
fn cuts() {
    let server = server();
    server.apply(pod("web", json!({}))).unwrap();
    let cut = |how: Cut| {
        let mut watch = watch(&server, "resourceVersion=1");
        assert_eq!(watch.short(), "ADDED web 2");
        assert_eq!(server.cut(Kind::Pod, how), 1);
        let rest = watch.chunk();
        // Behind the proper end nothing comes: the connection stays for other requests.
        let end = if matches!(rest, Ok(Some(_))) { watch.chunk() } else { rest.clone() };
        assert!(server.wait_for_watches(Kind::Pod, 0, PATIENCE));
        (rest, end)
    };
    assert_eq!(cut(Cut::End).0, Ok(None));
    assert!(cut(Cut::Broken).0.is_err());
    let (rest, end) = cut(Cut::MidLine);
    let half = rest.unwrap().unwrap();
    assert!(half.starts_with("{\"type\":\"") && !half.ends_with('\n'), "{half}");
    assert!(end.is_err());
    let (rest, end) = cut(Cut::Expired);
    assert!(rest.unwrap().unwrap().contains("\"code\":410"));
    assert_eq!(end, Ok(None));
}

/// A line that is cut is that of the change that comes next.
#[test]
fn cut_within_a_change() {
    let server = server();
    let mut watch = watch(&server, "resourceVersion=1");
    server.hold(Kind::Pod);
    server.apply(pod("web", json!({}))).unwrap();
    server.freeze();
    server.release(Kind::Pod, Release::InOrder);
    server.cut(Kind::Pod, Cut::MidLine);
    server.thaw();
    let half = watch.chunk().unwrap().unwrap();
    assert!(half.starts_with("{\"type\":\"ADDED\"") && !half.ends_with('\n'), "{half}");
    assert!(watch.chunk().is_err());
}

#[test]
fn disorder() {
    let server = server();
    let mut watch = watch(&server, "resourceVersion=1");
    server.hold(Kind::Pod);
    for app in ["a", "b"] {
        server.apply(pod("web", json!({"app": app}))).unwrap();
    }
    server.release(Kind::Pod, Release::Reversed);
    assert_eq!((watch.short(), watch.short()), ("MODIFIED web 3".into(), "ADDED web 2".into()));
    server.repeat(Kind::Pod, 1);
    assert_eq!(watch.short(), "MODIFIED web 3");
    server.say(Kind::Pod, "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":7}}}");
    assert_eq!(watch.event()["object"]["metadata"]["name"], 7);
    server.hold(Kind::Pod);
    server.delete(Kind::Pod, &web()).unwrap();
    server.release(Kind::Pod, Release::Dropped);
    server.apply(pod("db", json!({}))).unwrap();
    assert_eq!(watch.short(), "ADDED db 5");
}

/// Pieces end anywhere, as TCP may have it.
#[test]
fn slow_bytes() {
    let server = server();
    server.fault(Fault::once(Action::Slow { bytes: 7, ms: 0 }).on_verb("watch"));
    let mut watch = watch(&server, "resourceVersion=1");
    server.apply(pod("web", json!({}))).unwrap();
    let mut text = String::new();
    while !text.ends_with('\n') {
        let chunk = watch.chunk().unwrap().unwrap();
        assert!(chunk.len() <= 7);
        text.push_str(&chunk);
    }
    let event: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(event["object"]["metadata"]["name"], "web");
}

/// A backup from before knows nothing of what the clients know.
#[test]
fn restored() {
    let server = server();
    let before = server.apply(pod("web", json!({}))).unwrap();
    server.delete(Kind::Pod, &web()).unwrap();
    server.apply(pod("db", json!({}))).unwrap();
    let mut open = watch(&server, "resourceVersion=4");
    server.restore(before).unwrap();
    assert!(open.chunk().is_err());
    assert_eq!(get(&server, "/api/v1/pods?watch=true&resourceVersion=4").code, 504);
    let list = get(&server, "/api/v1/pods").json();
    assert_eq!((names(&list), &list["metadata"]["resourceVersion"]), (vec!["web"], &json!("2")));
}

/// When an event was handed to a connection can be compared with receipts.
#[test]
fn times_of_events() {
    let server = server();
    let mut watch = watch(&server, "resourceVersion=1");
    let before = monotonic_ns();
    let version = server.apply(pod("web", json!({}))).unwrap();
    watch.event();
    let sent = server.sent_at(version).unwrap();
    assert!((before..=monotonic_ns()).contains(&sent));
    assert_eq!(server.sent_at(version + 1), None);
}

/// History that is bounded is compacted by itself.
#[test]
fn bounded_history() {
    let manners = Manners { history: 10, needs_namespaces: false, ..Manners::default() };
    let server = ApiServer::start(Settings { manners, ..Settings::default() }).unwrap();
    for number in 0..20 {
        server.apply(pod("web", json!({"n": number.to_string()}))).unwrap();
    }
    let oldest = server.version() - 10;
    let mut whole = watch(&server, &format!("resourceVersion={oldest}"));
    assert_eq!(whole.short(), format!("MODIFIED web {}", oldest + 1));
    let gone = watch(&server, &format!("resourceVersion={}", oldest - 1));
    assert_eq!(gone.json()["object"]["code"], 410);
}
