//! The last good content of every file, kept on tmpfs beside the dataplane's state.
//!
//! A file that cannot be read keeps its last good content in force. If weir-control restarts
//! meanwhile, that content must not be lost: the policies in it would be withdrawn, and their pods
//! open.
//!
//! ```text
//!   RUN_DIR/last-good/source     the source whose files these are
//!                     1, 2, ...  length of a file's path (u64, little endian), path, content
//!                     complete   there is an entry for every file in force
//! ```
//!
//! Invariants:
//! * an entry is replaced as a whole (rename), and before its content is published;
//! * `complete` is there only while it is true: without it nobody knows what a file without an entry
//!   had said;
//! * one process writes, the one that holds the folder's lock.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// The folder within the run directory.
pub const KEPT_FOLDER: &str = "last-good";

const SOURCE: &str = "source";
const COMPLETE: &str = "complete";
/// Longest path that an entry can have (`PATH_MAX`).
const MAX_PATH: u64 = 4096;

/// Entries by the paths of their files.
#[derive(Debug)]
pub(super) struct Kept {
    folder: PathBuf,
    /// The source's path, as it is written into [`SOURCE`].
    source: Vec<u8>,
    entries: BTreeMap<PathBuf, u64>,
    next: u64,
    /// Held for its lock.
    lock: Option<File>,
    /// Whether [`COMPLETE`] is there; `None` if not known.
    complete: Option<bool>,
}

impl Kept {
    /// Finds what an earlier process has kept of this source; nothing is written.
    pub(super) fn find(run_dir: &Path, source: &Path) -> Self {
        let source = fs::canonicalize(source).unwrap_or_else(|_| source.to_owned());
        let mut kept = Self {
            folder: run_dir.join(KEPT_FOLDER),
            source: source.as_os_str().as_bytes().to_vec(),
            entries: BTreeMap::new(),
            next: 1,
            lock: None,
            complete: None,
        };
        if kept.is_ours() {
            for (number, path) in kept.scan() {
                kept.entries.insert(path, number);
                kept.next = kept.next.max(number + 1);
            }
            kept.complete = Some(kept.folder.join(COMPLETE).exists());
        }
        kept
    }

    /// Whether there is an entry for every file that was in force.
    pub(super) fn is_complete(&self) -> bool {
        self.complete == Some(true)
    }

    /// The files that have entries.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.entries.keys().map(PathBuf::as_path)
    }

    /// Whether a file has an entry.
    pub(super) fn has(&self, path: &Path) -> bool {
        self.entries.contains_key(path)
    }

    /// The content kept of a file.
    pub(super) fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let (found, content) = self.read(*self.entries.get(path)?, true)?;
        (found == path).then_some(content)
    }

    /// Makes the folder ready for writing. True if nothing is in it, because it is new or because it
    /// held another source's files.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] while there is no run directory (the dataplane makes it);
    /// [`io::ErrorKind::WouldBlock`] while another process writes there.
    pub(super) fn begin(&mut self) -> io::Result<bool> {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let ours = self.lock.as_ref().and_then(|lock| lock.metadata().ok()).map(identity);
        if ours.is_some() && ours == fs::metadata(&self.folder).ok().map(identity) {
            return Ok(false);
        }
        self.lock = None;
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let lock = File::open(&self.folder)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let fresh = !self.is_ours();
        if fresh {
            // Not complete before the entries go, and nobody's before the last is gone.
            for name in [COMPLETE, SOURCE] {
                remove(&self.folder.join(name))?;
            }
            for (number, _) in self.scan() {
                remove(&self.entry(number))?;
            }
            self.entries.clear();
            self.complete = Some(false);
            let source = self.source.clone();
            self.replace(SOURCE, &[&source])?;
        }
        self.lock = Some(lock);
        Ok(fresh)
    }

    /// Replaces the content kept of a file.
    ///
    /// # Errors
    /// It cannot be written; the entry before it is still there.
    pub(super) fn store(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        let number = self.entries.get(path).copied().unwrap_or(self.next);
        let name = path.as_os_str().as_bytes();
        let length = (name.len() as u64).to_le_bytes();
        self.replace(&number.to_string(), &[&length, name, content])?;
        self.entries.insert(path.to_owned(), number);
        self.next = self.next.max(number + 1);
        Ok(())
    }

    /// Forgets files that are no longer part of the source.
    ///
    /// # Errors
    /// An entry cannot be removed.
    pub(super) fn retain(&mut self, keep: impl Fn(&Path) -> bool) -> io::Result<()> {
        let gone: Vec<PathBuf> = self.paths().filter(|p| !keep(p)).map(Path::to_owned).collect();
        for path in gone {
            if let Some(number) = self.entries.remove(&path) {
                remove(&self.entry(number))?;
            }
        }
        Ok(())
    }

    /// Says whether there is an entry for every file in force.
    ///
    /// # Errors
    /// The mark cannot be set or taken away.
    pub(super) fn mark(&mut self, complete: bool) -> io::Result<()> {
        if self.complete == Some(complete) {
            return Ok(());
        }
        self.complete = None;
        match complete {
            true => self.replace(COMPLETE, &[])?,
            false => remove(&self.folder.join(COMPLETE))?,
        }
        self.complete = Some(complete);
        Ok(())
    }

    fn is_ours(&self) -> bool {
        fs::read(self.folder.join(SOURCE)).is_ok_and(|source| source == self.source)
    }

    fn entry(&self, number: u64) -> PathBuf {
        self.folder.join(number.to_string())
    }

    /// The entries of the folder: number and path.
    fn scan(&self) -> Vec<(u64, PathBuf)> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        // One that is no entry is there to be removed, under a path that no file has.
        let path = |number| self.read(number, false).map(|(path, _)| path).unwrap_or_default();
        numbers.map(|number| (number, path(number))).collect()
    }

    /// Path and content of an entry; the content only if wanted.
    fn read(&self, number: u64, content: bool) -> Option<(PathBuf, Vec<u8>)> {
        let mut file = File::open(self.entry(number)).ok()?;
        let mut length = [0; 8];
        file.read_exact(&mut length).ok()?;
        let length = u64::from_le_bytes(length);
        if length > MAX_PATH {
            return None;
        }
        let mut path = Vec::new();
        Read::by_ref(&mut file).take(length).read_to_end(&mut path).ok()?;
        let mut rest = Vec::new();
        if content {
            file.read_to_end(&mut rest).ok()?;
        }
        Some((PathBuf::from(OsStr::from_bytes(&path)), rest))
    }

    fn replace(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        let aside = self.folder.join(".new");
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(true).write(true).mode(0o600);
        let mut file = options.open(&aside)?;
        for part in parts {
            file.write_all(part)?;
        }
        fs::rename(&aside, self.folder.join(name))
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
