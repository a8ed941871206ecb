//! Time and life of a flow: ticks, what was seen from either side, and how long a flow
//! may stay silent.
//!
//! The state is not stored: it follows from the protocol and from what was seen. So a
//! writer that only ORs a bit into one word (the steering program) changes the
//! state as correctly as one that knows all about conntrack.
#![forbid(unsafe_code)]

use super::key::Side;
use super::layout::{
    SEEN_ACK, SEEN_ANY, SEEN_FIN, SEEN_MORE, SEEN_RST, SEEN_SYN, SEEN_TCP_MASK, TICK_SHIFT,
};

/// Coarse monotonic time, in units of 2^26 ns (about 67 ms). Wraps after nine years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Tick(pub u32);

impl Tick {
    /// The tick of a `CLOCK_MONOTONIC` time in nanoseconds.
    #[allow(clippy::cast_possible_truncation)] // wrapping is part of the meaning
    #[inline]
    pub const fn from_nanos(ns: u64) -> Self {
        Self((ns >> TICK_SHIFT) as u32)
    }

    /// Whole ticks in `seconds`, rounded up.
    #[allow(clippy::cast_possible_truncation)] // timeouts are at most hours
    #[inline]
    pub const fn in_seconds(seconds: u32) -> u32 {
        (seconds as u64 * 1_000_000_000).div_ceil(1 << TICK_SHIFT) as u32
    }

    /// Ticks from `earlier` until this; 0 if `earlier` is later (two workers may be a
    /// tick apart).
    #[inline]
    pub const fn since(self, earlier: Self) -> u32 {
        let age = self.0.wrapping_sub(earlier.0);
        if age > u32::MAX / 2 { 0 } else { age }
    }

    /// This tick and `ticks` more.
    #[must_use]
    pub const fn plus(self, ticks: u32) -> Self {
        Self(self.0.wrapping_add(ticks))
    }
}

/// What was seen from each side, as bits `SEEN_*` of [`super::layout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Seen {
    /// From side lo.
    pub lo: u8,
    /// From side hi.
    pub hi: u8,
}

impl Seen {
    /// What was seen from one side.
    #[inline]
    pub const fn from(self, side: Side) -> u8 {
        match side {
            Side::Lo => self.lo,
            Side::Hi => self.hi,
        }
    }

    /// True if anything was seen from `side`.
    #[inline]
    pub const fn any_from(self, side: Side) -> bool {
        self.from(side) & SEEN_ANY != 0
    }

    /// This, after a packet from `side` with TCP's flag byte, or what SCTP's first chunk would
    /// be in TCP (0 for other protocols).
    ///
    /// A reset counts until its own sender sends something else: segments of the other
    /// side may still be in flight after an honest reset and prove nothing.
    #[must_use]
    #[inline]
    pub const fn with(self, side: Side, tcp_flags: u8) -> Self {
        let (gone, new) = Self::marks_of(tcp_flags);
        let now = self.from(side) & !gone | new;
        match side {
            Side::Lo => Self { lo: now, hi: self.hi },
            Side::Hi => Self { lo: self.lo, hi: now },
        }
    }

    /// The bits that a packet with these flags takes away from its side, and those that it adds.
    #[inline]
    pub(super) const fn marks_of(tcp_flags: u8) -> (u8, u8) {
        let resets = tcp_flags & SEEN_RST != 0;
        let goes_on = tcp_flags & (SEEN_SYN | SEEN_RST) == 0;
        let more = if goes_on { SEEN_MORE } else { 0 };
        let gone = if resets { 0 } else { SEEN_RST };
        (gone, SEEN_ANY | (tcp_flags & SEEN_TCP_MASK) | more)
    }

    /// True once both ends have gone on after what opened the flow. A handshake alone can be
    /// one end's work: whoever forges a SYN can forge the segment that acknowledges the
    /// answer as well, unseen, and only the other end knows that its number is wrong.
    #[inline]
    pub const fn both_went_on(self) -> bool {
        self.lo & self.hi & SEEN_MORE != 0
    }

    #[inline]
    const fn either(self, bit: u8) -> bool {
        (self.lo | self.hi) & bit != 0
    }
}

/// Where a flow stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlowState {
    /// TCP, before its initiator has acknowledged an answer: what answers every SYN does not
    /// make a flood of them a table full of connections.
    Opening,
    /// TCP, the handshake is over.
    Established,
    /// TCP or SCTP, one side has finished.
    Closing,
    /// TCP or SCTP, one side has reset or aborted it.
    Reset,
    /// UDP and protocols without ports: nothing came back yet. SCTP: before its initiator has
    /// gone on from an answer to its INIT.
    Unanswered,
    /// The same, afterwards.
    Answered,
    /// ICMP.
    Icmp,
    /// Cut by a change of policy; kept so that late packets of either side are not taken
    /// for a new connection.
    Denied,
}

