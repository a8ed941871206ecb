//! Lists, as a plain client sees them.

use serde_json::{Value, json};
use weir_apiserver::{ApiServer, Key, Kind};

use crate::support::{get, names, pod, send, server};

fn five() -> ApiServer {
    let server = server();
    for name in ["a", "b", "c", "d", "e"] {
        server.apply(pod(name, json!({"name": name}))).unwrap();
    }
    server
}

fn token(page: &Value) -> &str {
    page["metadata"]["continue"].as_str().unwrap()
}

#[test]
fn a_list_is_as_the_api_server_writes_it() {
    let server = five();
    let answer = get(&server, "/api/v1/pods");
    assert_eq!((answer.code, answer.header("content-type")), (200, Some("application/json")));
    let list = answer.json();
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("PodList"), &json!("v1")));
    assert_eq!(list["metadata"], json!({"resourceVersion": "6"}));
    assert_eq!(names(&list), ["a", "b", "c", "d", "e"]);
    // Items of built-in kinds do not say what they are, an object alone does.
    assert_eq!(list["items"][0].get("kind"), None);
    assert_eq!(list["items"][0]["metadata"]["resourceVersion"], "2");
    let one = get(&server, "/api/v1/namespaces/shop/pods/c").json();
    assert_eq!((&one["kind"], &one["metadata"]["name"]), (&json!("Pod"), &json!("c")));
    let none = get(&server, "/api/v1/namespaces/other/pods").json();
    assert_eq!(none["items"], json!([]));
    let nodes = get(&server, "/api/v1/nodes").json();
    assert_eq!((&nodes["kind"], nodes["items"].as_array().unwrap().len()), (&json!("NodeList"), 0));
}

#[test]
fn items_of_custom_kinds_say_what_they_are() {
    let server = server();
    let policy = json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "deny"}, "spec": {"tier": "Admin", "priority": 1},
    });
    server.apply(policy).unwrap();
    let list =
        get(&server, "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies").json();
    assert_eq!(list["items"][0]["kind"], "ClusterNetworkPolicy");
}

/// All pages are of the version of the first, whatever happens meanwhile.
#[test]
fn pages_are_of_one_version() {
    let server = five();
    let first = get(&server, "/api/v1/pods?limit=2").json();
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    server.delete(Kind::Pod, &Key::new("shop", "c")).unwrap();
    server.apply(pod("bb", json!({}))).unwrap();
    let second = get(&server, &format!("/api/v1/pods?limit=2&continue={}", token(&first))).json();
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let third = get(&server, &format!("/api/v1/pods?limit=2&continue={}", token(&second))).json();
    assert_eq!((names(&third), third["metadata"].get("continue")), (vec!["e"], None));
    assert_eq!(names(&get(&server, "/api/v1/pods").json()), ["a", "b", "bb", "d", "e"]);
}

/// The token of the refusal goes on with what is there now.
#[test]
fn a_compacted_page_is_gone() {
    let server = five();
    let first = get(&server, "/api/v1/pods?limit=2").json();
    server.delete(Kind::Pod, &Key::new("shop", "c")).unwrap();
    server.compact();
    let answer = get(&server, &format!("/api/v1/pods?limit=2&continue={}", token(&first)));
    assert_eq!(answer.code, 410);
    let status = answer.json();
    assert_eq!((&status["reason"], &status["code"]), (&json!("Expired"), &json!(410)));
    let rest = get(&server, &format!("/api/v1/pods?continue={}", token(&status))).json();
    assert_eq!(names(&rest), ["d", "e"]);
}

#[test]
fn versions_that_can_be_asked_for() {
    let server = five();
    let list = |query: &str| get(&server, &format!("/api/v1/pods?{query}"));
    // From the cache there are no pages.
    assert_eq!(names(&list("resourceVersion=0&limit=2").json()).len(), 5);
    assert_eq!(names(&list("resourceVersion=3&resourceVersionMatch=Exact").json()), ["a", "b"]);
    assert_eq!(names(&list("resourceVersion=3&resourceVersionMatch=NotOlderThan").json()).len(), 5);
    let ahead = list("resourceVersion=99&resourceVersionMatch=NotOlderThan");
    assert_eq!((ahead.code, ahead.header("retry-after")), (504, Some("1")));
    let status = ahead.json();
    assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    server.compact();
    assert_eq!(list("resourceVersion=3&resourceVersionMatch=Exact").code, 410);
    server.apply(pod("f", json!({}))).unwrap();
    assert_eq!(list("").code, 200);
}

