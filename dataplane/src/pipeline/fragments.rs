//! Fragments follow their first fragment.
//!
//! Only the first fragment of a packet has ports, so only it can be judged; the worker
//! remembers what became of it for the others. Both come to one worker, since steering
//! spreads by addresses alone. A fragment that overtakes its first one is dropped: the
//! sender's transport repairs that, guessing would not be repairable.
//!
//! The memory is small and fixed: [`SETS`] sets of [`WAYS`] places, the oldest gives way.
//! What is remembered holds at one hook, for [`LIFETIME`], and as long as the stamps of
//! both ends do.
#![forbid(unsafe_code)]

use weir_table::counters::Reason;
use weir_table::flow::{FlowKey, Tick};

use super::Outcome;
use super::admit::FragmentOf;
use crate::shim::Direction;

/// Sets of places; a power of two.
const SETS: usize = 256;
/// Places in a set.
const WAYS: usize = 4;
/// How long an outcome is remembered, in ticks: Linux reassembles for 30 s
/// (`net.ipv4.ipfrag_time`); an IPv6 receiver gives up after 60 s (RFC 8200 section 4.5),
/// but a packet that is that late is lost anyway.
const LIFETIME: u32 = Tick::in_seconds(30);

/// Device and direction.
type HookId = (u32, Direction);

#[derive(Debug, Clone, Copy)]
struct Memory {
    hook: HookId,
    key: FlowKey,
    outcome: Outcome,
    stamps: [u64; 2],
    since: Tick,
}

/// What became of recent first fragments.
#[derive(Debug)]
pub(super) struct FragmentCache {
    sets: Box<[[Option<Memory>; WAYS]]>,
}

impl FragmentCache {
    /// An empty cache with all its memory.
    pub fn new() -> Self {
        Self { sets: vec![[None; WAYS]; SETS].into_boxed_slice() }
    }

    fn set(&mut self, fragment: &FragmentOf) -> Option<&mut [Option<Memory>; WAYS]> {
        let [.., low] = fragment.hash.bits().to_be_bytes();
        self.sets.get_mut(usize::from(low) % SETS)
    }

    /// Notes the outcome of a first fragment.
    pub fn remember(
        &mut self,
        hook: HookId,
        fragment: &FragmentOf,
        outcome: Outcome,
        stamps: [u64; 2],
        now: Tick,
    ) {
        let Some(set) = self.set(fragment) else { return };
        let place = set.iter_mut().max_by_key(|place| match place {
            Some(m) if m.hook == hook && m.key == fragment.key => u64::MAX,
            None => u64::MAX - 1,
            Some(m) => u64::from(now.since(m.since)),
        });
        if let Some(place) = place {
            *place = Some(Memory { hook, key: fragment.key, outcome, stamps, since: now });
        }
    }

    /// The outcome for a later fragment.
    pub fn recall(
        &mut self,
        hook: HookId,
        fragment: &FragmentOf,
        holds: impl Fn([u64; 2]) -> bool,
        now: Tick,
    ) -> Outcome {
        let known = self.set(fragment).and_then(|set| {
            set.iter().flatten().find(|m| {
                m.hook == hook
                    && m.key == fragment.key
                    && holds(m.stamps)
                    && now.since(m.since) <= LIFETIME
            })
        });
        known.map_or(Outcome::Drop(Reason::Fragment), |memory| memory.outcome)
    }
}
