use super::*;
use crate::endpoints::EndpointsBuilder;
use proptest::prelude::*;
use weir_table::flow::{HashKey, layout};
use weir_table::mem::SharedWords;
use weir_table::stamps::Stamps;

fn address(n: u8, six: bool) -> Address {
    match (n, six) {
        (0, false) => Address::v4([224, 0, 0, 5]),
        (0, true) => "ff02::1".parse().unwrap(),
        (n, false) => Address::v4([10, 0, 0, n]),
        (n, true) => format!("fd00::{n}").parse().unwrap(),
    }
}

/// Devices 1 and 2 are pods' with the addresses of that number, 3 is quarantined, 4 is
/// nobody's; address 0 is a group's.
fn endpoints() -> Endpoints {
    let mut builder = EndpointsBuilder::new();
    for n in 1..=3u8 {
        builder.add(Endpoint {
            ifindex: u32::from(n),
            addresses: vec![address(n, false), address(n, true)],
            void: Vec::new(),
            quarantined: n == 3,
            name: String::new(),
        });
    }
    builder.build().0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Whoever goes the short way arrives where the long one leads, and no packet
    /// between two pods in order takes the long one.
    #[test]
    fn the_short_way_leads_where_the_long_one_does(
        (six, from_pod, is_tcp) in any::<(bool, bool, bool)>(),
        device in 1..=4u32,
        (from, to) in (0..=4u8, 0..=4u8),
        (sport, dport, flags) in any::<(u16, u16, u8)>(),
        shim_flags in any::<u8>(),
        edit in proptest::option::of((14..60usize, any::<u8>())),
    ) {
        let words = || SharedWords::heap(layout::v6_words(2));
        let key = HashKey::from_bytes(&[7; HashKey::BYTES]);
        let v4 = SharedWords::heap(layout::v4_words(2));
        let flows = FlowTable::new(v4, words(), key.clone()).unwrap();
        let stamps = Stamps::new(SharedWords::heap(2), key).unwrap();
        let endpoints = endpoints();
        let classifier = None::<&weir_table::classify::Classifier<Vec<u8>, SharedWords>>;
        let view =
            View {
                classifier,
                endpoints: &endpoints,
                flows: &flows,
                stamps: &stamps,
                verdicts: None,
                origins: None,
            };
        let ends = ((address(from, six), sport), (address(to, six), dport));
        let ethernet = if is_tcp {
            frames::tcp(ends.0, ends.1, flags)
        } else {
            frames::udp(ends.0, ends.1)
        };
        let direction = if from_pod { Direction::FromPod } else { Direction::ToPod };
        let shim =
            Shim { flags: ShimFlags::from_bits(shim_flags), ..Shim::new(device, direction) };
        let mut frame = Vec::new();
        shim.push_punted(&ethernet, &mut frame);
        if let Some((at, value)) = edit && let Some(byte) = frame.get_mut(SHIM_LEN + at) {
            *byte = value;
        }
        let long = admit(&shim, &frame, &view);
        let mut short = None;
        let is_short = admit_plain(&shim, &frame, &view, |packet| short = Some(packet));
        prop_assert_eq!(is_short.is_some(), short.is_some());
        match (short, long) {
            (Some(short), Ok(Crossing::Flow(long, _))) => {
                prop_assert_eq!(format!("{short:?}"), format!("{long:?}"));
            }
            (Some(short), long) => prop_assert!(false, "{short:?} but {long:?}"),
            (None, Ok(Crossing::Flow(long, _))) => {
                prop_assert!(edit.is_some(), "the long way for {long:?}");
            }
            (None, _) => {}
        }
    }
}
