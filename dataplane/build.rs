//! Compiles the steering program with clang.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const HEADER: &str = "bpf/weir.h";
const PROGRAM: &str = "bpf/steer.bpf.c";
/// What the program includes beside [`HEADER`].
const PARTS: [&str; 4] = ["bpf/maps.h", "bpf/tuple.h", "bpf/flow.h", "bpf/parse.h"];

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed={HEADER}");
    println!("cargo::rerun-if-changed={PROGRAM}");
    for part in PARTS {
        println!("cargo::rerun-if-changed={part}");
    }
    println!("cargo::rerun-if-env-changed=CLANG");
    compile(&PathBuf::from(env::var("OUT_DIR")?).join("steer.bpf.o"))
}

/// What the kernel calls an architecture.
fn kernel_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "x86",
        "aarch64" => "arm64",
        "riscv64" => "riscv",
        "powerpc64" => "powerpc",
        "s390x" => "s390",
        other => other,
    }
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
        // v3: compare-and-exchange, in every kernel from 5.12 on.
        .args(["-O2", "-g", "-Wall", "-Werror", "-target", target, "-mcpu=v3"])
        .arg(format!("-D__TARGET_ARCH_{}", kernel_arch(&arch)))
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
