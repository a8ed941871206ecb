//! Ctrl-C as an end and not as an accident: what was begun is finished, files are whole.
//!
//! Whoever works asks between two steps whether it [came](Interrupt::came). A step that does not
//! come to its end, such as writing to a pipe that nobody reads, is ended by a second signal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// How soon a wait ends after a signal.
const LOOK: Duration = Duration::from_millis(20);

/// SIGINT and SIGTERM.
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From here on the first of the signals does not end the process; the second does, with
    /// the exit code of a shell for that signal.
    pub fn new() -> Result<Self> {
        let came = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag not yet set.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&came))
                .and_then(|_| flag::register(signal, Arc::clone(&came)))
                .context("cannot wait for Ctrl-C")?;
        }
        Ok(Self(came))
    }

    /// Whether a signal came.
    pub fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Waits; true if a signal came, before the wait or in it.
    pub fn within(&self, time: Duration) -> bool {
        let start = Instant::now();
        while !self.came() {
            match time.saturating_sub(start.elapsed()) {
                Duration::ZERO => return false,
                left => thread::sleep(left.min(LOOK)),
            }
        }
        true
    }
}
