//! The run directory: ours, closed to others, and one dataplane's at a time.

use std::{io, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{self, FlockOperation, Mode, OFlags},
    io::Errno,
    process::geteuid,
};

use super::PublishError;

const DIRECTORY_MODE: Mode = Mode::RWXU;

/// Makes sure that the run directory is there, ours, closed to others and not
/// taken by another dataplane; gives it locked.
pub(super) fn take_directory(path: &Path) -> Result<OwnedFd, PublishError> {
    let failed = |step| {
        move |e: Errno| PublishError::Listen {
            path: path.to_owned(),
            step,
            source: io::Error::from(e),
        }
    };
    match fs::mkdir(path, DIRECTORY_MODE) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(failed("mkdir")(error)),
    }
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    let directory = fs::open(path, flags, Mode::empty()).map_err(failed("open"))?;
    let stat = fs::fstat(&directory).map_err(failed("fstat"))?;
    if stat.st_uid != geteuid().as_raw() {
        return Err(PublishError::ForeignDirectory { path: path.to_owned(), uid: stat.st_uid });
    }
    fs::fchmod(&directory, DIRECTORY_MODE).map_err(failed("chmod"))?;
    match fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(directory),
        Err(Errno::WOULDBLOCK) => Err(PublishError::InUse { path: path.to_owned() }),
        Err(error) => Err(failed("flock")(error)),
    }
}
