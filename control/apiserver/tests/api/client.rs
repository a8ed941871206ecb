//! The kube client as it is published, against this server: it has to find nothing amiss, and
//! nothing that it asks may be found amiss.

use std::collections::BTreeSet;

use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{
    DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::json;
use tokio::time::timeout;
use weir_apiserver::{ApiServer, Cut, Holder, Key, Kind, Settings, World, rules_of};

use crate::support::{PATIENCE, pod, server};

/// Runs a test that talks to the server by kube.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test)
}

/// What a kubeconfig for the server says.
pub async fn config(server: &ApiServer, token: Option<&str>) -> Config {
    let file = Kubeconfig::from_yaml(&server.kubeconfig(token)).unwrap();
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap()
}

async fn client(server: &ApiServer, token: Option<&str>) -> Client {
    Client::try_from(config(server, token).await).unwrap()
}

/// All pages of 100, and the version they are of.
pub async fn pages<K>(api: &Api<K>) -> kube::Result<(Vec<K>, String)>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let mut params = ListParams::default().limit(100);
    let mut items = Vec::new();
    loop {
        let page = api.list(&params).await?;
        items.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok((items, page.metadata.resource_version.unwrap())),
        }
    }
}

#[test]
fn every_kind_is_listed() {
    let server = ApiServer::start(Settings::default()).unwrap();
    let world = World { pods: 250, policies: 120, services: 30, ..World::default() };
    world.load(&server).unwrap();
    run(async {
        let client = client(&server, None).await;
        let (pods, _) = pages::<Pod>(&Api::all(client.clone())).await.unwrap();
        let names: BTreeSet<String> = pods.iter().map(ResourceExt::name_any).collect();
        assert_eq!((pods.len(), names.len()), (250, 250));
        let web = &pods[0];
        assert_eq!(web.status.as_ref().unwrap().pod_ips.as_ref().unwrap().len(), 1);
        assert!(web.uid().is_some() && web.resource_version().is_some());
        assert_eq!(pages::<Namespace>(&Api::all(client.clone())).await.unwrap().0.len(), 50);
        assert_eq!(pages::<Node>(&Api::all(client.clone())).await.unwrap().0.len(), 100);
        assert_eq!(pages::<Service>(&Api::all(client.clone())).await.unwrap().0.len(), 30);
        assert_eq!(pages::<EndpointSlice>(&Api::all(client.clone())).await.unwrap().0.len(), 30);
        let policies: Api<NetworkPolicy> = Api::namespaced(client.clone(), "ns-1");
        assert_eq!(pages(&policies).await.unwrap().0.len(), 3);
        assert_eq!(client.apiserver_version().await.unwrap().major, "1");
    });
    assert_eq!(server.asked("list", Kind::Pod), 3);
}

fn told<K: ResourceExt>(event: WatchEvent<K>) -> String {
    match event {
        WatchEvent::Added(object) => format!("added {}", object.name_any()),
        WatchEvent::Modified(object) => format!("modified {}", object.name_any()),
        WatchEvent::Deleted(object) => format!("deleted {}", object.name_any()),
        WatchEvent::Bookmark(bookmark) => {
            format!("bookmark {}", bookmark.metadata.resource_version)
        }
        WatchEvent::Error(status) => format!("error {}", status.code),
    }
}

#[test]
fn watches_bookmarks_and_410() {
    let server = server();
    server.apply(pod("web", json!({}))).unwrap();
    run(async {
        let api: Api<Pod> = Api::all(client(&server, None).await);
        let (_, version) = pages(&api).await.unwrap();
        let params = WatchParams::default().timeout(60);
        let mut watch = api.watch(&params, &version).await.unwrap().boxed();
        server
            .patch(
                Kind::Pod,
                &Key::new("shop", "web"),
                &json!({"metadata": {"labels": {"a": "b"}}}),
            )
            .unwrap();
        server.apply(pod("db", json!({}))).unwrap();
        server.delete(Kind::Pod, &Key::new("shop", "db")).unwrap();
        assert_eq!(server.bookmark(Kind::Pod), 1);
        server.cut(Kind::Pod, Cut::End);
        let mut seen = Vec::new();
        while let Some(event) = timeout(PATIENCE, watch.try_next()).await.unwrap().unwrap() {
            seen.push(told(event));
        }
        assert_eq!(seen, ["modified web", "added db", "deleted db", "bookmark 5"]);
        // From a version that is compacted away.
        server.compact();
        let mut gone = api.watch(&params, &version).await.unwrap().boxed();
        let event = gone.try_next().await.unwrap().unwrap();
        assert!(
            matches!(event, WatchEvent::Error(status) if status.code == 410 && status.reason == "Expired")
        );
        assert!(gone.try_next().await.unwrap().is_none());
        server.behave(|manners| manners.gone_as_status = true);
        let refused = api.watch(&params, &version).await.map(|_| ());
        assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 410));
        // The recovery: list, and watch from there.
        let (pods, version) = pages(&api).await.unwrap();
        assert_eq!(pods.len(), 1);
        let mut watch = api.watch(&params, &version).await.unwrap().boxed();
        server.delete(Kind::Pod, &Key::new("shop", "web")).unwrap();
        assert_eq!(told(watch.try_next().await.unwrap().unwrap()), "deleted web");
    });
}

