//! Watches that are cut, refused, repeated and reordered; requests that fail.

use std::time::Duration;

use weir_apiserver::{Action, Cut, Fault, Kind, Release, monotonic_ns};

use crate::support::{ALLOW, DENY, MORE, address, sample};
use crate::{CLIENT, Cluster, KINDS, OTHER, PATIENCE, WEB, attached};

#[test]
fn a_watch_that_is_cut_goes_on_where_it_was() {
    let mut cluster = Cluster::followed();
    cluster.apply(ALLOW);
    cluster.until(OTHER, WEB, false);
    for (round, how) in [Cut::MidLine, Cut::Broken, Cut::End].into_iter().enumerate() {
        assert_eq!(cluster.server.cut_all(how), 6, "{how:?}");
        // Meanwhile something happens.
        match round % 2 {
            0 => cluster.apply(MORE),
            _ => cluster.apply(&MORE.replace("app: client", "app: web")),
        };
        cluster.until_in_place(OTHER, WEB, round % 2 == 0);
        for kind in KINDS {
            cluster.until_asked("watch", kind, round + 2);
        }
        cluster.until_watched();
    }
    assert_eq!(cluster.lists(), [1; 6]);
    cluster.stop();
}

/// As an event of the stream, and as the answer of the request.
#[test]
fn after_410_only_what_differs_is_applied() {
    for as_status in [false, true] {
        let mut cluster = Cluster::unfollowed();
        cluster.server.behave(|manners| manners.gone_as_status = as_status);
        for i in 0..1000 {
            cluster.apply(&format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: shop, name: p{i}}}\n\
                 status: {{podIP: 10.1.{}.{}}}\n",
                i / 250,
                i % 250 + 1
            ));
        }
        cluster.apply(ALLOW);
        cluster.follow(&[]);
        cluster.dataplane.next_within(crate::PATIENCE);
        cluster.until_watched();
        assert!(cluster.allows(CLIENT, WEB) && !cluster.allows(OTHER, WEB));
        // While nobody listens a client goes and another comes, and nobody will tell.
        cluster.server.down().unwrap();
        cluster.apply(MORE);
        cluster.delete(Kind::Pod, "shop/client");
        cluster.server.compact();
        let announced = cluster.dataplane.announced.len();
        cluster.server.up().unwrap();
        cluster.until_in_place(CLIENT, WEB, false);
        cluster.until_in_place(OTHER, WEB, true);
        let changes = cluster.dataplane.announced.len() - announced;
        assert!((1..=2).contains(&changes), "{changes} changes for two differences");
        cluster.control().expect("is listed anew");
        cluster.stop();
    }
}

/// An open watch that the server ends itself with 410.
#[test]
fn a_watch_may_expire_while_it_is_open() {
    let mut cluster = Cluster::followed();
    cluster.server.hold(Kind::NetworkPolicy);
    cluster.apply(DENY);
    cluster.server.release(Kind::NetworkPolicy, Release::Dropped);
    assert_eq!(cluster.server.cut(Kind::NetworkPolicy, Cut::Expired), 1);
    cluster.until(CLIENT, WEB, false);
    assert_eq!(cluster.lists(), [1, 2, 1, 1, 1, 1]);
    cluster.stop();
}

/// etcd was restored from a backup: versions run backwards, and those that are known belong to
/// objects that never were.
#[test]
fn a_restored_server_is_believed() {
    let mut cluster = Cluster::followed();
    let version = cluster.apply(DENY);
    cluster.until(CLIENT, WEB, false);
    let open = DENY.replace("ingress: []", "ingress: [{}]");
    cluster.apply(&open);
    cluster.apply(MORE);
    cluster.until(CLIENT, WEB, true);
    cluster.server.restore(version).unwrap();
    cluster.until(CLIENT, WEB, false);
    // What comes after has the versions of what is gone.
    cluster.apply(&open);
    cluster.until(CLIENT, WEB, true);
    assert!(cluster.lists()[1] >= 2, "{:?}", cluster.lists());
    cluster.stop();
}

/// The same version of the same object, and it says something else.
#[test]
fn after_a_restore_no_version_is_what_it_was() {
    let mut cluster = Cluster::followed();
    cluster.apply(ALLOW);
    cluster.until(OTHER, WEB, false);
    let version = cluster.apply(MORE);
    cluster.until_in_place(OTHER, WEB, true);
    let as_web = cluster.apply(&MORE.replace("app: client", "app: web"));
    cluster.apply(&MORE.replace("name: more", "name: next").replace(OTHER, "10.0.0.4"));
    cluster.until_in_place("10.0.0.4", WEB, true);
    assert!(!cluster.allows(OTHER, WEB));
    cluster.server.down().unwrap();
    cluster.server.restore(version).unwrap();
    let again = cluster.apply(&MORE.replace("hash: x1", "hash: x2"));
    assert_eq!(again, as_web);
    cluster.server.up().unwrap();
    cluster.until_in_place(OTHER, WEB, true);
    cluster.until_in_place("10.0.0.4", WEB, false);
    cluster.stop();
}

