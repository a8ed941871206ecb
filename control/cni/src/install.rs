//! Into the node's chain of plugins, and out of it.
//!
//! ```text
//!  install    BIN/weir-cni ← this program      then the entry into the first configuration
//!  uninstall  the entries out of all of them   then BIN/weir-cni away
//! ```
//!
//! In this order a runtime never meets an entry whose program is not there.
//!
//! A configuration that is one plugin and no list (`NAME.conf`) cannot be chained: a list with it
//! in it is written as `NAME.conflist`, and `NAME.conf` is renamed to `NAME.conf.weir-saved`, at
//! which no runtime looks. `NAME.conf` comes before `NAME.conflist` in the runtimes' order, so
//! each of the two renames switches the node over at one moment, and either way back is open if
//! the machine stops between the steps.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::{
    CNI_VERSIONS, PLUGIN,
    config::{OnFailure, OnTimeout},
    conflist::{self, Configuration},
    splice::{self, SpliceError},
    text,
};

/// Where runtimes look for configurations.
pub const DEFAULT_CONF_DIR: &str = "/etc/cni/net.d";
/// Where runtimes look for plugins.
pub const DEFAULT_BIN_DIR: &str = "/opt/cni/bin";
/// What is put behind the name of a configuration that a list stands for.
const SAVED: &str = "weir-saved";
/// How often an edit is begun again because another has written meanwhile.
const ATTEMPTS: usize = 10;

/// Where to install, and what the entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The directory of configurations.
    pub conf_dir: PathBuf,
    /// The directory of plugins.
    pub bin_dir: PathBuf,
    /// `socket` of the entry; `None` for the plugin's default.
    pub socket: Option<PathBuf>,
    /// `timeoutMs` of the entry.
    pub timeout: Option<Duration>,
    /// `onTimeout` of the entry.
    pub on_timeout: Option<OnTimeout>,
    /// `onFailure` of the entry.
    pub on_failure: Option<OnFailure>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            conf_dir: DEFAULT_CONF_DIR.into(),
            bin_dir: DEFAULT_BIN_DIR.into(),
            socket: None,
            timeout: None,
            on_timeout: None,
            on_failure: None,
        }
    }
}

/// Why the chain was not changed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// There is nothing to be chained into.
    #[error(
        "{directory} has no network configuration{}; install the node's CNI plugins first, or \
         run weir-cni install --watch, which waits for them",
        .skipped.iter().map(|words| format!(" ({words})")).collect::<String>()
    )]
    NoConfiguration {
        /// Where it was looked for.
        directory: PathBuf,
        /// What was there and cannot be loaded.
        skipped: Vec<String>,
    },
    /// A configuration cannot be edited.
    #[error("{path} {problem}")]
    Unsuitable {
        /// Its file.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// `weir-cni install --watch` would undo it.
    #[error(
        "weir-cni install --watch runs on this node and would put {PLUGIN} into the chain again; \
         stop it first"
    )]
    Watched,
    /// The system refused.
    #[error("{path}: {step}: {source}")]
    Io {
        /// What it was about.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl InstallError {
    fn io(path: &Path, step: &'static str) -> impl FnOnce(io::Error) -> InstallError {
        move |source| InstallError::Io { path: path.to_owned(), step, source }
    }
}

