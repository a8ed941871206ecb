//! Fragments follow their first fragment.
//!
//! Only the first fragment of a datagram has ports, so only it can be judged; the worker
//! remembers what became of it for the others. All come to one worker, since steering
//! spreads by addresses alone.
//!
//! ```text
//!            ┌ first known ────────────> as the first
//!  later ────┼ first has not come ─────> held ──┬ first passes: sent after it
//!            └ overlaps what came ─┐            ├ first is dropped: dropped for its reason
//!                                  │            └ HOLD is over: dropped (fragment)
//!  first ──── judged ──────────────┴─ overlap: the datagram is dropped from here on
//! ```
//!
//! - A fragment that overlaps another, repeats one, or contradicts the datagram's end drops,
//!   and so does every further one of its datagram (RFC 5722 section 4; the same for IPv4,
//!   where receivers differ in what they take from which: RFC 1858).
//! - A datagram of which all bytes have come is forgotten at once: its identification may be
//!   used again soon (RFC 4963).
//! - What is remembered holds at one hook, for [`LIFETIME`], and as long as the stamps of
//!   both ends do.
//!
//! All memory is bounded and allocated at the start, for each worker: [`SETS`] × [`WAYS`]
//! datagrams, by a keyed hash, and [`held::FRAMES`] frames of the backend's size. In a full
//! set the hook that has most places loses its oldest; a hook holds no more than a quarter of
//! the frames, and with all of them taken the one that has most loses its oldest. So a flood of fragments at one hook hurts that hook's fragments only.
#![forbid(unsafe_code)]

mod held;
mod ranges;

use weir_table::counters::Reason;
use weir_table::flow::{FlowKey, Tick};

use super::Outcome;
use super::admit::FragmentOf;
use crate::shim::Direction;
use held::{Held, OF_A_DATAGRAM};
use ranges::{Ranges, Unfit};

/// Sets of places for datagrams; a power of two.
const SETS: usize = 256;
/// Places in a set.
const WAYS: usize = 8;
/// How long a judged datagram is remembered, in ticks: Linux reassembles for 30 s
/// (`net.ipv4.ipfrag_time`); an IPv6 receiver gives up after 60 s (RFC 8200 section 4.5),
/// but a packet that is that late is lost anyway.
const LIFETIME: u32 = Tick::in_seconds(30);
/// How long later fragments wait for their first, in ticks: longer than any network that
/// reorders keeps a packet. A first that comes so long after another of its identification
/// begins a new datagram.
const HOLD: u32 = Tick::in_seconds(1);

/// Device and direction.
pub(super) type HookId = (u32, Direction);

/// A datagram some of whose fragments have come.
#[derive(Debug, Clone, Copy)]
struct Datagram {
    hook: HookId,
    key: FlowKey,
    since: Tick,
    /// What became of the first fragment, and under which stamps. `None`: it has not come.
    verdict: Option<(Outcome, [u64; 2])>,
    ranges: Ranges,
    /// Frames that wait for the first.
    held: usize,
    /// Fragments have overlapped.
    poisoned: bool,
}

impl Datagram {
    fn is_over(&self, now: Tick) -> bool {
        let lifetime = if self.verdict.is_some() || self.poisoned { LIFETIME } else { HOLD };
        now.since(self.since) > lifetime
    }
}

/// The datagrams whose fragments are under way.
#[derive(Debug)]
pub(super) struct Fragments {
    datagrams: Box<[Option<Datagram>]>,
    held: Held,
}

impl Fragments {
    /// None yet, with all the memory for them. Frames of more than `frame_limit` bytes, shim
    /// included, are not held.
    pub fn new(frame_limit: usize) -> Self {
        Self { datagrams: vec![None; SETS * WAYS].into_boxed_slice(), held: Held::new(frame_limit) }
    }

    /// Decides a later fragment, or holds it. `frame` is as it was punted; `last_word` hears
    /// of frames held before that are dropped now.
    pub fn later(
        &mut self,
        (hook, now): (HookId, Tick),
        fragment: &FragmentOf,
        frame: &[u8],
        holds: impl Fn([u64; 2]) -> bool,
        last_word: &mut impl FnMut(&[u8], Reason),
    ) -> Outcome {
        let place = self.place_of((hook, now), fragment, last_word);
        if let Some(refusal) = self.claim(place, fragment, last_word) {
            return refusal;
        }
        let Some(datagram) = self.at(place) else { return Outcome::Drop(Reason::Fragment) };
        match datagram.verdict {
            Some((outcome, stamps)) if holds(stamps) => {
                if datagram.ranges.complete() {
                    self.forget(place);
                }
                outcome
            }
            Some(_) => Outcome::Drop(Reason::Fragment),
            None if datagram.held >= OF_A_DATAGRAM => Outcome::Drop(Reason::Fragment),
            None => {
                let datagrams = &mut self.datagrams;
                let gives_way = |frame: &[u8], of: usize| {
                    if let Some(Some(datagram)) = datagrams.get_mut(of) {
                        datagram.held = datagram.held.saturating_sub(1);
                    }
                    last_word(frame, Reason::Fragment);
                };
                if !self.held.hold(frame, place, (hook, now), gives_way) {
                    return Outcome::Drop(Reason::Fragment);
                }
                if let Some(datagram) = self.at(place) {
                    datagram.held += 1;
                }
                Outcome::Hold
            }
        }
    }

