//! Looking at the node: every fact by itself, so that one that cannot be read hides no other.

mod cni;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use rustix::fs::{FlockOperation, flock, statfs};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, socket};

use super::{Chain, Device, Facts, Kernel, Net, PodDevice, Process, Rights, Run, Where};
use crate::live::tc::{Direction, Tc};
use crate::live::{self, EndpointRecord, Places, root_cause};

/// `BPF_FS_MAGIC` (linux/magic.h).
const BPF_FS: u64 = 0xcafe_4a11;
/// The dataplane's name, as the kernel shows it.
const DATAPLANE: &str = "weir-dataplane";
/// So many entries of conntrack are looked at: whoever uses zones uses them throughout.
const ENTRIES: usize = 10_000;

/// Looks at everything.
pub fn gather(place: &Where) -> Facts {
    let Where { places, cni_conf_dir, cni_bin_dir } = place;
    Facts {
        kernel: kernel(&places.pin_dir),
        process: process(),
        net: net(places),
        cni: cni::look(cni_conf_dir, cni_bin_dir),
        run: run(places),
    }
}

/// A file's text without what surrounds it.
fn text(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn number<T: std::str::FromStr>(path: impl AsRef<Path>) -> Option<T> {
    text(path)?.parse().ok()
}

fn kernel(pin_dir: &Path) -> Kernel {
    Kernel {
        release: text("/proc/sys/kernel/osrelease").unwrap_or_default(),
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        jit: number("/proc/sys/net/core/bpf_jit_enable"),
        bpffs: is_on_bpffs(pin_dir),
        af_xdp: match socket(AddressFamily::XDP, SocketType::RAW, None) {
            Ok(_) => Some(true),
            Err(Errno::AFNOSUPPORT) => Some(false),
            Err(_) => None,
        },
        tun: Path::new("/dev/net/tun").exists(),
        lockdown: text("/sys/kernel/security/lockdown").as_deref().and_then(chosen),
    }
}

/// The word in brackets.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

fn is_on_bpffs(pin_dir: &Path) -> bool {
    let existing = pin_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, reason = "the type differs by arch")]
    let magic = statfs(existing).map(|stat| stat.f_type as u64 & 0xffff_ffff);
    magic == Ok(BPF_FS)
}

/// The rights of the dataplane of this network namespace, if its process is seen from here.
fn process() -> Process {
    let own = fs::read_link("/proc/self/ns/net").ok();
    let processes = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let is_dataplane = |path: &PathBuf| {
        text(path.join("comm")).as_deref() == Some(DATAPLANE)
            && own.is_some()
            && fs::read_link(path.join("ns/net")).ok() == own
    };
    let found = processes.map(|entry| entry.path()).find(is_dataplane);
    let dataplane = found.as_ref().and_then(|path| path.file_name()?.to_str()?.parse::<u32>().ok());
    let path = found.unwrap_or_else(|| PathBuf::from("/proc/self"));
    Process {
        dataplane,
        capabilities: text(path.join("status")).as_deref().and_then(effective),
        memlock: text(path.join("limits")).as_deref().and_then(locked),
    }
}

/// `CapEff:` of a status (proc(5)).
fn effective(status: &str) -> Option<u64> {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

/// The soft limit of locked memory; `None`: unlimited.
fn locked(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn net(places: &Places) -> Net {
    let devices = devices(Path::new("/sys/class/net"));
    let endpoints = live::endpoints(places).unwrap_or_default();
    let is_here = |record: &&EndpointRecord| devices.iter().any(|d| d.name == record.device);
    let punt = live::punt_device(places).ok().flatten();
    let routes = text("/proc/net/route").unwrap_or_default();
    Net {
        pods: endpoints.iter().filter(is_here).map(pod_device).collect(),
        punt_mtu: punt.and_then(|name| devices.iter().find(|d| d.name == name).map(|d| d.mtu)),
        bridge_calls_iptables: number::<u32>("/proc/sys/net/bridge/bridge-nf-call-iptables")
            .map(|value| value != 0),
        uplink: default_device(&routes).and_then(|name| {
            let filter =
                |of: &str| number::<u32>(format!("/proc/sys/net/ipv4/conf/{of}/rp_filter"));
            let strictest = filter("all")?.max(filter(&name)?);
            Some((name, strictest))
        }),
        conntrack: number("/proc/sys/net/netfilter/nf_conntrack_count")
            .zip(number("/proc/sys/net/netfilter/nf_conntrack_max")),
        zones: fs::File::open("/proc/net/nf_conntrack")
            .ok()
            .map(|file| zones(BufReader::new(file))),
        devices,
    }
}

fn devices(folder: &Path) -> Vec<Device> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries
        .filter_map(|entry| {
            let path = entry.path();
            let master = fs::read_link(path.join("master")).ok();
            let master = master.and_then(|link| Some(link.file_name()?.to_str()?.to_owned()));
            let name = entry.file_name().to_str()?.to_owned();
            Some(Device { name, mtu: number(path.join("mtu"))?, master })
        })
        .collect()
}

/// The device of the route to everywhere (`/proc/net/route`).
fn default_device(routes: &str) -> Option<String> {
    routes.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (device, to, mask) = (fields.first()?, fields.get(1)?, fields.get(7)?);
        (*to == "00000000" && *mask == "00000000").then(|| (*device).to_owned())
    })
}

