//! A synthetic cluster for tests of size: namespaces, nodes, pods, policies, Services and their
//! EndpointSlices, with the fields that a cluster's objects have, `managedFields` included.
//!
//! The same [`World`] gives the same objects. Pods are in the order of their numbers: pod `i` is in
//! namespace `i % namespaces` and on node `i % nodes`, and has addresses [`World::addresses`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use crate::kind::Kind;
use crate::object::Key;
use crate::server::ApiServer;

/// How large the cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct World {
    /// Pods, up to 4 million.
    pub pods: u32,
    /// NetworkPolicies.
    pub policies: u32,
    /// Services, each with an EndpointSlice.
    pub services: u32,
    /// At least 1.
    pub namespaces: u32,
    /// At least 1.
    pub nodes: u32,
    /// Pods that have the same labels, as those of a ReplicaSet; at least 1.
    pub replicas: u32,
    /// Whether pods have an IPv6 address as well.
    pub is_dual: bool,
}

impl Default for World {
    fn default() -> World {
        World {
            pods: 0,
            policies: 0,
            services: 0,
            namespaces: 50,
            nodes: 100,
            replicas: 15,
            is_dual: false,
        }
    }
}

const TEAMS: [&str; 4] = ["a", "b", "c", "d"];
const TIERS: [&str; 4] = ["web", "db", "cache", "batch"];
const BORN: &str = "2024-05-06T07:08:09Z";

fn of<'a>(choices: &[&'a str; 4], number: u32) -> &'a str {
    choices[(number % 4) as usize]
}

fn uid(kind: u32, number: u32) -> String {
    format!("5eed{kind:04x}-0000-4000-9000-{number:012x}")
}

impl World {
    /// The addresses of a pod: IPv4 of 10.0.0.0/8, and IPv6 of fd00::/64 if it has one.
    #[must_use]
    pub fn addresses(&self, pod: u32) -> Vec<IpAddr> {
        // 0 and 255 at the end are left out.
        let (high, low) = (pod / 254, pod % 254 + 1);
        let [_, a, b, c] = ((high << 8) | low).to_be_bytes();
        let mut list = vec![IpAddr::V4(Ipv4Addr::new(10, a, b, c))];
        if self.is_dual {
            let bits = (0xfd00_u128 << 112) | u128::from(pod + 1);
            list.push(IpAddr::V6(Ipv6Addr::from_bits(bits)));
        }
        list
    }

    /// The key of a pod.
    #[must_use]
    pub fn pod_key(&self, pod: u32) -> Key {
        Key::new(&format!("ns-{}", pod % self.namespaces), &self.pod_name(pod))
    }

    fn pod_name(&self, pod: u32) -> String {
        format!("{}-{:05}", self.set(pod), pod)
    }

    /// The ReplicaSet of a pod: those of a namespace that follow each other.
    fn set(&self, pod: u32) -> String {
        let set = pod / self.namespaces / self.replicas;
        format!("app-{set}-{:08x}", set.wrapping_mul(0x9e37_79b9))
    }

    /// The text of a pod, within `metadata`, as [`Object::of_rest`](crate::Object::of_rest) wants it.
    #[must_use]
    pub fn pod_rest(&self, pod: u32) -> String {
        let key = self.pod_key(pod);
        let set = pod / self.namespaces / self.replicas;
        let labels = json!({
            "app": format!("app-{set}"),
            "app.kubernetes.io/managed-by": "Helm",
            "pod-template-hash": format!("{:08x}", set.wrapping_mul(0x9e37_79b9)),
            "tier": of(&TIERS, set),
        });
        let addresses = self.addresses(pod);
        let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        let metadata = json!({
            "annotations": {"checksum/config": format!("{:064x}", u128::from(set) << 64)},
            "creationTimestamp": BORN,
            "generateName": format!("{}-", self.set(pod)),
            "labels": labels,
            "managedFields": managed_fields(),
            "name": &*key.name,
            "namespace": &*key.namespace,
            "ownerReferences": [{
                "apiVersion": "apps/v1", "blockOwnerDeletion": true, "controller": true,
                "kind": "ReplicaSet", "name": self.set(pod), "uid": uid(9, set),
            }],
            "uid": uid(1, pod),
        });
        let conditions = ["Initialized", "Ready", "ContainersReady", "PodScheduled"].map(|kind| {
            json!({
                "lastProbeTime": null, "lastTransitionTime": BORN, "status": "True", "type": kind,
            })
        });
        let rest = json!({
            "spec": pod_spec(pod % self.nodes, set),
            "status": {
                "conditions": conditions,
                "containerStatuses": [{
                    "containerID": format!("containerd://{:064x}", pod), "image": format!("registry.example/app-{set}:1.2.3"),
                    "imageID": format!("registry.example/app-{set}@sha256:{:064x}", set), "lastState": {}, "name": "main",
                    "ready": true, "restartCount": 0, "started": true, "state": {"running": {"startedAt": BORN}},
                }],
                "hostIP": node_address(pod % self.nodes),
                "hostIPs": [{"ip": node_address(pod % self.nodes)}],
                "phase": "Running",
                "podIP": addresses[0],
                "podIPs": ips,
                "qosClass": "Burstable",
                "startTime": BORN,
            },
        });
        format!("{},{}", &metadata.to_string()[1..], &rest.to_string()[1..])
    }

