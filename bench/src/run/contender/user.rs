//! What contenders with AF_XDP ports on the pods' own devices have in common.
//!
//! Such a port takes every frame that leaves the pod; the kernel routes none. So the pods
//! must find the node's address without its answer to ARP, and fill in checksums and cut
//! segments themselves, because nothing behind a raw port does it for them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::run::lab::{Lab, Pod, Where, output};
use crate::run::scenario::Family;

/// The pods' settings before they were changed.
#[derive(Debug, Default)]
pub struct Pods {
    family: Family,
    features: BTreeMap<&'static str, String>,
}

impl Pods {
    /// Makes the pods ready for ports that know frames only.
    ///
    /// # Errors
    /// What `ip` or `ethtool` say.
    pub fn prepare(&mut self, lab: &Lab, family: Family) -> Result<()> {
        self.family = family;
        super::installed("ethtool", "ethtool")?;
        for pod in [&lab.client, &lab.server] {
            self.features.insert(pod.name, features(lab, pod)?);
            lab.pod(pod, "ethtool", &["-K", "eth0", "tx", "off"])?;
            let gateway = gateway(lab, pod, family)?;
            let lladdr = ["lladdr", &pod.veth_mac, "nud", "permanent", "dev", "eth0"];
            lab.pod(pod, "ip", &[&["neigh", "replace", &gateway], &lladdr[..]].concat())?;
        }
        Ok(())
    }

    /// Sets everything back, and takes XDP programs off the pods' devices.
    ///
    /// # Errors
    /// When a setting is not what it was.
    pub fn restore(&mut self, lab: &Lab) -> Result<()> {
        for pod in [&lab.client, &lab.server] {
            lab.node("ip", &["link", "set", "dev", &pod.veth, "xdp", "off"])?;
            let Some(before) = self.features.remove(pod.name) else { continue };
            lab.pod(pod, "ethtool", &["-K", "eth0", "tx", "on"])?;
            let after = features(lab, pod)?;
            ensure!(before == after, "the features of {}'s device are not as before", pod.name);
            let gateway = gateway(lab, pod, self.family)?;
            lab.pod(pod, "ip", &["neigh", "flush", "to", &gateway, "nud", "permanent"])?;
        }
        Ok(())
    }
}

/// A device's features, as ethtool lists them.
fn features(lab: &Lab, pod: &Pod) -> Result<String> {
    lab.pod(pod, "ethtool", &["-k", "eth0"])
}

/// The address to which a pod sends everything.
fn gateway(lab: &Lab, pod: &Pod, family: Family) -> Result<String> {
    let family = if family == Family::V6 { "-6" } else { "-4" };
    let routes = lab.pod(pod, "ip", &[family, "route", "show", "default"])?;
    let words: Vec<&str> = routes.split_whitespace().collect();
    let via = words.iter().position(|word| *word == "via");
    let gateway = via.and_then(|at| words.get(at + 1));
    Ok((*gateway.with_context(|| format!("{} has no default route", pod.name))?).to_owned())
}

/// Whether the server answers, and question and answer went through user space: until the
/// ports are there, the kernel routes between the pods.
pub fn answers(lab: &Lab, family: Family) -> bool {
    let Ok(before) = redirected(lab) else { return false };
    pings(lab, family) && redirected(lab).is_ok_and(|after| after >= before + 2.0)
}

fn pings(lab: &Lab, family: Family) -> bool {
    let mut ping = lab.command(Where::Pod(&lab.client), "ping");
    ping.args(["-c", "1", "-W", "1", &lab.server.ip(family).to_string()]);
    output(&mut ping, std::time::Duration::from_secs(5)).is_ok()
}

/// Frames that XDP programs at the pods' devices have handed to user space so far.
pub fn redirected(lab: &Lab) -> Result<f64> {
    let mut sum = 0.0;
    for pod in [&lab.client, &lab.server] {
        sum += redirected_of(&lab.node("ethtool", &["-S", &pod.veth])?);
    }
    Ok(sum)
}

/// Adds up `rx_queue_N_xdp_redirect: COUNT` over the queues.
fn redirected_of(text: &str) -> f64 {
    let lines = text.lines().filter_map(|line| line.trim().split_once(": "));
    lines
        .filter(|(name, _)| name.starts_with("rx_queue_") && name.ends_with("_xdp_redirect"))
        .filter_map(|(_, count)| count.trim().parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirected_frames_of_all_queues_count() {
        let text = "NIC statistics:\n     peer_ifindex: 2\n     rx_queue_0_xdp_packets: 9\n\
             \x20    rx_queue_0_xdp_redirect: 7\n     rx_queue_1_xdp_redirect: 5\n\
             \x20    rx_queue_0_xdp_redirect_errors: 100\n";
        assert_eq!(redirected_of(text), 12.0);
        assert_eq!(redirected_of(""), 0.0);
    }
}
