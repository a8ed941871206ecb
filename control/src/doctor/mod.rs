//! `weir doctor`: whether this node can run Weir, whether it does, and what to do if not.
//!
//! ```text
//!   gather ── /proc, /sys, sockets, pins, files ──> Facts ── checks, pure ──> Finding, a line each
//! ```
//!
//! | file | checks |
//! |---|---|
//! | `kernel.rs` | version, BTF, JIT, bpffs, AF_XDP or TAP |
//! | `rights.rs` | capabilities and locked memory of the daemon |
//! | `devices.rs` | pods' devices: hooks, who runs before them, MTU; bridges, source filters, conntrack; other engines |
//! | `cni.rs` | the configuration in force, weir-cni in it, its program and version |
//! | `run.rs` | run and pin directory, daemon, workers, control and its source |
//!
//! Invariants
//! - A check reads [`Facts`] and nothing else, so each is tested by facts made up.
//! - What could not be looked at is a finding of its own, never silence.
//! - Nothing is changed.

mod cni;
mod devices;
mod gather;
mod kernel;
mod rights;
mod run;

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

use crate::live::Places;
use crate::live::control::ControlStatus;

pub use gather::gather;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works; something is not as good as it could be, or could not be looked at.
    Note,
    /// Something is not enforced, or cannot be.
    Fail,
}

/// What one check has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// The check, in one word.
    pub check: &'static str,
    /// What was found.
    pub what: String,
    /// What to do; absent if nothing is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self { level: Level::Ok, check, what: what.into(), remedy: None }
    }

    fn note(check: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Note, check, what: what.into(), remedy: Some(remedy.into()) }
    }

    fn fail(check: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Fail, check, what: what.into(), remedy: Some(remedy.into()) }
    }

    /// Prints it for people: `ok|note|FAIL what — what to do`.
    ///
    /// # Errors
    /// Writing failed.
    pub fn print(&self, mut out: impl Write) -> io::Result<()> {
        let level = match self.level {
            Level::Ok => "ok  ",
            Level::Note => "note",
            Level::Fail => "FAIL",
        };
        write!(out, "{level} {}", self.what)?;
        match &self.remedy {
            Some(remedy) => writeln!(out, " — {remedy}"),
            None => writeln!(out),
        }
    }
}

/// Where to look.
#[derive(Debug, Clone, clap::Args)]
pub struct Where {
    /// The dataplane's own directories.
    #[command(flatten)]
    pub places: Places,
    /// Network configurations of the container runtime
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// CNI plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,
}

/// Everything that checks look at. `None`, or `Err` with the reason: it could not be read.
#[derive(Debug, Default)]
pub struct Facts {
    /// The kernel.
    pub kernel: Kernel,
    /// The dataplane's process, or this one in its place.
    pub process: Process,
    /// The node's network.
    pub net: Net,
    /// The container runtime's network configuration.
    pub cni: Cni,
    /// What Weir has on this node.
    pub run: Run,
}

/// What the kernel is and has.
#[derive(Debug, Default)]
pub struct Kernel {
    /// As `uname -r` says.
    pub release: String,
    /// `/sys/kernel/btf/vmlinux`.
    pub btf: bool,
    /// `net.core.bpf_jit_enable`, which only the host's own network namespace shows.
    pub jit: Option<u32>,
    /// Whether the pin directory is, or would be, on a BPF file system.
    pub bpffs: bool,
    /// Whether it gives AF_XDP sockets; `None`: not to this process.
    pub af_xdp: Option<bool>,
    /// `/dev/net/tun`.
    pub tun: bool,
    /// `none`, `integrity` or `confidentiality`.
    pub lockdown: Option<String>,
}

/// A process's rights.
#[derive(Debug, Default)]
pub struct Process {
    /// Its id, if it is weir-dataplane; else these are the rights of this process.
    pub dataplane: Option<u32>,
    /// Its effective capabilities, a bit each.
    pub capabilities: Option<u64>,
    /// How many bytes it may lock; `None`: as many as it likes.
    pub memlock: Option<u64>,
}

/// A network device.
#[derive(Debug, Default, Clone)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// In bytes.
    pub mtu: u32,
    /// The bridge of which it is a port.
    pub master: Option<String>,
}

/// A pod's device.
#[derive(Debug, Clone)]
pub struct PodDevice {
    /// Its name.
    pub name: String,
    /// Both hooks are on, as the dataplane says.
    pub attached: bool,
    /// It claims what is another's.
    pub quarantined: bool,
    /// The programs of its two directions, in the order in which they run.
    pub chains: Result<[Chain; 2], String>,
}

/// What runs in one direction of a device, first the tcx programs, then the filters.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Chain {
    /// `ingress` or `egress`.
    pub direction: &'static str,
    /// Names of tcx programs.
    pub tcx: Vec<String>,
    /// Names of filters, or their kind.
    pub filters: Vec<String>,
}

