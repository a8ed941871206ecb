//! Services in the compiled table: against the oracle, and by example.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod clusters;

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clusters::{NAMESPACES, PORT_NAMES, PORTS, address, foreign, labels, objects, protocol};
use proptest::prelude::*;
use proptest::sample::{Index as Pick, select};
use proptest::test_runner::TestRunner;
use weir_control::compile::{Compiled, compile_for};
use weir_control::eval::Offline;
use weir_control::eval::probe::Prober;
use weir_control::index::Index;
use weir_control::model::{
    AddressType, Direction, Endpoint, EndpointSlice, Object, ObjectId, ObjectKey, Origin, Protocol,
    Service, ServicePort, ServiceType, SlicePort, TargetPort, TrafficPolicy, load,
};
use weir_control::oracle;
use weir_table::Address;
use weir_table::addrmap::AddressMapWriter;
use weir_table::classify::{Classifier, Connection, Ruling};
use weir_table::mem::SharedWords;
use weir_table::policy::{ClassId, PolicyTable, encode};

/// The node that tables are for.
const NODE: &str = "n1";

/// Of Services: of nobody else, and once in a while anybody's.
fn own_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        8 => (0u8..4).prop_map(|n| IpAddr::from([10, 96, 0, n])),
        4 => (0u16..4).prop_map(|n| IpAddr::from([0xfd96, 0, 0, 0, 0, 0, 0, n])),
        1 => address(),
        1 => foreign(),
    ]
}

/// Few different ones, so that Services and slices meet.
fn port_name() -> impl Strategy<Value = Option<String>> {
    prop::option::weighted(0.2, select(vec!["a".to_owned(), "b".to_owned()]))
}

fn often_tcp() -> impl Strategy<Value = Protocol> {
    prop_oneof![3 => Just(Protocol::Tcp), 1 => protocol()]
}

fn often_here() -> impl Strategy<Value = Option<String>> {
    prop_oneof![5 => Just(Some(NODE.to_owned())), 1 => node_name()]
}

fn node_name() -> impl Strategy<Value = Option<String>> {
    select(vec![Some(NODE), Some("n2"), None]).prop_map(|name| name.map(str::to_owned))
}

fn traffic_policy() -> impl Strategy<Value = TrafficPolicy> {
    prop_oneof![3 => Just(TrafficPolicy::Cluster), 1 => Just(TrafficPolicy::Local)]
}

fn service_port() -> impl Strategy<Value = ServicePort> {
    let target = prop_oneof![
        3 => select(PORTS.to_vec()).prop_map(TargetPort::Number),
        1 => select(PORT_NAMES.to_vec()).prop_map(|name| TargetPort::Name(name.to_owned())),
    ];
    (
        port_name(),
        often_tcp(),
        select(PORTS.to_vec()),
        target,
        prop::option::of(select(vec![30_000, 30_001])),
    )
        .prop_map(|(name, protocol, port, target, node_port)| ServicePort {
            name,
            protocol,
            port,
            target,
            node_port,
        })
}

prop_compose! {
    fn service()(
        key in (select(NAMESPACES[..2].to_vec()), "[s-t]"),
        cluster_ips in prop::collection::vec(own_address(), 0..3),
        outer_ips in prop::collection::vec(own_address(), 0..2),
        headless in prop::bool::weighted(0.05),
        external_name in prop::bool::weighted(0.05),
        selector in labels(),
        ports in prop::collection::vec(service_port(), 0..4),
        external_traffic in traffic_policy(),
        internal_traffic in traffic_policy(),
    ) -> Service {
        Service {
            key: ObjectKey::new(key.0, key.1),
            kind: if external_name { ServiceType::ExternalName } else { ServiceType::NodePort },
            cluster_ips: if headless { Vec::new() } else { cluster_ips },
            headless,
            selector,
            ports,
            outer_ips,
            external_traffic,
            internal_traffic,
            origin: Origin::memory(),
        }
    }
}

prop_compose! {
    fn endpoint(v4: bool)(
        first in prop_oneof![4 => address(), 1 => foreign()],
        ready in prop::bool::weighted(0.8),
        serving in any::<bool>(),
        terminating in any::<bool>(),
        node in often_here(),
    ) -> Endpoint {
        let addresses = if first.is_ipv4() == v4 { vec![first] } else { Vec::new() };
        Endpoint { addresses, ready, serving: ready || serving, terminating, pod: None, node }
    }
}

