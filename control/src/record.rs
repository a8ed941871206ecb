//! What weir-control leaves for `weir status`: what it has read, and what of it it cannot honour.
//!
//! ```text
//!   control.json   the record, replaced as a whole (rename)
//!   control.lock   locked for as long as the writer lives
//! ```
//!
//! Both are in the run directory. A record whose lock nobody holds is a dead process's: the table
//! goes on being enforced, but nobody follows the source any more.
//!
//! Invariants:
//! * a reader sees a whole record, the last or the one before it;
//! * only the holder of the lock writes, so that two processes do not overwrite each other;
//! * reading takes no lock (`F_GETLK`), so it never keeps a writer out.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, fcntl_getlk};
use serde::{Deserialize, Serialize};

use crate::model::{Complaint, Effect, Severity};

/// The record.
pub const RECORD_FILE: &str = "control.json";
/// Whose lock says that the writer lives.
pub const LOCK_FILE: &str = "control.lock";

/// A complaint as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComplaintRecord {
    /// `refused`, `skipped` or `warning`.
    pub severity: String,
    /// `closed` (it isolates and allows nothing), `not_enforced`, or empty.
    #[serde(default)]
    pub effect: String,
    /// The file.
    pub file: String,
    /// The line, 0 if unknown.
    pub line: u32,
    /// `Kind namespace/name`; empty when the file as a whole is meant.
    pub object: String,
    /// Path of the field; empty when the whole object is meant.
    pub field: String,
    /// What is wrong and what to write instead.
    pub message: String,
    /// What Weir does about it; empty when nothing changes.
    pub consequence: String,
}

impl ComplaintRecord {
    /// The complaint as a sentence, as it is logged.
    pub fn text(&self) -> String {
        Complaint {
            severity: Severity::Refused,
            effect: Effect::Nothing,
            origin: crate::model::Origin { file: self.file.as_str().into(), line: self.line },
            object: self.object.clone(),
            field: self.field.clone(),
            message: self.message.clone(),
            consequence: self.consequence.clone(),
        }
        .to_string()
    }
}

impl From<&Complaint> for ComplaintRecord {
    fn from(complaint: &Complaint) -> Self {
        Self {
            severity: severity_name(complaint.severity).to_owned(),
            effect: match complaint.effect {
                Effect::Nothing => "",
                Effect::Closed => "closed",
                Effect::NotEnforced => "not_enforced",
            }
            .to_owned(),
            file: complaint.origin.file.to_string(),
            line: complaint.origin.line,
            object: complaint.object.clone(),
            field: complaint.field.clone(),
            message: complaint.message.clone(),
            consequence: complaint.consequence.clone(),
        }
    }
}

/// The name of a severity in records and metrics.
pub fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Warning => "warning",
        Severity::Skipped => "skipped",
        Severity::Refused => "refused",
    }
}

/// Whether what is known of a cluster is of today.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// `syncing` (not everything has been listed yet), `live` or `stale`.
    pub state: String,
    /// Since when it is stale, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_since: Option<u64>,
    /// Why it is; empty if all is well.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub words: String,
    /// Kinds that have not been listed completely since the process began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

impl SourceRecord {
    /// It in one line.
    pub fn in_words(&self) -> String {
        let Self { state, stale_since, words, missing } = self;
        let missing = missing.join(", ");
        let since = stale_since.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
        let since = since.map(humantime::format_rfc3339_seconds);
        match (state.as_str(), since) {
            ("live", _) => "live".to_owned(),
            ("stale", Some(since)) if missing.is_empty() => {
                format!("STALE since {since}: {words}; what was known then goes on being enforced")
            }
            ("stale", Some(since)) => {
                format!("STALE since {since}: {words}; not listed since the start: {missing}")
            }
            ("syncing", _) if missing.is_empty() => "syncing".to_owned(),
            ("syncing", _) => format!("syncing: not listed yet: {missing}"),
            (other, _) => other.to_owned(),
        }
    }
}

