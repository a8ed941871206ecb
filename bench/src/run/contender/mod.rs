//! What is put between the two pods, and how it is taken away again.
//!
//! | Contender | Between the pods |
//! |---|---|
//! | `plain` | routing alone |
//! | `nft-linear` | routing; nftables, a rule for each address, the client's last |
//! | `nft-sets` | routing; nftables, one set of addresses |
//! | `iptables-ipset` | routing; iptables, one ipset of addresses |
//! | `ovs` | Open vSwitch, userspace datapath on AF_XDP ports, its own conntrack |
//! | `testpmd` | DPDK's forwarder on AF_XDP ports: no policy at all, a ceiling |
//! | `weir` | both daemons, decided flows in the kernel |
//! | `weir-off` | the same, every packet through user space (AF_XDP) |
//! | `weir-tap` | the same by a TAP device: GSO packets whole |
//!
//! All that filter hold the same rules: so many sources, one of which is the client.
//! What is stateful accepts established packets first, as administrators write it.
//!
//! Between two contenders the node is bare: no table, no set, conntrack off and empty,
//! no hook, no XDP program, no daemon, nothing pinned, devices' features as they were.
//! Programs in user space run on the first processor, the load on the last.

mod kernel;
mod ovs;
mod testpmd;
mod user;
mod weir;

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::lab::Lab;
use super::scenario::{Flows, Load, Scenario};

/// Who is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// Routing alone.
    Plain,
    /// nftables, a rule for each address.
    NftLinear,
    /// nftables, a set.
    NftSets,
    /// iptables and an ipset.
    IptablesIpset,
    /// Open vSwitch, userspace datapath.
    Ovs,
    /// DPDK's forwarder.
    Testpmd,
    /// Decided flows in the kernel.
    Weir,
    /// Every packet through user space, by AF_XDP.
    WeirOff,
    /// Every packet through user space, by a TAP device.
    WeirTap,
}

impl Contender {
    /// All, in the order of reports.
    pub const ALL: [Self; 9] = [
        Self::Plain,
        Self::NftLinear,
        Self::NftSets,
        Self::IptablesIpset,
        Self::Ovs,
        Self::Testpmd,
        Self::Weir,
        Self::WeirOff,
        Self::WeirTap,
    ];

    /// As the command line and samples name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::NftLinear => "nft-linear",
            Self::NftSets => "nft-sets",
            Self::IptablesIpset => "iptables-ipset",
            Self::Ovs => "ovs",
            Self::Testpmd => "testpmd",
            Self::Weir => "weir",
            Self::WeirOff => "weir-off",
            Self::WeirTap => "weir-tap",
        }
    }

    /// Whether every packet passes a program in user space.
    pub fn is_user_space(self) -> bool {
        matches!(self, Self::Ovs | Self::Testpmd | Self::WeirOff | Self::WeirTap)
    }

    /// Whether a report without it is none: Weir, what its figures are ratios to.
    pub fn is_essential(self) -> bool {
        !matches!(self, Self::IptablesIpset | Self::Ovs | Self::Testpmd)
    }

    /// A forwarder that decides nothing has no flows that would be new to it; by which
    /// device packets reach Weir's user space matters to new flows no more than to others.
    pub fn takes_part(self, scenario: Scenario) -> bool {
        let new = match scenario.load {
            Load::Packets { flows, .. } => !matches!(flows, Flows::Established(_)),
            Load::Apps => false,
        };
        !(new && matches!(self, Self::Testpmd | Self::WeirTap))
    }

    /// The means to switch it on and off; `bin` holds Weir's programs.
    pub fn switch(self, bin: &std::path::Path) -> Box<dyn Switch> {
        match self {
            Self::Plain => Box::new(kernel::Plain),
            Self::NftLinear => Box::new(kernel::Nft::linear()),
            Self::NftSets => Box::new(kernel::Nft::sets()),
            Self::IptablesIpset => Box::new(kernel::Iptables::default()),
            Self::Ovs => Box::new(ovs::Ovs::default()),
            Self::Testpmd => Box::new(testpmd::Testpmd::default()),
            Self::Weir => Box::new(weir::Weir::new(bin, "on", "af_xdp")),
            Self::WeirOff => Box::new(weir::Weir::new(bin, "off", "af_xdp")),
            Self::WeirTap => Box::new(weir::Weir::new(bin, "off", "tap")),
        }
    }
}

