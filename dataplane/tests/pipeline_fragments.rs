//! Fragments follow their first one, in whatever order they come, within bounds; what overlaps
//! is dropped; a flood of them hurts nobody else's.
//!
//! Two pods live on this node: ONE behind device 11, TWO behind device 12.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod support;

use support::frames::{self, ACK, SYN};
use support::node::Did::{Drop, Held, Pass, PassBoth};
use support::node::{Did, Node, ip};
use support::{Matrix, ONE, REMOTE, Service, TWO};
use weir_dataplane::frame::Frame;
use weir_dataplane::io::PacketIo;
use weir_dataplane::io::memory::MemoryIo;
use weir_dataplane::shim::Direction::{self, FromPod, ToPod};
use weir_dataplane::shim::Shim;
use weir_table::Address;
use weir_table::counters::{Counter, Reason};

const UDP: u8 = 17;
const TCP: u8 = 6;
const OVERLAP: Did = Drop(Reason::FragmentOverlap);

/// Bytes `from..to` of a datagram as a fragment; `last` if none follow.
fn fragment(
    (src, dst): (Address, Address),
    (protocol, id): (u8, u32),
    whole: &[u8],
    (from, to): (usize, usize),
    last: bool,
) -> Vec<u8> {
    assert!(from.is_multiple_of(8));
    let payload = &whole[from..to];
    if src.is_v4() {
        let word = (from / 8) as u16 | if last { 0 } else { 0x2000 };
        let mut frame = frames::ip(src, dst, protocol, word, payload);
        frame[18..20].copy_from_slice(&(id as u16).to_be_bytes());
        return frame;
    }
    let [a, b] = (from as u16 | u16::from(!last)).to_be_bytes();
    let [c, d, e, f] = id.to_be_bytes();
    let rest = [&[protocol, 0, a, b, c, d, e, f], payload].concat();
    frames::ip(src, dst, 44, 0, &rest)
}

fn ends(six: bool) -> (Address, Address) {
    (support::address(ONE, six), support::address(TWO, six))
}

/// A UDP datagram of `parts` × 24 bytes from ONE to TWO.
fn datagram(dport: u16, parts: usize) -> Vec<u8> {
    let mut whole = frames::udp_header(4000, dport, (parts * 24 - 8) as u16);
    whole.extend((8..parts * 24).map(|n| n as u8));
    whole
}

fn cut(six: bool, id: u32, dport: u16, parts: usize) -> Vec<Vec<u8>> {
    let whole = datagram(dport, parts);
    (0..parts)
        .map(|n| {
            let range = (n * 24, n * 24 + 24);
            fragment(ends(six), (UDP, id), &whole, range, n + 1 == parts)
        })
        .collect()
}

fn permutations(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![vec![]];
    }
    let shorter = permutations(n - 1);
    let with = |at: usize| {
        shorter.iter().map(move |p| [&p[..at], &[n - 1], &p[at..]].concat()).collect::<Vec<_>>()
    };
    (0..n).flat_map(with).collect()
}

/// What went on, in order, as the positions of the fragments.
fn goes_on(node: &mut Node, parts: &[Vec<u8>], order: &[usize]) -> Vec<usize> {
    let mut passed = Vec::new();
    for &n in order {
        if matches!(node.punt(11, FromPod, &parts[n]), Pass | PassBoth) {
            passed.push(n);
        }
        for frame in node.released() {
            passed.push(parts.iter().position(|part| *part == frame).unwrap());
        }
    }
    passed
}

#[test]
fn every_order_of_a_datagrams_fragments_passes() {
    for six in [false, true] {
        let mut node = Node::new(Matrix::OPEN);
        let mut id = 0;
        for count in [3, 4] {
            for order in permutations(count) {
                id += 1;
                let parts = cut(six, id, 80, count);
                let passed = goes_on(&mut node, &parts, &order);
                // Those before the first come after it, in the order of their arrival.
                let first = order.iter().position(|&n| n == 0).unwrap();
                let mut expected = vec![0];
                expected.extend(&order[..first]);
                expected.extend(&order[first + 1..]);
                assert_eq!(passed, expected, "{order:?}");
            }
        }
        assert_eq!(node.tally.drops(), []);
        let held = node.tally.get(Counter::FragmentsHeld);
        assert_eq!(held, node.tally.get(Counter::FragmentsReleased));
        // Of the n! orders the first is at each place equally often.
        assert_eq!(held, (1 + 2) * 6 / 3 + (1 + 2 + 3) * 24 / 4);
    }
}

#[test]
fn a_denied_first_takes_the_others_with_it() {
    for six in [false, true] {
        let mut node = Node::new(Matrix::OPEN.deny_ingress(TWO, ONE, Service::Dns));
        let parts = cut(six, 7, 53, 3);
        assert_eq!(node.punt(11, FromPod, &parts[1]), Held);
        assert_eq!(node.punt(11, FromPod, &parts[0]), Drop(Reason::PolicyIngress));
        assert_eq!(node.punt(11, FromPod, &parts[2]), Drop(Reason::PolicyIngress));
        assert_eq!(node.tally.drops(), [(Reason::PolicyIngress, 3)]);
        assert_eq!(node.released(), Vec::<Vec<u8>>::new());
    }
}

