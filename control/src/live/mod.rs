//! The running node, read from shared memory: nobody is asked, nothing is stopped.
//!
//! ```text
//!   /sys/fs/bpf/weir/  weir_counters weir_flows* weir_stamps weir_config   mapped read-only
//!                      weir_steering                                       read per CPU
//!   /run/weir/         generation.table generation.addrs endpoints.json    read as files
//!                      control.json control.lock
//! ```
//!
//! The daemon may be dead: what it left is still what the hooks enforce, and is shown with the age
//! of its last heartbeat.

pub mod control;
pub mod drops;
pub mod flows;
pub mod status;
pub mod tc;
pub mod uninstall;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use aya::maps::{Map, MapData, PerCpuArray};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use weir_table::abi;
use weir_table::classify::MappedClassifier;
use weir_table::counters::{Counters, CountersError};
use weir_table::flow::{FlowTableError, FlowView, HashKey, Tick};
use weir_table::mem::{Access, MapError, SharedWords, Words};
use weir_table::saved::{self, SavedError};
use weir_table::stamps::{Stamps, StampsSize};

/// Why the running node cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// A pinned map cannot be opened.
    #[error("cannot open {}: {reason}; is weir-dataplane running on this node, and are you root?", path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        reason: String,
    },
    /// A map was written by another version.
    #[error(
        "the steering maps have ABI version {found}, this program reads {}; use the `weir` that came with the running dataplane",
        abi::ABI_VERSION
    )]
    Abi {
        /// The version found.
        found: u64,
    },
    /// A map cannot be mapped.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The counters are not readable.
    #[error(transparent)]
    Counters(#[from] CountersError),
    /// The flow table is not readable.
    #[error(transparent)]
    Flows(#[from] FlowTableError),
    /// The validity stamps are not readable.
    #[error(transparent)]
    Stamps(#[from] StampsSize),
    /// The saved generation is not readable.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// A file of the run directory is not readable.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Where the running node keeps its state.
#[derive(Debug, Clone, clap::Args)]
pub struct Places {
    /// Sockets and tmpfs state of the dataplane
    #[arg(long, value_name = "DIR", default_value = weir_table::DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,
    /// Pinned maps of the dataplane
    #[arg(long, value_name = "DIR", default_value = weir_table::DEFAULT_PIN_DIR)]
    pub pin_dir: PathBuf,
}

/// One pod interface, as the dataplane writes it to `endpoints.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// Index of the host-side device.
    pub ifindex: u32,
    /// Name of the host-side device.
    pub device: String,
    /// Name of the pod's network namespace.
    pub netns: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// What of these it has added to the ones that it came with: without effect.
    #[serde(default)]
    pub ignored: Vec<IpAddr>,
    /// Dropped as a whole: it claims an address that another has.
    pub quarantined: bool,
    /// Both hooks are on the device.
    pub attached: bool,
    /// Whose it is by the CNI plugin's word, `namespace/name`; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// That pod's policy is in force, by weir-control's word.
    #[serde(default)]
    pub placed: bool,
    /// Cut off: its pod's policy is not in force yet, its word was withdrawn, or must come.
    #[serde(default)]
    pub held: bool,
}

/// A pinned array, mapped read-only as a whole.
fn map_pin(places: &Places, name: &'static str) -> Result<SharedWords, LiveError> {
    let path = places.pin_dir.join(name);
    let failed = |error: &dyn std::error::Error| LiveError::Pin {
        path: path.clone(),
        reason: root_cause(error),
    };
    let data = MapData::from_pin(&path).map_err(|error| failed(&error))?;
    let info = data.info().map_err(|error| failed(&error))?;
    let words = info.max_entries() as usize * (info.value_size() as usize / 8);
    Ok(SharedWords::map(data.fd().as_fd(), words, Access::ReadOnly, name)?)
}

/// The innermost cause: the kernel's word rather than the library's.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// The workers' counters.
///
/// # Errors
/// [`LiveError`] if no dataplane has run here.
pub fn counters(places: &Places) -> Result<Counters<SharedWords>, LiveError> {
    Ok(Counters::open(map_pin(places, "weir_counters")?)?)
}

/// The flow table.
///
/// # Errors
/// [`LiveError`] if no dataplane has run here.
pub fn flow_view(places: &Places) -> Result<FlowView<SharedWords>, LiveError> {
    Ok(FlowView::new(map_pin(places, "weir_flows4")?, map_pin(places, "weir_flows6")?)?)
}

/// The hooks' configuration record, of our ABI.
fn config(places: &Places) -> Result<SharedWords, LiveError> {
    let config = map_pin(places, "weir_config")?;
    let version = config.words().get(abi::CONFIG_ABI_VERSION as usize);
    let found = version.map_or(0, |word| word.load(Ordering::Acquire));
    if found != u64::from(abi::ABI_VERSION) || config.words().len() < abi::CONFIG_WORDS as usize {
        return Err(LiveError::Abi { found });
    }
    Ok(config)
}

/// The time by the clock of flows, which stands still while no daemon runs.
///
/// # Errors
/// [`LiveError`] if no dataplane has run here, or one of another ABI.
pub fn flow_time(places: &Places) -> Result<Tick, LiveError> {
    let config = config(places)?;
    let tick = config.words().get(abi::CONFIG_TICK as usize);
    let tick = tick.map_or(0, |word| word.load(Ordering::Acquire));
    Ok(Tick(u32::try_from(tick).unwrap_or(0)))
}

/// Which verdicts hold, and who applies them.
///
/// # Errors
/// [`LiveError`] if no dataplane has run here.
pub fn validity(places: &Places) -> Result<flows::Validity<SharedWords>, LiveError> {
    let config = config(places)?;
    let word = |index: usize| config.words().get(index).map_or(0, |w| w.load(Ordering::Acquire));
    let key = HashKey::from_words(std::array::from_fn(word));
    let stamps = Stamps::new(map_pin(places, "weir_stamps")?, key)?;
    Ok(flows::Validity { stamps, offload: word(abi::CONFIG_OFFLOAD as usize) != 0 })
}

/// The steering counters by name, summed over CPUs.
///
/// # Errors
/// [`LiveError`] if no dataplane has run here.
pub fn steering(places: &Places) -> Result<Vec<(&'static str, u64)>, LiveError> {
    let path = places.pin_dir.join("weir_steering");
    let failed = |error: &dyn std::error::Error| LiveError::Pin {
        path: path.clone(),
        reason: root_cause(error),
    };
    let data = MapData::from_pin(&path).map_err(|error| failed(&error))?;
    let map: PerCpuArray<MapData, u64> =
        PerCpuArray::try_from(Map::PerCpuArray(data)).map_err(|error| failed(&error))?;
    let read = |(index, name)| {
        let values = map.get(&index, 0).map_err(|error| failed(&error))?;
        Ok((name, values.iter().sum()))
    };
    (0u32..).zip(abi::STEERING_COUNTERS).map(read).collect()
}

/// Packets that the kernel dropped between a hook and the workers' sockets because the punt
/// device's queue was full; `None` if there is no punt device (no dataplane runs).
///
/// # Errors
/// [`LiveError`] if no dataplane has run here.
pub fn punt_device_drops(places: &Places) -> Result<Option<u64>, LiveError> {
    let Some(name) = punt_device(places)? else { return Ok(None) };
    let table = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    Ok(transmit_drops(&table, &name))
}

/// The name of the punt device; `None` if there is none (no dataplane runs).
///
/// # Errors
/// [`LiveError`] if no dataplane has run here.
pub fn punt_device(places: &Places) -> Result<Option<String>, LiveError> {
    let config = map_pin(places, "weir_config")?;
    let ifindex = config
        .words()
        .get(abi::CONFIG_PUNT_IFINDEX as usize)
        .and_then(|word| u32::try_from(word.load(Ordering::Acquire)).ok());
    Ok(ifindex.and_then(device_name))
}

/// The name of a device of this process's network namespace.
fn device_name(ifindex: u32) -> Option<String> {
    use rustix::net::{AddressFamily, SocketType, netdevice::index_to_name, socket};
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    index_to_name(&socket, ifindex).ok()
}

/// The twelfth number of a line of `/proc/net/dev` (proc(5)).
fn transmit_drops(table: &str, name: &str) -> Option<u64> {
    let line =
        table.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().nth(11)?.parse().ok()
}

/// The workers' signs of life: for each worker the nanoseconds since its last one, and after how
/// many a worker counts as dead.
///
/// # Errors
/// [`LiveError`] if no dataplane has run here, or one of another ABI.
pub fn heartbeats(places: &Places, workers: usize) -> Result<(Vec<u64>, u64), LiveError> {
    let config = config(places)?;
    let word = |index: u32| {
        config.words().get(index as usize).map_or(0, |word| word.load(Ordering::Acquire))
    };
    let now = monotonic_ns();
    let ages = (abi::CONFIG_HEARTBEAT..)
        .take(workers)
        .map(|index| now.saturating_sub(word(index)))
        .collect();
    Ok((ages, word(abi::CONFIG_HEARTBEAT_TIMEOUT)))
}

/// The last generation that was enforced; `None` if none ever was.
///
/// # Errors
/// [`LiveError::Saved`].
pub fn generation(places: &Places) -> Result<Option<MappedClassifier>, LiveError> {
    Ok(saved::load(&places.run_dir)?)
}

/// The pods' interfaces; none if the dataplane has not written any yet.
///
/// # Errors
/// [`LiveError::File`].
pub fn endpoints(places: &Places) -> Result<Vec<EndpointRecord>, LiveError> {
    read_endpoints(&places.run_dir.join("endpoints.json"))
}

fn read_endpoints(path: &Path) -> Result<Vec<EndpointRecord>, LiveError> {
    let failed = |reason: String| LiveError::File { path: path.to_owned(), reason };
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of heartbeats and ticks.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_a_dataplane_is_said_so() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { run_dir: dir.path().into(), pin_dir: dir.path().into() };
        let text = counters(&places).unwrap_err().to_string();
        assert!(text.contains("weir_counters") && text.contains("weir-dataplane"), "{text}");
        assert!(generation(&places).unwrap().is_none());
        assert!(endpoints(&places).unwrap().is_empty());
        fs::write(dir.path().join("endpoints.json"), "[{").unwrap();
        assert!(endpoints(&places).unwrap_err().to_string().contains("endpoints.json"));
    }

    #[test]
    fn drops_of_the_punt_device_are_read_from_the_kernels_table() {
        let table = "Inter-|   Receive                  |  Transmit\n \
                     face |bytes    packets errs drop|bytes\n\
                        lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n\
                     weir0: 1 2 3 4 5 6 7 8 9 10 11 42 13 14 15 16\n";
        assert_eq!(transmit_drops(table, "weir0"), Some(42));
        assert_eq!(transmit_drops(table, "weir"), None);
    }

    #[test]
    fn endpoints_as_the_dataplane_writes_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("endpoints.json");
        let text = r#"[{"ifindex":7,"device":"veth1","netns":"cni-1","addresses":["10.0.0.1","fd00::1"],"ignored":[],"quarantined":false,"attached":true,"pod":"shop/web","placed":true,"held":false}]"#;
        fs::write(&path, text).unwrap();
        let endpoints = read_endpoints(&path).unwrap();
        assert_eq!(endpoints[0].addresses.len(), 2);
        assert_eq!(serde_json::to_string(&endpoints).unwrap(), text);
        // Without a word, and as one wrote it that knew of none.
        let old = text.replace(r#","pod":"shop/web","placed":true,"held":false"#, "");
        fs::write(&path, old).unwrap();
        let endpoints = read_endpoints(&path).unwrap();
        assert_eq!((&endpoints[0].pod, endpoints[0].placed), (&None, false));
    }

    #[test]
    fn names_come_from_the_header() {
        assert_eq!(abi::STEERING_COUNTERS[0], "hit");
        assert!(abi::STEERING_COUNTERS.contains(&"drop_no_worker"));
    }
}
