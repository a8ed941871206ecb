//! Words against a model: a plain list, looked through for everything.

use proptest::prelude::*;

use super::*;

const SETTLED: Settlement = Settlement { generation: 3, epoch: 9 };

fn id(container: u8) -> AttachmentId {
    AttachmentId {
        network: if container.is_multiple_of(2) { "even" } else { "odd" }.into(),
        container: container.to_string(),
        ifname: "eth0".into(),
    }
}

fn said(ifindex: u32, container: u8, last: u8) -> Said {
    Said {
        ifindex,
        id: id(container),
        pod: Some(PodRef { namespace: "shop".into(), name: container.to_string(), uid: None }),
        addresses: vec![IpAddr::from([10, 0, 0, last])],
        host_ports: Vec::new(),
    }
}

#[test]
fn the_same_again_is_the_same_word() {
    let mut words = Words::resumed([], 100);
    let now = Instant::now();
    let ticket = words.attach(said(7, 1, 1), now);
    assert_eq!((ticket, words.last()), (101, 101));
    assert_eq!(words.place(&[ticket], SETTLED), [7]);
    assert_eq!(words.attach(said(7, 1, 1), now), ticket);
    assert!(words.of(7).unwrap().is_placed());
    assert!(words.place(&[ticket], SETTLED).is_empty(), "placed already");
    // Anything else is another, and not placed.
    let other = words.attach(said(7, 1, 2), now);
    assert!(other > ticket && !words.of(7).unwrap().is_placed());
    assert!(words.place(&[ticket], SETTLED).is_empty(), "of a word that is over");
}

#[test]
fn an_attachment_that_comes_back_elsewhere_has_left_its_device() {
    let mut words = Words::default();
    words.attach(said(7, 1, 1), Instant::now());
    words.attach(said(9, 1, 1), Instant::now());
    assert!(words.of(7).is_none());
    assert_eq!(words.of_attachment(&id(1)).unwrap().0, 9);
    // And a device that is another attachment's has left the first.
    words.attach(said(9, 2, 2), Instant::now());
    assert!(words.of_attachment(&id(1)).is_none());
    assert_eq!(words.withdraw(&id(1)), None);
    assert_eq!(words.withdraw(&id(2)).unwrap().0, 9);
    assert_eq!(words.iter().count(), 0);
}

#[test]
fn only_what_is_kept_is_placed_after_a_restart() {
    let mut words = Words::default();
    let now = Instant::now();
    let tickets = [words.attach(said(7, 1, 1), now), words.attach(said(9, 2, 2), now)];
    words.place(&tickets[..1], SETTLED);
    words.set_kept();
    words.place(&tickets[1..], SETTLED);
    let json = serde_json::to_string(&words.iter().collect::<Vec<_>>()).unwrap();
    let read: Vec<(u32, Word)> = serde_json::from_str(&json).unwrap();
    let resumed = Words::resumed(read, 1);
    let placed = |words: &Words, ifindex| words.of(ifindex).unwrap().placed;
    assert_eq!((placed(&words, 7), placed(&words, 9)), (Some(SETTLED), Some(SETTLED)));
    assert_eq!((placed(&resumed, 7), placed(&resumed, 9)), (Some(SETTLED), None));
    assert_eq!(resumed.last(), tickets[1]);
    assert!(resumed.have_come() && !Words::default().have_come());
}

#[test]
fn a_generation_that_does_not_know_of_a_word_holds_it() {
    let mut words = Words::default();
    let now = Instant::now();
    let tickets = [1, 2, 3].map(|n| words.attach(said(n.into(), n, n), now));
    words.place(&tickets, SETTLED);
    words.set_kept();
    assert_eq!(words.hold_above(tickets[1]), [3]);
    assert_eq!(words.of(3).map(|w| (w.placed, w.kept)), Some((None, None)));
    assert!(words.hold_above(tickets[1]).is_empty(), "held already");
    assert_eq!(words.hold_above(0), [1, 2]);
}

#[test]
fn a_rejection_is_told_once_and_ends_with_its_cause() {
    let mut words = Words::default();
    let ticket = words.attach(said(7, 1, 1), Instant::now());
    assert!(words.reject(ticket, "no such pod"));
    assert!(!words.reject(ticket, "no such pod"));
    assert!(!words.reject(ticket + 1, "no such pod"));
    words.place(&[ticket], SETTLED);
    assert_eq!(words.of(7).unwrap().rejected, None);
    words.reject(ticket, "again");
    words.forget_rejections();
    assert_eq!(words.of(7).unwrap().rejected, None);
}

