//! A folder as a source: what cannot be read keeps what it said last, restarts included, and is
//! never left out without a word.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use weir_control::model::Effect;
use weir_control::source::{Folder, KEPT_FOLDER, State};

const BROKEN: &str = "apiVersion: v1\nkind: \"Net";

fn policy(name: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec: {{podSelector: {{}}}}\n"
    )
}

fn names(state: &State) -> Vec<String> {
    let name = |id: String| id.rsplit('/').next().unwrap().to_owned();
    state.loaded.objects.iter().map(|object| name(object.id().to_string())).collect()
}

fn complaints(state: &State) -> String {
    assert!(state.loaded.complaints.iter().all(|c| c.effect == Effect::NotEnforced));
    state.loaded.complaints.iter().map(|c| format!("{c}\n")).collect()
}

struct World {
    _dir: TempDir,
    folder: PathBuf,
    run: PathBuf,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (folder, run) = (dir.path().join("manifests"), dir.path().join("run"));
        fs::create_dir(&folder).unwrap();
        fs::create_dir(&run).unwrap();
        Self { _dir: dir, folder, run }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What a new process reads.
    fn start(&self) -> (Folder, State) {
        let mut folder = Folder::new(&self.folder).keeping(&self.run);
        let state = folder.refresh().unwrap();
        (folder, state)
    }
}

#[test]
fn the_last_good_content_outlives_the_process() {
    let world = World::new();
    fs::write(world.at("a.yaml"), policy("one")).unwrap();
    fs::write(world.at("b.yaml"), policy("two")).unwrap();
    let (mut folder, _) = world.start();
    folder.settle();
    folder.keep().unwrap();
    // A second content takes the first one's place, and one file goes.
    fs::write(world.at("a.yaml"), policy("three")).unwrap();
    fs::remove_file(world.at("b.yaml")).unwrap();
    folder.refresh().unwrap();
    folder.keep().unwrap();
    fs::write(world.at("a.yaml"), BROKEN).unwrap();
    assert_eq!(names(&folder.refresh().unwrap()), ["three"]);
    folder.keep().unwrap();
    drop(folder);

    fs::write(world.at("b.yaml"), BROKEN).unwrap();
    let (mut folder, state) = world.start();
    assert_eq!(names(&state), ["three"]);
    // What was gone when it was last looked at had been withdrawn: nothing of it is in force.
    assert_eq!((state.unread, state.unknown), (1, 0));
    let text = complaints(&state);
    assert!(text.contains("a.yaml:") && text.contains("its last good content stays"), "{text}");
    assert!(text.contains("b.yaml:") && text.contains("nothing of it is in force"), "{text}");
    // And a third process, since the second one read nothing better.
    folder.keep().unwrap();
    drop(folder);
    assert_eq!(names(&world.start().1), ["three"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&world.run.join(KEPT_FOLDER)), 0o700);
    for entry in fs::read_dir(world.run.join(KEPT_FOLDER)).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
}

