//! One node: pods, policies compiled from manifests, tables, a worker's pipeline.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use weir_control::eval::Offline;
use weir_control::index::Index;
use weir_control::model::load;
use weir_dataplane::endpoints::{Endpoint, Endpoints, EndpointsBuilder};
use weir_dataplane::frame::Frame;
use weir_dataplane::io::PacketIo;
use weir_dataplane::io::memory::MemoryIo;
use weir_dataplane::pipeline::{Pipeline, View};
use weir_table::counters::{self, Counter, CounterBlock, Counters};
use weir_table::flow::{FlowKey, FlowTable, HashKey, NewFlow, QUOTA_WORDS, Quota, layout};
use weir_table::mem::SharedWords;
use weir_table::stamps::{STAMP_SLOTS, Stamps};

use super::Dice;
use super::traffic::{self, ACK, FIRST_DEVICE, PODS, Punted, SYN, Tuple};

/// When everything begins, on the clock of flows: an hour and more after boot.
pub const START_NS: u64 = 5_000_000_000_000;

/// Pods of this node, `clients` elsewhere, and `policies` policies. Each selects all pods of this
/// node and lets one kind of client reach one port; every client is of some kind.
pub fn manifests(policies: u32, clients: u32) -> String {
    let mut text = String::new();
    let mut pod = |name: String, addresses: [weir_table::Address; 2], app: String| {
        let [four, six] = addresses;
        let _ = writeln!(
            text,
            "{{apiVersion: v1, kind: Pod, metadata: {{namespace: x, name: {name}, labels: {{app: \
             {app}}}}}, status: {{podIP: {four}, podIPs: [{{ip: {four}}}, {{ip: '{six}'}}]}}}}\n---"
        );
    };
    let both =
        |address: fn(u32, bool) -> weir_table::Address, n| [address(n, false), address(n, true)];
    (0..PODS).for_each(|n| pod(format!("web-{n}"), both(traffic::pod, n), "web".to_owned()));
    (0..clients).for_each(|n| {
        pod(format!("client-{n}"), both(traffic::client, n), format!("c{}", n % policies));
    });
    for n in 0..policies {
        let _ = writeln!(
            text,
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{namespace: x, \
             name: p{n}}}, spec: {{podSelector: {{matchLabels: {{app: web}}}}, ingress: [{{from: \
             [{{podSelector: {{matchLabels: {{app: c{n}}}}}}}], ports: [{{port: {}}}]}}]}}}}\n---",
            traffic::OPEN
        );
    }
    text
}

/// The objects of [`manifests`].
pub fn index(policies: u32, clients: u32) -> Index {
    let loaded =
        load("world", manifests(policies, clients).as_bytes()).expect("the manifests are YAML");
    let index = Index::of(loaded.objects);
    assert_eq!(index.policies().len(), policies as usize);
    index
}

/// The secret of the hash: fixed, so that runs compare.
pub fn secret() -> HashKey {
    HashKey::from_bytes(&std::array::from_fn(|i| {
        u8::try_from(i * 151 % 256).unwrap_or(0).wrapping_mul(29) ^ 0x4d
    }))
}

/// A flow table with room for `flows`, as `weir-dataplane --flows` makes it.
pub fn flow_table(flows: u32, six: bool) -> FlowTable<SharedWords> {
    let entries = flows.next_power_of_two() as usize;
    let (v4, v6) = if six { (2, entries) } else { (entries * 2, 2) };
    let quota = Quota::new(SharedWords::heap(QUOTA_WORDS), u64::MAX);
    let words = |words| SharedWords::heap(words);
    FlowTable::new(words(layout::v4_words(v4)), words(layout::v6_words(v6)), secret())
        .expect("powers of two")
        .with_quota(quota)
}

/// What a worker enters for IPv4 flow `n`.
pub fn new_flow(n: u32) -> NewFlow {
    let (_, client) = traffic::key(n);
    let mut ifindex = [0; 2];
    ifindex[client.other().index()] = traffic::tuple(n, false).device;
    NewFlow { initiator: client, tcp_flags: SYN, ifindex, stamps: [0; 2], hold: false }
}

/// A worker and all that it works with.
pub struct World {
    offline: Offline,
    endpoints: Endpoints,
    pub flows: FlowTable<SharedWords>,
    stamps: Stamps<SharedWords>,
    counters: CounterBlock<Arc<SharedWords>>,
    pipeline: Pipeline,
    pub io: MemoryIo,
    /// Flows that found no room: a key has four places, and all were taken.
    refused: HashSet<u32>,
    started: Instant,
    scratch: Vec<u8>,
}

