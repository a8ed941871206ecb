//! The last accepted generation, kept in the run directory.
//!
//! Two files on tmpfs: [`TABLE_FILE`] holds the policy table as it was
//! published, [`ADDRESS_FILE`] the addresses of the moment of saving. With them
//! a restarted dataplane enforces at once, before control is back, and the CLI
//! can explain without asking anybody.
//!
//! Each file is replaced by a rename, so none is ever seen half written. The
//! pair is not replaced at once: whoever reads in between finds two generations
//! that do not belong together, and tries again.

use std::{
    fs,
    io::{self, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use crate::{
    ADDRESS_FILE, TABLE_FILE,
    addrmap::{AddressMap, AddressMapError},
    classify::{Classifier, GenerationMismatch, MappedClassifier},
    mem::{MapError, Mapping, Words},
    policy::{DecodeError, PolicyTable},
    seal::{self, SealError},
};

/// How often a pair that does not belong together is read again, and after
/// which pause: saving takes less than a millisecond.
const ATTEMPTS: usize = 5;
const PAUSE: Duration = Duration::from_millis(5);

/// Why a generation could not be saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// A file could not be read or written.
    #[error("cannot {step} {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The table is not valid.
    #[error("the saved {TABLE_FILE} is not usable: {0}")]
    Table(#[from] DecodeError),
    /// The address map is not valid, or could not be copied.
    #[error("the saved {ADDRESS_FILE} is not usable: {0}")]
    Addresses(#[from] AddressMapError),
    /// The two files are of two generations.
    #[error("the saved generation is not usable: {0}")]
    Mismatch(#[from] GenerationMismatch),
    /// No memory to hold a copy.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// No memory to map a copy.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// Saves a generation in `run_dir` (mode 0600).
///
/// # Errors
/// [`SavedError`]; what was saved before is then still there.
pub fn save<B: AsRef<[u8]>, W: Words>(
    run_dir: &Path,
    classifier: &Classifier<B, W>,
) -> Result<(), SavedError> {
    let addresses = classifier.addresses().snapshot()?;
    let addresses = write(run_dir.join(ADDRESS_FILE), &addresses)?;
    let table = write(run_dir.join(TABLE_FILE), classifier.table().as_bytes())?;
    // Both are written: a daemon that is killed leaves halves of two pairs only if it is killed
    // between these two calls.
    addresses.replace()?;
    table.replace()
}

/// Loads the generation saved in `run_dir`; `None` if there is none.
///
/// The result lives in sealed copies: what happens to the files afterwards does
/// not concern it, and it does not follow later changes of addresses.
///
/// # Errors
/// [`SavedError`] names the file and what is wrong with it.
pub fn load(run_dir: &Path) -> Result<Option<MappedClassifier>, SavedError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match load_once(run_dir) {
            Err(SavedError::Mismatch(_)) if attempt < ATTEMPTS => thread::sleep(PAUSE),
            result => return result,
        }
    }
}

fn load_once(run_dir: &Path) -> Result<Option<MappedClassifier>, SavedError> {
    let (Some(table), Some(addresses)) =
        (read(&run_dir.join(TABLE_FILE))?, read(&run_dir.join(ADDRESS_FILE))?)
    else {
        return Ok(None);
    };
    let table = seal::sealed_copy("weir-policy", &table)?;
    let table = PolicyTable::from_bytes(Mapping::of_sealed(table.as_fd(), "policy table")?)?;
    let addresses = seal::sealed_copy("weir-addresses", &addresses)?;
    let addresses = AddressMap::from_fd(addresses.as_fd())?;
    Ok(Some(Classifier::new(table, addresses)?))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, SavedError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SavedError::File { path: path.to_owned(), step: "read", source }),
    }
}

/// A file that is written and takes the place of another by [`Written::replace`].
struct Written {
    new: PathBuf,
    path: PathBuf,
}

/// Writes what is to be at `path` beside it.
fn write(path: PathBuf, bytes: &[u8]) -> Result<Written, SavedError> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&new);
    match file.and_then(|mut file| file.write_all(bytes)) {
        Ok(()) => Ok(Written { new, path }),
        Err(source) => Err(SavedError::File { path: new, step: "write", source }),
    }
}

