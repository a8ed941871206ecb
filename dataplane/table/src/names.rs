//! Whose address is whose, by name: what control knows and packets do not say.
//!
//! The policy table knows classes, not pods. Control therefore leaves a list in the run
//! directory, a line for each address, replaced by rename when it changes:
//!
//! ```text
//!   weir-names 1
//!   10.244.0.7 shop/web
//! ```
//!
//! Names explain what was decided; nothing is decided by them. So a list that is missing,
//! late or damaged costs names in `weir drops`, never a packet.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;

use crate::addr::Address;

/// The list, in the run directory.
pub const NAMES_FILE: &str = "pods.names";

const HEADER: &str = "weir-names 1";
/// Longest name that is believed: a namespace of 63 characters, a pod of 253.
const LONGEST: usize = 63 + 1 + 253;

/// The pods by their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    names: FxHashMap<Address, Box<str>>,
}

impl Names {
    /// Reads a list; lines that say nothing are skipped, and a list of another format is
    /// empty.
    pub fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Self::default();
        }
        let names = lines.filter_map(|line| {
            let (address, name) = line.split_once(' ')?;
            let sensible =
                !name.is_empty() && name.len() <= LONGEST && !name.contains(char::is_control);
            sensible.then_some((address.parse().ok()?, name.into()))
        });
        Self { names: names.collect() }
    }

    /// The list as text.
    pub fn text<'a>(names: impl IntoIterator<Item = (Address, &'a str)>) -> String {
        use std::fmt::Write as _;
        let mut text = format!("{HEADER}\n");
        for (address, name) in names {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{} {name}", address.to_ip());
        }
        text
    }

    /// The pod that has this address: `namespace/name`.
    pub fn get(&self, address: Address) -> Option<&str> {
        self.names.get(&address).map(AsRef::as_ref)
    }

    /// The addresses of the pod of this name, in their order.
    pub fn addresses(&self, name: &str) -> Vec<Address> {
        let named = self.names.iter().filter(|(_, of)| &***of == name);
        let mut addresses: Vec<Address> = named.map(|(address, _)| *address).collect();
        addresses.sort_unstable_by_key(|address| address.to_ip());
        addresses
    }

    /// How many addresses have a name.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether no address has a name.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

/// Replaces the list in `run_dir`, readable by its owner alone.
///
/// # Errors
/// When the directory cannot be written; the old list is then still there.
pub fn save(run_dir: &Path, text: &str) -> io::Result<()> {
    let path = run_dir.join(NAMES_FILE);
    let aside = path.with_extension("new");
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&aside)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&aside, &path)
}

/// The list in a run directory, read again when it was replaced.
#[derive(Debug)]
pub struct NamesFile {
    path: PathBuf,
    seen: Option<(u64, i64, i64)>,
    names: Names,
}

impl NamesFile {
    /// Reads nothing yet.
    pub fn new(run_dir: &Path) -> Self {
        Self { path: run_dir.join(NAMES_FILE), seen: None, names: Names::default() }
    }

    /// The names as of now. A list that cannot be read is as good as the one before.
    pub fn current(&mut self) -> &Names {
        let stamp = fs::metadata(&self.path).ok().map(|m| (m.ino(), m.mtime(), m.mtime_nsec()));
        if stamp.is_some()
            && stamp != self.seen
            && let Ok(text) = fs::read_to_string(&self.path)
        {
            self.names = Names::parse(&text);
            self.seen = stamp;
        }
        &self.names
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn ip(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn a_list_is_read_again_once_it_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = NamesFile::new(dir.path());
        assert!(file.current().is_empty());
        let text = Names::text([(ip("10.0.0.1"), "shop/web"), (ip("fd00::1"), "shop/web")]);
        save(dir.path(), &text).unwrap();
        let names = file.current();
        assert_eq!((names.get(ip("fd00::1")), names.len()), (Some("shop/web"), 2));
        save(dir.path(), &Names::text([(ip("10.0.0.1"), "shop/db")])).unwrap();
        assert_eq!(file.current().get(ip("10.0.0.1")), Some("shop/db"));
        assert_eq!(file.current().get(ip("fd00::1")), None);
        let mode = fs::metadata(dir.path().join(NAMES_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_says_nothing_is_skipped() {
        let text = format!(
            "{HEADER}\n10.0.0.1 a/b\nx y\n10.0.0.2\n10.0.0.3 \n10.0.0.4 \u{7}\n10.0.0.5 {}\n",
            "n".repeat(LONGEST + 1)
        );
        assert_eq!(Names::parse(&text).len(), 1);
        assert!(Names::parse("weir-names 2\n10.0.0.1 a/b\n").is_empty(), "another format");
        assert!(Names::parse("").is_empty());
    }
}
