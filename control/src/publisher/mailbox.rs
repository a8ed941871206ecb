//! What the dataplane is to enforce: one copy, which the agent changes and the courier reads.
//!
//! A cluster's addresses are many and change one by one. So the agent says what is different, the
//! courier takes what is different, and nobody copies the rest.
//!
//! Invariants:
//! * the addresses fit the image: they change under one lock, and each class is one of its classes;
//! * `changed` names every address that the courier has not taken since it changed;
//! * what is said to be heard of the CNI plugin's words is in the addresses: it is put after them,
//!   and read with them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};
use weir_table::Address;
use weir_table::policy::PolicyImage;

/// More changed addresses than this are not kept by name: the courier compares all of them.
const MOST_CHANGED: usize = 4096;

/// What the dataplane is to enforce.
#[derive(Debug, Clone)]
pub struct Desired {
    /// The image, unnumbered.
    pub image: Arc<PolicyImage>,
    /// Every pod address and its class in that image.
    pub addresses: BTreeMap<Address, u32>,
    /// Addresses that may differ from what the courier took last; `None`: all of them may.
    changed: Option<BTreeSet<Address>>,
}

impl Desired {
    /// An image and the addresses that go with it.
    pub fn new(image: Arc<PolicyImage>, addresses: Vec<(Address, u32)>) -> Self {
        Self { image, addresses: addresses.into_iter().collect(), changed: None }
    }

    /// Addresses that may differ from what was taken last, each with its class if it has one;
    /// `None`: all of them may.
    pub fn changed(&self) -> Option<impl Iterator<Item = (Address, Option<u32>)>> {
        let class = |address: &Address| (*address, self.addresses.get(address).copied());
        Some(self.changed.as_ref()?.iter().map(class))
    }

    /// Notes that all was taken.
    pub fn taken(&mut self) {
        self.changed = Some(BTreeSet::new());
    }

    /// Changes the class of an address, or takes it away; whether that is any different.
    fn set(&mut self, address: Address, class: Option<u32>) -> bool {
        let before = match class {
            Some(class) => self.addresses.insert(address, class),
            None => self.addresses.remove(&address),
        };
        if before == class {
            return false;
        }
        if let Some(changed) = &mut self.changed {
            changed.insert(address);
            if changed.len() > MOST_CHANGED {
                self.changed = None;
            }
        }
        true
    }

    /// Makes the addresses these; whether that is any different.
    fn replace(&mut self, addresses: Vec<(Address, u32)>) -> bool {
        let new: BTreeMap<Address, u32> = addresses.into_iter().collect();
        let gone: Vec<Address> =
            self.addresses.keys().filter(|address| !new.contains_key(address)).copied().collect();
        let mut differs = false;
        for address in gone {
            differs |= self.set(address, None);
        }
        for (address, class) in new {
            differs |= self.set(address, Some(class));
        }
        differs
    }
}

/// What of the CNI plugin's words a state takes into account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// Over which connection they were told, completely; 0 = none.
    pub session: u64,
    /// Up to which ticket.
    pub last: u64,
    /// Whose addresses have the classes of their pods.
    pub settled: Vec<u64>,
    /// Whose do not, and why.
    pub waiting: Vec<(u64, String)>,
}

#[derive(Debug, Default)]
struct Slot {
    desired: Option<Desired>,
    heard: Arc<Heard>,
    /// What was heard differs from what the courier was told of.
    is_heard: bool,
    /// When the oldest change was noticed that the courier has not been told of.
    since: Option<Instant>,
    stop: bool,
}

/// Holds the wanted state.
#[derive(Debug)]
pub struct Mailbox {
    slot: Mutex<Slot>,
    bell: OwnedFd,
}

