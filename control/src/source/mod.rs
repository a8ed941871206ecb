//! Where objects come from.
//!
//! A folder gives complete states: all objects, all complaints. It keeps what it must remember
//! (the last good state of a broken file) to itself. A cluster gives differences, since its state
//! is too large to be given again at every change.

pub mod dir;
mod kept;
pub mod kube;
mod unique;
mod walk;
pub mod watch;

pub use dir::{Folder, State};
pub use kept::KEPT_FOLDER;
