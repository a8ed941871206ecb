//! Processor time spent on behalf of a load.
//!
//! The kernel charges the work of a softirq to the thread in whose context it runs.
//! Between two pods that is the sender's own thread: its `send` does not return before
//! the packet is in the receiver's queue. What overflows goes to ksoftirqd, what a
//! policy engine does in user space to the engine's threads; both are added up here
//! from `/proc/PID/task/TID/schedstat`, whose first number is nanoseconds on a processor.
//!
//! Time that the hypervisor took away (steal) and time of other processes do not count.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// Reads the processor time of the calling thread and of those who work for it.
#[derive(Debug)]
pub struct Meter {
    ksoftirqd: Vec<u32>,
    charged: Vec<u32>,
}

/// Nanoseconds of processor time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Of the thread that read the meter.
    pub own_ns: u64,
    /// Of the ksoftirqd threads of all processors.
    pub ksoftirqd_ns: u64,
    /// Of the processes to be charged.
    pub charged_ns: u64,
}

impl Meter {
    /// A meter that also charges the processes `charged`, all their threads.
    ///
    /// # Errors
    /// When `/proc` cannot be read or one of `charged` does not run.
    pub fn new(charged: &[u32]) -> Result<Self> {
        let mut ksoftirqd = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Ok(pid) = entry?.file_name().to_string_lossy().parse() else { continue };
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.starts_with("ksoftirqd/") {
                ksoftirqd.push(pid);
            }
        }
        let meter = Self { ksoftirqd, charged: charged.to_vec() };
        meter.read()?;
        Ok(meter)
    }

    /// The times up to now.
    ///
    /// # Errors
    /// When one of the processes has ended.
    pub fn read(&self) -> Result<Usage> {
        Ok(Usage {
            own_ns: own_ns(),
            ksoftirqd_ns: total(&self.ksoftirqd)?,
            charged_ns: total(&self.charged)?,
        })
    }
}

impl Usage {
    /// What was spent since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            own_ns: self.own_ns.saturating_sub(before.own_ns),
            ksoftirqd_ns: self.ksoftirqd_ns.saturating_sub(before.ksoftirqd_ns),
            charged_ns: self.charged_ns.saturating_sub(before.charged_ns),
        }
    }

    /// All of it.
    pub fn total_ns(self) -> u64 {
        self.own_ns + self.ksoftirqd_ns + self.charged_ns
    }
}

/// Processor time of the calling thread so far, in nanoseconds.
pub fn own_ns() -> u64 {
    let own = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(own.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(own.tv_nsec).unwrap_or(0)
}

/// The time of all threads of some processes.
fn total(processes: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for pid in processes {
        let tasks = PathBuf::from(format!("/proc/{pid}/task"));
        let threads = fs::read_dir(&tasks).with_context(|| format!("process {pid} has ended"))?;
        for thread in threads {
            // A thread that has ended in the meantime takes its time along.
            let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            sum += text.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn own_work_is_charged_and_sleep_is_not() {
        let meter = Meter::new(&[]).unwrap();
        let before = meter.read().unwrap();
        std::thread::sleep(Duration::from_millis(30));
        let slept = meter.read().unwrap().since(before);
        assert!(slept.own_ns < 20_000_000, "{slept:?}");
        let start = Instant::now();
        while meter.read().unwrap().since(before).own_ns < 10_000_000 {
            assert!(start.elapsed() < Duration::from_secs(10), "no time is charged");
        }
    }

    #[test]
    fn the_threads_of_a_charged_process_count() {
        let meter = Meter::new(&[std::process::id()]).unwrap();
        let before = meter.read().unwrap();
        let start = Instant::now();
        std::thread::spawn(move || while start.elapsed() < Duration::from_millis(50) {});
        while meter.read().unwrap().since(before).charged_ns == 0 {
            assert!(start.elapsed() < Duration::from_secs(10), "no time is charged");
        }
        assert!(Meter::new(&[u32::MAX]).is_err());
    }
}
