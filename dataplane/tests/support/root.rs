//! Whether tests that load BPF programs or make network namespaces can run here.
#![allow(dead_code)] // each test binary uses its own part

use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// False: cannot run here, and that is acceptable.
pub fn can_run() -> bool {
    let root = rustix::process::geteuid().is_root();
    let required = std::env::var_os("WEIR_REQUIRE_E2E").is_some_and(|value| value == "1");
    assert!(root || !required, "WEIR_REQUIRE_E2E=1, but these tests need root");
    if !root {
        // Past the capture of the test harness: what did not run must not look like what did.
        let _ = writeln!(std::io::stderr(), "SKIPPED: needs root");
    }
    root
}

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Waits for the other tests. `None`: cannot run here, and that is acceptable.
pub fn turn() -> Option<MutexGuard<'static, ()>> {
    can_run().then(|| ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
}
