//! The throw-away node on which contenders are compared: `scripts/lab`, two pods.
//!
//! Everything is started through `nsenter`, so that it lives in the lab's mount
//! namespace: what hangs is ended by `lab down`, whatever happens to this process.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::scenario::Family;

/// How long an administrator's command may take.
const COMMAND: Duration = Duration::from_secs(60);
/// How long a daemon may take to end after it was told to.
const PATIENCE: Duration = Duration::from_secs(6);

/// Set by whoever wants this process to end early: what runs is ended, nothing more is
/// started.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// A pod of the lab.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its name, and its namespace's.
    pub name: &'static str,
    /// Its address.
    ip4: Ipv4Addr,
    /// And that of IPv6, which not every lab has.
    ip6: Option<Ipv6Addr>,
    /// Hardware address of its `eth0`.
    pub mac: String,
    /// The device on the node that leads to it.
    pub veth: String,
    /// Hardware address of that device.
    pub veth_mac: String,
}

/// The node. Taken down when dropped.
#[derive(Debug)]
pub struct Lab {
    script: PathBuf,
    /// The lab's folder, the same path inside the lab.
    pub dir: PathBuf,
    node: String,
    /// The pod that asks.
    pub client: Pod,
    /// The pod that is asked, and protected.
    pub server: Pod,
}

/// Where a command runs.
#[derive(Clone, Copy, Debug)]
pub enum Where<'a> {
    /// On the node.
    Node,
    /// In a pod.
    Pod(&'a Pod),
}

impl Lab {
    /// Makes the node and both pods, routed (CNI `ptp`), with IPv6 beside IPv4 where it is
    /// wanted.
    ///
    /// # Errors
    /// What `scripts/lab` says.
    pub fn up(script: &Path, ipv6: bool) -> Result<Self> {
        let script = script.canonicalize().with_context(|| {
            format!("no {}: run this from the sources, or name it by --lab", script.display())
        })?;
        let run = |dir: Option<&Path>, arguments: &[&str]| {
            let mut command = Command::new(&script);
            command.args(arguments).env_remove("WEIR_LAB");
            if let Some(dir) = dir {
                command.env("WEIR_LAB", dir);
            }
            output(&mut command, COMMAND)
        };
        let family = if ipv6 { "46" } else { "4" };
        let dir = PathBuf::from(run(None, &["up", "--family", family, "--cni", "ptp"])?.trim());
        let made = run(Some(&dir), &["pod", "client", "server"]).and_then(|_| {
            let node = fs::read_to_string(dir.join("node.pid"))?.trim().to_owned();
            Ok((node, Pod::read(&dir, "client")?, Pod::read(&dir, "server")?))
        });
        match made {
            Ok((node, client, server)) => Ok(Self { script, dir, node, client, server }),
            Err(error) => {
                let _ = run(Some(&dir), &["down"]); // the first error is the one that counts
                Err(error)
            }
        }
    }

    /// A file of the node, as this process reaches it.
    pub fn node_path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.node))
    }

    /// A command in the lab, not yet started.
    pub fn command(&self, place: Where<'_>, program: impl AsRef<Path>) -> Command {
        let net = match place {
            Where::Node => format!("/proc/{}/ns/net", self.node),
            Where::Pod(pod) => format!("/proc/{}/root/run/netns/{}", self.node, pod.name),
        };
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.node, "--mount", &format!("--net={net}"), "--"])
            .arg(program.as_ref());
        command
    }

    /// Runs a command on the node to its end; gives what it printed.
    ///
    /// # Errors
    /// When it fails, with its last words.
    pub fn node(&self, program: impl AsRef<Path>, arguments: &[&str]) -> Result<String> {
        output(self.command(Where::Node, program).args(arguments), COMMAND)
    }

    /// The same with `input` on its standard input.
    ///
    /// # Errors
    /// When it fails, with its last words.
    pub fn node_with_input(
        &self,
        program: &str,
        arguments: &[&str],
        input: &str,
    ) -> Result<String> {
        let path = self.dir.join("input");
        fs::write(&path, input)?;
        output(
            self.command(Where::Node, program).args(arguments).stdin(fs::File::open(path)?),
            COMMAND,
        )
    }

    /// Runs a command in a pod.
    ///
    /// # Errors
    /// When it fails, with its last words.
    pub fn pod(&self, pod: &Pod, program: &str, arguments: &[&str]) -> Result<String> {
        output(self.command(Where::Pod(pod), program).args(arguments), COMMAND)
    }

    /// Starts a daemon; what it says goes to `log/NAME` in the lab's folder.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, name: &str, mut command: Command) -> Result<Daemon> {
        let log = self.dir.join("log").join(name);
        let file = fs::File::create(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Daemon { child, log })
    }

    /// A Pod as the API server would show it.
    ///
    /// # Errors
    /// What `scripts/lab` says.
    pub fn manifest(&self, name: &str, pod: &Pod, labels: &[String]) -> Result<String> {
        let mut command = Command::new(&self.script);
        command.env("WEIR_LAB", &self.dir).args(["manifest", name, pod.name]).args(labels);
        output(&mut command, COMMAND)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let mut command = Command::new(&self.script);
        // A second Ctrl-C is not for it.
        command.process_group(0).arg("down").env("WEIR_LAB", &self.dir);
        let done = command.status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("weir-bench: {} may still be up", self.dir.display());
        }
    }
}

