//! Which ports of the node's own addresses are Services', as the hooks read it.
//!
//! What a pod sends to its node passes a hook unjudged, except what is for such a port. A bit a
//! port in shared memory; the bit of a port that nobody can have says whether there are any, so
//! that a node without NodePorts pays one look for it.
//!
//! Invariants: one writer, the admin side; a word is written in one piece; while ports are added
//! the hooks know that there are some before they know which.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use weir_table::mem::Words;

use super::abi::{NODE_PORT_STRIDE, NODE_PORT_WORDS};
use crate::parse::protocol;

/// Words of the map.
pub const NODE_PORTS: usize = NODE_PORT_WORDS as usize;

/// The map.
#[derive(Debug)]
pub struct NodePorts<W> {
    words: W,
}

impl<W: Words> NodePorts<W> {
    /// `words` are the map's, [`NODE_PORTS`] of them.
    pub const fn new(words: W) -> Self {
        Self { words }
    }

    /// Makes the map hold exactly these: IANA number of TCP, UDP or SCTP, and port.
    pub fn replace(&self, wanted: &BTreeSet<(u8, u16)>) {
        let mut due = vec![0u64; NODE_PORTS];
        for &(protocol, port) in wanted {
            if let Some(word) = place(protocol, port).and_then(|at| due.get_mut(at)) {
                *word |= 1 << (port % 64);
            }
        }
        // Nobody's port.
        if let (Some(first), false) = (due.first_mut(), wanted.is_empty()) {
            *first |= 1;
        }
        for (word, due) in self.words.words().iter().zip(due) {
            if word.load(Ordering::Relaxed) != due {
                word.store(due, Ordering::Release);
            }
        }
    }

    /// Whether a port is told to be a Service's.
    pub fn is_set(&self, protocol: u8, port: u16) -> bool {
        let word = place(protocol, port).and_then(|at| self.words.words().get(at));
        word.is_some_and(|word| word.load(Ordering::Relaxed) >> (port % 64) & 1 == 1)
    }
}

/// The word of a port.
fn place(protocol: u8, port: u16) -> Option<usize> {
    let row = match protocol {
        protocol::TCP => 0,
        protocol::UDP => 1,
        protocol::SCTP => 2,
        _ => return None,
    };
    Some(row * NODE_PORT_STRIDE as usize + usize::from(port / 64))
}

#[cfg(test)]
mod tests {
    use weir_table::mem::SharedWords;

    use super::*;

    fn set(ports: &NodePorts<SharedWords>) -> Vec<(usize, u32)> {
        let words = ports.words.words().iter().enumerate();
        let bits = words.flat_map(|(i, word)| {
            let word = word.load(Ordering::Relaxed);
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| (i, bit))
        });
        bits.collect()
    }

    #[test]
    fn ports_have_their_bits_and_the_first_says_that_there_are_any() {
        let ports = NodePorts::new(SharedWords::heap(NODE_PORTS));
        ports.replace(&BTreeSet::from([(6, 30_080), (17, 30_080), (132, 65_535), (1, 7)]));
        assert_eq!(set(&ports), [(0, 0), (470, 0), (1024 + 470, 0), (3071, 63)]);
        assert!(ports.is_set(17, 30_080) && ports.is_set(132, 65_535));
        assert!(!ports.is_set(132, 30_080) && !ports.is_set(1, 7));
        ports.replace(&BTreeSet::from([(17, 1)]));
        assert_eq!(set(&ports), [(0, 0), (1024, 1)]);
        ports.replace(&BTreeSet::new());
        assert_eq!(set(&ports), []);
    }
}
