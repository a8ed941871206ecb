//! Path-MTU discovery (RFC 1191, RFC 8201) of a pod to which nobody may open anything: the
//! error comes from a router that is no end of the connection, and is let through for the
//! flow that it quotes.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::lab::{Cni, Family, Lab, text};
use crate::node::{count, example, growth, node, settled};
use crate::probe::connect;
use crate::turn;
use crate::weir::Weir;

const PATIENCE: Duration = Duration::from_secs(20);
const PORT: u16 = 9600;
/// Of the link behind the router; the pods' is 1500.
const NARROW: u32 = 1300;
const BULK: usize = 2 << 20;

/// Makes `outside` a router to `far`, over a link that takes less than the pods send. `far`
/// itself believes in 1500 bytes, so that nothing but the router's errors tells the sender.
const BEHIND_OUTSIDE: &str = "
: >/run/lab/far
unshare --net=/run/lab/far true
outside() { nsenter --net=/run/lab/outside -- \"$@\"; }
far() { nsenter --net=/run/lab/far -- \"$@\"; }
outside sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
far sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
outside ip link add narrow0 mtu NARROW type veth peer name far0
outside ip link set far0 netns /run/lab/far
outside ip link set narrow0 up
far ip link set lo up
far ip link set far0 mtu 1500 up
outside ip addr add 203.0.113.1/24 dev narrow0
far ip addr add 203.0.113.2/24 dev far0
far ip route add default via 203.0.113.1
outside ip addr add 2001:db8:2::1/64 dev narrow0 nodad
far ip addr add 2001:db8:2::2/64 dev far0 nodad
far ip -6 route add default via 2001:db8:2::1
";

fn far(family: Family) -> IpAddr {
    match family {
        Family::V4 => "203.0.113.2".parse().unwrap(),
        Family::V6 => "2001:db8:2::2".parse().unwrap(),
    }
}

/// Which end opens the connection. It is always `web` that sends.
#[derive(Debug, Clone, Copy)]
enum Opener {
    Web,
    Far,
}

/// What `far` has received when `web` is done.
fn transfer(lab: &Lab, family: Family, opener: Opener) -> std::io::Result<usize> {
    let receive = |mut stream: TcpStream| -> std::io::Result<usize> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let (mut total, mut buffer) = (0, vec![0; 1 << 16]);
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(total),
                length => total += length,
            }
        }
    };
    let send = |mut stream: TcpStream| -> std::io::Result<()> {
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&vec![0x5a; BULK])
    };
    let (client, server, to) = match opener {
        Opener::Web => ("web", "far", far(family)),
        Opener::Far => ("far", "web", lab.address("web", family)),
    };
    let to = SocketAddr::new(to, PORT);
    let listener = lab.within(server, || TcpListener::bind(to).unwrap());
    // Not accepted before it is there: that would be waited for without end.
    let opened = connect(lab, client, to, PATIENCE)?;
    let (accepted, _) = listener.accept()?;
    let (sender, receiver) = match opener {
        Opener::Web => (opened, accepted),
        Opener::Far => (accepted, opened),
    };
    thread::scope(|scope| {
        let received = scope.spawn(move || receive(receiver));
        send(sender)?;
        received.join().unwrap()
    })
}

/// Both directions isolated, and open for these connections alone: nothing says a word of ICMP.
const BOTH_WAYS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: far-alone, namespace: default}
spec:
  podSelector: {matchLabels: {run: testweb}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{ipBlock: {cidr: 203.0.113.2/32}}, {ipBlock: {cidr: 2001:db8:2::2/128}}]
    ports: [{port: 9600}]
  egress:
  - to: [{ipBlock: {cidr: 203.0.113.2/32}}, {ipBlock: {cidr: 2001:db8:2::2/128}}]
    ports: [{port: 9600}]
";

#[test]
fn path_mtu_discovery_works_through_isolation() {
    let Some(_turn) = turn() else { return };
    for offload in ["on", "off"] {
        let (lab, folder) = node(Cni::Bridge);
        let script = BEHIND_OUTSIDE.replace("NARROW", &NARROW.to_string());
        lab.command("node", "sh", &["-ec", &script]);
        let mut weir = Weir::start(&lab, folder, &["--workers", "1", "--offload", offload]);
        weir.apply("deny.yaml", &example("deny-all-for-testweb"));
        for (opener, family) in [
            (Opener::Web, Family::V4),
            (Opener::Web, Family::V6),
            (Opener::Far, Family::V4),
            (Opener::Far, Family::V6),
        ] {
            let about = format!("{opener:?} opens, {family:?}, offload {offload}");
            if matches!((opener, family), (Opener::Far, Family::V4)) {
                weir.apply("far.yaml", BOTH_WAYS);
            }
            let there = far(family).to_string();
            lab.command("web", "ip", &["route", "flush", "cache"]);
            lab.command("web", "ip", &["-6", "route", "flush", "cache"]);
            let before = settled(&weir);
            let received = transfer(&lab, family, opener)
                .unwrap_or_else(|error| panic!("{about}: {error}\n{}", weir.words()));
            assert_eq!(received, BULK, "{about}");
            let unrelated = growth(&weir, &before)("drops.icmp_unrelated");
            assert_eq!(unrelated, 0, "{about}\n{}", weir.words());
            // The pod has learned it from the router, and from nobody else.
            let route = lab.command("web", "ip", &["route", "get", &there]);
            assert!(text(&route).contains(&format!("mtu {NARROW}")), "{about}: {}", text(&route));
        }
        assert_eq!(count(&weir.status(), "drops.flow_cut"), 0);
    }
}