/// How many entries of conntrack there are, of [`ENTRIES`], and how many of them in a zone: of both
/// directions or of one (`zone=`, `zone-orig=`, `zone-reply=`).
fn zones(list: impl BufRead) -> (u64, u64) {
    list.lines().map_while(Result::ok).take(ENTRIES).fold((0, 0), |(all, zoned), line| {
        let is_zoned = line.split_whitespace().any(|field| field.starts_with("zone"));
        (all + 1, zoned + u64::from(is_zoned))
    })
}

fn pod_device(record: &EndpointRecord) -> PodDevice {
    let chain = |of, tcx, filters| chain(&record.device, record.ifindex, (of, tcx, filters));
    let ingress = chain("ingress", TcAttachType::Ingress, Direction::Ingress);
    let egress = chain("egress", TcAttachType::Egress, Direction::Egress);
    PodDevice {
        name: record.device.clone(),
        attached: record.attached,
        quarantined: record.quarantined,
        chains: ingress.and_then(|ingress| Ok([ingress, egress?])),
    }
}

fn chain(
    device: &str,
    ifindex: u32,
    (direction, tcx, filters): (&'static str, TcAttachType, Direction),
) -> Result<Chain, String> {
    let tc = Tc::open().map_err(|error| error.to_string())?;
    let has_clsact = tc.has_clsact(ifindex).map_err(|error| error.to_string())?;
    let filters = match has_clsact {
        true => tc.filters(ifindex, filters).map_err(|error| error.to_string())?,
        false => Vec::new(),
    };
    // Before Linux 6.6 there is no such question, and no such program.
    let has_tcx = KernelVersion::current().is_ok_and(|v| v >= KernelVersion::new(6, 6, 0));
    let programs = match has_tcx {
        true => SchedClassifier::query_tcx(device, tcx).map_err(|error| root_cause(&error))?.1,
        false => Vec::new(),
    };
    let name = |program: &ProgramInfo| program.name_as_str().unwrap_or("?").to_owned();
    let tcx = programs.iter().map(name).collect();
    let filters = filters.into_iter().map(|filter| filter.program.unwrap_or(filter.kind)).collect();
    Ok(Chain { direction, tcx, filters })
}

fn run(places: &Places) -> Run {
    let counters = live::counters(places);
    let workers = counters.as_ref().map_err(ToString::to_string).and_then(|counters| {
        let (ages, dead) =
            live::heartbeats(places, counters.workers()).map_err(|e| e.to_string())?;
        Ok(ages.into_iter().map(|age| (age / 1_000_000, age <= dead)).collect())
    });
    let enforced = counters.ok().and_then(|counters| counters.enforced());
    Run {
        run_dir: places.run_dir.clone(),
        run_rights: rights(&places.run_dir),
        pin_dir: places.pin_dir.clone(),
        pin_rights: rights(&places.pin_dir),
        daemon: is_held(&places.run_dir),
        workers,
        generation: enforced.map_or(0, |enforced| enforced.generation),
        control: live::control::control(places).map_err(|error| error.to_string()),
    }
}

fn rights(directory: &Path) -> Option<Rights> {
    let metadata = fs::metadata(directory).ok()?;
    Some(Rights { uid: metadata.uid(), mode: metadata.mode() & 0o777 })
}

/// Whether a daemon holds the run directory's lock.
fn is_held(run_dir: &Path) -> bool {
    fs::File::open(run_dir)
        .is_ok_and(|directory| flock(&directory, FlockOperation::NonBlockingLockShared).is_err())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_read_as_they_are() {
        assert_eq!(chosen("none [integrity] confidentiality"), Some("integrity".to_owned()));
        assert_eq!(chosen("none"), None);
        assert_eq!(effective("Name:\tx\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max locked memory         8388608              8388608              bytes\n";
        assert_eq!(locked(limits), Some(8 << 20));
        assert_eq!(locked(&limits.replace("8388608 ", "unlimited ")), None);
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n\
                      eth1\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\n\
                      eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\n";
        assert_eq!(default_device(routes), Some("eth0".to_owned()));
        assert_eq!(default_device("Iface\n"), None);
    }

    #[test]
    fn zones_are_seen_in_conntracks_list() {
        let entry = "ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=4 dport=80 \
                     src=10.0.0.2 dst=10.0.0.1 sport=80 dport=4 [ASSURED] mark=0 ZONE use=2\n";
        let list: String = ["", "zone=0x5", "zone-orig=5", "zone-reply=5"]
            .map(|z| entry.replace("ZONE", z))
            .concat();
        assert_eq!(zones(list.as_bytes()), (4, 3));
        assert_eq!(zones(entry.replace("ZONE ", "").repeat(ENTRIES + 1).as_bytes()), (10_000, 0));
        assert_eq!(zones(&b""[..]), (0, 0));
    }

    /// Of this machine, whatever it is.
    #[test]
    fn looking_needs_no_privilege_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { run_dir: dir.path().join("run"), pin_dir: dir.path().join("pins") };
        let facts = gather(&Where {
            places: places.clone(),
            cni_conf_dir: dir.path().into(),
            cni_bin_dir: dir.path().into(),
        });
        assert!(!facts.kernel.release.is_empty() && !facts.kernel.bpffs);
        assert!(facts.process.capabilities.is_some());
        assert!(facts.net.devices.iter().any(|device| device.name == "lo"));
        assert!(!facts.run.daemon && facts.run.workers.is_err());
        assert!(!places.run_dir.exists() && !places.pin_dir.exists());
        let run = dir.path().join("held");
        fs::create_dir(&run).unwrap();
        let daemon = fs::File::open(&run).unwrap();
        assert!(!is_held(&run));
        flock(&daemon, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(is_held(&run));
    }
}