fn slice() -> impl Strategy<Value = EndpointSlice> {
    prop::bool::weighted(0.7).prop_flat_map(|v4| {
        let port = (port_name(), often_tcp(), prop::option::weighted(0.9, select(PORTS.to_vec())))
            .prop_map(|(name, protocol, port)| SlicePort { name, protocol, port });
        (
            (select(NAMESPACES[..2].to_vec()), "[a-f]", prop::option::weighted(0.9, "[s-t]")),
            prop::collection::vec(endpoint(v4), 0..6),
            prop::collection::vec(port, 1..4),
        )
            .prop_map(move |((namespace, name, service), endpoints, ports)| {
                EndpointSlice {
                    key: ObjectKey::new(namespace, name),
                    service,
                    address_type: if v4 { AddressType::V4 } else { AddressType::V6 },
                    endpoints,
                    ports,
                    origin: Origin::memory(),
                }
            })
    })
}

/// Lets some pods behind a Service be reached, and others not.
const PARTLY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: x, name: partly}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress: [{to: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: app, operator: Exists}]}}]}]
";

/// A cluster with Services, whose pods are on nodes.
fn cluster() -> impl Strategy<Value = Vec<Object>> {
    (
        objects(),
        // With many policies everything is isolated and little allowed.
        (0usize..4, prop::bool::weighted(0.8)),
        prop::collection::vec(often_here(), 32),
        prop::collection::vec(service(), 0..8),
        prop::collection::vec(slice(), 0..8),
        prop::collection::vec((0u8..12, any::<Pick>()), 40),
    )
        .prop_map(|(mut objects, (policies, partly), nodes, services, mut slices, behind)| {
            let mut kept = 0;
            objects.retain(|object| {
                kept += usize::from(matches!(object, Object::NetworkPolicy(_)));
                !matches!(object, Object::NetworkPolicy(_)) || kept <= policies
            });
            if partly {
                objects.extend(objects_of(PARTLY));
            }
            let pods = objects.iter_mut().filter_map(|object| match object {
                Object::Pod(pod) => Some(pod),
                _ => None,
            });
            let mut addresses: Vec<(IpAddr, ObjectKey)> = Vec::new();
            for (pod, node) in pods.zip(nodes) {
                pod.node = node.map(Into::into);
                addresses.extend(pod.addresses.iter().map(|a| (*a, pod.key.clone())));
            }
            let endpoints = slices.iter_mut().flat_map(|slice| {
                let v4 = slice.address_type == AddressType::V4;
                slice.endpoints.iter_mut().map(move |endpoint| (endpoint, v4))
            });
            for ((endpoint, v4), (kind, one)) in endpoints.zip(behind) {
                let of_family: Vec<_> =
                    addresses.iter().filter(|(address, _)| address.is_ipv4() == v4).collect();
                if of_family.is_empty() {
                    continue;
                }
                let (address, pod) = one.get(&of_family);
                if kind < 9 {
                    endpoint.addresses = vec![*address];
                }
                // Who has the address, perhaps somebody else, nobody.
                endpoint.pod = match kind {
                    3..8 | 10 => Some(pod.clone()),
                    8 => Some(ObjectKey::new("nowhere", "nobody")),
                    _ => None,
                };
            }
            objects.extend(services.into_iter().map(Object::Service));
            objects.extend(slices.into_iter().map(Object::EndpointSlice));
            objects
        })
}

fn classifier(compiled: &Compiled) -> Classifier<Vec<u8>, SharedWords> {
    let table = PolicyTable::from_bytes(encode(&compiled.image).unwrap()).unwrap();
    let mut map = AddressMapWriter::private(0, compiled.addresses.len()).unwrap();
    for (address, class) in &compiled.addresses {
        map.insert(*address, ClassId(*class)).unwrap();
    }
    Classifier::new(table, map.into_reader().unwrap()).unwrap()
}