    /// Notes the outcome of a first fragment, and gives what it is in view of the others.
    /// Those that waited for it pass after `rewrite`, to be sent after this burst, or are
    /// dropped.
    pub fn first(
        &mut self,
        (hook, now): (HookId, Tick),
        fragment: &FragmentOf,
        (outcome, stamps): (Outcome, [u64; 2]),
        rewrite: impl FnMut(&mut [u8]),
        last_word: &mut impl FnMut(&[u8], Reason),
    ) -> Outcome {
        let mut place = self.place_of((hook, now), fragment, last_word);
        let again = |d: &Datagram| d.verdict.is_some() && now.since(d.since) > HOLD;
        if self.at(place).is_some_and(|datagram| again(datagram)) {
            self.forget(place);
            place = self.place_of((hook, now), fragment, last_word);
        }
        if let Some(refusal) = self.claim(place, fragment, last_word) {
            return refusal;
        }
        let Some(datagram) = self.at(place) else { return outcome };
        datagram.verdict = Some((outcome, stamps));
        let (held, complete) = (std::mem::take(&mut datagram.held), datagram.ranges.complete());
        match outcome {
            _ if held == 0 => {}
            Outcome::Drop(reason) => {
                self.held.drop_if(|p, _| p == place, |frame, _| last_word(frame, reason));
            }
            Outcome::Pass { .. } | Outcome::Hold => self.held.release(place, rewrite),
        }
        if complete {
            self.forget(place);
        }
        outcome
    }

    /// Drops what has waited too long.
    pub fn expire(&mut self, now: Tick, last_word: &mut impl FnMut(&[u8], Reason)) {
        let datagrams = &mut self.datagrams;
        let too_long = |_, since| now.since(since) > HOLD;
        self.held.drop_if(too_long, |frame, place| {
            if let Some(Some(datagram)) = datagrams.get_mut(place) {
                datagram.held = datagram.held.saturating_sub(1);
            }
            last_word(frame, Reason::Fragment);
        });
    }

    /// The frames that are to be sent now, in this order.
    pub fn released(&self) -> impl Iterator<Item = &[u8]> {
        self.held.released()
    }

    /// They have been sent.
    pub fn forget_released(&mut self) {
        self.held.forget_released();
    }

    fn at(&mut self, place: usize) -> Option<&mut Datagram> {
        self.datagrams.get_mut(place)?.as_mut()
    }

    /// Only of a datagram for which no frame waits.
    fn forget(&mut self, place: usize) {
        if let Some(datagram) = self.datagrams.get_mut(place) {
            *datagram = None;
        }
    }

    /// Takes the fragment's bytes; gives its outcome if they cannot be taken.
    fn claim(
        &mut self,
        place: usize,
        fragment: &FragmentOf,
        last_word: &mut impl FnMut(&[u8], Reason),
    ) -> Option<Outcome> {
        const OVERLAP: Outcome = Outcome::Drop(Reason::FragmentOverlap);
        let datagram = self.at(place)?;
        if datagram.poisoned {
            return Some(OVERLAP);
        }
        match datagram.ranges.add(fragment.extent) {
            Ok(()) => None,
            Err(Unfit::Scattered) => Some(Outcome::Drop(Reason::Fragment)),
            Err(Unfit::Overlap) => {
                datagram.poisoned = true;
                datagram.held = 0;
                let mut last_word = |frame: &[u8], _| last_word(frame, Reason::FragmentOverlap);
                self.held.drop_if(|p, _| p == place, &mut last_word);
                Some(OVERLAP)
            }
        }
    }

    /// Where the fragment's datagram is, from now on if it was nowhere.
    fn place_of(
        &mut self,
        (hook, now): (HookId, Tick),
        fragment: &FragmentOf,
        last_word: &mut impl FnMut(&[u8], Reason),
    ) -> usize {
        let [.., low] = fragment.hash.bits().to_be_bytes();
        let start = usize::from(low) % SETS * WAYS;
        let set = self.datagrams.get(start..start + WAYS).unwrap_or_default();
        let is_it = |d: &Datagram| d.hook == hook && d.key == fragment.key && !d.is_over(now);
        if let Some(way) = set.iter().position(|d| d.as_ref().is_some_and(is_it)) {
            return start + way;
        }
        let share = |hook| set.iter().flatten().filter(|d| d.hook == hook).count();
        let rank = |datagram: &Option<Datagram>| match datagram {
            None => (usize::MAX, u32::MAX),
            Some(d) if d.is_over(now) => (usize::MAX, 0),
            Some(d) => (share(d.hook), now.since(d.since)),
        };
        let ranks = set.iter().map(rank).enumerate();
        let place = start + ranks.max_by_key(|&(_, rank)| rank).map_or(0, |(way, _)| way);
        if self.at(place).is_some_and(|given_up| given_up.held > 0) {
            self.held.drop_if(|p, _| p == place, |frame, _| last_word(frame, Reason::Fragment));
        }
        if let Some(free) = self.datagrams.get_mut(place) {
            *free = Some(Datagram {
                hook,
                key: fragment.key,
                since: now,
                verdict: None,
                ranges: Ranges::default(),
                held: 0,
                poisoned: false,
            });
        }
        place
    }
}
