//! `weir-bench`: see [`weir_bench`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use weir_bench::cli::{Cli, FINDING};

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("weir-bench: {error:#}");
            ExitCode::from(FINDING)
        }
    }
}
