//! `weir`: evaluate, explain and watch NetworkPolicy verdicts.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    weir_control::cli::run(&weir_control::cli::Cli::parse())
}
