//! Dropped packets, told one by one: `weir drops` says why, by whose policy, between which
//! pods; `weir capture` makes a file of them that others read. A flood of them is a sample,
//! and is counted in full.

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::lab::{Cni, Family, Lab, text};
use crate::node::{example, growth, node, settled};
use crate::ready::{self, Has};
use crate::turn;
use crate::weir::{Weir, binary};
use crate::wire::{Wire, packet};

const PATIENCE: Duration = Duration::from_secs(10);
/// How long the recorder and the CLI may take together.
const SOON: Duration = Duration::from_millis(300);

/// What `weir drops -o json` says.
fn drops(lab: &Lab, arguments: &[&str]) -> Vec<Value> {
    let mut all = vec!["drops", "-o", "json", "--last", "100000"];
    all.extend(arguments);
    let out = lab.command("node", &binary("weir"), &all);
    text(&out).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits until a drop shows that has these fields.
fn wait_for(lab: &Lab, weir: &Weir<'_>, expected: &[(&str, Value)]) -> Value {
    let start = Instant::now();
    loop {
        let rows = drops(lab, &[]);
        let fits = |row: &&Value| expected.iter().all(|(field, value)| row[*field] == *value);
        if let Some(row) = rows.iter().find(fits) {
            return row.clone();
        }
        assert!(
            start.elapsed() < PATIENCE,
            "no drop with {expected:?} among\n{}\n{}",
            rows.iter().map(Value::to_string).collect::<Vec<_>>().join("\n"),
            weir.words()
        );
        thread::sleep(Duration::from_millis(50));
    }
}

fn send_udp(lab: &Lab, from: &str, to: (&str, u16), family: Family) {
    let source = (lab.address(from, family), 0);
    let socket = lab.within(from, || UdpSocket::bind(source).unwrap());
    socket.send_to(b"denied", (lab.address(to.0, family), to.1)).unwrap();
}

/// A datagram under a source address that is not the pod's.
fn forged(lab: &Lab) -> Vec<u8> {
    let (own, to) = (lab.mac("curl"), lab.mac("web"));
    let mut frame = Vec::new();
    packet((own, to), ("192.0.2.9".parse().unwrap(), lab.address("web", Family::V4)))
        .udp(7, 9611)
        .write(&mut frame, b"x")
        .unwrap();
    frame
}

/// A frame with a VLAN tag.
fn tagged(lab: &Lab) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(lab.mac("curl"), lab.mac("web"))
        .single_vlan(5.try_into().unwrap())
        .ipv4([10, 9, 9, 9], [10, 9, 9, 8], 64)
        .udp(7, 9612)
        .write(&mut frame, b"x")
        .unwrap();
    frame
}

