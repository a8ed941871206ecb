use std::os::fd::AsFd;

use weir_table::addrmap::{AddressMap, AddressMapWriter};
use weir_table::classify::Classifier;
use weir_table::flow::HashKey;
use weir_table::flow::layout::{v4_words, v6_words};
use weir_table::mem::Mapping;
use weir_table::policy::{
    ClassId, ClassInfo, PolicyImage, PolicyTable, Program, ServiceInfo, Span, Verdict, encode,
};
use weir_table::{counters, seal};

use super::*;

fn table(generation: u64) -> PolicyTable<Mapping> {
    serving(generation, Vec::new())
}

fn serving(generation: u64, services: Vec<ServiceInfo>) -> PolicyTable<Mapping> {
    let spans = || vec![Span { first: 0, row: 0 }];
    let open =
        Program { isolating: vec![], tcp: spans(), udp: spans(), sctp: spans(), icmp: 0, other: 0 };
    let image = PolicyImage {
        generation,
        policies: vec![],
        rules: vec![],
        classes: vec![ClassInfo::UNRESTRICTED; 3],
        prefixes: vec![("0.0.0.0/0".parse().unwrap(), 0), ("::/0".parse().unwrap(), 0)],
        programs: vec![open],
        rows: vec![vec![Verdict::ALLOW_UNRESTRICTED; 3]],
        services,
    };
    let fd = seal::sealed_copy("weir-test", &encode(&image).unwrap()).unwrap();
    PolicyTable::from_bytes(Mapping::of_sealed(fd.as_fd(), "test").unwrap()).unwrap()
}

fn node() -> Node {
    let words = Arc::new(SharedWords::heap(counters::words_for(1)));
    let key = HashKey::from_words([5; 12]);
    let (v4, v6) = (SharedWords::heap(v4_words(64)), SharedWords::heap(v6_words(64)));
    let flows = Arc::new(FlowTable::new(v4, v6, key.clone()).unwrap());
    let stamps = Arc::new(Stamps::new(SharedWords::heap(1 << 16), key).unwrap());
    Node::new(0, Counters::init(words, 1).unwrap(), flows, stamps)
}

/// Control may die between a change in place and saying so; what the daemon does
/// meanwhile for other reasons must not make it overlook the change.
#[test]
fn a_change_that_nobody_announced_is_noticed_once() {
    let node = node();
    assert!(node.addresses_changed().is_none(), "there is no table yet");
    let mut writer = AddressMapWriter::create(1, 8).unwrap();
    let address = |n| Address::v4([10, 0, 0, n]);
    for n in 1..4 {
        writer.insert(address(n), ClassId(1)).unwrap();
    }
    let map = AddressMap::from_fd(writer.fd().unwrap()).unwrap();
    let classifier = Arc::new(Classifier::new(table(1), map).unwrap());
    node.enforce(Arc::clone(&classifier)).unwrap();
    let stamped = |node: &Node| [1, 2, 3].map(|n| node.stamps.of(address(n)));
    let first = stamped(&node);
    assert_eq!(node.addresses_changed(), Some(Rejudged::default()));
    assert_eq!(stamped(&node), first, "nothing has changed");

    writer.insert(address(2), ClassId(2)).unwrap();
    node.addresses_changed().unwrap();
    let second = stamped(&node);
    assert_eq!([0, 1, 2].map(|i| first[i] == second[i]), [true, false, true], "just the one");
    node.addresses_changed().unwrap();
    assert_eq!(stamped(&node), second);
    // Whose flows are forgotten besides.
    writer.remove(address(3));
    node.addresses_changed().unwrap();
    assert_eq!([0, 1, 2].map(|i| second[i] == stamped(&node)[i]), [true, true, false]);
}