#[test]
fn what_is_remembered_holds_at_its_hook_for_its_time_and_its_policy() {
    for six in [false, true] {
        let mut node = Node::new(Matrix::OPEN);
        let parts = cut(six, 1, 80, 4);
        assert_eq!(node.punt(11, FromPod, &parts[0]), PassBoth);
        assert_eq!(node.punt(11, FromPod, &parts[1]), PassBoth);
        assert_eq!(node.punt(12, ToPod, &parts[1]), Held, "another hook");
        node.publish(Matrix::OPEN);
        assert_eq!(node.punt(11, FromPod, &parts[2]), Drop(Reason::Fragment), "another policy");
        node.expire();
        let waiting = node.tally.get(Counter::FragmentsHeld);
        node.seconds += 31;
        node.expire();
        assert_eq!(node.tally.drops(), [(Reason::Fragment, 1 + waiting)], "waited in vain");
        assert_eq!(node.punt(11, FromPod, &parts[3]), Held, "its time is over");
    }
}

#[test]
fn an_identification_may_be_used_again() {
    let mut node = Node::new(Matrix::OPEN);
    for round in 0..3 {
        for part in cut(false, 5, 80, 3) {
            assert_eq!(node.punt(11, FromPod, &part), PassBoth, "round {round}");
        }
    }
    // After one that was never completed, too, if it is not right after it.
    assert_eq!(node.punt(11, FromPod, &cut(false, 5, 80, 3)[0]), PassBoth);
    node.seconds += 2;
    for part in cut(false, 5, 80, 3) {
        assert_eq!(node.punt(11, FromPod, &part), PassBoth);
    }
}

/// Each overlap costs the rest of its datagram, whether the first was there or not.
#[test]
fn overlaps_are_dropped_and_poison_their_datagram() {
    for six in [false, true] {
        let whole = datagram(80, 8);
        let cases = [
            ("a repeated fragment", &[(0, 48), (48, 96), (48, 96)][..]),
            ("a repeated first", &[(0, 48), (0, 48)]),
            ("teardrop: within the one before", &[(0, 48), (24, 40)]),
            ("over the end of the one before", &[(0, 48), (40, 96)]),
            ("over the start of the next", &[(0, 24), (48, 96), (24, 56)]),
            ("around another", &[(0, 24), (48, 72), (24, 96)]),
            ("onto the header", &[(0, 24), (8, 32)]),
            ("before the first came", &[(48, 96), (40, 56)]),
            ("the first over a later one", &[(24, 96), (0, 48)]),
        ];
        for (id, (what, ranges)) in (100..).zip(cases) {
            let mut node = Node::new(Matrix::OPEN);
            let part = |range, last| fragment(ends(six), (UDP, id), &whole, range, last);
            let (bad, good) = ranges.split_last().unwrap();
            for &range in good {
                let did = node.punt(11, FromPod, &part(range, false));
                assert!(matches!(did, PassBoth | Held), "{what}: {did:?}");
            }
            assert_eq!(node.punt(11, FromPod, &part(*bad, false)), OVERLAP, "{what}");
            assert_eq!(node.punt(11, FromPod, &part((96, 192), true)), OVERLAP, "{what}: the rest");
            assert_eq!(node.released(), Vec::<Vec<u8>>::new(), "{what}");
            let drops: u64 = node.tally.drops().iter().map(|(_, n)| n).sum();
            let passed = node.tally.get(Counter::PassedEgress);
            assert_eq!(drops + passed, good.len() as u64 + 2, "{what}: each counted once");
        }
    }
}

/// RFC 8200 4.5: of IPv6 fragments the identification alone says what belongs together, and only
/// the first one's Next Header counts.
#[test]
fn fragments_of_one_datagram_may_name_other_headers() {
    const DESTINATION_OPTIONS: u8 = 60;
    let whole = datagram(80, 8);
    let part = |next, range, last| fragment(ends(true), (next, 77), &whole, range, last);
    let mut node = Node::new(Matrix::OPEN);
    assert_eq!(node.punt(11, FromPod, &part(UDP, (0, 48), false)), PassBoth);
    assert_eq!(node.punt(11, FromPod, &part(DESTINATION_OPTIONS, (48, 96), false)), PassBoth);
    assert_eq!(node.punt(11, FromPod, &part(DESTINATION_OPTIONS, (40, 64), false)), OVERLAP);
    assert_eq!(node.punt(11, FromPod, &part(UDP, (96, 192), true)), OVERLAP);
}