/// 504 "too large resource version", from a server that is behind.
#[test]
fn a_version_of_the_future_is_left() {
    let mut cluster = Cluster::followed();
    cluster.server.fault(Fault::once(Action::TooLarge).on_verb("watch").on_kind(Kind::Pod));
    cluster.server.cut(Kind::Pod, Cut::End);
    cluster.until_asked("list", Kind::Pod, 2);
    cluster.until_asked("watch", Kind::Pod, 3);
    cluster.apply(DENY);
    cluster.until(CLIENT, WEB, false);
    assert_eq!(cluster.lists(), [1, 1, 2, 1, 1, 1]);
    cluster.stop();
}

#[test]
fn what_is_said_twice_or_late_changes_nothing() {
    let mut cluster = Cluster::followed();
    cluster.apply(ALLOW);
    cluster.until(OTHER, WEB, false);
    // Backwards: what was said last came first, and stays.
    cluster.server.hold(Kind::Pod);
    cluster.apply(&MORE.replace("app: client", "app: web"));
    cluster.apply(MORE);
    cluster.server.release(Kind::Pod, Release::Reversed);
    cluster.until_in_place(OTHER, WEB, true);
    // An end, and what was before it, once more.
    cluster.delete(Kind::Pod, "shop/more");
    cluster.until_in_place(OTHER, WEB, false);
    let announced = cluster.dataplane.announced.len();
    cluster.server.repeat(Kind::Pod, 4);
    cluster.server.hold(Kind::Pod);
    cluster.apply(&MORE.replace("name: more", "name: next").replace(OTHER, "10.0.0.4"));
    cluster.server.release(Kind::Pod, Release::Doubled);
    cluster.until_in_place("10.0.0.4", WEB, true);
    assert!(!cluster.allows(OTHER, WEB));
    assert_eq!(cluster.dataplane.announced.len(), announced + 1);
    assert_eq!(cluster.lists(), [1; 6]);
    cluster.stop();
}

/// What was lost is made up for by the next list.
#[test]
fn what_was_never_said_is_found_by_the_next_list() {
    let mut cluster = Cluster::followed();
    cluster.apply(ALLOW);
    cluster.until(OTHER, WEB, false);
    cluster.server.hold(Kind::Pod);
    cluster.delete(Kind::Pod, "shop/client");
    cluster.server.release(Kind::Pod, Release::Dropped);
    cluster.apply(MORE);
    cluster.until_in_place(OTHER, WEB, true);
    assert!(cluster.allows(CLIENT, WEB), "nobody can know");
    cluster.server.cut(Kind::Pod, Cut::Expired);
    cluster.until_in_place(CLIENT, WEB, false);
    cluster.stop();
}

/// What is no event costs a new watch, and after a few a new list, and never the process.
#[test]
fn lines_that_are_no_events() {
    let mut cluster = Cluster::followed();
    for line in ["{", "null", r#"{"type":"ADDED"}"#] {
        let watches = cluster.server.asked("watch", Kind::Pod);
        cluster.server.say(Kind::Pod, line);
        cluster.until_asked("watch", Kind::Pod, watches + 1);
        cluster.until_watched();
    }
    cluster.apply(ALLOW);
    cluster.apply(MORE);
    cluster.until(OTHER, WEB, true);
    cluster.stop();
}

#[test]
fn a_server_that_names_a_time_is_given_it() {
    let mut cluster = Cluster::unfollowed();
    let busy = Fault::once(Action::Refuse { code: 429, retry_after: Some(3) });
    cluster.server.fault(busy.on_verb("list").on_kind(Kind::Pod));
    cluster.follow(&[]);
    cluster.until(CLIENT, WEB, true);
    let requests = cluster.server.requests();
    let of_pods = requests.iter().filter(|r| r.verb == "list" && r.resource == "pods");
    let at: Vec<u64> = of_pods.map(|r| r.at_ns).collect();
    assert_eq!(at.len(), 2);
    assert!(at[1] - at[0] >= 3_000_000_000, "{} ns", at[1] - at[0]);
    cluster.control().expect("cannot be followed: HTTP 429");
    cluster.stop();
}