/// Nobody will send a packet of them again, and their pod's account would be charged on.
#[test]
fn flows_of_an_address_that_has_left_its_device_are_forgotten() {
    use weir_table::flow::{FlowKey, NewFlow, Side};

    use crate::endpoints::{Endpoint, EndpointsBuilder};

    let node = node();
    let map = AddressMapWriter::create(1, 8).unwrap();
    let map = AddressMap::from_fd(map.fd().unwrap()).unwrap();
    node.enforce(Arc::new(Classifier::new(table(1), map).unwrap())).unwrap();
    let address = |n| Address::v4([10, 0, 0, n]);
    let pods = |ifindexes: [u32; 2]| {
        let mut builder = EndpointsBuilder::new();
        for (n, ifindex) in ifindexes.into_iter().enumerate().filter(|(_, i)| *i != 0) {
            let addresses = vec![address(n as u8 + 1)];
            let name = String::new();
            builder.add(Endpoint { ifindex, addresses, void: vec![], quarantined: false, name });
        }
        Arc::new(builder.build().0)
    };
    let enter = |n: u8, ifindex| {
        let (key, sender) = FlowKey::new((address(n), 4000), (address(9), 80), 17);
        assert_eq!(sender, Side::Lo);
        let new = NewFlow {
            initiator: Side::Lo,
            tcp_flags: 0,
            ifindex: [ifindex, 0],
            stamps: [0, 0],
            hold: false,
        };
        node.flows.insert(&key, node.flows.hash(&key), &new, Tick(1)).unwrap();
    };
    node.set_endpoints(pods([11, 12])).unwrap();
    enter(1, 11);
    enter(2, 12);
    node.set_endpoints(pods([11, 12])).unwrap();
    assert_eq!(node.flows.iter().count(), 2, "nothing has moved");
    node.set_endpoints(pods([11, 22])).unwrap();
    let left: Vec<[u32; 2]> = node.flows.iter().map(|flow| flow.ifindex).collect();
    assert_eq!(left, [[11, 0]], "the one that moved");
    node.set_endpoints(pods([0, 22])).unwrap();
    assert_eq!(node.flows.iter().count(), 0, "the one that is gone");
}

/// What the hooks are told follows the table as well as the node's addresses.
#[test]
fn ports_of_the_node_are_told_to_the_hooks() {
    use crate::endpoints::EndpointsBuilder;
    use crate::steer::node_ports::NODE_PORTS;

    let told = NodePorts::new(SharedWords::heap(NODE_PORTS));
    let node = node().telling_node_ports_to(told);
    let publish = |generation, services: &[(&str, u8, u16)]| {
        let service = |&(address, protocol, port): &(&str, u8, u16)| ServiceInfo {
            address: address.parse().unwrap(),
            protocol,
            port,
            backends: vec![],
        };
        let map = AddressMapWriter::create(generation, 8).unwrap();
        let map = AddressMap::from_fd(map.fd().unwrap()).unwrap();
        let table = serving(generation, services.iter().map(service).collect());
        node.enforce(Arc::new(Classifier::new(table, map).unwrap())).unwrap();
    };
    let told = || {
        let told = node.node_ports.as_ref().unwrap();
        [(6, 80), (6, 81), (6, 30_080), (17, 30_080)].map(|(proto, port)| told.is_set(proto, port))
    };
    let of_the_node = |addresses: &[&str]| {
        let mut builder = EndpointsBuilder::new();
        builder.set_node_addresses(addresses.iter().map(|text| text.parse().unwrap()));
        node.set_endpoints(Arc::new(builder.build().0)).unwrap();
    };
    of_the_node(&["192.0.2.1"]);
    assert_eq!(told(), [false; 4], "there is no table yet");
    publish(1, &[("192.0.2.1", 6, 80), ("192.0.2.2", 6, 81), ("::", 17, 30_080)]);
    assert_eq!(told(), [true, false, false, true]);
    let stamp = node.stamps.of("192.0.2.2".parse().unwrap());
    of_the_node(&["192.0.2.2"]);
    assert_eq!(told(), [false, true, false, true]);
    assert_ne!(node.stamps.of("192.0.2.2".parse().unwrap()), stamp, "it is the node's by now");
    publish(2, &[("0.0.0.0", 6, 30_080)]);
    assert_eq!(told(), [false, false, true, false]);
    publish(3, &[]);
    assert_eq!(told(), [false; 4]);
}
