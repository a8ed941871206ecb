//! The command line. For CNI there is none: a runtime gives variables and standard input.

use std::{ffi::OsString, time::Duration};

use crate::{config::MAX_TIMEOUT, install::Options};

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Serve a runtime.
    Plugin,
    /// Into the chain.
    Install(Options),
    /// Out of the chain.
    Uninstall(Options),
    /// Into the chain, and keep it there.
    Watch(Options),
    /// Print [`HELP`].
    Help,
    /// Print the version.
    Version,
}

/// What `--help` prints.
pub const HELP: &str = "\
Weir's chained CNI plugin: a pod's interface is enforced before the pod starts.

usage: weir-cni install [--watch] [OPTION VALUE]...
       weir-cni uninstall [OPTION VALUE]...

  install     copy this program to where runtimes look for plugins, and put it into the
              node's network configuration, behind the plugins that are there
  uninstall   take it out again: files are as they were before

  --watch             go on: put it in again whenever others write the configuration anew;
                      wait for a configuration if there is none yet
  --conf-dir DIR      network configurations        (default /etc/cni/net.d)
  --bin-dir DIR       plugins                       (default /opt/cni/bin)
  --socket PATH       the dataplane's socket        (default /run/weir/cni.sock)
  --timeout-ms N      how long a pod waits until its policy is in force (default 10000)
  --on-failure WHAT   no dataplane serves: closed (default), pods do not start | open: they
                      start, unjudged until it finds them
  --on-timeout WHAT   the wait is over: fail (default, unless --on-failure open) |
                      quarantine: the pod starts, cut off from all but its node until its
                      policy is in force
  --help, --version

Without a command it is a CNI plugin (0.3.1, 0.4.0, 1.0.0, 1.1.0) and follows CNI_COMMAND.
Exit status: 0 done, 1 failed, 2 wrong usage.
";

/// Reads the command line, without the program's name.
///
/// # Errors
/// What is wrong with it.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    is_called_by_runtime: bool,
) -> Result<Command, String> {
    let mut arguments = arguments.into_iter();
    let Some(word) = arguments.next() else {
        return if is_called_by_runtime {
            Ok(Command::Plugin)
        } else {
            Err("no command, and no CNI_COMMAND: this is a CNI plugin, run by container \
                 runtimes"
                .into())
        };
    };
    let mut make: fn(Options) -> Command = match word.to_str() {
        Some("install") => Command::Install,
        Some("uninstall") => Command::Uninstall,
        Some("--help" | "-h" | "help") => return Ok(Command::Help),
        Some("--version" | "-V") => return Ok(Command::Version),
        _ => return Err(format!("no command {}", word.to_string_lossy())),
    };
    let mut options = Options::default();
    while let Some(argument) = arguments.next() {
        let text = argument.to_str().unwrap_or_default();
        if matches!(text, "--help" | "-h") {
            return Ok(Command::Help);
        }
        if text == "--watch" {
            if word != "install" {
                return Err("--watch belongs to install".into());
            }
            make = Command::Watch;
            continue;
        }
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.into())),
            None => (text.to_owned(), arguments.next()),
        };
        if !name.starts_with("--") {
            return Err(format!("no option {}", argument.to_string_lossy()));
        }
        let value: OsString = value
            .filter(|value: &OsString| !value.is_empty())
            .ok_or_else(|| format!("{name} needs a value"))?;
        let text = value.to_string_lossy().into_owned();
        match name.as_str() {
            "--conf-dir" => options.conf_dir = value.into(),
            "--bin-dir" => options.bin_dir = value.into(),
            "--socket" => {
                if !text.starts_with('/') {
                    return Err(format!("--socket {text}: give an absolute path"));
                }
                options.socket = Some(value.into());
            }
            "--timeout-ms" => {
                let timeout = text.parse().ok().map(Duration::from_millis);
                let timeout = timeout.filter(|t| !t.is_zero() && *t <= MAX_TIMEOUT);
                let most = MAX_TIMEOUT.as_millis();
                options.timeout =
                    Some(timeout.ok_or(format!("--timeout-ms {text}: give 1 to {most}"))?);
            }
            "--on-failure" => {
                let what = text.parse();
                options.on_failure =
                    Some(what.map_err(|()| format!("--on-failure {text}: give closed or open"))?);
            }
            "--on-timeout" => {
                let what = text.parse();
                options.on_timeout = Some(
                    what.map_err(|()| format!("--on-timeout {text}: give fail or quarantine"))?,
                );
            }
            _ => return Err(format!("no option {name}")),
        }
    }
    Ok(make(options))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{OnFailure, OnTimeout};

    fn read(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(Into::into), false)
    }

    #[test]
    fn options_are_read() {
        assert_eq!(read("install"), Ok(Command::Install(Options::default())));
        let options = Options {
            conf_dir: "/a".into(),
            bin_dir: "/b".into(),
            socket: Some("/c.sock".into()),
            timeout: Some(Duration::from_millis(500)),
            on_timeout: Some(OnTimeout::Quarantine),
            on_failure: Some(OnFailure::Open),
        };
        let line = "install --conf-dir /a --watch --bin-dir=/b --socket /c.sock \
                    --timeout-ms=500 --on-timeout quarantine --on-failure=open";
        assert_eq!(read(line), Ok(Command::Watch(options)));
        assert_eq!(read("--help"), Ok(Command::Help));
        assert_eq!(read("uninstall --help"), Ok(Command::Help));
        assert_eq!(read("--version"), Ok(Command::Version));
        assert_eq!(parse([], true), Ok(Command::Plugin));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, words) in [
            ("", "no CNI_COMMAND"),
            ("dance", "no command dance"),
            ("install --conf-dir", "--conf-dir needs a value"),
            ("install --conf-dir=", "--conf-dir needs a value"),
            ("install here", "no option here"),
            ("install --colour red", "no option --colour"),
            ("install --socket run/x", "absolute path"),
            ("install --timeout-ms 0", "give 1 to 120000"),
            ("install --timeout-ms soon", "give 1 to 120000"),
            ("uninstall --watch", "--watch belongs to install"),
            ("install --on-failure pass", "give closed or open"),
            ("install --on-timeout pass", "give fail or quarantine"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains(words), "{error} should say: {words}");
        }
    }
}
