//! The stack of the steering programs, counted as kernels before 6.9 count it.
//!
//! The verifier allows 512 bytes along a chain of calls. Up to Linux 6.8 it rounds each
//! function's share up to 32 bytes, since then to 16 where the program is compiled; so a newer
//! kernel takes programs that an older one refuses, and only a count can tell. No privileges.
//!
//! What it cannot see: offsets that are computed rather than written in the instruction. The
//! compiler makes none for these programs' frames.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, HashSet};

use aya_obj::Object;
use aya_obj::generated::bpf_insn;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));
static TAP: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer_tap.bpf.o"));

const LIMIT: u32 = 512;
const GRANULARITY: u32 = 32;
/// The frame pointer.
const R10: u8 = 10;
const MOVE: u8 = 0xbf;
const ADD_CONSTANT: u8 = 0x07;
const CALL: u8 = 0x85;
/// Source register of a call within the program.
const PSEUDO_CALL: u8 = 1;

/// A program with the functions that it calls behind it, as the kernel gets it.
struct Linked<'a> {
    code: &'a [bpf_insn],
    starts: BTreeSet<usize>,
}

impl<'a> Linked<'a> {
    fn new(code: &'a [bpf_insn]) -> Self {
        let targets = (0..code.len()).filter_map(|at| target(code, at));
        Self { starts: targets.chain([0]).collect(), code }
    }

    fn body(&self, start: usize) -> std::ops::Range<usize> {
        start..self.starts.range(start + 1..).next().copied().unwrap_or(self.code.len())
    }

    /// Bytes below the frame pointer that a function names.
    fn frame(&self, start: usize) -> u32 {
        let reach = |at: usize| {
            let insn = &self.code[at];
            let is_load = insn.code & 7 == 1 && insn.src_reg() == R10;
            let is_store = matches!(insn.code & 7, 2 | 3) && insn.dst_reg() == R10;
            let is_address = at > start && {
                let before = &self.code[at - 1];
                let is_copy = before.code == MOVE && before.src_reg() == R10;
                is_copy && insn.code == ADD_CONSTANT && insn.dst_reg() == before.dst_reg()
            };
            match (is_load || is_store, is_address) {
                (true, _) => i32::from(insn.off),
                (_, true) => insn.imm,
                _ => 0,
            }
        };
        self.body(start).map(reach).min().unwrap_or(0).unsigned_abs()
    }

    /// The deepest chain from a function on.
    fn depth(&self, start: usize) -> u32 {
        let calls = self.body(start).filter_map(|at| target(self.code, at));
        let deepest = calls.map(|callee| self.depth(callee)).max().unwrap_or(0);
        self.frame(start).max(1).next_multiple_of(GRANULARITY) + deepest
    }
}

/// Where a call within the program leads to.
fn target(code: &[bpf_insn], at: usize) -> Option<usize> {
    let insn = &code[at];
    let is_call = insn.code == CALL && insn.src_reg() == PSEUDO_CALL;
    is_call.then(|| (at + 1).checked_add_signed(insn.imm as isize).unwrap())
}

/// The depth of each program of an object, by its name.
fn depths(object: &[u8]) -> Vec<(String, u32)> {
    let mut object = Object::parse(object).unwrap();
    let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&text).unwrap();
    let mut found = Vec::new();
    for (name, program) in &object.programs {
        let function = &object.functions[&program.function_key()];
        found.push((name.clone(), Linked::new(&function.instructions).depth(0)));
    }
    found
}

#[test]
fn every_chain_of_calls_has_the_stack_that_older_kernels_allow() {
    for object in [OBJECT, TAP] {
        let depths = depths(object);
        for hook in ["weir_from_pod", "weir_to_pod"] {
            let depth = depths.iter().find(|(name, _)| name == hook).unwrap().1;
            // Less than this, and the calls were not followed.
            assert!(depth > 400, "{hook}: {depth}");
        }
        for (name, depth) in depths {
            assert!(
                depth <= LIMIT,
                "{name} needs {depth} bytes of stack, kernels before 6.9 allow {LIMIT}"
            );
        }
    }
}
