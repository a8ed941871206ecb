//! The whole exercise in every combination of wiring, attachment, workers
//! and family: what clients see, and proof from the counters of which way the
//! packets went: through the AF_XDP sockets or the TAP device, or, once decided, through the
//! kernel.

use std::time::Duration;

use crate::lab::{Cni, Family, Lab};
use crate::node::{count, example, frames_by_worker, node};
use crate::probe::By::{Icmp, Tcp, Udp};
use crate::probe::{self, Probe, connect, denied, differences, echoes, reaches};
use crate::turn;
use crate::weir::Weir;

const DEFAULT: &[Probe] = &[
    reaches("curl", "web", Tcp),
    reaches("curl", "web", Udp),
    reaches("curl", "web", Icmp),
    reaches("kurl", "web", Tcp),
    reaches("node", "web", Tcp),
    reaches("outside", "web", Tcp),
    reaches("outside", "web", Icmp),
];

const DENY_ALL: &[Probe] = &[
    denied("curl", "web", Tcp),
    denied("curl", "web", Udp),
    denied("curl", "web", Icmp),
    denied("kurl", "web", Tcp),
    denied("outside", "web", Tcp),
    denied("outside", "web", Icmp),
    reaches("node", "web", Tcp),
    reaches("node", "web", Icmp),
    reaches("curl", "kurl", Icmp),
    // Isolated for ingress only: what it asks for itself, it gets.
    reaches("web", "curl", Icmp),
];

const ALLOW_BY_LABEL: &[Probe] = &[
    reaches("curl", "web", Tcp),
    reaches("curl", "web", Udp),
    reaches("curl", "web", Icmp),
    denied("kurl", "web", Tcp),
    denied("kurl", "web", Icmp),
    denied("outside", "web", Tcp),
    reaches("node", "web", Tcp),
];

/// `curl` may send UDP to port 5353 of `web` and nothing else, and receive nothing.
const ASK_ONLY: &[Probe] = &[
    reaches("curl", "web", Udp),
    denied("curl", "web", Tcp),
    denied("curl", "kurl", Icmp),
    denied("kurl", "curl", Icmp),
    denied("outside", "curl", Icmp),
    reaches("node", "curl", Icmp),
    reaches("kurl", "web", Tcp),
];

fn cell(cni: Cni, attach: &str, workers: usize, offload: &str) {
    cell_by("af_xdp", cni, attach, workers, offload);
}

fn cell_by(io: &str, cni: Cni, attach: &str, workers: usize, offload: &str) {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(cni);
    let workers_option = workers.to_string();
    let options =
        ["--io", io, "--attach", attach, "--workers", &workers_option, "--offload", offload];
    let mut weir = Weir::start(&lab, folder, &options);
    let before = weir.status();

    expect(&mut weir, &lab, "no policy", DEFAULT);
    let mut open = Family::BOTH.map(|family| {
        let web = (lab.address("web", family), probe::TCP_PORT).into();
        connect(&lab, "curl", web, Duration::from_secs(3)).unwrap()
    });
    for stream in &mut open {
        assert!(echoes(stream, Duration::from_secs(3)), "an open connection works");
    }

    weir.apply("deny.yaml", &example("deny-all-for-testweb"));
    for stream in &mut open {
        let still = echoes(stream, Duration::from_millis(400));
        assert!(!still, "deny-all cuts an open connection\n{}", weir.words());
    }
    expect(&mut weir, &lab, "deny-all-for-testweb", DENY_ALL);

    weir.apply("allow.yaml", &example("allow-testcurl-for-testweb"));
    expect(&mut weir, &lab, "allow-testcurl-for-testweb", ALLOW_BY_LABEL);

    weir.withdraw("deny.yaml");
    weir.withdraw("allow.yaml");
    let ask_only = example("ask-only-over-udp")
        .replace("run: asker", "run: testcurl")
        .replace("run: answerer", "run: testweb");
    weir.apply("ask.yaml", &ask_only);
    expect(&mut weir, &lab, "ask-only-over-udp", ASK_ONLY);

    weir.withdraw("ask.yaml");
    expect(&mut weir, &lab, "all policies deleted", DEFAULT);

    if offload == "on" {
        went_through_the_kernel(&weir, &before);
    } else {
        went_through_user_space(&weir, &before);
    }
    attached_as_told(&lab, attach);
    if workers > 1 {
        all_workers_work(&weir, &lab, workers);
    }
}

fn expect(weir: &mut Weir<'_>, lab: &Lab, state: &str, probes: &[Probe]) {
    let found = differences(lab, probes);
    weir.assert_alive();
    assert!(found.is_empty(), "{state}: {found:#?}\n{}", weir.words());
}

/// Every allowed probe is at least a question and an answer, each through a
/// worker once: punted, received from the socket, sent by it, returned.
fn went_through_user_space(weir: &Weir<'_>, before: &serde_json::Value) {
    let after = weir.status();
    let from_pods = |probes: &[Probe]| {
        probes.iter().filter(|probe| probe.allowed && probe.from != "node").count() as u64
    };
    let steps = [DEFAULT, DENY_ALL, ALLOW_BY_LABEL, ASK_ONLY, DEFAULT];
    let least = 2 * 2 * steps.into_iter().map(from_pods).sum::<u64>(); // families, directions
    for name in ["steering.punted", "counters.rx_frames", "counters.tx_frames", "steering.returned"]
    {
        let grown = count(&after, name) - count(before, name);
        assert!(grown >= least, "{name} grew by {grown}, not {least}\n{}", weir.words());
    }
}

