//! Taking Weir off a node: hooks, pins, tmpfs state. What the daemon leaves behind on
//! purpose, so that enforcement outlives it, goes only through here.
//!
//! Order: the hooks first, so that pods are unrestricted rather than cut off while the
//! rest goes; then the maps; then the run directory. Everything that is not there is
//! skipped, so that an uninstall that was interrupted can simply be repeated.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::TcAttachType;
use aya::programs::tc::qdisc_detach_program;
use rustix::fs::{FlockOperation, flock};

use super::Places;
use crate::source::KEPT_FOLDER;

/// The two hooks on a pod's device and the names under which the kernel shows them.
const HOOKS: [(TcAttachType, &str); 2] =
    [(TcAttachType::Ingress, "weir_from_pod"), (TcAttachType::Egress, "weir_to_pod")];

/// Why Weir could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    /// A daemon that runs would put everything back.
    #[error("weir-dataplane still runs (it holds {}); stop it first", .0.display())]
    Running(PathBuf),
    /// Something could not be removed.
    #[error("cannot remove {}: {source}", path.display())]
    Remove {
        /// What.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What was removed.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Removed {
    /// tcx links that were unpinned.
    pub links: usize,
    /// clsact filters that were taken off.
    pub filters: usize,
    /// Maps that were unpinned.
    pub maps: usize,
    /// Files of the run directory.
    pub files: usize,
}

/// Removes Weir from this node.
///
/// # Errors
/// [`UninstallError`], naming what is in the way.
pub fn uninstall(places: &Places) -> Result<Removed, UninstallError> {
    refuse_if_running(&places.run_dir)?;
    let mut removed = Removed {
        links: remove_files(&places.pin_dir.join("links"))?,
        filters: remove_filters(),
        ..Removed::default()
    };
    removed.maps = remove_files(&places.pin_dir)?;
    removed.files = remove_files(&places.run_dir.join(KEPT_FOLDER))?;
    removed.files += remove_files(&places.run_dir)?;
    Ok(removed)
}

/// The daemon holds a lock on its run directory for as long as it lives.
fn refuse_if_running(run_dir: &Path) -> Result<(), UninstallError> {
    let Ok(directory) = fs::File::open(run_dir) else { return Ok(()) };
    flock(&directory, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| UninstallError::Running(run_dir.to_owned()))
}

/// Removes the files of a directory, then the directory itself if it is empty.
fn remove_files(directory: &Path) -> Result<usize, UninstallError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| UninstallError::Remove { path, source }
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(failed(directory)(error)),
    };
    let mut count = 0;
    for entry in entries {
        let entry = entry.map_err(failed(directory))?;
        if !entry.file_type().map_err(failed(&entry.path()))?.is_dir() {
            fs::remove_file(entry.path()).map_err(failed(&entry.path()))?;
            count += 1;
        }
    }
    match fs::remove_dir(directory) {
        // A mount point, or somebody else's files in it.
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy
            ) =>
        {
            Err(failed(directory)(error))
        }
        _ => Ok(count),
    }
}

/// Takes Weir's clsact filters off every device that has them.
fn remove_filters() -> usize {
    let Ok(devices) = fs::read_dir("/sys/class/net") else { return 0 };
    let mut count = 0;
    for device in devices.filter_map(Result::ok) {
        let name = device.file_name();
        let Some(name) = name.to_str() else { continue };
        for (direction, program) in HOOKS {
            // "Not found" is the usual answer: the device never had one.
            count += usize::from(qdisc_detach_program(name, direction, program).is_ok());
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(dir: &Path) -> Places {
        Places { run_dir: dir.join("run"), pin_dir: dir.join("pins") }
    }

    #[test]
    fn removes_what_is_there_and_can_be_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        fs::create_dir_all(places.pin_dir.join("links")).unwrap();
        fs::create_dir_all(&places.run_dir).unwrap();
        fs::write(places.pin_dir.join("links/7_from_pod"), "").unwrap();
        fs::write(places.pin_dir.join("weir_config"), "").unwrap();
        fs::write(places.run_dir.join("endpoints.json"), "[]").unwrap();
        fs::create_dir(places.run_dir.join(KEPT_FOLDER)).unwrap();
        fs::write(places.run_dir.join(KEPT_FOLDER).join("source"), "/m").unwrap();
        let removed = uninstall(&places).unwrap();
        assert_eq!((removed.links, removed.maps, removed.files), (1, 1, 2));
        assert!(!places.pin_dir.exists() && !places.run_dir.exists());
        let again = uninstall(&places).unwrap();
        assert_eq!((again.links, again.maps, again.files), (0, 0, 0));
    }

    #[test]
    fn refuses_while_the_daemon_runs() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        fs::create_dir_all(&places.run_dir).unwrap();
        let daemon = fs::File::open(&places.run_dir).unwrap();
        flock(&daemon, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(matches!(uninstall(&places), Err(UninstallError::Running(_))));
        assert!(places.run_dir.exists());
    }
}