#[test]
fn selectors() {
    let server = five();
    let list = |query: &str| get(&server, &format!("/api/v1/pods?{query}")).json();
    assert_eq!(names(&list("labelSelector=name%20in%20%28a%2Cd%29")), ["a", "d"]);
    assert_eq!(names(&list("fieldSelector=metadata.name%3Db")), ["b"]);
    assert_eq!(names(&list("fieldSelector=spec.nodeName=a,status.podIP!=10.0.0.1")).len(), 0);
    let page = list("labelSelector=name!%3Da&limit=1");
    assert_eq!((names(&page), page["metadata"].get("remainingItemCount")), (vec!["b"], None));
    assert_eq!(list("fieldSelector=spec.color%3Dred")["code"], 400);
    assert_eq!(server.take_complaints().len(), 1);
}

/// Whatever a client does that no correct one does is answered, and told to the test.
#[test]
fn strict() {
    let server = five();
    for (method, path, headers, code) in [
        ("GET", "/api/v1/pods?limits=5", [("Accept", "*/*")], 400),
        ("GET", "/api/v1/pods?limit=-5", [("Accept", "*/*")], 400),
        ("GET", "/api/v1/pods?watch=maybe", [("Accept", "*/*")], 400),
        ("GET", "/api/v1/pods?allowWatchBookmarks=true", [("Accept", "*/*")], 400),
        ("GET", "/api/v1/pods?watch=true&sendInitialEvents=true", [("Accept", "*/*")], 422),
        ("GET", "/api/v1/pods", [("Accept", "application/vnd.kubernetes.protobuf")], 406),
        ("GET", "/api/v1/pods", [("Accept", "application/json;as=Table;v=v1")], 406),
        ("DELETE", "/api/v1/pods", [("Accept", "*/*")], 405),
        ("POST", "/api/v1/namespaces/shop/pods", [("Content-Type", "text/plain")], 415),
        ("POST", "/api/v1/namespaces/shop/pods", [("Content-Type", "application/json")], 400),
        ("POST", "/version", [("Accept", "*/*")], 405),
    ] {
        let answer = send(server.address(), method, path, &headers, "x").unwrap();
        assert_eq!(answer.code, code, "{method} {path} {headers:?}");
        let status = answer.json();
        assert_eq!((&status["kind"], &status["code"]), (&json!("Status"), &json!(code)));
        let complaints = server.take_complaints();
        assert_eq!(complaints.len(), 1, "{method} {path}: {complaints:?}");
    }
    // Not their mistake: what is not there.
    for path in ["/api/v1/secrets", "/api/v1/namespaces/shop/pods/nobody", "/metrics"] {
        assert_eq!(get(&server, path).code, 404);
    }
    // As kubectl asks: a table, or else JSON.
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let answer = send(server.address(), "GET", "/api/v1/pods", &[("Accept", accept)], "").unwrap();
    assert_eq!(answer.code, 200);
}

#[test]
#[should_panic(expected = "unknown query parameter \"limits\"")]
fn a_complaint_that_no_test_takes_fails_it() {
    let server = server();
    get(&server, "/api/v1/pods?limits=5");
}

/// Long lists come in pieces and are whole.
#[test]
fn long_lists() {
    let server = server();
    let world = weir_apiserver::World { pods: 2000, ..weir_apiserver::World::default() };
    world.load(&server).unwrap();
    let (body, chunks) = get(&server, "/api/v1/pods?resourceVersion=0").body();
    let list: Value = serde_json::from_str(&body.unwrap()).unwrap();
    assert!(chunks > 50, "{chunks}");
    assert_eq!(names(&list).len(), 2000);
    let mut query = "limit=300".to_owned();
    let (mut seen, mut pages) = (Vec::new(), 0);
    loop {
        let page = get(&server, &format!("/api/v1/pods?{query}")).json();
        seen.extend(names(&page).iter().map(|name| (*name).to_owned()));
        pages += 1;
        let Some(token) = page["metadata"]["continue"].as_str() else { break };
        query = format!("limit=300&continue={token}");
    }
    assert_eq!((seen, pages), (names(&list).iter().map(ToString::to_string).collect(), 7));
    assert_eq!(server.asked("list", Kind::Pod), 8);
}

#[test]
fn discovery_names_the_groups() {
    let server = server();
    server.add_group("cilium.io", "v2");
    let apis = get(&server, "/apis").json();
    let groups = apis["groups"].as_array().unwrap();
    assert!(groups.iter().any(|group| group["name"] == "cilium.io"));
    assert_eq!(get(&server, "/version").json()["major"], "1");
    assert_eq!(get(&server, "/readyz").body().0.unwrap(), "ok");
}
