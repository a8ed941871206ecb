//! A folder of manifests (or one file, or standard input) as the source of objects.
//!
//! Files named `*.yaml`, `*.yml` and `*.json` count, in subfolders too; names that begin with a dot
//! or end in `~` are editors' and updaters' business (`..data` of a mounted ConfigMap included:
//! the links beside it lead to the same files).
//!
//! Invariants:
//! * a file counts as a whole: if it cannot be read or parsed, or is suddenly empty, what it said
//!   last stays in force and the file is complained about, a restart of the process included (see
//!   [`Folder::keeping`]);
//! * a file that is gone withdraws its objects; one that only cannot be looked at is not gone;
//! * of one object in two files the first by path counts, and the other is complained about.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::kept::Kept;
use super::walk::{self, Listing};
use crate::model::document::SyntaxError;
use crate::model::{Complaint, Effect, Loaded, Origin, Severity, load};

pub use super::unique::{ALREADY_WRITTEN, unique};
pub use super::walk::is_manifest;

/// Everything that a source says at one moment.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Objects, one of each identity.
    pub loaded: Loaded,
    /// Files that are part of it.
    pub files: usize,
    /// Files and folders that cannot be read and of which nothing is in force.
    pub unread: usize,
    /// Those of them of which something may have been in force before this process began.
    pub unknown: usize,
}

/// A folder and what was last read from it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    files: BTreeMap<PathBuf, File>,
    /// Entries that cannot be looked into.
    unread: BTreeMap<PathBuf, String>,
    run_dir: Option<PathBuf>,
    kept: Option<Kept>,
    /// Whether what this process knows of its files is all that was ever in force of them.
    settled: bool,
}

/// What is known of one file.
#[derive(Debug, Default)]
struct File {
    stamp: Option<Stamp>,
    /// The last content that could be parsed; `None` if there was none.
    good: Option<Loaded>,
    /// The text of it, until it is kept.
    text: Option<Vec<u8>>,
    /// Why the content that is there now cannot be.
    broken: Option<Complaint>,
}

/// What tells two contents of a path apart without reading them. The inode is part of it because
/// an atomic rename may keep size and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    changed: (i64, i64),
    length: u64,
    inode: (u64, u64),
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self {
            modified: metadata.modified().ok(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            length: metadata.len(),
            inode: (metadata.dev(), metadata.ino()),
        }
    }
}

/// Why a file's content does not count.
enum Fault {
    /// It cannot be had; perhaps at the next look.
    Read(String),
    /// It is no manifest, until it changes.
    Parse(u32, String),
}

