//! The flow table and two concurrent hash maps behind one set of operations.
//!
//! What is the same for all: the key is made beforehand, packed to two words for the maps as
//! it stands in the flow table; the hash is keyed and of the same kind; a value has what an
//! entry has; a hit notes the packet, with a store only if something changes. So what differs
//! is the structure. The maps could hold any number of flows; the table's size is fixed, and
//! it may refuse one.

use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use weir_table::flow::{FlowKey, FlowTable, NewFlow, Seeing, Side, Tick};
use weir_table::mem::SharedWords;
use weir_table::stamps::{STAMP_SLOTS, Stamps};

use super::traffic::{self, ACK, SYN};
use super::world;

/// Keys whose operations are timed together.
pub const BATCH: usize = 256;
/// As many as the pipeline has in flight.
const BURST: usize = 64;

/// A flow as a caller has it.
#[derive(Debug, Clone, Copy)]
pub struct Query {
    pub key: FlowKey,
    pub client: Side,
    /// The same key for the maps.
    pub packed: [u64; 2],
    pub new: NewFlow,
}

impl Query {
    /// IPv4 flow `n`.
    pub fn new(n: u32) -> Self {
        let (key, client) = traffic::key(n);
        let [lo, hi] = [Side::Lo, Side::Hi].map(|side| key.end(side));
        let bits = |end: (weir_table::Address, u16)| u64::from(end.0.v4_bits().unwrap_or(0));
        let ports = u64::from(lo.1) | u64::from(hi.1) << 16 | u64::from(key.protocol()) << 32;
        let packed = [bits(lo) | bits(hi) << 32, ports];
        Self { key, client, packed, new: world::new_flow(n) }
    }
}

/// What is measured. Each returns how many flows were found, entered, removed.
pub trait Flows {
    fn with_room_for(flows: u32) -> Self;
    fn hit(&self, queries: &[Query], now: Tick) -> usize;
    fn insert(&self, queries: &[Query], now: Tick) -> usize;
    fn remove(&self, queries: &[Query]) -> usize;

    /// Makes flows such that no other takes their place.
    fn establish(&self, _queries: &[Query], _now: Tick) {}
}

/// The flow table, one packet after the other.
pub struct Weir(FlowTable<SharedWords>, Stamps<SharedWords>);

impl Flows for Weir {
    fn with_room_for(flows: u32) -> Self {
        let stamps = Stamps::new(SharedWords::heap(STAMP_SLOTS), world::secret());
        Self(world::flow_table(flows, false), stamps.expect("a power of two"))
    }

    /// As the pipeline does it: what is no hit is looked up.
    fn hit(&self, queries: &[Query], now: Tick) -> usize {
        let Self(table, stamps) = self;
        let found = queries.iter().filter(|query| {
            let hash = table.hash(&query.key);
            let side = query.client;
            let packet = Seeing { side, tcp_flags: ACK, ifindex: query.new.ifindex, now };
            table.hit(&query.key, hash, &packet, stamps).is_some()
                || matches!(table.lookup(&query.key, hash), Ok(Some(_)))
        });
        found.count()
    }

    fn insert(&self, queries: &[Query], now: Tick) -> usize {
        let entered = queries.iter().filter(|query| {
            let hash = self.0.hash(&query.key);
            self.0.insert(&query.key, hash, &query.new, now).is_ok()
        });
        entered.count()
    }

    fn remove(&self, queries: &[Query]) -> usize {
        let removed = queries.iter().filter(|query| {
            let found = self.0.lookup(&query.key, self.0.hash(&query.key));
            matches!(found, Ok(Some((entry, _))) if self.0.delete(entry))
        });
        removed.count()
    }

    fn establish(&self, queries: &[Query], now: Tick) {
        for query in queries {
            let found = self.0.lookup(&query.key, self.0.hash(&query.key));
            let Ok(Some((entry, _))) = found else { unreachable!("it was just entered") };
            let pod = query.client.other();
            for (side, flags) in
                [(pod, SYN | ACK), (query.client, ACK), (pod, ACK), (query.client, ACK)]
            {
                self.0.touch(entry, side, flags, now);
            }
        }
    }
}

/// The flow table as the pipeline uses it: in bursts whose cache misses overlap.
pub struct WeirBurst(Weir);

impl Flows for WeirBurst {
    fn with_room_for(flows: u32) -> Self {
        Self(Weir::with_room_for(flows))
    }

    fn hit(&self, queries: &[Query], now: Tick) -> usize {
        let Weir(table, stamps) = &self.0;
        let found = queries.chunks(BURST).map(|burst| {
            for query in burst {
                table.warm(&query.key, table.hash(&query.key));
            }
            for query in burst {
                if let Some([lo, hi]) = table.approach(&query.key, table.hash(&query.key)) {
                    stamps.warm(lo);
                    stamps.warm(hi);
                }
            }
            self.0.hit(burst, now)
        });
        found.sum()
    }

    fn insert(&self, queries: &[Query], now: Tick) -> usize {
        self.0.insert(queries, now)
    }

