//! Counters in shared memory: one writer a block, any number of readers.
//!
//! ```text
//!  block 0 (header)      block 1 (worker 0)        block 2 (worker 1)      …
//!  magic, version,       generation, heartbeat,    the same
//!  workers, receipt      counters, drops[dir][reason]
//! ```
//!
//! Each block has 4096 bytes, so that workers never share a cache line, and
//! lives in a `BPF_F_MMAPABLE` array that outlives the process. A worker is the
//! only writer of its block: an increment is a plain load and a plain store, no
//! locked instruction. Readers may see a counter a few packets late, never torn.
//!
//! Counters only grow until the block is cleared at start ([`Counters::init`]).

mod names;
#[cfg(all(test, not(loom)))]
mod tests;

pub use names::{Counter, Direction, Reason};

use crate::{
    mem::Words,
    sync::{Ordering, fence},
};

/// Bytes of a block; also the value size of the BPF array.
pub const BLOCK_BYTES: usize = 4096;
/// Words of a block.
pub const BLOCK_WORDS: usize = BLOCK_BYTES / 8;
/// Most workers that a node can have.
pub const MAX_WORKERS: usize = 256;

/// "weircntr" in ASCII, as a number; a foreign endianness reads differently.
const MAGIC: u64 = u64::from_be_bytes(*b"weircntr");
/// Raised whenever the meaning of any word changes.
pub const VERSION: u64 = 1;

// Words of the header block.
const H_MAGIC: usize = 0;
const H_VERSION: usize = 1;
const H_WORKERS: usize = 2;
const H_SEQUENCE: usize = 3;
const H_GENERATION: usize = 4;
const H_ENFORCED_AT: usize = 5;

// Words of a worker's block.
const W_GENERATION: usize = 0;
const W_HEARTBEAT: usize = 1;
const W_COUNTERS: usize = 8;
const W_DROPS: usize = 256;
/// Room for reasons in each direction.
const MAX_REASONS: usize = 128;

const _: () = assert!(Reason::ALL.len() <= MAX_REASONS);
const _: () = assert!(W_COUNTERS + Counter::ALL.len() <= W_DROPS);
const _: () = assert!(W_DROPS + 2 * MAX_REASONS <= BLOCK_WORDS);

/// Words that `workers` workers need, the header included.
pub const fn words_for(workers: usize) -> usize {
    (workers + 1) * BLOCK_WORDS
}

const fn drop_word(direction: Direction, reason: Reason) -> usize {
    W_DROPS + direction as usize * MAX_REASONS + reason as usize
}

/// Why counters could not be opened.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CountersError {
    /// The memory is shorter than the header says or the caller needs.
    #[error("the counters need {needed} words but the memory holds {found}")]
    TooShort {
        /// Words needed.
        needed: usize,
        /// Words found.
        found: usize,
    },
    /// Nothing was ever written here, or something else was.
    #[error("this memory holds no Weir counters (no dataplane has started yet?)")]
    Magic,
    /// Written by another version.
    #[error(
        "the counters have layout version {found} but this program reads {VERSION}; \
         use the `weir` that came with the running dataplane"
    )]
    Version {
        /// Version found.
        found: u64,
    },
    /// More workers than the layout allows.
    #[error("{0} workers asked for; between 1 and {MAX_WORKERS} are possible")]
    Workers(u64),
    /// The memory is mapped read-only.
    #[error("the counters are mapped read-only and cannot be written")]
    ReadOnly,
}

/// The last generation that every worker enforces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enforced {
    /// The generation; 0 = none yet.
    pub generation: u64,
    /// When the last worker took it over, `CLOCK_MONOTONIC` in nanoseconds.
    pub at_ns: u64,
}

/// The whole counter memory: the header, and every worker's block to read.
#[derive(Debug)]
pub struct Counters<W> {
    words: W,
    workers: usize,
}

