//! The pipeline against a model that is slow and obvious: a list of flows searched from
//! the front, and a policy that is a matrix of bits.
//!
//! Random histories of packets, policy changes, waiting, and pods that move or are
//! quarantined; every packet is shown to both, at the hooks that it would cross, and both
//! must agree on verdict, coverage of the second hook, and the reason of a drop.
//!
//! What this cannot see: rules that are missing from both (they follow the same text),
//! fragments and full tables (named cases in `pipeline_flows.rs` and `pipeline_packets.rs`).
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod model;
#[path = "../support/mod.rs"]
mod support;

use model::{Expected, Model, Packet};
use proptest::prelude::*;
use support::frames::{self, ACK, FIN, RST, SYN};
use support::{ACTORS, HeapClassifier, Matrix, ONE, OUTSIDE, TWO, Tables, Tally};
use weir_dataplane::endpoints::{Endpoints, EndpointsBuilder};
use weir_dataplane::frame::Frame;
use weir_dataplane::pipeline::Pipeline;
use weir_dataplane::shim::{Direction, Shim, ShimFlags};
use weir_table::addr::Address;
use weir_table::counters::Reason;

/// The real thing, one packet at a time.
struct Real {
    pipeline: Pipeline,
    classifier: HeapClassifier,
    endpoints: Endpoints,
    tables: Tables,
    tally: Tally,
}

