//! How a generation, and what changes in it later, gets from control to the dataplane.
//!
//! A `SOCK_SEQPACKET` unix socket, `dataplane.sock` in the run directory; one
//! JSON message a datagram.
//!
//! ```text
//!  control                                   dataplane
//!  hello {versions}                    ──▶
//!                                      ◀──   hello {versions, last generation}
//!  publish {generation} + 2 fds        ──▶   seals, validation, all workers
//!                                      ◀──   receipt {generation, workers, time}
//!                                            or refused {generation, reason}
//!  (changes addresses in the map)
//!  addresses_changed                   ──▶   flows of these addresses: new verdicts
//!    {generation, epoch}               ◀──   addresses_enforced {generation, epoch,
//!                                              flows judged again, time}
//!                                            or refused {generation, epoch, reason}
//!                                      ◀──   news: attached {ticket, pod, addresses}, …
//!                                              all_attached {last}        (after the hello)
//!                                      ◀──   news: attached, detached {ticket},
//!                                              not_enforced, cleared      (as they come)
//!  settled {tickets, generation, epoch} ─▶   these pods may speak
//!  rejected {ticket, words}            ──▶   to whoever asks why not
//! ```
//!
//! The two descriptors (`SCM_RIGHTS`) are the policy table, sealed for good, and
//! the address map, of fixed size. Whatever does not hold (a seal, the format,
//! the generation's number) is refused in words, and the dataplane goes on with
//! the generation that it has.
//!
//! **Addresses in place.** The map stays shared: control changes addresses of the
//! generation in force by writing to it. The dataplane has decided flows by the
//! old content, and they stay decided until it looks; so control says when it is
//! done and at which epoch of the map (see [`crate::addrmap`]), and waits. The
//! answer means that no flow keeps a verdict from before that epoch. It may name
//! a later epoch, never an earlier one. Only the connection over which the
//! generation in force came can change it: another process, or a dataplane that
//! resumed from its own copy, does not share this memory. After a refusal or a
//! timeout a new generation is always right.
//!
//! **Placement.** The CNI plugin tells the dataplane of each pod's interface, before the API
//! server knows its address; the dataplane tells control, by a ticket ([`News::Attached`]). From
//! then on that address is that pod's for control, and nobody else's, be it the one that had it
//! a moment ago. Once a generation or a change in place that says so is acknowledged, control
//! says *settled*, and only then do others believe the interface: that an address is a pod's is
//! not enough, since it may still be said of its predecessor. A generation says in its summary
//! up to which ticket it knows what was told ([`Summary::heard`]). Of what it does not know, it
//! may say the old: the dataplane holds those interfaces until control settles them.
//!
//! **News** come at any time, also while a call waits for its answer. Both sides keep a bounded
//! number of them; who cannot keep up is disconnected, and told everything after the next hello.
//!
//! **Late answers.** A call that gave up may still be answered. The next call
//! tells such an answer by its generation and epoch, and skips it.
//!
//! **Who may publish.** The directory is 0700 and the socket 0600; besides, both
//! sides ask the kernel for the other's uid (`SO_PEERCRED`) and accept root and
//! their own. One publisher at a time: a second one is told so and closed.
//!
//! **Numbers.** Generations only go up. The dataplane's hello names its last one,
//! so that a control process that has just started counts on from there.

mod client;
mod directory;
mod message;
mod news;
mod received;
mod server;
mod socket;
#[cfg(test)]
mod tests;

pub use client::Publisher;
pub use message::{AddressReceipt, PROTOCOL_VERSION, Receipt, Summary};
pub use news::{Attached, CutOff, News, NotEnforced, Settled};
pub use received::ReceivedGeneration;
pub use server::{Event, Listener};

use std::{io, path::PathBuf};

/// Why publishing, or serving publishers, failed.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The socket could not be reached.
    #[error("cannot reach the dataplane at {path}: {source}; is weir-dataplane running?")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The socket could not be made.
    #[error("cannot listen at {path}: {step}: {source}")]
    Listen {
        /// The socket or its directory.
        path: PathBuf,
        /// What failed.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another dataplane serves this directory.
    #[error("another weir-dataplane already serves {path}; stop it, or give another --run-dir")]
    InUse {
        /// The run directory.
        path: PathBuf,
    },
    /// The run directory belongs to someone else.
    #[error(
        "{path} belongs to uid {uid}, who could take the dataplane's place; use a directory of your own"
    )]
    ForeignDirectory {
        /// The run directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// The other side's uid is neither root nor ours.
    #[error("the process at the other end runs as uid {uid}; only root and uid {own} are trusted")]
    Peer {
        /// The other side's uid.
        uid: u32,
        /// Our uid.
        own: u32,
    },
    /// The two programs do not speak the same version.
    #[error(
        "{what} differs: this side has version {ours}, the other ({software}) version {theirs}; \
         run weir-control and weir-dataplane of the same release"
    )]
    Version {
        /// What differs.
        what: &'static str,
        /// Ours.
        ours: u32,
        /// Theirs.
        theirs: u32,
        /// What the other side calls itself.
        software: String,
    },
    /// The dataplane refused, in its own words.
    #[error("the dataplane refused{}: {reason}", .generation.map(|g| format!(" generation {g}")).unwrap_or_default())]
    Refused {
        /// The generation; `None` when the connection itself was refused.
        generation: Option<u64>,
        /// Why.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer from the other side within {milliseconds} ms")]
    Timeout {
        /// How long was waited.
        milliseconds: u128,
    },
    /// The connection ended.
    #[error("the other side closed the connection")]
    Closed,
    /// A datagram that is no message of this protocol.
    #[error("the other side sent something that is no message of this protocol: {problem}")]
    Message {
        /// What is wrong with it.
        problem: String,
    },
    /// A system call on the connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

/// Whether a process of `uid` may be at the other end.
fn is_trusted(uid: u32, own: u32) -> bool {
    uid == 0 || uid == own
}
