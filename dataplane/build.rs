//! Compiles the steering program with clang.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const HEADER: &str = "bpf/weir.h";
const PROGRAM: &str = "bpf/steer.bpf.c";

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed={HEADER}");
    println!("cargo::rerun-if-changed={PROGRAM}");
    println!("cargo::rerun-if-env-changed=CLANG");
    compile(&PathBuf::from(env::var("OUT_DIR")?).join("steer.bpf.o"))
}

/// Runs `$CLANG` (default `clang`) with target bpf.
fn compile(object: &Path) -> Result<()> {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    // <asm/types.h> lives in a directory of its own on multiarch distributions,
    // and clang does not look there when it compiles for another target.
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let endian = env::var("CARGO_CFG_TARGET_ENDIAN")?;
    let target = if endian == "big" { "bpfeb" } else { "bpfel" };
    let status = Command::new(&clang)
        .args(["-O2", "-g", "-Wall", "-Werror", "-target", target])
        .arg(format!("-I/usr/include/{arch}-linux-gnu"))
        .args(["-c", PROGRAM, "-o"])
        .arg(object)
        .status()
        .map_err(|e| format!("cannot run {clang}: {e}; install clang or set CLANG"))?;
    if !status.success() {
        return Err(format!(
            "{clang} could not compile {PROGRAM}; it needs the headers of libbpf-dev and gcc-multilib"
        )
        .into());
    }
    Ok(())
}