impl Real {
    fn cross(&mut self, device: u32, direction: Direction, ethernet: &[u8], now: u64) -> Expected {
        let before = self.tally.drops();
        let mut frame = Vec::new();
        Shim::new(device, direction).push_punted(ethernet, &mut frame);
        let view = self.tables.view(Some(&self.classifier), &self.endpoints);
        let mut frames = [Frame::new(&mut frame)];
        self.pipeline.process(&mut frames, &view, now * 1_000_000_000, &self.tally.block);
        let [Frame { accept, .. }] = frames;
        let after = self.tally.drops();
        if accept {
            assert_eq!(before, after, "accepted, yet a drop was counted");
            let shim = Shim::of_accepted(&frame).unwrap();
            assert_eq!((shim.ifindex, shim.direction), (device, direction));
            let mut plain = Vec::new();
            Shim::strip_accepted(&frame, &mut plain).unwrap();
            assert_eq!(plain, ethernet);
            return Ok(shim.flags.contains(ShimFlags::COVERS_BOTH));
        }
        let count = |list: &[(Reason, u64)], reason| {
            list.iter().find(|(r, _)| *r == reason).map_or(0, |(_, n)| *n)
        };
        let mut grown = Reason::ALL.iter().filter(|&&r| count(&after, r) != count(&before, r));
        let reason = *grown.next().expect("dropped, but not counted");
        assert!(grown.next().is_none(), "counted twice");
        Err(reason)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Packet {
        src: usize,
        dst: usize,
        six: bool,
        what: What,
        hooks: Hooks,
    },
    Policy(Matrix),
    Wait(u64),
    /// Pod TWO gets another device, or none.
    Two {
        device: u32,
        quarantined: bool,
    },
}

#[derive(Debug, Clone, Copy)]
enum What {
    Transport {
        protocol: u8,
        tcp_flags: u8,
        sport: u16,
        dport: u16,
    },
    Echo {
        reply: bool,
    },
    Gre,
    Group,
    /// An error about a packet of this kind that went from `dst` to `src`.
    Error {
        protocol: u8,
        sport: u16,
        dport: u16,
        by: By,
    },
}

/// Who sends an ICMP error.
#[derive(Debug, Clone, Copy, PartialEq)]
enum By {
    /// The receiver of the packet.
    Receiver,
    /// A router outside.
    Router,
    /// A pod that has no business with it, more often than not.
    Meddler,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Hooks {
    /// Those that it crosses on its way.
    Natural,
    /// The receiver's alone, as after address translation.
    Receiver,
    /// The other pod's way out: a forged source.
    Forged,
}

const SYN_ACK: u8 = SYN | ACK;

fn any_matrix() -> impl Strategy<Value = Matrix> {
    // Mostly open, so that flows live long enough to be cut.
    let cell = prop_oneof![3 => Just(0x7fu8), 1 => Just(0), 2 => 0..0x80u8];
    let rows = proptest::array::uniform4(proptest::array::uniform4(cell));
    (rows.clone(), rows).prop_map(|(egress, ingress)| Matrix { egress, ingress })
}

fn any_reporter() -> impl Strategy<Value = By> {
    prop_oneof![Just(By::Receiver), Just(By::Router), Just(By::Meddler)]
}

fn any_what() -> impl Strategy<Value = What> {
    let port = || prop_oneof![Just(80u16), Just(53), Just(1000)];
    let flags = prop_oneof![
        4 => Just(SYN), 4 => Just(SYN | ACK), 6 => Just(ACK), 2 => Just(FIN | ACK), 1 => Just(RST),
        1 => Just(RST | ACK)
    ];
    // What the first chunk of an SCTP packet would be in TCP.
    let chunks = prop_oneof![4 => Just(SYN), 4 => Just(SYN_ACK), 6 => Just(ACK), 2 => Just(FIN), 2 => Just(RST)];
    prop_oneof![
        10 => (flags, port(), port()).prop_map(|(tcp_flags, sport, dport)| What::Transport {
            protocol: 6, tcp_flags, sport, dport
        }),
        4 => (port(), port()).prop_map(
            |(sport, dport)| What::Transport { protocol: 17, tcp_flags: 0, sport, dport }
        ),
        4 => (chunks, port(), port()).prop_map(|(tcp_flags, sport, dport)| What::Transport {
            protocol: 132, tcp_flags, sport, dport
        }),
        3 => any::<bool>().prop_map(|reply| What::Echo { reply }),
        1 => Just(What::Gre),
        1 => Just(What::Group),
        3 => (prop_oneof![Just(6u8), Just(17)], port(), port(), any_reporter()).prop_map(
            |(protocol, sport, dport, by)| What::Error {
                protocol, sport, dport, by
            }
        ),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let hooks = prop_oneof![
        8 => Just(Hooks::Natural), 2 => Just(Hooks::Receiver), 1 => Just(Hooks::Forged)
    ];
    // Few pairs, so that packets meet the flows of earlier ones.
    let pair = prop_oneof![
        4 => Just((ONE, TWO)), 4 => Just((TWO, ONE)), 1 => Just((ONE, ONE)),
        3 => (0..ACTORS, 0..ACTORS),
    ];
    prop_oneof![
        30 => (pair, proptest::bool::weighted(0.3), any_what(), hooks).prop_map(
            |((src, dst), six, what, hooks)| Step::Packet { src, dst, six, what, hooks }
        ),
        4 => any_matrix().prop_map(Step::Policy),
        3 => proptest::sample::select(vec![1u64, 9, 11, 21, 31, 119, 121, 3601])
            .prop_map(Step::Wait),
        1 => (prop_oneof![4 => Just(12u32), 1 => Just(22), 2 => Just(0)], proptest::bool::weighted(0.2))
            .prop_map(|(device, quarantined)| Step::Two { device, quarantined }),
    ]
}

fn endpoints(model: &Model) -> Endpoints {
    let mut builder = EndpointsBuilder::new();
    for pod in [ONE, TWO] {
        if let Some((device, quarantined)) = model.pod(support::address(pod, false)) {
            builder.add(support::endpoint(pod, device, quarantined));
        }
    }
    builder.build().0
}

/// Both halves of the test, side by side.
struct Pair {
    model: Model,
    real: Real,
}

impl Pair {
    fn new() -> Self {
        let model = Model::new();
        let real = Real {
            pipeline: Pipeline::new(0, 1),
            classifier: Matrix::OPEN.classifier(1),
            endpoints: endpoints(&model),
            tables: Tables::new(),
            tally: Tally::new(),
        };
        Self { model, real }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Policy(matrix) => {
                self.model.matrix = matrix;
                self.model.generation += 1;
                self.real.classifier = matrix.classifier(self.model.generation);
                self.real.tables.outdate();
            }
            Step::Wait(seconds) => self.model.now += seconds,
            Step::Two { device, quarantined } => {
                self.model.two = (device, quarantined);
                self.real.endpoints = endpoints(&self.model);
            }
            Step::Packet { src, dst, six, what, hooks } => self.packet(src, dst, six, what, hooks),
        }
    }

    fn packet(&mut self, src: usize, dst: usize, six: bool, what: What, hooks: Hooks) {
        let (from, to) = (support::address(src, six), support::address(dst, six));
        let group: Address = if six { "ff05::9" } else { "239.0.0.9" }.parse().unwrap();
        let (sender, receiver) = (self.model.pod(from), self.model.pod(to));
        // What both are shown: the frame, and its meaning.
        let (frame, meaning) = match what {
            What::Transport { protocol, tcp_flags, sport, dport } => {
                let (s, d) = ((from, sport), (to, dport));
                let frame = match protocol {
                    6 => frames::tcp(s, d, tcp_flags),
                    132 => frames::sctp(
                        s,
                        d,
                        match tcp_flags {
                            SYN => frames::SCTP_INIT,
                            SYN_ACK => frames::SCTP_INIT_ACK,
                            FIN => frames::SCTP_SHUTDOWN_ACK,
                            RST => frames::SCTP_ABORT,
                            _ => frames::SCTP_DATA,
                        },
                    ),
                    _ => frames::udp(s, d),
                };
                (frame, Meaning::Packet(Packet { src: s, dst: d, protocol, tcp_flags }))
            }
            What::Echo { reply } => {
                let protocol = frames::icmp_of(from);
                let p = Packet { src: (from, 7), dst: (to, 7), protocol, tcp_flags: 0 };
                (frames::echo(from, to, 7, reply), Meaning::Packet(p))
            }
            What::Gre => {
                let p = Packet { src: (from, 0), dst: (to, 0), protocol: 47, tcp_flags: 0 };
                (frames::ip(from, to, 47, 0, &[0; 4]), Meaning::Packet(p))
            }
            What::Group => {
                let (s, d) = ((from, 1000), (group, 53));
                let p = Packet { src: s, dst: d, protocol: 17, tcp_flags: 0 };
                (frames::udp(s, d), Meaning::Packet(p))
            }
            What::Error { protocol, sport, dport, by } => {
                let (s, d) = ((to, sport), (from, dport));
                let about = Packet { src: s, dst: d, protocol, tcp_flags: 0 };
                let quoted = match protocol {
                    6 => frames::tcp(s, d, ACK),
                    _ => frames::udp(s, d),
                };
                let router = match by {
                    By::Receiver => from,
                    By::Router => support::address(OUTSIDE, six),
                    By::Meddler => support::address(if dst == ONE { TWO } else { ONE }, six),
                };
                let frame = frames::unreachable(router, to, &quoted);
                (frame, Meaning::Error(router, about))
            }
        };
        match hooks {
            Hooks::Natural => {
                let sender = match meaning {
                    Meaning::Packet(_) => sender,
                    Meaning::Error(router, _) => self.model.pod(router),
                };
                if let Some((device, _)) = sender {
                    let covered = self.cross(device, Direction::FromPod, &frame, &meaning);
                    if covered != Ok(false) {
                        return;
                    }
                }
                if let Some((device, _)) = receiver {
                    let _ = self.cross(device, Direction::ToPod, &frame, &meaning);
                }
            }
            Hooks::Receiver => {
                let device = receiver.map_or(self.model.one.0, |(device, _)| device);
                let _ = self.cross(device, Direction::ToPod, &frame, &meaning);
            }
            Hooks::Forged => {
                let forger = if src == ONE { self.model.two.0 } else { self.model.one.0 };
                let _ = self.cross(forger, Direction::FromPod, &frame, &meaning);
            }
        }
    }

    fn cross(
        &mut self,
        device: u32,
        direction: Direction,
        frame: &[u8],
        meaning: &Meaning,
    ) -> Expected {
        let expected = match meaning {
            Meaning::Packet(packet) => self.model.cross(device, direction, packet),
            Meaning::Error(router, about) => {
                self.model.cross_error(device, direction, *router, about)
            }
        };
        let found = self.real.cross(device, direction, frame, self.model.now);
        assert_eq!(found, expected, "{meaning:?} at {device} {direction:?}");
        found
    }
}

#[derive(Debug)]
enum Meaning {
    Packet(Packet),
    Error(Address, Packet),
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, max_shrink_iters: 4000, ..Default::default() })]

    #[test]
    fn pipeline_and_model_give_the_same_verdicts(
        steps in proptest::collection::vec(any_step(), 1..120),
    ) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.step(step);
        }
    }
}

