//! Handshakes, without state: what a frame is answered with.
//!
//! An answer carries the label of what it answers, so the generator knows which flow is
//! established, and how long it took, from the frame alone.

use super::frame::Template;
use super::label::{Label, Step};
use super::plan::Protocol;
use super::view::{Segment, View};

/// What the server answers, if anything.
pub fn of_server(view: &View, label: &Label) -> Option<Segment> {
    match view.segment? {
        Segment::Data if view.protocol == Protocol::Udp && label.step == Step::Open => {
            Some(Segment::Data)
        }
        Segment::Syn => Some(Segment::SynAck),
        Segment::Init => Some(Segment::InitAck),
        Segment::CookieEcho => Some(Segment::CookieAck),
        _ => None,
    }
}

/// What the client answers, if anything.
pub fn of_client(view: &View) -> Option<Segment> {
    match view.segment? {
        Segment::SynAck => Some(Segment::Ack),
        Segment::InitAck => Some(Segment::CookieEcho),
        _ => None,
    }
}

/// Whether a frame tells the client that its flow is established.
pub fn establishes(view: &View) -> bool {
    matches!(
        (view.protocol, view.segment),
        (Protocol::Udp, Some(Segment::Data))
            | (Protocol::Tcp, Some(Segment::SynAck))
            | (Protocol::Sctp, Some(Segment::CookieAck))
    )
}

/// What begins a flow.
pub const fn first(protocol: Protocol) -> Segment {
    match protocol {
        Protocol::Udp => Segment::Data,
        Protocol::Tcp => Segment::Syn,
        Protocol::Sctp => Segment::Init,
    }
}

/// What ends a flow at once; `None` where there is nothing to end.
pub const fn last(protocol: Protocol) -> Option<Segment> {
    match protocol {
        Protocol::Udp => None,
        Protocol::Tcp => Some(Segment::Reset),
        Protocol::Sctp => Some(Segment::Abort),
    }
}

/// Writes the answer `segment` to a frame; gives its length.
pub fn write(view: &View, segment: Segment, label: &Label, out: &mut [u8]) -> usize {
    let (source, destination) = view.ports;
    Template::made(view.ends.reversed(), view.protocol, segment, 64).write(
        out,
        (destination, source),
        label,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::view::Ends;

    /// Plays a flow's beginning between the two sides; gives the segments on the wire and
    /// whether the client knows it as established.
    fn play(protocol: Protocol) -> (Vec<Segment>, bool) {
        let ends = Ends {
            from_mac: [1; 6],
            to_mac: [2; 6],
            from: "fd00::1".parse().unwrap(),
            to: "fd00::2".parse().unwrap(),
        };
        let label = Label::new(3, Step::Open, 17, 0);
        let mut frame = [0; 256];
        let mut length =
            Template::made(ends, protocol, first(protocol), 64).write(&mut frame, (40, 50), &label);
        let (mut segments, mut established) = (Vec::new(), false);
        for server in [true, false].into_iter().cycle() {
            let view = View::of(&frame[..length]).unwrap();
            assert_eq!(view.label(&frame[..length]), Some(label));
            assert_eq!(view.ports, if server { (40, 50) } else { (50, 40) });
            segments.extend(view.segment);
            established |= !server && establishes(&view);
            let answer = if server { of_server(&view, &label) } else { of_client(&view) };
            let Some(answer) = answer else { break };
            length = write(&view, answer, &label, &mut frame);
        }
        (segments, established)
    }

    #[test]
    fn a_flow_begins_as_its_protocol_has_it() {
        use Segment::{Ack, CookieAck, CookieEcho, Data, Init, InitAck, Syn, SynAck};
        assert_eq!(play(Protocol::Udp), (vec![Data, Data], true));
        assert_eq!(play(Protocol::Tcp), (vec![Syn, SynAck, Ack], true));
        assert_eq!(play(Protocol::Sctp), (vec![Init, InitAck, CookieEcho, CookieAck], true));
    }

    #[test]
    fn a_counted_datagram_is_not_answered() {
        let mut frame = [0; 64];
        let ends = Ends {
            from_mac: [1; 6],
            to_mac: [2; 6],
            from: [10, 0, 0, 1].into(),
            to: [10, 0, 0, 2].into(),
        };
        let label = Label::new(3, Step::Count, 17, 0);
        Template::made(ends, Protocol::Udp, Segment::Data, 64).write(&mut frame, (1, 2), &label);
        assert_eq!(of_server(&View::of(&frame[..60]).unwrap(), &label), None);
    }
}