impl Mailbox {
    /// An empty mailbox.
    ///
    /// # Errors
    /// The kernel gives no eventfd.
    pub fn new() -> std::io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { slot: Mutex::default(), bell })
    }

    /// Wants an image with these addresses; `since` is when its cause was noticed. False, and
    /// nobody is bothered, if that is what is wanted already.
    pub fn put(&self, image: PolicyImage, addresses: Vec<(Address, u32)>, since: Instant) -> bool {
        self.change(since, |desired| match desired {
            Some(desired) if *desired.image == image => desired.replace(addresses),
            _ => {
                *desired = Some(Desired::new(Arc::new(image), addresses));
                true
            }
        })
    }

    /// Wants these addresses with the present image; false if that is so already.
    pub fn put_addresses(&self, addresses: Vec<(Address, u32)>, since: Instant) -> bool {
        self.change(since, |desired| {
            desired.as_mut().is_some_and(|desired| desired.replace(addresses))
        })
    }

    /// Wants these addresses changed, each to its class or to none; false if all are so already.
    pub fn put_changes(
        &self,
        changes: impl IntoIterator<Item = (Address, Option<u32>)>,
        since: Instant,
    ) -> bool {
        self.change(since, |desired| {
            let Some(desired) = desired else { return false };
            let mut differs = false;
            for (address, class) in changes {
                differs |= desired.set(address, class);
            }
            differs
        })
    }

    fn change(&self, since: Instant, change: impl FnOnce(&mut Option<Desired>) -> bool) -> bool {
        let differs = self.with(|slot| {
            let differs = change(&mut slot.desired);
            if differs {
                // The oldest cause that has not been served counts.
                slot.since = Some(slot.since.map_or(since, |before| since.min(before)));
            }
            differs
        });
        if differs {
            self.ring();
        }
        differs
    }

    /// Says what of the CNI plugin's words is in the addresses that are wanted now; false, and
    /// nobody is bothered, if that is known.
    pub fn put_heard(&self, heard: Heard) -> bool {
        let differs = self.with(|slot| {
            let differs = *slot.heard != heard;
            if differs {
                slot.heard = Arc::new(heard);
                slot.is_heard = true;
            }
            differs
        });
        if differs {
            self.ring();
        }
        differs
    }

    /// Ends the courier.
    pub fn stop(&self) {
        self.with(|slot| slot.stop = true);
        self.ring();
    }

    /// For the courier: when the oldest change was noticed since it last asked, and whether it is
    /// to stop. Silences the bell.
    pub(super) fn look(&self) -> (Option<Instant>, bool) {
        let mut count = [0; 8];
        // Nothing to read means that it did not ring.
        let _ = rustix::io::read(&self.bell, &mut count);
        self.with(|slot| (slot.since.take(), slot.stop))
    }

    /// For the courier: whether more was heard since it last asked.
    pub(super) fn look_at_heard(&self) -> bool {
        self.with(|slot| std::mem::take(&mut slot.is_heard))
    }

    /// For the courier: what is heard.
    pub(super) fn heard(&self) -> Arc<Heard> {
        self.with(|slot| Arc::clone(&slot.heard))
    }

    /// For the courier: reads what is wanted, if anything is, and gives what is heard in it. The
    /// agent waits meanwhile.
    pub(super) fn read<T>(&self, read: impl FnOnce(&mut Desired) -> T) -> Option<(T, Arc<Heard>)> {
        self.with(|slot| Some((slot.desired.as_mut().map(read)?, Arc::clone(&slot.heard))))
    }

    fn with<T>(&self, f: impl FnOnce(&mut Slot) -> T) -> T {
        // A panic while the lock was held leaves at worst addresses that the next change completes.
        f(&mut self.slot.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn ring(&self) {
        // It can only fail if the counter is full, and then the bell rings already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}

/// To be polled for readability: the bell.
impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_table::policy::PolicyInfo;
    use weir_table::policy::PolicyKind;

    fn address(last: u8) -> Address {
        Address::from(std::net::IpAddr::from([10, 0, 0, last]))
    }

    fn image(name: &str) -> PolicyImage {
        let mut image = crate::compile::compile(&crate::index::Index::default()).image;
        image.policies.push(PolicyInfo { kind: PolicyKind::NetworkPolicy, name: name.to_owned() });
        image
    }

    fn changed(mailbox: &Mailbox) -> Option<Vec<(Address, Option<u32>)>> {
        let read = mailbox.read(|desired| {
            let changed = desired.changed().map(Iterator::collect);
            desired.taken();
            changed
        });
        read.expect("something is wanted").0
    }

    #[test]
    fn the_courier_is_told_what_differs_and_nothing_else() {
        let mailbox = Mailbox::new().unwrap();
        let (first, second) = (Instant::now(), Instant::now());
        assert!(!mailbox.put_changes([(address(1), Some(0))], first), "there is no image yet");
        assert_eq!(mailbox.look(), (None, false));
        assert!(mailbox.put(image("a"), vec![(address(1), 0), (address(2), 0)], second));
        assert!(mailbox.put_changes([(address(3), Some(1))], first));
        assert_eq!(mailbox.look(), (Some(first.min(second)), false));
        assert_eq!(changed(&mailbox), None, "all is new");

        assert!(!mailbox.put_changes([(address(1), Some(0)), (address(9), None)], first));
        assert_eq!(mailbox.look(), (None, false));
        assert!(mailbox.put_changes([(address(1), None), (address(2), Some(4))], first));
        assert_eq!(changed(&mailbox), Some(vec![(address(1), None), (address(2), Some(4))]));
        assert_eq!(changed(&mailbox), Some(vec![]));

        // The same image again, however it was made.
        let before = mailbox.read(|desired| Arc::clone(&desired.image)).unwrap().0;
        assert!(mailbox.put(image("a"), vec![(address(2), 4)], first));
        assert!(mailbox.read(|desired| Arc::ptr_eq(&desired.image, &before)).unwrap().0);
        assert_eq!(changed(&mailbox), Some(vec![(address(3), None)]));
        assert!(!mailbox.put(image("a"), vec![(address(2), 4)], first));
        assert!(mailbox.put_addresses(vec![(address(2), 5)], first));
        assert_eq!(changed(&mailbox), Some(vec![(address(2), Some(5))]));

        assert!(mailbox.put(image("b"), vec![(address(2), 5)], first));
        assert_eq!(changed(&mailbox), None, "another image");
        mailbox.stop();
        assert!(mailbox.look().1);
    }

    #[test]
    fn what_is_heard_goes_with_the_addresses() {
        let mailbox = Mailbox::new().unwrap();
        let heard = |session| Heard { session, ..Heard::default() };
        assert!(!mailbox.put_heard(Heard::default()) && !mailbox.look_at_heard());
        assert!(mailbox.put_heard(heard(1)), "before anything is wanted");
        assert!(mailbox.look_at_heard() && !mailbox.look_at_heard());
        assert_eq!(mailbox.look(), (None, false), "no cause of anything");
        assert!(mailbox.read(|_| ()).is_none());
        mailbox.put(image("a"), vec![], Instant::now());
        assert!(!mailbox.put_heard(heard(1)));
        assert_eq!(mailbox.read(|_| ()).unwrap().1.session, 1);
        assert!(mailbox.put_heard(heard(2)) && mailbox.look_at_heard());
        assert_eq!(mailbox.heard().session, 2);
    }

    #[test]
    fn very_many_changes_are_not_named() {
        let mailbox = Mailbox::new().unwrap();
        mailbox.put(image("a"), vec![], Instant::now());
        assert_eq!(changed(&mailbox), None);
        let many = u32::try_from(MOST_CHANGED).unwrap() + 1;
        let all = (0..many).map(|n| (std::net::IpAddr::from(n.to_be_bytes()).into(), Some(0)));
        assert!(mailbox.put_changes(all, Instant::now()));
        assert_eq!(changed(&mailbox), None);
        assert_eq!(mailbox.read(|desired| desired.addresses.len()).unwrap().0, many as usize);
    }
}
