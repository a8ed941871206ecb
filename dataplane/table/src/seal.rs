//! Sealed memory: how a generation crosses the process boundary unchanged.
//!
//! A memfd that carries `F_SEAL_WRITE`, `F_SEAL_SHRINK`, `F_SEAL_GROW` and
//! `F_SEAL_SEAL` (memfd_create(2), fcntl(2)) can never change again, by anyone.
//! So one validation is enough: what was checked is what will be read.
//! The address map is different, since its publisher goes on writing it: there
//! the kernel guarantees its size and that nobody but the holder of the mapping
//! made *before* the seal can write (`F_SEAL_FUTURE_WRITE`).

use std::{
    fmt,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

/// Which guarantee the seals of a file descriptor have to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    /// Neither content nor size nor seals can ever change.
    Immutable,
    /// The size and the seals cannot change, and no new writer can appear; a
    /// mapping that was writable before goes on.
    FixedSize,
}

impl Guarantee {
    /// The seals that together give this guarantee.
    pub fn seals(self) -> SealFlags {
        let size = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        match self {
            Guarantee::Immutable => size | SealFlags::WRITE,
            Guarantee::FixedSize => size | SealFlags::FUTURE_WRITE,
        }
    }
}

/// Why a file descriptor was not accepted or could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The descriptor lacks seals, so its sender could still change it.
    #[error(
        "the descriptor of the {what} is not sealed: {missing} missing; \
         the publisher must add the seals before it passes the descriptor"
    )]
    Missing {
        /// What the descriptor was to be.
        what: &'static str,
        /// The seals that are missing.
        missing: SealNames,
    },
    /// The descriptor is of a kind that knows no seals (a file, a socket, …).
    #[error(
        "the descriptor of the {what} cannot be sealed at all ({source}); \
         only a memfd made with MFD_ALLOW_SEALING is accepted"
    )]
    NotSealable {
        /// What the descriptor was to be.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A system call failed while a sealed memfd was made.
    #[error("cannot make a sealed memory file for the {what}: {step}: {source}")]
    Create {
        /// What the memory was to hold.
        what: &'static str,
        /// The step that failed.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A set of seals, printed by the names of fcntl(2).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SealNames(pub SealFlags);

impl fmt::Display for SealNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (SealFlags::WRITE, "F_SEAL_WRITE"),
            (SealFlags::FUTURE_WRITE, "F_SEAL_FUTURE_WRITE"),
            (SealFlags::SHRINK, "F_SEAL_SHRINK"),
            (SealFlags::GROW, "F_SEAL_GROW"),
            (SealFlags::SEAL, "F_SEAL_SEAL"),
        ];
        let mut first = true;
        for (flag, name) in names {
            if self.0.contains(flag) {
                write!(f, "{}{name}", if first { "" } else { ", " })?;
                first = false;
            }
        }
        if first { f.write_str("none") } else { Ok(()) }
    }
}

impl fmt::Debug for SealNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Makes an empty memory file that can be sealed. `name` shows in
/// `/proc/PID/maps`.
///
/// # Errors
/// [`SealError::Create`] when the kernel refuses.
pub fn create(name: &'static str) -> Result<OwnedFd, SealError> {
    memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(|e| {
        SealError::Create { what: name, step: "memfd_create", source: io::Error::from(e) }
    })
}

/// Adds the seals of `guarantee` to a memory file made by [`create`].
///
/// # Errors
/// [`SealError::Create`], for example when a writable shared mapping still
/// exists and `F_SEAL_WRITE` is asked for (`EBUSY`).
pub fn seal(fd: BorrowedFd<'_>, what: &'static str, guarantee: Guarantee) -> Result<(), SealError> {
    fcntl_add_seals(fd, guarantee.seals()).map_err(|e| SealError::Create {
        what,
        step: "F_ADD_SEALS",
        source: io::Error::from(e),
    })
}

/// Copies `bytes` into a new memory file and seals it for good.
///
/// # Errors
/// [`SealError::Create`] when the kernel refuses, for want of memory for example.
pub fn sealed_copy(name: &'static str, bytes: &[u8]) -> Result<OwnedFd, SealError> {
    let mut file = std::fs::File::from(create(name)?);
    file.write_all(bytes).map_err(|source| SealError::Create {
        what: name,
        step: "write",
        source,
    })?;
    seal(file.as_fd(), name, Guarantee::Immutable)?;
    Ok(file.into())
}

/// Checks that `fd` carries every seal that `guarantee` needs. A descriptor
/// sealed for good also satisfies [`Guarantee::FixedSize`].
///
/// # Errors
/// [`SealError::Missing`] names the seals that are not there;
/// [`SealError::NotSealable`] when the descriptor is no memfd.
pub fn require(
    fd: BorrowedFd<'_>,
    what: &'static str,
    guarantee: Guarantee,
) -> Result<(), SealError> {
    let mut present = fcntl_get_seals(fd)
        .map_err(|e| SealError::NotSealable { what, source: io::Error::from(e) })?;
    if present.contains(SealFlags::WRITE) {
        // F_SEAL_WRITE forbids a superset of what F_SEAL_FUTURE_WRITE forbids.
        present |= SealFlags::FUTURE_WRITE;
    }
    let missing = guarantee.seals() - present;
    if missing.is_empty() {
        Ok(())
    } else {
        Err(SealError::Missing { what, missing: SealNames(missing) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(result: Result<(), SealError>) -> String {
        match result {
            Err(SealError::Missing { missing, .. }) => missing.to_string(),
            other => panic!("expected missing seals, got {other:?}"),
        }
    }

    #[test]
    fn a_sealed_copy_holds_the_bytes_and_refuses_change() {
        let fd = sealed_copy("weir-test", b"hello").unwrap();
        require(fd.as_fd(), "test", Guarantee::Immutable).unwrap();
        require(fd.as_fd(), "test", Guarantee::FixedSize).unwrap();
        let mut back = [0; 8];
        assert_eq!(rustix::io::pread(&fd, &mut back, 0).unwrap(), 5);
        assert_eq!(&back[..5], b"hello");
        assert_eq!(rustix::io::pwrite(&fd, b"x", 0), Err(rustix::io::Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&fd, 0), Err(rustix::io::Errno::PERM));
    }

    #[test]
    fn each_missing_seal_is_named() {
        let fd = create("weir-test").unwrap();
        assert_eq!(
            missing(require(fd.as_fd(), "policy table", Guarantee::Immutable)),
            "F_SEAL_WRITE, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL"
        );
        for (add, rest) in [
            (SealFlags::SHRINK, "F_SEAL_WRITE, F_SEAL_GROW, F_SEAL_SEAL"),
            (SealFlags::GROW, "F_SEAL_WRITE, F_SEAL_SEAL"),
            (SealFlags::FUTURE_WRITE, "F_SEAL_WRITE, F_SEAL_SEAL"),
            (SealFlags::WRITE, "F_SEAL_SEAL"),
        ] {
            fcntl_add_seals(&fd, add).unwrap();
            assert_eq!(missing(require(fd.as_fd(), "policy table", Guarantee::Immutable)), rest);
        }
        fcntl_add_seals(&fd, SealFlags::SEAL).unwrap();
        require(fd.as_fd(), "policy table", Guarantee::Immutable).unwrap();
    }

    #[test]
    fn what_cannot_be_sealed_is_refused() {
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let error = require(socket.as_fd(), "policy table", Guarantee::Immutable).unwrap_err();
        assert!(matches!(error, SealError::NotSealable { .. }), "{error}");
        assert!(error.to_string().contains("policy table"), "{error}");
    }
}
