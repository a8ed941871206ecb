//! A client that lists and watches as client-go's reflector does, on the kube client, and what
//! becomes of it when watches and requests go wrong.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{WatchEvent, WatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time::timeout;
use weir_apiserver::{Action, ApiServer, Cut, Fault, Key, Kind, Release};

use crate::client::{config, pages, run};
use crate::support::{PATIENCE, pod, server};

/// Between two requests of which the first went wrong.
const PAUSE: Duration = Duration::from_millis(5);

/// Names and versions of the objects that it knows.
type Known = Mutex<BTreeMap<String, u64>>;

fn version(text: &str) -> u64 {
    text.parse().unwrap()
}

/// Lists and watches for ever; a version that the server has not is listed again.
async fn reflect(api: Api<Pod>, known: &Known) {
    loop {
        let Ok((pods, mut since)) = pages(&api).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let entry = |pod: &Pod| (pod.name_any(), version(&pod.resource_version().unwrap()));
        *known.lock().unwrap() = pods.iter().map(entry).collect();
        while let Some(next) = follow(&api, &since, known).await {
            since = next;
        }
    }
}

/// Watches until the watch ends; where to go on, unless everything is to be listed again.
async fn follow(api: &Api<Pod>, since: &str, known: &Known) -> Option<String> {
    let mut since = since.to_owned();
    let mut stream = match api.watch(&WatchParams::default().timeout(60), &since).await {
        Ok(stream) => stream.boxed(),
        Err(kube::Error::Api(status)) if matches!(status.code, 410 | 504) => return None,
        Err(_) => {
            tokio::time::sleep(PAUSE).await;
            return Some(since);
        }
    };
    // A line that is cut, and a connection that breaks, end the watch as its timeout does.
    while let Ok(Some(event)) = stream.try_next().await {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                since = pod.resource_version().unwrap();
                let newest = known.entry(pod.name_any()).or_default();
                *newest = (*newest).max(version(&since));
            }
            WatchEvent::Deleted(pod) => {
                since = pod.resource_version().unwrap();
                known.remove(&pod.name_any());
            }
            WatchEvent::Bookmark(bookmark) => since = bookmark.metadata.resource_version,
            WatchEvent::Error(status) if status.code == 410 => return None,
            WatchEvent::Error(_) => return Some(since),
        }
    }
    Some(since)
}

/// Waits until the client knows what the server has.
async fn same(server: &ApiServer, known: &Known, after: &str) {
    let entry = |pod: &Value| {
        let text = |name: &str| pod["metadata"][name].as_str().unwrap().to_owned();
        (text("name"), version(&text("resourceVersion")))
    };
    let wanted: BTreeMap<String, u64> = server.list(Kind::Pod).iter().map(entry).collect();
    let is_same = async {
        while *known.lock().unwrap() != wanted {
            tokio::time::sleep(PAUSE).await;
        }
    };
    assert!(timeout(PATIENCE, is_same).await.is_ok(), "{after}: {:?}", known.lock());
}

/// Waits until the client watches.
async fn open(server: &ApiServer) {
    let is_open = async {
        while server.watches(Kind::Pod) != 1 {
            tokio::time::sleep(PAUSE).await;
        }
    };
    timeout(PATIENCE, is_open).await.unwrap();
}

fn new(server: &ApiServer, name: &str) {
    server.apply(pod(name, json!({}))).unwrap();
}

/// Runs a test beside a client that follows 130 pods.
fn beside_a_client(test: impl AsyncFnOnce(&ApiServer, &Known)) {
    let server = server();
    for number in 0..130 {
        new(&server, &format!("old-{number}"));
    }
    let known = Known::default();
    run(async {
        let mut config = config(&server, None).await;
        // It tries again by itself, and with something else.
        config.default_retry = false;
        let api = Api::all(Client::try_from(config).unwrap());
        let test = async {
            same(&server, &known, "the first list").await;
            open(&server).await;
            test(&server, &known).await;
        };
        tokio::select! {
            () = reflect(api, &known) => unreachable!("it reflects for ever"),
            () = test => {}
        }
    });
}

#[test]
fn watches_that_end_in_every_way() {
    beside_a_client(async |server, known| {
        let ways = [Cut::End, Cut::Broken, Cut::MidLine, Cut::Expired];
        for (number, how) in ways.into_iter().enumerate() {
            assert_eq!(server.cut(Kind::Pod, how), 1);
            new(server, &format!("new-{number}"));
            server.delete(Kind::Pod, &Key::new("shop", &format!("old-{number}"))).unwrap();
            same(server, known, &format!("{how:?}")).await;
            open(server).await;
        }
        // Only the 410 had it list again: 130 pods in pages of 100, twice.
        assert_eq!(server.asked("list", Kind::Pod), 4);
    });
}

#[test]
fn events_in_disorder() {
    beside_a_client(async |server, known| {
        for how in [Release::InOrder, Release::Reversed, Release::Doubled] {
            server.hold(Kind::Pod);
            new(server, &format!("{how:?}").to_lowercase());
            server.apply(pod("old-0", json!({"how": format!("{how:?}")}))).unwrap();
            server.release(Kind::Pod, how);
            same(server, known, &format!("{how:?}")).await;
        }
        server.repeat(Kind::Pod, 3);
        new(server, "last");
        same(server, known, "what was said before").await;
        assert_eq!(server.asked("list", Kind::Pod), 2);
    });
}

#[test]
fn down_compacted_and_refused() {
    beside_a_client(async |server, known| {
        server.down().unwrap();
        new(server, "while-down");
        server.compact();
        server.fault(Fault::once(Action::Refuse { code: 500, retry_after: None }));
        server.fault(Fault::once(Action::Truncate).on_verb("list"));
        server.up().unwrap();
        same(server, known, "down, compacted and refused").await;
        open(server).await;
        assert!(server.requests().iter().any(|asked| asked.code == 500));
    });
}

/// A restored backup is behind its clients: their versions are of the future.
#[test]
fn restored() {
    beside_a_client(async |server, known| {
        let before = server.version();
        new(server, "forgotten");
        same(server, known, "a new pod").await;
        server.restore(before).unwrap();
        same(server, known, "the backup").await;
        assert!(server.requests().iter().any(|asked| asked.code == 504));
    });
}
