//! What a run of `bench/fastpath` writes down: one JSON object a line for each value.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What packets met between the two pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Contender {
    /// Nothing but the kernel's routing.
    #[serde(rename = "plain")]
    Plain,
    /// nftables: conntrack, and a set of addresses.
    #[serde(rename = "nft")]
    Nft,
    /// Weir with decided flows in the kernel.
    #[serde(rename = "weir")]
    Weir,
    /// Weir with every packet through user space.
    #[serde(rename = "weir-off")]
    WeirOff,
    /// The same by a TAP device instead of AF_XDP.
    #[serde(rename = "weir-tap")]
    WeirTap,
}

impl Contender {
    /// In the order in which the report shows them.
    pub const ALL: [Self; 5] = [Self::Plain, Self::Nft, Self::Weir, Self::WeirOff, Self::WeirTap];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Nft => "nft",
            Self::Weir => "weir",
            Self::WeirOff => "weir-off",
            Self::WeirTap => "weir-tap",
        }
    }
}

/// One value, and what proves that the contender was at work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// Counted from 1; all contenders of a round ran one after the other.
    pub round: u32,
    /// What was measured: the `id` of a [`super::measures::Measure`].
    pub measure: String,
    /// Under what.
    pub contender: Contender,
    /// In the measure's unit.
    pub value: f64,
    /// Packets that the load sent at least, in both directions; without the first packet
    /// of each flow.
    pub packets: f64,
    /// New flows that the load opened at least.
    #[serde(default)]
    pub flows: f64,
    /// The node's counters before the load.
    pub before: Evidence,
    /// And after it.
    pub after: Evidence,
}

/// Counters of the node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Entries of the node's conntrack table.
    pub conntrack: f64,
    /// nftables' counters; absent if there is no table of ours.
    #[serde(default)]
    pub nft: Option<NftCounters>,
    /// Weir's steering counters; absent if Weir is not on the node.
    #[serde(default)]
    pub weir: Option<BTreeMap<String, f64>>,
}

/// Packets that met the counting rules.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NftCounters {
    /// New flows that the set accepted.
    pub accepted_by_set: f64,
    /// Packets that nothing accepted.
    pub dropped: f64,
}

/// Where the run took place: name and value, shown in this order.
pub type Environment = Vec<(String, String)>;

/// A line of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// At the head of the file.
    Environment(Environment),
    /// A value.
    Sample(Sample),
    /// A measurement that failed; its words.
    Failure(Failure),
}

/// A measurement without a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// In which round.
    pub round: u32,
    /// What was to be measured.
    pub measure: String,
    /// Under what.
    pub contender: Contender,
    /// What went wrong.
    pub error: String,
}
