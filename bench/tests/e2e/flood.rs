//! `weir-bench flood`: what it sends is what it was told to.

use serde_json::Value;

use crate::net::{Family, Net, turn};

/// Frames of a length that the client has sent, as the router counted them.
fn counted(net: &Net, name: &str) -> u64 {
    let json = net.run("router", "nft", &["-j", "list", "counter", "inet", "t", name]);
    let json: Value = serde_json::from_str(&json).unwrap();
    let found = json["nftables"].as_array().unwrap().iter().find_map(|it| it.get("counter"));
    found.unwrap()["packets"].as_u64().unwrap()
}

/// 16 exchanges, every flow once, a warm-up and two slices: of the mix, 7 of 12 frames are the
/// smallest, 4 the middle one, whatever they are sent for.
#[test]
fn a_mix_is_sent_in_its_proportions_over_either_family() {
    let Some(_turn) = turn() else { return };
    for (family, least, own) in [(Family::V4, 64_u32, "ip"), (Family::V6, 78, "ip6")] {
        for (flows, sent_for_flows) in [(12, 12), (1, 0)] {
            let net = Net::new();
            let (from, to) = (net.address(family, "client"), net.address(family, "server"));
            net.run("router", "nft", &["add table inet t"]);
            let chain = "add chain inet t f { type filter hook forward priority 0; }";
            net.run("router", "nft", &[chain]);
            for size in [least, 570, 1518] {
                net.run("router", "nft", &[&format!("add counter inet t s{size}")]);
                let rule = format!(
                    "add rule inet t f {own} saddr {from} meta l4proto udp meta length {} \
                     counter name s{size}",
                    size - 18
                );
                net.run("router", "nft", &[&rule]);
            }
            let (client, server) = (net.path("client"), net.path("server"));
            let words = format!(
                "flood --client {} --server {} --from {from} --to {to} --size IMIX --flows {flows} \
                 --packets 1200 --slices 2",
                client.display(),
                server.display()
            );
            let words: Vec<&str> = words.split_whitespace().collect();
            let text = net.run("router", env!("CARGO_BIN_EXE_weir-bench"), &words);
            let found: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(found["sent"], 300 + 2 * 1200, "{found}");
            let sent: u64 = 16 + sent_for_flows + 300 + 2 * 1200;
            let mix = [least, 570, least, least, 570, least, 1518, least, 570, least, least, 570];
            for size in [least, 570, 1518] {
                let at = |n: &u64| mix[usize::try_from(n % 12).unwrap()];
                let wanted = (0..sent).filter(|n| at(n) == size).count() as u64;
                let name = format!("s{size}");
                assert_eq!(counted(&net, &name), wanted, "{family:?}, {flows} flows, {size} bytes");
            }
        }
    }
}
