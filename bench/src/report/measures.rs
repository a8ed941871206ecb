//! What is measured, and what is wanted of Weir.

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// A cost.
    Lower,
    /// A rate.
    Higher,
}

/// What is wanted of Weir's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    /// Shown for information.
    Nothing,
    /// The ratio to plain is at least (a rate) or at most (a cost) this good.
    Ratio {
        /// The bound.
        bound: f64,
        /// Whether Weir must also do better than nft.
        better_than_nft: bool,
    },
    /// The value exceeds another measure's by at most so much more than plain's does.
    Extra {
        /// The other measure.
        over: &'static str,
        /// The bound, in the measure's unit.
        bound: f64,
    },
}

/// A row of the report.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    /// As samples name it.
    pub id: &'static str,
    /// As people read it.
    pub title: &'static str,
    /// Of the values.
    pub unit: &'static str,
    /// Which way is better.
    pub better: Better,
    /// What is wanted.
    pub wanted: Wanted,
}

/// All of them, in the order of the report.
pub const MEASURES: &[Measure] = &[
    Measure {
        id: "established-1",
        title: "64-byte packets, 1 established flow: CPU",
        unit: "ns/packet",
        better: Better::Lower,
        wanted: Wanted::Ratio { bound: 1.10, better_than_nft: true },
    },
    Measure {
        id: "established-1000",
        title: "the same, 1,000 flows in turn",
        unit: "ns/packet",
        better: Better::Lower,
        wanted: Wanted::Ratio { bound: 1.10, better_than_nft: true },
    },
    Measure {
        id: "tcp-stream",
        title: "iperf3 TCP, 1 stream",
        unit: "Gbit/s",
        better: Better::Higher,
        wanted: Wanted::Ratio { bound: 0.97, better_than_nft: false },
    },
    Measure {
        id: "rr-block-p50",
        title: "UDP request/response, blocking: p50",
        unit: "µs",
        better: Better::Lower,
        wanted: Wanted::Ratio { bound: 1.05, better_than_nft: false },
    },
    Measure {
        id: "rr-block-p99",
        title: "the same: p99",
        unit: "µs",
        better: Better::Lower,
        wanted: Wanted::Nothing,
    },
    Measure {
        id: "rr-spin-p50",
        title: "UDP request/response, spinning: p50",
        unit: "µs",
        better: Better::Lower,
        wanted: Wanted::Nothing,
    },
    Measure {
        id: "rr-spin-p99",
        title: "the same: p99",
        unit: "µs",
        better: Better::Lower,
        wanted: Wanted::Nothing,
    },
    Measure {
        id: "connect",
        title: "TCP connections, 4 threads",
        unit: "1/s",
        better: Better::Higher,
        wanted: Wanted::Ratio { bound: 0.9, better_than_nft: true },
    },
    Measure {
        id: "table-1000",
        title: "1,000 flows in a table for 2 million: CPU",
        unit: "ns/packet",
        better: Better::Lower,
        wanted: Wanted::Nothing,
    },
    Measure {
        id: "table-1000000",
        title: "1,000,000 flows in it; beyond the row above, less plain's own difference",
        unit: "ns/packet",
        better: Better::Lower,
        wanted: Wanted::Extra { over: "table-1000", bound: 300.0 },
    },
];
