//! How the CNI plugin tells the dataplane of a pod, and waits until it is enforced.
//!
//! A `SOCK_SEQPACKET` unix socket, `cni.sock` in the run directory; one JSON message a
//! datagram, one request a connection.
//!
//! ```text
//!  weir-cni                                  dataplane
//!  add {id, pod, addresses, …} + 1 fd  ──▶   hooks, word, placement
//!                                      ◀──   enforced {generation, epoch}
//!                                            or pending {for, words}, when the wait is over
//!                                            or refused {code, words}
//!  check {id, pod, addresses, …} + 1 fd ─▶
//!                                      ◀──   enforced, pending or refused
//!  del {id}                            ──▶
//!                                      ◀──   done {removed}
//!  gc {network, valid, more} …         ──▶   (as many datagrams as the list takes)
//!                                      ◀──   done {removed}
//!  status                              ──▶
//!                                      ◀──   ready, or not_ready {limited, words}
//! ```
//!
//! **The pod's namespace** comes as a descriptor (`SCM_RIGHTS`): a path means one thing on
//! the node and another in the daemon's container, and may name another namespace a moment
//! later. The path in the message is for people.
//!
//! **Versions.** Every message carries the protocol's version, who speaks, and, in a
//! request, how long the sender will wait. These three are read before anything else, so
//! that a mismatch can be said in words. The plugin's file on the node is replaced before the
//! daemon is: a dataplane accepts its own version and the one before, and answers in the
//! version of the request.
//!
//! **Bounded waits.** A client waits as long as its [`Patience`] says, reconnecting if the
//! dataplane restarts: a request may be sent twice and must mean the same then. Its key is
//! (network, container, interface). The server waits for nobody: [`Server::poll`] gives one
//! event at a time, and an answer that finds no room is dropped with its connection.
//!
//! **Who may speak.** As with [`publish`](crate::publish): the directory is 0700, the socket
//! 0600, and both sides ask the kernel for the other's uid. Even so, all that arrives is
//! checked as if anyone had sent it: sizes, characters, counts, the kind of the descriptor.

mod client;
mod message;
mod server;
mod socket;
#[cfg(test)]
mod tests;

pub use client::{Client, Patience};
pub use message::{
    Answer, Attachment, AttachmentId, HostDevice, HostPort, OLDEST_PROTOCOL, PROTOCOL_VERSION,
    PodRef, Protocol, Refusal, Request, WaitingFor,
};
pub use server::{Event, Incoming, MAX_CONNECTIONS, RequestId, Server};

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
};

use rustix::{fs, process::geteuid};

/// The dataplane's socket for the CNI plugin, in the run directory.
pub const CNI_SOCKET_FILE: &str = "cni.sock";

/// Why asking the dataplane, or serving the plugin, failed.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// Nobody listens at the socket.
    #[error("cannot reach the dataplane at {path}: {source}; is weir-dataplane running?")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the kernel said last.
        source: io::Error,
    },
    /// The socket could not be made.
    #[error("cannot listen at {path}: {step}: {source}")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What failed.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The other side's uid is neither root nor ours.
    #[error("the process at the other end runs as uid {uid}; only root and uid {own} are trusted")]
    Peer {
        /// The other side's uid.
        uid: u32,
        /// Our uid.
        own: u32,
    },
    /// The two programs do not speak a common version.
    #[error(
        "the CNI protocol differs: this side speaks version {ours}, the other ({software}) \
         version {theirs}; run weir-cni and weir-dataplane of the same release \
         (weir-cni install replaces the plugin)"
    )]
    Version {
        /// Ours.
        ours: u32,
        /// Theirs.
        theirs: u32,
        /// What the other side calls itself.
        software: String,
    },
    /// No answer in time.
    #[error("no answer from the dataplane within {milliseconds} ms")]
    Timeout {
        /// How long was waited.
        milliseconds: u128,
    },
    /// The connection ended.
    #[error("the other side closed the connection")]
    Closed,
    /// A datagram that is no message of this protocol, or says what cannot be.
    #[error("the other side sent something that is no message of this protocol: {problem}")]
    Message {
        /// What is wrong with it.
        problem: String,
    },
    /// A system call on the connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

/// Identity of a network namespace: device and inode of its file. Lasts as long as the
/// namespace does; may be another's afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespaceId {
    /// Device number of the file system of namespaces.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

/// What `fstatfs` says of a namespace's file (`NSFS_MAGIC`, linux/magic.h).
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Says which namespace a descriptor is open on.
///
/// That it is a *network* namespace shows when it is entered; that it is a namespace's file at
/// all, and no file or pipe that somebody left in its place, shows here.
///
/// # Errors
/// In words, when the descriptor is open on something else.
pub fn namespace_id(descriptor: impl AsFd) -> Result<NamespaceId, String> {
    let descriptor: BorrowedFd<'_> = descriptor.as_fd();
    let system = fs::fstatfs(descriptor).map_err(|e| io::Error::from(e).to_string())?;
    if u64::try_from(system.f_type) != Ok(NSFS_MAGIC) {
        return Err("it is not a namespace".into());
    }
    let stat = fs::fstat(descriptor).map_err(|e| io::Error::from(e).to_string())?;
    Ok(NamespaceId { device: stat.st_dev, inode: stat.st_ino })
}

/// Whether a process of `uid` may be at the other end.
fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}