/// Everything that is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The writer, with its version.
    pub software: String,
    /// Its process id.
    pub pid: u32,
    /// Where it reads objects.
    pub source: String,
    /// NetworkPolicies in force, those included of which a part is refused.
    pub policies: usize,
    /// Pods.
    pub pods: usize,
    /// Namespaces that are declared.
    pub namespaces: usize,
    /// Rules, and policies as a whole, that cannot be honoured: they isolate and allow nothing.
    pub unsupported_rules: usize,
    /// Objects and files that are not in force at all.
    #[serde(default)]
    pub not_enforced: usize,
    /// All that could not be honoured, or is worth a look; what weighs most first.
    pub complaints: Vec<ComplaintRecord>,
    /// The last generation that all workers said to enforce; 0 = none yet.
    pub generation: u64,
    /// Whether the dataplane is connected.
    pub connected: bool,
    /// For a source that is followed over the network: how it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_health: Option<SourceRecord>,
}

/// How much of the input is not in force as written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unsupported {
    /// Rules of policies that are refused, and policies of which nothing can be honoured: they
    /// isolate and allow nothing.
    pub rules: usize,
    /// Objects and files that are not in force at all: policies of an API that is not enforced, a
    /// policy or pod written twice, a pod without a readable address, an unreadable file.
    pub not_enforced: usize,
}

impl Unsupported {
    /// Counts them, each once however much is wrong with it.
    pub fn of<'a>(complaints: impl IntoIterator<Item = &'a Complaint>) -> Self {
        let (mut rules, mut not_enforced) = (BTreeSet::new(), BTreeSet::new());
        for Complaint { effect, origin, object, field, .. } in complaints {
            match effect {
                Effect::Closed if object.starts_with("NetworkPolicy ") => {
                    // `spec.ingress[0]` of `spec.ingress[0].ports[0].port`.
                    let rule = ["spec.ingress[", "spec.egress["].iter().find_map(|list| {
                        let rest = field.strip_prefix(list)?;
                        Some(&field[..list.len() + rest.find(']')? + 1])
                    });
                    // Of one object in two files, only one is in force.
                    rules.insert((&origin.file, object, rule));
                }
                Effect::NotEnforced => {
                    // Objects that cannot be told apart by name can by line.
                    let named = object.contains(' ');
                    let line = if named { 0 } else { origin.line };
                    not_enforced.insert((&origin.file, object, line));
                }
                Effect::Closed | Effect::Nothing => {}
            }
        }
        Self { rules: rules.len(), not_enforced: not_enforced.len() }
    }
}

/// Writes records into a run directory.
#[derive(Debug)]
pub struct RecordFile {
    directory: PathBuf,
    /// Held for its lock.
    lock: Option<File>,
}

impl RecordFile {
    /// A writer; nothing is written yet, and the directory need not exist.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), lock: None }
    }

    /// Replaces the record.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] while there is no run directory (the dataplane makes it);
    /// [`io::ErrorKind::WouldBlock`] while another process writes there.
    pub fn write(&mut self, record: &Record) -> io::Result<()> {
        self.take_lock()?;
        let temporary = self.directory.join(format!(".{RECORD_FILE}.tmp"));
        let mut text = serde_json::to_vec(record)?;
        text.push(b'\n');
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = file.open(&temporary)?;
        io::Write::write_all(&mut file, &text)?;
        fs::rename(&temporary, self.path())
    }

    /// The record's path.
    pub fn path(&self) -> PathBuf {
        self.directory.join(RECORD_FILE)
    }

    /// Whether our lock is the one that readers look at: the directory may have been made anew.
    pub fn is_in_place(&self) -> bool {
        let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let ours = self.lock.as_ref().and_then(|lock| lock.metadata().ok()).map(inode);
        ours.is_some() && ours == fs::metadata(self.directory.join(LOCK_FILE)).ok().map(inode)
    }

    fn take_lock(&mut self) -> io::Result<()> {
        if self.is_in_place() {
            return Ok(());
        }
        self.lock = None;
        let path = self.directory.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        let lock = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = lock.open(&path)?;
        fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(
            |error| match error {
                Errno::ACCESS | Errno::AGAIN => io::Error::from(io::ErrorKind::WouldBlock),
                other => other.into(),
            },
        )?;
        self.lock = Some(lock);
        Ok(())
    }
}

