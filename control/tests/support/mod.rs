//! `weir-control` as a process, and the dataplane's side of the conversation.

#![allow(dead_code)] // every test uses a part

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use weir_table::SOCKET_FILE;
use weir_table::classify::{Connection, MappedClassifier};
use weir_table::publish::{AddressReceipt, Event, Listener, News, Receipt, Settled};

/// Generous: other tests share the processors.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub const PODS: &str = "\
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: client, labels: {app: client}}
status: {podIP: 10.0.0.2}
";

pub const DENY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: deny}
spec: {podSelector: {matchLabels: {app: web}}, ingress: []}
";

pub const ALLOW: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: allow}
spec: {podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]}
";

/// A second client.
pub const MORE: &str = "\
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: more, labels: {app: client, hash: x1}}
status: {podIP: 10.0.0.3}
";

/// A running weir-control, its folder and its log.
pub struct Control {
    child: Child,
    log: Receiver<String>,
    seen: Vec<String>,
}

impl Control {
    pub fn start(folder: &Path, socket: &Path, more: &[&str]) -> Self {
        Self::from_source(&format!("dir:{}", folder.display()), socket, more)
    }

    pub fn from_source(source: &str, socket: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_weir-control"))
            .arg("--source")
            .arg(source)
            .arg("--socket")
            .arg(socket)
            .args(more)
            .env_remove("WEIR_LOG")
            .env_remove("RUST_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (say, log) = channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if say.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, log, seen: Vec::new() }
    }

    /// Waits until the log says something; the line that does.
    pub fn expect(&mut self, part: &str) -> &str {
        let end = Instant::now() + PATIENCE;
        while !self.seen.iter().any(|line| line.contains(part)) {
            let left = end.saturating_duration_since(Instant::now());
            match self.log.recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(_) => panic!("the log never said {part:?}:\n{}", self.seen.join("\n")),
            }
        }
        self.seen.iter().find(|line| line.contains(part)).unwrap()
    }

    /// The line that says something, if the log has said it by now.
    pub fn try_expect(&mut self, part: &str) -> Option<&str> {
        self.seen.extend(self.log.try_iter());
        self.seen.iter().find(|line| line.contains(part)).map(String::as_str)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it without a chance to tidy up.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn stop(mut self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "weir-control does not stop");
            thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(status.code(), Some(0));
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Already gone if it was stopped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the dataplane does about a change of addresses in place.
#[derive(Clone, Copy)]
pub enum OnChange {
    Acknowledge,
    Refuse,
    Ignore,
}

/// The dataplane's side: takes the next generation and acknowledges it.
pub struct Dataplane {
    listener: Listener,
    current: Option<MappedClassifier>,
    pub on_change: OnChange,
    /// Generation and epoch of each change that was announced.
    pub announced: Vec<(u64, u64)>,
    /// What is told to a publisher that comes.
    pub words: Vec<News>,
    /// The highest ticket.
    pub last_ticket: u64,
    /// A publisher that comes is told nothing.
    pub is_silent: bool,
    /// The last ticket that the generation in force knows.
    pub heard: u64,
    /// What has been settled.
    pub settled: Vec<Settled>,
    /// What has not, and why.
    pub rejected: Vec<(u64, String)>,
}

impl Dataplane {
    pub fn start(run_dir: &Path, generation: u64) -> Self {
        let listener = Listener::bind(run_dir, "test-dataplane", generation).unwrap();
        Self {
            listener,
            current: None,
            on_change: OnChange::Acknowledge,
            announced: Vec::new(),
            words: Vec::new(),
            last_ticket: 0,
            is_silent: false,
            heard: 0,
            settled: Vec::new(),
            rejected: Vec::new(),
        }
    }

    /// Ends, and begins anew without a table.
    pub fn restart(self, run_dir: &Path) -> Self {
        drop(self);
        Self::start(run_dir, 0)
    }

    /// Whether anything was published.
    pub fn has_table(&self) -> bool {
        self.current.is_some()
    }

    /// Waits for the next generation, and serves until then.
    pub fn next_within(&mut self, patience: Duration) -> u64 {
        let end = Instant::now() + patience;
        loop {
            if let Some(generation) = self.poll(Duration::from_millis(50)) {
                return generation;
            }
            assert!(Instant::now() < end, "nothing is published");
        }
    }

    pub fn poll(&mut self, timeout: Duration) -> Option<u64> {
        let event = self.listener.poll(timeout).unwrap()?;
        match event {
            Event::Published(received) => {
                let generation = received.generation;
                self.listener.receipt(Receipt { generation, workers: 1, enforced_at_ns: 1 });
                self.heard = received.summary.heard;
                self.current = Some(received.classifier);
                Some(generation)
            }
            Event::AddressesChanged { generation, epoch } => {
                // The map is shared and control waits: it says just what was announced.
                let current = self.current.as_ref().unwrap();
                assert_eq!(
                    (current.generation(), current.addresses().epoch()),
                    (generation, epoch)
                );
                self.announced.push((generation, epoch));
                let flows_rejudged = Some(7);
                match self.on_change {
                    OnChange::Acknowledge => self.listener.addresses_enforced(AddressReceipt {
                        generation,
                        epoch,
                        flows_rejudged,
                        enforced_at_ns: 1,
                    }),
                    OnChange::Refuse => {
                        self.listener.refuse_addresses(generation, epoch, "the test said so");
                    }
                    OnChange::Ignore => {}
                }
                None
            }
            Event::Refused { reason, .. } => panic!("refused: {reason}"),
            Event::Connected { .. } if self.is_silent => None,
            Event::Connected { .. } => {
                let words = self.words.clone();
                words.into_iter().for_each(|news| self.listener.tell(news));
                self.listener.tell(News::AllAttached { last: self.last_ticket });
                None
            }
            Event::Settled(settled) => {
                let current = self.current.as_ref().unwrap();
                assert_eq!(
                    (current.generation(), current.addresses().epoch()),
                    (settled.generation, settled.epoch)
                );
                self.settled.push(settled);
                None
            }
            Event::Rejected { ticket, words } => {
                self.rejected.push((ticket, words));
                None
            }
            Event::Disconnected | Event::Woken => None,
        }
    }

    /// Tells the publisher that is connected.
    pub fn tell(&mut self, news: News) {
        self.listener.tell(news);
    }

    /// Serves until so.
    pub fn until_so(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < end, "waited in vain for {what}");
            self.poll(Duration::from_millis(20));
        }
    }