#[test]
fn without_a_record_what_a_broken_file_said_is_unknown() {
    let world = World::new();
    fs::write(world.at("a.yaml"), BROKEN).unwrap();
    fs::write(world.at("b.yaml"), policy("two")).unwrap();
    let (mut folder, state) = world.start();
    assert_eq!((names(&state), state.unread, state.unknown), (vec!["two".to_owned()], 1, 1));
    // Kept without having been settled: still unknown to the next process.
    folder.keep().unwrap();
    drop(folder);
    let (mut folder, state) = world.start();
    assert_eq!(state.unknown, 1);
    folder.settle();
    folder.keep().unwrap();
    drop(folder);
    assert_eq!(world.start().1.unknown, 0);
    // A record of another folder says nothing of this one.
    let other = world.run.with_extension("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("a.yaml"), BROKEN).unwrap();
    let mut folder = Folder::new(&other).keeping(&world.run);
    assert_eq!(folder.refresh().unwrap().unknown, 1);
}

#[test]
fn a_run_directory_that_comes_or_comes_anew_is_filled() {
    let world = World::new();
    fs::remove_dir(&world.run).unwrap();
    fs::write(world.at("a.yaml"), policy("one")).unwrap();
    let (mut folder, _) = world.start();
    folder.settle();
    for _ in 0..2 {
        assert_eq!(folder.keep().unwrap_err().kind(), std::io::ErrorKind::NotFound);
        fs::create_dir(&world.run).unwrap();
        folder.keep().unwrap();
        // One process writes.
        let (mut second, _) = world.start();
        assert_eq!(second.keep().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        fs::rename(world.at("a.yaml"), world.at("aside")).unwrap();
        fs::write(world.at("a.yaml"), BROKEN).unwrap();
        let (_, state) = world.start();
        assert_eq!((names(&state), state.unknown), (vec!["one".to_owned()], 0));
        fs::rename(world.at("aside"), world.at("a.yaml")).unwrap();
        folder.refresh().unwrap();
        folder.keep().unwrap();
        fs::remove_dir_all(&world.run).unwrap();
    }
    // Broken when the record is lost: its content is in force, and will be unknown.
    fs::write(world.at("a.yaml"), BROKEN).unwrap();
    assert_eq!(names(&folder.refresh().unwrap()), ["one"]);
    fs::create_dir(&world.run).unwrap();
    folder.keep().unwrap();
    drop(folder);
    assert_eq!(world.start().1.unknown, 1);
}

/// Reading fails, and later does not, while the file itself stays as it is.
#[test]
fn a_file_that_could_not_be_read_is_read_again() {
    let world = World::new();
    // A link through a folder that is for a moment another one.
    fs::create_dir(world.at(".real")).unwrap();
    fs::write(world.at(".real/a.yaml"), policy("one")).unwrap();
    symlink(".real/a.yaml", world.at("a.yaml")).unwrap();
    let mut folder = Folder::new(&world.folder);
    assert_eq!(names(&folder.refresh().unwrap()), ["one"]);
    fs::rename(world.at(".real"), world.at(".away")).unwrap();
    let state = folder.refresh().unwrap();
    assert_eq!(names(&state), ["one"]);
    let text = complaints(&state);
    assert!(text.contains("a.yaml: cannot be read: No such file"), "{text}");
    assert!(text.contains("its last good content stays in force"), "{text}");
    fs::rename(world.at(".away"), world.at(".real")).unwrap();
    assert_eq!(complaints(&folder.refresh().unwrap()), "");
}

/// A stamp says that a content was looked at, so a read that failed must not leave one.
#[test]
fn what_is_no_regular_file_is_said_and_waits_for_nobody() {
    let world = World::new();
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        world.at("pipe.yaml"),
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
    )
    .unwrap();
    let mut folder = Folder::new(&world.folder);
    for _ in 0..2 {
        let state = folder.refresh().unwrap();
        assert_eq!(state.unread, 1);
        assert!(complaints(&state).contains("pipe.yaml: cannot be read: it is no regular file"));
    }
    fs::remove_file(world.at("pipe.yaml")).unwrap();
    fs::write(world.at("pipe.yaml"), policy("one")).unwrap();
    assert_eq!(names(&folder.refresh().unwrap()), ["one"]);
}

#[test]
fn nothing_vanishes_from_the_walk_without_a_word() {
    let world = World::new();
    let sub = world.run.join("elsewhere");
    fs::create_dir(&sub).unwrap();
    fs::write(sub.join("b.yaml"), policy("two")).unwrap();
    symlink(&sub, world.at("sub")).unwrap();
    symlink("nowhere", world.at("dangling.yaml")).unwrap();
    symlink("self.yaml", world.at("self.yaml")).unwrap();
    let mut folder = Folder::new(&world.folder);
    let state = folder.refresh().unwrap();
    assert_eq!((names(&state), state.unread), (vec!["two".to_owned()], 2));
    let text = complaints(&state);
    assert!(text.contains("dangling.yaml: cannot be read: No such file"), "{text}");
    assert!(text.contains("self.yaml: cannot be read: Too many levels"), "{text}");

    // The link to a folder leads nowhere for a while: what is below it is not gone.
    fs::rename(&sub, sub.with_extension("away")).unwrap();
    let state = folder.refresh().unwrap();
    assert_eq!((names(&state), state.unread), (vec!["two".to_owned()], 2));
    let text = complaints(&state);
    assert!(text.contains("sub: cannot be looked into: No such file"), "{text}");
    fs::rename(sub.with_extension("away"), &sub).unwrap();
    assert!(!complaints(&folder.refresh().unwrap()).contains("sub"));
    fs::remove_file(world.at("sub")).unwrap();
    assert!(names(&folder.refresh().unwrap()).is_empty());

    // Too deep.
    let deep = world.at("1/2/3/4/5/6/7/8/9");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("a.yaml"), policy("deep")).unwrap();
    fs::write(deep.parent().unwrap().join("a.yaml"), policy("eight")).unwrap();
    let state = folder.refresh().unwrap();
    assert_eq!((names(&state), state.unread), (vec!["eight".to_owned()], 3));
    assert!(complaints(&state).contains("7/8/9: is more than 8 folders deep"));
}

#[test]
fn links_in_circles_are_entered_once() {
    let world = World::new();
    fs::create_dir(world.at("real")).unwrap();
    fs::write(world.at("real/a.yaml"), policy("one")).unwrap();
    for name in ["a", "b", "c", "d"] {
        symlink(".", world.at(name)).unwrap();
    }
    // Sorted before the folder that it leads to, and after it all the same.
    symlink("real", world.at("before")).unwrap();
    let begin = Instant::now();
    let state = Folder::new(&world.folder).refresh().unwrap();
    assert_eq!((names(&state), complaints(&state)), (vec!["one".to_owned()], String::new()));
    assert!(state.loaded.objects[0].origin().file.ends_with("manifests/real/a.yaml"));
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}
