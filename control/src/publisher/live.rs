//! One generation in shared memory: the sealed table and the address map that goes with it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use weir_table::Address;
use weir_table::addrmap::{AddressMapError, AddressMapWriter};
use weir_table::mem::SharedWords;
use weir_table::policy::{ClassId, EncodeError, PolicyImage, encode};
use weir_table::seal::{SealError, sealed_copy};

use super::mailbox::Desired;

/// Why a generation could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The policies exceed the table's format.
    #[error("the policies do not fit the table: {0}")]
    Encode(#[from] EncodeError),
    /// No memory file.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// No address map.
    #[error(transparent)]
    Addresses(#[from] AddressMapError),
}

/// How many addresses were changed in place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Update {
    /// New, or of another class than before.
    pub set: usize,
    /// Gone.
    pub removed: usize,
}

/// A generation whose memory the dataplane maps.
#[derive(Debug)]
pub struct Live {
    /// Its number.
    pub generation: u64,
    /// The image that it was made of.
    pub image: Arc<PolicyImage>,
    /// Size of the encoded table, in bytes.
    pub bytes: usize,
    table: OwnedFd,
    /// The only copy on this side: the map itself is what is in force.
    map: AddressMapWriter<SharedWords>,
}

impl Live {
    /// Encodes and seals a table and fills an address map with room to grow; all that is wanted is
    /// taken.
    ///
    /// # Errors
    /// [`LiveError`]; what the dataplane has is untouched.
    pub fn create(generation: u64, desired: &mut Desired) -> Result<Self, LiveError> {
        let numbered = PolicyImage { generation, ..PolicyImage::clone(&desired.image) };
        let bytes = encode(&numbered)?;
        let table = sealed_copy("weir-policy", &bytes)?;
        // Pods come and go without a new generation.
        let room = desired.addresses.len() + desired.addresses.len() / 4 + 1024;
        let mut map = AddressMapWriter::create(generation, room)?;
        for (address, class) in &desired.addresses {
            map.insert(*address, ClassId(*class))?;
        }
        desired.taken();
        Ok(Self { generation, image: Arc::clone(&desired.image), bytes: bytes.len(), table, map })
    }

    /// The sealed table.
    pub fn table(&self) -> BorrowedFd<'_> {
        self.table.as_fd()
    }

    /// The address map; absent only for a map that is in no memory file.
    pub fn map(&self) -> Option<BorrowedFd<'_>> {
        self.map.fd()
    }

    /// How many addresses are mapped.
    pub fn addresses(&self) -> usize {
        self.map.len()
    }

    /// The address map's epoch: how many changes were made to it.
    pub fn epoch(&self) -> u64 {
        self.map.epoch()
    }

    /// Whether this generation's image is the one wanted.
    pub fn is_of(&self, image: &Arc<PolicyImage>) -> bool {
        Arc::ptr_eq(&self.image, image) || self.image == *image
    }

    /// Makes the address map say what is wanted, address by address, while the dataplane reads it.
    /// Unless nothing changed, the dataplane must then be told of [`Live::epoch`]: until it has
    /// answered, flows that it decided before keep their verdicts.
    ///
    /// # Errors
    /// [`AddressMapError::Full`]: a new generation is needed, with a larger map. Addresses already
    /// changed are right; the others are as before.
    pub fn update(&mut self, desired: &mut Desired) -> Result<Update, AddressMapError> {
        let changes: Vec<(Address, Option<u32>)> = match desired.changed() {
            Some(changed) => changed.collect(),
            None => {
                let reader = self.map.reader()?;
                let gone = reader.iter().map(|(address, _)| address);
                let gone = gone.filter(|address| !desired.addresses.contains_key(address));
                let all = desired.addresses.iter().map(|(address, class)| (*address, Some(*class)));
                gone.map(|address| (address, None)).chain(all).collect()
            }
        };
        let mut update = Update::default();
        // Removals first: they make room.
        for (address, _) in changes.iter().filter(|(_, class)| class.is_none()) {
            update.removed += usize::from(self.map.remove(*address));
        }
        for (address, class) in changes {
            let Some(class) = class else { continue };
            update.set += usize::from(self.map.insert(address, ClassId(class))?);
        }
        desired.taken();
        Ok(update)
    }
}
