//! The configuration record that every hook reads, and the mark.
//!
//! Invariants of the record: the ABI version is stored last, with release order, so a
//! hook that sees it sees a complete record; every field is one aligned 8-byte word, so
//! none is ever read half written.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub use weir_table::abi::*;
use weir_table::addr::Address;
use weir_table::flow::Tick;
use weir_table::mem::{SharedWords, Words};

use super::Sizes;

/// The bits of `skb->mark` by which a hook knows a packet that a worker accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The value of the bits under the mask; never 0.
    pub value: u32,
    /// Which bits are Weir's; all others are left as they are.
    pub mask: u32,
}

impl Mark {
    /// Bit 21: outside what kube-proxy (0x4000, 0x8000), Cilium (0x0f00 and up to
    /// 0xffff0000 only for its own devices) and Calico (0xffff0000 by default, but it
    /// tests only the four lowest of them) look at.
    pub const DEFAULT: Self = Self { value: 0x0020_0000, mask: 0x0020_0000 };
}

impl std::str::FromStr for Mark {
    type Err = String;

    /// `VALUE/MASK` or `VALUE` (its own mask), decimal or 0x-hexadecimal.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |s: &str| {
            let parsed = match s.strip_prefix("0x") {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => s.parse(),
            };
            parsed.map_err(|_| format!("{s:?} is not a 32-bit number"))
        };
        let (value, mask) = match text.split_once('/') {
            Some((value, mask)) => (number(value)?, number(mask)?),
            None => (number(text)?, number(text)?),
        };
        if value == 0 || value & !mask != 0 {
            return Err(format!(
                "mark {text}: the value must be non-zero and lie inside the mask, as in 0x200000/0x200000"
            ));
        }
        Ok(Self { value, mask })
    }
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}/{:#x}", self.value, self.mask)
    }
}

/// The secret that places flows in the table and packets on workers.
pub type HashKeyWords = [u64; CONFIG_ABI_VERSION as usize];

/// How many packets a device may send to the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PuntLimit {
    /// Packets a second, steadily; at least 1.
    pub rate: u32,
    /// Packets at once, after a pause.
    pub burst: u32,
}

impl PuntLimit {
    /// A worker judges some 80,000 packets a second on a modest core, which it may share with
    /// the pods; a quarter of that is the most that one pod may ask for. What the hooks
    /// decide by themselves does not count.
    pub const DEFAULT: Self = Self { rate: 20_000, burst: 40_000 };

    fn interval_ns(self) -> u64 {
        1_000_000_000 / u64::from(self.rate.max(1))
    }
}

/// What does not change while a daemon runs.
#[derive(Debug, Clone, Copy)]
pub struct Fixed {
    /// Weir's bits of `skb->mark`.
    pub mark: Mark,
    /// Whether undecided packets pass while no worker serves.
    pub fail_open: bool,
    /// A worker that shows no sign of life for so long counts as dead.
    pub heartbeat_timeout: Duration,
    /// Whether decided flows stay in the kernel.
    pub offload: bool,
    /// `None`: no limit.
    pub punt_limit: Option<PuntLimit>,
    /// Entries of the two flow tables, powers of two.
    pub flows: Sizes,
}

/// The daemon's view of `struct weir_config`, mapped from the pinned array.
#[derive(Debug)]
pub struct Config {
    words: SharedWords,
}

impl Config {
    /// Wraps the mapping; it must hold [`CONFIG_WORDS`] words.
    pub fn new(words: SharedWords) -> Self {
        debug_assert!(words.words().len() >= CONFIG_WORDS as usize);
        Self { words }
    }

    fn set(&self, word: u32, value: u64) {
        if let Some(w) = self.words.words().get(word as usize) {
            w.store(value, Ordering::Release);
        }
    }

    fn get(&self, word: u32) -> u64 {
        self.words.words().get(word as usize).map_or(0, |w| w.load(Ordering::Acquire))
    }

    /// The ABI under which the record was written; 0 if it never was.
    pub fn abi_version(&self) -> u64 {
        self.get(CONFIG_ABI_VERSION)
    }

    /// Puts down what does not change while a daemon runs. A key that is there
    /// already is kept: flows in the table were placed by it.
    pub fn init(&self, key: HashKeyWords, fixed: &Fixed) {
        if self.get(CONFIG_HASH_KEY) == 0 {
            for (word, value) in (CONFIG_HASH_KEY..).zip(key) {
                self.set(word, value);
            }
        }
        let &Fixed { mark, fail_open, heartbeat_timeout, offload, punt_limit, flows } = fixed;
        self.set(CONFIG_MARK_VALUE, mark.value.into());
        self.set(CONFIG_MARK_MASK, mark.mask.into());
        self.set(CONFIG_FAIL_OPEN, fail_open.into());
        let timeout = u64::try_from(heartbeat_timeout.as_nanos()).unwrap_or(u64::MAX);
        self.set(CONFIG_HEARTBEAT_TIMEOUT, timeout);
        let buckets = |entries: u32| u64::from(entries / FLOW_BUCKET).saturating_sub(1);
        self.set(CONFIG_FLOW4_MASK, buckets(flows.flows4));
        self.set(CONFIG_FLOW6_MASK, buckets(flows.flows6));
        let interval = punt_limit.map_or(0, PuntLimit::interval_ns);
        let burst = punt_limit.map_or(0, |limit| limit.interval_ns() * u64::from(limit.burst));
        self.set(CONFIG_PUNT_INTERVAL, interval);
        self.set(CONFIG_PUNT_BURST, burst);
        // Off only with the hooks that know nothing else: see `set_offload`.
        if offload {
            self.set_offload(true);
        }
        self.set(CONFIG_ABI_VERSION, ABI_VERSION.into());
    }

