//! Leaves the pods' names in the run directory, for whatever explains what the dataplane did
//! (see [`weir_table::names`]).
//!
//! A thread of its own makes the text and writes it: the latest list wins, at most five a second,
//! and no more than one waits, so that neither a large cluster nor many changes at once delay
//! what has to be enforced, or gather in memory. A run directory that
//! is not there yet, or was emptied, gets the list once it can.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::warn;
use weir_table::Address;
use weir_table::names::{NAMES_FILE, Names, save};

use crate::index::{Index, Owner};
use crate::model::ObjectKey;

/// Pause after a list was written.
const PAUSE: Duration = Duration::from_millis(200);
/// How often the list is looked after when nothing changes.
const LOOK: Duration = Duration::from_secs(1);
/// The same while it could not be written: the first drops should have names.
const RETRY: Duration = Duration::from_millis(50);

/// Where lists are handed over.
#[derive(Debug)]
pub struct NamesWriter {
    latest: Arc<Mutex<Option<List>>>,
    ring: SyncSender<()>,
}

/// Whose each address is.
type List = Vec<(Address, ObjectKey)>;

impl NamesWriter {
    /// Starts the thread; it ends with the writer.
    ///
    /// # Errors
    /// There can be no thread.
    pub fn start(run_dir: &Path) -> std::io::Result<Self> {
        let (ring, rung) = sync_channel(1);
        let latest = Arc::new(Mutex::new(None));
        let (run_dir, lists) = (run_dir.to_owned(), Arc::clone(&latest));
        let write = move || write(&run_dir, &lists, &rung);
        thread::Builder::new().name("weir-names".into()).spawn(write)?;
        Ok(Self { latest, ring })
    }

    /// The names are these from now on.
    pub fn put(&self, index: &Index) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(list(index));
        // If it has rung already, the thread will find this list instead of the one before.
        let _ = self.ring.try_send(());
    }
}

/// The list of an index. An address that several pods claim is nobody's, and has no name.
fn list(index: &Index) -> List {
    let owners = index.owned();
    let named = owners.filter_map(|(address, owner)| match owner {
        Owner::Pod(pod) => Some((Address::from(address), pod.key.clone())),
        Owner::Isolated(_) => None,
    });
    named.collect()
}

fn text(list: &List) -> String {
    let names: Vec<String> = list.iter().map(|(_, key)| key.to_string()).collect();
    Names::text(list.iter().zip(&names).map(|((address, _), name)| (*address, name.as_str())))
}

fn write(run_dir: &Path, lists: &Mutex<Option<List>>, rung: &Receiver<()>) {
    let path: PathBuf = run_dir.join(NAMES_FILE);
    let (mut list, mut written, mut told) = (None::<String>, false, false);
    loop {
        let waits = list.is_some() && !written;
        if rung.recv_timeout(if waits { RETRY } else { LOOK })
            == Err(RecvTimeoutError::Disconnected)
        {
            return;
        }
        let latest = lists.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(latest) = latest.map(|latest| text(&latest)) {
            written &= list.as_ref() == Some(&latest);
            list = Some(latest);
        }
        let Some(list) = &list else { continue };
        if written && path.exists() {
            continue;
        }
        match save(run_dir, list) {
            Ok(()) => {
                (written, told) = (true, false);
                thread::sleep(PAUSE);
            }
            // Without a run directory there is no dataplane yet, which the courier tells.
            Err(error) if !told && run_dir.exists() => {
                told = true;
                warn!("{}: {error}; `weir drops` shows old names", path.display());
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use super::*;
    use crate::model::load;

    const OBJECTS: &str = "\
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web}
status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: node-agent}
spec: {hostNetwork: true}
status: {podIP: 192.0.2.1}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: one}
status: {podIP: 10.0.0.9}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: another}
status: {podIP: 10.0.0.9}
";

    fn index(objects: &str) -> Index {
        Index::of(load("t", objects.as_bytes()).unwrap().objects)
    }

    fn wait_for(what: &str, done: impl Fn() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < Duration::from_secs(10), "waited in vain for {what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn every_pod_of_the_pod_network_is_named_by_each_address() {
        assert_eq!(
            text(&list(&index(OBJECTS))),
            "weir-names 1\n10.0.0.1 shop/web\nfd00::1 shop/web\n"
        );
    }

    #[test]
    fn of_many_lists_one_waits_and_the_last_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let writer = NamesWriter::start(dir.path()).unwrap();
        let (full, empty) = (index(OBJECTS), Index::default());
        let start = Instant::now();
        for _ in 0..10_000 {
            writer.put(&full);
            writer.put(&empty);
        }
        writer.put(&full);
        assert!(start.elapsed() < Duration::from_secs(10), "waited for the thread");
        // All that can wait: one list, and one ring of the bell.
        let path = dir.path().join(NAMES_FILE);
        let expected = text(&list(&full));
        wait_for("the last list", || fs::read_to_string(&path).is_ok_and(|t| t == expected));
        wait_for("an empty slot", || writer.latest.lock().unwrap().is_none());
    }

    #[test]
    fn the_list_comes_when_the_directory_does_and_again_if_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = dir.path().join("run");
        let writer = NamesWriter::start(&run_dir).unwrap();
        writer.put(&index(OBJECTS));
        thread::sleep(Duration::from_millis(50));
        fs::create_dir(&run_dir).unwrap();
        let path = run_dir.join(NAMES_FILE);
        wait_for("the list", || path.exists());
        fs::remove_file(&path).unwrap();
        wait_for("the list again", || path.exists());
        writer.put(&Index::default());
        wait_for("an empty list", || {
            fs::read_to_string(&path).is_ok_and(|text| text == "weir-names 1\n")
        });
    }
}
