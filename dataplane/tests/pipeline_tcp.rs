//! TCP and SCTP, one named case for each thing that happens to a connection in its life.
//!
//! ONE (device 11) may open connections to TWO (device 12), never the other way: so whatever
//! passes from TWO passes as part of what ONE has opened. Every packet goes through the
//! pipeline; that the hooks keep the same state is held against them in `tuple_differential`
//! (what they read, and how long they remember) and in the end-to-end tests.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod support;

use support::frames::{self, ACK, FIN, RST, SYN};
use support::node::Did::{Drop, PassBoth};
use support::node::{Did, NO_WAY_BACK, Node, ip, request, response};
use support::{Matrix, ONE, TWO};
use weir_dataplane::shim::Direction::FromPod;
use weir_table::counters::{Counter, Reason};
use weir_table::flow::{Flow, FlowState};

const DENIED: Did = Drop(Reason::PolicyIngress);

/// What ONE sends, and what TWO sends.
impl Node {
    fn one(&mut self, flags: u8) -> Did {
        self.punt(11, FromPod, &request(flags))
    }

    fn two(&mut self, flags: u8) -> Did {
        self.punt(12, FromPod, &response(flags))
    }

    /// A connection whose handshake is over.
    fn open(&mut self) {
        assert_eq!([self.one(SYN), self.two(SYN | ACK), self.one(ACK)], [PassBoth; 3]);
    }

    fn flow(&self) -> Flow {
        let [flow] = self.tables.flows.iter().collect::<Vec<_>>()[..] else { panic!("one flow") };
        flow
    }

    fn state(&self) -> FlowState {
        self.flow().state()
    }

    /// Lets time pass; true if TWO's next segment still passes afterwards.
    fn lasts(&mut self, seconds: u64) -> bool {
        self.seconds += seconds;
        self.two(ACK) == PassBoth
    }
}

fn node() -> Node {
    Node::new(NO_WAY_BACK)
}

#[test]
fn a_handshake_is_over_with_its_third_segment() {
    let mut node = node();
    for (from_one, flags, state) in [
        (true, SYN, FlowState::Opening),
        (false, SYN | ACK, FlowState::Opening),
        (false, SYN | ACK, FlowState::Opening), // sent again
        (true, ACK, FlowState::Established),
        (false, ACK, FlowState::Established),
    ] {
        let did = if from_one { node.one(flags) } else { node.two(flags) };
        assert_eq!(did, PassBoth);
        assert_eq!(node.state(), state, "after {flags:#04x}");
    }
    assert_eq!(node.tally.get(Counter::DecisionsAllowed), 1, "one verdict for all of them");
    assert!(node.lasts(3599));
    assert!(!node.lasts(3601), "an hour of silence");
}

#[test]
fn a_syn_that_nobody_answers_is_forgotten_in_20_seconds() {
    let mut node = node();
    node.one(SYN);
    node.seconds += 21;
    assert_eq!(node.two(SYN | ACK), DENIED);
    // One that is answered, but never acknowledged, as well.
    node.one(SYN);
    node.two(SYN | ACK);
    assert!(!node.lasts(21));
}

#[test]
fn a_repeated_syn_keeps_the_connection_and_its_verdict() {
    let mut node = node();
    // RFC 6298: after 1, 2, 4, 8 and 16 seconds.
    for wait in [0, 1, 2, 4, 8, 16] {
        node.seconds += wait;
        assert_eq!(node.one(SYN), PassBoth);
    }
    assert_eq!(node.tally.get(Counter::FlowsInserted), 1);
    assert_eq!(node.tally.get(Counter::DecisionsAllowed), 1);
    assert_eq!(node.two(SYN | ACK), PassBoth);
}

