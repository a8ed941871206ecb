//! The one evaluation function.
//!
//! Workers, `weir eval` and `weir explain` all ask [`Classifier::evaluate`], so
//! that what is explained is what is enforced. It joins the two halves of a
//! generation: the sealed [`PolicyTable`] and the live [`AddressMap`].
//!
//! A connection has to be allowed twice: by the egress program of its source and
//! by the ingress program of its destination. An end that no policy selects has
//! the program that allows everything.

use crate::{
    addr::Address,
    addrmap::AddressMap,
    mem::Words,
    policy::{ClassId, PolicyTable, Verdict},
};

/// A connection as its initiator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Connection {
    /// Who opened it.
    pub src: Address,
    /// To whom.
    pub dst: Address,
    /// IANA protocol number.
    pub protocol: u8,
    /// Destination port in host order; 0 for ICMP and protocols without ports.
    pub dport: u16,
}

/// What both ends' policies say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The source's policies.
    pub egress: Verdict,
    /// The destination's policies.
    pub ingress: Verdict,
}

impl Judgement {
    /// No policy is concerned.
    pub const UNRESTRICTED: Judgement =
        Judgement { egress: Verdict::ALLOW_UNRESTRICTED, ingress: Verdict::ALLOW_UNRESTRICTED };
    /// A class that the generation does not know.
    pub const BAD_CLASS: Judgement =
        Judgement { egress: Verdict::DENY_BAD_CLASS, ingress: Verdict::DENY_BAD_CLASS };

    /// Whether the connection may be: both ends must allow it.
    #[inline]
    pub const fn is_allowed(self) -> bool {
        self.egress.is_allow() && self.ingress.is_allow()
    }
}

/// The two halves do not belong together.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the policy table is generation {table} but the address map is generation {addresses}; \
     both must be published together"
)]
pub struct GenerationMismatch {
    /// The table's generation.
    pub table: u64,
    /// The address map's generation.
    pub addresses: u64,
}

/// One generation, ready to judge; generic over where its memory lives.
#[derive(Debug)]
pub struct Classifier<B, W> {
    table: PolicyTable<B>,
    addresses: AddressMap<W>,
}

/// A classifier on mapped memory, as the dataplane holds it.
#[cfg(not(loom))]
pub type MappedClassifier = Classifier<crate::mem::Mapping, crate::mem::SharedWords>;

impl<B: AsRef<[u8]>, W: Words> Classifier<B, W> {
    /// Joins a table with its address map.
    ///
    /// # Errors
    /// [`GenerationMismatch`]: class numbers mean one generation only.
    pub fn new(
        table: PolicyTable<B>,
        addresses: AddressMap<W>,
    ) -> Result<Classifier<B, W>, GenerationMismatch> {
        if table.generation() == addresses.generation() {
            Ok(Classifier { table, addresses })
        } else {
            Err(GenerationMismatch { table: table.generation(), addresses: addresses.generation() })
        }
    }

    /// The policy table.
    pub fn table(&self) -> &PolicyTable<B> {
        &self.table
    }

    /// The address map.
    pub fn addresses(&self) -> &AddressMap<W> {
        &self.addresses
    }

    /// The generation.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.table.generation()
    }

    /// A value that differs after every change of policy or of an address: the
    /// generation's lower 32 bits above, a counter of changes below. The counter
    /// begins at a random value, so that a generation number that is used again
    /// after a restart does not revive old verdicts.
    ///
    /// Load it *before* the evaluation that it is to stamp: then a change that
    /// happens in between leaves the stamp stale, never the verdict.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // the lower halves are meant
    pub fn stamp(&self) -> u64 {
        let changes = self.addresses.epoch().wrapping_add(self.addresses.seed()) as u32;
        self.generation() << 32 | u64::from(changes)
    }

    /// The class of any address: a pod's by the map, any other's by its prefix.
    #[inline]
    pub fn class_of(&self, address: Address) -> ClassId {
        match self.addresses.lookup(address) {
            Some(class) => class,
            None => self.table.class_of_prefix(address),
        }
    }

    /// Whether the address belongs to a pod of the cluster.
    #[inline]
    pub fn is_pod(&self, address: Address) -> bool {
        self.addresses.lookup(address).is_some()
    }

    /// Judges a connection by both ends' policies.
    ///
    /// A pod always reaches itself (Kubernetes API, NetworkPolicySpec: traffic
    /// within a pod is outside of policy). A class that the table does not know
    /// denies in both directions, see [`Judgement::BAD_CLASS`].
    #[inline]
    pub fn evaluate(&self, connection: &Connection) -> Judgement {
        let &Connection { src, dst, protocol, dport } = connection;
        if src == dst {
            return Judgement::UNRESTRICTED;
        }
        let (from, to) = (self.class_of(src), self.class_of(dst));
        match (self.table.programs(from), self.table.programs(to)) {
            (Some((_, egress)), Some((ingress, _))) => Judgement {
                egress: self.table.judge(egress, to, protocol, dport),
                ingress: self.table.judge(ingress, from, protocol, dport),
            },
            _ => Judgement::BAD_CLASS,
        }
    }
}

