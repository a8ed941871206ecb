use weir_table::counters::{CounterBlock, Counters, Direction, Reason, words_for};
use weir_table::flow::FlowState;

use super::*;

/// Two workers, of which the second hangs if `silent_ns` says so.
fn seen(silent_ns: u64) -> Seen {
    let worker = |silent_ns| WorkerSeen { silent_ns, generation: 6, busy_ns: 0 };
    Seen {
        now_ns: 10_000_000_000,
        workers: vec![worker(1_000_000), worker(silent_ns)],
        busy: vec![0.25, 0.0],
        enforced: Enforced { generation: 6, at_ns: 7_500_000_000 },
        alone_since_ns: None,
        endpoints: Tally { enforcing: true, enforced: 3, not_enforced: 0, quarantined: 1 },
        flows: FLOW_STATES.map(|state| (state, 2)).into(),
        capacity: 1024,
        hooks: (1..=STEERING_COUNTERS.len() as u64).collect(),
        punt_device_drops: Some(5),
    }
}

#[test]
fn a_worker_is_alive_for_three_seconds_after_its_last_sign() {
    assert_eq!(seen(2_999_999_999).sick(), None);
    let told = seen(4_200_000_000).sick().unwrap();
    assert_eq!(told, "worker 1 has given no sign of life for 4 s");
    assert_eq!(seen(3_000_000_000).unready(), seen(3_000_000_000).sick());
}

#[test]
fn ready_once_all_that_is_here_is_enforced() {
    assert_eq!(seen(0).unready(), None);
    let none = Seen { enforced: Enforced::default(), ..seen(0) };
    assert!(none.unready().unwrap().contains("no policy table"));
    let mut unhooked = seen(0);
    unhooked.endpoints.not_enforced = 2;
    assert!(unhooked.unready().unwrap().starts_with("2 pod interfaces are not enforced"));
    // Before hooks go on, none is missing, and nothing is enforced.
    unhooked.endpoints.enforcing = false;
    assert!(unhooked.unready().unwrap().contains("no policy table"));
}

#[test]
fn the_text_says_what_was_seen() {
    let words = Arc::new(SharedWords::heap(words_for(2)));
    let counters = Counters::init(Arc::clone(&words), 2).unwrap();
    for worker in 0..2 {
        let block = CounterBlock::new(Arc::clone(&words), worker).unwrap();
        block.add(Counter::PassedIngress, 10);
        block.add(Counter::FlowsEvicted, 4);
        block.add_drops(Direction::Ingress, Reason::PolicyIngress, 100);
    }
    let seen = seen(0);
    let hook = |name| seen.hooks[STEERING_COUNTERS.iter().position(|n| *n == name).unwrap()];
    let text = collect::text(&seen, &counters).unwrap();
    let denied = 200 + hook("drop_ingress");
    for line in [
        "# TYPE weir_packets counter",
        "weir_packets_total{direction=\"ingress\",verdict=\"allow\",reason=\"worker\"} 20",
        format!("weir_packets_total{{direction=\"ingress\",verdict=\"deny\",reason=\"policy_ingress\"}} {denied}").as_str(),
        format!("weir_packets_total{{direction=\"both\",verdict=\"allow\",reason=\"flow\"}} {}", hook("hit")).as_str(),
        format!("weir_packets_total{{direction=\"both\",verdict=\"deny\",reason=\"l2\"}} {}", hook("drop_l2")).as_str(),
        format!("weir_punts_total {}", hook("punted")).as_str(),
        "weir_punt_device_drops_total 5",
        "weir_flows{state=\"established\"} 2",
        "weir_flow_table_capacity 1024",
        "weir_flow_evictions_total{cause=\"displaced\"} 8",
        "weir_endpoints{state=\"quarantined\"} 1",
        "weir_table_generation 6",
        "weir_table_age_seconds 2.5",
        "weir_publisher_connected 1",
        "weir_publisher_gone_seconds 0",
        "weir_worker_busy_ratio{worker=\"0\"} 0.25",
        "weir_worker_heartbeat_age_seconds{worker=\"0\"} 0.001",
        "weir_worker_events_total{event=\"passed_ingress\"} 20",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}:\n{text}");
    }
    well_formed(&text);
    let alone = Seen { alone_since_ns: Some(9_000_000_000), hooks: Vec::new(), ..seen };
    let text = collect::text(&alone, &counters).unwrap();
    assert!(text.contains("weir_publisher_connected 0\n"));
    assert!(text.contains("weir_publisher_gone_seconds 1\n"));
    well_formed(&text);
}

/// As OpenMetrics wants it: each sample under its family, none twice, and a last line.
fn well_formed(text: &str) {
    let body = text.strip_suffix("# EOF\n").unwrap();
    let (mut family, mut suffix, mut names) = ("", "", Vec::new());
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            (family, suffix) = (name, if kind == "counter" { "_total" } else { "" });
        } else if !line.starts_with("# HELP ") {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().unwrap() >= 0.0, "{line}");
            let bare = name.split('{').next().unwrap();
            assert_eq!(bare, format!("{family}{suffix}"), "{line}");
            names.push(name.to_owned());
        }
    }
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!((names.len(), all > 50), (all, true), "a sample twice");
}

#[test]
fn load_is_told_over_ten_seconds_or_more() {
    let mut load = Load::default();
    let mut at = |second: u64, busy_ms: u64| {
        let worker = WorkerSeen { busy_ns: busy_ms * 1_000_000, ..WorkerSeen::default() };
        load.of(second * 1_000_000_000, &[worker])[0]
    };
    assert_eq!(at(100, 50_000), 0.0);
    assert_eq!(at(102, 51_000), 0.5);
    assert_eq!(at(110, 55_000), 0.5);
    // A moment later the time before counts, however short the pause was.
    assert_eq!(at(111, 56_000), 6.0 / 11.0);
    assert_eq!(at(120, 56_000), 0.1);
    // More than all of it, by two clocks that differ a little.
    assert_eq!(at(130, 99_000), 1.0);
}

#[test]
fn every_state_of_a_flow_has_its_line() {
    for protocol in [1, 6, 17, 58, 132] {
        for seen in 0..=u16::MAX {
            let [lo, hi] = seen.to_be_bytes();
            let seen = weir_table::flow::Seen { lo, hi };
            let state = FlowState::of(protocol, weir_table::flow::Side::Lo, seen, false);
            assert!(FLOW_STATES.contains(&state.as_str()), "{state:?}");
        }
    }
    assert!(FLOW_STATES.contains(&FlowState::Denied.as_str()));
}

#[test]
fn drops_of_the_punt_device_are_read_from_the_kernels_table() {
    let table = "Inter-|   Receive                  |  Transmit\n \
                 face |bytes    packets errs drop|bytes\n\
                    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n\
                 weir0: 1 2 3 4 5 6 7 8 9 10 11 42 13 14 15 16\n";
    assert_eq!(drops_in(table, "weir0"), Some(42));
    assert_eq!(drops_in(table, "weir"), None);
}
