//! Loads the steering program, owns its pinned maps, and puts it on devices.
//!
//! ```text
//!  /sys/fs/bpf/weir/
//!    weir_config  weir_steering  weir_*_addrs
//!    weir_node_ports  weir_macs                            what the hooks read and count
//!    weir_counters  weir_flows*  weir_quota                what workers and hooks write
//!    weir_verdicts*                                        what the workers write
//!    weir_stamps                                           what the admin side writes
//!    links/<ifindex>_<direction>                           the tcx links on pods' veths
//! ```
//!
//! Everything a hook needs is pinned, so a daemon that dies leaves enforcement
//! standing, and the next one takes the same maps over: same key, same flows. Maps
//! that another ABI or another size wrote are never adopted; they are replaced, and
//! the log says that flows were forgotten.

pub mod abi;
pub mod attach;
mod clsact;
mod deliver;
pub mod kernel_skb;
pub mod macs;
pub mod node_ports;

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use self::kernel_skb::Sight;
use aya::maps::{HashMap, Map, MapData, RingBuf};
use aya::programs::tc::SchedClassifierLink;
use aya::{Ebpf, EbpfLoader};
use weir_table::flow::QUOTA_WORDS;
use weir_table::flow::layout::{v4_words, v6_words};
use weir_table::mem::{Access, SharedWords};
use weir_table::stamps::STAMP_SLOTS;

use crate::punt::Backend;
use abi::{CONFIG_WORDS, Config};
use clsact::Clsact;
use macs::{MAC_WORDS, Macs};
use node_ports::{NODE_PORTS, NodePorts};

use crate::drops::HookDrops;

/// The steering program, compiled by `build.rs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));

/// The same for kernels without AF_XDP, whose maps would be refused.
static TAP_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer_tap.bpf.o"));

/// Maps that outlive the daemon; the one by which they are known comes first.
const PINNED: [&str; 13] = [
    "weir_config",
    "weir_steering",
    "weir_node_addrs",
    "weir_node_ports",
    "weir_pod_addrs",
    "weir_macs",
    "weir_counters",
    "weir_flows4",
    "weir_flows6",
    "weir_quota",
    "weir_verdicts4",
    "weir_verdicts6",
    "weir_stamps",
];

/// Why steering could not be set up. Every message ends in what to do.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// No bpffs at the pin directory.
    #[error(
        "{} is not on a BPF filesystem, so enforcement could not outlive this process; \
         mount one: mount -t bpf bpf /sys/fs/bpf", path.display()
    )]
    NoBpffs {
        /// The pin directory.
        path: PathBuf,
    },
    /// The pin directory cannot be made.
    #[error("cannot use pin directory {}: {source}", path.display())]
    PinDir {
        /// The pin directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused the object or one of its maps.
    #[error(
        "the kernel does not take the steering program: {0}; weir-dataplane needs Linux 5.15 or \
         newer with BPF, and CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (or root)"
    )]
    Load(String),
    /// The object lacks a map or program; the binary was built wrongly.
    #[error("the steering object has no {0}: this binary is broken, build it anew")]
    Missing(&'static str),
    /// A map could not be mapped into memory.
    #[error(transparent)]
    Memory(#[from] weir_table::mem::MapError),
    /// A map operation failed.
    #[error("map {name}: {source}")]
    Map {
        /// Which map.
        name: &'static str,
        /// What the kernel said.
        source: aya::maps::MapError,
    },
    /// A program could not be attached.
    #[error("cannot attach {program} to {device}: {reason}")]
    Attach {
        /// Which program.
        program: &'static str,
        /// Which device.
        device: String,
        /// What the kernel said, and what may help.
        reason: String,
    },
}

/// Prints an error with its causes on one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Sizes of what [`Steering::load`] creates.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Entries of the IPv4 flow table.
    pub flows4: u32,
    /// Entries of the IPv6 flow table.
    pub flows6: u32,
}

/// The memory that workers share with the hooks.
#[derive(Debug)]
pub struct SharedMaps {
    /// The record that the hooks read.
    pub config: SharedWords,
    /// Counter blocks.
    pub counters: SharedWords,
    /// The IPv4 flow table.
    pub flows4: SharedWords,
    /// The IPv6 flow table.
    pub flows6: SharedWords,
    /// How many flows each pod has.
    pub quota: SharedWords,
    /// The IPv4 half of the verdict cache.
    pub verdicts4: SharedWords,
    /// The IPv6 half of the verdict cache.
    pub verdicts6: SharedWords,
    /// The validity stamps.
    pub stamps: SharedWords,
}

/// The loaded steering program.
pub struct Steering {
    ebpf: Ebpf,
    pin_dir: PathBuf,
    /// Keeps the return hook on weir0.
    return_link: Option<SchedClassifierLink>,
    /// Which qdiscs are Weir's.
    clsact: Clsact,
}