/// The entry's text.
pub fn entry(options: &Options) -> String {
    use serde_json::json;
    // Ports of the node that lead to a pod are told to plugins that ask for them.
    let mut entry = format!(r#"{{ "type": "{PLUGIN}", "capabilities": {{ "portMappings": true }}"#);
    let mut add = |name: &str, value: serde_json::Value| {
        entry.push_str(&format!(r#", "{name}": {value}"#));
    };
    if let Some(socket) = &options.socket {
        add("socket", json!(socket));
    }
    if let Some(timeout) = options.timeout {
        add("timeoutMs", json!(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)));
    }
    if let Some(on_failure) = options.on_failure {
        add("onFailure", json!(on_failure.word()));
    }
    if let Some(on_timeout) = options.on_timeout {
        add("onTimeout", json!(on_timeout.word()));
    }
    entry.push_str(" }");
    entry
}

/// Puts the program in its place and the entry into the first configuration. Gives in words what
/// was changed: nothing, if all was there.
///
/// # Errors
/// [`InstallError`].
pub fn install(options: &Options) -> Result<Vec<String>, InstallError> {
    let mut done = Vec::new();
    done.extend(install_program(&options.bin_dir)?);
    done.extend(chain(options)?);
    Ok(done)
}

/// Copies the program that runs to where runtimes look for it, if it is not there.
///
/// # Errors
/// [`InstallError::Io`].
pub fn install_program(bin_dir: &Path) -> Result<Option<String>, InstallError> {
    let itself = Path::new("/proc/self/exe");
    let target = bin_dir.join(PLUGIN);
    let program = fs::read(itself).map_err(InstallError::io(itself, "read"))?;
    let mode = |path: &Path| fs::metadata(path).map(|metadata| metadata.mode() & 0o777);
    if fs::read(&target).is_ok_and(|there| there == program) && mode(&target).ok() == Some(0o755) {
        return Ok(None);
    }
    conflist::make_directory(bin_dir).map_err(InstallError::io(bin_dir, "make the directory"))?;
    conflist::put(&target, &program, 0o755).map_err(InstallError::io(&target, "write"))?;
    Ok(Some(format!("installed {}", target.display())))
}

/// Puts the entry into the first configuration, if it is not there.
///
/// # Errors
/// [`InstallError`].
pub fn chain(options: &Options) -> Result<Option<String>, InstallError> {
    let directory = &options.conf_dir;
    let entry = entry(options);
    let _lock = conflist::lock(directory).map_err(InstallError::io(directory, "lock"))?;
    for _ in 0..ATTEMPTS {
        let (first, skipped) =
            conflist::first(directory).map_err(InstallError::io(directory, "read"))?;
        let Some(first) = first else {
            let directory = directory.clone();
            return Err(InstallError::NoConfiguration { directory, skipped });
        };
        check_version(&first)?;
        if !first.is_list {
            return wrap(&first, &entry).map(Some);
        }
        let unsuitable = |error: SpliceError| InstallError::Unsuitable {
            path: first.path.clone(),
            problem: error.to_string(),
        };
        let Some(chained) = splice::insert(&first.text, &entry).map_err(unsuitable)? else {
            return Ok(None);
        };
        if conflist::replace(&first.path, &first.text, &chained)
            .map_err(InstallError::io(&first.path, "replace"))?
        {
            return Ok(Some(format!("chained {PLUGIN} in {}", first.path.display())));
        }
    }
    let problem = "is written by another program all the time; try again".to_owned();
    Err(InstallError::Unsuitable { path: directory.clone(), problem })
}

/// A runtime would call the plugin with a version that it must refuse.
fn check_version(configuration: &Configuration) -> Result<(), InstallError> {
    let whole = text::value(&configuration.text).unwrap_or(0..0);
    let members = text::members(&configuration.text, &whole).unwrap_or_default();
    let version = text::member(&members, "cniVersion")
        .and_then(|member| text::string(&configuration.text, &member.value));
    if version.as_ref().is_some_and(|version| CNI_VERSIONS.contains(&version.as_str())) {
        return Ok(());
    }
    let version = version.unwrap_or_else(|| "missing".into());
    Err(InstallError::Unsuitable {
        path: configuration.path.clone(),
        problem: format!(
            "cannot be chained: its cniVersion is {version}, {PLUGIN} speaks {}; change it there",
            CNI_VERSIONS.join(", ")
        ),
    })
}

/// Where the list is that stands for a lone plugin, and where that is kept.
fn beside(path: &Path) -> (PathBuf, PathBuf) {
    let mut saved = path.as_os_str().to_owned();
    saved.push(format!(".{SAVED}"));
    (path.with_extension("conflist"), saved.into())
}

/// Writes a list that stands for a lone plugin.
fn wrap(lone: &Configuration, entry: &str) -> Result<String, InstallError> {
    let (list, saved) = beside(&lone.path);
    let problem = |problem: String| InstallError::Unsuitable { path: lone.path.clone(), problem };
    let whole = text::value(&lone.text).map_err(|e| problem(e.to_string()))?;
    let members = text::members(&lone.text, &whole).unwrap_or_default();
    let raw =
        |name: &str| text::member(&members, name).and_then(|m| lone.text.get(m.value.clone()));
    let (Some(name), Some(version)) = (raw("name"), raw("cniVersion")) else {
        return Err(problem("has no name: runtimes could not use it".into()));
    };
    let plugin = &lone.text[whole];
    let content = format!(
        "{{\n  \"cniVersion\": {version},\n  \"name\": {name},\n  \"plugins\": [\n    {plugin},\n    \
         {entry}\n  ]\n}}\n"
    );
    // A list of that name may be replaced only if it is one that we wrote.
    let ours = saved.exists() || fs::read(&list).is_ok_and(|there| there == content.as_bytes());
    if list.exists() && !ours {
        return Err(problem(format!(
            "is one plugin, not a list, and {} is there already: remove the one that is not used",
            list.display()
        )));
    }
    let mode = fs::metadata(&lone.path).map_or(0o644, |metadata| metadata.mode());
    conflist::put(&list, content.as_bytes(), mode).map_err(InstallError::io(&list, "write"))?;
    fs::rename(&lone.path, &saved)
        .and_then(|()| conflist::sync_directory(&lone.path))
        .map_err(InstallError::io(&lone.path, "rename"))?;
    Ok(format!(
        "chained {PLUGIN} in {}, which stands for {} (kept as {})",
        list.display(),
        lone.path.display(),
        saved.display()
    ))
}

/// Takes the entries out of all configurations, and the program away. Gives in words what was
/// changed.
///
/// # Errors
/// [`InstallError`]; `Watched` while `weir-cni install --watch` runs.
pub fn uninstall(options: &Options) -> Result<Vec<String>, InstallError> {
    let mut done = Vec::new();
    let _only = match only_watcher(&options.bin_dir) {
        Ok(Some(lock)) => Some(lock),
        Ok(None) => return Err(InstallError::Watched),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(InstallError::io(&options.bin_dir, "lock")(error)),
    };
    let directory = &options.conf_dir;
    match conflist::lock(directory) {
        Ok(_lock) => {
            unwrap_saved(directory, &mut done)?;
            unchain(directory, &mut done)?;
            conflist::sweep(directory).map_err(InstallError::io(directory, "tidy"))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(InstallError::io(directory, "lock")(error)),
    }
    let program = options.bin_dir.join(PLUGIN);
    match fs::remove_file(&program) {
        Ok(()) => done.push(format!("removed {}", program.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(InstallError::io(&program, "remove")(error)),
    }
    Ok(done)
}

/// Puts lone plugins back in their places, and takes the lists away that stood for them.
fn unwrap_saved(directory: &Path, done: &mut Vec<String>) -> Result<(), InstallError> {
    let entries = fs::read_dir(directory).map_err(InstallError::io(directory, "read"))?;
    for saved in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        if saved.extension().is_none_or(|extension| extension != SAVED) {
            continue;
        }
        let original = saved.with_extension("");
        let (list, _) = beside(&original);
        if original.exists() {
            // Its installer has written it anew meanwhile: that one counts.
            fs::remove_file(&saved).map_err(InstallError::io(&saved, "remove"))?;
        } else {
            fs::rename(&saved, &original).map_err(InstallError::io(&saved, "rename"))?;
        }
        match conflist::load(&list) {
            Ok(ours) if splice::is_in(&ours.text) => {
                fs::remove_file(&list).map_err(InstallError::io(&list, "remove"))?;
            }
            _ => {}
        }
        conflist::sync_directory(&original).map_err(InstallError::io(directory, "sync"))?;
        done.push(format!("{} is in force again", original.display()));
    }
    Ok(())
}

/// Takes our entries out of all lists.
fn unchain(directory: &Path, done: &mut Vec<String>) -> Result<(), InstallError> {
    let candidates =
        conflist::candidates(directory).map_err(InstallError::io(directory, "read"))?;
    for path in candidates {
        for _ in 0..ATTEMPTS {
            // What runtimes cannot load is none of ours.
            let Ok(configuration) = conflist::load(&path) else { break };
            let Ok(Some(rest)) = splice::remove(&configuration.text) else { break };
            if conflist::replace(&path, &configuration.text, &rest)
                .map_err(InstallError::io(&path, "replace"))?
            {
                done.push(format!("took {PLUGIN} out of {}", path.display()));
                break;
            }
        }
    }
    Ok(())
}

/// Becomes the only one that watches or uninstalls on this node, until the file is closed;
/// `None`: another is.
///
/// # Errors
/// When the directory of plugins cannot be opened or locked.
pub fn only_watcher(bin_dir: &Path) -> io::Result<Option<File>> {
    let directory = File::open(bin_dir)?;
    loop {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(directory)),
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
