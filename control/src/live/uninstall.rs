//! Taking Weir off a node: hooks, pins, tmpfs state. What the daemon leaves behind on
//! purpose, so that enforcement outlives it, goes only through here.
//!
//! Order: weir-cni first, so that no new pod asks for a dataplane that is not there; then the
//! hooks, so that pods are unrestricted rather than cut off while the rest goes; then the qdiscs
//! that Weir has made for them, if nobody else uses these; then the maps; then the run directory,
//! in which it stands which qdiscs those are. Everything that is not there is skipped, so that an
//! uninstall that was interrupted can simply be repeated.
//!
//! What is not Weir's stays, and is named.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::TcAttachType;
use aya::programs::tc::qdisc_detach_program;
use rustix::fs::{FlockOperation, flock};
use weir_cni::install::{self, InstallError, Options};
use weir_table::CLSACT_FILE;

use super::device_name;
use super::tc::{Direction, Tc};
use crate::doctor::Where;
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
    /// weir-cni could not be taken out of the runtime's configuration.
    #[error(transparent)]
    Cni(#[from] InstallError),
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
    /// What was changed of the container runtime's configuration, in words.
    pub cni: Vec<String>,
    /// tcx links that were unpinned.
    pub links: usize,
    /// clsact filters that were taken off.
    pub filters: usize,
    /// clsact qdiscs that Weir had made, and in which nothing was left.
    pub qdiscs: usize,
    /// Maps that were unpinned.
    pub maps: usize,
    /// Files of the run directory.
    pub files: usize,
    /// What is left, and why.
    pub left: Vec<String>,
}

/// Removes Weir from this node.
///
/// # Errors
/// [`UninstallError`], naming what is in the way.
pub fn uninstall(place: &Where) -> Result<Removed, UninstallError> {
    let Where { places, cni_conf_dir, cni_bin_dir } = place;
    let _nobody_starts_meanwhile = lock(&places.run_dir)?;
    let chain = Options {
        conf_dir: cni_conf_dir.clone(),
        bin_dir: cni_bin_dir.clone(),
        ..Options::default()
    };
    let mut removed = Removed {
        cni: install::uninstall(&chain)?,
        links: remove_files(&places.pin_dir.join("links"))?,
        filters: remove_filters(),
        ..Removed::default()
    };
    remove_qdiscs(&places.run_dir, &mut removed);
    removed.maps = remove_files(&places.pin_dir)?;
    removed.files = remove_files(&places.run_dir.join(KEPT_FOLDER))?;
    removed.files += remove_files(&places.run_dir)?;
    for directory in [&places.pin_dir, &places.run_dir] {
        if directory.exists() {
            removed.left.push(format!(
                "{}: it holds what is not Weir's, or something is mounted there",
                directory.display()
            ));
        }
    }
    Ok(removed)
}