    /// A policy: two rules of ingress and one of egress over labels that pods have.
    #[must_use]
    pub fn policy(&self, policy: u32) -> Value {
        let block = format!("10.{}.0.0/16", policy % 256);
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {
                "name": format!("policy-{policy}"), "namespace": format!("ns-{}", policy % self.namespaces),
                "uid": uid(2, policy), "creationTimestamp": BORN,
            },
            "spec": {
                "podSelector": {"matchLabels": {"tier": of(&TIERS, policy / self.namespaces)}},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [
                    {
                        "from": [
                            {"podSelector": {"matchLabels": {"app": format!("app-{}", policy % 40)}}},
                            {"namespaceSelector": {"matchLabels": {"team": of(&TEAMS, policy)}}},
                        ],
                        "ports": [{"port": 8080 + policy % 4, "protocol": "TCP"}],
                    },
                    {"from": [{"ipBlock": {"cidr": block}}]},
                ],
                "egress": [{
                    "to": [{
                        "namespaceSelector": {"matchExpressions": [{"key": "env", "operator": "In", "values": ["prod"]}]},
                        "podSelector": {"matchLabels": {"tier": of(&TIERS, policy + 1)}},
                    }],
                }],
            },
        })
    }

    fn namespace(number: u32) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {
                "name": format!("ns-{number}"), "uid": uid(3, number), "creationTimestamp": BORN,
                "labels": {
                    "env": if number.is_multiple_of(2) { "prod" } else { "dev" }, "team": of(&TEAMS, number),
                },
            },
        })
    }

    fn node(number: u32) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": format!("node-{number}"), "uid": uid(4, number), "creationTimestamp": BORN},
            "spec": {},
            "status": {"addresses": [
                {"type": "InternalIP", "address": node_address(number)},
                {"type": "Hostname", "address": format!("node-{number}")},
            ]},
        })
    }

    /// A Service and its slice: ten pods of the Service's namespace.
    fn service(&self, number: u32) -> [Value; 2] {
        let (namespace, name) =
            (format!("ns-{}", number % self.namespaces), format!("svc-{number}"));
        let address = Ipv4Addr::from_bits(0xac60_0000 | (number + 1));
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": namespace, "uid": uid(5, number), "creationTimestamp": BORN},
            "spec": {
                "clusterIP": address,
                "type": "ClusterIP", "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"],
                "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}],
                "selector": {"app": format!("app-{}", number / self.namespaces)},
            },
            "status": {"loadBalancer": {}},
        });
        let pod = |at: u32| {
            number % self.namespaces + (number / self.namespaces * 10 + at) * self.namespaces
        };
        let endpoint = |pod: u32| {
            let key = self.pod_key(pod);
            json!({
                "addresses": [self.addresses(pod)[0]],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("node-{}", pod % self.nodes),
                "targetRef": {"kind": "Pod", "namespace": &*key.namespace, "name": &*key.name, "uid": uid(1, pod)},
            })
        };
        let endpoints: Vec<Value> =
            (0..10).map(pod).filter(|pod| *pod < self.pods).map(endpoint).collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{name}-x7k2p"), "namespace": namespace, "uid": uid(6, number),
                "creationTimestamp": BORN, "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        });
        [service, slice]
    }

    /// Puts all of it into the server.
    ///
    /// # Errors
    /// An object cannot be taken: of another world that is there already.
    pub fn load(&self, server: &ApiServer) -> Result<(), crate::Refusal> {
        for number in 0..self.namespaces {
            server.apply(World::namespace(number))?;
        }
        for number in 0..self.nodes {
            server.apply(World::node(number))?;
        }
        for pod in 0..self.pods {
            server.load(Kind::Pod, &self.pod_key(pod), &self.pod_rest(pod));
        }
        for policy in 0..self.policies {
            server.apply(self.policy(policy))?;
        }
        for number in 0..self.services {
            for object in self.service(number) {
                server.apply(object)?;
            }
        }
        Ok(())
    }
}

