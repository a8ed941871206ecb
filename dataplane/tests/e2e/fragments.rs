//! Datagrams that are larger than the MTU, between real stacks: cut by one, put together by
//! the other, judged by their first fragment. Out of order and overlapping ones, by hand, are
//! in [`crate::layer2`].

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use crate::lab::{Cni, Family};
use crate::node::{example, growth, node, settled};
use crate::turn;
use crate::weir::Weir;

const PATIENCE: Duration = Duration::from_secs(5);
/// Six fragments, and as many as there can be.
const SIZES: [usize; 2] = [8000, 60_000];
const COUNT: usize = 20;

#[test]
fn large_datagrams_arrive_whole_or_not_at_all() {
    let Some(_turn) = turn() else { return };
    for (io, cni, offload, workers) in [
        ("af_xdp", Cni::Bridge, "off", "1"),
        ("af_xdp", Cni::Ptp, "on", "2"),
        ("tap", Cni::Bridge, "on", "2"),
        ("tap", Cni::Ptp, "off", "1"),
    ] {
        let cell = format!("{io}, {cni:?}, offload {offload}");
        let (lab, folder) = node(cni);
        let options = ["--io", io, "--offload", offload, "--workers", workers];
        let mut weir = Weir::start(&lab, folder, &options);
        let bind = |pod: &str, family, port| {
            let at = SocketAddr::from((lab.address(pod, family), port));
            lab.within(pod, || UdpSocket::bind(at).unwrap())
        };
        let pairs = Family::BOTH.map(|family| (bind("curl", family, 0), bind("web", family, 9400)));
        let before = settled(&weir);
        for (sender, receiver) in &pairs {
            receiver.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut got = vec![0; 65_536];
            for size in SIZES {
                for n in 0..COUNT {
                    let sent: Vec<u8> = (0..size).map(|at| (at * 7 + n) as u8).collect();
                    sender.send_to(&sent, receiver.local_addr().unwrap()).unwrap();
                    let length = receiver
                        .recv(&mut got)
                        .unwrap_or_else(|e| panic!("{cell}, {size}, {n}: {e}\n{}", weir.words()));
                    assert!(got[..length] == sent, "{cell}: {size} bytes came out changed");
                }
            }
        }
        for family in Family::BOTH {
            let web = lab.address("web", family).to_string();
            let ping = ["-c", "3", "-i", "0.2", "-W", "2", "-s", "4000", &web];
            let out = lab.attempt("curl", "ping", &ping);
            assert!(out.status.success(), "{cell}, {family:?}: {out:?}\n{}", weir.words());
        }
        let grown = growth(&weir, &before);
        for reason in ["fragment", "fragment_overlap", "malformed"] {
            assert_eq!(grown(&format!("drops.{reason}")), 0, "{cell}\n{}", weir.words());
        }

        weir.apply("deny.yaml", &example("deny-all-for-testweb"));
        let before = settled(&weir);
        for (sender, receiver) in &pairs {
            receiver.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            // From another port: a connection of its own.
            let other = bind(
                "curl",
                if sender.local_addr().unwrap().is_ipv4() { Family::V4 } else { Family::V6 },
                0,
            );
            other.send_to(&[0; SIZES[0]], receiver.local_addr().unwrap()).unwrap();
            assert!(receiver.recv(&mut [0; 1]).is_err(), "{cell}: a denied datagram arrived");
        }
        let grown = growth(&weir, &before);
        assert_eq!(grown("drops.fragment"), 0, "{cell}: not for its first's reason");
        let denied = grown("drops.policy_ingress");
        assert!(denied >= 2 * 6, "{cell}: {denied} fragments denied\n{}", weir.words());
    }
}