/// The first packets of flows went through a worker, the others did not; and a hook that
/// has heard of one connection opens the next like it by itself.
fn went_through_the_kernel(weir: &Weir<'_>, before: &serde_json::Value) {
    let after = weir.status();
    let grown = |name| count(&after, name) - count(before, name);
    for name in [
        "steering.hit",
        "steering.opened",
        "steering.punted",
        "steering.returned",
        "counters.rx_frames",
        "steering.drop_ingress",
    ] {
        assert!(grown(name) > 0, "{name} did not grow\n{}", weir.words());
    }
    assert!(grown("counters.rx_frames") <= grown("steering.punted"));
    assert_eq!(grown("steering.drop_shim"), 0, "{}", weir.words());
}

/// clsact filters are listed by tc; tcx programs are not.
fn attached_as_told(lab: &Lab, attach: &str) {
    let links = lab.command("node", "ip", &["-o", "link", "show", "type", "veth"]);
    let links = crate::lab::text(&links);
    let veths: Vec<&str> = links
        .lines()
        .filter_map(|line| line.split([' ', '@']).nth(1))
        .filter(|name| name.starts_with("veth"))
        .collect();
    assert_eq!(veths.len(), 3, "one veth a pod: {links}");
    for veth in veths {
        for hook in ["ingress", "egress"] {
            let filters = lab.attempt("node", "tc", &["filter", "show", "dev", veth, hook]);
            let found = crate::lab::text(&filters.stdout).contains("bpf");
            assert_eq!(found, attach == "clsact", "{attach} on {veth} {hook}: tc says {filters:?}");
        }
    }
}

/// Which worker serves depends on a keyed hash of both addresses: with 64 senders
/// the chance that one of two workers stays idle is 2^-63.
fn all_workers_work(weir: &Weir<'_>, lab: &Lab, workers: usize) {
    let web = lab.address("web", Family::V4);
    let senders: Vec<String> = (0..64).map(|host| format!("198.51.100.{}", 100 + host)).collect();
    for sender in &senders {
        lab.command("outside", "ip", &["addr", "add", &format!("{sender}/24"), "dev", "eth0"]);
    }
    let before = frames_by_worker(lab);
    assert_eq!(before.len(), workers);
    lab.within("outside", || {
        for sender in &senders {
            let sender = Some(sender.parse().unwrap());
            let answered = probe::ask_udp(sender, (web, probe::UDP_PORT).into(), PATIENCE);
            assert!(answered, "{sender:?} was not answered");
        }
    });
    let after = frames_by_worker(lab);
    let idle = before.iter().zip(&after).any(|(before, after)| before == after);
    assert!(!idle, "frames by worker: {before:?}, then {after:?}\n{}", weir.words());
}

const PATIENCE: Duration = Duration::from_secs(3);

#[test]
fn bridge_tcx_one_worker() {
    cell(Cni::Bridge, "tcx", 1, "off");
}

#[test]
fn bridge_tcx_two_workers() {
    cell(Cni::Bridge, "tcx", 2, "off");
}

#[test]
fn bridge_tcx_two_workers_offload() {
    cell(Cni::Bridge, "tcx", 2, "on");
}

#[test]
fn bridge_clsact_one_worker() {
    cell(Cni::Bridge, "clsact", 1, "off");
}

#[test]
fn bridge_clsact_one_worker_offload() {
    cell(Cni::Bridge, "clsact", 1, "on");
}

#[test]
fn bridge_clsact_two_workers() {
    cell(Cni::Bridge, "clsact", 2, "off");
}

#[test]
fn ptp_tcx_one_worker() {
    cell(Cni::Ptp, "tcx", 1, "off");
}

#[test]
fn ptp_tcx_two_workers() {
    cell(Cni::Ptp, "tcx", 2, "off");
}

#[test]
fn ptp_tcx_two_workers_offload() {
    cell(Cni::Ptp, "tcx", 2, "on");
}

#[test]
fn ptp_clsact_one_worker() {
    cell(Cni::Ptp, "clsact", 1, "off");
}

#[test]
fn ptp_clsact_one_worker_offload() {
    cell(Cni::Ptp, "clsact", 1, "on");
}

#[test]
fn ptp_clsact_two_workers() {
    cell(Cni::Ptp, "clsact", 2, "off");
}

#[test]
fn tap_bridge_tcx_two_workers() {
    cell_by("tap", Cni::Bridge, "tcx", 2, "off");
}

#[test]
fn tap_bridge_clsact_one_worker_offload() {
    cell_by("tap", Cni::Bridge, "clsact", 1, "on");
}

#[test]
fn tap_ptp_clsact_one_worker() {
    cell_by("tap", Cni::Ptp, "clsact", 1, "off");
}

#[test]
fn tap_ptp_tcx_two_workers_offload() {
    cell_by("tap", Cni::Ptp, "tcx", 2, "on");
}
