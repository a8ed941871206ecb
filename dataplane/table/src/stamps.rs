//! Validity stamps: which verdicts are out of date.
//!
//! A verdict about a flow follows from the policies and identities of its two ends. So
//! each address has a stamp, an entry of the flow table carries the stamps of both its
//! ends from before it was judged, and it holds as long as both are still in force. To
//! change what holds for an address is to give it a new stamp: every flow of that address
//! is judged again, and no other.
//!
//! ```text
//! cell   next 63..32 | current 31..0          one a slot, in a mmapable array
//! stamp  slot 63..32 | value 31..0            in an entry, one a side
//! ```
//!
//! A stamp holds if its value is the cell's current or its next one. Addresses share slots
//! by a keyed hash: who shares one is judged again too often, never too seldom.
//!
//! **A change** has one author, the admin side of the daemon:
//!
//! 1. whatever verdicts follow from is in force (the workers have acknowledged it);
//! 2. [`Stamps::announce`]: next = current + 1. From here on verdicts are stamped with next;
//! 3. the flows concerned are judged again and stamped anew; meanwhile their old stamps hold;
//! 4. [`Stamps::settle`]: current = next. What was missed is stale from here on.
//!
//! So a wide change makes no storm of stale flows, and none outlives step 4.
//!
//! **Order.** A worker loads the stamps of both ends *before* it asks for the verdict. Both
//! steps of a change come after step 1 (release) and are seen with it (acquire): whoever
//! stamps with a new value has judged by what came before it.
#![forbid(unsafe_code)]

use crate::abi;
use crate::addr::Address;
use crate::flow::HashKey;
use crate::mem::{Words, prefetch};
use crate::sync::Ordering;

/// Cells of the array, a power of two.
pub const STAMP_SLOTS: usize = abi::STAMP_SLOTS as usize;

/// The memory is not an array of cells.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an array of {words} validity stamps; their number must be a power of two up to 2^32")]
pub struct StampsSize {
    /// Words given.
    pub words: usize,
}

/// The array of cells, shared with the steering program.
#[derive(Debug)]
pub struct Stamps<W> {
    words: W,
    key: HashKey,
}

const CURRENT: u64 = 0xffff_ffff;

impl<W: Words> Stamps<W> {
    /// Cells over all of `words` (all zero, or of an earlier run with the same key).
    ///
    /// # Errors
    /// [`StampsSize`], unless there is a power of two of them.
    pub fn new(words: W, key: HashKey) -> Result<Self, StampsSize> {
        let count = words.words().len();
        if count.is_power_of_two() && count as u64 <= CURRENT + 1 {
            Ok(Self { words, key })
        } else {
            Err(StampsSize { words: count })
        }
    }

    /// The slot of an address.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // masked to less than 2^32
    pub fn slot(&self, address: Address) -> u32 {
        (self.key.hash_address(address) & (self.words.words().len() as u64 - 1)) as u32
    }

    /// The stamp of a verdict about `address` that is asked for from now on.
    #[inline]
    pub fn of(&self, address: Address) -> u64 {
        let slot = self.slot(address);
        let cell = self.words.words().get(slot as usize).map_or(0, |c| c.load(Ordering::Acquire));
        u64::from(slot) << 32 | cell >> 32
    }

    /// True if what was stamped so still holds. A slot that does not exist never holds.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // the shift leaves 32 bits
    pub fn holds(&self, stamp: u64) -> bool {
        let slot = (stamp >> 32) as u32 as usize;
        self.words.words().get(slot).is_some_and(|cell| {
            let cell = cell.load(Ordering::Acquire);
            let value = stamp & CURRENT;
            value == cell & CURRENT || value == cell >> 32
        })
    }

    /// Begins to load what [`Stamps::holds`] will ask for.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // the shift leaves 32 bits
    pub fn warm(&self, stamp: u64) {
        if let Some(cell) = self.words.words().get((stamp >> 32) as u32 as usize) {
            prefetch(cell);
        }
    }

    /// Both sides' stamps hold.
    #[inline]
    pub fn hold(&self, [lo, hi]: [u64; 2]) -> bool {
        self.holds(lo) && self.holds(hi)
    }

    /// Gives slots a new value beside the one that they have. Only the admin side, one
    /// change at a time.
    pub fn announce(&self, slots: &SlotSet) {
        for cell in self.cells(slots) {
            let current = cell.load(Ordering::Relaxed) & CURRENT;
            let next = current.wrapping_add(1) & CURRENT;
            cell.store(next << 32 | current, Ordering::Release);
        }
    }

    /// Ends the validity of everything stamped before [`Stamps::announce`].
    pub fn settle(&self, slots: &SlotSet) {
        for cell in self.cells(slots) {
            let next = cell.load(Ordering::Relaxed) >> 32;
            cell.store(next << 32 | next, Ordering::Release);
        }
    }

