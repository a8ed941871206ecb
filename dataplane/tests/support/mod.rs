//! What the pipeline's tests share: frames by hand, and a policy as a plain matrix that
//! is also encoded into the real table.
#![allow(dead_code)] // each test binary uses its own part

pub mod frames;
pub mod node;

use std::sync::Arc;

use weir_dataplane::endpoints::{Endpoint, Endpoints, EndpointsBuilder};
use weir_dataplane::pipeline::View;
use weir_table::addr::Address;
use weir_table::addrmap::AddressMapWriter;
use weir_table::classify::Classifier;
use weir_table::counters::{self, Counter, CounterBlock, Counters, Reason};
use weir_table::flow::{FlowTable, HashKey, QUOTA_WORDS, Quota, VerdictCache, layout};
use weir_table::mem::SharedWords;
use weir_table::policy::{
    ClassId, ClassInfo, PolicyImage, PolicyInfo, PolicyKind, PolicyTable, Program, ProgramId,
    RuleId, RuleInfo, ServiceInfo, Span, Verdict, encode,
};
use weir_table::stamps::{SlotSet, Stamps};

/// Everything that policies tell apart in these tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Web,
    OtherTcp,
    Dns,
    OtherUdp,
    Sctp,
    Icmp,
    Other,
}

pub const SERVICES: [Service; 7] = [
    Service::Web,
    Service::OtherTcp,
    Service::Dns,
    Service::OtherUdp,
    Service::Sctp,
    Service::Icmp,
    Service::Other,
];

impl Service {
    pub fn of(protocol: u8, dport: u16) -> Self {
        match (protocol, dport) {
            (6, 80) => Self::Web,
            (6, _) => Self::OtherTcp,
            (17, 53) => Self::Dns,
            (17, _) => Self::OtherUdp,
            (132, _) => Self::Sctp,
            (1 | 58, _) => Self::Icmp,
            _ => Self::Other,
        }
    }
}

/// Who an address belongs to: two pods here, one elsewhere, and the rest of the world.
pub const OUTSIDE: usize = 0;
pub const ONE: usize = 1;
pub const TWO: usize = 2;
pub const REMOTE: usize = 3;
pub const ACTORS: usize = 4;

pub fn address(actor: usize, six: bool) -> Address {
    let text = match (actor, six) {
        (OUTSIDE, false) => "192.0.2.1",
        (OUTSIDE, true) => "2001:db8::1",
        (ONE, false) => "10.0.0.1",
        (ONE, true) => "fd00::1",
        (TWO, false) => "10.0.0.2",
        (TWO, true) => "fd00::2",
        (_, false) => "10.0.9.3",
        (_, true) => "fd00:9::3",
    };
    text.parse().unwrap()
}

pub fn actor_of(address: Address) -> usize {
    let is = |&actor: &usize| [false, true].iter().any(|&six| self::address(actor, six) == address);
    (0..ACTORS).find(is).unwrap_or(OUTSIDE)
}

/// Which services each actor may send to, and receive from, each actor; bit n is
/// `SERVICES[n]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    pub egress: [[u8; ACTORS]; ACTORS],
    pub ingress: [[u8; ACTORS]; ACTORS],
}

impl Matrix {
    pub const OPEN: Self =
        Self { egress: [[0x7f; ACTORS]; ACTORS], ingress: [[0x7f; ACTORS]; ACTORS] };

    pub fn may_send(&self, from: usize, to: usize, service: Service) -> bool {
        self.egress[from][to] >> service as u8 & 1 == 1
    }

    pub fn may_receive(&self, at: usize, from: usize, service: Service) -> bool {
        self.ingress[at][from] >> service as u8 & 1 == 1
    }

    pub fn deny_ingress(mut self, at: usize, from: usize, service: Service) -> Self {
        self.ingress[at][from] &= !(1 << service as u8);
        self
    }

    pub fn deny_egress(mut self, from: usize, to: usize, service: Service) -> Self {
        self.egress[from][to] &= !(1 << service as u8);
        self
    }

    pub fn classifier(&self, generation: u64) -> HeapClassifier {
        self.serving(generation, Vec::new())
    }

    /// The same with Services.
    pub fn serving(&self, generation: u64, services: Vec<ServiceInfo>) -> HeapClassifier {
        let image = PolicyImage { services, ..self.image(generation) };
        let table = PolicyTable::from_bytes(encode(&image).unwrap()).unwrap();
        let mut writer = AddressMapWriter::private(generation, 16).unwrap();
        for actor in [ONE, TWO, REMOTE] {
            for six in [false, true] {
                writer.insert(address(actor, six), ClassId(actor as u32)).unwrap();
            }
        }
        Classifier::new(table, writer.into_reader().unwrap()).unwrap()
    }