    /// The secret that places flows in the table and packets on workers.
    pub fn hash_key(&self) -> HashKeyWords {
        std::array::from_fn(|i| self.words.words().get(i).map_or(0, |w| w.load(Ordering::Relaxed)))
    }

    /// Tells the hooks where to send undecided packets, and among how many workers. `flags`
    /// are [`PUNT_TAP`] and [`PUNT_TAP_UDP`].
    pub fn serve(&self, punt_ifindex: u32, workers: u32, flags: u32) {
        self.set(CONFIG_PUNT_FLAGS, flags.into());
        self.set(CONFIG_WORKERS, workers.into());
        self.set(CONFIG_PUNT_IFINDEX, punt_ifindex.into());
    }

    /// The clock of flows as the last worker left it; `None` if none ever ran.
    pub fn tick(&self) -> Option<Tick> {
        let tick = u32::try_from(self.get(CONFIG_TICK)).unwrap_or(0);
        (tick != 0).then_some(Tick(tick))
    }

    /// Tells the hooks the coarse time, which never runs backwards. Stores nothing if it has
    /// not changed.
    pub fn set_tick(&self, now: Tick) {
        if self.tick().is_none_or(|last| now.since(last) > 0) {
            self.set(CONFIG_TICK, now.0.into());
        }
    }

    /// Tells the hooks whether decided flows stay in the kernel. To be turned off only once
    /// the hooks are this daemon's: those of an earlier one have nobody to send packets to.
    pub fn set_offload(&self, on: bool) {
        self.set(CONFIG_OFFLOAD, on.into());
    }

    /// Whether the flows that were open before the first daemon have been entered.
    pub fn has_adopted(&self) -> bool {
        self.get(CONFIG_ADOPTED) != 0
    }

    /// Says that they have.
    pub fn set_adopted(&self) {
        self.set(CONFIG_ADOPTED, 1);
    }

    /// A worker's sign of life; `now` is `CLOCK_MONOTONIC` in nanoseconds.
    pub fn heartbeat(&self, worker: u32, now: u64) {
        if worker < MAX_WORKERS {
            self.set(CONFIG_HEARTBEAT + worker, now);
        }
    }

    /// Whether some worker counts as alive; `now` as for [`Config::heartbeat`].
    pub fn has_live_worker(&self, now: u64) -> bool {
        let timeout = self.get(CONFIG_HEARTBEAT_TIMEOUT);
        (0..MAX_WORKERS).any(|worker| {
            let last = self.get(CONFIG_HEARTBEAT + worker);
            last != 0 && now.saturating_sub(last) <= timeout
        })
    }

    /// When that was last; 0 if it never was, or the worker has ended.
    pub fn last_heartbeat(&self, worker: u32) -> u64 {
        if worker < MAX_WORKERS { self.get(CONFIG_HEARTBEAT + worker) } else { 0 }
    }
}

/// `struct address`: an address in IPv6 form, network byte order.
pub fn address_key(address: IpAddr) -> [u8; 16] {
    match Address::from(address).to_ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// `struct pod_address`: the address and the device at which it speaks.
pub fn pod_address_key(ifindex: u32, address: IpAddr) -> [u8; 20] {
    let mut key = [0; 20];
    key[..16].copy_from_slice(&address_key(address));
    key[16..].copy_from_slice(&ifindex.to_ne_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::{SHIM_LEN, SHIM_TAG, ShimFlags};

    #[test]
    fn rust_and_c_agree() {
        assert_eq!(SHIM_TAG, u16::try_from(abi_shim_tag()).unwrap());
        assert_eq!(SHIM_LEN, 16, "struct weir_shim is asserted to have 16 bytes in weir.h");
        assert_eq!(u32::from(ShimFlags::COVERS_BOTH.bits()), SHIM_COVERS_BOTH);
        assert_eq!(CONFIG_HEARTBEAT + MAX_WORKERS, CONFIG_WORDS);
        assert_eq!(u32::from(ShimFlags::COUNTED.bits()), SHIM_COUNTED);
        assert_eq!(STEERING_COUNTERS.first(), Some(&"hit"));
        assert_eq!(STEERING_COUNTERS.last(), Some(&"drop_no_config"));
    }

    fn abi_shim_tag() -> u32 {
        super::SHIM_TAG
    }

    #[test]
    fn marks_parse() {
        assert_eq!("0x200000/0x200000".parse(), Ok(Mark::DEFAULT));
        assert_eq!("16".parse(), Ok(Mark { value: 16, mask: 16 }));
        for bad in ["0/0xff", "0x100/0xff", "x", "", "1/", "0x1ffffffff"] {
            assert!(bad.parse::<Mark>().is_err(), "{bad} must be refused");
        }
    }

    #[test]
    fn a_key_survives_a_restart() {
        let config = Config::new(SharedWords::heap(CONFIG_WORDS as usize));
        assert_eq!(config.abi_version(), 0);
        let fixed = Fixed {
            mark: Mark::DEFAULT,
            fail_open: false,
            heartbeat_timeout: Duration::from_secs(2),
            offload: true,
            punt_limit: Some(PuntLimit { rate: 1000, burst: 5 }),
            flows: Sizes { flows4: 64, flows6: 16 },
        };
        config.init([7; 12], &fixed);
        config.init([9; 12], &Fixed { fail_open: true, ..fixed });
        assert_eq!((config.get(CONFIG_FLOW4_MASK), config.get(CONFIG_FLOW6_MASK)), (31, 7));
        assert_eq!(config.get(CONFIG_PUNT_INTERVAL), 1_000_000);
        assert_eq!(config.get(CONFIG_PUNT_BURST), 5_000_000);
        assert_eq!(config.hash_key(), [7; 12]);
        assert_eq!(config.abi_version(), u64::from(ABI_VERSION));
    }
}
