//! The address map: pod address → class, updated in place while workers read.
//!
//! Pods come and go far more often than policies change. So the map has a
//! memory file of its own: control holds the only writable mapping and updates
//! it in microseconds; the dataplane maps it read-only. Class numbers mean one
//! generation, so each generation comes with a map of its own.
//!
//! ```text
//!  header (8 words): magic, version, slots, generation, seed, epoch, live, 0
//!  slot   (4 words): ctl = version << 8 | state, address high, address low, class
//! ```
//!
//! Open addressing with linear probing over a power of two of slots, hashed with
//! a seed that the reader learns from the header.
//!
//! **Protocol.** One writer. A slot is written by `ctl` → BUSY with a new
//! version, release fence, key and value, `ctl` → LIVE (release) with the next
//! version. A class is changed by one store, since the value is one word. A
//! reader loads `ctl` (acquire), key and value, and `ctl` again behind an acquire
//! fence: unchanged means that key and value belong together.
//!
//! **Removal** leaves no tombstones, so that churn never wears the map out: the
//! entries behind the gap move up, each written to its new slot before its old
//! one is given up. So an entry is always somewhere, and a hit is always right;
//! but a reader that passed the new slot before and comes to the old one after
//! could miss it. Therefore a miss counts only when a second scan meets the same
//! versions as the first: nothing moved in between.
//!
//! **Epoch.** It counts up after each change. A reader that loads the epoch
//! *first* and then looks up sees at least that epoch's content; so a verdict
//! stamped with the epoch loaded before the lookup is never newer than it says.
//!
//! **Untrusted.** The reader trusts nothing but the size (sealed): every index
//! is masked, every probe bounded. A slot that stays BUSY (its writer died, or
//! sleeps) makes what is not found elsewhere [`UNSETTLED`], a class that no table knows: deny.

mod reader;
mod writer;

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;

pub use reader::AddressMap;
pub use writer::AddressMapWriter;

use crate::{addr::Address, policy::ClassId};

/// The class of an address whose slot is being changed right now. No table has
/// so many classes, so it is denied and counted as a bad class.
pub const UNSETTLED: ClassId = ClassId(u32::MAX);

/// "weiraddr" in ASCII.
const MAGIC: u64 = u64::from_be_bytes(*b"weiraddr");
/// Raised whenever the meaning of any word changes.
pub const FORMAT_VERSION: u32 = 1;

const H_MAGIC: usize = 0;
const H_VERSION: usize = 1;
const H_SLOTS: usize = 2;
const H_GENERATION: usize = 3;
const H_SEED: usize = 4;
const H_EPOCH: usize = 5;
const H_LIVE: usize = 6;
const HEADER_WORDS: usize = 8;

const SLOT_WORDS: usize = 4;
const S_CTL: usize = 0;
const S_HIGH: usize = 1;
const S_LOW: usize = 2;
const S_VALUE: usize = 3;

const STATE_MASK: u64 = 0xff;
const FREE: u64 = 0;
const BUSY: u64 = 1;
const LIVE: u64 = 2;
const ONE_VERSION: u64 = 1 << 8;

/// Fewest slots of a map made by [`AddressMapWriter::create`].
#[cfg(not(loom))]
const MIN_SLOTS: usize = 64;
/// Most slots: 2^26 of them are 2 GiB.
const MAX_SLOTS: usize = 1 << 26;

/// Why an address map could not be made, opened or changed.
#[derive(Debug, thiserror::Error)]
pub enum AddressMapError {
    /// No room for one more address.
    #[error(
        "the address map is full with {live} addresses; publish a new generation with a larger one"
    )]
    Full {
        /// Addresses in it.
        live: usize,
    },
    /// More addresses than a map can have.
    #[error("an address map for {0} addresses is too large; at most {max} are possible", max = MAX_SLOTS / 2)]
    TooLarge(usize),
    /// The class number is reserved.
    #[error("class {} is reserved and cannot be given to {address}", UNSETTLED.0)]
    ReservedClass {
        /// The address.
        address: Address,
    },
    /// Something else, or nothing, was written here.
    #[error("this memory holds no address map")]
    Magic,
    /// Written by another version.
    #[error(
        "the address map has format version {found} but this program reads {FORMAT_VERSION}; \
         run weir-control and weir-dataplane of the same release"
    )]
    Version {
        /// The version found.
        found: u64,
    },
    /// The header's number of slots is impossible or does not fit the memory.
    #[error("the address map says {slots} slots, which do not fit its {words} words")]
    Size {
        /// Slots by the header.
        slots: u64,
        /// Words of memory.
        words: usize,
    },
    /// The memory cannot be written.
    #[error("the address map is mapped read-only and cannot be written")]
    ReadOnly,
    /// The memory file could not be made or sealed, or lacks seals.
    #[cfg(not(loom))]
    #[error(transparent)]
    Seal(#[from] crate::seal::SealError),
    /// The memory file could not be mapped.
    #[cfg(not(loom))]
    #[error(transparent)]
    Map(#[from] crate::mem::MapError),
}

/// Where the probing for an address begins, before masking.
#[inline]
fn hash(seed: u64, address: Address) -> u64 {
    let (high, low) = address.to_words();
    // Two rounds of folded multiplication: pod addresses differ in few low bits,
    // and an outsider who picks addresses does not know the seed.
    let fold = |a: u64, b: u64| {
        let wide = u128::from(a) * u128::from(b);
        let (upper, lower) = Address::from_bits(wide).to_words();
        upper ^ lower
    };
    fold(fold(low ^ seed, 0x9e37_79b9_7f4a_7c15) ^ high, seed | 1)
}

/// Slots for `entries` addresses: at most half of them are ever live.
#[cfg(not(loom))]
fn slots_for(entries: usize) -> Result<usize, AddressMapError> {
    match entries.checked_mul(2) {
        Some(wanted) if wanted <= MAX_SLOTS => Ok(wanted.next_power_of_two().max(MIN_SLOTS)),
        _ => Err(AddressMapError::TooLarge(entries)),
    }
}