#[derive(Debug, Clone)]
enum Step {
    Attach(u32, u8, u8),
    Withdraw(u8),
    KeepOnly(bool, Vec<u8>),
    Devices(Vec<u32>),
    /// The n-th ticket that was ever given.
    Place(Vec<usize>),
    Hold(usize),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let (device, container) = (1..5_u32, 0..5_u8);
    prop_oneof![
        4 => (device.clone(), container.clone(), 0..2_u8)
            .prop_map(|(device, container, last)| Step::Attach(device, container, last)),
        1 => container.clone().prop_map(Step::Withdraw),
        1 => (any::<bool>(), prop::collection::vec(container, 0..4))
            .prop_map(|(even, valid)| Step::KeepOnly(even, valid)),
        1 => prop::collection::vec(device, 0..5).prop_map(Step::Devices),
        3 => prop::collection::vec(0..20_usize, 0..4).prop_map(Step::Place),
        1 => (0..20_usize).prop_map(Step::Hold),
        1 => Just(Step::Restart),
    ]
}

/// Device, container, last byte of the address, ticket, placed.
type Plain = (u32, u8, u8, u64, bool);

proptest! {
    #[test]
    fn words_are_a_list_of_what_stands(steps in prop::collection::vec(step(), 1..40)) {
        let mut words = Words::default();
        let mut model: Vec<Plain> = Vec::new();
        let mut given: Vec<u64> = Vec::new();
        let now = Instant::now();
        for step in steps {
            match step {
                Step::Attach(device, container, last) => {
                    let same = model.iter().find(|w| (w.0, w.1, w.2) == (device, container, last));
                    let same = same.copied();
                    let ticket = words.attach(said(device, container, last), now);
                    if let Some(same) = same {
                        prop_assert_eq!(ticket, same.3);
                    } else {
                        prop_assert!(given.iter().all(|before| *before < ticket));
                        given.push(ticket);
                        model.retain(|w| w.0 != device && w.1 != container);
                        model.push((device, container, last, ticket, false));
                    }
                }
                Step::Withdraw(container) => {
                    let known = model.iter().find(|w| w.1 == container).map(|w| w.0);
                    prop_assert_eq!(words.withdraw(&id(container)).map(|(i, _)| i), known);
                    model.retain(|w| w.1 != container);
                }
                Step::KeepOnly(even, valid) => {
                    let network = if even { "even" } else { "odd" };
                    let of = |c: &u8| (id(*c).container, id(*c).ifname);
                    let list: Vec<_> = valid.iter().map(of).collect();
                    let before = model.len();
                    model.retain(|w| id(w.1).network != network || valid.contains(&w.1));
                    prop_assert_eq!(words.keep_only(network, &list).len(), before - model.len());
                }
                Step::Devices(devices) => {
                    let before = model.len();
                    model.retain(|w| devices.contains(&w.0));
                    let devices = devices.into_iter().collect();
                    prop_assert_eq!(words.retain_devices(&devices).len(), before - model.len());
                }
                Step::Place(which) => {
                    let tickets: Vec<u64> =
                        which.iter().filter_map(|n| given.get(*n).copied()).collect();
                    let mut placed = words.place(&tickets, SETTLED);
                    placed.sort_unstable();
                    let fresh = |w: &&mut Plain| tickets.contains(&w.3) && !w.4;
                    let mut expected: Vec<u32> = Vec::new();
                    for word in model.iter_mut().filter(fresh) {
                        word.4 = true;
                        expected.push(word.0);
                    }
                    expected.sort_unstable();
                    prop_assert_eq!(placed, expected);
                    words.set_kept();
                }
                Step::Hold(n) => {
                    let heard = given.get(n).copied().unwrap_or(0);
                    let mut expected: Vec<u32> = Vec::new();
                    for word in model.iter_mut().filter(|w| w.3 > heard && w.4) {
                        word.4 = false;
                        expected.push(word.0);
                    }
                    expected.sort_unstable();
                    prop_assert_eq!(words.hold_above(heard), expected);
                }
                Step::Restart => {
                    let json = serde_json::to_vec(&words.iter().collect::<Vec<_>>()).unwrap();
                    let read: Vec<(u32, Word)> = serde_json::from_slice(&json).unwrap();
                    words = Words::resumed(read, words.last());
                }
            }
            model.sort_unstable();
            let plain = |(ifindex, w): (u32, &Word)| {
                let IpAddr::V4(address) = w.addresses[0] else { unreachable!() };
                let container = w.id.container.parse().unwrap();
                (ifindex, container, address.octets()[3], w.ticket, w.is_placed())
            };
            let all: Vec<Plain> = words.iter().map(plain).collect();
            prop_assert_eq!(&all, &model);
            for w in &model {
                prop_assert_eq!(words.of_attachment(&id(w.1)).map(|(i, _)| i), Some(w.0));
                prop_assert_eq!(words.of_ticket(w.3).map(|(i, _)| i), Some(w.0));
            }
        }
    }
}
