//! Which devices have their clsact qdisc from Weir.
//!
//! A qdisc stays when the daemon goes, as its filters do, and nothing in it tells who made it. So
//! `weir uninstall` would have to leave all of them, or take others' away: it removes those that
//! are noted here, once no filter is left in them. The note is in the run directory, which is
//! tmpfs: a boot ends both.
//!
//! One line a device: its index, the length of its transmit queue before, and its name. Index and
//! name, since either may come to mean another; the length, since the kernel takes a length of 0
//! for a mistake when a device is given a qdisc, and makes 1000 of it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use weir_table::CLSACT_FILE;

use crate::state;

/// The note, and what it says.
#[derive(Debug, Default)]
pub struct Clsact {
    /// `None`: nothing is noted.
    path: Option<PathBuf>,
    /// By index: length of the queue, name.
    devices: BTreeMap<u32, (u32, String)>,
}

impl Clsact {
    /// Goes on with the note in a run directory.
    pub fn resumed(run_dir: &std::path::Path) -> Self {
        let path = run_dir.join(CLSACT_FILE);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let device = |line: &str| {
            let (index, rest) = line.split_once(' ')?;
            let (queue, name) = rest.split_once(' ')?;
            Some((index.parse().ok()?, (queue.parse().ok()?, name.to_owned())))
        };
        Self { path: Some(path), devices: text.lines().filter_map(device).collect() }
    }

    /// Weir has given a device its qdisc; its transmit queue was `queue` packets long before.
    pub fn add(&mut self, ifindex: u32, queue: u32, device: &str) {
        self.devices.insert(ifindex, (queue, device.to_owned()));
        self.write();
    }

    /// A device is gone, and its qdisc with it.
    pub fn forget(&mut self, ifindex: u32) {
        if self.devices.remove(&ifindex).is_some() {
            self.write();
        }
    }

    fn write(&self) {
        let Some(path) = &self.path else { return };
        let mut text = String::new();
        for (ifindex, (queue, device)) in &self.devices {
            let _ = writeln!(text, "{ifindex} {queue} {device}"); // a String takes everything
        }
        if let Err(error) = state::replace(path, text.as_bytes()) {
            tracing::warn!(
                %error, note = %path.display(),
                "`weir uninstall` will leave a clsact qdisc behind"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_survives_a_restart_and_forgets_what_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let mut note = Clsact::resumed(dir.path());
        assert!(!dir.path().join(CLSACT_FILE).exists(), "nothing to note");
        note.add(7, 0, "veth7");
        note.add(12, 0, "veth12");
        let mut note = Clsact::resumed(dir.path());
        note.forget(7);
        note.forget(8);
        note.add(13, 1000, "a@b c");
        let text = fs::read_to_string(dir.path().join(CLSACT_FILE)).unwrap();
        assert_eq!(text, "12 0 veth12\n13 1000 a@b c\n");
        // What is no note of ours says nothing.
        fs::write(dir.path().join(CLSACT_FILE), "x\n9\n8 y\n9 0 y\n").unwrap();
        assert_eq!(Clsact::resumed(dir.path()).devices, BTreeMap::from([(9, (0, "y".to_owned()))]));
    }
}
