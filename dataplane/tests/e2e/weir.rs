//! Weir's daemons inside a lab, and the folder of manifests they obey, or what else control is to
//! follow.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use weir_table::names::NAMES_FILE;

use crate::lab::{Lab, text};
use crate::node::counters;

/// How long the daemons may take to start or a change to be enforced before the
/// test gives up. What is measured is asserted by the tests themselves.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running `weir-dataplane` and `weir-control`; ended when dropped.
#[derive(Debug)]
pub struct Weir<'a> {
    lab: &'a Lab,
    folder: PathBuf,
    /// The arguments by which control knows what to follow.
    source: Vec<String>,
    patience: Duration,
    dataplane: Child,
    control: Child,
}

impl<'a> Weir<'a> {
    /// Starts both and waits until the folder's first state is enforced and the pods' names
    /// are told: control may have begun before there was a run directory to put them in.
    pub fn start(lab: &'a Lab, folder: PathBuf, options: &[&str]) -> Self {
        Self::start_within(PATIENCE, lab, folder, options)
    }

    /// The same for a daemon that takes its time, with all that is asked of it.
    pub fn start_within(
        patience: Duration,
        lab: &'a Lab,
        folder: PathBuf,
        options: &[&str],
    ) -> Self {
        let folder_of = format!("dir:{}", folder.display());
        // The name that the lab's manifests give the node.
        let source = ["--source", &folder_of, "--node", "lab"].map(str::to_owned).to_vec();
        Self::start_following(patience, lab, (folder, source), options)
    }

    /// The same with a control that follows what these arguments say instead of the folder.
    pub fn start_following(
        patience: Duration,
        lab: &'a Lab,
        (folder, source): (PathBuf, Vec<String>),
        options: &[&str],
    ) -> Self {
        let mut dataplane = lab.enter("node", &binary("weir-dataplane"));
        dataplane.args(options).args(io_asked_for(options));
        let dataplane = Self::spawn(lab, "weir-dataplane", dataplane);
        let control = Self::spawn_control(lab, &source);
        let mut weir = Self { lab, folder, source, patience, dataplane, control };
        weir.wait("Weir to enforce its first generation", |weir| weir.generation() > 0);
        let names = lab.node_path("/run/weir").join(NAMES_FILE);
        weir.wait("the pods' names", |_| names.exists());
        weir
    }

