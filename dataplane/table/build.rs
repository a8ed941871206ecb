//! Turns the numbers and the counters' names of `bpf/weir.h` into Rust, so that the two
//! sides of the kernel boundary cannot drift apart.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const HEADER: &str = "../bpf/weir.h";

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed={HEADER}");
    let out = PathBuf::from(env::var("OUT_DIR")?).join("abi.rs");
    fs::write(out, constants(&fs::read_to_string(HEADER)?)?)?;
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
