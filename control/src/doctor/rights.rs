//! What the dataplane must be allowed to do.

use super::{Finding, Kernel, Process};

/// A capability by its number in linux/capability.h, its name, what for, and whether the dataplane
/// does not start without it.
const CAPABILITIES: [(u32, &str, &str, bool); 5] = [
    (12, "CAP_NET_ADMIN", "make the punt device and attach programs", true),
    (13, "CAP_NET_RAW", "open AF_XDP sockets", true),
    (21, "CAP_SYS_ADMIN", "enter pods' network namespaces", true),
    (39, "CAP_BPF", "load programs", true),
    (11, "CAP_NET_BROADCAST", "hear at once of links in pods' namespaces", false),
];
const IPC_LOCK: u32 = 14;
/// A worker's packet buffers, which it locks.
const BUFFERS: u64 = 16 << 20;

pub(super) fn check(process: &Process, kernel: &Kernel) -> Vec<Finding> {
    let whose = match process.dataplane {
        Some(pid) => format!("weir-dataplane (process {pid})"),
        None => "this process (no weir-dataplane is seen from here)".to_owned(),
    };
    let Some(held) = process.capabilities else {
        return vec![Finding::note(
            "capabilities",
            format!("the capabilities of {whose} cannot be read"),
            "run weir doctor as root, where /proc shows all processes",
        )];
    };
    let has = |bit: u32| held >> bit & 1 == 1;
    let missing = |needed: bool| {
        let lacks =
            CAPABILITIES.iter().filter(move |(bit, _, _, must)| *must == needed && !has(*bit));
        lacks.map(|(_, name, why, _)| format!("{name} ({why})")).collect::<Vec<_>>()
    };
    let mut findings = Vec::new();
    let remedy = "run it as root, or grant them (securityContext.capabilities, \
                  CapabilityBoundingSet); deploy/ has the list";
    match (missing(true), missing(false)) {
        (must, _) if !must.is_empty() => findings.push(Finding::fail(
            "capabilities",
            format!("{whose} lacks {}", must.join(", ")),
            remedy,
        )),
        (_, should) if !should.is_empty() => findings.push(Finding::note(
            "capabilities",
            format!(
                "{whose} lacks {}: a new pod's hooks may come a second late",
                should.join(", ")
            ),
            remedy,
        )),
        _ => findings.push(Finding::ok("capabilities", format!("{whose} has its capabilities"))),
    }
    findings.push(memlock(process, kernel, has(IPC_LOCK)));
    findings
}

fn memlock(process: &Process, kernel: &Kernel, may_lock: bool) -> Finding {
    match process.memlock {
        Some(limit) if !may_lock && limit < BUFFERS && kernel.af_xdp != Some(false) => {
            Finding::fail(
                "memlock",
                format!("{} KiB may be locked, and a worker locks 16 MiB", limit >> 10),
                "grant CAP_IPC_LOCK, or LimitMEMLOCK=infinity (ulimit -l unlimited); or run the \
                 dataplane with --io tap",
            )
        }
        Some(_) if may_lock => Finding::ok("memlock", "CAP_IPC_LOCK: packet buffers can be locked"),
        Some(limit) => Finding::ok("memlock", format!("{} MiB may be locked", limit >> 20)),
        None => Finding::ok("memlock", "memory can be locked without a limit"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    const ALL: u64 = 1 << 12 | 1 << 13 | 1 << 21 | 1 << 39 | 1 << 11 | 1 << 14;

    fn levels(capabilities: Option<u64>, memlock: Option<u64>) -> Vec<(&'static str, Level)> {
        let process = Process { dataplane: Some(7), capabilities, memlock };
        let kernel = Kernel { af_xdp: Some(true), ..Kernel::default() };
        check(&process, &kernel).iter().map(|f| (f.check, f.level)).collect()
    }

    #[test]
    fn each_capability_is_missed_by_name() {
        assert!(levels(Some(ALL), Some(0)).iter().all(|(_, level)| *level == Level::Ok));
        for (bit, name, _, must) in CAPABILITIES {
            let process = Process {
                capabilities: Some(ALL & !(1 << bit)),
                memlock: Some(0),
                dataplane: None,
            };
            let findings = check(&process, &Kernel::default());
            let expect = if must { Level::Fail } else { Level::Note };
            assert_eq!(findings[0].level, expect, "{name}");
            assert!(findings[0].what.contains(name), "{findings:?}");
            assert!(findings[0].what.starts_with("this process"), "{findings:?}");
        }
        assert_eq!(levels(None, None), [("capabilities", Level::Note)]);
    }

    #[test]
    fn locked_memory_matters_without_the_capability() {
        let without = Some(ALL & !(1 << IPC_LOCK));
        let memlock = |limit| levels(without, limit)[1];
        assert_eq!(memlock(Some(8 << 20)), ("memlock", Level::Fail));
        assert_eq!(memlock(Some(64 << 20)), ("memlock", Level::Ok));
        assert_eq!(memlock(None), ("memlock", Level::Ok));
        let process = Process { dataplane: Some(1), capabilities: without, memlock: Some(8 << 20) };
        let tap = Kernel { af_xdp: Some(false), ..Kernel::default() };
        assert_eq!(check(&process, &tap)[1].level, Level::Ok, "by TAP nothing is locked");
    }
}
