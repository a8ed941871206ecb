//! What a change of the cluster names, case by case.

use super::{
    verdicts::Budget,
    world::{Heap, Labels, Peer, Policy, World, between, build},
    *,
};
use crate::{
    addrmap::{AddressMap, AddressMapWriter},
    mem::SharedWords,
    policy::{ClassId, PolicyImage},
    sync::Ordering,
};

const SERVER: Labels = 1;
const CLIENT: Labels = 2;
const OTHER: Labels = 4;
const EXTRA: Labels = 8;

fn pod(number: usize) -> Address {
    Address::v4([10, 0, (number >> 8) as u8, number as u8])
}

/// Servers admit clients on TCP 80. Pods 0..servers are servers, and on this
/// node; the next are clients elsewhere, the last ten have no role.
fn world(servers: usize, clients: usize) -> (World, Vec<Address>) {
    let role = |number| match number {
        n if n < servers => SERVER,
        n if n < servers + clients => CLIENT,
        _ => OTHER,
    };
    let pods = (0..servers + clients + 10).map(|n| (pod(n), role(n))).collect();
    let world = World { pods, policies: vec![admit(SERVER, CLIENT)], order: 1, ..World::default() };
    (world, (0..servers).map(pod).collect())
}

fn admit(selects: Labels, peer: Labels) -> Policy {
    Policy { egress: false, selects, peers: vec![Peer::Pods(peer)], ports: Some((80, 80)) }
}

fn admit_block(selects: Labels, block: &str) -> Policy {
    let peers = vec![Peer::Block(block.parse().unwrap())];
    Policy { egress: false, selects, peers, ports: None }
}

/// What `change` names.
#[track_caller]
fn named((old, local): &(World, Vec<Address>), change: impl FnOnce(&mut World)) -> Vec<Address> {
    let mut new = World { order: old.order + 1, ..old.clone() };
    change(&mut new);
    let changes = between(old, &new, local);
    assert!(!changes.all);
    changes.addresses
}

#[test]
fn numbering_anew_names_nobody() {
    for order in 2..20 {
        assert_eq!(named(&world(5, 20), |new| new.order = order), []);
    }
}

#[test]
fn a_policy_of_the_same_effect_names_nobody() {
    assert_eq!(named(&world(5, 20), |new| new.policies.push(admit(SERVER, CLIENT))), []);
}

#[test]
fn an_added_policy_names_its_endpoint_alone() {
    let mut setup = world(5, 200);
    setup.0.pods.insert(pod(2), SERVER | EXTRA);
    let policy = Policy { egress: true, ..admit(EXTRA, OTHER) };
    assert_eq!(named(&setup, |new| new.policies.push(policy)), [pod(2)]);
    assert_eq!(named(&setup, |new| new.policies.push(admit(EXTRA, OTHER))), [pod(2)]);
}

#[test]
fn a_removed_policy_names_its_endpoints() {
    let setup = world(3, 200);
    assert_eq!(named(&setup, |new| new.policies.clear()), [pod(0), pod(1), pod(2)]);
}

#[test]
fn a_policy_that_selects_no_endpoint_of_this_node_names_nobody() {
    assert_eq!(named(&world(3, 20), |new| new.policies.push(admit(CLIENT, OTHER))), []);
}

#[test]
fn a_changed_port_names_the_servers() {
    let change = |new: &mut World| new.policies[0].ports = Some((80, 81));
    assert_eq!(named(&world(2, 20), change), [pod(0), pod(1)]);
}

#[test]
fn a_relabelled_client_names_the_client_alone() {
    for servers in [1, 2, 200] {
        let client = pod(servers);
        for clients in [1, 2, 50] {
            let change = |new: &mut World| _ = new.pods.insert(client, OTHER);
            assert_eq!(named(&world(servers, clients), change), [client], "{servers} servers");
        }
    }
}

