//! Compiles the steering program with clang, and the programs with which tests try its code.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

include!("bpf/clang.rs");

const PROGRAM: &str = "bpf/steer.bpf.c";
/// Programs that only tests load: they include the steering program's headers.
const STRESS: &str = "bpf/stress.bpf.c";
const TUPLE_TEST: &str = "bpf/tuple_test.bpf.c";

/// A step of the flow table's protocol that is taken out of `flow.h`, to see that the stress
/// test notices: name, what is replaced, and by what.
const BROKEN: [(&str, &str, &str); 2] = [
    // A reader that does not look at the control word again.
    ("unchecked", "if (READ(entry[WEIR_FLOW_CTL]) != ctl)", "if (0)"),
    // A writer whose entry is live before it is whole.
    (
        "unclaimed",
        "<< WEIR_FLOW_VERSION_SHIFT | WEIR_FLOW_BUSY;",
        "<< WEIR_FLOW_VERSION_SHIFT | 2;",
    ),
];

fn main() -> Result<()> {
    // Any file of the folder: the programs include most of them.
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    compile(PROGRAM, &[], &out.join("steer.bpf.o"))?;
    compile(PROGRAM, &["-DWEIR_WITHOUT_AF_XDP"], &out.join("steer_tap.bpf.o"))?;
    compile(TUPLE_TEST, &[], &out.join("tuple_test.bpf.o"))?;
    compile(STRESS, &[], &out.join("stress.bpf.o"))?;
    for (name, step, instead) in BROKEN {
        let broken = break_flow_h(step, instead)?;
        let header = out.join(format!("flow_{name}.h"));
        fs::write(&header, broken)?;
        // Included first, so that the guard keeps the true one out.
        let header = header.to_str().ok_or("OUT_DIR is not UTF-8")?;
        let object = out.join(format!("stress_{name}.bpf.o"));
        compile(STRESS, &["-Ibpf", "-include", header], &object)?;
    }
    Ok(())
}

/// `flow.h` with one step replaced.
fn break_flow_h(step: &str, instead: &str) -> Result<String> {
    let source = fs::read_to_string("bpf/flow.h")?;
    if source.matches(step).count() != 1 {
        return Err(
            format!("bpf/flow.h does not have {step:?} once: adapt BROKEN in build.rs").into()
        );
    }
    Ok(source.replace(step, instead))
}
