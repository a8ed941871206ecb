//! The pods' hardware addresses, as the hooks read them (`bpf/link.h`).
//!
//! An array of small sets in shared memory, indexed by the lower bits of the ifindex: a look
//! at it is a few instructions, which the fast path can afford; a hash map is not. Indexes
//! are given in order, so a set overflows only if three living devices are multiples of
//! 32,768 apart; the third is not checked then, and takes the long way through its hook.
//!
//! Invariants: one writer, the admin side; a word is written in one piece, and a device has
//! at most one.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use weir_table::mem::Words;

use super::abi::{MAC_INDEX_BITS, MAC_SETS, MAC_WAYS};

/// A hardware address (IEEE 802 MAC-48).
pub type Mac = [u8; 6];

/// Words of the map.
pub const MAC_WORDS: usize = (MAC_SETS * MAC_WAYS) as usize;

/// The map.
#[derive(Debug)]
pub struct Macs<W> {
    words: W,
}

/// Marks the words of a device.
const fn tag(ifindex: u32) -> u64 {
    ((ifindex >> MAC_INDEX_BITS) as u64 + 1) << 48
}

/// The word of a device, as `mac_word()` of link.h makes it from a frame.
fn word(ifindex: u32, mac: Mac) -> u64 {
    let [a, b, c, d, e, f] = mac;
    let upper = u64::from(u16::from_ne_bytes([a, b]));
    let lower = u64::from(u32::from_ne_bytes([c, d, e, f]));
    tag(ifindex) | upper << 32 | lower
}

impl<W: Words> Macs<W> {
    /// `words` are the map's, [`MAC_WORDS`] of them.
    pub const fn new(words: W) -> Self {
        Self { words }
    }

    /// Makes the map hold exactly these devices. Returns those for which there is no room.
    pub fn replace(&self, wanted: &BTreeMap<u32, Mac>) -> Vec<u32> {
        let mut sets: BTreeMap<u32, Vec<(u32, u64)>> = BTreeMap::new();
        let mut homeless = Vec::new();
        for (&ifindex, &mac) in wanted {
            let set = sets.entry(ifindex & (MAC_SETS - 1)).or_default();
            if set.len() < MAC_WAYS as usize {
                set.push((ifindex, word(ifindex, mac)));
            } else {
                homeless.push(ifindex);
            }
        }
        for (index, ways) in (0..).zip(self.words.words().chunks_exact(MAC_WAYS as usize)) {
            let mut due = sets.remove(&index).unwrap_or_default();
            // Who is there stays where it is, so that no hook misses it meanwhile.
            for way in ways {
                let was = way.load(Ordering::Relaxed);
                let stays = due.iter().position(|&(ifindex, _)| was >> 48 == tag(ifindex) >> 48);
                let is = stays.map_or(0, |at| due.swap_remove(at).1);
                if was != is {
                    way.store(is, Ordering::Relaxed);
                }
            }
            for way in ways.iter().filter(|way| way.load(Ordering::Relaxed) == 0) {
                let Some((_, word)) = due.pop() else { break };
                way.store(word, Ordering::Relaxed);
            }
        }
        homeless
    }
}

#[cfg(test)]
mod tests {
    use weir_table::mem::SharedWords;

    use super::*;

    const MAC: Mac = [2, 3, 4, 5, 6, 7];

    fn at(macs: &Macs<SharedWords>, ifindex: u32) -> Option<u64> {
        let set = (ifindex & (MAC_SETS - 1)) as usize * MAC_WAYS as usize;
        let ways = &macs.words.words()[set..set + MAC_WAYS as usize];
        let mut found = ways.iter().map(|w| w.load(Ordering::Relaxed));
        found.find(|w| w >> 48 == tag(ifindex) >> 48)
    }

    #[test]
    fn devices_come_change_and_go() {
        let macs = Macs::new(SharedWords::heap(MAC_WORDS));
        assert!(macs.replace(&BTreeMap::from([(7, MAC), (8, MAC)])).is_empty());
        assert_eq!(at(&macs, 7), Some(word(7, MAC)));
        assert_eq!(at(&macs, 7 + MAC_SETS), None, "another device of the set");
        let other = [2, 9, 9, 9, 9, 9];
        assert!(macs.replace(&BTreeMap::from([(7, other)])).is_empty());
        assert_eq!((at(&macs, 7), at(&macs, 8)), (Some(word(7, other)), None));
    }

    #[test]
    fn a_set_has_room_for_two() {
        let macs = Macs::new(SharedWords::heap(MAC_WORDS));
        let [first, second, third] = [7, 7 + MAC_SETS, 7 + 2 * MAC_SETS];
        assert!(macs.replace(&BTreeMap::from([(second, MAC)])).is_empty());
        let all = BTreeMap::from([(first, MAC), (second, MAC), (third, MAC)]);
        assert_eq!(macs.replace(&all), [third]);
        assert_eq!(at(&macs, first), Some(word(first, MAC)));
        assert_eq!(at(&macs, second), Some(word(second, MAC)));
        assert!(macs.replace(&BTreeMap::from([(third, MAC)])).is_empty());
        assert_eq!((at(&macs, first), at(&macs, third)), (None, Some(word(third, MAC))));
    }

    #[test]
    fn words_are_what_the_hooks_make_of_a_frame() {
        // On a little-endian machine, as most are.
        if cfg!(target_endian = "little") {
            assert_eq!(word(7, MAC), 0x0001_0302_0706_0504);
            assert_eq!(word(7 + (5 << MAC_INDEX_BITS), MAC) >> 48, 6);
        }
    }
}