#[test]
fn a_relabelled_server_names_the_server() {
    for clients in [1, 2, 50] {
        let change = |new: &mut World| _ = new.pods.insert(pod(1), OTHER);
        assert_eq!(named(&world(5, clients), change), [pod(1)]);
    }
}

#[test]
fn a_label_that_no_policy_asks_for_names_nobody() {
    assert_eq!(named(&world(5, 9), |new| _ = new.pods.insert(pod(6), CLIENT | EXTRA)), []);
}

#[test]
fn an_address_with_another_owner_is_named() {
    let setup = world(40, 20);
    let (client, other, free) = (pod(40), pod(65), pod(999));
    assert_eq!(named(&setup, |new| _ = new.pods.insert(other, CLIENT)), [other]);
    assert_eq!(named(&setup, |new| _ = new.pods.remove(&client)), [client]);
    assert_eq!(named(&setup, |new| _ = new.pods.insert(free, CLIENT)), [free]);
    assert_eq!(named(&setup, |new| _ = new.pods.insert(free, OTHER)), []);
    assert_eq!(named(&setup, |new| _ = new.pods.remove(&other)), []);
}

#[test]
fn a_changed_block_names_the_endpoints_whose_policy_has_it() {
    let mut setup = world(5, 200);
    setup.0.pods.insert(pod(3), EXTRA);
    setup.0.policies.push(admit_block(EXTRA, "192.0.2.0/24"));
    let change = |new: &mut World| new.policies[1] = admit_block(EXTRA, "192.0.2.0/25");
    assert_eq!(named(&setup, change), [pod(3)]);
    let change = |new: &mut World| new.policies[1] = admit_block(EXTRA, "2001:db8::/32");
    assert_eq!(named(&setup, change), [pod(3)]);
    // A block that cuts the ranges anew without opening or closing any.
    let change = |new: &mut World| new.policies.push(admit_block(EXTRA, "192.0.2.64/26"));
    assert_eq!(named(&setup, change), []);
}

#[test]
fn a_block_of_pods_alone_is_no_range() {
    let (mut old, local) = world(1, 3);
    old.policies = vec![Policy { egress: true, ..admit_block(SERVER, "10.0.0.2/32") }];
    // Pod 2, a client, is all of the block; by its label it stays allowed.
    let by_label = Policy { egress: true, ports: None, ..admit(SERVER, EXTRA) };
    old.pods.insert(pod(2), CLIENT | EXTRA);
    let change = |new: &mut World| new.policies = vec![by_label];
    assert_eq!(named(&(old, local), change), []);
}

#[test]
fn an_endpoint_that_enters_or_leaves_quarantine_is_named() {
    let (mut old, mut local) = world(3, 5);
    old.policies.clear();
    local.push(pod(500)); // on this node, but in neither map
    let setup = (old, local);
    assert_eq!(named(&setup, |new| _ = new.pods.remove(&pod(1))), [pod(1)]);
    assert_eq!(named(&setup, |new| _ = new.pods.insert(pod(500), OTHER)), [pod(500)]);
    assert_eq!(named(&setup, |new| _ = new.pods.remove(&pod(4))), [], "a peer, no policy");
}

#[test]
fn changes_at_several_places_are_each_named() {
    let mut setup = world(30, 20);
    setup.0.pods.insert(pod(2), SERVER | EXTRA);
    let change = |new: &mut World| {
        new.pods.insert(pod(31), OTHER);
        new.pods.insert(pod(7), OTHER);
        new.policies.push(Policy { egress: true, ..admit(EXTRA, OTHER) });
    };
    assert_eq!(named(&setup, change), [pod(2), pod(7), pod(31)]);
}

#[test]
fn a_pod_that_reaches_only_itself_anew_is_no_change() {
    let (mut old, _) = world(1, 0);
    old.policies = vec![admit(SERVER, SERVER)];
    let change = |new: &mut World| new.policies = vec![admit(SERVER, EXTRA)];
    assert_eq!(named(&(old, vec![pod(0)]), change), []);
}

