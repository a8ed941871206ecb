//! After `weir uninstall` the node is as it was before Weir came: by comparison of everything
//! that a node shows.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::{Cni, Lab, text};
use crate::node::{allow_testcurl_alone, node};
use crate::probe::By::Tcp;
use crate::probe::{denied, differences, reaches};
use crate::turn;
use crate::weir::{Weir, binary};

/// Where the lab's runtime would look, and what an administrator has written there, in a way of
/// their own.
const CONF_DIR: &str = "/run/cni-conf";
const BIN_DIR: &str = "/run/cni-bin";
/// Name and content: a list, and a plugin alone.
const LIST: (&str, &str) = (
    "10-net.conflist",
    "{\"cniVersion\" : \"1.0.0\",\n\t\"name\":\"net\",\n  \"plugins\": [ {\"type\":\"bridge\"},\n\
    {\"type\":\"portmap\",\"capabilities\":{\"portMappings\":true}} ]\n\n}",
);
const ALONE: (&str, &str) =
    ("10-net.conf", "{ \"cniVersion\": \"0.4.0\",\t\"name\": \"net\", \"type\":\"ptp\" }\n");
/// weir1's namespace, and weir0 with it, goes a moment after its last holder.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is compared, by name: a script whose output must be the same. What changes by itself
/// (timers of a bridge, counters) is left out.
const SEEN: [(&str, &str); 12] = [
    ("links", "ip -d link | sed -E 's/[a-z_]+_timer +[0-9.]+//g'"),
    ("addresses", "ip -o addr | sed -E 's/valid_lft.*//'"),
    ("qdiscs", "tc qdisc"),
    (
        "filters",
        "for d in /sys/class/net/*; do for w in ingress egress; do \
         echo \"${d##*/} $w\"; tc filter show dev ${d##*/} $w 2>/dev/null; done; done",
    ),
    ("bpf file system", "find /sys/fs/bpf | sort"),
    ("routes", "ip route show table all; ip -6 route show table all"),
    ("rules", "ip rule; ip -6 rule"),
    ("iptables", "{ iptables-save; ip6tables-save; } | grep -v '^#' | sed 's/\\[.*\\]//'"),
    ("nft", "nft list ruleset | sed -E 's/packets [0-9]+ bytes [0-9]+//'"),
    ("device sysctls", "sysctl -a 2>/dev/null | grep -E '^net\\.ipv[46]\\.(conf|neigh)\\.'"),
    ("names and rights", "find /run -printf '%y %m %u %g %p\\n' | sort -k5"),
    ("files", "find /run -type f -exec sha256sum {} + 2>/dev/null | sort -k2"),
];

fn snapshot(lab: &Lab) -> BTreeMap<&'static str, String> {
    let look = |(name, script)| {
        (name, text(&lab.command("node", "sh", &["-c", &format!("{script}; true")])))
    };
    SEEN.into_iter().map(look).collect()
}

/// Lines that only one of two texts has.
fn difference(before: &str, after: &str) -> Vec<String> {
    let only = |sign: char, a: &str, b: &str| -> Vec<String> {
        let lines = a.lines().filter(|line| !b.lines().any(|other| other == *line));
        lines.map(|line| format!("{sign} {line}")).collect()
    };
    [only('-', before, after), only('+', after, before)].concat()
}

/// The host's end of a pod's interface.
fn device_of(lab: &Lab, pod: &str) -> String {
    let links = |place: &str| -> Vec<Value> {
        serde_json::from_slice(&lab.command(place, "ip", &["-json", "link"])).unwrap()
    };
    let inside = links(pod).into_iter().find(|link| link["ifname"] == "eth0").unwrap();
    let links = links("node");
    let device = links.iter().find(|link| link["ifindex"] == inside["link_index"]);
    device.unwrap()["ifname"].as_str().unwrap().to_owned()
}

#[test]
fn a_node_is_as_before_with_tcx() {
    comes_and_goes(Cni::Bridge, "tcx", LIST);
}

#[test]
fn a_node_is_as_before_with_clsact() {
    comes_and_goes(Cni::Ptp, "clsact", ALONE);
}