#[test]
fn a_drop_says_why_by_whose_policy_and_between_which_pods() {
    let Some(_turn) = turn() else { return };
    for offload in ["on", "off"] {
        let (lab, folder) = node(Cni::Bridge);
        let mut weir = Weir::start(&lab, folder, &["--workers", "1", "--offload", offload]);
        weir.apply("deny.yaml", &example("deny-all-for-testweb"));
        let generation = weir.generation();
        let pods = |from: &str, to: &str| {
            [
                ("src_pod", Value::from(format!("default/{from}"))),
                ("dst_pod", Value::from(format!("default/{to}"))),
            ]
        };
        for family in Family::BOTH {
            let address = |pod: &str| Value::from(lab.address(pod, family).to_string());
            let denied = |protocol: &str, more: &[(&'static str, Value)]| {
                let mut expected = vec![
                    ("reason", Value::from("policy_ingress")),
                    ("direction", Value::from("egress")),
                    ("protocol", Value::from(protocol)),
                    ("src", address("curl")),
                    ("dst", address("web")),
                    ("policy", Value::from("default/deny-all-for-testweb")),
                    ("rule", Value::Null),
                    ("generation", Value::from(generation)),
                    ("pod", Value::from("default/curl")),
                ];
                expected.extend(pods("curl", "web"));
                expected.extend(more.iter().cloned());
                wait_for(&lab, &weir, &expected)
            };
            // The first is a worker's, and with offload the second the hook's.
            for by in ["worker 0", if offload == "on" { "kernel" } else { "worker 0" }] {
                send_udp(&lab, "curl", ("web", 9601), family);
                let row = denied("UDP", &[("dport", Value::from(9601)), ("by", Value::from(by))]);
                assert!(row["sport"].as_u64().unwrap() > 0 && row["length"].as_u64() > Some(40));
                assert!(row["device"].as_str().is_some_and(|name| !name.is_empty()), "{row}");
            }
            let target = lab.address("web", family).to_string();
            lab.attempt("curl", "ping", &["-c", "1", "-W", "1", &target]);
            let icmp = if family == Family::V4 { "ICMP" } else { "ICMPv6" };
            denied(icmp, &[("dport", Value::Null)]);
            let target = (lab.address("web", family), 9602).into();
            let connect = || std::net::TcpStream::connect_timeout(&target, SOON).is_ok();
            assert!(!lab.within("curl", connect));
            denied("TCP", &[("dport", Value::from(9602))]);
        }

        let mut wire = Wire::of(&lab, "curl");
        wire.send(&forged(&lab));
        wire.send(&tagged(&lab));
        wire.flush();
        let row = wait_for(
            &lab,
            &weir,
            &[("reason", "spoofed_source".into()), ("src", "192.0.2.9".into())],
        );
        assert_eq!((&row["src_pod"], &row["dst_pod"]), (&Value::Null, &"default/web".into()));
        assert_eq!((&row["pod"], &row["policy"]), (&"default/curl".into(), &Value::Null));
        let row = wait_for(&lab, &weir, &[("reason", "l2".into()), ("dport", 9612.into())]);
        assert_eq!((&row["by"], &row["pod"]), (&"kernel".into(), &"default/curl".into()));
        assert_eq!(row["src"], "10.9.9.9", "the packet behind the tag");

        // Filters, and a table for people.
        let by_pod = drops(&lab, &["--pod", "default/web", "--reason", "spoofed_source"]);
        assert!(!by_pod.is_empty() && by_pod.iter().all(|row| row["reason"] == "spoofed_source"));
        assert!(drops(&lab, &["--pod", "default/kurl"]).is_empty());
        let table = text(&lab.command("node", &binary("weir"), &["drops"]));
        for part in ["default/curl", "default/deny-all-for-testweb", "spoofed_source", "left out"] {
            assert!(table.contains(part), "{part}:\n{table}");
        }
        weir.assert_alive();
    }
}

/// An open flow that a change cuts is told with the policy that cut it, whichever end sends.
#[test]
fn a_flow_that_was_cut_names_the_policy_that_cut_it() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let mut weir = Weir::start(&lab, folder, &["--workers", "1"]);
    let (curl, web) = (lab.address("curl", Family::V4), lab.address("web", Family::V4));
    let server = lab.within("web", || UdpSocket::bind((web, 9603)).unwrap());
    let client = lab.within("curl", || UdpSocket::bind((curl, 9604)).unwrap());
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send_to(b"x", (web, 9603)).unwrap();
    server.recv(&mut [0; 8]).unwrap();
    server.send_to(b"x", (curl, 9604)).unwrap();
    weir.apply("deny.yaml", &example("deny-all-for-testweb"));
    client.send_to(b"x", (web, 9603)).unwrap();
    server.send_to(b"x", (curl, 9604)).unwrap();
    for (src_pod, dst_pod) in [("default/curl", "default/web"), ("default/web", "default/curl")] {
        let row = wait_for(
            &lab,
            &weir,
            &[
                ("reason", "flow_cut".into()),
                ("src_pod", src_pod.into()),
                ("dst_pod", dst_pod.into()),
            ],
        );
        assert_eq!(row["policy"], "default/deny-all-for-testweb", "{row}");
    }
}

