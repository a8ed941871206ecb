//! Services, translated by the host as kube-proxy's two modes do it: judged on the backend, and a
//! source that the host masquerades on who it is. IPv4, TCP.
//!
//! | pod | may |
//! |---|---|
//! | `client` | send to `web`, port 8080 |
//! | `web` | be sent to by `client` |
//! | `other` | be sent to by `guest` and by the host outside |

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use crate::lab::{Cni, Family, Lab};
use crate::probe::{TCP_PORT, connect, echoes, serve};
use crate::turn;
use crate::weir::{Weir, place};

const POLICIES: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: default, name: client}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 8080}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: default, name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: default, name: other}
spec:
  podSelector: {matchLabels: {app: other}}
  ingress: [{from: [{podSelector: {matchLabels: {app: guest}}}, {ipBlock: {cidr: 198.51.100.2/32}}]}]
";

/// Addresses of the lab's node: towards the outside.
const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

/// Name and pods behind; the address is 10.96.0.N, the node's port 30080 + N, N from 1.
const SERVICES: [(&str, &[&str]); 6] = [
    ("agree", &["web"]),
    ("wrong", &["other"]),
    ("mixed", &["web", "other"]),
    ("own", &["client"]),
    ("none", &[]),
    ("kept", &["other"]),
];

/// The Service of which the node's port keeps the client's address.
const KEPT: &str = "kept";

fn number(service: &str) -> u8 {
    let at = SERVICES.iter().position(|(name, _)| *name == service).unwrap();
    u8::try_from(at + 1).unwrap()
}

fn vip(service: &str) -> SocketAddr {
    (Ipv4Addr::new(10, 96, 0, number(service)), 80).into()
}

fn node_port(service: &str) -> SocketAddr {
    (NODE, 30_080 + u16::from(number(service))).into()
}

/// The Service as the API server would show it, and its EndpointSlice.
fn manifests(lab: &Lab, service: &str, pods: &[&str]) -> String {
    let (address, port) = (vip(service).ip(), node_port(service).port());
    let endpoint = |pod: &&str| {
        let address = lab.address(pod, Family::V4);
        format!("{{addresses: [{address}], nodeName: lab}}")
    };
    let endpoints = pods.iter().map(endpoint).collect::<Vec<_>>().join(", ");
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{namespace: default, name: {service}}}\nspec: \
         {{type: NodePort, clusterIP: {address}, ports: [{{port: 80, targetPort: 8080, nodePort: \
         {port}}}]}}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: \
         {{namespace: default, name: {service}-1, labels: {{kubernetes.io/service-name: \
         {service}}}}}\naddressType: IPv4\nports: [{{port: 8080}}]\nendpoints: [{endpoints}]\n"
    )
}

fn populate(cni: Cni, proxy: &str) -> (Lab, PathBuf) {
    let lab = Lab::up(cni);
    let folder = lab.dir().join("manifests");
    fs::create_dir(&folder).unwrap();
    for pod in ["client", "guest", "web", "other"] {
        lab.pod(pod);
        let manifest = lab.manifest(&format!("default/{pod}"), pod, &[&format!("app={pod}")]);
        place(&folder, &format!("pod-{pod}.json"), &manifest);
    }
    for pod in ["client", "web", "other"] {
        serve(&lab, pod);
    }
    place(&folder, "policies.yaml", POLICIES);
    for (service, pods) in SERVICES {
        let backends: Vec<String> = pods.iter().map(|pod| format!("{pod}:{TCP_PORT}")).collect();
        let external = if service == KEPT { "local" } else { "cluster" };
        let places = (vip(service), node_port(service).port());
        lab.service((proxy, external), service, places, &backends);
        place(&folder, &format!("service-{service}.yaml"), &manifests(&lab, service, pods));
    }
    (lab, folder)
}

/// Whether a connection comes about and carries something. Waited for as long as it takes if it
/// should.
fn reaches(lab: &Lab, from: &str, to: SocketAddr, should: bool) -> bool {
    let wait = Duration::from_millis(if should { 5000 } else { 400 });
    connect(lab, from, to, wait).is_ok_and(|mut stream| echoes(&mut stream, wait))
}