impl Steering {
    /// Loads the program, adopting pinned maps of the same ABI and sizes.
    ///
    /// # Errors
    /// [`SteerError`], when the kernel or the pin directory does not allow it.
    pub fn load(pin_dir: &Path, sizes: Sizes, backend: Backend) -> Result<Self, SteerError> {
        require_bpffs(pin_dir)?;
        let links = pin_dir.join("links");
        std::fs::create_dir_all(&links)
            .map_err(|source| SteerError::PinDir { path: links.clone(), source })?;
        forget_foreign_maps(pin_dir, sizes);
        let object = match backend {
            Backend::AfXdp => OBJECT,
            Backend::Tap => TAP_OBJECT,
        };
        let ebpf = load_by_sight(object, pin_dir, sizes)?;
        let clsact = Clsact::default();
        Ok(Self { ebpf, pin_dir: pin_dir.to_owned(), return_link: None, clsact })
    }

    /// Notes in the run directory, from now on, what `weir uninstall` has to take away.
    pub fn note_in(&mut self, run_dir: &Path) {
        self.clsact = Clsact::resumed(run_dir);
    }

    /// Maps what workers and admin share with the hooks.
    ///
    /// # Errors
    /// [`SteerError::Memory`] when the kernel refuses the mapping.
    pub fn shared_maps(&self, sizes: Sizes) -> Result<SharedMaps, SteerError> {
        let counters = weir_table::counters::words_for(abi::MAX_WORKERS as usize);
        Ok(SharedMaps {
            config: self.words("weir_config", CONFIG_WORDS as usize)?,
            counters: self.words("weir_counters", counters)?,
            flows4: self.words("weir_flows4", v4_words(sizes.flows4 as usize))?,
            flows6: self.words("weir_flows6", v6_words(sizes.flows6 as usize))?,
            quota: self.words("weir_quota", QUOTA_WORDS)?,
            verdicts4: self.words("weir_verdicts4", v4_words(abi::VERDICTS4 as usize))?,
            verdicts6: self.words("weir_verdicts6", v6_words(abi::VERDICTS6 as usize))?,
            stamps: self.words("weir_stamps", STAMP_SLOTS)?,
        })
    }

    /// The hooks' configuration record.
    ///
    /// # Errors
    /// [`SteerError::Memory`] when the kernel refuses the mapping.
    pub fn config(&self) -> Result<Config, SteerError> {
        Ok(Config::new(self.words("weir_config", CONFIG_WORDS as usize)?))
    }

    /// What the hooks tell of dropped packets; there is one reader, so it is given once.
    ///
    /// # Errors
    /// [`SteerError::Missing`] the second time, [`SteerError::Map`] when the kernel refuses
    /// the mapping.
    pub fn take_drops(&mut self) -> Result<HookDrops, SteerError> {
        const NAME: &str = "weir_drops";
        let map = self.ebpf.take_map(NAME).ok_or(SteerError::Missing(NAME))?;
        let ring =
            RingBuf::try_from(map).map_err(|source| SteerError::Map { name: NAME, source })?;
        Ok(HookDrops::new(ring))
    }

    fn words(&self, name: &'static str, words: usize) -> Result<SharedWords, SteerError> {
        let Some(Map::Array(data)) = self.ebpf.map(name) else {
            return Err(SteerError::Missing(name));
        };
        Ok(SharedWords::map(data.fd().as_fd(), words, Access::ReadWrite, name)?)
    }

    /// The pods' hardware addresses, shared with the hooks.
    ///
    /// # Errors
    /// [`SteerError::Memory`] when the kernel refuses the mapping.
    pub fn macs(&self) -> Result<Macs<SharedWords>, SteerError> {
        Ok(Macs::new(self.words("weir_macs", MAC_WORDS)?))
    }

    /// Which ports of the node are Services', shared with the hooks.
    ///
    /// # Errors
    /// [`SteerError::Memory`] when the kernel refuses the mapping.
    pub fn node_ports(&self) -> Result<NodePorts<SharedWords>, SteerError> {
        Ok(NodePorts::new(self.words("weir_node_ports", NODE_PORTS)?))
    }

    /// Makes the node-address map hold exactly `addresses`.
    ///
    /// # Errors
    /// [`SteerError::Map`], when the map is full or gone.
    pub fn set_node_addresses(&mut self, addresses: &[IpAddr]) -> Result<(), SteerError> {
        let keys = addresses.iter().copied().map(abi::address_key).collect();
        self.replace_keys("weir_node_addrs", &keys)
    }

    /// Makes the pod-address map hold exactly these pairs of device and address.
    ///
    /// # Errors
    /// [`SteerError::Map`], when the map is full or gone.
    pub fn set_pod_addresses(&mut self, owned: &[(u32, IpAddr)]) -> Result<(), SteerError> {
        let by_device = owned.iter().map(|(i, a)| abi::pod_address_key(*i, *a));
        let by_any = owned.iter().map(|(_, a)| abi::pod_address_key(0, *a));
        let keys = by_device.chain(by_any).collect();
        self.replace_keys("weir_pod_addrs", &keys)
    }

