//! Compiles the program that takes frames off a device, with clang.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const PROGRAM: &str = "bpf/receive.bpf.c";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    // <asm/types.h> lives in a directory of its own on multiarch distributions, and clang does
    // not look there when it compiles for another target.
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let endian = env::var("CARGO_CFG_TARGET_ENDIAN")?;
    let target = if endian == "big" { "bpfeb" } else { "bpfel" };
    let status = Command::new(&clang)
        .args(["-O2", "-g", "-Wall", "-Werror", "-target", target])
        .arg(format!("-I/usr/include/{arch}-linux-gnu"))
        .args(["-c", PROGRAM, "-o"])
        .arg(PathBuf::from(env::var("OUT_DIR")?).join("receive.bpf.o"))
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
