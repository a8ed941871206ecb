use super::*;

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

pub(super) fn binding(ifindex: u32, addresses: &[&str]) -> Binding {
    Binding {
        ifindex,
        device: format!("veth{ifindex}"),
        mtu: 1500,
        mac: None,
        addresses: ips(addresses),
        netns: String::new(),
        namespace: (0, u64::from(ifindex)),
        interface: "eth0".to_owned(),
    }
}

pub(super) const GATEWAY: &str = "10.0.0.1";
pub(super) const EXTERNAL: &str = "8.8.8.8";
pub(super) const REMOTE: &str = "10.0.9.9";

/// A node with pods 7 and 9 and a pod elsewhere, all of them known to control.
struct World {
    claims: Claims,
    named: Vec<IpAddr>,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let named = ips(&["10.0.0.7", "fd00::7", "10.0.0.9", "fd00::9", REMOTE]);
        let mut world = Self { claims: Claims::default(), named, now: Instant::now() };
        let [seven, nine] =
            world.weigh([binding(7, &["10.0.0.7", "fd00::7"]), binding(9, &["10.0.0.9"])]);
        assert_eq!(seven.effective, ips(&["10.0.0.7", "fd00::7"]));
        assert_eq!((nine.effective, nine.void.len()), (ips(&["10.0.0.9"]), 0));
        world
    }

    fn restarted(&self) -> Claims {
        let claims = &self.claims;
        Claims::resumed(false, [7, 9, 11].map(|i| (i, claims.held(i))))
    }

    fn weigh<const N: usize>(&mut self, bindings: [Binding; N]) -> [Standing; N] {
        let Self { claims, named, now } = self;
        let said = |a| if named.contains(&a) { Said::APods } else { Said::NoPods };
        let node = ips(&[GATEWAY]);
        claims.weigh(&bindings, &Words::default(), &node, said, *now).try_into().unwrap()
    }
}

#[test]
fn what_a_pod_adds_has_no_effect_whatever_it_is() {
    for claimed in [EXTERNAL, REMOTE, "10.0.0.77", "255.1.2.3"] {
        let mut world = World::new();
        for addresses in [&["10.0.0.7", claimed][..], &[claimed], &[claimed, "10.0.0.7"]] {
            let [pod] = world.weigh([binding(7, addresses)]);
            let kept = if addresses.len() > 1 { ips(&["10.0.0.7"]) } else { vec![] };
            assert_eq!(pod.effective, kept, "{addresses:?}");
            assert_eq!(pod.believed, kept, "{addresses:?}");
            assert_eq!(pod.added, ips(&[claimed]));
            assert!(pod.stolen.is_empty());
        }
    }
}

#[test]
fn a_family_that_a_pod_lacks_is_closed_once_it_has_settled() {
    let foreign = "fd00:9::9";
    let mut world = World::new();
    world.named.extend(ips(&[foreign, "fd00::9"]));
    // Its plugin may be between two requests.
    let [slow] = world.weigh([binding(9, &["10.0.0.9", "fd00::9"])]);
    assert_eq!(slow.effective, ips(&["10.0.0.9", "fd00::9"]));

    let mut world = World::new();
    world.named.push(ip(foreign));
    world.now += COMES_WITHIN + Duration::from_secs(1);
    let mut after_a_restart = World { claims: world.restarted(), ..World::new() };
    after_a_restart.named.push(ip(foreign));
    for world in [&mut world, &mut after_a_restart] {
        for addresses in [&["10.0.0.9", foreign][..], &[foreign]] {
            let [pod] = world.weigh([binding(9, addresses)]);
            assert_eq!(pod.added, ips(&[foreign]));
            assert!(!pod.effective.contains(&ip(foreign)));
            assert!(!pod.believed.contains(&ip(foreign)));
        }
    }
}

/// Control names a pod when it has its own address; what it has added by then, while
/// the daemon was away, is no more its own than before.
#[test]
fn a_restart_does_not_forget_what_an_unnamed_pod_came_with() {
    let mut world = World::new();
    world.weigh([binding(11, &["10.0.0.11"])]);
    let mut world = World { claims: world.restarted(), ..World::new() };
    world.named.push(ip("10.0.0.11"));
    let [pod] = world.weigh([binding(11, &[REMOTE, "10.0.0.11"])]);
    assert_eq!((pod.effective, pod.added), (ips(&["10.0.0.11"]), ips(&[REMOTE])));
}

