//! The directory of network configurations: which file runtimes follow, and replacing a file
//! as a whole.
//!
//! Runtimes take the first file by name, of those that end in `.conf`, `.conflist` or `.json`,
//! that they can load. A `.conflist` is a list of plugins, the others hold one plugin.
//!
//! A file is never written in place, because a runtime may read it at any moment: what is to be
//! is written aside, with the mode and owner of the old one, and the two names are exchanged.
//! If what comes out by that is not what was read (its installer has written meanwhile), it is
//! put back. A symbolic link is followed, and stays.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with},
    io::Errno,
};

use crate::{splice, text};

/// Longest configuration file, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// How long another that edits the directory is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an exchange is tried again when others write at the same moment.
const ATTEMPTS: usize = 16;
/// How the files are called that are not in place yet.
const ASIDE: &str = ".weir-cni-tmp";

/// A configuration that runtimes can load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// Its file.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
    /// Whether it is a list, or one plugin.
    pub is_list: bool,
}

/// The configuration that runtimes follow, and in words which files before it they cannot load.
///
/// # Errors
/// When the directory cannot be read.
pub fn first(directory: &Path) -> io::Result<(Option<Configuration>, Vec<String>)> {
    let mut skipped = Vec::new();
    for path in candidates(directory)? {
        match load(&path) {
            Ok(configuration) => return Ok((Some(configuration), skipped)),
            Err(problem) => skipped.push(format!("{} {problem}", path.display())),
        }
    }
    Ok((None, skipped))
}

/// The files that runtimes look at, in their order.
///
/// # Errors
/// When the directory cannot be read.
pub fn candidates(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        let ours = matches!(
            path.extension().and_then(|extension| extension.to_str()),
            Some("conf" | "conflist" | "json")
        );
        if ours && !entry.file_type()?.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Reads a file and sees whether a runtime could load it.
///
/// # Errors
/// What is wrong, in words that follow the file's name.
pub fn load(path: &Path) -> Result<Configuration, String> {
    let text = read(path).map_err(|error| format!("cannot be read: {error}"))?;
    let whole = text::value(&text).map_err(|error| format!("is no JSON: {error}"))?;
    let members = text::members(&text, &whole).ok_or("is no JSON object")?;
    let is_list = path.extension().is_some_and(|extension| extension == "conflist");
    if is_list {
        let plugins = text::member(&members, "plugins")
            .and_then(|member| text::elements(&text, &member.value))
            .ok_or("has no list of plugins")?;
        if plugins.is_empty() || plugins.iter().any(|entry| splice::kind(&text, entry).is_none()) {
            return Err("has no plugins, or one without a type".into());
        }
    } else if splice::kind(&text, &whole).is_none_or(|kind| kind.is_empty()) {
        return Err("has no plugin type".into());
    }
    Ok(Configuration { path: path.to_owned(), text, is_list })
}

fn read(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other("it is too long"));
    }
    Ok(text)
}

/// Keeps others of us from editing a directory; ends with the file.
///
/// # Errors
/// When it cannot be opened, or others edit it for longer than is waited.
pub fn lock(directory: &Path) -> io::Result<File> {
    let file = File::open(directory)?;
    let end = Instant::now() + LOCK_TIMEOUT;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if Instant::now() < end => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(Errno::WOULDBLOCK) => {
                return Err(io::Error::other("another weir-cni is editing it"));
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Makes a directory with those above it, 0755.
///
/// # Errors
/// What the system says.
pub fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// Replaces what is in a file, if it still is `old`. False: it was not, and was left alone.
/// Mode and owner stay; a symbolic link stays, and what it leads to is replaced.
///
/// # Errors
/// What the system says; the file is then as it was.
pub fn replace(path: &Path, old: &str, new: &str) -> io::Result<bool> {
    // Not the link itself: whoever made it wants it.
    let path = fs::canonicalize(path)?;
    let metadata = fs::metadata(&path)?;
    let aside = write_aside(&path, new.as_bytes(), metadata.mode(), Some(&metadata))?;
    let replaced = exchange(&aside, &path, old.as_bytes(), new.as_bytes());
    // What is aside now is not the newest: that has come into its place.
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    sync_directory(&path)?;
    replaced
}

/// Puts `aside` in the place of `path`, unless something else than `old` comes out.
fn exchange(aside: &Path, path: &Path, old: &[u8], new: &[u8]) -> io::Result<bool> {
    // What this exchange puts in, and what has to come out.
    let (mut goes_in, mut expected) = (new.to_vec(), old.to_vec());
    for attempt in 0..ATTEMPTS {
        match renameat_with(CWD, aside, CWD, path, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            // A file system that cannot: look, then rename.
            Err(Errno::INVAL | Errno::NOSYS) if attempt == 0 => {
                if fs::read(path)? != old {
                    return Ok(false);
                }
                fs::rename(aside, path)?;
                return Ok(true);
            }
            Err(error) => return Err(error.into()),
        }
        let came_out = fs::read(aside)?;
        if came_out == expected {
            return Ok(goes_in == new);
        }
        // Somebody has written meanwhile: theirs goes in again, and what was put in must come
        // out, unless they have written once more.
        expected = goes_in;
        goes_in = came_out;
    }
    Err(io::Error::other("others write to it all the time"))
}

/// Makes a file that is not there yet, as a whole.
///
/// # Errors
/// What the system says; `AlreadyExists` when it is there.
pub fn create(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let aside = write_aside(path, content, mode, None)?;
    let renamed = renameat_with(CWD, &aside, CWD, path, RenameFlags::NOREPLACE);
    if let Err(error) = renamed {
        fs::remove_file(&aside)?;
        return Err(error.into());
    }
    sync_directory(path)
}

/// Puts a file in its place as a whole, whatever was there.
///
/// # Errors
/// What the system says; what was there is then as it was.
pub fn put(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let aside = write_aside(path, content, mode, None)?;
    fs::rename(&aside, path).inspect_err(|_| _ = fs::remove_file(&aside))?;
    sync_directory(path)
}

/// Writes a file beside another, under a name that nobody looks at.
fn write_aside(
    path: &Path,
    content: &[u8],
    mode: u32,
    like: Option<&fs::Metadata>,
) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let process = std::process::id();
    let aside = path.with_file_name(format!(".{name}.{process}{ASIDE}"));
    // What a process of the same number has left that was killed.
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    fill(file, content, mode, like).inspect_err(|_| _ = fs::remove_file(&aside))?;
    Ok(aside)
}

fn fill(mut file: File, content: &[u8], mode: u32, like: Option<&fs::Metadata>) -> io::Result<()> {
    file.write_all(content)?;
    if let Some(like) = like {
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
            fchown(&file, Some(like.uid()), Some(like.gid()))?;
        }
    }
    file.set_permissions(fs::Permissions::from_mode(mode & 0o7777))?;
    file.sync_all()
}

/// Removes what processes have left in a directory that were killed while they wrote.
///
/// # Errors
/// When the directory cannot be read.
pub fn sweep(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.to_string_lossy().contains(ASIDE) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// What has been renamed stays so, whatever happens to the machine.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}