    /// All tickets that were settled, in order.
    pub fn settled_tickets(&self) -> Vec<u64> {
        self.settled.iter().flat_map(|settled| settled.tickets.clone()).collect()
    }

    /// The class of an address, if it is a pod's.
    pub fn class(&self, address: &str) -> Option<u32> {
        let address = address.parse().unwrap();
        self.current.as_ref()?.addresses().lookup(address).map(|class| class.0)
    }

    pub fn next(&mut self) -> u64 {
        self.next_within(PATIENCE)
    }

    pub fn allows(&self, src: &str, dst: &str) -> bool {
        let connection = Connection {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            protocol: 6,
            dport: 80,
        };
        self.current.as_ref().unwrap().evaluate(&connection).is_allowed()
    }

    /// Whether it is the address of a pod, by what is in force.
    pub fn is_pod(&self, address: IpAddr) -> bool {
        self.current.as_ref().is_some_and(|current| current.is_pod(address.into()))
    }

    /// Serves until that many changes of addresses were announced since the start.
    pub fn until_announced(&mut self, count: usize) {
        let end = Instant::now() + PATIENCE;
        while self.announced.len() < count {
            assert!(Instant::now() < end, "only {:?} announced", self.announced);
            let published = self.poll(Duration::from_millis(50));
            assert_eq!(published, None, "a generation instead of a change in place");
        }
    }

    /// Serves until the verdict is as wanted; how long it took.
    pub fn until(&mut self, src: &str, dst: &str, allowed: bool) -> Duration {
        let begin = Instant::now();
        while self.current.is_none() || self.allows(src, dst) != allowed {
            assert!(begin.elapsed() < PATIENCE, "{src} → {dst} never became {allowed}");
            self.poll(Duration::from_millis(1));
        }
        begin.elapsed()
    }
}

/// Status code, head and body.
pub fn get(address: &str, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, head.to_lowercase(), body.to_owned())
}

/// The value of a sample, by its name with labels.
pub fn sample(address: &str, name: &str) -> f64 {
    let (code, _, text) = get(address, "/metrics");
    assert_eq!(code, 200);
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}:\n{text}")).parse().unwrap()
}

/// Where it serves.
pub fn address(control: &mut Control) -> String {
    let line = control.expect("metrics address=");
    line.split("metrics address=").nth(1).unwrap().trim().to_owned()
}

pub struct World {
    _dir: TempDir,
    pub folder: PathBuf,
    pub run: PathBuf,
}

impl World {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (folder, run) = (dir.path().join("manifests"), dir.path().join("run"));
        fs::create_dir(&folder).unwrap();
        Self { _dir: dir, folder, run }
    }

    /// Replaces a file as kubectl and editors do: write elsewhere, rename.
    pub fn write(&self, name: &str, text: &str) {
        let temporary = self.folder.join(format!(".{name}.tmp"));
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.folder.join(name)).unwrap();
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.folder.join(name)).unwrap();
    }

    pub fn control(&self) -> Control {
        self.control_with(&[])
    }

    pub fn control_with(&self, more: &[&str]) -> Control {
        Control::start(&self.folder, &self.run.join(SOCKET_FILE), more)
    }
}