#[test]
fn a_syn_with_data_is_a_syn() {
    // Fast Open (RFC 7413).
    let mut node = node();
    let mut frame = request(SYN);
    frame.extend([0x5a; 100]);
    let length = u16::from_be_bytes([frame[16], frame[17]]) + 100;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    assert_eq!(node.punt(11, FromPod, &frame), PassBoth);
    assert_eq!(node.state(), FlowState::Opening);
    assert_eq!(node.two(SYN | ACK), PassBoth);
    assert_eq!(node.two(ACK), PassBoth, "data before the handshake is over");
}

#[test]
fn both_ends_may_open_at_once() {
    // RFC 9293 section 3.5, figure 7; both may: the later SYN turns the flow round.
    let mut node = Node::new(Matrix::OPEN);
    let did = [node.one(SYN), node.two(SYN), node.one(SYN | ACK), node.two(SYN | ACK)];
    assert_eq!(did, [PassBoth; 4]);
    assert_eq!(node.state(), FlowState::Established);
    assert_eq!(node.flow().source(), (ip(TWO), 80));
    assert_eq!([node.one(ACK), node.two(ACK)], [PassBoth; 2]);
    // Only ONE may: TWO's SYN is dropped and TWO takes ONE's for what it is.
    let mut node = self::node();
    assert_eq!([node.one(SYN), node.two(SYN)], [PassBoth, DENIED]);
    assert_eq!(node.flow().source(), (ip(ONE), 4000));
    assert_eq!([node.one(SYN), node.two(SYN | ACK), node.one(ACK)], [PassBoth; 3]);
    assert_eq!(node.state(), FlowState::Established);
}

#[test]
fn a_crashed_client_comes_back_on_its_old_ports() {
    // RFC 9293 section 3.5.1: the server still has the connection, answers the new SYN with
    // an ACK, the client resets it, and asks again.
    let mut node = node();
    node.open();
    assert_eq!(node.one(SYN), PassBoth, "of the same direction: under the same verdict");
    assert_eq!(node.tally.get(Counter::DecisionsAllowed), 1);
    assert_eq!([node.two(ACK), node.one(RST)], [PassBoth; 2]);
    assert_eq!(node.state(), FlowState::Reset);
    assert_eq!(node.one(SYN), PassBoth);
    assert_eq!(node.tally.get(Counter::DecisionsAllowed), 2, "decided anew");
    assert_eq!(node.state(), FlowState::Opening);
}

#[test]
fn a_crashed_server_resets_what_it_does_not_know() {
    let mut node = node();
    node.open();
    assert_eq!([node.one(ACK), node.two(RST)], [PassBoth; 2]);
    assert_eq!(node.state(), FlowState::Reset);
    // Not a right to begin anything itself.
    assert_eq!(node.two(SYN), DENIED);
    assert!(!node.lasts(11));
}

#[test]
fn ports_used_again_after_an_end_are_judged_again() {
    for end in [FIN | ACK, RST, RST | ACK] {
        let mut node = node();
        node.open();
        node.two(end);
        assert_eq!(node.one(SYN), PassBoth);
        assert_eq!(node.tally.get(Counter::DecisionsAllowed), 2, "after {end:#04x}");
        assert_eq!(node.state(), FlowState::Opening);
        // Meanwhile the policy has changed: the old verdict is none for the new connection.
        let mut node = self::node();
        node.open();
        node.two(end);
        node.publish(Matrix::OPEN.deny_ingress(TWO, ONE, support::Service::Web));
        assert_eq!(node.one(SYN), DENIED);
    }
}

#[test]
fn time_wait_ends_with_a_new_syn() {
    // RFC 9293 section 3.6.1 allows it.
    let mut node = node();
    node.open();
    let closing = [node.one(FIN | ACK), node.two(ACK), node.two(FIN | ACK), node.one(ACK)];
    assert_eq!(closing, [PassBoth; 4]);
    assert_eq!(node.state(), FlowState::Closing);
    node.open();
    assert_eq!(node.state(), FlowState::Established);
    assert_eq!(node.tally.get(Counter::DecisionsAllowed), 2);
    assert_eq!(node.tally.get(Counter::FlowsInserted), 2);
}

