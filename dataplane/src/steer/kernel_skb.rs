//! How the hooks get to see `struct sk_buff` (`bpf/unfinished.h`): which of the kernel's ways
//! there is, and the object made ready for it.
//!
//! The cheapest way calls a kernel function, `bpf_cast_to_kern_ctx` (Linux 6.2), by the number
//! of its type in the running kernel. The loader library does not relocate such calls, so the
//! object carries a mark in the number's place, and the number is put in here.
#![forbid(unsafe_code)]

use aya::Btf;
use aya_obj::btf::BtfKind;
use weir_table::abi;

/// How the hooks look into `struct sk_buff`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// By fields of the kernel's own type: some 2 ns a packet.
    Cast,
    /// By a copy of a part of it: some 35 ns.
    Copied,
    /// Not at all: this kernel does not tell where it has its fields.
    Unseen,
}

impl Sight {
    /// The value of the program's constant `weir_sees_skb`.
    pub const fn constant(self) -> u32 {
        match self {
            Self::Cast => abi::SKB_CAST,
            Self::Copied => abi::SKB_COPIED,
            Self::Unseen => abi::SKB_UNSEEN,
        }
    }
}

/// A call of a kernel function: `BPF_JMP | BPF_CALL`, source register `BPF_PSEUDO_KFUNC_CALL`.
const KERNEL_CALL: [u8; 4] = [0x85, 0x20, 0, 0];
/// A call of a helper.
const HELPER_CALL: [u8; 4] = [0x85, 0, 0, 0];
/// `bpf_get_prandom_u32`. The kernel wants to know all functions that are called, reached or not.
const SOME_HELPER: u32 = 7;

/// The number of `bpf_cast_to_kern_ctx` in the running kernel, if it has the function.
fn cast_number(types: &Btf) -> Option<u32> {
    types.id_by_type_name_kind("bpf_cast_to_kern_ctx", BtfKind::Func).ok()
}

/// The ways in which the object may be loaded on this kernel, the best first, each with the
/// object ready for it. Those that do not cast do not name the function either: a kernel may
/// have it and refuse whoever calls it (it wants its compiler on, `net.core.bpf_jit_enable`).
pub fn ways(object: &[u8]) -> impl Iterator<Item = (Sight, Vec<u8>)> {
    let types = Btf::from_sys_fs().ok();
    let number = types.as_ref().and_then(cast_number);
    let cast = number.map(|number| (Sight::Cast, Some(number)));
    let copied = types.is_some().then_some((Sight::Copied, None));
    let all = cast.into_iter().chain(copied).chain([(Sight::Unseen, None)]);
    all.map(|(sight, number)| (sight, with_number(object, number)))
}

/// The object with the function's number in every marked call; `None`: the kernel has no such
/// function, and the calls, which are then never reached, are of a helper that every kernel has.
pub fn with_number(object: &[u8], number: Option<u32>) -> Vec<u8> {
    let mark = call(KERNEL_CALL, abi::CAST_MARK);
    let instead = number.map_or(call(HELPER_CALL, SOME_HELPER), |n| call(KERNEL_CALL, n));
    let mut ready = object.to_vec();
    let mut at = 0;
    while let Some(found) = ready.get(at..).and_then(|rest| find(rest, &mark)) {
        at += found;
        if let Some(place) = ready.get_mut(at..at + mark.len()) {
            place.copy_from_slice(&instead);
        }
        at += mark.len();
    }
    ready
}

fn call(head: [u8; 4], number: u32) -> [u8; 8] {
    let [a, b, c, d] = head;
    let [e, f, g, h] = number.to_le_bytes();
    [a, b, c, d, e, f, g, h]
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steer::{OBJECT, TAP_OBJECT};

    #[test]
    fn the_objects_carry_the_mark_and_lose_it() {
        let mark = call(KERNEL_CALL, abi::CAST_MARK);
        for object in [OBJECT, TAP_OBJECT] {
            assert!(find(object, &mark).is_some());
            for (number, instead) in
                [(Some(4711), call(KERNEL_CALL, 4711)), (None, call(HELPER_CALL, SOME_HELPER))]
            {
                let ready = with_number(object, number);
                assert_eq!(ready.len(), object.len());
                assert!(find(&ready, &mark).is_none());
                assert!(find(&ready, &instead).is_some());
            }
        }
    }

    #[test]
    fn all_marks_are_replaced_and_nothing_else() {
        let mark = call(KERNEL_CALL, abi::CAST_MARK);
        let object = [&[1, 0x85][..], &mark, &mark, &[0x20], &mark, &mark[..7]].concat();
        let number = call(KERNEL_CALL, 0x0102_0304);
        let wanted = [&[1, 0x85][..], &number, &number, &[0x20], &number, &mark[..7]].concat();
        assert_eq!(with_number(&object, Some(0x0102_0304)), wanted);
        assert!(with_number(&[], Some(1)).is_empty());
    }
}
