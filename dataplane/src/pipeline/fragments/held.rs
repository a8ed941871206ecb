//! Frames of later fragments that wait for their first.
//!
//! A fixed number of places for frames, allocated once. A frame waits, then it is released,
//! to be sent by the worker after its burst, or it is dropped.
#![forbid(unsafe_code)]

use weir_table::flow::Tick;

use super::HookId;

/// Frames that a worker holds at most.
pub(super) const FRAMES: usize = 256;
/// Of these, those of one hook: what floods one pod leaves room for the others. If several are
/// flooded, the hook that holds most gives way.
pub(super) const OF_A_HOOK: usize = FRAMES / 4;
/// Of these, those of one datagram: 64 KiB in fragments for an MTU of 1500 are 45.
pub(super) const OF_A_DATAGRAM: usize = 48;

/// Where the frame's datagram is.
type Place = usize;

#[derive(Debug, Clone, Copy)]
struct Waiting {
    place: Place,
    hook: HookId,
    since: Tick,
    /// Counts up: the order of arrival.
    arrival: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    length: usize,
    waiting: Option<Waiting>,
}

/// The frames.
#[derive(Debug)]
pub(super) struct Held {
    bytes: Box<[u8]>,
    frame_limit: usize,
    slots: Box<[Slot]>,
    free: Vec<usize>,
    /// Rewritten for the way back, in the order in which they are to be sent.
    released: Vec<usize>,
    arrivals: u64,
}

impl Held {
    /// Room for frames of up to `frame_limit` bytes, shim included.
    pub fn new(frame_limit: usize) -> Self {
        Self {
            bytes: vec![0; FRAMES * frame_limit].into_boxed_slice(),
            frame_limit,
            slots: vec![Slot::default(); FRAMES].into_boxed_slice(),
            free: (0..FRAMES).collect(),
            released: Vec::with_capacity(FRAMES),
            arrivals: 0,
        }
    }

    /// Copies a frame that waits for its datagram's first. False: no room for it. If all
    /// places are taken, the oldest frame of the hook that has most gives way, after
    /// `last_word` about it and its datagram, unless this hook would then have as many.
    pub fn hold(
        &mut self,
        frame: &[u8],
        place: Place,
        (hook, now): (HookId, Tick),
        last_word: impl FnOnce(&[u8], Place),
    ) -> bool {
        let of_this_hook = self.count_of(hook);
        if frame.len() > self.frame_limit || of_this_hook >= OF_A_HOOK {
            return false;
        }
        if self.free.is_empty() {
            self.give_way_to(of_this_hook, last_word);
        }
        let Some(slot) = self.free.pop() else { return false };
        self.arrivals += 1;
        let waiting = Waiting { place, hook, since: now, arrival: self.arrivals };
        if let Some(bytes) = frame_of(&mut self.bytes, self.frame_limit, slot, frame.len()) {
            bytes.copy_from_slice(frame);
        }
        if let Some(slot) = self.slots.get_mut(slot) {
            *slot = Slot { length: frame.len(), waiting: Some(waiting) };
        }
        true
    }

    /// Releases the frames of a datagram, in the order of their arrival, each after `rewrite`.
    pub fn release(&mut self, place: Place, mut rewrite: impl FnMut(&mut [u8])) {
        let from = self.released.len();
        for (index, slot) in self.slots.iter().enumerate() {
            if slot.waiting.is_some_and(|w| w.place == place) {
                self.released.push(index);
            }
        }
        let new = self.released.get_mut(from..).unwrap_or_default();
        let arrival = |&slot: &usize| self.slots.get(slot).and_then(|s| s.waiting?.arrival.into());
        new.sort_unstable_by_key(arrival);
        for &index in &*new {
            let Some(slot) = self.slots.get_mut(index) else { continue };
            slot.waiting = None;
            if let Some(f) = frame_of(&mut self.bytes, self.frame_limit, index, slot.length) {
                rewrite(f);
            }
        }
    }

