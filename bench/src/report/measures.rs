//! What is measured: names, units, which way is better.

/// A row of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measure {
    /// As samples name it.
    pub id: String,
    /// As people read it.
    pub title: String,
    /// Of the values.
    pub unit: &'static str,
    /// Whether the tables of ratios show it; the others are for plots and for those who
    /// look closer.
    pub main: bool,
}

/// All of them, in the order of the report.
pub fn all() -> Vec<Measure> {
    let measure = |id: &str, title: &str, unit, main| Measure {
        id: id.to_owned(),
        title: title.to_owned(),
        unit,
        main,
    };
    let mut all = vec![
        measure("cpu", "CPU, flat out", "ns/packet", true),
        measure("ndr", "rate at no loss (NDR)", "kpps", true),
        measure("pdr", "rate at ≤ 0.1 % loss (PDR)", "kpps", true),
    ];
    for part in crate::run::loads::LATENCY_AT {
        let id = |name: &str| format!("latency-{part}-{name}");
        let title = |name: &str| format!("latency at {part} % of it: {name}");
        for (name, words, main) in [
            ("p50", "p50", true),
            ("p90", "p90", false),
            ("p99", "p99", true),
            ("p999", "p99.9", false),
            ("p9999", "p99.99", true),
        ] {
            all.push(measure(&id(name), &title(words), "µs", main));
        }
        let cpu = format!("CPU at {part} % of it");
        all.push(measure(&format!("cpu-at-{part}"), &cpu, "ns/packet", part == 90));
    }
    all.extend([
        measure("tcp-1", "iperf3 TCP, 1 stream", "Gbit/s", true),
        measure("tcp-8", "iperf3 TCP, 8 streams", "Gbit/s", true),
        measure("rr-block-p50", "UDP request/response, blocking: p50", "µs", true),
        measure("rr-block-p99", "the same: p99", "µs", true),
        measure("rr-spin-p50", "UDP request/response, spinning: p50", "µs", true),
        measure("rr-spin-p99", "the same: p99", "µs", true),
        measure("connect", "TCP connections, 4 threads", "1/s", true),
    ]);
    all
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn every_measure_has_a_name_of_its_own() {
        let all = super::all();
        let ids: HashSet<_> = all.iter().map(|measure| measure.id.as_str()).collect();
        assert_eq!(ids.len(), all.len());
        for id in ["cpu", "ndr", "pdr", "latency-90-p9999", "tcp-8", "rr-spin-p99", "connect"] {
            assert!(ids.contains(id), "{id}");
        }
    }
}
