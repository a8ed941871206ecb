//! What the kernel's reader makes of a frame, and what it should.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aya::maps::Map;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use weir_dataplane::parse::{Fragment, Packet, Transport, parse};
use weir_dataplane::steer::Sizes;
use weir_dataplane::steer::abi::{self, CONFIG_WORDS, Config, Fixed, Mark};
use weir_table::Address;
use weir_table::flow::{FlowKey, HashKey, Side};
use weir_table::mem::{Access, SharedWords, Words};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tuple_test.bpf.o"));

/// What read_tuple() said: `struct reading` of tuple_test.bpf.c.
#[derive(Debug, PartialEq, Eq)]
pub struct Reading {
    from_hi: bool,
    protocol: u8,
    tcp_flags: u8,
    hash: u64,
    verdict_hash: u64,
    key: [u64; 5],
    verdict_key: [u64; 5],
}

/// What a daemon would write.
pub const FIXED: Fixed = Fixed {
    mark: Mark::DEFAULT,
    fail_open: false,
    heartbeat_timeout: Duration::from_secs(2),
    offload: true,
    punt_limit: None,
    flows: Sizes { flows4: FLOWS as u32, flows6: FLOWS as u32 },
};

/// Entries of either family's flow table: what a map has unless it is told otherwise.
pub const FLOWS: usize = 1024;

/// The key of the tables' hash.
pub fn secret() -> abi::HashKeyWords {
    std::array::from_fn(|i| (i as u64 + 3).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

const READING_WORDS: usize = 16;

/// The keyed hash as table/src/flow/key.rs describes it, for what is no flow's key.
fn hash_of(secret: &abi::HashKeyWords, words: &[u64]) -> u64 {
    let mut h = secret[0];
    for (i, word) in words.iter().enumerate() {
        h = h.wrapping_add(secret[1 + 2 * i].wrapping_mul(word & 0xffff_ffff));
        h = h.wrapping_add(secret[2 + 2 * i].wrapping_mul(word >> 32));
    }
    h = (h ^ h >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    h ^ h >> 32
}

/// `bpf/tuple.h` in the kernel.
pub struct Kernel {
    ebpf: Ebpf,
    reading: SharedWords,
    secret: abi::HashKeyWords,
}

impl Kernel {
    pub fn new() -> Self {
        let mut ebpf = EbpfLoader::new().load(OBJECT).unwrap();
        for (_, program) in ebpf.programs_mut() {
            let program: &mut SchedClassifier = program.try_into().unwrap();
            program.load().unwrap();
        }
        let words = |name, words| {
            let Some(Map::Array(data)) = ebpf.map(name) else { panic!("no map {name}") };
            SharedWords::map(data.fd().as_fd(), words, Access::ReadWrite, "test map").unwrap()
        };
        let secret = secret();
        Config::new(words("weir_config", CONFIG_WORDS as usize)).init(secret, &FIXED);
        let reading = words("weir_reading", READING_WORDS);
        Self { ebpf, reading, secret }
    }

    pub fn run(&self, program: &str, frame: &[u8]) -> Option<Reading> {
        let program: &SchedClassifier = self.ebpf.program(program).unwrap().try_into().unwrap();
        let options = TestRunOptions { data_in: Some(frame), ..Default::default() };
        let result = program.test_run(options).unwrap();
        assert_eq!(result.return_value, u32::MAX, "TC_ACT_UNSPEC");
        let words: [u64; READING_WORDS] =
            std::array::from_fn(|i| self.reading.words()[i].load(Ordering::Relaxed));
        let [family, from_hi, protocol, tcp_flags, hash, verdict_hash, rest @ ..] = words;
        (family != 0).then(|| Reading {
            from_hi: from_hi != 0,
            protocol: protocol as u8,
            tcp_flags: tcp_flags as u8,
            hash,
            verdict_hash,
            key: std::array::from_fn(|i| rest[i]),
            verdict_key: std::array::from_fn(|i| rest[5 + i]),
        })
    }

    /// How long, in ticks, the hooks let a flow be silent of which this is known: protocol,
    /// what was seen from either side, whether side hi opened it, whether it is cut.
    pub fn flow_timeout(&self, about: [u8; 5]) -> u64 {
        let mut frame = vec![0; 64];
        frame[14..19].copy_from_slice(&about);
        self.run("flow_timeout_of", &frame);
        self.reading.words()[0].load(Ordering::Relaxed)
    }

    /// Whether a packet would pass of which nothing can be said.
    pub fn passes_unreadable(&self) -> bool {
        self.run("unreadable_passes", &[0; 64]);
        self.reading.words()[0].load(Ordering::Relaxed) != 0
    }

    pub fn read(&self, frame: &[u8]) -> Option<Reading> {
        self.run("tuple_read", frame)
    }

    /// What read_tuple() has to say of a packet, by the words of table/src/flow/layout.rs.
    fn expected(&self, packet: &Packet) -> Reading {
        let t = &packet.tuple;
        let (key, sender) = FlowKey::new((t.src, t.sport), (t.dst, t.dport), t.protocol);
        let words = |a: Address, b: Address, ports: u64| {
            let mut words = [0; 5];
            match (a.v4_bits(), b.v4_bits()) {
                (Some(a), Some(b)) => {
                    words[..2].copy_from_slice(&[u64::from(a) | u64::from(b) << 32, ports]);
                }
                _ => {
                    let ((a, b), (c, d)) = (a.to_words(), b.to_words());
                    words = [a, b, c, d, ports];
                }
            }
            words
        };
        let (lo, hi) = (key.end(Side::Lo), key.end(Side::Hi));
        let protocol = u64::from(t.protocol) << 32;
        let echo = packet.transport == Transport::IcmpEcho;
        let dport = if echo { 0 } else { u64::from(t.dport) };
        let tcp_flags = match packet.transport {
            Transport::Tcp(flags) | Transport::Sctp(flags) => flags.0,
            _ => 0,
        };
        let verdict_key = words(t.src, t.dst, dport << 16 | protocol);
        let used = if t.src.is_v4() { 2 } else { 5 };
        Reading {
            from_hi: sender == Side::Hi,
            protocol: t.protocol,
            tcp_flags,
            hash: HashKey::from_words(self.secret).hash(&key).bits(),
            verdict_hash: hash_of(&self.secret, &verdict_key[..used]),
            key: words(lo.0, hi.0, u64::from(lo.1) | u64::from(hi.1) << 16 | protocol),
            verdict_key,
        }
    }

    /// Holds the two against each other; gives what became of the frame.
    pub fn compare(&self, frame: &[u8]) -> &'static str {
        let (worker, reading) = (parse(frame), self.read(frame));
        let Some(reading) = reading else {
            return if worker.is_ok() { "left to the worker" } else { "left alone by both" };
        };
        match worker {
            Ok(packet) => {
                assert_eq!(reading, self.expected(&packet), "{packet:?}\n{frame:02x?}");
                assert_eq!(packet.fragment, Fragment::No, "{frame:02x?}");
                let known = !matches!(
                    packet.transport,
                    Transport::IcmpError(_) | Transport::Icmp | Transport::Unseen
                );
                assert!(known, "{packet:?}\n{frame:02x?}");
                "read alike"
            }
            Err(refusal) => {
                panic!("the worker refuses ({refusal}) what the fast path reads: {frame:02x?}")
            }
        }
    }
}