    /// Gives up the waiting frames that `which` names by datagram and time of arrival, each
    /// after `last_word` about it and its datagram.
    pub fn drop_if(
        &mut self,
        which: impl Fn(Place, Tick) -> bool,
        mut last_word: impl FnMut(&[u8], Place),
    ) {
        if self.free.len() + self.released.len() == FRAMES {
            return; // nothing waits
        }
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(waiting) = slot.waiting.filter(|w| which(w.place, w.since)) else { continue };
            slot.waiting = None;
            if let Some(f) = frame_of(&mut self.bytes, self.frame_limit, index, slot.length) {
                last_word(f, waiting.place);
            }
            self.free.push(index);
        }
    }

    /// The released frames.
    pub fn released(&self) -> impl Iterator<Item = &[u8]> {
        self.released.iter().filter_map(|&index| {
            let start = index * self.frame_limit;
            self.bytes.get(start..start + self.slots.get(index)?.length)
        })
    }

    /// Forgets the released frames.
    pub fn forget_released(&mut self) {
        self.free.append(&mut self.released);
    }

    fn count_of(&self, hook: HookId) -> usize {
        self.waiting().filter(|(_, w)| w.hook == hook).count()
    }

    /// Frees the place of the oldest frame of the hook that has most, if that is more than one
    /// frame ahead of a hook that has `count`. Rare, and bounded by the number of places.
    fn give_way_to(&mut self, count: usize, last_word: impl FnOnce(&[u8], Place)) {
        let share = |(_, w): &(usize, &Waiting)| (self.count_of(w.hook), u64::MAX - w.arrival);
        let Some((index, waiting)) = self.waiting().max_by_key(share) else { return };
        let (of_most, place) = (self.count_of(waiting.hook), waiting.place);
        let Some(slot) = self.slots.get_mut(index).filter(|_| of_most > count + 1) else { return };
        slot.waiting = None;
        if let Some(f) = frame_of(&mut self.bytes, self.frame_limit, index, slot.length) {
            last_word(f, place);
        }
        self.free.push(index);
    }

    fn waiting(&self) -> impl Iterator<Item = (usize, &Waiting)> {
        self.slots.iter().enumerate().filter_map(|(i, slot)| Some((i, slot.waiting.as_ref()?)))
    }
}

fn frame_of(bytes: &mut [u8], limit: usize, index: usize, length: usize) -> Option<&mut [u8]> {
    bytes.get_mut(index * limit..)?.get_mut(..length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::Direction::{FromPod, ToPod};

    #[test]
    fn hooks_that_hold_all_places_give_way_to_one_that_holds_less() {
        let mut held = Held::new(64);
        let attackers = [1, 2, 3, 4].map(|ifindex| (ifindex, FromPod));
        let mut given_up = Vec::new();
        // Datagram `n` of an attacker at place `n`; every frame carries its place.
        for n in 0..4 * OF_A_HOOK {
            let hook = attackers[n % 4];
            let frame = (n as u16).to_be_bytes();
            assert!(held.hold(&frame, n, (hook, Tick(1)), |_, place| given_up.push(place)));
        }
        assert!(!held.hold(b"more", 999, (attackers[0], Tick(1)), |_, _| panic!("its own share")));
        assert!(given_up.is_empty());
        let honest = (9, ToPod);
        for n in 0..OF_A_HOOK {
            let last_word = |frame: &[u8], place: usize| {
                assert_eq!(frame, (place as u16).to_be_bytes(), "whose frame?");
                given_up.push(place);
            };
            let is_held = held.hold(b"ours", 1000 + n, (honest, Tick(2)), last_word);
            // Equal shares for five.
            assert_eq!(is_held, n < FRAMES / 5, "{n}");
        }
        assert_eq!(given_up.len(), FRAMES / 5);
        let mut oldest_first = given_up.clone();
        oldest_first.sort_unstable();
        assert_eq!(given_up, oldest_first, "the oldest goes first");
        for attacker in attackers {
            assert!(held.count_of(attacker) >= FRAMES / 5, "a fair share stays");
        }
        // Room comes back in full.
        held.drop_if(|_, _| true, |_, _| {});
        assert_eq!(held.free.len(), FRAMES);
    }
}
