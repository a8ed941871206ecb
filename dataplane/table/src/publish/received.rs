//! What must hold before something received is handed out. The errors are the
//! refusals' reasons, for the publisher to read.

use std::os::fd::{AsFd, OwnedFd};

use super::Summary;
use crate::{
    addrmap::AddressMap,
    classify::{Classifier, MappedClassifier},
    mem::Mapping,
    policy::PolicyTable,
};

/// A generation whose seals and content have been checked.
#[derive(Debug)]
pub struct ReceivedGeneration {
    /// Its number: higher than every one accepted before.
    pub generation: u64,
    /// What the publisher says about it.
    pub summary: Summary,
    /// Table and address map, ready to judge.
    pub classifier: MappedClassifier,
    /// The table's memory file, to pass on or to keep.
    pub policy_fd: OwnedFd,
    /// The address map's memory file, to pass on or to keep.
    pub addresses_fd: OwnedFd,
}

impl ReceivedGeneration {
    /// Checks everything about a generation; `last` is the one in force.
    pub(super) fn check(
        last: u64,
        generation: u64,
        summary: Summary,
        descriptors: Vec<OwnedFd>,
    ) -> Result<ReceivedGeneration, String> {
        if generation <= last {
            return Err(format!(
                "generation {generation} is not newer than generation {last}, which is enforced; \
                 connect again to learn where to count on"
            ));
        }
        let [policy_fd, addresses_fd] = <[OwnedFd; 2]>::try_from(descriptors).map_err(|got| {
            format!(
                "{} descriptors came along; a generation has two, policy table and address map",
                got.len()
            )
        })?;
        let classifier = classifier_from_fds(&policy_fd, &addresses_fd)?;
        if classifier.generation() != generation {
            return Err(format!(
                "the table says generation {}, the message {generation}",
                classifier.generation()
            ));
        }
        Ok(ReceivedGeneration { generation, summary, classifier, policy_fd, addresses_fd })
    }
}

/// Checks that a change of addresses can have reached us: the map is that of the
/// generation in force, `last`, and shared with this publisher. `before` is the
/// generation that our hello named on this connection.
pub(super) fn check_addresses(
    last: u64,
    before: u64,
    generation: u64,
    descriptors: &[OwnedFd],
) -> Result<(), String> {
    if !descriptors.is_empty() {
        return Err(format!(
            "{} descriptors came along; a change of addresses has none, it is in the map",
            descriptors.len()
        ));
    }
    if last == 0 {
        return Err("its addresses cannot change: no generation is in force; publish one".into());
    }
    if generation != last {
        return Err(format!(
            "its addresses cannot change: generation {last} is in force; publish a new generation"
        ));
    }
    if generation <= before {
        return Err("it did not come over this connection, so its address map is not shared with \
             this publisher; publish a new generation"
            .into());
    }
    Ok(())
}

fn classifier_from_fds(policy: &OwnedFd, addresses: &OwnedFd) -> Result<MappedClassifier, String> {
    let mapping = Mapping::of_sealed(policy.as_fd(), "policy table").map_err(|e| e.to_string())?;
    let table = PolicyTable::from_bytes(mapping).map_err(|e| e.to_string())?;
    let addresses = AddressMap::from_fd(addresses.as_fd()).map_err(|e| e.to_string())?;
    Classifier::new(table, addresses).map_err(|e| e.to_string())
}
