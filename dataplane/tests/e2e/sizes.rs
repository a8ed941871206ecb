//! The smallest and the largest flow table that the command line allows.

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use crate::lab::{Cni, Family};
use crate::node::{example, node};
use crate::probe::By::Tcp;
use crate::probe::{denied, differences, reaches, serve};
use crate::turn;
use crate::weir::Weir;

const LARGEST: u64 = 16_777_216;
/// 64 bytes for each of twice as many IPv4 entries, 128 for each IPv6 one, and some to spare.
const NEEDED_KB: u64 = 6 << 20;

/// The kernel clears 4 GiB for the largest, a page at a time.
const PATIENCE: Duration = Duration::from_secs(90);

fn available_kb() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn tables_of_a_thousand_and_of_sixteen_million_flows() {
    let Some(_turn) = turn() else { return };
    for flows in [1024, LARGEST] {
        let available = available_kb();
        if flows == LARGEST && available < NEEDED_KB {
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: a table of {LARGEST} flows needs 4 GiB, and {available} kB are available"
            );
            continue;
        }
        let (lab, folder) = node(Cni::Bridge);
        serve(&lab, "kurl");
        let mut weir = Weir::start_within(
            PATIENCE,
            &lab,
            folder,
            &["--workers", "1", "--flows", &flows.to_string()],
        );
        weir.apply("deny.yaml", &example("deny-all-for-testweb"));
        let found = differences(&lab, &[denied("curl", "web", Tcp), reaches("curl", "kurl", Tcp)]);
        assert!(found.is_empty(), "{flows} flows: {found:#?}\n{}", weir.words());
        assert_eq!(weir.status()["flow_capacity"], serde_json::json!([2 * flows, flows]));
        // What one pod opens is in the table, each flow once.
        let to = lab.address("kurl", Family::V4).to_string();
        let of_curl = |flow: &&serde_json::Value| flow["dst"] == to;
        assert!(weir.flows().iter().filter(of_curl).count() >= 1, "{}", weir.words());
    }
}
