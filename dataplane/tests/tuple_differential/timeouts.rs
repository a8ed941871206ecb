//! How long a flow may be silent: `flow_timeout()` of `bpf/flow.h` held against
//! [`FlowState::timeout`], over everything that can be seen of a flow. And what the hooks do
//! with a packet of which nothing can be seen.

use std::collections::BTreeMap;

use weir_table::flow::layout::{SEEN_ACK, SEEN_ANY, SEEN_FIN, SEEN_RST, SEEN_SYN};
use weir_table::flow::{FlowState, Seen, Side};

use crate::can_run;
use crate::kernel::Kernel;

const PROTOCOLS: [u8; 7] = [1, 6, 17, 47, 58, 132, 136];

/// The nth of 32 sets of bits that may have been seen from a side.
fn seen(n: u8) -> u8 {
    let bits = [SEEN_FIN, SEEN_SYN, SEEN_RST, SEEN_ACK, SEEN_ANY];
    let chosen = bits.iter().enumerate().filter(|(i, _)| n >> i & 1 == 1);
    chosen.fold(0, |all, (_, bit)| all | bit)
}

#[test]
fn hooks_and_workers_forget_a_flow_at_the_same_time() {
    if !can_run() {
        return;
    }
    let kernel = Kernel::new();
    let mut states = BTreeMap::new();
    let sides = || (0..32).flat_map(|lo| (0..32).map(move |hi| (seen(lo), seen(hi))));
    let all =
        PROTOCOLS.into_iter().flat_map(|protocol| sides().map(move |(l, h)| (protocol, l, h)));
    for (protocol, lo, hi) in all {
        for (initiator, cut) in
            [(Side::Lo, false), (Side::Lo, true), (Side::Hi, false), (Side::Hi, true)]
        {
            let about = [protocol, lo, hi, u8::from(initiator == Side::Hi), u8::from(cut)];
            let state = FlowState::of(protocol, initiator, Seen { lo, hi }, cut);
            let worker = u64::from(state.timeout(protocol));
            assert_eq!(kernel.flow_timeout(about), worker, "{state:?}: {about:?}");
            *states.entry((state.as_str(), worker)).or_insert(0) += 1;
        }
    }
    eprintln!("{states:?}");
    assert!(states.len() >= 11, "states with their timeouts: {states:?}");
}

/// A kernel that refuses the reading must not make a packet look finished.
#[test]
fn what_cannot_be_read_does_not_pass() {
    if can_run() {
        assert!(!Kernel::new().passes_unreadable());
    }
}
