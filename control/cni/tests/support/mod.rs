//! What the tests stand on: a dataplane that speaks the protocol and decides nothing by itself,
//! network namespaces, and the plugin run as a runtime runs it.
#![allow(dead_code)] // each test binary uses its own part

use std::{
    io::{BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use weir_table::cni::{
    Answer, CNI_SOCKET_FILE, Event, Incoming, NamespaceId, Request, Server, WaitingFor,
};

/// For what must happen: longer than any machine takes.
pub const LONG: Duration = Duration::from_secs(60);

/// What the test's dataplane does with a request.
pub enum Reply {
    /// Answers at once.
    Now(Answer),
    /// Says that control does not know the pod, when the sender's wait is over.
    Late,
    /// Says nothing.
    Never,
    /// Ends, with its socket, and begins anew.
    Restart,
}

/// What a dataplane was told.
#[derive(Clone, Debug)]
pub struct Told {
    pub request: Request,
    pub netns: Option<NamespaceId>,
    pub software: String,
}

/// A dataplane in a thread of its own.
pub struct Dataplane {
    directory: TempDir,
    told: Arc<Mutex<Vec<Told>>>,
    stop: mpsc::Sender<()>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Dataplane {
    pub fn start(mut decide: impl FnMut(&Incoming) -> Reply + Send + 'static) -> Dataplane {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join(CNI_SOCKET_FILE);
        let mut server = Server::bind(&path, "test-dataplane 1").unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = mpsc::channel();
        let tell = Arc::clone(&told);
        let thread = thread::spawn(move || {
            let mut late = Vec::new();
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                let now = Instant::now();
                late.retain(|&(id, deadline)| {
                    let words = "control does not know the pod".to_owned();
                    let waiting_for = WaitingFor::PodObject;
                    if deadline <= now {
                        server.answer(id, &Answer::Pending { waiting_for, words });
                    }
                    deadline > now
                });
                let event = server.poll(None, Duration::from_millis(5)).unwrap();
                let Some(Event::Request(incoming)) = event else { continue };
                let Incoming { request, netns, software, .. } = &*incoming;
                let (request, software) = (request.clone(), software.clone());
                let netns = netns.as_ref().map(|(id, _)| *id);
                tell.lock().unwrap().push(Told { request, netns, software });
                match decide(&incoming) {
                    Reply::Now(answer) => _ = server.answer(incoming.id, &answer),
                    Reply::Late => late.push((incoming.id, incoming.deadline)),
                    Reply::Never => {}
                    Reply::Restart => {
                        drop(server);
                        late.clear();
                        server = Server::bind(&path, "test-dataplane 2").unwrap();
                    }
                }
            }
        });
        Dataplane { directory, told, stop, thread: Some(thread) }
    }

    /// One that gives every request the answer that is wished for.
    pub fn willing() -> Dataplane {
        Dataplane::start(|incoming| Reply::Now(willing(&incoming.request)))
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join(CNI_SOCKET_FILE)
    }

    pub fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        _ = self.stop.send(());
        let ended = self.thread.take().unwrap().join();
        if !thread::panicking() {
            ended.unwrap();
        }
    }
}

pub fn willing(request: &Request) -> Answer {
    match request {
        Request::Add(_) | Request::Check(_) => {
            Answer::Enforced { generation: 12, epoch: 40, waited_us: 2100 }
        }
        Request::Del { .. } | Request::Gc { .. } => Answer::Done { removed: 1 },
        Request::Status => Answer::Ready,
    }
}

/// A network namespace that lasts as long as this does.
pub struct Namespace(Child);

impl Namespace {
    /// `None`: none can be made here, and why has been said.
    pub fn new() -> Option<Namespace> {
        let mut unshare = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            unshare.args(["--user", "--map-root-user"]);
        }
        // It says when the namespace is there, and ends when its standard input is closed.
        unshare.args(["--net", "sh", "-c", "echo there; read -r end"]);
        let child = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("unshare, of util-linux, is needed");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.trim() == "there" {
            return Some(Namespace(child));
        }
        child.wait().unwrap();
        let required = std::env::var_os("WEIR_REQUIRE_E2E").is_some_and(|value| value == "1");
        assert!(!required, "WEIR_REQUIRE_E2E=1, but no network namespace can be made");
        _ = writeln!(std::io::stderr(), "SKIPPED: needs root, or user namespaces");
        None
    }

    pub fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    pub fn id(&self) -> NamespaceId {
        weir_table::cni::namespace_id(std::fs::File::open(self.path()).unwrap()).unwrap()
    }

    /// A command in this namespace. Needs root.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg("--").arg(program);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        _ = self.0.wait();
    }
}

/// What a plugin has answered.
#[derive(Debug)]
pub struct Answered {
    pub success: bool,
    pub output: String,
    pub errors: String,
}

impl Answered {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.output).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// That it succeeded.
    pub fn ok(self) -> Answered {
        assert!(self.success, "{self:?}");
        self
    }

    /// That it failed with this code, and says these words somewhere in its sentence.
    pub fn failed(self, code: u32, words: &str) {
        assert!(!self.success, "{self:?}");
        let result = self.json();
        assert_eq!(result["code"], code, "{self:?}");
        assert!(result["cniVersion"].is_string() && result["msg"].is_string(), "{self:?}");
        assert!(self.output.contains(words), "{self:?} should say: {words}");
    }
}

/// Runs a plugin as runtimes do.
pub fn run(mut command: Command, variables: &[(&str, &str)], input: &str) -> Answered {
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // One that does not read is told nothing.
    _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Answered {
        success: output.status.success(),
        output: String::from_utf8(output.stdout).unwrap(),
        errors: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The plugin that these tests are about.
pub fn plugin() -> Command {
    Command::new(env!("CARGO_BIN_EXE_weir-cni"))
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < end, "a minute has passed, and still not: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A file's text.
pub fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