impl<W: Words> Counters<W> {
    /// Clears the memory and writes the header for `workers` workers. Called
    /// once at start, before any worker runs.
    ///
    /// # Errors
    /// [`CountersError`] when the memory is too short or read-only, or when
    /// `workers` is not in 1..=[`MAX_WORKERS`].
    pub fn init(words: W, workers: usize) -> Result<Counters<W>, CountersError> {
        if workers == 0 || workers > MAX_WORKERS {
            return Err(CountersError::Workers(workers as u64));
        }
        if !words.writable() {
            return Err(CountersError::ReadOnly);
        }
        let all = words.words();
        if all.len() < words_for(workers) {
            return Err(CountersError::TooShort { needed: words_for(workers), found: all.len() });
        }
        // Without the magic nobody reads what is half cleared.
        all[H_MAGIC].store(0, Ordering::Release);
        fence(Ordering::SeqCst);
        for word in &all[1..] {
            word.store(0, Ordering::Relaxed);
        }
        all[H_VERSION].store(VERSION, Ordering::Relaxed);
        all[H_WORKERS].store(workers as u64, Ordering::Relaxed);
        all[H_MAGIC].store(MAGIC, Ordering::Release);
        Ok(Counters { words, workers })
    }

    /// Opens counters that a dataplane has written.
    ///
    /// # Errors
    /// [`CountersError`] names what does not fit.
    pub fn open(words: W) -> Result<Counters<W>, CountersError> {
        let all = words.words();
        if all.len() < BLOCK_WORDS {
            return Err(CountersError::TooShort { needed: BLOCK_WORDS, found: all.len() });
        }
        if all[H_MAGIC].load(Ordering::Acquire) != MAGIC {
            return Err(CountersError::Magic);
        }
        let version = all[H_VERSION].load(Ordering::Relaxed);
        if version != VERSION {
            return Err(CountersError::Version { found: version });
        }
        let raw = all[H_WORKERS].load(Ordering::Relaxed);
        let workers = match usize::try_from(raw) {
            Ok(n) if (1..=MAX_WORKERS).contains(&n) => n,
            _ => return Err(CountersError::Workers(raw)),
        };
        if all.len() < words_for(workers) {
            return Err(CountersError::TooShort { needed: words_for(workers), found: all.len() });
        }
        Ok(Counters { words, workers })
    }

    /// How many workers have a block.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// The block of one worker; `None` if there is no such worker.
    pub fn worker(&self, worker: usize) -> Option<CounterBlock<&W>> {
        (worker < self.workers)
            .then(|| CounterBlock { words: &self.words, base: (worker + 1) * BLOCK_WORDS })
    }

    /// A counter, summed over the workers.
    pub fn total(&self, counter: Counter) -> u64 {
        self.sum(W_COUNTERS + counter as usize)
    }

    /// Drops of one direction for one reason, summed over the workers.
    pub fn total_drops(&self, direction: Direction, reason: Reason) -> u64 {
        self.sum(drop_word(direction, reason))
    }

    fn sum(&self, word: usize) -> u64 {
        let all = self.words.words();
        (1..=self.workers)
            .map(|block| all[block * BLOCK_WORDS + word].load(Ordering::Relaxed))
            .fold(0, u64::wrapping_add)
    }

    /// The lowest generation that any worker enforces; 0 while one has none.
    pub fn lowest_generation(&self) -> u64 {
        let all = self.words.words();
        (1..=self.workers)
            .map(|block| all[block * BLOCK_WORDS + W_GENERATION].load(Ordering::Acquire))
            .min()
            .unwrap_or(0)
    }

    /// Records that every worker enforces `enforced.generation`. One thread (the
    /// admin's) calls this.
    pub fn record_enforced(&self, enforced: Enforced) {
        let all = self.words.words();
        let sequence = all[H_SEQUENCE].load(Ordering::Relaxed);
        all[H_SEQUENCE].store(sequence | 1, Ordering::Relaxed);
        fence(Ordering::Release);
        all[H_GENERATION].store(enforced.generation, Ordering::Relaxed);
        all[H_ENFORCED_AT].store(enforced.at_ns, Ordering::Relaxed);
        all[H_SEQUENCE].store((sequence | 1).wrapping_add(1), Ordering::Release);
    }

