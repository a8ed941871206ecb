//! Compiles the steering program with clang and turns the constants of `bpf/weir.h`
//! into Rust, so that the two sides of the kernel boundary cannot drift apart.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const HEADER: &str = "bpf/weir.h";
const PROGRAM: &str = "bpf/steer.bpf.c";

fn main() -> Result<()> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed={HEADER}");
    println!("cargo::rerun-if-changed={PROGRAM}");
    println!("cargo::rerun-if-env-changed=CLANG");
    compile(&out.join("steer.bpf.o"))?;
    fs::write(out.join("abi.rs"), constants(&fs::read_to_string(HEADER)?)?)?;
    Ok(())
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

/// Numeric `#define WEIR_*` lines become `u32` constants; the steering counters
/// become an array of names in their order.
fn constants(header: &str) -> Result<String> {
    let mut rust = String::new();
    for line in header.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("#define") {
            continue;
        }
        let (Some(name), Some(value)) = (words.next(), words.next()) else { continue };
        let Some(name) = name.strip_prefix("WEIR_") else { continue };
        let value = match value.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16),
            None => value.parse(),
        };
        if let Ok(value) = value {
            writeln!(rust, "/// `WEIR_{name}` of weir.h.\npub const {name}: u32 = {value};")?;
        }
    }
    let names: Vec<String> = header
        .lines()
        .skip_while(|l| !l.starts_with("enum weir_steering_counter"))
        .take_while(|l| !l.starts_with("};"))
        .filter_map(|l| l.trim().strip_prefix("WEIR_STEER_"))
        .filter_map(|l| l.split([',', ' ']).next())
        .filter(|name| *name != "COUNT")
        .map(str::to_lowercase)
        .collect();
    if names.is_empty() {
        return Err(format!("{HEADER}: no enum weir_steering_counter").into());
    }
    writeln!(rust, "/// Names of the steering counters, in the order of weir.h.")?;
    writeln!(rust, "pub const STEERING_COUNTERS: [&str; {}] = {names:?};", names.len())?;
    Ok(rust)
}
