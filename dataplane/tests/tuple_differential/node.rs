//! A node of two pods: the hooks' program in the kernel and a worker's pipeline on the same
//! flow table.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use aya::maps::Map;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use weir_dataplane::endpoints::Endpoints;
use weir_dataplane::frame::Frame;
use weir_dataplane::parse::parse;
use weir_dataplane::pipeline::Pipeline;
use weir_dataplane::shim::{Direction, Shim};
use weir_dataplane::steer::abi::{CONFIG_WORDS, Config, STAMP_SLOTS, VERDICTS4, VERDICTS6};
use weir_dataplane::steer::kernel_skb::{self, Sight};
use weir_dataplane::steer::macs::{MAC_WORDS, Macs};
use weir_table::counters::Counter;
use weir_table::flow::{FlowTable, HashKey, Tick, VerdictCache, layout};
use weir_table::mem::{Access, SharedWords};
use weir_table::stamps::Stamps;

use crate::kernel::{FIXED, FLOWS, secret};
use crate::support::{self, HeapClassifier, Matrix, ONE, Service, TWO, Tables, Tally};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));

/// The device of every packet in a test run: loopback.
const DEVICE: u32 = 1;
/// What a hook returns: go on, drop.
const PASS: u32 = u32::MAX;
const DROP: u32 = 2;

/// Who passed a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Did {
    HookAndPipeline,
    /// The hook left it to a worker, of which there is none here.
    Pipeline,
    /// The link's own business, which no worker sees.
    HookAlone,
    Held,
    Nobody,
}

pub struct Node {
    ebpf: Ebpf,
    config: Config,
    pipeline: Pipeline,
    classifier: HeapClassifier,
    endpoints: Endpoints,
    tables: Tables,
    tally: Tally,
    frames: u64,
    now_ns: u64,
}

/// The hooks, as they look into struct sk_buff in one way.
fn hooks(object: &[u8], sight: Sight) -> Ebpf {
    let sees_skb = sight.constant();
    let mut ebpf = EbpfLoader::new()
        .override_global("weir_sees_skb", &sees_skb, true)
        .load(object)
        .unwrap_or_else(|e| panic!("{sight:?}: {e}"));
    for name in ["weir_from_pod", "weir_to_pod"] {
        let program: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
        program.load().unwrap_or_else(|e| panic!("{sight:?}: {e}"));
    }
    ebpf
}

#[test]
fn every_way_of_looking_into_a_packet_is_one_that_the_verifier_takes() {
    if !crate::can_run() {
        return;
    }
    let mut sights = Vec::new();
    for (sight, object) in kernel_skb::ways(OBJECT) {
        hooks(&object, sight);
        sights.push(sight);
    }
    assert!(sights.contains(&Sight::Copied) && sights.contains(&Sight::Unseen), "{sights:?}");
}

impl Node {
    pub fn new() -> Self {
        let (sight, object) = kernel_skb::ways(OBJECT).next().unwrap();
        let ebpf = hooks(&object, sight);
        let words = |name, words| {
            let Some(Map::Array(data)) = ebpf.map(name) else { panic!("no map {name}") };
            SharedWords::map(data.fd().as_fd(), words, Access::ReadWrite, "test map").unwrap()
        };
        let v4 = |name, entries| words(name, layout::v4_words(entries));
        let v6 = |name, entries| words(name, layout::v6_words(entries));
        let key = HashKey::from_words(secret());
        let tables = Tables {
            flows: FlowTable::new(v4("weir_flows4", FLOWS), v6("weir_flows6", FLOWS), key.clone())
                .unwrap(),
            stamps: Stamps::new(words("weir_stamps", STAMP_SLOTS as usize), key.clone()).unwrap(),
            verdicts: VerdictCache::new(
                v4("weir_verdicts4", VERDICTS4 as usize),
                v6("weir_verdicts6", VERDICTS6 as usize),
                key,
            )
            .unwrap(),
        };
        let config = Config::new(words("weir_config", CONFIG_WORDS as usize));
        config.init(secret(), &FIXED);
        // That of most of the frames: under it the fast path is taken when leaving as well.
        let macs = Macs::new(words("weir_macs", MAC_WORDS));
        assert!(macs.replace(&BTreeMap::from([(DEVICE, [2; 6])])).is_empty());
        // Both pods: ONE leaves by the device, TWO is elsewhere.
        let matrix = Matrix::OPEN.deny_egress(ONE, TWO, Service::OtherUdp).deny_ingress(
            ONE,
            TWO,
            Service::OtherTcp,
        );
        Self {
            ebpf,
            config,
            pipeline: Pipeline::new(0, 1),
            classifier: matrix.classifier(1),
            endpoints: support::endpoints([(ONE, DEVICE, false)]),
            tables,
            tally: Tally::new(),
            frames: 0,
            now_ns: 5_000_000_000_000,
        }
    }

