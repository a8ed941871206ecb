//! Compiles the program that takes frames off a device, with clang.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

include!("../dataplane/bpf/clang.rs");

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-changed=../dataplane/bpf/clang.rs");
    println!("cargo::rerun-if-env-changed=CLANG");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    compile("bpf/receive.bpf.c", &[], &out.join("receive.bpf.o"))
}