/// Every address and port that some Service of the index offers, and some that none does.
fn offers(index: &Index) -> Vec<(IpAddr, Protocol, u16)> {
    let mut all = Vec::new();
    for service in index.services() {
        for port in &service.ports {
            for address in service.cluster_ips.iter().chain(&service.outer_ips) {
                all.push((*address, port.protocol, port.port));
                all.push((*address, port.protocol, 7));
            }
            for any in [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()] {
                all.extend(port.node_port.map(|number| (any, port.protocol, number)));
            }
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// The table says of a Service what the oracle says of its backends, one by one.
#[test]
fn services_equal_the_oracle() {
    let cases = std::env::var("WEIR_PROPERTY_CASES").ok().and_then(|n| n.parse().ok());
    let config = ProptestConfig {
        cases: cases.unwrap_or(768),
        failure_persistence: None,
        ..Default::default()
    };
    let asked = [const { Cell::new(0u32) }; 4];
    let strategy = (cluster(), select(vec![Some(NODE), Some(NODE), Some(NODE), None]));
    let result = TestRunner::new(config).run(&strategy, |(objects, node)| {
        let index = Index::of(objects);
        let compiled = compile_for(&index, node);
        let classifier = classifier(&compiled);
        let pods: Vec<IpAddr> = index.pods().flat_map(|pod| pod.addresses.clone()).collect();
        let heeded = index.policies().any(|policy| policy.isolates(Direction::Egress));
        prop_assert_eq!(compiled.classes.heed_services(), heeded);
        if !heeded {
            prop_assert!(compiled.image.services.is_empty());
            return Ok(());
        }
        for offer in offers(&index) {
            let (address, protocol, port) = offer;
            let sources = pods.iter().filter(|source| source.is_ipv4() == address.is_ipv4());
            for &source in sources {
                let connection = Connection {
                    src: source.into(),
                    dst: address.into(),
                    protocol: protocol.number(),
                    dport: port,
                };
                let is_pods = classifier.is_pod(connection.dst);
                let naive = oracle::backends(&index, node, source, offer);
                let judgement = classifier.evaluate(&connection);
                let Some(backends) = naive.filter(|_| !is_pods && source != address) else {
                    prop_assert_eq!(classifier.reach(&connection), None);
                    asked[0].set(asked[0].get() + 1);
                    continue;
                };
                let reach = classifier.reach(&connection).unwrap();
                let denied = |here| {
                    let of_place = backends.iter().filter(|b| b.is_here == here);
                    of_place.filter(|b| !b.egress.is_allowed()).count()
                };
                // Kinds and backends are as many or as few.
                let some = |kinds: usize, backends: usize| (kinds > 0) == (backends > 0);
                prop_assert!(
                    some(reach.denied_elsewhere, denied(false)),
                    "{:?} {:?}",
                    reach,
                    backends
                );
                let allowed = backends.iter().filter(|b| b.egress.is_allowed()).count();
                prop_assert!(some(reach.allowed, allowed), "{:?} {:?}", reach, backends);
                if denied(false) == 0 {
                    prop_assert!(
                        some(reach.denied_here, denied(true)),
                        "{:?} {:?}",
                        reach,
                        backends
                    );
                }
                let class = classifier.class_of(connection.src);
                let like_itself = |b: &&oracle::Backend| {
                    b.is_here && classifier.class_of(Address::from(b.address)) == class
                };
                let expected = match (allowed, denied(true), denied(false)) {
                    (1.., 0, 0) => Ruling::Allow,
                    (_, _, 1..) => Ruling::Deny,
                    (1.., 1.., 0) => Ruling::Later,
                    (0, ..) if backends.iter().any(|b| like_itself(&b)) => Ruling::Later,
                    (0, ..) => Ruling::Deny,
                };
                prop_assert_eq!(reach.ruling, expected, "{} → {:?}: {:?}", source, offer, backends);
                asked[1 + expected as usize].set(asked[1 + expected as usize].get() + 1);
                // Nothing is asked of whom nobody restricts.
                let free = oracle::judge(&index, source, address, oracle::Traffic::Other).0
                    == oracle::Side::Unrestricted;
                let passes = free || expected != Ruling::Deny;
                prop_assert_eq!(judgement.egress.is_allow(), passes);
            }
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let asked = asked.map(|count| count.get());
    println!("{asked:?} (no Service, allow, deny, later)");
    // Rulings are worth comparing only if all of them occur often.
    assert!(cases.is_some() || asked.iter().all(|count| *count > 100), "{asked:?}");
}

const CLUSTER: &str = r#"
{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: client, labels: {app: client}}, spec: {nodeName: n1}, status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: web-1, labels: {app: web}}, spec: {nodeName: n1}, status: {podIP: 10.0.0.2}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: web-2, labels: {app: web}}, spec: {nodeName: n2}, status: {podIP: 10.0.0.3}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: old, labels: {app: old}}, spec: {nodeName: n2}, status: {podIP: 10.0.0.4}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: client}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 8080}]}]
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: shop, name: old}, spec: {podSelector: {matchLabels: {app: old}}, ingress: []}}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, externalIPs: [192.0.2.80], internalTrafficPolicy: Local, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
status: {loadBalancer: {ingress: [{ip: 192.0.2.81}, {ip: 192.0.2.82, ipMode: Proxy}, {hostname: lb}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- {addresses: [10.0.0.2], nodeName: n1}
- {addresses: [10.0.0.3], nodeName: n2, targetRef: {kind: Pod, namespace: shop, name: web-2}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: mixed}, spec: {clusterIP: 10.96.0.2, ports: [{port: 80, targetPort: 8080}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: mixed-1, labels: {kubernetes.io/service-name: mixed}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- {addresses: [10.0.0.2], nodeName: n1}
- {addresses: [10.0.0.4], nodeName: n2}
- {addresses: [10.0.0.9], nodeName: n2, targetRef: {kind: Pod, namespace: shop, name: gone}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: none}, spec: {clusterIP: 10.96.0.3, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: by-labels}, spec: {clusterIP: 10.96.0.4, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: headless}, spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}
"#;

fn objects_of(text: &str) -> Vec<Object> {
    let loaded = load("t.yaml", text.as_bytes()).unwrap();
    assert!(loaded.complaints.is_empty(), "{:?}", loaded.complaints);
    loaded.objects
}

/// Address, port, and class, port and "elsewhere" of each kind of backends.
type Offer = (String, u16, Vec<(u32, u16, bool)>);

#[test]
fn what_a_cluster_offers() {
    let index = Index::of(objects_of(CLUSTER));
    let compiled = compile_for(&index, Some(NODE));
    let class = |text: &str| {
        let address: Address = text.parse().unwrap();
        compiled.addresses.iter().find(|(a, _)| *a == address).unwrap().1
    };
    let (web, old) = (class("10.0.0.2"), class("10.0.0.4"));
    assert_eq!(class("10.0.0.3"), web);
    let offers: Vec<Offer> = compiled
        .image
        .services
        .iter()
        .map(|s| {
            assert_eq!(s.protocol, 6);
            let kinds = s.backends.iter().map(|b| (b.class.0, b.port, b.elsewhere)).collect();
            (s.address.to_ip().to_string(), s.port, kinds)
        })
        .collect();
    let everywhere = vec![(web, 8080, true)];
    let mut mixed = vec![(web, 8080, false), (old, 8080, true)];
    mixed.sort_unstable();
    let offer = |address: &str, port, kinds: &[(u32, u16, bool)]| {
        (address.to_owned(), port, kinds.to_vec())
    };
    assert_eq!(
        offers,
        [
            offer("0.0.0.0", 30_080, &everywhere),
            // internalTrafficPolicy: Local
            offer("10.96.0.1", 80, &[(web, 8080, false)]),
            offer("10.96.0.2", 80, &mixed),
            offer("10.96.0.3", 80, &[]),
            offer("10.96.0.4", 80, &everywhere),
            offer("192.0.2.80", 80, &everywhere),
            offer("192.0.2.81", 80, &everywhere),
        ]
    );
}

/// Pods that come and go behind a Service are no new image, as long as their kind is there.
#[test]
fn only_another_kind_of_backends_needs_a_new_image() {
    let index = Index::of(objects_of(CLUSTER));
    let mut compiled = compile_for(&index, Some(NODE));
    let unchanged = compiled.classes.reclassify(&index);
    assert_eq!(unchanged.as_deref(), Some(&compiled.addresses[..]));
    let change = |text: &str| {
        let mut index = index.clone();
        for object in objects_of(text) {
            index.apply(object);
        }
        compiled.classes.clone().reclassify(&index).is_some()
    };
    let slice = |endpoints: &str| {
        change(&format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{namespace: shop, \
             name: mixed-1, labels: {{kubernetes.io/service-name: mixed}}}}, addressType: IPv4, \
             ports: [{{port: 8080}}], endpoints: [{endpoints}]}}"
        ))
    };
    let (here, there) =
        ("{addresses: [10.0.0.2], nodeName: n1}", "{addresses: [10.0.0.4], nodeName: n2}");
    assert!(slice(&format!("{here}, {there}")), "one that was not there is gone");
    let unready = "conditions: {ready: false, serving: false}";
    let unready = format!("{{addresses: [10.0.0.2], nodeName: n1, {unready}}}");
    assert!(slice(&format!("{unready}, {there}")), "who is connected to it stays so");
    assert!(slice(&format!("{here}, {here}, {there}")), "one more of a kind");
    assert!(!slice(here), "a kind is gone");
    let far = "{addresses: [10.0.0.3], nodeName: n2}";
    assert!(!slice(&format!("{here}, {far}, {there}")), "a kind is elsewhere too");
    // The pod gets other labels: its class is known, its Services' kinds are others.
    let relabelled = "{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: web-2, labels: {app: old}}, spec: {nodeName: n2}, status: {podIP: 10.0.0.3}}";
    assert!(!change(relabelled));
    // A pod is gone, its slice does not know yet: it is no outsider behind the Service. Nor is the
    // next pod under that address its backend.
    let mut without = index.clone();
    without.delete(&ObjectId::Pod(ObjectKey::new("shop", "web-2")));
    let another = relabelled.replace("web-2", "web-3");
    for next in [None, Some(objects_of(&another).remove(0))] {
        next.into_iter().for_each(|pod| {
            without.apply(pod);
        });
        let image = compile_for(&without, Some(NODE)).image;
        let service = image.services.iter().find(|s| s.port == 30_080).unwrap();
        let kinds: Vec<_> = service.backends.iter().map(|b| (b.port, b.elsewhere)).collect();
        assert_eq!(kinds, [(8080, false)]);
        assert!(compiled.classes.clone().reclassify(&without).is_none());
    }
    // Seen by what became of its address, too.
    let gone = ["10.0.0.3".parse().unwrap()];
    assert!(compiled.classes.clone().reclassify_these(&without, gone).is_none());
    // Without a policy that restricts egress nobody asks.
    let mut free = index.clone();
    free.delete(&ObjectId::NetworkPolicy(ObjectKey::new("shop", "client")));
    let mut compiled = compile_for(&free, Some(NODE));
    assert!(compiled.image.services.is_empty() && !compiled.classes.heed_services());
    free.apply(objects_of(relabelled).remove(0));
    assert!(compiled.classes.reclassify(&free).is_some());
}