/// Reads the record of a run directory, and whether its writer lives; `None` if there is none.
///
/// # Errors
/// The record cannot be read, or is none.
pub fn read(directory: &Path) -> io::Result<Option<(Record, bool)>> {
    let text = match fs::read(directory.join(RECORD_FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let record = serde_json::from_slice(&text)?;
    Ok(Some((record, is_locked(&directory.join(LOCK_FILE))?)))
}

fn is_locked(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(fcntl_getlk(&file, &Flock::from(FlockType::WriteLock))?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::load;

    const BAD: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: rules}
spec:
  podSelector: {}
  ingress: [{ports: [{port: 0}, {port: 70000}]}, {form: []}, {}]
  egress: [{to: [{}]}]
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: whole}, spec: {ingres: [], policyTypes: [x]}}
---
{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: c}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: odd}, spec: {ingress: [{from: [{ipBlock: {cidr: 10.0.0.1/8}}]}]}}
---
{apiVersion: v1, kind: Gadget, metadata: {name: g}}
";

    #[test]
    fn rules_are_counted_once_and_policies_as_a_whole() {
        let complaints = load("bad.yaml", BAD.as_bytes()).unwrap().complaints;
        // Two ingress rules and one egress rule; the policy without a rule. The cluster policy
        // isolates nobody.
        let expect = Unsupported { rules: 4, not_enforced: 1 };
        assert_eq!(Unsupported::of(&complaints), expect, "{complaints:?}");
        assert_eq!(Unsupported::of(&[]), Unsupported::default());
    }

    #[test]
    fn a_record_is_read_as_written_and_says_what_was_logged() {
        let complaints = load("bad.yaml", BAD.as_bytes()).unwrap().complaints;
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).unwrap().is_none());
        let mut file = RecordFile::new(dir.path());
        let record = Record {
            complaints: complaints.iter().map(ComplaintRecord::from).collect(),
            generation: 7,
            ..Record::default()
        };
        file.write(&record).unwrap();
        // Its own lock a process does not see; tests of the daemon look from another.
        assert_eq!(read(dir.path()).unwrap().unwrap().0, record);
        for (kept, complaint) in record.complaints.iter().zip(&complaints) {
            assert_eq!(kept.text(), complaint.to_string());
        }
        let mode = fs::metadata(dir.path().join(RECORD_FILE)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn without_a_run_directory_there_is_nothing_to_write() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("run");
        let mut file = RecordFile::new(&gone);
        let error = file.write(&Record::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        // Made, and made anew: the lock follows.
        for generation in [1, 2] {
            fs::create_dir(&gone).unwrap();
            file.write(&Record { generation, ..Record::default() }).unwrap();
            assert_eq!(read(&gone).unwrap().unwrap().0.generation, generation);
            fs::remove_dir_all(&gone).unwrap();
        }
    }

    #[test]
    fn the_source_in_one_line() {
        let of = |state: &str, since: Option<u64>, missing: &[&str]| {
            let missing = missing.iter().map(|kind| (*kind).to_owned()).collect();
            let (state, words) = (state.to_owned(), "pods: HTTP 503".to_owned());
            SourceRecord { state, stale_since: since, words, missing }.in_words()
        };
        assert_eq!(of("live", None, &[]), "live");
        assert_eq!(of("syncing", None, &["pods", "nodes"]), "syncing: not listed yet: pods, nodes");
        let stale = "STALE since 1970-01-02T00:00:00Z: pods: HTTP 503; ";
        let known = of("stale", Some(86_400), &[]);
        assert_eq!(known, format!("{stale}what was known then goes on being enforced"));
        let unknown = of("stale", Some(86_400), &["pods"]);
        assert_eq!(unknown, format!("{stale}not listed since the start: pods"));
        // A state of another version.
        assert_eq!(of("odd", None, &[]), "odd");
    }

    #[test]
    fn what_is_no_record_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(RECORD_FILE), "{").unwrap();
        assert!(read(dir.path()).is_err());
    }
}
