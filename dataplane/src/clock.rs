//! The clocks that the daemon reads; the pipeline itself reads none.
//!
//! Flows have a clock of their own. It is `CLOCK_MONOTONIC` without the time during which
//! no daemon ran: the hooks take the time from the workers, so it stands still with them,
//! and flows that were in use all the while must not have run out of time afterwards.

use std::sync::atomic::{AtomicU64, Ordering};

use rustix::time::{ClockId, clock_gettime};
use weir_table::flow::Tick;
use weir_table::flow::layout::TICK_SHIFT;

/// By how much the clock of flows is behind, in nanoseconds: a whole number of ticks.
static BEHIND: AtomicU64 = AtomicU64::new(0);

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

/// Has the clock of flows go on from the tick at which an earlier daemon left it; `None`
/// if there was none. Once, before anybody asks.
pub fn resume_flows(last: Option<Tick>) {
    let behind = last.map_or(0, |last| Tick::from_nanos(monotonic_ns()).since(last));
    BEHIND.store(u64::from(behind) << TICK_SHIFT, Ordering::Relaxed);
}
