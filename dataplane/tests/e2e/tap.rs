//! What AF_XDP on a veth cannot carry, a TAP device does: jumbo frames, and bulk before the
//! kernel has cut it into segments.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::lab::{Cni, Family, Lab, text};
use crate::node::{example, growth, node, populate, settled};
use crate::probe::By::Tcp;
use crate::probe::{connect, denied, differences, reaches};
use crate::turn;
use crate::weir::Weir;

const PATIENCE: Duration = Duration::from_secs(10);
const JUMBO: u32 = 9000;
/// A datagram that fits into a jumbo frame and into no other.
const DATAGRAM: usize = 8900;

/// `auto` sees the pods' MTU, takes the TAP device and says why; frames of that size arrive
/// through a worker, and past it once their flow is decided.
#[test]
fn jumbo_frames_take_the_tap_device() {
    let Some(_turn) = turn() else { return };
    for offload in ["off", "on"] {
        let (lab, folder) = populate(Lab::up_with_mtu(Cni::Bridge, JUMBO));
        let mut weir = Weir::start(&lab, folder, &["--workers", "2", "--offload", offload]);
        let log = weir.dataplane_log();
        for said in ["io=\"tap\"", "an MTU of 9000"] {
            assert!(log.contains(said), "{said} is missing\n{}", weir.words());
        }
        // No queue but the driver's ring, whose losses are counted.
        let queues = lab.command("node", "tc", &["qdisc", "show", "dev", "weir0"]);
        assert!(text(&queues).contains("noqueue"), "{}", text(&queues));
        for family in Family::BOTH {
            let to = SocketAddr::from((lab.address("web", family), 9000));
            let receiver = lab.within("web", || UdpSocket::bind(to).unwrap());
            receiver.set_read_timeout(Some(PATIENCE)).unwrap();
            let any = SocketAddr::from((lab.address("curl", family), 0));
            let sender = lab.within("curl", || UdpSocket::bind(any).unwrap());
            let before = settled(&weir);
            const COUNT: u64 = 50;
            let mut got = vec![0; DATAGRAM + 1];
            for n in 0..COUNT {
                let sent = vec![n as u8; DATAGRAM];
                sender.send_to(&sent, to).unwrap();
                let length = receiver.recv(&mut got).unwrap_or_else(|error| {
                    panic!("{family:?}, offload {offload}, {n}: {error}\n{}", weir.words())
                });
                assert_eq!(got[..length], sent, "{family:?}");
            }
            let grown = growth(&weir, &before);
            let (frames, bytes) = (grown("counters.rx_frames"), grown("counters.rx_bytes"));
            assert!(bytes >= frames * DATAGRAM as u64, "{frames} frames of {bytes} bytes");
            if offload == "off" {
                assert_eq!(frames, COUNT, "{family:?}: not one frame a datagram");
            } else {
                assert!((1..=3).contains(&frames), "{family:?}: {frames} frames punted");
            }
        }
        weir.apply("deny.yaml", &example("deny-all-for-testweb"));
        let enforced = [denied("curl", "web", Tcp), reaches("node", "web", Tcp)];
        let found = differences(&lab, &enforced);
        assert!(found.is_empty(), "{found:#?}\n{}", weir.words());
    }
}

/// TCP reaches the worker in packets of many segments, and arrives as it was sent.
#[test]
fn bulk_reaches_the_worker_uncut() {
    let Some(_turn) = turn() else { return };
    const BYTES: usize = 20_000_000;
    const ETHERNET_MTU: u64 = 1500;
    let (lab, folder) = node(Cni::Ptp);
    let options = ["--io", "tap", "--workers", "1", "--offload", "off"];
    let weir = Weir::start(&lab, folder, &options);
    for family in Family::BOTH {
        let to = SocketAddr::from((lab.address("web", family), 9100));
        let listener = lab.within("web", || TcpListener::bind(to).unwrap());
        let before = settled(&weir);
        let pattern = |at: usize| (at.wrapping_mul(0x9e37_79b9) >> 8) as u8;
        let sent: Vec<u8> = (0..BYTES).map(pattern).collect();
        // Not accepted before it is there: that would be waited for without end.
        let mut stream = connect(&lab, "curl", to, PATIENCE).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        let got = thread::scope(|scope| {
            let receiver = scope.spawn(move || {
                accepted.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut got = Vec::with_capacity(BYTES);
                accepted.read_to_end(&mut got).map(|_| got)
            });
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&sent).unwrap_or_else(|e| panic!("{e}\n{}", weir.words()));
            drop(stream);
            receiver.join().unwrap()
        });
        let got = got.unwrap_or_else(|e| panic!("{family:?}: {e}\n{}", weir.words()));
        assert!(got == sent, "{family:?}: what arrived is not what was sent");
        let grown = growth(&weir, &before);
        let (frames, bytes) = (grown("counters.rx_frames"), grown("counters.rx_bytes"));
        assert!(bytes >= BYTES as u64, "{family:?}: {bytes} bytes through the worker");
        // Acknowledgements, which are small, count as well.
        assert!(
            bytes / frames > 2 * ETHERNET_MTU,
            "{family:?}: {bytes} bytes in {frames} frames\n{}",
            weir.words()
        );
        assert_eq!(grown("steering.drop_shim"), 0, "{}", weir.words());
    }
}

/// A pod that leaves the cutting of its datagrams to the kernel (UDP_SEGMENT): the worker
/// sees them in one piece, the receiver gets each of them.
#[test]
fn datagrams_reach_the_worker_uncut() {
    let Some(_turn) = turn() else { return };
    const DATAGRAMS: usize = 20;
    const LENGTH: usize = 1200;
    let (lab, folder) = node(Cni::Ptp);
    let options = ["--io", "tap", "--workers", "1", "--offload", "off"];
    let weir = Weir::start(&lab, folder, &options);
    for (family, socat) in [(Family::V4, "UDP4-SENDTO"), (Family::V6, "UDP6-SENDTO")] {
        let to = SocketAddr::from((lab.address("web", family), 9300));
        let receiver = lab.within("web", || UdpSocket::bind(to).unwrap());
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        let sent: Vec<u8> = (0..DATAGRAMS * LENGTH).map(|at| (at / LENGTH) as u8).collect();
        let file = lab.dir().join("datagrams");
        std::fs::write(&file, &sent).unwrap();
        let before = settled(&weir);
        // SOL_UDP, UDP_SEGMENT (linux/udp.h)
        let there = format!("{socat}:{to},setsockopt-int=17:103:{LENGTH}");
        lab.command("curl", "socat", &["-u", "-b", "65000", &file.display().to_string(), &there]);
        let mut got = vec![0; 2 * LENGTH];
        for n in 0..DATAGRAMS {
            let length = receiver
                .recv(&mut got)
                .unwrap_or_else(|e| panic!("{family:?} {n}: {e}\n{}", weir.words()));
            assert_eq!(got[..length], sent[n * LENGTH..(n + 1) * LENGTH], "{family:?} {n}");
        }
        let frames = growth(&weir, &before)("counters.rx_frames");
        // Kernels before 6.2 cut for every TAP device; what is tested then is that all arrive.
        if weir.dataplane_log().contains("udp_uncut=true") {
            assert_eq!(frames, 1, "{family:?}\n{}", weir.words());
        }
    }
}
