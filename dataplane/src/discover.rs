//! Finding pods without a CNI's help: every network namespace under `/run/netns` whose
//! veth has its other end on this node.
//!
//! A container runtime makes the namespace file first, then the CNI plugin makes the
//! veth, then gives it addresses. Link and address events of all namespaces
//! (`NETLINK_LISTEN_ALL_NSID`) trigger a scan; a scan is a plain dump, so a missed event
//! costs time, never correctness. Global addresses only: link-local ones are not the
//! pod's identity, and traffic between pods under them is refused.
//!
//! What is found is a claim: which of a pod's addresses count is [`crate::claims`]' to say.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::netlink::{Link, LinkAddress, Netlink};
use crate::netns::NetNs;
use crate::steer::macs::Mac;

/// A pod's interface, as found on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Index of the host-side device.
    pub ifindex: u32,
    /// Name of the host-side device.
    pub device: String,
    /// MTU of the host-side device, in bytes.
    pub mtu: u32,
    /// The hardware address of the pod's side.
    pub mac: Option<Mac>,
    /// The pod's global addresses on that interface.
    pub addresses: Vec<IpAddr>,
    /// Name of the namespace file.
    pub netns: String,
}

/// Most addresses of one pod interface that count. A pod has one or two; without a bound
/// a pod that may add addresses could make every look at its packets slow.
const MAX_ADDRESSES: usize = 32;

/// The device on which kube-proxy in IPVS mode keeps the addresses of all Services. They
/// are not the node's own: what is sent to them goes on to pods.
const SERVICE_DEVICE: &str = "kube-ipvs0";

/// What a scan found.
#[derive(Debug, Default)]
pub struct Scan {
    /// Pods' interfaces, by index of the host side.
    pub bindings: Vec<Binding>,
    /// Indexes of all devices of the node: one that is not here is gone for good.
    pub devices: HashSet<u32>,
    /// Hardware addresses of the node's own devices.
    pub node_macs: HashSet<Mac>,
    /// Names of namespaces that could not be read this time.
    pub unreadable: HashSet<String>,
    /// The node's own addresses, link-local ones included, loopback ones not.
    pub node_addresses: Vec<IpAddr>,
}

/// Looks at every namespace under a directory.
pub struct Discovery {
    dir: PathBuf,
    netlink: Netlink,
    own: (u64, u64),
}

impl Discovery {
    /// Prepares discovery in the calling thread's namespace; needs a tokio runtime.
    ///
    /// # Errors
    /// When netlink or `/proc` is not to be had.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let own = NetNs::current()?.identity()?;
        Ok(Self { dir: dir.to_owned(), netlink: Netlink::open()?, own })
    }

    /// Scans once. A namespace that cannot be read is named in the result: it may just be
    /// going away, or the system may be short of something.
    ///
    /// # Errors
    /// When the node's own interfaces cannot be listed.
    pub async fn scan(&mut self) -> io::Result<Scan> {
        let host: HashMap<u32, Link> =
            self.netlink.links().await?.into_iter().map(|l| (l.index, l)).collect();
        let of_a_service = |index: u32| host.get(&index).is_some_and(|l| l.name == SERVICE_DEVICE);
        let mut scan = Scan {
            node_addresses: self
                .netlink
                .addresses()
                .await?
                .into_iter()
                .filter(|a| !a.address.is_loopback() && !of_a_service(a.index))
                .map(|a| a.address)
                .collect(),
            devices: host.keys().copied().collect(),
            node_macs: host.values().filter_map(|l| l.mac).collect(),
            ..Scan::default()
        };
        for (name, path) in namespace_files(&self.dir) {
            match self.bindings_of(&host, &name, &path).await {
                Ok(found) => scan.bindings.extend(found),
                Err(error) => {
                    tracing::debug!(netns = name, %error, "namespace not readable this time");
                    scan.unreadable.insert(name);
                }
            }
        }
        // One namespace may have two names.
        scan.bindings.sort_by_key(|b| b.ifindex);
        scan.bindings.dedup_by_key(|b| b.ifindex);
        Ok(scan)
    }

    async fn bindings_of(
        &mut self,
        host: &HashMap<u32, Link>,
        name: &str,
        path: &Path,
    ) -> io::Result<Vec<Binding>> {
        let netns = NetNs::open(path)?;
        if netns.identity()? == self.own {
            return Ok(Vec::new());
        }
        let id = self.netlink.netns_id(&netns).await?;
        let (links, addresses) = netns.run(inside)?;
        Ok(match_ends(host, id, &links, &addresses, name))
    }
}