    /// Ends both daemons without a chance to clean up.
    pub fn kill(&mut self) {
        for child in [&mut self.control, &mut self.dataplane] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Ends weir-control alone, the same way.
    pub fn kill_control(&mut self) {
        self.control.kill().unwrap();
        self.control.wait().unwrap();
    }

    /// Ends weir-dataplane alone, the same way.
    pub fn kill_dataplane(&mut self) {
        self.dataplane.kill().unwrap();
        self.dataplane.wait().unwrap();
    }

    /// Starts another dataplane, alone, and waits until it serves.
    pub fn start_dataplane(&mut self, options: &[&str]) {
        let mut dataplane = self.lab.enter("node", &binary("weir-dataplane"));
        dataplane.args(options).args(io_asked_for(options));
        self.dataplane = Self::spawn(self.lab, "weir-dataplane", dataplane);
        let start = Instant::now();
        while !self.dataplane_log().contains("ready for policy tables") {
            assert!(start.elapsed() < self.patience, "it does not start\n{}", self.words());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts another control and waits until what it publishes is enforced.
    pub fn start_control(&mut self) {
        let before = self.generation();
        self.launch_control();
        self.wait("the new control's generation", |weir| weir.generation() > before);
    }

    /// Starts another control, which may find nothing to publish.
    pub fn launch_control(&mut self) {
        self.control = Self::spawn_control(self.lab, &self.source);
    }

    fn spawn_control(lab: &Lab, source: &[String]) -> Child {
        let mut control = lab.enter("node", &binary("weir-control"));
        control.args(source);
        Self::spawn(lab, "weir-control", control)
    }

    fn spawn(lab: &Lab, name: &str, mut command: Command) -> Child {
        let log = File::create(lab.dir().join("log").join(name)).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    /// Stops the dataplane in its tracks, as a debugger or a hung machine would; the
    /// guard lets it go on.
    pub fn freeze(&self) -> Frozen {
        let pid = pid_of(&self.dataplane).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        Frozen(pid)
    }

    /// Stops control in its tracks; the guard lets it go on.
    #[allow(dead_code)] // by the tests with a kubelet
    pub fn freeze_control(&self) -> Frozen {
        let pid = pid_of(&self.control).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        Frozen(pid)
    }

    /// Writes a manifest aside and renames it into place. Returns at once.
    pub fn place(&self, name: &str, content: &str) {
        place(&self.folder, name, content);
    }

    /// Takes a manifest away. Returns at once.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.folder.join(name)).unwrap();
    }

    /// Makes a change and waits until a later generation is enforced.
    pub fn change(&mut self, change: impl FnOnce(&Self)) {
        let before = self.generation();
        change(self);
        self.wait("the change to be enforced", |weir| weir.generation() > before);
    }

    /// Applies a manifest and waits until it is enforced.
    pub fn apply(&mut self, name: &str, content: &str) {
        self.change(|weir| weir.place(name, content));
    }

    /// Withdraws a manifest and waits until that is enforced.
    pub fn withdraw(&mut self, name: &str) {
        self.change(|weir| weir.remove(name));
    }

    /// The generation that all workers enforce; 0 before the first.
    pub fn generation(&self) -> u64 {
        counters(self.lab)
            .and_then(|counters| counters.enforced())
            .map_or(0, |enforced| enforced.generation)
    }

    /// What `weir status -o json` says; null while it cannot say anything.
    pub fn status(&self) -> Value {
        let out = self.lab.attempt("node", &binary("weir"), &["status", "-o", "json"]);
        serde_json::from_slice(&out.stdout).unwrap_or(Value::Null)
    }

    /// What `weir flows -o json` says, a flow each.
    pub fn flows(&self) -> Vec<Value> {
        let out = self.lab.command("node", &binary("weir"), &["flows", "-o", "json"]);
        text(&out).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Changes who has which labels or address and waits until that is enforced: by a new
    /// generation, or in place. `Some`: in place, and so many flows were judged again.
    pub fn relabel(&mut self, change: impl FnOnce(&Self)) -> Option<u64> {
        const IN_PLACE: &str = "addresses changed in place, enforced";
        let answers = |weir: &Self| weir.control_log().matches(IN_PLACE).count();
        let before = (answers(self), self.generation());
        change(self);
        self.wait("the addresses to be enforced", |weir| {
            (answers(weir), weir.generation()) != before
        });
        let log = self.control_log();
        let line = log.lines().rfind(|line| line.contains(IN_PLACE));
        line.filter(|_| answers(self) > before.0)
            .and_then(|line| line.split_once("flows_rejudged="))
            .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok())
    }

    /// What weir-control has written so far.
    pub fn control_log(&self) -> String {
        self.log("weir-control")
    }

    /// What weir-dataplane has written so far.
    pub fn dataplane_log(&self) -> String {
        self.log("weir-dataplane")
    }

    fn log(&self, name: &str) -> String {
        text(&fs::read(self.lab.dir().join("log").join(name)).unwrap_or_default())
    }

    /// Waits until `done`; fails with both daemons' words if one has ended or
    /// patience is over.
    pub fn wait(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            self.assert_alive();
            assert!(start.elapsed() < self.patience, "waited in vain for {what}\n{}", self.words());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Fails if a daemon has ended.
    pub fn assert_alive(&mut self) {
        let ended = [&mut self.dataplane, &mut self.control].map(|child| child.try_wait().unwrap());
        assert!(
            ended == [None, None],
            "a daemon ended (dataplane, control): {ended:?}\n{}",
            self.words()
        );
    }

    /// The end of both daemons' logs and the status, for the message of a failing test.
    pub fn words(&self) -> String {
        let end = |log: String| {
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(30)..].join("\n")
        };
        format!(
            "--- weir-dataplane\n{}\n--- weir-control\n{}\n--- weir status\n{}",
            end(self.dataplane_log()),
            end(self.control_log()),
            self.status()
        )
    }
}

impl Drop for Weir<'_> {
    fn drop(&mut self) {
        for child in [&mut self.control, &mut self.dataplane] {
            end(child);
        }
    }
}

/// A process that does not run until this is dropped.
pub struct Frozen(Pid);

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

fn pid_of(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(0))
}

/// Asks a process of ours to end, and ends it if it does not.
fn end(child: &mut Child) {
    if let Some(pid) = pid_of(child) {
        let _ = kill_process(pid, Signal::TERM);
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        if child.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    eprintln!("a daemon did not end on SIGTERM within 2 s");
    let _ = child.kill();
    let _ = child.wait();
}

/// With `WEIR_E2E_IO=tap` tests that do not ask for a kind of weir0 run over a TAP device.
fn io_asked_for(options: &[&str]) -> Vec<String> {
    match std::env::var("WEIR_E2E_IO") {
        Ok(io) if !options.contains(&"--io") => vec!["--io".to_owned(), io],
        _ => Vec::new(),
    }
}

/// Writes a manifest aside and renames it into place.
pub fn place(folder: &Path, name: &str, content: &str) {
    let aside = folder.join(".new");
    fs::write(&aside, content).unwrap();
    fs::rename(aside, folder.join(name)).unwrap();
}

/// The path of a program of this workspace, built beside this test.
///
/// Cargo builds the programs of this package for its tests, but not those of
/// other packages: `cargo build --bins` with the same profile does.
pub fn binary(name: &str) -> String {
    let own = std::env::current_exe().unwrap();
    let built = own.parent().and_then(Path::parent).unwrap().join(name);
    assert!(
        built.is_file(),
        "{} is missing; build it first: cargo build --workspace --bins, \
         with the profile of this test",
        built.display()
    );
    built.to_str().unwrap().to_owned()
}

/// Runs a program of this workspace to its end, in a place of the lab.
pub fn bench(lab: &Lab, place: &str, arguments: &[&str]) -> Child {
    lab.enter(place, &binary("weir-bench"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}
