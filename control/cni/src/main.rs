//! Weir's CNI plugin, and the command that puts it into a node's chain.
#![forbid(unsafe_code)]

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
};

use weir_cni::{
    SOFTWARE,
    arguments::{self, Command, HELP},
    install::{self, InstallError},
    verbs, watch,
};

fn main() -> ExitCode {
    let by_runtime = env::var_os("CNI_COMMAND").is_some();
    match arguments::parse(env::args_os().skip(1), by_runtime) {
        Ok(Command::Plugin) => plugin(),
        Ok(Command::Install(options)) => report(install::install(&options)),
        Ok(Command::Uninstall(options)) => report(install::uninstall(&options)),
        Ok(Command::Watch(options)) => {
            report(watch::watch(&options, |line| eprintln!("weir-cni: {line}")).map(|()| vec![]))
        }
        Ok(Command::Help) => print(HELP),
        Ok(Command::Version) => print(&format!("{SOFTWARE}\n")),
        Err(problem) => {
            eprintln!("weir-cni: {problem}\nweir-cni --help says more");
            ExitCode::from(2)
        }
    }
}

/// Serves a runtime: one call, one result.
fn plugin() -> ExitCode {
    let outcome = verbs::run(|name| env::var_os(name), io::stdin().lock());
    if let Some(note) = outcome.note {
        eprintln!("weir-cni: {note}");
    }
    let printed = print(&outcome.output);
    if outcome.success { printed } else { ExitCode::FAILURE }
}

fn report(result: Result<Vec<String>, InstallError>) -> ExitCode {
    match result {
        Ok(done) => print(&done.iter().map(|line| format!("{line}\n")).collect::<String>()),
        Err(error) => {
            eprintln!("weir-cni: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A reader that has gone has no result: that is a failure.
fn print(text: &str) -> ExitCode {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-cni: standard output: {error}");
            ExitCode::FAILURE
        }
    }
}
