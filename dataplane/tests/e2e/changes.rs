//! A thousand changes of policy under load. What stays allowed throughout loses nothing;
//! what is denied by every policy never passes; and from the receipt of a denial on,
//! nothing passes that it denies, whether the flow is old or new.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::clock::{StopOnDrop, now_ns};
use crate::lab::{Cni, Family, Lab};
use crate::node::{allow_testcurl_alone, node};
use crate::numbered::Numbered;
use crate::probe::{Resent, TCP_PORT, connect};
use crate::turn;
use crate::weir::Weir;

const CHANGES: usize = 1000;
/// How long it stays denied after each receipt, so that there is something to be stopped.
const DENIED: Duration = Duration::from_millis(4);
/// What `kurl` may reach on `web` under every other policy, and what under none.
const TOGGLED: u16 = 9201;
const FORBIDDEN: u16 = 9202;

/// `testkurl` may send UDP to `web`: to the toggled port, or to a third one.
fn toggled(allowed: bool) -> String {
    let port = if allowed { TOGGLED } else { 9203 };
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: toggled, namespace: default}}\n\
         spec:\n  podSelector: {{matchLabels: {{run: testweb}}}}\n  ingress:\n  \
         - from: [{{podSelector: {{matchLabels: {{run: testkurl}}}}}}]\n    \
         ports: [{{protocol: UDP, port: {port}}}]\n"
    )
}

#[test]
fn a_thousand_changes_lose_nothing_and_let_nothing_through() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let mut weir = Weir::start(&lab, folder, &["--workers", "1"]);
    allow_testcurl_alone(&mut weir);
    weir.apply("toggled.yaml", &toggled(true));

    let web = (lab.address("web", Family::V6), TCP_PORT).into();
    let connection = connect(&lab, "curl", web, Duration::from_secs(3)).unwrap();
    let resent = ["curl", "web"].map(|place| Resent::by(&lab, place));
    let numbered = Family::BOTH.map(|family| Numbered::start(&lab, &weir, family));
    let doubtful = [TOGGLED, FORBIDDEN].map(|port| Doubtful::between(&lab, port));
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let (forbidden, exchanged) = thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for stream in &doubtful {
            scope.spawn(|| stream.send(&lab, &stop));
        }
        let receiving = doubtful.each_ref().map(|s| scope.spawn(|| s.receive(&stop)));
        let exchanging = scope.spawn(|| exchange(&connection, &stop));
        let mut denied = Vec::new();
        for change in 0..CHANGES {
            let allowed = change % 2 == 1;
            weir.apply("toggled.yaml", &toggled(allowed));
            if !allowed {
                // From the receipt to just before the next change.
                let receipt = now_ns();
                thread::sleep(DENIED);
                denied.push(receipt..now_ns());
            }
        }
        eprintln!("{CHANGES} changes in {:.1?}", start.elapsed());
        stop.store(true, Ordering::Relaxed);
        let [toggled, forbidden] = receiving.map(|thread| thread.join().unwrap());
        // What comes only after the next change was judged by that: on a crowded machine a
        // worker may find a packet that has waited for it all the while.
        let leaked = |sent: &&Sent| {
            let is_in = |window: &&Range<u64>| window.contains(&sent.at_ns);
            denied.iter().find(is_in).is_some_and(|window| sent.arrived_ns < window.end)
        };
        for kind in [Kind::Open, Kind::New] {
            let of_kind = || toggled.iter().filter(move |sent| sent.kind == kind);
            let (passed, leaked) = (of_kind().count(), of_kind().filter(leaked).count());
            eprintln!("toggled, {kind:?}: {passed} passed, {leaked} of them while denied");
            assert_eq!(leaked, 0, "{kind:?}: passed after the receipt\n{}", weir.words());
            assert!(passed > CHANGES / 2, "{kind:?}: only {passed} passed while allowed");
        }
        (forbidden.len(), exchanging.join().unwrap())
    });
    assert_eq!(forbidden, 0, "passed what every policy denies\n{}", weir.words());

    let exchanged = exchanged.unwrap_or_else(|e| panic!("TCP: {e}\n{}", weir.words()));
    assert!(exchanged > CHANGES, "TCP: only {exchanged} messages");
    for (place, before) in [("curl", resent[0]), ("web", resent[1])] {
        let lost = before.lost_since(&lab, place);
        assert_eq!(lost, 0, "TCP segments of {place}\n{}", weir.words());
    }
    for stream in numbered {
        stream.end(&weir, CHANGES);
    }
}

/// What a message of a [`Doubtful`] stream says of itself.
struct Sent {
    at_ns: u64,
    arrived_ns: u64,
    kind: Kind,
}

/// Whether the message belongs to a flow that is always the same, or begins one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Open,
    New,
}

/// Messages from `kurl` to a port of `web`, allowed or not.
struct Doubtful {
    sender: UdpSocket,
    receiver: UdpSocket,
}

impl Doubtful {
    fn between(lab: &Lab, port: u16) -> Self {
        let to = (lab.address("web", Family::V4), port);
        let receiver = lab.within("web", || UdpSocket::bind(to).unwrap());
        receiver.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let sender = lab.within("kurl", || UdpSocket::bind("0.0.0.0:0").unwrap());
        sender.connect(to).unwrap();
        Self { sender, receiver }
    }

    /// Sends on the open flow, and each time on a flow of its own as well.
    fn send(&self, lab: &Lab, stop: &AtomicBool) {
        let to = self.sender.peer_addr().unwrap();
        lab.within("kurl", || {
            while !stop.load(Ordering::Relaxed) {
                let _ = self.sender.send(&[&now_ns().to_be_bytes()[..], &[0]].concat());
                let new = UdpSocket::bind("0.0.0.0:0").unwrap();
                let _ = new.send_to(&[&now_ns().to_be_bytes()[..], &[1]].concat(), to);
                thread::sleep(Duration::from_micros(500));
            }
        });
    }

    /// Everything that arrived until a while after the end.
    fn receive(&self, stop: &AtomicBool) -> Vec<Sent> {
        let mut arrived = Vec::new();
        let mut message = [0; 9];
        loop {
            let stopped = stop.load(Ordering::Relaxed);
            match self.receiver.recv(&mut message) {
                Ok(9) => {
                    let [at @ .., kind] = message;
                    let kind = if kind == 0 { Kind::Open } else { Kind::New };
                    let (at_ns, arrived_ns) = (u64::from_be_bytes(at), now_ns());
                    arrived.push(Sent { at_ns, arrived_ns, kind });
                }
                _ if stopped => return arrived,
                _ => {}
            }
        }
    }
}

/// Has numbers echoed until the end; how many came back, each the one that was sent.
fn exchange(mut stream: &TcpStream, stop: &AtomicBool) -> std::io::Result<usize> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let number = u64::try_from(count).unwrap_or(u64::MAX).to_be_bytes();
        stream.write_all(&number)?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer)?;
        if answer != number {
            return Err(std::io::Error::other(format!("{answer:?} for {number:?}")));
        }
        count += 1;
        thread::sleep(Duration::from_micros(500));
    }
    Ok(count)
}