const TCP: u8 = 6;
const SCTP: u8 = 132;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Seconds of silence after which a flow is forgotten; shared with the steering program.
pub mod timeout {
    use crate::abi;

    /// TCP until the side that opens has acknowledged an answer.
    pub const TCP_OPENING: u32 = abi::TIMEOUT_TCP_OPENING;
    /// TCP after that, and TCP that was cut.
    pub const TCP_ESTABLISHED: u32 = abi::TIMEOUT_TCP_ESTABLISHED;
    /// TCP after a FIN.
    pub const TCP_CLOSING: u32 = abi::TIMEOUT_TCP_CLOSING;
    /// TCP after a reset.
    pub const TCP_RESET: u32 = abi::TIMEOUT_TCP_RESET;
    /// UDP and the like until answered.
    pub const UNANSWERED: u32 = abi::TIMEOUT_UNANSWERED;
    /// UDP and the like once answered.
    pub const ANSWERED: u32 = abi::TIMEOUT_ANSWERED;
    /// SCTP once set up: seven of its 30 s heartbeats (RFC 9260 section 16). It shares TCP's
    /// times after an end.
    pub const SCTP_ANSWERED: u32 = abi::TIMEOUT_SCTP_ANSWERED;
    /// ICMP.
    pub const ICMP: u32 = abi::TIMEOUT_ICMP;
}

impl FlowState {
    /// No state has a shorter [`FlowState::timeout`], in ticks.
    pub(super) const SHORTEST_TIMEOUT: u32 = Tick::in_seconds(shortest(&[
        timeout::TCP_OPENING,
        timeout::TCP_ESTABLISHED,
        timeout::TCP_CLOSING,
        timeout::TCP_RESET,
        timeout::UNANSWERED,
        timeout::ANSWERED,
        timeout::SCTP_ANSWERED,
        timeout::ICMP,
    ]));

    /// The state that follows from what was seen.
    #[inline]
    pub const fn of(protocol: u8, initiator: Side, seen: Seen, denied: bool) -> Self {
        if denied {
            return Self::Denied;
        }
        let heard = seen.any_from(initiator.other());
        let is_set_up = heard && seen.from(initiator) & SEEN_ACK != 0;
        match protocol {
            TCP | SCTP if seen.either(SEEN_RST) => Self::Reset,
            TCP | SCTP if seen.either(SEEN_FIN) => Self::Closing,
            TCP if is_set_up => Self::Established,
            TCP => Self::Opening,
            ICMP | ICMPV6 => Self::Icmp,
            SCTP if is_set_up => Self::Answered,
            SCTP => Self::Unanswered,
            _ if heard => Self::Answered,
            _ => Self::Unanswered,
        }
    }

    /// Ticks of silence after which the flow is forgotten.
    ///
    /// A cut flow is remembered as long as an open one of its protocol: the far end may
    /// retransmit minutes later (TCP backs off to 120 s and more, RFC 6298), and must not
    /// then be taken for the initiator of something new.
    #[inline]
    pub const fn timeout(self, protocol: u8) -> u32 {
        let seconds = match (self, protocol) {
            (Self::Opening, _) => timeout::TCP_OPENING,
            (Self::Established, _) | (Self::Denied, TCP) => timeout::TCP_ESTABLISHED,
            (Self::Closing, _) => timeout::TCP_CLOSING,
            (Self::Reset, _) => timeout::TCP_RESET,
            (Self::Unanswered, _) => timeout::UNANSWERED,
            (Self::Icmp, _) | (Self::Denied, ICMP | ICMPV6) => timeout::ICMP,
            (Self::Answered | Self::Denied, SCTP) => timeout::SCTP_ANSWERED,
            (Self::Answered | Self::Denied, _) => timeout::ANSWERED,
        };
        Tick::in_seconds(seconds)
    }

    /// The name in JSON and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Reset => "reset",
            Self::Unanswered => "unanswered",
            Self::Answered => "answered",
            Self::Icmp => "icmp",
            Self::Denied => "denied",
        }
    }
}

