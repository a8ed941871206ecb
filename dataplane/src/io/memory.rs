//! Two in-memory queues as a [`PacketIo`], with a faulty wire in front if wanted.
//!
//! For tests and simulation: the caller pushes punted frames in and takes accepted ones
//! out. Faults (drop, duplicate, truncate) follow from a seed, so that a failing run can
//! be repeated. Buffers are recycled; in a steady state nothing is allocated.
#![forbid(unsafe_code)]

use std::io;
use std::time::Duration;

use arrayvec::ArrayVec;

use super::{BURST, IoStats, PacketIo};
use crate::frame::Frame;

/// What the wire does to frames, each as a share in 1000 (values above count as 1000).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// The run is a function of this number.
    pub seed: u64,
    /// Frames lost.
    pub drop: u16,
    /// Frames that arrive twice.
    pub duplicate: u16,
    /// Frames cut at an arbitrary length, possibly 0.
    pub truncate: u16,
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and good enough to misplace frames.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn hits(&mut self, share: u16) -> bool {
        self.next() % 1000 < u64::from(share)
    }

    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % bound).unwrap_or(0)
    }
}

/// A queue of frames in buffers that stay where they are, as in the rings of a device: what
/// a place held before serves the next frame there.
#[derive(Debug)]
struct Ring {
    places: Vec<Vec<u8>>,
    /// The oldest frame's place.
    head: usize,
    frames: usize,
}

impl Ring {
    fn new(capacity: usize) -> Self {
        Self { places: vec![Vec::new(); capacity], head: 0, frames: 0 }
    }

    /// The place of the frame behind `ahead` others.
    #[inline]
    fn place(&self, ahead: usize) -> usize {
        let place = self.head + ahead;
        if place < self.places.len() { place } else { place - self.places.len() }
    }

    /// Takes one more frame: the buffer for it, `None` if the queue is full.
    #[inline]
    fn claim(&mut self) -> Option<&mut Vec<u8>> {
        if self.frames == self.places.len() {
            return None;
        }
        let place = self.place(self.frames);
        self.frames += 1;
        self.places.get_mut(place)
    }

    /// The `count` oldest frames, in up to two rows.
    #[inline]
    fn oldest(&mut self, count: usize) -> [&mut [Vec<u8>]; 2] {
        let (before, from) = self.places.split_at_mut(self.head);
        let first = count.min(from.len());
        [&mut from[..first], &mut before[..count - first]]
    }

    /// Forgets the `count` oldest frames.
    #[inline]
    fn release(&mut self, count: usize) {
        self.head = self.place(count);
        self.frames -= count;
    }
}

/// Two queues of frames.
#[derive(Debug)]
pub struct MemoryIo {
    rx: Ring,
    tx: Ring,
    faults: Faults,
    dice: Dice,
    stats: IoStats,
}

impl MemoryIo {
    /// Queues that hold `capacity` frames each.
    pub fn new(capacity: usize) -> Self {
        Self::with_faults(capacity, Faults::default())
    }

    /// The same behind a faulty wire.
    pub fn with_faults(capacity: usize, faults: Faults) -> Self {
        Self {
            rx: Ring::new(capacity),
            tx: Ring::new(capacity),
            faults,
            dice: Dice(faults.seed),
            stats: IoStats::default(),
        }
    }

    /// A punted frame arrives. Counted as `rx_ring_full` if the queue is full, as
    /// `rx_dropped` if the wire loses it.
    pub fn push(&mut self, frame: &[u8]) {
        if self.dice.hits(self.faults.drop) {
            self.stats.rx_dropped += 1;
            return;
        }
        let copies = if self.dice.hits(self.faults.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            let length = if self.dice.hits(self.faults.truncate) {
                self.dice.below(frame.len())
            } else {
                frame.len()
            };
            self.enqueue(frame.get(..length).unwrap_or_default());
        }
    }

    fn enqueue(&mut self, frame: &[u8]) {
        match self.rx.claim() {
            Some(buffer) => {
                buffer.clear();
                buffer.extend_from_slice(frame);
            }
            None => self.stats.rx_ring_full += 1,
        }
    }

    /// Takes the oldest accepted frame.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        let frame = self.tx.oldest(self.tx.frames.min(1)).into_iter().flatten().next();
        let frame = frame.map(std::mem::take)?;
        self.tx.release(1);
        Some(frame)
    }

    /// Takes all accepted frames, unseen. Returns how many.
    pub fn forget_sent(&mut self) -> usize {
        let sent = self.tx.frames;
        self.tx.release(sent);
        sent
    }

    /// Frames that wait to be received.
    pub fn waiting(&self) -> usize {
        self.rx.frames
    }
}