fn services_are_judged_on_their_backends(cni: Cni, proxy: &str) {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = populate(cni, proxy);
    let mut weir = Weir::start(&lab, folder, &["--workers", "1"]);
    for (from, to, should, why) in [
        ("client", vip("agree"), true, "the backend is allowed"),
        ("client", vip("wrong"), false, "it is not"),
        ("client", vip("none"), false, "there is none"),
        ("client", vip("own"), true, "a pod reaches itself, also by its Service"),
        ("client", node_port("agree"), true, "masqueraded, and known for who it is"),
        ("client", node_port("wrong"), false, "a port of the node is not the node"),
        ("guest", vip("agree"), false, "the backend does not let it in"),
        ("guest", vip("wrong"), true, "this one does"),
        ("guest", node_port("wrong"), true, "masqueraded, and known for who it is"),
        ("guest", node_port("agree"), false, "and is not the node"),
        ("outside", node_port("wrong"), true, "an outsider that is allowed"),
        ("outside", node_port("agree"), false, "masqueraded, and not the node"),
        ("outside", node_port(KEPT), true, "not masqueraded"),
        ("client", node_port(KEPT), false, "the backend is not allowed"),
        ("guest", node_port(KEPT), true, "it lets it in"),
        ("node", vip("agree"), true, "the node reaches its pods"),
        ("node", node_port("wrong"), true, "the node reaches its pods"),
    ] {
        let does = reaches(&lab, from, to, should);
        weir.assert_alive();
        assert_eq!(does, should, "{from} → {to}: {why}\n{}", weir.words());
    }
    // The node's own ports are the node's.
    let server = lab.within("node", || TcpListener::bind((NODE, 0)).unwrap());
    let own = server.local_addr().unwrap();
    let opened = connect(&lab, "client", own, Duration::from_secs(5));
    assert!(opened.is_ok(), "{opened:?}\n{}", weir.words());
    let recovered = weir.status()["counters"]["sources_recovered"].as_u64().unwrap();
    assert!(recovered >= 5, "{recovered}\n{}", weir.words());

    // Of several backends, the one that a connection gets decides.
    let (mut passed, mut denied) = (0, 0);
    while (passed == 0 || denied == 0) && passed + denied < 60 {
        match reaches(&lab, "client", vip("mixed"), false) {
            true => passed += 1,
            false => denied += 1,
        }
    }
    assert!(passed > 0 && denied > 0, "{passed} passed, {denied} not\n{}", weir.words());

    // What is open follows the backends.
    let mut open = connect(&lab, "client", vip("agree"), Duration::from_secs(5)).unwrap();
    assert!(echoes(&mut open, Duration::from_secs(5)), "{}", weir.words());
    let other = manifests(&lab, "agree", &["other"]);
    weir.apply("service-agree.yaml", &other);
    assert!(!echoes(&mut open, Duration::from_millis(400)), "{}", weir.words());
    assert!(!reaches(&lab, "client", vip("agree"), false), "{}", weir.words());
    assert!(!reaches(&lab, "client", node_port("agree"), false), "{}", weir.words());
    let web = manifests(&lab, "agree", &["web"]);
    weir.apply("service-agree.yaml", &web);
    assert!(reaches(&lab, "client", vip("agree"), true), "{}", weir.words());
    // Without a policy that restricts egress nobody asks.
    weir.withdraw("policies.yaml");
    assert!(reaches(&lab, "client", vip("wrong"), true), "{}", weir.words());
    assert!(reaches(&lab, "client", node_port("wrong"), true), "{}", weir.words());
}

#[test]
fn bridge_iptables() {
    services_are_judged_on_their_backends(Cni::Bridge, "iptables");
}

#[test]
fn bridge_nft() {
    services_are_judged_on_their_backends(Cni::Bridge, "nft");
}

#[test]
fn ptp_iptables() {
    services_are_judged_on_their_backends(Cni::Ptp, "iptables");
}

#[test]
fn ptp_nft() {
    services_are_judged_on_their_backends(Cni::Ptp, "nft");
}
