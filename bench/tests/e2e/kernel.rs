//! `scripts/pktgen-kernel`: what it tells the kernel, and what it says where the kernel has no
//! pktgen.

use std::process::{Command, Output};

use serde_json::Value;

use crate::net::{Family, Net, turn};

fn script(words: &str) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/pktgen-kernel");
    Command::new(script)
        .args(words.split_whitespace())
        .env("WEIR_BENCH", env!("CARGO_BIN_EXE_weir-bench"))
        .output()
        .unwrap()
}

fn dry(words: &str) -> String {
    let ends = "--client a --server b --from 10.0.0.1 --to 10.0.0.2 --pin 1 --dry-run";
    let out = script(&format!("{ends} {words}"));
    assert!(out.status.success(), "{words}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn the_kernel_is_told_the_same_scenario() {
    let told = dry("--size 128 --flows 10 --rate 5000 --duration 2");
    for line in [
        "kpktgend_1 add_device eth0@1",
        "eth0@1 count 10000",
        "eth0@1 pkt_size 124",
        "eth0@1 src_min 10.0.0.1",
        "eth0@1 dst_max 10.0.0.2",
        "eth0@1 udp_src_min 20000",
        "eth0@1 udp_src_max 20010",
        "eth0@1 ratep 5000",
        "pgctrl start",
    ] {
        assert!(told.lines().any(|told| told == line), "{line} is missing in:\n{told}");
    }
    assert!(dry("--size IMIX").contains("eth0@1 imix_weights 60,7 566,4 1514,1\n"));
}

#[test]
fn what_the_kernel_cannot_do_is_a_mistake_on_the_command_line() {
    for (words, why) in [
        ("--from 10.0.0.1-10.0.0.9 --to 10.0.0.2", "one address each"),
        ("--from fd00::1 --to 10.0.0.2", "two families"),
        ("--from fd00::1 --to fd00::2", "78 bytes"),
        ("--from 10.0.0.1 --to 10.0.0.2 --size 63", "64 to 1518"),
        ("--from 10.0.0.1 --to 10.0.0.2 --flows 40000", "--sport must hold all"),
    ] {
        let out = script(&format!("--client a --server b {words}"));
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{words}: {said}");
        assert!(said.contains(why), "{words}: {said}");
    }
}

/// Where the kernel has it, frames arrive; where not, the reason is the result.
#[test]
fn the_kernels_own_generator_sends_or_says_why_not() {
    let Some(_turn) = turn() else { return };
    let net = Net::new();
    let (client, server) = (net.path("client"), net.path("server"));
    let (from, to) = (net.address(Family::V4, "client"), net.address(Family::V4, "server"));
    let words = format!(
        "--client {} --server {} --from {from} --to {to} --count 500 --rate 1000 -o json",
        client.display(),
        server.display()
    );
    let out = script(&words);
    let said = String::from_utf8_lossy(&out.stderr);
    let found: Value = serde_json::from_slice(&out.stdout).unwrap();
    if let Some(reason) = found["unavailable"].as_str() {
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(reason.contains("pktgen") && reason.contains("CONFIG_NET_PKTGEN"), "{reason}");
        crate::net::say(format!("SKIPPED: the kernel's pktgen: {reason}"));
        return;
    }
    assert!(out.status.success(), "{said}");
    assert_eq!((&found["sent"], &found["io"]), (&500.into(), &"pktgen".into()), "{found}");
    assert!(found["received"].as_u64().unwrap() >= 500, "{found}");
}
