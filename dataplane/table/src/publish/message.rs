//! The messages, and whether two sides understand each other.

use serde::{Deserialize, Serialize};

use super::{
    PublishError,
    news::{News, Settled},
};
use crate::{addrmap, policy};

/// Raised whenever a message changes its meaning.
pub const PROTOCOL_VERSION: u32 = 3;

/// One datagram.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Message {
    Hello(Hello),
    Publish {
        generation: u64,
        #[serde(default)]
        summary: Summary,
    },
    Receipt(Receipt),
    AddressesChanged {
        generation: u64,
        epoch: u64,
    },
    AddressesEnforced(AddressReceipt),
    Refused {
        generation: Option<u64>,
        /// The change of addresses that is refused; `None` when it is the
        /// generation, or the connection. Tells a late answer from a timely one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<u64>,
        reason: String,
    },
    /// From the dataplane, unasked.
    News(News),
    /// From control; not answered.
    Settled(Settled),
    /// From control; not answered.
    Rejected {
        ticket: u64,
        words: String,
    },
}

/// The first message of each side. Later versions may add fields, but never
/// change these, so that a mismatch can always be put into words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) protocol: u32,
    pub(super) table_format: u32,
    pub(super) address_format: u32,
    /// Name and version of the program, for messages.
    pub(super) software: String,
    /// The last generation that this side knows; 0 = none.
    pub(super) generation: u64,
}

impl Hello {
    pub(super) fn new(software: &str, generation: u64) -> Hello {
        Hello {
            protocol: PROTOCOL_VERSION,
            table_format: policy::FORMAT_VERSION,
            address_format: addrmap::FORMAT_VERSION,
            software: software.to_owned(),
            generation,
        }
    }

    /// Checks the other side's hello against our versions.
    pub(super) fn check(&self) -> Result<(), PublishError> {
        for (what, ours, theirs) in [
            ("the publishing protocol", PROTOCOL_VERSION, self.protocol),
            ("the policy table's format", policy::FORMAT_VERSION, self.table_format),
            ("the address map's format", addrmap::FORMAT_VERSION, self.address_format),
        ] {
            if ours != theirs {
                let software = self.software.clone();
                return Err(PublishError::Version { what, ours, theirs, software });
            }
        }
        Ok(())
    }
}

/// What a publisher says about a generation, for logs and `weir status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Where the policies came from, as given to `--source`.
    pub source: String,
    /// The last ticket of which this generation knows: what the CNI plugin said up to it is
    /// taken into account. 0 = nothing is.
    #[serde(default)]
    pub heard: u64,
}

/// The dataplane's word that a generation is enforced by all of its workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The generation.
    pub generation: u64,
    /// How many workers enforce it.
    pub workers: u32,
    /// When the last of them took it over, `CLOCK_MONOTONIC` in nanoseconds.
    pub enforced_at_ns: u64,
}

/// The dataplane's word that the address map of the present generation is
/// enforced as it was at an epoch: no flow keeps a verdict from before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressReceipt {
    /// The generation that the map belongs to.
    pub generation: u64,
    /// The map's epoch: every change that it counts is enforced. At least the
    /// epoch that was announced.
    pub epoch: u64,
    /// How many flows were judged again for it; `None` when nobody counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows_rejudged: Option<u64>,
    /// When that was done, `CLOCK_MONOTONIC` in nanoseconds.
    pub enforced_at_ns: u64,
}
