//! Writes over HTTP, as a kubelet and an Event recorder make them.

use serde_json::{Value, json};
use weir_apiserver::{ApiServer, Kind, Settings};

use crate::support::{get, pod, write};

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const PODS: &str = "/api/v1/namespaces/shop/pods";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/shop/events";

fn server() -> ApiServer {
    let server = ApiServer::start(Settings::default()).unwrap();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    assert_eq!(write(&server, "POST", "/api/v1/namespaces", JSON, &namespace).0, 201);
    server
}

/// A Pod's life as the API server sees it.
#[test]
fn life_of_a_pod() {
    let server = server();
    let mut watch = get(&server, "/api/v1/pods?watch=1&resourceVersion=2");
    let (code, made) = write(&server, "POST", PODS, JSON, &pod("web", json!({})));
    assert_eq!((code, &made["status"]), (201, &json!({"phase": "Pending"})));
    assert!(
        made["metadata"]["uid"].is_string() && made["metadata"]["creationTimestamp"].is_string()
    );
    let web = format!("{PODS}/web");
    let running = json!({"status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}});
    let (code, patched) = write(&server, "PATCH", &format!("{web}/status"), MERGE, &running);
    assert_eq!((code, &patched["status"]["podIP"]), (200, &json!("10.0.0.1")));
    // The object's own path leaves the status alone.
    let (_, same) = write(&server, "PATCH", &web, MERGE, &json!({"status": {"phase": "Failed"}}));
    assert_eq!(same["metadata"]["resourceVersion"], patched["metadata"]["resourceVersion"]);
    let (code, marked) = write(&server, "DELETE", &web, JSON, &json!({}));
    assert_eq!((code, &marked["metadata"]["deletionGracePeriodSeconds"]), (200, &json!(30)));
    let uid = &marked["metadata"]["uid"];
    let options = |uid: &Value| json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
    assert_eq!(write(&server, "DELETE", &web, JSON, &options(&json!("x"))).0, 409);
    assert_eq!(write(&server, "DELETE", &web, JSON, &options(uid)).0, 200);
    assert_eq!(write(&server, "DELETE", &web, JSON, &options(uid)).0, 404);
    let kinds: Vec<String> = (0..4).map(|_| watch.short()).collect();
    assert_eq!(kinds, ["ADDED web 3", "MODIFIED web 4", "MODIFIED web 5", "DELETED web 6"]);
}

#[test]
fn what_writes_are_refused() {
    let server = server();
    let with = |field: &str, value: Value| {
        let mut pod = pod("web", json!({}));
        *pod.pointer_mut(field).unwrap() = value;
        pod
    };
    let plain = pod("web", json!({}));
    let nowhere = "/api/v1/namespaces/nowhere/pods";
    for (method, path, content_type, body, code) in [
        ("POST", PODS, JSON, with("/apiVersion", json!("v2")), 400),
        ("POST", PODS, JSON, with("/metadata/namespace", json!("other")), 400),
        ("POST", PODS, JSON, with("/metadata/name", json!("Web")), 422),
        ("POST", PODS, JSON, json!([1]), 400),
        ("POST", PODS, "application/yaml", plain.clone(), 415),
        ("POST", nowhere, JSON, with("/metadata/namespace", json!("nowhere")), 404),
        ("POST", "/api/v1/pods", JSON, plain.clone(), 405),
        ("PUT", "/api/v1/namespaces/shop/pods/web", JSON, plain.clone(), 404),
        ("PUT", "/api/v1/namespaces/shop/pods/db", JSON, plain.clone(), 400),
        ("PATCH", "/api/v1/namespaces/shop/pods/web", "application/apply-patch+yaml", plain, 415),
    ] {
        let (is, status) = write(&server, method, path, content_type, &body);
        assert_eq!(
            (is, &status["kind"]),
            (code, &json!("Status")),
            "{method} {path} {body}: {status}"
        );
    }
    assert_eq!(server.count(Kind::Pod), 0);
    // All but the two of 404.
    assert_eq!(server.take_complaints().len(), 8);
}

#[test]
fn dry_runs_and_conflicts() {
    let server = server();
    let dry = format!("{PODS}?dryRun=All&fieldManager=test");
    assert_eq!(write(&server, "POST", &dry, JSON, &pod("web", json!({}))).0, 201);
    assert_eq!(server.count(Kind::Pod), 0);
    let (_, made) = write(&server, "POST", PODS, JSON, &pod("web", json!({})));
    let (code, status) = write(&server, "POST", PODS, JSON, &pod("web", json!({})));
    assert_eq!((code, &status["reason"]), (409, &json!("AlreadyExists")));
    assert_eq!(status["message"], "pods \"web\" already exists");
    let web = format!("{PODS}/web");
    let mut newer = made.clone();
    newer["metadata"]["labels"] = json!({"a": "b"});
    assert_eq!(write(&server, "PUT", &web, JSON, &newer).0, 200);
    let (code, status) = write(&server, "PUT", &web, JSON, &newer);
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")));
}

#[test]
fn events() {
    let server = server();
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": "policy.1", "namespace": "shop"},
        "eventTime": "2024-05-06T07:08:09.123456Z", "type": "Warning", "reason": "RuleNotHonoured",
        "action": "Enforce", "note": "said", "reportingController": "weir.example/control",
        "reportingInstance": "node-a",
        "regarding": {"kind": "NetworkPolicy", "namespace": "shop", "name": "web"},
    });
    assert_eq!(write(&server, "POST", EVENTS, JSON, &event).0, 201);
    assert_eq!(write(&server, "POST", EVENTS, JSON, &event).0, 409);
    let mut generated = event.clone();
    generated["metadata"] = json!({"generateName": "policy."});
    let (code, made) = write(&server, "POST", EVENTS, JSON, &generated);
    assert!(code == 201 && made["metadata"]["name"].as_str().unwrap().starts_with("policy."));
    let mut bad = event.clone();
    bad["metadata"]["name"] = "policy.2".into();
    bad["note"] = "x".repeat(2000).into();
    bad["action"] = Value::Null;
    let (code, status) = write(&server, "POST", EVENTS, JSON, &bad);
    assert_eq!(code, 422);
    assert_eq!(
        status["message"],
        "Event.events.k8s.io \"policy.2\" is invalid: [action: Required value, message: Invalid \
         value: \"\": can have at most 1024 characters]"
    );
    assert_eq!(status["details"]["causes"][0]["field"], "action");
    let series = json!({"series": {"count": 2, "lastObservedTime": "2024-05-06T07:09:09.000000Z"}});
    let one = format!("{EVENTS}/policy.1");
    assert_eq!(write(&server, "PATCH", &one, MERGE, &series).0, 200);
    assert_eq!(write(&server, "PATCH", &one, MERGE, &json!({"note": "other"})).0, 422);
    assert_eq!(server.count(Kind::Event), 2);
    assert_eq!(server.take_complaints().len(), 2);
}
