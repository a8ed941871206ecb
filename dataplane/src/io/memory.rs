//! Two in-memory queues as a [`PacketIo`], with a faulty wire in front if wanted.
//!
//! For tests and simulation: the caller pushes punted frames in and takes accepted ones
//! out. Faults (drop, duplicate, truncate) follow from a seed, so that a failing run can
//! be repeated. Buffers are recycled; in a steady state nothing is allocated.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
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

/// Two queues of frames.
#[derive(Debug)]
pub struct MemoryIo {
    rx: VecDeque<Vec<u8>>,
    tx: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    capacity: usize,
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
            rx: VecDeque::new(),
            tx: VecDeque::new(),
            spare: Vec::new(),
            capacity,
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
        if self.rx.len() >= self.capacity {
            self.stats.rx_ring_full += 1;
            return;
        }
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(frame);
        self.rx.push_back(buffer);
    }

    /// A frame goes out.
    fn transmit(&mut self, data: Vec<u8>) {
        if self.tx.len() >= self.capacity {
            self.stats.tx_full += 1;
            self.spare.push(data);
        } else {
            self.stats.tx_frames += 1;
            self.stats.tx_bytes += data.len() as u64;
            self.tx.push_back(data);
        }
    }

    /// Takes the oldest accepted frame.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        self.tx.pop_front()
    }

    /// Takes all accepted frames, unseen, and keeps their buffers. Returns how many.
    pub fn forget_sent(&mut self) -> usize {
        let sent = self.tx.len();
        self.spare.extend(self.tx.drain(..));
        sent
    }

    /// Frames that wait to be received.
    pub fn waiting(&self) -> usize {
        self.rx.len()
    }
}

impl PacketIo for MemoryIo {
    fn burst<F: FnMut(&mut [Frame<'_>])>(&mut self, mut f: F) -> io::Result<usize> {
        let count = self.rx.len().min(BURST);
        if count == 0 {
            return Ok(0);
        }
        let mut accepted = [false; BURST];
        {
            let mut frames: ArrayVec<Frame<'_>, BURST> =
                self.rx.iter_mut().take(count).map(|data| Frame::new(data)).collect();
            f(&mut frames);
            for (accepted, frame) in accepted.iter_mut().zip(&frames) {
                *accepted = frame.accept;
            }
        }
        self.stats.rx_frames += count as u64;
        for (data, accepted) in self.rx.drain(..count).zip(accepted) {
            self.stats.rx_bytes += data.len() as u64;
            if !accepted {
                self.spare.push(data);
            } else if self.tx.len() >= self.capacity {
                self.stats.tx_full += 1;
                self.spare.push(data);
            } else {
                self.stats.tx_frames += 1;
                self.stats.tx_bytes += data.len() as u64;
                self.tx.push_back(data);
            }
        }
        Ok(count)
    }

    fn send<'f>(&mut self, frames: impl Iterator<Item = &'f [u8]>) -> io::Result<()> {
        for frame in frames {
            let mut data = self.spare.pop().unwrap_or_default();
            data.clear();
            data.extend_from_slice(frame);
            self.transmit(data);
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
            assert_eq!(io.spare.len(), 5, "round {round}");
        }
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
            (io.waiting(), io.stats.rx_dropped, io.rx.iter().filter(|f| f.len() < 20).count())
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let (waiting, dropped, truncated) = run(1);
        assert!((50..150).contains(&dropped), "{dropped}");
        assert!((50..150).contains(&truncated), "{truncated}");
        assert!(waiting > 900, "{waiting}");
    }
}