    /// A frame at a hook: of the kernel first, then of the pipeline.
    pub fn judge(&mut self, frame: &[u8], leaving: bool) -> Did {
        self.frames += 1;
        self.now_ns += 100_000;
        self.config.set_tick(Tick::from_nanos(self.now_ns));
        let (program, direction) = match leaving {
            true => ("weir_from_pod", Direction::FromPod),
            false => ("weir_to_pod", Direction::ToPod),
        };
        let hook = self.hook(program, frame);
        let (accepted, held) = self.pipeline(frame, direction);
        assert!(!accepted || parse(frame).is_ok(), "passed unread: {frame:02x?}");
        match (hook, accepted) {
            (true, true) => Did::HookAndPipeline,
            (true, false) => {
                assert!(is_of_the_link(frame), "{direction:?}: the hook passes {frame:02x?}");
                Did::HookAlone
            }
            (false, true) => Did::Pipeline,
            (false, false) if held => Did::Held,
            (false, false) => Did::Nobody,
        }
    }

    fn hook(&self, program: &str, frame: &[u8]) -> bool {
        let program: &SchedClassifier = self.ebpf.program(program).unwrap().try_into().unwrap();
        let options = TestRunOptions { data_in: Some(frame), ..Default::default() };
        let verdict = program.test_run(options).unwrap().return_value;
        assert!([PASS, DROP].contains(&verdict), "{verdict}: {frame:02x?}");
        verdict == PASS
    }

    fn pipeline(&mut self, frame: &[u8], direction: Direction) -> (bool, bool) {
        let mut punted = Vec::new();
        Shim::new(DEVICE, direction).push_punted(frame, &mut punted);
        let view = self.tables.view(Some(&self.classifier), &self.endpoints);
        let held = self.tally.get(Counter::FragmentsHeld);
        let mut burst = [Frame::new(&mut punted)];
        self.pipeline.process(&mut burst, &view, self.now_ns, &self.tally.block);
        let accepted = burst[0].accept;
        self.pipeline.forget_released();
        if self.frames.is_multiple_of(64) {
            self.pipeline.expire(&view, self.now_ns, &self.tally.block);
        }
        (accepted, self.tally.get(Counter::FragmentsHeld) > held)
    }

    /// What waits no longer counted, every frame was passed or dropped once.
    pub fn counted_once(&mut self, frames: u64) {
        let view = self.tables.view(Some(&self.classifier), &self.endpoints);
        self.pipeline.expire(&view, self.now_ns + 2_000_000_000, &self.tally.block);
        let passed = self.tally.get(Counter::PassedEgress) + self.tally.get(Counter::PassedIngress);
        let dropped: u64 = self.tally.drops().iter().map(|(_, n)| n).sum();
        assert_eq!(passed + dropped, frames, "{:?}", self.tally.drops());
    }
}

/// ARP, neighbour discovery and MLD: passed by the hooks by rules of their own.
fn is_of_the_link(frame: &[u8]) -> bool {
    match frame[12..14] {
        [0x08, 0x06] => true,
        [0x86, 0xdd] => {
            // MLD has a hop-by-hop header of 8 bytes.
            let (next, at) =
                if frame[20] == 0 { (frame.get(54), 62) } else { (Some(&frame[20]), 54) };
            let kind = frame.get(at);
            next == Some(&58) && kind.is_some_and(|kind| (130..=143).contains(kind))
        }
        _ => false,
    }
}