impl World {
    /// No flow is open yet; there is room for `flows`. (A table for a number of flows has half as
    /// many places for IPv6; these have as many.)
    pub fn new(policies: u32, clients: u32, flows: u32, six: bool) -> Self {
        let mut endpoints = EndpointsBuilder::new();
        for n in 0..PODS {
            endpoints.add(Endpoint {
                ifindex: FIRST_DEVICE + n,
                addresses: vec![traffic::pod(n, false), traffic::pod(n, true)],
                void: Vec::new(),
                quarantined: false,
                name: format!("x/web-{n}"),
            });
        }
        let words = Arc::new(SharedWords::heap(counters::words_for(1)));
        Counters::init(words.clone(), 1).expect("one worker's counters");
        Self {
            offline: Offline::of(index(policies, clients)).expect("the policies fit a table"),
            endpoints: endpoints.build().0,
            flows: flow_table(if six { flows * 2 } else { flows }, six),
            stamps: Stamps::new(SharedWords::heap(STAMP_SLOTS), secret()).expect("a power of two"),
            counters: CounterBlock::new(words, 0).expect("one worker's counters"),
            pipeline: Pipeline::new(0, 1),
            io: MemoryIo::new(4096),
            refused: HashSet::new(),
            started: Instant::now(),
            scratch: Vec::new(),
        }
    }

    /// A world in which flows 0 to `flows` are established, but for those few that find no room.
    pub fn established(policies: u32, clients: u32, flows: u32, six: bool) -> Self {
        let mut world = Self::new(policies, clients, flows, six);
        for n in 0..flows {
            let flow = traffic::tuple(n, six);
            // A handshake, and a packet of each end after it.
            let exchange =
                [(false, SYN), (true, SYN | ACK), (false, ACK), (true, ACK), (false, ACK)];
            for (from_pod, flags) in exchange {
                world.push(&Punted { flow, from_pod, flags });
            }
            if n % 64 == 63 || n + 1 == flows {
                world.run(START_NS);
                world.io.forget_sent();
            }
        }
        world.refused = (0..flows).filter(|&n| !world.knows(&traffic::tuple(n, six))).collect();
        assert!(world.refused.len() <= flows as usize / 30, "room for 97 %");
        world
    }

    /// Picks one of the flows 0 to `flows` that are known.
    pub fn pick(&self, dice: &mut Dice, flows: u32) -> u32 {
        loop {
            let n = dice.below(flows);
            if !self.refused.contains(&n) {
                return n;
            }
        }
    }

    fn knows(&self, flow: &Tuple) -> bool {
        let (key, _) = FlowKey::new(flow.client, flow.pod, 6);
        matches!(self.flows.lookup(&key, self.flows.hash(&key)), Ok(Some(_)))
    }

    /// A frame arrives.
    pub fn push(&mut self, packet: &Punted) {
        traffic::write(packet, &mut self.scratch);
        self.io.push(&self.scratch);
    }

    /// What the worker's loop does until nothing waits, its clock included.
    pub fn work(&mut self) {
        while self.io.waiting() > 0 {
            let elapsed = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(0);
            self.burst(START_NS + elapsed);
        }
    }

    /// The same at a given time.
    pub fn run(&mut self, now_ns: u64) {
        while self.io.waiting() > 0 {
            self.burst(now_ns);
        }
    }

    fn burst(&mut self, now_ns: u64) {
        let view = View {
            classifier: Some(&self.offline.classifier),
            endpoints: &self.endpoints,
            flows: &self.flows,
            stamps: &self.stamps,
            verdicts: None,
            origins: None,
        };
        let Self { pipeline, counters, io, .. } = self;
        let judge = |frames: &mut [Frame<'_>]| pipeline.process(frames, &view, now_ns, counters);
        io.burst(judge).expect("memory does not fail");
        io.send(pipeline.released()).expect("memory does not fail");
        pipeline.forget_released();
    }

    /// Forgets a flow. False if there is none.
    pub fn forget(&self, flow: &Tuple) -> bool {
        let (key, _) = FlowKey::new(flow.client, flow.pod, 6);
        let found = self.flows.lookup(&key, self.flows.hash(&key));
        matches!(found, Ok(Some((entry, _))) if self.flows.delete(entry))
    }

    pub fn count(&self, counter: Counter) -> u64 {
        self.counters.get(counter)
    }
}
