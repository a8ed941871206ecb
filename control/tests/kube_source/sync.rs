//! What the API says is enforced as it says it.

use std::time::Duration;

use serde_json::json;
use weir_apiserver::{Action, Cut, Fault, Key, Kind};

use crate::support::{ALLOW, DENY, MORE};
use crate::{CLIENT, Cluster, OTHER, WEB};

#[test]
fn objects_come_change_and_go() {
    let mut cluster = Cluster::followed();
    cluster.apply(DENY);
    cluster.until(CLIENT, WEB, false);
    cluster.apply(ALLOW);
    cluster.until(CLIENT, WEB, true);
    assert!(!cluster.allows(OTHER, WEB));
    // Pods come, change and go in place, without a new table.
    cluster.apply(MORE);
    cluster.until_in_place(OTHER, WEB, true);
    cluster.apply(&MORE.replace("app: client", "app: web"));
    cluster.until_in_place(OTHER, WEB, false);
    cluster.apply(MORE);
    cluster.until_in_place(OTHER, WEB, true);
    cluster.delete(Kind::Pod, "shop/more");
    cluster.until_in_place(OTHER, WEB, false);
    cluster.delete(Kind::NetworkPolicy, "shop/allow");
    cluster.until(CLIENT, WEB, false);
    cluster.delete(Kind::NetworkPolicy, "shop/deny");
    cluster.until(CLIENT, WEB, true);
    // All of that from one list and one watch of each kind.
    assert_eq!(cluster.lists(), [1; 6]);
    for kind in crate::KINDS {
        assert_eq!(cluster.server.asked("watch", kind), 1, "{kind:?}");
    }
    cluster.stop();
}

#[test]
fn nothing_is_published_before_every_list_is_complete() {
    let mut cluster = Cluster::unfollowed();
    cluster.apply(DENY);
    let refuse = Action::Refuse { code: 503, retry_after: None };
    cluster.server.fault(Fault::always(refuse).on_kind(Kind::NetworkPolicy));
    cluster.follow(&[]);
    for kind in [Kind::Pod, Kind::Namespace] {
        cluster.until_asked("watch", kind, 1);
    }
    cluster.until_asked("list", Kind::NetworkPolicy, 2);
    cluster.control().expect("no full list of networkpolicies since this process began");
    assert_eq!(cluster.dataplane.poll(Duration::from_millis(100)), None);
    cluster.server.clear_faults();
    // The first table is the whole one.
    cluster.dataplane.next_within(crate::PATIENCE);
    assert!(!cluster.allows(CLIENT, WEB));
    cluster.control().expect("settled: kube: there has been no full list");
    cluster.stop();
}

/// Half a list is no list, even if all that decides is in its first half.
#[test]
fn a_list_that_breaks_off_is_gone_on_with() {
    let mut cluster = Cluster::unfollowed();
    for i in 0..600 {
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: shop, name: p{i}}}\n\
             status: {{podIP: 10.1.{}.{}}}\n",
            i / 250,
            i % 250 + 1
        ));
    }
    cluster.apply(ALLOW);
    let refuse = Fault::once(Action::Refuse { code: 500, retry_after: None });
    cluster.server.fault(refuse.on_verb("list").on_kind(Kind::Pod).after(1));
    let cut = Fault::once(Action::Truncate);
    cluster.server.fault(cut.on_verb("list").on_kind(Kind::Pod).after(1));
    cluster.follow(&[]);
    cluster.dataplane.next_within(crate::PATIENCE);
    assert!(cluster.allows(CLIENT, WEB) && !cluster.allows("10.1.2.100", WEB));
    cluster.control().expect("pods=602");
    // Three pages; the second was asked for again, and not the first.
    let requests = cluster.server.requests();
    let of_pods = requests.iter().filter(|r| r.verb == "list" && r.resource == "pods");
    let queries: Vec<&str> = of_pods.map(|r| r.query.as_str()).collect();
    assert!(queries.iter().all(|query| query.contains("limit=250")), "{queries:?}");
    assert_eq!(cluster.lists(), [1; 6]);
    assert_eq!(queries.len(), 5, "{queries:?}");
    cluster.stop();
}

/// Bookmarks say how far a kind has come that is quiet itself, so a new watch need not begin where
/// the last change of the kind was, which may be compacted away.
#[test]
fn a_watch_begins_where_the_last_bookmark_was() {
    let mut cluster = Cluster::followed();
    let version = cluster.apply(MORE);
    cluster.apply(DENY);
    cluster.until(CLIENT, WEB, false);
    assert_eq!(cluster.server.bookmark(Kind::Namespace), 1);
    cluster.server.compact();
    cluster.server.cut(Kind::Namespace, Cut::End);
    cluster.until_asked("watch", Kind::Namespace, 2);
    let requests = cluster.server.requests();
    let mut watches = requests.iter().filter(|r| r.verb == "watch" && r.resource == "namespaces");
    let query = &watches.nth(1).unwrap().query;
    let from = query.split('&').find_map(|part| part.strip_prefix("resourceVersion=")).unwrap();
    assert!(from.parse::<u64>().unwrap() > version, "{query}");
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: other}\n");
    cluster.control().expect("namespaces=2");
    assert_eq!(cluster.lists(), [1; 6]);
    cluster.stop();
}

