//! The ring in the run directory: a file on tmpfs, readable by root alone.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::record::RECORD_WORDS;
use super::ring::{DropRing, RingError, RingWriter, words_for};
use crate::mem::{Access, MapError, SharedWords};

/// The ring of dropped packets, in the run directory.
pub const RING_FILE: &str = "drops.ring";

/// Why the ring cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RingFileError {
    /// The file cannot be read or written.
    #[error("cannot {step} {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Others than its owner, or than us, may write it.
    #[error(
        "{path} belongs to user {uid} with mode {mode:o}: others may write it, so it is not \
         believed; remove it and restart weir-dataplane"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its permissions.
        mode: u32,
    },
    /// It cannot be mapped.
    #[error("{path}: {source}")]
    Map {
        /// The file.
        path: PathBuf,
        /// Why.
        source: MapError,
    },
    /// It is no ring.
    #[error("{path} is not usable: {source}")]
    Ring {
        /// The file.
        path: PathBuf,
        /// Why.
        source: RingError,
    },
}

/// Which file a ring is: device and inode. Another one means that the ring was replaced.
pub type RingIdentity = (u64, u64);

/// The ring that is in `run_dir` now; `None` if there is none.
pub fn identity(run_dir: &Path) -> Option<RingIdentity> {
    fs::metadata(run_dir.join(RING_FILE)).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Opens the ring in `run_dir` to read, and says which file it is; `None` if there is none.
///
/// # Errors
/// [`RingFileError`] names the file and what is wrong with it.
pub fn open(
    run_dir: &Path,
) -> Result<Option<(DropRing<SharedWords>, RingIdentity)>, RingFileError> {
    let path = run_dir.join(RING_FILE);
    let Some((words, identity)) = map(&path, Access::ReadOnly)? else { return Ok(None) };
    DropRing::open(words, RECORD_WORDS)
        .map(|ring| Some((ring, identity)))
        .map_err(|source| RingFileError::Ring { path, source })
}

/// Opens the ring in `run_dir` to write, or makes one of `records` records (a power of
/// two). What is there and not usable, or of another size, is replaced: then the second
/// value says why.
///
/// # Errors
/// [`RingFileError`] if none can be made.
pub fn open_or_create(
    run_dir: &Path,
    records: u64,
) -> Result<(RingWriter<SharedWords>, Option<RingFileError>), RingFileError> {
    let path = run_dir.join(RING_FILE);
    let adopted = match map(&path, Access::ReadWrite) {
        Ok(None) => None,
        Ok(Some((words, _))) => Some(
            RingWriter::adopt(words, records, RECORD_WORDS)
                .map_err(|source| RingFileError::Ring { path: path.clone(), source }),
        ),
        Err(error) => Some(Err(error)),
    };
    match adopted {
        Some(Ok(writer)) => Ok((writer, None)),
        None => Ok((create(&path, records)?, None)),
        Some(Err(why)) => Ok((create(&path, records)?, Some(why))),
    }
}

/// Maps the file as it is.
fn map(path: &Path, access: Access) -> Result<Option<(SharedWords, RingIdentity)>, RingFileError> {
    let failed = |step| {
        let path = path.to_owned();
        move |source| RingFileError::File { path, step, source }
    };
    let flags = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let mut options = OpenOptions::new();
    options.read(true).write(access == Access::ReadWrite).custom_flags(flags);
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open")(error)),
    };
    let metadata = file.metadata().map_err(failed("stat"))?;
    // A file that another shortens under the mapping ends the process.
    let (uid, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    let own = rustix::process::geteuid().as_raw();
    if !metadata.is_file() || mode & 0o022 != 0 || (uid != own && uid != 0) {
        return Err(RingFileError::Foreign { path: path.to_owned(), uid, mode });
    }
    if access == Access::ReadWrite && metadata.len() > 0 {
        reserve(&file, metadata.len()).map_err(failed("make room for"))?;
    }
    SharedWords::map_all(file.as_fd(), access, "ring of dropped packets")
        .map(|words| Some((words, (metadata.dev(), metadata.ino()))))
        .map_err(|source| RingFileError::Map { path: path.to_owned(), source })
}

/// All of the file's memory now, as far as it has holes: a full tmpfs would end the process at
/// some later store.
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    Ok(rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes)?)
}

