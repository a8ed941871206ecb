//! weir0 as one end of a veth pair, whose other end is in a namespace of its own.
//!
//! ```text
//!  pod's veth ── steering: miss ──> weir0 ══ veth ══> weir1 ── XDP ──> AF_XDP sockets
//!  pod's veth <── weir_return ────  weir0 <══ veth ══ weir1 <───────── AF_XDP sockets
//! ```
//!
//! Invariants: both ends have one queue a worker; the MTU is the largest that XDP
//! carries, since packets that do not fit vanish without a trace; transmit checksum and
//! segmentation offload of weir0 are off, else workers see unfinished packets; neither
//! end has an address, ARP or IPv6, so no frame of the kernel's own ever appears on it.

use std::io;

use crate::ethtool;
use crate::netlink::Netlink;
use crate::netns::NetNs;
use crate::shim::SHIM_LEN;

use super::disable_ipv6;

/// The largest MTU of a veth with a native XDP program: one page less headroom (256),
/// `struct skb_shared_info` (320) and the Ethernet header (veth.c, `veth_xdp_set`).
const MAX_NATIVE_XDP_MTU: u32 = 4096 - 256 - 320 - 14;

/// The largest MTU of a pod whose packets fit through the pair.
#[allow(clippy::cast_possible_truncation, reason = "16")]
pub const MAX_POD_MTU: u32 = MAX_NATIVE_XDP_MTU - SHIM_LEN as u32;

/// The punt pair, up and running. weir1's namespace dies with the last holder.
#[derive(Debug)]
pub struct PuntPair {
    /// Index of weir0.
    pub near_index: u32,
    /// Name of weir0.
    pub near: String,
    /// Name of weir1.
    pub far: String,
    /// Where weir1 is.
    pub netns: NetNs,
    /// The MTU of both ends, in bytes.
    pub mtu: u32,
}

impl PuntPair {
    /// Makes the pair, in place of what an earlier daemon may have left.
    ///
    /// # Errors
    /// Names the step that the kernel refused, and why.
    pub async fn make(prefix: &str, queues: u32) -> io::Result<Self> {
        let (near, far) = (format!("{prefix}0"), format!("{prefix}1"));
        // As large as XDP allows: pods may come with other MTUs later.
        let mtu = MAX_NATIVE_XDP_MTU;
        let netlink = Netlink::open()?;
        super::remove_leftover(&netlink, &near).await?;
        let netns = NetNs::create().map_err(|e| {
            io::Error::new(e.kind(), format!("cannot make a network namespace for {far}: {e}"))
        })?;
        netlink.add_veth(&near, &far, &netns, mtu, queues).await?;
        let near_index = netlink
            .index_of(&near)
            .await?
            .ok_or_else(|| io::Error::other(format!("{near} disappeared while it was made")))?;
        disable_ipv6(&near);
        ethtool::disable_transmit_offloads(&near).map_err(|e| {
            io::Error::new(e.kind(), format!("cannot turn {near}'s checksum offload off: {e}"))
        })?;
        netns.run(|| bring_up_far(&far))?;
        netlink.set_up_without_arp(near_index).await?;
        Ok(Self { near_index, near, far, netns, mtu })
    }
}

/// Runs inside weir1's namespace.
fn bring_up_far(far: &str) -> io::Result<()> {
    disable_ipv6(far);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let netlink = Netlink::open()?;
        let index = netlink
            .index_of(far)
            .await?
            .ok_or_else(|| io::Error::other(format!("{far} is not in its namespace")))?;
        netlink.set_up_without_arp(index).await
    })
}
