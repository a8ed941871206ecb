use weir_table::cni::{AttachmentId, PodRef};

use super::hardware::renewed;
use super::records::before;
use super::*;
use crate::state;
use crate::words::{Settlement, Word};

fn interface(ifindex: u32, last: u8) -> Binding {
    Binding {
        ifindex,
        device: format!("veth{ifindex}"),
        mtu: 1500,
        mac: Some([2, 0, 0, 0, 0, last]),
        addresses: Vec::new(),
        netns: String::new(),
        namespace: (0, 0),
        interface: "eth0".to_owned(),
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

fn record<'a>(addresses: &'a [IpAddr], word: Option<&'a Word>) -> EndpointRecord<'a> {
    EndpointRecord {
        ifindex: 7,
        device: "veth",
        netns: "cni",
        addresses,
        came_with: &addresses[..1],
        settled: &addresses[..1],
        ignored: &addresses[1..],
        quarantined: false,
        attached: true,
        adopted: false,
        worded: word.is_some(),
        pod: word.map(Word::name),
        placed: word.is_some_and(Word::is_placed),
        held: false,
        word,
    }
}

fn write(dir: &Path, records: &[EndpointRecord<'_>]) {
    let json = serde_json::to_vec(records).unwrap();
    state::replace(&dir.join(state::ENDPOINTS), &json).unwrap();
}

#[test]
fn what_was_settled_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let settled = |dir: &Path| before(dir, false).claims.held(7).settled;
    assert!(settled(dir.path()).is_empty(), "a first start");
    let addresses: [IpAddr; 2] = ["10.0.0.1", "8.8.8.8"].map(|text| text.parse().unwrap());
    write(dir.path(), &[record(&addresses, None)]);
    assert_eq!(settled(dir.path()), addresses[..1]);
    state::replace(&dir.path().join(state::ENDPOINTS), b"[{").unwrap();
    assert!(settled(dir.path()).is_empty(), "half a file");
}

#[test]
fn a_list_of_before_there_were_words_is_of_pods_that_do_without() {
    let dir = tempfile::tempdir().unwrap();
    let old = br#"[{"ifindex":7,"device":"veth","netns":"cni","addresses":["10.0.0.1"],
        "settled":["10.0.0.1"],"ignored":[],"quarantined":false,"attached":true}]"#;
    state::replace(&dir.path().join(state::ENDPOINTS), old).unwrap();
    let found = before(dir.path(), true);
    let held = found.claims.held(7);
    assert!(held.adopted && !held.worded && held.settled.len() == 1);
    assert!(found.bindings.is_empty() && found.words.iter().next().is_none());
}

/// A word is there after a restart, placed if the table that says so is; no ticket comes again.
#[test]
fn words_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let addresses: [IpAddr; 1] = ["10.0.0.1".parse().unwrap()];
    let settlement = Some(Settlement { generation: 3, epoch: 4 });
    for kept in [None, settlement] {
        let id = AttachmentId { network: "n".into(), container: "c".into(), ifname: "eth0".into() };
        let pod = PodRef { namespace: "shop".into(), name: "web".into(), uid: Some("u".into()) };
        let word = Word {
            ticket: u64::MAX - 1,
            id: id.clone(),
            pod: Some(pod.clone()),
            addresses: addresses.to_vec(),
            host_ports: Vec::new(),
            placed: settlement,
            kept,
            rejected: None,
            since: Some(Instant::now()),
        };
        write(dir.path(), &[record(&addresses, Some(&word))]);
        let found = before(dir.path(), false);
        let (ifindex, word) = found.words.of_attachment(&id).unwrap();
        assert_eq!((ifindex, word.placed, word.kept), (7, kept, kept));
        assert_eq!((&word.pod, &word.since), (&Some(pod), &None));
        assert_eq!(found.words.last(), u64::MAX - 1);
        assert!(found.claims.held(7).worded);
        let binding = &found.bindings[0];
        assert_eq!((binding.ifindex, &*binding.device), (7, "veth"));
        assert_eq!(binding.addresses, addresses);
    }
    assert!(before(tempfile::tempdir().unwrap().path(), false).words.last() > 0, "a floor");
}

/// What a dump of devices lacks counts as gone only if it is not there when it is asked for.
#[test]
fn a_device_is_gone_only_if_the_kernel_does_not_know_it() {
    // The loopback device is the first of each namespace (`LOOPBACK_IFINDEX` of the kernel).
    assert!(has_device(1));
    assert!(!has_device(0x7fff_fff0));
}
