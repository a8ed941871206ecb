//! Ctrl-C as an end and not as an accident: what was begun is finished, files are whole.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT and SIGTERM, to be waited for.
pub(super) struct Interrupt {
    runtime: Runtime,
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupt {
    /// From here on neither signal ends the process by itself.
    pub fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let inside = runtime.enter();
        let interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
        let terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
        drop(inside);
        Ok(Self { runtime, interrupt, terminate })
    }

    /// Waits; true if a signal came, before the wait or in it.
    pub fn within(&mut self, time: Duration) -> bool {
        let Self { runtime, interrupt, terminate } = self;
        runtime.block_on(async {
            tokio::select! {
                biased;
                _ = interrupt.recv() => true,
                _ = terminate.recv() => true,
                () = tokio::time::sleep(time) => false,
            }
        })
    }
}
