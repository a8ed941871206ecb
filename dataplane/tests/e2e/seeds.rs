//! Connections that were open before Weir arrived. The host's conntrack knows who opened
//! them; without it, whoever speaks first would count as the one who asks.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::lab::{Cni, Family, Lab, outside, text};
use crate::node::node;
use crate::probe::connect;
use crate::stream::Stream;
use crate::turn;
use crate::weir::{Weir, place};

const PATIENCE: Duration = Duration::from_secs(3);

/// `web` answers and does not ask; `curl` asks and is not asked. The direction opposite to
/// the one in which the connections below are opened is denied.
const POLICIES: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-only-answers, namespace: default}
spec:
  podSelector: {matchLabels: {run: testweb}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - podSelector: {matchLabels: {run: testcurl}}
    - ipBlock: {cidr: 198.51.100.0/24}
    - ipBlock: {cidr: '2001:db8:1::/64'}
  egress: []
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: curl-only-asks, namespace: default}
spec:
  podSelector: {matchLabels: {run: testcurl}}
  policyTypes: [Ingress]
  ingress: []
";

/// A TCP connection, both ends of which are here.
struct Open {
    what: String,
    client: TcpStream,
    server: TcpStream,
    allowed: bool,
}

impl Open {
    fn between(lab: &Lab, from: &str, to: &str, family: Family, allowed: bool) -> Self {
        let listener = lab.within(to, || TcpListener::bind((address(lab, to, family), 0)).unwrap());
        let target: SocketAddr = listener.local_addr().unwrap();
        let client = connect(lab, from, target, PATIENCE).unwrap();
        let (server, _) = listener.accept().unwrap();
        Self { what: format!("{from} to {to}, {family:?}"), client, server, allowed }
    }

    /// The server speaks, unasked.
    fn answers(&mut self) -> bool {
        let wait = if self.allowed { PATIENCE } else { Duration::from_millis(400) };
        self.client.set_read_timeout(Some(wait)).unwrap();
        self.server.write_all(b"hello").unwrap();
        let mut said = [0; 5];
        self.client.read_exact(&mut said).is_ok_and(|()| said == *b"hello")
    }
}

fn address(lab: &Lab, place: &str, family: Family) -> IpAddr {
    if place == "outside" { outside(family) } else { lab.address(place, family) }
}

#[test]
fn connections_from_before_keep_their_direction() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Ptp);
    track(&lab);
    let open = |(from, to, allowed)| {
        Family::BOTH.map(|family| Open::between(&lab, from, to, family, allowed))
    };
    let mut connections: Vec<Open> = [
        ("curl", "web", true),
        ("curl", "outside", true),
        ("outside", "web", true),
        // What policy denies is no better for having been there before.
        ("kurl", "web", false),
    ]
    .into_iter()
    .flat_map(open)
    .collect();
    for connection in &mut connections {
        let allowed = std::mem::replace(&mut connection.allowed, true);
        assert!(connection.answers(), "{}: before Weir", connection.what);
        connection.allowed = allowed;
    }
    let mut datagrams = Stream::open(&lab, "curl", "web", Family::V4, 9301);
    datagrams.run(3).unwrap();
    let client = datagrams.sender.local_addr().unwrap();
    let answer = |datagrams: &Stream, wait| {
        datagrams.receiver.send_to(b"answer", client).unwrap();
        datagrams.sender.set_read_timeout(Some(wait)).unwrap();
        datagrams.sender.recv(&mut [0; 8]).is_ok()
    };
    assert!(answer(&datagrams, PATIENCE), "UDP: before Weir");

    place(&folder, "policies.yaml", POLICIES);
    let mut weir = Weir::start(&lab, folder, &["--workers", "1"]);
    for connection in &mut connections {
        let (allowed, what) = (connection.allowed, connection.what.clone());
        assert_eq!(connection.answers(), allowed, "{what}\n{}", weir.words());
    }
    assert!(answer(&datagrams, PATIENCE), "UDP\n{}", weir.words());
    datagrams.run(10).unwrap_or_else(|error| panic!("UDP: {error}\n{}", weir.words()));
    weir.assert_alive();
}

/// A rule that asks for a connection's state makes the kernel track them all.
fn track(lab: &Lab) {
    let rules = lab.dir().join("track.nft");
    let table = "table inet track {\n chain forward {\n  type filter hook forward priority 0\n  \
                 ct state established accept\n }\n}\n";
    fs::write(&rules, table).unwrap();
    let out = lab.command("node", "nft", &["-f", rules.to_str().unwrap()]);
    assert!(out.is_empty(), "{}", text(&out));
}