/// The generation (its lower 32 bits) of a stamp of [`Classifier::stamp`].
#[inline]
#[allow(clippy::cast_possible_truncation)] // the upper half fits by its shift
pub const fn stamp_generation(stamp: u64) -> u32 {
    (stamp >> 32) as u32
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{
        addrmap::AddressMapWriter,
        mem::SharedWords,
        policy::{
            ClassInfo, PolicyImage, PolicyInfo, PolicyKind, Program, ProgramId, RuleId, RuleInfo,
            Span, encode,
        },
    };

    type Heap = std::sync::Arc<SharedWords>;

    const OUTSIDE: u32 = 0;
    const WEB: u32 = 1;
    const CLIENT: u32 = 2;
    const LOCKED: u32 = 3;

    /// Web takes TCP 80 from clients; Locked may send nowhere but by UDP 53.
    fn image() -> PolicyImage {
        let spans = |row| vec![Span { first: 0, row }];
        let uniform = |row| Program {
            isolating: vec![],
            tcp: spans(row),
            udp: spans(row),
            sctp: spans(row),
            icmp: row,
            other: row,
        };
        let deny = Verdict::DENY_ISOLATED;
        let path = |p: &str| p.to_owned();
        let policy = |name: &str| PolicyInfo { kind: PolicyKind::NetworkPolicy, name: name.into() };
        PolicyImage {
            generation: 4,
            policies: vec![policy("shop/web"), policy("shop/locked")],
            rules: vec![
                RuleInfo { policy: 0, path: path("spec.ingress[0].from[0]") },
                RuleInfo { policy: 1, path: path("spec.egress[0]") },
            ],
            classes: vec![
                ClassInfo::UNRESTRICTED,
                ClassInfo { ingress: ProgramId(1), egress: ProgramId::UNRESTRICTED },
                ClassInfo::UNRESTRICTED,
                ClassInfo { ingress: ProgramId::UNRESTRICTED, egress: ProgramId(2) },
            ],
            prefixes: vec![
                ("0.0.0.0/0".parse().unwrap(), OUTSIDE),
                ("::/0".parse().unwrap(), OUTSIDE),
            ],
            programs: vec![
                uniform(0),
                Program {
                    isolating: vec![0],
                    tcp: vec![
                        Span { first: 0, row: 1 },
                        Span { first: 80, row: 2 },
                        Span { first: 81, row: 1 },
                    ],
                    icmp: 2,
                    ..uniform(1)
                },
                Program {
                    isolating: vec![1],
                    udp: vec![
                        Span { first: 0, row: 1 },
                        Span { first: 53, row: 3 },
                        Span { first: 54, row: 1 },
                    ],
                    icmp: 3,
                    ..uniform(1)
                },
            ],
            rows: vec![
                vec![Verdict::ALLOW_UNRESTRICTED; 4],
                vec![deny; 4],
                vec![deny, deny, Verdict::allow(RuleId(0)), deny],
                vec![Verdict::allow(RuleId(1)); 4],
            ],
        }
    }

    fn ip(text: &str) -> Address {
        text.parse().unwrap()
    }

    fn classifier() -> (Classifier<Vec<u8>, Heap>, AddressMapWriter<Heap>) {
        let table = PolicyTable::from_bytes(encode(&image()).unwrap()).unwrap();
        let words = std::sync::Arc::new(SharedWords::heap(8 + 64 * 4));
        let mut writer = AddressMapWriter::in_words(words.clone(), 4).unwrap();
        for (address, class) in
            [("10.0.0.1", WEB), ("10.0.0.2", CLIENT), ("10.0.0.3", LOCKED), ("fd00::2", CLIENT)]
        {
            writer.insert(ip(address), ClassId(class)).unwrap();
        }
        (Classifier::new(table, AddressMap::open(words).unwrap()).unwrap(), writer)
    }

    #[test]
    fn both_ends_must_allow() {
        let (classifier, _) = classifier();
        let (web, client, locked, out) =
            (ip("10.0.0.1"), ip("10.0.0.2"), ip("10.0.0.3"), ip("192.0.2.1"));
        for (src, dst, protocol, dport, egress, ingress, why) in [
            (client, web, 6, 80, true, true, "the rule"),
            (client, web, 6, 81, true, false, "another port"),
            (client, web, 17, 80, true, false, "another protocol"),
            (client, web, 1, 0, true, true, "ICMP follows any rule for the peer"),
            (client, web, 136, 80, true, false, "UDP-Lite is not UDP"),
            (out, web, 6, 80, true, false, "an outsider"),
            (ip("fd00::2"), web, 6, 80, true, true, "identity, not address family"),
            (web, client, 6, 80, true, true, "nobody selects the client"),
            (web, out, 6, 443, true, true, "no egress policy on web"),
            (web, web, 6, 9999, true, true, "a pod reaches itself"),
            (locked, locked, 6, 9999, true, true, "a pod reaches itself"),
            (locked, client, 6, 53, false, true, "TCP is not allowed out"),
            (locked, client, 17, 53, true, true, "UDP 53 is"),
            (locked, web, 17, 53, true, false, "allowed out, not in"),
            (locked, web, 6, 80, false, false, "denied at both ends"),
        ] {
            let judgement = classifier.evaluate(&Connection { src, dst, protocol, dport });
            assert_eq!(judgement.egress.is_allow(), egress, "{why}: egress");
            assert_eq!(judgement.ingress.is_allow(), ingress, "{why}: ingress");
            assert_eq!(judgement.is_allowed(), egress && ingress, "{why}");
        }
        let by_rule =
            classifier.evaluate(&Connection { src: client, dst: web, protocol: 6, dport: 80 });
        assert_eq!(by_rule.egress, Verdict::ALLOW_UNRESTRICTED);
        assert_eq!(by_rule.ingress.rule(), Some(RuleId(0)));
        assert!(classifier.is_pod(web) && !classifier.is_pod(out));
    }

    #[test]
    fn an_unknown_class_denies_both_ways() {
        let (classifier, mut writer) = classifier();
        writer.insert(ip("10.0.0.9"), ClassId(4)).unwrap();
        for (src, dst) in [("10.0.0.9", "10.0.0.2"), ("10.0.0.2", "10.0.0.9")] {
            let connection = Connection { src: ip(src), dst: ip(dst), protocol: 6, dport: 80 };
            assert_eq!(classifier.evaluate(&connection), Judgement::BAD_CLASS);
        }
    }

    #[test]
    fn a_change_of_an_address_changes_verdict_and_stamp() {
        let (classifier, mut writer) = classifier();
        let connection =
            Connection { src: ip("10.0.0.7"), dst: ip("10.0.0.1"), protocol: 6, dport: 80 };
        assert!(!classifier.evaluate(&connection).is_allowed());
        let mut stamps = vec![classifier.stamp()];
        writer.insert(ip("10.0.0.7"), ClassId(CLIENT)).unwrap();
        assert!(classifier.evaluate(&connection).is_allowed());
        stamps.push(classifier.stamp());
        writer.remove(ip("10.0.0.7"));
        assert!(!classifier.evaluate(&connection).is_allowed());
        stamps.push(classifier.stamp());
        assert!(stamps[0] != stamps[1] && stamps[1] != stamps[2] && stamps[0] != stamps[2]);
        assert!(stamps.iter().all(|&s| stamp_generation(s) == 4));
    }

    #[test]
    fn the_same_generation_number_again_has_another_stamp() {
        // Random 32 bits: a chance of 1 in 4 billion to fail wrongly.
        assert_ne!(classifier().0.stamp(), classifier().0.stamp());
    }

    #[test]
    fn halves_of_two_generations_are_refused() {
        let table = PolicyTable::from_bytes(encode(&image()).unwrap()).unwrap();
        let map = AddressMapWriter::private(5, 1).unwrap().into_reader().unwrap();
        let error = Classifier::new(table, map).unwrap_err();
        assert_eq!(error, GenerationMismatch { table: 4, addresses: 5 });
    }
}
