//! Contenders in the kernel: routing alone, nftables, iptables.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Counters, Filter, Switch, installed, sources};
use crate::run::lab::Lab;
use crate::run::scenario::{Family, Scenario};

/// Routing alone.
#[derive(Debug)]
pub struct Plain;

impl Switch for Plain {
    fn on(&mut self, _lab: &Lab, _scenario: Scenario) -> Result<()> {
        Ok(())
    }

    fn off(&mut self, _lab: &Lab) -> Result<()> {
        Ok(())
    }
}

/// nftables: table `inet`, forward hook, policy drop.
#[derive(Debug)]
pub struct Nft {
    linear: bool,
    room: Option<ConntrackRoom>,
}

impl Nft {
    /// A rule for each source.
    pub fn linear() -> Self {
        Self { linear: true, room: None }
    }

    /// One set of sources.
    pub fn sets() -> Self {
        Self { linear: false, room: None }
    }
}

impl Switch for Nft {
    // Counters stand only behind the first rule, so that no packet of an established
    // flow pays for one; the policy drops, so what arrived was accepted.
    fn on(&mut self, lab: &Lab, scenario: Scenario) -> Result<()> {
        installed("nft", "nftables")?;
        self.room = ConntrackRoom::make(scenario.table_flows())?;
        let sources = sources(lab.client.ip(scenario.family), scenario.rules);
        let (ip, kind) = match scenario.family {
            Family::V4 => ("ip", "ipv4_addr"),
            Family::V6 => ("ip6", "ipv6_addr"),
        };
        let mut text = String::from("table inet weir_bench {\n");
        let accept = if self.linear {
            let (client, decoys) = sources.split_last().context("no rules")?;
            let mut rules = String::new();
            for source in decoys {
                writeln!(rules, "{ip} saddr {source} accept")?;
            }
            format!("{rules}{ip} saddr {client} counter name accepted accept\n")
        } else {
            let elements = sources.join(",\n");
            writeln!(text, "set clients {{ type {kind}; elements = {{ {elements} }} }}")?;
            format!("{ip} saddr @clients counter name accepted accept\n")
        };
        write!(
            text,
            "counter accepted {{ }}\ncounter dropped {{ }}\n\
             chain forward {{ type filter hook forward priority filter; policy drop;\n\
             ct state established,related accept\n{accept}counter name dropped\n}}\n}}\n"
        )?;
        lab.node_with_input("nft", &["-f", "-"], &text)?;
        Ok(())
    }

    fn off(&mut self, lab: &Lab) -> Result<()> {
        if lab.node("nft", &["list", "tables"])?.contains("inet weir_bench") {
            lab.node("nft", &["delete", "table", "inet", "weir_bench"])?;
        }
        forget_connections(lab)?;
        self.room = None;
        Ok(())
    }

    fn counters(&self, lab: &Lab) -> Result<Counters> {
        let text = lab.node("nft", &["-j", "list", "counters", "table", "inet", "weir_bench"])?;
        let listed: Value = serde_json::from_str(&text)?;
        let packets = |name: &str| {
            let counters = listed["nftables"].as_array().into_iter().flatten();
            counters
                .filter(|entry| entry["counter"]["name"] == name)
                .find_map(|entry| entry["counter"]["packets"].as_f64())
                .with_context(|| format!("nft lists no counter {name}"))
        };
        let filter = Filter { accepted: packets("accepted")?, dropped: packets("dropped")? };
        Ok(Counters { filter: Some(filter), ..Counters::default() })
    }
}

/// iptables' FORWARD chain and an ipset.
#[derive(Debug, Default)]
pub struct Iptables {
    family: Family,
    room: Option<ConntrackRoom>,
}

impl Iptables {
    /// One of iptables' programs, by its name for IPv4.
    fn program(&self, name: &str) -> String {
        match self.family {
            Family::V4 => name.to_owned(),
            Family::V6 => name.replace("iptables", "ip6tables"),
        }
    }
}

impl Switch for Iptables {
    fn on(&mut self, lab: &Lab, scenario: Scenario) -> Result<()> {
        installed("iptables", "iptables")?;
        installed("ipset", "ipset")?;
        self.room = ConntrackRoom::make(scenario.table_flows())?;
        self.family = scenario.family;
        let kind = if self.family == Family::V6 { "inet6" } else { "inet" };
        let most = scenario.rules.max(64);
        let mut set = format!("create weir_bench hash:ip family {kind} maxelem {most}\n");
        for source in sources(lab.client.ip(self.family), scenario.rules) {
            writeln!(set, "add weir_bench {source}")?;
        }
        lab.node_with_input("ipset", &["restore"], &set)?;
        let rules = "*filter\n:FORWARD DROP [0:0]\n\
            -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n\
            -A FORWARD -m set --match-set weir_bench src -j ACCEPT\nCOMMIT\n";
        lab.node_with_input(&self.program("iptables-restore"), &["--noflush"], rules)?;
        Ok(())
    }

