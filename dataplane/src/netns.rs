//! Network namespaces: making one for weir1, and running code inside one.
//!
//! weir1 lives in a namespace of its own, so that nothing on the node (routes, IPv6
//! autoconfiguration, a DHCP client, NetworkManager) ever touches it. The namespace has
//! no name; it lives as long as a descriptor or a thread refers to it, so a daemon that
//! dies takes the punt pair with it and leaves nothing behind.
//!
//! A thread that enters a namespace stays there: [`run_in`] uses a thread of its own,
//! and workers enter theirs for good.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// The calling thread's network namespace.
const CURRENT: &str = "/proc/thread-self/ns/net";

/// A network namespace, held open.
#[derive(Debug)]
pub struct NetNs(OwnedFd);

impl NetNs {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new(CURRENT))
    }

    /// A namespace by its file, such as one under `/run/netns`.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(File::open(path)?.into()))
    }

    /// A new, empty namespace.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN.
    pub fn create() -> io::Result<Self> {
        scoped(|| {
            // SAFETY: CLONE_NEWNET changes only which network namespace this thread,
            // which ends right after, is in; no descriptor table or memory is unshared.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
            Self::current()
        })
    }

    /// Moves the calling thread into this namespace, for good.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN; `EINVAL` when the file is no network namespace.
    pub fn enter(&self) -> io::Result<()> {
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    }

    /// Runs `f` on a thread inside this namespace and waits for it.
    ///
    /// # Errors
    /// Those of [`NetNs::enter`] and of `f`.
    pub fn run<T, F>(&self, f: F) -> io::Result<T>
    where
        T: Send,
        F: FnOnce() -> io::Result<T> + Send,
    {
        scoped(|| {
            self.enter()?;
            f()
        })
    }

    /// What tells namespaces apart: device and inode of the namespace file.
    ///
    /// # Errors
    /// When the kernel refuses fstat(2).
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::fstat(&self.0)?;
        Ok((stat.st_dev, stat.st_ino))
    }
}

impl From<OwnedFd> for NetNs {
    /// A namespace by an open descriptor of its file.
    fn from(file: OwnedFd) -> Self {
        Self(file)
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Runs `f` on a thread that ends afterwards, so that what `f` does to its thread's
/// namespaces stays there.
fn scoped<T: Send>(f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        // Not `scope.spawn`, which panics when the system refuses another thread.
        thread::Builder::new()
            .name("weir-netns".into())
            .spawn_scoped(scope, f)?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a namespace thread panicked")))
    })
}