    /// What [`Counters::record_enforced`] recorded last; both values belong
    /// together. `None` if the writer stopped in the middle of its update.
    pub fn enforced(&self) -> Option<Enforced> {
        let all = self.words.words();
        // An update takes nanoseconds; a writer that died in it leaves the
        // sequence odd for good, hence the bound.
        for _ in 0..1000 {
            let before = all[H_SEQUENCE].load(Ordering::Acquire);
            let enforced = Enforced {
                generation: all[H_GENERATION].load(Ordering::Relaxed),
                at_ns: all[H_ENFORCED_AT].load(Ordering::Relaxed),
            };
            fence(Ordering::Acquire);
            if before & 1 == 0 && all[H_SEQUENCE].load(Ordering::Relaxed) == before {
                return Some(enforced);
            }
            crate::sync::hint::spin_loop();
        }
        None
    }
}

/// One worker's block. Only that worker writes it.
#[derive(Debug)]
pub struct CounterBlock<W> {
    words: W,
    base: usize,
}

impl<W: Words> CounterBlock<W> {
    /// The block of `worker` in the memory that [`Counters::init`] prepared.
    ///
    /// # Errors
    /// [`CountersError`] when the memory is read-only or holds no such block.
    pub fn new(words: W, worker: usize) -> Result<CounterBlock<W>, CountersError> {
        if worker >= MAX_WORKERS {
            return Err(CountersError::Workers(worker as u64));
        }
        if !words.writable() {
            return Err(CountersError::ReadOnly);
        }
        let found = words.words().len();
        if found < words_for(worker + 1) {
            return Err(CountersError::TooShort { needed: words_for(worker + 1), found });
        }
        Ok(CounterBlock { words, base: (worker + 1) * BLOCK_WORDS })
    }

    #[inline]
    fn bump(&self, word: usize, by: u64) {
        // One writer: no need for a locked add.
        if let Some(word) = self.words.words().get(self.base + word) {
            word.store(word.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
        }
    }

    #[inline]
    fn read(&self, word: usize) -> u64 {
        self.words.words().get(self.base + word).map_or(0, |w| w.load(Ordering::Acquire))
    }

    #[inline]
    fn write(&self, word: usize, value: u64) {
        if let Some(word) = self.words.words().get(self.base + word) {
            word.store(value, Ordering::Release);
        }
    }

    /// Adds to a counter.
    #[inline]
    pub fn add(&self, counter: Counter, by: u64) {
        self.bump(W_COUNTERS + counter as usize, by);
    }

    /// Sets a counter whose source counts by itself (the XSK statistics).
    #[inline]
    pub fn set(&self, counter: Counter, value: u64) {
        self.write(W_COUNTERS + counter as usize, value);
    }

    /// The value of a counter.
    #[inline]
    pub fn get(&self, counter: Counter) -> u64 {
        self.read(W_COUNTERS + counter as usize)
    }

    /// Counts dropped packets.
    #[inline]
    pub fn add_drops(&self, direction: Direction, reason: Reason, by: u64) {
        self.bump(drop_word(direction, reason), by);
    }

    /// Packets dropped in one direction for one reason.
    #[inline]
    pub fn drops(&self, direction: Direction, reason: Reason) -> u64 {
        self.read(drop_word(direction, reason))
    }

    /// Says which generation the worker enforces from now on.
    #[inline]
    pub fn set_generation(&self, generation: u64) {
        self.write(W_GENERATION, generation);
    }

    /// Which generation the worker enforces; 0 = none.
    pub fn generation(&self) -> u64 {
        self.read(W_GENERATION)
    }

    /// Says that the worker was alive at `now_ns` (`CLOCK_MONOTONIC`).
    #[inline]
    pub fn set_heartbeat(&self, now_ns: u64) {
        self.write(W_HEARTBEAT, now_ns);
    }

    /// When the worker was last alive, `CLOCK_MONOTONIC` in nanoseconds.
    pub fn heartbeat(&self) -> u64 {
        self.read(W_HEARTBEAT)
    }
}
