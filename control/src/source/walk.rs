//! The manifests below a folder.
//!
//! Links are followed, since the files of a mounted ConfigMap are links. Every folder is entered
//! once, known by device and inode, so links cannot make a circle.
//!
//! Invariant: nothing that may be a manifest is left out without a word. What cannot be looked at is
//! reported with its path; the caller decides what stays in force.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How deep subfolders are followed.
pub(super) const MAX_DEPTH: usize = 8;

/// What is below a path.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Files whose names are those of manifests, readable or not.
    pub(super) files: BTreeSet<PathBuf>,
    /// What may hold manifests and could not be looked into: why.
    pub(super) unread: BTreeMap<PathBuf, String>,
    visited: BTreeSet<(u64, u64)>,
}

/// Lists a folder, or a single file.
///
/// # Errors
/// The path itself or a folder below it cannot be listed; the message names it.
pub(super) fn list(path: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    let metadata = fs::metadata(path).map_err(|error| named(path, &error))?;
    if metadata.is_dir() {
        listing.enter(path, &metadata, 0)?;
    } else {
        listing.files.insert(path.to_owned());
    }
    Ok(listing)
}

impl Listing {
    fn enter(&mut self, folder: &Path, metadata: &Metadata, depth: usize) -> io::Result<()> {
        if !self.visited.insert((metadata.dev(), metadata.ino())) {
            return Ok(());
        }
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder).map_err(|error| named(folder, &error))? {
            let entry = entry.map_err(|error| named(folder, &error))?;
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            entries.push((is_link, entry.path()));
        }
        // A folder has the same path at every look: real ones first, links after them, by name.
        entries.sort();
        for (_, path) in entries {
            let name = path.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
            if !name.starts_with('.') && !name.ends_with('~') {
                self.look(path, depth)?;
            }
        }
        Ok(())
    }

    fn look(&mut self, path: PathBuf, depth: usize) -> io::Result<()> {
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                if depth >= MAX_DEPTH {
                    if !self.visited.contains(&(metadata.dev(), metadata.ino())) {
                        let why = format!("is more than {MAX_DEPTH} folders deep and is not read");
                        self.unread.insert(path, why);
                    }
                    return Ok(());
                }
                match self.enter(&path, &metadata, depth + 1) {
                    // A subfolder may vanish between listing and reading.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    result => result,
                }
            }
            Ok(_) => {
                if is_manifest(&path) {
                    self.files.insert(path);
                }
                Ok(())
            }
            Err(error) => {
                let is_gone = fs::symlink_metadata(&path)
                    .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
                if is_gone {
                    return Ok(());
                }
                if is_manifest(&path) {
                    // Reading it fails for the same reason, and says so.
                    self.files.insert(path);
                } else {
                    self.unread.insert(path, format!("cannot be looked into: {error}"));
                }
                Ok(())
            }
        }
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Whether a name is one of a manifest.
pub fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        ["yaml", "yml", "json"].iter().any(|known| extension.eq_ignore_ascii_case(known))
    })
}
