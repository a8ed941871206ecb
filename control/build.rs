//! Turns the numbers and the counters' names of `dataplane/bpf/weir.h` into Rust, so that what
//! `weir status` reads is what the steering program of the same source tree writes.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

const HEADER: &str = "../dataplane/bpf/weir.h";
/// Words of the configuration record that the CLI reads, and the version that they belong to.
const NUMBERS: [&str; 5] = [
    "ABI_VERSION",
    "CONFIG_ABI_VERSION",
    "CONFIG_HEARTBEAT_TIMEOUT",
    "CONFIG_HEARTBEAT",
    "CONFIG_WORDS",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed={HEADER}");
    let header = fs::read_to_string(HEADER)?;
    let mut rust = String::new();
    for name in NUMBERS {
        let prefix = format!("#define WEIR_{name} ");
        let value = header
            .lines()
            .find_map(|line| line.strip_prefix(&prefix))
            .and_then(|value| value.split_whitespace().next())
            .ok_or_else(|| format!("{HEADER} does not define WEIR_{name}"))?;
        let value: u64 = value.parse()?;
        writeln!(rust, "/// `WEIR_{name}` of weir.h.\npub(super) const {name}: u64 = {value};")?;
    }
    let names: Vec<String> = header
        .lines()
        .skip_while(|line| !line.starts_with("enum weir_steering_counter"))
        .take_while(|line| !line.starts_with("};"))
        .filter_map(|line| line.trim().strip_prefix("WEIR_STEER_"))
        .filter_map(|line| line.split([',', ' ']).next())
        .filter(|name| *name != "COUNT")
        .map(str::to_lowercase)
        .collect();
    if names.is_empty() {
        return Err(format!("{HEADER} has no enum weir_steering_counter").into());
    }
    writeln!(rust, "/// Names of the steering counters, in the order of weir.h.")?;
    writeln!(rust, "pub(super) const STEERING_COUNTERS: [&str; {}] = {names:?};", names.len())?;
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("abi.rs"), rust)?;
    Ok(())
}
