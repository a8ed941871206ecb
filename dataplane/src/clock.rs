//! The clocks that the daemon reads; the pipeline itself reads none.
//!
//! Flows have a clock of their own. It is `CLOCK_MONOTONIC` without the time during which
//! no daemon ran, or all workers hung: the hooks take the time from the workers, so it stands still with them,
//! and flows that were in use all the while must not have run out of time afterwards.

use std::sync::atomic::{AtomicU64, Ordering};

use rustix::time::{ClockId, clock_gettime};
use weir_table::flow::Tick;
use weir_table::flow::layout::TICK_SHIFT;

/// By how much the clock of flows is behind, in nanoseconds: a whole number of ticks.
static BEHIND: AtomicU64 = AtomicU64::new(0);

/// Longest silence of all workers, in ticks, that is no standstill: as long as the heartbeat's.
const STILL: u32 = Tick::in_seconds(3);

/// `CLOCK_MONOTONIC` in nanoseconds: the clock of heartbeats and receipts. On the vDSO, so
/// reading it enters no kernel.
pub fn monotonic_ns() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(t.tv_nsec).unwrap_or(0)
}

/// The clock of flows at the time `monotonic` of [`monotonic_ns`].
pub fn flow_ns_at(monotonic: u64) -> u64 {
    monotonic.wrapping_sub(BEHIND.load(Ordering::Relaxed))
}

/// The clock of flows, in nanoseconds.
pub fn flow_ns() -> u64 {
    flow_ns_at(monotonic_ns())
}

/// The tick of flows at the time `monotonic`, after `last`. If nobody has told the hooks the
/// time for so long that they count the workers as hung, it has stood still with them and
/// goes on from there.
pub fn flow_tick(monotonic: u64, last: Option<Tick>) -> Tick {
    let behind = BEHIND.load(Ordering::Relaxed);
    let now = Tick::from_nanos(monotonic.wrapping_sub(behind));
    let gap = last.map_or(0, |last| now.since(last));
    if gap <= STILL {
        return now;
    }
    // Another worker may be doing the same: one of the two counts.
    let later = behind + (u64::from(gap) << TICK_SHIFT);
    let _ = BEHIND.compare_exchange(behind, later, Ordering::Relaxed, Ordering::Relaxed);
    Tick::from_nanos(flow_ns_at(monotonic))
}

/// Has the clock of flows go on from the tick at which an earlier daemon left it; `None`
/// if there was none. Once, before anybody asks.
pub fn resume_flows(last: Option<Tick>) {
    let behind = last.map_or(0, |last| Tick::from_nanos(monotonic_ns()).since(last));
    BEHIND.store(u64::from(behind) << TICK_SHIFT, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, since there is one clock.
    #[test]
    fn flows_know_no_time_during_which_nobody_worked() {
        let at = |ticks: u64| (1000 + ticks) << TICK_SHIFT;
        assert_eq!(flow_tick(at(0), None), Tick(1000));
        assert_eq!(flow_tick(at(40), Some(Tick(1000))), Tick(1040));
        // All workers hung for 2000 ticks.
        assert_eq!(flow_tick(at(2040), Some(Tick(1040))), Tick(1040));
        assert_eq!(flow_tick(at(2050), Some(Tick(1040))), Tick(1050));
        assert_eq!(Tick::from_nanos(flow_ns_at(at(2050))), Tick(1050));
        // A worker that was kept from its core reports an old time: no standstill.
        assert_eq!(flow_tick(at(2045), Some(Tick(1050))), Tick(1045));
        // A successor goes on where its predecessor left off.
        let last = Tick::from_nanos(monotonic_ns() - (500 << TICK_SHIFT));
        resume_flows(Some(last));
        assert!(Tick::from_nanos(flow_ns()).since(last) <= 1);
        resume_flows(None);
        assert_eq!(BEHIND.load(Ordering::Relaxed), 0);
    }
}
