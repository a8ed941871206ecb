//! What the daemon must be allowed to do, checked before anything is changed.

use std::fs;

/// A capability by its number in linux/capability.h and its name.
const NEEDED: [(u32, &str, &str); 4] = [
    (12, "CAP_NET_ADMIN", "make the punt pair and attach programs"),
    (13, "CAP_NET_RAW", "open AF_XDP sockets"),
    (21, "CAP_SYS_ADMIN", "enter pods' network namespaces"),
    (39, "CAP_BPF", "load the steering program"),
];

/// Capabilities that the daemon lacks.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "missing {}: weir-dataplane must be able to {}; run it as root or grant the capability \
     (securityContext.capabilities, AmbientCapabilities)",
    .missing.iter().map(|(_, name, _)| *name).collect::<Vec<_>>().join(", "),
    .missing.iter().map(|(_, _, why)| *why).collect::<Vec<_>>().join(", ")
)]
pub struct MissingCapabilities {
    missing: Vec<(u32, &'static str, &'static str)>,
}

/// Checks the effective capabilities of this process.
///
/// # Errors
/// Names every one that is missing and what it is for.
pub fn require() -> Result<(), MissingCapabilities> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    check(&status)
}

fn check(status: &str) -> Result<(), MissingCapabilities> {
    let effective = status
        .lines()
        .find_map(|l| l.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let missing: Vec<_> =
        NEEDED.into_iter().filter(|(bit, _, _)| effective >> bit & 1 == 0).collect();
    if missing.is_empty() { Ok(()) } else { Err(MissingCapabilities { missing }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_or_named() {
        assert_eq!(check("Name:\tx\nCapEff:\t000001ffffffffff\n"), Ok(()));
        let without_bpf = check("CapEff:\t0000007fffffffff\n").unwrap_err().to_string();
        assert!(without_bpf.contains("missing CAP_BPF:"), "{without_bpf}");
        let none = check("").unwrap_err().to_string();
        assert!(none.contains("CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN, CAP_BPF"), "{none}");
    }
}
