//! The reading side of the address map.

#[cfg(not(loom))]
use std::os::fd::BorrowedFd;

#[cfg(not(loom))]
use super::AddressMapWriter;
use super::{
    AddressMapError, FORMAT_VERSION, FREE, H_EPOCH, H_GENERATION, H_LIVE, H_MAGIC, H_SEED, H_SLOTS,
    H_VERSION, HEADER_WORDS, LIVE, MAGIC, MAX_SLOTS, S_CTL, S_HIGH, S_LOW, S_VALUE, SLOT_WORDS,
    STATE_MASK, UNSETTLED, hash,
};
use crate::{
    addr::Address,
    mem::Words,
    policy::ClassId,
    sync::{AtomicU64, Ordering, fence, hint},
};
#[cfg(not(loom))]
use crate::{
    mem::{Access, SharedWords},
    seal::{self, Guarantee},
};

/// How often a reader scans before it gives the answer up as unsettled. A write
/// takes some ten nanoseconds; a writer that was preempted in it is not waited
/// for.
const ATTEMPTS: usize = if cfg!(loom) { 3 } else { 64 };

/// How often a snapshot is begun anew because the map changed meanwhile.
#[cfg(not(loom))]
const SNAPSHOTS: usize = 16;

/// An address map to read, generic over where its words live.
#[derive(Debug)]
pub struct AddressMap<W> {
    words: W,
    slots: usize,
    seed: u64,
    generation: u64,
}

/// What a slot held at one moment.
enum Slot {
    Free,
    Live(Address, ClassId),
    /// Being written.
    Busy,
}

/// What one pass over an address's chain of slots gave.
enum Scan {
    Found(ClassId),
    /// Not there; the slots passed, and the sum of their `ctl` words. A `ctl`
    /// word only ever grows, so that equal sums over equally many slots mean
    /// that none of them changed.
    Missed(u64, u64),
    /// A slot on the way was being written.
    Unsettled,
}

#[cfg(not(loom))]
impl AddressMap<SharedWords> {
    /// Maps a received address map read-only.
    ///
    /// # Errors
    /// [`AddressMapError`]: a seal is missing (it is named), the memory cannot
    /// be mapped, or it holds no address map of this version.
    pub fn from_fd(fd: BorrowedFd<'_>) -> Result<Self, AddressMapError> {
        let what = "address map";
        seal::require(fd, what, Guarantee::FixedSize)?;
        AddressMap::open(SharedWords::map_all(fd, Access::ReadOnly, what)?)
    }
}

impl<W: Words> AddressMap<W> {
    /// Reads the header of `words` and checks that the slots fit.
    ///
    /// # Errors
    /// [`AddressMapError`] names what does not hold.
    pub fn open(words: W) -> Result<AddressMap<W>, AddressMapError> {
        let all = words.words();
        let found = all.len();
        if found < HEADER_WORDS || all[H_MAGIC].load(Ordering::Acquire) != MAGIC {
            return Err(AddressMapError::Magic);
        }
        let header = |word: usize| all[word].load(Ordering::Acquire);
        if header(H_VERSION) != u64::from(FORMAT_VERSION) {
            return Err(AddressMapError::Version { found: header(H_VERSION) });
        }
        let raw = header(H_SLOTS);
        let slots = match usize::try_from(raw) {
            Ok(n) if n.is_power_of_two() && n <= MAX_SLOTS => n,
            _ => return Err(AddressMapError::Size { slots: raw, words: found }),
        };
        if found < HEADER_WORDS + slots * SLOT_WORDS {
            return Err(AddressMapError::Size { slots: raw, words: found });
        }
        let (seed, generation) = (header(H_SEED), header(H_GENERATION));
        Ok(AddressMap { words, slots, seed, generation })
    }

    /// The generation whose classes this map names.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The hash seed: random, so two maps hardly ever share it.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// How many changes were made so far. Load it *before* a lookup whose answer
    /// is to be stamped with it.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.word(H_EPOCH).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// How many addresses the map holds.
    pub fn len(&self) -> usize {
        let live = self.word(H_LIVE).map_or(0, |word| word.load(Ordering::Relaxed));
        usize::try_from(live).unwrap_or(usize::MAX)
    }

    /// Whether the map holds no address.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many addresses the map can hold.
    pub fn capacity(&self) -> usize {
        self.slots / 2
    }