fn node_address(node: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0xc0a8_0000 | (node + 1))
}

fn pod_spec(node: u32, set: u32) -> Value {
    let mount = json!({
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "name": "kube-api-access",
        "readOnly": true,
    });
    let toleration = |key: &str| {
        json!({
            "effect": "NoExecute", "key": format!("node.kubernetes.io/{key}"), "operator": "Exists",
            "tolerationSeconds": 300,
        })
    };
    json!({
        "containers": [{
            "env": [
                {"name": "MODE", "value": "production"},
                {"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
            ],
            "image": format!("registry.example/app-{set}:1.2.3"), "imagePullPolicy": "IfNotPresent",
            "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 10},
            "name": "main",
            "ports": [
                {"containerPort": 8080 + set % 4, "name": "http", "protocol": "TCP"},
                {"containerPort": 9090, "name": "metrics", "protocol": "TCP"},
            ],
            "resources": {"limits": {"memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "256Mi"}},
            "terminationMessagePath": "/dev/termination-log", "volumeMounts": [mount],
        }],
        "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "nodeName": format!("node-{node}"),
        "preemptionPolicy": "PreemptLowerPriority", "priority": 0, "restartPolicy": "Always",
        "schedulerName": "default-scheduler", "securityContext": {}, "serviceAccountName": "default",
        "terminationGracePeriodSeconds": 30,
        "tolerations": [toleration("not-ready"), toleration("unreachable")],
        "volumes": [{"name": "kube-api-access", "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"items": [{"key": "ca.crt", "path": "ca.crt"}], "name": "kube-root-ca.crt"}},
        ]}}],
    })
}

/// What the server notes of who wrote which field: about as much again as the rest.
fn managed_fields() -> Value {
    let dots = |names: &[&str]| {
        names.iter().map(|name| (format!("f:{name}"), json!({}))).collect::<serde_json::Map<_, _>>()
    };
    let container = dots(&[
        "env",
        "image",
        "imagePullPolicy",
        "livenessProbe",
        "name",
        "ports",
        "resources",
        "terminationMessagePath",
        "volumeMounts",
    ]);
    json!([
        {
            "apiVersion": "v1", "fieldsType": "FieldsV1", "manager": "kube-controller-manager",
            "operation": "Update", "time": BORN,
            "fieldsV1": {
                "f:metadata": {"f:annotations": dots(&["checksum/config"]), "f:generateName": {},
                    "f:labels": dots(&["app", "app.kubernetes.io/managed-by", "pod-template-hash", "tier"]),
                    "f:ownerReferences": {".": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"main\"}": container},
                    "f:dnsPolicy": {}, "f:enableServiceLinks": {}, "f:restartPolicy": {}, "f:schedulerName": {},
                    "f:securityContext": {}, "f:terminationGracePeriodSeconds": {}},
            },
        },
        {
            "apiVersion": "v1", "fieldsType": "FieldsV1", "manager": "kubelet", "operation": "Update",
            "subresource": "status", "time": BORN,
            "fieldsV1": {"f:status": dots(&[
                "conditions", "containerStatuses", "hostIP", "hostIPs", "phase", "podIP", "podIPs", "startTime",
            ])},
        },
    ])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::object::Object;

    #[test]
    fn pods_are_whole_and_their_own() {
        let world = World { pods: 1000, is_dual: true, ..World::default() };
        let mut addresses = BTreeSet::new();
        let mut keys = BTreeSet::new();
        for pod in 0..world.pods {
            let value = Object::of_rest(1, &world.pod_rest(pod)).value(Kind::Pod);
            let key = world.pod_key(pod);
            assert_eq!(value["metadata"]["name"], *key.name);
            let list = value["status"]["podIPs"].as_array().unwrap();
            addresses.extend(list.iter().map(|ip| ip["ip"].as_str().unwrap().to_owned()));
            keys.insert(key);
        }
        assert_eq!((addresses.len(), keys.len()), (2000, 1000));
        let size = world.pod_rest(7).len();
        assert!((3_000..6_000).contains(&size), "{size}");
    }

    #[test]
    fn slices_name_pods_that_are_there() {
        let world = World { pods: 100, namespaces: 5, ..World::default() };
        let [service, slice] = world.service(7);
        assert_eq!(service["spec"]["clusterIP"], "172.96.0.8");
        let endpoints = slice["endpoints"].as_array().unwrap();
        assert_eq!(endpoints.len(), 10);
        for endpoint in endpoints {
            assert_eq!(endpoint["targetRef"]["namespace"], "ns-2");
        }
    }
}
