//! Follows a folder of manifests: looks again at every change, and at times without one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use tracing::{info, warn};

use super::core::Core;
use crate::ledger::Ledger;
use crate::model::{Complaint, Effect, Origin, Severity};
use crate::names::NamesWriter;
use crate::publisher::{Inbox, Mailbox};
use crate::source::watch::{Handle, Wake, Watch};
use crate::source::{Folder, State};

/// Follows a folder and puts every new state into the mailbox.
#[derive(Debug)]
pub struct FolderAgent {
    folder: Folder,
    watch: Watch,
    /// Device and inode of what is watched; another one means that the watch sees nothing any more.
    watched: Option<(u64, u64)>,
    core: Core,
    run_dir: Option<PathBuf>,
    /// What is wrong with what was read last.
    complaints: Vec<Complaint>,
    skipped: Option<String>,
    /// Files of which nothing is in force.
    unread: usize,
    /// Why the last good content of files could not be kept, as it was logged.
    unkept: Option<String>,
}

impl FolderAgent {
    /// Begins to watch; nothing is read yet.
    ///
    /// # Errors
    /// The folder does not exist or cannot be watched.
    pub fn new(
        path: &Path,
        node: Option<String>,
        mailbox: Arc<Mailbox>,
        ledger: Arc<Ledger>,
    ) -> Result<Self> {
        fs::metadata(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let watch =
            Watch::new(path).with_context(|| format!("{} cannot be watched", path.display()))?;
        Ok(Self {
            folder: Folder::new(path),
            watch,
            watched: identity(path),
            core: Core::new(node, mailbox, ledger),
            run_dir: None,
            complaints: Vec::new(),
            skipped: None,
            unread: 0,
            unkept: None,
        })
    }

    /// Leaves pods' names with this writer.
    #[must_use]
    pub fn naming(mut self, names: NamesWriter) -> Self {
        self.core.name_with(names);
        self
    }

    /// Keeps the last good content of files in the run directory, and looks there for what the
    /// dataplane enforces.
    #[must_use]
    pub fn keeping(mut self, run_dir: &Path) -> Self {
        self.folder = self.folder.keeping(run_dir);
        self.run_dir = Some(run_dir.to_owned());
        self
    }

    /// Takes what the dataplane tells from this inbox.
    #[must_use]
    pub fn hearing(mut self, inbox: Arc<Inbox>) -> Self {
        let watch = self.watch.handle();
        inbox.wake_with(move || watch.nudge());
        self.core.hear_from(inbox);
        self
    }

    /// A handle that ends [`Self::run`].
    pub fn handle(&self) -> Handle {
        self.watch.handle()
    }

    /// Reads, and reads again at every change, until stopped.
    pub fn run(mut self) {
        self.refresh(Instant::now());
        loop {
            match self.watch.wait() {
                Wake::Changed(since) => self.refresh(since),
                Wake::Rescan => self.refresh(Instant::now()),
                Wake::Nudged => self.hear(),
                Wake::Stop => return,
            }
        }
    }

    /// Takes what the dataplane has told, and publishes what follows.
    fn hear(&mut self) {
        let before = self.core.cut_off();
        let changes = self.core.hear();
        // What is published first takes everything into account.
        if self.core.is_compiled() {
            self.core.publish(changes, Instant::now());
            if changes.pods {
                self.core.name();
            }
        }
        if self.core.cut_off() != before {
            self.core.report(&self.complaints.clone(), self.unread);
        }
    }

    fn refresh(&mut self, since: Instant) {
        self.renew_watch();
        self.hear();
        let state = match self.folder.refresh() {
            Ok(state) => state,
            Err(error) => {
                let folder = self.folder.path().display().to_string();
                let complaint = Complaint {
                    severity: Severity::Refused,
                    effect: Effect::NotEnforced,
                    origin: Origin { file: folder.into(), line: 0 },
                    object: String::new(),
                    field: String::new(),
                    message: format!("cannot be listed: {error}"),
                    consequence: "what was read last stays in force".to_owned(),
                };
                // What was wrong with what is in force still is.
                let all: Vec<Complaint> =
                    self.complaints.iter().chain([&complaint]).cloned().collect();
                self.core.report(&all, self.unread);
                return;
            }
        };
        let changes = self.core.index.sync(&state.loaded.objects);
        let held = self.is_held(&state);
        self.review(&state, held);
        let is_first = !self.core.is_compiled();
        if !held {
            self.folder.settle();
        }
        self.keep();
        if !held {
            self.core.publish(changes, since);
        }
        if changes.pods || is_first {
            self.core.name();
        }
    }

    /// Whether the dataplane keeps the table that it has: it may enforce policies of files that
    /// cannot be read now, and nobody knows what they said. Only before the first table of this
    /// process; after that its own memory is complete.
    fn is_held(&self, state: &State) -> bool {
        let enforces = |run_dir: &PathBuf| run_dir.join(weir_table::TABLE_FILE).exists();
        state.unknown > 0 && !self.core.is_compiled() && self.run_dir.as_ref().is_some_and(enforces)
    }

    /// Keeps what is read, before any of it is published.
    fn keep(&mut self) {
        let why = match self.folder.keep() {
            Ok(()) => None,
            // Before the first dataplane there is nothing to keep it for.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Some("another weir-control keeps its own".to_owned())
            }
            Err(error) => Some(error.to_string()),
        };
        if why != self.unkept {
            if let Some(why) = &why {
                warn!("the last good content of files cannot be kept for a restart: {why}");
            }
            self.unkept = why;
        }
    }

    /// If the folder was replaced by another of its name, watches that one.
    fn renew_watch(&mut self) {
        if identity(self.folder.path()) == self.watched {
            return;
        }
        // If it is gone, listing it says so; the next rescan looks again.
        let identity = identity(self.folder.path());
        if identity.is_some() && self.watch.renew(self.folder.path()).is_ok() {
            info!("{} was replaced: watching the new one", self.folder.path().display());
            self.watched = identity;
        }
    }

    fn review(&mut self, state: &State, held: bool) {
        self.complaints.clone_from(&state.loaded.complaints);
        self.complaints.extend(self.core.index.conflicts());
        self.unread = state.unread;
        if held {
            self.complaints.push(Complaint {
                severity: Severity::Refused,
                effect: Effect::NotEnforced,
                origin: Origin { file: self.folder.path().display().to_string().into(), line: 0 },
                object: String::new(),
                field: String::new(),
                message: format!(
                    "{} of its files cannot be read, and what they said before this process began is not known; repair or remove them",
                    state.unknown
                ),
                consequence: "until then nothing is published, and the dataplane keeps the table that it has".to_owned(),
            });
        }
        self.core.report(&self.complaints, self.unread);
        let skipped = state.loaded.skipped_in_words();
        if skipped != self.skipped {
            if let Some(words) = &skipped {
                info!("{words}");
            }
            self.skipped = skipped;
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}
