//! What the kernel has to have.

use super::{Finding, Kernel};

/// The oldest kernel on which the hooks load.
const OLDEST: (u32, u32) = (5, 15);
/// The first one with tcx links.
const TCX: (u32, u32) = (6, 6);

pub(super) fn check(kernel: &Kernel) -> Vec<Finding> {
    vec![version(kernel), btf(kernel), jit(kernel), bpffs(kernel), io(kernel)]
}

/// Major and minor of `6.1.0-18-amd64`.
fn parts(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn version(kernel: &Kernel) -> Finding {
    let release = &kernel.release;
    match parts(release) {
        None => Finding::note(
            "kernel",
            format!("the kernel's version {release:?} cannot be read"),
            "Weir needs Linux 5.15 or newer",
        ),
        Some(found) if found < OLDEST => Finding::fail(
            "kernel",
            format!("Linux {release} is too old"),
            "Weir needs Linux 5.15 or newer: upgrade the node, or keep Weir off it (nodeSelector)",
        ),
        Some(found) if found < TCX => Finding::ok(
            "kernel",
            format!("Linux {release}: hooks are clsact filters, from 6.6 on they are tcx links"),
        ),
        Some(_) => Finding::ok("kernel", format!("Linux {release}: hooks are tcx links")),
    }
}

fn btf(kernel: &Kernel) -> Finding {
    let hidden = kernel.lockdown.as_deref() == Some("confidentiality");
    if kernel.btf && !hidden {
        return Finding::ok("btf", "hooks can see which checksums are yet to be written (BTF)");
    }
    let why = if hidden { "lockdown is at confidentiality" } else { "the kernel has no BTF" };
    Finding::note(
        "btf",
        format!("{why}: a pod with NET_RAW may have ports overwritten behind a verdict"),
        "take NET_RAW from pods, or boot a kernel with CONFIG_DEBUG_INFO_BTF and no such lockdown",
    )
}

fn jit(kernel: &Kernel) -> Finding {
    match kernel.jit {
        Some(0) => Finding::note(
            "jit",
            "BPF programs are interpreted: each packet costs several times as much",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Some(_) => Finding::ok("jit", "BPF programs are compiled"),
        None => Finding::note(
            "jit",
            "whether BPF programs are compiled does not show in this network namespace",
            "on the host itself: sysctl net.core.bpf_jit_enable should say 1",
        ),
    }
}

fn bpffs(kernel: &Kernel) -> Finding {
    if kernel.bpffs {
        return Finding::ok("bpffs", "pins are on a BPF file system");
    }
    Finding::fail(
        "bpffs",
        "the pin directory is not on a BPF file system: the dataplane does not start",
        "mount -t bpf bpf /sys/fs/bpf (in a container: mount the host's)",
    )
}

fn io(kernel: &Kernel) -> Finding {
    match (kernel.af_xdp, kernel.tun) {
        (Some(true), _) => Finding::ok("io", "the kernel has AF_XDP"),
        (Some(false), true) => Finding::note(
            "io",
            "the kernel has no AF_XDP: packets reach workers by a TAP device, one call each",
            "nothing has to be done; a kernel with CONFIG_XDP_SOCKETS is faster",
        ),
        (Some(false), false) => Finding::fail(
            "io",
            "the kernel has neither AF_XDP nor /dev/net/tun: no packet would reach a worker",
            "modprobe tun (in a container: mount the host's /dev/net), or boot a kernel with \
             CONFIG_XDP_SOCKETS",
        ),
        (None, _) => Finding::note(
            "io",
            "whether the kernel has AF_XDP cannot be tried without CAP_NET_RAW",
            "run weir doctor as root, or where the dataplane runs",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn good() -> Kernel {
        Kernel {
            release: "6.8.0-31-generic".to_owned(),
            btf: true,
            jit: Some(1),
            bpffs: true,
            af_xdp: Some(true),
            tun: true,
            lockdown: Some("none".to_owned()),
        }
    }

    #[test]
    fn a_present_day_kernel_is_well() {
        let findings = check(&good());
        assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:?}");
    }

    #[test]
    fn versions() {
        let level = |release: &str| {
            let finding = version(&Kernel { release: release.to_owned(), ..good() });
            (finding.level, finding.what)
        };
        assert_eq!(level("5.14.0-427.el9.x86_64").0, Level::Fail);
        assert_eq!(level("4.19.0").0, Level::Fail);
        assert!(level("5.15.0-91").1.contains("clsact"));
        assert!(level("6.5.13").1.contains("clsact"));
        assert!(level("6.6.0").1.ends_with("tcx links"));
        assert!(level("10.0").1.ends_with("tcx links"));
        assert_eq!(level("").0, Level::Note);
        assert_eq!(level("weird").0, Level::Note);
    }

    #[test]
    fn what_is_missing_is_said_with_the_remedy() {
        let cases: [(Kernel, &str, Level, &str); 7] = [
            (Kernel { btf: false, ..good() }, "btf", Level::Note, "NET_RAW"),
            (
                Kernel { lockdown: Some("confidentiality".to_owned()), ..good() },
                "btf",
                Level::Note,
                "lockdown",
            ),
            (Kernel { jit: Some(0), ..good() }, "jit", Level::Note, "bpf_jit_enable=1"),
            (Kernel { jit: None, ..good() }, "jit", Level::Note, "on the host itself"),
            (Kernel { bpffs: false, ..good() }, "bpffs", Level::Fail, "mount -t bpf"),
            (Kernel { af_xdp: Some(false), ..good() }, "io", Level::Note, "CONFIG_XDP_SOCKETS"),
            (Kernel { af_xdp: Some(false), tun: false, ..good() }, "io", Level::Fail, "/dev/net"),
        ];
        for (kernel, name, level, words) in cases {
            let findings = check(&kernel);
            let wrong: Vec<_> = findings.iter().filter(|f| f.level != Level::Ok).collect();
            let [finding] = wrong.as_slice() else { panic!("{name}: {wrong:?}") };
            assert_eq!((finding.check, finding.level), (name, level));
            let text = format!("{} {}", finding.what, finding.remedy.as_deref().unwrap());
            assert!(text.contains(words), "{text}");
        }
    }
}
