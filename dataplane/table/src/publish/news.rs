//! What the dataplane tells unasked, and what control says to it: whose interface is whose,
//! and which pods' policies are in force.
//!
//! **Tickets.** What the CNI plugin says of one interface has a ticket, which no other has, not
//! even of an earlier dataplane of this boot; later ones are higher. All that stand are told
//! after each hello, in their order, and then that these were all; after that each as it comes.
//! So a control process always knows exactly what stands, however often either side starts anew.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::cni::{HostPort, PodRef};

/// What the dataplane tells unasked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum News {
    /// The CNI plugin has said whose an interface is. Its addresses are that pod's and nobody
    /// else's on this node, whatever else is known of it.
    Attached(Attached),
    /// What was said under this ticket holds no longer: its addresses are nobody's here.
    Detached {
        /// The ticket.
        ticket: u64,
    },
    /// Everything that stands has been told since the hello.
    AllAttached {
        /// The highest ticket that was ever given; 0 = none.
        last: u64,
    },
    /// An interface is cut off, and will be until someone does something about it.
    NotEnforced(NotEnforced),
    /// That is over for an interface.
    Cleared {
        /// Index of its host-side device.
        ifindex: u32,
    },
}

/// An interface of a pod, by the CNI plugin's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Its ticket; not 0.
    pub ticket: u64,
    /// Whose it is.
    pub pod: PodRef,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Ports of the node that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<HostPort>,
}

/// An interface that is cut off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotEnforced {
    /// Index of its host-side device.
    pub ifindex: u32,
    /// Name of that device.
    pub device: String,
    /// Name of the pod's network namespace.
    pub netns: String,
    /// Whose it is, if the CNI plugin has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    /// Its addresses.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// What kind of reason.
    pub reason: CutOff,
    /// In words.
    pub words: String,
}

/// Why an interface is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CutOff {
    /// The hooks could not be attached to its device.
    Hooks,
    /// It claims an address that the node or another pod has.
    AddressTaken,
    /// The CNI plugin has not said whose it is, and must.
    NoWord,
    /// Its packets are too large for the way to a worker.
    Mtu,
    /// Something that this version has no name for.
    #[serde(other)]
    Other,
}

impl CutOff {
    /// As messages and metrics name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            CutOff::Hooks => "hooks",
            CutOff::AddressTaken => "address_taken",
            CutOff::NoWord => "no_word",
            CutOff::Mtu => "mtu",
            CutOff::Other => "other",
        }
    }
}

/// Control's word that pods' policies are in force: said after the receipt of what made them so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// Whose addresses have the classes of their pods.
    pub tickets: Vec<u64>,
    /// In which generation: the one in force.
    pub generation: u64,
    /// From which epoch of its address map on.
    pub epoch: u64,
}
