//! Leaves the pods' names in the run directory, for whatever explains what the dataplane did
//! (see [`weir_table::names`]).
//!
//! A thread of its own writes: the latest list wins, at most five a second, so that neither a
//! large cluster nor many changes at once delay what has to be enforced. A run directory that
//! is not there yet, or was emptied, gets the list once it can.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use tracing::warn;
use weir_table::Address;
use weir_table::names::{NAMES_FILE, Names, save};

use crate::index::{Index, Owner};

/// Pause after a list was written.
const PAUSE: Duration = Duration::from_millis(200);
/// How often the list is looked after when nothing changes.
const LOOK: Duration = Duration::from_secs(1);

/// Where lists are handed over.
#[derive(Debug)]
pub struct NamesWriter {
    lists: Sender<String>,
}

impl NamesWriter {
    /// Starts the thread; it ends with the writer.
    ///
    /// # Errors
    /// There can be no thread.
    pub fn start(run_dir: &Path) -> std::io::Result<Self> {
        let (lists, latest) = channel();
        let run_dir = run_dir.to_owned();
        thread::Builder::new().name("weir-names".into()).spawn(move || write(&run_dir, &latest))?;
        Ok(Self { lists })
    }

    /// The names are these from now on.
    pub fn put(&self, index: &Index) {
        // The thread ends only with this.
        let _ = self.lists.send(text(index));
    }
}

/// The list of an index. An address that several pods claim is nobody's, and has no name.
fn text(index: &Index) -> String {
    let endpoints = index.endpoints();
    let names: Vec<(Address, String)> = endpoints
        .iter()
        .filter_map(|(address, owner)| match owner {
            Owner::Pod(pod) => Some((Address::from(*address), pod.key.to_string())),
            Owner::Isolated(_) => None,
        })
        .collect();
    Names::text(names.iter().map(|(address, name)| (*address, name.as_str())))
}

fn write(run_dir: &Path, lists: &Receiver<String>) {
    let path: PathBuf = run_dir.join(NAMES_FILE);
    let (mut list, mut written, mut told) = (None, false, false);
    loop {
        match lists.recv_timeout(LOOK) {
            Ok(new) => {
                let latest = lists.try_iter().last().unwrap_or(new);
                written &= list.as_ref() == Some(&latest);
                list = Some(latest);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let Some(list) = &list else { continue };
        if written && path.exists() {
            continue;
        }
        match save(run_dir, list) {
            Ok(()) => (written, told) = (true, false),
            // Without a run directory there is no dataplane yet, which the courier tells.
            Err(error) if !told && run_dir.exists() => {
                told = true;
                warn!("{}: {error}; `weir drops` shows old names", path.display());
            }
            Err(_) => {}
        }
        thread::sleep(PAUSE);
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
        assert_eq!(text(&index(OBJECTS)), "weir-names 1\n10.0.0.1 shop/web\nfd00::1 shop/web\n");
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
