//! The ClusterRole of `deploy/` is what weir-control needs: enough, and of no use without any part.

use std::collections::BTreeSet;

use rustix::process::Signal;
use weir_apiserver::{Holder, Kind, Rule, rules_of};

use crate::support::DENY;
use crate::{CLIENT, Cluster, WEB};

/// As the API knows the ServiceAccount of the manifests.
const USER: &str = "system:serviceaccount:weir-system:weir";
/// What an Event is made of: port 0 cannot be honoured.
const NOT_HONOURED: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: wrong}
spec: {podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 0}]}]}
";

/// The rules, each split into single rights: one group, one resource, one verb.
fn rights() -> Vec<Rule> {
    let rules = rules_of(include_str!("../../../deploy/kustomize/base/rbac.yaml")).unwrap();
    let mut single = Vec::new();
    for rule in rules {
        assert!(rule.resource_names.is_empty() && rule.non_resource_urls.is_empty(), "{rule:?}");
        for group in &rule.api_groups {
            for resource in &rule.resources {
                for verb in &rule.verbs {
                    single.push(Rule {
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        verbs: vec![verb.clone()],
                        ..Rule::default()
                    });
                }
            }
        }
    }
    single
}

/// A cluster followed by somebody who has these rights alone.
fn followed_with(rights: Vec<Rule>) -> Cluster {
    let mut cluster = Cluster::unfollowed();
    cluster.apply(DENY);
    cluster.apply(NOT_HONOURED);
    cluster.server.add_token("t", Holder::with_rules(USER, rights));
    cluster.introduce(Some("t"));
    cluster.follow(&[]);
    cluster
}

#[test]
fn the_rights_of_the_manifests_suffice_and_all_are_used() {
    let mut cluster = followed_with(rights());
    cluster.until(CLIENT, WEB, false);
    cluster.until_watched();
    cluster.until_asked("create", Kind::Event, 1);
    assert!(cluster.server.wait(crate::PATIENCE, || !cluster.server.list(Kind::Event).is_empty()));
    let requests = cluster.server.requests();
    let refused: Vec<_> = requests.iter().filter(|r| matches!(r.code, 401 | 403)).collect();
    assert!(refused.is_empty(), "{refused:#?}");
    let used: BTreeSet<_> = requests
        .iter()
        .filter(|r| !r.resource.is_empty())
        .map(|r| (r.resource.as_str(), r.verb.as_str()))
        .collect();
    let granted = rights();
    let granted: BTreeSet<_> =
        granted.iter().map(|r| (r.resources[0].as_str(), r.verbs[0].as_str())).collect();
    assert_eq!(granted, used);
    cluster.stop();
}

#[test]
fn each_right_that_is_missing_is_named() {
    let all = rights();
    assert_eq!(all.len(), 13, "six kinds that are listed and watched, and Events that are made");
    for (index, missing) in all.iter().enumerate() {
        let mut left = all.clone();
        left.remove(index);
        let mut cluster = followed_with(left);
        let (group, resource, verb) =
            (&missing.api_groups[0], &missing.resources[0], &missing.verbs[0]);
        let words = format!(
            "User \"{USER}\" cannot {verb} resource \"{resource}\" in API group \"{group}\""
        );
        if resource == "events" {
            cluster.until(CLIENT, WEB, false);
        }
        let line = cluster.control().expect(&words);
        let what = match resource.as_str() {
            "events" => "an Event cannot be made: HTTP 403",
            _ => "cannot be followed: HTTP 403",
        };
        assert!(line.contains(what) && line.contains("WARN"), "{line}");
        // What the server complains of is that alone.
        cluster.control.take().unwrap().stop(Signal::TERM);
        let complaints = cluster.server.take_complaints();
        assert!(!complaints.is_empty(), "{words}");
        let cannot = format!("cannot {verb} resource \"{resource}\"");
        assert!(complaints.iter().all(|said| said.contains(&cannot)), "{complaints:#?}");
    }
}