impl PacketIo for MemoryIo {
    fn burst<F: FnMut(&mut [Frame<'_>])>(&mut self, mut f: F) -> io::Result<usize> {
        let Self { rx, tx, stats, .. } = self;
        let count = rx.frames.min(BURST);
        if count == 0 {
            return Ok(0);
        }
        let mut accepted = [false; BURST];
        {
            let mut frames: ArrayVec<Frame<'_>, BURST> = ArrayVec::new();
            for row in rx.oldest(count) {
                frames.extend(row.iter_mut().map(|data| Frame::new(data)));
            }
            f(&mut frames);
            for (accepted, frame) in accepted.iter_mut().zip(&frames) {
                *accepted = frame.accept;
            }
        }
        stats.rx_frames += count as u64;
        let mut accepted = accepted.iter();
        for row in rx.oldest(count) {
            for (data, &accepted) in row.iter_mut().zip(&mut accepted) {
                let length = data.len() as u64;
                stats.rx_bytes += length;
                if !accepted {
                    continue;
                }
                // The frame goes, and leaves its place the buffer that it takes.
                match tx.claim() {
                    Some(buffer) => {
                        std::mem::swap(buffer, data);
                        stats.tx_frames += 1;
                        stats.tx_bytes += length;
                    }
                    None => stats.tx_full += 1,
                }
            }
        }
        rx.release(count);
        Ok(count)
    }

    fn send<'f>(&mut self, frames: impl Iterator<Item = &'f [u8]>) -> io::Result<()> {
        for frame in frames {
            match self.tx.claim() {
                Some(buffer) => {
                    buffer.clear();
                    buffer.extend_from_slice(frame);
                    self.stats.tx_frames += 1;
                    self.stats.tx_bytes += frame.len() as u64;
                }
                None => self.stats.tx_full += 1,
            }
        }
        Ok(())
    }

    /// Nobody else can push meanwhile, so there is nothing to wait for.
    fn wait(&mut self, _timeout: Duration) -> io::Result<()> {
        Ok(())
    }

    fn stats(&mut self) -> IoStats {
        self.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_accepted_frames_come_out_and_in_order() {
        let mut io = MemoryIo::new(1000);
        for n in 0..150u8 {
            io.push(&[n; 3]);
        }
        let mut sizes = vec![];
        loop {
            let accept_even = |frames: &mut [Frame<'_>]| {
                for frame in frames {
                    frame.accept = frame.data[0].is_multiple_of(2);
                }
            };
            match io.burst(accept_even).unwrap() {
                0 => break,
                n => sizes.push(n),
            }
        }
        assert_eq!(sizes, [64, 64, 22]);
        let out: Vec<u8> = std::iter::from_fn(|| io.pop()).map(|f| f[0]).collect();
        assert_eq!(out, (0..150u8).filter(|n| n.is_multiple_of(2)).collect::<Vec<_>>());
        let stats = io.stats();
        assert_eq!((stats.rx_frames, stats.rx_bytes), (150, 450));
        assert_eq!((stats.tx_frames, stats.tx_bytes), (75, 225));
    }

    #[test]
    fn what_is_sent_beside_a_burst_follows_it() {
        let mut io = MemoryIo::new(3);
        io.push(&[1]);
        let accept = |frames: &mut [Frame<'_>]| frames.iter_mut().for_each(|f| f.accept = true);
        io.burst(accept).unwrap();
        io.send([&[2][..], &[3], &[4]].into_iter()).unwrap();
        let out: Vec<_> = std::iter::from_fn(|| io.pop()).flatten().collect();
        assert_eq!(out, [1, 2, 3], "the last found no room");
        assert_eq!((io.stats().tx_frames, io.stats().tx_full), (3, 1));
    }

    #[test]
    fn buffers_of_forgotten_frames_serve_again() {
        let mut io = MemoryIo::new(10);
        let accept = |frames: &mut [Frame<'_>]| frames.iter_mut().for_each(|f| f.accept = true);
        for round in 1..=3 {
            (0..5).for_each(|_| io.push(&[1; 60]));
            io.burst(accept).unwrap();
            assert_eq!((io.forget_sent(), io.forget_sent()), (5, 0), "round {round}");
        }
        let buffers = io.rx.places.iter().chain(&io.tx.places).filter(|b| b.capacity() > 0);
        assert_eq!(buffers.count(), 15, "as many as places that frames came to");
    }

    #[test]
    fn full_queues_drop_and_count() {
        let mut io = MemoryIo::new(10);
        for _ in 0..15 {
            io.push(&[1]);
        }
        let accept = |frames: &mut [Frame<'_>]| frames.iter_mut().for_each(|f| f.accept = true);
        assert_eq!(io.burst(accept).unwrap(), 10);
        io.push(&[1]);
        assert_eq!(io.burst(accept).unwrap(), 1);
        let stats = io.stats();
        assert_eq!((stats.rx_ring_full, stats.tx_frames, stats.tx_full), (5, 10, 1));
    }

    #[test]
    fn faults_follow_from_the_seed() {
        let run = |seed| {
            let faults = Faults { seed, drop: 100, duplicate: 100, truncate: 100 };
            let mut io = MemoryIo::with_faults(10_000, faults);
            (0..1000).for_each(|_| io.push(&[7; 20]));
            (
                io.waiting(),
                io.stats.rx_dropped,
                io.rx.oldest(io.waiting()).into_iter().flatten().filter(|f| f.len() < 20).count(),
            )
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let (waiting, dropped, truncated) = run(1);
        assert!((50..150).contains(&dropped), "{dropped}");
        assert!((50..150).contains(&truncated), "{truncated}");
        assert!(waiting > 900, "{waiting}");
    }
}