#[test]
fn a_fin_of_one_side_leaves_the_other_30_seconds_at_a_time() {
    let mut node = node();
    node.open();
    node.one(FIN | ACK);
    for _ in 0..10 {
        assert!(node.lasts(29), "half closed, and still sending");
    }
    assert!(!node.lasts(31));
}

#[test]
fn keepalives_keep_a_connection() {
    // RFC 9293 section 3.8.4: at least two hours by default, but every stack can be told less.
    let mut node = node();
    node.open();
    for _ in 0..10 {
        node.seconds += 3500;
        assert_eq!([node.one(ACK), node.two(ACK)], [PassBoth; 2]);
    }
    assert_eq!(node.state(), FlowState::Established);
    assert_eq!(node.tally.get(Counter::DecisionsAllowed), 1);
}

#[test]
fn a_forged_reset_cuts_nothing() {
    // Nobody checks its sequence number here, the receiver does (RFC 5961). If that goes on,
    // what is sent next takes the reset back.
    let mut node = node();
    node.open();
    node.one(RST);
    assert_eq!(node.state(), FlowState::Reset);
    assert_eq!([node.two(ACK), node.one(ACK), node.two(ACK)], [PassBoth; 3]);
    assert_eq!(node.state(), FlowState::Established);
    assert!(node.lasts(3599));
    // Nor does one that meets no flow begin one.
    let mut node = self::node();
    assert_eq!(node.one(RST), PassBoth, "it may be sent, as any packet of ONE's");
    assert_eq!(node.two(RST), DENIED);
    assert_eq!(node.tables.flows.iter().count(), 0);
}

#[test]
fn a_connection_of_which_the_beginning_is_not_known_is_its_next_senders() {
    let mut node = node();
    assert_eq!(node.two(ACK), DENIED, "TWO may open none");
    assert_eq!(node.one(ACK), PassBoth);
    assert_eq!(node.flow().source(), (ip(ONE), 4000));
    assert_eq!(node.state(), FlowState::Opening);
    assert_eq!(node.two(ACK), PassBoth);
    assert_eq!(node.state(), FlowState::Established);
}

#[test]
fn an_answer_to_nothing_is_judged_like_any_packet() {
    let mut node = node();
    assert_eq!(node.two(SYN | ACK), DENIED);
    assert_eq!(node.tables.flows.iter().count(), 0);
    // From ONE it passes, and TWO's reset of it as well; that is all.
    assert_eq!([node.one(SYN | ACK), node.two(RST)], [PassBoth; 2]);
    assert_eq!(node.two(SYN), DENIED);
}

#[test]
fn a_cut_connection_stays_cut_whatever_its_ends_try() {
    let mut node = Node::new(Matrix::OPEN);
    node.open();
    node.publish(Matrix::OPEN.deny_ingress(TWO, ONE, support::Service::Web));
    for flags in [ACK, FIN | ACK, RST, ACK] {
        assert_eq!(node.one(flags), Drop(Reason::FlowCut));
        assert_eq!(node.two(flags), Drop(Reason::FlowCut));
    }
    assert_eq!(node.state(), FlowState::Denied);
    assert_eq!(node.one(SYN), DENIED, "a new one is judged as such");
}

// ---- SCTP (RFC 9260) -----------------------------------------------------------

impl Node {
    fn chunk(&mut self, from_one: bool, chunks: &[u8]) -> Did {
        let ends = ((ip(ONE), 4000), (ip(TWO), 3868));
        if from_one {
            self.punt(11, FromPod, &frames::sctp_of(ends.0, ends.1, chunks))
        } else {
            self.punt(12, FromPod, &frames::sctp_of(ends.1, ends.0, chunks))
        }
    }