fn comes_and_goes(cni: Cni, attach: &str, (name, configuration): (&str, &str)) {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(cni);
    // Somebody else's qdisc, which has to stay; and tools that leave a lock when first used.
    let theirs = device_of(&lab, "kurl");
    lab.command("node", "tc", &["qdisc", "add", "dev", &theirs, "clsact"]);
    let written = lab.node_path(&format!("{CONF_DIR}/{name}"));
    fs::create_dir(written.parent().unwrap()).unwrap();
    fs::create_dir(lab.node_path(BIN_DIR)).unwrap();
    fs::write(&written, configuration).unwrap();
    snapshot(&lab);
    let before = snapshot(&lab);
    assert!(before["qdiscs"].contains("clsact") && before["device sysctls"].contains("rp_filter"));

    let mut weir = Weir::start(&lab, folder, &["--workers", "1", "--attach", attach]);
    allow_testcurl_alone(&mut weir);
    let found = differences(&lab, &[reaches("curl", "web", Tcp), denied("kurl", "web", Tcp)]);
    assert!(found.is_empty(), "{found:#?}\n{}", weir.words());
    let meanwhile = snapshot(&lab);
    for what in ["links", "bpf file system", "names and rights"] {
        assert_ne!(before[what], meanwhile[what], "{what}: Weir leaves no trace there?");
    }
    let clsact = |seen: &BTreeMap<&str, String>| seen["qdiscs"].matches("clsact").count();
    let (theirs, all) = (clsact(&before), clsact(&meanwhile));
    assert_eq!((theirs, all > theirs), (1, attach == "clsact"));

    let dirs = ["--conf-dir", CONF_DIR, "--bin-dir", BIN_DIR];
    lab.command("node", &binary("weir-cni"), &[&["install"][..], &dirs].concat());
    let chained = lab.node_path(&format!("{CONF_DIR}/10-net.conflist"));
    assert!(fs::read_to_string(chained).unwrap().contains("weir-cni"));
    assert!(lab.node_path(&format!("{BIN_DIR}/weir-cni")).exists());
    assert_eq!(written.exists(), name == LIST.0, "a plugin alone gives way to a list");

    let uninstall = || {
        let dirs = ["--cni-conf-dir", CONF_DIR, "--cni-bin-dir", BIN_DIR];
        let arguments = [&["uninstall", "-o", "json"][..], &dirs].concat();
        lab.attempt("node", &binary("weir"), &arguments)
    };
    let refused = uninstall();
    assert_eq!(refused.status.code(), Some(2), "while the daemon runs");
    assert!(text(&refused.stderr).contains("stop it first"), "{}", text(&refused.stderr));
    weir.kill();
    // Somebody has come to use a qdisc that Weir has made.
    let shared = device_of(&lab, "curl");
    let filter = "ingress protocol ip prio 50 u32 match u32 0 0 flowid 1:1";
    if attach == "clsact" {
        let add = [&["filter", "add", "dev", &shared], &*filter.split(' ').collect::<Vec<_>>()];
        lab.command("node", "tc", &add.concat());
    }
    let out = uninstall();
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    let removed: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(removed["cni"].as_array().unwrap().len(), 2, "{removed}");
    let counts = ["links", "filters", "qdiscs"].map(|what| removed[what].as_u64().unwrap());
    if attach == "tcx" {
        assert_eq!((counts, &removed["left"]), ([6, 0, 0], &Value::Array(Vec::new())));
    } else {
        let left = format!("the clsact qdisc of {shared}: filter u32 of somebody else's is in it");
        assert_eq!((counts, &removed["left"]), ([0, 6, 1], &serde_json::json!([left])));
        lab.command("node", "tc", &["qdisc", "del", "dev", &shared, "clsact"]);
        lab.command("node", "ip", &["link", "set", "dev", &shared, "txqueuelen", "0"]);
    }

    let start = Instant::now();
    loop {
        let after = snapshot(&lab);
        let changed: Vec<_> = SEEN
            .iter()
            .map(|(what, _)| (*what, difference(&before[what], &after[what])))
            .filter(|(what, lines)| !lines.is_empty() || before[what] != after[what])
            .collect();
        if changed.is_empty() {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "not as before: {changed:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(fs::read_to_string(&written).unwrap(), configuration);
    let open = [reaches("kurl", "web", Tcp), reaches("outside", "web", Tcp)];
    let found = differences(&lab, &open);
    assert!(found.is_empty(), "pods are not unrestricted: {found:#?}");
    // Once more, there is nothing to do.
    let again: Value = serde_json::from_slice(&uninstall().stdout).unwrap();
    let counts = ["links", "filters", "qdiscs", "maps", "files"].map(|what| &again[what]);
    assert!(counts.iter().all(|count| **count == 0), "{again}");
}