/// What a flood is told of stays within its budget; all of it is counted, and another reason
/// shows meanwhile.
#[test]
fn a_flood_of_drops_is_a_sample_and_hides_no_other_reason() {
    const PACKETS: u64 = 60_000;
    let Some(_turn) = turn() else { return };
    for offload in ["on", "off"] {
        let (lab, folder) = node(Cni::Bridge);
        let mut weir = Weir::start(&lab, folder, &["--workers", "1", "--offload", offload]);
        weir.apply("deny.yaml", &example("deny-all-for-testweb"));
        let mut wire = Wire::of(&lab, "curl");
        let (curl, web) = (lab.address("curl", Family::V4), lab.address("web", Family::V4));
        let socket = lab.within("curl", || UdpSocket::bind((curl, 9605)).unwrap());
        let (before, start) = (settled(&weir), Instant::now());
        for n in 0..PACKETS {
            socket.send_to(b"x", (web, 9606)).unwrap();
            if n == PACKETS / 2 {
                wire.send(&tagged(&lab));
            }
            // What a worker cannot take is lost on the way to it, and no drop of Weir's.
            if offload == "off" && n % 64 == 63 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        wire.flush();
        thread::sleep(SOON);
        let elapsed = start.elapsed().as_secs_f64();
        let grown = growth(&weir, &before);
        let lost = grown("steering.punted").saturating_sub(grown("counters.rx_frames"));
        let counted = grown("drops.policy_ingress");
        assert_eq!(counted + lost, PACKETS, "{offload}\n{}", weir.words());
        assert!(lost < PACKETS / 2, "{lost} never reached a worker");

        let rows = drops(&lab, &["--reason", "policy_ingress"]);
        let left_out: u64 = rows.iter().map(|row| row["left_out"].as_u64().unwrap()).sum();
        // One budget over all CPUs and the worker, 194 a second after 50.
        let most = 50.0 + 195.0 * elapsed;
        let told = rows.len() as u64;
        eprintln!(
            "offload {offload}: {counted} drops, {told} told of {most:.0} at most, {left_out} known to be left out"
        );
        assert!(told >= 50 && (told as f64) <= most, "{told} told");
        assert!(told + left_out <= counted && left_out > counted / 4, "{left_out} left out");
        wait_for(&lab, &weir, &[("reason", "l2".into()), ("dport", 9612.into())]);
    }
}

/// A command of `weir` that runs until it is told to end.
struct Running(Child);

impl Running {
    fn start(lab: &Lab, arguments: &[&str]) -> Self {
        let mut command = lab.enter("node", &binary("weir"));
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        ready::wait_until(&mut child, Has::Handlers);
        Self(child)
    }

    /// Ctrl-C; what it had printed.
    fn interrupt(mut self) -> String {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        let mut out = String::new();
        std::io::Read::read_to_string(&mut self.0.stdout.take().unwrap(), &mut out).unwrap();
        let status = self.0.wait().unwrap();
        assert_eq!(status.code(), Some(0), "Ctrl-C is no failure");
        out
    }
}

#[test]
fn a_capture_is_read_by_others_with_the_reason_as_comment() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Bridge);
    let mut weir = Weir::start(&lab, folder, &["--workers", "1"]);
    weir.apply("deny.yaml", &example("deny-all-for-testweb"));
    let file = lab.dir().join("drops.pcapng");
    let path = file.to_str().unwrap();
    let capture = Running::start(&lab, &["capture", "--drops", "-w", path]);
    let follow = Running::start(&lab, &["drops", "--follow", "--last", "0", "-o", "json"]);
    let mut wire = Wire::of(&lab, "curl");
    for family in Family::BOTH {
        for _ in 0..2 {
            send_udp(&lab, "curl", ("web", 9607), family);
            thread::sleep(Duration::from_millis(50));
        }
    }
    wire.send(&tagged(&lab));
    wire.flush();
    wait_for(&lab, &weir, &[("reason", "l2".into())]);
    thread::sleep(SOON);
    capture.interrupt();
    let followed = follow.interrupt();

    let fields = ["frame.comment", "ip.src", "ipv6.src", "udp.dstport", "vlan.id", "frame.len"];
    let lines = tshark(&file, &fields);
    let (v4, v6) = (lab.address("curl", Family::V4), lab.address("curl", Family::V6));
    let denied: Vec<&Vec<String>> = lines.iter().filter(|line| line[3] == "9607").collect();
    assert_eq!(denied.len(), 4, "{lines:#?}");
    for line in &denied {
        for part in [
            "reason=policy_ingress",
            "direction=egress",
            "policy=default/deny-all-for-testweb",
            "src_pod=default/curl",
            "dst_pod=default/web",
        ] {
            assert!(line[0].contains(part), "{part}: {line:?}");
        }
    }
    let of = |address: String| denied.iter().filter(|l| l[1] == address || l[2] == address).count();
    assert_eq!((of(v4.to_string()), of(v6.to_string())), (2, 2), "{lines:#?}");
    // Ethernet, IPv4, UDP, 6 bytes.
    assert!(denied.iter().any(|line| line[5] == (14 + 20 + 8 + 6).to_string()), "{lines:#?}");
    let tagged: Vec<&Vec<String>> =
        lines.iter().filter(|line| line[0].contains("reason=l2")).collect();
    assert!(tagged.iter().any(|line| line[4] == "5" && line[3] == "9612"), "{lines:#?}");

    // tcpdump opens it, too, and reads as many packets.
    let out = Command::new("tcpdump").args(["-nn", "-r", path]).output().unwrap();
    assert!(out.status.success(), "tcpdump: {}", text(&out.stderr));
    assert_eq!(text(&out.stdout).lines().count(), lines.len());

    // Who followed meanwhile has seen the same.
    let rows: Vec<Value> =
        followed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.len() >= lines.len(), "{followed}");

    // A count ends it by itself, with what is recorded already; standard output will do.
    let out = lab.command(
        "node",
        &binary("weir"),
        &["capture", "--drops", "-w", "-", "--last", "100", "--count", "3", "--pod", "default/web"],
    );
    std::fs::write(&file, out).unwrap();
    assert_eq!(tshark(&file, &["frame.number"]).len(), 3);
}

/// The fields of each packet of a file, by tshark.
fn tshark(file: &Path, fields: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(["-T", "fields", "-E", "separator=|", "-E", "occurrence=f"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let out = command.output().expect("tshark: scripts/setup installs it");
    assert!(out.status.success(), "tshark: {}", text(&out.stderr));
    text(&out.stdout).lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
}
