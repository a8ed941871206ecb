//! What the daemon leaves on tmpfs for the CLI and for its successor: the last table and
//! address map that were enforced, and the list of endpoints.
//!
//! Files are replaced by rename, so a reader sees the old or the new one, never a half.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use weir_table::{ADDRESS_FILE, TABLE_FILE};

/// The endpoints, as JSON.
pub const ENDPOINTS: &str = "endpoints.json";
/// Held locked by the one daemon that may use the run directory.
const LOCK: &str = "dataplane.lock";

/// Makes the run directory, for root alone.
///
/// # Errors
/// When it can neither be made nor be restricted.
pub fn make_run_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

/// Takes the run directory for this process, for as long as the file is held.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] when another daemon has it.
pub fn lock(dir: &Path) -> io::Result<File> {
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(dir.join(LOCK))?;
    flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// Replaces a file's content in one step, readable by root alone.
///
/// # Errors
/// When the directory cannot be written.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(content)?;
    fs::rename(&temporary, path)
}

/// The table and address map of an earlier run; `None` if there are none.
///
/// # Errors
/// When the files are there but cannot be read.
pub fn last_generation(dir: &Path) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let read = |name: &str| match fs::read(dir.join(name)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    };
    Ok(read(TABLE_FILE)?.zip(read(ADDRESS_FILE)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_daemon_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        make_run_dir(dir.path()).unwrap();
        let first = lock(dir.path()).unwrap();
        assert_eq!(lock(dir.path()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(first);
        assert!(lock(dir.path()).is_ok());
    }

    #[test]
    fn replaced_files_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ENDPOINTS);
        replace(&path, b"1").unwrap();
        replace(&path, b"2").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"2");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn nothing_to_resume_from_an_empty_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert!(last_generation(dir.path()).unwrap().is_none());
    }
}