#[test]
fn headers_cannot_be_rewritten_by_fragments() {
    for six in [false, true] {
        let mut node = Node::new(Matrix::OPEN);
        let plain = frames::tcp((ends(six).0, 4000), (ends(six).1, 80), SYN);
        let mut segment = plain[if six { 54 } else { 34 }..].to_vec();
        segment.resize(96, 0);
        let part = |range, last| fragment(ends(six), (TCP, 9), &segment, range, last);
        // RFC 1858: a first fragment without the flags, and one that would rewrite them.
        assert_eq!(node.punt(11, FromPod, &part((0, 8), false)), Drop(Reason::Malformed));
        assert_eq!(node.punt(11, FromPod, &part((8, 96), true)), Drop(Reason::Malformed));
        assert_eq!(node.punt(11, FromPod, &part((16, 96), true)), Drop(Reason::Malformed));
        assert_eq!(node.punt(11, FromPod, &part((0, 24), false)), PassBoth);
        assert_eq!(node.punt(11, FromPod, &part((24, 96), true)), PassBoth);
        let ack = frames::tcp((ends(six).0, 4000), (ends(six).1, 80), ACK);
        assert_eq!(node.punt(11, FromPod, &ack), PassBoth);
    }
}

/// Later fragments that never had a first.
fn orphan(from: Address, to: Address, id: u32) -> Vec<u8> {
    fragment((from, to), (UDP, id), &[0; 96], (48, 96), false)
}

#[test]
fn a_flood_of_fragments_at_one_hook_leaves_the_others_theirs() {
    let mut node = Node::new(Matrix::OPEN);
    let ours = cut(false, 1, 80, 3);
    // ONE floods: orphans and firsts, many times what there is room for.
    let flood = |node: &mut Node| {
        let mut refused = 0;
        for id in 0..20_000 {
            let did = node.punt(11, FromPod, &orphan(ip(ONE), ip(REMOTE), id));
            refused += u64::from(did == Drop(Reason::Fragment));
            let first = &cut(false, id, 80, 4)[0];
            node.punt(11, FromPod, first);
        }
        refused
    };
    // What TWO gets from outside is under way meanwhile, its later fragments first.
    let answer = |part: &[u8]| {
        let mut frame = part.to_vec();
        let Some(std::net::IpAddr::V4(remote)) = Some(ip(REMOTE).to_ip()) else { panic!() };
        frame[26..30].copy_from_slice(&remote.octets());
        frame
    };
    assert_eq!(node.punt(12, ToPod, &answer(&ours[2])), Held);
    let refused = flood(&mut node);
    assert!(refused > 10_000, "{refused} refused: the flood was held?");
    assert_eq!(node.punt(12, ToPod, &answer(&ours[1])), Held);
    assert_eq!(node.punt(12, ToPod, &answer(&ours[0])), Pass);
    assert_eq!(node.released().len(), 2, "TWO's fragments did not outlive the flood");
    // And what is known of TWO's datagrams.
    let more = cut(false, 2, 80, 2);
    assert_eq!(node.punt(12, ToPod, &answer(&more[0])), Pass);
    flood(&mut node);
    assert_eq!(node.punt(12, ToPod, &answer(&more[1])), Pass);
    // The room comes back.
    node.seconds += 2;
    node.expire();
    let parts = cut(false, 60_000, 80, 3);
    assert_eq!(goes_on(&mut node, &parts, &[2, 1, 0]), [0, 2, 1]);
}

#[test]
fn a_datagram_holds_so_many_and_a_frame_may_be_so_large() {
    let mut node = Node::new(Matrix::OPEN);
    let whole = datagram(80, 200);
    let part = |n: usize| fragment(ends(false), (UDP, 3), &whole, (n * 24, n * 24 + 24), false);
    let mut held = 0;
    // From the end, as some senders do.
    for n in (1..200).rev() {
        held += u32::from(node.punt(11, FromPod, &part(n)) == Held);
    }
    assert_eq!(held, 48);
    assert_eq!(node.punt(11, FromPod, &part(0)), PassBoth);
    assert_eq!(node.released().len(), 48);

    let large = vec![0; 4000];
    let jumbo = fragment(ends(false), (UDP, 4), &large, (1600, 4000), true);
    assert_eq!(node.punt(11, FromPod, &jumbo), Drop(Reason::Fragment));
    node.pipeline = weir_dataplane::pipeline::Pipeline::new(0, 1).holding_frames_of(9000);
    assert_eq!(node.punt(11, FromPod, &jumbo), Held);
}

/// Through a backend: the frames come out complete, after their first, in one burst with it
/// or a later one.
#[test]
fn released_frames_leave_by_the_backend() {
    for one_burst in [true, false] {
        let mut node = Node::new(Matrix::OPEN);
        let mut io = MemoryIo::new(100);
        let parts = cut(true, 8, 80, 4);
        for n in [3, 1, 0, 2] {
            let mut punted = Vec::new();
            Shim::new(11, Direction::FromPod).push_punted(&parts[n], &mut punted);
            io.push(&punted);
            if !one_burst || n == 2 {
                io.burst(|burst: &mut [Frame<'_>]| drop(node.burst(burst))).unwrap();
                io.send(node.pipeline.released()).unwrap();
                node.pipeline.forget_released();
            }
        }
        let mut out = Vec::new();
        while let Some(frame) = io.pop() {
            let mut plain = Vec::new();
            Shim::strip_accepted(&frame, &mut plain).unwrap();
            out.push(parts.iter().position(|part| *part == plain).unwrap());
        }
        let expected = if one_burst { [0, 2, 3, 1] } else { [0, 3, 1, 2] };
        assert_eq!(out, expected);
    }
}