#[test]
fn a_class_that_only_one_table_knows_is_a_change() {
    let image = world(2, 3).0;
    let map = |classifier: &Heap, unknown: &[Address]| {
        let classes = classifier.table().classes() as u32;
        let mut writer = AddressMapWriter::private(classifier.generation(), 64).unwrap();
        for (address, class) in classifier.addresses().iter() {
            writer.insert(address, class).unwrap();
        }
        for &address in unknown {
            writer.insert(address, ClassId(classes)).unwrap();
        }
        let table = PolicyTable::from_bytes(classifier.table().as_bytes().to_vec()).unwrap();
        Classifier::new(table, writer.into_reader().unwrap()).unwrap()
    };
    let local = [pod(0), pod(1)];
    let classifier = image.classifier(3);
    let (client, server) = (pod(2), pod(0));
    for (before, after, expected) in [
        (&[][..], &[client][..], &[client][..]),
        (&[client], &[], &[client]),
        (&[client], &[client], &[]),
        (&[], &[server], &[server]),
        (&[server], &[server], &[]),
    ] {
        let changes = changes(&map(&classifier, before), &map(&classifier, after), &local);
        assert_eq!(changes, Changes { all: false, addresses: expected.to_vec() });
    }
}

#[test]
fn too_much_work_is_all() {
    let (old, local) = world(5, 20);
    let mut new = old.clone();
    new.policies.clear();
    let (old, new) = (old.classifier(1), new.classifier(2));
    let (before, after) = (KnownAddresses::of(&old), KnownAddresses::of(&new));
    let old = Moment { table: old.table(), addresses: &before };
    let new = Moment { table: new.table(), addresses: &after };
    for limit in 0..20 {
        assert_eq!(changes_within(old, new, &local, Budget::new(limit)), Changes::ALL);
    }
    assert_eq!(changes_between(old, new, &local).addresses, local);
    let foreign = Moment { addresses: &before, ..new };
    assert!(changes_between(old, foreign, &local).all, "classes of another generation");
}

/// A map of three addresses in words that the test can spoil.
fn shared_map() -> (World, AddressMapWriter<std::sync::Arc<SharedWords>>) {
    let world = world(1, 1).0;
    let words = std::sync::Arc::new(SharedWords::heap(8 + 64 * 4));
    let mut writer = AddressMapWriter::in_words(words, 9).unwrap();
    for number in 0..3 {
        writer.insert(pod(number), ClassId(number as u32)).unwrap();
    }
    (world, writer)
}

fn reader(
    world: &World,
    writer: &AddressMapWriter<std::sync::Arc<SharedWords>>,
) -> Classifier<Vec<u8>, std::sync::Arc<SharedWords>> {
    let table = world.classifier(9).table().as_bytes().to_vec();
    let map = AddressMap::open(writer.words().clone()).unwrap();
    Classifier::new(PolicyTable::from_bytes(table).unwrap(), map).unwrap()
}

#[test]
fn an_update_gives_what_was_changed_in_place() {
    let (world, mut writer) = shared_map();
    let classifier = reader(&world, &writer);
    let mut known = KnownAddresses::of(&classifier);
    assert_eq!((known.len(), known.is_settled()), (3, true));
    assert_eq!(known.update(&classifier), []);

    writer.insert(pod(1), ClassId(0)).unwrap();
    writer.remove(pod(2));
    writer.insert(pod(9), ClassId(1)).unwrap();
    assert_ne!(known.epoch(), classifier.addresses().epoch());
    assert_eq!(known.update(&classifier), [pod(1), pod(2), pod(9)]);
    assert_eq!(known.epoch(), classifier.addresses().epoch());
    assert_eq!(known.update(&classifier), [], "each change once");

    writer.insert(pod(1), ClassId(2)).unwrap();
    writer.insert(pod(1), ClassId(0)).unwrap();
    assert_eq!(known.update(&classifier), [], "there and back is not seen");
}