#[test]
fn a_pod_of_the_same_name_is_another_pod() {
    let mut cluster = Cluster::followed();
    cluster.apply(ALLOW);
    cluster.until(CLIENT, WEB, true);
    cluster.until(OTHER, WEB, false);
    let pod = |uid: u32, app: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\n\
             metadata: {{namespace: shop, name: client, uid: 00000000-0000-4000-8000-00000000000{uid}, labels: {{app: {app}}}}}\n\
             status: {{podIP: {CLIENT}}}\n"
        )
    };
    cluster.apply(&pod(1, "other"));
    cluster.until(CLIENT, WEB, false);
    cluster.apply(&pod(2, "client"));
    cluster.until(CLIENT, WEB, true);
    cluster.stop();
}

#[test]
fn what_cannot_be_honoured_costs_itself_alone() {
    let mut cluster = Cluster::followed();
    cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {namespace: shop, name: odd}\nspec: {containers: 7}\nstatus: {podIP: 10.0.0.9}\n",
    );
    cluster.control().expect("refused: kube: Pod shop/odd: spec.containers: is a number");
    cluster.until("10.0.0.9", WEB, false);
    assert!(cluster.allows(CLIENT, WEB));
    // A field that is not known may restrict: the policy isolates, and allows nothing.
    cluster.apply(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {namespace: shop, name: new}\nspec: {podSelector: {matchLabels: {app: web}}, ingress: [{}], tier: 1}\n",
    );
    cluster.until(CLIENT, WEB, false);
    cluster.control().expect("NetworkPolicy shop/new: spec.tier: unknown field");
    assert!(cluster.allows(WEB, CLIENT));
    // Whoever wrote them finds it there, said once.
    let events = || cluster.server.list(Kind::Event);
    assert!(cluster.server.wait(crate::PATIENCE, || events().len() >= 2), "{:?}", events());
    let events = events();
    assert_eq!(events.len(), 2, "{events:?}");
    let of = |kind: &str| events.iter().find(|event| event["regarding"]["kind"] == kind).unwrap();
    let (pod, policy) = (of("Pod"), of("NetworkPolicy"));
    assert_eq!((&pod["reason"], &policy["reason"]), (&json!("Isolated"), &json!("PolicyRefused")));
    let written = cluster.server.get(Kind::NetworkPolicy, &Key::new("shop", "new")).unwrap();
    for key in ["uid", "name", "namespace"] {
        assert_eq!(policy["regarding"][key], written["metadata"][key], "{policy}");
    }
    assert!(policy["note"].as_str().unwrap().starts_with("spec.tier: unknown field"), "{policy}");
    cluster.delete(Kind::NetworkPolicy, "shop/new");
    cluster.delete(Kind::Pod, "shop/odd");
    cluster.until(CLIENT, WEB, true);
    cluster.control().expect("settled: kube: NetworkPolicy shop/new");
    cluster.control().expect("settled: kube: Pod shop/odd");
    // Nothing of it was a reason to list anything again.
    assert_eq!(cluster.lists(), [1; 6]);
    cluster.stop();
}

/// Nodes decide nothing, so a role without them costs the table nothing.
#[test]
fn a_kind_that_decides_nothing_keeps_nothing_back() {
    let mut cluster = Cluster::unfollowed();
    cluster.apply(DENY);
    let refuse = Action::Refuse { code: 500, retry_after: None };
    cluster.server.fault(Fault::always(refuse).on_kind(Kind::Node));
    cluster.follow(&[]);
    cluster.until(CLIENT, WEB, false);
    // It is asked for again after 0.8 s, 1.6 s, 3.2 s, each half of it at least.
    cluster.until_asked("list", Kind::Node, 4);
    let requests = cluster.server.requests();
    let asked = requests.iter().filter(|r| r.resource == "nodes").map(|r| r.at_ns);
    let at: Vec<u64> = asked.collect();
    for (pair, least) in at.windows(2).zip([400, 800, 1600]) {
        let pause = Duration::from_nanos(pair[1] - pair[0]);
        assert!(pause >= Duration::from_millis(least), "{pause:?} of {least} ms");
    }
    let source = cluster.until_source(|source| source.state == "stale");
    assert_eq!(source.missing, ["nodes"]);
    assert!(source.words.starts_with("nodes: HTTP 500"), "{source:?}");
    cluster.stop();
}