/// A kubelet and an Event recorder by kube.
#[test]
fn writes() {
    let server = server();
    run(async {
        let client = client(&server, None).await;
        let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
        let web: Pod = serde_json::from_value(pod("web", json!({}))).unwrap();
        let made = pods.create(&PostParams::default(), &web).await.unwrap();
        assert_eq!(made.status.unwrap().phase.unwrap(), "Pending");
        let status = Patch::Merge(json!({"status": {"phase": "Running", "podIP": "10.0.0.1"}}));
        let running = pods.patch_status("web", &PatchParams::default(), &status).await.unwrap();
        assert_eq!(running.status.unwrap().pod_ip.unwrap(), "10.0.0.1");
        let marked = pods.delete("web", &DeleteParams::default()).await.unwrap();
        assert!(marked.left().unwrap().metadata.deletion_timestamp.is_some());
        let now = DeleteParams::default().grace_period(0);
        pods.delete("web", &now).await.unwrap();
        let gone = pods.get("web").await.unwrap_err();
        assert!(matches!(gone, kube::Error::Api(status) if status.code == 404));
        let event: Event = serde_json::from_value(json!({
            "metadata": {"name": "policy.1", "namespace": "shop"},
            "eventTime": "2024-05-06T07:08:09.123456Z", "type": "Warning", "reason": "NotEnforced",
            "action": "Enforce", "reportingController": "weir.example/control",
            "reportingInstance": "node-a", "regarding": {"kind": "Pod", "namespace": "shop"},
        }))
        .unwrap();
        let events: Api<Event> = Api::namespaced(client, "shop");
        events.create(&PostParams::default(), &event).await.unwrap();
        let again = events.create(&PostParams::default(), &event).await.unwrap_err();
        assert!(
            matches!(again, kube::Error::Api(s) if s.code == 409 && s.reason == "AlreadyExists")
        );
    });
    assert_eq!(server.count(Kind::Event), 1);
}

/// HTTPS with a made authority, a token, and rules; the authority is replaced.
#[test]
fn tls_tokens_and_rules() {
    let server = ApiServer::start(Settings { tls: Some(vec![]), ..Settings::default() }).unwrap();
    let role = "{kind: ClusterRole, rules: [{apiGroups: [''], resources: [pods], verbs: [list]}]}";
    server.add_token("secret", Holder::with_rules("weir", rules_of(role).unwrap()));
    run(async {
        let code = async |token: Option<&str>, server: &ApiServer| {
            let api: Api<Pod> = Api::all(client(server, token).await);
            match api.list(&ListParams::default()).await {
                Ok(_) => 200,
                Err(kube::Error::Api(status)) => status.code,
                Err(_) => 0,
            }
        };
        assert_eq!((code(None, &server).await, code(Some("x"), &server).await), (401, 401));
        assert_eq!(code(Some("secret"), &server).await, 200);
        let old = client(&server, Some("secret")).await;
        let api: Api<Pod> = Api::all(old.clone());
        api.list(&ListParams::default()).await.unwrap();
        server.rotate_ca().unwrap();
        // The open connection goes on, a new one is not trusted, nor is it by who knows the new one.
        api.list(&ListParams::default()).await.unwrap();
        server.close_connections().unwrap();
        assert!(api.list(&ListParams::default()).await.is_err());
        assert_eq!(code(Some("secret"), &server).await, 200);
        let nodes: Api<Node> = Api::all(client(&server, Some("secret")).await);
        let refused = nodes.list(&ListParams::default()).await.unwrap_err();
        assert!(matches!(refused, kube::Error::Api(s) if s.code == 403 && s.reason == "Forbidden"));
    });
    assert_eq!(server.take_complaints().len(), 1);
}