#[test]
fn an_update_to_another_generation_gives_every_address() {
    let (world, writer) = shared_map();
    let mut known = KnownAddresses::of(&reader(&world, &writer));
    let image = PolicyImage { generation: 10, ..crate::policy::small_image() };
    let other = build(&image, &[(pod(1), 1), (pod(7), 0)]);
    assert_eq!(known.update(&other), [pod(0), pod(1), pod(2), pod(7)]);
}

/// A writer that died in the middle of a change leaves a busy slot behind: what
/// is not found otherwise is denied, so no list of addresses would be complete.
#[test]
fn a_map_that_never_settles_is_all() {
    let (world, writer) = shared_map();
    let classifier = reader(&world, &writer);
    let mut known = KnownAddresses::of(&classifier);
    // Header of 8 words, slots of 4; the first is state (1 busy, 2 live) and version.
    let ctl = |slot: usize| &writer.words().words()[8 + slot * 4];
    let live = (0..64).find(|&slot| ctl(slot).load(Ordering::Relaxed) & 0xff == 2).unwrap();
    ctl(live).fetch_sub(1, Ordering::Relaxed);
    let spoiled = known.update(&classifier);
    assert_eq!(spoiled.len(), 1, "its address is unsettled now: {spoiled:?}");
    assert!(!known.is_settled());
    assert!(changes(&classifier, &classifier, &[pod(0)]).all);
    ctl(live).fetch_add(1, Ordering::Relaxed);
    assert_eq!(known.update(&classifier), spoiled);
    assert!(known.is_settled());
}

/// One pod of this node, in quarantine towards everything but servers at port 80; a Service of two
/// backends, a server and another.
#[test]
fn a_service_is_named_when_somebody_here_gets_another_verdict() {
    let vip = Address::v4([10, 96, 0, 1]);
    let mut start = World { order: 1, ..World::default() };
    start.pods = [(pod(0), CLIENT), (pod(1), SERVER), (pod(2), OTHER)].into();
    start.policies.push(Policy { egress: true, ..admit(CLIENT, SERVER) });
    start.services.insert((vip, 80), vec![(pod(1), 80, true)]);
    let start = (start, vec![pod(0)]);
    let with = |backends: Vec<(Address, u16, bool)>| {
        named(&start, |new| _ = new.services.insert((vip, 80), backends))
    };
    assert_eq!(with(vec![(pod(1), 80, true)]), []);
    assert_eq!(with(vec![(pod(1), 80, false)]), [], "allowed wherever it is");
    assert_eq!(with(vec![(pod(1), 80, true), (pod(2), 80, false)]), [], "its own hook decides");
    assert_eq!(with(vec![(pod(1), 80, true), (pod(2), 80, true)]), [vip]);
    assert_eq!(with(vec![(pod(1), 81, true)]), [vip], "another port of the backend");
    assert_eq!(with(vec![]), [vip]);
    assert_eq!(named(&start, |new| _ = new.services.remove(&(vip, 80))), [vip]);
    assert_eq!(named(&start, |new| _ = new.services.insert((vip, 81), vec![])), []);
    // A NodePort: what its port was without it is not known.
    let any = Address::v4([0; 4]);
    assert_eq!(named(&start, |new| _ = new.services.insert((any, 3), vec![])), [any]);
    // The backend gets other labels: it is named for itself, the Service for its new verdict.
    let relabelled = named(&start, |new| _ = new.pods.insert(pod(1), OTHER));
    assert_eq!(relabelled, [pod(1), vip]);
    // Whom nobody restricts nothing changes for.
    let mut free = start.clone();
    free.0.policies.clear();
    assert_eq!(named(&free, |new| _ = new.services.remove(&(vip, 80))), []);
}
