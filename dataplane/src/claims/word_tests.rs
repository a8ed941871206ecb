//! What the CNI plugin says, against what interfaces look like.

use weir_table::cni::{AttachmentId, PodRef};

use super::tests::{EXTERNAL, GATEWAY, REMOTE, binding, ip, ips};
use super::*;
use crate::words::{Said as Spoken, Settlement};

const SETTLED: Settlement = Settlement { generation: 1, epoch: 1 };

/// A node whose plugin speaks, and control that says `named` are pods'.
struct World {
    claims: Claims,
    words: Words,
    named: Vec<IpAddr>,
    now: Instant,
}

impl World {
    fn new(required: bool) -> Self {
        let named = ips(&["10.0.0.7", "fd00::7", "10.0.0.9", REMOTE]);
        let claims = Claims::new(required);
        Self { claims, words: Words::default(), named, now: Instant::now() }
    }

    fn say(&mut self, ifindex: u32, addresses: &[&str]) -> u64 {
        self.say_of(ifindex, addresses, true)
    }

    fn say_of(&mut self, ifindex: u32, addresses: &[&str], of_a_pod: bool) -> u64 {
        let pod = PodRef { namespace: "shop".into(), name: ifindex.to_string(), uid: None };
        let said = Spoken {
            ifindex,
            id: id(ifindex),
            pod: of_a_pod.then_some(pod),
            addresses: ips(addresses),
            host_ports: Vec::new(),
        };
        self.words.attach(said, self.now)
    }

    fn weigh<const N: usize>(&mut self, bindings: [Binding; N]) -> [Standing; N] {
        let Self { claims, words, named, now } = self;
        let said = |a| if named.contains(&a) { Said::APods } else { Said::NoPods };
        claims.weigh(&bindings, words, &ips(&[GATEWAY]), said, *now).try_into().unwrap()
    }
}

fn id(ifindex: u32) -> AttachmentId {
    let container = ifindex.to_string();
    AttachmentId { network: "n".into(), container, ifname: "eth0".into() }
}

/// That control names the address is not enough: it may still mean the one before.
#[test]
fn a_word_counts_once_it_is_placed_and_not_before() {
    let mut world = World::new(false);
    let ticket = world.say(7, &["10.0.0.7", "fd00::7"]);
    let both = || binding(7, &["10.0.0.7", "fd00::7"]);
    let [held] = world.weigh([both()]);
    assert_eq!(held.effective, [] as [IpAddr; 0]);
    assert_eq!((&held.believed, &held.void), (&both().addresses, &both().addresses));
    assert!(held.added.is_empty() && held.stolen.is_empty() && !held.wordless);
    // However long it takes.
    world.now += COMES_WITHIN * 10;
    assert_eq!(world.weigh([both()])[0], held);

    world.words.place(&[ticket], SETTLED);
    let [placed] = world.weigh([both()]);
    assert_eq!((placed.effective, placed.void), (both().addresses, vec![]));
    // Not even the pod itself can give it up, nor a look that comes too soon.
    let [placed] = world.weigh([binding(7, &[])]);
    assert_eq!(placed.effective, both().addresses);
}

#[test]
fn exactly_the_words_addresses_count() {
    let mut world = World::new(false);
    world.named.push(ip("10.0.0.70"));
    // More of a family than Kubernetes ever gives.
    let ticket = world.say(7, &["10.0.0.7", "10.0.0.70"]);
    world.words.place(&[ticket], SETTLED);
    for added in [REMOTE, EXTERNAL, "fd00::7"] {
        let [pod] = world.weigh([binding(7, &[added, "10.0.0.7"])]);
        assert_eq!(pod.effective, ips(&["10.0.0.7", "10.0.0.70"]));
        assert_eq!((&pod.added, &pod.void), (&ips(&[added]), &ips(&[added])));
        assert!(!pod.believed.contains(&ip(added)));
    }
}

#[test]
fn a_withdrawn_word_leaves_nothing_whatever_control_says() {
    let mut world = World::new(false);
    let ticket = world.say(7, &["10.0.0.7"]);
    world.words.place(&[ticket], SETTLED);
    world.weigh([binding(7, &["10.0.0.7"])]);
    world.words.withdraw(&id(7));
    let nothing = |pod: &Standing| {
        assert_eq!((pod.effective.len(), pod.believed.len()), (0, 0));
        assert_eq!(pod.void, ips(&["10.0.0.7"]));
        assert!(pod.wordless);
    };
    let [pod] = world.weigh([binding(7, &["10.0.0.7"])]);
    nothing(&pod);
    world.now += COMES_WITHIN * 2;
    let [pod] = world.weigh([binding(7, &["10.0.0.7"])]);
    nothing(&pod);
    assert!(!world.claims.misses_its_word(7, &world.words, world.now), "it had one");
    // Nor after a restart.
    let held = world.claims.held(7);
    world.claims = Claims::resumed(false, [(7, held)]);
    let [pod] = world.weigh([binding(7, &["10.0.0.7"])]);
    nothing(&pod);
    // The address is free for the next.
    let ticket = world.say(11, &["10.0.0.7"]);
    world.words.place(&[ticket], SETTLED);
    let [old, new] = world.weigh([binding(7, &["10.0.0.7"]), binding(11, &["10.0.0.7"])]);
    assert_eq!((old.effective.len(), new.effective), (0, ips(&["10.0.0.7"])));
    assert_eq!(old.stolen, [] as [(IpAddr, Holder); 0]);
}