/// Namespace files in a directory; none if there is no such directory (yet).
fn namespace_files(dir: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<_> = entries
        .filter_map(Result::ok)
        .map(|e| (e.file_name().to_string_lossy().into_owned(), e.path()))
        .collect();
    files.sort();
    files
}

/// Dumps links and addresses of the namespace that the calling thread is in.
fn inside() -> io::Result<(Vec<Link>, Vec<LinkAddress>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let netlink = Netlink::open()?;
        Ok((netlink.links().await?, netlink.addresses().await?))
    })
}

/// Pairs the pod's veths with the node's: each names the other's index, and the node's
/// end names the pod's namespace.
fn match_ends(
    host: &HashMap<u32, Link>,
    netns_id: Option<i32>,
    links: &[Link],
    addresses: &[LinkAddress],
    netns: &str,
) -> Vec<Binding> {
    // Without a number the namespace has no veth to this one; and no number must not
    // match a veth whose both ends are here.
    if netns_id.is_none() {
        return Vec::new();
    }
    links
        .iter()
        .filter(|l| l.veth)
        .filter_map(|l| {
            let near = host.get(&l.peer?)?;
            let paired = near.veth && near.peer == Some(l.index) && near.peer_netns == netns_id;
            paired.then(|| Binding {
                ifindex: near.index,
                device: near.name.clone(),
                mtu: near.mtu,
                mac: l.mac,
                addresses: addresses
                    .iter()
                    .filter(|a| a.index == l.index && a.global)
                    .map(|a| a.address)
                    .take(MAX_ADDRESSES)
                    .collect(),
                netns: netns.to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Option<Mac> = Some([2, 0, 0, 0, 0, 1]);

    fn veth(index: u32, peer: u32, peer_netns: Option<i32>) -> Link {
        let name = format!("veth{index}");
        Link {
            index,
            name,
            mtu: 1500,
            mac: MAC,
            veth: true,
            tun: false,
            master: false,
            loopback: false,
            peer: Some(peer),
            peer_netns,
        }
    }

    fn address(index: u32, text: &str, global: bool) -> LinkAddress {
        LinkAddress { index, address: text.parse().unwrap(), global }
    }

    fn node(links: &[Link]) -> HashMap<u32, Link> {
        links.iter().map(|l| (l.index, l.clone())).collect()
    }

    #[test]
    fn ends_that_name_each_other_are_a_pod() {
        let host = node(&[veth(7, 2, Some(3))]);
        let pod = [veth(2, 7, Some(0))];
        let addresses =
            [address(2, "10.0.0.5", true), address(2, "fe80::5", false), address(1, "::1", false)];
        let found = match_ends(&host, Some(3), &pod, &addresses, "cni-1");
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].ifindex, found[0].mac), (7, MAC));
        assert_eq!(found[0].addresses, ["10.0.0.5".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn equal_indexes_in_another_namespace_are_not() {
        // The node has a veth 7 whose peer is 2, but in another namespace.
        let host = node(&[veth(7, 2, Some(4))]);
        assert!(match_ends(&host, Some(3), &[veth(2, 7, Some(0))], &[], "cni-1").is_empty());
    }

    #[test]
    fn both_ends_on_the_node_are_not() {
        let host = node(&[veth(7, 2, None)]);
        assert!(match_ends(&host, None, &[veth(2, 7, Some(0))], &[], "cni-1").is_empty());
    }

    #[test]
    fn a_veth_whose_other_end_is_elsewhere_is_not() {
        let host = node(&[veth(7, 9, Some(3))]);
        assert!(match_ends(&host, Some(3), &[veth(2, 7, Some(0))], &[], "cni-1").is_empty());
    }
}
