//! The policy table: one sealed generation of everything that policies decide.

mod image;

pub use image::{
    ClassId, ClassInfo, PolicyImage, PolicyInfo, PolicyKind, Program, ProgramId, RuleId, RuleInfo,
    Span, Verdict,
};
