//! The ring: records of equal size in shared words, one writer, any number of readers.
//!
//! ```text
//!   header   magic, version, records, words a record, written, left out
//!   record   lock | payload ...           record n lies at place n modulo records
//! ```
//!
//! Each record has a sequence lock: `2n + 1` while record n is being written, `2n + 2`
//! once it is whole. A reader that wants record n looks for `2n + 2` before and after it
//! reads; a larger number means that a later record has taken the place.
//!
//! The fences are those of Boehm, "Can seqlocks get along with programming language memory
//! models?" (MSPC 2012): the loom model explores them.

use crate::mem::Words;
use crate::sync::{Ordering, fence};

/// Words before the first record.
pub const HEADER_WORDS: usize = 16;
/// Raised whenever the meaning of any word changes.
pub const VERSION: u64 = 1;

/// "weirdrop" in ASCII, as a number; a foreign endianness reads differently.
const MAGIC: u64 = u64::from_be_bytes(*b"weirdrop");

// Words of the header.
const H_MAGIC: usize = 0;
const H_VERSION: usize = 1;
const H_RECORDS: usize = 2;
const H_RECORD_WORDS: usize = 3;
const H_WRITTEN: usize = 4;
const H_LEFT_OUT: usize = 5;

/// How often a record that is just being written is looked at again before it counts as
/// not there yet: writing one takes less than a microsecond.
const LOOKS: usize = 3;

/// Words of a ring of `records` records with `payload` words each.
pub const fn words_for(records: u64, payload: usize) -> usize {
    #[allow(clippy::cast_possible_truncation)] // only called with what memory can hold
    let records = records as usize;
    HEADER_WORDS + records * (payload + 1)
}

/// Why words are no ring of drop records.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// Nothing was ever written here, or something else was.
    #[error("it holds no Weir drop records")]
    Magic,
    /// Written by another version.
    #[error(
        "its layout is version {found} but this program reads {VERSION}; use the `weir` that \
         came with the running dataplane"
    )]
    Version {
        /// Version found.
        found: u64,
    },
    /// The header contradicts the length, or this program's size of a record.
    #[error(
        "its header says {records} records of {record_words} words, which does not fit a length \
         of {words} words and records of {wanted}: it is damaged"
    )]
    Size {
        /// Records, by the header.
        records: u64,
        /// Words of each with its lock, by the header.
        record_words: u64,
        /// Words there are.
        words: usize,
        /// Words of a record with its lock that this program knows.
        wanted: usize,
    },
    /// It is whole, but has not as many records as it should.
    #[error("it has {found} records, and {wanted} are wanted")]
    Records {
        /// Records it has.
        found: u64,
        /// Records that the writer wants.
        wanted: u64,
    },
    /// The memory is mapped read-only.
    #[error("it is mapped read-only and cannot be written")]
    ReadOnly,
}

/// Records to read.
#[derive(Debug)]
pub struct DropRing<W> {
    words: W,
    records: u64,
    payload: usize,
}

impl<W: Words> DropRing<W> {
    /// Opens a ring whose records have `payload` words.
    ///
    /// # Errors
    /// [`RingError`] says what does not fit.
    pub fn open(words: W, payload: usize) -> Result<Self, RingError> {
        let all = words.words();
        if all.len() < HEADER_WORDS || all[H_MAGIC].load(Ordering::Acquire) != MAGIC {
            return Err(RingError::Magic);
        }
        let version = all[H_VERSION].load(Ordering::Relaxed);
        if version != VERSION {
            return Err(RingError::Version { found: version });
        }
        let records = all[H_RECORDS].load(Ordering::Relaxed);
        let record_words = all[H_RECORD_WORDS].load(Ordering::Relaxed);
        let fits = records.is_power_of_two()
            && record_words == payload as u64 + 1
            && records.checked_mul(record_words).and_then(|n| n.checked_add(HEADER_WORDS as u64))
                == Some(all.len() as u64);
        if !fits {
            let (words, wanted) = (all.len(), payload + 1);
            return Err(RingError::Size { records, record_words, words, wanted });
        }
        Ok(Self { words, records, payload })
    }

    /// How many records there have ever been; the next one has this number.
    pub fn written(&self) -> u64 {
        self.header(H_WRITTEN)
    }

    /// Dropped packets that were left out of the sample, as far as records have told.
    pub fn left_out(&self) -> u64 {
        self.header(H_LEFT_OUT)
    }

    fn header(&self, word: usize) -> u64 {
        self.words.words().get(word).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// The number of the oldest record that may still be there.
    pub fn oldest(&self) -> u64 {
        self.written().saturating_sub(self.records)
    }

    /// Where record `n` begins, in words.
    fn place(&self, n: u64) -> usize {
        // Both fit: the place is below the length of the words.
        #[allow(clippy::cast_possible_truncation)]
        let index = (n & (self.records - 1)) as usize;
        HEADER_WORDS + index * (self.payload + 1)
    }

    /// Copies record `n` to `out`, which has as many words as a record's payload.
    ///
    /// # Errors
    /// [`NotThere`]: it is not written yet, or not there any more.
    fn read(&self, n: u64, out: &mut [u64]) -> Result<(), NotThere> {
        let whole = n.wrapping_mul(2).wrapping_add(2);
        let at = self.place(n);
        let Some((lock, payload)) =
            self.words.words().get(at..=at + self.payload).and_then(<[_]>::split_first)
        else {
            return Err(NotThere::Yet);
        };
        let before = lock.load(Ordering::Acquire);
        if before != whole {
            let overtaken = before > whole;
            return Err(if overtaken { NotThere::AnyMore } else { NotThere::Yet });
        }
        for (out, word) in out.iter_mut().zip(payload) {
            *out = word.load(Ordering::Relaxed);
        }
        fence(Ordering::Acquire);
        if lock.load(Ordering::Relaxed) == whole { Ok(()) } else { Err(NotThere::AnyMore) }
    }
}

/// Why a record could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NotThere {
    /// It is not written, or just being written.
    Yet,
    /// A later one has its place.
    AnyMore,
}

