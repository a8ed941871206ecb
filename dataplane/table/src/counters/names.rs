//! What is counted, and under which name it is shown.
//!
//! A number is a word of shared memory: append, never reorder, and raise
//! [`super::VERSION`] when a meaning changes.

/// Which way a packet crosses the pod's interface, as a policy says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Leaving the pod.
    Egress = 0,
    /// Entering the pod.
    Ingress = 1,
}

impl Direction {
    /// Both directions, in the order of their numbers.
    pub const ALL: [Direction; 2] = [Direction::Egress, Direction::Ingress];

    /// The name in metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Direction::Egress => "egress",
            Direction::Ingress => "ingress",
        }
    }
}

/// Declares an enum whose variants have names, in one place.
macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])+ $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum $name { $($(#[$doc])+ $variant,)+ }

        impl $name {
            /// Every variant, in the order of the numbers.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];
            /// The names, in the order of the numbers.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            /// The name in metrics and JSON.
            pub const fn as_str(self) -> &'static str {
                $name::NAMES[self as usize]
            }
        }
    };
}

named! {
    /// Why a packet was dropped.
    Reason {
        /// The destination's policies do not allow it.
        PolicyIngress = "policy_ingress",
        /// The source's policies do not allow it.
        PolicyEgress = "policy_egress",
        /// An open connection that a change of policy no longer allows.
        FlowCut = "flow_cut",
        /// The source address does not belong to the pod that sent it.
        SpoofedSource = "spoofed_source",
        /// The destination address does not belong to the pod it goes to.
        NotEndpoint = "not_endpoint",
        /// The interface is no known endpoint (yet).
        UnknownInterface = "unknown_interface",
        /// The endpoint waits for its policy, or two pods claim its address.
        Quarantined = "quarantined",
        /// The headers contradict themselves or the frame's length.
        Malformed = "malformed",
        /// A fragment whose first fragment did not come in time or is not known any more, or
        /// for which there was no room to wait.
        Fragment = "fragment",
        /// Neither IPv4 nor IPv6.
        UnsupportedL3 = "unsupported_l3",
        /// The flow table had no room for a flow that needs an entry.
        TableFull = "table_full",
        /// An ICMP error about no known flow.
        IcmpUnrelated = "icmp_unrelated",
        /// The address map named a class that this generation does not know.
        BadClass = "bad_class",
        /// Its flow was being changed by a thread that was interrupted in the middle.
        FlowInChange = "flow_in_change",
        /// The transmit ring was full.
        TxFull = "tx_full",
        /// No policy table has been published yet.
        NoTable = "no_table",
        /// The punted frame did not carry a valid shim.
        BadShim = "bad_shim",
        /// A fragment that overlaps or repeats another, and what came of its datagram after.
        FragmentOverlap = "fragment_overlap",
        /// From an address of the node, not the node's, in the middle of so many such that the
        /// host's conntrack was not asked who opened it.
        OriginRate = "origin_rate",
    }
}

named! {
    /// What a worker counts besides drops.
    Counter {
        /// Frames received from the punt device.
        RxFrames = "rx_frames",
        /// Bytes of those, without the shim.
        RxBytes = "rx_bytes",
        /// Frames given back.
        TxFrames = "tx_frames",
        /// Bytes of those, without the shim.
        TxBytes = "tx_bytes",
        /// Packets allowed on their way out of a pod.
        PassedEgress = "passed_egress",
        /// Packets allowed on their way into a pod.
        PassedIngress = "passed_ingress",
        /// Packets whose flow was in the table with a current verdict.
        FlowHits = "flow_hits",
        /// Packets whose flow was not in the table.
        FlowMisses = "flow_misses",
        /// Flows whose verdict was stale and was judged again.
        FlowsRejudged = "flows_rejudged",
        /// Flows entered into the table.
        FlowsInserted = "flows_inserted",
        /// Flows evicted by a newer one.
        FlowsEvicted = "flows_evicted",
        /// Flows whose time was over.
        FlowsExpired = "flows_expired",
        /// Flows that a change of policy cut.
        FlowsCut = "flows_cut",
        /// Flows that found no room in the table.
        FlowTableFull = "flow_table_full",
        /// Decisions taken from the policy table: allowed.
        DecisionsAllowed = "decisions_allowed",
        /// Decisions taken from the policy table: denied.
        DecisionsDenied = "decisions_denied",
        /// Packets of a class that the generation does not know.
        BadClass = "bad_class",
        /// Frames that the kernel put on another queue than the steering program chose.
        /// They are judged all the same; the order within their flow may suffer.
        Misdirected = "misdirected",
        /// Bursts that held at least one frame.
        Bursts = "bursts",
        /// Polls that found nothing.
        EmptyPolls = "empty_polls",
        /// Times the worker went to sleep in poll(2).
        Sleeps = "sleeps",
        /// Nanoseconds spent on bursts.
        BusyNs = "busy_ns",
        /// Nanoseconds in which the worker ran.
        TotalNs = "total_ns",
        /// `rx_dropped` of `XDP_STATISTICS`.
        XskRxDropped = "xsk_rx_dropped",
        /// `rx_invalid_descs` of `XDP_STATISTICS`.
        XskRxInvalid = "xsk_rx_invalid",
        /// `tx_invalid_descs` of `XDP_STATISTICS`.
        XskTxInvalid = "xsk_tx_invalid",
        /// `rx_ring_full` of `XDP_STATISTICS`.
        XskRxRingFull = "xsk_rx_ring_full",
        /// `rx_fill_ring_empty_descs` of `XDP_STATISTICS`.
        XskFillEmpty = "xsk_fill_empty",
        /// Policy tables taken over.
        TableSwaps = "table_swaps",
        /// Dropped packets that were told one by one (`weir drops`).
        DropsTold = "drops_told",
        /// Dropped packets that were not: beyond their reason's budget, or nobody took them.
        DropsLeftOut = "drops_left_out",
        /// Fragments that had to wait for their first.
        FragmentsHeld = "fragments_held",
        /// Of those, the ones that went on after it.
        FragmentsReleased = "fragments_released",
        /// Flows that were not entered, since their pod had as many as it may.
        FlowQuota = "flow_quota",
        /// Frames that the punt device could not hand over whole, and that were dropped.
        RxTruncated = "rx_truncated",
        /// Connections under an address of the node's that were judged by who opened them.
        SourcesRecovered = "sources_recovered",
    }
}
