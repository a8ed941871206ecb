//! What the hooks do while no worker serves: undecided packets of pods are dropped, the
//! node still reaches its pods, and everything goes on where it was afterwards.

use std::fs;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::MapData;
use weir_table::abi;
use weir_table::mem::{Access, SharedWords, Words};
use weir_table::{ADDRESS_FILE, TABLE_FILE};

use crate::clock::now_ns;
use crate::lab::{Cni, Family, Lab};
use crate::node::{count, example, node};
use crate::probe::By::Tcp;
use crate::probe::{denied, differences, reaches, serve, settle};
use crate::turn;
use crate::weir::Weir;

const SECOND: u64 = 1_000_000_000;

/// Says that worker 0 gave its last sign of life at a time, in nanoseconds.
fn set_heartbeat(lab: &Lab, at: u64) {
    let data = MapData::from_pin(lab.node_path("/sys/fs/bpf/weir/weir_config")).unwrap();
    let words = abi::CONFIG_WORDS as usize;
    let config =
        SharedWords::map(data.fd().as_fd(), words, Access::ReadWrite, "weir_config").unwrap();
    config.words()[abi::CONFIG_HEARTBEAT as usize].store(at, Ordering::Relaxed);
}

/// Sends one datagram from `curl` to `web`; whether a hook punted it rather than
/// dropping it for want of a worker. It may have to wait for the gateway's address to be
/// resolved before it reaches the hook.
fn is_punted(weir: &Weir<'_>, lab: &Lab) -> bool {
    let before = weir.status();
    let socket = lab.within("curl", || UdpSocket::bind(("0.0.0.0", 0)).unwrap());
    socket.send_to(b"x", (lab.address("web", Family::V4), 9)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        let after = weir.status();
        let grown = |name| count(&after, name) - count(&before, name);
        let (punted, dropped) = (grown("steering.punted"), grown("steering.drop_no_worker"));
        if punted + dropped > 0 || Instant::now() > deadline {
            assert_eq!(punted + dropped, 1, "one datagram: {punted} punted, {dropped} dropped");
            return punted == 1;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_hung_worker_is_noticed_by_its_heartbeat() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Ptp);
    let mut weir = Weir::start(&lab, folder, &["--workers", "1", "--offload", "off"]);
    let frozen = weir.freeze();

    set_heartbeat(&lab, now_ns());
    assert!(is_punted(&weir, &lab), "a sign of life just now");
    // The worker writes while a hook reads: its time may be later than the hook's.
    set_heartbeat(&lab, now_ns() + SECOND);
    assert!(is_punted(&weir, &lab), "a sign of life later than the hook's clock");
    set_heartbeat(&lab, now_ns() - 60 * SECOND);
    assert!(!is_punted(&weir, &lab), "no sign of life for a minute");
    let closed = [denied("curl", "web", Tcp), reaches("node", "web", Tcp)];
    settle(&mut weir, &lab, "while the worker hangs", &closed);

    drop(frozen);
    settle(&mut weir, &lab, "it goes on", &[reaches("curl", "web", Tcp)]);
}

#[test]
fn a_killed_daemon_closes_its_pods_and_its_successor_resumes() {
    let Some(_turn) = turn() else { return };
    for (attach, io) in [("tcx", "af_xdp"), ("clsact", "af_xdp"), ("tcx", "tap")] {
        let options = ["--workers", "1", "--attach", attach, "--io", io];
        let (lab, folder) = node(Cni::Bridge);
        serve(&lab, "kurl");
        let mut weir = Weir::start(&lab, folder, &options);
        weir.apply("deny.yaml", &example("deny-all-for-testweb"));
        let enforced =
            [denied("curl", "web", Tcp), reaches("curl", "kurl", Tcp), reaches("node", "web", Tcp)];
        settle(&mut weir, &lab, "before", &enforced);

        weir.kill();
        let closed = [
            denied("curl", "kurl", Tcp),
            reaches("node", "web", Tcp),
            reaches("node", "kurl", Tcp),
        ];
        let found = differences(&lab, &closed);
        assert!(found.is_empty(), "{attach}, nobody runs: {found:#?}\n{}", weir.words());

        // Control is still dead: what was enforced last is resumed from the run directory.
        weir.start_dataplane(&options);
        let found = differences(&lab, &enforced);
        assert!(found.is_empty(), "{attach}, resumed: {found:#?}\n{}", weir.words());

        // A successor that attaches the other way, or has the other kind of weir0, leaves
        // nothing of its predecessor's.
        weir.kill();
        let other = if attach == "tcx" { "clsact" } else { "tcx" };
        let other_io = if io == "tap" { "af_xdp" } else { "tap" };
        weir.start_dataplane(&["--workers", "1", "--attach", other, "--io", other_io]);
        let found = differences(&lab, &enforced);
        assert!(
            found.is_empty(),
            "{attach} {io}, then {other} {other_io}: {found:#?}\n{}",
            weir.words()
        );

        // Without what was saved a successor knows no policy: the hooks that it finds stay
        // closed, whatever kind of weir0 they were made for, until control speaks.
        weir.kill();
        for file in [ADDRESS_FILE, TABLE_FILE] {
            fs::remove_file(lab.node_path("/run/weir").join(file)).unwrap();
        }
        weir.start_dataplane(&options);
        let found = differences(&lab, &closed);
        assert!(found.is_empty(), "{attach} {io}, no table: {found:#?}\n{}", weir.words());
        weir.start_control();
        settle(&mut weir, &lab, "control is back", &enforced);
    }
}
