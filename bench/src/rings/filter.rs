//! The programs that take the run's frames off a device (`bpf/receive.bpf.c`).

use anyhow::{Context, Result, anyhow};
use aya::maps::XskMap;
use aya::programs::tc::{SchedClassifier, TcAttachType, qdisc_add_clsact};
use aya::programs::{Xdp, XdpMode};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};

use crate::pktgen::flows::Ports;

/// Compiled by `build.rs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/receive.bpf.o"));

/// Which frames are the run's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Number of the protocol; 0: UDP, TCP and SCTP.
    pub protocol: u8,
    /// Source ports.
    pub sport: Ports,
    /// Destination ports.
    pub dport: Ports,
}

impl Match {
    /// The same flows in the other direction.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { sport: self.dport, dport: self.sport, ..self }
    }
}

/// A program on a device; it goes when this does.
#[derive(Debug)]
pub struct Filter {
    _ebpf: Ebpf,
}

impl Filter {
    /// Hands the frames to an AF_XDP socket on queue 0 of the device.
    ///
    /// # Errors
    /// When the kernel refuses the program, or another XDP program is on the device.
    pub fn deliver(device: &str, ours: Match, socket: i32) -> Result<Self> {
        let mut ebpf = load(ours)?;
        let map = ebpf.map_mut("bench_xsks").ok_or_else(|| anyhow!("the program has no map"))?;
        XskMap::try_from(map)?.set(0, socket, 0).context("cannot register the AF_XDP socket")?;
        let program: &mut Xdp = ebpf
            .program_mut("bench_receive")
            .ok_or_else(|| anyhow!("the object has no bench_receive"))?
            .try_into()?;
        program.load().context("the kernel refuses the XDP program (needs root)")?;
        program.attach(device, XdpMode::Skb).with_context(|| {
            format!("cannot attach generic XDP to {device}; is another program there?")
        })?;
        Ok(Self { _ebpf: ebpf })
    }

    /// Drops the frames behind the AF_PACKET sockets.
    ///
    /// # Errors
    /// When the kernel refuses the program.
    pub fn drop_behind_taps(device: &str, ours: Match) -> Result<Self> {
        let mut ebpf = load(ours)?;
        let program: &mut SchedClassifier = ebpf
            .program_mut("bench_drop")
            .ok_or_else(|| anyhow!("the object has no bench_drop"))?
            .try_into()?;
        program.load().context("the kernel refuses the tc program (needs root)")?;
        if KernelVersion::current()? < KernelVersion::new(6, 6, 0) {
            // It may be there already; if it can not be had, attaching says so.
            let _ = qdisc_add_clsact(device);
        }
        program
            .attach(device, TcAttachType::Ingress)
            .with_context(|| format!("cannot attach to the tc ingress of {device}"))?;
        Ok(Self { _ebpf: ebpf })
    }
}

fn load(ours: Match) -> Result<Ebpf> {
    EbpfLoader::new()
        .override_global("bench_protocol", &ours.protocol, true)
        .override_global("bench_sport_first", &ours.sport.first, true)
        .override_global("bench_sport_last", &ours.sport.last, true)
        .override_global("bench_dport_first", &ours.dport.first, true)
        .override_global("bench_dport_last", &ours.dport.last, true)
        .load(OBJECT)
        .context("the kernel refuses the program's maps (needs root, Linux 5.15)")
}
