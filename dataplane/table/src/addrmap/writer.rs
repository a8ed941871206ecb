//! The writing side of the address map: one writer, in the control process.

use std::hash::{BuildHasher, RandomState};
#[cfg(not(loom))]
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

#[cfg(not(loom))]
use super::slots_for;
use super::{
    AddressMap, AddressMapError, BUSY, FORMAT_VERSION, FREE, H_EPOCH, H_GENERATION, H_LIVE,
    H_MAGIC, H_SEED, H_SLOTS, H_VERSION, HEADER_WORDS, LIVE, MAGIC, MAX_SLOTS, ONE_VERSION, S_CTL,
    S_HIGH, S_LOW, S_VALUE, SLOT_WORDS, STATE_MASK, UNSETTLED, hash,
};
use crate::{
    addr::Address,
    mem::Words,
    policy::ClassId,
    sync::{Ordering, fence},
};
#[cfg(not(loom))]
use crate::{
    mem::{Access, SharedWords},
    seal::{self, Guarantee},
};

/// The only writer of an address map.
///
/// Invariants: at most half of the slots are live, so that every probe ends soon;
/// no free slot stands between an entry and the slot where its probing begins.
/// The writer never reads the shared words: it keeps a copy of its own, which
/// also lets loom see each of its stores against every load of the reader.
#[derive(Debug)]
pub struct AddressMapWriter<W> {
    words: W,
    own: Vec<u64>,
    #[cfg(not(loom))]
    fd: Option<OwnedFd>,
    slots: usize,
    seed: u64,
    live: usize,
}

#[cfg(not(loom))]
impl AddressMapWriter<SharedWords> {
    /// Makes a memory file for up to `entries` addresses of `generation`, maps
    /// it writable and seals it: size fixed, no other writer ever.
    ///
    /// # Errors
    /// [`AddressMapError`] when the map would be too large or the kernel refuses.
    pub fn create(generation: u64, entries: usize) -> Result<Self, AddressMapError> {
        let what = "address map";
        let words = HEADER_WORDS + slots_for(entries)? * SLOT_WORDS;
        let fd = seal::create("weir-addresses")?;
        rustix::fs::ftruncate(&fd, words as u64 * 8).map_err(|e| seal::SealError::Create {
            what,
            step: "ftruncate",
            source: e.into(),
        })?;
        let mapping = SharedWords::map(fd.as_fd(), words, Access::ReadWrite, what)?;
        seal::seal(fd.as_fd(), what, Guarantee::FixedSize)?;
        let mut writer = AddressMapWriter::in_words(mapping, generation)?;
        writer.fd = Some(fd);
        Ok(writer)
    }

    /// A map that nobody shares, for offline verdicts and tests.
    ///
    /// # Errors
    /// [`AddressMapError::TooLarge`].
    pub fn private(generation: u64, entries: usize) -> Result<Self, AddressMapError> {
        let words = HEADER_WORDS + slots_for(entries)? * SLOT_WORDS;
        AddressMapWriter::in_words(SharedWords::heap(words), generation)
    }
}

impl<W: Words> AddressMapWriter<W> {
    /// Makes an empty map in `words`: as many slots as fit, a power of two.
    ///
    /// # Errors
    /// [`AddressMapError::ReadOnly`], or [`AddressMapError::Size`] when not even
    /// two slots fit.
    pub fn in_words(words: W, generation: u64) -> Result<Self, AddressMapError> {
        let all = words.words();
        let room = all.len().saturating_sub(HEADER_WORDS) / SLOT_WORDS;
        if room < 2 {
            return Err(AddressMapError::Size { slots: 0, words: all.len() });
        }
        if !words.writable() {
            return Err(AddressMapError::ReadOnly);
        }
        let slots = (1 << room.ilog2()).min(MAX_SLOTS);
        // A model must run the same way each time.
        let seed = if cfg!(loom) { 1 } else { RandomState::new().hash_one(generation) };
        for word in all {
            word.store(0, Ordering::Relaxed);
        }
        let mut own = vec![0; HEADER_WORDS + slots * SLOT_WORDS];
        for (word, value) in [
            (H_VERSION, u64::from(FORMAT_VERSION)),
            (H_SLOTS, slots as u64),
            (H_GENERATION, generation),
            (H_SEED, seed),
        ] {
            all[word].store(value, Ordering::Relaxed);
            own[word] = value;
        }
        all[H_MAGIC].store(MAGIC, Ordering::Release);
        Ok(AddressMapWriter {
            words,
            own,
            #[cfg(not(loom))]
            fd: None,
            slots,
            seed,
            live: 0,
        })
    }

    /// The memory file to pass to the dataplane; `None` for a private map.
    #[cfg(not(loom))]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    /// The words that the map lives in.
    pub fn words(&self) -> &W {
        &self.words
    }

    /// A reader of the same words.
    ///
    /// # Errors
    /// None in practice: the writer made the header itself.
    pub fn reader(&self) -> Result<AddressMap<&W>, AddressMapError> {
        AddressMap::open(&self.words)
    }