/// `weir eval` of a Service's address: the answer is that of its backends.
#[test]
fn probes_to_services_are_answered_by_the_backends() {
    let offline = Offline::of(Index::of(objects_of(CLUSTER))).unwrap();
    let answer = |from: &str, to: &str, port: u16| {
        let probe = format!(r#"{{"from":"{from}","to":"{to}","protocol":"TCP","port":{port}}}"#);
        let mut out = Vec::new();
        Prober::new(&offline).run(probe.as_bytes(), &mut out).unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let backends = &answer["backends"];
        let kinds = (backends["reached"].as_u64(), backends["kinds"].as_u64());
        let policy = |side: &str| answer[side]["policy"].as_str().map(str::to_owned);
        (answer["verdict"].as_str().unwrap().to_owned(), kinds, policy("egress"), policy("ingress"))
    };
    let by = |policy: &str| Some(policy.to_owned());
    let allow = || "allow".to_owned();
    let deny = || "deny".to_owned();
    let client = "shop/client";
    for (from, to, port, expected, why) in [
        (client, "10.96.0.1", 80, (allow(), (Some(1), Some(1)), by("shop/client"), None), "all"),
        (client, "192.0.2.81", 80, (allow(), (Some(1), Some(1)), by("shop/client"), None), "all"),
        // On whatever node: the kind that is denied may be elsewhere.
        (client, "10.96.0.2", 80, (deny(), (Some(1), Some(2)), by("shop/client"), None), "some"),
        (client, "10.96.0.3", 80, (deny(), (Some(0), Some(0)), by("shop/client"), None), "none"),
        (client, "10.96.0.1", 81, (deny(), (None, None), by("shop/client"), None), "no Service"),
        (client, "192.0.2.82", 80, (deny(), (None, None), by("shop/client"), None), "no Service"),
        ("shop/web-1", "10.96.0.1", 80, (allow(), (Some(1), Some(1)), None, None), "free"),
        ("shop/web-1", "10.96.0.2", 80, (allow(), (Some(1), Some(2)), None, None), "some"),
    ] {
        assert_eq!(answer(from, to, port), expected, "{from} → {to}:{port}: {why}");
    }
    // Nobody is let in.
    let mut index = offline.index.clone();
    let closed = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: shop, name: web}, spec: {podSelector: {matchLabels: {app: web}}, ingress: []}}";
    index.apply(objects_of(closed).remove(0));
    let offline = Offline::of(index).unwrap();
    let probe = r#"{"from":"shop/client","to":"10.96.0.1","port":80}"#;
    let mut out = Vec::new();
    Prober::new(&offline).run(probe.as_bytes(), &mut out).unwrap();
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "{\"verdict\":\"deny\",\"egress\":{\"verdict\":\"allow\",\"policy\":\"shop/client\",\
         \"rule\":\"spec.egress[0].to[0]\"},\"ingress\":{\"verdict\":\"deny\",\
         \"policy\":\"shop/web\"},\"backends\":{\"reached\":0,\"kinds\":1}}\n"
    );
}