    fn off(&mut self, lab: &Lab) -> Result<()> {
        let iptables = self.program("iptables");
        lab.node(&iptables, &["-F", "FORWARD"])?;
        lab.node(&iptables, &["-P", "FORWARD", "ACCEPT"])?;
        // An empty table still has a hook in the packets' way. The older iptables has no
        // such table, and its hooks stay; the evidence names neither then.
        let own = if self.family == Family::V6 { "ip6" } else { "ip" };
        if lab.node("nft", &["list", "tables"])?.contains(&format!("table {own} filter")) {
            lab.node("nft", &["delete", "table", own, "filter"])?;
        }
        if lab.node("ipset", &["list", "-n"])?.contains("weir_bench") {
            lab.node("ipset", &["destroy", "weir_bench"])?;
        }
        forget_connections(lab)?;
        self.room = None;
        Ok(())
    }

    fn counters(&self, lab: &Lab) -> Result<Counters> {
        let text = lab.node(self.program("iptables-save"), &["-c", "-t", "filter"])?;
        let filter = iptables_counters(&text).context("iptables-save shows no such rules")?;
        Ok(Counters { filter: Some(filter), ..Counters::default() })
    }
}

/// `[packets:bytes] -A FORWARD ... weir_bench ...` and `:FORWARD DROP [packets:bytes]`.
fn iptables_counters(text: &str) -> Option<Filter> {
    let packets = |line: &str| line.split_once('[')?.1.split(':').next()?.parse().ok();
    let find = |wanted: &[&str]| {
        text.lines().find(|line| wanted.iter().all(|word| line.contains(word))).and_then(packets)
    };
    Some(Filter {
        accepted: find(&["-A FORWARD", "--match-set weir_bench"])?,
        dropped: find(&[":FORWARD DROP"])?,
    })
}

/// Conntrack's hooks go with the last rule that asks for them; its entries do not.
fn forget_connections(lab: &Lab) -> Result<()> {
    installed("conntrack", "conntrack")?;
    lab.node("conntrack", &["-F"])?;
    Ok(())
}

/// Conntrack's size is one setting for the whole machine. Where a scenario needs more,
/// it is raised for as long as this lives, and then set back.
#[derive(Debug)]
pub struct ConntrackRoom {
    max: String,
    buckets: String,
}

const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
const BUCKETS: &str = "/proc/sys/net/netfilter/nf_conntrack_buckets";

impl ConntrackRoom {
    fn make(flows: u32) -> Result<Option<Self>> {
        let Ok(max) = fs::read_to_string(MAX) else { return Ok(None) }; // no such module yet
        let buckets = fs::read_to_string(BUCKETS)?;
        let wanted = flows.saturating_add(flows / 4);
        if max.trim().parse::<u32>().is_ok_and(|max| max >= wanted) {
            return Ok(None);
        }
        let room = Self { max, buckets };
        let set = |path, value: u32| {
            fs::write(path, value.to_string())
                .with_context(|| format!("{flows} flows need a larger {path}"))
        };
        set(BUCKETS, wanted.next_power_of_two())?;
        set(MAX, wanted)?;
        let now = fs::read_to_string(MAX)?;
        ensure!(now.trim() == wanted.to_string(), "{MAX} stays at {}", now.trim());
        Ok(Some(room))
    }
}

impl Drop for ConntrackRoom {
    fn drop(&mut self) {
        for (path, value) in [(MAX, &self.max), (BUCKETS, &self.buckets)] {
            if let Err(error) = fs::write(path, value.trim()) {
                eprintln!("weir-bench: {path} could not be set back to {}: {error}", value.trim());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iptables_packets_are_those_in_front_of_the_rule() {
        let text = "*filter\n:INPUT ACCEPT [9:9]\n:FORWARD DROP [7:420]\n\
            [50:4200] -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
            [3:252] -A FORWARD -m set --match-set weir_bench src -j ACCEPT\nCOMMIT\n";
        let filter = iptables_counters(text).unwrap();
        assert_eq!((filter.accepted, filter.dropped), (3.0, 7.0));
        assert!(iptables_counters("*filter\n:FORWARD ACCEPT [0:0]\n").is_none());
    }
}
