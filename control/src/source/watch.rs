//! Notices that a folder changed, at once and once.
//!
//! One save makes several events (truncate, write, close; or create, write, rename), so the wait
//! ends only when the folder has been quiet for [`QUIET`] — or after [`PATIENCE`], so that a file
//! which is written without pause cannot keep all others from being enforced.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

/// How long the folder must be quiet before it is read.
pub const QUIET: Duration = Duration::from_millis(4);
/// How long after the first event it is read in any case.
pub const PATIENCE: Duration = Duration::from_millis(20);
/// How often it is looked at without any event; links can lead to places that are not watched.
pub const RESCAN: Duration = Duration::from_secs(2);

/// Why the wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// Something changed; the time is that of the first event.
    Changed(Instant),
    /// Nothing was heard; look again all the same.
    Rescan,
    /// [`Handle::nudge`] was called; nothing is known of the folder.
    Nudged,
    /// [`Handle::stop`] was called.
    Stop,
}

enum Message {
    Event(Instant),
    Nudge,
    Stop,
}

/// Ends the wait of a [`Watch`] from another thread.
#[derive(Debug, Clone)]
pub struct Handle(Sender<Message>);

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Event(_) => "Event",
            Self::Nudge => "Nudge",
            Self::Stop => "Stop",
        })
    }
}

impl Handle {
    /// Makes the present or next wait end, with [`Wake::Nudged`] if nothing else ends it.
    pub fn nudge(&self) {
        // A closed channel means that the watch is gone already.
        let _ = self.0.send(Message::Nudge);
    }

    /// Makes the present or next wait end with [`Wake::Stop`].
    pub fn stop(&self) {
        // A closed channel means that the watch is gone already.
        let _ = self.0.send(Message::Stop);
    }
}

/// Watches a folder and everything below it.
#[derive(Debug)]
pub struct Watch {
    messages: Receiver<Message>,
    handle: Handle,
    watcher: RecommendedWatcher,
}

impl Watch {
    /// Begins to watch. Begin before the first read, so that no change falls between the two.
    ///
    /// # Errors
    /// The kernel's notifications cannot be had (`fs.inotify.max_user_instances`, a path that does
    /// not exist).
    pub fn new(path: &Path) -> notify::Result<Self> {
        let (sender, messages) = channel();
        let handle = Handle(sender);
        let watcher = begin(path, handle.clone())?;
        Ok(Self { messages, handle, watcher })
    }

    /// Watches another folder, or the one that took this one's place, instead.
    ///
    /// # Errors
    /// As [`Self::new`]; the old watch goes on then.
    pub fn renew(&mut self, path: &Path) -> notify::Result<()> {
        self.watcher = begin(path, self.handle.clone())?;
        Ok(())
    }

    /// A handle to stop the wait.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits for the next change and for quiet after it.
    pub fn wait(&self) -> Wake {
        let first = match self.messages.recv_timeout(RESCAN) {
            Ok(Message::Event(at)) => at,
            Ok(Message::Nudge) => return Wake::Nudged,
            Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return Wake::Stop,
            Err(RecvTimeoutError::Timeout) => return Wake::Rescan,
        };
        let deadline = first + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.messages.recv_timeout(QUIET.min(left)) {
                Ok(Message::Event(_) | Message::Nudge) if left > Duration::ZERO => {}
                Ok(Message::Event(_) | Message::Nudge) | Err(RecvTimeoutError::Timeout) => {
                    return Wake::Changed(first);
                }
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return Wake::Stop,
            }
        }
    }
}

fn begin(path: &Path, handle: Handle) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // An error (an overflowing queue) means that something may have been missed.
        let matters = event.map_or(true, |event| match event.kind {
            EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
            _ => true,
        });
        if matters {
            // A closed channel means that the watch is going away.
            let _ = handle.0.send(Message::Event(Instant::now()));
        }
    })?;
    watcher.watch(&target(path), RecursiveMode::Recursive)?;
    Ok(watcher)
}

/// A single file is watched through its folder: a rename replaces the inode that a watch is on.
fn target(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if path.is_file() && !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) if path.is_file() => PathBuf::from("."),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_change_wakes_once_and_soon() {
        let dir = tempfile::tempdir().unwrap();
        let watch = Watch::new(dir.path()).unwrap();
        let begin = Instant::now();
        for i in 0..3 {
            fs::write(dir.path().join("a.yaml"), format!("a: {i}")).unwrap();
        }
        assert!(matches!(watch.wait(), Wake::Changed(_)));
        // Generous: other tests share the processors.
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        watch.handle().stop();
        let mut last = watch.wait();
        // A late event of the same writes may come before the stop.
        if last != Wake::Stop {
            last = watch.wait();
        }
        assert_eq!(last, Wake::Stop);
    }
}
