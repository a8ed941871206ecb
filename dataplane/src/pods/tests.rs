use super::*;

fn interface(ifindex: u32, last: u8) -> Binding {
    Binding {
        ifindex,
        device: format!("veth{ifindex}"),
        mtu: 1500,
        mac: Some([2, 0, 0, 0, 0, last]),
        addresses: Vec::new(),
        netns: String::new(),
    }
}

#[test]
fn a_changed_hardware_address_is_believed_unless_it_is_anothers() {
    let node = HashSet::from([[2, 0, 0, 0, 0, 99]]);
    let last_of =
        |known: &BTreeMap<u32, Mac>| -> Vec<u8> { known.values().map(|mac| mac[5]).collect() };
    let first = renewed(&BTreeMap::new(), &[interface(3, 13), interface(7, 17)], &node);
    assert_eq!(last_of(&first), [13, 17]);
    for (taken, believed) in [(18, 18), (13, 17), (99, 17), (17, 17)] {
        let next = renewed(&first, &[interface(3, 13), interface(7, taken)], &node);
        assert_eq!(last_of(&next), [13, believed], "{taken}");
    }
    // Not even if its owner changes as well, in the same scan.
    let next = renewed(&first, &[interface(3, 14), interface(7, 13)], &node);
    assert_eq!(last_of(&next), [14, 17]);
    // One that cannot be read stays as it was; one that is gone is forgotten.
    let unread = Binding { mac: None, ..interface(7, 0) };
    assert_eq!(last_of(&renewed(&first, &[unread], &node)), [17]);
}

#[test]
fn what_was_settled_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let settled = |dir: &Path| claims_before(dir).settled(7).to_vec();
    assert!(settled(dir.path()).is_empty(), "a first start");
    let addresses: [IpAddr; 2] = ["10.0.0.1", "8.8.8.8"].map(|text| text.parse().unwrap());
    let record = EndpointRecord {
        ifindex: 7,
        device: "veth",
        netns: "cni",
        addresses: &addresses,
        came_with: &addresses[..1],
        settled: &addresses[..1],
        ignored: &addresses[1..],
        quarantined: false,
        attached: true,
    };
    let json = serde_json::to_vec(&[record]).unwrap();
    state::replace(&dir.path().join(state::ENDPOINTS), &json).unwrap();
    assert_eq!(settled(dir.path()), addresses[..1]);
    state::replace(&dir.path().join(state::ENDPOINTS), b"[{").unwrap();
    assert!(settled(dir.path()).is_empty(), "half a file");
}
