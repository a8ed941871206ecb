//! Every byte of a compiled table counts.
//!
//! A table of a real compilation is damaged byte by byte. With the content hash left as it was,
//! every change must be refused. With the hash made good, as a writer with a fault would leave it,
//! the change must be refused by the checks of the structure, or be seen in something that the
//! table says: a verdict, the policy or rule that it names, the policies that isolate, the class of
//! an address, the generation. A byte that may be anything would be a place where two readers of
//! one table can disagree.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

use std::net::IpAddr;

use weir_control::eval::Offline;
use weir_control::index::Index;
use weir_control::model::load;
use weir_table::Address;
use weir_table::policy::{ClassId, DecodeError, PolicyTable, ProgramId, RuleId, encode};

/// Layout of the header, from the format's text: the hash, and where the sections begin.
const AT_HASH: usize = 32;
const AT_DIRECTORY: usize = 48;
const SECTIONS: usize = 16;

/// A cluster whose table has content in every section: several policies and rules, ipBlocks of both
/// families, named ports, spans of all three protocols, rows of several verdicts.
const CLUSTER: &str = r#"
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: a}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: ops, labels: {team: b}}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: db, labels: {app: db}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 81}]}]}
status: {podIP: 10.0.0.2}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: ops, name: monitor, labels: {app: m}}, status: {podIP: 10.0.0.3}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from:
    - ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.64/26]}
    - ipBlock: {cidr: "2001:db8::/32", except: ["2001:db8:1::/48"]}
    - namespaceSelector: {matchLabels: {team: b}}
    ports: [{port: http}, {port: 443}, {port: 53, protocol: UDP}, {port: 100, endPort: 200, protocol: SCTP}]
  - from: [{podSelector: {matchLabels: {app: db}}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: out}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {}}]
    ports: [{port: http}]
  - to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}]
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web}
spec:
  type: NodePort
  clusterIPs: [10.96.0.1, "fd96::1"]
  selector: {app: web}
  ports: [{name: a, port: 80, targetPort: http, nodePort: 30080}, {name: b, port: 81, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: dns}
spec:
  clusterIP: 10.96.0.2
  ports: [{name: udp, port: 53, protocol: UDP}, {name: sctp, port: 53, protocol: SCTP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: dns-1, labels: {kubernetes.io/service-name: dns}}
addressType: IPv4
ports: [{name: udp, port: 5353, protocol: UDP}]
endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.3]}, {addresses: [192.0.2.1]}]
"#;

fn table() -> (Vec<u8>, Vec<Address>) {
    let loaded = load("t.yaml", CLUSTER.as_bytes()).unwrap();
    assert!(loaded.complaints.is_empty(), "{:?}", loaded.complaints);
    let offline = Offline::of(Index::of(loaded.objects)).unwrap();
    let addresses = [
        "10.0.0.1",
        "10.0.0.9",
        "192.0.2.1",
        "192.0.2.70",
        "198.51.100.1",
        "9.255.255.255",
        "11.0.0.0",
        "192.0.1.255",
        "192.0.3.0",
        "192.0.2.63",
        "192.0.2.64",
        "192.0.2.127",
        "192.0.2.128",
        "255.255.255.255",
        "0.0.0.0",
        "fd00::1",
        "2001:db8::1",
        "2001:db8:1::1",
        "2001:db8:0:ffff:ffff:ffff:ffff:ffff",
        "2001:db8:2::",
        "2001:db9::",
        "::",
        "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
        "ffff::",
    ];
    let addresses = addresses.map(|text| Address::from(text.parse::<IpAddr>().unwrap()));
    (encode(&offline.compiled.image).unwrap(), addresses.to_vec())
}

/// Everything that a table says, with the probes that can tell its records apart.
fn says(table: &PolicyTable<Vec<u8>>, addresses: &[Address], starts: &[Address]) -> Vec<String> {
    let mut all = vec![format!("{} {:?}", table.generation(), table.counts())];
    all.extend(table.policies().map(|policy| format!("{policy:?}")));
    all.extend(
        (0..table.counts().rules as u32).map(|rule| format!("{:?}", table.rule(RuleId(rule)))),
    );
    for address in addresses.iter().chain(starts) {
        all.push(format!("{address}: {:?}", table.class_of_prefix(*address)));
    }
    for (address, protocol, port, service) in table.services() {
        let kinds: Vec<String> = table.backends(service).map(|b| format!("{b:?}")).collect();
        all.push(format!("{address} {protocol} {port}: {kinds:?}"));
    }
    let classes = table.classes() as u32;
    all.extend((0..classes).map(|class| format!("{:?}", table.programs(ClassId(class)))));
    for program in 0..table.counts().programs as u32 {
        let isolating: Vec<&str> = table.isolating(ProgramId(program)).collect();
        all.push(format!("{isolating:?}"));
        let mut verdicts = String::new();
        for class in 0..classes {
            let judge =
                |protocol, port| table.judge(ProgramId(program), ClassId(class), protocol, port);
            for protocol in [6, 17, 132] {
                for port in (0..=512).chain([1023, 1024, 8079, 8080, 8081, 32768, 65535]) {
                    verdicts.push_str(&format!("{:x} ", judge(protocol, port).to_bits()));
                }
            }
            verdicts.push_str(&format!("{:?} {:?} ", judge(1, 0), judge(253, 0)));
        }
        all.push(verdicts);
    }
    all
}