#[test]
fn the_nodes_own_addresses_and_other_pods_are_stolen() {
    let mut world = World::new();
    for (claimed, holder) in [(GATEWAY, Holder::Node), ("10.0.0.9", Holder::Pod(9))] {
        let [thief, owner] =
            world.weigh([binding(7, &["10.0.0.7", claimed]), binding(9, &["10.0.0.9"])]);
        assert_eq!(thief.stolen, [(ip(claimed), holder)]);
        assert_eq!(owner.effective, ips(&["10.0.0.9"]));
    }
    // Not even one that has nothing else yet.
    let [fresh] = world.weigh([binding(11, &[GATEWAY])]);
    assert_eq!((fresh.believed.len(), fresh.stolen.len()), (0, 1));
}

#[test]
fn a_fresh_pod_is_believed_on_its_link_until_control_names_it() {
    let mut world = World::new();
    let fresh = || binding(11, &["10.0.0.11", EXTERNAL, "fd00::11"]);
    let [pod] = world.weigh([fresh()]);
    assert!(pod.effective.is_empty());
    assert_eq!(pod.believed, ips(&["10.0.0.11", "fd00::11"]));
    assert_eq!(pod.void, fresh().addresses);
    assert!(pod.added.is_empty(), "not worth a warning yet");
    world.named.extend(ips(&["10.0.0.11", "fd00::11"]));
    let [pod] = world.weigh([fresh()]);
    assert_eq!(pod.effective, ips(&["10.0.0.11", "fd00::11"]));
    assert_eq!((pod.void, pod.added), (ips(&[EXTERNAL]), ips(&[EXTERNAL])));
}

/// A pod that guesses the next pod's address must not have it before that pod.
#[test]
fn an_added_address_does_not_keep_the_next_pod_from_it() {
    let mut world = World::new();
    world.weigh([binding(7, &["10.0.0.7", "10.0.0.11"])]);
    world.named.push(ip("10.0.0.11"));
    let [guesser, next] =
        world.weigh([binding(7, &["10.0.0.7", "10.0.0.11"]), binding(11, &["10.0.0.11"])]);
    assert_eq!(next.effective, ips(&["10.0.0.11"]));
    assert_eq!(guesser.effective, ips(&["10.0.0.7"]));
    assert_eq!(guesser.stolen, [(ip("10.0.0.11"), Holder::Pod(11))]);
}

#[test]
fn what_was_settled_outlives_hiding_a_restart_and_an_unsettled_answer() {
    let mut world = World::new();
    world.weigh([]);
    let [back] = world.weigh([binding(7, &[REMOTE])]);
    assert!(back.effective.is_empty(), "it has had its address");

    let mut resumed = world.restarted();
    let pods = [binding(3, &["10.0.0.7"]), binding(7, &[REMOTE, "10.0.0.7"])];
    let standings = resumed.weigh(&pods, &Words::default(), &[], |_| Said::Nothing, world.now);
    assert_eq!(standings[0].stolen, [(ip("10.0.0.7"), Holder::Pod(7))]);
    assert_eq!(standings[1].effective, ips(&["10.0.0.7"]));
    assert_eq!(standings[1].added, ips(&[REMOTE]));

    world.claims.retain_devices(&HashSet::from([9]));
    let [anew] = world.weigh([binding(7, &[REMOTE])]);
    assert_eq!(anew.effective, ips(&[REMOTE]), "another device of the same number");
}

#[test]
fn a_pod_that_has_finished_keeps_its_address_to_itself() {
    let mut world = World::new();
    world.named.retain(|a| *a != ip("10.0.0.9"));
    let [_, finished] = world.weigh([binding(7, &["10.0.0.7"]), binding(9, &["10.0.0.9"])]);
    assert!(finished.effective.is_empty());
    assert_eq!(finished.believed, ips(&["10.0.0.9"]));
    assert_eq!(finished.void, ips(&["10.0.0.9"]));
}
