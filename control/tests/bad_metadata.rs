//! Names, namespaces and pods that cannot be read: each object still isolates, for itself, as far as
//! anybody can say whom.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

use weir_control::index::{Index, Owner};
use weir_control::model::{Effect, Object, ObjectId, load};
use weir_control::source::dir::unique;

/// A pod that cannot be read is isolated if its address can be.
#[test]
fn a_refused_pod_is_isolated() {
    for (name, pod, isolated) in [
        ("label", "metadata: {name: p, labels: {a: 1}}\nstatus: {podIP: 10.0.0.1}", true),
        (
            "port",
            "metadata: {name: p}\nspec: {containers: [{ports: [{containerPort: 99999}]}]}\nstatus: {podIP: 10.0.0.1}",
            true,
        ),
        (
            "second address",
            "metadata: {name: p}\nstatus: {podIP: 10.0.0.1, podIPs: [{ip: x}]}",
            true,
        ),
        ("address", "metadata: {name: p}\nstatus: {podIP: 10.0.0.256}", false),
        ("multicast", "metadata: {name: p}\nstatus: {podIP: 224.0.0.1}", false),
    ] {
        let text = format!("apiVersion: v1\nkind: Pod\n{pod}\n");
        let loaded = load("p.yaml", text.as_bytes()).unwrap();
        assert_eq!(loaded.complaints.len(), 1, "{name}: {:?}", loaded.complaints);
        let index = Index::of(loaded.objects);
        let owners: Vec<bool> =
            index.endpoints().values().map(|owner| matches!(owner, Owner::Isolated(_))).collect();
        assert_eq!(owners, vec![true; usize::from(isolated)], "{name}");
    }
}

/// Ports of sidecars count, those of ordinary init containers do not (KEP-753).
#[test]
fn sidecar_ports() {
    let text = "\
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  containers: [{ports: [{name: web, containerPort: 80}]}]
  initContainers:
  - {restartPolicy: Always, ports: [{name: metrics, containerPort: 9090, protocol: UDP}]}
  - {ports: [{name: setup, containerPort: 1}]}
";
    let loaded = load("p.yaml", text.as_bytes()).unwrap();
    let [Object::Pod(pod)] = &loaded.objects[..] else { panic!("{loaded:?}") };
    let names: Vec<&str> = pod.ports.iter().filter_map(|port| port.name.as_deref()).collect();
    assert_eq!(names, ["web", "metrics"]);
}

fn isolated(text: &str) -> Vec<String> {
    let index = Index::of(unique(load("p.yaml", text.as_bytes()).unwrap()).objects);
    let isolated = |(address, owner): (_, Owner<'_>)| {
        matches!(owner, Owner::Isolated(_)).then(|| std::net::IpAddr::to_string(&address))
    };
    index.endpoints().into_iter().filter_map(isolated).collect()
}

/// Empty is absent, as for the API; what is no namespace name refuses the object, which isolates
/// where it was meant to, if that can be said.
#[test]
fn namespaces_that_are_none() {
    for (written, read, refused) in [
        ("\"\"", Some("default"), false),
        ("~", Some("default"), false),
        ("shop", Some("shop"), false),
        ("Shop", Some("shop"), true),
        ("\" shop \"", Some("shop"), true),
        ("7", Some("7"), true),
        ("shop/web", None, true),
        ("[shop]", None, true),
    ] {
        let text = format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p, namespace: {written}}}, spec: {{podSelector: {{}}}}}}"
        );
        let loaded = load("p.yaml", text.as_bytes()).unwrap();
        let namespace = loaded.objects.iter().map(|object| match object {
            Object::NetworkPolicy(policy) => {
                assert_eq!(policy.refused, refused, "{written}");
                &*policy.key.namespace
            }
            other => panic!("{other:?}"),
        });
        assert_eq!(
            namespace.collect::<Vec<_>>(),
            read.into_iter().collect::<Vec<_>>(),
            "{written}"
        );
        let effects: Vec<Effect> = loaded.complaints.iter().map(|c| c.effect).collect();
        let effect = if read.is_some() { Effect::Closed } else { Effect::NotEnforced };
        assert_eq!(effects, vec![effect; usize::from(refused)], "{written}");
        assert!(loaded.complaints.iter().all(|c| c.field == "metadata.namespace"), "{written}");
        let pod = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p, namespace: {written}}}, status: {{podIP: 10.0.0.1}}}}"
        );
        assert_eq!(isolated(&pod), vec!["10.0.0.1"; usize::from(refused)], "{written}");
    }
}