const fn shortest(seconds: &[u32]) -> u32 {
    match seconds {
        [] => u32::MAX,
        [first, rest @ ..] => {
            let rest = shortest(rest);
            if *first < rest { *first } else { rest }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Replays (side, flags) and names the state after each packet.
    fn life(protocol: u8, packets: &[(Side, u8)]) -> Vec<FlowState> {
        let mut seen = Seen::default();
        packets
            .iter()
            .map(|&(side, flags)| {
                seen = seen.with(side, flags);
                FlowState::of(protocol, Side::Hi, seen, false)
            })
            .collect()
    }

    const C: Side = Side::Hi;
    const S: Side = Side::Lo;

    #[test]
    fn a_tcp_connection_from_syn_to_fin() {
        use FlowState::{Closing, Established, Opening};
        let states = life(
            TCP,
            &[
                (C, SEEN_SYN),
                (C, SEEN_SYN),
                (S, SEEN_SYN | SEEN_ACK),
                (C, SEEN_ACK),
                (S, SEEN_ACK | SEEN_FIN),
                (C, SEEN_ACK),
            ],
        );
        assert_eq!(states, [Opening, Opening, Opening, Established, Closing, Closing]);
    }

    #[test]
    fn a_forged_handshake_is_none_that_both_ends_took_part_in() {
        let blind = [
            (C, SEEN_SYN),
            (S, SEEN_SYN | SEEN_ACK),
            (C, SEEN_ACK),
            (S, SEEN_RST),
            (S, SEEN_SYN | SEEN_ACK),
        ];
        let after = |packets: &[(Side, u8)]| {
            packets.iter().fold(Seen::default(), |seen, &(side, flags)| seen.with(side, flags))
        };
        assert_eq!(life(TCP, &blind).last(), Some(&FlowState::Established));
        assert!(!after(&blind).both_went_on());
        assert!(after(&[&blind[..3], &[(S, SEEN_ACK)]].concat()).both_went_on());
    }

    #[test]
    fn a_reset_shortens_and_data_of_its_sender_restores() {
        use FlowState::{Established, Opening, Reset};
        let states = life(
            TCP,
            &[(C, SEEN_SYN), (S, SEEN_SYN | SEEN_ACK), (C, SEEN_RST), (S, SEEN_ACK), (C, SEEN_ACK)],
        );
        assert_eq!(states, [Opening, Opening, Reset, Reset, Established]);
    }

    #[test]
    fn an_association_from_init_to_shutdown_and_one_aborted() {
        use FlowState::{Answered, Closing, Reset, Unanswered};
        let opened = [(C, SEEN_SYN), (S, SEEN_SYN | SEEN_ACK), (C, SEEN_ACK), (S, SEEN_ACK)];
        let up = [Unanswered, Unanswered, Answered, Answered];
        assert_eq!(life(SCTP, &opened), up);
        for (end, state) in [(SEEN_FIN, Closing), (SEEN_RST, Reset)] {
            let packets = [&opened[..], &[(S, end), (C, end)]].concat();
            assert_eq!(life(SCTP, &packets)[4..], [state, state]);
        }
        let refused = [(C, SEEN_SYN), (S, SEEN_RST), (S, SEEN_ACK)];
        assert_eq!(life(SCTP, &refused)[1..], [Reset, Unanswered]);
    }

    #[test]
    fn udp_counts_as_answered_when_the_other_side_speaks() {
        use FlowState::{Answered, Unanswered};
        assert_eq!(life(17, &[(C, 0), (C, 0), (S, 0)]), [Unanswered, Unanswered, Answered]);
        assert_eq!(life(ICMP, &[(C, 0), (S, 0)]), [FlowState::Icmp; 2]);
    }

    #[test]
    fn flags_of_other_protocols_do_not_leak_in() {
        let seen = Seen::default().with(C, 0xff);
        assert_eq!(seen.hi, SEEN_ANY | SEEN_TCP_MASK);
        assert_eq!(Seen::default().with(C, 0).hi, SEEN_ANY | SEEN_MORE);
    }

    #[test]
    fn timeouts_are_those_of_the_design() {
        for (state, protocol, seconds) in [
            (FlowState::Opening, TCP, 20),
            (FlowState::Established, TCP, 3600),
            (FlowState::Closing, TCP, 30),
            (FlowState::Reset, TCP, 10),
            (FlowState::Unanswered, 17, 30),
            (FlowState::Answered, 17, 120),
            (FlowState::Answered, SCTP, 210),
            (FlowState::Unanswered, SCTP, 30),
            (FlowState::Closing, SCTP, 30),
            (FlowState::Reset, SCTP, 10),
            (FlowState::Denied, SCTP, 210),
            (FlowState::Icmp, ICMPV6, 10),
            (FlowState::Denied, TCP, 3600),
            (FlowState::Denied, 17, 120),
            (FlowState::Denied, ICMP, 10),
        ] {
            let ns = u64::from(state.timeout(protocol)) << TICK_SHIFT;
            let want = seconds * 1_000_000_000;
            assert!((want..want + (1 << TICK_SHIFT)).contains(&ns), "{state:?} {protocol}");
            assert!(FlowState::SHORTEST_TIMEOUT <= state.timeout(protocol), "{state:?} {protocol}");
        }
    }

    #[test]
    fn ticks_wrap_and_never_run_backwards() {
        assert_eq!(Tick(5).since(Tick(u32::MAX)), 6);
        assert_eq!(Tick(5).since(Tick(6)), 0);
        assert_eq!(Tick::from_nanos(1 << 26), Tick(1));
        assert_eq!(Tick::from_nanos(u64::MAX).plus(1).since(Tick::from_nanos(u64::MAX)), 1);
    }
}
