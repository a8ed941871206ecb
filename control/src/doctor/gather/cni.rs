//! What the container runtime would do: its configuration in force, and our plugin's program.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use weir_cni::{PLUGIN, conflist};

use super::super::{Cni, Configuration};

/// How long a program may take to say its version, and how much it may say, in bytes.
const PATIENCE: Duration = Duration::from_secs(5);
const SAYS: u64 = 4096;

/// Looks at both folders.
pub(super) fn look(conf_dir: &Path, bin_dir: &Path) -> Cni {
    let program = bin_dir.join(PLUGIN);
    let is_program =
        fs::metadata(&program).is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0);
    let (in_force, skipped) = match in_force(conf_dir) {
        Ok((found, skipped)) => (Ok(found), skipped),
        Err(error) => (Err(error), Vec::new()),
    };
    Cni {
        conf_dir: conf_dir.to_owned(),
        bin_dir: bin_dir.to_owned(),
        in_force,
        skipped,
        program: is_program.then(|| version_of(&program)),
    }
}

/// What a program says when asked for its version, the first line of it. It gets nothing of this
/// process's environment, and an end if it takes too long.
fn version_of(program: &Path) -> Result<String, String> {
    let mut child = Command::new(program)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let begin = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if begin.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(5)),
            Ok(None) => {
                // Either call fails only where it has ended meanwhile.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("no answer to --version within {} s", PATIENCE.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    };
    let mut said = Vec::new();
    if let Some(output) = child.stdout {
        output.take(SAYS).read_to_end(&mut said).map_err(|error| error.to_string())?;
    }
    match String::from_utf8_lossy(&said).lines().next() {
        Some(line) if status.success() => Ok(line.trim().to_owned()),
        _ => Err(format!("--version ends with {status}")),
    }
}

/// The configuration that runtimes follow, and which files before it they cannot load.
fn in_force(conf_dir: &Path) -> Result<(Option<Configuration>, Vec<String>), String> {
    let (found, skipped) = match conflist::first(conf_dir) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((None, Vec::new())),
        Err(error) => return Err(format!("{}: {error}", conf_dir.display())),
    };
    let Some(found) = found else { return Ok((None, skipped)) };
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", found.path.display());
    let json: Value = serde_json::from_str(&found.text).map_err(|error| failed(&error))?;
    let string = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let plugins = match json["plugins"].as_array() {
        Some(plugins) => plugins.iter().map(|plugin| string(&plugin["type"])).collect(),
        None => vec![string(&json["type"])],
    };
    let file = found.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok((Some(Configuration { file, version: string(&json["cniVersion"]), plugins }), skipped))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn the_first_configuration_by_name_is_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let read = || in_force(dir.path()).unwrap();
        assert_eq!(in_force(&dir.path().join("none")), Ok((None, Vec::new())));
        fs::write(dir.path().join("00-readme.txt"), "").unwrap();
        assert_eq!(read(), (None, Vec::new()));
        fs::write(dir.path().join("99-loopback.conf"), r#"{"type":"loopback"}"#).unwrap();
        let found = read().0.unwrap();
        assert_eq!((found.version.as_str(), found.plugins), ("", vec!["loopback".to_owned()]));
        let list = r#"{"cniVersion":"1.0.0","plugins":[{"type":"bridge"},{"type":"weir-cni"}]}"#;
        fs::write(dir.path().join("10-net.conflist"), list).unwrap();
        fs::write(dir.path().join("05-half.conf"), "{").unwrap();
        let (found, skipped) = read();
        let found = found.unwrap();
        assert_eq!((found.file.as_str(), found.version.as_str()), ("10-net.conflist", "1.0.0"));
        assert_eq!(found.plugins, ["bridge", "weir-cni"]);
        assert!(skipped.len() == 1 && skipped[0].contains("05-half.conf"), "{skipped:?}");
    }

    #[test]
    fn a_program_has_to_be_executable() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("weir-cni");
        assert_eq!(look(dir.path(), dir.path()).program, None);
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(look(dir.path(), dir.path()).program, None);
        fs::remove_file(&program).unwrap();
        // This program runs, and has no such option.
        symlink(std::env::current_exe().unwrap(), &program).unwrap();
        let said = look(dir.path(), dir.path()).program.unwrap().unwrap_err();
        assert!(said.starts_with("--version ends with exit status: "), "{said}");
    }
}