/// A proxy that answers what it likes, no answer at all, one that comes slowly.
#[test]
fn answers_that_are_none() {
    let mut cluster = Cluster::unfollowed();
    let faults = [
        Action::Raw { code: 200, content_type: "text/html".into(), body: "<html>".into() },
        Action::Raw { code: 502, content_type: "text/html".into(), body: "<html>".into() },
        Action::Close,
    ];
    for action in faults {
        cluster.server.fault(Fault::once(action).on_verb("list").on_kind(Kind::NetworkPolicy));
    }
    let slow = Action::Slow { bytes: 7, ms: 1 };
    cluster.server.fault(Fault::once(slow).on_verb("watch").on_kind(Kind::NetworkPolicy));
    cluster.follow(&[]);
    cluster.until_asked("list", Kind::NetworkPolicy, 3);
    assert_eq!(cluster.dataplane.poll(Duration::from_millis(50)), None);
    cluster.until(CLIENT, WEB, true);
    cluster.apply(DENY);
    cluster.until(CLIENT, WEB, false);
    cluster.stop();
}

/// Pods are followed and policies are not: one that nobody has heard of may be about a pod that is
/// new, so none is said to be enforced.
#[test]
fn no_pod_is_settled_while_policies_are_not_followed() {
    let new = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\n\
             metadata: {{namespace: shop, name: {name}, labels: {{app: web}}}}\n\
             status: {{phase: Pending}}\n"
        )
    };
    for kind in [Kind::NetworkPolicy, Kind::Namespace] {
        let mut cluster = Cluster::followed();
        cluster.apply(&new("old"));
        cluster.dataplane.tell(attached(4, "old", "10.0.0.8"));
        cluster.dataplane.until_so("a pod to be settled", |d| d.settled_tickets() == [4]);
        // It may have been told of before its object was.
        let before = cluster.dataplane.rejected.len();

        let refused = Action::Refuse { code: 503, retry_after: None };
        cluster.server.fault(Fault::always(refused).on_verb("watch").on_kind(kind));
        assert_eq!(cluster.server.cut(kind, Cut::End), 1);
        cluster.control().expect("cannot be followed: HTTP 503");
        cluster.apply(DENY);
        cluster.apply(&new("new"));
        cluster.dataplane.tell(attached(5, "new", "10.0.0.9"));
        let says = |words: &str| words.contains("cannot follow") && words.contains(kind.plural());
        cluster.dataplane.until_so("words that name the kind", |dataplane| {
            dataplane.rejected.iter().any(|(ticket, words)| *ticket == 5 && says(words))
        });
        // Those who were settled stay so, and nothing is told of them.
        let rejected = cluster.dataplane.rejected[before..].iter();
        assert!(rejected.clone().all(|(ticket, _)| *ticket == 5), "{kind:?}: {rejected:?}");
        assert_eq!(cluster.dataplane.settled_tickets(), [4], "{kind:?}");

        cluster.server.clear_faults();
        cluster.dataplane.until_so("the new one too", |d| d.settled_tickets() == [4, 5]);
        // By then what nobody had heard of is in force for it.
        assert!(!cluster.allows(CLIENT, "10.0.0.9"), "{kind:?}");
        cluster.stop();
    }
}

/// Each kind waits for a time of its own, up to half a minute. But when one is answered again none
/// waits on: what is known of one would be older than what is known of another.
#[test]
fn all_kinds_come_back_when_one_does() {
    /// After so many failures each waits for 3 s at least, and 9 s at most.
    const FAILURES: f64 = 4.0;
    const SECOND: u64 = 1_000_000_000;
    let mut cluster = Cluster::unfollowed();
    cluster.follow(&["--metrics", "127.0.0.1:0"]);
    let address = address(cluster.control());
    cluster.until(CLIENT, WEB, true);
    cluster.until_watched();
    cluster.server.down().unwrap();
    let failures = |kind: &Kind| {
        let plural = kind.plural();
        sample(&address, &format!("weir_control_source_failures_total{{kind=\"{plural}\"}}"))
    };
    let all = || KINDS.iter().all(|kind| failures(kind) >= FAILURES);
    assert!(cluster.server.wait(PATIENCE, all), "{:?}", KINDS.map(|kind| failures(&kind)));
    let up = monotonic_ns();
    cluster.server.up().unwrap();
    cluster.until_watched();
    let requests = cluster.server.requests();
    let back = KINDS.map(|kind| {
        let is_it = |r: &&weir_apiserver::Asked| {
            r.at_ns >= up && r.verb == "watch" && r.resource == kind.plural()
        };
        requests.iter().find(is_it).unwrap().at_ns
    });
    let first = *back.iter().min().unwrap();
    let after = back.map(|at| at - first);
    assert!(after.iter().all(|after| *after < 5 * SECOND), "{after:?}");
    cluster.stop();
}
