//! Into a node's chain and out of it, on directories made for the test.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use support::{LONG, plugin, text, until};

const FLANNEL: &str = r#"{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "flannel",
      "delegate": { "isDefaultGateway": true, "hairpinMode" : true }
    },
    {
      "type": "portmap", "capabilities": { "portMappings": true } }
  ]
}

"#;

const LONE: &str =
    "{\"type\":\"ptp\", \"name\":\"lone\",\n\t\"cniVersion\":\"1.0.0\",\"mtu\" : 1400}\n";

struct Node {
    directory: TempDir,
}

impl Node {
    fn new() -> Node {
        let node = Node { directory: TempDir::new().unwrap() };
        fs::create_dir_all(node.conf()).unwrap();
        node
    }

    fn conf(&self) -> PathBuf {
        self.directory.path().join("net.d")
    }

    fn bin(&self) -> PathBuf {
        self.directory.path().join("opt/bin")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.conf().join(name)
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        fs::write(self.file(name), content).unwrap();
        self.file(name)
    }

    fn command(&self, verb: &str, more: &[&str]) -> Command {
        let mut command = plugin();
        command.arg(verb).arg("--conf-dir").arg(self.conf()).arg("--bin-dir").arg(self.bin());
        command.args(more);
        command
    }

    /// Runs a command; gives its status and all that it has said.
    fn run(&self, verb: &str, more: &[&str]) -> (i32, String) {
        let output = self.command(verb, more).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(said).unwrap())
    }

    fn done(&self, verb: &str) -> String {
        let (status, said) = self.run(verb, &[]);
        assert_eq!(status, 0, "{said}");
        said
    }

    /// All below the directory of configurations: what, mode, owner, content.
    fn snapshot(&self) -> BTreeMap<String, (u32, u32, u32, String)> {
        let entries = fs::read_dir(self.conf()).unwrap().map(Result::unwrap);
        entries
            .map(|entry| {
                let metadata = entry.metadata().unwrap();
                let content = if metadata.is_symlink() {
                    fs::read_link(entry.path()).unwrap().display().to_string()
                } else {
                    text(&entry.path())
                };
                let name = entry.file_name().to_string_lossy().into_owned();
                (name, (metadata.mode(), metadata.uid(), metadata.gid(), content))
            })
            .collect()
    }
}

