//! Service, EndpointSlice and Node as they are read. Sources: `pkg/apis/core/validation` and
//! `pkg/apis/discovery/validation` of Kubernetes, and the API reference.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod bad;

use std::net::IpAddr;

use weir_control::model::{
    AddressType, EndpointSlice, Loaded, Node, Object, ObjectKey, Protocol, Service, ServiceType,
    TargetPort, TrafficPolicy, load,
};

fn read(text: &str) -> Loaded {
    load("s.yaml", text.as_bytes()).unwrap()
}

fn service(spec: &str) -> Loaded {
    read(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec: {spec}\n"
    ))
}

fn slice(rest: &str) -> Loaded {
    read(&format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-1, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\n{rest}\n"
    ))
}

fn node(rest: &str) -> Loaded {
    read(&format!("apiVersion: v1\nkind: Node\nmetadata: {{name: n1}}\n{rest}\n"))
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn the_service(loaded: &Loaded) -> &Service {
    assert!(loaded.complaints.is_empty(), "{:?}", loaded.complaints);
    match &loaded.objects[..] {
        [Object::Service(service)] => service,
        other => panic!("{other:?}"),
    }
}

fn the_slice(loaded: &Loaded) -> &EndpointSlice {
    assert!(loaded.complaints.is_empty(), "{:?}", loaded.complaints);
    match &loaded.objects[..] {
        [Object::EndpointSlice(slice)] => slice,
        other => panic!("{other:?}"),
    }
}

fn the_node(loaded: &Loaded) -> &Node {
    assert!(loaded.complaints.is_empty(), "{:?}", loaded.complaints);
    match &loaded.objects[..] {
        [Object::Node(node)] => node,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_service_with_everything() {
    let loaded = service(
        "{type: NodePort, clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7, \"fd00:1::7\"],
          ipFamilies: [IPv4, IPv6], selector: {app: web}, externalTrafficPolicy: Local,
          sessionAffinity: None, ports: [
            {name: http, port: 80, targetPort: http, nodePort: 30080},
            {name: dns, protocol: UDP, port: 53, targetPort: 5353},
            {name: same, port: 443}]}",
    );
    let service = the_service(&loaded);
    assert_eq!(service.key, ObjectKey::new("shop", "web"));
    assert_eq!(service.kind, ServiceType::NodePort);
    assert_eq!(service.cluster_ips, ips(&["10.96.0.7", "fd00:1::7"]));
    assert_eq!(service.external_traffic, TrafficPolicy::Local);
    assert!(!service.headless);
    assert_eq!(service.selector["app"], "web");
    let ports: Vec<_> = service
        .ports
        .iter()
        .map(|p| (p.name.as_deref(), p.protocol, p.port, p.target.clone(), p.node_port))
        .collect();
    let name = |name: &str| TargetPort::Name(name.to_owned());
    assert_eq!(
        ports,
        [
            (Some("http"), Protocol::Tcp, 80, name("http"), Some(30080)),
            (Some("dns"), Protocol::Udp, 53, TargetPort::Number(5353), None),
            (Some("same"), Protocol::Tcp, 443, TargetPort::Number(443), None),
        ]
    );
}

/// What the API leaves implicit.
#[test]
fn services_with_defaults() {
    for (name, spec, headless, ports) in [
        ("headless", "{clusterIP: None, clusterIPs: [None], ports: [{port: 1}]}", true, 1),
        ("headless without ports", "{clusterIP: None}", true, 0),
        ("an external name", "{type: ExternalName, externalName: example.org}", false, 0),
        ("no address yet", "{clusterIP: \"\", ports: [{port: 1}]}", false, 1),
        ("zero values", "{ports: [{port: 1, targetPort: 0, nodePort: 0, name: \"\"}]}", false, 1),
        ("an empty target", "{ports: [{port: 1, targetPort: \"\"}]}", false, 1),
        ("nulls", "{selector: ~, type: ~, ports: [{port: 1, targetPort: ~}]}", false, 1),
        ("a field of later versions", "{trafficDistribution: x, ports: [{port: 1}]}", false, 1),
    ] {
        let loaded = service(spec);
        let service = the_service(&loaded);
        assert_eq!((service.headless, service.ports.len()), (headless, ports), "{name}");
        assert!(service.cluster_ips.is_empty(), "{name}");
        for port in &service.ports {
            assert_eq!(port.target, TargetPort::Number(1), "{name}");
            assert_eq!((&port.name, port.node_port), (&None, None), "{name}");
        }
    }
}

#[test]
fn a_slice_with_everything() {
    let loaded = slice(
        "addressType: IPv4
endpoints:
- addresses: [10.0.0.1]
  conditions: {ready: true, serving: true, terminating: false}
  targetRef: {kind: Pod, name: web-a, namespace: shop, uid: x}
  nodeName: n1
  zone: z
- addresses: [10.0.0.2]
  conditions: {ready: false, terminating: true}
  targetRef: {kind: Pod, name: web-b}
- addresses: [192.0.2.1]
  targetRef: {kind: Node, name: n1}
ports:
- {name: http, port: 8080, protocol: TCP, appProtocol: http}
- {protocol: UDP}",
    );
    let slice = the_slice(&loaded);
    assert_eq!(slice.service.as_deref(), Some("web"));
    assert_eq!(slice.address_type, AddressType::V4);
    let endpoints: Vec<_> = slice
        .endpoints
        .iter()
        .map(|e| {
            let pod = e.pod.as_ref().map(ToString::to_string);
            (e.addresses.clone(), e.ready, e.serving, e.terminating, pod, e.node.as_deref())
        })
        .collect();
    let pod = |name: &str| Some(format!("shop/{name}"));
    assert_eq!(
        endpoints,
        [
            (ips(&["10.0.0.1"]), true, true, false, pod("web-a"), Some("n1")),
            (ips(&["10.0.0.2"]), false, false, true, pod("web-b"), None),
            (ips(&["192.0.2.1"]), true, true, false, None, None),
        ]
    );
    let ports: Vec<_> =
        slice.ports.iter().map(|p| (p.name.as_deref(), p.protocol, p.port)).collect();
    assert_eq!(ports, [(Some("http"), Protocol::Tcp, Some(8080)), (None, Protocol::Udp, None)]);
}

/// Lists that are null or absent, and addresses that are names.
#[test]
fn slices_with_defaults() {
    for (name, rest, kind, endpoints, addresses) in [
        ("nothing", "addressType: IPv6", AddressType::V6, 0, 0),
        ("nulls", "addressType: IPv6\nendpoints: ~\nports: ~", AddressType::V6, 0, 0),
        (
            "names",
            "addressType: FQDN\nendpoints: [{addresses: [db.example.org]}]",
            AddressType::Fqdn,
            1,
            0,
        ),
        (
            "IPv6",
            "addressType: IPv6\nendpoints: [{addresses: [\"fd00::1\"]}]",
            AddressType::V6,
            1,
            1,
        ),
    ] {
        let loaded = slice(rest);
        let slice = the_slice(&loaded);
        assert_eq!((slice.address_type, slice.endpoints.len()), (kind, endpoints), "{name}");
        let count: usize = slice.endpoints.iter().map(|e| e.addresses.len()).sum();
        assert_eq!(count, addresses, "{name}");
    }
}

#[test]
fn nodes() {
    let loaded = read(
        "apiVersion: v1
kind: Node
metadata: {name: cp, labels: {node-role.kubernetes.io/control-plane: \"\"}}
spec: {podCIDR: 10.244.0.0/24, podCIDRs: [10.244.0.0/24, \"fd00:244::/64\"]}
status:
  addresses:
  - {type: InternalIP, address: 192.0.2.1}
  - {type: ExternalIP, address: \"2001:db8::1\"}
  - {type: Hostname, address: cp}
",
    );
    let cp = the_node(&loaded);
    assert!(cp.is_control_plane());
    assert_eq!(cp.addresses, ips(&["192.0.2.1", "2001:db8::1"]));
    let blocks: Vec<String> = cp.pod_cidrs.iter().map(ToString::to_string).collect();
    assert_eq!(blocks, ["10.244.0.0/24", "fd00:244::/64"]);
    let loaded = node("spec: {podCIDR: \"\"}\nstatus: {addresses: []}");
    let bare = the_node(&loaded);
    assert!(!bare.is_control_plane() && bare.addresses.is_empty() && bare.pod_cidrs.is_empty());
}

/// `kubectl get --raw` prints lists of one kind whose items leave the kind out.
#[test]
fn typed_lists() {
    let loaded = read(
        "{apiVersion: v1, kind: List, items: [
           {apiVersion: v1, kind: ServiceList, items: [{metadata: {name: a}, spec: {clusterIP: None}}]},
           {apiVersion: discovery.k8s.io/v1, kind: EndpointSliceList,
            items: [{metadata: {name: b}, addressType: IPv4}]},
           {apiVersion: v1, kind: NodeList, items: [{metadata: {name: c}}]}]}",
    );
    assert!(loaded.complaints.is_empty(), "{:?}", loaded.complaints);
    let names: Vec<String> = loaded.objects.iter().map(|o| o.id().to_string()).collect();
    assert_eq!(names, ["Service default/a", "EndpointSlice default/b", "Node c"]);
    assert!(loaded.skipped.is_empty());
}

/// To the API an empty list is an absent one; where it is written is kept for those who read it.
#[test]
fn empty_lists_are_noted() {
    let loaded = read(
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p}
spec:
  podSelector: {}
  ingress:
  - from: []
  - ports: []
    from:
    - ipBlock:
        cidr: 10.0.0.0/8
        except: []
  egress: []
",
    );
    let found: Vec<(u32, &str)> =
        loaded.empty_lists.iter().map(|e| (e.origin.line, e.field.as_str())).collect();
    assert_eq!(
        found,
        [
            (7, "spec.ingress[0].from"),
            (8, "spec.ingress[1].ports"),
            (12, "spec.ingress[1].from[0].ipBlock.except"),
            (13, "spec.egress"),
        ]
    );
    assert_eq!(loaded.empty_lists[0].document.line, 1);
}