    fn remove(&self, queries: &[Query]) -> usize {
        self.0.remove(queries)
    }

    fn establish(&self, queries: &[Query], now: Tick) {
        self.0.establish(queries, now);
    }
}

/// What an entry of the flow table has beside its key.
struct Value {
    /// As `aux` of an entry: seen and last seen.
    aux: AtomicU64,
    new: NewFlow,
    denied: bool,
}

impl Value {
    fn new(query: &Query, now: Tick) -> Self {
        Self { aux: AtomicU64::new(u64::from(now.0)), new: query.new, denied: false }
    }

    fn note(&self, query: &Query, now: Tick) -> bool {
        let side = if query.client == Side::Lo { 32 } else { 40 };
        let before = self.aux.load(Ordering::Relaxed);
        let seen = before >> 32 | u64::from(ACK) << (side - 32);
        let after = seen << 32 | u64::from(now.0);
        if after != before {
            let _ = self.aux.compare_exchange(before, after, Ordering::Relaxed, Ordering::Relaxed);
        }
        now.since(Tick(u32::try_from(before & 0xffff_ffff).unwrap_or(0))) < 50_000
            && !self.denied
            && self.new.stamps == [0; 2]
    }
}

/// The flow table's hash for the maps: multilinear under a secret, then mixed.
#[derive(Clone)]
struct Keyed([u64; 5]);

impl Keyed {
    fn new() -> Self {
        let mut dice = super::Dice::new(0x5ec2e7);
        Self(std::array::from_fn(|_| dice.roll()))
    }
}

struct KeyedState<'a> {
    secret: &'a [u64],
    sum: u64,
}

impl BuildHasher for &'static Keyed {
    type Hasher = KeyedState<'static>;

    fn build_hasher(&self) -> Self::Hasher {
        KeyedState { secret: &self.0[1..], sum: self.0[0] }
    }
}

impl Hasher for KeyedState<'_> {
    #[inline]
    fn write_u64(&mut self, word: u64) {
        if let [k, l, rest @ ..] = self.secret {
            let (low, high) = (word & 0xffff_ffff, word >> 32);
            self.sum =
                self.sum.wrapping_add(k.wrapping_mul(low)).wrapping_add(l.wrapping_mul(high));
            self.secret = rest;
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        unreachable!("keys are words, not {} bytes", bytes.len());
    }

    #[inline]
    fn finish(&self) -> u64 {
        let mut h = self.sum;
        h ^= h >> 32;
        h = h.wrapping_mul(0xd6e8_feb8_6659_fd93);
        h ^ h >> 32
    }
}

/// A key that hashes as two words.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Packed([u64; 2]);

impl std::hash::Hash for Packed {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[0]);
        state.write_u64(self.0[1]);
    }
}

fn keyed() -> &'static Keyed {
    static KEYED: std::sync::LazyLock<Keyed> = std::sync::LazyLock::new(Keyed::new);
    &KEYED
}

/// `dashmap`: shards, each a hash table behind a lock.
pub struct Dash(dashmap::DashMap<Packed, Value, &'static Keyed>);

impl Flows for Dash {
    fn with_room_for(flows: u32) -> Self {
        Self(dashmap::DashMap::with_capacity_and_hasher(flows as usize, keyed()))
    }

    fn hit(&self, queries: &[Query], now: Tick) -> usize {
        let found = queries.iter().filter(|query| {
            self.0.get(&Packed(query.packed)).is_some_and(|value| value.note(query, now))
        });
        found.count()
    }

    fn insert(&self, queries: &[Query], now: Tick) -> usize {
        let entered = queries
            .iter()
            .filter(|query| self.0.insert(Packed(query.packed), Value::new(query, now)).is_none());
        entered.count()
    }

    fn remove(&self, queries: &[Query]) -> usize {
        queries.iter().filter(|query| self.0.remove(&Packed(query.packed)).is_some()).count()
    }
}

/// `papaya`: open addressing without locks; entries are boxed and freed by epochs.
pub struct Papaya(papaya::HashMap<Packed, Value, &'static Keyed>);

impl Flows for Papaya {
    fn with_room_for(flows: u32) -> Self {
        Self(papaya::HashMap::with_capacity_and_hasher(flows as usize, keyed()))
    }

    fn hit(&self, queries: &[Query], now: Tick) -> usize {
        let map = self.0.pin();
        let found = queries.iter().filter(|query| {
            map.get(&Packed(query.packed)).is_some_and(|value| value.note(query, now))
        });
        found.count()
    }

    fn insert(&self, queries: &[Query], now: Tick) -> usize {
        let map = self.0.pin();
        let entered = queries
            .iter()
            .filter(|query| map.insert(Packed(query.packed), Value::new(query, now)).is_none());
        entered.count()
    }

    fn remove(&self, queries: &[Query]) -> usize {
        let map = self.0.pin();
        queries.iter().filter(|query| map.remove(&Packed(query.packed)).is_some()).count()
    }
}