/// The property above is worth little if its histories never reach the corners.
#[test]
fn the_histories_reach_every_outcome() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    use weir_table::counters::Counter;

    let mut runner = TestRunner::deterministic();
    let mut drops = std::collections::HashMap::new();
    let mut counts = [0; 5];
    for _ in 0..100 {
        let steps = proptest::collection::vec(any_step(), 100);
        let mut pair = Pair::new();
        for step in steps.new_tree(&mut runner).unwrap().current() {
            pair.step(&step);
        }
        let tally = &pair.real.tally;
        for (reason, n) in tally.drops() {
            *drops.entry(reason).or_insert(0) += n;
        }
        let counters = [
            Counter::FlowHits,
            Counter::FlowMisses,
            Counter::FlowsRejudged,
            Counter::FlowsCut,
            Counter::FlowsInserted,
        ];
        for (sum, counter) in counts.iter_mut().zip(counters) {
            *sum += tally.get(counter);
        }
    }
    for reason in [
        Reason::PolicyEgress,
        Reason::PolicyIngress,
        Reason::FlowCut,
        Reason::SpoofedSource,
        Reason::NotEndpoint,
        Reason::Quarantined,
        Reason::IcmpUnrelated,
    ] {
        assert!(drops.get(&reason).is_some_and(|&n| n >= 50), "{reason:?}: {drops:?}");
    }
    assert!(counts.iter().all(|&n| n >= 50), "{counts:?}");
}