impl Written {
    /// Replaces the file as a whole.
    fn replace(self) -> Result<(), SavedError> {
        let Self { new, path } = self;
        fs::rename(&new, &path).map_err(|source| SavedError::File { path, step: "replace", source })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;
    use crate::{
        addrmap::AddressMapWriter,
        mem::SharedWords,
        policy::{ClassId, PolicyImage, encode, small_image},
    };

    fn classifier(generation: u64) -> Classifier<Vec<u8>, SharedWords> {
        let image = PolicyImage { generation, ..small_image() };
        let mut addresses = AddressMapWriter::private(generation, 100).unwrap();
        for n in 0..100u8 {
            addresses.insert(crate::Address::v4([10, 0, 0, n]), ClassId(u32::from(n) % 3)).unwrap();
        }
        let table = PolicyTable::from_bytes(encode(&image).unwrap()).unwrap();
        Classifier::new(table, addresses.into_reader().unwrap()).unwrap()
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = TempDir::new().unwrap();
        assert!(load(directory.path()).unwrap().is_none());
        for generation in [3, 4] {
            let saved = classifier(generation);
            save(directory.path(), &saved).unwrap();
            let loaded = load(directory.path()).unwrap().unwrap();
            assert_eq!(loaded.generation(), generation);
            assert_eq!(loaded.table().as_bytes(), saved.table().as_bytes());
            assert_eq!(loaded.addresses().len(), 100);
            for n in 0..=255u8 {
                let address = crate::Address::v4([10, 0, 0, n]);
                assert_eq!(loaded.addresses().lookup(address), saved.addresses().lookup(address));
            }
        }
        let files: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|f| f.unwrap()).collect();
        assert_eq!(files.len(), 2, "nothing else is left behind");
        for file in files {
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn damage_is_said_with_the_file() {
        let directory = TempDir::new().unwrap();
        let path = |name| directory.path().join(name);
        save(directory.path(), &classifier(1)).unwrap();
        let table = fs::read(path(TABLE_FILE)).unwrap();
        fs::write(path(TABLE_FILE), &table[..100]).unwrap();
        let error = load(directory.path()).unwrap_err().to_string();
        assert!(error.contains(TABLE_FILE) && error.contains("cut off"), "{error}");
        fs::write(path(TABLE_FILE), &table).unwrap();
        fs::write(path(ADDRESS_FILE), [0; 64]).unwrap();
        let error = load(directory.path()).unwrap_err().to_string();
        assert!(error.contains(ADDRESS_FILE) && error.contains("no address map"), "{error}");
    }

    #[test]
    fn a_pair_of_two_generations_is_refused() {
        let directory = TempDir::new().unwrap();
        save(directory.path(), &classifier(1)).unwrap();
        let table = fs::read(directory.path().join(TABLE_FILE)).unwrap();
        save(directory.path(), &classifier(2)).unwrap();
        fs::write(directory.path().join(TABLE_FILE), table).unwrap();
        assert!(matches!(load(directory.path()), Err(SavedError::Mismatch(_))));
    }

    #[test]
    fn what_cannot_be_saved_as_a_whole_leaves_the_pair_of_before() {
        let directory = TempDir::new().unwrap();
        save(directory.path(), &classifier(1)).unwrap();
        fs::create_dir(directory.path().join(format!("{TABLE_FILE}.new"))).unwrap();
        let error = save(directory.path(), &classifier(2)).unwrap_err();
        assert!(matches!(error, SavedError::File { step: "write", .. }), "{error}");
        let kept = load(directory.path()).unwrap().unwrap();
        assert_eq!(kept.generation(), 1);
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = save(Path::new("/nonexistent/weir"), &classifier(1)).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/weir/generation.addrs.new"), "{error}");
    }
}