/// The node's network.
#[derive(Debug, Default)]
pub struct Net {
    /// All devices of this network namespace.
    pub devices: Vec<Device>,
    /// Those of pods, as the dataplane has found them.
    pub pods: Vec<PodDevice>,
    /// MTU of weir0.
    pub punt_mtu: Option<u32>,
    /// `bridge-nf-call-iptables`; `None`: br_netfilter is not loaded.
    pub bridge_calls_iptables: Option<bool>,
    /// The device of the IPv4 default route, and the `rp_filter` in force there: the larger of its
    /// own and that of `all` (ip-sysctl.rst).
    pub uplink: Option<(String, u32)>,
    /// Entries of conntrack, and how many there may be.
    pub conntrack: Option<(u64, u64)>,
    /// How many entries of conntrack were looked at, and how many of these are in a zone; `None`:
    /// the kernel does not list them (`CONFIG_NF_CONNTRACK_PROCFS`).
    pub zones: Option<(u64, u64)>,
}

/// The container runtime's network configuration.
#[derive(Debug)]
pub struct Cni {
    /// Where it was looked for.
    pub conf_dir: PathBuf,
    /// Where plugins are.
    pub bin_dir: PathBuf,
    /// The file in force; `Ok(None)`: there is none.
    pub in_force: Result<Option<Configuration>, String>,
    /// Files before it that cannot be loaded, and why.
    pub skipped: Vec<String>,
    /// What weir-cni in the directory of plugins says of its version, or why it does not; `None`:
    /// it is not there, or cannot be executed.
    pub program: Option<Result<String, String>>,
}

/// A CNI configuration.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// Its file's name.
    pub file: String,
    /// `cniVersion`.
    pub version: String,
    /// The types of the plugins, in order.
    pub plugins: Vec<String>,
}

/// A directory's rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// Its owner.
    pub uid: u32,
    /// The lower nine bits of its mode.
    pub mode: u32,
}

/// What Weir has on this node.
#[derive(Debug)]
pub struct Run {
    /// The run directory.
    pub run_dir: PathBuf,
    /// Its rights; `None`: there is none.
    pub run_rights: Option<Rights>,
    /// The pin directory.
    pub pin_dir: PathBuf,
    /// Its rights; `None`: there is none.
    pub pin_rights: Option<Rights>,
    /// Whether a daemon holds the run directory.
    pub daemon: bool,
    /// For each worker the milliseconds since its last sign of life, and whether that is recent
    /// enough; `Err`: the pinned maps cannot be read.
    pub workers: Result<Vec<(u64, bool)>, String>,
    /// The generation that all workers enforce.
    pub generation: u64,
    /// weir-control's record; `Err`: it cannot be read.
    pub control: Result<ControlStatus, String>,
}

const UNREAD: &str = "it was not looked at";

impl Default for Cni {
    fn default() -> Self {
        Self {
            conf_dir: PathBuf::new(),
            bin_dir: PathBuf::new(),
            in_force: Err(UNREAD.to_owned()),
            skipped: Vec::new(),
            program: None,
        }
    }
}

impl Default for Run {
    fn default() -> Self {
        Self {
            run_dir: PathBuf::new(),
            run_rights: None,
            pin_dir: PathBuf::new(),
            pin_rights: None,
            daemon: false,
            workers: Err(UNREAD.to_owned()),
            generation: 0,
            control: Err(UNREAD.to_owned()),
        }
    }
}

/// All findings, in an order in which the first cause comes first.
pub fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = kernel::check(&facts.kernel);
    findings.extend(rights::check(&facts.process, &facts.kernel));
    findings.extend(run::check(&facts.run));
    findings.extend(devices::check(&facts.net, &facts.run));
    findings.extend(cni::check(&facts.cni));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_and_what_to_do() {
        let printed = |finding: Finding| {
            let mut out = Vec::new();
            finding.print(&mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(printed(Finding::ok("a", "all is well")), "ok   all is well\n");
        assert_eq!(printed(Finding::note("a", "it is slow", "wait")), "note it is slow — wait\n");
        assert_eq!(
            printed(Finding::fail("a", "it is off", "switch it on")),
            "FAIL it is off — switch it on\n"
        );
        let json = serde_json::to_string(&Finding::fail("jit", "off", "on")).unwrap();
        assert_eq!(json, r#"{"level":"fail","check":"jit","what":"off","remedy":"on"}"#);
    }

    /// Facts of which nothing could be read are told as such, and no check panics on them.
    #[test]
    fn a_node_of_which_nothing_is_known_is_not_called_well() {
        let findings = check(&Facts::default());
        assert!(findings.iter().any(|finding| finding.level == Level::Fail));
        for finding in &findings {
            assert_eq!(finding.level == Level::Ok, finding.remedy.is_none(), "{finding:?}");
            assert!(!finding.what.is_empty() && !finding.what.ends_with('.'), "{finding:?}");
        }
    }
}
