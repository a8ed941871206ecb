//! `weir-bench pktgen` from many addresses to many.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::net::{Family, Net, result, turn};

/// Frames of a run, and how many each of four sources sends to each of three destinations.
const FRAMES: u64 = 600;
const EACH: u64 = FRAMES / (4 * 3);

/// What the router counts for each pair of addresses.
fn watch(net: &Net, family: Family) {
    let (kind, own) = match family {
        Family::V4 => ("ipv4_addr", "ip"),
        Family::V6 => ("ipv6_addr", "ip6"),
    };
    let set = format!("add set inet t s {{ type {kind} . {kind}; flags dynamic; counter; }}");
    net.run("router", "nft", &["add table inet t"]);
    net.run("router", "nft", &[&set]);
    net.run("router", "nft", &["add chain inet t f { type filter hook forward priority 0; }"]);
    // Only frames that count are as long (230 bytes without Ethernet's 18: SCTP's without
    // padding); what conntrack finds invalid is lost.
    net.run("router", "nft", &["add rule inet t f ct state invalid drop"]);
    let rule =
        format!("add rule inet t f meta length 212 update @s {{ {own} saddr . {own} daddr }}");
    net.run("router", "nft", &[&rule]);
}

/// Frames by the pair of addresses between which they went.
fn counted(net: &Net) -> BTreeMap<(String, String), u64> {
    let text = net.run("router", "nft", &["-j", "list", "set", "inet", "t", "s"]);
    let listed: Value = serde_json::from_str(&text).unwrap();
    let set = listed["nftables"].as_array().unwrap().iter().find_map(|it| it.get("set")).unwrap();
    let elements = set["elem"].as_array().into_iter().flatten();
    elements
        .map(|element| {
            let element = &element["elem"];
            let end = |n: usize| element["val"]["concat"][n].as_str().unwrap().to_owned();
            ((end(0), end(1)), element["counter"]["packets"].as_u64().unwrap())
        })
        .collect()
}

/// Sources are the client's own addresses, destinations are routed to the server; and the other
/// way round.
#[test]
fn each_source_sends_to_each_destination() {
    let Some(_turn) = turn() else { return };
    for (family, protocol) in [
        (Family::V4, "udp"),
        (Family::V6, "udp"),
        (Family::V4, "tcp"),
        (Family::V6, "tcp"),
        (Family::V4, "sctp"),
        (Family::V6, "sctp"),
    ] {
        for (io, routed) in [("af_xdp", "server"), ("af_packet", "client")] {
            let net = Net::new();
            let (own, owner) = if routed == "server" { (1, "client") } else { (2, "server") };
            for host in 10..14 {
                net.own(owner, "eth0", family, &family.address(own, host));
            }
            let far =
                format!("{}/{}", family.address(77, 0), if family == Family::V4 { 24 } else { 64 });
            let via = net.address(family, routed);
            net.run("router", "ip", &[family.flag(), "route", "add", &far, "via", &via]);
            let range = |subnet: u8, last: u8| {
                format!("{}-{}", family.address(subnet, 10), family.address(subnet, last))
            };
            let (from, to) = if routed == "server" { (1, 77) } else { (77, 2) };
            watch(&net, family);
            let options = format!(
                "--io {io} --protocol {protocol} --size 230 --flows 24 --rate 3000 --count {FRAMES}"
            );
            let found = result(net.start_between((&range(from, 13), &range(to, 12)), &options));
            for (name, value) in [
                ("sent", FRAMES),
                ("received", FRAMES),
                ("lost", 0),
                ("sources", 4),
                ("destinations", 3),
            ] {
                assert_eq!(found[name], value, "{family:?} {protocol} {name}: {found}");
            }
            let counted = counted(&net);
            assert_eq!(counted.len(), 12, "{counted:?}");
            for source in 10..14 {
                for destination in 10..13 {
                    let pair = (family.address(from, source), family.address(to, destination));
                    assert_eq!(counted.get(&pair), Some(&EACH), "{pair:?} of {counted:?}");
                }
            }
        }
    }
}

/// What nobody routes is named, with the addresses.
#[test]
fn an_address_that_leads_nowhere_is_told() {
    let Some(_turn) = turn() else { return };
    let net = Net::new();
    net.own("server", "eth0", Family::V4, "198.18.2.3");
    let ends = ("198.18.1.2", "198.18.2.2-198.18.2.4");
    let out = net.start_between(ends, "--flows 3 --count 10").wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{words}");
    let first = "1 of 3 flows are not answered, the first from 198.18.1.2:20000 to 198.18.2.4:9000";
    assert!(words.contains(first), "{words}");
}