/// The content hash, written down a second time from the format's description.
fn rehash(bytes: &mut [u8]) {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = (bytes.len() as u64).wrapping_mul(MULTIPLIER);
    for (i, word) in bytes.chunks(8).enumerate() {
        let word = u64::from_ne_bytes(word.try_into().unwrap());
        let word = if i == AT_HASH / 8 { 0 } else { word };
        hash = (hash ^ word).wrapping_mul(MULTIPLIER).rotate_left(29);
    }
    hash ^= hash >> 32;
    bytes[AT_HASH..AT_HASH + 8].copy_from_slice(&hash.to_ne_bytes());
}

/// (offset, count) of each section.
fn sections(bytes: &[u8]) -> Vec<(usize, usize)> {
    let number = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let at = |section| AT_DIRECTORY + 16 * section;
    (0..SECTIONS).map(|section| (number(at(section)), number(at(section) + 8))).collect()
}

#[test]
fn no_changed_byte_passes_the_hash() {
    let (good, _) = table();
    let mut bytes = good.clone();
    for at in 0..good.len() {
        for bit in 0..8 {
            bytes[at] = good[at] ^ 1 << bit;
            assert!(PolicyTable::from_bytes(&bytes[..]).is_err(), "byte {at}, bit {bit}");
        }
        bytes[at] = good[at];
    }
}

#[test]
fn no_byte_is_without_a_meaning() {
    let (good, addresses) = table();
    let mut again = good.clone();
    rehash(&mut again);
    assert_eq!(again, good, "the hash is what the format says");
    let sections = sections(&good);
    assert!(
        sections.iter().all(|(_, count)| *count > 0),
        "every section has content: {sections:?}"
    );
    // Where intervals begin, classes change: addresses on both sides of each.
    let original = PolicyTable::from_bytes(good.clone()).unwrap();
    let before = says(&original, &addresses, &[]);
    let (mut refused, mut seen) = (0, 0);
    let mut meaningless = Vec::new();
    for at in (0..good.len()).filter(|at| !(AT_HASH..AT_HASH + 8).contains(at)) {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            rehash(&mut bytes);
            let Ok(changed) = PolicyTable::from_bytes(bytes.clone()) else {
                refused += 1;
                continue;
            };
            // An interval's start moves by a bit: the addresses in between tell.
            let moved = moved_starts(&good, &bytes, &sections);
            let (a, b) = match moved.is_empty() {
                true => (None, says(&changed, &addresses, &[])),
                false => {
                    (Some(says(&original, &addresses, &moved)), says(&changed, &addresses, &moved))
                }
            };
            if a.as_ref().unwrap_or(&before) != &b {
                seen += 1;
            } else {
                let section = sections.iter().rposition(|(offset, _)| *offset <= at);
                meaningless.push((section, at, bit));
            }
        }
    }
    println!("{} bytes: {refused} changes refused, {seen} seen", good.len());
    let some = &meaningless[..meaningless.len().min(40)];
    assert!(meaningless.is_empty(), "{} (section, byte, bit): {some:?}", meaningless.len());
    assert!(refused > 1000 && seen > 1000, "{refused} {seen}");
}

/// Starts of address intervals that differ, before and after.
fn moved_starts(good: &[u8], bad: &[u8], sections: &[(usize, usize)]) -> Vec<Address> {
    let mut moved = Vec::new();
    for bytes in [good, bad] {
        let (v4, v6) = (sections[4], sections[6]);
        for at in (0..v4.1).map(|i| v4.0 + 4 * i).filter(|at| good[*at..at + 4] != bad[*at..at + 4])
        {
            let start = u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
            moved.push(Address::from(IpAddr::from(start.to_be_bytes())));
        }
        for at in
            (0..v6.1).map(|i| v6.0 + 16 * i).filter(|at| good[*at..at + 16] != bad[*at..at + 16])
        {
            let start = u128::from_ne_bytes(bytes[at..at + 16].try_into().unwrap());
            moved.push(Address::from(IpAddr::from(start.to_be_bytes())));
        }
    }
    moved
}

#[test]
fn padding_must_be_zero() {
    let (good, _) = table();
    let sections = sections(&good);
    const ELEMENT: [usize; SECTIONS] = [12, 12, 1, 8, 4, 4, 16, 4, 40, 8, 4, 16, 4, 4, 28, 8];
    let mut padding = 0;
    for (i, (offset, count)) in sections.iter().enumerate() {
        let end = offset + count * ELEMENT[i];
        let next = sections.get(i + 1).map_or(good.len(), |next| next.0);
        for at in end..next {
            let mut bytes = good.clone();
            bytes[at] = 1;
            rehash(&mut bytes);
            let refusal = PolicyTable::from_bytes(bytes).map(|_| ());
            assert!(
                matches!(&refusal, Err(DecodeError::Record { problem: "padding is not zero", .. })),
                "padding at {at}: {refusal:?}"
            );
            padding += 1;
        }
    }
    assert!(padding > 0, "the table has padding");
}
