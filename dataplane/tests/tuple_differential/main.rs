//! The fast path's parser (`bpf/tuple.h`) held against the worker's (`src/parse`), and the
//! hooks' whole program against the pipeline.
//!
//! Thousands of frames, plain, odd, captured and broken, go through both. The rules:
//! - whatever is plain the fast path reads; else it would be off without anybody noticing;
//! - what both read they read alike: same key, same hash, same sender, same TCP flags;
//! - fragments, ICMP errors, options, extension headers and VLAN tags it leaves alone;
//! - what the worker refuses the fast path does not read either.
//!
//! - where etherparse reads a packet that the worker's parser takes, it reads the same;
//! - what a hook passes alone, the pipeline passes; what the parser refuses, nobody passes;
//!   each frame is counted once;
//! - whatever was seen of a flow, both forget it at the same time.
//!
//! Needs root. Without it the tests say "SKIPPED: needs root" and pass, unless
//! `WEIR_REQUIRE_E2E=1`. The kernel runs the parser on the spot (BPF_PROG_TEST_RUN), on real
//! socket buffers; it makes none in several pieces, and none shorter than an IP header.
//!
//! Others with `WEIR_TUPLE_SEED`, more with `WEIR_TUPLE_FRAMES` and, for all of it together,
//! `WEIR_MUTATIONS` (10,000,000 take five minutes).
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

#[path = "../support/dice.rs"]
mod dice;
mod kernel;
mod made;
mod node;
#[path = "../support/reference.rs"]
mod reference;
#[path = "../support/root.rs"]
mod root;
#[path = "../support/mod.rs"]
mod support;
mod timeouts;

use std::collections::BTreeMap;

use kernel::Kernel;
use made::Dice;
use node::{Did, Node};
use reference::reference;
use root::can_run;
use weir_dataplane::parse::{Transport, parse};

fn frames_wanted() -> usize {
    std::env::var("WEIR_TUPLE_FRAMES").map_or(20_000, |n| n.parse().unwrap())
}

#[test]
fn the_fast_path_reads_every_plain_packet() {
    if !can_run() {
        return;
    }
    let (kernel, mut dice) = (Kernel::new(), Dice::from_env());
    for _ in 0..frames_wanted() {
        let frame = made::plain(&mut dice);
        assert_eq!(kernel.compare(&frame), "read alike", "{:?}\n{frame:02x?}", parse(&frame));
        assert_eq!(kernel.run("tuple_read_tagged", &frame), None, "a VLAN tag: {frame:02x?}");
    }
}

#[test]
fn what_both_read_they_read_alike() {
    if !can_run() {
        return;
    }
    let (kernel, mut dice) = (Kernel::new(), Dice::from_env());
    let mut outcomes = BTreeMap::new();
    for _ in 0..frames_wanted() {
        let mut frame = made::plain(&mut dice);
        let odd = dice.below(4) == 0;
        if odd {
            made::make_odd(&mut dice, &mut frame);
            assert_eq!(kernel.read(&frame), None, "{:?}\n{frame:02x?}", parse(&frame));
        }
        made::break_it(&mut dice, &mut frame);
        if frame.len() >= made::l3_end(&frame) {
            *outcomes.entry(kernel.compare(&frame)).or_insert(0) += 1;
        }
    }
    eprintln!("{outcomes:#?}");
    for outcome in ["read alike", "left to the worker", "left alone by both"] {
        let share = outcomes.get(outcome).copied().unwrap_or(0) as f64 / frames_wanted() as f64;
        assert!(share > 0.05, "{outcome}: {share}");
    }
}

/// The captured frames, in both directions, on the way through the kernel's stack.
fn captured() -> Vec<Vec<u8>> {
    // From tcpdump in a pod of scripts/lab: curl, ping (large, with options), DNS-like
    // questions, a closed port, multicast, ARP, ND, MLD, in both families.
    let file: &[u8] = include_bytes!("../fixtures/pod.pcap");
    let mut reader = pcap_file::pcap::PcapReader::new(file).unwrap();
    std::iter::from_fn(|| Some(reader.next_packet()?.unwrap().data.into_owned())).collect()
}

/// Holds the worker's parser against etherparse. True: both read the packet.
fn agrees_with_reference(frame: &[u8]) -> bool {
    let (Ok(packet), Some((src, dst, transport))) = (parse(frame), reference(frame)) else {
        return false;
    };
    let tuple = packet.tuple;
    assert_eq!((tuple.src.to_ip(), tuple.dst.to_ip()), (src, dst), "{frame:02x?}");
    if packet.transport != Transport::Unseen
        && let Some(transport) = transport
    {
        assert_eq!((tuple.protocol, tuple.sport, tuple.dport), transport, "{frame:02x?}");
    }
    true
}

#[test]
fn captured_packets_are_read_by_all_alike() {
    if !can_run() {
        return;
    }
    let kernel = Kernel::new();
    let mut outcomes = BTreeMap::new();
    for frame in captured() {
        let is_ip = matches!(frame[12..14], [0x08, 0x00] | [0x86, 0xdd]);
        assert_eq!(parse(&frame).is_ok(), is_ip, "{:?}: {frame:02x?}", parse(&frame));
        assert_eq!(agrees_with_reference(&frame), is_ip, "{frame:02x?}");
        *outcomes.entry(kernel.compare(&frame)).or_insert(0) += 1;
    }
    // ARP; fragments, ICMP errors, options, ND, MLD; the rest.
    eprintln!("{outcomes:#?}");
    let of = |outcome| outcomes.get(outcome).copied().unwrap_or(0);
    assert!(of("left alone by both") >= 2 && of("left to the worker") >= 10);
    assert!(of("read alike") >= 25);
}

/// Plain, odd and captured frames, most of them broken, some under the addresses of the node's
/// pods: through parser, etherparse, the fast path's reader, the hooks and the pipeline.
#[test]
fn mutated_packets_meet_parser_pipeline_and_steering() {
    if !can_run() {
        return;
    }
    let wanted = std::env::var("WEIR_MUTATIONS").map_or(50_000, |n| n.parse().unwrap());
    let (kernel, mut node, mut dice) = (Kernel::new(), Node::new(), Dice::from_env());
    let captured = captured();
    let mut outcomes = BTreeMap::<_, u64>::new();
    let mut made = 0;
    while made < wanted {
        let mut frame = match dice.below(4) {
            0 => captured[dice.below(captured.len())].clone(),
            _ => made::plain(&mut dice),
        };
        if dice.below(4) == 0 && matches!(frame[12..14], [0x08, 0x00] | [0x86, 0xdd]) {
            made::make_odd(&mut dice, &mut frame);
        }
        if dice.below(4) != 0 {
            made::move_in(&mut dice, &mut frame);
        }
        if dice.below(4) != 0 {
            made::break_it(&mut dice, &mut frame);
        }
        if frame.len() < made::l3_end(&frame) {
            continue;
        }
        made += 1;
        let read = kernel.compare(&frame);
        agrees_with_reference(&frame);
        let did = node.judge(&frame, dice.below(2) == 0);
        *outcomes.entry((read, did)).or_insert(0) += 1;
    }
    eprintln!("{outcomes:#?}");
    node.counted_once(wanted);
    let passed_by = |hook| -> u64 {
        outcomes.iter().filter(|((_, did), _)| *did == hook).map(|(_, n)| n).sum()
    };
    for did in [Did::HookAndPipeline, Did::Pipeline, Did::Nobody, Did::Held] {
        assert!(passed_by(did) * 1000 > wanted, "{did:?}: {outcomes:#?}");
    }
}
