//! A folder of manifests (or one file, or standard input) as the source of objects.
//!
//! Files named `*.yaml`, `*.yml` and `*.json` count, in subfolders too; names that begin with a dot
//! or end in `~` are editors' and updaters' business (`..data` of a mounted ConfigMap included:
//! the links beside it lead to the same files).
//!
//! Invariants:
//! * a file counts as a whole: if it cannot be read or parsed, or is suddenly empty, what it said
//!   last stays in force and the file is complained about;
//! * a file that is gone withdraws its objects;
//! * of one object in two files the first by path counts, and the other is complained about.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::model::{Complaint, Loaded, Object, ObjectId, Origin, Severity, load};

/// How deep subfolders are followed; links could make a circle.
const MAX_DEPTH: usize = 8;

/// Everything that a source says at one moment.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Objects, one of each identity.
    pub loaded: Loaded,
    /// Files that are part of it.
    pub files: usize,
}

/// A folder and what was last read from it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    files: BTreeMap<PathBuf, File>,
}

/// What is known of one file.
#[derive(Debug)]
struct File {
    stamp: Option<Stamp>,
    /// The last content that could be parsed.
    good: Loaded,
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

impl Folder {
    /// A folder or a single file, not yet read.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), files: BTreeMap::new() }
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
        let present = self.list()?;
        self.files.retain(|path, _| present.contains(path));
        for path in present {
            self.refresh_file(path);
        }
        Ok(self.state())
    }

    fn list(&self) -> io::Result<BTreeSet<PathBuf>> {
        let mut found = BTreeSet::new();
        if fs::metadata(&self.path)?.is_dir() {
            walk(&self.path, 0, &mut found)?;
        } else {
            found.insert(self.path.clone());
        }
        Ok(found)
    }

    fn refresh_file(&mut self, path: PathBuf) {
        let stamp = fs::metadata(&path).ok().map(|metadata| Stamp::of(&metadata));
        let before = self.files.get(&path).map(|file| file.stamp);
        if stamp.is_some() && before == Some(stamp) {
            return;
        }
        let name = path.display().to_string();
        let result = fs::read(&path)
            .map_err(|error| (0, format!("cannot be read: {error}")))
            .and_then(|bytes| {
                load(&name, &bytes).map_err(|error| {
                    let line = match &error {
                        crate::model::document::SyntaxError::Parse { line, .. } => *line,
                        _ => 0,
                    };
                    (line, error.to_string())
                })
            });
        // A file that changed while it was read is read again at the event which that makes.
        let known = before.is_some();
        let complain = |(line, message): (u32, String), kept: bool| Complaint {
            severity: Severity::Refused,
            origin: Origin { file: name.as_str().into(), line },
            object: String::new(),
            field: String::new(),
            message,
            consequence: if kept {
                "its last good content stays in force".to_owned()
            } else {
                "nothing of it is in force".to_owned()
            },
        };
        match self.files.entry(path) {
            Entry::Occupied(mut entry) => {
                let file = entry.get_mut();
                file.stamp = stamp;
                match result {
                    Ok(good) => (file.good, file.broken) = (good, None),
                    Err(why) => {
                        let kept = !file.good.objects.is_empty();
                        file.broken = Some(complain(why, kept && known));
                    }
                }
            }
            Entry::Vacant(entry) => {
                let (good, broken) = match result {
                    Ok(good) => (good, None),
                    Err(why) => (Loaded::default(), Some(complain(why, false))),
                };
                entry.insert(File { stamp, good, broken });
            }
        }
    }

    fn state(&self) -> State {
        let mut merged = Loaded::default();
        for file in self.files.values() {
            merged.merge(file.good.clone());
            merged.complaints.extend(file.broken.clone());
        }
        State { loaded: unique(merged), files: self.files.len() }
    }
}

/// How the complaint about a second object of one identity begins.
pub const ALREADY_WRITTEN: &str = "is already written in";

/// Keeps the first object of each identity and complains about the others.
pub fn unique(mut loaded: Loaded) -> Loaded {
    let mut first: BTreeMap<ObjectId, Origin> = BTreeMap::new();
    let mut kept: Vec<Object> = Vec::with_capacity(loaded.objects.len());
    for object in loaded.objects {
        match first.entry(object.id()) {
            Entry::Vacant(entry) => {
                entry.insert(object.origin().clone());
                kept.push(object);
            }
            Entry::Occupied(entry) => loaded.complaints.push(Complaint {
                severity: Severity::Refused,
                origin: object.origin().clone(),
                object: entry.key().to_string(),
                field: String::new(),
                message: format!("{ALREADY_WRITTEN} {}", entry.get()),
                consequence: "that one counts, this one does not".to_owned(),
            }),
        }
    }
    loaded.objects = kept;
    loaded
}

fn walk(folder: &Path, depth: usize, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
        if name.starts_with('.') || name.ends_with('~') {
            continue;
        }
        // Follows links: a mounted ConfigMap's files are links. One that leads nowhere is no file.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            if depth < MAX_DEPTH {
                // A subfolder may vanish between listing and reading.
                if let Err(error) = walk(&path, depth + 1, found)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    return Err(error);
                }
            }
        } else if is_manifest(&path) {
            found.insert(path);
        }
    }
    Ok(())
}

/// Whether a name is one of a manifest.
pub fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        ["yaml", "yml", "json"].iter().any(|known| extension.eq_ignore_ascii_case(known))
    })
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
