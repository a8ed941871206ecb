//! Which hardware address is whose.

use std::collections::{BTreeMap, HashSet};

use crate::discover::Binding;
use crate::steer::macs::Mac;

/// The hardware address of each interface after a scan. What an interface has when it is
/// first seen comes from its CNI plugin and is believed; so is a change, unless the address is
/// another pod's or the node's.
pub(super) fn renewed(
    before: &BTreeMap<u32, Mac>,
    bindings: &[Binding],
    of_the_node: &HashSet<Mac>,
) -> BTreeMap<u32, Mac> {
    let mut after: BTreeMap<u32, Mac> = BTreeMap::new();
    for binding in bindings {
        let known = before.get(&binding.ifindex).copied();
        let Some(mac) = binding.mac.or(known) else { continue };
        let of_another = || {
            let has_it = |(&ifindex, &m): (&u32, &Mac)| ifindex != binding.ifindex && m == mac;
            of_the_node.contains(&mac) || before.iter().chain(&after).any(has_it)
        };
        let believed = match known {
            Some(known) if known != mac && of_another() => {
                tracing::error!(
                    device = binding.device, netns = binding.netns, mac = ?mac,
                    "this pod has taken a hardware address that another pod or the node has; \
                     its frames under it are dropped"
                );
                known
            }
            Some(known) if known != mac => {
                tracing::warn!(
                    device = binding.device, netns = binding.netns, was = ?known, now = ?mac,
                    "this pod has changed its hardware address"
                );
                mac
            }
            Some(_) | None => mac,
        };
        after.insert(binding.ifindex, believed);
    }
    after
}