    fn image(&self, generation: u64) -> PolicyImage {
        let mut rows = vec![vec![Verdict::ALLOW_UNRESTRICTED; ACTORS]];
        let mut programs = vec![program(|_| 0)];
        for table in [&self.egress, &self.ingress] {
            for peers in table {
                let first = rows.len() as u32;
                for service in SERVICES {
                    let verdict = |bits: &u8| match bits >> service as u8 & 1 {
                        1 => Verdict::allow(RuleId(0)),
                        _ => Verdict::DENY_ISOLATED,
                    };
                    rows.push(peers.iter().map(verdict).collect());
                }
                programs.push(Program {
                    isolating: vec![0],
                    ..program(|service| first + service as u32)
                });
            }
        }
        let classes = (0..ACTORS as u32).map(|actor| ClassInfo {
            egress: ProgramId(1 + actor),
            ingress: ProgramId(1 + ACTORS as u32 + actor),
        });
        PolicyImage {
            generation,
            policies: vec![PolicyInfo {
                kind: PolicyKind::NetworkPolicy,
                name: "test/matrix".to_owned(),
            }],
            rules: vec![RuleInfo { policy: 0, path: "spec.ingress[0]".to_owned() }],
            classes: classes.collect(),
            prefixes: vec![
                ("0.0.0.0/0".parse().unwrap(), OUTSIDE as u32),
                ("::/0".parse().unwrap(), OUTSIDE as u32),
            ],
            programs,
            rows,
            services: Vec::new(),
        }
    }
}

fn program(row: impl Fn(Service) -> u32) -> Program {
    let except = |port: u16, special: Service, rest: Service| {
        vec![
            Span { first: 0, row: row(rest) },
            Span { first: port, row: row(special) },
            Span { first: port + 1, row: row(rest) },
        ]
    };
    Program {
        isolating: vec![],
        tcp: except(80, Service::Web, Service::OtherTcp),
        udp: except(53, Service::Dns, Service::OtherUdp),
        sctp: vec![Span { first: 0, row: row(Service::Sctp) }],
        icmp: row(Service::Icmp),
        other: row(Service::Other),
    }
}

pub type HeapClassifier = Classifier<Vec<u8>, SharedWords>;

/// What workers share with the hooks, in memory that nobody shares.
pub struct Tables {
    pub flows: FlowTable<SharedWords>,
    pub stamps: Stamps<SharedWords>,
    pub verdicts: VerdictCache<SharedWords>,
}

impl Tables {
    /// Empty ones with room for all that these tests do.
    pub fn new() -> Self {
        Self::sized(4096)
    }

    /// A flow table of so many entries a family.
    pub fn sized(entries: usize) -> Self {
        Self::limited(entries, u64::MAX)
    }

    /// The same, with a limit to the flows of each pod.
    pub fn limited(entries: usize, flows_per_pod: u64) -> Self {
        let key = HashKey::from_bytes(&std::array::from_fn(|i| (i as u8).wrapping_mul(29) ^ 0x33));
        Self::with_key(entries, flows_per_pod, key)
    }

    /// The same under a key of one's own.
    pub fn with_key(entries: usize, flows_per_pod: u64, key: HashKey) -> Self {
        let quota = Quota::new(SharedWords::heap(QUOTA_WORDS), flows_per_pod);
        let v4 = |entries| SharedWords::heap(layout::v4_words(entries));
        let v6 = |entries| SharedWords::heap(layout::v6_words(entries));
        Self {
            flows: FlowTable::new(v4(entries), v6(entries), key.clone()).unwrap().with_quota(quota),
            stamps: Stamps::new(SharedWords::heap(1 << 12), key.clone()).unwrap(),
            verdicts: VerdictCache::new(v4(256), v6(256), key).unwrap(),
        }
    }

    /// What the admin side does after every change: nothing that was said before holds.
    pub fn outdate(&self) {
        self.stamps.announce(&SlotSet::All);
        self.stamps.settle(&SlotSet::All);
    }

    /// What a worker sees.
    pub fn view<'a>(
        &'a self,
        classifier: Option<&'a HeapClassifier>,
        endpoints: &'a Endpoints,
    ) -> View<'a, Vec<u8>> {
        let Self { flows, stamps, verdicts } = self;
        View { classifier, endpoints, flows, stamps, verdicts: Some(verdicts), origins: None }
    }
}

pub fn endpoint(actor: usize, ifindex: u32, quarantined: bool) -> Endpoint {
    Endpoint {
        ifindex,
        addresses: vec![address(actor, false), address(actor, true)],
        void: Vec::new(),
        quarantined,
        name: format!("test/pod-{actor}"),
    }
}

/// Pod ONE behind device 11, pod TWO behind device 12.
pub fn two_endpoints() -> Endpoints {
    endpoints([(ONE, 11, false), (TWO, 12, false)])
}

/// Pods behind devices, quarantined or not.
pub fn endpoints<const N: usize>(pods: [(usize, u32, bool); N]) -> Endpoints {
    let mut builder = EndpointsBuilder::new();
    for (actor, ifindex, quarantined) in pods {
        builder.add(endpoint(actor, ifindex, quarantined));
    }
    let (endpoints, conflicts) = builder.build();
    assert!(conflicts.is_empty());
    endpoints
}

/// One worker's counters, and how they changed.
pub struct Tally {
    pub block: CounterBlock<Arc<SharedWords>>,
}

impl Tally {
    pub fn new() -> Self {
        let words = Arc::new(SharedWords::heap(counters::words_for(1)));
        Counters::init(words.clone(), 1).unwrap();
        Self { block: CounterBlock::new(words, 0).unwrap() }
    }

    /// Drops of both directions, by reason; reasons without drops left out.
    pub fn drops(&self) -> Vec<(Reason, u64)> {
        let both = |reason| {
            counters::Direction::ALL.iter().map(|&d| self.block.drops(d, reason)).sum::<u64>()
        };
        Reason::ALL.iter().map(|&r| (r, both(r))).filter(|&(_, n)| n > 0).collect()
    }

    pub fn get(&self, counter: Counter) -> u64 {
        self.block.get(counter)
    }
}