/// Switches one contender on and off.
pub trait Switch {
    /// Puts it between the pods; returns when it is at work.
    ///
    /// # Errors
    /// Why it cannot be: a program is missing, the kernel refuses. What was already
    /// done is undone by [`Self::off`].
    fn on(&mut self, lab: &Lab, scenario: Scenario) -> Result<()>;

    /// Takes it away, completely, whatever state it is in.
    ///
    /// # Errors
    /// What could not be undone.
    fn off(&mut self, lab: &Lab) -> Result<()>;

    /// The processes whose time is part of its packets' cost.
    fn charged(&self) -> Vec<u32> {
        Vec::new()
    }

    /// Its own counters, added to those of the node.
    ///
    /// # Errors
    /// When it does not tell.
    fn counters(&self, _lab: &Lab) -> Result<Counters> {
        Ok(Counters::default())
    }
}

/// What a contender counted since it was switched on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// Of a packet filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// Weir's steering counters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weir: Option<BTreeMap<String, f64>>,
    /// Frames that XDP programs at the pods' devices handed to user space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirected: Option<f64>,
    /// Connections that Open vSwitch tracks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracked: Option<f64>,
}

/// Packets that met a filter's rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Filter {
    /// Accepted by the rule that names the client: first packets of flows.
    pub accepted: f64,
    /// Accepted by nothing.
    pub dropped: f64,
}

/// The node's state at one moment: what proves who was at work.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Entries of the node's conntrack table.
    pub conntrack: f64,
    /// Packets that the node's ends of the pods' devices have counted, both directions: each
    /// packet twice on its way, a GSO packet as one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<f64>,
    /// What is left in the way that would not show in any counter: tables, XDP
    /// programs, hooks, pins. Empty for `plain`.
    pub present: Vec<String>,
    /// The contender's own counters.
    #[serde(flatten)]
    pub counters: Counters,
}

impl Evidence {
    /// Looks at the node.
    ///
    /// # Errors
    /// When the node or the contender does not tell.
    pub fn take(lab: &Lab, switch: &dyn Switch) -> Result<Self> {
        let count = lab.node("cat", &["/proc/sys/net/netfilter/nf_conntrack_count"]);
        let (mut present, mut passed) = (Vec::new(), 0.0);
        let tables = lab.node("nft", &["list", "tables"])?;
        present.extend(tables.lines().map(|table| format!("nft {table}")));
        for pod in [&lab.client, &lab.server] {
            let link: Value =
                serde_json::from_str(&lab.node("ip", &["-j", "-s", "link", "show", &pod.veth])?)?;
            for direction in ["rx", "tx"] {
                let packets = &link[0]["stats64"][direction]["packets"];
                passed += packets.as_f64().context("the pod's device does not count")?;
            }
            if !link[0]["xdp"].is_null() {
                present.push(format!("an XDP program at {}", pod.veth));
            }
            // Of either kind: tcx links show in no list of tc.
            let hooks: Value = serde_json::from_str(
                &lab.node("bpftool", &["-j", "net", "show", "dev", &pod.veth])?,
            )?;
            let hooks = hooks[0]["tc"].as_array().map_or(0, Vec::len);
            if hooks > 0 {
                present.push(format!("tc programs at {}: {hooks}", pod.veth));
            }
        }
        if lab.node_path("/sys/fs/bpf/weir").exists() {
            present.push("Weir's pins".to_owned());
        }
        Ok(Self {
            // Without the module nothing is tracked.
            conntrack: count.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0.0),
            passed: Some(passed),
            present,
            counters: switch.counters(lab)?,
        })
    }
}

/// The sources that the rules name, the client's address last.
fn sources(client: IpAddr, rules: u32) -> Vec<String> {
    let decoy = |n: u32| {
        let (high, low) = (n / 250, n % 250 + 1);
        match client {
            IpAddr::V4(_) => format!("10.250.{high}.{low}"),
            IpAddr::V6(_) => format!("fd00:10:250::{high:x}:{low:x}"),
        }
    };
    (1..rules).map(decoy).chain([client.to_string()]).collect()
}

/// Where a program is, as a shell would find it.
fn installed(program: &str, package: &str) -> Result<PathBuf> {
    let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"];
    let found = folders.iter().map(|folder| PathBuf::from(folder).join(program));
    found
        .into_iter()
        .find(|path| fs::metadata(path).is_ok_and(|file| file.is_file()))
        .ok_or_else(|| anyhow::anyhow!("{program} is not installed (apt-get install {package})"))
}