    /// The class of a pod's address; `None` for any other address.
    ///
    /// The class is what the writer put there: the caller checks that its table
    /// knows it. [`UNSETTLED`] while the answer is being written.
    #[inline]
    pub fn lookup(&self, address: Address) -> Option<ClassId> {
        let home = hash(self.seed, address);
        let mut before = None;
        for _ in 0..ATTEMPTS {
            match self.scan(home, address) {
                Scan::Found(class) => return Some(class),
                Scan::Missed(slots, sum) if before == Some((slots, sum)) => return None,
                Scan::Missed(slots, sum) => before = Some((slots, sum)),
                Scan::Unsettled => {
                    before = None;
                    hint::spin_loop();
                }
            }
        }
        Some(UNSETTLED)
    }

    #[inline]
    fn scan(&self, home: u64, address: Address) -> Scan {
        let mut unsettled = false;
        let mut sum = 0u64;
        for probe in 0..self.slots as u64 {
            let (slot, ctl) = self.slot(home.wrapping_add(probe));
            sum = sum.wrapping_add(ctl);
            match slot {
                Slot::Free if unsettled => return Scan::Unsettled,
                Slot::Free => return Scan::Missed(probe, sum),
                Slot::Live(found, class) if found == address => return Scan::Found(class),
                Slot::Live(..) => {}
                Slot::Busy => unsettled = true,
            }
        }
        // No slot is free: no writer of ours leaves it so.
        Scan::Unsettled
    }

    /// Every address with its class, as far as it is settled: each pair belongs
    /// together, but the whole is no snapshot of one moment: an address that moves
    /// up meanwhile may come twice or not at all.
    pub fn iter(&self) -> impl Iterator<Item = (Address, ClassId)> + '_ {
        (0..self.slots as u64).filter_map(|slot| {
            (0..ATTEMPTS).find_map(|_| match self.slot(slot).0 {
                Slot::Live(address, class) => Some(Some((address, class))),
                Slot::Free => Some(None),
                Slot::Busy => None,
            })?
        })
    }

    /// A copy of the map as bytes, to be saved; [`AddressMap::from_fd`] reads it
    /// back from a sealed memory file. Its seed and its epoch are new.
    ///
    /// # Errors
    /// [`AddressMapError::Full`] if the map holds more than its writer can have
    /// put there.
    #[cfg(not(loom))]
    pub fn snapshot(&self) -> Result<Vec<u8>, AddressMapError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let epoch = self.epoch();
            let mut copy = AddressMapWriter::private(self.generation, self.capacity())?;
            for (address, class) in self.iter().filter(|&(_, class)| class != UNSETTLED) {
                copy.insert(address, class)?;
            }
            // Nothing moved meanwhile, or the writer never rests: then an entry
            // may be missing, and the next saving will have it.
            if self.epoch() == epoch || attempt == SNAPSHOTS {
                let words = copy.words().words();
                return Ok(words
                    .iter()
                    .flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes())
                    .collect());
            }
        }
    }

    #[inline]
    fn word(&self, index: usize) -> Option<&AtomicU64> {
        self.words.words().get(index)
    }

    /// Reads one slot once; `slot` is masked here. Gives its `ctl` word too.
    #[inline]
    fn slot(&self, slot: u64) -> (Slot, u64) {
        let slot = usize::try_from(slot & (self.slots as u64 - 1)).unwrap_or(0);
        let first = HEADER_WORDS + slot * SLOT_WORDS;
        let Some([ctl, high, low, value]) =
            self.words.words().get(first..).and_then(|rest| rest.first_chunk::<SLOT_WORDS>())
        else {
            return (Slot::Busy, 0); // never: `open` checked the length
        };
        const _: () = assert!(S_CTL == 0 && S_HIGH == 1 && S_LOW == 2 && S_VALUE == 3);
        let before = ctl.load(Ordering::Acquire);
        let slot = match before & STATE_MASK {
            FREE => Slot::Free,
            LIVE => {
                let address =
                    Address::from_words(high.load(Ordering::Relaxed), low.load(Ordering::Relaxed));
                let class = class_of(value.load(Ordering::Relaxed));
                fence(Ordering::Acquire);
                if ctl.load(Ordering::Relaxed) == before {
                    Slot::Live(address, class)
                } else {
                    Slot::Busy
                }
            }
            _ => Slot::Busy,
        };
        (slot, before)
    }
}

/// The class in a slot's value: its lower half (the upper is kept for later).
#[inline]
#[allow(clippy::cast_possible_truncation)] // the lower half is meant
fn class_of(value: u64) -> ClassId {
    ClassId(value as u32)
}
