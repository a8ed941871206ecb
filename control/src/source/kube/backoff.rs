//! How long to wait before a request is tried again.
//!
//! client-go's figures, so that Weir is no worse a guest than the kubelet beside it: 0.8 s, doubled
//! with every failure up to 30 s, and each wait drawn from half to one and a half of that, so that
//! the nodes of a cluster do not come back at one instant. Two minutes without a failure, and it
//! begins at 0.8 s again. A server that names a time is given it.
//!
//! Pure: the time and the chance are parameters.

use std::time::Duration;

/// The first wait, before jitter.
pub const FIRST: Duration = Duration::from_millis(800);
/// The longest, before jitter.
pub const LONGEST: Duration = Duration::from_secs(30);
/// After so long without a failure the next one counts as the first.
pub const HEALTHY: Duration = Duration::from_secs(120);
/// A server that asks for more is asked again after this all the same.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Failures of one kind's requests, as far as they decide the next wait.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    next: Option<Duration>,
    /// When the last wait ends, since the process began.
    until: Duration,
}

impl Backoff {
    /// A request failed at `now` (time since any fixed moment); how long to wait. `asked` is what
    /// the server asks for, and the least then; `chance` is uniform in 0 to 1.
    pub fn failed(&mut self, now: Duration, asked: Option<Duration>, chance: f64) -> Duration {
        if now.saturating_sub(self.until) >= HEALTHY {
            self.next = None;
        }
        let base = self.next.unwrap_or(FIRST);
        self.next = Some((base * 2).min(LONGEST));
        let wait = base.mul_f64(0.5 + chance.clamp(0.0, 1.0));
        let wait = wait.max(asked.unwrap_or_default().min(PATIENCE));
        self.until = now + wait;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_begin_anew_after_health() {
        let mut backoff = Backoff::default();
        let mut now = Duration::from_secs(1000);
        let mut waits = Vec::new();
        for _ in 0..8 {
            let wait = backoff.failed(now, None, 0.5);
            waits.push(wait.as_millis());
            now += wait;
        }
        assert_eq!(waits, [800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
        // Long waits are no health: it counts from their end.
        assert_eq!(backoff.failed(now + HEALTHY / 2, None, 0.5), LONGEST);
        let healthy = now + HEALTHY / 2 + LONGEST + HEALTHY;
        assert_eq!(backoff.failed(healthy, None, 0.5), FIRST);
    }

    #[test]
    fn chance_spreads_and_the_server_is_listened_to() {
        let wait = |asked, chance| Backoff::default().failed(HEALTHY, asked, chance);
        assert_eq!(wait(None, 0.0), FIRST / 2);
        assert_eq!(wait(None, 1.0), FIRST * 3 / 2);
        assert_eq!(wait(Some(Duration::from_secs(7)), 0.0), Duration::from_secs(7));
        assert_eq!(wait(Some(Duration::from_secs(7200)), 0.0), PATIENCE);
        assert_eq!(wait(Some(Duration::ZERO), 1.0), FIRST * 3 / 2);
    }
}
