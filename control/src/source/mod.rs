//! Where objects come from.
//!
//! A source gives complete states: all objects, all complaints. It keeps what it must remember
//! (the last good state of a broken file) to itself.

pub mod dir;
mod kept;
mod unique;
mod walk;
pub mod watch;

pub use dir::{Folder, State};
pub use kept::KEPT_FOLDER;