    fn associate(&mut self) {
        use frames::{SCTP_COOKIE_ACK, SCTP_COOKIE_ECHO, SCTP_DATA, SCTP_INIT, SCTP_INIT_ACK};
        assert_eq!(self.chunk(true, &[SCTP_INIT]), PassBoth);
        assert_eq!(self.state(), FlowState::Unanswered);
        assert_eq!(self.chunk(false, &[SCTP_INIT_ACK]), PassBoth);
        assert_eq!(self.state(), FlowState::Unanswered);
        assert_eq!(self.chunk(true, &[SCTP_COOKIE_ECHO, SCTP_DATA]), PassBoth);
        assert_eq!(self.chunk(false, &[SCTP_COOKIE_ACK, SCTP_DATA]), PassBoth);
        assert_eq!(self.state(), FlowState::Answered);
    }
}

#[test]
fn an_association_is_set_up_by_four_packets() {
    let mut node = node();
    node.associate();
    assert_eq!(node.tally.get(Counter::DecisionsAllowed), 1);
    node.seconds += 209;
    assert_eq!(node.chunk(false, &[frames::SCTP_DATA]), PassBoth);
    node.seconds += 211;
    assert_eq!(node.chunk(false, &[frames::SCTP_DATA]), DENIED);
    assert_eq!(node.chunk(false, &[frames::SCTP_INIT]), DENIED);
}

#[test]
fn an_init_on_an_ended_association_is_decided_anew() {
    for (end, state) in [
        (frames::SCTP_ABORT, FlowState::Reset),
        (frames::SCTP_SHUTDOWN, FlowState::Closing),
        (frames::SCTP_SHUTDOWN_ACK, FlowState::Closing),
        (frames::SCTP_SHUTDOWN_COMPLETE, FlowState::Closing),
    ] {
        let mut node = node();
        node.associate();
        assert_eq!(node.chunk(false, &[end]), PassBoth);
        assert_eq!(node.state(), state);
        node.associate();
        assert_eq!(node.tally.get(Counter::DecisionsAllowed), 2, "after chunk {end}");
    }
    // On one that is open it is the restart of a peer (section 5.2.2): the same direction,
    // the same verdict. In the other direction it asks for something new.
    let mut node = node();
    node.associate();
    assert_eq!(node.chunk(true, &[frames::SCTP_INIT]), PassBoth);
    assert_eq!(node.tally.get(Counter::DecisionsAllowed), 1);
    assert_eq!(node.chunk(false, &[frames::SCTP_INIT]), DENIED);
    assert_eq!(node.state(), FlowState::Answered, "which leaves the old one alone");
}

#[test]
fn an_abort_begins_nothing_and_a_forged_one_cuts_nothing() {
    let mut node = node();
    assert_eq!(node.chunk(true, &[frames::SCTP_ABORT]), PassBoth);
    assert_eq!(node.tables.flows.iter().count(), 0);
    node.associate();
    node.chunk(true, &[frames::SCTP_ABORT]);
    // Its verification tag was wrong (section 8.5.1): both go on.
    assert_eq!(node.chunk(false, &[frames::SCTP_DATA]), PassBoth);
    assert_eq!(node.chunk(true, &[frames::SCTP_DATA]), PassBoth);
    assert_eq!(node.state(), FlowState::Answered);
}

#[test]
fn an_init_with_company_is_refused() {
    let mut node = node();
    for second in [frames::SCTP_DATA, frames::SCTP_INIT, frames::SCTP_ABORT] {
        assert_eq!(node.chunk(true, &[frames::SCTP_INIT, second]), Drop(Reason::Malformed));
    }
    assert_eq!(node.chunk(true, &[]), Drop(Reason::Malformed), "no chunk at all");
    assert_eq!(node.tables.flows.iter().count(), 0);
    // Behind another chunk it asks for nothing: receivers discard it, and so does the flow.
    node.associate();
    assert_eq!(node.chunk(false, &[frames::SCTP_DATA, frames::SCTP_INIT]), PassBoth);
    assert_eq!(node.state(), FlowState::Answered);
}
