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
use std::time::{Duration, Instant};

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
    /// Which namespace that is: device and inode of its file.
    pub namespace: (u64, u64),
    /// Name of the pod's side.
    pub interface: String,
}

/// How often a namespace is entered of which all is known.
const SELDOM: Duration = Duration::from_secs(2);

/// Most addresses of one pod interface that count. A pod has one or two; without a bound
/// a pod that may add addresses could make every look at its packets slow.
const MAX_ADDRESSES: usize = 32;

/// The device on which kube-proxy in IPVS mode keeps the addresses of all Services. They
/// are not the node's own: what is sent to them goes on to pods.
const SERVICE_DEVICE: &str = "kube-ipvs0";

/// What a scan found.
#[derive(Debug)]
pub struct Scan {
    /// When it began: what came later it need not have seen.
    pub began: Instant,
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
    /// When a namespace was entered last, and what was found.
    entered: HashMap<(u64, u64), (Instant, Vec<Binding>)>,
}

/// The node's own side, at one moment.
#[derive(Debug)]
pub struct NodeSide {
    links: HashMap<u32, Link>,
}

impl NodeSide {
    /// Indexes of all devices.
    pub fn devices(&self) -> HashSet<u32> {
        self.links.keys().copied().collect()
    }

    /// Hardware addresses of the node's own devices.
    pub fn macs(&self) -> HashSet<Mac> {
        self.links.values().filter_map(|l| l.mac).collect()
    }

    /// The name of a device.
    pub fn device(&self, ifindex: u32) -> Option<&str> {
        self.links.get(&ifindex).map(|l| l.name.as_str())
    }

    /// Whether an interface that was found before is still there, as it was.
    fn has(&self, binding: &Binding) -> bool {
        let link = self.links.get(&binding.ifindex);
        link.is_some_and(|l| l.veth && l.name == binding.device && l.mtu == binding.mtu)
    }
}

impl Discovery {
    /// Prepares discovery in the calling thread's namespace; needs a tokio runtime.
    ///
    /// # Errors
    /// When netlink or `/proc` is not to be had.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let own = NetNs::current()?.identity()?;
        let netlink = Netlink::open()?;
        Ok(Self { dir: dir.to_owned(), netlink, own, entered: HashMap::new() })
    }

    /// Looks at the node's own devices.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn node_side(&self) -> io::Result<NodeSide> {
        let links = self.netlink.links().await?;
        Ok(NodeSide { links: links.into_iter().map(|l| (l.index, l)).collect() })
    }

    /// Scans once. Of the namespaces in `complete` all is known; they are entered seldom. A
    /// namespace that cannot be read is named in the result: it may just be
    /// going away, or the system may be short of something.
    ///
    /// # Errors
    /// When the node's own interfaces cannot be listed.
    pub async fn scan(&mut self, complete: &HashSet<(u64, u64)>) -> io::Result<Scan> {
        let began = Instant::now();
        let node = self.node_side().await?;
        let of_a_service = |index: u32| node.device(index) == Some(SERVICE_DEVICE);
        let mut scan = Scan {
            began,
            bindings: Vec::new(),
            unreadable: HashSet::new(),
            node_addresses: self
                .netlink
                .addresses()
                .await?
                .into_iter()
                .filter(|a| !a.address.is_loopback() && !of_a_service(a.index))
                .map(|a| a.address)
                .collect(),
            devices: node.devices(),
            node_macs: node.macs(),
        };
        let mut entered = HashMap::new();
        for (name, path) in namespace_files(&self.dir) {
            match self.look_into(&node, (&name, &path), complete, &mut entered).await {
                Ok(found) => scan.bindings.extend(found),
                Err(error) => {
                    tracing::debug!(netns = name, %error, "namespace not readable this time");
                    scan.unreadable.insert(name);
                }
            }
        }
        self.entered = entered;
        // One namespace may have two names.
        scan.bindings.sort_by_key(|b| b.ifindex);
        scan.bindings.dedup_by_key(|b| b.ifindex);
        Ok(scan)
    }

    /// Finds the interfaces of a namespace file; `entered` is what this scan has found so far.
    async fn look_into(
        &mut self,
        node: &NodeSide,
        (name, path): (&str, &Path),
        complete: &HashSet<(u64, u64)>,
        entered: &mut HashMap<(u64, u64), (Instant, Vec<Binding>)>,
    ) -> io::Result<Vec<Binding>> {
        let netns = NetNs::open(path)?;
        let id = netns.identity()?;
        let before = self.entered.remove(&id).filter(|(at, found)| {
            complete.contains(&id)
                && at.elapsed() < SELDOM
                && !found.is_empty()
                && found.iter().all(|b| node.has(b))
        });
        let (at, found) = match before {
            Some(before) => before,
            None => (Instant::now(), self.bindings_of(node, &netns, name).await?),
        };
        entered.insert(id, (at, found.clone()));
        Ok(found)
    }

    /// The interfaces of a namespace whose other end is on this node; `name` is for people.
    ///
    /// # Errors
    /// When it cannot be entered: it is gone, or no network namespace.
    pub async fn bindings_of(
        &mut self,
        node: &NodeSide,
        netns: &NetNs,
        name: &str,
    ) -> io::Result<Vec<Binding>> {
        let namespace = netns.identity()?;
        if namespace == self.own {
            return Ok(Vec::new());
        }
        let id = self.netlink.netns_id(netns).await?;
        let (links, addresses) = netns.run(inside)?;
        Ok(match_ends(&node.links, id, &links, &addresses, (name, namespace)))
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
    (netns, namespace): (&str, (u64, u64)),
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
                namespace,
                interface: l.name.clone(),
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
        let found = match_ends(&host, Some(3), &pod, &addresses, ("cni-1", (4, 1)));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].ifindex, found[0].mac), (7, MAC));
        assert_eq!((found[0].namespace, found[0].interface.as_str()), ((4, 1), "veth2"));
        assert_eq!(found[0].addresses, ["10.0.0.5".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn equal_indexes_in_another_namespace_are_not() {
        // The node has a veth 7 whose peer is 2, but in another namespace.
        let host = node(&[veth(7, 2, Some(4))]);
        assert!(
            match_ends(&host, Some(3), &[veth(2, 7, Some(0))], &[], ("cni-1", (4, 1))).is_empty()
        );
    }

    #[test]
    fn both_ends_on_the_node_are_not() {
        let host = node(&[veth(7, 2, None)]);
        assert!(match_ends(&host, None, &[veth(2, 7, Some(0))], &[], ("cni-1", (4, 1))).is_empty());
    }

    #[test]
    fn a_veth_whose_other_end_is_elsewhere_is_not() {
        let host = node(&[veth(7, 9, Some(3))]);
        assert!(
            match_ends(&host, Some(3), &[veth(2, 7, Some(0))], &[], ("cni-1", (4, 1))).is_empty()
        );
    }
}