    fn cells<'a>(
        &'a self,
        slots: &'a SlotSet,
    ) -> impl Iterator<Item = &'a crate::sync::AtomicU64> + 'a {
        let words = self.words.words();
        let (all, some): (&[_], &[u32]) = match slots {
            SlotSet::All => (words, &[]),
            SlotSet::Some { list, .. } => (&[], list),
        };
        all.iter().chain(some.iter().filter_map(|slot| words.get(*slot as usize)))
    }

    /// The slots of some addresses.
    pub fn slots_of(&self, addresses: &[Address]) -> SlotSet {
        let mut list: Vec<u32> = addresses.iter().map(|a| self.slot(*a)).collect();
        list.sort_unstable();
        list.dedup();
        let mut bits = vec![0u64; self.words.words().len().div_ceil(64)].into_boxed_slice();
        for slot in &list {
            if let Some(word) = bits.get_mut(*slot as usize / 64) {
                *word |= 1 << (slot % 64);
            }
        }
        SlotSet::Some { list, bits }
    }
}

/// Slots that a change concerns.
#[derive(Debug, Clone)]
pub enum SlotSet {
    /// Every slot.
    All,
    /// These.
    Some {
        /// Each once, sorted.
        list: Vec<u32>,
        /// The same, a bit a slot.
        bits: Box<[u64]>,
    },
}

impl SlotSet {
    /// True if no slot is concerned.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Some { list, .. } if list.is_empty())
    }

    /// True if the slot of this stamp is concerned.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // the shift leaves 32 bits
    pub fn contains(&self, stamp: u64) -> bool {
        let slot = (stamp >> 32) as u32;
        match self {
            Self::All => true,
            Self::Some { bits, .. } => {
                bits.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
            }
        }
    }
}

#[cfg(all(test, loom))]
mod loom_model {
    use super::*;
    use crate::mem::heap_words;
    use crate::sync::{Arc, AtomicU64, thread};

    /// A worker judges by what it finds and stamps the verdict; the admin changes what
    /// verdicts follow from. No old verdict ever holds once the change has settled.
    #[test]
    fn loom_no_old_verdict_outlives_a_change() {
        loom::model(|| {
            let key = HashKey::from_words([3; crate::flow::layout::HASH_KEY_WORDS]);
            let stamps = Arc::new(Stamps::new(heap_words(2), key).unwrap());
            let policy = Arc::new(AtomicU64::new(1));
            let address = Address::v4([10, 0, 0, 1]);
            let worker = {
                let (stamps, policy) = (stamps.clone(), policy.clone());
                thread::spawn(move || {
                    let stamp = stamps.of(address);
                    (stamp, policy.load(Ordering::Relaxed))
                })
            };
            policy.store(2, Ordering::Relaxed);
            let slots = stamps.slots_of(&[address]);
            stamps.announce(&slots);
            stamps.settle(&slots);
            let (stamp, verdict) = worker.join().unwrap();
            assert!(verdict == 2 || !stamps.holds(stamp));
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::mem::heap_words;

    fn stamps(slots: usize) -> Stamps<Vec<crate::sync::AtomicU64>> {
        let key = HashKey::from_bytes(&std::array::from_fn(|i| (i as u8).wrapping_mul(29) ^ 3));
        Stamps::new(heap_words(slots), key).unwrap()
    }

    fn pod(n: u32) -> Address {
        std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into()
    }

    #[test]
    fn a_change_ends_what_was_stamped_before_it_and_nothing_else() {
        let stamps = stamps(1 << 16);
        let before: Vec<u64> = (0..100).map(|n| stamps.of(pod(n))).collect();
        let slots = stamps.slots_of(&[pod(7)]);
        assert!(slots.contains(before[7]) && !slots.is_empty());
        stamps.announce(&slots);
        let during = stamps.of(pod(7));
        assert_ne!(during, before[7]);
        assert!(stamps.hold([during, before[7]]), "both hold until the change settles");
        stamps.settle(&slots);
        for n in 0..100 {
            let shared = stamps.slot(pod(n)) == stamps.slot(pod(7));
            assert_eq!(stamps.holds(before[n as usize]), !shared, "{n}");
        }
        assert!(stamps.holds(during));
        stamps.announce(&SlotSet::All);
        stamps.settle(&SlotSet::All);
        assert!(!stamps.holds(during) && !stamps.holds(before[8]));
        assert!((0..100).all(|n| stamps.holds(stamps.of(pod(n)))));
    }

    #[test]
    fn a_stamp_of_no_slot_never_holds() {
        let stamps = stamps(64);
        assert!(!stamps.holds(64 << 32));
        assert!(stamps.holds(63 << 32));
        assert!(stamps.slots_of(&[]).is_empty());
        assert!(Stamps::new(heap_words(63), HashKey::from_words([1; 12])).is_err());
        assert!(Stamps::new(heap_words(0), HashKey::from_words([1; 12])).is_err());
    }

    #[test]
    fn addresses_of_a_cluster_rarely_share_a_slot() {
        let stamps = stamps(STAMP_SLOTS);
        let addresses: Vec<Address> = (0..2000).map(pod).collect();
        let SlotSet::Some { list, .. } = stamps.slots_of(&addresses) else { unreachable!() };
        assert!(list.len() > 1970, "{} slots for 2000 addresses", list.len());
    }
}