impl Pod {
    /// Its address of a family; of IPv4 where the lab has no other.
    pub fn ip(&self, family: Family) -> IpAddr {
        match (family, self.ip6) {
            (Family::V6, Some(ip)) => ip.into(),
            _ => self.ip4.into(),
        }
    }

    /// From the CNI plugin's answer.
    fn read(lab: &Path, name: &'static str) -> Result<Self> {
        let text = fs::read_to_string(lab.join("pods").join(format!("{name}.json")))?;
        let answer: Value = serde_json::from_str(&text)?;
        let interface = |n: usize, key: &str| {
            answer["interfaces"][n][key]
                .as_str()
                .map(str::to_owned)
                .with_context(|| format!("the CNI plugin named no {key} of interface {n}"))
        };
        let ips = answer["ips"].as_array().into_iter().flatten();
        let ips: Vec<IpAddr> =
            ips.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect();
        let ip4 = ips.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None });
        let ip6 = ips.iter().find_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None });
        Ok(Self {
            name,
            ip4: ip4.context("the CNI plugin gave the pod no IPv4 address")?,
            ip6,
            mac: interface(1, "mac")?,
            veth: interface(0, "name")?,
            veth_mac: interface(0, "mac")?,
        })
    }
}

/// A program that runs until it is told to end.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Its process, for the meter.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its last words.
    pub fn words(&self) -> String {
        last_lines(&fs::read_to_string(&self.log).unwrap_or_default(), 6)
    }

    /// Waits until `ready`, at most `patience`.
    ///
    /// # Errors
    /// With its last words, when it ended or is not ready in time.
    pub fn wait_until(
        &mut self,
        patience: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> Result<()> {
        let end = Instant::now() + patience;
        while !ready() {
            ensure!(self.runs(), "it ended: {}", self.words());
            ensure!(Instant::now() < end, "not ready after {patience:?}: {}", self.words());
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Tells it to end and waits; after a while it is ended the hard way.
    pub fn end(mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let tell = |signal| pid.map(|pid| kill_process(pid, signal));
        if !self.runs() {
            return;
        }
        let _ = tell(Signal::TERM); // it may have ended just now
        let end = Instant::now() + PATIENCE;
        while self.runs() && Instant::now() < end {
            thread::sleep(Duration::from_millis(10));
        }
        if self.runs() {
            let _ = tell(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Runs a command to its end, at most `patience`; gives what it printed.
///
/// # Errors
/// When it cannot be started, fails (with its last words) or takes too long (then it is
/// killed).
pub fn output(command: &mut Command, patience: Duration) -> Result<String> {
    let name = words_of(command);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| anyhow!("cannot run {name}: {error}"))?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let (done, result) = channel();
    let reader = thread::spawn(move || {
        let mut words = String::new();
        let errors = thread::spawn(move || {
            let mut words = String::new();
            err.as_mut().map(|err| err.read_to_string(&mut words));
            words
        });
        out.as_mut().map(|out| out.read_to_string(&mut words));
        let errors = errors.join().unwrap_or_default();
        let _ = done.send(()); // nobody waits if it took too long
        (words, errors)
    });
    let end = Instant::now() + patience;
    while result.recv_timeout(Duration::from_millis(50)).is_err() && !reader.is_finished() {
        let interrupted = INTERRUPTED.load(Ordering::Relaxed);
        if interrupted || Instant::now() > end {
            if let Some(pid) = pid {
                let _ = kill_process(pid, Signal::KILL); // it may have ended just now
            }
            let _ = child.wait();
            ensure!(!interrupted, "interrupted");
            bail!("{name} took longer than {patience:?}");
        }
    }
    let status = child.wait()?;
    let (words, errors) = reader.join().map_err(|_| anyhow!("a thread panicked"))?;
    if !status.success() {
        let said = if errors.trim().is_empty() { &words } else { &errors };
        bail!("{name}: {status}: {}", last_lines(said, 3));
    }
    Ok(words)
}

/// A command as a person would write it; without the words that enter the lab.
fn words_of(command: &Command) -> String {
    let all = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = all.map(|word| word.to_string_lossy()).collect();
    let start = words.iter().position(|word| word == "--").map_or(0, |at| at + 1);
    let mut text = words[start..].join(" ");
    if let Some((at, _)) = text.char_indices().nth(120) {
        text.truncate(at);
        text.push('…');
    }
    text
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_a_command_prints_is_given_and_its_failure_is_told() {
        assert_eq!(output(&mut shell("echo yes"), COMMAND).unwrap(), "yes\n");
        let error = output(&mut shell("echo out; echo why >&2; exit 3"), COMMAND).unwrap_err();
        let text = error.to_string();
        assert!(text.ends_with("exit status: 3: why"), "{text}");
        assert!(output(&mut Command::new("/no/such/program"), COMMAND).is_err());
    }

    #[test]
    fn a_command_that_hangs_is_ended() {
        let start = Instant::now();
        let mut hanging = Command::new("sleep");
        let error = output(hanging.arg("30"), Duration::from_millis(100)).unwrap_err();
        assert!(error.to_string().contains("took longer"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn only_the_last_words_are_quoted() {
        assert_eq!(last_lines("a\n\nb\nc\n", 2), "b; c");
        assert_eq!(last_lines("", 2), "");
    }
}
