//! Where a run took place: machine, kernel, mitigations, versions, command.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::effort::Effort;
use super::lab::output;
use crate::place::processors;
use crate::report::sample::Environment;

/// Collects it; `bin` holds Weir's programs. What cannot be found out is said to be unknown, never left out.
pub fn collect(effort: &Effort, bin: &Path, command: &str) -> Environment {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let virtualized = said("systemd-detect-virt", &[]).unwrap_or_else(|| {
        let guest = cpuinfo.contains("hypervisor");
        (if guest { "under a hypervisor" } else { "no hypervisor seen" }).to_owned()
    });
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = meminfo.lines().next().and_then(|line| line.split_whitespace().nth(1));
    let memory = memory.and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) / (1024 * 1024);
    let version = |program: &str, arguments: &[&str]| {
        said(program, arguments).unwrap_or_else(|| format!("{program}: not installed"))
    };
    let tools = [
        version("nft", &["--version"]),
        version("iptables", &["--version"]),
        version("ipset", &["--version"]),
        version("ovs-vswitchd", &["--version"]),
        said("dpkg-query", &["-W", "-f", "DPDK ${Version}", "dpdk-dev"])
            .unwrap_or_else(|| "dpdk-testpmd: not installed as a package".to_owned()),
        version("iperf3", &["--version"]),
        version("rustc", &["--version"]),
    ];
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split_whitespace().take(3).collect();
    let dataplane = bin.join("weir-dataplane");
    let weir = format!(
        "{}; sources here: {}",
        said(&dataplane.to_string_lossy(), &["--version"])
            .unwrap_or_else(|| "weir-dataplane does not say".to_owned()),
        said("git", &["describe", "--always", "--dirty"]).unwrap_or_else(|| "no git".to_owned())
    );
    let governor = fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
        .map_or_else(|_| "not the guest's to choose".to_owned(), |text| text.trim().to_owned());
    let row = |name: &str, value: String| (name.to_owned(), value);
    vec![
        row("date", today()),
        row(
            "machine",
            format!("{model}, {} processors, {memory} GiB, {virtualized}", processors()),
        ),
        row("frequency governor", governor),
        row("kernel", version("uname", &["-sr"])),
        row("mitigations", mitigations()),
        row("weir", weir),
        row("commit", said("git", &["rev-parse", "HEAD"]).unwrap_or_else(|| "unknown".to_owned())),
        row("versions", tools.join("; ")),
        row("load average at the start", load.join(" ")),
        row("command", command.to_owned()),
        row("rounds", format!("{}, contenders in the order of a Williams square", effort.rounds)),
        row("sizes", effort.to_string()),
        row(
            "placement",
            format!(
                "load on processor {}, server, sink and programs in user space on processor 0",
                processors() - 1
            ),
        ),
    ]
}

/// The first line that a program prints.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let text = output(Command::new(program).args(arguments), Duration::from_secs(10)).ok()?;
    let line = text.lines().find(|line| !line.trim().is_empty())?;
    Some(line.trim().to_owned())
}

/// What the kernel does against the processor's faults; what does not affect it is left out.
fn mitigations() -> String {
    let Ok(folder) = fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else {
        return "unknown".to_owned();
    };
    let mut found: Vec<String> = folder
        .flatten()
        .filter_map(|file| {
            let text = fs::read_to_string(file.path()).ok()?;
            let name = file.file_name().to_string_lossy().into_owned();
            (text.trim() != "Not affected").then(|| format!("{name}: {}", text.trim()))
        })
        .collect();
    found.sort();
    found.join(" | ")
}

/// The day in UTC, from the number of days since 1970 (the proleptic Gregorian calendar
/// after Howard Hinnant's `civil_from_days`).
fn today() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (year, month, day) = civil(now / 86_400);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", now / 3600 % 24, now / 60 % 60)
}

fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468; // days since 0000-03-01
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_513), (2026, 3, 1));
        assert_eq!(civil(20_453), (2025, 12, 31));
    }

    #[test]
    fn what_is_not_known_is_said() {
        let environment = collect(&Effort::QUICK, Path::new("/nowhere"), "weir-bench run x");
        let names: Vec<&str> = environment.iter().map(|(name, _)| name.as_str()).collect();
        for name in ["machine", "kernel", "mitigations", "weir", "versions", "command"] {
            assert!(names.contains(&name), "{name} is missing");
        }
        assert!(environment.iter().all(|(_, value)| !value.is_empty()), "{environment:?}");
    }
}