/// None of them takes another's place: two lines, one line, two files, and one that is named.
#[test]
fn objects_without_a_name_isolate_each_for_itself() {
    let policy = |name: &str, app: &str| {
        format!(
            "{{\"apiVersion\": \"networking.k8s.io/v1\", \"kind\": \"NetworkPolicy\", \"metadata\": {{{name}}}, \"spec\": {{\"podSelector\": {{\"matchLabels\": {{\"app\": \"{app}\"}}}}}}}}"
        )
    };
    let pod = |address: &str| {
        format!(
            "{{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {{\"name\": \"\"}}, \"status\": {{\"podIP\": \"{address}\"}}}}"
        )
    };
    let items = [
        policy("", "a"),
        policy("\"name\": \"\"", "b"),
        policy("\"name\": 7", "c"),
        pod("10.0.0.1"),
        pod("10.0.0.2"),
        policy("\"name\": \"p\"", "d"),
    ];
    let one_line =
        format!("{{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{}]}}", items.join(","));
    let lines = items.join("\n---\n");
    for text in [one_line, lines] {
        let mut loaded = load("p.yaml", text.as_bytes()).unwrap();
        loaded.merge(load("q.yaml", text.as_bytes()).unwrap());
        let loaded = unique(loaded);
        let ids: Vec<ObjectId> = loaded.objects.iter().map(Object::id).collect();
        // All but the one that has a name, which is written twice.
        assert_eq!(ids.len(), 11, "{ids:#?}");
        let unnamed = ids.iter().filter(|id| id.to_string().contains("(unnamed, ")).count();
        assert_eq!(unnamed, 10, "{ids:#?}");
        assert_eq!(isolated(&text), ["10.0.0.1", "10.0.0.2"]);
    }
}

/// A part of a pod of the wrong type may hide anything.
#[test]
fn parts_of_a_pod_of_the_wrong_type_refuse_it() {
    const ADDRESS: &str = "status: {podIP: 10.0.0.1}";
    for (pod, field, isolates) in [
        ("metadata: [p], status: {podIP: 10.0.0.1}", "metadata", true),
        ("metadata: {name: p}, spec: [], status: {podIP: 10.0.0.1}", "spec", true),
        ("metadata: {name: p}, spec: x, status: {podIP: 10.0.0.1}", "spec", true),
        ("metadata: {name: p}, status: x", "status", false),
        ("metadata: {name: p}, status: [{podIP: 10.0.0.1}]", "status", false),
        ("metadata: {name: p}, spec: {containers: [x]}, ADDRESS", "spec.containers[0]", true),
        (
            "metadata: {name: p}, spec: {initContainers: [[]]}, ADDRESS",
            "spec.initContainers[0]",
            true,
        ),
        (
            "metadata: {name: p}, spec: {containers: [{ports: [80]}]}, ADDRESS",
            "spec.containers[0].ports[0]",
            true,
        ),
        (
            "metadata: {name: p}, status: {podIP: 10.0.0.1, podIPs: [10.0.0.1]}",
            "status.podIPs[0]",
            true,
        ),
    ] {
        let pod = pod.replace("ADDRESS", ADDRESS);
        let text = format!("{{apiVersion: v1, kind: Pod, {pod}}}");
        let loaded = load("p.yaml", text.as_bytes()).unwrap();
        let [complaint] = &loaded.complaints[..] else { panic!("{loaded:?}") };
        assert_eq!(complaint.field, field, "{text}");
        assert!(complaint.message.contains("must be a mapping"), "{complaint}");
        let effect = if isolates { Effect::Closed } else { Effect::NotEnforced };
        assert_eq!(complaint.effect, effect, "{complaint}");
        assert_eq!(isolated(&text), vec!["10.0.0.1"; usize::from(isolates)], "{text}");
    }
}
