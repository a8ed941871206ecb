//! The policy table: one sealed generation of everything that policies decide.
//!
//! The compiler builds a [`PolicyImage`]; [`encode`] packs it into flat bytes;
//! the publisher seals them; [`PolicyTable::from_bytes`] checks them once, and
//! from then on a verdict is a handful of loads, whatever the number of
//! policies. The format is `layout`'s text; it carries a label, an endianness
//! mark, a version, its own length and a content hash.
//!
//! Invariants:
//! - encode → from_bytes → judge answers what the image says, for every program,
//!   class, protocol and port (property test);
//! - no bytes whatever make `from_bytes` or a lookup panic (property test);
//! - a table of which one byte was changed is refused (test);
//! - no byte is without a meaning: even with its hash made good, a changed table
//!   is refused or says something else.

mod canonical;
mod decode;
mod encode;
mod image;
mod layout;
mod prefix;
#[cfg(all(test, not(loom)))]
mod properties;
mod service;
mod table;
#[cfg(all(test, not(loom)))]
mod tests;
#[cfg(all(test, not(loom)))]
pub(crate) use tests::small as small_image;

pub use decode::DecodeError;
pub use encode::{EncodeError, encode};
pub use image::{
    Backend, ClassId, ClassInfo, PolicyImage, PolicyInfo, PolicyKind, Program, ProgramId, RuleId,
    RuleInfo, ServiceInfo, Span, Verdict,
};
pub use layout::FORMAT_VERSION;
pub use service::Service;
pub use table::{Counts, PolicyTable, RuleRef};