    /// Stale keys go first: they make room, and what they allow ends at once.
    fn replace_keys<const N: usize>(
        &mut self,
        name: &'static str,
        wanted: &HashSet<[u8; N]>,
    ) -> Result<(), SteerError>
    where
        [u8; N]: aya::Pod,
    {
        let error = |source| SteerError::Map { name, source };
        let map = self.ebpf.map_mut(name).ok_or(SteerError::Missing(name))?;
        let mut map: HashMap<&mut MapData, [u8; N], u32> = HashMap::try_from(map).map_err(error)?;
        let present: HashSet<[u8; N]> = map.keys().filter_map(Result::ok).collect();
        for key in present.difference(wanted) {
            map.remove(key).map_err(error)?;
        }
        for key in wanted.difference(&present) {
            map.insert(key, 1, 0).map_err(error)?;
        }
        Ok(())
    }
}

/// What an operator has to know if the hooks cannot look into struct sk_buff.
const BLIND: &str = "this kernel does not let the hooks see which checksums are yet to be written \
    (it needs BTF and no lockdown=confidentiality): a pod with CAP_NET_RAW may have ports and \
    addresses overwritten behind a verdict; take NET_RAW from pods";

/// Loads the object and its hooks, in the best way that the kernel takes.
fn load_by_sight(object: &[u8], pin_dir: &Path, sizes: Sizes) -> Result<Ebpf, SteerError> {
    let mut refused = None;
    for (sight, object) in kernel_skb::ways(object) {
        match load_object(&object, pin_dir, sizes, sight) {
            Ok(ebpf) => {
                match sight {
                    Sight::Unseen => tracing::warn!("{BLIND}"),
                    _ => tracing::debug!(?sight, "how the hooks look into struct sk_buff"),
                }
                return Ok(ebpf);
            }
            // What is wrong with the best way is most likely wrong with all.
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(refused.unwrap_or_else(|| SteerError::Load("no way to load it".to_owned())))
}

fn load_object(
    object: &[u8],
    pin_dir: &Path,
    sizes: Sizes,
    sight: Sight,
) -> Result<Ebpf, SteerError> {
    let sees_skb = sight.constant();
    let mut loader = EbpfLoader::new();
    for name in PINNED {
        loader.map_pin_path(name, pin_dir.join(name));
    }
    loader.map_max_entries("weir_flows4", sizes.flows4);
    loader.map_max_entries("weir_flows6", sizes.flows6);
    loader.override_global("weir_sees_skb", &sees_skb, true);
    let mut ebpf = loader.load(object).map_err(|e| SteerError::Load(chain(&e)))?;
    Steering::load_hooks(&mut ebpf)?;
    Ok(ebpf)
}

/// bpffs is where pins live; without it a crash would open the node.
fn require_bpffs(pin_dir: &Path) -> Result<(), SteerError> {
    const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
    let mount = pin_dir.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statfs(mount)
        .map_err(|e| SteerError::PinDir { path: pin_dir.to_owned(), source: e.into() })?;
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, reason = "the type differs by arch")]
    let magic = stat.f_type as u64 & 0xffff_ffff;
    if magic != BPF_FS_MAGIC {
        return Err(SteerError::NoBpffs { path: pin_dir.to_owned() });
    }
    Ok(())
}

/// Unpins maps that this binary cannot share with whoever wrote them.
fn forget_foreign_maps(pin_dir: &Path, sizes: Sizes) {
    let same_abi = || -> Option<bool> {
        let data = MapData::from_pin(pin_dir.join("weir_config")).ok()?;
        let words = SharedWords::map(
            data.fd().as_fd(),
            CONFIG_WORDS as usize,
            Access::ReadOnly,
            "weir_config",
        );
        let same = words.is_ok_and(|w| Config::new(w).abi_version() == u64::from(abi::ABI_VERSION));
        let size = |name: &str| -> Option<u32> {
            MapData::from_pin(pin_dir.join(name)).ok()?.info().ok().map(|i| i.max_entries())
        };
        Some(
            same && size("weir_flows4") == Some(sizes.flows4)
                && size("weir_flows6") == Some(sizes.flows6),
        )
    };
    let leftovers = PINNED.iter().any(|name| pin_dir.join(name).exists());
    if leftovers && same_abi() != Some(true) {
        tracing::warn!(
            pins = %pin_dir.display(),
            "the pinned maps were written by another version or with other sizes; starting with \
             an empty flow table, open connections are judged again"
        );
        // The record by which they are known goes last: a start that is interrupted here
        // must not leave maps behind that the next one would take for its own.
        for name in PINNED.iter().rev() {
            let _ = std::fs::remove_file(pin_dir.join(name));
        }
    }
}