impl Folder {
    /// A folder or a single file, not yet read.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            files: BTreeMap::new(),
            unread: BTreeMap::new(),
            run_dir: None,
            kept: None,
            settled: true,
        }
    }

    /// Keeps the last good content of every file in the run directory, and begins with what an
    /// earlier process has kept there.
    #[must_use]
    pub fn keeping(self, run_dir: impl Into<PathBuf>) -> Self {
        Self { run_dir: Some(run_dir.into()), ..self }
    }

    /// The path given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at every file again and reads those that changed.
    ///
    /// # Errors
    /// The folder itself cannot be listed; nothing was changed then.
    pub fn refresh(&mut self) -> io::Result<State> {
        let Listing { mut files, unread, .. } = walk::list(&self.path)?;
        if let (None, Some(run_dir)) = (&self.kept, &self.run_dir) {
            let kept = Kept::find(run_dir, &self.path);
            self.settled = kept.is_complete();
            self.kept = Some(kept);
        }
        // What is below a place that cannot be looked into is not gone.
        let kept = self.kept.iter().flat_map(Kept::paths).map(|path| self.path.join(path));
        let known = self.files.keys().cloned().chain(kept);
        files.extend(known.filter(|path| unread.keys().any(|place| path.starts_with(place))));
        self.unread = unread;
        self.files.retain(|path, _| files.contains(path));
        for path in files {
            self.refresh_file(path);
        }
        Ok(self.state())
    }

    /// Whatever could not be read so far was never in force: nothing is waited for any more.
    pub fn settle(&mut self) {
        self.settled = true;
    }

    /// Keeps the texts that are in force from now on. To be called before they are published.
    ///
    /// # Errors
    /// Some of them could not be kept; the next call tries again. [`io::ErrorKind::NotFound`]: there
    /// is no run directory yet.
    pub fn keep(&mut self) -> io::Result<()> {
        let Some(kept) = &mut self.kept else { return Ok(()) };
        let root = &self.path;
        let within = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_owned();
        if kept.begin()? {
            for (path, file) in &mut self.files {
                file.read_again(path);
            }
        }
        let mut complete = self.settled;
        for (path, file) in self.files.iter_mut().filter(|(_, file)| file.good.is_some()) {
            let within = within(path);
            if let Some(text) = &file.text {
                if let Err(error) = kept.store(&within, text) {
                    kept.mark(false)?;
                    return Err(error);
                }
                file.text = None;
            }
            complete &= kept.has(&within);
        }
        let files: BTreeSet<PathBuf> = self.files.keys().map(|path| within(path)).collect();
        kept.retain(|path| files.contains(path))?;
        kept.mark(complete)
    }

    fn refresh_file(&mut self, path: PathBuf) {
        let stamp = fs::metadata(&path).ok().map(|metadata| Stamp::of(&metadata));
        let before = self.files.get(&path).map(|file| file.stamp);
        if stamp.is_some() && before == Some(stamp) {
            return;
        }
        let name = path.display().to_string();
        let result = read(&path).map_err(Fault::Read).and_then(|text| match load(&name, &text) {
            Ok(loaded) => Ok((loaded, text)),
            Err(error) => {
                let line = match &error {
                    SyntaxError::Parse { line, .. } => *line,
                    _ => 0,
                };
                Err(Fault::Parse(line, error.to_string()))
            }
        });
        // Only at first sight: later on the entry says what the file said last.
        let recalled = match (&result, before) {
            (Err(_), None) => self.recall(&path, &name),
            _ => None,
        };
        let file = match self.files.entry(path) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(File { good: recalled, ..File::default() }),
        };
        // A file that changed while it was read is read again at the event which that makes.
        file.stamp = stamp;
        match result {
            Ok((good, text)) => {
                *file = File {
                    stamp,
                    good: Some(good),
                    text: self.kept.is_some().then_some(text),
                    broken: None,
                };
            }
            Err(fault) => {
                let (line, message) = match fault {
                    Fault::Parse(line, message) => (line, message),
                    Fault::Read(message) => {
                        file.stamp = None;
                        (0, message)
                    }
                };
                let origin = Origin { file: name.as_str().into(), line };
                file.broken = Some(complain(origin, message, file.good.is_some()));
            }
        }
    }

    fn recall(&self, path: &Path, name: &str) -> Option<Loaded> {
        let within = path.strip_prefix(&self.path).unwrap_or(path);
        load(name, &self.kept.as_ref()?.content(within)?).ok()
    }

    fn state(&self) -> State {
        let mut merged = Loaded::default();
        let mut unread = 0;
        for file in self.files.values() {
            match &file.good {
                Some(good) => merged.merge(good.clone()),
                None => unread += 1,
            }
            merged.complaints.extend(file.broken.clone());
        }
        for (place, why) in &self.unread {
            let kept = self.files.keys().any(|path| path.starts_with(place));
            unread += usize::from(!kept);
            let origin = Origin { file: place.display().to_string().into(), line: 0 };
            merged.complaints.push(complain(origin, why.clone(), kept));
        }
        let unknown = if self.settled { 0 } else { unread };
        State { loaded: unique(merged), files: self.files.len(), unread, unknown }
    }
}

impl File {
    /// Reads the text in force again, if it is still what the file holds.
    fn read_again(&mut self, path: &Path) {
        if self.good.is_none() || self.text.is_some() || self.broken.is_some() {
            return;
        }
        let stamp = || fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata));
        let (before, text) = (stamp(), read(path).ok());
        if before == self.stamp && stamp() == before {
            self.text = text;
        }
    }
}