    /// Stops writing; the words live on as a reader.
    ///
    /// # Errors
    /// None in practice: the writer made the header itself.
    pub fn into_reader(self) -> Result<AddressMap<W>, AddressMapError> {
        AddressMap::open(self.words)
    }

    /// How many addresses the map holds.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether the map holds no address.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// How many addresses the map can hold at once.
    pub fn capacity(&self) -> usize {
        self.slots / 2
    }

    /// How many changes were made.
    pub fn epoch(&self) -> u64 {
        self.load(H_EPOCH)
    }

    /// Gives `address` the class, in place if it has one already. Gives whether
    /// anything changed.
    ///
    /// # Errors
    /// [`AddressMapError::Full`]: nothing was changed; publish a new generation.
    /// [`AddressMapError::ReservedClass`] for [`UNSETTLED`].
    pub fn insert(&mut self, address: Address, class: ClassId) -> Result<bool, AddressMapError> {
        if class == UNSETTLED {
            return Err(AddressMapError::ReservedClass { address });
        }
        let value = u64::from(class.0);
        let slot = match self.find(address) {
            Found::Live(slot) => {
                let changed = self.load(self.at(slot, S_VALUE)) != value;
                if changed {
                    self.store(self.at(slot, S_VALUE), value, Ordering::Release);
                    self.bump_epoch();
                }
                return Ok(changed);
            }
            Found::Absent(slot) => slot,
        };
        if self.live >= self.capacity() {
            return Err(AddressMapError::Full { live: self.live });
        }
        let (high, low) = address.to_words();
        self.fill(slot, [high, low, value]);
        self.live += 1;
        self.bump_epoch();
        Ok(true)
    }

    /// Takes `address` out. Gives whether it was there.
    pub fn remove(&mut self, address: Address) -> bool {
        let Found::Live(mut gap) = self.find(address) else {
            return false;
        };
        // What stands behind the gap moves up if its probing passes the gap
        // (Knuth, The Art of Computer Programming vol. 3, 6.4, algorithm R).
        let mask = self.slots - 1;
        let mut next = (gap + 1) & mask;
        while self.state(next) != FREE {
            let key = [S_HIGH, S_LOW, S_VALUE].map(|word| self.load(self.at(next, word)));
            let home = self.home(Address::from_words(key[0], key[1]));
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(gap) & mask {
                self.fill(gap, key);
                gap = next;
            }
            next = (next + 1) & mask;
        }
        let ctl = self.load(self.at(gap, S_CTL));
        let version = (ctl & !STATE_MASK).wrapping_add(ONE_VERSION);
        self.store(self.at(gap, S_CTL), version | FREE, Ordering::Release);
        self.live -= 1;
        self.bump_epoch();
        true
    }

    /// Writes a slot, whatever it held.
    fn fill(&mut self, slot: usize, [high, low, value]: [u64; 3]) {
        let ctl = self.load(self.at(slot, S_CTL));
        let version = (ctl & !STATE_MASK).wrapping_add(ONE_VERSION);
        self.store(self.at(slot, S_CTL), version | BUSY, Ordering::Relaxed);
        fence(Ordering::Release);
        self.store(self.at(slot, S_HIGH), high, Ordering::Relaxed);
        self.store(self.at(slot, S_LOW), low, Ordering::Relaxed);
        self.store(self.at(slot, S_VALUE), value, Ordering::Relaxed);
        let ready = version.wrapping_add(ONE_VERSION) | LIVE;
        self.store(self.at(slot, S_CTL), ready, Ordering::Release);
    }

    fn find(&self, address: Address) -> Found {
        let (high, low) = address.to_words();
        let mut slot = self.home(address);
        // Ends, since at least half of the slots are free.
        while self.state(slot) != FREE {
            if self.load(self.at(slot, S_HIGH)) == high && self.load(self.at(slot, S_LOW)) == low {
                return Found::Live(slot);
            }
            slot = (slot + 1) & (self.slots - 1);
        }
        Found::Absent(slot)
    }

    /// The slot where the probing for `address` begins.
    #[allow(clippy::cast_possible_truncation)] // only the low bits are kept
    fn home(&self, address: Address) -> usize {
        hash(self.seed, address) as usize & (self.slots - 1)
    }

    /// Counts the change, behind it: whoever sees the new epoch sees the change.
    fn bump_epoch(&mut self) {
        self.store(H_LIVE, self.live as u64, Ordering::Relaxed);
        self.store(H_EPOCH, self.epoch().wrapping_add(1), Ordering::Release);
    }

    fn at(&self, slot: usize, word: usize) -> usize {
        HEADER_WORDS + slot * SLOT_WORDS + word
    }

    fn state(&self, slot: usize) -> u64 {
        self.load(self.at(slot, S_CTL)) & STATE_MASK
    }

    fn load(&self, index: usize) -> u64 {
        self.own[index]
    }

    fn store(&mut self, index: usize, value: u64, ordering: Ordering) {
        self.own[index] = value;
        self.words.words()[index].store(value, ordering);
    }
}

enum Found {
    /// The address is in this slot.
    Live(usize),
    /// It is in none; this free one would take it.
    Absent(usize),
}