/// Makes a new ring aside and renames it into place: readers of the old one keep it whole.
fn create(path: &Path, records: u64) -> Result<RingWriter<SharedWords>, RingFileError> {
    let failed = |step| {
        let path = path.to_owned();
        move |source| RingFileError::File { path, step, source }
    };
    let aside = path.with_extension("new");
    let _ = fs::remove_file(&aside);
    let file: File = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)
        .map_err(failed("create"))?;
    let bytes = words_for(records, RECORD_WORDS) as u64 * 8;
    reserve(&file, bytes).map_err(failed("make room for"))?;
    let words = SharedWords::map_all(file.as_fd(), Access::ReadWrite, "ring of dropped packets")
        .map_err(|source| RingFileError::Map { path: path.to_owned(), source })?;
    let writer = RingWriter::create(words, records, RECORD_WORDS)
        .map_err(|source| RingFileError::Ring { path: path.to_owned(), source })?;
    fs::rename(&aside, path).map_err(failed("replace"))?;
    Ok(writer)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::drops::Follower;

    #[test]
    fn the_next_writer_goes_on_where_the_last_one_stopped() {
        let dir = tempfile::tempdir().unwrap();
        assert!(open(dir.path()).unwrap().is_none());
        let (mut writer, why) = open_or_create(dir.path(), 8).unwrap();
        assert!(why.is_none());
        writer.push(&[1], 4);
        let mode = fs::metadata(dir.path().join(RING_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut follower = Follower::new(open(dir.path()).unwrap().unwrap().0, 100);
        drop(writer);
        let (mut writer, why) = open_or_create(dir.path(), 8).unwrap();
        assert!(why.is_none());
        writer.push(&[2], 5);
        let mut words = [0; RECORD_WORDS];
        assert_eq!((follower.next(&mut words), words[0]), (Some(0), 1));
        assert_eq!((follower.next(&mut words), words[0]), (Some(1), 2));
        assert_eq!(follower.next(&mut words), None);
        assert_eq!(follower.ring().left_out(), 9);
    }

    #[test]
    fn what_is_no_ring_is_refused_in_words_and_replaced_by_the_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(RING_FILE);
        let words = words_for(8, RECORD_WORDS);
        let header = |magic: &[u8; 8], version: u64, records: u64| {
            let mut bytes = vec![0; words * 8];
            let magic = u64::from_be_bytes(*magic);
            for (i, word) in
                [magic, version, records, RECORD_WORDS as u64 + 1].into_iter().enumerate()
            {
                bytes[i * 8..i * 8 + 8].copy_from_slice(&word.to_ne_bytes());
            }
            bytes
        };
        for (bytes, expected) in [
            (Vec::new(), "length of 0"),
            (vec![7; 9], "length of 9"),
            (vec![7; 4096], "no Weir drop records"),
            (header(b"weirdrop", 9, 8), "version 9"),
            (header(b"weirdrop", 1, 16), "16 records"),
            (header(b"weirdrop", 1, 7), "7 records"),
            (header(b"weirdrop", 1, u64::MAX), "damaged"),
        ] {
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = open(dir.path()).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(RING_FILE), "{error}");
            let (_, why) = open_or_create(dir.path(), 8).unwrap();
            assert!(why.unwrap().to_string().contains(expected));
            assert_eq!(open(dir.path()).unwrap().unwrap().0.written(), 0);
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o622)).unwrap();
        let error = open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("others may write it"), "{error}");
    }

    #[test]
    fn a_ring_of_another_size_is_replaced_and_its_readers_can_tell() {
        let dir = tempfile::tempdir().unwrap();
        let (mut writer, _) = open_or_create(dir.path(), 8).unwrap();
        writer.push(&[1], 0);
        let (old, first) = open(dir.path()).unwrap().unwrap();
        assert_eq!(identity(dir.path()), Some(first));
        let (_, why) = open_or_create(dir.path(), 16).unwrap();
        let why = why.unwrap().to_string();
        assert!(why.contains("8 records") && why.contains("16 are wanted"), "{why}");
        let (new, second) = open(dir.path()).unwrap().unwrap();
        assert_eq!((old.written(), new.written()), (1, 0));
        assert_ne!(first, second);
        assert_eq!(identity(dir.path()), Some(second));
        assert!(open_or_create(dir.path(), 16).unwrap().1.is_none());
    }

    #[test]
    fn a_ring_with_holes_gets_its_memory_when_it_is_adopted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(RING_FILE);
        drop(open_or_create(dir.path(), 1024).unwrap());
        let head = fs::read(&path).unwrap()[..4096].to_vec();
        let length = fs::metadata(&path).unwrap().len();
        fs::write(&path, head).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
        let allocated = || fs::metadata(&path).unwrap().blocks() * 512;
        assert!(allocated() < length, "no holes to begin with");
        let (_, why) = open_or_create(dir.path(), 1024).unwrap();
        assert!(why.is_none() && allocated() >= length, "{why:?}: {} of {length}", allocated());
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("victim"), [0; 64]).unwrap();
        std::os::unix::fs::symlink("victim", dir.path().join(RING_FILE)).unwrap();
        assert!(open(dir.path()).is_err());
        open_or_create(dir.path(), 8).unwrap();
        assert_eq!(fs::read(dir.path().join("victim")).unwrap(), [0; 64]);
        assert_eq!(open(dir.path()).unwrap().unwrap().0.written(), 0);
    }
}
