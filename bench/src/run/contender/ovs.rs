//! Open vSwitch: userspace datapath (`datapath_type=netdev`), AF_XDP ports, conntrack.
//!
//! No kernel module, and no database of the machine's: an `ovsdb-server` and an
//! `ovs-vswitchd` of their own in the lab's `/run`. One polling thread on the first
//! processor. The flows do what routing does (addresses rewritten, TTL counted down),
//! established packets first; new ones need a flow that names their source.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result};

use super::user::{Pods, answers, redirected};
use super::{Counters, Switch, installed, sources};
use crate::run::lab::{Daemon, Lab, Where};
use crate::run::scenario::{Family, Scenario};

const DIR: &str = "/run/weir-bench-ovs";
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const PATIENCE: Duration = Duration::from_secs(20);

/// The switch and its database.
#[derive(Debug, Default)]
pub struct Ovs {
    pods: Pods,
    database: Option<Daemon>,
    switch: Option<Daemon>,
}

impl Ovs {
    fn path(name: &str) -> String {
        format!("{DIR}/{name}")
    }

    fn vsctl(lab: &Lab, arguments: &[&str]) -> Result<String> {
        let database = format!("--db=unix:{}", Self::path("db.sock"));
        lab.node("ovs-vsctl", &[&[database.as_str(), "--timeout=15"], arguments].concat())
    }

    fn appctl(lab: &Lab, arguments: &[&str]) -> Result<String> {
        let target = Self::path("switch.ctl");
        lab.node("ovs-appctl", &[&["--timeout=10", "--target", &target], arguments].concat())
    }

    /// The flows: track; established packets; new ones by source; nothing else.
    fn flows(lab: &Lab, scenario: Scenario) -> Result<String> {
        let (client, server) = (&lab.client, &lab.server);
        let to = |from: &str, mac: &str, port: u32| {
            format!("mod_dl_src:{from},mod_dl_dst:{mac},dec_ttl,output:{port}")
        };
        let there = to(&server.veth_mac, &server.mac, 2);
        let back = to(&client.veth_mac, &client.mac, 1);
        let (ip, from) = match scenario.family {
            Family::V4 => ("ip", "nw_src"),
            Family::V6 => ("ipv6", "ipv6_src"),
        };
        let mut text = format!("table=0,priority=9,{ip} actions=ct(table=1)\n");
        writeln!(text, "table=1,priority=9,{ip},ct_state=+trk+est,in_port=1 actions={there}")?;
        writeln!(text, "table=1,priority=9,{ip},ct_state=+trk+est,in_port=2 actions={back}")?;
        writeln!(text, "table=1,priority=8,{ip},ct_state=+trk+rel,in_port=2 actions={back}")?;
        for source in sources(lab.client.ip(scenario.family), scenario.rules) {
            writeln!(
                text,
                "table=1,priority=5,{ip},ct_state=+trk+new,in_port=1,{from}={source} \
                 actions=ct(commit),{there}"
            )?;
        }
        Ok(text)
    }

    fn start(&mut self, lab: &Lab, scenario: Scenario) -> Result<()> {
        lab.node("mkdir", &["-p", DIR])?;
        lab.node("ovsdb-tool", &["create", &Self::path("conf.db"), SCHEMA])?;
        let socket = Self::path("db.sock");
        let mut command = lab.command(Where::Node, "ovsdb-server");
        command.arg(Self::path("conf.db")).args([
            format!("--remote=punix:{socket}"),
            format!("--unixctl={}", Self::path("db.ctl")),
        ]);
        let database = self.database.insert(lab.spawn("ovsdb-server", command)?);
        database.wait_until(PATIENCE, || lab.node_path(&socket).exists())?;
        Self::vsctl(lab, &["--no-wait", "init"])?;

        let mut command = lab.command(Where::Node, "env");
        command.args([format!("OVS_RUNDIR={DIR}"), "ovs-vswitchd".to_owned()]).args([
            format!("unix:{socket}"),
            format!("--unixctl={}", Self::path("switch.ctl")),
            format!("--pidfile={}", Self::path("switch.pid")),
        ]);
        let switch = self.switch.insert(lab.spawn("ovs-vswitchd", command)?);
        let ready = Self::path("switch.ctl");
        switch.wait_until(PATIENCE, || lab.node_path(&ready).exists())?;
        Self::vsctl(lab, &["set", "open_vswitch", ".", "other_config:pmd-cpu-mask=1"])?;
        let bridge = "add-br br0 -- set bridge br0 datapath_type=netdev fail-mode=secure";
        Self::vsctl(lab, &bridge.split(' ').collect::<Vec<_>>())?;
        for (number, pod) in [(1, &lab.client), (2, &lab.server)] {
            let port = &pod.veth;
            let words = format!(
                "add-port br0 {port} -- set interface {port} type=afxdp options:n_rxq=1 \
                 options:xdp-mode=native ofport_request={number}"
            );
            Self::vsctl(lab, &words.split_whitespace().collect::<Vec<_>>())?;
            let error = Self::vsctl(lab, &["--if-exists", "get", "interface", port, "error"])?;
            anyhow::ensure!(error.trim().trim_matches(['[', ']', '"']).is_empty(), "{error}");
        }
        let bridge = format!("unix:{}", Self::path("br0.mgmt"));
        lab.node_with_input(
            "ovs-ofctl",
            &["add-flows", &bridge, "-"],
            &Self::flows(lab, scenario)?,
        )?;
        switch.wait_until(PATIENCE, || answers(lab, scenario.family)).context("nothing passes")
    }
}

impl Switch for Ovs {
    fn on(&mut self, lab: &Lab, scenario: Scenario) -> Result<()> {
        for program in ["ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "ovsdb-tool", "ovs-ofctl"] {
            installed(program, "openvswitch-switch")?;
        }
        self.pods.prepare(lab, scenario.family)?;
        self.start(lab, scenario)
    }

    fn off(&mut self, lab: &Lab) -> Result<()> {
        if let Some(switch) = self.switch.take() {
            // Takes the ports, and with them the XDP programs, away.
            let _ = Self::appctl(lab, &["exit", "--cleanup"]); // ended below in any case
            switch.end();
        }
        if let Some(database) = self.database.take() {
            database.end();
        }
        lab.node("rm", &["-rf", DIR])?;
        self.pods.restore(lab)
    }

    fn charged(&self) -> Vec<u32> {
        self.switch.iter().map(Daemon::pid).collect()
    }

    fn counters(&self, lab: &Lab) -> Result<Counters> {
        let tracked = Self::appctl(lab, &["dpctl/ct-get-nconns"])?;
        Ok(Counters {
            redirected: Some(redirected(lab)?),
            tracked: Some(tracked.trim().parse().context("ct-get-nconns gives a number")?),
            ..Counters::default()
        })
    }
}