/// Reads the records of a ring in their order.
#[derive(Debug)]
pub struct Follower<W> {
    ring: DropRing<W>,
    next: u64,
    missed: u64,
}

impl<W: Words> Follower<W> {
    /// Begins `back` records before the next one, or at the oldest that is there.
    pub fn new(ring: DropRing<W>, back: u64) -> Self {
        let next = ring.written().saturating_sub(back).max(ring.oldest());
        Self { ring, next, missed: 0 }
    }

    /// The ring.
    pub fn ring(&self) -> &DropRing<W> {
        &self.ring
    }

    /// Copies the next record to `out` (as many words as a record's payload) and gives its
    /// number; `None` if there is none yet.
    pub fn next(&mut self, out: &mut [u64]) -> Option<u64> {
        let mut looks = 0;
        loop {
            let written = self.ring.written();
            if self.next > written {
                // The ring was begun anew, or its header is damaged.
                self.next = self.ring.oldest();
            }
            if self.next == written {
                return None;
            }
            let oldest = self.ring.oldest();
            if self.next < oldest {
                self.missed = self.missed.saturating_add(oldest - self.next);
                self.next = oldest;
            }
            let n = self.next;
            match self.ring.read(n, out) {
                Ok(()) => {
                    self.next += 1;
                    return Some(n);
                }
                Err(NotThere::AnyMore) => {
                    self.missed = self.missed.saturating_add(1);
                    self.next += 1;
                }
                // Written says that it is there; only damage could say otherwise for long.
                Err(NotThere::Yet) if looks < LOOKS => looks += 1,
                Err(NotThere::Yet) => {
                    self.missed = self.missed.saturating_add(1);
                    self.next += 1;
                    looks = 0;
                }
            }
        }
    }

    /// How many records were overwritten before they could be read, since last asked.
    pub fn missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }
}

/// Writes records. There is one writer: the type cannot see to that, whoever makes it does.
#[derive(Debug)]
pub struct RingWriter<W> {
    ring: DropRing<W>,
}

impl<W: Words> RingWriter<W> {
    /// Makes an empty ring of zeroed words; `records` is a power of two.
    ///
    /// # Errors
    /// [`RingError`], if the words are read-only or not of the size of [`words_for`].
    pub fn create(words: W, records: u64, payload: usize) -> Result<Self, RingError> {
        if !words.writable() {
            return Err(RingError::ReadOnly);
        }
        let all = words.words();
        if all.len() < HEADER_WORDS {
            return Err(RingError::Magic);
        }
        for (word, value) in
            [(H_VERSION, VERSION), (H_RECORDS, records), (H_RECORD_WORDS, payload as u64 + 1)]
        {
            all[word].store(value, Ordering::Relaxed);
        }
        all[H_MAGIC].store(MAGIC, Ordering::Release);
        Self::adopt(words, records, payload)
    }

    /// Goes on with a ring of so many records that another writer has left.
    ///
    /// # Errors
    /// [`RingError`] says what does not fit.
    pub fn adopt(words: W, records: u64, payload: usize) -> Result<Self, RingError> {
        if !words.writable() {
            return Err(RingError::ReadOnly);
        }
        let ring = DropRing::open(words, payload)?;
        if ring.records != records {
            return Err(RingError::Records { found: ring.records, wanted: records });
        }
        Ok(Self { ring })
    }

    /// Appends a record; what is longer than a record's payload is cut off, what is shorter
    /// filled with zeros. `left_out` is added to [`DropRing::left_out`].
    pub fn push(&mut self, payload: &[u64], left_out: u64) {
        let n = self.ring.written();
        let at = self.ring.place(n);
        let all = self.ring.words.words();
        let Some((lock, words)) = all.get(at..=at + self.ring.payload).and_then(<[_]>::split_first)
        else {
            return;
        };
        let whole = n.wrapping_mul(2).wrapping_add(2);
        lock.store(whole.wrapping_sub(1), Ordering::Relaxed);
        // Whoever reads a word of this record also reads the lock as taken.
        fence(Ordering::Release);
        for (word, value) in words.iter().zip(payload.iter().copied().chain(std::iter::repeat(0))) {
            word.store(value, Ordering::Relaxed);
        }
        lock.store(whole, Ordering::Release);
        self.leave_out(left_out);
        if let Some(written) = all.get(H_WRITTEN) {
            written.store(n.wrapping_add(1), Ordering::Release);
        }
    }

    /// Adds to [`DropRing::left_out`].
    pub fn leave_out(&self, packets: u64) {
        if let Some(word) = self.ring.words.words().get(H_LEFT_OUT) {
            word.store(word.load(Ordering::Relaxed).wrapping_add(packets), Ordering::Relaxed);
        }
    }
}