#[test]
fn a_pod_that_has_finished_is_none_to_others() {
    let mut world = World::new(false);
    let ticket = world.say(7, &["10.0.0.7"]);
    world.words.place(&[ticket], SETTLED);
    world.named.clear();
    let [pod] = world.weigh([binding(7, &["10.0.0.7"])]);
    assert_eq!((pod.effective.len(), pod.believed, pod.void.len()), (0, ips(&["10.0.0.7"]), 1));
}

/// Who guesses an address that the next pod is given loses it to that pod's word; who has it by
/// control's word does not.
#[test]
fn a_word_takes_its_address_from_guesses_alone() {
    let mut world = World::new(false);
    let guess = "10.0.0.77";
    let [pod] = world.weigh([binding(9, &["10.0.0.9"])]);
    assert_eq!(pod.effective, ips(&["10.0.0.9"]));
    let [_, _] = world.weigh([binding(9, &["10.0.0.9"]), binding(5, &[guess])]);
    assert_eq!(world.claims.holder(&ip(guess), &world.words), None);
    assert_eq!(world.claims.holder(&ip("10.0.0.9"), &world.words), Some(9));

    let ticket = world.say(7, &[guess]);
    world.words.place(&[ticket], SETTLED);
    world.named.push(ip(guess));
    let all = || [binding(5, &[guess]), binding(7, &[guess]), binding(9, &["10.0.0.9", guess])];
    let [guesser, owner, thief] = world.weigh(all());
    assert_eq!(owner.effective, ips(&[guess]));
    for other in [&guesser, &thief] {
        assert_eq!(other.stolen, [(ip(guess), Holder::Pod(7))]);
        assert!(!other.effective.contains(&ip(guess)));
    }
    assert_eq!(world.claims.holder(&ip(guess), &world.words), Some(7));
}

#[test]
fn a_word_of_what_the_node_has_comes_to_nothing() {
    let mut world = World::new(false);
    let ticket = world.say(7, &[GATEWAY, "10.0.0.7"]);
    world.words.place(&[ticket], SETTLED);
    let [pod] = world.weigh([binding(7, &[GATEWAY, "10.0.0.7"])]);
    assert_eq!(pod.stolen, [(ip(GATEWAY), Holder::Node)]);
    assert_eq!(pod.effective, ips(&["10.0.0.7"]), "quarantined as a whole all the same");
}

#[test]
fn a_word_without_a_pod_is_placed_by_its_address() {
    let mut world = World::new(false);
    world.say_of(7, &["10.0.0.70", "10.0.0.7"], false);
    let [pod] = world.weigh([binding(7, &["10.0.0.7", "10.0.0.70"])]);
    assert_eq!((pod.effective, pod.void), (ips(&["10.0.0.7"]), ips(&["10.0.0.70"])));
    world.named.push(ip("10.0.0.70"));
    let [pod] = world.weigh([binding(7, &["10.0.0.7", "10.0.0.70"])]);
    assert_eq!(pod.effective, ips(&["10.0.0.70", "10.0.0.7"]));
}

/// Between its first look and its word an interface could be taken for the one before.
#[test]
fn once_the_plugin_speaks_its_word_on_a_new_interface_is_waited_for() {
    let mut world = World::new(false);
    let [old] = world.weigh([binding(9, &["10.0.0.9"])]);
    assert_eq!(old.effective, ips(&["10.0.0.9"]), "nobody speaks here");
    world.say(5, &[]);
    let both = || [binding(7, &["10.0.0.7"]), binding(9, &["10.0.0.9"])];
    let [fresh, old] = world.weigh(both());
    assert_eq!((fresh.effective.len(), &fresh.believed), (0, &ips(&["10.0.0.7"])));
    assert!(fresh.stolen.is_empty() && fresh.added.is_empty());
    assert_eq!(old.effective, ips(&["10.0.0.9"]), "it was there before");
    assert!(world.claims.wait_for_words(&world.words, world.now));
    world.now += COMES_WITHIN + Duration::from_millis(1);
    assert!(!world.claims.wait_for_words(&world.words, world.now));
    let [fresh, _] = world.weigh(both());
    assert_eq!(fresh.effective, ips(&["10.0.0.7"]), "not made by that plugin");
}

#[test]
fn where_words_are_required_only_what_was_there_before_does_without() {
    let mut world = World::new(true);
    let both = || [binding(7, &["10.0.0.7"]), binding(9, &["10.0.0.9"])];
    let [old] = world.weigh([binding(9, &["10.0.0.9"])]);
    assert_eq!(old.effective, ips(&["10.0.0.9"]));
    let [fresh, old] = world.weigh(both());
    assert_eq!((fresh.effective.len(), fresh.believed.len()), (0, 0));
    assert!(fresh.wordless && !old.wordless);
    assert!(!world.claims.misses_its_word(7, &world.words, world.now), "it may be on its way");
    world.now += COMES_WITHIN + Duration::from_millis(1);
    assert!(world.claims.misses_its_word(7, &world.words, world.now));
    assert!(!world.claims.misses_its_word(9, &world.words, world.now));
    // A daemon that starts again knows which is which.
    let held = [7, 9].map(|ifindex| (ifindex, world.claims.held(ifindex)));
    world.claims = Claims::resumed(true, held);
    let [fresh, old] = world.weigh(both());
    assert!(fresh.wordless && fresh.effective.is_empty());
    assert_eq!(old.effective, ips(&["10.0.0.9"]));
    // And one that came while no daemon ran.
    let [_, _, late] = world.weigh([both()[0].clone(), both()[1].clone(), binding(11, &[REMOTE])]);
    assert!(late.wordless);
    // Its word is what it waits for.
    let ticket = world.say(7, &["10.0.0.7"]);
    world.words.place(&[ticket], SETTLED);
    assert_eq!(world.weigh(both())[0].effective, ips(&["10.0.0.7"]));
}