/// The types of a list's plugins, in order.
fn chain(path: &Path) -> Vec<String> {
    let list: serde_json::Value = serde_json::from_str(&text(path)).unwrap();
    let plugins = list["plugins"].as_array().unwrap().iter();
    plugins.map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn in_and_out_leaves_everything_as_it_was() {
    let node = Node::new();
    node.write("10-flannel.conflist", FLANNEL);
    node.write("20-later.conflist", &FLANNEL.replace("cbr0", "later"));
    node.write("README", "not for runtimes");
    fs::create_dir(node.file("05-directory.conf")).unwrap();
    fs::remove_dir(node.file("05-directory.conf")).unwrap();
    let before = node.snapshot();

    let said = node.done("install");
    assert!(said.contains("installed") && said.contains("chained weir-cni in"), "{said}");
    assert_eq!(chain(&node.file("10-flannel.conflist")), ["flannel", "portmap", "weir-cni"]);
    let after = node.snapshot();
    assert_eq!(after.len(), before.len());
    for name in ["20-later.conflist", "README"] {
        assert_eq!(after[name], before[name]);
    }
    let program = fs::metadata(node.bin().join("weir-cni")).unwrap();
    assert_eq!(program.mode() & 0o7777, 0o755);
    let itself = fs::read(env!("CARGO_BIN_EXE_weir-cni")).unwrap();
    assert!(fs::read(node.bin().join("weir-cni")).unwrap() == itself);

    // Nothing is written that is there.
    let inode = fs::metadata(node.file("10-flannel.conflist")).unwrap().ino();
    assert_eq!(node.done("install"), "");
    assert_eq!(fs::metadata(node.file("10-flannel.conflist")).unwrap().ino(), inode);
    assert_eq!(node.snapshot(), after);

    let said = node.done("uninstall");
    assert!(said.contains("took weir-cni out of") && said.contains("removed"), "{said}");
    assert_eq!(node.snapshot(), before);
    assert_eq!(fs::read_dir(node.bin()).unwrap().count(), 0);
    assert_eq!(node.done("uninstall"), "");
}

#[test]
fn the_first_that_runtimes_can_load_is_taken() {
    let node = Node::new();
    node.write("00-broken.conflist", "{");
    node.write("01-empty.conflist", r#"{"cniVersion":"1.0.0","name":"x","plugins":[]}"#);
    node.write("02-list.json", FLANNEL);
    node.write("03-other.conflist.bak", FLANNEL);
    fs::create_dir(node.file("04-directory.conflist")).unwrap();
    symlink("nowhere", node.file("05-dangling.conflist")).unwrap();
    node.write("10-good.conflist", FLANNEL);
    node.write("11-next.conflist", FLANNEL);
    node.done("install");
    for name in ["02-list.json", "03-other.conflist.bak", "11-next.conflist"] {
        assert_eq!(text(&node.file(name)), FLANNEL);
    }
    assert_eq!(chain(&node.file("10-good.conflist")).last().unwrap(), "weir-cni");
    // Another becomes the first: it is chained, and all are unchained.
    node.write("02-now.conflist", FLANNEL);
    node.done("install");
    assert_eq!(chain(&node.file("02-now.conflist")).len(), 3);
    node.done("uninstall");
    for name in ["02-now.conflist", "10-good.conflist"] {
        assert_eq!(text(&node.file(name)), FLANNEL);
    }
}

#[test]
fn a_link_stays_and_what_it_leads_to_keeps_mode_and_owner() {
    let node = Node::new();
    let real = node.directory.path().join("elsewhere.json");
    fs::write(&real, FLANNEL).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    let root = rustix::process::geteuid().is_root();
    if root {
        std::os::unix::fs::chown(&real, Some(1234), Some(4321)).unwrap();
    }
    symlink("../elsewhere.json", node.file("10-link.conflist")).unwrap();
    let before = (node.snapshot(), fs::metadata(&real).unwrap());
    for verb in ["install", "uninstall"] {
        node.done(verb);
        assert_eq!(node.snapshot(), before.0, "the link is as it was");
        let now = fs::metadata(&real).unwrap();
        assert_eq!(now.mode(), before.1.mode());
        assert_eq!((now.uid(), now.gid()), (before.1.uid(), before.1.gid()));
        assert_eq!(chain(&real).len(), if verb == "install" { 3 } else { 2 });
    }
    assert_eq!(text(&real), FLANNEL);
    let beside = fs::read_dir(node.directory.path()).unwrap().count();
    assert_eq!(beside, 3, "nothing is left beside the file");
}

#[test]
fn settings_are_in_the_entry_and_change_in_place() {
    let node = Node::new();
    let file = node.write("10-flannel.conflist", FLANNEL);
    node.done("install");
    let options = "--socket /x/cni.sock --timeout-ms 2500 --on-failure=open --on-timeout fail";
    let options: Vec<&str> = options.split(' ').collect();
    assert_eq!(node.run("install", &options).0, 0);
    let list: serde_json::Value = serde_json::from_str(&text(&file)).unwrap();
    let entry = serde_json::json!({
        "type": "weir-cni", "capabilities": {"portMappings": true},
        "socket": "/x/cni.sock", "timeoutMs": 2500, "onFailure": "open", "onTimeout": "fail",
    });
    assert_eq!(list["plugins"][2], entry);
    assert_eq!(list["plugins"].as_array().unwrap().len(), 3);
    node.done("uninstall");
    assert_eq!(text(&file), FLANNEL);
}

#[test]
fn a_lone_plugin_gets_a_list_and_comes_back() {
    let node = Node::new();
    let lone = node.write("10-lone.conf", LONE);
    fs::set_permissions(&lone, fs::Permissions::from_mode(0o600)).unwrap();
    let before = node.snapshot();
    let said = node.done("install");
    assert!(said.contains("kept as"), "{said}");
    let list = node.file("10-lone.conflist");
    assert_eq!(chain(&list), ["ptp", "weir-cni"]);
    assert_eq!(fs::metadata(&list).unwrap().mode() & 0o777, 0o600);
    let content: serde_json::Value = serde_json::from_str(&text(&list)).unwrap();
    assert_eq!((&content["name"], &content["cniVersion"]), (&"lone".into(), &"1.0.0".into()));
    assert!(!lone.exists());
    assert_eq!(node.done("install"), "");
    // Its installer writes it anew: the list is made anew.
    fs::write(&lone, LONE.replace("1400", "1300")).unwrap();
    node.done("install");
    assert!(text(&list).contains("1300") && !lone.exists());
    fs::write(&lone, LONE).unwrap();
    fs::set_permissions(&lone, fs::Permissions::from_mode(0o600)).unwrap();
    let said = node.done("uninstall");
    assert!(said.contains("is in force again"), "{said}");
    assert_eq!(node.snapshot(), before);
    node.done("install");
    node.done("uninstall");
    assert_eq!(node.snapshot(), before);
}

#[test]
fn what_cannot_be_chained_is_named_with_a_remedy_and_left_alone() {
    let ours = r#"{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"weir-cni"}]}"#;
    for (name, content, words) in [
        ("10.conflist", FLANNEL.replace("0.3.1", "0.2.0"), "its cniVersion is 0.2.0"),
        ("10.conflist", FLANNEL.replace("0.3.1", "9.0.0"), "weir-cni speaks 0.3.1"),
        ("10.conf", LONE.replace("\"name\"", "\"nom\""), "has no name"),
        ("10.conflist", ours.into(), "must be chained behind one"),
        ("10.conflist", "[1".into(), "is no JSON"),
        ("10.txt", FLANNEL.into(), "install the node's CNI plugins first"),
    ] {
        let node = Node::new();
        node.write(name, &content);
        let before = node.snapshot();
        let (status, said) = node.run("install", &[]);
        assert_eq!(status, 1, "{said}");
        assert!(said.contains(words), "{said} should say: {words}");
        assert_eq!(node.snapshot(), before);
    }
    // A list that is not ours stands where ours would.
    let node = Node::new();
    node.write("10.conf", LONE);
    node.write("10.conflist", FLANNEL);
    let before = node.snapshot();
    let (status, said) = node.run("install", &[]);
    assert!(status == 1 && said.contains("is there already"), "{said}");
    assert_eq!(node.snapshot(), before);
    // No directory at all.
    let node = Node::new();
    fs::remove_dir(node.conf()).unwrap();
    let (status, said) = node.run("install", &[]);
    assert!(status == 1 && said.contains("No such file"), "{said}");
    node.done("uninstall");
}

/// Another installer writes its file again and again, by rename, while we chain: whatever it
/// has written last is there, with us in it or not, and never an older one.
#[test]
fn what_others_write_meanwhile_is_not_lost() {
    let node = Node::new();
    let file = node.write("10.conflist", FLANNEL);
    let (stop, stopped) = mpsc::channel::<()>();
    let (target, aside) = (file.clone(), node.directory.path().join("aside"));
    let other = thread::spawn(move || {
        let mut number = 0_u32;
        while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
            number += 1;
            fs::write(&aside, FLANNEL.replace("cbr0", &format!("n{number}"))).unwrap();
            fs::rename(&aside, &target).unwrap();
            // Time for the other side to come between two writes.
            thread::sleep(Duration::from_micros(u64::from(number % 7) * 100));
            // An older one may stand there for a moment; then this one is put back.
            let own = format!("\"n{number}\"");
            until("what was written last is there", || text(&target).contains(&own));
        }
        number
    });
    for _ in 0..40 {
        // It may give up when the other never rests; it must not harm.
        let (status, said) = node.run("install", &[]);
        assert!(status == 0 || said.contains("all the time"), "{said}");
    }
    stop.send(()).unwrap();
    let last = other.join().unwrap();
    node.done("install");
    assert!(text(&file).contains(&format!("\"n{last}\"")));
    assert_eq!(chain(&file).len(), 3);
    node.done("uninstall");
    assert_eq!(text(&file), FLANNEL.replace("cbr0", &format!("n{last}")));
    assert_eq!(fs::read_dir(node.conf()).unwrap().count(), 1);
}

#[test]
fn many_installers_at_once_chain_once() {
    let node = Node::new();
    let file = node.write("10.conflist", FLANNEL);
    let children: Vec<Child> =
        (0..12).map(|_| node.command("install", &[]).spawn().unwrap()).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(chain(&file), ["flannel", "portmap", "weir-cni"]);
    assert_eq!(fs::read_dir(node.conf()).unwrap().count(), 1);
    assert_eq!(fs::read_dir(node.bin()).unwrap().count(), 1);
}

/// `weir-cni install --watch`, with what it says.
struct Watcher {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Watcher {
    fn start(node: &Node) -> Watcher {
        let mut child =
            node.command("install", &["--watch"]).stderr(Stdio::piped()).spawn().unwrap();
        let errors = BufReader::new(child.stderr.take().unwrap());
        let (say, lines) = mpsc::channel();
        thread::spawn(move || errors.lines().map_while(Result::ok).try_for_each(|l| say.send(l)));
        Watcher { child, lines }
    }

    fn says(&self, words: &str) {
        let end = Instant::now() + LONG;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            if line.unwrap_or_else(|_| panic!("it never said: {words}")).contains(words) {
                return;
            }
        }
    }

    fn end(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success(), "a signal is no failure");
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

#[test]
fn whoever_writes_the_configuration_anew_finds_us_in_it_again() {
    let node = Node::new();
    fs::remove_dir(node.conf()).unwrap();
    let watcher = Watcher::start(&node);
    watcher.says("installed");
    watcher.says("No such file");
    fs::create_dir(node.conf()).unwrap();
    watcher.says("has no network configuration");
    let file = node.write("10.conflist", FLANNEL);
    watcher.says("chained weir-cni in");
    let chained = |file: &Path| text(file).contains("weir-cni");
    for number in 0..20 {
        let anew = FLANNEL.replace("cbr0", &format!("n{number}"));
        if number % 2 == 0 {
            fs::write(&file, &anew).unwrap();
        } else {
            let aside = node.directory.path().join("aside");
            fs::write(&aside, &anew).unwrap();
            fs::rename(&aside, &file).unwrap();
        }
        until("chained again", || chained(&file));
        assert!(text(&file).contains(&format!("\"n{number}\"")));
    }
    // Somebody tidies the directory of plugins: looked at with everything else.
    fs::remove_file(node.bin().join("weir-cni")).unwrap();
    fs::write(&file, FLANNEL).unwrap();
    watcher.says("installed");
    until("chained, with its program", || chained(&file));
    assert!(node.bin().join("weir-cni").exists());
    // One that comes before it by name.
    let before = node.write("05.conflist", FLANNEL);
    until("the new first one chained", || chained(&before));
    // The directory is replaced as a whole.
    fs::rename(node.conf(), node.directory.path().join("old")).unwrap();
    fs::create_dir(node.conf()).unwrap();
    let file = node.write("20.conflist", FLANNEL);
    until("chained in the new directory", || chained(&file));

    // It would undo an uninstall.
    let (status, said) = node.run("uninstall", &[]);
    assert!(status == 1 && said.contains("install --watch runs on this node"), "{said}");
    // A second one waits until it has gone.
    let second = Watcher::start(&node);
    second.says("another weir-cni install --watch runs");
    watcher.end();
    fs::write(&file, FLANNEL).unwrap();
    until("chained by the second", || chained(&file));
    second.end();
    node.done("uninstall");
    assert_eq!(text(&file), FLANNEL);
}