/// The daemon holds a lock on its run directory for as long as it lives. `None`: there is none.
fn lock(run_dir: &Path) -> Result<Option<fs::File>, UninstallError> {
    let Ok(directory) = fs::File::open(run_dir) else { return Ok(None) };
    flock(&directory, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| UninstallError::Running(run_dir.to_owned()))?;
    Ok(Some(directory))
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

/// Takes away the qdiscs that the dataplane has noted as its own. In one that others have come to
/// use, their filters go on.
fn remove_qdiscs(run_dir: &Path, removed: &mut Removed) {
    let note = fs::read_to_string(run_dir.join(CLSACT_FILE)).unwrap_or_default();
    for (ifindex, queue, device) in note.lines().filter_map(noted) {
        // The index may be another device's by now, and the name as well; hardly both.
        if device_name(ifindex).as_deref() != Some(device) {
            continue;
        }
        match remove_qdisc(ifindex, queue) {
            Ok(true) => removed.qdiscs += 1,
            Ok(false) => {}
            Err(error) => removed.left.push(format!("the clsact qdisc of {device}: {error}")),
        }
    }
}

/// A line of the note: index, length of the transmit queue before, name.
fn noted(line: &str) -> Option<(u32, u32, &str)> {
    let (index, rest) = line.split_once(' ')?;
    let (queue, name) = rest.split_once(' ')?;
    Some((index.parse().ok()?, queue.parse().ok()?, name))
}

fn remove_qdisc(ifindex: u32, queue: u32) -> io::Result<bool> {
    let tc = Tc::open()?;
    if !tc.has_clsact(ifindex)? {
        return Ok(false);
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        if let Some(filter) = tc.filters(ifindex, direction)?.first() {
            let name = filter.program.as_deref().unwrap_or(&filter.kind);
            return Err(io::Error::other(format!("filter {name} of somebody else's is in it")));
        }
    }
    tc.remove_clsact(ifindex)?;
    // What the kernel has made of 0 when the qdisc came.
    if queue == 0 {
        tc.set_queue(ifindex, queue)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::Places;
    use super::*;

    fn place(dir: &Path) -> Where {
        Where {
            places: Places { run_dir: dir.join("run"), pin_dir: dir.join("pins") },
            cni_conf_dir: dir.join("conf"),
            cni_bin_dir: dir.join("bin"),
        }
    }

    #[test]
    fn removes_what_is_there_and_can_be_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        let places = &place.places;
        fs::create_dir_all(places.pin_dir.join("links")).unwrap();
        fs::create_dir_all(&places.run_dir).unwrap();
        fs::write(places.pin_dir.join("links/7_from_pod"), "").unwrap();
        fs::write(places.pin_dir.join("weir_config"), "").unwrap();
        fs::write(places.run_dir.join("endpoints.json"), "[]").unwrap();
        // Of a device that is not there, or has another name.
        fs::write(places.run_dir.join(CLSACT_FILE), "1 0 not-lo\n4000000 0 veth7\nx\n").unwrap();
        fs::create_dir(places.run_dir.join(KEPT_FOLDER)).unwrap();
        fs::write(places.run_dir.join(KEPT_FOLDER).join("source"), "/m").unwrap();
        let removed = uninstall(&place).unwrap();
        assert_eq!((removed.links, removed.maps, removed.files), (1, 1, 3));
        assert_eq!((removed.qdiscs, removed.left), (0, Vec::<String>::new()));
        assert!(!places.pin_dir.exists() && !places.run_dir.exists());
        assert_eq!(uninstall(&place).unwrap(), Removed::default());
    }

    #[test]
    fn the_chain_is_as_before_and_its_watcher_stands_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        fs::create_dir(&place.cni_conf_dir).unwrap();
        fs::create_dir(&place.cni_bin_dir).unwrap();
        let list = place.cni_conf_dir.join("10-net.conflist");
        let before = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"}]}"#;
        fs::write(&list, before).unwrap();
        let options = Options {
            conf_dir: place.cni_conf_dir.clone(),
            bin_dir: place.cni_bin_dir.clone(),
            ..Options::default()
        };
        install::chain(&options).unwrap();
        fs::write(place.cni_bin_dir.join("weir-cni"), "").unwrap();
        assert_ne!(fs::read_to_string(&list).unwrap(), before);
        let watcher = install::only_watcher(&place.cni_bin_dir).unwrap().unwrap();
        let error = uninstall(&place).unwrap_err().to_string();
        assert!(error.contains("--watch") && error.contains("stop it first"), "{error}");
        drop(watcher);
        assert_eq!(uninstall(&place).unwrap().cni.len(), 2);
        assert_eq!(fs::read_to_string(&list).unwrap(), before);
        assert_eq!(fs::read_dir(&place.cni_bin_dir).unwrap().count(), 0);
    }

    #[test]
    fn what_is_not_weirs_stays_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        let places = &place.places;
        fs::create_dir_all(places.run_dir.join("mine")).unwrap();
        let removed = uninstall(&place).unwrap();
        let [left] = removed.left.as_slice() else { panic!("{removed:?}") };
        assert!(left.starts_with(places.run_dir.to_str().unwrap()), "{left}");
        assert!(places.run_dir.join("mine").exists());
    }

    #[test]
    fn refuses_while_the_daemon_runs() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        let places = &place.places;
        fs::create_dir_all(&places.run_dir).unwrap();
        let daemon = fs::File::open(&places.run_dir).unwrap();
        flock(&daemon, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(matches!(uninstall(&place), Err(UninstallError::Running(_))));
        assert!(places.run_dir.exists());
    }
}