/// The content of a regular file; a pipe would keep everybody waiting.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let read = fs::metadata(path).and_then(|metadata| match metadata.is_file() {
        true => fs::read(path),
        false => Err(io::Error::other("it is no regular file")),
    });
    read.map_err(|error| format!("cannot be read: {error}"))
}

fn complain(origin: Origin, message: String, kept: bool) -> Complaint {
    Complaint {
        severity: Severity::Refused,
        effect: Effect::NotEnforced,
        origin,
        object: String::new(),
        field: String::new(),
        message,
        consequence: match kept {
            true => "its last good content stays in force",
            false => "nothing of it is in force",
        }
        .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web}\nspec: {podSelector: {}}\n";

    fn names(state: &State) -> Vec<String> {
        state.loaded.objects.iter().map(|object| object.id().to_string()).collect()
    }

    fn complaints(state: &State) -> String {
        state.loaded.complaints.iter().map(|c| format!("{c}\n")).collect()
    }

    #[test]
    fn a_folder_changes_file_by_file() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut folder = Folder::new(dir.path());
        assert!(names(&folder.refresh().unwrap()).is_empty());

        fs::write(at("web.yaml"), WEB).unwrap();
        fs::write(at("notes.txt"), "kind: [").unwrap();
        fs::write(at(".web.yaml.swp.yaml"), "kind: [").unwrap();
        fs::create_dir(at("sub")).unwrap();
        fs::write(at("sub/db.yml"), WEB.replace("web", "db")).unwrap();
        let state = folder.refresh().unwrap();
        assert_eq!(names(&state), ["NetworkPolicy default/db", "NetworkPolicy default/web"]);
        assert_eq!(complaints(&state), "");

        // Atomic replacement, as editors and kubectl do it.
        fs::write(at(".new"), WEB.replace("web", "api")).unwrap();
        fs::rename(at(".new"), at("web.yaml")).unwrap();
        let state = folder.refresh().unwrap();
        assert_eq!(names(&state), ["NetworkPolicy default/db", "NetworkPolicy default/api"]);

        // Half a file: the last good content stays and the file is named.
        fs::write(at("web.yaml"), "apiVersion: v1\nkind: \"Net").unwrap();
        let state = folder.refresh().unwrap();
        assert_eq!(names(&state), ["NetworkPolicy default/db", "NetworkPolicy default/api"]);
        let text = complaints(&state);
        assert!(text.contains("web.yaml") && text.contains("stays in force"), "{text}");

        // An empty file is one that is being written.
        fs::write(at("web.yaml"), "").unwrap();
        let state = folder.refresh().unwrap();
        assert_eq!(names(&state).len(), 2);
        assert!(complaints(&state).contains("empty"));

        fs::remove_file(at("web.yaml")).unwrap();
        fs::remove_file(at("sub/db.yml")).unwrap();
        let state = folder.refresh().unwrap();
        assert!(names(&state).is_empty());
        assert_eq!(complaints(&state), "");
    }

    /// The kubelet's atomic writer: `..data` is swapped to a new folder of files.
    #[test]
    fn a_configmap_style_swap_is_seen() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (version, name) in [("..1", "web"), ("..2", "db")] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("p.yaml"), WEB.replace("web", name)).unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/p.yaml", at("p.yaml")).unwrap();
        let mut folder = Folder::new(dir.path());
        assert_eq!(names(&folder.refresh().unwrap()), ["NetworkPolicy default/web"]);
        symlink("..2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!(names(&folder.refresh().unwrap()), ["NetworkPolicy default/db"]);
    }

    #[test]
    fn the_first_of_two_counts() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("b.yaml"), WEB).unwrap();
        fs::write(dir.path().join("a.yaml"), WEB).unwrap();
        let state = Folder::new(dir.path()).refresh().unwrap();
        assert_eq!(state.loaded.objects.len(), 1);
        assert!(state.loaded.objects[0].origin().file.ends_with("a.yaml"));
        let text = complaints(&state);
        assert!(text.contains("b.yaml:1") && text.contains("a.yaml:1"), "{text}");
    }
}
