//! DPDK's `testpmd` on AF_XDP ports: one polling core that rewrites hardware addresses
//! and forwards. It decides nothing, so it is no rival but a ceiling for a program that
//! takes every packet through user space. Without huge pages, which a lab cannot have.

use std::time::Duration;

use anyhow::{Context, Result};

use super::user::{Pods, answers, redirected};
use super::{Counters, Switch, installed};
use crate::place::processors;
use crate::run::lab::{Daemon, Lab, Where};
use crate::run::scenario::Scenario;

const PATIENCE: Duration = Duration::from_secs(20);

/// The forwarder.
#[derive(Debug, Default)]
pub struct Testpmd {
    pods: Pods,
    program: Option<Daemon>,
}

impl Switch for Testpmd {
    fn on(&mut self, lab: &Lab, scenario: Scenario) -> Result<()> {
        let program = installed("dpdk-testpmd", "dpdk-dev librte-net-af-xdp23")?;
        self.pods.prepare(lab, scenario.family)?;
        let (client, server) = (&lab.client, &lab.server);
        let last = (processors() - 1).max(1).to_string();
        let mut command = lab.command(Where::Node, program);
        // The first processor forwards; the main thread sleeps on the last one. It ends
        // at once when its input does, unless it has statistics to print.
        command.args(["-l", &format!("0,{last}"), "--main-lcore", &last]);
        command.args("--no-huge -m 256 --no-pci --no-telemetry".split(' '));
        command.args(["--file-prefix", "weir-bench", "-d", "librte_net_af_xdp.so"]);
        for (n, pod) in [client, server].into_iter().enumerate() {
            command.args(["--vdev", &format!("net_af_xdp{n},iface={}", pod.veth)]);
        }
        command.args("-- --forward-mode=mac --auto-start --nb-cores=1".split(' '));
        command.args(["--total-num-mbufs=16384", "--stats-period=3600"]);
        for (n, pod) in [client, server].into_iter().enumerate() {
            command.arg(format!("--eth-peer={n},{}", pod.mac));
        }
        let program = self.program.insert(lab.spawn("testpmd", command)?);
        program.wait_until(PATIENCE, || answers(lab, scenario.family)).context("nothing passes")
    }

    fn off(&mut self, lab: &Lab) -> Result<()> {
        if let Some(program) = self.program.take() {
            program.end();
        }
        self.pods.restore(lab)
    }

    fn charged(&self) -> Vec<u32> {
        self.program.iter().map(Daemon::pid).collect()
    }

    fn counters(&self, lab: &Lab) -> Result<Counters> {
        Ok(Counters { redirected: Some(redirected(lab)?), ..Counters::default() })
    }
}
